"""The links about queues: somebody who answers, and a service level."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from asterisk_exporter.ami.errors import UnknownActionError
from asterisk_exporter.collectors.endpoints import UNREACHABLE
from asterisk_exporter.collectors.queues import Queue, queues
from asterisk_exporter.doctor import queue_log
from asterisk_exporter.doctor.finding import (
    Finding,
    critical,
    listed,
    not_set_up,
    ok,
    some,
    warning,
)
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.journal.queue_log import Entry
from asterisk_exporter.text import counted

_NO_QUEUES = not_set_up("Asterisk has no queue (pbx_queues; queues.conf)")


def members(pbx: Pbx) -> Iterator[Finding]:
    """Look for queues whose callers nobody can answer."""
    found = _queues(pbx)
    return judge_members(found, left_by_themselves(queue_log.entries(pbx))) if found else _none()


def service_levels(pbx: Pbx) -> Iterator[Finding]:
    """Look for queues without a service level."""
    queue_log = pbx.settings.queue_log
    given = {} if queue_log is None else queue_log.service_levels
    found = _queues(pbx)
    return judge_service_levels(found, given) if found else _none()


def _queues(pbx: Pbx) -> list[Queue]:
    try:
        return queues(pbx.replies["QueueStatus"], time.time())
    except UnknownActionError:
        return []  # app_queue is not loaded


def _none() -> Iterator[Finding]:
    yield _NO_QUEUES


def left_by_themselves(entries: Iterable[Entry]) -> frozenset[str]:
    """Return the queues that a member has left last: there, people log in and out."""
    last = {
        entry.queue: entry.event
        for entry in entries
        if entry.event in {"ADDMEMBER", "REMOVEMEMBER"}
    }
    return frozenset(queue for queue, event in last.items() if event == "REMOVEMEMBER")


def judge_members(found: Sequence[Queue], left: frozenset[str]) -> Iterator[Finding]:
    """Judge who can answer. ``left``: the queues that the last member has left at its own will."""
    bad = [finding for queue in found for finding in _nobody(queue, left)]
    yield from some(sorted(bad, key=lambda finding: -(finding.status or 0)))
    who = {member.interface for queue in found for member in queue.members}
    free = {member.interface for queue in found for member in queue.members if member.available}
    text = f"{counted(len(found), 'queue')}, {counted(len(who), 'member')}, {len(free)} free"
    empty = [queue.name for queue in found if queue.name in left and not queue.members]
    if empty:
        text += f"; everybody has logged out of {', '.join(empty)}"
    yield ok(text)


def _nobody(queue: Queue, left: frozenset[str]) -> Iterator[Finding]:
    why = _why_nobody(queue)
    if why is None or (not queue.members and not queue.waits and queue.name in left):
        return
    waiting = len(queue.waits)
    if waiting:
        text = f"queue {queue.name} {why}, and {counted(waiting, 'caller')} wait in it"
        yield critical(text, _who_can(queue))
    else:
        yield warning(f"queue {queue.name} {why}: who calls it now waits in vain", _who_can(queue))


def _why_nobody(queue: Queue) -> str | None:
    """Return why no member can be rung, None where one can (or is talking)."""
    if not queue.members:
        return "has no members"
    reasons = Counter(
        "paused" if member.paused else member.state
        for member in queue.members
        if member.paused or member.state in UNREACHABLE
    )
    if sum(reasons.values()) < len(queue.members):
        return None
    if len(reasons) == 1:
        (reason,) = reasons
        return f"has only members who are {reason} ({len(queue.members)})"
    shown = ", ".join(f"{number} {reason}" for reason, number in sorted(reasons.items()))
    return f"has nobody who can be rung ({shown})"


def _who_can(queue: Queue) -> str:
    if not queue.members:
        return (
            f"Give it members (pbx_queues), or let agents log in: asterisk-ctl queue add "
            f"{queue.name} PJSIP/101"
        )
    if all(member.paused for member in queue.members):
        return f"asterisk-ctl queue list; asterisk-ctl queue unpause MEMBER --queue {queue.name}"
    return (
        "Do their phones have network and power? asterisk -rx 'pjsip show contacts'; invalid: "
        "Asterisk has no such endpoint, look at the queue's members (pbx_queues)"
    )


def judge_service_levels(found: Sequence[Queue], given: Mapping[str, int]) -> Iterator[Finding]:
    """Judge the seconds within which a call is to be answered. ``given``: by configuration."""
    seconds = {queue.name: given.get(queue.name, queue.service_level_seconds) for queue in found}
    yield from some(
        [
            warning(
                f"queue {name} has no service level (0 s): every answer counts as too late",
                "Set servicelevel in pbx_queues (queues.conf, then asterisk -rx 'queue reload "
                "parameters'), or asterisk_exporter_service_levels where that is somebody else's",
            )
            for name, level in seconds.items()
            if not level
        ]
    )
    shown = [f"{name} {level} s" for name, level in seconds.items() if level]
    if shown:
        yield ok(listed(shown))
