"""What every source of call records does with a batch: count it, and hand it to the ledger."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Protocol, Union

from prometheus_client.core import CounterMetricFamily, Metric

from asterisk_exporter.journal.ledger import CallLedger
from asterisk_exporter.journal.record import Record
from asterisk_exporter.journal.runner import MALFORMED, READ, Source, fill
from asterisk_exporter.journal.store import Change, JournalStore

NAME = "cdr"
RECORDS = "asterisk_cdr_records"
#: ast_cdr_disp2str() of Asterisk's main/cdr.c; CANCEL appears from newer versions.
DISPOSITIONS = ("ANSWERED", "NO ANSWER", "BUSY", "FAILED", "CONGESTION", "CANCEL")
OTHER = "OTHER"
#: Series of dispositions we have never heard of; any further one is counted as OTHER.
MOST_DISPOSITIONS = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Malformed:
    """A record that cannot be part of a call, and why."""

    reason: str
    disposition: str = ""


Found = Union[Record, Malformed]


def parse(values: Mapping[str, Any]) -> Found:
    """Return the record of a row (see ``Record.from_values``), or what is wrong with it."""
    try:
        return Record.from_values(values)
    except ValueError as error:
        return Malformed(str(error), values.get("disposition") or "")


class Place(Protocol):
    """Where call records are. ``str()`` of it names it without a password."""

    def source(self, store: JournalStore, system_name: str, counter: CdrCounter) -> Source:
        """Return what reads the records of ``system_name``."""

    def newest_record_age(self, system_name: str, timeout_seconds: float) -> float | None:
        """Return the age in seconds of the newest record, None without any.

        May take longer than it is told. Raises SourceError.
        """


def newest_record_age(place: Place, system_name: str, deadline_seconds: float) -> float | None:
    """Return the age in seconds of the newest record of ``system_name``, None without any.

    Asks in a thread of its own, since database clients may hang longer than any timeout that they
    take (a stopped server, a name server). Raises TimeoutError or SourceError.
    """
    answer: Future[float | None] = Future()

    def ask() -> None:
        try:
            answer.set_result(place.newest_record_age(system_name, deadline_seconds))
        except BaseException as error:  # noqa: BLE001 - for whoever waits
            answer.set_exception(error)

    threading.Thread(target=ask, name="cdr-age", daemon=True).start()
    try:
        return answer.result(deadline_seconds)
    except FutureTimeoutError:
        raise TimeoutError(f"no answer within {deadline_seconds:.1f} s") from None


class CdrCounter:
    """Counts the records of one system, whatever they are read from."""

    def __init__(self, store: JournalStore, ledger: CallLedger) -> None:
        self._store = store
        self._ledger = ledger
        self._said: set[str] = set()

    def load(self) -> None:
        """Take up the calls that are not decided; also after a change that failed."""
        self._ledger.load()

    def waits(self) -> bool:
        """Say whether any call waits for the time to be decided."""
        return self._ledger.waits()

    def apply(
        self,
        position: Mapping[str, Any],
        found: Sequence[Found],
        read_at: float,
        watermark: float,
    ) -> None:
        """Count what was found, with the cursor behind it; the times as of ``CallLedger.take``.

        Raises JournalStoreError and counts nothing.
        """
        change = Change(NAME, position)
        wrong = [one for one in found if isinstance(one, Malformed)]
        self._say(one.reason for one in wrong)
        if found or (NAME,) not in self._store.values(READ):
            change.count(READ, NAME, by=len(found))
            change.count(MALFORMED, NAME, by=len(wrong))
            self._count_dispositions(change, [one.disposition for one in found])
        records = [one for one in found if isinstance(one, Record)]
        self._ledger.take(change, records, read_at, watermark)
        if change.add or change.statements or self._store.position(NAME) != dict(position):
            self._store.apply(change)
            self._ledger.applied(change)

    def _say(self, wrong: Iterable[str]) -> None:
        for reason in wrong:
            if reason not in self._said and len(self._said) < 100:
                self._said.add(reason)
                log.warning("%s: a record is not counted as part of a call: %s", NAME, reason)

    def _count_dispositions(self, change: Change, dispositions: list[str]) -> None:
        for known in DISPOSITIONS:
            change.count(RECORDS, known, by=0)
        series = {labels[0] for labels in self._store.values(RECORDS)} | set(DISPOSITIONS)
        for disposition in dispositions:
            name = (disposition or OTHER)[:40]
            if name not in series and len(series) >= MOST_DISPOSITIONS:
                name = OTHER
            series.add(name)
            change.count(RECORDS, name)

    def describe(self) -> list[Metric]:
        """Return the families without samples."""
        return [_records(), *self._ledger.describe()]

    def families(self) -> list[Metric]:
        """Return the families with samples; any thread may."""
        records = _records()
        fill([records], self._store)
        return [records, *self._ledger.families()]


def _records() -> CounterMetricFamily:
    return CounterMetricFamily(
        RECORDS, "CDR records by disposition (not calls).", labels=["disposition"]
    )
