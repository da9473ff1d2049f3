"""The link queue_log: Asterisk writes to the file that the exporter reads, and both may."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from asterisk_exporter.ami.errors import AmiError, UnknownActionError
from asterisk_exporter.config import ConfigError
from asterisk_exporter.doctor import files
from asterisk_exporter.doctor.files import Opened
from asterisk_exporter.doctor.finding import Finding, critical, not_set_up, ok, warning
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.doctor.process import asterisk_process
from asterisk_exporter.doctor.services import age
from asterisk_exporter.journal import queue_log
from asterisk_exporter.text import counted

#: So much of the file's end is read.
TAIL_BYTES = 1 << 20
_WRITE_IT = (
    "In [general] of logger.conf set queue_log = yes, and queue_log_to_file = yes where a database "
    "takes it too; then asterisk -rx 'logger reload'. Does Asterisk write elsewhere (astlogdir in "
    "asterisk.conf)? asterisk_exporter_queue_log_file"
)
_OPEN_ANEW = (
    "asterisk -rx 'logger rotate', which what rotates the logs has to run each time: look at "
    "/etc/logrotate.d/"
)


def entries(pbx: Pbx) -> list[queue_log.Entry]:
    """Return what the last lines say; nothing where the file cannot be read."""
    return [entry for entry in map(queue_log.parse, lines(pbx)) if entry is not None]


def lines(pbx: Pbx) -> list[str]:
    """Return the last lines; none where the file cannot be read."""
    return pbx.once("queue_log", _lines)


def _lines(pbx: Pbx) -> list[str]:
    configured = pbx.settings.queue_log
    if configured is None:
        return []
    try:
        with configured.file.open("rb") as file:
            file.seek(max(0, file.seek(0, io.SEEK_END) - TAIL_BYTES))
            if file.tell():
                file.readline()
            return queue_log.lines(file.read())
    except OSError:
        return []


def look(pbx: Pbx) -> Iterator[Finding]:
    """Look at the file, at who writes it, and at who may read it."""
    configured = pbx.settings.queue_log
    if configured is None:
        yield not_set_up("queues are not counted (asterisk_exporter_queue_log_file)")
        return
    path = configured.file
    found = files.stat_of(path)
    process = asterisk_process() if pbx.asterisk_is_here else None
    writes = None if process is None else list(files.opened(process))
    if isinstance(found, OSError):
        yield (
            _missing(path, found, writes)
            if _has_queues(pbx)
            else not_set_up("Asterisk has no queue, and writes no queue_log")
        )
        return
    said: list[Finding] = []
    if writes is not None:
        said += judge_writer(path, found, writes)
    rights = files.exporter_rights(pbx)
    if rights is not None and not rights.may("r", path):
        said.append(unreadable(path))
    said += [*judge_lines(path, lines(pbx)), *files.room(path)]
    yield from said
    yield ok(_newest(path, found, entries(pbx), time.time()))


def _has_queues(pbx: Pbx) -> bool:
    try:
        return bool(pbx.replies["QueueStatus"].events("QueueParams"))
    except UnknownActionError:
        return False
    except (AmiError, ConfigError):
        return True  # nobody knows


def _missing(path: Path, error: OSError, writes: Sequence[Opened] | None) -> Finding:
    ours = _earlier(path, writes or ())
    if ours:
        return _elsewhere(path, ours)
    return files.failed(path, error, _WRITE_IT)


def _earlier(path: Path, writes: Iterable[Opened]) -> list[str]:
    """Return the names of what is open and was once at the path."""
    return [one.name for one in writes if one.name.startswith(str(path))]


def _elsewhere(path: Path, names: Sequence[str]) -> Finding:
    shown = ", ".join(names)
    if any(name.endswith(" (deleted)") for name in names):
        return critical(
            f"Asterisk still writes to a queue_log that somebody has deleted, not to {path}: what "
            "happens in queues is not counted, and lost",
            _OPEN_ANEW,
        )
    return warning(
        f"Asterisk still writes to the file that was renamed to {shown}, not to {path}: it is lost "
        "when that is compressed or removed",
        _OPEN_ANEW,
    )


def judge_writer(path: Path, found: os.stat_result, writes: Sequence[Opened]) -> Iterator[Finding]:
    """Judge whether Asterisk writes to the very file that is at the path."""
    if any(one.file == (found.st_dev, found.st_ino) for one in writes):
        return
    ours = _earlier(path, writes)
    if ours:
        yield _elsewhere(path, ours)
    else:
        yield critical(
            f"Asterisk does not write to {path}: what happens in queues is not counted", _WRITE_IT
        )


def unreadable(path: Path) -> Finding:
    """Return that the exporter's user may not read a file."""
    return critical(
        f"the service may not read {path}: what is in it is not counted",
        f"chgrp asterisk {path}; chmod g+r {path}; the directories above need x for the group. The "
        "service is in the group asterisk (SupplementaryGroups of its unit)",
    )


def judge_lines(path: Path, last: Sequence[str]) -> Iterator[Finding]:
    """Judge whether the last lines are what Asterisk writes."""
    wrong = [line for line in last if queue_log.parse(line) is None]
    if wrong:
        yield warning(
            f"{len(wrong)} of the last {counted(len(last), 'line')} of {path} are not Asterisk's "
            f"(time|call|queue|agent|event|…), such as {wrong[-1][:40]!r}: they are not counted",
            "Does another program write to it, or did the disk fill up in a line? Look at: "
            f"grep -nvE '^[0-9]+[|].*[|].*[|].*[|][A-Z]+[|]' {path}",
        )


def _newest(path: Path, found: os.stat_result, last: Sequence[queue_log.Entry], now: float) -> str:
    text = f"{path}, {files.shown_bytes(found.st_size)}"
    if not last:
        return f"{text}; no entry yet"
    return f"{text}; newest entry {last[-1].event} {age(max(0.0, now - last[-1].time))} ago"
