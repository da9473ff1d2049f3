"""The command ``asterisk-ctl``: calls and queue members, changed."""

from __future__ import annotations

import click

from asterisk_exporter import __version__
from asterisk_exporter.cli.ctl.call import call
from asterisk_exporter.cli.ctl.queue import queue


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, help="Show the version and exit.")
def main() -> None:
    """Place, move and end calls; say who answers queues.

    It says that something is done when Asterisk reports it. Exits 0 then; 1 when Asterisk refused,
    or did not report it in time; 2 when nothing was asked: wrong usage, no such channel, an
    unusable configuration, nobody answers.

    \b
    Completion:  eval "$(_ASTERISK_CTL_COMPLETE=bash_source asterisk-ctl)"
    """  # noqa: D301 - click reads it


main.add_command(call)
main.add_command(queue)
