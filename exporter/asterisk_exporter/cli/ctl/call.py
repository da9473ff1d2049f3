"""``asterisk-ctl call``."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.table import Table
from rich.text import Text

from asterisk_exporter.cli.ctl.shared import Given, changes, complete_channel, looks
from asterisk_exporter.cli.terminal import NOTHING, console
from asterisk_exporter.control import hangup, originate, park, transfer
from asterisk_exporter.control.channels import Channel, list_channels
from asterisk_exporter.text import clean

channel_argument = click.argument("channel", shell_complete=complete_channel)
context_option = click.option(
    "--context",
    metavar="CONTEXT",
    help="Context of the extension, one of control.contexts. Default: the first of them.",
)


@click.group()
def call() -> None:
    """Place, move, park, end and list calls.

    CHANNEL is a channel's name (PJSIP/101-0000000a), its uniqueid, or the extension whose only
    channel it is (101).
    """


@call.command("originate")
@click.argument("phone")
@click.argument("extension")
@context_option
@click.option(
    "--ring",
    "ring_seconds",
    type=click.IntRange(1, 300),
    default=originate.DEFAULT_RING_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long the phone may ring.",
)
@click.option(
    "--caller-id",
    metavar="NUMBER",
    help="Caller id of the call, such as 500 or 'Callback <500>'. Default: the phone's own.",
)
@changes
def originate_command(  # noqa: PLR0913 - one parameter an option
    *,
    given: Given,
    phone: str,
    extension: str,
    context: str | None,
    ring_seconds: int,
    caller_id: str | None,
) -> None:
    """Ring PHONE; when it answers, it calls EXTENSION.

    Done when the phone has answered.

    \b
    asterisk-ctl call originate 101 102
    asterisk-ctl call originate 101 0301234567 --ring 20 --caller-id 'Callback <101>'
    """  # noqa: D301 - click reads it
    done = given.run(
        lambda session: originate.originate(
            session,
            phone,
            extension,
            context=context,
            ring_seconds=ring_seconds,
            caller_id=caller_id,
        )
    )
    given.show(
        asdict(done), f"{done.channel} answered, and calls {done.extension} in {done.context}."
    )


@call.command("transfer")
@channel_argument
@click.argument("extension")
@context_option
@click.option(
    "--other-party",
    is_flag=True,
    help="Send the one who talks with CHANNEL, as if that phone transferred the call.",
)
@changes
def transfer_command(
    given: Given, channel: str, extension: str, context: str | None, other_party: bool
) -> None:
    """Send CHANNEL to EXTENSION; whom it talked with is hung up.

    Done when the dialplan has it there.

    \b
    asterisk-ctl call transfer PJSIP/provider-0000001c 103
    asterisk-ctl call transfer 101 103 --other-party     101's caller goes to 103
    """  # noqa: D301 - click reads it
    done = given.run(
        lambda session: transfer.transfer(
            session, channel, extension, context=context, other_party=other_party
        )
    )
    given.show(asdict(done), f"{done.channel} is at {done.extension} in {done.context}.")


@call.command("park")
@channel_argument
@click.option(
    "--other-party",
    is_flag=True,
    help="Park the one who talks with CHANNEL, as if that phone parked the call.",
)
@changes
def park_command(given: Given, channel: str, other_party: bool) -> None:
    """Park CHANNEL, and print the space that fetches it when it is dialled.

    Whom it talked with hears the space, and gets the call back when nobody fetches it.

    \b
    asterisk-ctl call park PJSIP/provider-0000001c
    asterisk-ctl call park 101 --other-party             101's caller is parked
    """  # noqa: D301 - click reads it
    done = given.run(lambda session: park.park(session, channel, other_party=other_party))
    limit = "" if done.timeout_seconds is None else f", for {done.timeout_seconds} s"
    given.show(asdict(done), f"{done.channel} is parked at {done.space} (lot {done.lot}{limit}).")


@call.command("hangup")
@channel_argument
@changes
def hangup_command(given: Given, channel: str) -> None:
    """End CHANNEL, and with it its call.

    \b
    asterisk-ctl call hangup 101
    asterisk-ctl call hangup pbx1-1795516960.16
    """  # noqa: D301 - click reads it
    done = given.run(lambda session: hangup.hang_up(session, channel))
    given.show(asdict(done), f"{done.channel} hung up: {done.cause}.")


@call.command("list")
@looks
def list_command(given: Given) -> None:
    """List the channels: each call has one for each of its parties.

    \b
    asterisk-ctl call list
    asterisk-ctl call list --json
    """  # noqa: D301 - click reads it
    found = given.run(list_channels)
    if given.json_output:
        given.show([asdict(one) for one in found], "")
    elif found:
        console().print(_table(found))
    else:
        click.echo("No calls.")


def _table(found: list[Channel]) -> Table:
    table = Table()
    for title in ("Channel", "State", "Seconds", "Caller", "Connected", "Place", "Talks with"):
        table.add_column(title, justify="right" if title == "Seconds" else "left")
    for one in found:
        place = f"{one.extension}@{one.context}" if one.extension else one.context
        cells = (
            f"{one.name}\n{one.uniqueid}",
            one.state,
            str(one.seconds),
            one.caller or NOTHING,
            one.connected or NOTHING,
            f"{place}\n{one.application}",
            one.peer or NOTHING,
        )
        table.add_row(*(Text("\n".join(map(clean, cell.split("\n")))) for cell in cells))
    return table
