"""Visits to queues and what members did, from the entries of queue_log; in memory, no I/O.

A visit is ENTERQUEUE to its single exit. What the entries mean is read in Asterisk's
apps/app_queue.c: queue_exec(), try_calling(), wait_our_turn(), record_abandoned(),
log_attended_transfer(), handle_blind_transfer(), set_member_paused(), reload_queue_members(),
rt_handle_member_record().
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, tzinfo
from functools import partial
from types import MappingProxyType
from typing import Callable, TypeVar

from asterisk_exporter.collectors.queues import Queue
from asterisk_exporter.journal.queue_log import Entry, seconds
from asterisk_exporter.journal.store import Change, JournalStore

OFFERED = "asterisk_queue_calls_offered"
ANSWERED = "asterisk_queue_calls_answered"
IN_SERVICE_LEVEL = "asterisk_queue_calls_answered_in_service_level"
UNANSWERED = "asterisk_queue_calls_unanswered"
SHORT_ABANDONED = "asterisk_queue_calls_short_abandoned"
RING_NO_ANSWER = "asterisk_queue_ring_no_answer"
AGENT_SECONDS = "asterisk_queue_agent_seconds"
#: Waits by exact second: {queue, outcome, second}. The buckets are made when they are shown.
WAITS = "queue_wait"
WAIT_SECONDS = "queue_wait_seconds"
#: Talks by bucket, not cumulative: {queue, bound}.
TALKS = "queue_talk"
TALK_SECONDS = "queue_talk_seconds"
#: For the comparison with app_queue's figures: talks that ended, exits of visits that are not
#: counted since they began earlier, {queue, figure}, and starts of Asterisk.
COMPLETED = "queue_completed"
STRAY = "queue_stray"
STARTS = "queue_starts"

#: Why a visit was not answered, as far as it may be. Of these, app_queue counts in its Abandoned:
REASONS_IN_ABANDONED = ("abandoned", "timeout", "empty", "withdrawn", "incompatible")
#: The dialplan tells these (REFUSED).
REFUSALS = ("full", "join_empty", "closed")
REASONS = (*REASONS_IN_ABANDONED, "key", "lost", *REFUSALS)

#: State of a member that the database gave to a queue: its time is nobody's figure.
REALTIME = "realtime"

TALK_BOUNDS = (10, 30, 60, 120, 300, 600, 1200, 1800)
#: Waits are kept by the second up to here, then by the minute, up to two hours.
EXACT_SECONDS = 600
LONGEST_WAIT_SECONDS = 7200

#: Names beyond these counts are one name.
MAX_QUEUES = 1000
MAX_MEMBERS = 5000
OTHER = "other"

KEEP_SECONDS = 2 * 86400
KEEP_DAYS = 14
#: How often the time of members goes into the state file while nothing happens.
SETTLE_SECONDS = 5

_T = TypeVar("_T")

_UNANSWERED = frozenset((*REASONS, "unknown"))
_FIGURES: dict[str, tuple[str, tuple[str, ...]]] = {
    "offered": (OFFERED, ()),
    "answered": (ANSWERED, ()),
    "answered_in_service_level": (IN_SERVICE_LEVEL, ()),
    "short_abandoned": (SHORT_ABANDONED, ()),
    **{reason: (UNANSWERED, (reason,)) for reason in _UNANSWERED},
    "talked": (COMPLETED, ()),
    "stray_completed": (STRAY, ("completed",)),
    "stray_abandoned": (STRAY, ("abandoned",)),
}
_DAILY = ("offered", "answered", "answered_in_service_level", "abandoned", "short_abandoned")


def folded(name: str) -> str:
    """Return what app_queue compares queue names by (strcasecmp: letters of ASCII only)."""
    return name.lower() if name.isascii() else name.encode().lower().decode()


@dataclass(frozen=True)
class Rules:
    """How to count. ``zone``: of the days; None is this system's.

    ``keep_visits``: whether finished visits stay in the state file, for the CDR journal.
    """

    zone: tzinfo | None = None
    short_abandon_seconds: int = 5
    keep_visits: bool = True


class ServiceLevels:
    """Each queue's threshold in seconds: as configured, else as AMI said last, else 0.

    0 is Asterisk's default. ``learn`` may be called by any thread.
    """

    def __init__(self, configured: Mapping[str, int]) -> None:
        self._configured = {folded(name): value for name, value in configured.items()}
        self._guard = threading.Lock()
        self._said: dict[str, int] = {}
        self._unsaved: dict[str, int] = {}

    @property
    def known(self) -> bool:
        """Whether anybody has ever said anything."""
        return bool(self._configured or self._said)

    def load(self, store: JournalStore) -> list[str]:
        """Take up what AMI said before this start; return the queues' names."""
        rows = store.rows("SELECT queue, seconds FROM service_level ORDER BY queue")
        with self._guard:
            for name, value in rows:
                self._said.setdefault(folded(name), value)
        return [name for name, _ in rows]

    def learn(self, queues: Iterable[Queue]) -> None:
        """Take up what AMI's QueueStatus says now."""
        with self._guard:
            for queue in queues:
                key = folded(queue.name)
                if self._said.get(key) != queue.service_level_seconds:
                    self._said[key] = self._unsaved[queue.name] = queue.service_level_seconds

    def write(self, change: Change) -> list[str]:
        """Put what was learned since the last call into a change; return the queues' names."""
        with self._guard:
            unsaved, self._unsaved = self._unsaved, {}
        change.run("INSERT OR REPLACE INTO service_level VALUES (?, ?)", unsaved.items())
        return list(unsaved)

    def of(self, queue: str) -> int:
        """Return the threshold of a queue."""
        key = folded(queue)
        configured = self._configured.get(key)
        return self._said.get(key, 0) if configured is None else configured


class _Queue:
    """A queue and how its figures grow in this batch; waits and talks by exact second."""

    __slots__ = ("answered", "counts", "name", "rings", "service_level", "talks", "unanswered")

    def __init__(self, name: str, service_level: int) -> None:
        self.name = name
        self.service_level = service_level
        self.counts: defaultdict[str, int] = defaultdict(int)
        self.answered: defaultdict[int, int] = defaultdict(int)
        self.unanswered: defaultdict[int, int] = defaultdict(int)
        self.talks: defaultdict[int, int] = defaultdict(int)
        self.rings: defaultdict[str, int] = defaultdict(int)


class _Visit:
    """A visit; the names are those of the table. ``earlier``: one of the caller's before this one.

    A transfer from one queue into another is logged by another thread than ENTERQUEUE
    (app_queue's stasis subscription), so it may come after it.
    """

    __slots__ = (
        "caller",
        "callid",
        "changed",
        "earlier",
        "ended",
        "entered",
        "member",
        "outcome",
        "queue",
        "stored",
        "talk",
        "wait",
    )

    def __init__(self, callid: str, queue: _Queue, entered: int, caller: str) -> None:
        self.callid = callid
        self.queue = queue
        self.entered = entered
        self.caller = caller
        self.outcome: str | None = None
        self.member: str | None = None
        self.wait: int | None = None
        self.talk: int | None = None
        self.ended: int | None = None
        self.earlier: _Visit | None = None
        self.changed = False
        self.stored = False


@dataclass
class _Presence:
    """The queues in which a member has a state; the time before ``since`` is counted."""

    since: int
    queues: set[str] = field(default_factory=set)


class _Names(dict[str, _T]):
    """What is meant by each name; a new one is met."""

    def __init__(self, meet: Callable[[str], _T]) -> None:
        super().__init__()
        self._meet = meet

    def __missing__(self, name: str) -> _T:
        met = self[name] = self._meet(name)
        return met


class Visits:
    """What was logged so far, and what a batch of entries changes.

    After a change that could not be applied it must be made anew, and loaded. ``others``: who
    takes events that are about no visit and no member.
    """

    def __init__(
        self,
        levels: ServiceLevels,
        rules: Rules,
        others: Mapping[str, Callable[[Entry], None]] = MappingProxyType({}),
    ) -> None:
        self._levels = levels
        self._rules = rules
        self._queues: _Names[_Queue] = _Names(self._meet_queue)
        self._by_folded: dict[str, _Queue] = {}
        self._members: _Names[str] = _Names(self._meet_member)
        self._open: dict[str, _Visit] = {}
        self._presence: dict[tuple[str, str], _Presence] = {}
        #: Time of the newest entry, and up to when the members' time is counted. Unix seconds.
        self.newest = 0
        self._settled = 0
        self._pruned = 0
        self._day = ""
        self._day_begins = self._day_ends = 0
        # this batch's
        self._change = Change("", None)
        self._met: list[str] = []
        self._changed: list[_Visit] = []
        self._agent_seconds: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._presence_changed = False
        self._settled_now = False
        self._handlers: dict[str, Callable[[Entry], None]] = {
            "ENTERQUEUE": self._enter,
            "CONNECT": self._connect,
            "ABANDON": partial(self._leave, "abandoned", 2),
            "EXITWITHTIMEOUT": partial(self._leave, "timeout", 2),
            "EXITEMPTY": partial(self._leave, "empty", 2),
            "EXITWITHKEY": partial(self._leave, "key", 3),
            "WITHDRAW": partial(self._leave, "withdrawn", 2),
            "SYSCOMPAT": partial(self._leave, "incompatible", 2),
            "REFUSED": self._refuse,
            "COMPLETEAGENT": partial(self._complete, 1),
            "COMPLETECALLER": partial(self._complete, 1),
            # hold, talk and position are the last three: what is before them is not one field
            "BLINDTRANSFER": partial(self._complete, -2),
            "ATTENDEDTRANSFER": partial(self._complete, -2),
            "TRANSFER": partial(self._complete, -2),
            "RINGNOANSWER": self._ring_no_answer,
            "QUEUESTART": self._start,
            # PAUSEALL and UNPAUSEALL come with one PAUSE or UNPAUSE for each queue
            "ADDMEMBER": self._add_member,
            "REMOVEMEMBER": self._remove_member,
            "PAUSE": self._pause,
            "UNPAUSE": self._unpause,
            **others,
        }

    def load(self, store: JournalStore, newest: int) -> None:
        """Take up the state file. ``newest``: time of the newest entry that is counted in it."""
        self.newest = newest
        for name in self._levels.load(store):
            self._queues[name]
        for (name,) in sorted(store.values(OFFERED)):
            self._queues[name]
        self._met.clear()
        for member, _ in sorted(store.values(AGENT_SECONDS)):
            self._members[member]
        for _, member in sorted(store.values(RING_NO_ANSWER)):
            self._members[member]
        for callid, queue, entered, caller, outcome, member, wait in store.rows(
            "SELECT callid, queue, entered, caller, outcome, member, wait FROM visit "
            "WHERE ended IS NULL ORDER BY entered, outcome IS NULL"
        ):
            visit = _Visit(callid, self._queues[queue], entered, caller)
            visit.outcome, visit.member, visit.wait = outcome, member, wait
            visit.stored = True
            visit.earlier = self._open.get(callid)
            self._open[callid] = visit
        for member, queue, state, since in store.rows(
            "SELECT member, queue, state, since FROM presence"
        ):
            presence = self._presence.setdefault((self._members[member], state), _Presence(since))
            presence.queues.add(queue)
            self._settled = max(self._settled, since)

    def know(self, queues: Iterable[str]) -> None:
        """Have every counter of these queues from now on."""
        for name in queues:
            self._queues[name]

    def apply(
        self,
        entries: Iterable[Entry | None],
        change: Change,
        *,
        now: float,
        at_end: bool,
        prune: bool = True,
    ) -> int:
        """Put what the entries do into a change; return how many were none (malformed).

        ``now``: clock before they were read. ``at_end``: whether they are all that was written by
        then, so that members stayed as they are until then.
        """
        self._change = change
        current = int(now)
        for queue in self._by_folded.values():
            queue.service_level = self._levels.of(queue.name)
        malformed = 0
        idle = True
        newest = self.newest
        day_begins, day_ends = self._day_begins, self._day_ends
        handlers = self._handlers
        for entry in entries:
            if entry is None:
                malformed += 1
                continue
            idle = False
            when = entry.time
            if when > newest:
                self.newest = newest = when if when < current else current
            if not day_begins <= when < day_ends:
                day_begins, day_ends = self._turn_to(when)
            handle = handlers.get(entry.event)
            if handle is not None:
                handle(entry)
        self._settle(current if at_end else self.newest, idle)
        self._write(prune)
        return malformed

    # --- names

    def _meet_queue(self, name: str) -> _Queue:
        key = folded(name)
        queue = self._by_folded.get(key)
        if queue is None and len(self._by_folded) >= MAX_QUEUES:
            name = key = OTHER
            queue = self._by_folded.get(key)
        if queue is None:
            queue = self._by_folded[key] = _Queue(name, self._levels.of(name))
            self._met.append(name)
        return queue

    def _meet_member(self, name: str) -> str:
        return name if len(self._members) < MAX_MEMBERS else OTHER

    # --- visits

    def _enter(self, entry: Entry) -> None:
        when, callid, name, _, _, data = entry
        queue = self._queues[name]
        queue.counts["offered"] += 1
        _, _, data = data.partition("|")
        visit = _Visit(callid, queue, when, data.partition("|")[0])
        visit.changed = True
        self._changed.append(visit)
        before = self._open.get(callid)
        if before is not None:
            if before.outcome is None:
                self._lose(before, when)
            elif before.queue is queue:
                self._end(before, when)
            visit.earlier = self._open.get(callid)
        self._open[callid] = visit

    def _find(self, callid: str, queue: _Queue) -> _Visit | None:
        visit = self._open.get(callid)
        while visit is not None and visit.queue is not queue:
            visit = visit.earlier
        return visit

    def _connect(self, entry: Entry) -> None:
        # After an attended transfer, 22.10 logs the CONNECT again: then the visit has ended.
        when, callid, name, agent, _, data = entry
        queue = self._queues[name]
        visit = self._find(callid, queue)
        if visit is None or visit.outcome is not None:
            return
        hold = seconds(data, 0)
        if hold is None:
            hold = max(0, when - visit.entered)
        visit.outcome, visit.wait, visit.member = "answered", hold, agent
        self._touch(visit)
        queue.counts["answered"] += 1
        if hold <= queue.service_level:
            queue.counts["answered_in_service_level"] += 1
        queue.answered[hold] += 1

    def _leave(self, reason: str, index: int, entry: Entry) -> None:
        when, callid, name, _, _, data = entry
        queue = self._queues[name]
        visit = self._find(callid, queue)
        if visit is None or visit.outcome is not None:
            if reason in REASONS_IN_ABANDONED:
                queue.counts["stray_abandoned"] += 1
            return
        wait = seconds(data, index)
        if wait is None:
            wait = max(0, when - visit.entered)
        visit.outcome, visit.wait = reason, wait
        self._end(visit, when)
        queue.counts[reason] += 1
        if reason == "abandoned" and wait <= self._rules.short_abandon_seconds:
            queue.counts["short_abandoned"] += 1
        queue.unanswered[wait] += 1

    def _refuse(self, entry: Entry) -> None:
        queue = self._queues[entry.queue]
        said = entry.data.partition("|")[0]
        reason = said if said in REFUSALS else "unknown"
        queue.counts["offered"] += 1
        queue.counts[reason] += 1
        visit = _Visit(entry.callid, queue, entry.time, "")
        visit.outcome, visit.wait, visit.ended = reason, 0, entry.time
        self._touch(visit)

    def _complete(self, index: int, entry: Entry) -> None:
        when, callid, name, agent, _, data = entry
        queue = self._queues[name]
        visit = self._find(callid, queue)
        if visit is None or visit.outcome is None:
            queue.counts["stray_completed"] += 1
            return
        talk = seconds(data, index)
        if talk is None:
            talk = max(0, when - visit.entered - (visit.wait or 0))
        visit.talk = talk
        self._end(visit, when)
        queue.counts["talked"] += 1
        queue.talks[talk] += 1
        self._agent_seconds[self._members[agent], "talking"] += talk

    def _ring_no_answer(self, entry: Entry) -> None:
        self._queues[entry.queue].rings[self._members[entry.agent]] += 1

    def _start(self, entry: Entry) -> None:
        """Asterisk started: whoever was in a queue or talking is not any more."""
        self._change.count(STARTS)
        for visit in list(self._open.values()):
            if visit.outcome is None:
                self._lose(visit, entry.time)
            else:
                self._end(visit, entry.time)
        # Members of realtime come back with a line, those who are still in the database.
        for (member, state), presence in list(self._presence.items()):
            if state == REALTIME:
                for queue in list(presence.queues):
                    self._be_absent(member, queue)
        # Dynamic members come back as they were, without a line. Static ones come back unpaused.
        for (member, state), presence in list(self._presence.items()):
            if state == "paused":
                added = self._presence.get((member, "logged_in"))
                for queue in presence.queues - (added.queues if added else set()):
                    self._be_no_more(member, state, queue)

    def _lose(self, visit: _Visit, when: int) -> None:
        visit.outcome = "lost"
        visit.wait = max(0, when - visit.entered)
        self._end(visit, when)
        visit.queue.counts["lost"] += 1

    def _touch(self, visit: _Visit) -> None:
        if not visit.changed:
            visit.changed = True
            self._changed.append(visit)

    def _end(self, visit: _Visit, when: int) -> None:
        visit.ended = when
        self._touch(visit)
        newest = self._open[visit.callid]
        if newest is visit:
            del self._open[visit.callid]
            # what came before has had its time for the line that ends it
            later, earlier = visit, visit.earlier
            while earlier is not None:
                earlier.ended = later.entered
                self._touch(earlier)
                later, earlier = earlier, earlier.earlier
        else:
            while newest.earlier is not None and newest.earlier is not visit:
                newest = newest.earlier
            newest.earlier = visit.earlier

    # --- members

    def _add_member(self, entry: Entry) -> None:
        queue, member = self._queues[entry.queue].name, self._members[entry.agent]
        self._be(member, "logged_in", queue)
        if entry.callid == "REALTIME":
            self._be(member, REALTIME, queue)
        if entry.data.partition("|")[0] == "PAUSED":
            self._be(member, "paused", queue)

    def _remove_member(self, entry: Entry) -> None:
        self._be_absent(self._members[entry.agent], self._queues[entry.queue].name)

    def _pause(self, entry: Entry) -> None:
        self._be(self._members[entry.agent], "paused", self._queues[entry.queue].name)

    def _unpause(self, entry: Entry) -> None:
        self._be_no_more(self._members[entry.agent], "paused", self._queues[entry.queue].name)

    def _be(self, member: str, state: str, queue: str) -> None:
        presence = self._presence.get((member, state))
        if presence is None:
            # newest, not the line's own time: what is settled already must not be counted again
            presence = self._presence[member, state] = _Presence(max(self.newest, self._settled))
            self._agent_seconds[member, state] += 0
        presence.queues.add(queue)
        self._presence_changed = True

    def _be_no_more(self, member: str, state: str, queue: str) -> None:
        presence = self._presence.get((member, state))
        if presence is None or queue not in presence.queues:
            return
        presence.queues.discard(queue)
        self._presence_changed = True
        if not presence.queues:
            self._count_presence((member, state), presence, self.newest)
            del self._presence[member, state]

    def _be_absent(self, member: str, queue: str) -> None:
        for state in ("logged_in", "paused", REALTIME):
            self._be_no_more(member, state, queue)

    def _count_presence(self, key: tuple[str, str], presence: _Presence, until: int) -> None:
        if until > presence.since:
            self._agent_seconds[key] += until - presence.since
            presence.since = until

    def _settle(self, until: int, idle: bool) -> None:
        """Count the time of members until then, so that it grows while they stay as they are."""
        if idle and until - self._settled < SETTLE_SECONDS:
            return
        self._settled = max(self._settled, until)
        self._settled_now = True
        for key, presence in self._presence.items():
            self._count_presence(key, presence, until)

    # --- writing

    def _turn_to(self, when: int) -> tuple[int, int]:
        """Make the day of ``when`` the one that figures go to; return when it begins and ends."""
        self._write_counts()
        try:
            at = datetime.fromtimestamp(when, self._rules.zone)
            begins = at.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
            self._day_begins = int(begins.timestamp())
            self._day_ends = int((begins + timedelta(days=1)).timestamp())
            self._day = begins.date().isoformat()
        except (ValueError, OverflowError, OSError):
            self._day_begins, self._day_ends, self._day = when, when + 1, ""
        return self._day_begins, self._day_ends

    def _write_counts(self) -> None:
        daily: list[tuple[str, str, str, int]] = []
        for queue in self._by_folded.values():
            if not queue.counts:
                continue
            counts = queue.counts
            for figure, by in counts.items():
                metric, labels = _FIGURES[figure]
                self._change.count(metric, queue.name, *labels, by=by)
            if self._day:
                figures = {figure: counts[figure] for figure in _DAILY if figure in counts}
                unanswered = sum(
                    counts[reason] for reason in (*REASONS, "unknown") if reason in counts
                )
                if unanswered:
                    figures["unanswered"] = unanswered
                daily += [(self._day, queue.name, figure, by) for figure, by in figures.items()]
            queue.counts = defaultdict(int)
        self._change.run(
            "INSERT INTO daily (day, queue, figure, value) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (day, queue, figure) DO UPDATE SET value = value + excluded.value",
            daily,
        )

    def _write(self, prune: bool) -> None:
        for name in self._met:
            _make_known(self._change, name)
        self._met.clear()
        self._write_counts()
        for queue in self._by_folded.values():
            self._write_seconds(queue)
        for (member, state), by in self._agent_seconds.items():
            if state != REALTIME:
                self._change.count(AGENT_SECONDS, member, state, by=by)
        self._agent_seconds.clear()
        self._write_visits(prune)
        self._write_presence()
        self._prune(prune)

    def _write_seconds(self, queue: _Queue) -> None:
        count = self._change.count
        for outcome, waits in (("answered", queue.answered), ("unanswered", queue.unanswered)):
            for wait, by in waits.items():
                count(WAITS, queue.name, outcome, str(_rounded(wait)), by=by)
            if waits:
                count(WAIT_SECONDS, queue.name, outcome, by=sum(w * by for w, by in waits.items()))
                waits.clear()
        for talk, by in queue.talks.items():
            index = bisect_left(TALK_BOUNDS, talk)
            bound = str(TALK_BOUNDS[index]) if index < len(TALK_BOUNDS) else "+Inf"
            count(TALKS, queue.name, bound, by=by)
        if queue.talks:
            count(TALK_SECONDS, queue.name, by=sum(t * by for t, by in queue.talks.items()))
            queue.talks.clear()
        for member, by in queue.rings.items():
            count(RING_NO_ANSWER, queue.name, member, by=by)
        queue.rings.clear()

    def _write_visits(self, prune: bool) -> None:
        oldest = self.newest - KEEP_SECONDS if prune else 0
        rows, gone = [], []
        for visit in self._changed:
            visit.changed = False
            ended = visit.ended
            if ended is None or (self._rules.keep_visits and ended >= oldest):
                visit.stored = True
                rows.append(
                    (
                        visit.callid,
                        visit.queue.name,
                        visit.entered,
                        visit.caller,
                        visit.outcome,
                        visit.member,
                        visit.wait,
                        visit.talk,
                        ended,
                    )
                )
            elif visit.stored:
                gone.append((visit.callid, visit.queue.name, visit.entered))
        self._changed = []
        self._change.run("DELETE FROM visit WHERE callid = ? AND queue = ? AND entered = ?", gone)
        self._change.run("INSERT OR REPLACE INTO visit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def _write_presence(self) -> None:
        settled, self._settled_now = self._settled_now, False
        if self._presence_changed:
            self._presence_changed = False
            self._change.run("DELETE FROM presence", [()])
            self._change.run("INSERT INTO presence VALUES (?, ?, ?, ?)", self._presence_rows())
        elif self._presence and settled:
            self._change.run("UPDATE presence SET since = ?1 WHERE since < ?1", [(self._settled,)])

    def _presence_rows(self) -> Iterator[tuple[str, str, str, int]]:
        for (member, state), presence in self._presence.items():
            for queue in presence.queues:
                yield member, queue, state, presence.since

    def _prune(self, visits: bool) -> None:
        """Forget what is old, an hour of the log at a time."""
        if self.newest - self._pruned < 3600:
            return
        self._pruned = self.newest
        if visits:
            self._change.run("DELETE FROM visit WHERE ended < ?", [(self.newest - KEEP_SECONDS,)])
        day = datetime.fromtimestamp(self.newest, self._rules.zone).date() - timedelta(
            days=KEEP_DAYS - 1
        )
        self._change.run("DELETE FROM daily WHERE day < ?", [(day.isoformat(),)])


def _rounded(wait: int) -> int:
    if wait <= EXACT_SECONDS:
        return wait
    return min(LONGEST_WAIT_SECONDS, -(-wait // 60) * 60)


def _make_known(change: Change, queue: str) -> None:
    """Show every counter of a queue as 0, or ``increase()`` would not see the first call.

    Not its histograms: they are 35 series, and the counters tell of the first call.
    """
    for metric in (OFFERED, ANSWERED, IN_SERVICE_LEVEL, SHORT_ABANDONED, COMPLETED):
        change.count(metric, queue, by=0)
    for reason in REASONS:
        change.count(UNANSWERED, queue, reason, by=0)
