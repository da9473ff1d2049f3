"""docs/from-a-crm-integration.md as data: its table, and the names that the table uses."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "from-a-crm-integration.md"
COLUMNS = ["Task", "Command", "Python, or HTTP", "Watched by"]
PYTHON = re.compile(r"\w+\(.*\)|\w+\.\w+\(.*\)")
METRIC = re.compile(r"asterisk_[a-z_]+")
ALERT = re.compile(r"runbooks/(\w+)\.md")


@dataclass(frozen=True)
class Row:
    """One task. ``python`` and ``http`` are never both there; either may be missing."""

    task: str
    command: str | None
    python: str | None
    http: str | None
    metrics: tuple[str, ...]
    alerts: tuple[str, ...]


def _tokens() -> list[Token]:
    text = DOCUMENT.read_text(encoding="utf-8")
    return MarkdownIt("commonmark").enable("table").parse(text)


def _code(cell: Token) -> list[str]:
    return [one.content for one in cell.children or [] if one.type == "code_inline"]


def _links(cell: Token) -> list[str]:
    return [str(one.attrs["href"]) for one in cell.children or [] if one.type == "link_open"]


def _row(cells: list[Token]) -> Row:
    task, command, call, watched = cells
    [given_command] = _code(command) or [None]
    [given_call] = _code(call) or [None]
    is_python = given_call is not None and PYTHON.fullmatch(given_call) is not None
    return Row(
        task.content,
        given_command,
        given_call if is_python else None,
        None if is_python else given_call,
        tuple(_code(watched)),
        tuple(found[1] for link in _links(watched) if (found := ALERT.fullmatch(link))),
    )


def rows() -> dict[str, Row]:
    """Return the table's rows by their task."""
    tokens = _tokens()
    begin, end = (
        next(n for n, one in enumerate(tokens) if one.type == kind)
        for kind in ("table_open", "table_close")
    )
    cells = [one for one in tokens[begin:end] if one.type == "inline"]
    width = len(COLUMNS)
    lines = [cells[at : at + width] for at in range(0, len(cells), width)]
    assert [one.content for one in lines[0]] == COLUMNS
    found = [_row(line) for line in lines[1:]]
    by_task = {row.task: row for row in found}
    assert len(by_task) == len(found), "two rows have the same task"
    return by_task


def names() -> str:
    """Return the document's Python: what the table's calls are made with."""
    [code] = [one.content for one in _tokens() if one.type == "fence" and one.info == "python"]
    return code
