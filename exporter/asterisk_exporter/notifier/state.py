"""Which calls the CRM has.

The journal keeps each missed call under an id in the order in which it was decided; what the CRM
has is a cursor on these ids, made durable after the answer that says so. So an end at any instant
repeats at most the call that was under way.
"""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

FILE_NAME = "state.json"


class StateError(Exception):
    """The notifier's state cannot be used; the message says why and what to look at."""


@dataclass(frozen=True)
class State:
    """What the CRM has: all calls of the journal ``journal`` up to the id ``cursor``.

    Calls that ended before ``since`` (Unix time of the first start) are not its business.
    """

    since: float
    journal: str | None = None
    cursor: int = 0
    sent: int = 0
    failures: int = 0
    refused: int = 0

    def following(self, journal: str, last_id: int) -> State:
        """Return where to go on in a journal whose newest id is ``last_id``.

        Another journal was begun in the place of the one we know, or an older copy of it was
        put back: what it holds is sent, some of it perhaps again.
        """
        if self.journal != journal:
            return replace(self, journal=journal, cursor=0)
        return replace(self, cursor=min(self.cursor, last_id))


class StateFile:
    """The state directory's file, replaced as a whole. ``lock`` it before ``save``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.path = directory / FILE_NAME
        self._lock_fd: int | None = None

    def lock(self) -> None:
        """Keep other notifiers out until ``unlock``. Raises StateError."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._give(fd)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                raise StateError(
                    f"{self.directory} is in use by another notifier. Expected one. Look at: "
                    "systemctl status asterisk-exporter-notifier."
                ) from None
        except OSError as error:
            raise StateError(
                f"cannot use the state directory {self.directory}: {error.strerror}. Expected a "
                "directory that this user may write (StateDirectory= of the unit)."
            ) from None
        self._lock_fd = fd

    def unlock(self) -> None:
        """Let others in."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def load(self) -> State | None:
        """Return the state, or None before the first start. Raises StateError."""
        try:
            values = json.loads(self.path.read_text(encoding="utf-8"))
            state = State(**values)
            numbers = {**asdict(state), "journal": 0}.values()
            if not isinstance(state.journal, (str, type(None))) or not all(
                isinstance(number, (int, float)) for number in numbers
            ):
                raise ValueError("a value is of another type")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"cannot read {self.path}: {error.strerror}.") from None
        except (ValueError, TypeError) as error:
            raise StateError(
                f"{self.path} is damaged ({error}). It says which calls the CRM has. Move it away "
                "to begin with the calls from now on."
            ) from None
        return state

    def save(self, state: State) -> None:
        """Make a state durable. Raises StateError, and the old one stays."""
        fresh = self.path.with_name(f"{FILE_NAME}.new")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            with os.fdopen(os.open(fresh, flags, 0o600), "w", encoding="utf-8") as file:
                json.dump(asdict(state), file)
                file.flush()
                self._give(file.fileno())
                os.fsync(file.fileno())
            fresh.replace(self.path)
            folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StateError(
                f"cannot write {self.path}: {error.strerror}. Look at the free space and the "
                "rights of the state directory."
            ) from None

    def _give(self, fd: int) -> None:
        """Give a file to the directory's owner, when root works on the service's state."""
        if os.geteuid() == 0:
            owner = self.directory.stat()
            os.fchown(fd, owner.st_uid, owner.st_gid)


def first_state() -> State:
    """Return the state of a first start: calls that end from now on."""
    return State(since=time.time())


def follow(db: sqlite3.Connection, state: State) -> State:
    """Return where to go on in this journal. Raises sqlite3.Error."""
    (journal,) = db.execute("SELECT id FROM identity").fetchone()
    last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'missed'").fetchone()
    return state.following(journal, last[0] if last else 0)
