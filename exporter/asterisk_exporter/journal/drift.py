"""What we counted of queues against what app_queue counted itself (QueueParams).

app_queue's figures begin at 0 when Asterisk starts, at ``queue reset stats``, and when a queue
leaves the configuration and comes back (clear_queue() in apps/app_queue.c). So only their growth
is compared, from when both were first seen.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily

from asterisk_exporter.collectors.queues import Queue

#: app_queue counts and logs one after the other, and a reply of AMI takes its time.
GRACE_SECONDS = 1.0
#: Completed, Abandoned
Figures = tuple[int, int]


@dataclass(frozen=True)
class Totals:
    """What was counted from queue_log, by queue. ``starts``: of Asterisk."""

    starts: int
    figures: Mapping[str, Figures]


@dataclass(frozen=True)
class _Interval:
    """From lowest to highest, both possible; empty when the lowest is above the highest."""

    lowest: int
    highest: int

    @property
    def gap(self) -> int:
        """How far it is from being possible."""
        return max(0, self.lowest - self.highest)

    def within(self, other: _Interval) -> _Interval:
        """Return what both allow."""
        return _Interval(max(self.lowest, other.lowest), min(self.highest, other.highest))


@dataclass(frozen=True)
class _Base:
    """Ours minus theirs, as far as known, and theirs when it was last looked at."""

    theirs: Figures
    starts: int
    offsets: tuple[_Interval, _Interval]


class QueueDrift:
    """Compares a scrape's figures once queue_log was read before and after it.

    ``observe`` is called by scrapes, ``counted`` by the thread that reads queue_log; neither
    waits for the other, so that the gauge shows an earlier scrape's result.

    ::

        asterisk_exporter_queue_drift{queue="support"} 0.0
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._counted: deque[tuple[float, Totals]] = deque()
        self._seen: tuple[float, dict[str, Figures]] | None = None
        self._bases: dict[str, _Base] = {}
        self._drift: dict[str, int] = {}

    def observe(self, at: float, queues: Iterable[Queue]) -> None:
        """Take QueueStatus's figures as of ``at`` (Unix time), unless some are being compared."""
        with self._guard:
            if self._seen is None:
                self._seen = (
                    at,
                    {queue.name: (queue.completed, queue.abandoned) for queue in queues},
                )

    def counted(self, began: float, totals: Totals) -> None:
        """Take what was counted by a read that began then and found the end of queue_log."""
        with self._guard:
            self._counted.append((began, totals))
            if self._seen is None:
                self._forget_before(began)
                return
            at, theirs = self._seen
            self._forget_before(at)
            before = self._counted[0]
            if before[0] > at - GRACE_SECONDS:
                self._seen = None  # nothing is known of the time before it
            elif began >= at + GRACE_SECONDS:
                self._seen = None
                self._compare(theirs, before[1], totals)

    def _forget_before(self, at: float) -> None:
        """Keep the last count before ``at`` and those since."""
        while len(self._counted) > 1 and self._counted[1][0] <= at - GRACE_SECONDS:
            self._counted.popleft()

    def _compare(self, seen: Mapping[str, Figures], before: Totals, after: Totals) -> None:
        self._bases = {queue: base for queue, base in self._bases.items() if queue in seen}
        self._drift = {}
        for queue, theirs in seen.items():
            low, high = before.figures.get(queue, (0, 0)), after.figures.get(queue, (0, 0))
            now = (
                _Interval(low[0] - theirs[0], high[0] - theirs[0]),
                _Interval(low[1] - theirs[1], high[1] - theirs[1]),
            )
            base = self._bases.get(queue)
            if base is None or base.starts != after.starts or _was_reset(base.theirs, theirs):
                self._bases[queue] = _Base(theirs, after.starts, now)
                self._drift[queue] = 0
                continue
            possible = (base.offsets[0].within(now[0]), base.offsets[1].within(now[1]))
            self._drift[queue] = possible[0].gap + possible[1].gap
            kept = (
                base.offsets[0] if possible[0].gap else possible[0],
                base.offsets[1] if possible[1].gap else possible[1],
            )
            self._bases[queue] = _Base(theirs, after.starts, kept)

    def describe(self) -> list[GaugeMetricFamily]:
        """Return the family without samples."""
        return [
            GaugeMetricFamily(
                "asterisk_exporter_queue_drift",
                "Visits by which our figures and app_queue's Completed and Abandoned differ since "
                "they were last reset.",
                labels=["queue"],
            )
        ]

    def families(self) -> list[GaugeMetricFamily]:
        """Return the family with samples."""
        (family,) = families = self.describe()
        with self._guard:
            for queue, value in sorted(self._drift.items()):
                family.add_metric([queue], value)
        return families


def _was_reset(before: Figures, now: Figures) -> bool:
    return now[0] < before[0] or now[1] < before[1]
