"""PJSIPShowRegistrationsOutbound: our registrations at providers."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily

from asterisk_exporter.ami.client import Reply
from asterisk_exporter.collectors.base import Family, Replies, label


@dataclass(frozen=True)
class Registration:
    """One outbound registration."""

    name: str
    server: str
    status: str

    @property
    def registered(self) -> bool:
        """Compare whole words: ``Unregistered`` contains "registered"."""
        return self.status == "Registered"


def registrations(reply: Reply) -> list[Registration]:
    """Return the registrations in the reply.

    Only three fields are kept. The reply also lists AuthDetail items with the trunks' passwords
    in clear text (run on 22.10.1, to any login with ``write = reporting``).
    """
    rows = (
        Registration(
            label(item.get("ObjectName")), label(item.get("ServerUri")), label(item.get("Status"))
        )
        for item in reply.events("OutboundRegistrationDetail")
    )
    return sorted(rows, key=lambda row: row.name)


@dataclass(frozen=True)
class RegistrationCollector:
    """Outbound registrations.

    ::

        asterisk_registration_up{registration="provider",server="sip:sip.example.net"} 1.0
    """

    name = "registrations"
    actions = ("PJSIPShowRegistrationsOutbound",)

    def describe(self) -> list[Family]:
        """Return the family without samples."""
        return [
            GaugeMetricFamily(
                "asterisk_registration_up",
                "Whether the outbound registration is Registered.",
                labels=["registration", "server"],
            )
        ]

    def collect(self, replies: Replies, now: float) -> list[Family]:  # noqa: ARG002
        """Return the family with samples."""
        families = self.describe()
        for row in registrations(replies["PJSIPShowRegistrationsOutbound"]):
            families[0].add_metric([row.name, row.server], row.registered)
        return families
