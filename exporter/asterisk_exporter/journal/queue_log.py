"""Lines of queue_log to entries; pure.

``epoch|callid|queue|agent|event|data1|…``, written by ast_queue_log() in Asterisk's main/logger.c:
at most 8 KiB, whole seconds, names as they are. A bar in a name cannot be told from a separator.
"""

from __future__ import annotations

from typing import NamedTuple

_TIME_IS_NONSENSE = 10**11


class Entry(NamedTuple):
    """One line. ``time``: Unix seconds. ``agent`` is NONE where it is about no member.

    ``data``: what the event adds, still with its bars.
    """

    time: int
    callid: str
    queue: str
    agent: str
    event: str
    data: str


_new = tuple.__new__


def lines(data: bytes) -> list[str]:
    r"""Return the complete lines in ``data`` as valid text, as ``collectors.base.label`` makes it.

    Bytes that are not UTF-8 become ``\xe9``.
    """
    text = data.decode("utf-8", "backslashreplace").split("\n")
    text.pop()
    return text


def parse(line: str) -> Entry | None:
    """Return the entry in a line, or None where it lacks what each has: a time and an event."""
    try:
        when, callid, queue, agent, event, data = line.split("|", 5)
        # a fraction is how a database has it
        time = int(when) if "." not in when else int(when.partition(".")[0])
    except ValueError:
        return None
    if not event or not 0 <= time < _TIME_IS_NONSENSE:
        return None
    # not Entry(...), which takes twice the time: a history has millions of lines
    return _new(Entry, (time, callid, queue, agent, event, data))


def seconds(data: str, index: int) -> int | None:
    """Return a duration in the data, or None where there is none."""
    fields = data.split("|")
    try:
        text = fields[index]
    except IndexError:
        return None
    return int(text) if text.isdecimal() and len(text) <= 9 else None
