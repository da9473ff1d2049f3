"""Cursor and counters of the journal readers, always changed together.

One SQLite file; a batch's counters and the cursor behind it are one transaction (WAL,
synchronous FULL), so that an end at any instant neither loses nor repeats a record. Readers of
the numbers (``/metrics``) look at a copy in memory and never wait for the disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: (metric, its label values in order)
Key = tuple[str, tuple[str, ...]]

FILE_NAME = "journal.sqlite"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS counter (
    name TEXT NOT NULL, labels TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (name, labels)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursor (
    source TEXT NOT NULL PRIMARY KEY, position TEXT NOT NULL
) WITHOUT ROWID;
"""


class JournalStoreError(Exception):
    """The state file cannot be used; the message says why and what to look at."""


@dataclass
class Change:
    """What one batch does: the cursor behind it, and how much each counter grows."""

    source: str
    position: Mapping[str, Any]
    add: dict[Key, int] = field(default_factory=dict)

    def count(self, name: str, *labels: str, by: int = 1) -> None:
        """Let a counter grow; by 0 makes it known."""
        key = (name, labels)
        self.add[key] = self.add.get(key, 0) + by


class JournalStore:
    """The state directory's SQLite file. One process at a time: a second one is refused."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE_NAME
        self._values: dict[Key, int] = {}
        self._guard = threading.Lock()
        self._lock_fd: int | None = None
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock_fd = os.open(
                directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # made beforehand, so that it is nobody else's to read
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(
                str(self._path), timeout=5, isolation_level=None, check_same_thread=False
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._db.executescript(_SCHEMA)
            for name, labels, value in self._db.execute("SELECT name, labels, value FROM counter"):
                self._values[name, tuple(json.loads(labels))] = value
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
        except (sqlite3.Error, ValueError) as error:
            self._unlock()
            raise JournalStoreError(
                f"cannot use {self._path}: {error}. Expected this exporter's SQLite file. To "
                "start counting anew, stop the exporter and move the file away."
            ) from None

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
        row = self._db.execute("SELECT position FROM cursor WHERE source = ?", (source,)).fetchone()
        return None if row is None else json.loads(row[0])

    def apply(self, change: Change) -> None:
        """Make a change durable, then visible. Raises JournalStoreError and changes nothing."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                "INSERT INTO counter (name, labels, value) VALUES (?, ?, ?) "
                "ON CONFLICT (name, labels) DO UPDATE SET value = value + excluded.value",
                [(name, json.dumps(labels), by) for (name, labels), by in change.add.items()],
            )
            self._db.execute(
                "INSERT INTO cursor (source, position) VALUES (?, ?) "
                "ON CONFLICT (source) DO UPDATE SET position = excluded.position",
                (change.source, json.dumps(change.position)),
            )
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self._db.execute("ROLLBACK")
            raise JournalStoreError(
                f"cannot write {self._path}: {error}. Look at the free space and the rights of "
                "the state directory."
            ) from None
        with self._guard:
            for key, by in change.add.items():
                self._values[key] = self._values.get(key, 0) + by

    def values(self, name: str) -> dict[tuple[str, ...], int]:
        """Return the counters of one metric by label values, as of the last change."""
        with self._guard:
            return {labels: value for (n, labels), value in self._values.items() if n == name}
