"""The thread behind a journal: opens its source, reads it batch by batch, and shows how that goes.

A source may be down or hang for any time: only its thread waits for it. ``/metrics`` shows what is
known.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterable
from typing import Callable, Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from asterisk_exporter.journal.store import JournalStore, JournalStoreError

READ = "asterisk_exporter_journal_records"
MALFORMED = "asterisk_exporter_journal_malformed"
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 15.0

log = logging.getLogger(__name__)


def fill(families: Iterable[CounterMetricFamily], store: JournalStore) -> None:
    """Give each family its samples, which the state file has under the family's name."""
    for family in families:
        for labels, value in sorted(store.values(family.name).items()):
            family.add_metric(labels, value)


class SourceError(Exception):
    """The source cannot be read now; the text says what is wrong and what to look at."""


class Source(Protocol):
    """Records of Asterisk's, read in batches, each applied together with the cursor behind it.

    Its own thread calls everything but ``describe``, ``families`` and ``last_record``, which any
    thread may. It counts READ and MALFORMED in the store under its name. ``str()`` of it says
    where the records are, without a password.
    """

    @property
    def name(self) -> str:
        """The value of the labels ``source`` and ``collector``, and the cursor's name."""

    @property
    def last_record(self) -> float:
        """Unix time of the newest record read; 0 before the first."""

    def open(self) -> None:
        """Connect. Raises SourceError."""

    def begin(self, backfill: bool) -> None:
        """Find the place to read from; comes after each ``open``.

        Without a cursor of an earlier start that is the end of what there is, and with
        ``backfill`` its beginning. Raises SourceError.
        """

    def read(self) -> bool:
        """Read and apply one batch; True when there may be more at once. Raises SourceError."""

    def lag_seconds(self) -> float:
        """Return the age of the oldest written record that is not applied yet, or 0.

        Raises SourceError.
        """

    def close(self) -> None:
        """Disconnect; raises nothing, and may come without ``open``."""

    def describe(self) -> list[Metric]:
        """Return the families of its records without samples, without I/O."""

    def families(self) -> list[Metric]:
        """Return the families of its records with samples, without I/O."""


class Journal:
    """A source, the thread that polls it, and what both show."""

    def __init__(self, store: JournalStore, source: Source, poll_seconds: float) -> None:
        self.source = source
        self._store = store
        self._poll_seconds = poll_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=source.name, daemon=True)
        self._state = threading.Lock()
        self._ok: bool | None = None
        self._ok_at = time.monotonic()
        self._lag = 0.0
        self._duration = 0.0

    @property
    def name(self) -> str:
        """The value of the label ``collector``."""
        return self.source.name

    @property
    def ok(self) -> bool:
        """Whether its records have been read a moment ago."""
        with self._state:
            return self._reads(time.monotonic() - self._ok_at)

    def _reads(self, silent: float) -> bool:
        # a source that hangs is neither ok nor failed: it is late
        return bool(self._ok) and silent < 3 * self._poll_seconds + 5

    def start(self) -> None:
        """Start polling."""
        self._thread.start()

    def stop(self, timeout: float = 0.5) -> None:
        """Ask the thread to end and wait a moment (seconds); a source that hangs keeps nobody."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def run_backfill(self, progress: Callable[[float], None]) -> None:
        """Read the history from its beginning, in this thread, before ``start``.

        Only where there is no cursor yet; one that an interrupted backfill left is read on from
        by the thread. ``progress`` is given the time of the last record after each batch.
        Raises SourceError and JournalStoreError.
        """
        if self._store.position(self.name) is not None:
            log.info("%s: no backfill, the state file already has a cursor", self.name)
            return
        try:
            self.source.open()
            self.source.begin(backfill=True)
            while self.source.read():
                progress(self.source.last_record)
            progress(self.source.last_record)
        finally:
            self.source.close()

    def _run(self) -> None:
        opened = False
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                if not opened:
                    self.source.open()
                    self.source.begin(backfill=False)
                    opened = True
                lag = self._poll()
            except (SourceError, JournalStoreError) as error:
                self._failed(error, time.monotonic() - began)
                self.source.close()
                opened = False
                failures = min(failures + 1, 8)
                wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (failures - 1))
                self._stop.wait(wait * random.uniform(0.75, 1.0))  # noqa: S311 - jitter
            else:
                failures = 0
                self._succeeded(time.monotonic() - began, lag)
                self._stop.wait(self._poll_seconds)
        self.source.close()

    def _poll(self) -> float:
        """Read all there is; return the lag in seconds."""
        while not self._stop.is_set() and self.source.read():
            # a long backlog is work, not silence
            with self._state:
                self._ok_at = time.monotonic()
        return self.source.lag_seconds()

    def _succeeded(self, duration: float, lag: float) -> None:
        with self._state:
            was, self._ok = self._ok, True
            self._ok_at, self._duration, self._lag = time.monotonic(), duration, lag
        if not was:
            log.info("%s: reading from %s", self.name, self.source)

    def _failed(self, error: BaseException, duration: float) -> None:
        with self._state:
            was, self._ok, self._duration = self._ok, False, duration
        if was is not False:
            log.error("%s: lost %s: %s", self.name, self.source, error)

    def describe(self) -> list[Metric]:
        """Return the families without samples."""
        return [*self.source.describe(), *_own_families()]

    def collect(self) -> tuple[bool, float, list[Metric]]:
        """Return success, the last poll's duration in seconds, and the families with samples."""
        read, malformed, last, lag = own = _own_families()
        for family in (read, malformed):
            value = self._store.values(family.name).get((self.name,))
            if value is not None:
                family.add_metric([self.name], value)
        last.add_metric([self.name], self.source.last_record)
        with self._state:
            silent = time.monotonic() - self._ok_at
            ok = self._reads(silent)
            lag.add_metric([self.name], self._lag if ok else silent)
            return ok, self._duration, [*self.source.families(), *own]


def _own_families() -> tuple[
    CounterMetricFamily, CounterMetricFamily, GaugeMetricFamily, GaugeMetricFamily
]:
    return (
        CounterMetricFamily(READ, "Journal records read.", labels=["source"]),
        CounterMetricFamily(
            MALFORMED, "Journal records that lack what they must have.", labels=["source"]
        ),
        GaugeMetricFamily(
            "asterisk_exporter_journal_last_record_timestamp_seconds",
            "Time of the newest record read, Unix time; 0 before the first.",
            labels=["source"],
        ),
        GaugeMetricFamily(
            "asterisk_exporter_journal_lag_seconds",
            "Age of the oldest written record that is not counted yet, 0 when there is none; "
            "while the source does not answer, the time since it last did.",
            labels=["source"],
        ),
    )
