"""The doctor's link that is where AMI listens."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from asterisk_exporter.config import Ami
from asterisk_exporter.doctor import sockets
from asterisk_exporter.doctor.sockets import Socket, beyond_loopback, judge_ours, judge_plain
from asterisk_exporter.health import Status

#: ss -Hltnp of iproute2 7.0, and forms that others print.
SHOWN = """\
LISTEN 0      64     198.18.77.11:9739 0.0.0.0:* users:(("asterisk-export",pid=5126,fd=7))
LISTEN 0      10        127.0.0.1:5038 0.0.0.0:* users:(("asterisk",pid=4695,fd=8))
LISTEN 0      4096              *:8088       *:*
LISTEN 0      200           [::1]:5432    [::]:* users:(("postgres",pid=2869,fd=7),("x",pid=1,fd=1))
LISTEN 0      4096  127.0.0.53%lo:53   0.0.0.0:* users:(("systemd-resolve",pid=3,fd=1))

"""
SETTINGS = """
Global Settings:
----------------
  Manager (AMI):             Yes            
  TCP Bindaddress:           0.0.0.0:5038 
  TLS Bindaddress:           Disabled       
  TLS Privatekey:                           
"""  # noqa: W291 - as Asterisk prints it
LOCAL = Socket("127.0.0.1", 5038, "asterisk", 4695)
ALL = Socket("0.0.0.0", 5038, "asterisk", 4695)


def test_what_ss_shows():
    assert sockets.sockets(SHOWN) == [
        Socket("198.18.77.11", 9739, "asterisk-export", 5126),
        LOCAL,
        Socket("*", 8088, "", None),
        Socket("::1", 5432, "postgres", 2869),
        Socket("127.0.0.53", 53, "systemd-resolve", 3),
    ]
    assert str(sockets.sockets(SHOWN)[3]) == "[::1]:5432"


@pytest.mark.parametrize(
    ("address", "beyond"),
    [
        ("127.0.0.1", False),
        ("127.0.0.9", False),
        ("::1", False),
        ("::ffff:127.0.0.1", False),
        ("*", True),
        ("0.0.0.0", True),
        ("::", True),
        ("198.18.77.11", True),
    ],
)
def test_who_can_reach_it(address, beyond):
    assert Socket(address, 5038, "asterisk", 1).beyond_loopback is beyond


@pytest.mark.parametrize(
    ("found", "status", "text"),
    [
        ([LOCAL], Status.OK, "asterisk listens on 127.0.0.1:5038"),
        ([ALL], Status.OK, "asterisk listens on 0.0.0.0:5038"),
        ([Socket("127.0.0.1", 5038, "", None)], Status.OK, "127.0.0.1:5038"),
        ([], Status.CRITICAL, "nothing listens on port 5038 (ami.port)"),
        (
            [Socket("127.0.0.1", 5039, "asterisk", 1)],
            Status.CRITICAL,
            "nothing listens on port 5038 (ami.port), where AMI is expected; asterisk listens on "
            "127.0.0.1:5039",
        ),
        (
            [Socket("198.18.77.11", 5038, "asterisk", 1)],
            Status.CRITICAL,
            "AMI is expected on 127.0.0.1:5038, and listens on 198.18.77.11:5038 only",
        ),
        (
            [Socket("127.0.0.1", 5038, "nginx", 7), Socket("127.0.0.1", 5040, "asterisk", 1)],
            Status.WARNING,
            "127.0.0.1:5038 belongs to nginx (process 7), not to asterisk; asterisk listens on "
            "127.0.0.1:5040",
        ),
    ],
)
def test_the_socket_of_the_exporter(found, status, text):
    finding = judge_ours(Ami(), ["127.0.0.1"], found)
    assert (finding.status, text in finding.text) == (status, True), finding
    assert ("manager show settings" in finding.action) is (status is not Status.OK)


@pytest.mark.parametrize(
    ("found", "plain", "exposed"),
    [
        ([LOCAL], "127.0.0.1:5038", []),
        ([ALL], "0.0.0.0:5038", [ALL]),
        ([ALL], "Disabled", []),
        ([ALL], "", []),
        ([Socket("*", 5038, "nginx", 1)], "127.0.0.1:5038", []),
    ],
)
def test_ami_without_tls_for_others(found, plain, exposed):
    assert beyond_loopback(found, plain) == exposed


def test_what_protects_it_is_said():
    finding = judge_plain([ALL], "Nothing does.")
    assert finding.status is Status.WARNING
    assert "0.0.0.0:5038: secrets" in finding.text
    assert finding.text.endswith("Nothing does.")
    assert "pbx_manager_address" in finding.action


def test_the_link(monkeypatch):
    monkeypatch.setattr(sockets, "keeps_out", lambda _, port: f"Nobody guards {port}.")
    pbx = SimpleNamespace(
        asterisk_is_here=True,
        has_console=True,
        settings=SimpleNamespace(ami=Ami()),
        once=lambda name, _: {"ss": [ALL], "manager settings": SETTINGS}[name],
    )
    fine, exposed = sockets.ami(pbx)
    assert fine.status is Status.OK
    assert "Nobody guards 5038." in exposed.text
    assert sockets.ami_beyond_loopback(pbx)
    pbx.has_console = False
    assert [finding.status for finding in sockets.ami(pbx)] == [Status.OK]
    pbx.asterisk_is_here = False
    assert [finding.status for finding in sockets.ami(pbx)] == [None]
