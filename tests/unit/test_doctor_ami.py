"""The doctor's links that are our AMI logins: whether they are let in, and what they may do."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from asterisk_exporter import config
from asterisk_exporter.ami.errors import LoginRejectedError, RefusedError
from asterisk_exporter.doctor import accounts, ami
from asterisk_exporter.doctor.accounts import Session, User, commands, user
from asterisk_exporter.doctor.acl import acl, allowed, is_open, lets_in
from asterisk_exporter.doctor.ami import (
    judge_acls,
    judge_excess,
    judge_missing,
    judge_refused,
    user_names,
)
from asterisk_exporter.health import Status

from .conftest import reply_of

#: manager show user, of Asterisk 22.
SHOWN = """
          username: exporter
            secret: <Set>
               ACL: yes
         read perm: <none>
        write perm: reporting
   displayconnects: no
allowmultiplelogin: yes
         Variables:
ACL: (unnamed)
---------------------------------------------
  0:  deny - 0.0.0.0/0.0.0.0
  1:  deny - ::/::
  2: allow - 127.0.0.1/255.255.255.255
  3: allow - 10.1.0.0/255.255.0.0
"""
USERS = """
username
--------
events
control
-------------------
2 manager users configured.
"""
GUARDED = acl(SHOWN)
EVERYBODY = acl("ACL: (unnamed)\n---\n  0:  deny - 0.0.0.0/0.0.0.0\n  1: allow - 0.0.0.0/0.0.0.0\n")


@pytest.fixture
def account(tmp_path):
    return accounts.exporter(config.Config(), tmp_path / "x.yml")


@pytest.fixture
def control(tmp_path):
    return accounts.control(config.Config(control={}), tmp_path / "x.yml")


@pytest.fixture
def events(tmp_path):
    return accounts.events(config.Config(events={"enabled": True}), tmp_path / "x.yml")


def known(name="exporter", has_acl=True, acl=GUARDED, read=()):
    return User(name, has_acl, acl, frozenset(read))


# ACL


@pytest.mark.parametrize(
    ("address", "let_in"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", False),
        ("10.1.2.3", True),
        ("10.2.2.3", False),
        ("::1", False),
    ],
)
def test_who_is_let_in(address, let_in):
    assert lets_in(GUARDED, address) is let_in


def test_acls():
    assert allowed(GUARDED) == "127.0.0.1/32, 10.1.0.0/16"
    assert not is_open(GUARDED)
    assert is_open(EVERYBODY)
    # each of two lists has to let it in
    both = acl(SHOWN + "ACL: named\n---\n  0:  deny - 127.0.0.0/255.0.0.0\n")
    assert not lets_in(both, "127.0.0.1")
    assert lets_in(both, "10.1.2.3")
    assert allowed(acl("ACL: x\n  0:  deny - 0.0.0.0/0.0.0.0\n")) == "nowhere"
    assert is_open(acl("ACL: x\n  0:  deny - 10.0.0.0/255.0.0.0\n"))
    # an IPv6 network that may, of those that may not
    six = acl("ACL: x\n  0:  deny - ::/::\n  1: allow - 2001:db8::/ffff:ffff::\n")
    assert allowed(six) == "2001:db8::/32"


def test_what_asterisk_knows_of_a_user():
    assert user("exporter", SHOWN) == User("exporter", True, GUARDED, frozenset())
    # 16 to 20 say only whether there is an ACL
    older = SHOWN.partition("ACL: (")[0].replace("<none>", "call,all")
    assert user("exporter", older) == User("exporter", True, None, frozenset({"call", "all"}))
    bare = older.replace("ACL: yes", "ACL: no")
    assert user("exporter", bare).has_acl is False
    assert user("exporter", "\nThere is no manager called exporter\n") is None


def test_the_names_of_the_users():
    assert user_names(USERS) == ["events", "control"]
    assert user_names("There are no manager users configured.\n") == []


def test_where_from_each_may_log_in():
    [fine] = judge_acls([known("a"), known("b"), known("c", acl=None)], exposed=True)
    assert (fine.status, fine.text) == (
        Status.OK,
        "a, b from 127.0.0.1/32, 10.1.0.0/16 only; c from some addresses only",
    )
    [fine] = judge_acls([known("a", has_acl=False, acl=None)], exposed=False)
    assert (fine.status, fine.text) == (Status.OK, "a from anywhere, but AMI is on loopback")
    bad, other = judge_acls(
        [known("a", has_acl=False, acl=None), known("b", acl=EVERYBODY)], exposed=True
    )
    assert (bad.status, "'a' may log in from anywhere" in bad.text) == (Status.WARNING, True)
    assert "permit of b" in other.action
    assert list(judge_acls([], exposed=True)) == []
    many = list(judge_acls([known(str(n), False, None) for n in range(20)], exposed=True))
    assert (len(many), many[-1].text) == (9, "and 12 more like these")
    assert many[-1].action == "As above."


# logins


@pytest.mark.parametrize(
    ("found", "text", "action"),
    [
        (None, "has no AMI user 'exporter'", "pbx_manager_users"),
        (known(), "keeps us out: we come from 192.0.2.9, and it lets in 127.0.0.1/32", "permit"),
        (known(acl=EVERYBODY), "refuses the secret of AMI user 'exporter': ", "_ami_secret"),
        (known(acl=None), "'exporter', or its ACL does not let us in", "_ami_secret"),
        (known(has_acl=False, acl=None), "refuses the secret of AMI user 'exporter': ", "_ami_se"),
    ],
)
def test_why_a_login_is_refused(account, control, found, text, action):
    finding = judge_refused(account, found, "192.0.2.9")
    assert (finding.status, text in finding.text) == (Status.CRITICAL, True), finding
    assert "figures are missing" in finding.text.lower()
    assert action in finding.action
    assert judge_refused(control, found, "192.0.2.9").status is Status.WARNING


def looked(monkeypatch, outcomes, **sections):
    """Return what each link of a login says, with these outcomes by user."""
    settings = config.Config(**sections)
    monkeypatch.setattr(ami, "outcome", lambda _, account: outcomes[account.username])
    monkeypatch.setattr(ami, "_answers", lambda _: "; Asterisk answers")
    pbx = SimpleNamespace(settings=settings, path=None, has_console=False)
    links = (ami.login, ami.events_login, ami.control_login)
    return [finding for link in links for finding in link(pbx)]


def test_what_is_let_in(monkeypatch):
    let_in = dict.fromkeys(("exporter", "events", "control"), Session({}))
    found = looked(monkeypatch, let_in, events={"enabled": True}, control={})
    assert [(f.status, f.text) for f in found] == [
        (Status.OK, "exporter is let in; Asterisk answers"),
        (Status.OK, "events is let in"),
        (Status.OK, "control is let in"),
    ]
    found = looked(monkeypatch, let_in)
    assert [f.status for f in found] == [Status.OK, None, None]
    assert "asterisk_exporter_control" in found[2].text


def test_what_is_not(monkeypatch):
    rejected = LoginRejectedError("pbx:5038", "exporter", "Authentication failed", "192.0.2.1")
    outcomes = {
        "exporter": rejected,
        "events": config.ConfigError("cannot read events-secret."),
        "control": rejected,
    }
    found = looked(monkeypatch, outcomes, events={"enabled": True}, control={})
    assert [f.status for f in found] == [Status.CRITICAL, Status.CRITICAL, Status.WARNING]
    assert found[1].text.startswith("cannot read events-secret. Voice quality")
    assert "asterisk_exporter_ami_secret" in found[0].action
    # nobody can log in at all
    outcomes["exporter"] = RefusedError("pbx:5038")
    found = looked(monkeypatch, outcomes, events={"enabled": True}, control={})
    assert [f.status for f in found] == [Status.CRITICAL, None, None]


# permissions


def test_the_commands_of_a_login(account):
    found = commands(reply_of("idle", "ListCommands").message())
    assert found["QueueStatus"] == frozenset()
    assert found["CoreStatus"] == {"system", "reporting"}
    assert account.actions <= set(found)
    assert list(judge_excess(account, Session(found), known())) == []
    assert list(judge_missing(account, [], known())) == []


def test_more_than_it_needs(account):
    found = {"Ping": frozenset(), "AOCMessage": frozenset({"aoc"}), "Status": frozenset({"call"})}
    granted = {"Command": frozenset({"command"}), "CoreStatus": frozenset({"reporting", "system"})}
    run, hear = judge_excess(account, Session({**found, **granted}), known(read=["call", "cdr"]))
    assert run.status is hear.status is Status.WARNING
    assert run.text == (
        "AMI user 'exporter' may do more than it needs: run Command, AOCMessage, Status"
    )
    assert "read =  and write = reporting for exporter" in run.action
    assert hear.text.endswith("it does not need: call, cdr")


def test_less_than_it_needs(account, control, events):
    [run] = judge_missing(account, ["CoreStatus"], None)
    assert (run.status, "may not run CoreStatus" in run.text) == (Status.CRITICAL, True)
    [run] = judge_missing(control, ["Park"], known(read=["call", "dialplan"]))
    assert run.status is Status.WARNING
    [hear] = judge_missing(events, [], known(read=["security"]))
    assert (hear.status, "gets no events of reporting" in hear.text) == (Status.CRITICAL, True)
    assert list(judge_missing(events, [], known(read=["all"]))) == []


def test_an_action_whose_module_is_not_loaded_is_not_missed(monkeypatch):
    granted = commands(reply_of("idle", "ListCommands").message())
    del granted["ConfbridgeListRooms"]
    shown = {"manager show user exporter": SHOWN, "manager show command ConfbridgeListRooms": "\n"}
    pbx = SimpleNamespace(settings=config.Config(), path=None, has_console=True, asterisk=shown.get)
    monkeypatch.setattr(ami, "outcome", lambda *_: Session(granted))
    monkeypatch.setattr(ami, "ask_user", lambda *_: user("exporter", SHOWN))
    [fine] = ami.permissions(pbx)
    assert fine.text == "exporter: read = none, write = reporting"
    shown["manager show command ConfbridgeListRooms"] = "-= Info about =-"
    [missing] = ami.permissions(pbx)
    assert "may not run ConfbridgeListRooms" in missing.text
