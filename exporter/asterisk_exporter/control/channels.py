"""Which channels there are, and which one a name means.

Relied on: action Status (class ``call``), which lists what CoreShowChannels does without its class
``reporting``, which may do more (PJSIPUnregister, DBGet).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from asterisk_exporter.ami.client import Action, Deadline, Reply
from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.collectors.base import integer, label
from asterisk_exporter.control.errors import (
    AmbiguousNameError,
    NotConfirmedError,
    UnknownNameError,
    listed,
)
from asterisk_exporter.control.session import ControlSession

#: ``PJSIP/101-0000000a``: technology and endpoint, and a number of Asterisk's.
_NAME = re.compile(r"(.+)-[0-9a-f]{8}(?:;[12])?")
STATUS = Action("Status", needs="call")


@dataclass(frozen=True)
class Channel:
    """One leg of a call. ``peer``: the channel that it talks with, when that is just one."""

    name: str
    uniqueid: str
    linkedid: str
    state: str
    caller: str
    connected: str
    context: str
    extension: str
    application: str
    seconds: int
    bridge: str
    peer: str | None = None

    @property
    def endpoint(self) -> str:
        """``PJSIP/101`` of ``PJSIP/101-0000000a``."""
        found = _NAME.fullmatch(self.name)
        return found[1] if found else self.name

    def __str__(self) -> str:
        """Say which it is to a person who has to choose one."""
        who = f", talks with {self.peer}" if self.peer else ""
        return f"{self.name} ({self.uniqueid}): {self.state}, {self.seconds} s{who}"


def channels(reply: Reply) -> list[Channel]:
    """Return the channels in a reply to Status, by name."""
    found = [_channel(item) for item in reply.events("Status")]
    by_bridge: dict[str, list[str]] = {}
    for one in found:
        by_bridge.setdefault(one.bridge, []).append(one.name)
    return sorted(
        (_with_peer(one, by_bridge[one.bridge]) for one in found), key=lambda one: one.name
    )


def _channel(item: Message) -> Channel:
    def known(name: str) -> str:
        value = label(item.get(name))
        return "" if value == "<unknown>" else value

    return Channel(
        name=label(item.get("Channel")),
        uniqueid=label(item.get("Uniqueid")),
        linkedid=known("Linkedid"),
        state=known("ChannelStateDesc").lower(),
        caller=known("CallerIDNum"),
        connected=known("ConnectedLineNum"),
        context=known("Context"),
        extension=known("Exten"),
        application=known("Application"),
        seconds=integer(item, "Seconds"),
        bridge=known("BridgeID"),
    )


def _with_peer(channel: Channel, in_bridge: Sequence[str]) -> Channel:
    others = [name for name in in_bridge if name != channel.name]
    if not channel.bridge or len(others) != 1:
        return channel
    return replace(channel, peer=others[0])


def choose(found: Sequence[Channel], name: str) -> Channel:
    """Return the one channel of that name, uniqueid or extension; ``PJSIP/101`` is the last too.

    Raises UnknownNameError and AmbiguousNameError, which list what there is.
    """
    for channel in found:
        if name in {channel.name, channel.uniqueid}:
            return channel
    chosen = [one for one in found if one.endpoint in {name, f"PJSIP/{name}"}]
    if len(chosen) == 1:
        return chosen[0]
    if chosen:
        raise AmbiguousNameError(
            f"{name!r} has {len(chosen)} channels. Name one of them:{listed(map(str, chosen))}"
        )
    raise UnknownNameError(
        f"there is no channel {name!r}. Expected the name, the uniqueid or the extension of one of "
        f"those that Asterisk has:{listed(map(str, found))}"
    )


def other_party(found: Sequence[Channel], channel: Channel) -> Channel:
    """Return the channel that talks with this one. Raises UnknownNameError when none or several."""
    for one in found:
        if one.name == channel.peer:
            return one
    raise UnknownNameError(f"{channel.name} does not talk with just one other channel.")


def list_channels(session: ControlSession) -> list[Channel]:
    """Return all channels, by name. Raises AmiError."""
    return channels(session.look(STATUS, session.deadline()))


def find(session: ControlSession, name: str, deadline: Deadline, *, other: bool = False) -> Channel:
    """Ask which channel is meant; ``other``: the one that talks with it."""
    found = channels(session.look(STATUS, deadline))
    channel = choose(found, name)
    return other_party(found, channel) if other else channel


def raise_if_hung_up(message: Message, channel: Channel) -> None:
    """Raise NotConfirmedError when the event says that the channel has ended."""
    if message.get("Event") == "Hangup" and message.get("Uniqueid") == channel.uniqueid:
        raise NotConfirmedError(f"{channel.name} hung up meanwhile: {cause(message)}.")


def cause(message: Message) -> str:
    """Return why a channel ended, in Asterisk's words."""
    return message.get("Cause-txt") or f"cause {message.get('Cause', 'unknown')}"


def require_extension(
    session: ControlSession, context: str, extension: str, deadline: Deadline
) -> None:
    """Raise UnknownNameError unless the dialplan has it. Both must have been checked by values.py.

    Redirect does not ask: it would end the call.
    """
    function = f"DIALPLAN_EXISTS({context},{extension},1)"
    reply = session.look(Action("Getvar", (("Variable", function),), "call"), deadline)
    if reply.message().get("Value") != "1":
        raise UnknownNameError(f"the dialplan has no extension {extension!r} in {context}.")


def require_device(session: ControlSession, interface: str, deadline: Deadline) -> None:
    """Raise UnknownNameError unless Asterisk knows the device, which values.py has checked."""
    function = f"DEVICE_STATE({interface})"
    reply = session.look(Action("Getvar", (("Variable", function),), "call"), deadline)
    if reply.message().get("Value") == "INVALID":
        raise UnknownNameError(
            f"Asterisk knows no {interface} (its state is INVALID). Look at asterisk -rx "
            '"pjsip show endpoints".'
        )
