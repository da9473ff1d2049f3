"""Missed calls, and whether anybody has spoken with the callers since: from the state file."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, time, tzinfo
from typing import TYPE_CHECKING, Any

from asterisk_exporter.text import clean

if TYPE_CHECKING:
    from rich.table import Table

#: An en dash: there is nothing to tell.
NOTHING = "\u2013"
#: What stands for the caller who hides the number.
WITHHELD = "withheld"
#: What providers send in the place of a number that is withheld (RFC 3323 and usage), lower case.
_NO_NUMBERS = frozenset(
    {"", "anonymous", "private", "restricted", "unavailable", "unknown", WITHHELD}
)
#: The columns of the CSV and the keys of the JSON, in this order. Stable.
FIELDS = (
    "linkedid",
    "caller",
    "at",
    "dialled",
    "destination",
    "reason",
    "wait_seconds",
    "spoken_at",
    "spoken_direction",
    "outstanding",
)
# contact holds the latest conversation with a number, so one row tells whether there was any since
_SELECT = """
    SELECT missed.linkedid, missed.caller, missed.number, missed.at, missed.dialled,
           missed.destination, missed.reason, missed.wait, contact.at, contact.direction, missed.id
    FROM missed
    LEFT JOIN contact ON contact.number = missed.number AND contact.at >= missed.ended
"""
_CALLS = f"{_SELECT} WHERE missed.at >= ? ORDER BY missed.at, missed.linkedid"
_DECIDED = f"{_SELECT} WHERE missed.id > ? AND missed.ended >= ? ORDER BY missed.id LIMIT ?"
_SPOKEN = {"inbound": "got through", "outbound": "called back"}
_DIGITS = re.compile(r"\+[0-9]+")
# Also behind a separator: where a spreadsheet's list separator is not ours, it cuts cells there.
_FORMULA = re.compile(r"(^|[;,\t|])(?=\s*[=+\-@\uff1d\uff0b\uff0d\uff20])")


@dataclass(frozen=True)
class MissedCall:
    """A call that reached nobody. Times are aware, in the zone that was asked for.

    ``caller`` is the number as the call brought it, or ``withheld``; ``number`` is what callers
    are compared by, None when there is no number to call. ``at`` is the start of the call.
    ``wait_seconds`` is None when it is not known. ``spoken_at`` is the end of the latest
    conversation with the caller after the call: ``spoken_direction`` is ``inbound`` when the
    caller got through and ``outbound`` when somebody called back.
    """

    linkedid: str
    caller: str
    number: str | None
    at: datetime
    dialled: str
    destination: str
    reason: str
    wait_seconds: int | None
    spoken_at: datetime | None
    spoken_direction: str | None

    @property
    def outstanding(self) -> bool:
        """Whether there is a number to call, and nobody has spoken with it since."""
        return self.number is not None and self.spoken_at is None


def missed_calls(db: sqlite3.Connection, since: datetime, zone: tzinfo | None) -> list[MissedCall]:
    """Return the missed calls that began at ``since`` (aware) or later, newest last.

    ``zone`` None is this system's. Raises sqlite3.Error.
    """
    return [_call(row, zone) for row in db.execute(_CALLS, (since.timestamp(),))]


def decided_after(
    db: sqlite3.Connection, last: int, ended_since: float, zone: tzinfo | None, limit: int
) -> list[tuple[int, MissedCall]]:
    """Return the ids, and the calls, that were decided after the one with the id ``last``.

    In the order in which they were decided; only calls that ended at ``ended_since`` (Unix time)
    or later. Raises sqlite3.Error.
    """
    rows = db.execute(_DECIDED, (last, ended_since, limit))
    return [(row[-1], _call(row, zone)) for row in rows]


def midnight(at: datetime, zone: tzinfo | None) -> datetime:
    """Return the beginning of the day of ``at`` in the zone; None is this system's."""
    start = datetime.combine(at.date(), time())
    return start.replace(tzinfo=zone) if zone is not None else start.astimezone()


def _call(row: Sequence[Any], zone: tzinfo | None) -> MissedCall:
    linkedid, caller, number, at, dialled, destination, reason, wait, spoken_at, direction, _ = row
    return MissedCall(
        linkedid=linkedid,
        caller=WITHHELD if number is None and caller.lower() in _NO_NUMBERS else caller,
        number=number,
        at=local(at, zone),
        dialled=dialled,
        destination=destination,
        reason=reason,
        wait_seconds=wait,
        spoken_at=None if spoken_at is None else local(spoken_at, zone),
        spoken_direction=direction,
    )


def local(at: float, zone: tzinfo | None) -> datetime:
    """Return Unix time as an aware time of ``zone``; None is this system's."""
    return datetime.fromtimestamp(at, zone) if zone is not None else _here(at)


def _here(at: float) -> datetime:
    return datetime.fromtimestamp(at).astimezone()


def as_dict(call: MissedCall) -> dict[str, Any]:
    """Return the call by FIELDS, fit for JSON; times as ISO 8601 with offset, to the second."""
    known = {**asdict(call), "outstanding": call.outstanding}
    for name in ("at", "spoken_at"):
        if known[name] is not None:
            known[name] = known[name].isoformat(timespec="seconds")
    return {name: known[name] for name in FIELDS}


def as_csv(calls: Sequence[MissedCall]) -> str:
    """Return a header and one line a call; nothing where JSON has null."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(FIELDS)
    for call in calls:
        writer.writerow([_cell(value) for value in as_dict(call).values()])
    return buffer.getvalue()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return safe_cell(clean(str(value)))


def safe_cell(text: str) -> str:
    """Return text that no spreadsheet takes for a formula.

    An apostrophe comes before each ``=``, ``+``, ``-`` or ``@`` that a cell could begin with. A
    number such as +4930123456, a plus and digits and nothing else, stays as it is: there is
    nothing in it to run, and programs compare it.
    """
    return text if _DIGITS.fullmatch(text) else _FORMULA.sub(r"\1'", text)


def table(calls: Sequence[MissedCall], narrow: bool = False) -> Table:
    """Return the calls for people, newest last; ``narrow`` fits 80 columns, in two lines a call."""
    # the service never needs them, and they take megabytes
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    found = Table(show_lines=narrow)
    columns = _NARROW if narrow else _WIDE
    for parts in columns:
        headings = (_HEADINGS[part] for part in parts if _HEADINGS[part])
        right = parts == ("waited",)
        found.add_column("\n".join(headings), overflow="fold", justify="right" if right else "left")
    between = "\n" if narrow else " "
    for call in calls:
        shown = _shown(call)
        found.add_row(
            *(Text(between.join(shown[p] for p in parts if shown[p])) for parts in columns)
        )
    return found


_HEADINGS = {
    "date": "Called",
    "time": "",
    "caller": "Caller",
    "destination": "Reached",
    "dialled": "Dialled",
    "reason": "Reason",
    "waited": "Waited",
    "spoken": "Spoken since",
    "spoken_at": "",
}
_WIDE = (
    ("date", "time"),
    ("caller",),
    ("destination",),
    ("dialled",),
    ("reason",),
    ("waited",),
    ("spoken", "spoken_at"),
)
_NARROW = (
    ("date", "time"),
    ("caller",),
    ("destination", "dialled"),
    ("reason", "waited"),
    ("spoken", "spoken_at"),
)


def _shown(call: MissedCall) -> dict[str, str]:
    """Return the texts of one call by the names in _HEADINGS."""
    parts = {
        "date": call.at.strftime("%Y-%m-%d"),
        "time": call.at.strftime("%H:%M"),
        "caller": call.caller,
        "destination": call.destination,
        "dialled": call.dialled,
        "reason": call.reason,
        "waited": NOTHING if call.wait_seconds is None else f"{call.wait_seconds} s",
        "spoken": "no" if call.outstanding else "unknown",
        "spoken_at": "",
    }
    if call.spoken_at is not None:
        direction = call.spoken_direction or ""
        same_day = call.spoken_at.date() == call.at.date()
        parts["spoken"] = _SPOKEN.get(direction, direction)
        parts["spoken_at"] = call.spoken_at.strftime("%H:%M" if same_day else "%Y-%m-%d %H:%M")
    return {name: clean(text) for name, text in parts.items()}


def totals(calls: Sequence[MissedCall]) -> str:
    """Return how many calls for which reasons, and how many of them are outstanding."""
    reasons = Counter(call.reason for call in calls)
    by_reason = ", ".join(f"{n} {clean(reason)}" for reason, n in reasons.most_common())
    open_calls = [call for call in calls if call.outstanding]
    callers = len({call.number for call in open_calls})
    outstanding = f"{len(open_calls)} outstanding"
    if callers != len(open_calls):
        outstanding += f" ({callers} caller{'' if callers == 1 else 's'})"
    noun = "missed call" if len(calls) == 1 else "missed calls"
    return f"{len(calls)} {noun}: {by_reason}. {outstanding}."
