"""What goes to a terminal: the console that tables are printed on, and JSON that is safe there."""

from __future__ import annotations

import json
import sys

from rich.console import Console, RenderableType

#: Columns where there is no terminal to ask.
WIDTH = 120
#: In a cell without a value.
NOTHING = "–"  # noqa: RUF001 - a dash


def console() -> Console:
    """Return a console on standard output; without a terminal it is ``WIDTH`` wide."""
    return Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)


def fits(shown: RenderableType, out: Console) -> bool:
    """Whether nothing of it has to be broken into more lines."""
    unlimited = out.options.update(width=10_000)
    return out.measure(shown, options=unlimited).maximum <= out.width


def json_text(document: object, indent: int | None = None) -> str:
    """Return JSON in UTF-8's letters; what a terminal would obey (C1 too) is escaped."""
    text = json.dumps(document, indent=indent, ensure_ascii=False)
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)
