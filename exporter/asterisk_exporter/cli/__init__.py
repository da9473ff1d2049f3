"""The command ``asterisk-exporter``: one file a command."""

from __future__ import annotations

from pathlib import Path

import click

from asterisk_exporter import __version__, config
from asterisk_exporter.cli.cdr import cdr
from asterisk_exporter.cli.check import check
from asterisk_exporter.cli.common import stop
from asterisk_exporter.cli.missed import missed_command
from asterisk_exporter.cli.queues import queues_command
from asterisk_exporter.cli.serve import serve


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, help="Show the version and exit.")
def main() -> None:
    """Prometheus exporter and health check for Asterisk."""


@main.command("check-config")
@click.argument("file", type=click.Path(path_type=Path))
def check_config(file: Path) -> None:
    """Say whether FILE is a valid configuration.

    The secret files that it names need not exist. Exits 0 when it is valid, else 2.
    """
    try:
        config.load(file)
    except config.ConfigError as error:
        stop(error, 2)
    click.echo(f"{file}: valid")


for command in (serve, check, cdr, missed_command, queues_command):
    main.add_command(command)
