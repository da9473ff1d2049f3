"""What is kept about calls between batches, and the metrics that come of it.

Records wait in the state file until their call is over, are decided once, and leave counters and,
where somebody was missed, a row that a later talk with the same number settles. Everything one
batch does is put into one ``Change``, beside the cursor behind it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from typing import Callable

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from asterisk_exporter.journal.calls import (
    OTHER_DESTINATION,
    OTHER_REASONS,
    OUTCOMES,
    QUEUE_REASONS,
    Call,
    Rules,
    Visit,
    decide,
    decide_lost,
    is_over,
    reached_human,
    trunk_of,
    visits_in_order,
)
from asterisk_exporter.journal.record import Record
from asterisk_exporter.journal.runner import fill
from asterisk_exporter.journal.store import Change, JournalStore, Key

CALLS = "asterisk_calls"
MISSED = "asterisk_missed_calls"
TALK = "asterisk_call_seconds"
#: Upper bounds of the talk time's histogram in seconds, as the label ``le`` has them.
_BOUNDS = (*(f"{s}.0" for s in (10, 30, 60, 120, 300, 600, 1200, 1800, 3600)), "+Inf")
TRUNK_FIGURES = {
    "asterisk_trunk_attempts": "Calls tried on a trunk.",
    "asterisk_trunk_answered": "Calls on a trunk that were answered.",
    "asterisk_trunk_network_failures": "Calls on a trunk that failed (FAILED, CONGESTION), as "
    "opposed to busy and not answered.",
    "asterisk_trunk_talk_seconds": "Seconds talked on a trunk.",
}
#: Counted by the queue_log journal for every queue that it knows.
_QUEUES = "asterisk_queue_calls_offered"
DAY = 86400
#: How long a decided call is remembered, since its records may still come.
DECIDED_SECONDS = 2 * DAY
_PRUNE_EVERY_SECONDS = 3600

_CONTACT = """
INSERT INTO contact (number, at, direction) VALUES (?, ?, ?)
ON CONFLICT (number) DO UPDATE SET at = excluded.at, direction = excluded.direction
WHERE (excluded.at, excluded.direction) > (contact.at, contact.direction)
"""
# a call that is decided again keeps its id: it is notified once
_MISSED = """
INSERT INTO missed (linkedid, at, ended, caller, number, dialled, destination, reason, wait)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (linkedid) DO UPDATE SET
    at = excluded.at, ended = excluded.ended, caller = excluded.caller, number = excluded.number,
    dialled = excluded.dialled, destination = excluded.destination, reason = excluded.reason,
    wait = excluded.wait
"""
_OUTSTANDING = """
SELECT destination, count(*), min(ended) FROM missed LEFT JOIN contact USING (number)
WHERE missed.number IS NOT NULL AND (contact.at IS NULL OR contact.at < missed.ended)
GROUP BY destination
"""
_PRUNE_MISSED = "DELETE FROM missed WHERE at < ?"
_DROP_VISIT = "DELETE FROM visit WHERE callid = ? AND queue = ? AND entered = ?"
_VISITS = """
SELECT callid, queue, entered, caller, outcome, wait, talk, ended FROM visit WHERE callid = ?
"""


class _OpenCall:
    """The records of a call that is not decided, and when the last was read (Unix time).

    That is as near as one comes to when it was written, which is not when it ended: a channel's
    records are written together when it ends, and the first may have ended long before.
    """

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.read_at = 0.0

    def add(self, record: Record, read_at: float) -> None:
        """Add a record."""
        self.records.append(record)
        self.read_at = max(self.read_at, read_at, record.end)


class CallLedger:
    """The open calls of one system. The thread of its source calls all but ``families``.

    ``read_through`` gives the time until which queue_log has been read; None when none is read.
    """

    def __init__(
        self, store: JournalStore, rules: Rules, read_through: Callable[[], float] | None = None
    ) -> None:
        self._store = store
        self._rules = rules
        self._read_through = read_through
        self._open: dict[str, _OpenCall] = {}
        self._kept: set[str] = set()
        self._pruned_at = 0.0
        self._state = threading.Lock()
        self._outstanding: dict[str, tuple[int, float]] = {}

    def load(self) -> None:
        """Take up the calls that the state file has; also after a change that failed."""
        self._open = {}
        for linkedid, values in self._store.rows("SELECT linkedid, record FROM leg ORDER BY id"):
            read_at, *fields = json.loads(values)
            self._open.setdefault(linkedid, _OpenCall()).add(Record(*fields), read_at)
        self._kept = set(self._open)
        self._refresh()

    def applied(self, change: Change) -> None:
        """Show what a change that ``take`` made, and that is durable now, has done."""
        if any(sql in {_CONTACT, _MISSED, _PRUNE_MISSED} for sql, _ in change.statements):
            self._refresh()

    def _refresh(self) -> None:
        """Find out anew who waits to be called back."""
        found = {name: (count, oldest) for name, count, oldest in self._store.rows(_OUTSTANDING)}
        with self._state:
            self._outstanding = found

    def waits(self) -> bool:
        """Say whether any call waits for the time to be decided."""
        ended = self._store.rows("SELECT 1 FROM visit WHERE ended IS NOT NULL LIMIT 1")
        return bool(self._open or ended)

    def take(
        self, change: Change, records: Iterable[Record], read_at: float, watermark: float
    ) -> None:
        """Add a batch, and what is decided with it, to ``change``. Times are Unix seconds.

        The batch was read at ``read_at`` (of history: no later than its newest record ended).
        Every record that was written before ``watermark`` has been read, this batch included.
        """
        fresh: dict[str, list[Record]] = {}
        for record in records:
            self._count_trunk(change, record)
            if record.linkedid not in self._open and self._is_decided(record.linkedid):
                self._take_late(change, record)
            else:
                self._open.setdefault(record.linkedid, _OpenCall()).add(record, read_at)
                fresh.setdefault(record.linkedid, []).append(record)
        # first the time, then the visits: they are at least as new
        until = watermark if self._read_through is None else min(watermark, self._read_through())
        channels = self._decide_over(change, until, watermark)
        self._keep(change, fresh, read_at)
        self._decide_lost(change, until, watermark, but=channels)
        self._initialise(change)
        self._prune(change, watermark)

    def _is_decided(self, linkedid: str) -> bool:
        return bool(self._store.rows("SELECT 1 FROM decided WHERE linkedid = ?", (linkedid,)))

    def _take_late(self, change: Change, record: Record) -> None:
        """Count no second call; an answer that the record shows still ends the waiting for one."""
        found = self._store.rows(
            "SELECT number, ended FROM missed WHERE linkedid = ?", (record.linkedid,)
        )
        has_visits = True  # a queue's own record proves nothing, if there may have been one
        if found and found[0][0] is not None and reached_human(record, [record], has_visits):
            number, ended = found[0]
            change.run(_CONTACT, [(number, max(record.end, ended), "inbound")])

    def _decide_over(self, change: Change, until: float, watermark: float) -> set[str]:
        """Decide the calls that are over; return their channels."""
        channels: set[str] = set()
        for linkedid, call in list(self._open.items()):
            # what has not settled needs no look at its visits
            if call.read_at + self._rules.settle_seconds > until:
                continue
            callids = {linkedid, *(record.uniqueid for record in call.records)}
            visits = self._visits(callids)
            if not is_over(linkedid, call.records, visits, until - call.read_at, self._rules):
                continue
            self._count(change, decide(linkedid, call.records, visits, self._rules))
            del self._open[linkedid]
            self._forget(change, linkedid, visits, watermark)
            channels |= callids
        return channels

    def _decide_lost(self, change: Change, until: float, watermark: float, but: set[str]) -> None:
        """Count callers who waited when Asterisk was killed: their calls never leave a record."""
        lost = self._store.rows(
            "SELECT DISTINCT callid FROM visit WHERE outcome = 'lost' AND ended <= ?",
            (until - self._rules.settle_seconds,),
        )
        if not lost:
            return
        recorded = {record.uniqueid for call in self._open.values() for record in call.records}
        for (callid,) in lost:
            visits = visits_in_order(self._visits({callid}))
            if callid in recorded | but or visits[-1].outcome != "lost":
                continue
            if not self._is_decided(callid):
                self._count(change, decide_lost(callid, visits, self._rules))
            self._forget(change, callid, visits, watermark)

    def _visits(self, callids: set[str]) -> list[Visit]:
        return [Visit(*row) for one in sorted(callids) for row in self._store.rows(_VISITS, (one,))]

    def _forget(
        self, change: Change, linkedid: str, visits: Sequence[Visit], watermark: float
    ) -> None:
        # a visit that is open still (its exit was never written) may be closed as lost one day
        names = {linkedid, *(visit.callid for visit in visits if visit.ended is None)}
        change.run("INSERT OR REPLACE INTO decided VALUES (?, ?)", [(n, watermark) for n in names])
        gone = [(v.callid, v.queue, v.entered) for v in visits if v.ended is not None]
        change.run(_DROP_VISIT, gone)
        if linkedid in self._kept:
            self._kept.discard(linkedid)
            change.run("DELETE FROM leg WHERE linkedid = ?", [(linkedid,)])

    def _keep(self, change: Change, fresh: dict[str, list[Record]], read_at: float) -> None:
        rows = [
            (linkedid, json.dumps([read_at, *vars(record).values()], ensure_ascii=False))
            for linkedid, records in fresh.items()
            if linkedid in self._open
            for record in records
        ]
        change.run("INSERT INTO leg (linkedid, record) VALUES (?, ?)", rows)
        self._kept.update(linkedid for linkedid, _ in rows)

    def _count(self, change: Change, call: Call) -> None:
        change.count(CALLS, call.direction, call.outcome)
        if call.outcome == "answered":
            change.count(f"{TALK}_sum", call.direction, by=call.talk)
            for bound in _BOUNDS:
                change.count(
                    f"{TALK}_bucket", call.direction, bound, by=int(call.talk <= float(bound))
                )
            if call.number is not None and call.direction != "internal":
                change.run(_CONTACT, [(call.number, call.ended, call.direction)])
        elif call.direction == "inbound":
            reason = call.reason or "failed"
            change.count(MISSED, call.destination, reason)
            row = (call.linkedid, call.started, call.ended, call.caller, call.number)
            change.run(_MISSED, [(*row, call.dialled, call.destination, reason, call.wait)])

    def _count_trunk(self, change: Change, record: Record) -> None:
        trunk = trunk_of(record, self._rules.trunks)
        if trunk is None:
            return
        answered = record.disposition == "ANSWERED"
        figures = (
            1,
            answered,
            record.disposition in {"FAILED", "CONGESTION"},
            record.billsec if answered else 0,
        )
        for name, by in zip(TRUNK_FIGURES, figures):
            change.count(name, trunk, by=int(by))

    def _initialise(self, change: Change) -> None:
        """Let every series begin at 0, or ``increase()`` could not see its first call."""
        series: list[Key] = [
            (CALLS, (d, outcome)) for d, many in OUTCOMES.items() for outcome in many
        ]
        for direction in OUTCOMES:
            series.append((f"{TALK}_sum", (direction,)))
            series += [(f"{TALK}_bucket", (direction, bound)) for bound in _BOUNDS]
        queues = {labels[0] for labels in self._store.values(_QUEUES)}
        series += [(MISSED, (name, reason)) for name in queues for reason in QUEUE_REASONS]
        series += [(MISSED, (name, r)) for name in self._classes() for r in OTHER_REASONS]
        series += [(name, (trunk,)) for name in TRUNK_FIGURES for trunk in self._rules.trunks]
        known = {name: self._store.values(name) for name in {name for name, _ in series}}
        for name, labels in series:
            if labels not in known[name]:
                change.count(name, *labels, by=0)

    def _classes(self) -> set[str]:
        return {OTHER_DESTINATION, *(one.name for one in self._rules.classes)}

    def _prune(self, change: Change, watermark: float) -> None:
        if watermark < self._pruned_at + _PRUNE_EVERY_SECONDS:
            return
        self._pruned_at = watermark
        oldest, decided = watermark - self._rules.keep_days * DAY, watermark - DECIDED_SECONDS
        change.run(_PRUNE_MISSED, [(oldest,)])
        # a contact says nothing about a missed call that came after it
        change.run("DELETE FROM contact WHERE at < ?", [(oldest,)])
        change.run("DELETE FROM decided WHERE at < ?", [(decided,)])
        # visits whose call left no record (cdr.conf filters, another system's table)
        change.run("DELETE FROM visit WHERE ended < ?", [(decided,)])

    def describe(self) -> list[Metric]:
        """Return the families without samples."""
        return [*_counters(), _talk(), *_gauges()]

    def families(self) -> list[Metric]:
        """Return the families with samples; any thread may."""
        counters = _counters()
        fill(counters, self._store)
        talk = _talk()
        buckets = self._store.values(f"{TALK}_bucket")
        for (direction,), seconds in sorted(self._store.values(f"{TALK}_sum").items()):
            counts = [(bound, buckets.get((direction, bound), 0)) for bound in _BOUNDS]
            talk.add_metric([direction], counts, seconds)
        return [*counters, talk, *self._outstanding_families()]

    def _outstanding_families(self) -> list[Metric]:
        outstanding, oldest = gauges = _gauges()
        with self._state:
            found = dict(self._outstanding)
        known = {labels[0] for labels in self._store.values(MISSED)}
        for destination in sorted(known | set(found)):
            count, since = found.get(destination, (0, 0.0))
            outstanding.add_metric([destination], count)
            if count:
                oldest.add_metric([destination], since)
        return list(gauges)


def _counters() -> list[CounterMetricFamily]:
    return [
        CounterMetricFamily(
            CALLS, "Calls (all records of one linkedid).", labels=["direction", "outcome"]
        ),
        CounterMetricFamily(
            MISSED,
            "Inbound calls in which nobody spoke to the caller, by the first queue entered or the "
            "class of the number dialled.",
            labels=["destination", "reason"],
        ),
        *(
            CounterMetricFamily(name, text, labels=["trunk"])
            for name, text in TRUNK_FIGURES.items()
        ),
    ]


def _talk() -> HistogramMetricFamily:
    return HistogramMetricFamily(
        TALK, "Talk time of answered calls in seconds.", labels=["direction"]
    )


def _gauges() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily(
            f"{MISSED}_outstanding",
            "Missed calls whose caller nobody has spoken to since; those who withheld their "
            "number are not among them.",
            labels=["destination"],
        ),
        GaugeMetricFamily(
            f"{MISSED}_outstanding_oldest_timestamp_seconds",
            "End of the oldest of them, Unix time.",
            labels=["destination"],
        ),
    )
