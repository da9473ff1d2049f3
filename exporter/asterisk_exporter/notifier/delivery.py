"""The loop that brings the CRM the calls that it does not have."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import tzinfo
from pathlib import Path

from asterisk_exporter.journal.store import JournalStoreError, read_only
from asterisk_exporter.missed import MissedCall, decided_after
from asterisk_exporter.notifier import event
from asterisk_exporter.notifier.state import State, StateError, StateFile, first_state, follow
from asterisk_exporter.notifier.webhook import Answer, Webhook, WebhookError

POLL_SECONDS = 1.0
BATCH = 100
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 300.0
#: The same for what fails on our own disk: nobody is spared by a long wait.
LONGEST_LOCAL_SECONDS = 10.0
#: The longest that the CRM may ask us to wait (Retry-After).
LONGEST_ASKED_SECONDS = 900.0
#: Answers that say that this call will never be taken; others may be about the setup.
REFUSALS = frozenset({400, 409, 413, 422})
#: So often a call is offered to a CRM that refuses it, which takes two minutes.
REFUSED_TRIES = 8

log = logging.getLogger("asterisk_exporter.notifier")


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
            wait = wait_seconds(self._tries, None, self._jitter())
            return min(wait, LONGEST_LOCAL_SECONDS)
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
            # an outage before it does not count: the two minutes are those of this call
            tries = self._refusals or self._tries
            return wait_seconds(tries, answer.retry_after, self._jitter())
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
