"""A channel that waits in a parking space until somebody dials the space."""

from __future__ import annotations

from dataclasses import dataclass

from asterisk_exporter.ami.client import Action
from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.control.channels import Channel, find, raise_if_hung_up
from asterisk_exporter.control.errors import RefusedError
from asterisk_exporter.control.session import ControlSession


@dataclass(frozen=True)
class Parked:
    """Where the channel waits; after ``timeout_seconds`` it rings where it was parked from."""

    channel: str
    uniqueid: str
    space: str
    lot: str
    timeout_seconds: int | None


def action(channel: Channel) -> Action:
    """Return the action. Whom the channel talks with hears the space, and gets it back in time."""
    fields = [("Channel", channel.name)]
    if channel.peer is not None:
        fields.append(("TimeoutChannel", channel.peer))
    return Action("Park", tuple(fields), "call")


def parked(message: Message, channel: Channel) -> Parked | None:
    """Return the space when the event says that the channel is in one.

    Raises NotConfirmedError when it has hung up, and RefusedError when it is back in its call.
    """
    raise_if_hung_up(message, channel)
    event = message.get("Event")
    where = (message.get("BridgeUniqueid"), message.get("Uniqueid"))
    if event == "BridgeEnter" and where == (channel.bridge, channel.uniqueid):
        # with no space left, Asterisk says nothing and puts the channel back
        raise RefusedError(
            f"{channel.name} was not parked, and is back in its call. Is a space free? Look at "
            'asterisk -rx "parking show".'
        )
    if event != "ParkedCall" or message.get("ParkeeUniqueid") != channel.uniqueid:
        return None
    timeout = message.get("ParkingTimeout")
    return Parked(
        channel.name,
        channel.uniqueid,
        message.get("ParkingSpace"),
        message.get("Parkinglot"),
        int(timeout) if timeout.isascii() and timeout.isdigit() else None,
    )


def park(session: ControlSession, channel: str, *, other_party: bool = False) -> Parked:
    """Park a channel and return its space, which any phone may dial.

    ``other_party``: park the one who talks with ``channel``, as if that phone parked the call.
    Raises AmiError and ControlError.
    """
    deadline = session.deadline()
    chosen = find(session, channel, deadline, other=other_party)
    with session.events("call", deadline):
        session.change(action(chosen), deadline)
        return session.wait_for(
            lambda message: parked(message, chosen), deadline, f"ParkedCall of {chosen.name}"
        )
