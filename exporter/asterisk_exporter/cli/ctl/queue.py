"""``asterisk-ctl queue``."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from asterisk_exporter.cli.ctl.shared import (
    Given,
    changes,
    complete_member,
    complete_queue,
    looks,
)
from asterisk_exporter.cli.terminal import NOTHING, console
from asterisk_exporter.control import queue_members
from asterisk_exporter.control.queue_members import HIGHEST_PENALTY, QueueMember
from asterisk_exporter.text import clean

queue_argument = click.argument("queue", shell_complete=complete_queue)
member_argument = click.argument("member", shell_complete=complete_member)
queue_option = click.option(
    "--queue",
    metavar="QUEUE",
    shell_complete=complete_queue,
    help="Only in this queue. Default: all.",
)
reason_option = click.option("--reason", metavar="TEXT", help="Why it is paused.")


@click.group()
def queue() -> None:
    """Add, remove, pause and list members of queues.

    MEMBER is a member's interface (PJSIP/101), extension (101) or name (Alice).
    """


@queue.command("add")
@queue_argument
@click.argument("interface")
@click.option("--name", metavar="NAME", help="The member's name, which queue_log has too.")
@click.option(
    "--penalty",
    type=click.IntRange(0, HIGHEST_PENALTY),
    default=0,
    show_default=True,
    metavar="N",
    help="Members with a lower one are called first.",
)
@click.option("--paused", is_flag=True, help="Takes no calls yet.")
@reason_option
@changes
def add_command(  # noqa: PLR0913 - one parameter an option
    *,
    given: Given,
    queue: str,
    interface: str,
    name: str | None,
    penalty: int,
    paused: bool,
    reason: str | None,
) -> None:
    """Add INTERFACE, a phone of ours (PJSIP/101 or 101), to QUEUE until it is removed.

    \b
    asterisk-ctl queue add support 105
    asterisk-ctl queue add support PJSIP/105 --name Erin --penalty 3 --paused --reason training
    """  # noqa: D301 - click reads it
    if reason is not None and not paused:
        raise click.UsageError("--reason goes with --paused.")
    done = given.run(
        lambda session: queue_members.add_member(
            session,
            queue,
            interface,
            name=name,
            penalty=penalty,
            paused=paused,
            reason=reason,
        )
    )
    given.show(asdict(done), f"Added {_described(done)}.")


@queue.command("remove")
@queue_argument
@member_argument
@changes
def remove_command(given: Given, queue: str, member: str) -> None:
    """Remove MEMBER, who was added, from QUEUE. Members of queues.conf can be paused.

    \b
    asterisk-ctl queue remove support 105
    """  # noqa: D301 - click reads it
    done = given.run(lambda session: queue_members.remove_member(session, queue, member))
    given.show(asdict(done), f"Removed {done}.")


@queue.command("pause")
@member_argument
@queue_option
@reason_option
@changes
def pause_command(given: Given, member: str, queue: str | None, reason: str | None) -> None:
    """Let MEMBER take no calls, of one queue or of all that it is in.

    \b
    asterisk-ctl queue pause 101 --reason lunch
    asterisk-ctl queue pause Alice --queue support
    """  # noqa: D301 - click reads it
    done = given.run(
        lambda session: queue_members.pause_member(session, member, queue=queue, reason=reason)
    )
    _show_members(given, done, "Paused")


@queue.command("unpause")
@member_argument
@queue_option
@changes
def unpause_command(given: Given, member: str, queue: str | None) -> None:
    """Let MEMBER take calls again, of one queue or of all that it is in.

    \b
    asterisk-ctl queue unpause 101
    """  # noqa: D301 - click reads it
    done = given.run(lambda session: queue_members.unpause_member(session, member, queue=queue))
    _show_members(given, done, "Unpaused")


@queue.command("list")
@queue_option
@looks
def list_command(given: Given, queue: str | None) -> None:
    """List the members of the queues.

    \b
    asterisk-ctl queue list --queue support
    """  # noqa: D301 - click reads it
    found = given.run(lambda session: queue_members.list_members(session, queue))
    if given.json_output:
        given.show([asdict(one) for one in found], "")
    elif found:
        console().print(_table(found))
    else:
        click.echo("No members.")


def _show_members(given: Given, done: list[QueueMember], verb: str) -> None:
    if given.json_output:
        given.show([asdict(one) for one in done], "")
        return
    for one in done:
        click.echo(clean(f"{verb} {_described(one)}."))


def _described(member: QueueMember) -> str:
    text = f"{member}, penalty {member.penalty}, {member.state}"
    return text + (", " + _pause(member) if member.paused else "")


def _pause(member: QueueMember) -> str:
    return f"paused ({member.reason})" if member.reason else "paused"


def _table(found: list[QueueMember]) -> Table:
    table = Table()
    for title in ("Queue", "Interface", "Name", "Penalty", "State", "Paused", "Calls", "Kind"):
        table.add_column(title, justify="right" if title in {"Penalty", "Calls"} else "left")
    for one in found:
        cells = (
            one.queue,
            one.interface,
            one.name,
            str(one.penalty),
            one.state,
            _pause(one) if one.paused else NOTHING,
            str(one.calls),
            "added" if one.dynamic else "configured",
        )
        table.add_row(*(Text(clean(cell)) for cell in cells))
    return table
