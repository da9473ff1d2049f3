"""ConfbridgeListRooms: people in conferences."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client.core import GaugeMetricFamily

from asterisk_exporter.collectors.base import Family, Replies, integer


@dataclass(frozen=True)
class ConferenceCollector:
    """Participants of all conferences together.

    ::

        asterisk_conference_participants 2.0
    """

    name = "conferences"
    actions = ("ConfbridgeListRooms",)

    def describe(self) -> list[Family]:
        """Return the family without samples."""
        return [
            GaugeMetricFamily(
                "asterisk_conference_participants", "Participants of all conferences."
            )
        ]

    def collect(self, replies: Replies, now: float) -> list[Family]:  # noqa: ARG002
        """Return the family with samples."""
        families = self.describe()
        rooms = replies["ConfbridgeListRooms"].events("ConfbridgeListRooms")
        families[0].add_metric([], sum(integer(room, "Parties") for room in rooms))
        return families
