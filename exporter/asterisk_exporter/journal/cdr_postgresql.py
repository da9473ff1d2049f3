"""CDR records in PostgreSQL, counted exactly once each.

Commit order is not id order: with several writers a row with a lower id can appear later. So a
row is read only once its transaction is settled, that is when every transaction that began before
it has ended (``transaction_id < pg_snapshot_xmin(pg_current_snapshot())``), and the cursor is the
pair (transaction_id, id). A transaction that writes and stays open, anywhere in that PostgreSQL
cluster, therefore delays the counting and shows as lag; nothing is lost.

On its very first start, and when the cursor belongs to another database (restored, moved, reset:
transaction ids begin anew there), reading begins "now", which the log says.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any, Callable

import psycopg2
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from asterisk_exporter.collectors.base import Family
from asterisk_exporter.journal.store import Change, JournalStore, JournalStoreError

SOURCE = "cdr"
RECORDS = "asterisk_cdr_records"
READ = "asterisk_exporter_journal_records"
MALFORMED = "asterisk_exporter_journal_malformed"
BATCH_ROWS = 1000
#: ast_cdr_disp2str() of Asterisk's main/cdr.c; CANCEL appears from newer versions.
DISPOSITIONS = ("ANSWERED", "NO ANSWER", "BUSY", "FAILED", "CONGESTION", "CANCEL")
OTHER = "OTHER"
#: Series of dispositions we have never heard of; any further one is counted as OTHER.
MOST_DISPOSITIONS = 16
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 15.0

log = logging.getLogger(__name__)

_IDENTITY = """
SELECT (SELECT system_identifier FROM pg_control_system())::text,
       (SELECT oid FROM pg_database WHERE datname = current_database())::text,
       pg_snapshot_xmin(pg_current_snapshot())::text,
       pg_snapshot_xmax(pg_current_snapshot())::text
"""
# Rows of a transaction that has not begun yet were restored from another cluster: never ours.
_RESTORED = """
SELECT coalesce(max(id), 0) FROM cdr
WHERE system_name = %s AND transaction_id >= pg_snapshot_xmax(pg_current_snapshot())
"""
# cdr.transaction_id: the bare name in ORDER BY would mean the text in the select list.
_BATCH = """
SELECT transaction_id::text, id, disposition, extract(epoch FROM coalesce("end", start))::float8
FROM cdr
WHERE system_name = %s AND (transaction_id, id) > (%s::xid8, %s) AND id > %s
  AND transaction_id < pg_snapshot_xmin(pg_current_snapshot())
ORDER BY cdr.transaction_id, cdr.id
LIMIT %s
"""
_UNREAD = """
SELECT extract(epoch FROM now() - min(coalesce("end", start)))::float8
FROM cdr
WHERE system_name = %s AND (transaction_id, id) > (%s::xid8, %s) AND id > %s
"""


@dataclass(frozen=True)
class Database:
    """Where the CDR table is. The password is never shown."""

    host: str
    port: int
    name: str
    username: str
    password: str | None = field(default=None, repr=False)
    sslmode: str = "prefer"

    def __str__(self) -> str:
        """Name the database without the password."""
        return f"PostgreSQL database {self.name} at {self.host}:{self.port} as {self.username}"

    def connect(self, timeout_seconds: int = 3) -> Any:
        """Return a read-only psycopg2 connection in autocommit mode. Raises psycopg2.Error."""
        connection = psycopg2.connect(
            host=self.host,
            port=self.port,
            dbname=self.name,
            user=self.username,
            password=self.password,
            sslmode=self.sslmode,
            application_name="asterisk-exporter",
            connect_timeout=timeout_seconds,
            tcp_user_timeout=5000,
            keepalives_idle=5,
            keepalives_interval=2,
            keepalives_count=3,
            options="-c statement_timeout=5000 -c default_transaction_read_only=on",
        )
        connection.autocommit = True
        return connection


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


class CdrReader:
    """Reads one system's records in batches. No thread and no clock of its own."""

    def __init__(self, store: JournalStore, system_name: str, batch_rows: int = BATCH_ROWS) -> None:
        self._store = store
        self._system_name = system_name
        self._batch_rows = batch_rows
        saved = store.position(SOURCE)
        self.position = None if saved is None else Position.from_json(saved)

    def anchor(self, connection: Any) -> None:
        """Begin now, or make sure that the cursor belongs to this database. Once a connection."""
        with connection.cursor() as cursor:
            cursor.execute(_IDENTITY)
            system, database, xmin, xmax = cursor.fetchone()
            here = Position(system, database, int(xmin))
            old = self.position
            if old is not None:
                if (old.system, old.database) == (system, database):
                    if old.transaction_id < int(xmax):
                        return
                    why = "its transaction ids have gone back (restored from a backup?)"
                else:
                    why = "it is another database than the cursor belongs to"
                log.warning(
                    "CDR: %s; counting goes on from now, records written in between are not "
                    "counted",
                    why,
                )
            else:
                log.info("CDR: first start, counting begins now")
            cursor.execute(_RESTORED, (self._system_name,))
            floor = cursor.fetchone()[0]
        last_record = 0.0 if old is None else old.last_record
        self._apply(replace(here, floor=floor, last_record=last_record), [])

    def read_batch(self, connection: Any) -> int:
        """Count the next settled records and move the cursor; returns how many there were."""
        at = self.position
        assert at is not None  # noqa: S101 - anchor() comes first
        with connection.cursor() as cursor:
            cursor.execute(
                _BATCH,
                (self._system_name, str(at.transaction_id), at.id, at.floor, self._batch_rows),
            )
            rows = cursor.fetchall()
        if rows:
            transaction_id, last_id, _, _ = rows[-1]
            newest = max([at.last_record, *(ended for *_, ended in rows if ended is not None)])
            moved = replace(at, transaction_id=int(transaction_id), id=last_id, last_record=newest)
            self._apply(moved, [disposition for _, _, disposition, _ in rows])
        return len(rows)

    def unread_seconds(self, connection: Any) -> float:
        """Return the age of the oldest committed record that is not counted yet, or 0."""
        at = self.position
        assert at is not None  # noqa: S101 - anchor() comes first
        with connection.cursor() as cursor:
            cursor.execute(_UNREAD, (self._system_name, str(at.transaction_id), at.id, at.floor))
            return max(0.0, cursor.fetchone()[0] or 0.0)

    def _apply(self, position: Position, dispositions: list[str | None]) -> None:
        change = Change(SOURCE, vars(position))
        for known in DISPOSITIONS:
            change.count(RECORDS, known, by=0)
        change.count(MALFORMED, SOURCE, by=sum(not disposition for disposition in dispositions))
        change.count(READ, SOURCE, by=len(dispositions))
        series = {labels[0] for labels in self._store.values(RECORDS)} | set(DISPOSITIONS)
        for disposition in dispositions:
            name = (disposition or OTHER)[:40]
            if name not in series and len(series) >= MOST_DISPOSITIONS:
                name = OTHER
            series.add(name)
            change.count(RECORDS, name)
        self._store.apply(change)
        self.position = position


class CdrJournal:
    """The background thread that polls, and the metrics that show what it knows.

    The database may be down or hang for any time: only this thread waits for it.
    """

    name = "cdr"

    def __init__(
        self, store: JournalStore, database: Database, system_name: str, poll_seconds: float
    ) -> None:
        self._store = store
        self._database = database
        self._reader = CdrReader(store, system_name)
        self._poll_seconds = poll_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cdr", daemon=True)
        self._state = threading.Lock()
        self._ok: bool | None = None
        self._ok_at = time.monotonic()
        self._unread_seconds = 0.0
        self._duration = 0.0

    def start(self) -> None:
        """Start polling."""
        self._thread.start()

    def stop(self, timeout: float = 0.5) -> None:
        """Ask the thread to end and wait a moment; a hanging database does not keep us."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        connection = None
        failures = 0
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                if connection is None:
                    connection = self._database.connect()
                    self._reader.anchor(connection)
                self._poll(connection)
            except (psycopg2.Error, JournalStoreError) as error:
                self._failed(error, time.monotonic() - began)
                _close(connection)
                connection = None
                failures = min(failures + 1, 8)
                wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2 ** (failures - 1))
                self._stop.wait(wait * random.uniform(0.75, 1.0))  # noqa: S311 - jitter
            else:
                failures = 0
                self._succeeded(time.monotonic() - began)
                self._stop.wait(self._poll_seconds)
        _close(connection)

    def _poll(self, connection: Any) -> None:
        while not self._stop.is_set() and self._reader.read_batch(connection) == BATCH_ROWS:
            pass
        unread = self._reader.unread_seconds(connection)
        with self._state:
            self._unread_seconds = unread

    def _succeeded(self, duration: float) -> None:
        with self._state:
            was, self._ok = self._ok, True
            self._ok_at, self._duration = time.monotonic(), duration
        if not was:
            log.info("CDR: reading from %s", self._database)

    def _failed(self, error: BaseException, duration: float) -> None:
        with self._state:
            was, self._ok, self._duration = self._ok, False, duration
        if was is not False:
            log.error("CDR: lost %s: %s", self._database, explain(error))

    def describe(self) -> list[Family]:
        """Return the families without samples."""
        return [
            CounterMetricFamily(
                RECORDS, "CDR records by disposition (not calls).", labels=["disposition"]
            ),
            CounterMetricFamily(READ, "Journal records read.", labels=["source"]),
            CounterMetricFamily(
                MALFORMED, "Journal records that lack what they must have.", labels=["source"]
            ),
            GaugeMetricFamily(
                "asterisk_exporter_journal_last_record_timestamp_seconds",
                "End of the newest record read, Unix time; 0 before the first.",
                labels=["source"],
            ),
            GaugeMetricFamily(
                "asterisk_exporter_journal_lag_seconds",
                "Age of the oldest written record that is not counted yet, 0 when there is none; "
                "while the source does not answer, the time since it last did.",
                labels=["source"],
            ),
        ]

    def collect(self) -> tuple[bool, float, list[Family]]:
        """Return success, the last poll's duration in seconds, and the families with samples."""
        *counters, last, lag = families = self.describe()
        for family in counters:
            for labels, value in sorted(self._store.values(family.name).items()):
                family.add_metric(labels, value)
        position = self._reader.position
        if position is not None:
            last.add_metric([SOURCE], position.last_record)
        with self._state:
            silent = time.monotonic() - self._ok_at
            # a hanging database is neither ok nor failed: it is late
            ok = bool(self._ok) and silent < 3 * self._poll_seconds + 5
            lag.add_metric([SOURCE], self._unread_seconds if ok else silent)
            return ok, self._duration, families


def _close(connection: Any) -> None:
    if connection is not None:
        try:
            connection.close()
        except psycopg2.Error:
            log.debug("closing the database connection failed")


def latest_record_age(
    database: Database, system_name: str, deadline_seconds: float
) -> float | None:
    """Return the age in seconds of the newest record of ``system_name``, or None without any.

    Runs in a thread of its own, since libpq may hang longer than any timeout it takes (a stopped
    server, a name server). Raises TimeoutError or psycopg2.Error.
    """
    result: list[Callable[[], float | None]] = []

    def ask() -> None:
        try:
            connection = database.connect(timeout_seconds=max(2, int(deadline_seconds)))
            try:
                with connection.cursor() as cursor:
                    cursor.execute(
                        'SELECT extract(epoch FROM now() - max(coalesce("end", start)))::float8 '
                        'FROM (SELECT "end", start FROM cdr WHERE system_name = %s '
                        "ORDER BY transaction_id DESC, id DESC LIMIT 100) AS newest",
                        (system_name,),
                    )
                    age = cursor.fetchone()[0]
            finally:
                connection.close()
        except psycopg2.Error as error:
            raised = error

            def fail() -> float | None:
                raise raised

            result.append(fail)
        else:
            result.append(lambda: age)

    thread = threading.Thread(target=ask, name="cdr-age", daemon=True)
    thread.start()
    thread.join(deadline_seconds)
    if not result:
        raise TimeoutError(f"no answer within {deadline_seconds:.1f} s")
    return result[0]()
