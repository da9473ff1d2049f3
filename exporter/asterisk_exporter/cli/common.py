"""What the commands share: ``--config``, and how they end when they cannot go on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Callable, NoReturn

import click

from asterisk_exporter import config

Command = Callable[..., Any]


def config_option(command: Command) -> Command:
    """Add ``--config``."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"Configuration file. Default: ${config.PATH_VARIABLE}, else {config.DEFAULT_PATH}.",
    )(command)


def stop(message: object, code: int) -> NoReturn:
    """Say why on standard error, line by line, and exit with ``code``."""
    for line in str(message).splitlines():
        click.echo(f"asterisk-exporter: {line}", err=True)
    sys.exit(code)
