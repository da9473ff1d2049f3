"""``asterisk-exporter queues``."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from asterisk_exporter import config, missed, summary
from asterisk_exporter.ami.client import Deadline
from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.ami.session import AmiSession
from asterisk_exporter.cli.common import config_option, stop
from asterisk_exporter.cli.terminal import console, fits, json_text
from asterisk_exporter.collectors.queues import queues as queues_in
from asterisk_exporter.journal.store import JournalStoreError
from asterisk_exporter.text import clean

TIMEOUT_SECONDS = 5.0
REFRESH_SECONDS = 2.0


@dataclass(frozen=True)
class _Asked:
    """What every look needs."""

    session: AmiSession
    settings: config.Config
    queue: str | None


@click.command("queues")
@config_option
@click.option("--queue", metavar="QUEUE", help="Only this queue.")
@click.option(
    "--watch", is_flag=True, help=f"Look again every {REFRESH_SECONDS:.0f} s, until Ctrl-C."
)
@click.option(
    "--json",
    "json_output",
    is_flag=True,
    help="Print one JSON document instead; with --watch one a line.",
)
def queues_command(
    config_path: Path | None, queue: str | None, *, watch: bool, json_output: bool
) -> None:
    """Show the queues: who waits and who could answer now, and today's figures.

    Exits 0, or 2 when Asterisk cannot be asked or has no such queue. With --watch it goes on
    through restarts of Asterisk, and ends with 0 on Ctrl-C.
    """
    try:
        settings, path = config.load(config_path)
        session = AmiSession(config.target(settings, path))
    except config.ConfigError as error:
        stop(error, 2)
    asked = _Asked(session, settings, queue)
    try:
        if watch:
            _watch(asked, json_output)
        else:
            _show_once(asked, json_output)
    except summary.UnknownQueueError as error:
        stop(error, 2)
    except KeyboardInterrupt:
        if not watch:
            raise
    finally:
        session.close()


def _show_once(asked: _Asked, json_output: bool) -> None:
    try:
        found = _look(asked)
    except AmiError as error:
        stop(clean(str(error)), 2)
    if json_output:
        click.echo(json_text(summary.as_dict(found), indent=2))
    else:
        out = console()
        out.print(_screen(found, out))


def _watch(asked: _Asked, json_output: bool) -> None:
    out = console()
    if json_output:
        for found in _looks(asked):
            click.echo(json_text(summary.as_dict(found)))
    elif not out.is_terminal:
        # nothing to refresh in place: one screen after the other
        for found in _looks(asked):
            out.print(_screen(found, out))
    else:
        with Live(console=out, auto_refresh=False) as live:
            for found in _looks(asked):
                live.update(_screen(found, out), refresh=True)


def _looks(asked: _Asked) -> Iterator[summary.Summary]:
    """Look again and again; an error is something to show and to wait out.

    Only a queue that the first answer does not have is taken for a wrong name: a later one may
    lack it while Asterisk starts.
    """
    answered = False
    while True:
        began = time.monotonic()
        try:
            found = _look(asked)
            answered = True
        except summary.UnknownQueueError as error:
            if not answered:
                raise
            found = summary.Summary(_now(asked), error=str(error))
        except AmiError as error:
            found = summary.Summary(_now(asked), error=clean(str(error)))
        yield found
        time.sleep(max(0.0, began + REFRESH_SECONDS - time.monotonic()))


def _look(asked: _Asked) -> summary.Summary:
    """Ask AMI and the state file once. Raises AmiError and UnknownQueueError."""
    replies = asked.session.ask(("QueueStatus",), Deadline(TIMEOUT_SECONDS))
    queues = summary.choose(queues_in(replies["QueueStatus"], time.time()), asked.queue)
    at = _now(asked)
    today: Mapping[str, summary.Today] | None = None
    today_error = None
    try:
        today = summary.read_today(asked.settings.state_directory, at.date())
    except JournalStoreError as error:
        today_error = clean(str(error))
    return summary.Summary(
        at=at,
        queues=tuple(summary.join(queues, today)),
        total=summary.total(queues, today),
        today_error=today_error,
    )


def _now(asked: _Asked) -> datetime:
    return missed.local(time.time(), asked.settings.zone)


def _screen(found: summary.Summary, out: Console) -> RenderableType:
    """Return what people see of one look."""
    at = found.at.strftime("%Y-%m-%d %H:%M:%S")
    if found.queues is None or found.total is None:
        return Text(f"{at}  {found.error}")
    if not found.queues:
        return Text(f"{at}  Asterisk has no queues.")
    parts: list[RenderableType] = [Text(f"Queues at {at}")]
    tables = summary.tables(found.queues, found.total, narrow=False)
    if not fits(tables[0], out):
        tables = summary.tables(found.queues, found.total, narrow=True)
    parts += tables
    if found.today_error is not None:
        parts.append(Text(f"No figures of today: {found.today_error}"))
    return Group(*parts)
