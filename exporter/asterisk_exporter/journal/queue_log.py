"""Lines of queue_log to entries; pure.

``epoch|callid|queue|agent|event|data1|…``, written by ast_queue_log() in Asterisk's main/logger.c:
at most 8 KiB, whole seconds, names as they are. A bar in a name cannot be told from a separator.
"""

from __future__ import annotations

from typing import NamedTuple

#: Digits of Unix seconds that are not nonsense.
_TIME_DIGITS = 11


class Entry(NamedTuple):
    """One line. ``time``: Unix seconds. ``agent`` is NONE where it is about no member."""

    time: int
    callid: str
    queue: str
    agent: str
    event: str
    data: list[str]


def lines(data: bytes) -> list[str]:
    r"""Return the complete lines in ``data`` as valid text, as ``collectors.base.label`` makes it.

    Bytes that are not UTF-8 become ``\xe9``.
    """
    text = data.decode("utf-8", "backslashreplace").split("\n")
    text.pop()
    return text


def parse(line: str) -> Entry | None:
    """Return the entry in a line, or None where it lacks what each has: a time and an event."""
    fields = line.split("|")
    try:
        when, callid, queue, agent, event, *data = fields
    except ValueError:
        return None
    # a fraction is how queue_log looks in a database
    if not (when.isdecimal() and len(when) <= _TIME_DIGITS):
        when, _, fraction = when.partition(".")
        if not (when.isdecimal() and len(when) <= _TIME_DIGITS and fraction.isdecimal()):
            return None
    return Entry(int(when), callid, queue, agent, event, data) if event else None


def seconds(data: list[str], index: int) -> int | None:
    """Return a duration in the data, or None where there is none."""
    try:
        text = data[index]
    except IndexError:
        return None
    return int(text) if text.isdecimal() and len(text) <= 9 else None
