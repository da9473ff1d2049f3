"""QueueStatus: callers who wait and members who may answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Callable

from prometheus_client.core import GaugeMetricFamily

from asterisk_exporter.ami.client import Reply
from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.collectors.base import (
    DEVICE_STATES,
    Family,
    Replies,
    device_state,
    integer,
    label,
)

FREE_STATES = frozenset({"not_in_use", "unknown"})


@dataclass(frozen=True)
class Member:
    """An agent in one queue."""

    name: str
    interface: str
    state: str
    paused: bool
    in_wrap_up: bool

    @property
    def available(self) -> bool:
        """Whether app_queue would offer this member a call now."""
        return self.state in FREE_STATES and not self.paused and not self.in_wrap_up


@dataclass(frozen=True)
class Queue:
    """One queue as it is now. ``waits`` are the seconds that each caller has waited.

    ``completed`` and ``abandoned`` are app_queue's own figures since its last reset.
    ``max_callers`` is its ``maxlen``; 0 means no limit.
    """

    name: str
    service_level_seconds: int
    waits: tuple[int, ...]
    members: tuple[Member, ...]
    completed: int = 0
    abandoned: int = 0
    max_callers: int = 0

    @property
    def longest_wait_seconds(self) -> int:
        """0 when nobody waits."""
        return max(self.waits, default=0)

    @property
    def over_service_level(self) -> int:
        """Callers who wait longer than the threshold."""
        return sum(wait > self.service_level_seconds for wait in self.waits)

    @property
    def available(self) -> int:
        """Members who could take a call now."""
        return sum(member.available for member in self.members)

    @property
    def paused(self) -> int:
        """Members who are paused, whatever their state."""
        return sum(member.paused for member in self.members)

    @property
    def members_by_state(self) -> dict[str, int]:
        """Members by device state; every state is present."""
        count = Counter(member.state for member in self.members)
        return {state: count[state] for state in DEVICE_STATES}


def queues(reply: Reply, now: float) -> list[Queue]:
    """Return the queues in a QueueStatus reply, by name.

    A member is in wrap-up for Wrapuptime seconds after LastCall (get_wrapuptime() and
    is_member_available() in Asterisk's apps/app_queue.c). AMI reports the wrap-up time of the
    member only, never the queue's own setting: set it per member.
    """
    found = queue_params(reply)
    waits: dict[str, list[int]] = {queue.name: [] for queue in found}
    members: dict[str, list[Member]] = {queue.name: [] for queue in found}
    items = reply.events_by_name()
    for item in items["QueueMember"]:
        wrap_up, last_call = integer(item, "Wrapuptime"), integer(item, "LastCall")
        member = Member(
            name=label(item.get("Name")),
            interface=label(item.get("Location")),
            state=device_state(integer(item, "Status")),
            paused=item.get("Paused") == "1",
            in_wrap_up=bool(wrap_up and last_call) and now - last_call < wrap_up,
        )
        members.setdefault(label(item.get("Queue")), []).append(member)
    for item in items["QueueEntry"]:
        waits.setdefault(label(item.get("Queue")), []).append(integer(item, "Wait"))
    return [
        replace(queue, waits=tuple(waits[queue.name]), members=tuple(members[queue.name]))
        for queue in found
    ]


def queue_params(reply: Reply) -> list[Queue]:
    """Return the queues in a QueueStatus reply, by name, without their callers and members."""
    found = {}
    for params in reply.events("QueueParams"):
        name = label(params.get("Queue"))
        figures = [_figure(params, name) for name in ("Completed", "Abandoned", "Max")]
        found[name] = Queue(name, integer(params, "ServiceLevel"), (), (), *figures)
    return [found[name] for name in sorted(found)]


def _figure(params: Message, name: str) -> int:
    return integer(params, name) if params.get(name) else 0


_GAUGES: tuple[tuple[str, str, Callable[[Queue], int]], ...] = (
    ("asterisk_queue_callers", "Callers who wait now.", lambda queue: len(queue.waits)),
    (
        "asterisk_queue_longest_wait_seconds",
        "How long the first of the waiting callers has waited; 0 when nobody waits.",
        lambda queue: queue.longest_wait_seconds,
    ),
    (
        "asterisk_queue_callers_over_service_level",
        "Callers who wait now, longer than the service level.",
        lambda queue: queue.over_service_level,
    ),
    ("asterisk_queue_members_paused", "Members who are paused.", lambda queue: queue.paused),
    (
        "asterisk_queue_members_available",
        "Members not in use or of unknown state, not paused, not in wrap-up.",
        lambda queue: queue.available,
    ),
    (
        "asterisk_queue_service_level_seconds",
        "The queue's service level threshold (Asterisk's default is 0).",
        lambda queue: queue.service_level_seconds,
    ),
    (
        "asterisk_queue_max_callers",
        "How many callers may wait (maxlen); 0 when there is no limit.",
        lambda queue: queue.max_callers,
    ),
)


@dataclass(frozen=True)
class QueueCollector:
    """Queues now. With ``members``, each member's state too: nine series per member and queue.

    ::

        asterisk_queue_callers{queue="support"} 2.0
        asterisk_queue_longest_wait_seconds{queue="support"} 14.0
        asterisk_queue_callers_over_service_level{queue="support"} 0.0
        asterisk_queue_members_paused{queue="support"} 0.0
        asterisk_queue_members_available{queue="support"} 0.0
        asterisk_queue_service_level_seconds{queue="support"} 60.0
        asterisk_queue_max_callers{queue="support"} 50.0
        asterisk_queue_members{queue="support",state="ringing"} 1.0
        asterisk_queue_member_state{queue="support",member="Bob",interface="PJSIP/102",
          state="ringing"} 1.0
        asterisk_queue_member_paused{queue="support",member="Bob",interface="PJSIP/102"} 0.0
    """

    members: bool = False
    name = "queues"
    actions = ("QueueStatus",)

    def describe(self) -> list[Family]:
        """Return the families without samples."""
        families: list[Family] = [
            GaugeMetricFamily(name, text, labels=["queue"]) for name, text, _ in _GAUGES
        ]
        families.append(
            GaugeMetricFamily(
                "asterisk_queue_members", "Members by device state.", labels=["queue", "state"]
            )
        )
        if self.members:
            who = ["queue", "member", "interface"]
            families += [
                GaugeMetricFamily(
                    "asterisk_queue_member_state",
                    "1 for the device state that the member has.",
                    labels=[*who, "state"],
                ),
                GaugeMetricFamily(
                    "asterisk_queue_member_paused", "Whether the member is paused.", labels=who
                ),
            ]
        return families

    def collect(self, replies: Replies, now: float) -> list[Family]:
        """Return the families with samples."""
        families = self.describe()
        by_state, *per_member = families[len(_GAUGES) :]
        for queue in queues(replies["QueueStatus"], now):
            for family, (_, _, value) in zip(families, _GAUGES):
                family.add_metric([queue.name], value(queue))
            for state, number in queue.members_by_state.items():
                by_state.add_metric([queue.name, state], number)
            if per_member:
                _add_members(queue, *per_member)
        return families


def _add_members(queue: Queue, states: Family, paused: Family) -> None:
    for member in queue.members:
        who = [queue.name, member.name, member.interface]
        for state in DEVICE_STATES:
            states.add_metric([*who, state], member.state == state)
        paused.add_metric(who, member.paused)
