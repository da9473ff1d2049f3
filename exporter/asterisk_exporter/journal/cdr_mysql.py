"""CDR records in MySQL or MariaDB, counted exactly once each.

Rows become visible in the order of commits, not of ids. So the next rows are read with LOCK IN
SHARE MODE, which waits for a transaction that has inserted one of them and is still open; a wait
that takes too long means "not yet". An id is allocated a moment before its row is there to wait
for, so a gap in the ids is passed only when it is some seconds old (a row that was rolled back or
deleted leaves it for ever).

Who made the table decides what its columns are called: FreePBX has ``calldate`` for start, and
neither answer nor end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone, tzinfo
from typing import TYPE_CHECKING, Any

from prometheus_client.core import Metric

from asterisk_exporter.journal.cdr import NAME, CdrCounter, Found, parse
from asterisk_exporter.journal.record import CSV_COLUMNS
from asterisk_exporter.journal.runner import SourceError
from asterisk_exporter.journal.store import JournalStore

if TYPE_CHECKING:
    import pymysql

BATCH_ROWS = 1000
LOCK_WAIT_SECONDS = 1
GAP_SECONDS = 3.0
#: A row after a gap that is so old was not written a moment ago.
OLD_SECONDS = 3600
#: ER_LOCK_WAIT_TIMEOUT and ER_LOCK_DEADLOCK of MySQL's error reference.
_NOT_YET = (1205, 1213)
_CLOCK = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) AS DOUBLE) AS clock"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MysqlTable:
    """Where the table is. The password is never shown.

    ``system_column`` says which system wrote a row, None where only one does. DATETIME columns
    are wall clock of ``zone`` (None: of this system).
    """

    host: str
    port: int
    database: str
    username: str
    password: str | None = field(default=None, repr=False)
    table: str = "cdr"
    system_column: str | None = None
    zone: tzinfo | None = None

    def __str__(self) -> str:
        """Name the table without the password."""
        return (
            f"MySQL table {self.database}.{self.table} at {self.host}:{self.port} "
            f"as {self.username}"
        )

    def connect(self, timeout_seconds: int = 3) -> pymysql.Connection[Any]:
        """Return a connection in autocommit mode. Raises SourceError."""
        try:
            import pymysql  # noqa: PLC0415 - an extra that others need not install
        except ImportError:
            raise SourceError(
                "cdr.source is mysql and the Python package PyMySQL is not installed. Install the "
                "extra: pip install 'asterisk-appliance[mysql]'"
            ) from None
        try:
            return pymysql.connect(
                host=self.host,
                port=self.port,
                user=self.username,
                password=self.password or "",
                database=self.database,
                charset="utf8mb4",
                autocommit=True,
                connect_timeout=timeout_seconds,
                read_timeout=timeout_seconds + 2,
                write_timeout=timeout_seconds + 2,
                cursorclass=pymysql.cursors.DictCursor,
                init_command=(
                    "SET SESSION transaction_isolation = 'READ-COMMITTED', "
                    f"innodb_lock_wait_timeout = {LOCK_WAIT_SECONDS}, time_zone = '+00:00'"
                ),
            )
        except (pymysql.err.MySQLError, OSError) as error:
            raise SourceError(explain(error)) from None

    def source(self, store: JournalStore, system_name: str, counter: CdrCounter) -> MysqlSource:
        """Return what reads it."""
        return MysqlSource(store, self, system_name, counter)

    def newest_record_age(self, system_name: str, timeout_seconds: float) -> float | None:
        """Return the age in seconds of the newest record, None without any. Raises SourceError."""
        connection = self.connect(max(2, int(timeout_seconds)))
        try:
            layout = Layout.of(connection, self)
            (now,) = ask(connection, _CLOCK)
            rows = ask(connection, layout.select("ORDER BY {id} DESC LIMIT 1", system_name))
        finally:
            connection.close()
        return now["clock"] - layout.values(rows[0])["end"] if rows else None


@dataclass(frozen=True)
class Column:
    """A column of the table, and the CDR field that it holds."""

    field: str
    name: str
    type: str


@dataclass(frozen=True)
class Layout:
    """What the columns of the table mean."""

    table: MysqlTable
    id: str
    columns: tuple[Column, ...]

    @classmethod
    def of(cls, connection: Any, table: MysqlTable) -> Layout:
        """Look at the table. Raises SourceError with the ALTER TABLE that helps."""
        rows = ask(
            connection,
            "SELECT column_name AS name, data_type AS type, extra AS extra "
            "FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s",
            (table.table,),
        )
        return cls.from_columns(table, rows)

    @classmethod
    def from_columns(cls, table: MysqlTable, rows: Sequence[dict[str, Any]]) -> Layout:
        """Return the layout of columns as information_schema lists them. Raises SourceError."""
        found = {row["name"].lower(): row for row in rows}
        if not found:
            raise SourceError(
                f"{table.username} sees no table {table.table} in the database {table.database}. "
                "Look at cdr.database and cdr.table, and GRANT SELECT on it."
            )
        ids = [row["name"] for row in rows if "auto_increment" in row["extra"].lower()]
        names = {name: name for name in CSV_COLUMNS if name in found}
        if "start" not in names and "calldate" in found:
            names["start"] = "calldate"
        system = (table.system_column or "").lower()
        _check(table, found, names, bool(ids), system)
        columns = [Column(f, found[n]["name"], found[n]["type"].lower()) for f, n in names.items()]
        if system:
            columns.append(Column("system_name", found[system]["name"], "text"))
        return cls(table, ids[0], tuple(columns))

    def select(self, rest: str, system_name: str | None = None) -> str:
        """Return a SELECT of all columns; ``{id}`` in ``rest`` is the id's column.

        With ``system_name``: only its rows, where there are several systems'.
        """
        wanted = [f"{quoted(self.id)} AS id"]
        wanted += [f"{quoted(column.name)} AS {quoted(column.field)}" for column in self.columns]
        where = ""
        if self.table.system_column and system_name is not None:
            name = system_name.replace("\\", "\\\\").replace("'", "''").replace("%", "%%")
            where = f"WHERE {quoted(self.table.system_column)} = '{name}' "
        return (
            f"SELECT {', '.join(wanted)} FROM {quoted(self.table.table)} "  # noqa: S608 - quoted
            + where
            + rest.format(id=quoted(self.id))
        )

    def values(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row as ``Record.from_values`` takes it: times as Unix seconds.

        An end or answer that has no column is computed from the durations.
        """
        values = dict(row)
        for column in self.columns:
            if isinstance(row[column.field], datetime):
                values[column.field] = self._seconds(row[column.field], column.type)
        start, duration = values.get("start"), values.get("duration")
        if "end" not in values:
            values["end"] = None if start is None else start + (duration or 0)
        if "answer" not in values and values.get("billsec") and values["end"] is not None:
            values["answer"] = values["end"] - values["billsec"]
        return values

    def _seconds(self, moment: datetime, column_type: str) -> float:
        # the session's zone is UTC, which TIMESTAMP is converted to and DATETIME is not
        zone = timezone.utc if column_type == "timestamp" else self.table.zone
        return moment.timestamp() if zone is None else moment.replace(tzinfo=zone).timestamp()


class MysqlSource:
    """Reads one system's records in batches."""

    name = NAME

    def __init__(
        self,
        store: JournalStore,
        table: MysqlTable,
        system_name: str,
        counter: CdrCounter,
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        self._table = table
        self._system_name = system_name
        self._counter = counter
        self._batch_rows = batch_rows
        self._connection: Any = None
        self._layout: Layout | None = None
        self._gaps: dict[int, float] = {}
        self._watermark = 0.0
        saved = store.position(NAME)
        self.id: int | None = None if saved is None else saved["id"]
        self.last_record: float = 0.0 if saved is None else saved["last_record"]

    def __str__(self) -> str:
        """Name the table without the password."""
        return str(self._table)

    def open(self) -> None:
        """Connect and look at the table. Raises SourceError."""
        self._connection = self._table.connect()
        self._layout = Layout.of(self._connection, self._table)
        self._gaps = {}

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            try:
                self._connection.close()
            except Exception as error:  # noqa: BLE001 - PyMySQL's, which need not be installed
                log.debug("closing the database connection failed: %s", error)
            self._connection = None

    def begin(self, backfill: bool) -> None:
        """Begin now or at the first row, or make sure that the ids have not gone back.

        Raises SourceError.
        """
        self._counter.load()
        (row,) = self._ask(
            f"SELECT coalesce(max({quoted(self._known.id)}), 0) AS id "  # noqa: S608 - quoted
            f"FROM {quoted(self._table.table)}"
        )
        newest = row["id"]
        if self.id is None:
            self._apply(0 if backfill else newest, [])
            log.info(
                "%s: first start, counting begins %s", NAME, "at the first" if backfill else "now"
            )
        elif self.id > newest:
            log.warning(
                "%s: the newest id is %d, and %d has been read (restored or emptied?); counting "
                "goes on from now, records written in between are not counted",
                NAME,
                newest,
                self.id,
            )
            self._apply(newest, [])

    def read(self) -> bool:
        """Count the next rows and move the cursor. Raises SourceError."""
        at = self._begun()
        (now,) = self._ask(_CLOCK)
        rows = self._next(at)
        if rows is None:
            return False
        settled = self._before_gap(at, rows, now["clock"])
        values = [self._known.values(row) for row in settled]
        ends = [one["end"] for one in values if one["end"]]
        self.last_record = max([self.last_record, *ends])
        full = len(rows) == self._batch_rows
        drained = not full and len(settled) == len(rows)
        reached = now["clock"] if drained else min(self.last_record, now["clock"])
        self._watermark = max(self._watermark, reached)
        ours = [
            one
            for one in values
            if "system_name" not in one or one["system_name"] == self._system_name
        ]
        self._apply(settled[-1]["id"] if settled else at, [parse(one) for one in ours])
        return full and len(settled) == len(rows)

    def lag_seconds(self) -> float:
        """Return the age of the oldest committed record that is not counted yet, or 0.

        Raises SourceError.
        """
        (now,) = self._ask(_CLOCK)
        rest = "{id}"  # the condition depends on whether there is one on the system already
        several = self._table.system_column is not None
        where = f"{'AND' if several else 'WHERE'} {rest} > %s ORDER BY {rest} LIMIT 1"
        rows = self._ask(self._known.select(where, self._system_name), (self._begun(),))
        ends = [self._known.values(row)["end"] for row in rows]
        return max(0.0, now["clock"] - ends[0]) if ends and ends[0] else 0.0

    def describe(self) -> list[Metric]:
        """Return the families without samples."""
        return self._counter.describe()

    def families(self) -> list[Metric]:
        """Return the families with samples."""
        return self._counter.families()

    def _next(self, at: int) -> list[dict[str, Any]] | None:
        """Return the next rows of all systems; None while one of them is not committed."""
        sql = self._known.select("WHERE {id} > %s ORDER BY {id} LIMIT %s LOCK IN SHARE MODE")
        try:
            return ask(self._connection, sql, (at, self._batch_rows))
        except NotYetError:
            return None

    def _before_gap(self, at: int, rows: list[dict[str, Any]], now: float) -> list[dict[str, Any]]:
        """Return the rows before the first gap in the ids that may still be filled."""
        seen_at, gaps = time.monotonic(), {}
        previous, settled = at, len(rows)
        for number, row in enumerate(rows):
            if row["id"] > previous + 1:
                since = gaps[previous] = self._gaps.get(previous, seen_at)
                ended = self._known.values(row)["end"]
                is_old = ended is not None and ended < now - OLD_SECONDS
                if not is_old and seen_at - since < GAP_SECONDS:
                    settled = min(settled, number)
            previous = row["id"]
        self._gaps = gaps
        return rows[:settled]

    @property
    def _known(self) -> Layout:
        assert self._layout is not None  # noqa: S101 - open() comes first
        return self._layout

    def _begun(self) -> int:
        assert self.id is not None  # noqa: S101 - begin() comes first
        return self.id

    def _ask(self, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
        return ask(self._connection, sql, values)

    def _apply(self, to: int, found: list[Found]) -> None:
        position = {"id": to, "last_record": self.last_record}
        self._counter.apply(position, found, self._watermark, self._watermark)
        self.id = to


class NotYetError(SourceError):
    """A row is there and not committed."""


def ask(connection: Any, sql: str, values: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """Return the rows of a SELECT. Raises SourceError, NotYetError."""
    import pymysql  # noqa: PLC0415 - there is a connection, so it is installed

    try:
        with connection.cursor() as cursor:
            cursor.execute(sql, tuple(values))
            return list(cursor.fetchall())
    except (pymysql.err.MySQLError, OSError) as error:
        if error.args and error.args[0] in _NOT_YET:
            raise NotYetError(explain(error)) from None
        raise SourceError(explain(error)) from None


def explain(error: BaseException) -> str:
    """Return the server's own text, without a traceback or a statement."""
    return str(error.args[-1]) if error.args else type(error).__name__


def quoted(name: str) -> str:
    """Return a column's or table's name as SQL has it, also for PyMySQL's %."""
    return "`" + name.replace("`", "``").replace("%", "%%") + "`"


def _check(
    table: MysqlTable, found: dict[str, Any], names: dict[str, str], has_id: bool, system: str
) -> None:
    alter = f"ALTER TABLE {table.table} ADD COLUMN"
    helps = []
    if not has_id:
        helps.append(f"{alter} id BIGINT NOT NULL AUTO_INCREMENT, ADD UNIQUE KEY (id);")
    missing = [name for name in ("uniqueid", "linkedid") if name not in names]
    helps += [f"{alter} {name} VARCHAR(150) NOT NULL DEFAULT '';" for name in missing]
    if helps:
        raise SourceError(
            f"{table.table} lacks columns without which records cannot be told apart or put "
            f"together to calls. Run: {' '.join(helps)} and reload the CDR module of Asterisk."
        )
    for name in ("start", "disposition", "duration"):
        if name not in names:
            raise SourceError(f"{table.table} has no column {name}. Look at cdr.table.")
    if system and system not in found:
        raise SourceError(f"{table.table} has no column {system}. Look at cdr.system_column.")
