"""What the collectors share: their interface, state names, and labels that are always valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Union

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from asterisk_exporter.ami.client import Reply
from asterisk_exporter.ami.errors import MalformedReplyError
from asterisk_exporter.ami.protocol import Message

Family = Union[CounterMetricFamily, GaugeMetricFamily]
Replies = Mapping[str, Reply]

#: Device states in the order of their numbers: enum ast_device_state in Asterisk's
#: include/asterisk/devicestate.h. QueueMember gives the number, DeviceStateList the name.
DEVICE_STATES = (
    "unknown",
    "not_in_use",
    "in_use",
    "busy",
    "invalid",
    "unavailable",
    "ringing",
    "ring_in_use",
    "on_hold",
)
#: ast_devstate_str() in main/devicestate.c.
STATE_BY_NAME = {
    "UNKNOWN": "unknown",
    "NOT_INUSE": "not_in_use",
    "INUSE": "in_use",
    "BUSY": "busy",
    "INVALID": "invalid",
    "UNAVAILABLE": "unavailable",
    "RINGING": "ringing",
    "RINGINUSE": "ring_in_use",
    "ONHOLD": "on_hold",
}


class Collector(Protocol):
    """A metric family: what it asks AMI, and what it makes of the replies."""

    @property
    def name(self) -> str:
        """The value of the label ``collector``."""

    @property
    def actions(self) -> Sequence[str]:
        """The AMI actions whose replies it needs, in the order to ask them."""

    def describe(self) -> list[Family]:
        """Return the families without samples, without I/O."""

    def collect(self, replies: Replies, now: float) -> list[Family]:
        """Return the families with samples. ``now`` is Unix time.

        Raises an AmiError when a reply that it needs is an error or makes no sense.
        """


def label(text: str) -> str:
    r"""Return text that is valid UTF-8: bytes of other encodings become ``\xe9``.

    Names stay distinct, where a replacement character would make two series of one name.
    """
    if text.isascii():
        return text
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def integer(message: Message, name: str) -> int:
    """Return header ``name`` as an integer. Raises MalformedReplyError."""
    text = message.get(name)
    try:
        return int(text)
    except ValueError:
        raise MalformedReplyError(
            f"{message.headers[0][1]} has {name} = {text!r} where a whole number was expected."
        ) from None


def device_state(number: int) -> str:
    """Return the name of a device state number."""
    return DEVICE_STATES[number] if 0 <= number < len(DEVICE_STATES) else "unknown"
