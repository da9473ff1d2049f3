"""What the doctor says about queues."""

from __future__ import annotations

from pathlib import Path

import pytest

from asterisk_exporter import config
from asterisk_exporter.ami.client import Reply
from asterisk_exporter.ami.errors import UnknownActionError
from asterisk_exporter.collectors.queues import Member, Queue
from asterisk_exporter.doctor import queues
from asterisk_exporter.doctor.finding import not_set_up, ok
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.journal.queue_log import parse


def queue(name: str, *members: Member, waits=(), level: int = 30) -> Queue:
    return Queue(name, level, tuple(waits), members)


def member(number: int, state: str = "not_in_use", paused: bool = False) -> Member:
    return Member(f"M{number}", f"PJSIP/{number}", state, paused, in_wrap_up=False)


def judged(*found: Queue, left=()) -> list[str]:
    findings = queues.judge_members(found, frozenset(left))
    return [f"{finding.status.name}: {finding.text}" for finding in findings]


def test_a_queue_with_one_member_who_can_be_rung_is_well():
    found = queue("a", member(1, paused=True), member(2, "unavailable"), member(3, "in_use"))
    assert judged(found, queue("b", member(4))) == ["OK: 2 queues, 4 members, 1 free"]


@pytest.mark.parametrize(
    ("members", "expected", "action"),
    [
        ((), "has no members", "pbx_queues"),
        (
            (member(1, paused=True),),
            "has only members who are paused (1)",
            "queue unpause MEMBER --queue a",
        ),
        (
            (member(1, "unavailable"), member(2, "unavailable")),
            "has only members who are unavailable (2)",
            "pjsip show contacts",
        ),
        (
            (member(1, "invalid"), member(2, "unavailable", paused=True), member(3, paused=True)),
            "has nobody who can be rung (1 invalid, 2 paused)",
            "pjsip show contacts",
        ),
    ],
)
def test_nobody_can_answer(members, expected, action):
    found = list(queues.judge_members([queue("a", *members)], frozenset()))
    assert found[0].status.name == "WARNING"
    assert found[0].text.startswith(f"queue a {expected}: ")
    assert action in found[0].action
    waited = list(queues.judge_members([queue("a", *members, waits=[5, 3])], frozenset({"a"})))
    assert waited[0].status.name == "CRITICAL"
    assert waited[0].text == f"queue a {expected}, and 2 callers wait in it"


def test_agents_who_have_logged_out_are_no_fault():
    assert judged(queue("a"), queue("b", member(1)), left={"a"}) == [
        "OK: 2 queues, 1 member, 1 free; everybody has logged out of a"
    ]
    assert judged(queue("b", member(1, paused=True)), left={"b"})[0].startswith("WARNING: queue b")


def test_who_has_left_by_themselves():
    lines = [
        "1|x|a|PJSIP/1|ADDMEMBER|",
        "2|x|a|PJSIP/1|REMOVEMEMBER|",
        "3|x|b|PJSIP/1|REMOVEMEMBER|",
        "4|x|b|PJSIP/1|ADDMEMBER|",
        "5|x|b|PJSIP/1|PAUSE|lunch",
        "6|c|d|NONE|ABANDON|1|1|5",
    ]
    assert queues.left_by_themselves(map(parse, lines)) == {"a"}


def test_many_of_a_kind_are_cut_the_worst_first():
    found = [queue(f"q{n}") for n in range(10)] + [queue("last", waits=[9])]
    shown = judged(*found)
    assert shown[0].startswith("CRITICAL: queue last ")
    assert shown[8:] == ["WARNING: and 3 more like these", "OK: 11 queues, 0 members, 0 free"]


def test_service_levels():
    found = [queue("a", level=0), queue("b", level=20), queue("c", level=0)]
    shown = list(queues.judge_service_levels(found, {"c": 15}))
    assert [(finding.status.name, finding.text.split(":")[0]) for finding in shown] == [
        ("WARNING", "queue a has no service level (0 s)"),
        ("OK", "b 20 s, c 15 s"),
    ]
    assert "asterisk_exporter_service_levels" in shown[0].action


def test_many_service_levels_take_one_line():
    (shown,) = queues.judge_service_levels([queue(f"q{n}") for n in range(10)], {})
    assert shown == ok(", ".join(f"q{n} 30 s" for n in range(8)) + " and 2 more")


def test_of_real_replies(replies):
    pbx = Pbx(config.Config(), Path("none.yml"), 1.0)
    pbx.replies = replies("busy")
    found = [*queues.members(pbx), *queues.service_levels(pbx)]
    assert [finding.status.name for finding in found][-1] == "OK"
    assert any("support 60 s" in finding.text for finding in found)


@pytest.mark.parametrize("look", [queues.members, queues.service_levels])
def test_a_pbx_without_queues(look):
    pbx = Pbx(config.Config(), Path("none.yml"), 1.0)
    pbx.replies = {"QueueStatus": Reply("QueueStatus", error=UnknownActionError("QueueStatus"))}
    expected = [not_set_up("Asterisk has no queue (pbx_queues; queues.conf)")]
    assert list(look(pbx)) == expected
