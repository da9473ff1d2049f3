"""What the pages show: the queues now, today's figures and whether the journals are read.

One look at Asterisk and the state file serves all who ask within two seconds.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Callable

from asterisk_exporter import missed, summary
from asterisk_exporter.ami.client import Deadline
from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.ami.session import AmiSession
from asterisk_exporter.collectors.queues import Queue
from asterisk_exporter.collectors.queues import queues as queues_in
from asterisk_exporter.config import Config
from asterisk_exporter.journal.runner import Journal
from asterisk_exporter.journal.store import JournalStoreError, read_only
from asterisk_exporter.journal.visits import folded
from asterisk_exporter.missed import MissedCall
from asterisk_exporter.summary import Summary, Today
from asterisk_exporter.text import clean

KEEP_SECONDS = 2.0


@dataclass(frozen=True)
class Missed:
    """Today's missed calls, and how many callers among them nobody has spoken with since."""

    calls: int
    outstanding: int


@dataclass(frozen=True)
class Look:
    """What one look found, at one time (aware).

    ``queues`` is None when AMI could not tell: ``error`` says why. ``today``, the figures by queue
    (names ``folded``), is None when they are not known or not current: ``today_error`` says why.
    ``missed`` is None without current call records. ``journals``: whether each is read.
    """

    at: datetime
    queues: tuple[Queue, ...] | None = None
    today: dict[str, Today] | None = None
    missed: tuple[MissedCall, ...] | None = None
    error: str | None = None
    today_error: str | None = None
    journals: tuple[tuple[str, bool], ...] = ()

    @property
    def missed_unknown(self) -> bool:
        """Whether there are call records that are not read."""
        return self.missed is None and ("cdr", False) in self.journals

    def of(self, names: Sequence[str] = ()) -> tuple[Summary, Missed | None]:
        """Return the queues that were asked for, with their total; no names are all.

        Missed calls are those of these destinations, or of all. Raises UnknownQueueError.
        """
        if self.queues is None:
            return Summary(self.at, error=self.error), None
        wanted = {folded(name) for name in names}
        for name in names:
            summary.choose(self.queues, name)
        queues = [q for q in self.queues if not wanted or folded(q.name) in wanted]
        found = Summary(
            at=self.at,
            queues=tuple(summary.join(queues, self.today)),
            total=summary.total(queues, self.today),
            today_error=self.today_error,
        )
        if self.missed is None:
            return found, None
        calls = [c for c in self.missed if not wanted or folded(c.destination) in wanted]
        open_numbers = {call.number for call in calls if call.outstanding}
        return found, Missed(len(calls), len(open_numbers))


class Live:
    """Looks, by an AMI connection of its own, so that no page delays a scrape.

    ``look`` may be called by any thread; nobody waits longer than for one look.
    """

    def __init__(
        self,
        session: AmiSession,
        settings: Config,
        journals: Sequence[Journal] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._directory = settings.state_directory
        self._zone = settings.zone
        self._journals = {journal.name: journal for journal in journals}
        self._timeout_seconds = settings.ami.timeout_seconds
        self._clock = clock
        self._guard = threading.Lock()
        self._last: Look | None = None
        self._looked_at = 0.0

    def look(self) -> Look:
        """Return what is true now, or was at most two seconds ago."""
        with self._guard:
            if self._last is None or self._clock() - self._looked_at >= KEEP_SECONDS:
                self._last = self._look()
                self._looked_at = self._clock()
            return self._last

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._session.close()

    def _look(self) -> Look:
        queues, error = None, None
        try:
            replies = self._session.ask(("QueueStatus",), Deadline(self._timeout_seconds))
            queues = tuple(queues_in(replies["QueueStatus"], time.time()))
        except AmiError as caught:
            error = clean(str(caught))
        at = missed.local(time.time(), self._zone)
        today, today_error = self._today(at)
        return Look(
            at=at,
            queues=queues,
            today=today,
            missed=self._missed(at),
            error=error,
            today_error=today_error,
            journals=tuple((name, journal.ok) for name, journal in self._journals.items()),
        )

    def _today(self, at: datetime) -> tuple[dict[str, Today] | None, str | None]:
        if "queue_log" not in self._journals:
            return None, "no queue_log is configured."
        # figures that are not added to any more are not today's
        if not self._reads("queue_log"):
            return None, "queue_log is not read. Look at the exporter's log."
        try:
            return summary.read_today(self._directory, at.date()), None
        except JournalStoreError as error:
            return None, clean(str(error))

    def _missed(self, at: datetime) -> tuple[MissedCall, ...] | None:
        if not self._reads("cdr"):
            return None
        since = missed.midnight(at, self._zone)
        try:
            with read_only(self._directory) as db:
                return tuple(missed.missed_calls(db, since, self._zone))
        except (JournalStoreError, sqlite3.Error):
            return None

    def _reads(self, name: str) -> bool:
        return name in self._journals and self._journals[name].ok
