"""CDR records in PostgreSQL, counted exactly once each.

Commit order is not id order: with several writers a row with a lower id can appear later. So a
row is read only once its transaction is settled, that is when every transaction that began before
it has ended (``transaction_id < pg_snapshot_xmin(pg_current_snapshot())``), and the cursor is the
pair (transaction_id, id). A transaction that writes and stays open, anywhere in that PostgreSQL
cluster, therefore delays the counting and shows as lag; nothing is lost.

For the same reason a call is decided only when no transaction is open any more that began before
its records had settled. When that is so is found with a transaction id that is taken beside the
database's clock: once all lower ids have ended, everything written until then can be seen.
(``pg_snapshot_xmax`` would not do: it is above the last id that has ended, not above those that
are open.)

The table has a partition a month, and a poll leaves old ones alone: ``cdr_settled`` says that all
records that began before a time were written below a transaction; who has read those finds nothing
new there. A record that comes late takes that word back in its own transaction, so whatever is
below ``pg_snapshot_xmin`` is in the word that is read with it.

Records move when their month gets its partition. PostgreSQL chooses the partitions of a query first
and may wait then until that move is committed; with a snapshot of afterwards, as READ COMMITTED
takes, the query would see such records neither in the default, which they have left, nor in their
month, which it does not know. REPEATABLE READ keeps the snapshot of before that choice.

A database that was restored goes on: its records keep their transaction ids, and those of the new
cluster are shifted above them (``cdr_transaction``, migration 0005). So the cursor finds its place
again, in the restored records as well as behind them.

On its very first start, and when the cursor belongs to another database (moved by hand, reset:
transaction ids begin anew there), reading begins "now", which the log says. Rows that were
imported (``imported_at``) are history that other programs count; they are never read.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Callable, cast

import psycopg2
import psycopg2.extras
from prometheus_client.core import Metric

from asterisk_exporter.journal.cdr import NAME, CdrCounter, parse
from asterisk_exporter.journal.runner import SourceError
from asterisk_exporter.journal.store import JournalStore

BATCH_ROWS = 1000

log = logging.getLogger(__name__)

_IDENTITY = """
SELECT (SELECT system_identifier FROM pg_control_system())::text AS system,
       (SELECT oid FROM pg_database WHERE datname = current_database())::text AS database,
       cdr_transaction(pg_snapshot_xmin(pg_current_snapshot()))::text AS xmin,
       cdr_transaction(pg_snapshot_xmax(pg_current_snapshot()))::text AS xmax,
       (SELECT begins FROM cdr_here)
"""
# Rows of a transaction that has not begun yet were restored from another cluster: never ours.
_RESTORED = """
SELECT coalesce(max(id), 0) AS floor FROM cdr
WHERE system_name = %(system)s
  AND transaction_id >= cdr_transaction(pg_snapshot_xmax(pg_current_snapshot()))
  AND imported_at IS NULL
"""
_KNOWN = """
SELECT EXISTS (SELECT FROM cdr_cluster WHERE system = %(system)s AND database = %(database)s::oid)
       AS is_known
"""
_CLOCK = """
SELECT extract(epoch FROM now())::float8 AS clock, cdr_transaction(pg_current_xact_id())::text
"""
_HORIZON = """
SELECT extract(epoch FROM now())::float8 AS clock,
       cdr_transaction(pg_snapshot_xmin(pg_current_snapshot()))::text,
       coalesce((SELECT before FROM cdr_settled WHERE transaction_id <= %(read_below)s::xid8),
                '-infinity')::text AS begun_since
"""
_OURS = """
system_name = %(system)s AND (transaction_id, id) > (%(transaction_id)s::xid8, %(id)s)
  AND id > %(floor)s AND imported_at IS NULL AND start >= %(begun_since)s
"""
# cdr.transaction_id: the bare name in ORDER BY would mean the text in the select list.
_BATCH = f"""
SELECT transaction_id::text, id, accountcode, src, dst, dcontext, clid, channel, dstchannel,
       lastapp, lastdata, extract(epoch FROM start)::float8 AS start,
       extract(epoch FROM answer)::float8 AS answer, extract(epoch FROM "end")::float8 AS "end",
       duration, billsec, disposition, amaflags, uniqueid, userfield, peeraccount, linkedid,
       sequence
FROM cdr
WHERE {_OURS} AND transaction_id < %(horizon)s::xid8
ORDER BY cdr.transaction_id, cdr.id
LIMIT %(rows)s
"""  # noqa: S608 - no value in it
_AGE = """
SELECT extract(epoch FROM now() - max(coalesce("end", start)))::float8
FROM (
    SELECT "end", start FROM cdr WHERE system_name = %s AND imported_at IS NULL AND start >= %s
    ORDER BY transaction_id DESC, id DESC LIMIT 100
) AS newest
"""
_SETTLED = "SELECT before::text FROM cdr_settled"
_UNREAD = f"""
SELECT extract(epoch FROM now() - min(coalesce("end", start)))::float8 FROM cdr WHERE {_OURS}
"""  # noqa: S608 - no value in it


@dataclass(frozen=True)
class Database:
    """Where the CDR table is. The password is never shown."""

    host: str
    port: int
    name: str
    username: str
    password: str | None = field(default=None, repr=False)
    sslmode: str = "prefer"
    sslrootcert: str | None = None

    def __str__(self) -> str:
        """Name the database without the password."""
        return f"PostgreSQL database {self.name} at {self.host}:{self.port} as {self.username}"

    @property
    def login(self) -> dict[str, Any]:
        """What psycopg2.connect() needs to get there, the password included."""
        return {
            "host": self.host,
            "port": self.port,
            "dbname": self.name,
            "user": self.username,
            "password": self.password,
            "sslmode": self.sslmode,
            "sslrootcert": self.sslrootcert,
        }

    def connect(self, timeout_seconds: int = 3) -> Any:
        """Return a read-only psycopg2 connection in autocommit mode. Raises psycopg2.Error."""
        connection = psycopg2.connect(
            **self.login,
            application_name="asterisk-exporter",
            connect_timeout=timeout_seconds,
            tcp_user_timeout=5000,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            options="-c statement_timeout=5000 -c default_transaction_read_only=on"
            " -c default_transaction_isolation=repeatable\\ read",
        )
        connection.autocommit = True
        return connection

    def source(
        self, store: JournalStore, system_name: str, counter: CdrCounter
    ) -> PostgresqlSource:
        """Return what reads the table."""
        return PostgresqlSource(store, self, system_name, counter)

    def newest_record_age(self, system_name: str, timeout_seconds: float) -> float | None:
        """Return the age in seconds of the newest record, None without any. Raises SourceError."""
        with self.asking(max(2, int(timeout_seconds))) as ask:
            [(before,)] = ask(_SETTLED)
            # most PBXs have had a call since then, and old months need not be looked at
            for since in (before, "-infinity"):
                [(age,)] = ask(_AGE, (system_name, since))
                if age is not None:
                    break
        return cast("float | None", age)

    def ask(
        self, query: str, parameters: tuple[Any, ...] = (), timeout_seconds: int = 3
    ) -> list[tuple[Any, ...]]:
        """Return the rows of one query, over a connection of its own. Raises SourceError."""
        with self.asking(timeout_seconds) as ask:
            return ask(query, parameters)

    @contextmanager
    def asking(self, timeout_seconds: int) -> Iterator[Callable[..., list[tuple[Any, ...]]]]:
        """Give what returns the rows of a query and its parameters. Raises SourceError."""
        try:
            with closing(self.connect(timeout_seconds)) as connection:

                def ask(query: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
                    with connection.cursor() as cursor:
                        cursor.execute(query, parameters)
                        return list(cursor.fetchall())

                yield ask
        except psycopg2.Error as error:
            raise SourceError(explain(error)) from None


@dataclass(frozen=True)
class Position:
    """The last record read, and the database whose transaction ids it means.

    ``floor`` is the highest id of records that came with a restore; they are not read.
    """

    system: str
    database: str
    transaction_id: int
    id: int = 0
    floor: int = 0
    last_record: float = 0.0

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Position:
        """Return the position that ``vars()`` of one gave."""
        return cls(**value)


def explain(error: BaseException) -> str:
    """Return PostgreSQL's own first line, without a traceback or a statement."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class PostgresqlSource:
    """Reads one system's records in batches."""

    name = NAME

    def __init__(
        self,
        store: JournalStore,
        database: Database,
        system_name: str,
        counter: CdrCounter,
        batch_rows: int = BATCH_ROWS,
    ) -> None:
        self._store = store
        self._database = database
        self._system_name = system_name
        self._counter = counter
        self._batch_rows = batch_rows
        self._connection: Any = None
        self._pending: tuple[float, int] | None = None
        self._read_below = 0
        self._begun_since = "-infinity"
        self._watermark = 0.0
        saved = store.position(NAME)
        self.position = None if saved is None else Position.from_json(saved)

    def __str__(self) -> str:
        """Name the database without the password."""
        return str(self._database)

    @property
    def last_record(self) -> float:
        """Unix time of the newest record read; 0 before the first."""
        return 0.0 if self.position is None else self.position.last_record

    def open(self) -> None:
        """Connect. Raises SourceError."""
        try:
            self._connection = self._database.connect()
        except psycopg2.Error as error:
            raise SourceError(explain(error)) from None
        self._pending = None
        self._read_below = 0

    def close(self) -> None:
        """Disconnect."""
        if self._connection is not None:
            try:
                self._connection.close()
            except psycopg2.Error:
                log.debug("closing the database connection failed")
            self._connection = None

    def begin(self, backfill: bool) -> None:
        """Begin now or at the first record, or make sure that the cursor belongs to this database.

        Raises SourceError.
        """
        self._counter.load()
        (row,) = self._ask(_IDENTITY)
        system, database, xmin, xmax, begins = row.values()
        old = self.position
        if old is not None and begins and (old.system, old.database) != (system, database):
            self._go_on(old, system, database, begins)
        elif old is None or not _belongs(old, system, database, int(xmax)):
            begin = 0 if backfill else int(xmin)
            (restored,) = self._ask(_RESTORED, system=self._system_name)
            floor = restored["floor"]
            self._apply(Position(system, database, begin, 0, floor, self.last_record), [])
            if old is None:
                log.info("%s: first start, counting begins %s", NAME, _when(backfill))

    def _go_on(self, old: Position, system: str, database: str, begins: int) -> None:
        """Take up the cursor in a restored database, whose new ids are above ``begins``.

        A cursor of a cluster that it never was in has seen more than the backup: of what was
        restored nothing is missing.
        """
        (row,) = self._ask(_KNOWN, system=old.system, database=old.database)
        transaction_id, row_id = (old.transaction_id, old.id) if row["is_known"] else (begins, 0)
        log.warning("%s: the database was restored; counting goes on where it was", NAME)
        here = replace(old, system=system, database=database)
        self._apply(replace(here, transaction_id=transaction_id, id=row_id), [])

    def read(self) -> bool:
        """Count the next settled records and move the cursor. Raises SourceError."""
        at = self._begun()
        if self._pending is None and self._counter.waits():
            (row,) = self._ask(_CLOCK)
            clock, transaction_id = row.values()
            self._pending = clock, int(transaction_id)
        read_below = max(at.transaction_id, self._read_below)
        (row,) = self._ask(_HORIZON, read_below=str(read_below))
        now, horizon, self._begun_since = row.values()
        rows = self._ask(_BATCH, **self._where(at), horizon=horizon, rows=self._batch_rows)
        full = len(rows) == self._batch_rows
        for row in rows:
            place = {"transaction_id": int(row.pop("transaction_id")), "id": row.pop("id")}
            ended = row["end"] or row["start"]
            at = replace(at, **place, last_record=max(at.last_record, ended or 0.0))
        # rows are read in the order of their transactions, so whatever ended before is behind us
        self._watermark = max(self._watermark, min(at.last_record, now))
        if not full and self._pending is not None and self._pending[1] <= int(horizon):
            self._watermark = max(self._watermark, self._pending[0])
            self._pending = None
        self._apply(at, rows, read_at=self._watermark if full else now)
        if not full:
            self._read_below = int(horizon)
        return full

    def lag_seconds(self) -> float:
        """Return the age of the oldest committed record that is not counted yet, or 0.

        Raises SourceError.
        """
        (row,) = self._ask(_UNREAD, **self._where(self._begun()))
        (age,) = row.values()
        return max(0.0, age or 0.0)

    def describe(self) -> list[Metric]:
        """Return the families without samples."""
        return self._counter.describe()

    def families(self) -> list[Metric]:
        """Return the families with samples."""
        return self._counter.families()

    def _begun(self) -> Position:
        assert self.position is not None  # noqa: S101 - begin() comes first
        return self.position

    def _where(self, at: Position) -> dict[str, Any]:
        return {
            "system": self._system_name,
            "transaction_id": str(at.transaction_id),
            "id": at.id,
            "floor": at.floor,
            "begun_since": self._begun_since,
        }

    def _ask(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        try:
            with self._connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                cursor.execute(sql, values)
                return list(cursor.fetchall())
        except psycopg2.Error as error:
            raise SourceError(explain(error)) from None

    def _apply(self, position: Position, rows: list[dict[str, Any]], read_at: float = 0.0) -> None:
        found = [parse(row) for row in rows]
        self._counter.apply(vars(position), found, read_at, self._watermark)
        self.position = position


def _belongs(position: Position, system: str, database: str, xmax: int) -> bool:
    """Say whether a cursor is of this database, and warn when it is not."""
    if (position.system, position.database) != (system, database):
        why = "it is another database than the cursor belongs to"
    elif position.transaction_id >= xmax:
        why = "its transaction ids have gone back (restored from a backup?)"
    else:
        return True
    log.warning(
        "%s: %s; counting goes on from now, records written in between are not counted", NAME, why
    )
    return False


def _when(backfill: bool) -> str:
    return "with the first record" if backfill else "now"
