"""What the benches share: the context, a row of the table, and a stopwatch for two in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass


class NoLabError(Exception):
    """The bench needs a machine with Asterisk, and there is none."""


@dataclass(frozen=True)
class Context:
    """``prefix`` runs a command on the machine with Asterisk, ``address`` is that machine."""

    prefix: tuple[str, ...]
    address: str


@dataclass(frozen=True)
class Row:
    """One line of the table. ``ours`` and ``peer`` are figures with their units."""

    work: str
    ours: str
    peer: str
    ratio: str
    bar: str
    met: bool


def at_least(work: str, ours: float, peer: float, factor: float, unit: str) -> Row:
    """Return the row of a rate that must be ``factor`` times the peer's."""
    ratio = ours / peer
    shown = [f"{rate:,.0f} {unit}" for rate in (ours, peer)]
    return Row(work, *shown, f"{ratio:.2f}", f"≥ {factor:g}", ratio >= factor)


def at_most(work: str, ours: float, peer: float, factor: float) -> Row:
    """Return the row of a time in seconds that may be ``factor`` times the peer's."""
    ratio = ours / peer
    shown = [f"{seconds * 1000:.1f} ms" for seconds in (ours, peer)]
    return Row(work, *shown, f"{ratio:.2f}", f"≤ {factor:g}", ratio <= factor)


def limit(work: str, value: float, highest: float, unit: str) -> Row:
    """Return the row of a figure without a peer."""
    return Row(work, f"{value:,.4g} {unit}", "", "", f"≤ {highest:,g} {unit}", value <= highest)


def figure(work: str, value: float, unit: str) -> Row:
    """Return the row of a figure that has no bar."""
    return Row(work, f"{value:,.4g} {unit}", "", "", "", met=True)


def seconds(work: Callable[[], object]) -> float:
    """Return how long one call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def medians(rounds: int, *works: Callable[[], object]) -> list[float]:
    """Return the median seconds of each work; they are done in turn, after one round unmeasured."""
    times: list[list[float]] = [[] for _ in works]
    for number in range(rounds + 1):
        for work, found in zip(works, times):
            taken = seconds(work)
            if number:
                found.append(taken)
    return [statistics.median(found) for found in times]


def as_table(rows: Iterable[Row]) -> str:
    """Return the rows as a table in Markdown, its columns aligned."""
    lines = [("work", "ours", "peer", "ratio", "bar", "met")]
    lines += [(r.work, r.ours, r.peer, r.ratio, r.bar, "yes" if r.met else "NO") for r in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    lines.insert(1, tuple("-" * width for width in widths))  # type: ignore[arg-type]
    return "\n".join(
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(line, widths))} |"
        for line in lines
    )
