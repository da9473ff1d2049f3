"""The queues at a glance: what AMI says now, beside today's figures from the state file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Union

from asterisk_exporter.collectors.queues import Queue
from asterisk_exporter.journal.store import JournalStoreError, read_only
from asterisk_exporter.journal.visits import folded
from asterisk_exporter.text import clean

if TYPE_CHECKING:
    from rich.table import Table

#: An en dash: there is no such figure.
NOTHING = "\u2013"
TOTAL = "Total"


class UnknownQueueError(Exception):
    """There is no such queue; the message lists those there are."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        listed = ", ".join(sorted(known)) or "none"
        super().__init__(
            clean(f"there is no queue {name!r}. Expected one of those that Asterisk has: {listed}.")
        )


@dataclass(frozen=True)
class Today:
    """What happened in one queue since midnight of the PBX's zone; callers, each counted once.

    ``short_abandoned`` are part of ``abandoned``, and these part of ``unanswered``.
    """

    offered: int = 0
    answered: int = 0
    answered_in_service_level: int = 0
    abandoned: int = 0
    short_abandoned: int = 0
    unanswered: int = 0

    @property
    def service_level_percent(self) -> float | None:
        """Answered in the service level of those offered, less short abandons. None: no such."""
        offered = self.offered - self.short_abandoned
        return 100 * self.answered_in_service_level / offered if offered > 0 else None

    def __add__(self, other: Today) -> Today:
        """Return the sums."""
        mine, others = asdict(self), asdict(other)
        return Today(**{name: mine[name] + others[name] for name in mine})


@dataclass(frozen=True)
class QueueSummary:
    """One queue: as it is now, and ``today``, None when that is not known.

    ``members`` are all that are logged in, ``available`` those who could take a call now and
    ``paused`` those who are paused, whatever their state.
    """

    name: str
    waiting: int
    longest_wait_seconds: int
    over_service_level: int
    service_level_seconds: int | None
    members: int
    available: int
    paused: int
    today: Today | None


@dataclass(frozen=True)
class Summary:
    """All queues that were asked for, at one time (aware).

    ``queues`` and ``total`` are None when AMI could not tell; ``error`` says why. ``today_error``
    says why today's figures are missing.
    """

    at: datetime
    queues: tuple[QueueSummary, ...] | None = None
    total: QueueSummary | None = None
    error: str | None = None
    today_error: str | None = None


def read_today(directory: Path, day: date) -> dict[str, Today]:
    """Return a day's figures by queue, names ``folded``. Raises JournalStoreError."""
    with read_only(directory) as db:
        return today_of(db, day)


def today_of(db: sqlite3.Connection, day: date) -> dict[str, Today]:
    """Return a day's figures by queue, names ``folded``.

    Raises JournalStoreError when none were ever counted: that is not the same as no calls.
    """
    counted = "SELECT 1 FROM daily UNION SELECT 1 FROM cursor WHERE source = 'queue_log' LIMIT 1"
    if db.execute(counted).fetchone() is None:
        raise JournalStoreError(
            "the exporter has not read a queue_log yet. Expected it to count each queue's calls. "
            "Look at: systemctl status asterisk-exporter; queue_log in its configuration."
        )
    found: dict[str, Today] = {}
    rows = db.execute("SELECT queue, figure, value FROM daily WHERE day = ?", (day.isoformat(),))
    for queue, figure, value in rows:
        if figure in Today.__dataclass_fields__:
            found[folded(queue)] = found.get(folded(queue), Today()) + Today(**{figure: value})
    return found


def choose(queues: Sequence[Queue], name: str | None) -> Sequence[Queue]:
    """Return the queues that were asked for; ``name`` None is all. Raises UnknownQueueError.

    As for app_queue, the case of letters makes no difference.
    """
    if name is None:
        return queues
    chosen = [queue for queue in queues if folded(queue.name) == folded(name)]
    if not chosen:
        raise UnknownQueueError(name, (queue.name for queue in queues))
    return chosen


def join(queues: Sequence[Queue], today: Mapping[str, Today] | None) -> list[QueueSummary]:
    """Return each queue with its figures of today; ``today`` None when these are not known."""
    return [
        QueueSummary(
            name=queue.name,
            waiting=len(queue.waits),
            longest_wait_seconds=queue.longest_wait_seconds,
            over_service_level=queue.over_service_level,
            service_level_seconds=queue.service_level_seconds,
            members=len(queue.members),
            available=queue.available,
            paused=queue.paused,
            today=None if today is None else today.get(folded(queue.name), Today()),
        )
        for queue in queues
    ]


def total(queues: Sequence[Queue], today: Mapping[str, Today] | None) -> QueueSummary:
    """Return all queues as one; a member of several queues counts once.

    Such a member is available (paused) here when he is in at least one of them.
    """
    members = [member for queue in queues for member in queue.members]
    waits = [wait for queue in queues for wait in queue.waits]
    return QueueSummary(
        name=TOTAL,
        waiting=len(waits),
        longest_wait_seconds=max(waits, default=0),
        over_service_level=sum(queue.over_service_level for queue in queues),
        service_level_seconds=None,  # each queue has its own
        members=len({member.interface for member in members}),
        available=len({member.interface for member in members if member.available}),
        paused=len({member.interface for member in members if member.paused}),
        today=None
        if today is None
        else sum((today.get(folded(queue.name), Today()) for queue in queues), Today()),
    )


def as_dict(summary: Summary) -> dict[str, Any]:
    """Return the summary fit for JSON. Its keys are stable; null means that it is not known."""
    queues = summary.queues
    return {
        "at": summary.at.isoformat(timespec="seconds"),
        "error": summary.error,
        "today_error": summary.today_error,
        "queues": None if queues is None else [_queue_as_dict(queue) for queue in queues],
        "total": None if summary.total is None else _queue_as_dict(summary.total),
    }


def _queue_as_dict(queue: QueueSummary) -> dict[str, Any]:
    known = asdict(queue)
    if queue.today is not None:
        known["today"]["service_level_percent"] = queue.today.service_level_percent
    return known


_Column = tuple[str, Callable[[QueueSummary], Union[int, str]]]
_NOW: tuple[_Column, ...] = (
    ("Waiting", lambda queue: queue.waiting),
    ("Longest\nwait", lambda queue: f"{queue.longest_wait_seconds} s"),
    ("Over\nservice\nlevel", lambda queue: queue.over_service_level),
    ("Available", lambda queue: queue.available),
    ("Paused", lambda queue: queue.paused),
    ("Members", lambda queue: queue.members),
)
_TODAY: tuple[_Column, ...] = (
    ("Offered\ntoday", lambda queue: _today(queue).offered),
    ("Answered", lambda queue: _today(queue).answered),
    ("Service\nlevel", lambda queue: percent_text(_today(queue).service_level_percent)),
    ("Abandoned", lambda queue: _today(queue).abandoned),
)


def _today(queue: QueueSummary) -> Today:
    return queue.today or Today()


def percent_text(percent: float | None) -> str:
    """Return a percentage; less than all is never shown as 100.0."""
    if percent is None:
        return NOTHING
    shown = f"{percent:.1f} %"
    return "99.9 %" if percent < 100 and shown == "100.0 %" else shown


def tables(queues: Sequence[QueueSummary], last: QueueSummary, narrow: bool) -> list[Table]:
    """Return the queues and their total for people: one table, or two where it is ``narrow``."""
    rows = list(queues) if len(queues) == 1 else [*queues, last]
    if last.today is None:
        return [_table(rows, _NOW)]
    return [_table(rows, _NOW), _table(rows, _TODAY)] if narrow else [_table(rows, _NOW + _TODAY)]


def _table(rows: Sequence[QueueSummary], columns: Sequence[_Column]) -> Table:
    # the service never needs them, and they take megabytes
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    found = Table()
    found.add_column("Queue", overflow="fold")
    for heading, _ in columns:
        found.add_column(heading, justify="right")
    for number, row in enumerate(rows):
        cells = (row.name, *(str(value(row)) for _, value in columns))
        before_total = len(rows) > 1 and number == len(rows) - 2
        found.add_row(*(Text(clean(cell)) for cell in cells), end_section=before_total)
    return found
