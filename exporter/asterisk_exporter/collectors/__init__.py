"""One file per metric family; each is a pure function from AMI replies to samples."""

from __future__ import annotations

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
]
