"""Firewall and fail2ban, from other addresses of the lab's network than the host's own."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from lab import ROOT, Lab, wait_until

PBX = "198.18.77.11"
HOST = "198.18.77.1"
SIP_GUESSER, AMI_GUESSER, OTHER = "198.18.77.66", "198.18.77.67", "198.18.77.68"
#: Long enough to be seen, short enough to see it end.
BAN_SECONDS = 12
ON = {
    "firewall_enabled": True,
    "firewall_ssh_sources": [f"{HOST}/32"],
    "firewall_rules": [
        {"port": 9739, "sources": [HOST]},
        {"port": 5039, "sources": ["198.18.77.0/24"]},
    ],
    "fail2ban_enabled": True,
    "fail2ban_maxretry": 3,
    "fail2ban_bantime": f"{BAN_SECONDS}s",
}
OFF = {"firewall_enabled": False, "fail2ban_enabled": False}


def converge(lab: Lab, variables: dict[str, object], *arguments: str) -> tuple[int, str]:
    """Run both roles, and return status and output."""
    play = "tests/integration/firewall.yml"
    result = lab.playbook(play, "-e", json.dumps(variables), *arguments)
    return result.returncode, result.stdout + result.stderr


def addresses(action: str) -> None:
    for address in (SIP_GUESSER, AMI_GUESSER, OTHER):
        subprocess.run(["ip", "address", action, f"{address}/24", "dev", "pbxlab0"], check=True)


@pytest.fixture(scope="module")
def guarded(lab: Lab) -> Iterator[Lab]:
    """Yield the lab with both roles on, where others have a table too."""
    addresses("add")
    lab.run("nft add table inet others")
    try:
        status, output = converge(lab, ON)
        assert status == 0, output
        yield lab
    finally:
        lab.run(
            "systemctl stop nftables; nft delete table inet others;"
            " apt-get purge --yes --autoremove fail2ban"
        )
        addresses("delete")


def connects(source: str, port: int) -> bool:
    """Say whether a TCP connection from that address comes about within a second."""
    try:
        socket.create_connection((PBX, port), timeout=1, source_address=(source, 0)).close()
    except TimeoutError:
        return False
    return True


def arrives(source: str, port: int) -> bool:
    """Say whether the machine gets a UDP packet: where nothing listens, it says so."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((source, 0))
        sock.connect((PBX, port))
        sock.settimeout(1)
        sock.send(b"x")
        try:
            sock.recv(100)
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
    raise AssertionError("something listens there")


class Phone:
    """A phone at that address, which knows its extension and no more."""

    def __init__(self, address: str) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((address, 0))
        self.sock.connect((PBX, 5060))
        self.sock.settimeout(1)
        self.here = f"{address}:{self.sock.getsockname()[1]}"
        self.sequence = 0

    def ask(self, method: str, *headers: str) -> str:
        """Send a request and return the answer, nothing when there is none within a second."""
        self.sequence += 1
        lines = (
            f"{method} sip:{PBX} SIP/2.0",
            f"Via: SIP/2.0/UDP {self.here};branch=z9hG4bK{self.here}{self.sequence};rport",
            f"From: <sip:101@{PBX}>;tag={self.sequence}",
            f"To: <sip:101@{PBX}>",
            f"Call-ID: {self.here}",
            f"CSeq: {self.sequence} {method}",
            f"Contact: <sip:101@{self.here}>",
            "Max-Forwards: 70",
            *headers,
            "Content-Length: 0",
        )
        self.sock.send("\r\n".join((*lines, "", "")).encode())
        try:
            return self.sock.recv(65536).decode()
        except TimeoutError:
            return ""

    def register(self, secret: str) -> str:
        """Register, as a phone with that secret does, and return the status."""
        challenge = self.ask("REGISTER", "Expires: 0")
        if not challenge:
            return ""
        realm, nonce = (
            re.search(f'{name}="([^"]+)"', challenge)[1]  # type: ignore[index]
            for name in ("realm", "nonce")
        )
        who, what = md5(f"101:{realm}:{secret}"), md5(f"REGISTER:sip:{PBX}")
        answer = md5(f"{who}:{nonce}:00000001:1:auth:{what}")
        reply = self.ask(
            "REGISTER",
            "Expires: 0",  # the phone 101 of the lab stays where it is
            f'Authorization: Digest username="101", realm="{realm}", nonce="{nonce}", qop=auth,'
            f' nc=00000001, cnonce="1", uri="sip:{PBX}", response="{answer}", algorithm=MD5',
        )
        return reply[8:11]


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def guess_sip(secret: str) -> None:
    assert Phone(SIP_GUESSER).register(secret) == "401"


def guess_ami(name: str) -> None:
    tls = ssl.create_default_context(cafile=str(ROOT / ".lab/secrets/tls-ca.pem"))
    with (
        socket.create_connection((PBX, 5039), 5, (AMI_GUESSER, 0)) as plain,
        tls.wrap_socket(plain, server_hostname=PBX) as ami,
    ):
        ami.sendall(f"Action: Login\r\nUsername: {name}\r\nSecret: {name}\r\n\r\n".encode())
        with ami.makefile() as answers:
            assert "Response: Error\n" in answers


def banned_for_a_while(address: str, guess: Callable[[str], None], *guesses: str) -> None:
    """Guess; then that address alone is heard on no port, until its ban ends."""
    guesser, other = Phone(address), Phone(OTHER)
    assert guesser.ask("OPTIONS")
    for what in guesses:
        # A ban counts from when Asterisk wrote the last one down, a second before AMI says so.
        guessed = time.monotonic()
        guess(what)
    wait_until(lambda: not guesser.ask("OPTIONS"), 20, "a ban")
    assert not connects(address, 5039)
    assert other.ask("OPTIONS")
    assert connects(OTHER, 5039)
    wait_until(lambda: guesser.ask("OPTIONS"), BAN_SECONDS + 30, "the end of the ban")
    assert time.monotonic() - guessed > BAN_SECONDS - 1


def test_what_the_inventory_names_comes_in_and_nothing_else(guarded: Lab) -> None:
    assert connects(HOST, 22)
    assert not connects(OTHER, 22)
    assert connects(HOST, 9739)
    assert not connects(OTHER, 9739)
    assert not connects(HOST, 9093)
    assert arrives(OTHER, 19999)
    assert not arrives(OTHER, 20001)
    secret = (ROOT / ".lab/secrets/pbx1/phone-101").read_text().strip()
    assert Phone(OTHER).register(secret) == "200"
    guarded.run("lab-call extension 101 102 4")
    doctor = guarded.exec("asterisk-exporter doctor --json").stdout
    assert "the firewall lets Prometheus on" in doctor


@pytest.mark.usefixtures("guarded")
def test_who_guesses_sip_passwords_is_banned() -> None:
    banned_for_a_while(SIP_GUESSER, guess_sip, "101", "1234", "secret")


def test_both_roles_again_change_nothing(guarded: Lab) -> None:
    status, output = converge(guarded, ON)
    assert (status, "changed=0" in output) == (0, True), output


def test_rules_that_keep_ansible_out_are_taken_back(guarded: Lab) -> None:
    before = guarded.run("nft list table inet appliance")
    locked = {**ON, "firewall_ssh_sources": ["192.0.2.1"], "firewall_take_back_seconds": 10}
    status, output = converge(guarded, locked, "--skip-tags", "fail2ban")
    assert (status, "have been taken back" in output) == (2, True), output
    assert guarded.run("nft list table inet appliance") == before


def test_rules_outlive_a_service_that_flushes_those_of_everybody(guarded: Lab) -> None:
    before = guarded.run("nft list table inet appliance")
    for action in ("start", "reload", "restart"):
        guarded.run(f"systemctl {action} nftables")
        assert guarded.run("nft list table inet appliance") == before, action
    assert "others" not in guarded.run("nft list tables")
    guarded.run("systemctl stop nftables; systemctl restart appliance-firewall")
    guarded.run("nft add table inet others")


@pytest.mark.usefixtures("guarded")
def test_who_guesses_ami_passwords_is_banned_also_after_that_flush() -> None:
    banned_for_a_while(AMI_GUESSER, guess_ami, "admin", "crm", "exporter")


def test_turned_off_nothing_is_left(guarded: Lab) -> None:
    status, output = converge(guarded, OFF)
    assert status == 0, output
    assert guarded.run("nft list tables").split() == ["table", "inet", "others"]
    left = (
        "find /etc -name '*appliance.nft*' -o -name 'appliance-firewall*' -o -name appliance.local"
    )
    assert not guarded.run(left)
    assert not guarded.run("grep -rl nft /etc/systemd/system || true")
    assert connects(OTHER, 9739)
