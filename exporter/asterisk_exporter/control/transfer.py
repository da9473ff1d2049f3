"""A channel that goes to another extension (a blind transfer)."""

from __future__ import annotations

from dataclasses import dataclass

from asterisk_exporter.ami.client import Action
from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.control import values
from asterisk_exporter.control.channels import (
    Channel,
    find,
    raise_if_hung_up,
    require_extension,
)
from asterisk_exporter.control.session import ControlSession


@dataclass(frozen=True)
class Transferred:
    """The dialplan has the channel at ``extension`` of ``context`` now."""

    channel: str
    uniqueid: str
    context: str
    extension: str


def action(channel: Channel, context: str, extension: str) -> Action:
    """Return the action; context and extension have been checked."""
    return Action(
        "Redirect",
        (
            ("Channel", channel.name),
            ("Context", context),
            ("Exten", extension),
            ("Priority", "1"),
        ),
        "call",
    )


def arrived(message: Message, channel: Channel, context: str, extension: str) -> Transferred | None:
    """Return where the channel is when the event says that it runs the dialplan there.

    Raises NotConfirmedError when it has hung up.
    """
    raise_if_hung_up(message, channel)
    there = {"Event": "Newexten", "Uniqueid": channel.uniqueid, "Context": context}
    if any(message.get(name) != value for name, value in there.items()):
        return None
    if message.get("Extension") != extension:
        return None
    return Transferred(channel.name, channel.uniqueid, context, extension)


def transfer(
    session: ControlSession,
    channel: str,
    extension: str,
    *,
    context: str | None = None,
    other_party: bool = False,
) -> Transferred:
    """Send a channel to ``extension``; whom it talked with is hung up.

    ``other_party``: send the one who talks with ``channel``, as if that phone transferred the call.
    Raises AmiError and ControlError.
    """
    to = values.extension(extension)
    where = values.context(context, session.contexts)
    deadline = session.deadline()
    chosen = find(session, channel, deadline, other=other_party)
    require_extension(session, where, to, deadline)
    with session.events("call,dialplan", deadline):
        session.change(action(chosen, where, to), deadline)
        return session.wait_for(
            lambda message: arrived(message, chosen, where, to),
            deadline,
            f"Newexten of {chosen.name} at {to} in {where}",
        )
