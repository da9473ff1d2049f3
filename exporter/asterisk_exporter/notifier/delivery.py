"""Which calls the CRM has, and the loop that brings it the others.

The journal keeps each missed call under an id in the order in which it was decided; what the CRM
has is a cursor on these ids, made durable after the answer that says so. So an end at any instant
repeats at most the call that was under way.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import tzinfo
from pathlib import Path

from asterisk_exporter.journal.store import JournalStoreError, read_only
from asterisk_exporter.missed import MissedCall, decided_after
from asterisk_exporter.notifier import event
from asterisk_exporter.notifier.webhook import Answer, Webhook, WebhookError

FILE_NAME = "state.json"
POLL_SECONDS = 1.0
BATCH = 100
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 300.0
#: The longest that the CRM may ask us to wait (Retry-After).
LONGEST_ASKED_SECONDS = 900.0
#: Answers that say that this call will never be taken; others may be about the setup.
REFUSALS = frozenset({400, 409, 413, 422})
#: So often a call is offered to a CRM that refuses it, which takes two minutes.
REFUSED_TRIES = 8

log = logging.getLogger("asterisk_exporter.notifier")


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


@dataclass(frozen=True)
class Place:
    """Where the journal is, and how its times are shown."""

    state_directory: Path
    zone: tzinfo | None

    def pending(self, state: State, limit: int) -> tuple[State, list[tuple[int, MissedCall]]]:
        """Return where to go on, and the next calls. Raises JournalStoreError."""
        with read_only(self.state_directory) as db:
            state = follow(db, state)
            return state, decided_after(db, state.cursor, state.since, self.zone, limit)


def follow(db: sqlite3.Connection, state: State) -> State:
    """Return where to go on in this journal. Raises sqlite3.Error."""
    (journal,) = db.execute("SELECT id FROM identity").fetchone()
    last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'missed'").fetchone()
    return state.following(journal, last[0] if last else 0)


@dataclass(frozen=True)
class Writer:
    """How an event is written and signed."""

    system_name: str
    secret: str
    show_last_digits: int | None = None

    def document(self, call: MissedCall) -> dict[str, object]:
        """Return the event of a call."""
        return event.event(call, self.system_name, self.show_last_digits)

    def post(self, webhook: Webhook, document: dict[str, object]) -> Answer:
        """Send one event. Raises WebhookError."""
        content = event.body(document)
        headers = {
            event.DELIVERY_HEADER: str(document["id"]),
            event.SIGNATURE_HEADER: event.signature(self.secret, content, int(time.time())),
        }
        return webhook.post(content, headers)


def wait_seconds(tries: int, asked: float | None, jitter: float) -> float:
    """Return how long to wait after so many failed tries in a row (1 and more).

    From 1 s, doubled up to 5 min, less up to a quarter by ``jitter`` (0 to 1); longer where the
    CRM asked for it, up to 15 min.
    """
    wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(tries - 1, 20))
    wait *= 1 - jitter / 4
    return wait if asked is None else max(wait, min(asked, LONGEST_ASKED_SECONDS))


class Notifier:
    """Brings the CRM the calls that it does not have, one after the other.

    A call that cannot be brought holds up those behind it, so that none comes before an earlier
    one. Only one that the CRM itself refuses time and again is left behind.
    """

    def __init__(
        self,
        place: Place,
        file: StateFile,
        writer: Writer,
        webhook: Webhook,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        """Take up the state; ``file`` is locked. Raises StateError."""
        self._place, self._file = place, file
        self._writer, self._webhook = writer, webhook
        self._jitter = jitter
        self._state = file.load() or first_state()
        self._saved: State | None = None
        self._tries = 0
        self._refusals = 0
        self._said: str | None = None

    def run(self, stop: threading.Event) -> None:
        """Deliver until told to stop."""
        while not stop.is_set():
            wait = self.deliver(stop)
            stop.wait(POLL_SECONDS if wait is None else wait)

    def deliver(self, stop: threading.Event) -> float | None:
        """Deliver what is pending; return None, or the seconds to wait after what went wrong."""
        try:
            # what could not be written goes first: the CRM gets no call twice for a full disk
            self._keep(self._state)
            while not stop.is_set():
                state, calls = self._place.pending(self._state, BATCH)
                self._note_moved(state)
                if not calls:
                    break
                for number, call in calls:
                    if stop.is_set():
                        break
                    wait = self._deliver(number, call)
                    if wait is not None:
                        return wait
        except (StateError, JournalStoreError) as error:
            self._failed(type(error).__name__, str(error))
            return wait_seconds(self._tries, None, self._jitter())
        finally:
            # no connection is kept that the CRM may close at any moment
            self._webhook.close()
        if self._said in {JournalStoreError.__name__, StateError.__name__}:
            self._recovered()
        return None

    def _deliver(self, number: int, call: MissedCall) -> float | None:
        """Bring one call; return None when done with it, else the seconds to wait."""
        try:
            answer = self._writer.post(self._webhook, self._writer.document(call))
        except WebhookError as error:
            self._failed(error.kind, str(error))
            self._keep(replace(self._state, failures=self._state.failures + 1))
            return wait_seconds(self._tries, None, self._jitter())
        if answer.taken:
            self._recovered()
            self._keep(replace(self._state, cursor=number, sent=self._state.sent + 1))
            return None
        self._failed(str(answer.status), f"{self._webhook.url} answered {answer}")
        failed = replace(self._state, failures=self._state.failures + 1)
        self._refusals = self._refusals + 1 if answer.status in REFUSALS else 0
        if self._refusals < REFUSED_TRIES:
            self._keep(failed)
            return wait_seconds(self._tries, answer.retry_after, self._jitter())
        log.error("notifier: the call %s is left out: %s", call.linkedid, answer)
        self._said, self._tries, self._refusals = None, 0, 0
        self._keep(replace(failed, cursor=number, refused=failed.refused + 1))
        return None

    def _note_moved(self, state: State) -> None:
        """Take up that the journal is another one or was put back."""
        if state == self._state:
            return
        if self._state.journal is not None:
            log.warning(
                "notifier: the journal in %s is another one or an older copy; what it holds is "
                "sent, some of it perhaps again",
                self._place.state_directory,
            )
        self._keep(state)

    def _keep(self, state: State) -> None:
        self._state = state
        if self._saved != state:
            self._file.save(state)
            self._saved = state

    def _failed(self, kind: str, text: str) -> None:
        self._tries += 1
        if self._said != kind:
            self._said = kind
            log.error("notifier: %s It is tried again until it works.", text.rstrip(".") + ".")

    def _recovered(self) -> None:
        if self._said is not None:
            log.info("notifier: works again after %d failed tries", self._tries)
        self._said, self._tries, self._refusals = None, 0, 0
