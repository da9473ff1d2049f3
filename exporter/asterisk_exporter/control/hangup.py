"""A channel that ends."""

from __future__ import annotations

from dataclasses import dataclass

from asterisk_exporter.ami.client import Action
from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.control.channels import Channel, cause, find
from asterisk_exporter.control.session import ControlSession


@dataclass(frozen=True)
class HungUp:
    """The channel has ended; ``cause`` is Asterisk's text."""

    channel: str
    uniqueid: str
    cause: str


def action(channel: Channel) -> Action:
    """Return the action. Never a name from outside: Asterisk takes ``/…/`` for an expression."""
    return Action("Hangup", (("Channel", channel.name), ("Cause", "16")), "call")


def ended(message: Message, channel: Channel) -> HungUp | None:
    """Return the end when the event is this channel's."""
    if message.get("Event") != "Hangup" or message.get("Uniqueid") != channel.uniqueid:
        return None
    return HungUp(channel.name, channel.uniqueid, cause(message))


def hang_up(session: ControlSession, channel: str) -> HungUp:
    """End a channel, and with it its call. Raises AmiError and ControlError."""
    deadline = session.deadline()
    chosen = find(session, channel, deadline)
    with session.events("call", deadline):
        session.change(action(chosen), deadline)
        return session.wait_for(
            lambda message: ended(message, chosen), deadline, f"Hangup of {chosen.name}"
        )
