"""AMI and SIP over TLS, and SRTP: who comes in, what is refused, a new certificate in mid-call.

This host is the other machine that comes over TLS; another Asterisk on the lab machine, whose
trunks the role has written, is a phone of the lab's PBX.
"""

from __future__ import annotations

import re
import shlex
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from lab import HOST, ROOT, Lab, wait_until

from asterisk_exporter.ami.client import Action
from asterisk_exporter.api import (
    AmiClient,
    AmiError,
    ControlSession,
    Deadline,
    Status,
    Target,
    TlsSettings,
    health_report,
    list_members,
)
from asterisk_exporter.cli import main as exporter
from asterisk_exporter.cli.ctl import main as ctl

ADDRESS = yaml.safe_load((ROOT / "inventory/lab/hosts.yml").read_text())["all"]["children"]["lab"][
    "hosts"
][HOST]["lab_address"]
SECRETS = ROOT / ".lab/secrets"
CA = str(SECRETS / "tls-ca.pem")
OURS = TlsSettings(CA)
AMI, SIP = 5039, 5061
PHONE = "106"
OTHER = "/run/other-pbx"
PJSIP = "/etc/asterisk/pjsip.conf"


def target(tls: TlsSettings | None = OURS, login: str = "crm", port: int = AMI) -> Target:
    return Target(ADDRESS, port, login, (SECRETS / HOST / f"ami-{login}").read_text().strip(), tls)


# --- AMI -----------------------------------------------------------------------------------------


def test_a_crm_on_another_machine_asks_and_controls(lab: Lab, tmp_path: Path) -> None:
    lab.wait_until_well()
    assert health_report(target()).status is Status.OK
    with ControlSession.open(target()) as session:
        assert "support" in {member.queue for member in list_members(session)}
    # The commands with a configuration as docs/commands.md has it.
    login = {"username": "crm", "secret_file": str(SECRETS / HOST / "ami-crm")}
    there = {"host": ADDRESS, "port": AMI, "tls": {"enabled": True, "ca_file": CA}}
    config = tmp_path / "pbx.yml"
    config.write_text(yaml.safe_dump({"ami": {**there, **login}, "control": login}))
    for command, arguments in ((exporter, ["check"]), (ctl, ["queue", "list"])):
        ran = CliRunner().invoke(command, [*arguments, "--config", str(config)])
        assert ran.exit_code == 0, ran.output
    shown = lab.run("asterisk-exporter doctor | grep '^AMI certificate'")
    assert re.search(rf"OK +TLSv1\.[23], certificate for {HOST} by .*, 39[67] days left", shown)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"tls": TlsSettings(CA, "other.example")}, "not valid for 'other.example'"),
        ({"tls": TlsSettings()}, "issuer certificate"),
        ({"tls": None}, "says nothing to a client without TLS"),
        # Nobody comes without TLS, and with it only from where the login permits it.
        ({"tls": None, "port": 5038}, "refused"),
        ({"login": "control"}, "'control'"),
    ],
    ids=["name", "authority", "no TLS", "plain port", "ACL"],
)
@pytest.mark.usefixtures("lab")
def test_whom_ami_or_its_client_refuses(given: dict[str, Any], said: str) -> None:
    refused = target(**given)
    with pytest.raises(AmiError) as error:
        AmiClient.connect(refused, Deadline(5.0)).close()  # Asterisk waits a second
    assert said in str(error.value)
    assert refused.secret not in str(error.value)


def handshake(port: int, version: ssl.TLSVersion, ciphers: str = "ALL") -> bool:
    """Say whether a port takes a version of TLS with one of these ciphers."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(CA)
    context.set_ciphers(f"{ciphers}:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    try:
        with socket.create_connection((ADDRESS, port), timeout=10) as plain:
            context.wrap_socket(plain, server_hostname=ADDRESS).close()
    except ssl.SSLError:
        return False
    return True


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.usefixtures("lab")
def test_versions_and_ciphers() -> None:
    old = ssl.TLSVersion.TLSv1_1
    assert not handshake(AMI, old)
    assert not handshake(SIP, old)
    assert not handshake(AMI, ssl.TLSVersion.TLSv1_2, "ECDHE+AES:!AESGCM:!AESCCM")
    assert handshake(AMI, ssl.TLSVersion.TLSv1_2)
    assert handshake(AMI, ssl.TLSVersion.TLSv1_3)
    assert handshake(SIP, ssl.TLSVersion.TLSv1_2)


# --- SIP and audio -------------------------------------------------------------------------------

SET_UP = f"""
set -e
systemctl stop lab-phone@{PHONE}
cp -p {PJSIP} /run/pjsip.conf
rm -rf {OTHER}
install -d -o asterisk -g asterisk {OTHER} {OTHER}/db {OTHER}/spool {OTHER}/log
cp -a /etc/asterisk {OTHER}/etc
cat >{OTHER}/etc/asterisk.conf <<'END'
[directories]
astetcdir => {OTHER}/etc
astdbdir => {OTHER}/db
astrundir => {OTHER}
astspooldir => {OTHER}/spool
astlogdir => {OTHER}/log
END
printf '[general]\\nenabled = no\\n' >{OTHER}/etc/manager.conf
printf '[general]\\n[logfiles]\\nall.log = notice,warning,error,verbose\\n' >{OTHER}/etc/logger.conf
cat >{OTHER}/etc/extensions.conf <<'END'
[from-external]
exten => {PHONE},1,Answer()
 same => n,Echo()
END
"""
START = (
    "systemd-run --quiet --collect --unit other-pbx "
    f"asterisk -f -v -U asterisk -C {OTHER}/etc/asterisk.conf"
)
# The phone of the lab comes back as it was; its PBX never had another one.
TEAR_DOWN = f"""
systemctl stop other-pbx
cp -p /run/pjsip.conf {PJSIP}
asterisk -rx 'pjsip reload'
systemctl start lab-phone@{PHONE}
rm -rf {OTHER} /run/pjsip.conf
"""


class Other:
    """The other PBX."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def asterisk(self, command: str) -> str:
        return self.lab.run(f"asterisk -C {OTHER}/etc/asterisk.conf -rx {shlex.quote(command)}")

    def log(self) -> str:
        return self.lab.run(f"cat {OTHER}/log/all.log")

    def registered(self) -> bool:
        return "Registered" in self.asterisk("pjsip show registrations")

    def call(self, trunk: str) -> None:
        """Call the lab's conference room, and send back what is heard there."""
        self.asterisk(f"channel originate PJSIP/8000@{trunk} application Echo")


def converge(lab: Lab) -> str:
    result = lab.playbook("tests/integration/tls.yml")
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def other_pbx(lab: Lab) -> Iterator[Other]:
    lab.run(SET_UP)
    pbx = Other(lab)
    try:
        converge(lab)
        lab.run(START)
        wait_until(lambda: lab.exec(f"test -S {OTHER}/asterisk.ctl").returncode == 0, 60, "it runs")
        pbx.asterisk("core waitfullybooted")
        pbx.asterisk("pjsip set logger on")
        wait_until(pbx.registered, 90, "the other PBX has registered")
        yield pbx
    finally:
        lab.run(TEAR_DOWN)
        lab.wait_until_well()


@pytest.fixture
def other(lab: Lab, other_pbx: Other) -> Iterator[Other]:
    """The other PBX, without a call before and after."""
    yield other_pbx
    lab.asterisk("channel request hangup all")


def channels(lab: Lab) -> list[str]:
    rows = [row.split("!") for row in lab.asterisk("core show channels concise").splitlines()]
    return [row[0] for row in rows if row[0].startswith(f"PJSIP/{PHONE}-") and row[4] == "Up"]


def variable(client: AmiClient, channel: str, name: str) -> str:
    action = Action("Getvar", (("Channel", channel), ("Variable", name)))
    return client.ask(action, Deadline(2.0)).message().get("Value")


def packets(client: AmiClient, channel: str) -> list[int]:
    """Return how many packets of audio the call has brought and taken."""
    return [
        int(variable(client, channel, f"CHANNEL(rtcp,{way}count,audio)")) for way in ("rx", "tx")
    ]


def certificates() -> list[str]:
    """Return what AMI and SIP show to whoever connects now."""
    return [ssl.get_server_certificate((ADDRESS, port)).strip() for port in (AMI, SIP)]


def test_a_certificate_is_renewed_during_an_encrypted_call(lab: Lab, other: Other) -> None:
    process = lab.run("systemctl show -P MainPID asterisk")
    other.call("encrypted")
    [channel] = wait_until(lambda: channels(lab), 30, "a call")
    client = AmiClient.connect(target(), Deadline(2.0), allowed=frozenset({"Getvar"}))
    for what in ("CHANNEL(pjsip,secure)", "CHANNEL(rtp,secure,audio)"):
        assert variable(client, channel, what) == "1"
    before = certificates()
    heard = wait_until(lambda: all(now := packets(client, channel)) and now, 30, "audio both ways")

    (SECRETS / HOST / "tls-certificate.pem").unlink()
    said = converge(lab)

    file = (SECRETS / HOST / "tls-certificate.pem").read_text().strip()
    assert certificates() == [file, file] != before
    assert "Serve the new certificate" in said
    assert lab.run("systemctl show -P MainPID asterisk") == process
    # The call, its audio and the login that was there are as they were.
    assert channels(lab) == [channel]
    assert all(now > then for now, then in zip(packets(client, channel), heard))
    assert variable(client, channel, "CHANNEL(rtp,secure,audio)") == "1"
    client.close()
    # The phone is still reached over its connection, and hears that its call ends.
    lab.asterisk(f"channel originate PJSIP/{PHONE} application Wait 30")
    wait_until(lambda: len(channels(lab)) == 2, 30, "the phone answers another call")
    lab.asterisk("channel request hangup all")
    wait_until(lambda: "0 active channels" in other.asterisk("core show channels"), 30, "calls end")


def test_audio_as_it_is_is_refused(lab: Lab, other: Other) -> None:
    other.call("plain")
    wait_until(lambda: "SIP/2.0 488 " in other.log(), 30, "it is refused")
    assert channels(lab) == []


def test_a_trunk_calls_nobody_whose_certificate_has_another_name(lab: Lab, other: Other) -> None:
    other.call("stranger")
    wait_until(lambda: "The server identity does not match" in other.log(), 30, "it is refused")
    assert channels(lab) == []
