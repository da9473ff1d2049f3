"""``asterisk-exporter doctor``."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from asterisk_exporter import config
from asterisk_exporter.cli.check import NagiosCommand
from asterisk_exporter.cli.common import config_option, stop
from asterisk_exporter.cli.terminal import console, json_text
from asterisk_exporter.doctor.chain import examine
from asterisk_exporter.doctor.finding import Examined, Finding, worst
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.health import Status
from asterisk_exporter.text import clean

_STYLES = {Status.OK: "green", Status.WARNING: "yellow", Status.CRITICAL: "bold red", None: "dim"}
_NOT_LOOKED_AT = "\u2013"
#: Columns of a link's name and of its status.
_WIDTHS = (20, 8)


@click.command(cls=NagiosCommand)
@config_option
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 60),
    default=5.0,
    show_default=True,
    help="Seconds for each question that is asked.",
)
@click.option("--json", "json_output", is_flag=True, help="Print one JSON document instead.")
def doctor(*, config_path: Path | None, timeout: float, json_output: bool) -> None:
    """Walk the chain from Asterisk to Prometheus; say what is wrong.

    For root on the PBX. Changes nothing. Exits 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (not root,
    bad usage or configuration).
    """
    if os.geteuid() != 0:
        stop("root is needed: it looks at what is nobody else's. Try: sudo", int(Status.UNKNOWN))
    try:
        settings, path = config.load(config_path)
    except config.ConfigError as unusable:
        stop(unusable, int(Status.UNKNOWN))
    chain = examine(Pbx(settings, path, timeout))
    if json_output:
        found = list(chain)
        click.echo(json_text(as_dict(found), indent=2))
    else:
        found = _print(chain, console())
    sys.exit(int(status_of(found)))


def status_of(found: Iterable[Examined]) -> Status:
    """Return the worst of all links."""
    status = worst(examined.status for examined in found)
    return Status.UNKNOWN if status is None else status


def as_dict(found: Iterable[Examined]) -> dict[str, Any]:
    """Return the findings fit for JSON. Its keys are stable; null: it was not looked at."""
    links = list(found)
    status = status_of(links)
    return {
        "status": status.name,
        "exit_code": int(status),
        "links": [
            {
                "name": link.name,
                "status": None if link.status is None else link.status.name,
                "findings": [_finding_as_dict(finding) for finding in link.findings],
            }
            for link in links
        ],
    }


def _finding_as_dict(finding: Finding) -> dict[str, Any]:
    return {
        "status": None if finding.status is None else finding.status.name,
        "text": finding.text,
        "action": finding.action or None,
    }


def _print(chain: Iterable[Examined], out: Console) -> list[Examined]:
    """Print each link when it has been looked at, then how many are not well."""
    found = []
    for examined in chain:
        found.append(examined)
        out.print(_rows(examined))
    well = sum(1 for examined in found if examined.status is Status.OK)
    bad = sum(1 for examined in found if examined.status not in (Status.OK, None))
    out.print(f"\n{status_of(found).name}: {_are(well, 'well')}, {_are(bad, 'not')}.")
    return found


def _are(number: int, how: str) -> str:
    return f"{number} {'link is' if number == 1 else 'links are'} {how}"


def _rows(examined: Examined) -> Table:
    rows = Table.grid(padding=(0, 1, 0, 0))
    for width in _WIDTHS:
        rows.add_column(width=width)
    rows.add_column(overflow="fold")
    name = examined.name
    for finding in examined.findings:
        status = _NOT_LOOKED_AT if finding.status is None else finding.status.name
        style = _STYLES[finding.status]
        rows.add_row(Text(name), Text(status, style), Text(clean(finding.text)))
        if finding.action:
            rows.add_row("", "", Text(f"\u2192 {clean(finding.action)}"))
        name = ""
    return rows
