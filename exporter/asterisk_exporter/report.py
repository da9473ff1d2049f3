"""A Health report for people, for Nagios and for programs."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asterisk_exporter.ami.client import Target
from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.collectors.base import DEVICE_STATES
from asterisk_exporter.collectors.queues import Queue
from asterisk_exporter.health import Health
from asterisk_exporter.text import clean, counted


def first_line(health: Health) -> str:
    """Return the line that Nagios shows, with performance data after the bar."""
    status = health.status.name
    if health.problems:
        text = "; ".join(problem.text for problem in health.problems)
    else:
        text = f"Asterisk {health.version}, {_plural(health.calls, 'active call')}"
        online, offline = health.endpoints_online, health.endpoints_offline
        if online is not None and offline is not None:
            text += f", {online} of {online + offline} endpoints online"
        if health.queues is not None:
            text += f", {sum(len(queue.waits) for queue in health.queues)} callers waiting"
    line = f"ASTERISK {status} - {clean(text).replace('|', '/')}"
    data = performance_data(health)
    return f"{line} | {data}" if data else line


def performance_data(health: Health) -> str:
    """Return ``name=value[unit]`` pairs of what is known, as monitoring plugins print them."""
    values: list[tuple[str, float | None, str]] = [
        ("response", health.response_seconds, "s"),
        ("calls", health.calls, ""),
        ("channels", health.channels, ""),
        ("endpoints_online", health.endpoints_online, ""),
        ("endpoints_offline", health.endpoints_offline, ""),
    ]
    if health.queues is not None:
        waits = [wait for queue in health.queues for wait in queue.waits]
        values += [("callers", len(waits), ""), ("longest_wait", max(waits, default=0), "s")]
    return " ".join(
        f"{name}={value:.6f}{unit}" if isinstance(value, float) else f"{name}={value}{unit}"
        for name, value, unit in values
        if value is not None
    )


def as_json(health: Health, target: Target, error: AmiError | None) -> str:
    """Return one JSON document. Its keys are stable; null means that it could not be told."""
    document: dict[str, Any] = {
        "status": health.status.name,
        "exit_code": int(health.status),
        "problems": [
            {"status": problem.status.name, "text": problem.text} for problem in health.problems
        ],
        "target": {
            "host": target.host,
            "port": target.port,
            "username": target.username,
            "tls": target.tls is not None,
        },
        "connection": {
            "ok": error is None,
            "error": None if error is None else {"kind": error.kind, "text": str(error)},
            "response_seconds": health.response_seconds,
        },
        "asterisk": {
            "version": health.version,
            "system_name": health.system_name,
            "calls": health.calls,
            "channels": health.channels,
        },
        "endpoints": {
            "online": health.endpoints_online,
            "offline": health.endpoints_offline,
            "offline_names": list(health.offline),
        },
        "registrations": None
        if health.registrations is None
        else [asdict(row) for row in health.registrations],
        "cdr": None if health.cdr is None else asdict(health.cdr),
        "queues": None
        if health.queues is None
        else [_queue_as_json(queue) for queue in health.queues],
    }
    return json.dumps(document, indent=2, ensure_ascii=False)


def _queue_as_json(queue: Queue) -> dict[str, Any]:
    return {
        "name": queue.name,
        "waiting": len(queue.waits),
        "longest_wait_seconds": queue.longest_wait_seconds,
        "over_service_level": queue.over_service_level,
        "service_level_seconds": queue.service_level_seconds,
        "members": queue.members_by_state,
        "paused": queue.paused,
        "available": queue.available,
    }


@dataclass(frozen=True)
class Shown:
    """What the text shows besides the basics; ``width`` is the table's, in columns."""

    full: bool = False
    queues: bool = False
    width: int = 100


def as_text(health: Health, target: Target, error: AmiError | None, shown: Shown) -> str:
    """Return the report for people; the first line is ``first_line``."""
    if error is not None:
        connection = f"failed ({error.kind})"
    elif health.response_seconds is None:
        connection = "logged in, no answer to CoreStatus"
    else:
        connection = f"ok, answered in {health.response_seconds * 1000:.1f} ms"
    rows = [
        ("Target", str(target)),
        ("User", target.username),
        ("TLS", "yes" if target.tls else "no"),
        ("Connection", connection),
        ("Asterisk", _known(health.version)),
        ("System name", _known(health.system_name)),
        ("Active calls", _known(health.calls)),
    ]
    if shown.full:
        rows += _full_rows(health)
    out = [first_line(health), *(f"{name + ':':<15}{clean(text)}" for name, text in rows)]
    if shown.queues and health.queues is not None:
        out.append(_queue_table(health.queues, shown.width) if health.queues else "No queues.")
    return "\n".join(out)


def _full_rows(health: Health) -> list[tuple[str, str]]:
    rows = [
        ("Channels", _known(health.channels)),
        ("Endpoints", "unknown")
        if health.endpoints_online is None
        else (
            "Endpoints",
            f"{health.endpoints_online} online, {health.endpoints_offline} offline"
            + (f" ({', '.join(health.offline[:20])})" if health.offline else ""),
        ),
    ]
    if health.registrations is None:
        rows.append(("Registrations", "unknown"))
    elif not health.registrations:
        rows.append(("Registrations", "none configured"))
    rows += [
        ("Registration", f"{row.name} at {row.server}: {row.status}")
        for row in health.registrations or ()
    ]
    if health.cdr is None:
        rows.append(("CDR", "not configured"))
    elif health.cdr.error is not None:
        rows.append(("CDR", health.cdr.error))
    elif health.cdr.age_seconds is None:
        rows.append(("CDR", "database answers, no record yet"))
    else:
        rows.append(("CDR", f"newest record {health.cdr.age_seconds:.0f} s old"))
    return rows


def _queue_table(found: tuple[Queue, ...], width: int) -> str:
    table = Table("Queue", title="Queues", title_justify="left")
    for heading in ("Waiting", "Longest wait", "Members", "Available", "Paused"):
        table.add_column(heading, justify="right")
    table.add_column("By state")
    for queue in found:
        by_state = queue.members_by_state
        states = [f"{by_state[state]} {state}" for state in DEVICE_STATES if by_state[state]]
        cells = (
            queue.name,
            str(len(queue.waits)),
            f"{queue.longest_wait_seconds} s",
            str(len(queue.members)),
            str(queue.available),
            str(queue.paused),
            ", ".join(states),
        )
        table.add_row(*(Text(clean(cell)) for cell in cells))
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None).print(table)
    return buffer.getvalue().rstrip("\n")


def _known(value: object) -> str:
    return "unknown" if value is None else str(value)


def _plural(number: int | None, noun: str) -> str:
    if number is None:
        return f"unknown number of {noun}s"
    return counted(number, noun)
