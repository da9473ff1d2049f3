"""One call detail record (CDR) with typed values, whatever it was read from.

The fields are those of ``struct ast_cdr`` (Asterisk's include/asterisk/cdr.h), the columns of
Master.csv those of cdr/cdr_csv.c. A call has many records; what they mean together is the business
of ``calls``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

#: Columns of Master.csv in order; those from uniqueid on are written only where settings ask.
CSV_COLUMNS = (
    "accountcode",
    "src",
    "dst",
    "dcontext",
    "clid",
    "channel",
    "dstchannel",
    "lastapp",
    "lastdata",
    "start",
    "answer",
    "end",
    "duration",
    "billsec",
    "disposition",
    "amaflags",
    "uniqueid",
    "userfield",
    "peeraccount",
    "linkedid",
    "sequence",
)
_FEWEST_COLUMNS = CSV_COLUMNS.index("uniqueid")
_TIMES = ("start", "answer", "end")
_NUMBERS = ("duration", "billsec", "sequence")


@dataclass(frozen=True)
class Record:
    """A CDR. Times are Unix seconds, durations seconds; what the source left empty is '' or None.

    ``linkedid`` names the call, ``uniqueid`` the channel whose record it is.
    """

    accountcode: str
    src: str
    dst: str
    dcontext: str
    clid: str
    channel: str
    dstchannel: str
    lastapp: str
    lastdata: str
    start: float
    answer: float | None
    end: float
    duration: int
    billsec: int
    disposition: str
    amaflags: str
    uniqueid: str
    userfield: str
    peeraccount: str
    linkedid: str
    sequence: int | None

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Record:
        """Return the record of a row: times as Unix seconds, everything else text or number.

        A column that is missing counts as empty. Raises ValueError with the reason when it
        cannot be told to which call it belongs, when it was, or how it ended.
        """
        found: dict[str, Any] = {name: _text(values.get(name)) for name in CSV_COLUMNS}
        for name in _TIMES:
            found[name] = _time(name, values.get(name))
        for name in _NUMBERS:
            found[name] = _number(name, values.get(name))
        for name, other in (("linkedid", "uniqueid"), ("end", "start"), ("start", "end")):
            # a record of one channel alone may lack its linkedid; a broken one its end
            found[name] = found[name] or found[other]
        for name in ("uniqueid", "start", "disposition"):
            if not found[name]:
                raise ValueError(f"it has no {name}")
        found["duration"] = _seconds(found["duration"], found["end"] - found["start"])
        answer = found["answer"]
        found["billsec"] = _seconds(
            found["billsec"], 0 if answer is None else found["end"] - answer
        )
        return cls(**found)

    @classmethod
    def from_csv(cls, row: Sequence[str], zone: tzinfo) -> Record:
        """Return the record of a row of Master.csv whose times are wall clock of ``zone``.

        Raises ValueError with the reason.
        """
        if len(row) < _FEWEST_COLUMNS or len(row) > len(CSV_COLUMNS):
            raise ValueError(f"it has {len(row)} columns, expected {len(CSV_COLUMNS)}")
        if len(row) < len(CSV_COLUMNS):
            raise MissingColumnsError(CSV_COLUMNS[len(row) :], len(row))
        values: dict[str, Any] = dict(zip(CSV_COLUMNS, row))
        for name in _TIMES:
            values[name] = _wall_clock(name, values[name], zone)
        return cls.from_values(values)

    @property
    def endpoint(self) -> str:
        """The endpoint of the channel whose record it is."""
        return channel_endpoint(self.channel)

    @property
    def dialled_endpoints(self) -> list[str]:
        """The endpoints that the record's channel called; empty when it called none.

        Where no channel came of it (an unknown number, an endpoint without contact), the
        endpoints that Dial was told.
        """
        if self.dstchannel:
            return [channel_endpoint(self.dstchannel)]
        if self.lastapp != "Dial":
            return []
        return [dial_endpoint(target) for target in self.lastdata.split(",")[0].split("&")]


class MissingColumnsError(ValueError):
    """Master.csv is written without the columns at its end that say which call a record is of."""

    def __init__(self, missing: Sequence[str], columns: int) -> None:
        super().__init__(
            f"it has {columns} of {len(CSV_COLUMNS)} columns, without {', '.join(missing)}. Set "
            "loguniqueid = yes, loguserfield = yes and newcdrcolumns = yes in section [csv] of "
            "cdr.conf and reload cdr_csv."
        )


def channel_technology(channel: str) -> str:
    """Return PJSIP of ``PJSIP/provider-0000000a``."""
    return channel.partition("/")[0]


def channel_endpoint(channel: str) -> str:
    """Return provider of ``PJSIP/provider-0000000a``, 112@phones of ``Local/112@phones-0a;2``.

    A channel's name is technology/endpoint-number in hexadecimal (``ast_channel_alloc`` of each
    driver); the endpoint's name may have dashes of its own.
    """
    return re.sub(r"-[0-9a-fA-F]+(;[12])?$", "", channel.partition("/")[2])


def other_half(channel: str) -> str | None:
    """Return the other end of a Local channel (``…;1`` and ``…;2``), None of any other channel."""
    if channel_technology(channel) != "Local" or channel[-2:] not in {";1", ";2"}:
        return None
    return channel[:-1] + ("2" if channel.endswith("1") else "1")


def dial_endpoint(target: str) -> str:
    """Return the endpoint of one target of Dial.

    ``PJSIP/number@provider``, ``PJSIP/provider/sip:number@host`` and ``PJSIP/provider`` all name
    provider.
    """
    return target.partition("/")[2].partition("/")[0].rpartition("@")[2]


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _time(name: str, value: Any) -> float | None:
    """Return Unix seconds; 0 and before is how some writers say that there was none."""
    try:
        seconds = 0.0 if value is None else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"its {name} is {value!r}, expected a time")
    return seconds if seconds > 0 else None


def _number(name: str, value: Any) -> int | None:
    if value is None or value == "":
        return None
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ValueError(f"its {name} is {value!r}, expected a whole number") from None


def _seconds(given: int | None, computed: float) -> int:
    return max(0, int(computed) if given is None else given)


def _wall_clock(name: str, text: str, zone: tzinfo) -> float | None:
    if not text:
        return None
    try:
        moment = datetime.strptime(text[:19], "%Y-%m-%d %H:%M:%S")
        return moment.replace(tzinfo=zone).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f"its {name} is {text!r}, expected YYYY-MM-DD HH:MM:SS") from None
