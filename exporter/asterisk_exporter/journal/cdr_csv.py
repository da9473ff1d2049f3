"""CDR records in Master.csv, counted exactly once each.

cdr/cdr_csv.c appends one record at a time, in quotes where it is text; a name may hold a newline,
so a record can take several lines. Which columns there are is a matter of cdr.conf.
"""

from __future__ import annotations

import csv
import io
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import tzinfo
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from asterisk_exporter.journal.cdr import NAME, CdrCounter, Found, Malformed
from asterisk_exporter.journal.record import CSV_COLUMNS, Record
from asterisk_exporter.journal.runner import SourceError
from asterisk_exporter.journal.store import JournalStore
from asterisk_exporter.journal.tail import Position, Tail

#: A record that is longer is none: a quote has been lost.
LONGEST_RECORD_BYTES = 64 << 10
_DISPOSITION = CSV_COLUMNS.index("disposition")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CsvFile:
    """Where the file is, and the zone of its times (UTC with ``usegmtime`` in cdr.conf)."""

    path: Path
    zone: tzinfo

    def __str__(self) -> str:
        """Name the file."""
        return str(self.path)

    def source(self, store: JournalStore, _system_name: str, counter: CdrCounter) -> CsvSource:
        """Return what reads it."""
        return CsvSource(store, self, counter)

    def newest_record_age(self, _system_name: str, _timeout_seconds: float) -> float | None:
        """Return the age in seconds of the newest record, None without any. Raises SourceError."""
        try:
            with self.path.open("rb") as file:
                size = file.seek(0, io.SEEK_END)
                file.seek(max(0, size - LONGEST_RECORD_BYTES))
                data = file.read()
        except OSError as error:
            raise SourceError(f"cannot read it: {error.strerror}") from None
        if size > LONGEST_RECORD_BYTES:
            data = data.partition(b"\n")[2]
        found = [parse(raw, self.zone) for raw in split(data)]
        ends = [one.end for one in found if isinstance(one, Record)]
        return time.time() - max(ends) if ends else None


class CsvSource:
    """Reads the file in batches."""

    name = NAME

    def __init__(self, store: JournalStore, file: CsvFile, counter: CdrCounter) -> None:
        self._file = file
        self._counter = counter
        self._tail = Tail(file.path)
        self._watermark = 0.0
        self.last_record = 0.0
        self._position: Position | None = None
        saved = store.position(NAME)
        if saved is not None:
            self._position = Position.from_json(saved["tail"])
            self.last_record = saved["last_record"]

    def __str__(self) -> str:
        """Name the file."""
        return str(self._file)

    def open(self) -> None:
        """Do nothing: each read opens the file, which may be another by then."""

    def close(self) -> None:
        """Let go of a rotated file."""
        self._tail.close()

    def begin(self, backfill: bool) -> None:
        """Begin at the end of the file or of all history, unless there is a cursor.

        Raises SourceError.
        """
        self._counter.load()
        if self._position is None:
            self._apply(self._tail.oldest() if backfill else self._tail.end(), [])
            log.info(
                "%s: first start, counting begins %s", NAME, "at the first" if backfill else "now"
            )

    def read(self) -> bool:
        """Count the next records and move the cursor. Raises SourceError."""
        at = self._begun()
        clock = time.time()
        chunk = self._tail.read(at)
        raws = list(split(chunk.lines))
        rest = len(chunk.lines) - sum(map(len, raws))
        if rest and chunk.more and not raws:
            # the rest of a file that nobody writes to any more
            raws, rest = [chunk.lines], 0
        found: list[Found] = [parse(raw, self._file.zone) for raw in raws]
        found += [Malformed("its line was never finished")] * chunk.malformed
        ends = [one.end for one in found if isinstance(one, Record)]
        self.last_record = max([self.last_record, *ends])
        drained = not chunk.more and not rest
        self._watermark = max(self._watermark, clock if drained else min(self.last_record, clock))
        self._apply(replace(chunk.position, offset=chunk.position.offset - rest), found)
        return chunk.more

    def lag_seconds(self) -> float:
        """Return the age of the newest record while there is more in the file, else 0.

        Raises SourceError.
        """
        unread = self._tail.remaining(self._begun())
        return max(0.0, time.time() - self.last_record) if unread and self.last_record else 0.0

    def describe(self) -> list[Metric]:
        """Return the families without samples."""
        return self._counter.describe()

    def families(self) -> list[Metric]:
        """Return the families with samples."""
        return self._counter.families()

    def _begun(self) -> Position:
        assert self._position is not None  # noqa: S101 - begin() comes first
        return self._position

    def _apply(self, position: Position, found: list[Found]) -> None:
        saved: dict[str, Any] = {"tail": position.as_json(), "last_record": self.last_record}
        self._counter.apply(saved, found, self._watermark, self._watermark)
        self._position = position


def split(data: bytes) -> Iterator[bytes]:
    """Yield the complete records in complete lines; what is left at the end is not complete yet.

    A record is complete when its quotes balance. One that grows too long has lost a quote: its
    first line alone is taken for it, and the next is tried.
    """
    lines = [line + b"\n" for line in data.split(b"\n")[:-1]]
    start = 0
    while start < len(lines):
        quotes = size = 0
        for end in range(start, len(lines)):
            quotes += lines[end].count(b'"')
            size += len(lines[end])
            if quotes % 2 == 0 or size > LONGEST_RECORD_BYTES:
                break
        else:
            return
        if quotes % 2:
            end = start
        yield b"".join(lines[start : end + 1])
        start = end + 1


def parse(raw: bytes, zone: tzinfo) -> Found:
    r"""Return the record in a line or several, or what is wrong with it.

    Bytes of other encodings than UTF-8 become text such as ``\xe9``.
    """
    # before Python 3.11 the csv module stops at a NUL byte, which is in no text of Asterisk's
    text = raw.decode("utf-8", "backslashreplace").replace("\0", r"\x00")
    row: list[str] = []
    try:
        rows = list(csv.reader(io.StringIO(text, newline="")))
        row = rows[0] if rows else []
        if len(rows) > 1:
            raise ValueError("a quote in it is not closed")
        return Record.from_csv(row, zone)
    except (ValueError, csv.Error) as error:
        return Malformed(str(error), row[_DISPOSITION] if len(row) > _DISPOSITION else "")
