"""The command ``asterisk-exporter``: one file a command."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import click

from asterisk_exporter import __version__, config, web_config
from asterisk_exporter.cli.common import stop

#: Each command's name, and where it is: module:attribute.
COMMANDS = {
    "cdr": "asterisk_exporter.cli.cdr:cdr",
    "check": "asterisk_exporter.cli.check:check",
    "doctor": "asterisk_exporter.cli.doctor:doctor",
    "missed": "asterisk_exporter.cli.missed:missed_command",
    "notify": "asterisk_exporter.cli.notify:notify",
    "queues": "asterisk_exporter.cli.queues:queues_command",
    "serve": "asterisk_exporter.cli.serve:serve",
}


class LazyGroup(click.Group):
    """Imports a command when it is asked for: the service carries no tables and importers."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return every name."""
        return sorted([*super().list_commands(ctx), *COMMANDS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return the command of that name."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = COMMANDS[cmd_name].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, help="Show the version and exit.")
def main() -> None:
    """Prometheus exporter and health check for Asterisk."""


@main.command("check-config")
@click.argument("file", type=click.Path(path_type=Path))
def check_config(file: Path) -> None:
    """Say whether FILE is a valid configuration.

    The web configuration that it names is read too; the files of secrets need not exist. Exits 0
    when it is valid, else 2.
    """
    try:
        settings, path = config.load(file)
        web = config.web_config_path(settings, path)
        if web is not None:
            web_config.load(web)
    except config.ConfigError as error:
        stop(error, 2)
    click.echo(f"{file}: valid")
