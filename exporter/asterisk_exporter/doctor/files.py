"""Files of this machine: who may read and write them, and who writes to which of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asterisk_exporter.doctor.finding import Finding, critical, warning
from asterisk_exporter.doctor.pbx import LookError, Pbx
from asterisk_exporter.doctor.services import EXPORTER

#: A file system with less than both of these is nearly full; with less than the last it is.
LOW_PERCENT = 5
LOW_BYTES = 1 << 30
FULL_BYTES = 4 << 20


@dataclass(frozen=True)
class Rights:
    """The user and the groups that a process has."""

    user: int
    group: int
    groups: tuple[int, ...]

    def may(self, what: str, path: Path) -> bool:
        """Say whether ``test`` finds so: ``what`` is r or w."""
        command = ("test", f"-{what}", str(path))
        done = subprocess.run(  # noqa: S603 - no shell, and our own words
            command,
            user=self.user,
            group=self.group,
            extra_groups=self.groups,
            cwd="/",
            check=False,
        )
        return done.returncode == 0


def rights_of(process: int) -> Rights | None:
    """Return what a process may, None when it has ended."""
    with suppress(OSError):
        return parse_rights(Path(f"/proc/{process}/status").read_text(encoding="utf-8"))
    return None


def parse_rights(status: str) -> Rights:
    """Return the rights in ``/proc/PID/status``; the effective ones, of four."""
    lines = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    groups = tuple(map(int, lines["Groups"].split()))
    return Rights(int(lines["Uid"].split()[1]), int(lines["Gid"].split()[1]), groups)


def exporter_rights(pbx: Pbx) -> Rights | None:
    """Return what the service may, None while it does not run or systemd does not run it."""
    return pbx.once("exporter's rights", _exporter_rights)


def _exporter_rights(pbx: Pbx) -> Rights | None:
    try:
        shown = pbx.run(("systemctl", "show", "--value", "--property=MainPID", EXPORTER))
    except LookError:
        return None
    process = shown.output.strip()
    return rights_of(int(process)) if process.isdigit() and process != "0" else None


@dataclass(frozen=True)
class Opened:
    """A file that a process has open: its name, which may be an old one, and which file it is."""

    name: str
    file: tuple[int, int]


def opened(process: int) -> Iterator[Opened]:
    """Yield the files that a process has open."""
    for path in Path(f"/proc/{process}/fd").iterdir():
        with suppress(OSError):  # closed meanwhile
            found = path.stat()
            name = os.readlink(path)  # noqa: PTH115 - " (deleted)" is no path
            yield Opened(name, (found.st_dev, found.st_ino))


def room(path: Path) -> Iterator[Finding]:
    """Judge the free space of the file system that a path is on."""
    with suppress(OSError):
        found = os.statvfs(path)
        yield from judge_room(
            path, found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
        )


def judge_room(path: Path, free: int, size: int) -> Iterator[Finding]:
    """Judge the free bytes of the file system that a path is on."""
    text = f"the file system of {path} has {shown_bytes(free)} left of {shown_bytes(size)}"
    action = f"Make room: df -h {path}; du -xsh /var/log/* /var/spool/asterisk/* | sort -h | tail"
    if free < FULL_BYTES:
        yield critical(f"{text}: what is written there is lost", action)
    elif free < LOW_BYTES and free * 100 < LOW_PERCENT * size:
        yield warning(text, action)


def shown_bytes(number: float) -> str:
    """Return a number of bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def stat_of(path: Path) -> os.stat_result | OSError:
    """Return what there is at a path, or why nothing can be told."""
    try:
        return path.stat()
    except OSError as error:
        return error


def failed(path: Path, error: OSError, do: str, bad: Any = critical) -> Finding:
    """Return that a path cannot be looked at."""
    finding: Finding = bad(f"{path}: {error.strerror}", do)
    return finding
