"""``asterisk-exporter check``, for people and for Nagios."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import click

from asterisk_exporter import config, health, report
from asterisk_exporter.api import ask_health
from asterisk_exporter.cli.common import config_option
from asterisk_exporter.text import clean


class NagiosCommand(click.Command):
    """A command whose bad usage is UNKNOWN (3), as monitoring plugins have it."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            error.show()
            sys.exit(int(health.Status.UNKNOWN))


@click.command(cls=NagiosCommand)
@config_option
@click.option("--host", help="Overrides ami.host.")
@click.option("--port", type=click.IntRange(1, 65535), help="Overrides ami.port.")
@click.option("--username", help="Overrides ami.username.")
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Overrides ami.secret_file; ${config.SECRET_VARIABLE} overrides both.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 300),
    default=5.0,
    show_default=True,
    help="Seconds for the whole check.",
)
@click.option("--full", is_flag=True, help="Show channels, endpoints, registrations, CDR age too.")
@click.option("--queues", "show_queues", is_flag=True, help="Show each queue too.")
@click.option("--json", "json_output", is_flag=True, help="Print one JSON document instead.")
@click.option(
    "--endpoints-ok",
    type=click.FloatRange(0, 100),
    default=90.0,
    show_default=True,
    help="Percentage of endpoints online below which it is WARNING.",
)
@click.option(
    "--endpoints-warning",
    type=click.FloatRange(0, 100),
    default=50.0,
    show_default=True,
    help="Percentage of endpoints online below which it is CRITICAL.",
)
@click.option(
    "--max-wait",
    type=click.FloatRange(0),
    default=120.0,
    show_default=True,
    help="Seconds a caller may wait in a queue before it is WARNING.",
)
def check(  # noqa: PLR0913 - one parameter an option
    *,
    config_path: Path | None,
    host: str | None,
    port: int | None,
    username: str | None,
    secret_file: Path | None,
    timeout: float,
    full: bool,
    show_queues: bool,
    json_output: bool,
    endpoints_ok: float,
    endpoints_warning: float,
    max_wait: float,
) -> None:
    """Ask Asterisk how it is; fit for Nagios.

    Exits 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (bad usage or configuration). The same things are
    judged whatever is shown.
    """
    try:
        settings, path = config.load(config_path)
        given = {"host": host, "port": port, "username": username}
        if secret_file is not None:
            given["secret_file"] = str(secret_file.absolute())
        ami = settings.ami.model_copy(update={k: v for k, v in given.items() if v is not None})
        target = config.target(settings.model_copy(update={"ami": ami}), path)
        database = config.call_records(settings, path)
    except config.ConfigError as unusable:
        click.echo(f"ASTERISK UNKNOWN - {clean(' '.join(str(unusable).splitlines()))}")
        sys.exit(int(health.Status.UNKNOWN))
    thresholds = health.Thresholds(endpoints_ok, endpoints_warning, max_wait)
    found, error = ask_health(target, timeout, thresholds, database, settings.system_name)
    if json_output:
        click.echo(report.as_json(found, target, error))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
        shown = report.Shown(full, show_queues, width)
        click.echo(report.as_text(found, target, error, shown))
    sys.exit(int(found.status))
