"""Calls and queue members change, Asterisk says so, and what it would misread is refused."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asterisk_exporter.ami.client import ALLOWED_ACTIONS, Action, AmiClient, Deadline
from asterisk_exporter.ami.errors import AmiError, PermissionDeniedError, UnsafeActionError
from asterisk_exporter.ami.protocol import Message, Splitter, encode_action, parse_message
from asterisk_exporter.control import (
    channels,
    hangup,
    originate,
    park,
    queue_members,
    transfer,
    values,
)
from asterisk_exporter.control.errors import (
    AmbiguousNameError,
    NotConfirmedError,
    RefusedError,
    RefusedValueError,
    UnknownNameError,
)
from asterisk_exporter.control.session import CONTROL_ACTIONS, ControlSession, WouldSend

from .conftest import REPLIES, SECRET, reply_of

CALLER, CALLED = channels.channels(reply_of("control", "Status"))
ERROR = b"Response: Error\r\nActionID: x\r\nMessage: No such thing\r\n\r\n"
DENIED = b"Response: Error\r\nActionID: x\r\nMessage: Permission denied\r\n\r\n"
OK = b"Response: Success\r\nActionID: x\r\nMessage: Done\r\n\r\n"
MEMBER = (
    b"Event: QueueMember\r\nActionID: x\r\nQueue: support\r\nName: Erin\r\nLocation: PJSIP/105\r\n"
    b"Membership: dynamic\r\nPenalty: 3\r\nCallsTaken: 0\r\nInCall: 0\r\nStatus: 1\r\nPaused: 0\r\n"
    b"PausedReason: \r\n\r\n"
)
QUEUES = (REPLIES / "control" / "QueueStatus.txt").read_bytes()


def with_member(member: bytes) -> bytes:
    return QUEUES.replace(b"Event: QueueParams", member + b"Event: QueueParams", 1)


def paused(interface: bytes, reason: bytes = b"") -> bytes:
    return re.sub(
        rb"(Location: %s\r\n(?:\w+: .*\r\n)*?)Paused: 0\r\nPausedReason: \r\n" % interface,
        rb"\g<1>Paused: 1\r\nPausedReason: %s\r\n" % reason,
        QUEUES,
    )


def captured(name: str) -> list[Message]:
    data = (REPLIES / "control" / f"{name}.txt").read_bytes()
    return [parse_message(block) for block in Splitter().feed(data)]


@pytest.fixture
def asterisk(control_asterisk, target_of):
    """Open a session with an Asterisk that answers as captured, or as it is told."""
    sessions = []

    def start(timeout=1.0, dry_run=False, **replies):
        server = control_asterisk(**replies)
        session = ControlSession.open(
            target_of(server.port, username="control"), timeout=timeout, dry_run=dry_run
        )
        session.server = server
        sessions.append(session)
        return session

    yield start
    for session in sessions:
        session.close()


# what an event means


def only_match(name, match):
    found = [(n, answer) for n, one in enumerate(captured(name)) if (answer := match(one))]
    assert len(found) == 1
    return found[0][1]


def test_an_originated_call_is_the_one_of_our_action():
    done = only_match("Originate", lambda one: originate.outcome(one, "Originate"))
    assert done == originate.Originated(CALLER.name, CALLER.uniqueid, "internal", "102")
    assert not any(originate.outcome(one, "other") for one in captured("Originate"))


def test_a_call_that_nobody_answered_says_why():
    with pytest.raises(RefusedError, match=r"PJSIP/103 .*\(reason 3\): it rang and nobody"):
        only_match("Originate_unanswered", lambda m: originate.outcome(m, "Originate_unanswered"))
    assert not any(originate.outcome(one, "other") for one in captured("Originate_unanswered"))


def test_a_reason_that_is_not_known():
    failed = Message.of(
        [("Event", "OriginateResponse"), ("ActionID", "1"), ("Response", "Failure")]
    )
    with pytest.raises(RefusedError, match="does not say why"):
        originate.outcome(failed, "1")


def test_a_parked_channel_has_its_space():
    done = only_match("Park", lambda one: park.parked(one, CALLED))
    assert done == park.Parked(CALLED.name, CALLED.uniqueid, "701", "default", 45)
    assert not any(park.parked(one, CALLER) for one in captured("Park"))


def test_a_channel_that_comes_back_to_its_call_was_not_parked():
    back = Message.of(
        [
            ("Event", "BridgeEnter"),
            ("BridgeUniqueid", CALLED.bridge),
            ("Uniqueid", CALLED.uniqueid),
        ]
    )
    with pytest.raises(RefusedError, match="Is a space free"):
        park.parked(back, CALLED)
    assert park.parked(back, CALLER) is None


def test_a_transferred_channel_runs_the_dialplan_there():
    there = {"context": "internal", "extension": "103"}
    done = only_match("Redirect", lambda one: transfer.arrived(one, CALLED, **there))
    assert done == transfer.Transferred(CALLED.name, CALLED.uniqueid, "internal", "103")
    assert not any(transfer.arrived(one, CALLER, **there) for one in captured("Redirect"))
    for elsewhere in ({**there, "extension": "104"}, {**there, "context": "outbound"}):
        assert not any(transfer.arrived(one, CALLED, **elsewhere) for one in captured("Redirect"))


def test_the_end_of_a_channel_is_its_own():
    done = only_match("Hangup", lambda one: hangup.ended(one, CALLED))
    assert done == hangup.HungUp(CALLED.name, CALLED.uniqueid, "Normal Clearing")


def test_what_hangs_up_meanwhile_is_not_confirmed():
    for match in (
        lambda one: park.parked(one, CALLED),
        lambda one: transfer.arrived(one, CALLED, "internal", "1"),
    ):
        with pytest.raises(NotConfirmedError, match="hung up meanwhile: Normal Clearing"):
            list(map(match, captured("Hangup")))


# which channel is meant


def test_channels_know_their_peers():
    assert (CALLER.endpoint, CALLER.peer) == ("PJSIP/101", CALLED.name)
    assert (CALLED.endpoint, CALLED.peer) == ("PJSIP/102", CALLER.name)
    assert (CALLED.state, CALLED.caller, CALLED.connected) == ("up", "102", "101")


def test_a_channel_has_three_names():
    both = [CALLER, CALLED]
    for name in (CALLED.name, CALLED.uniqueid, "102", "PJSIP/102"):
        assert channels.choose(both, name) == CALLED


@pytest.mark.parametrize("name", ["10", "1", "", "PJSIP", "PJSIP/", "/./", "101-", "0", "provider"])
def test_an_unknown_channel_lists_those_there_are(name):
    with pytest.raises(UnknownNameError) as caught:
        channels.choose([CALLER, CALLED], name)
    assert CALLER.name in str(caught.value)
    assert CALLED.uniqueid in str(caught.value)


def test_no_channels_at_all():
    with pytest.raises(UnknownNameError, match="has: none"):
        channels.choose([], "101")


def test_two_channels_of_one_phone_are_listed():
    twice = channels.replace(CALLER, name="PJSIP/101-000000ff", uniqueid="other")
    with pytest.raises(AmbiguousNameError, match="'101' has 2 channels") as caught:
        channels.choose([CALLER, twice], "101")
    assert "PJSIP/101-000000ff (other)" in str(caught.value)
    assert channels.choose([CALLER, twice], "other") == twice


def test_many_channels_are_listed_in_part():
    many = [channels.replace(CALLER, name=f"PJSIP/9-{n:08x}", uniqueid=str(n)) for n in range(50)]
    with pytest.raises(UnknownNameError) as caught:
        channels.choose(many, "101")
    assert str(caught.value).count("\n") == 21
    assert "and 30 more" in str(caught.value)


def test_the_other_party_is_the_only_one():
    assert channels.other_party([CALLER, CALLED], CALLER) == CALLED
    alone = channels.replace(CALLER, peer=None)
    with pytest.raises(UnknownNameError, match="does not talk with just one"):
        channels.other_party([alone, CALLED], alone)


def test_three_in_a_bridge_have_no_peer():
    third = (
        (REPLIES / "control" / "Status.txt")
        .read_bytes()
        .replace(
            b"Event: StatusComplete",
            b"Event: Status\r\nChannel: PJSIP/9-00000001\r\nUniqueid: 9\r\nSeconds: 1\r\n"
            b"BridgeID: %s\r\n\r\nEvent: StatusComplete" % CALLER.bridge.encode(),
        )
    )
    items = [parse_message(block) for block in Splitter().feed(third)]
    found = channels.channels(channels.Reply("Status", items[0], tuple(items[1:])))
    assert [one.peer for one in found] == [None] * 3


# what Asterisk would misread is refused

HOSTILE = [
    "",
    " ",
    "101\r\nAction: Command",
    "101\n",
    "101\0",
    "101&PJSIP/provider/900",
    "101,1",
    "101|1",
    "101/1",
    "PJSIP/900@provider",
    "Local/101@internal",
    "PJSIP/101/sip:x@evil",
    "SIP/101",
    "../101",
    "-101",
    "${SHELL(id)}",
    "101)",
    "1" * 1100,
    "\uff11\uff10\uff11",
    "101 ",
    "\udcff",
]


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("check", [values.endpoint, values.interface, values.extension])
def test_what_is_no_phone_or_extension_is_refused(check, value):
    with pytest.raises(RefusedValueError):
        check(value)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a|b",
        "a;b",
        'a"b',
        "a\\b",
        "a\rb",
        "a\nb",
        "a\0b",
        "x" * 80,
        "ä" * 40,
        "\x1b[31m",
        "\x85",
    ],
)
def test_what_is_no_text_is_refused(value):
    for check in (lambda text: values.text("reason", text), values.member_name):
        with pytest.raises(RefusedValueError):
            check(value)


def test_texts_are_what_people_write():
    assert values.text("reason", "lunch, back at 2 (50 %)") == "lunch, back at 2 (50 %)"
    assert values.text("reason", "обед") == "обед"
    assert values.text("reason", "x" * 79) == "x" * 79
    assert values.member_name("Zoë O'Hara-Smith") == "Zoë O'Hara-Smith"
    for name in ("a,b", "a&b", "PJSIP/101", "a@b"):
        with pytest.raises(RefusedValueError):
            values.member_name(name)


@pytest.mark.parametrize(
    ("value", "sent"),
    [("500", "500"), ("+4930500", "+4930500"), ("Call back <500>", '"Call back" <500>')],
)
def test_caller_ids(value, sent):
    assert values.caller_id(value) == sent


@pytest.mark.parametrize(
    "value",
    ["", "<>", "A <1", 'A"B <1>', "A <1>\r\nX: y", "A,B <1>", "A <1&2>", "a", "A <a>", "\\ <1>"],
)
def test_what_is_no_caller_id_is_refused(value):
    with pytest.raises(RefusedValueError):
        values.caller_id(value)


def test_a_context_is_one_of_those_allowed():
    assert values.context(None, ("internal", "sales")) == "internal"
    assert values.context("sales", ("internal", "sales")) == "sales"
    for other in ("", "from-external", "internal,102", "Internal"):
        with pytest.raises(RefusedValueError, match="internal, sales"):
            values.context(other, ("internal", "sales"))


CHECKS = {
    "endpoint": values.endpoint,
    "interface": values.interface,
    "extension": values.extension,
    "caller_id": values.caller_id,
    "reason": lambda value: values.text("reason", value),
    "member_name": values.member_name,
}


@given(
    name=st.sampled_from(sorted(CHECKS)), value=st.text() | st.from_regex(r"[A-Za-z0-9/,&|<>\" ]*")
)
@example(name="endpoint", value="101\n")
@example(name="extension", value="101\n")
@example(name="caller_id", value="101\n")
def test_what_passes_stays_one_value_of_one_line(name, value):
    try:
        passed = CHECKS[name](value)
    except RefusedValueError:
        return
    sent = encode_action([("Action", "X"), ("Value", passed)])
    assert sent.count(b"\r\n") == 3
    assert not re.search(r"[\r\n\0|;]", passed)
    if name not in {"caller_id", "reason"}:
        assert "," not in passed
        assert "&" not in passed
        assert passed.count("/") == (name == "interface")
    assert len(passed.encode()) < 100


# the connection


def test_the_two_logins_have_lists_of_their_own(control_asterisk, target_of):
    target = target_of(control_asterisk().port)
    exporter = AmiClient.connect(target, Deadline(1))
    control = AmiClient.connect(target, Deadline(1), allowed=CONTROL_ACTIONS)
    for client, action in (
        (exporter, "Hangup"),
        (exporter, "Events"),
        (control, "Command"),
        (control, "Setvar"),
        (control, "QueueReset"),
    ):
        with pytest.raises(UnsafeActionError):
            client.ask(Action(action), Deadline(1))
    with pytest.raises(UnsafeActionError):
        control.request(["CoreStatus"], Deadline(1))
    assert {"QueueStatus"} == ALLOWED_ACTIONS & CONTROL_ACTIONS
    exporter.close()
    control.close()


def test_action_ids_of_two_connections_differ(control_asterisk, target_of):
    server = control_asterisk()
    for _ in range(2):
        AmiClient.connect(target_of(server.port), Deadline(1)).close()
    ids = [action["ActionID"] for action in server.actions]
    assert len(set(ids)) == 2


def test_a_login_without_the_class_says_which(asterisk):
    with pytest.raises(PermissionDeniedError, match=r"'control' may not run Status.*write = call"):
        channels.list_channels(asterisk(Status=DENIED))
    with pytest.raises(RefusedError, match=r"may not run QueueAdd.*write = agent"):
        queue_members.add_member(asterisk(QueueAdd=DENIED), "support", "105")


# each change


def test_originate(asterisk):
    session = asterisk()
    done = originate.originate(session, "101", "102", caller_id="Call back <5>")
    assert done.channel == CALLER.name
    sent = session.server.sent("Originate")
    assert sent["CallerID"] == '"Call back" <5>'
    assert {"Application", "Data"}.isdisjoint(sent)
    assert (sent["Channel"], sent["Context"], sent["Exten"]) == ("PJSIP/101", "internal", "102")
    # events are on only meanwhile
    assert [action["EventMask"] for action in session.server.all("Events")] == ["call", "off"]


def test_originate_waits_for_as_long_as_the_phone_may_ring(asterisk):
    session = asterisk(timeout=1.0, Originate=[OK, (1.5, "Originate")])
    assert originate.originate(session, "101", "102", ring_seconds=2).channel == CALLER.name
    assert session.server.sent("Originate")["Timeout"] == "2000"


def test_originate_without_an_outcome(asterisk):
    session = asterisk(timeout=1.0, Originate=[OK, (0.0, "Park")])
    began = time.monotonic()
    with pytest.raises(NotConfirmedError) as caught:
        originate.originate(session, "101", "102", ring_seconds=1)
    assert 1 < time.monotonic() - began < 2 + 3
    assert "OriginateResponse for PJSIP/101" in str(caught.value)
    assert "1 ParkedCall" in str(caught.value)


def test_originate_of_a_phone_that_is_not_there(asterisk):
    invalid = b"Response: Success\r\nActionID: x\r\nValue: INVALID\r\n\r\n"
    session = asterisk(Getvar=invalid)
    with pytest.raises(UnknownNameError, match="knows no PJSIP/999"):
        originate.originate(session, "999", "102")
    assert not session.server.all("Originate")


def test_originate_to_what_the_dialplan_does_not_have(asterisk):
    with pytest.raises(RefusedError, match="No such thing"):
        originate.originate(asterisk(Originate=ERROR), "101", "999")


def test_transfer(asterisk):
    session = asterisk(Getvar=OK.replace(b"Message: Done", b"Value: 1"))
    assert transfer.transfer(session, "102", "103").extension == "103"
    assert session.server.sent("Getvar")["Variable"] == "DIALPLAN_EXISTS(internal,103,1)"
    assert session.server.sent("Redirect")["Channel"] == CALLED.name
    assert session.server.all("Events")[0]["EventMask"] == "call,dialplan"


def test_transfer_of_the_other_party(asterisk):
    session = asterisk(Getvar=OK.replace(b"Message: Done", b"Value: 1"))
    assert transfer.transfer(session, "101", "103", other_party=True).channel == CALLED.name


def test_transfer_to_nowhere_is_not_sent(asterisk):
    session = asterisk(Getvar=OK.replace(b"Message: Done", b"Value: 0"))
    with pytest.raises(UnknownNameError, match="no extension '999' in internal"):
        transfer.transfer(session, "102", "999")
    assert not session.server.all("Redirect")


def test_park(asterisk):
    session = asterisk()
    assert park.park(session, "102").space == "701"
    sent = session.server.sent("Park")
    assert (sent["Channel"], sent["TimeoutChannel"]) == (CALLED.name, CALLER.name)
    assert park.park(session, "101", other_party=True).channel == CALLED.name


def test_hang_up(asterisk):
    session = asterisk()
    assert hangup.hang_up(session, CALLED.uniqueid).cause == "Normal Clearing"
    assert session.server.sent("Hangup")["Channel"] == CALLED.name


@pytest.mark.parametrize("name", ["/.*/", "/^PJSIP/", "PJSIP/10", "101\r\nX: y"])
def test_hang_up_never_sends_a_name_from_outside(asterisk, name):
    session = asterisk()
    with pytest.raises(UnknownNameError):
        hangup.hang_up(session, name)
    assert not session.server.all("Hangup")


def test_an_event_may_come_before_the_response(asterisk):
    end = b"".join(
        block + b"\r\n\r\n"
        for block in (REPLIES / "control" / "Hangup.txt").read_bytes().split(b"\r\n\r\n")
        if block.startswith(b"Event: Hangup")
    )
    assert hangup.hang_up(asterisk(Hangup=end + OK), "102").channel == CALLED.name


def test_a_change_that_is_sent_and_not_answered_is_not_confirmed(asterisk):
    with pytest.raises(NotConfirmedError, match="Hangup was sent, but not answered"):
        hangup.hang_up(asterisk(timeout=1.0, Hangup=b""), "102")


def test_a_connection_that_ends_before_the_event(asterisk):
    with pytest.raises(NotConfirmedError, match=r"Hangup of PJSIP/102-\w+ has not come"):
        hangup.hang_up(asterisk(Hangup=[OK, "close"]), "102")


def test_queue_add(asterisk):
    session = asterisk(QueueStatus=[[QUEUES], [with_member(MEMBER)]], QueueAdd=OK)
    done = queue_members.add_member(
        session, "SUPPORT", "105", name="Erin", penalty=3, paused=True, reason="training"
    )
    assert (done.queue, done.interface, done.penalty, done.dynamic) == (
        *("support", "PJSIP/105", 3),
        True,
    )
    sent = session.server.sent("QueueAdd")
    assert (sent["Queue"], sent["Interface"], sent["MemberName"], sent["Penalty"]) == (
        *("support", "PJSIP/105", "Erin"),
        "3",
    )
    assert (sent["Paused"], sent["Reason"]) == ("true", "training")


def test_queue_add_that_left_no_trace(asterisk):
    with pytest.raises(NotConfirmedError, match="support has no member PJSIP/105"):
        queue_members.add_member(asterisk(QueueAdd=OK), "support", "105")


def test_queue_add_whose_end_cannot_be_seen(asterisk):
    session = asterisk(timeout=1.0, QueueStatus=[[QUEUES], [b""]], QueueAdd=OK)
    with pytest.raises(NotConfirmedError, match="QueueStatus was not answered"):
        queue_members.add_member(session, "support", "105")


def test_queue_remove(asterisk):
    session = asterisk(QueueStatus=[[with_member(MEMBER)], [QUEUES]], QueueRemove=OK)
    assert queue_members.remove_member(session, "support", "Erin").interface == "PJSIP/105"
    assert session.server.sent("QueueRemove")["Interface"] == "PJSIP/105"
    stays = asterisk(QueueStatus=with_member(MEMBER), QueueRemove=OK)
    with pytest.raises(NotConfirmedError, match="still has PJSIP/105"):
        queue_members.remove_member(stays, "support", "105")


def test_queue_pause_in_all_queues(asterisk):
    session = asterisk(QueueStatus=[[QUEUES], [paused(b"PJSIP/101", b"lunch")]], QueuePause=OK)
    done = queue_members.pause_member(session, "101", reason="lunch")
    assert [(one.queue, one.paused, one.reason) for one in done] == [
        ("support", True, "lunch"),
        ("vip", True, "lunch"),
    ]
    sent = session.server.sent("QueuePause")
    assert "Queue" not in sent
    assert sent["Paused"] == "true"


def test_queue_pause_that_did_not_happen(asterisk):
    with pytest.raises(NotConfirmedError, match="is not so in support, vip"):
        queue_members.pause_member(asterisk(QueuePause=OK), "101")
    other = asterisk(QueueStatus=[[QUEUES], [paused(b"PJSIP/101", b"x")]], QueuePause=OK)
    with pytest.raises(NotConfirmedError, match="is not so"):
        queue_members.pause_member(other, "101", reason="lunch")


def test_queue_unpause_in_one_queue(asterisk):
    session = asterisk(QueueStatus=[[paused(b"PJSIP/101")], [QUEUES]], QueuePause=OK)
    [done] = queue_members.unpause_member(session, "101", queue="vip")
    assert (done.queue, done.paused) == ("vip", False)
    assert session.server.sent("QueuePause")["Queue"] == "vip"


def test_unknown_queues_and_members_list_those_there_are(asterisk):
    session = asterisk()
    with pytest.raises(UnknownNameError, match=r"no queue 'suport'(.|\n)*support"):
        queue_members.list_members(session, "suport")
    with pytest.raises(UnknownNameError, match=r"no member '999'(.|\n)*sales: PJSIP/103"):
        queue_members.pause_member(session, "999")
    with pytest.raises(UnknownNameError) as caught:
        queue_members.remove_member(session, "support", "106")  # a member of vip
    assert "support: PJSIP/101" in str(caught.value)
    assert "vip" not in str(caught.value)
    assert not session.server.all("QueuePause")


def test_two_members_of_one_name_are_listed(asterisk):
    twin = MEMBER.replace(b"PJSIP/105", b"PJSIP/106")
    session = asterisk(QueueStatus=with_member(MEMBER + twin))
    with pytest.raises(AmbiguousNameError, match=r"2 members are called 'Erin'(.|\n)*PJSIP/106"):
        queue_members.remove_member(session, "support", "Erin")


# a dry run changes nothing


@pytest.mark.parametrize(
    ("action", "run"),
    [
        ("Originate", lambda s: originate.originate(s, "101", "102")),
        ("Redirect", lambda s: transfer.transfer(s, "102", "103")),
        ("Park", lambda s: park.park(s, "102")),
        ("Hangup", lambda s: hangup.hang_up(s, "102")),
        ("QueueAdd", lambda s: queue_members.add_member(s, "support", "105")),
        ("QueueRemove", lambda s: queue_members.remove_member(s, "support", "101")),
        ("QueuePause", lambda s: queue_members.pause_member(s, "101")),
    ],
)
def test_a_dry_run_only_looks(asterisk, action, run):
    session = asterisk(dry_run=True, Getvar=OK.replace(b"Message: Done", b"Value: 1"))
    with pytest.raises(WouldSend) as caught:
        run(session)
    assert caught.value.action.name == action
    assert SECRET not in str(caught.value.action)
    asked = {sent["Action"] for sent in session.server.actions}
    assert asked <= {"Login", "Status", "QueueStatus", "Getvar"}


def test_no_session_without_an_asterisk(misbehaviour, ami_server, free_port, target_of):
    name, behaviour, kind = misbehaviour
    if name in {"drips_replies", "garbage_after_login", "dies_after_login", "dies_in_status"}:
        return  # they take the login
    port = free_port() if behaviour is None else ami_server(behaviour).port
    with pytest.raises(AmiError) as caught:
        ControlSession.open(target_of(port), timeout=1.5)
    assert caught.value.kind == kind


def test_a_session_needs_a_context(target_of, free_port):
    with pytest.raises(RefusedValueError):
        ControlSession.open(target_of(free_port()), contexts=())
