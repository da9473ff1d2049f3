"""What can go wrong when something is to be changed, told apart by what Asterisk may have done."""

from __future__ import annotations

from collections.abc import Iterable

from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.text import clean

#: How many of what there is an error lists.
LISTED = 20


class ControlError(Exception):
    """Base of these errors. ``kind`` is a short stable name for programs and tests."""

    kind = "control_error"
    #: Whether nothing was asked of Asterisk that changes anything.
    nothing_sent = True

    def __init__(self, text: str) -> None:
        super().__init__("\n".join(clean(line) for line in text.splitlines()))


class RefusedValueError(ControlError):
    """A value that Asterisk could misread."""

    kind = "refused_value"

    def __init__(self, what: str, value: str, expected: str) -> None:
        shown = value if len(value) <= 60 else f"{value[:60]}…"
        super().__init__(f"{what} {shown!r}: expected {expected}.")


class UnknownNameError(ControlError):
    """There is no such channel, queue, member, extension or device."""

    kind = "unknown_name"


class AmbiguousNameError(ControlError):
    """Several channels or members go by that name."""

    kind = "ambiguous_name"


class RefusedError(ControlError):
    """Asterisk was asked and said no."""

    kind = "refused_by_asterisk"
    nothing_sent = False


class NotConfirmedError(ControlError):
    """Asterisk was asked, and has not said that it is done: it may be."""

    kind = "not_confirmed"
    nothing_sent = False


def listed(what: Iterable[str], none: str = "none") -> str:
    """Return what there is as indented lines, the first ``LISTED`` of it."""
    lines = list(what)
    more = [f"… and {len(lines) - LISTED} more"] if len(lines) > LISTED else []
    return "".join(f"\n  {line}" for line in [*lines[:LISTED], *more]) or f" {none}."


def refused(action: str, error: AmiError) -> RefusedError:
    """Return the error for an action that Asterisk answered with one."""
    return RefusedError(f"{action}: {error}")
