"""What the machine shows to others: sockets and privileges; test_secrets.py has the secrets."""

from __future__ import annotations

import email
import json
from collections.abc import Iterator

import pytest
from lab import Lab, wait_until


def test_only_sip_ami_over_tls_and_the_labs_own_pages_listen_beyond_loopback(lab: Lab) -> None:
    listening = {tuple(line.split()[3].rsplit(":", 1)) for line in lab.run("ss -Hltn").splitlines()}
    beyond = {(a, p) for a, p in listening if not a.startswith("127.") and a not in {"[::1]"}}
    assert beyond == {
        ("0.0.0.0", "22"),
        ("[::]", "22"),
        ("0.0.0.0", "5060"),
        ("0.0.0.0", "5061"),
        ("198.18.77.11", "5039"),
        ("198.18.77.11", "9739"),
        ("198.18.77.11", "9090"),
        ("198.18.77.11", "9093"),
    }


@pytest.mark.parametrize(
    ("unit", "most"),
    [
        ("asterisk-exporter", 2.0),
        ("call-routing", 2.0),
        ("cdr-partitions", 2.0),
        ("asterisk", 5.0),
    ],
)
def test_service_is_confined(lab: Lab, unit: str, most: float) -> None:
    rows = json.loads(lab.run(f"systemd-analyze security --json=short {unit} || true"))
    assert rows
    score = lab.run(f"systemd-analyze security --no-pager {unit} | tail -n 1 || true")
    assert float(score.split(f"level for {unit}.service: ")[1].split()[0]) <= most


def test_confined_asterisk_runs_in_real_time(lab: Lab) -> None:
    policy = lab.run("chrt --pid $(systemctl show --property MainPID --value asterisk)")
    assert "SCHED_RR" in policy


def test_confined_asterisk_writes_nothing_but_its_own(lab: Lab) -> None:
    """Ask its own mounts, as the user that it is."""
    enter = "nsenter --mount --target $(systemctl show --property MainPID --value asterisk)"
    as_asterisk = f"{enter} runuser --user asterisk --"
    for path in ("/etc/asterisk/pjsip.conf", "/usr/sbin/asterisk", "/home", "/root"):
        assert lab.exec(f"{as_asterisk} test -w {path}").returncode == 1, path
    # /etc/asterisk belongs to it, and is read-only all the same
    assert "Read-only" in lab.exec(f"{enter} touch /etc/asterisk/pjsip.conf").stderr
    for path in ("monitor", "voicemail", "outgoing"):
        lab.run(f"{as_asterisk} test -w /var/spool/asterisk/{path}")


@pytest.fixture
def mailbox(lab: Lab) -> Iterator[str]:
    """Yield the file that gets the mail of voicemail box 106, from Postfix as Debian sets it up."""
    lab.run(
        "echo 'postfix postfix/main_mailer_type select Local only' | debconf-set-selections;"
        " DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends postfix;"
        " cp -a /etc/asterisk/voicemail.conf /root/voicemail.conf;"
        " sed -i '/^106 => /s/[^,]*$/mail@localhost/' /etc/asterisk/voicemail.conf;"
        " asterisk -rx 'voicemail reload'"
    )
    yield "/var/mail/mail"
    lab.run(
        "mv /root/voicemail.conf /etc/asterisk/; asterisk -rx 'voicemail reload';"
        " apt-get purge --yes --autoremove postfix; rm -rf /var/mail/mail /etc/postfix"
        " /var/spool/asterisk/voicemail/default/106"
    )


def test_confined_asterisk_sends_voicemail_by_mail(lab: Lab, mailbox: str) -> None:
    lab.asterisk(
        "channel originate Local/voicemail:106@destinations application MusicOnHold default,16"
    )

    def whole() -> str:
        mail = lab.exec(f"cat {mailbox}").stdout
        return mail if mail.rstrip().endswith("--") else ""

    mail = wait_until(whole, 90, "a mail with the message")
    [message] = [part for part in email.message_from_string(mail).walk() if part.get_filename()]
    assert message.get_filename() == "msg0000.wav"
    assert message.get_payload(decode=True)[:4] == b"RIFF"


def test_confinement_leaves_the_exporter_its_own_figures(lab: Lab) -> None:
    metrics = lab.metrics()
    assert metrics["process_resident_memory_bytes{}"] > 0
    assert metrics["process_start_time_seconds{}"] > 1.7e9
