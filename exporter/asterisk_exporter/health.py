"""Is this PBX well? A pure function from AMI replies to a report; printing it is elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Callable

from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.collectors.base import Replies, label
from asterisk_exporter.collectors.endpoints import endpoints
from asterisk_exporter.collectors.queues import Queue, queues
from asterisk_exporter.collectors.registrations import Registration, registrations

#: All that assess() looks at, in the order to ask.
ACTIONS = (
    "CoreStatus",
    "CoreSettings",
    "CoreShowChannels",
    "DeviceStateList",
    "PJSIPShowRegistrationsOutbound",
    "QueueStatus",
)


class Status(IntEnum):
    """The exit codes of monitoring plugins."""

    OK = 0
    WARNING = 1
    CRITICAL = 2
    UNKNOWN = 3


@dataclass(frozen=True)
class Thresholds:
    """When a figure is worth a WARNING or is CRITICAL."""

    endpoints_ok_percent: float = 90.0
    endpoints_warning_percent: float = 50.0
    wait_seconds: float = 120.0


@dataclass(frozen=True)
class Problem:
    """One reason why the status is not OK."""

    status: Status
    text: str


@dataclass(frozen=True)
class Cdr:
    """The CDR table: age in seconds of the newest record, or why it cannot be told."""

    age_seconds: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Health:
    """What was found. None means that it could not be asked; a problem then says why.

    ``response_seconds`` is the time from asking to the end of CoreStatus' answer.
    """

    problems: tuple[Problem, ...] = ()
    version: str | None = None
    system_name: str | None = None
    response_seconds: float | None = None
    calls: int | None = None
    channels: int | None = None
    endpoints_online: int | None = None
    endpoints_offline: int | None = None
    offline: tuple[str, ...] = ()
    registrations: tuple[Registration, ...] | None = None
    queues: tuple[Queue, ...] | None = None
    cdr: Cdr | None = None

    @property
    def status(self) -> Status:
        """The worst of the problems."""
        return max((problem.status for problem in self.problems), default=Status.OK)


def failed(error: AmiError) -> Health:
    """Return the report of a PBX that could not be asked at all."""
    return Health((Problem(Status.CRITICAL, str(error)),))


def assess(replies: Replies, now: float, thresholds: Thresholds, cdr: Cdr | None = None) -> Health:
    """Judge the replies to ACTIONS. ``now`` is Unix time (for wrap-up); raises nothing.

    CoreStatus must have answered and the connection must have lasted, else the status is
    CRITICAL; another answer that is missing (permission, module) is a WARNING, since what it
    would tell is unknown.
    """
    try:
        replies["CoreStatus"].raise_for_error()
    except AmiError as error:
        return failed(error)
    parts = [
        _part(_settings, replies),
        _part(_channels, replies),
        _part(_endpoints, replies, thresholds),
        _part(_registrations, replies),
        _part(_queues, replies, now, thresholds),
    ]
    problems = [problem for part in parts for problem in part.pop("problems", ())]
    if cdr is not None and cdr.error is not None:
        problems.append(Problem(Status.WARNING, f"CDR database: {cdr.error}"))
    found = {name: value for part in parts for name, value in part.items()}
    # an ended connection is the same problem of every part
    problems = sorted(dict.fromkeys(problems), key=lambda problem: -problem.status)
    return Health(
        problems=tuple(problems),
        response_seconds=replies["CoreStatus"].seconds,
        cdr=cdr,
        **found,
    )


def _part(look: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Return one part of the report, or the problem that kept us from telling."""
    try:
        return look(*arguments)
    except AmiError as error:
        status = Status.CRITICAL if error.ends_connection else Status.WARNING
        return {"problems": [Problem(status, str(error))]}


def _settings(replies: Replies) -> dict[str, Any]:
    settings = replies["CoreSettings"].message()
    return {
        "version": label(settings.get("AsteriskVersion")),
        "system_name": label(settings.get("SystemName")),
    }


def _channels(replies: Replies) -> dict[str, Any]:
    rows = replies["CoreShowChannels"].events("CoreShowChannel")
    return {"channels": len(rows), "calls": len({row.get("Linkedid") for row in rows})}


def _endpoints(replies: Replies, thresholds: Thresholds) -> dict[str, Any]:
    # invalid: Asterisk has no such endpoint (any more); a device state outlives its endpoint
    found = [e for e in endpoints(replies["DeviceStateList"]) if e.state != "invalid"]
    offline = tuple(f"{e.technology}/{e.name}" for e in found if not e.reachable)
    online = len(found) - len(offline)
    problems = []
    percent = 100 * online / len(found) if found else 100.0
    if percent < thresholds.endpoints_ok_percent:
        bad = percent < thresholds.endpoints_warning_percent
        problems.append(
            Problem(
                Status.CRITICAL if bad else Status.WARNING,
                f"{online} of {len(found)} endpoints online ({percent:.0f} %)",
            )
        )
    return {
        "endpoints_online": online,
        "endpoints_offline": len(offline),
        "offline": offline,
        "problems": problems,
    }


def _registrations(replies: Replies) -> dict[str, Any]:
    found = registrations(replies["PJSIPShowRegistrationsOutbound"])
    problems = [
        Problem(Status.WARNING, f"registration {row.name} at {row.server} is {row.status}")
        for row in found
        if not row.registered
    ]
    return {"registrations": tuple(found), "problems": problems}


def _queues(replies: Replies, now: float, thresholds: Thresholds) -> dict[str, Any]:
    found = queues(replies["QueueStatus"], now)
    problems = []
    for queue in found:
        if queue.longest_wait_seconds > thresholds.wait_seconds:
            text = f"a caller in queue {queue.name} has waited {queue.longest_wait_seconds} s"
            problems.append(Problem(Status.WARNING, text))
        if queue.waits and not queue.available:
            text = f"{len(queue.waits)} waiting in queue {queue.name} with nobody available"
            problems.append(Problem(Status.WARNING, text))
    return {"queues": tuple(found), "problems": problems}
