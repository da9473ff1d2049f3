"""One scrape: a single batch of AMI actions, what the journals know, and how it went."""

from __future__ import annotations

import contextlib
import logging
import platform
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as RegistryCollector

from asterisk_exporter import __version__
from asterisk_exporter.ami.client import ALLOWED_ACTIONS, Deadline
from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.ami.session import AmiSession
from asterisk_exporter.collectors import Collector, Family, Replies
from asterisk_exporter.collectors.queues import queue_params
from asterisk_exporter.journal.queue_log_source import QueueLogSource
from asterisk_exporter.journal.runner import Journal

log = logging.getLogger(__name__)


class AsteriskCollector(RegistryCollector):
    """Registered with prometheus_client; ``collect`` is one scrape.

    Single flight: a scrape that arrives while another is under way shares its result, so that
    any number of them answers within the one deadline and Asterisk is asked once.
    """

    def __init__(
        self,
        session: AmiSession,
        collectors: Sequence[Collector],
        journals: Sequence[Journal] = (),
        timeout_seconds: float = 1.5,
        queue_log: QueueLogSource | None = None,
    ) -> None:
        self._session = session
        self._queue_log = queue_log
        self._collectors = collectors
        self._journals = journals
        self._timeout_seconds = timeout_seconds
        self._guard = threading.Lock()
        self._flight: Future[list[Metric]] | None = None
        self._up: bool | None = None
        self._said: dict[str, str] = {}

    def describe(self) -> list[Metric]:
        """Return every family without samples and without I/O."""
        families: list[Metric] = [*_own_families()]
        for collector in self._collectors:
            families += collector.describe()
        for journal in self._journals:
            families += journal.describe()
        if self._queue_log is not None and self._queue_log.drift is not None:
            families += self._queue_log.drift.describe()
        return merged(families)

    def collect(self) -> Iterable[Metric]:
        """Return this scrape's families, or those of the scrape that is under way."""
        with self._guard:
            flight, leads = self._flight, self._flight is None
            if flight is None:
                flight = self._flight = Future()
        if leads:
            try:
                flight.set_result(self._scrape())
            except BaseException as error:
                flight.set_exception(error)
                raise
            finally:
                with self._guard:
                    self._flight = None
        return flight.result()

    def _scrape(self) -> list[Metric]:
        up, build, success, duration, reconnects, permitted = own = _own_families()
        build.add_metric([__version__, platform.python_version()], 1)
        replies: Replies = {}
        began = time.time()
        error: AmiError | None = None
        try:
            replies = self._session.ask(
                list(dict.fromkeys(a for c in self._collectors for a in c.actions)),
                Deadline(self._timeout_seconds),
            )
            replies["CoreStatus"].raise_for_error()
        except AmiError as caught:
            error = caught
        self._note_up(error, replies)
        up.add_metric([], error is None)
        reconnects.add_metric([], self._session.reconnects)
        families: list[Metric] = [*own]
        for collector in self._collectors:
            found = self._run(collector, replies) if replies else None
            success.add_metric([collector.name], found is not None)
            if found is not None:
                families += found[1]
                duration.add_metric([collector.name], found[0])
        families += self._watch_queues(replies, began)
        for journal in self._journals:
            ok, seconds, samples = journal.collect()
            success.add_metric([journal.name], ok)
            duration.add_metric([journal.name], seconds)
            families += samples
        commands = replies.get("ListCommands")
        if commands is not None and commands.response is not None and commands.error is None:
            for action in sorted(ALLOWED_ACTIONS):
                permitted.add_metric([action], bool(commands.response.get(action)))
        return merged(families)

    def _watch_queues(self, replies: Replies, began: float) -> Sequence[Metric]:
        """Let the queue_log journal learn of the queues, and compare its figures with theirs."""
        if self._queue_log is None or self._queue_log.drift is None:
            return []
        reply = replies.get("QueueStatus")
        # where it makes no sense, the queues' collector says so
        with contextlib.suppress(AmiError):
            if reply is not None:
                found = queue_params(reply)
                self._queue_log.levels.learn(found)
                self._queue_log.drift.observe(began + reply.seconds, found)
        return self._queue_log.drift.families()

    def _run(self, collector: Collector, replies: Replies) -> tuple[float, list[Family]] | None:
        """Return the time in seconds that a collector's replies took, and its families."""
        began = time.monotonic()
        try:
            families = collector.collect(replies, time.time())
        except AmiError as error:
            # while AMI as a whole is down, that has been said
            if self._up and self._said.get(collector.name) != error.kind:
                self._said[collector.name] = error.kind
                log.warning("collector %s: %s", collector.name, error)
            return None
        if self._said.pop(collector.name, None):
            log.info("collector %s: works again", collector.name)
        waited = max(replies[action].seconds for action in collector.actions)
        return waited + time.monotonic() - began, families

    def _note_up(self, error: AmiError | None, replies: Replies) -> None:
        if error is None:
            if not self._up:
                settings = replies["CoreSettings"].response
                version = settings.get("AsteriskVersion") if settings else "of unknown version"
                log.info("AMI: connected, Asterisk %s", version)
            self._up = True
            self._said.pop("ami", None)
        else:
            self._up = False
            if self._said.get("ami") != error.kind:
                self._said["ami"] = error.kind
                log.error("AMI: %s", error)


def merged(families: Iterable[Metric]) -> list[Metric]:
    """Return the families with one of each: journals share those that have a label ``source``.

    The gauge asterisk_calls and the counter asterisk_calls_total are two, though prometheus_client
    gives both the name asterisk_calls.
    """
    found: dict[tuple[str, str], Metric] = {}
    for family in families:
        first = found.setdefault((family.name, family.type), family)
        if first is not family:
            first.samples += family.samples
    return list(found.values())


def _own_families() -> tuple[Family, ...]:
    return (
        GaugeMetricFamily(
            "asterisk_up", "Whether AMI took the login and answered CoreStatus in time."
        ),
        GaugeMetricFamily(
            "asterisk_exporter_build_info",
            "Version of this exporter and its Python.",
            labels=["version", "python_version"],
        ),
        GaugeMetricFamily(
            "asterisk_exporter_collector_success",
            "Whether the collector got and understood its answers.",
            labels=["collector"],
        ),
        GaugeMetricFamily(
            "asterisk_exporter_collector_duration_seconds",
            "Seconds until the collector's answers were there and parsed.",
            labels=["collector"],
        ),
        CounterMetricFamily(
            "asterisk_exporter_ami_reconnects", "AMI connections after the first one."
        ),
        GaugeMetricFamily(
            "asterisk_exporter_action_permitted",
            "Whether the AMI login may run the action (ListCommands).",
            labels=["action"],
        ),
    )
