"""What the commands share: options, durations, and how they end when they cannot go on."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Callable, NoReturn

import click

from asterisk_exporter import config

Command = Callable[..., Any]

if TYPE_CHECKING:
    DurationType = click.ParamType[timedelta]
else:
    DurationType = click.ParamType  # generic only in newer versions of click


def config_option(command: Command) -> Command:
    """Add ``--config``."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"Configuration file. Default: ${config.PATH_VARIABLE}, else {config.DEFAULT_PATH}.",
    )(command)


def log_level_option(command: Command) -> Command:
    """Add ``--log-level``, for ``log_to_stderr``."""
    return click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        show_default=True,
        help="The least severe messages to log, to standard error.",
    )(command)


def log_to_stderr(level: str) -> None:
    """Log as the services do: the journal adds the time."""
    logging.basicConfig(level=level.upper(), format="%(levelname)s %(message)s")


class Duration(DurationType):
    """A length of time such as ``30m``, ``24h`` or ``7d``; gives a timedelta above 0."""

    name = "duration"
    _UNITS = MappingProxyType({"s": "seconds", "m": "minutes", "h": "hours", "d": "days"})
    #: A century: now minus the duration stays a date, in any zone.
    _LONGEST = timedelta(days=36_525)

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        """Return the length of time. Ends in bad usage for a text that is none."""
        if isinstance(value, timedelta):
            return value
        found = re.fullmatch(r"([0-9]{1,9})([smhd])", str(value).strip())
        length = timedelta(0)
        if found is not None:
            with contextlib.suppress(OverflowError):
                length = timedelta(**{self._UNITS[found[2]]: int(found[1])})
        if timedelta(0) < length <= self._LONGEST:
            return length
        raise click.BadParameter(
            f"{value!r}: expected a number above 0 and a unit, s, m, h or d, such as 30m, 24h or "
            "7d; at most 100 years.",
            ctx,
            param,
        )


def since_option(default: str | None = None) -> Callable[[Command], Command]:
    """Add ``--since``; the command gets ``since``, a timedelta back from now."""
    return click.option(
        "--since",
        type=Duration(),
        default=default,
        show_default=default is not None,
        metavar="DURATION",
        help="Look back this far, such as 30m, 24h or 7d.",
    )


def stop(message: object, code: int, program: str = "asterisk-exporter") -> NoReturn:
    """Say why on standard error, line by line, and exit with ``code``."""
    for line in str(message).splitlines():
        click.echo(f"{program}: {line}", err=True)
    sys.exit(code)
