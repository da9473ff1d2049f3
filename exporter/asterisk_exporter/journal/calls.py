"""What the records and queue visits of one call mean together. Pure: no clock, no store.

A call is all records of one linkedid. What a single record says is seldom true of the call (seen
on Asterisk 22.10, and main/cdr.c): a ring-all leaves NO ANSWER of everybody but one, a channel
that the dialplan answered is ANSWERED with billsec though nobody spoke to the caller, and an agent
who picks up after the caller has gone leaves an ANSWERED leg. Queues write what became of a caller
to queue_log: where a call entered one, that decides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from asterisk_exporter.journal.record import Record, other_half

OUTCOMES = {
    "inbound": ("answered", "missed"),
    "outbound": ("answered", "missed", "busy", "failed"),
    "internal": ("answered", "missed", "busy", "failed"),
}
#: Reasons of missed calls that entered a queue, and of those that did not.
QUEUE_REASONS = (
    "abandoned",
    "timeout",
    "empty",
    "full",
    "key",
    "withdrawn",
    "closed",
    "failed",
)
OTHER_REASONS = ("no_answer", "busy", "failed", "voicemail", "ivr_hangup")
#: Outcomes of visits that are not a reason by themselves; None: no exit was ever written.
_REASON_OF_OUTCOME = {
    "join_empty": "empty",
    "incompatible": "failed",
    "lost": "failed",
    "unknown": "failed",
    None: "failed",
}
#: The destination of a call that entered no queue and whose number no class matches.
OTHER_DESTINATION = "other"
#: A call whose first channel left no record is over after so many quiet seconds.
QUIET_SECONDS = 600
#: What app_queue.c writes on the caller's channel and on the agents'.
_QUEUE = ("Queue", "AppQueue")
_CONFERENCES = ("ConfBridge", "MeetMe")


@dataclass(frozen=True)
class DidClass:
    """Numbers that are one destination: ``did`` matches the whole dialled number."""

    did: str
    name: str


@dataclass(frozen=True)
class Rules:
    """What a site says about its calls.

    ``trunks`` are endpoints, ``match_digits`` is how many last digits two numbers must share to
    be the same caller's.
    """

    trunks: frozenset[str] = frozenset()
    inbound_contexts: frozenset[str] = frozenset({"from-external"})
    classes: tuple[DidClass, ...] = ()
    settle_seconds: float = 10
    match_digits: int = 9
    keep_days: int = 30


@dataclass(frozen=True)
class Visit:
    """A row of the state file's table ``visit``: one caller in one queue, times Unix seconds.

    ``outcome`` is None while waiting, ``ended`` None while waiting or talking.
    """

    callid: str
    queue: str
    entered: int
    caller: str
    outcome: str | None
    wait: int | None
    talk: int | None
    ended: int | None


@dataclass(frozen=True)
class Call:
    """What a call was. Durations in seconds, times Unix seconds.

    ``number`` is the outside party's, as ``match_number`` gives it. A missed call has a
    ``destination`` and a ``reason`` when it is inbound; an answered one has ``talk``.
    """

    linkedid: str
    direction: str
    outcome: str
    started: float
    ended: float
    caller: str
    dialled: str
    number: str | None
    destination: str
    reason: str | None
    wait: int
    talk: int


def match_number(text: str, digits: int) -> str | None:
    """Return the last digits of a number, by which callers are compared; None without any.

    So +49 155 00000001, 0155 00000001 and 9 0155 00000001 are one caller.
    """
    return re.sub(r"[^0-9]", "", text)[-digits:] or None


def in_order(records: Sequence[Record]) -> list[Record]:
    """Return a call's records in the order in which they began, whatever order they came in."""
    return sorted(records, key=lambda r: (r.start, r.sequence or 0, r.end, repr(r)))


def visits_in_order(visits: Sequence[Visit]) -> list[Visit]:
    """Return a call's visits in order; one refused at once comes before the next queue's."""
    return sorted(
        visits, key=lambda v: (v.entered, math.inf if v.ended is None else v.ended, v.queue)
    )


def is_over(
    linkedid: str,
    records: Sequence[Record],
    visits: Sequence[Visit],
    quiet_seconds: float,
    rules: Rules,
) -> bool:
    """Say whether all records of a call have come, when none has for so many seconds.

    A channel's records are written when it ends, so the first channel's record ends the call. A
    call may lack it (its channel was filtered, Originate): then quiet must do, and quiet alone
    proves nothing while its caller is in a queue, as legs of a ring-all are written early.
    """
    if any(record.uniqueid == linkedid for record in records):
        return quiet_seconds >= rules.settle_seconds
    if any(visit.ended is None for visit in visits):
        return False
    return quiet_seconds >= max(QUIET_SECONDS, rules.settle_seconds)


def decide(linkedid: str, records: Sequence[Record], visits: Sequence[Visit], rules: Rules) -> Call:
    """Return what a call that is over was. Neither sequence needs an order."""
    ordered, visits = in_order(records), visits_in_order(visits)
    own = [record for record in ordered if record.uniqueid == linkedid] or ordered[:1]
    first = own[0]
    direction = _direction(ordered, first, rules)
    human = [r for r in _of_caller(ordered, visits) if reached_human(r, ordered, bool(visits))]
    answered = any(visit.outcome == "answered" for visit in visits) or bool(human)
    if not answered and direction == "internal":
        answered = _is_service(ordered, visits)
    missed = None if answered else _reason(ordered, visits)
    started, ended = min(r.start for r in ordered), max(r.end for r in ordered)
    waits = [visit.wait or 0 for visit in visits]
    return Call(
        linkedid=linkedid,
        direction=direction,
        outcome="answered" if missed is None else _outcome(direction, missed),
        started=started,
        ended=ended,
        caller=first.src,
        dialled=first.dst,
        number=match_number(_outside(ordered, first, direction, rules), rules.match_digits),
        destination=_destination(first.dst, visits, rules),
        reason=missed,
        wait=sum(waits) if waits else int(ended - started),
        talk=_talk(own if not visits else _of_caller(ordered, visits), human, visits),
    )


def decide_lost(callid: str, visits: Sequence[Visit], rules: Rules) -> Call:
    """Return the missed call whose visits are all that is left of it."""
    visits = visits_in_order(visits)
    caller = visits[0].caller
    return Call(
        linkedid=callid,
        direction="inbound",
        outcome="missed",
        started=visits[0].entered,
        ended=max(visit.ended or visit.entered for visit in visits),
        caller=caller,
        dialled="",
        number=match_number(caller, rules.match_digits),
        destination=visits[0].queue,
        reason="failed",
        wait=sum(visit.wait or 0 for visit in visits),
        talk=0,
    )


def reached_human(record: Record, records: Sequence[Record], has_visits: bool) -> bool:
    """Say whether somebody answered on this record's channel, other than for a queue.

    A channel that the dialplan answered proves nothing, nor does a Local channel whose other half
    went to such (``records`` are the call's). Without any visit no queue_log is read, or not from
    the call's beginning: the record of the agent who was connected must do.
    """
    if record.disposition != "ANSWERED":
        return False
    if record.lastapp in _CONFERENCES:
        return True
    if not record.dstchannel or (has_visits and record.lastapp in _QUEUE):
        return False
    half = other_half(record.dstchannel)
    others = [other for other in records if other is not record]
    beyond = [other for other in others if half is not None and other.channel == half]
    return not beyond or any(reached_human(other, others, has_visits) for other in beyond)


def trunk_of(record: Record, trunks: frozenset[str]) -> str | None:
    """Return the trunk that a record's channel called out on, or None."""
    return next((name for name in record.dialled_endpoints if name in trunks), None)


def _direction(records: Sequence[Record], first: Record, rules: Rules) -> str:
    if first.dcontext in rules.inbound_contexts or first.endpoint in rules.trunks:
        return "inbound"
    if any(trunk_of(record, rules.trunks) for record in records):
        return "outbound"
    return "internal"


def _of_caller(records: Sequence[Record], visits: Sequence[Visit]) -> list[Record]:
    """Return the records that can show an answer: of the channels that were in a queue, if any.

    An agent's Local leg may be answered when the caller has already given up.
    """
    callers = {visit.callid for visit in visits}
    return [record for record in records if not callers or record.uniqueid in callers]


def _is_service(records: Sequence[Record], visits: Sequence[Visit]) -> bool:
    """Say whether a phone called the PBX itself (its voicemail, an announcement)."""
    dialled = any(record.dialled_endpoints or record.lastapp in _QUEUE for record in records)
    return not visits and not dialled and any(r.disposition == "ANSWERED" for r in records)


def _reason(records: Sequence[Record], visits: Sequence[Visit]) -> str:
    if visits:
        outcome = visits[-1].outcome
        reason = _REASON_OF_OUTCOME.get(outcome, outcome)
        return reason if reason in QUEUE_REASONS else "failed"
    if records[-1].lastapp == "VoiceMail":
        return "voicemail"
    dialled = {record.disposition for record in records if record.dialled_endpoints}
    if dialled:
        return _reason_of_dispositions(dialled)
    dispositions = {record.disposition for record in records}
    return "ivr_hangup" if "ANSWERED" in dispositions else _reason_of_dispositions(dispositions)


def _reason_of_dispositions(dispositions: set[str]) -> str:
    if dispositions & {"NO ANSWER", "CANCEL"}:
        return "no_answer"
    return "busy" if "BUSY" in dispositions else "failed"


def _outcome(direction: str, reason: str) -> str:
    return reason if direction != "inbound" and reason in {"busy", "failed"} else "missed"


def _outside(records: Sequence[Record], first: Record, direction: str, rules: Rules) -> str:
    """Return the number of whom the call was with, outside the PBX."""
    if direction == "inbound":
        return first.src
    outward = (record.dst for record in records if trunk_of(record, rules.trunks))
    return next(outward, "")


def _destination(dialled: str, visits: Sequence[Visit], rules: Rules) -> str:
    if visits:
        return visits[0].queue
    named = (one.name for one in rules.classes if re.fullmatch(one.did, dialled))
    return next(named, OTHER_DESTINATION)


def _talk(own: Sequence[Record], human: Sequence[Record], visits: Sequence[Visit]) -> int:
    spoken = sum(record.billsec for record in own if record in human)
    return spoken + sum(visit.talk or 0 for visit in visits)
