"""The links that are services of this machine, as systemd sees them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from asterisk_exporter.config import Cdr, Config
from asterisk_exporter.doctor.finding import Finding, critical, not_set_up, ok, warning
from asterisk_exporter.doctor.pbx import Pbx, is_here
from asterisk_exporter.doctor.process import asterisk_process

ASTERISK = "asterisk"
EXPORTER = "asterisk-exporter"
NOTIFIER = "asterisk-exporter-notifier"
ROUTING = "call-routing"
REALTIME = "asterisk-realtime"
LOADER = "asterisk-cdr-pgsql"

PROPERTIES = (
    "Id",
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "NRestarts",
    "UnitFileState",
    "ActiveEnterTimestampMonotonic",
)
#: systemd restarted it so often, and the last time so few seconds ago: it will again.
LOOP_RESTARTS = 3
LOOP_SECONDS = 600
#: The loader waits for a database at most so long without anybody having to know.
LOADER_SECONDS = 60

_ROLE = {
    NOTIFIER: "asterisk_exporter (asterisk_exporter_notifier_url)",
    ROUTING: "call_routing (call_routing_method)",
    REALTIME: "pbx (pbx_realtime)",
}


@dataclass(frozen=True)
class Unit:
    """A service of systemd. ``since_seconds``: how long it has been active, None when it is not."""

    name: str
    exists: bool
    active: str
    sub: str
    result: str
    restarts: int
    enabled: str
    since_seconds: float | None


def units(text: str, now: float) -> list[Unit]:
    """Parse ``systemctl show --property=…``; ``now`` is the monotonic clock."""
    found = []
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        found.append(_unit(values, now))
    return found


def _unit(values: Mapping[str, str], now: float) -> Unit:
    active = values.get("ActiveState", "")
    entered = values.get("ActiveEnterTimestampMonotonic", "0")
    restarts = values.get("NRestarts", "")
    return Unit(
        name=values.get("Id", "").replace(".service", ""),
        exists=values.get("LoadState") != "not-found",
        active=active,
        sub=values.get("SubState", ""),
        result=values.get("Result", ""),
        restarts=int(restarts) if restarts.isdigit() else 0,
        enabled=values.get("UnitFileState", ""),
        since_seconds=max(0.0, now - int(entered) / 1e6) if active == "active" else None,
    )


def age(seconds: float) -> str:
    """Return a span of time for people: its largest unit, and the next."""
    whole = int(seconds)
    for size, name, part, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part} {small}"
    return f"{whole // 60} min" if whole >= 120 else f"{whole} s"


def judge(unit: Unit) -> Finding:
    """Judge a service that has to run."""
    look = f"Look at: systemctl status {unit.name}; {_log(unit.name)}"
    if not unit.exists:
        text = f"there is no service {unit.name}"
        role = _ROLE.get(unit.name)
        action = f"Converge this host with the role {role}."
        return not_set_up(text) if role is None else critical(text, action)
    if unit.active == "activating" and unit.sub == "auto-restart":
        return critical(
            f"{unit.name} ends as soon as it is started ({unit.result}); systemd has restarted it "
            f"{unit.restarts} times",
            look,
        )
    if unit.since_seconds is None:
        return critical(
            f"{unit.name} does not run: {unit.active} ({unit.result})",
            f"systemctl start {unit.name}. {look}",
        )
    times = "once" if unit.restarts == 1 else f"{unit.restarts} times"
    restarted = f", restarted by systemd {times}" if unit.restarts else ""
    text = f"{unit.name} has run for {age(unit.since_seconds)}{restarted}"
    if unit.restarts >= LOOP_RESTARTS and unit.since_seconds < LOOP_SECONDS:
        return warning(f"{text}: it keeps ending by itself", look)
    if unit.enabled == "disabled":
        text = f"{text}, and will not run after a reboot: the unit is disabled"
        return warning(text, f"systemctl enable {unit.name}")
    return ok(text)


def _log(name: str) -> str:
    journal = f"journalctl -u {name} -n 50"
    return f"{journal}; the end of /var/log/asterisk/messages" if name == ASTERISK else journal


def judge_asterisk(unit: Unit, process: int | None) -> Finding:
    """Judge Asterisk, which others than this unit may have started: FreePBX, safe_asterisk."""
    if unit.since_seconds is None and process is not None and unit.sub != "auto-restart":
        return ok(f"process {process} runs, started by other than the unit {ASTERISK}")
    if not unit.exists:
        return critical(
            "no process asterisk runs on this machine, and there is no unit asterisk",
            "Start Asterisk; or, where it is on another host, set asterisk_exporter_ami_host "
            "(ami.host).",
        )
    return judge(unit)


def judge_loader(unit: Unit) -> list[Finding]:
    """Judge the unit that loads cdr_pgsql once the database answers, and ends then."""
    if not unit.exists:
        return []
    if unit.since_seconds is not None and unit.since_seconds > LOADER_SECONDS:
        return [
            critical(
                f"{unit.name} has waited for {age(unit.since_seconds)} for the database: call "
                "records go to Master.csv only",
                f'Look at: {_log(unit.name)}; asterisk -rx "cdr show pgsql status"; does '
                "PostgreSQL run, and does /etc/asterisk/cdr_pgsql.conf name it?",
            )
        ]
    if unit.active == "failed":
        return [
            critical(
                f"{unit.name} failed ({unit.result}): call records go to Master.csv only",
                f"systemctl restart {unit.name}. Look at: {_log(unit.name)}",
            )
        ]
    return []


def wanted(settings: Config) -> list[str]:
    """Return the services that the configuration asks for, but for Asterisk."""
    names = [EXPORTER]
    if settings.notifier is not None:
        names.append(NOTIFIER)
    routing = settings.doctor.call_routing
    listen = None if routing is None else routing.listen
    if listen is not None and is_here(listen.rpartition(":")[0].strip("[]")):
        names.append(ROUTING)
    if settings.realtime_file is not None:
        names.append(REALTIME)
    return names


def _show(pbx: Pbx, names: Iterable[str]) -> list[Unit]:
    shown = pbx.run(("systemctl", "show", f"--property={','.join(PROPERTIES)}", *names))
    return units(shown.output, time.monotonic())


def service_user(pbx: Pbx) -> str:
    """Return the user that the exporter runs as, nothing where systemd does not say."""
    if not _is_booted_by_systemd():
        return ""
    return pbx.run(("systemctl", "show", "--property=User", "--value", EXPORTER)).output.strip()


def _is_booted_by_systemd() -> bool:
    return Path("/run/systemd/system").is_dir()


def asterisk(pbx: Pbx) -> Iterator[Finding]:
    """Look whether Asterisk runs, where it is on this machine."""
    if not pbx.asterisk_is_here:
        yield not_set_up(f"Asterisk is on another machine, {pbx.settings.ami.host} (ami.host)")
    elif _is_booted_by_systemd():
        [unit] = _show(pbx, [ASTERISK])
        yield judge_asterisk(unit, asterisk_process())
    elif (process := asterisk_process()) is not None:
        yield ok(f"process {process} runs; there is no systemd here")
    else:
        yield critical("no process asterisk runs on this machine", "Start Asterisk.")


def others(pbx: Pbx) -> Iterator[Finding]:
    """Look at our own services, those that are configured."""
    if not _is_booted_by_systemd():
        yield not_set_up("there is no systemd on this machine; see what else runs the exporter")
        return
    names = wanted(pbx.settings)
    has_loader = pbx.asterisk_is_here and isinstance(pbx.settings.cdr, Cdr)
    found = _show(pbx, [*names, *([LOADER] if has_loader else [])])
    for unit in found[: len(names)]:
        yield judge(unit)
    if has_loader:
        yield from judge_loader(found[-1])
