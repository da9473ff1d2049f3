"""``asterisk-exporter cdr``: call records of the past, and what they say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from asterisk_exporter import config, importer, quality
from asterisk_exporter.cli.common import config_option, since_option, stop
from asterisk_exporter.journal.runner import SourceError
from asterisk_exporter.text import clean


@click.group()
def cdr() -> None:
    """Import call records of the past; say how calls went."""


@cdr.command("import")
@config_option
@click.option(
    "--csv",
    "csv_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Import a Master.csv of Asterisk (or Master.csv.2.gz) with all of its 21 columns.",
)
@click.option(
    "--from",
    "source",
    metavar="DSN",
    help="Import the table cdr of postgresql://USER@HOST/DATABASE or mysql://USER@HOST/DATABASE "
    "(FreePBX: asteriskcdrdb). Its password may be in $PGPASSWORD or $MYSQL_PWD.",
)
@click.option(
    "--days",
    type=click.IntRange(1, 36_500),
    metavar="N",
    help="With --from: only calls of the last N days.",
)
@click.option(
    "--timezone",
    "zone",
    default="UTC",
    show_default=True,
    metavar="ZONE",
    help="Zone of times that name none, such as Europe/Berlin (usegmtime = no in cdr.conf). "
    "An import in another zone adds the same calls again, at other times.",
)
@click.option(
    "--system-name",
    metavar="NAME",
    help="PBX that the records are of. Default: system_name of the configuration; with --from, "
    "records that name their own keep it.",
)
def import_command(  # noqa: PLR0913 - one parameter an option
    *,
    config_path: Path | None,
    csv_file: Path | None,
    source: str | None,
    days: int | None,
    zone: str,
    system_name: str | None,
) -> None:
    """Add call records of the past to the configured PostgreSQL.

    What is there already is skipped, so it can be run again, also after it was interrupted. The
    metrics do not count these records: they count what happens from now on.

    Exits 0, 1 when records had errors (the others are imported), 2 when it could not run or go on.
    """
    if (csv_file is None) == (source is None):
        raise click.UsageError("Expected one of --csv FILE and --from DSN.")
    if days is not None and source is None:
        raise click.UsageError("--days goes with --from.")
    try:
        settings, path = config.load(config_path)
        target = config.import_database(settings, path)
        name = system_name or settings.system_name
        with _progress() as progress:
            if csv_file is not None:
                result = importer.import_csv(csv_file, target, name, zone=zone, progress=progress)
            else:
                result = importer.import_database(
                    source or "",
                    target,
                    name,
                    zone=zone,
                    override_system_name=system_name is not None,
                    since=None if days is None else _days_ago(days),
                    progress=progress,
                )
    except (config.ConfigError, importer.ImportFailedError) as error:
        stop("\n".join(clean(line) for line in str(error).splitlines()), 2)
    except KeyboardInterrupt:
        stop("interrupted; run it again to import the rest, it skips what is there", 2)
    _show(result)
    sys.exit(1 if result.errors else 0)


def _days_ago(days: int) -> datetime:
    return datetime.now(timezone.utc) - timedelta(days=days)


def _show(result: importer.Result) -> None:
    click.echo(
        f"Imported {result.imported}, skipped {result.skipped} (there already), "
        f"errors {result.errors}."
    )
    for error in result.first_errors:
        click.echo(clean(str(error)), err=True)
    unshown = result.errors - len(result.first_errors)
    if unshown:
        click.echo(f"… and {unshown} more errors.", err=True)


@contextmanager
def _progress() -> Iterator[importer.Progress | None]:
    """Give what moves a bar on a terminal, else None."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task("Importing", total=None)

        def move(done: int, total: int | None) -> None:
            if total is not None:
                shown.update(task, completed=done, total=total)
            elif done:
                shown.update(task, description=f"Importing, {done} records read")

        yield move


@cdr.command("quality")
@config_option
@since_option("1h")
@click.option("--json", "json_output", is_flag=True, help="Print one JSON document instead.")
def quality_command(config_path: Path | None, since: timedelta, json_output: bool) -> None:
    """Say how many calls were completed, and how long people talked.

    A call is completed when somebody answered it, not an announcement or voicemail. Imported
    records count too. Exits 0, and 2 when the database cannot be asked.
    """
    try:
        settings, path = config.load(config_path)
        database = config.database(settings, path)
    except config.ConfigError as error:
        stop(error, 2)
    if database is None:
        stop(f"{path}: cdr: expected source postgresql, with the call records.", 2)
    try:
        found = quality.call_quality(database, settings.system_name, since)
    except SourceError as error:
        stop(f"{path}: cdr: {clean(str(error))}", 2)
    if json_output:
        document = {
            "since_seconds": int(since.total_seconds()),
            "short_seconds": quality.SHORT_SECONDS,
            **asdict(found),
        }
        click.echo(json.dumps(document, indent=2))
        return
    for name, value in _rows(found, since):
        click.echo(f"{name + ':':<20}{value}")


def _rows(found: quality.Quality, since: timedelta) -> list[tuple[str, str]]:
    rate, talk = found.completion_rate, found.average_talk_seconds
    return [
        ("Since", f"{datetime.now().astimezone() - since:%Y-%m-%d %H:%M:%S %Z}"),
        ("Calls", str(found.calls)),
        ("Completed", str(found.completed)),
        ("Completion rate", "no calls" if rate is None else f"{rate:.1%}"),
        ("Average talk", "no completed calls" if talk is None else f"{talk:.1f} s"),
        (f"Shorter than {quality.SHORT_SECONDS} s", str(found.short_calls)),
    ]
