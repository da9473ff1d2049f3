"""asterisk-ctl against a real Asterisk and SIP phones: what it says is what Asterisk has."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from lab import Lab, wait_until

ANSI = re.compile(r"\x1b\[[0-9;]*m")
Result = subprocess.CompletedProcess[str]


def ctl(lab: Lab, *arguments: str) -> Result:
    return lab.exec("asterisk-ctl " + " ".join(map(shlex.quote, arguments)))


def done(lab: Lab, *arguments: str) -> Any:
    """Run it and return its JSON; it must say that it is done."""
    result = ctl(lab, *arguments, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def channels(lab: Lab) -> dict[str, str]:
    """Application by channel, as Asterisk's own CLI has it."""
    rows = [row.split("!") for row in lab.asterisk("core show channels concise").splitlines()]
    return {row[0]: row[5] for row in rows if len(row) > 5}


def channels_of(lab: Lab, phone: str) -> list[str]:
    return [name for name in channels(lab) if name.startswith(f"PJSIP/{phone}-")]


def queue_show(lab: Lab, queue: str, interface: str) -> str:
    lines = ANSI.sub("", lab.asterisk(f"queue show {queue}")).splitlines()
    return next((line.strip() for line in lines if interface in line), "")


def pairs(lab: Lab) -> set[frozenset[str]]:
    """Who talks with whom, by endpoint."""
    endpoint = {one["name"]: one["name"].rpartition("-")[0] for one in done(lab, "call", "list")}
    return {
        frozenset((endpoint[one["name"]], endpoint[one["peer"]]))
        for one in done(lab, "call", "list")
        if one["peer"] in endpoint and one["name"] in endpoint
    }


@pytest.fixture(autouse=True)
def calm(lab: Lab) -> Iterator[None]:
    """No call before, none after."""
    for _ in range(2):
        lab.asterisk("channel request hangup all")
        wait_until(lambda: not channels(lab), 30, "no channels")
        if _ == 0:
            yield


@pytest.fixture
def call(lab: Lab) -> None:
    """103 has called 102, and they talk."""
    lab.run("systemd-run --quiet --collect lab-call extension 103 102 300")
    wait_until(lambda: pairs(lab) == {frozenset(("PJSIP/102", "PJSIP/103"))}, 30, "a call")


# calls


def test_originate_list_and_hangup(lab: Lab) -> None:
    made = done(lab, "call", "originate", "101", "102")
    assert channels_of(lab, "101") == [made["channel"]]
    wait_until(lambda: pairs(lab) == {frozenset(("PJSIP/101", "PJSIP/102"))}, 30, "they talk")
    listed = {one["name"]: one for one in done(lab, "call", "list")}
    assert set(listed) == set(channels(lab))
    assert listed[made["channel"]]["uniqueid"] == made["uniqueid"]
    assert listed[made["channel"]]["caller"] == "101"
    ended = done(lab, "call", "hangup", made["uniqueid"])
    assert ended["channel"] == made["channel"]
    wait_until(lambda: not channels(lab), 20, "the other side is gone too")


def test_originate_that_nobody_answers(lab: Lab) -> None:
    result = ctl(lab, "call", "originate", "105", "102", "--ring", "2")
    assert result.returncode == 1
    assert "it rang and nobody answered" in result.stderr
    assert result.stdout == ""
    wait_until(lambda: not channels(lab), 4, "it does not ring any more, and never answers")


@pytest.mark.parametrize(
    ("phone", "extension", "status", "said"),
    [
        ("999", "102", 2, "knows no PJSIP/999"),
        ("101", "99999", 1, "Extension does not exist"),
    ],
)
def test_originate_to_nowhere_rings_nobody(
    lab: Lab, phone: str, extension: str, status: int, said: str
) -> None:
    result = ctl(lab, "call", "originate", phone, extension)
    assert (result.returncode, said in result.stderr) == (status, True), result.stderr
    assert not channels(lab)


def test_two_at_once_have_their_own_outcomes(lab: Lab) -> None:
    with ThreadPoolExecutor() as pool:
        first, second = pool.map(
            lambda phone: ctl(lab, "call", "originate", phone, "700", "--ring", "5"), ("101", "105")
        )
    assert (first.returncode, second.returncode) == (0, 1), (first.stderr, second.stderr)
    assert first.stdout.startswith("PJSIP/101-")
    assert "PJSIP/105 did not answer" in second.stderr


@pytest.mark.usefixtures("call")
def test_transfer(lab: Lab) -> None:
    [caller], [left] = channels_of(lab, "103"), channels_of(lab, "102")
    moved = done(lab, "call", "transfer", "103", "101")
    assert (moved["channel"], moved["context"], moved["extension"]) == (caller, "internal", "101")
    wait_until(lambda: pairs(lab) == {frozenset(("PJSIP/101", "PJSIP/103"))}, 30, "they talk")
    assert left not in channels(lab)
    assert channels_of(lab, "103") == [caller]


@pytest.mark.usefixtures("call")
def test_transfer_of_the_other_party(lab: Lab) -> None:
    moved = done(lab, "call", "transfer", "103", "101", "--other-party")
    assert moved["channel"].startswith("PJSIP/102-")
    wait_until(lambda: pairs(lab) == {frozenset(("PJSIP/101", "PJSIP/102"))}, 30, "they talk")


@pytest.mark.usefixtures("call")
def test_transfer_to_nowhere_leaves_the_call_alone(lab: Lab) -> None:
    for arguments in (("103", "99999"), ("103", "101", "--context", "from-external")):
        assert ctl(lab, "call", "transfer", *arguments).returncode == 2
    assert pairs(lab) == {frozenset(("PJSIP/102", "PJSIP/103"))}


@pytest.mark.usefixtures("call")
def test_the_space_of_a_parked_call_fetches_it(lab: Lab) -> None:
    parked = done(lab, "call", "park", "102", "--other-party")
    shown = lab.asterisk("parking show default")
    assert parked["channel"].startswith("PJSIP/103-")
    assert re.search(rf"Space\s+:\s+{parked['space']}\n\s+Channel\s+:\s+{parked['channel']}", shown)
    lab.run(f"systemd-run --quiet --collect lab-call extension 104 {parked['space']} 60")
    wait_until(lambda: pairs(lab) == {frozenset(("PJSIP/103", "PJSIP/104"))}, 30, "it is fetched")


@pytest.mark.usefixtures("call")
def test_a_full_parking_lot_leaves_the_call_alone(lab: Lab) -> None:
    spaces = re.search(r"Parking Spaces\s+:\s+(\d+)-(\d+)", lab.asterisk("parking show default"))
    assert spaces
    size = int(spaces[2]) - int(spaces[1]) + 1
    # At once: the last comes before the first leaves the lot, which it does after 45 s.
    park = "asterisk -rx 'channel originate Local/700@internal application Wait 300'"
    lab.run(f"for space in $(seq {size}); do {park}; done")
    wait_until(
        lambda: len(re.findall(r"Space\s+:", lab.asterisk("parking show default"))) == size,
        30,
        "the lot is full",
    )
    result = ctl(lab, "call", "park", "102")
    assert result.returncode == 1
    assert "Is a space free?" in result.stderr
    assert frozenset(("PJSIP/102", "PJSIP/103")) in pairs(lab)


@pytest.mark.usefixtures("call")
def test_a_phone_with_two_channels_has_to_be_named(lab: Lab) -> None:
    lab.run("systemd-run --quiet --collect lab-call extension 103 101 300")
    talk = {frozenset((f"PJSIP/{phone}", "PJSIP/103")) for phone in ("101", "102")}
    wait_until(lambda: pairs(lab) == talk, 30, "another call")
    before = set(channels(lab))
    for arguments in (("hangup", "103"), ("park", "103"), ("transfer", "103", "104")):
        result = ctl(lab, "call", *arguments)
        assert result.returncode == 2
        assert all(name in result.stderr for name in channels_of(lab, "103"))
    assert set(channels(lab)) == before
    [gone, stays] = channels_of(lab, "103")
    assert done(lab, "call", "hangup", gone)["channel"] == gone
    assert channels_of(lab, "103") == [stays]


# queue members


def test_a_member_comes_pauses_and_goes(lab: Lab) -> None:
    assert queue_show(lab, "support", "PJSIP/105") == ""
    added = done(
        *(lab, "queue", "add", "support", "105", "--name", "Erin", "--penalty", "3"),
        *("--paused", "--reason", "training, first day"),
    )
    try:
        shown = queue_show(lab, "support", "PJSIP/105")
        assert shown.startswith("Erin (PJSIP/105) with penalty 3")
        assert "(dynamic)" in shown
        assert "paused:training, first day" in shown
        assert (added["penalty"], added["reason"]) == (3, "training, first day")
        again = ctl(lab, "queue", "add", "support", "PJSIP/105")
        assert again.returncode == 1
        assert "Already there" in again.stderr
        done(lab, "queue", "unpause", "Erin", "--queue", "support")
        assert "paused" not in queue_show(lab, "support", "PJSIP/105")
        everywhere = done(lab, "queue", "pause", "105", "--reason", "обед")
        assert [one["queue"] for one in everywhere] == ["sales", "support", "vip"]
        for queue in ("sales", "support", "vip"):
            assert "paused:обед" in queue_show(lab, queue, "PJSIP/105")
        done(lab, "queue", "unpause", "105")
        for queue in ("sales", "support", "vip"):
            assert "paused" not in queue_show(lab, queue, "PJSIP/105")
    finally:
        lab.exec("asterisk-ctl queue unpause 105")
        removed = done(lab, "queue", "remove", "support", "105")
    assert removed["name"] == "Erin"
    assert queue_show(lab, "support", "PJSIP/105") == ""
    events = [
        line.split("|")[3:5]
        for line in lab.run("tail -30 /var/log/asterisk/queue_log").splitlines()
    ]
    assert ["Erin", "ADDMEMBER"] in events
    assert ["Erin", "REMOVEMEMBER"] in events


def test_a_configured_member_cannot_be_removed(lab: Lab) -> None:
    result = ctl(lab, "queue", "remove", "support", "101")
    assert result.returncode == 1
    assert "Member not dynamic" in result.stderr
    assert queue_show(lab, "support", "PJSIP/101")


def test_what_is_unknown_is_told_what_there_is(lab: Lab) -> None:
    result = ctl(lab, "queue", "add", "suport", "105")
    assert (result.returncode, "support" in result.stderr) == (2, True)
    result = ctl(lab, "queue", "pause", "105", "--queue", "support")
    assert (result.returncode, "support: PJSIP/101" in result.stderr) == (2, True)
    result = ctl(lab, "queue", "add", "support", "999")
    assert (result.returncode, "knows no PJSIP/999" in result.stderr) == (2, True)


# nothing else


@pytest.mark.usefixtures("call")
def test_a_dry_run_changes_nothing(lab: Lab) -> None:
    before = set(channels(lab))
    for arguments in (
        ("call", "originate", "101", "104"),
        ("call", "transfer", "103", "101"),
        ("call", "park", "103"),
        ("call", "hangup", "103"),
        ("queue", "add", "support", "105"),
        ("queue", "pause", "101"),
    ):
        result = ctl(lab, *arguments, "--dry-run")
        assert result.returncode == 0
        assert result.stdout.startswith("Action: ")
    assert set(channels(lab)) == before
    assert queue_show(lab, "support", "PJSIP/105") == ""
    assert "paused" not in queue_show(lab, "support", "PJSIP/101")


SECOND = "x\r\n\r\nAction: QueueAdd\r\nQueue: support\r\nInterface: PJSIP/106\r\n\r\n"


HOSTILE = [
    ("queue", "pause", "101", "--reason", SECOND),
    ("queue", "pause", "101", "--queue", f"support{SECOND}"),
    ("queue", "pause", f"PJSIP/101{SECOND}"),
    ("queue", "add", "support", "105", "--name", SECOND),
    ("queue", "add", "support", f"PJSIP/105{SECOND}"),
    ("queue", "add", "support", "Local/105@internal"),
    ("call", "originate", "101", f"102{SECOND}"),
    ("call", "originate", "101", "102&PJSIP/106"),
    ("call", "originate", "101", "102,1,${SHELL(touch /tmp/injected)}"),
    ("call", "originate", "101&PJSIP/106", "102"),
    ("call", "originate", "101", "102", "--caller-id", SECOND),
    ("call", "originate", "101", "102", "--context", SECOND),
    ("call", "hangup", f"x{SECOND}"),
    ("call", "hangup", "/^PJSIP/"),
    ("call", "transfer", "103", "102)${SHELL(touch /tmp/injected)}"),
]


@pytest.mark.usefixtures("call")
def test_nothing_is_injected(lab: Lab) -> None:
    before = set(channels(lab))
    for arguments in HOSTILE:
        assert ctl(lab, *arguments).returncode == 2, arguments
    assert queue_show(lab, "support", "PJSIP/106") == ""
    assert "paused" not in queue_show(lab, "support", "PJSIP/101")
    assert set(channels(lab)) == before
    assert lab.exec("test -e /tmp/injected").returncode == 1


def test_only_root_has_the_secret(lab: Lab) -> None:
    result = lab.exec("runuser -u nobody -- asterisk-ctl call list")
    assert result.returncode == 2
    assert "control-secret: Permission denied" in result.stderr
    assert lab.run("stat -c '%U %a' /etc/asterisk-exporter/control-secret").split() == [
        "root",
        "600",
    ]


def test_the_shell_completes_what_asterisk_has(lab: Lab) -> None:
    line = "asterisk-ctl queue add s"
    answer = lab.run(
        f"COMP_WORDS='{line}' COMP_CWORD=3 _ASTERISK_CTL_COMPLETE=bash_complete asterisk-ctl"
    )
    assert answer.split() == ["plain,sales", "plain,support"]
    script = lab.run("_ASTERISK_CTL_COMPLETE=bash_source asterisk-ctl")
    assert lab.exec("bash -n", stdin=script).returncode == 0
    assert "asterisk-ctl" in script
