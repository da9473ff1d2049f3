"""How the notifier does, on the exporter's /metrics: from its state and the journal."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from asterisk_exporter.collectors import Family
from asterisk_exporter.journal.store import JournalStoreError, read_only
from asterisk_exporter.notifier.state import State, StateError, StateFile, first_state, follow

REFRESH_SECONDS = 5.0
_PENDING = "SELECT count(*), min(ended) FROM missed WHERE id > ? AND ended >= ?"

log = logging.getLogger(__name__)


class NotifierCollector(Collector):
    """Looks every 5 seconds in a thread of its own, so that no scrape waits for the disk.

    While the notifier has no state that can be read, it has not begun: then the calls are pending
    that ended since this exporter started, so that a notifier that never ran is noticed. Of a state
    that cannot be read there are no counters: as zeros they would jump when it can be read again.

    Yields::

        asterisk_notifier_pending_calls 2.0
        asterisk_notifier_oldest_pending_timestamp_seconds 1.7e+09
        asterisk_notifier_sent_total 40.0
        asterisk_notifier_failures_total 3.0
        asterisk_notifier_refused_total 0.0
    """

    def __init__(self, journal_directory: Path, notifier_directory: Path) -> None:
        self._journal_directory = journal_directory
        self._file = StateFile(notifier_directory)
        self._first = first_state()
        self._state: State | None = None
        self._pending: tuple[int, float | None] | None = None
        self._said: str | None = None
        self._told = threading.Event()
        self._thread = threading.Thread(target=self._run, name="notifier", daemon=True)

    def start(self) -> None:
        """Start looking."""
        self._thread.start()

    def stop(self) -> None:
        """Stop looking."""
        self._told.set()

    def _run(self) -> None:
        while not self._told.is_set():
            self.refresh()
            self._told.wait(REFRESH_SECONDS)

    def refresh(self) -> None:
        """Look at the state and the journal."""
        problem = None
        try:
            self._state = self._file.load() or self._first
        except StateError as error:
            self._state, problem = None, str(error)
        try:
            with read_only(self._journal_directory) as db:
                at = follow(db, self._state or self._first)
                self._pending = db.execute(_PENDING, (at.cursor, at.since)).fetchone()
        except JournalStoreError as error:
            self._pending, problem = None, str(error)
        if problem is not None and problem != self._said:
            log.error("notifier: %s", problem)
        self._said = problem

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples."""
        return _families()

    def collect(self) -> Iterable[Metric]:
        """Return the families as of the last look."""
        pending, oldest, sent, failures, refused = families = _families()
        state, found = self._state, self._pending
        if state is not None:
            sent.add_metric([], state.sent)
            failures.add_metric([], state.failures)
            refused.add_metric([], state.refused)
        if found is not None:
            count, since = found
            pending.add_metric([], count)
            if since is not None:
                oldest.add_metric([], since)
        return families


def _families() -> tuple[Family, ...]:
    return (
        GaugeMetricFamily(
            "asterisk_notifier_pending_calls",
            "Missed calls that are decided and that the webhook has not taken yet.",
        ),
        GaugeMetricFamily(
            "asterisk_notifier_oldest_pending_timestamp_seconds",
            "End of the oldest of them, Unix time; no sample when there is none.",
        ),
        CounterMetricFamily("asterisk_notifier_sent", "Missed calls that the webhook has taken."),
        CounterMetricFamily(
            "asterisk_notifier_failures", "Tries to hand a missed call to the webhook that failed."
        ),
        CounterMetricFamily(
            "asterisk_notifier_refused",
            "Missed calls that were left out, since the webhook refused them time and again.",
        ),
    )
