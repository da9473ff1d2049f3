"""Who answers a queue: members come, go, pause, and take up again.

Asterisk does each of these before it answers, so QueueStatus on the same connection shows what it
has done, and that is what is returned. Relied on: ``manager_add_queue_member()``,
``manager_remove_queue_member()`` and ``manager_pause_queue_member()`` of app_queue.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asterisk_exporter.ami.client import Action, Deadline, Reply
from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.collectors.base import device_state, integer, label
from asterisk_exporter.control import values
from asterisk_exporter.control.channels import require_device
from asterisk_exporter.control.errors import (
    AmbiguousNameError,
    NotConfirmedError,
    UnknownNameError,
    listed,
)
from asterisk_exporter.control.session import ControlSession
from asterisk_exporter.journal.visits import folded

QUEUE_STATUS = Action("QueueStatus")
HIGHEST_PENALTY = 1000


@dataclass(frozen=True)
class QueueMember:
    """A member of one queue. ``dynamic``: added at run time, so that it may be removed."""

    queue: str
    name: str
    interface: str
    penalty: int
    state: str
    paused: bool
    reason: str
    in_call: bool
    calls: int
    dynamic: bool

    def __str__(self) -> str:
        """Say which it is to a person who has to choose one."""
        return f"{self.queue}: {self.interface} ({self.name})"


@dataclass(frozen=True)
class _Queues:
    """The queues of Asterisk by name, and all their members."""

    names: tuple[str, ...]
    members: tuple[QueueMember, ...]


def read(reply: Reply) -> _Queues:
    """Return what a reply to QueueStatus says, by name."""
    names = sorted(label(item.get("Queue")) for item in reply.events("QueueParams"))
    members = [_member(item) for item in reply.events("QueueMember")]
    return _Queues(tuple(names), tuple(sorted(members, key=lambda m: (m.queue, m.interface))))


def _member(item: Message) -> QueueMember:
    return QueueMember(
        queue=label(item.get("Queue")),
        name=label(item.get("Name")),
        interface=label(item.get("Location")),
        penalty=integer(item, "Penalty"),
        state=device_state(integer(item, "Status")),
        paused=item.get("Paused") == "1",
        reason=label(item.get("PausedReason")),
        in_call=item.get("InCall") == "1",
        calls=integer(item, "CallsTaken"),
        dynamic=item.get("Membership") == "dynamic",
    )


def choose_queue(found: _Queues, name: str) -> str:
    """Return Asterisk's own spelling of a queue's name. Raises UnknownNameError."""
    for known in found.names:
        if folded(known) == folded(name):
            return known
    raise UnknownNameError(
        f"there is no queue {name!r}. Expected one of those that Asterisk has:{listed(found.names)}"
    )


def choose_interface(members: Sequence[QueueMember], name: str) -> str:
    """Return the interface of the member of that interface, extension or name.

    Raises UnknownNameError and AmbiguousNameError, which list who there is.
    """
    for wanted in (name, f"PJSIP/{name}"):
        if any(member.interface == wanted for member in members):
            return wanted
    chosen = {member.interface for member in members if member.name == name}
    if len(chosen) == 1:
        return chosen.pop()
    if chosen:
        raise AmbiguousNameError(
            f"{len(chosen)} members are called {name!r}. Give the interface of one:"
            + listed(str(member) for member in members if member.name == name)
        )
    raise UnknownNameError(
        f"there is no member {name!r}. Expected the interface, the extension or the name of one of "
        f"those that Asterisk has:{listed(map(str, members))}"
    )


def list_queues(session: ControlSession) -> list[str]:
    """Return the names of all queues. Raises AmiError."""
    return list(_ask(session, session.deadline()).names)


def list_members(session: ControlSession, queue: str | None = None) -> list[QueueMember]:
    """Return the members of all queues or of one, by queue. Raises AmiError, UnknownNameError."""
    found = _ask(session, session.deadline())
    if queue is None:
        return list(found.members)
    name = choose_queue(found, queue)
    return [member for member in found.members if member.queue == name]


def _ask(session: ControlSession, deadline: Deadline) -> _Queues:
    return read(session.look(QUEUE_STATUS, deadline))


def _confirm(session: ControlSession, deadline: Deadline) -> _Queues:
    """Ask what has become of a change that Asterisk has answered."""
    try:
        return _ask(session, deadline)
    except AmiError as error:
        raise NotConfirmedError(
            f"Asterisk took the action, but QueueStatus was not answered: {error}"
        ) from None


def add_member(  # noqa: PLR0913 - one parameter a field
    session: ControlSession,
    queue: str,
    interface: str,
    *,
    name: str | None = None,
    penalty: int = 0,
    paused: bool = False,
    reason: str | None = None,
) -> QueueMember:
    """Add ``interface`` (``101`` or ``PJSIP/101``) to a queue until it is removed.

    Of members who are free, those with the lowest ``penalty`` are called. ``paused`` (with a
    ``reason``): takes no calls yet. Raises AmiError and ControlError.
    """
    where = values.interface(interface)
    fields = [
        ("Interface", where),
        ("Penalty", str(values.number("penalty", penalty, 0, HIGHEST_PENALTY))),
        ("Paused", "true" if paused else "false"),
    ]
    if name is not None:
        fields.append(("MemberName", values.member_name(name)))
    if reason is not None:
        fields.append(("Reason", values.text("reason", reason)))
    deadline = session.deadline()
    queue = choose_queue(_ask(session, deadline), queue)
    require_device(session, where, deadline)
    session.change(Action("QueueAdd", (("Queue", queue), *fields), "agent"), deadline)
    for member in _confirm(session, deadline).members:
        if (member.queue, member.interface) == (queue, where):
            return member
    raise NotConfirmedError(f"Asterisk took QueueAdd, but {queue} has no member {where}.")


def remove_member(session: ControlSession, queue: str, member: str) -> QueueMember:
    """Remove a member (interface, extension or name) that was added; returns who it was.

    Raises AmiError and ControlError; RefusedError for a member of queues.conf, who can be paused.
    """
    deadline = session.deadline()
    found = _ask(session, deadline)
    queue = choose_queue(found, queue)
    there = [one for one in found.members if one.queue == queue]
    interface = choose_interface(there, member)
    fields = (("Queue", queue), ("Interface", interface))
    session.change(Action("QueueRemove", fields, "agent"), deadline)
    left = _confirm(session, deadline).members
    if any((one.queue, one.interface) == (queue, interface) for one in left):
        raise NotConfirmedError(f"Asterisk took QueueRemove, but {queue} still has {interface}.")
    return next(one for one in there if one.interface == interface)


def pause_member(
    session: ControlSession,
    member: str,
    *,
    queue: str | None = None,
    reason: str | None = None,
) -> list[QueueMember]:
    """Let a member take no calls, of one queue or of all that it is in; returns it in each.

    Raises AmiError and ControlError.
    """
    return _set_paused(session, member, queue, paused=True, reason=reason)


def unpause_member(
    session: ControlSession, member: str, *, queue: str | None = None
) -> list[QueueMember]:
    """Let a member take calls again, of one queue or of all; returns it in each.

    Raises AmiError and ControlError.
    """
    return _set_paused(session, member, queue, paused=False, reason=None)


def _set_paused(
    session: ControlSession, member: str, queue: str | None, *, paused: bool, reason: str | None
) -> list[QueueMember]:
    fields = [("Paused", "true" if paused else "false")]
    if reason is not None:
        fields.append(("Reason", values.text("reason", reason)))
    deadline = session.deadline()
    found = _ask(session, deadline)
    there: Sequence[QueueMember] = found.members
    if queue is not None:
        name = choose_queue(found, queue)
        fields.append(("Queue", name))
        there = [one for one in there if one.queue == name]
    interface = choose_interface(there, member)
    queues = {one.queue for one in there if one.interface == interface}
    session.change(Action("QueuePause", (("Interface", interface), *fields), "agent"), deadline)
    now = [
        one
        for one in _confirm(session, deadline).members
        if one.interface == interface and one.queue in queues
    ]
    wrong = [one.queue for one in now if one.paused != paused or one.reason != (reason or "")]
    wrong += sorted(queues - {one.queue for one in now})
    if wrong:
        raise NotConfirmedError(
            f"Asterisk took QueuePause, but {interface} is not so in {', '.join(wrong)}."
        )
    return now
