"""The link Master.csv: where call records are read from it, and where it is the second copy."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import ZoneInfo

from asterisk_exporter.config import CdrCsv
from asterisk_exporter.doctor import cdr_backends, files, queue_log
from asterisk_exporter.doctor.finding import Finding, critical, not_set_up, ok, warning
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.doctor.process import asterisk_process
from asterisk_exporter.doctor.services import age
from asterisk_exporter.journal.cdr import Found, Malformed
from asterisk_exporter.journal.cdr_csv import LONGEST_RECORD_BYTES, parse

SECOND_COPY = Path("/var/log/asterisk/cdr-csv/Master.csv")


def second_copy(pbx: Pbx) -> Path | None:
    """Return where Asterisk writes records beside the database; None where it does not.

    Raises LookError.
    """
    if pbx.settings.cdr is None or isinstance(pbx.settings.cdr, CdrCsv):
        return None
    if not pbx.asterisk_is_here or "csv" not in cdr_backends.status(pbx).backends:
        return None
    return SECOND_COPY


def look(pbx: Pbx) -> Iterator[Finding]:
    """Look at the file, and at who may write and read it."""
    cdr = pbx.settings.cdr
    if isinstance(cdr, CdrCsv):
        yield from _file(pbx, cdr.file, cdr)
        return
    path = second_copy(pbx)
    if path is None:
        yield not_set_up("no second copy of the call records (cdr_csv.so)")
    else:
        yield from _file(pbx, path, None)


def _file(pbx: Pbx, path: Path, source: CdrCsv | None) -> Iterator[Finding]:
    """Judge the file. ``source``: the configuration that reads it; None, it is the second copy."""
    bad = warning if source is None else critical
    process = asterisk_process() if pbx.asterisk_is_here else None
    writer = None if process is None else files.rights_of(process)
    found = files.stat_of(path)
    if isinstance(found, OSError) and not isinstance(found, FileNotFoundError):
        yield files.failed(path, found, "Look at the directories above", bad)
        return
    missing = isinstance(found, FileNotFoundError)
    if missing and not path.parent.is_dir():
        yield bad(
            f"there is no directory {path.parent}, and Asterisk makes none: its records are lost",
            f"mkdir -p {path.parent}; chown asterisk: {path.parent}",
        )
        return
    # cdr_csv opens it anew for each record
    written = path.parent if missing else path
    if writer is not None and not writer.may("w", written):
        yield bad(
            f"Asterisk may not write {written}: its records are lost",
            f"chown asterisk: {written}; chmod u+w {written} (as the user that Asterisk runs as)",
        )
    if isinstance(found, FileNotFoundError):
        yield ok(f"{path} is not there yet: it comes with the next call's record")
        return
    if source is not None:
        reader = files.exporter_rights(pbx)
        if reader is not None and not reader.may("r", path):
            yield queue_log.unreadable(path)
        yield from judge_newest(path, source)
    yield from files.room(path)
    what = "a second copy of the records" if source is None else "records"
    seconds = max(0.0, time.time() - found.st_mtime)
    shown = files.shown_bytes(found.st_size)
    yield ok(f"{path} has {what}, {shown}; last written {age(seconds)} ago")


def judge_newest(path: Path, source: CdrCsv) -> Iterator[Finding]:
    """Judge whether the newest record has what calls are told by."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - LONGEST_RECORD_BYTES))
            data = file.read()
    except OSError as error:
        yield files.failed(path, error, "Look at the directories above")
        return
    newest = _newest(data, ZoneInfo(source.timezone))
    if isinstance(newest, Malformed):
        yield critical(
            f"the newest record of {path} cannot be part of a call: {newest.reason}",
            "In [csv] of cdr.conf set newcdrcolumns = yes, loguniqueid = yes, loguserfield = yes, "
            "and usegmtime = yes with asterisk_exporter_cdr_timezone UTC; then "
            "asterisk -rx 'module reload cdr_csv.so'",
        )


def _newest(data: bytes, zone: ZoneInfo) -> Found | None:
    """Return the last record in the end of a file, which may begin within one."""
    lines = data.split(b"\n")[:-1]
    # a name with a newline makes several lines
    ends = [lines[-count:] for count in range(1, min(len(lines), 4) + 1)]
    tried = [parse(b"\n".join(end) + b"\n", zone) for end in ends]
    well = [one for one in tried if not isinstance(one, Malformed)]
    return next(iter(well + tried), None)
