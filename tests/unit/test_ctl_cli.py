"""asterisk-ctl: what it prints, how it exits, what it completes, and that docs/ has all of it."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from asterisk_exporter.cli.ctl import main

from .conftest import REPLIES, SECRET

DOCS = Path(__file__).parents[2] / "docs"
OK = b"Response: Success\r\nActionID: x\r\nMessage: Done\r\n\r\n"
THERE = b"Response: Success\r\nActionID: x\r\nValue: 1\r\n\r\n"
ERROR = b"Response: Error\r\nActionID: x\r\nMessage: No\x1b[31m such thing\r\n\r\n"
QUEUES = (REPLIES / "control" / "QueueStatus.txt").read_bytes()
PAUSED = QUEUES.replace(b"Paused: 0\r\nPausedReason: \r\n", b"Paused: 1\r\nPausedReason: lunch\r\n")
# click 8.2 keeps standard error apart by itself; Python 3.9 has no such click
RUNNER = CliRunner(
    **({"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {})
)


@pytest.fixture
def configured(tmp_path):
    """Write a configuration with the section `control`, and its secret."""

    def write(port: int, control: str = "{contexts: [internal, sales]}", secret: str = SECRET):
        (tmp_path / "control-secret").write_text(secret + "\n")
        path = tmp_path / "exporter.yml"
        path.write_text(f"ami: {{port: {port}}}\ncontrol: {control}\n")
        return path

    return write


@pytest.fixture
def ctl(configured, control_asterisk):
    """Run asterisk-ctl against an Asterisk that answers as captured, or as it is told."""

    def run(*arguments, **replies):
        server = control_asterisk(**replies)
        config = configured(server.port)
        found = RUNNER.invoke(main, [*arguments, "--config", str(config)])
        found.server = server
        return found

    return run


def lines(found) -> list[str]:
    assert found.exit_code == 0, found.output
    return found.stdout.splitlines()


# done


def test_originate(ctl):
    found = ctl("call", "originate", "101", "102", "--ring", "7", "--caller-id", "A <5>")
    assert lines(found) == ["PJSIP/101-00000015 answered, and calls 102 in internal."]
    sent = found.server.sent("Originate")
    assert (sent["Timeout"], sent["CallerID"]) == ("7000", '"A" <5>')
    elsewhere = ctl("call", "originate", "101", "102", "--context", "sales", Originate=ERROR)
    assert elsewhere.server.sent("Originate")["Context"] == "sales"


def test_transfer(ctl):
    found = ctl("call", "transfer", "101", "103", "--other-party", Getvar=THERE)
    assert lines(found) == ["PJSIP/102-00000016 is at 103 in internal."]


def test_park_prints_the_space(ctl):
    assert lines(ctl("call", "park", "102")) == [
        "PJSIP/102-00000016 is parked at 701 (lot default, for 45 s)."
    ]
    assert json.loads(ctl("call", "park", "102", "--json").stdout)["space"] == "701"
    assert "701" in lines(ctl("call", "park", "101", "--other-party"))[0]


def test_hangup(ctl):
    assert lines(ctl("call", "hangup", "102")) == ["PJSIP/102-00000016 hung up: Normal Clearing."]


def test_call_list(ctl):
    text = ctl("call", "list").stdout
    assert "│ PJSIP/101-00000015" in text
    assert "talks with" in text.lower()
    found = json.loads(ctl("call", "list", "--json").stdout)
    assert [one["peer"] for one in found] == ["PJSIP/102-00000016", "PJSIP/101-00000015"]
    none = OK.replace(b"Message", b"EventList: start\r\nMessage") + (
        b"Event: StatusComplete\r\nActionID: x\r\nEventList: Complete\r\n\r\n"
    )
    assert lines(ctl("call", "list", Status=none)) == ["No calls."]


def test_queue_members(ctl):
    listed = ctl("queue", "list", "--queue", "Sales").stdout
    assert "PJSIP/103" in listed
    assert "support" not in listed
    assert len(json.loads(ctl("queue", "list", "--json").stdout)) == 12
    done = ctl(
        "queue",
        "pause",
        "101",
        "--reason",
        "lunch",
        QueueStatus=[[QUEUES], [PAUSED]],
        QueuePause=OK,
    )
    assert lines(done) == [
        "Paused support: PJSIP/101 (PJSIP/101), penalty 0, not_in_use, paused (lunch).",
        "Paused vip: PJSIP/101 (PJSIP/101), penalty 0, not_in_use, paused (lunch).",
    ]
    back = ctl(
        *("queue", "unpause", "101", "--queue", "vip", "--json"),
        QueueStatus=[[PAUSED], [QUEUES]],
        QueuePause=OK,
    )
    assert [(one["queue"], one["paused"]) for one in json.loads(back.stdout)] == [("vip", False)]


def test_queue_add_and_remove(ctl):
    added = QUEUES.replace(b"Location: PJSIP/106\r\n", b"Location: PJSIP/107\r\n")
    # all of these queues' members are there; 107 is the sixth of vip
    done = ctl("queue", "add", "vip", "107", QueueStatus=[[QUEUES], [added]], QueueAdd=OK)
    assert lines(done) == ["Added vip: PJSIP/107 (PJSIP/106), penalty 0, not_in_use."]
    done = ctl("queue", "remove", "vip", "107", QueueStatus=[[added], [QUEUES]], QueueRemove=OK)
    assert lines(done) == ["Removed vip: PJSIP/107 (PJSIP/106)."]


# not done


def test_refused_is_1_and_says_what_asterisk_said(ctl):
    found = ctl("call", "hangup", "102", Hangup=ERROR)
    assert found.exit_code == 1
    assert found.stdout == ""
    assert "Asterisk answered Hangup with an error" in found.stderr
    assert "\x1b" not in found.stderr


def test_not_confirmed_is_1_and_says_what_was_seen(ctl):
    found = ctl("call", "hangup", "102", "--timeout", "0.3", Hangup=[OK, (0.0, "Park")])
    assert found.exit_code == 1
    assert "not within 0.3 s: Hangup of PJSIP/102-00000016" in found.stderr
    assert "1 ParkedCall" in found.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("call", "hangup", "999"), "there is no channel '999'"),
        (("call", "hangup", "/.*/"), "PJSIP/101-00000015 (pbx1-"),
        (("call", "originate", "101", "102,1"), "extension '102,1'"),
        (("call", "originate", "Local/101@internal", "102"), "phone 'Local/101@internal'"),
        (("call", "originate", "101", "102", "--context", "from-external"), "internal, sales"),
        (("call", "originate", "101", "102", "--caller-id", "a\r\nb"), "caller id"),
        (("call", "transfer", "102", "103&104"), "extension '103&104'"),
        (("queue", "add", "suport", "105"), "there is no queue 'suport'"),
        (("queue", "add", "support", "SIP/105"), "phone 'SIP/105'"),
        (("queue", "add", "support", "105", "--name", "a|b"), "member name 'a|b'"),
        (("queue", "add", "support", "105", "--penalty", "-1"), "--penalty"),
        (("queue", "add", "support", "105", "--reason", "x"), "--reason goes with --paused"),
        (("queue", "pause", "101", "--reason", "x\r\nAction: Command"), "reason 'x\\r\\nAction"),
        (("queue", "pause", "999"), "there is no member '999'"),
        (("queue", "remove", "sales", "101"), "sales: PJSIP/103"),
        (("call", "park"), "Missing argument"),
    ],
)
def test_what_cannot_be_asked_is_2_and_nothing_is_changed(ctl, arguments, said):
    found = ctl(*arguments)
    assert found.exit_code == 2, found.output
    assert said in found.stderr
    assert {one["Action"] for one in found.server.actions} <= {"Login", "Status", "QueueStatus"}


def test_an_asterisk_that_does_not_answer_is_2(configured, misbehaviour, ami_server, free_port):
    name, behaviour, _ = misbehaviour
    if name in {"dies_after_login", "dies_in_status"}:
        return  # at actions that are not asked here
    port = free_port() if behaviour is None else ami_server(behaviour).port
    found = RUNNER.invoke(
        main, ["queue", "list", "--timeout", "0.3", "--config", str(configured(port))]
    )
    assert found.exit_code == 2
    assert found.stderr.startswith("asterisk-ctl: ")
    assert SECRET not in found.output


@pytest.mark.parametrize(
    ("control", "said"),
    [
        ("null", "control: expected username and secret_file"),
        ("{contexts: []}", "control.contexts"),
        ("{contexts: ['a,b']}", "control.contexts.0"),
        ("{usrname: x}", "control.usrname: unknown key; expected one of: username, secret_file"),
        ("{secret_file: nowhere}", "cannot read"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_2(configured, free_port, control, said):
    path = configured(free_port(), control)
    found = RUNNER.invoke(main, ["call", "list", "--config", str(path)])
    assert found.exit_code == 2
    assert said in found.stderr


# a dry run


def test_a_dry_run_prints_the_message(ctl):
    found = ctl("queue", "pause", "101", "--reason", "lunch", "--dry-run")
    assert lines(found) == [
        "Action: QueuePause",
        "Interface: PJSIP/101",
        "Paused: true",
        "Reason: lunch",
    ]
    document = json.loads(ctl("call", "hangup", "102", "--dry-run", "--json").stdout)
    assert document == {
        "would_send": {"Action": "Hangup", "Channel": "PJSIP/102-00000016", "Cause": "16"}
    }
    assert not found.server.all("QueuePause")


# help and completion


def commands(group: click.Group = main, path: tuple[str, ...] = ()):
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))
        else:
            yield " ".join((*path, name)), command


def test_every_help_has_an_example():
    for name, _ in commands():
        text = RUNNER.invoke(main, [*name.split(), "--help"]).output
        assert f"  asterisk-ctl {name}" in text


PROGRAM = "from asterisk_exporter.cli.ctl import main; main(prog_name='asterisk-ctl')"


@pytest.fixture
def complete(configured, control_asterisk, environment):
    """Return what a shell is told to complete the last word with."""

    def run(*words, port=None, **replies):
        config = configured(port or control_asterisk(**replies).port)
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from asterisk_exporter.cli.ctl import main; main(prog_name='asterisk-ctl')",
            ],
            env={
                **environment,
                "_ASTERISK_CTL_COMPLETE": "bash_complete",
                "COMP_WORDS": " ".join(("asterisk-ctl", *words)),
                "COMP_CWORD": str(len(words)),
                "ASTERISK_EXPORTER_CONFIG": str(config),
                "PATH": os.environ["PATH"],
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines() if line]

    return run


def test_completion(complete):
    assert complete("queue", "rem") == ["remove"]
    assert complete("queue", "add", "s") == ["sales", "support"]
    assert complete("queue", "remove", "sales", "PJSIP/10") == [
        "PJSIP/103",
        "PJSIP/104",
        "PJSIP/105",
    ]
    assert complete("call", "hangup", "PJSIP/102") == ["PJSIP/102-00000016"]
    assert complete("queue", "pause", "101", "--queue", "v") == ["vip"]


def test_completion_without_asterisk_offers_nothing(complete, free_port):
    assert complete("queue", "add", "s", port=free_port()) == []


def test_every_command_and_option_is_documented():
    text = (DOCS / "commands.md").read_text()
    ours = text[text.index("\n# asterisk-ctl\n") :]
    shared = ours[: ours.index("\n## ")]
    for name, command in commands():
        section = re.search(rf"^##+ {name}$(.*?)(?=^##|\Z)", ours, re.MULTILINE | re.DOTALL)
        assert section, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert f"`{parameter.opts[0]}" in shared + section[1], f"{name} {parameter.opts[0]}"
