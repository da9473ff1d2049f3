"""``asterisk-exporter missed``."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import click

from asterisk_exporter import config, missed
from asterisk_exporter.cli.common import config_option, since_option, stop
from asterisk_exporter.cli.terminal import console, fits, json_text
from asterisk_exporter.journal.store import JournalStoreError, read_only


@click.command("missed")
@config_option
@since_option("24h")
@click.option(
    "--outstanding",
    is_flag=True,
    help="Only callers with a number with whom nobody has spoken since.",
)
@click.option("--json", "json_output", is_flag=True, help="Print a JSON list instead.")
@click.option("--csv", "csv_output", is_flag=True, help="Print CSV instead.")
def missed_command(
    config_path: Path | None,
    since: timedelta,
    *,
    outstanding: bool,
    json_output: bool,
    csv_output: bool,
) -> None:
    """List the calls that nobody answered, newest last.

    Says who called, what they reached and why it was missed, and whether anybody has spoken with
    them since. Exits 0, or 2 when the exporter's state cannot be read.
    """
    if json_output and csv_output:
        raise click.UsageError("expected one of --json and --csv, not both.")
    began = datetime.now(timezone.utc) - since
    try:
        settings, _ = config.load(config_path)
        with read_only(settings.state_directory) as db:
            calls = missed.missed_calls(db, began, settings.zone)
    except (config.ConfigError, JournalStoreError) as error:
        stop(error, 2)
    if outstanding:
        calls = [call for call in calls if call.outstanding]
    if json_output:
        click.echo(json_text([missed.as_dict(call) for call in calls], indent=2))
    elif csv_output:
        click.echo(missed.as_csv(calls), nl=False)
    else:
        start = missed.local(began.timestamp(), settings.zone)
        _print(calls, start, "outstanding missed" if outstanding else "missed")


def _print(calls: list[missed.MissedCall], start: datetime, kind: str) -> None:
    if not calls:
        click.echo(f"No {kind} calls since {start.strftime('%Y-%m-%d %H:%M')}.")
        return
    out, table = console(), missed.table(calls)
    out.print(table if fits(table, out) else missed.table(calls, narrow=True))
    click.echo(missed.totals(calls))
