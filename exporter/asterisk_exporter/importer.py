"""Call records of the past into the PostgreSQL table ``cdr``: from Master.csv or another database.

A record that is there already is skipped, so an import can be run again and overlap with what
Asterisk writes. A record is known again by the unique index (system_name, uniqueid, sequence,
start). Batches are one transaction each: an end at any instant leaves whole batches, and a second
run adds the rest. A record that cannot be read is reported and skipped; nothing of it is written.

The rows carry ``imported_at``, and the exporter does not count them: they happened in the past.
"""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Callable
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import psycopg2
from psycopg2 import errors

from asterisk_exporter.foreign_cdr import ImportFailedError, Source, open_source
from asterisk_exporter.journal.cdr_postgresql import Database, explain
from asterisk_exporter.journal.record import CSV_COLUMNS as COLUMNS

START, ANSWER, END, DURATION, BILLSEC = range(9, 14)
UNIQUEID, LINKEDID, SEQUENCE = (
    COLUMNS.index(name) for name in ("uniqueid", "linkedid", "sequence")
)
#: What COPY's text format writes otherwise.
_ESCAPED = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
NULL = r"\N"
#: Stands for a NUL byte, at which Python's csv module stopped before 3.11. No file has it: bytes
#: that are not UTF-8 become U+DC80 and higher.
NUL = "\udc00"
BATCH_ROWS = 20_000
COPY_BYTES = 1 << 18
FIRST_ERRORS = 10
LARGEST_INTEGER = 2**31 - 1
LARGEST_BIGINT = 2**63 - 1
#: AST_MAX_UNIQUEID of Asterisk's channel.h. A long one would not fit into an index.
LONGEST_UNIQUEID = 150
#: PostgreSQL cuts an application name, which live records are named by, after so many bytes.
LONGEST_SYSTEM_NAME = 63
LONGEST_FIELD = 1_000_000
CONNECT_SECONDS = 10

#: What a file with fewer columns lacks, and the setting of cdr.conf that writes it.
_LACKING = {
    16: "uniqueid (loguniqueid), userfield (loguserfield), peeraccount, linkedid, sequence "
    "(newcdrcolumns)",
    17: "uniqueid (loguniqueid) or userfield (loguserfield), and peeraccount, linkedid, sequence "
    "(newcdrcolumns)",
    18: "peeraccount, linkedid, sequence (newcdrcolumns)",
    19: "uniqueid (loguniqueid), userfield (loguserfield)",
    20: "uniqueid (loguniqueid) or userfield (loguserfield)",
}

# Texts first, as a record has them; then times that may be NULL, which a text never is.
_QUOTED = ", ".join(
    f'"{name}"'
    for name in (
        *("system_name", *(name for name in COLUMNS if name not in {"answer", "end"})),
        *("answer", "end", "imported_at"),
    )
)
_STAGING = f"""
CREATE TEMPORARY TABLE arriving ON COMMIT DELETE ROWS AS SELECT {_QUOTED} FROM cdr WITH NO DATA
"""  # noqa: S608 - our own column names
_COPY = f"COPY {{table}} ({_QUOTED}) FROM STDIN"
_INSERT = f"""
INSERT INTO cdr ({_QUOTED}) SELECT {_QUOTED} FROM arriving
ON CONFLICT (system_name, uniqueid, sequence, start) DO NOTHING
"""  # noqa: S608 - our own column names


class BadRowError(Exception):
    """A record that cannot be imported; the message names the column, the value, the expected."""


@dataclass(frozen=True)
class RowError:
    """Where a record is (``line 7``, ``id 42``) and what is wrong with it."""

    where: str
    text: str

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.where}: {self.text}"


@dataclass
class Result:
    """Records so far: imported, skipped because they are there already, and in error."""

    imported: int = 0
    skipped: int = 0
    errors: int = 0
    first_errors: list[RowError] = field(default_factory=list)

    def failed(self, error: RowError) -> None:
        """Count an error and keep the first ones."""
        self.errors += 1
        if len(self.first_errors) < FIRST_ERRORS:
            self.first_errors.append(error)


#: Told after each batch: how much of the source is read, and of how much (bytes of a file; records
#: of a database, whose number is not known).
Progress = Callable[[int, "int | None"], None]
#: The texts of a record in the order of COLUMNS.
Row = list[str]


@dataclass
class Batch:
    """Records that go into the table in one transaction, and where each comes from.

    ``lines`` are as COPY reads them.
    """

    lines: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    errors: list[RowError] = field(default_factory=list)
    done: int = 0


def import_csv(  # noqa: PLR0913 - each is a choice of the caller's
    path: Path,
    target: Database,
    system_name: str,
    *,
    zone: str = "UTC",
    progress: Progress | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Result:
    """Import a Master.csv (or Master.csv.1.gz); its times are in ``zone``.

    Raises ImportFailedError.
    """
    check_system_name(system_name)
    known_zone(zone)
    try:
        with path.open("rb") as raw:
            size = os.fstat(raw.fileno()).st_size if raw.seekable() else None
            batches = _csv_batches(raw, path, system_name, batch_rows)
            return _run(target, batches, zone, size, progress)
    except OSError as error:
        raise ImportFailedError(
            f"cannot read {path}: {error.strerror or error}. Expected a Master.csv that this user "
            "may read."
        ) from None
    except (EOFError, zlib.error):
        raise ImportFailedError(f"{path} is cut short or damaged: expected a gzip file.") from None


def import_database(  # noqa: PLR0913 - each is a choice of the caller's
    source: str,
    target: Database,
    system_name: str,
    *,
    zone: str = "UTC",
    override_system_name: bool = False,
    since: datetime | None = None,
    progress: Progress | None = None,
    batch_rows: int = BATCH_ROWS,
) -> Result:
    """Import the table ``cdr`` of another database, ``postgresql://…`` or ``mysql://…``.

    Times without a zone are in ``zone``. Records that carry a system_name keep it, unless
    ``override_system_name``; all others get ``system_name``. ``since`` leaves out what began
    earlier. Raises ImportFailedError, which never shows the password.
    """
    check_system_name(system_name)
    naming = _Naming(system_name, override_system_name, known_zone(zone))
    with closing(open_source(source)) as opened:
        batches = _sql_batches(opened, naming, since, batch_rows)
        return _run(target, batches, "UTC", None, progress)


def check_system_name(name: str) -> None:
    """Raise ImportFailedError unless Asterisk could have written records under this name."""
    if not name or not name.isprintable() or len(name.encode()) > LONGEST_SYSTEM_NAME:
        raise ImportFailedError(
            f"system name {name!r}: expected the systemname of asterisk.conf, 1 to "
            f"{LONGEST_SYSTEM_NAME} bytes"
        )


def known_zone(name: str) -> ZoneInfo:
    """Return the time zone. Raises ImportFailedError for a name that is none."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ImportFailedError(
            f"time zone {name!r}: expected a zone of the IANA database such as UTC or "
            "Europe/Berlin (is the package tzdata installed?)"
        ) from None


# --- into the table ------------------------------------------------------------------------------


def connect(target: Database, zone: str) -> Any:
    """Return a connection that may add records; times without a zone are in ``zone``.

    Raises ImportFailedError.
    """
    try:
        connection = psycopg2.connect(
            **target.login,
            application_name="asterisk-exporter cdr import",
            connect_timeout=CONNECT_SECONDS,
            client_encoding="UTF8",
            options="-c datestyle=ISO",
        )
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('TimeZone', %s, false)", (zone,))
            cursor.execute(_STAGING)
            cursor.execute("SELECT system_name, imported_at FROM cdr LIMIT 0")
        connection.commit()
    except psycopg2.Error as error:
        raise ImportFailedError(
            f"cannot import into {target}: {explain(error)}. Expected the table cdr as the role "
            "cdr_database makes it, and a login that may add to it (importer); look at the "
            "sections cdr and importer of the configuration."
        ) from None
    return connection


def _run(
    target: Database,
    batches: Iterator[Batch],
    zone: str,
    total: int | None,
    progress: Progress | None,
) -> Result:
    """Read one batch while the database takes the one before."""
    result = Result()
    with closing(connect(target, zone)) as connection, ThreadPoolExecutor(1) as worker:
        writer = _Writer(connection, result)
        pending: Future[None] | None = None
        try:
            for batch in batches:
                if pending is not None:
                    pending.result()
                pending = worker.submit(writer.store, batch)
                if progress is not None:
                    progress(batch.done, total)
            if pending is not None:
                pending.result()
        except psycopg2.Error as error:
            raise ImportFailedError(
                f"{target} did not take the records: {explain(error)}. {result.imported} are "
                "imported; run the import again, it skips what is there."
            ) from None
    return result


class _Writer:
    """Puts batches into the table, in one thread.

    COPY straight into the table is fastest and refuses a record that is there already; then the
    batch takes the way through a table of its own, and so do the next ones until one is all new.
    """

    def __init__(self, connection: Any, result: Result) -> None:
        self._connection = connection
        self._result = result
        self._expect_new = True

    def store(self, batch: Batch) -> None:
        """Write one batch and count it. Raises psycopg2.Error."""
        for error in batch.errors:
            self._result.failed(error)
        self._insert(batch.lines, batch.places)

    def _insert(self, lines: Sequence[str], places: Sequence[str]) -> None:
        """Write lines in one transaction; where one is refused, halve until it stands alone."""
        if not lines:
            return
        try:
            imported = self._insert_all(lines)
        except (psycopg2.DataError, psycopg2.IntegrityError, errors.ProgramLimitExceeded) as error:
            if len(lines) == 1:
                self._result.failed(RowError(places[0], f"PostgreSQL refuses it: {explain(error)}"))
                return
            middle = len(lines) // 2
            self._insert(lines[:middle], places[:middle])
            self._insert(lines[middle:], places[middle:])
            return
        self._result.imported += imported
        self._result.skipped += len(lines) - imported
        self._expect_new = imported == len(lines)

    def _insert_all(self, lines: Sequence[str]) -> int:
        """Write lines in one transaction; returns how many were not there yet."""
        data = "".join(lines).encode()
        if self._expect_new:
            try:
                with self._connection, self._connection.cursor() as cursor:
                    cursor.copy_expert(_COPY.format(table="cdr"), io.BytesIO(data), COPY_BYTES)
                    return len(lines)
            except errors.UniqueViolation:
                pass
        with self._connection, self._connection.cursor() as cursor:
            cursor.copy_expert(_COPY.format(table="arriving"), io.BytesIO(data), COPY_BYTES)
            cursor.execute(_INSERT)
            return int(cursor.rowcount)


def _line(system_name: str, row: Row) -> str:
    """Return a record as COPY reads it (its text format). The texts are clean."""
    answer, end = row[ANSWER], row[END]
    texts = [system_name, *row[:ANSWER], *row[DURATION:]]
    line = "\t".join(texts)
    if "\\" in line or "\n" in line or "\r" in line or line.count("\t") != len(texts) - 1:
        line = "\t".join(text.translate(_ESCAPED) for text in texts)
    return f"{line}\t{answer or NULL}\t{end or NULL}\tnow\n"


# --- one record ----------------------------------------------------------------------------------


def check_row(row: Row) -> None:
    """Raise BadRowError unless the 21 texts of a record fit the table's columns."""
    start, answer, end = row[START], row[ANSWER], row[END]
    if not _is_time(start):
        raise BadRowError(_no_time("start", start))
    # empty: never answered, or cut off
    if answer and not _is_time(answer):
        raise BadRowError(_no_time("answer", answer))
    if end and not _is_time(end):
        raise BadRowError(_no_time("end", end))
    if not _is_seconds(row[DURATION]):
        raise BadRowError(_no_number("duration", row[DURATION], LARGEST_INTEGER))
    if not _is_seconds(row[BILLSEC]):
        raise BadRowError(_no_number("billsec", row[BILLSEC], LARGEST_INTEGER))
    _check_number(row[SEQUENCE], "sequence", LARGEST_BIGINT)
    _check_uniqueid(row[UNIQUEID], "uniqueid")
    _check_uniqueid(row[LINKEDID], "linkedid")


def _is_time(text: str) -> bool:
    """Say whether it is a time as Asterisk writes it, and none of ISO 8601's other forms."""
    return _is_clock(text[10:]) and _is_day(text[:10])


# A file has few days, and no more seconds of a day than there are.
@lru_cache(maxsize=1 << 12)
def _is_day(text: str) -> bool:
    if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) is None:
        return False
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=1 << 17)
def _is_clock(text: str) -> bool:
    return re.fullmatch(r" ([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]", text) is not None


def _no_time(column: str, value: str) -> str:
    return f"{column}: {_shown(value)}: expected a time such as 2026-01-31 13:05:59"


@lru_cache(maxsize=1 << 14)
def _is_seconds(text: str) -> bool:
    return _is_number(text, LARGEST_INTEGER)


def _is_number(text: str, largest: int) -> bool:
    # isdigit() alone takes digits of every script
    if not (text.isdigit() and text.isascii()):
        return False
    return len(text) < 10 or (len(text) < 30 and int(text) <= largest)


def _check_number(text: str, column: str, largest: int) -> None:
    if not _is_number(text, largest):
        raise BadRowError(_no_number(column, text, largest))


def _no_number(column: str, value: str, largest: int) -> str:
    return f"{column}: {_shown(value)}: expected a whole number from 0 to {largest}"


def _check_uniqueid(text: str, column: str) -> None:
    if not 0 < len(text) < LONGEST_UNIQUEID:
        raise BadRowError(
            f"{column}: {_shown(text)}: expected what Asterisk calls a channel by, such as "
            f"1767225600.17, of 1 to {LONGEST_UNIQUEID - 1} characters"
        )


def _shown(value: str) -> str:
    return repr(value if len(value) <= 40 else value[:40] + "…")


# --- from Master.csv -----------------------------------------------------------------------------


class _Lines(Iterator[str]):
    """The lines of a file, which a record that cannot be read gives back but for its first."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._again: list[str] = []
        self._record: list[str] = []
        #: Number of the last line read, and of the first line of the current record.
        self.number = 0
        self.first = 1

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._lines)
        if "\0" in line:
            line = line.replace("\0", NUL)
        self.number += 1
        self._record.append(line)
        return line

    def begin(self) -> None:
        """Begin a record."""
        self._record.clear()
        self.first = self.number + 1

    def give_back(self) -> None:
        """Read again from the second line of the record that has failed."""
        back = self._record[1:]
        self._again.extend(reversed(back))
        self.number -= len(back)


def _csv_batches(raw: IO[bytes], path: Path, system_name: str, batch_rows: int) -> Iterator[Batch]:
    unpacked = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
    # A line ends with a line feed and nothing else. Bytes that are not UTF-8 are kept as they are.
    text = io.TextIOWrapper(
        unpacked,
        encoding="utf-8",
        errors="surrogateescape",
        newline="\n",
    )
    previous = csv.field_size_limit(LONGEST_FIELD)
    try:
        lines = _Lines(text)
        begun = False
        while True:
            batch, more = _csv_batch(lines, system_name, batch_rows)
            if not begun:
                _refuse_short_file(path, batch)
            begun = True
            batch.done = raw.tell() if raw.seekable() else 0
            yield batch
            if not more:
                return
    finally:
        csv.field_size_limit(previous)
        text.detach()


def _csv_batch(lines: _Lines, system_name: str, batch_rows: int) -> tuple[Batch, bool]:
    """Return the next records, and whether there may be more."""
    batch = Batch()
    reader = csv.reader(lines, strict=True)
    while len(batch.lines) + len(batch.errors) < batch_rows:
        lines.begin()
        try:
            row = next(reader)
            if row:
                _add_csv_row(batch, row, lines.first, system_name)
        except StopIteration:
            return batch, False
        except csv.Error as error:
            lines.give_back()
            batch.errors.append(RowError(f"line {lines.first}", _no_csv(str(error))))
        except BadRowError as error:
            batch.errors.append(RowError(f"line {lines.first}", str(error)))
    return batch, True


def _add_csv_row(batch: Batch, row: Row, line: int, system_name: str) -> None:
    if len(row) != len(COLUMNS):
        raise BadRowError(_wrong_length(len(row)))
    check_row(row)
    if not _is_clean("".join(row)):
        row = [_clean(text, name) for text, name in zip(row, COLUMNS)]
    batch.lines.append(_line(system_name, row))
    batch.places.append(f"line {line}")


def _is_clean(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def _clean(text: str, column: str) -> str:
    """Return text that PostgreSQL takes. A field that is not UTF-8 is read as ISO 8859-1.

    Every byte is a character there, so the same file always gives the same records.
    """
    if "\0" in text or NUL in text:
        shown = _shown(text.replace(NUL, "\0"))
        raise BadRowError(f"{column}: {shown}: expected text without NUL bytes")
    if _is_clean(text):
        return text
    return text.encode(errors="surrogateescape").decode("iso-8859-1")


def _wrong_length(columns: int) -> str:
    if columns in _LACKING:
        return (
            f"{columns} columns, expected {len(COLUMNS)}: it lacks {_LACKING[columns]}; in "
            "brackets the setting of the section [csv] of cdr.conf that writes them"
        )
    return f"{columns} columns, expected the {len(COLUMNS)} of Asterisk's cdr_csv"


def _no_csv(error: str) -> str:
    """Return what is wrong, from what the csv module says of it."""
    said = {
        "new-line": "it has a carriage return outside of quotes",
        "end of data": "its quotes do not end",
        "expected after": "text follows a closing quote",
        "field larger": "a value is longer than a million characters",
    }
    why = next((text for sign, text in said.items() if sign in error), error)
    return f"expected comma separated, quoted values, but {why}"


def _refuse_short_file(path: Path, first: Batch) -> None:
    """Raise ImportFailedError for a file that was written without the columns we need."""
    if first.lines:
        return
    for error in first.errors:
        if "it lacks" in error.text:
            raise ImportFailedError(
                f"{path}: {error}. Records cannot be told apart, or calls not be put together, "
                "without them, and guessing would count calls wrongly: set loguniqueid = yes, "
                "loguserfield = yes and newcdrcolumns = yes (the role pbx does), and import what "
                "is written from then on."
            )


# --- from a database -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Naming:
    system_name: str
    override: bool
    zone: tzinfo


def _sql_batches(
    source: Source, naming: _Naming, since: datetime | None, batch_rows: int
) -> Iterator[Batch]:
    wanted, begin = _wanted(source.columns)
    if since is not None and not source.knows_zone(begin):
        since = since.astimezone(naming.zone).replace(tzinfo=None)
    elif since is not None:
        since = since.astimezone(timezone.utc)
    zones = {
        name: timezone.utc if source.knows_zone(name) else naming.zone
        for name in wanted
        if name in {"calldate", "start", "answer", "end"}
    }
    batch = Batch()
    number = 0
    for values in source.rows(wanted, begin, since):
        number += 1
        record = dict(zip(wanted, values))
        place = f"id {record['id']}" if "id" in record else f"uniqueid {record['uniqueid']}"
        try:
            batch.lines.append(_line(*row_of(record, zones, naming)))
            batch.places.append(place)
        except BadRowError as error:
            batch.errors.append(RowError(place, str(error)))
        if len(batch.lines) + len(batch.errors) >= batch_rows:
            batch.done = number
            yield batch
            batch = Batch()
    batch.done = number
    yield batch


def _wanted(found: frozenset[str]) -> tuple[list[str], str]:
    """Return the columns to read and the one that tells when a call began."""
    if not found:
        raise ImportFailedError(
            "the source has no table cdr that this login may see: expected Asterisk's, or "
            "FreePBX's (database asteriskcdrdb)."
        )
    begin = "start" if "start" in found else "calldate"
    needed = {begin, "duration", "billsec", "disposition", "uniqueid", "linkedid", "sequence"}
    missing = sorted(needed - found)
    if missing:
        raise ImportFailedError(
            f"the source's table cdr lacks {', '.join(missing)}: expected them, since records "
            "cannot be told apart or be put together to calls without; newer Asterisk writes them "
            "where the table has the columns."
        )
    return sorted(found & {*COLUMNS, begin, "id", "system_name"}), begin


def row_of(
    record: Mapping[str, Any], zones: Mapping[str, tzinfo], naming: _Naming
) -> tuple[str, Row]:
    """Return the system name and the 21 texts of a record of another database, times in UTC.

    ``calldate`` (FreePBX, cdr_mysql) is the start; what is not there is computed from it: the end
    is start + duration, the answer end - billsec. Raises BadRowError.
    """
    values: dict[str, Any] = {name: record.get(name) for name in COLUMNS}
    times = {name: _instant(record.get(name), name, zone) for name, zone in zones.items()}
    start = times.get("start", times.get("calldate"))
    if start is None:
        raise BadRowError("start: NULL: expected the time when the call began")
    duration = _whole(record["duration"], "duration")
    billsec = _whole(record["billsec"], "billsec")
    end, answer = times.get("end"), times.get("answer")
    try:
        if "end" not in times:
            end = start + timedelta(seconds=duration)
        if "answer" not in times and (billsec > 0 or record["disposition"] == "ANSWERED"):
            answer = (end or start + timedelta(seconds=duration)) - timedelta(seconds=billsec)
    except OverflowError:
        raise BadRowError(f"duration: {duration}: expected seconds of a call") from None
    values.update(start=start, answer=answer, end=end)
    row = [_clean(_text(values[name]), name) for name in COLUMNS]
    _check_number(row[SEQUENCE], "sequence", LARGEST_BIGINT)
    _check_uniqueid(row[UNIQUEID], "uniqueid")
    _check_uniqueid(row[LINKEDID], "linkedid")
    own = record.get("system_name")
    name = _clean(own, "system_name") if own and not naming.override else naming.system_name
    return name, row


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat(" ") if isinstance(value, datetime) else str(value)


def _whole(value: Any, column: str) -> int:
    _check_number(_text(value), column, LARGEST_INTEGER)
    return int(value)


def _instant(value: Any, column: str, zone: tzinfo) -> datetime | None:
    """Return the instant, or None for none: NULL, MySQL's zero date, and 1970 for no answer.

    cdr_adaptive_odbc writes 1970 into a PostgreSQL table for a call that nobody answered.
    """
    if value is None or str(value).startswith("0000-00-00"):
        return None
    if not isinstance(value, datetime):
        raise BadRowError(f"{column}: {_shown(str(value))}: expected a date and time")
    if column != "start" and value.year <= 1970:
        return None
    try:
        return (value if value.tzinfo else value.replace(tzinfo=zone)).astimezone(timezone.utc)
    except OverflowError:
        raise BadRowError(f"{column}: {value}: expected a date and time of a call") from None


__all__ = [
    "COLUMNS",
    "ImportFailedError",
    "Result",
    "RowError",
    "import_csv",
    "import_database",
]
