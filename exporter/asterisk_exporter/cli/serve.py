"""``asterisk-exporter serve``."""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Union

import click
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from asterisk_exporter import __version__, config, pages, web
from asterisk_exporter.ami.client import Deadline
from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.ami.session import AmiSession
from asterisk_exporter.cli.common import config_option, log_level_option, log_to_stderr, stop
from asterisk_exporter.collectors import all_collectors
from asterisk_exporter.collectors.filesystems import FilesystemCollector
from asterisk_exporter.collectors.queues import queue_params
from asterisk_exporter.collectors.realtime import RealtimeCollector
from asterisk_exporter.events import EventCollector
from asterisk_exporter.journal import visits
from asterisk_exporter.journal.cdr import CdrCounter
from asterisk_exporter.journal.drift import QueueDrift
from asterisk_exporter.journal.ledger import CallLedger
from asterisk_exporter.journal.queue_log_source import QueueLogSource
from asterisk_exporter.journal.runner import Journal, SourceError
from asterisk_exporter.journal.store import JournalStore, JournalStoreError
from asterisk_exporter.live import Live
from asterisk_exporter.notifier.metrics import NotifierCollector
from asterisk_exporter.scrape import AsteriskCollector
from asterisk_exporter.web_config import WebSettings

LOG_EVERY_SECONDS = 5.0

_Background = Union[Journal, EventCollector, NotifierCollector]

log = logging.getLogger("asterisk_exporter")


@click.command()
@config_option
@click.option("--listen", "address", metavar="ADDRESS", help="Overrides listen.address.")
@click.option("--port", type=click.IntRange(1, 65535), help="Overrides listen.port.")
@click.option(
    "--web-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TLS and passwords. Overrides listen.web_config_file.",
)
@log_level_option
@click.option(
    "--backfill",
    is_flag=True,
    help="On the first start, count the history that there is, before anything is served.",
)
def serve(  # noqa: PLR0913 - one parameter an option
    *,
    config_path: Path | None,
    address: str | None,
    port: int | None,
    web_config: Path | None,
    log_level: str,
    backfill: bool,
) -> None:
    """Serve /metrics until SIGTERM or SIGINT.

    Exits 0 when it was told to end and 2 when it cannot start.
    """
    log_to_stderr(log_level)
    try:
        settings, path = config.load(config_path)
        target = config.target(settings, path)
        events_target = config.events_target(settings, path)
        web_config = web_config or config.web_config_path(settings, path)
        protected = None if web_config is None else WebSettings(web_config)
        journals = _journals(settings, path)
        session = AmiSession(target)
        if backfill:
            _backfill_all(journals, session, settings.ami.timeout_seconds)
    except (config.ConfigError, JournalStoreError, SourceError) as error:
        stop(error, 2)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_collector(settings, session, journals))
    registry.register(FilesystemCollector(settings.filesystems))
    if settings.realtime_file is not None:
        registry.register(RealtimeCollector(settings.realtime_file))
    background: list[_Background] = [*journals.all]
    if settings.notifier is not None:
        state_directory = settings.notifier.state_directory
        background.append(watch := NotifierCollector(settings.state_directory, state_directory))
        registry.register(watch)
    if events_target is not None:
        background.append(events := EventCollector(events_target))
        registry.register(events)
    where = (address or settings.listen.address, port or settings.listen.port)
    live = Live(AmiSession(target), settings, journals.all)
    try:
        shown = pages.all_pages(settings, where[0], live)
        server = web.listen(registry, *where, shown, protected)
    except OSError as error:
        stop(
            f"cannot listen on {where[0]}:{where[1]}: {error.strerror}. Look at listen.address and "
            "listen.port, and at who has the port (ss -ltnp).",
            2,
        )
    scheme = "http" if protected is None or protected.current().tls is None else "https"
    _serve_until_told(server, background, f"{scheme}://{where[0]}:{where[1]}")
    session.close()
    live.close()
    if journals.store is not None:
        journals.store.close()


@dataclass
class _Journals:
    """The state file and what fills it, in the order in which history is read."""

    store: JournalStore | None = None
    queue_log: QueueLogSource | None = None
    all: list[Journal] = field(default_factory=list)


def _journals(settings: config.Config, path: Path) -> _Journals:
    """Return the journals that the configuration wants.

    Raises ConfigError and JournalStoreError.
    """
    place = config.call_records(settings, path)
    if place is None and settings.queue_log is None:
        return _Journals()
    made = _Journals(store := JournalStore(settings.state_directory))
    read_through = None
    if settings.queue_log is not None:
        made.queue_log = queue_log = _queue_log(settings, settings.queue_log, store)
        # whether a call that was in a queue is over is known when its records have come
        queue_log.prune = place is None
        made.all.append(Journal(store, queue_log, settings.queue_log.poll_seconds))

        def read_through() -> float:
            return queue_log.read_through

    if place is not None and settings.cdr is not None:
        ledger = CallLedger(store, settings.calls.rules, read_through)
        source = place.source(store, settings.system_name, CdrCounter(store, ledger))
        made.all.append(Journal(store, source, settings.cdr.poll_seconds))
    return made


def _queue_log(
    settings: config.Config, queue_log: config.QueueLog, store: JournalStore
) -> QueueLogSource:
    rules = visits.Rules(
        zone=settings.zone,
        short_abandon_seconds=queue_log.short_abandon_seconds,
        keep_visits=settings.cdr is not None,
    )
    levels = visits.ServiceLevels(queue_log.service_levels)
    source = QueueLogSource(store, queue_log.file, levels, rules)
    source.drift = QueueDrift()
    return source


def _backfill_all(journals: _Journals, session: AmiSession, timeout_seconds: float) -> None:
    """Read the history of all journals. Raises SourceError and JournalStoreError."""
    if journals.queue_log is not None and not journals.queue_log.levels.known:
        # a visit is held against its queue's service level, which queue_log does not tell
        try:
            reply = session.ask(["QueueStatus"], Deadline(timeout_seconds))["QueueStatus"]
            journals.queue_log.levels.learn(queue_params(reply))
        except AmiError as error:
            raise SourceError(
                f"queue_log: no backfill without the queues' service levels: {error}"
            ) from None
    for journal in journals.all:
        _backfill(journal)


def _backfill(journal: Journal) -> None:
    """Read a journal's history, and show how far it is. Raises SourceError, JournalStoreError."""
    if sys.stderr.isatty():
        # the service never needs them, and they take megabytes
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import Progress  # noqa: PLC0415

        with Progress(*Progress.get_default_columns(), console=Console(stderr=True)) as bar:
            task = bar.add_task(f"{journal.name}: reading the history", total=None)
            journal.run_backfill(Backfill(lambda share: bar.update(task, total=1, completed=share)))
            bar.update(task, total=1, completed=1)
    else:
        journal.run_backfill(Backfill(_LoggedShare(journal.name)))


class Backfill:
    """How much of the history has been read, by the times of its records.

    Told the time of the newest record (Unix seconds) after each batch, it tells ``show`` the
    share from 0 to 1.
    """

    def __init__(self, show: Callable[[float], None]) -> None:
        self._show = show
        self._began_at = time.time()
        self._first: float | None = None

    def __call__(self, last_record: float) -> None:
        """Take the time of the newest record."""
        if self._first is None:
            self._first = last_record
        whole = self._began_at - self._first
        share = (last_record - self._first) / whole if whole > 0 else 1.0
        self._show(min(1.0, max(0.0, share)))


class _LoggedShare:
    """Logs a share at most every 5 s."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._next = time.monotonic() + LOG_EVERY_SECONDS

    def __call__(self, share: float) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + LOG_EVERY_SECONDS
            log.info("%s: %d %% of the history read", self._name, round(100 * share))


def _collector(
    settings: config.Config, session: AmiSession, journals: _Journals
) -> AsteriskCollector:
    up = settings.endpoints.up
    collectors = all_collectors(
        settings.zone, None if up is None else re.compile(up), settings.queues.members
    )
    return AsteriskCollector(
        session, collectors, journals.all, settings.ami.timeout_seconds, journals.queue_log
    )


def _serve_until_told(server: Any, background: Sequence[_Background], where: str) -> None:
    told = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        log.info("ending (%s)", signal.Signals(number).name)
        told.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    threading.Thread(target=server.serve_forever, args=(0.1,), name="http", daemon=True).start()
    for one in background:
        one.start()
    log.info("asterisk-exporter %s serves %s/metrics", __version__, where)
    told.wait()
    server.shutdown()
    server.server_close()
    for one in background:
        one.stop()
