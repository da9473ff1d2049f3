"""The link that is the exporter's own state: the file that its counters are in."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from asterisk_exporter.doctor import files
from asterisk_exporter.doctor.finding import Finding, not_set_up, ok, warning
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.journal.store import FILE_NAME, read_only


def look(pbx: Pbx) -> Iterator[Finding]:
    """Look whether the state can be read, and may grow."""
    directory = pbx.settings.state_directory
    if pbx.settings.cdr is None and pbx.settings.queue_log is None:
        yield not_set_up("nothing is counted that would have to be kept")
        return
    with read_only(directory) as db:
        (missed,) = db.execute("SELECT count(*) FROM missed").fetchone()
        (counters,) = db.execute("SELECT count(*) FROM counter").fetchone()
    yield from judge_moved(directory, [path.name for path in directory.glob("*.unusable-*")])
    yield from files.room(directory)
    size = files.shown_bytes((directory / FILE_NAME).stat().st_size)
    yield ok(f"{directory}: {size}, {counters} counters, {missed} missed calls kept")


def judge_moved(directory: Path, names: Sequence[str]) -> Iterator[Finding]:
    """Judge state files that were unusable and moved aside."""
    moved = sorted(name for name in names if not name.endswith(("-wal", "-shm")))
    if moved:
        yield warning(
            f"a state file could not be used and was moved aside ({moved[-1]}): the counters began "
            "again at 0 then",
            "journalctl -u asterisk-exporter says why. When nobody needs it any more: rm "
            f"{directory}/*.unusable-*",
        )
