"""playbooks/rotate-secrets.yml while calls are up: no call is lost, no record, hardly a scrape."""

from __future__ import annotations

import re
import shlex
import threading
import time
from dataclasses import dataclass, field

import pytest
from history import settled
from lab import ROOT, Lab, channels, wait_until
from lab_secrets import generated, search

DIRECTORY = ROOT / ".lab/secrets"
PLAYBOOK = "playbooks/rotate-secrets.yml"
#: The roles that have what is rotated here.
TAGS = "cdr_database_configure,pbx_configure,asterisk_exporter_configure"
#: Logins that are good from the machine itself.
ROTATED = ["ami-control", "ami-events", "ami-exporter"]
ROTATED += ["postgresql-asterisk", "postgresql-exporter", "postgresql-importer"]

#: Callers who are never the same and give up after a second: about two calls end each second.
SHORT_CALLS = """
mkdir -p /run/rotation; cd /run/rotation
{ echo SEQUENTIAL; seq -f '+49155%06.0f;+493055504' 1000; } >callers
exec sipp 127.0.0.1:5060 -sf /usr/local/share/lab/provider.xml -i 127.0.0.2 -p 6150 \\
    -min_rtp_port 44000 -inf callers -r 2 -recv_timeout 1000 -m 1000 -nostdin -rtp_echo >output 2>&1
"""

AMI_LOGIN = r"""
import socket, sys
name, secret = sys.stdin.read().split()
with socket.create_connection(("127.0.0.1", 5038), timeout=5) as ami:
    stream = ami.makefile("rwb")
    stream.readline()
    stream.write(f"Action: Login\r\nUsername: {name}\r\nSecret: {secret}\r\n\r\n".encode())
    stream.flush()
    sys.exit(stream.readline() != b"Response: Success\r\n")
"""
#: Commands that succeed when a login is taken; name and secret come by standard input.
LOGINS = {
    "ami": f"python3 -c {shlex.quote(AMI_LOGIN)}",
    "postgresql": """
        read -r name secret; export PGPASSWORD="$secret"
        psql -Xqtc 'SELECT 1' -h 127.0.0.1 -U "$name" asterisk
    """,
}


def rotate(lab: Lab, names: str, *arguments: str) -> tuple[int, str]:
    result = lab.playbook(PLAYBOOK, "-e", f"rotate={names}", "--tags", TAGS, *arguments)
    return result.returncode, result.stdout + result.stderr


@dataclass
class Scrapes:
    """Scrapes twice a second, and remembers the longest time without an answer."""

    lab: Lab
    longest: float = 0
    over: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        url, last = f"{self.lab.url('exporter')}/metrics", time.monotonic()
        while not self.over.wait(0.5):
            try:
                metrics = self.lab.get(url)
            except OSError:
                continue
            if "\nasterisk_up 1.0\n" in metrics:
                self.longest = max(self.longest, time.monotonic() - last)
                last = time.monotonic()


@dataclass
class Rotation:
    """What was before, and what came of it."""

    before: dict[str, str]
    status: int
    output: str
    scrapes: Scrapes
    long_call: set[str]
    #: Records in PostgreSQL and lines in Master.csv since the first call.
    records: int
    lines: int


@pytest.fixture(scope="module")
def rotation(lab: Lab) -> Rotation:
    lab.wait_until_quiet()
    wait_until(lambda: settled(lab), 90, "the records of calls before")
    before = generated()
    count_lines = "wc -l </var/log/asterisk/cdr-csv/Master.csv"
    count_records = "SELECT count(*) FROM cdr WHERE imported_at IS NULL AND system_name = 'pbx1'"
    lines, records = int(lab.run(count_lines)), int(lab.sql(count_records)[0][0])
    run = "systemd-run --quiet --collect --unit"
    lab.run(f"{run} rotation-long lab-call provider +491559 +493055502 600")
    long_call = wait_until(lambda: channels(lab), 20, "the long call")
    lab.run(f"{run} rotation-short sh -c {shlex.quote(SHORT_CALLS)}")
    scrapes = Scrapes(lab)
    scraper = threading.Thread(target=scrapes.run)
    scraper.start()
    try:
        status, output = rotate(lab, "ami,postgresql", "--diff", "-vvv")
        scrapes.over.set()
        scraper.join()
        still_up = long_call & channels(lab)
        # A connection that is lost is made again, with the password that the module knows now.
        lab.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'asterisk'")
        since = int(lab.sql(count_records)[0][0])
        wait_until(
            lambda: int(lab.sql(count_records)[0][0]) > since + 2, 30, "records over a new one"
        )
    finally:
        scrapes.over.set()
        lab.run("systemctl stop rotation-short rotation-long; rm -r /run/rotation")
        lab.asterisk("channel request hangup all")
    lab.wait_until_quiet()
    # A record is written a moment after its call, and here before there.
    wait_until(lambda: settled(lab), 90, "the last records")
    lines = int(lab.run(count_lines)) - lines
    records = int(lab.sql(count_records)[0][0]) - records
    return Rotation(before, status, output, scrapes, still_up, records, lines)


def logins(lab: Lab, values: dict[str, str]) -> dict[str, bool]:
    """Try each login with its secret, and say which are taken."""
    taken = {}
    for name in ROTATED:
        kind, _, username = name.partition("-")
        result = lab.exec(LOGINS[kind], stdin=f"{username} {values[name]}\n")
        taken[name] = result.returncode == 0
    return taken


def test_the_named_secrets_are_new_and_no_other(rotation: Rotation) -> None:
    assert rotation.status == 0, rotation.output[-3000:]
    after = generated()
    assert {n for n in after if after[n] != rotation.before[n]} == {
        n for n in after if n.startswith(("ami-", "postgresql-"))
    }
    assert list(DIRECTORY.rglob("*.old")) == []


def test_no_call_and_no_record_is_lost(rotation: Rotation) -> None:
    assert rotation.long_call
    assert rotation.lines > 20
    assert rotation.records == rotation.lines


def test_hardly_a_scrape_is_missed(rotation: Rotation) -> None:
    """Of those that Prometheus makes by default one at most: the exporter starts anew."""
    assert rotation.scrapes.longest < 15


def test_the_new_secrets_are_taken_and_the_old_ones_refused(lab: Lab, rotation: Rotation) -> None:
    assert logins(lab, generated()) == dict.fromkeys(ROTATED, True)
    assert logins(lab, rotation.before) == dict.fromkeys(ROTATED, False)
    lab.wait_until_well()


def test_nothing_shows_an_old_or_a_new_one(lab: Lab, rotation: Rotation) -> None:
    old = {name: rotation.before[name] for name in ROTATED}
    assert search(lab, old) == {"files": {}, "shown": {}}
    secrets = [s for s in (*rotation.before.values(), *generated().values()) if len(s) > 8]
    assert [s[:3] + "…" for s in secrets if s in rotation.output] == []


def test_what_the_inventory_gives_is_refused(lab: Lab) -> None:
    before = generated()
    given = "call_routing_crm_token=given-by-the-inventory"
    status, output = rotate(lab, "crm-token", "-e", given)
    assert status != 0
    assert "crm-token: not generated any more" in re.sub(r"\s+", " ", output)
    assert generated() == before
    assert list(DIRECTORY.rglob("*.old")) == []
