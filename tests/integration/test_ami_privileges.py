"""What the exporter's AMI login can do, asked of Asterisk itself, and what it must not."""

from __future__ import annotations

import json
import textwrap

import pytest
from lab import Lab

from asterisk_exporter.ami.client import ALLOWED_ACTIONS

#: Speaks AMI as the exporter's login, with Python's standard library alone, on the lab machine.
PROBE = textwrap.dedent(
    """
    import json, socket, sys
    secret = open("/etc/asterisk-exporter/ami-secret").read().strip()
    ami = socket.create_connection(("127.0.0.1", 5038), timeout=5)
    stream = ami.makefile("rwb")
    stream.readline()
    def ask(text):
        stream.write(text.replace("\\n", "\\r\\n").encode() + b"\\r\\n\\r\\n")
        stream.flush()
        block = {}
        while (line := stream.readline().decode().strip()):
            key, _, value = line.partition(": ")
            block[key] = value
        return block
    login = ask(f"Action: Login\\nUsername: exporter\\nSecret: {secret}\\nEvents: off")
    assert login["Response"] == "Success", login
    print(json.dumps([ask(action) for action in json.load(sys.stdin)]))
    """
)

FORBIDDEN = [
    "Action: Command\nCommand: core show uptime",
    "Action: Originate\nChannel: Local/101@internal\nApplication: Wait\nData: 1",
    "Action: Redirect\nChannel: PJSIP/101-1\nContext: internal\nExten: 102\nPriority: 1",
    "Action: Hangup\nChannel: PJSIP/101-1",
    "Action: GetConfig\nFilename: manager.conf",
    "Action: UpdateConfig\nSrcFilename: extensions.conf\nDstFilename: extensions.conf",
    "Action: QueueAdd\nQueue: support\nInterface: PJSIP/999",
    "Action: QueuePause\nInterface: PJSIP/101\nPaused: true",
    "Action: MixMonitor\nChannel: PJSIP/101-1\nFile: x.wav",
    "Action: Setvar\nVariable: X\nValue: 1",
    "Action: DBPut\nFamily: x\nKey: y\nVal: z",
    "Action: ModuleLoad\nLoadType: reload",
    "Action: PJSIPShowEndpoints",
    "Action: AOCMessage\nChannel: PJSIP/101-1",
    "Action: UserEvent\nUserEvent: x",
]


def ask(lab: Lab, *actions: str) -> list[dict[str, str]]:
    replies: list[dict[str, str]] = json.loads(
        lab.run(f"python3 -c '{PROBE}'", stdin=json.dumps(actions))
    )
    return replies


@pytest.mark.parametrize("action", FORBIDDEN, ids=lambda action: action.split()[1])
def test_login_is_denied(lab: Lab, action: str) -> None:
    (reply,) = ask(lab, action)
    assert reply["Response"] == "Error"
    assert "denied" in reply["Message"]


def test_reading_a_variable_runs_no_command(lab: Lab) -> None:
    """Getvar is open to the class ``reporting``, and functions are variables to it."""
    (reply,) = ask(lab, "Action: Getvar\nVariable: SHELL(id)")
    assert "uid=" not in str(reply)


def test_login_may_run_just_what_its_class_allows(lab: Lab) -> None:
    """Asterisk's own list; what is on it beyond our needs cannot be taken from any login."""
    (commands,) = ask(lab, "Action: ListCommands")
    permitted = set(commands) - {"Response"}
    assert permitted >= ALLOWED_ACTIONS
    classes = [
        text.split("Priv: ")[1].rstrip(")") for text in commands.values() if "Priv: " in text
    ]
    assert len(classes) > 20
    beyond = [c for c in classes if c != "<none>" and "reporting" not in c.split(",")]
    assert beyond == []


def test_login_is_refused_from_elsewhere(lab: Lab) -> None:
    """AMI listens on loopback alone; the permit list is checked from another loopback address."""
    sockets = lab.run("ss -Hltn 'sport = :5038'").split()
    assert sockets[3] == "127.0.0.1:5038"
    denied = lab.exec(
        "python3 -c '"
        + PROBE.replace("timeout=5)", 'timeout=5, source_address=("127.0.0.9", 0))')
        + "'",
        stdin="[]",
    )
    assert denied.returncode != 0
