"""What our AMI logins can do, asked of Asterisk itself, and what they must not."""

from __future__ import annotations

import json
import textwrap

import pytest
from lab import Lab

from asterisk_exporter.ami.client import ALLOWED_ACTIONS
from asterisk_exporter.control.session import CONTROL_ACTIONS

#: Speaks AMI as one of our logins, with Python's standard library alone, on the lab machine.
PROBE = textwrap.dedent(
    """
    import json, socket, sys
    username = sys.argv[1]
    file = {"exporter": "ami", "control": "control"}[username]
    secret = open(f"/etc/asterisk-exporter/{file}-secret").read().strip()
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
    login = ask(f"Action: Login\\nUsername: {username}\\nSecret: {secret}\\nEvents: off")
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


#: What the class ``originate`` could run if Asterisk let it.
SHELLS = [
    "Application: System\nData: touch /tmp/owned",
    "Application: TrySystem\nData: touch /tmp/owned",
    "Application: ExecIf\nData: 1?System(touch /tmp/owned)",
    "Application: Exec\nData: System(touch /tmp/owned)",
    "Application: AGI\nData: /tmp/owned",
    "Application: MixMonitor\nData: x.wav,,touch /tmp/owned",
    "Application: Set\nData: x=${SHELL(touch /tmp/owned)}",
    "Application: ExternalIVR\nData: /tmp/owned",
]
FORBIDDEN_TO_CONTROL = [
    "Action: Command\nCommand: core show uptime",
    "Action: CoreStatus",
    "Action: CoreShowChannels",
    "Action: DBGet\nFamily: x\nKey: y",
    "Action: DBPut\nFamily: x\nKey: y\nVal: z",
    "Action: DialplanExtensionAdd\nContext: internal\nExtension: 1\nPriority: 1\nApplication: NoOp",
    "Action: GetConfig\nFilename: manager.conf",
    "Action: LoggerRotate",
    "Action: MixMonitor\nChannel: PJSIP/101-1\nFile: x.wav",
    "Action: ModuleLoad\nLoadType: reload",
    "Action: PJSIPShowEndpoints",
    "Action: PJSIPUnregister\nRegistration: x",
    "Action: Reload",
    "Action: ShowDialPlan",
    "Action: UpdateConfig\nSrcFilename: extensions.conf\nDstFilename: extensions.conf",
    "Action: UserEvent\nUserEvent: x",
]


def ask(lab: Lab, *actions: str, username: str = "exporter") -> list[dict[str, str]]:
    replies: list[dict[str, str]] = json.loads(
        lab.run(f"python3 -c '{PROBE}' {username}", stdin=json.dumps(actions))
    )
    return replies


def classes_of(commands: dict[str, str]) -> list[str]:
    """Return the classes of each action that ListCommands names, but for those open to all."""
    found = [text.split("Priv: ")[1].rstrip(")") for text in commands.values() if "Priv: " in text]
    assert len(found) > 20
    return [classes for classes in found if classes != "<none>"]


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
    beyond = [c for c in classes_of(commands) if "reporting" not in c.split(",")]
    assert beyond == []


def test_login_is_refused_from_elsewhere(lab: Lab) -> None:
    """AMI listens on loopback alone; the permit list is checked from another loopback address."""
    sockets = lab.run("ss -Hltn 'sport = :5038'").split()
    assert sockets[3] == "127.0.0.1:5038"
    denied = lab.exec(
        "python3 -c '"
        + PROBE.replace("timeout=5)", 'timeout=5, source_address=("127.0.0.9", 0))')
        + "' exporter",
        stdin="[]",
    )
    assert denied.returncode != 0


@pytest.mark.parametrize("action", FORBIDDEN_TO_CONTROL, ids=lambda action: action.split()[1])
def test_control_is_denied(lab: Lab, action: str) -> None:
    (reply,) = ask(lab, action, username="control")
    assert reply["Response"] == "Error"
    assert "denied" in reply["Message"]


def test_control_may_run_just_what_its_classes_allow(lab: Lab) -> None:
    (commands,) = ask(lab, "Action: ListCommands", username="control")
    assert set(commands) - {"Response"} >= CONTROL_ACTIONS
    allowed = {"call", "agent", "originate"}
    assert [c for c in classes_of(commands) if not allowed & set(c.split(","))] == []


def test_control_runs_no_shell(lab: Lab) -> None:
    """Asterisk treats ``originate`` and variables as ways to a shell, and closes them."""
    actions = [f"Action: Originate\nChannel: Local/700@internal\n{shell}" for shell in SHELLS]
    actions.append("Action: Getvar\nVariable: SHELL(touch /tmp/owned)")
    actions.append("Action: Setvar\nVariable: SHELL(touch /tmp/owned)\nValue: 1")
    lab.run("rm -f /tmp/owned")
    replies = ask(lab, *actions, username="control")
    assert [reply["Response"] for reply in replies] == ["Error"] * len(actions), replies
    assert lab.exec("test -e /tmp/owned").returncode == 1
