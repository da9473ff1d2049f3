"""The state file: cursors, counters and open calls of the journal readers, changed together.

One SQLite file. What one batch of records does, and the cursor behind it, are one transaction
(WAL, synchronous FULL), so that an end at any instant neither loses nor repeats a record. Readers
of the counters (``/metrics``) look at a copy in memory and never wait for the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: (metric, its label values in order)
Key = tuple[str, tuple[str, ...]]

FILE_NAME = "journal.sqlite"
#: PRAGMA user_version of this layout.
VERSION = 2
_SCHEMA = """
CREATE TABLE IF NOT EXISTS counter (
    name TEXT NOT NULL, labels TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (name, labels)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursor (
    source TEXT NOT NULL PRIMARY KEY, position TEXT NOT NULL
) WITHOUT ROWID;
-- The same figures by day of the PBX's zone, for people who ask for today's.
CREATE TABLE IF NOT EXISTS daily (
    day TEXT NOT NULL, queue TEXT NOT NULL, figure TEXT NOT NULL, value INTEGER NOT NULL,
    PRIMARY KEY (day, queue, figure)
) WITHOUT ROWID;
-- Queue visits that are under way, or ended but their call's records have not all come.
-- outcome: NULL while waiting, 'answered', or the reason why not. ended: NULL while waiting or
-- talking. Times are Unix seconds as in queue_log; at is the line's, so that visits have an order.
CREATE TABLE IF NOT EXISTS visit (
    callid TEXT NOT NULL, queue TEXT NOT NULL, entered INTEGER NOT NULL, caller TEXT NOT NULL,
    outcome TEXT, member TEXT, wait INTEGER, talk INTEGER, ended INTEGER,
    PRIMARY KEY (callid, queue, entered)
) WITHOUT ROWID;
-- Members known from queue_log; since: start of the time that is not counted yet.
CREATE TABLE IF NOT EXISTS presence (
    member TEXT NOT NULL, queue TEXT NOT NULL, state TEXT NOT NULL, since INTEGER NOT NULL,
    PRIMARY KEY (member, queue, state)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS service_level (
    queue TEXT NOT NULL PRIMARY KEY, seconds INTEGER NOT NULL
) WITHOUT ROWID;
-- Call records of calls that are not decided yet.
CREATE TABLE IF NOT EXISTS leg (
    id INTEGER PRIMARY KEY, linkedid TEXT NOT NULL, record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS leg_linkedid ON leg (linkedid);
-- Calls that are decided, so that a record that comes late does not count its call again.
CREATE TABLE IF NOT EXISTS decided (
    linkedid TEXT NOT NULL PRIMARY KEY, at REAL NOT NULL
) WITHOUT ROWID;
-- id: the order in which calls were decided; never used again, though its call is forgotten.
-- number: what callers are compared by (their last digits); NULL when withheld.
CREATE TABLE IF NOT EXISTS missed (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    linkedid TEXT NOT NULL UNIQUE, at REAL NOT NULL, ended REAL NOT NULL,
    caller TEXT NOT NULL, number TEXT, dialled TEXT NOT NULL, destination TEXT NOT NULL,
    reason TEXT NOT NULL, wait INTEGER
);
CREATE INDEX IF NOT EXISTS missed_at ON missed (at);
-- Tells this file from another that was begun in its place, whose ids mean other calls.
CREATE TABLE IF NOT EXISTS identity (id TEXT NOT NULL);
INSERT INTO identity
    SELECT lower(hex(randomblob(16))) WHERE NOT EXISTS (SELECT 1 FROM identity);
-- When somebody last spoke with a number, and who called whom: 'inbound' or 'outbound'.
CREATE TABLE IF NOT EXISTS contact (
    number TEXT NOT NULL PRIMARY KEY, at REAL NOT NULL, direction TEXT NOT NULL
) WITHOUT ROWID;
"""
#: Before and after _SCHEMA: in layout 1, missed calls had no order.
_UPGRADE = (
    """
DROP INDEX IF EXISTS missed_at;
ALTER TABLE missed RENAME TO missed_1;
""",
    """
INSERT INTO missed (linkedid, at, ended, caller, number, dialled, destination, reason, wait)
    SELECT linkedid, at, ended, caller, number, dialled, destination, reason, wait
    FROM missed_1 ORDER BY ended, linkedid;
DROP TABLE missed_1;
""",
)

#: Made once: json.dumps() makes one for each call, in a history's millions.
_as_json = json.JSONEncoder(ensure_ascii=False).encode

log = logging.getLogger(__name__)


class JournalStoreError(Exception):
    """The state file cannot be used; the message says why and what to look at."""


class _UnusableFileError(Exception):
    """The file is not ours to go on with, but can be moved aside."""


@dataclass
class Change:
    """What one batch does: the cursor behind it, how much counters grow, which rows change.

    ``position`` None leaves the source's cursor where it is.
    """

    source: str
    position: Mapping[str, Any] | None
    add: dict[Key, int] = field(default_factory=dict)
    statements: list[tuple[str, Sequence[Sequence[Any]]]] = field(default_factory=list)

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Let a counter grow; by 0 makes it known."""
        key = (name, labels)
        self.add[key] = self.add.get(key, 0) + by

    def run(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each of the rows, in the same transaction, in this order."""
        listed = list(rows)
        if listed:
            self.statements.append((sql, listed))


class JournalStore:
    """The state directory's SQLite file. One process at a time: a second one is refused.

    A file that is damaged, or of a newer version of this program, is moved aside and a new one
    begun: counting then starts anew, which the log says. Its methods may be called by any thread.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._values: dict[str, dict[tuple[str, ...], int]] = {}
        self._guard = threading.Lock()
        self._writing = threading.Lock()
        self._lock_fd: int | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock_fd = os.open(
                directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                self._db = self._open()
            except _UnusableFileError as error:
                _move_aside(self._path, str(error))
                self._db = self._open()
        except BlockingIOError:
            self._unlock()
            raise JournalStoreError(
                f"{directory} is in use by another asterisk-exporter. Expected one process per "
                "state directory. Look at: systemctl status asterisk-exporter; state_directory."
            ) from None
        except OSError as error:
            self._unlock()
            raise JournalStoreError(
                f"cannot use the state directory {directory}: {error.strerror}. Expected a "
                "directory that this user may write (StateDirectory= of the unit)."
            ) from None
        except (sqlite3.Error, _UnusableFileError) as error:
            self._unlock()
            raise JournalStoreError(
                f"cannot use {self._path}: {error}. Look at the free space and the rights of the "
                "state directory."
            ) from None

    def _open(self) -> sqlite3.Connection:
        # made beforehand, so that it is nobody else's to read
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(
            str(self._path), timeout=5, isolation_level=None, check_same_thread=False
        )
        try:
            check = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if check != "ok":
                raise _UnusableFileError(f"it is damaged ({check})")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise _UnusableFileError(
                    f"it has the layout {version} of a newer asterisk-exporter; this one writes "
                    f"{VERSION}"
                )
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            if version < VERSION:
                before, after = _UPGRADE if version == 1 else ("", "")
                ours = f"PRAGMA user_version = {VERSION};"
                db.executescript(f"BEGIN IMMEDIATE;{before}{_SCHEMA}{after}{ours}COMMIT;")
            for name, labels, value in db.execute("SELECT name, labels, value FROM counter"):
                self._values.setdefault(name, {})[tuple(json.loads(labels))] = value
        except _UnusableFileError:
            db.close()
            raise
        except (sqlite3.DatabaseError, ValueError) as error:
            db.close()
            if isinstance(error, sqlite3.OperationalError):
                raise  # the disk, a lock: the file itself may be well
            self._values.clear()
            raise _UnusableFileError(f"it is not this program's SQLite file ({error})") from None
        return db

    def _unlock(self) -> None:
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def close(self) -> None:
        """Close the file; every applied change is already durable."""
        self._db.close()
        self._unlock()

    def position(self, source: str) -> dict[str, Any] | None:
        """Return the cursor of a source, or None before its first change."""
        rows = self.rows("SELECT position FROM cursor WHERE source = ?", (source,))
        return json.loads(rows[0][0]) if rows else None

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return what a SELECT finds. Raises JournalStoreError."""
        try:
            with self._writing:
                return self._db.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise JournalStoreError(f"cannot read {self._path}: {error}.") from None

    def apply(self, change: Change) -> None:
        """Make a change durable, then visible. Raises JournalStoreError and changes nothing."""
        with self._writing:
            try:
                self._write(change)
            except sqlite3.Error as error:
                if self._db.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        self._db.execute("ROLLBACK")
                raise JournalStoreError(
                    f"cannot write {self._path}: {error}. Look at the free space and the rights "
                    "of the state directory."
                ) from None
            with self._guard:
                for (name, labels), by in change.add.items():
                    values = self._values.setdefault(name, {})
                    values[labels] = values.get(labels, 0) + by

    def _write(self, change: Change) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(
            "INSERT INTO counter (name, labels, value) VALUES (?, ?, ?) "
            "ON CONFLICT (name, labels) DO UPDATE SET value = value + excluded.value",
            [(name, _as_json(labels), by) for (name, labels), by in change.add.items()],
        )
        for sql, rows in change.statements:
            self._db.executemany(sql, rows)
        if change.position is not None:
            self._db.execute(
                "INSERT INTO cursor (source, position) VALUES (?, ?) "
                "ON CONFLICT (source) DO UPDATE SET position = excluded.position",
                (change.source, json.dumps(change.position)),
            )
        self._db.execute("COMMIT")

    def values(self, name: str) -> dict[tuple[str, ...], int]:
        """Return the counters of one metric by label values, as of the last change."""
        with self._guard:
            return dict(self._values.get(name, ()))


def _move_aside(path: Path, why: str) -> None:
    aside = path.with_name(f"{path.name}.unusable-{time.strftime('%Y%m%dT%H%M%S')}")
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    log.error(
        "%s cannot be used: %s. Moved it to %s and begin a new one: the counters start again at 0, "
        "and what happened until now is not counted.",
        path,
        why,
        aside,
    )


@contextlib.contextmanager
def read_only(directory: Path) -> Iterator[sqlite3.Connection]:
    """Give a connection that reads the state file while the service writes it.

    Raises JournalStoreError when there is none yet or it cannot be read.
    """
    path = directory / FILE_NAME
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5)
        try:
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version != VERSION:
                raise JournalStoreError(
                    f"{path} has the layout {version}; this asterisk-exporter reads {VERSION}. "
                    "Expected the state of a service of the same version. Type: systemctl restart "
                    "asterisk-exporter"
                )
            yield db
        finally:
            db.close()
    except (sqlite3.Error, OSError) as error:
        raise JournalStoreError(
            f"cannot read {path}: {error}. Expected the state of an asterisk-exporter that has "
            "counted something, and a user who may read it (root). Look at: systemctl status "
            "asterisk-exporter; state_directory."
        ) from None
