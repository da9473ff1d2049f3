# ruff: noqa: ARG001 - callbacks have fixed arguments, fixtures come as arguments
from __future__ import annotations

import json
from dataclasses import replace

import pytest

from asterisk_exporter import health, report
from asterisk_exporter.ami.client import Reply, Target
from asterisk_exporter.ami.errors import PermissionDeniedError, RefusedError
from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.health import Cdr, Status, Thresholds

NOW = 1795492538.0
TARGET = Target("192.0.2.10", 5038, "exporter", "secret-of-the-test")


def assess(replies, cdr=None, **thresholds):
    return health.assess(replies, NOW, Thresholds(**thresholds), cdr)


def texts(found) -> list[str]:
    return [f"{problem.status.name}: {problem.text}" for problem in found.problems]


def listing(action, *items):
    messages = tuple(Message.of(item.items()) for item in items)
    return Reply(action, Message("Response: Success"), messages)


def endpoints_of(online: int, offline: int, invalid: int = 0):
    states = ["NOT_INUSE"] * online + ["UNAVAILABLE"] * offline + ["INVALID"] * invalid
    return listing(
        "DeviceStateList",
        *(
            {"Event": "DeviceStateChange", "Device": f"PJSIP/{n}", "State": state}
            for n, state in enumerate(states)
        ),
    )


@pytest.fixture
def well(replies):
    """Replies with nothing to complain about."""
    return lambda **changed: replies(
        "idle",
        **{
            "DeviceStateList": endpoints_of(10, 0),
            "PJSIPShowRegistrationsOutbound": listing("PJSIPShowRegistrationsOutbound"),
            **changed,
        },
    )


def test_all_is_well(well):
    found = assess(well(), Cdr(age_seconds=12.4))
    assert found.status is Status.OK
    assert (found.version, found.system_name) == ("22.10.1+dfsg+~cs6.17.60671434-1", "pbx1")
    assert (found.calls, found.channels) == (0, 0)
    assert (found.endpoints_online, found.endpoints_offline) == (10, 0)
    assert report.first_line(replace(found, response_seconds=0.0012345)) == (
        "ASTERISK OK - Asterisk 22.10.1+dfsg+~cs6.17.60671434-1, 0 active calls, 10 of 10 "
        "endpoints online, 0 callers waiting | response=0.001234s calls=0 channels=0 "
        "endpoints_online=10 endpoints_offline=0 callers=0 longest_wait=0s"
    )


def test_a_busy_pbx(replies):
    found = assess(replies("busy"))
    assert found.status is Status.WARNING
    assert (found.calls, found.channels) == (9, 15)
    assert (found.endpoints_online, found.endpoints_offline) == (5, 2)
    assert found.offline == ("PJSIP/103", "PJSIP/backup-trunk")
    assert texts(found) == [
        "WARNING: 5 of 7 endpoints online (71 %)",
        "WARNING: registration rejected-reg at sip:127.0.0.1:5060 is Rejected",
        "WARNING: registration silent-reg at sip:127.0.0.1:6299 is Rejected",
        "WARNING: 2 waiting in queue support with nobody available",
        "WARNING: 1 waiting in queue vip with nobody available",
    ]


@pytest.mark.parametrize(
    ("online", "offline", "status"),
    [
        (0, 0, Status.OK),
        (10, 0, Status.OK),
        (9, 1, Status.OK),
        (89, 11, Status.WARNING),
        (5, 5, Status.WARNING),
        (49, 51, Status.CRITICAL),
        (0, 3, Status.CRITICAL),
    ],
)
def test_endpoints_online(well, online, offline, status):
    assert assess(well(DeviceStateList=endpoints_of(online, offline))).status is status


def test_endpoint_thresholds(well):
    replies = well(DeviceStateList=endpoints_of(7, 3))
    assert assess(replies, endpoints_ok_percent=70).status is Status.OK
    assert assess(replies, endpoints_warning_percent=71).status is Status.CRITICAL


def test_removed_endpoints_are_not_offline(well):
    found = assess(well(DeviceStateList=endpoints_of(3, 0, invalid=5)))
    assert found.status is Status.OK
    assert (found.endpoints_online, found.endpoints_offline) == (3, 0)


PARAMS = {"Event": "QueueParams", "Queue": "q", "ServiceLevel": "0"}
MEMBER = {
    "Event": "QueueMember",
    "Queue": "q",
    "Name": "A",
    "Location": "PJSIP/1",
    "Status": "1",
    "Paused": "0",
    "LastCall": "0",
    "Wrapuptime": "0",
}


def queue_of(wait, member=MEMBER):
    entry = {"Event": "QueueEntry", "Queue": "q", "Wait": str(wait)}
    return listing("QueueStatus", PARAMS, entry, member)


def test_a_long_wait(well):
    assert assess(well(QueueStatus=queue_of(120))).status is Status.OK
    assert texts(assess(well(QueueStatus=queue_of(121)))) == [
        "WARNING: a caller in queue q has waited 121 s"
    ]
    assert assess(well(QueueStatus=queue_of(31)), wait_seconds=30).status is Status.WARNING


def test_waiting_with_nobody_available(well):
    paused = {**MEMBER, "Paused": "1"}
    assert texts(assess(well(QueueStatus=queue_of(1, paused)))) == [
        "WARNING: 1 waiting in queue q with nobody available"
    ]
    nobody_waits = listing("QueueStatus", PARAMS, paused)
    assert assess(well(QueueStatus=nobody_waits)).status is Status.OK


def test_the_cdr_database_is_a_warning(well):
    found = assess(well(), Cdr(error="connection refused"))
    assert texts(found) == ["WARNING: CDR database: connection refused"]


def test_what_cannot_be_asked_is_a_warning_and_unknown(well):
    denied = PermissionDeniedError("DeviceStateList", "exporter")
    found = assess(well(DeviceStateList=Reply("DeviceStateList", error=denied)))
    assert found.status is Status.WARNING
    assert found.endpoints_online is None
    assert found.queues is not None
    assert "may not run DeviceStateList" in texts(found)[0]
    shown = report.as_text(found, TARGET, None, report.Shown(full=True))
    assert "Endpoints:     unknown" in shown


def test_without_core_status_it_is_critical(replies):
    found = assess(replies("denied"))
    assert found.status is Status.CRITICAL
    assert "may not run CoreStatus" in report.first_line(found)
    assert "no answer to CoreStatus" in report.as_text(found, TARGET, None, report.Shown())


def test_the_worst_problem_comes_first_and_decides(well):
    found = assess(well(DeviceStateList=endpoints_of(0, 3), QueueStatus=queue_of(200)))
    assert found.status is Status.CRITICAL
    assert texts(found)[0].startswith("CRITICAL")


def test_text_of_a_failure():
    error = RefusedError("192.0.2.10:5038")
    shown = report.as_text(health.failed(error), TARGET, error, report.Shown(True, True))
    lines = shown.splitlines()
    assert lines[0].startswith("ASTERISK CRITICAL - nothing listens on 192.0.2.10:5038")
    assert "|" not in lines[0]
    assert "Connection:    failed (refused)" in lines
    assert "secret-of-the-test" not in shown


def test_text(replies):
    found = replace(assess(replies("busy"), Cdr(age_seconds=12.4)), response_seconds=0.0015)
    shown = report.as_text(found, TARGET, None, report.Shown(True, True, width=140))
    for line in (
        "Target:        192.0.2.10:5038",
        "User:          exporter",
        "TLS:           no",
        "Connection:    ok, answered in 1.5 ms",
        "Asterisk:      22.10.1+dfsg+~cs6.17.60671434-1",
        "System name:   pbx1",
        "Active calls:  9",
        "Channels:      15",
        "Endpoints:     5 online, 2 offline (PJSIP/103, PJSIP/backup-trunk)",
        "Registration:  provider-reg at sip:127.0.0.1:5060: Registered",
        "CDR:           newest record 12 s old",
    ):
        assert line in shown.splitlines()
    [support] = [line for line in shown.splitlines() if line.startswith("│ support")]
    cells = [cell.strip() for cell in support.strip("│").split("│")]
    assert cells == ["support", "2", "14 s", "3", "0", "0", "1 in_use, 1 unavailable, 1 ringing"]


def test_text_shows_only_what_was_asked_for(replies):
    shown = report.as_text(assess(replies("busy")), TARGET, None, report.Shown())
    assert "Channels:" not in shown
    assert "│" not in shown


@pytest.mark.parametrize(
    ("cdr", "line"),
    [
        (None, "CDR:           not configured"),
        (Cdr(), "CDR:           database answers, no record yet"),
        (Cdr(error="refused"), "CDR:           refused"),
    ],
)
def test_cdr_lines(replies, cdr, line):
    shown = report.as_text(assess(replies("idle"), cdr), TARGET, None, report.Shown(full=True))
    assert line in shown.splitlines()


def test_text_without_registrations_or_queues(replies, well):
    no_queues = listing("QueueStatus")
    shown = report.as_text(
        assess(well(QueueStatus=no_queues)), TARGET, None, report.Shown(full=True, queues=True)
    )
    assert "Registrations: none configured" in shown
    assert shown.endswith("No queues.")
    denied = Reply("x", error=PermissionDeniedError("x", "exporter"))
    found = assess(well(PJSIPShowRegistrationsOutbound=denied, CoreShowChannels=denied))
    assert "Registrations: unknown" in report.as_text(found, TARGET, None, report.Shown(full=True))
    assert "Active calls:  unknown" in report.as_text(found, TARGET, None, report.Shown())


def test_names_cannot_draw_on_the_terminal_nor_break_the_first_line(well):
    evil = "q\x1b[2J|x\n"
    queue = listing(
        "QueueStatus",
        {**PARAMS, "Queue": evil},
        {"Event": "QueueEntry", "Queue": evil, "Wait": "500"},
    )
    found = assess(well(QueueStatus=queue))
    shown = report.as_text(found, TARGET, None, report.Shown(queues=True))
    assert "\x1b" not in shown
    assert shown.splitlines()[0].count("|") == 1


def test_json(replies):
    document = json.loads(report.as_json(assess(replies("busy"), Cdr()), TARGET, None))
    assert list(document) == [
        *("status", "exit_code", "problems", "target", "connection", "asterisk"),
        *("endpoints", "registrations", "cdr", "queues"),
    ]
    assert (document["status"], document["exit_code"]) == ("WARNING", 1)
    assert document["target"] == {
        "host": "192.0.2.10",
        "port": 5038,
        "username": "exporter",
        "tls": False,
    }
    assert document["connection"]["ok"] is True
    assert document["asterisk"]["calls"] == 9
    assert document["endpoints"]["online"] == 5
    assert document["registrations"][0] == {
        "name": "provider-reg",
        "server": "sip:127.0.0.1:5060",
        "status": "Registered",
    }
    assert document["cdr"] == {"age_seconds": None, "error": None}
    [sales] = [queue for queue in document["queues"] if queue["name"] == "sales"]
    assert (sales["waiting"], sales["longest_wait_seconds"], sales["available"]) == (1, 11, 1)
    assert sales["members"]["ringing"] == 1


def test_json_of_a_failure_has_the_same_keys(replies):
    error = RefusedError("192.0.2.10:5038")
    failed = json.loads(report.as_json(health.failed(error), TARGET, error))
    assert list(failed) == list(json.loads(report.as_json(assess(replies("busy")), TARGET, None)))
    assert failed["connection"]["error"]["kind"] == "refused"
    assert failed["queues"] is None


def test_first_line_of_an_unknown_number_of_calls(well):
    found = replace(assess(well()), calls=None)
    assert "unknown number of active calls" in report.first_line(found)
    assert "1 active call," in report.first_line(replace(found, calls=1))
