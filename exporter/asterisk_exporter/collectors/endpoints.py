"""DeviceStateList: endpoints by state, and whether named ones are reachable."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily

from asterisk_exporter.ami.client import Reply
from asterisk_exporter.collectors.base import DEVICE_STATES, STATE_BY_NAME, Family, Replies, label

#: ``PJSIP/101``; but neither ``Queue:sales_pause_PJSIP/101`` nor ``MWI:1234@default``.
_ENDPOINT = re.compile(r"(?P<technology>[A-Za-z0-9_]+)/(?P<name>.+)", re.DOTALL)
#: A Local channel is a piece of dialplan, not a phone.
NO_ENDPOINTS = frozenset({"Local"})
UNREACHABLE = frozenset({"invalid", "unavailable"})


@dataclass(frozen=True)
class Endpoint:
    """One phone or trunk and its device state."""

    technology: str
    name: str
    state: str

    @property
    def reachable(self) -> bool:
        """Whether Asterisk would try to call it: any state but unavailable and invalid."""
        return self.state not in UNREACHABLE


def endpoints(reply: Reply) -> list[Endpoint]:
    """Return the endpoints among the device states, which also hold queues, MWI and parking.

    A PJSIP endpoint is ``unavailable`` without a reachable contact and ``not_in_use`` with one
    (chan_pjsip_devicestate() in channels/chan_pjsip.c). One that is removed from the configuration
    stays in Asterisk's list as ``invalid`` until the next restart, and one that a reload adds
    appears with its first change (run on 22.10.1).
    """
    found = {}
    for item in reply.events("DeviceStateChange"):
        device = _ENDPOINT.fullmatch(item.get("Device"))
        if device and device["technology"] not in NO_ENDPOINTS:
            state = STATE_BY_NAME.get(item.get("State").upper(), "unknown")
            technology, name = label(device["technology"]), label(device["name"])
            found[technology, name] = Endpoint(technology, name, state)
    return [found[key] for key in sorted(found)]


@dataclass(frozen=True)
class EndpointCollector:
    """Endpoints by device state; one by one only those whose whole name matches ``up``.

    ::

        asterisk_endpoints{technology="PJSIP",state="unavailable"} 2.0
        asterisk_endpoint_up{technology="PJSIP",endpoint="provider"} 1.0
    """

    up: re.Pattern[str] | None = None
    name = "endpoints"
    actions = ("DeviceStateList",)

    def describe(self) -> list[Family]:
        """Return the families without samples."""
        return [
            GaugeMetricFamily(
                "asterisk_endpoints",
                "Endpoints by device state.",
                labels=["technology", "state"],
            ),
            GaugeMetricFamily(
                "asterisk_endpoint_up",
                "Whether the endpoint is reachable (device state neither unavailable nor invalid).",
                labels=["technology", "endpoint"],
            ),
        ]

    def collect(self, replies: Replies, now: float) -> list[Family]:  # noqa: ARG002
        """Return the families with samples. Every state of a technology in use is present."""
        by_state, up = families = self.describe()
        found = endpoints(replies["DeviceStateList"])
        count = Counter((endpoint.technology, endpoint.state) for endpoint in found)
        for technology in sorted({"PJSIP", *(endpoint.technology for endpoint in found)}):
            for state in DEVICE_STATES:
                by_state.add_metric([technology, state], count[technology, state])
        for endpoint in found:
            if self.up is not None and self.up.fullmatch(endpoint.name):
                up.add_metric([endpoint.technology, endpoint.name], endpoint.reachable)
        return families
