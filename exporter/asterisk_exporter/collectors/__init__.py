"""One file per metric family; each is a pure function from AMI replies to samples."""

from __future__ import annotations

import re
from datetime import tzinfo

from asterisk_exporter.collectors.base import Collector, Family, Replies
from asterisk_exporter.collectors.channels import ChannelCollector
from asterisk_exporter.collectors.conferences import ConferenceCollector
from asterisk_exporter.collectors.core import CoreCollector
from asterisk_exporter.collectors.endpoints import EndpointCollector
from asterisk_exporter.collectors.queues import QueueCollector
from asterisk_exporter.collectors.registrations import RegistrationCollector

__all__ = [
    "ChannelCollector",
    "Collector",
    "ConferenceCollector",
    "CoreCollector",
    "EndpointCollector",
    "Family",
    "QueueCollector",
    "RegistrationCollector",
    "Replies",
    "all_collectors",
]


def all_collectors(
    zone: tzinfo | None = None,
    endpoints_up: re.Pattern[str] | None = None,
    queue_members: bool = False,
) -> tuple[Collector, ...]:
    """Return every collector of live figures, in the order of the exposition.

    ``zone``: of the PBX's clock, None is this system's. ``endpoints_up`` and ``queue_members``:
    who gets series of their own.
    """
    return (
        CoreCollector(zone),
        ChannelCollector(),
        EndpointCollector(endpoints_up),
        RegistrationCollector(),
        ConferenceCollector(),
        QueueCollector(queue_members),
    )
