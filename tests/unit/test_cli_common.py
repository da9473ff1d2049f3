"""What the commands share: durations."""

from datetime import timedelta

import click
import pytest
from click.testing import CliRunner

from asterisk_exporter.cli.common import Duration, since_option


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("30m", timedelta(minutes=30)),
        ("24h", timedelta(hours=24)),
        ("7d", timedelta(days=7)),
        (" 007d ", timedelta(days=7)),
        ("36525d", timedelta(days=36_525)),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, expected):
    assert Duration()(text) == expected


@pytest.mark.parametrize(
    "text",
    ["", "7", "d", "0d", "-1d", "1.5h", "7D", "1w", "1h30m", "7d\n8", "٣d", "36526d", "999999999d"],
)
def test_what_is_no_duration_is_bad_usage(text):
    with pytest.raises(click.BadParameter, match="expected a number above 0 and a unit"):
        Duration()(text)


def test_since_has_the_default_of_its_command():
    @click.command()
    @since_option("1h")
    def command(since):
        click.echo(repr(since))

    run = CliRunner().invoke
    assert run(command, []).output.strip() == repr(timedelta(hours=1))
    assert run(command, ["--since", "2d"]).output.strip() == repr(timedelta(days=2))
    assert "1h" in run(command, ["--help"]).output
    assert run(command, ["--since", "soon"]).exit_code == 2
