"""What a link of the chain says about itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from asterisk_exporter.health import Status


@dataclass(frozen=True)
class Finding:
    """One thing that was seen. ``action``: what to do about it, empty when all is well.

    ``status`` None: it was not looked at, and ``text`` says why.
    """

    status: Status | None
    text: str
    action: str = ""


def ok(text: str) -> Finding:
    """Return what is as it should be."""
    return Finding(Status.OK, text)


def warning(text: str, action: str) -> Finding:
    """Return what will do harm, or hides something."""
    return Finding(Status.WARNING, text, action)


def critical(text: str, action: str) -> Finding:
    """Return what is broken: calls or figures are being lost."""
    return Finding(Status.CRITICAL, text, action)


def not_set_up(text: str) -> Finding:
    """Return that this PBX does without; ``text`` names the setting that would change it."""
    return Finding(None, f"not set up: {text}")


def not_looked_at(why: str) -> Finding:
    """Return that nothing can be told here; ``why``, and it is nobody's fault."""
    return Finding(None, f"not looked at: {why}")


#: So many findings or names of one kind are shown.
MOST = 8


def some(findings: Sequence[Finding]) -> Iterator[Finding]:
    """Yield the first of many findings of one kind, then one that says how many more there are."""
    yield from findings[:MOST]
    rest = findings[MOST:]
    if rest:
        status = worst(finding.status for finding in rest)
        yield Finding(status, f"and {len(rest)} more like these", "As above.")


def listed(names: Sequence[str], most: int = MOST) -> str:
    """Return the first of many names in a row, and how many more there are."""
    shown, more = ", ".join(names[:most]), len(names) - most
    return f"{shown} and {more} more" if more > 0 else shown


@dataclass(frozen=True)
class Examined:
    """A link and what was found, worst first."""

    name: str
    findings: tuple[Finding, ...]

    @property
    def status(self) -> Status | None:
        """The worst of the findings; None when it was not looked at."""
        return worst(finding.status for finding in self.findings)


def worst(found: Iterable[Status | None]) -> Status | None:
    """Return the worst of what was looked at, None when nothing was."""
    return max((status for status in found if status is not None), default=None)
