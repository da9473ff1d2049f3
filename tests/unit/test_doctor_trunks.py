"""What the doctor says about trunks."""

from __future__ import annotations

from pathlib import Path

import pytest

from asterisk_exporter import config
from asterisk_exporter.ami.client import Reply
from asterisk_exporter.ami.errors import UnknownActionError
from asterisk_exporter.collectors.registrations import Registration
from asterisk_exporter.doctor import trunks
from asterisk_exporter.doctor.finding import not_set_up, ok
from asterisk_exporter.doctor.pbx import Pbx

SERVER = "sip:sip.example.net"


def judge(registered=(), names=(), **states):
    return list(trunks.judge(registered, names, states))


def test_without_any():
    assert judge() == [
        not_set_up("no outbound registration, and no trunk (asterisk_exporter_trunks)")
    ]


def test_all_are_well():
    rows = [Registration("provider", SERVER, "Registered")]
    assert judge(rows, ["provider"], provider="not_in_use") == [
        ok(f"provider registered at {SERVER}, provider reachable")
    ]


@pytest.mark.parametrize(
    ("status", "action"),
    [("Rejected", "refuses the login"), ("Stopped", "refuses"), ("Unregistered", "host answer")],
)
def test_not_registered(status, action):
    (found,) = judge([Registration("provider", SERVER, status)])
    assert found.status.name == "CRITICAL"
    assert found.text.startswith(f"provider is not registered at {SERVER} ({status})")
    assert action in found.action


def test_unreachable_and_unknown_trunks():
    unreachable, unknown, well = judge([], ["a", "b", "c"], a="unavailable", c="in_use")
    assert unreachable.status.name == "CRITICAL"
    assert unreachable.text.startswith("trunk a does not answer (unavailable)")
    assert "pjsip show endpoint a" in unreachable.action
    assert unknown.status.name == "WARNING"
    assert unknown.text.startswith("Asterisk knows no endpoint b,")
    assert "asterisk_exporter_trunks" in unknown.action
    assert well == ok("c reachable")


def pbx_of(replies, **calls):
    pbx = Pbx(config.Config(calls=calls), Path("none.yml"), 1.0)
    pbx.replies = replies
    return pbx


#: What Asterisk 22.10 prints, without most of its heading.
SHOWN = """
 Endpoint:  <Endpoint/CID.....................................>  <State.....>  <Channels.>
    I/OAuth:  <AuthId/UserName...........................................................>
==========================================================================================

 Endpoint:  {name:54}{state:14}0 of inf
        Aor:  new                                                1
"""


@pytest.mark.parametrize(
    ("text", "state"),
    [
        (SHOWN.format(name="new", state="Not in use"), "not_in_use"),
        (SHOWN.format(name="new/+493012345", state="Unavailable"), "unavailable"),
        ("Unable to find object typo.\n", None),
    ],
)
def test_the_state_that_the_console_shows(text, state):
    assert trunks.state_shown(text) == state


def test_of_real_replies(replies, monkeypatch):
    pbx = pbx_of(replies("busy"), trunks=["provider", "backup-trunk", "new", "typo"])
    monkeypatch.setattr(
        pbx,
        "asterisk",
        {
            "pjsip show endpoint new": SHOWN.format(name="new", state="Not in use"),
            "pjsip show endpoint typo": "Unable to find object typo.",
        }.__getitem__,
    )
    found = [f"{finding.status.name}: {finding.text}" for finding in trunks.look(pbx)]
    assert [text.split(",")[0].split(":")[1] for text in found[:-1]] == [
        " rejected-reg is not registered at sip",
        " silent-reg is not registered at sip",
        " trunk backup-trunk does not answer (unavailable)",
        " Asterisk knows no endpoint typo",
    ]
    assert found[-1] == (
        "OK: provider-reg registered at sip:127.0.0.1:5060, provider reachable, new reachable"
    )


def test_other_channel_drivers_and_another_machine(replies):
    error = UnknownActionError("PJSIPShowRegistrationsOutbound")
    pbx = pbx_of(
        replies("busy", PJSIPShowRegistrationsOutbound=Reply("x", error=error)), trunks=["new"]
    )
    pbx.asterisk_is_here = False
    (found,) = trunks.look(pbx)
    assert found.text.startswith("Asterisk knows no endpoint new")
