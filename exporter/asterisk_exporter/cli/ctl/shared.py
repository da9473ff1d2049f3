"""What the commands share: their options, the session, how they end, and completion."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, TypeVar

import click
from click.shell_completion import CompletionItem

from asterisk_exporter import config
from asterisk_exporter.ami.client import Action
from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.cli.common import Command, config_option, stop
from asterisk_exporter.cli.terminal import json_text
from asterisk_exporter.control.channels import list_channels
from asterisk_exporter.control.errors import ControlError
from asterisk_exporter.control.queue_members import list_members, list_queues
from asterisk_exporter.control.session import (
    DEFAULT_TIMEOUT_SECONDS,
    ControlSession,
    WouldSend,
)
from asterisk_exporter.text import clean

T = TypeVar("T")

PROGRAM = "asterisk-ctl"
#: A shell waits for it at each press of the tab key.
COMPLETION_SECONDS = 1.0

Completed = list[CompletionItem]


@dataclass(frozen=True)
class Given:
    """The shared options as they were given."""

    config_path: Path | None
    timeout: float
    json_output: bool
    dry_run: bool = False

    def run(self, operate: Callable[[ControlSession], T]) -> T:
        """Return what ``operate`` does in a session; ends the program when that fails."""
        try:
            with _session(self.config_path, self.timeout, self.dry_run) as session:
                return operate(session)
        except WouldSend as dry:
            self._show_dry(dry.action)
            sys.exit(0)
        except config.ConfigError as error:
            stop(error, 2, PROGRAM)
        except ControlError as error:
            stop(error, 2 if error.nothing_sent else 1, PROGRAM)
        except AmiError as error:
            stop(clean(str(error)), 2, PROGRAM)

    def show(self, document: object, text: str) -> None:
        """Print the outcome as it was asked for."""
        click.echo(json_text(document, indent=2) if self.json_output else clean(text))

    def _show_dry(self, action: Action) -> None:
        if self.json_output:
            click.echo(json_text({"would_send": dict(action.headers)}, indent=2))
        else:
            for name, value in action.headers:
                click.echo(clean(f"{name}: {value}"))


def _session(config_path: Path | None, timeout: float, dry_run: bool) -> ControlSession:
    settings, path = config.load(config_path)
    target, control = config.control_target(settings, path)
    return ControlSession.open(target, timeout=timeout, contexts=control.contexts, dry_run=dry_run)


def looks(command: Command) -> Command:
    """Add the options of a command that changes nothing; it gets ``given`` for them."""

    @config_option
    @click.option(
        "--timeout",
        type=click.FloatRange(0.1, 300),
        default=DEFAULT_TIMEOUT_SECONDS,
        show_default=True,
        metavar="SECONDS",
        help="How long Asterisk may take to connect, and to report what it did.",
    )
    @click.option("--json", "json_output", is_flag=True, help="Print one JSON document instead.")
    @functools.wraps(command)
    def wrapped(
        *,
        config_path: Path | None,
        timeout: float,
        json_output: bool,
        dry_run: bool = False,
        **rest: Any,
    ) -> Any:
        return command(given=Given(config_path, timeout, json_output, dry_run), **rest)

    return wrapped


def changes(command: Command) -> Command:
    """Add the options of a command that changes something."""
    return click.option(
        "--dry-run",
        is_flag=True,
        help="Look everything up, print the AMI message that would be sent, and send nothing.",
    )(looks(command))


def _complete(
    context: click.Context, ask: Callable[[ControlSession], Iterable[tuple[str, str]]]
) -> Callable[[str], Completed]:
    """Return what completes a text with what Asterisk has; nothing when it cannot be asked."""

    def complete(incomplete: str) -> Completed:
        try:
            with _session(context.params.get("config_path"), COMPLETION_SECONDS, False) as session:
                found = list(ask(session))
        except (config.ConfigError, ControlError, AmiError):
            return []
        return [
            CompletionItem(value, help=clean(text))
            for value, text in found
            if value.startswith(incomplete) and value.isprintable()
        ]

    return complete


def complete_queue(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> Completed:
    """Complete the name of a queue."""
    return _complete(context, lambda session: ((name, "") for name in list_queues(session)))(
        incomplete
    )


def complete_member(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> Completed:
    """Complete a member's interface, of the queue that was named before or of any."""

    def members(session: ControlSession) -> Iterable[tuple[str, str]]:
        names = {m.interface: m.name for m in list_members(session, context.params.get("queue"))}
        return names.items()

    return _complete(context, members)(incomplete)


def complete_channel(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> Completed:
    """Complete the name of a channel."""

    def names(session: ControlSession) -> Iterable[tuple[str, str]]:
        return ((one.name, f"{one.state}, {one.seconds} s") for one in list_channels(session))

    return _complete(context, names)(incomplete)
