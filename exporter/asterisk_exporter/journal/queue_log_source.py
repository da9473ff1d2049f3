"""The source queue_log: its file, its place in the state file, its metrics."""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Callable

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from asterisk_exporter.journal import routing
from asterisk_exporter.journal.drift import QueueDrift, Totals
from asterisk_exporter.journal.queue_log import lines, parse
from asterisk_exporter.journal.runner import MALFORMED, READ, fill
from asterisk_exporter.journal.store import Change, JournalStore
from asterisk_exporter.journal.tail import BATCH_BYTES, Position, Tail
from asterisk_exporter.journal.visits import (
    AGENT_SECONDS,
    ANSWERED,
    COMPLETED,
    IN_SERVICE_LEVEL,
    OFFERED,
    REASONS_IN_ABANDONED,
    RING_NO_ANSWER,
    SHORT_ABANDONED,
    STARTS,
    STRAY,
    TALK_BOUNDS,
    TALK_SECONDS,
    TALKS,
    UNANSWERED,
    WAIT_SECONDS,
    WAITS,
    Rules,
    ServiceLevels,
    Visits,
)

#: With these, the service level of every queue.
WAIT_BOUNDS = (5, 10, 15, 20, 30, 60, 120, 300)
PEEK_BYTES = 64 << 10

log = logging.getLogger(__name__)

_COUNTERS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (OFFERED, "Callers who came to the queue, those whom it refused included.", ("queue",)),
    (ANSWERED, "Visits that a member answered.", ("queue",)),
    (
        IN_SERVICE_LEVEL,
        "Visits answered after no more than the queue's service level.",
        ("queue",),
    ),
    (
        UNANSWERED,
        "Visits that nobody answered, and callers whom the queue refused "
        "(full, join_empty, closed). lost: open when Asterisk ended.",
        ("queue", "reason"),
    ),
    (
        SHORT_ABANDONED,
        "Visits abandoned within the configured time; these are in abandoned too.",
        ("queue",),
    ),
    (
        RING_NO_ANSWER,
        "Times that a member was rung and did not answer; no missed calls.",
        ("queue", "member"),
    ),
    (
        AGENT_SECONDS,
        "Time of members in at least one queue: logged_in (dynamic members only, static ones log "
        "no login), paused, and talking, which is counted when the talk ends.",
        ("member", "state"),
    ),
)


class QueueLogSource:
    """Follows queue_log and counts what it says. See ``runner.Source`` for the methods.

    ``levels`` learns service levels from AMI; until anybody has said any, nothing is read, since
    a visit would be held against a wrong one for ever. ``prune`` False keeps the rows of finished
    visits, for a CDR journal that has not come so far. ``read_through`` (Unix time): all that
    was written by then is counted.
    """

    name = "queue_log"

    def __init__(
        self,
        store: JournalStore,
        path: Path,
        levels: ServiceLevels,
        rules: Rules = Rules(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.levels = levels
        self.prune = True
        self.read_through = 0.0
        self.drift: QueueDrift | None = None
        self._store = store
        self._path = path
        self._rules = rules
        self._clock = clock
        self._tail = Tail(path)
        self._routes = routing.Routes()
        self._visits = self._new_visits()
        self._position = Position()
        self._last_record = 0
        self._behind = False
        self._waits = False

    def __str__(self) -> str:
        """Return where the records are."""
        return str(self._path)

    @property
    def last_record(self) -> float:
        """Unix time of the newest record read; 0 before the first."""
        return float(self._last_record)

    def open(self) -> None:
        """Take up what the state file has."""
        self._routes = routing.Routes()
        self._visits = self._new_visits()
        stored = dict(self._store.position(self.name) or {})
        self._last_record = int(stored.pop("last_record", 0))
        self._position = Position.from_json(stored)
        self._visits.load(self._store, self._last_record)

    def _new_visits(self) -> Visits:
        return Visits(self.levels, self._rules, {routing.EVENT: self._routes.take})

    def begin(self, backfill: bool) -> None:
        """Find the place to read from, unless there is one. Raises SourceError."""
        if self._store.position(self.name) is None:
            position = self._tail.oldest() if backfill else self._tail.end()
            change = self._change(position)
            change.count(READ, self.name, by=0)
            change.count(MALFORMED, self.name, by=0)
            self._store.apply(change)
            self._position = position

    def read(self) -> bool:
        """Read and apply one batch; True when there may be more at once. Raises SourceError."""
        if not self._known():
            self._behind = True
            return False
        began = self._clock()
        chunk = self._tail.read(self._position, BATCH_BYTES)
        change = self._change(None)
        self._visits.know(self.levels.write(change))
        records = lines(chunk.lines)
        malformed = chunk.malformed + self._visits.apply(
            map(parse, records), change, now=began, at_end=not chunk.more, prune=self.prune
        )
        self._routes.write(change)
        if records or malformed:
            change.count(READ, self.name, by=len(records) + chunk.malformed)
            change.count(MALFORMED, self.name, by=malformed)
        if chunk.position != self._position:
            change.position = self._stored(chunk.position)
        if change.position is not None or change.add or change.statements:
            self._store.apply(change)
        self._position = chunk.position
        self._last_record = self._visits.newest
        self._behind = chunk.more
        if not chunk.more:
            self.read_through = began
            if self.drift is not None:
                self.drift.counted(began, totals(self._store))
        return chunk.more

    def lag_seconds(self) -> float:
        """Return the age of the oldest written record that is not applied yet, or 0.

        Raises SourceError.
        """
        if not self._behind:
            return 0.0
        position = self._position
        while True:
            chunk = self._tail.read(position, PEEK_BYTES)
            for entry in map(parse, lines(chunk.lines)):
                if entry is not None:
                    return max(0.0, self._clock() - entry.time)
            if not chunk.more:
                return 0.0
            position = chunk.position

    def remaining_bytes(self) -> int:
        """Return how much is not read yet, for a progress bar. Raises SourceError."""
        return self._tail.remaining(self._position)

    def close(self) -> None:
        """Let go of the file."""
        self._tail.close()

    def describe(self) -> list[Metric]:
        """Return the families without samples."""
        return [*_counter_families(), *_histogram_families(), *routing.families()]

    def families(self) -> list[Metric]:
        """Return the families with samples."""
        counters = _counter_families()
        fill(counters, self._store)
        waits, talks = _histogram_families()
        self._add_waits(waits)
        self._add_talks(talks)
        return [*counters, waits, talks, *routing.families(self._store)]

    def _add_waits(self, family: HistogramMetricFamily) -> None:
        sums = self._store.values(WAIT_SECONDS)
        queues = [queue for (queue,) in self._store.values(OFFERED)]
        # every queue has every bound, so that buckets can be added up
        bounds = sorted({*WAIT_BOUNDS, *map(self.levels.of, queues)})
        buckets: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for (queue, outcome, second), value in self._store.values(WAITS).items():
            buckets[queue, outcome].append((int(second), value))
        for labels, total in sorted(sums.items()):
            family.add_metric(labels, _cumulative(bounds, buckets[labels]), total)

    def _add_talks(self, family: HistogramMetricFamily) -> None:
        buckets: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for (queue, bound), value in self._store.values(TALKS).items():
            seconds = TALK_BOUNDS[-1] + 1 if bound == "+Inf" else int(bound)
            buckets[queue].append((seconds, value))
        for (queue,), total in sorted(self._store.values(TALK_SECONDS).items()):
            family.add_metric([queue], _cumulative(TALK_BOUNDS, buckets[queue]), total)

    def _known(self) -> bool:
        known = self.levels.known
        if not known and not self._waits:
            log.info("queue_log: waiting for AMI to say the queues' service levels")
        self._waits = not known
        return known

    def _stored(self, position: Position) -> Mapping[str, object]:
        return {**position.as_json(), "last_record": self._visits.newest}

    def _change(self, position: Position | None) -> Change:
        return Change(self.name, None if position is None else self._stored(position))


def _counter_families() -> list[CounterMetricFamily]:
    return [CounterMetricFamily(name, text, labels=labels) for name, text, labels in _COUNTERS]


def _histogram_families() -> tuple[HistogramMetricFamily, HistogramMetricFamily]:
    return (
        HistogramMetricFamily(
            "asterisk_queue_wait_seconds",
            "Time that visits waited, by whole seconds; not of the refused and the lost.",
            labels=["queue", "outcome"],
        ),
        HistogramMetricFamily(
            "asterisk_queue_talk_seconds",
            "Talk time of answered visits up to their end or transfer.",
            labels=["queue"],
        ),
    )


def totals(store: JournalStore) -> Totals:
    """Return what app_queue's own figures ought to have grown by."""
    figures: defaultdict[str, list[int]] = defaultdict(lambda: [0, 0])
    for (queue,), value in store.values(COMPLETED).items():
        figures[queue][0] += value
    for (queue, reason), value in store.values(UNANSWERED).items():
        if reason in REASONS_IN_ABANDONED:
            figures[queue][1] += value
    for (queue, figure), value in store.values(STRAY).items():
        figures[queue][figure == "abandoned"] += value
    starts = store.values(STARTS).get((), 0)
    return Totals(starts, {queue: (done, gone) for queue, (done, gone) in figures.items()})


def _cumulative(bounds: Sequence[int], counts: list[tuple[int, int]]) -> list[tuple[str, float]]:
    in_bucket = [0] * (len(bounds) + 1)
    for second, value in counts:
        in_bucket[bisect_left(bounds, second)] += value
    names = [*(f"{bound}.0" for bound in bounds), "+Inf"]
    return list(zip(names, map(float, accumulate(in_bucket))))
