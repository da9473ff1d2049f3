"""CoreShowChannels: channels and calls; DeviceStateList: parked calls."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily

from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.collectors.base import Family, Replies, integer, label

#: enum ast_channel_state in Asterisk's include/asterisk/channelstate.h.
CHANNEL_STATES = (
    "down",
    "reserved",
    "off_hook",
    "dialing",
    "ring",
    "ringing",
    "up",
    "busy",
    "dialing_off_hook",
    "pre_ring",
)
#: Always present, so that a graph of an idle PBX shows 0 and not a gap.
ALWAYS = (("PJSIP", "ring"), ("PJSIP", "ringing"), ("PJSIP", "up"))


@dataclass(frozen=True)
class ChannelCollector:
    """Channels and the calls they make up.

    A call is one distinct Linkedid. A parked call is a space in use: the application of a channel
    that is parked from a conversation stays Dial or AppDial, and the action ParkedCalls would need
    the class ``call``.

    ::

        asterisk_channels{technology="PJSIP",state="up"} 6.0
        asterisk_calls 9.0
        asterisk_parked_calls 1.0
    """

    name = "channels"
    actions = ("CoreShowChannels", "DeviceStateList")

    def describe(self) -> list[Family]:
        """Return the families without samples."""
        return [
            GaugeMetricFamily(
                "asterisk_channels", "Channels by state.", labels=["technology", "state"]
            ),
            GaugeMetricFamily("asterisk_calls", "Calls: distinct Linkedid of all channels."),
            GaugeMetricFamily("asterisk_parked_calls", "Parked calls."),
        ]

    def collect(self, replies: Replies, now: float) -> list[Family]:  # noqa: ARG002
        """Return the families with samples."""
        channels, calls, parked = families = self.describe()
        rows = replies["CoreShowChannels"].events("CoreShowChannel")
        count: Counter[tuple[str, str]] = Counter(dict.fromkeys(ALWAYS, 0))
        for row in rows:
            state = integer(row, "ChannelState")
            name = CHANNEL_STATES[state] if 0 <= state < len(CHANNEL_STATES) else "unknown"
            count[label(row.get("Channel").partition("/")[0]), name] += 1
        for labels, number in sorted(count.items()):
            channels.add_metric(labels, number)
        calls.add_metric([], len({row.get("Linkedid") for row in rows}))
        spaces = replies["DeviceStateList"].events("DeviceStateChange")
        parked.add_metric([], sum(_is_taken(space) for space in spaces))
        return families


def _is_taken(device: Message) -> bool:
    """Say whether it is a parking space with a call (res_parking: ``park:701@parkedcalls``)."""
    return device.get("Device").startswith("park:") and device.get("State").upper() == "INUSE"
