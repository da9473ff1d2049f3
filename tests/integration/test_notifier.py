"""Missed calls to a webhook that is down at first: real calls, the unit as the role makes it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

import pytest
from lab import ROOT, Lab, wait_until
from test_converge import recap

from asterisk_exporter.notifier.event import signature

UNIT = "asterisk-exporter-notifier"
PORT = 18999
LOG = "/run/webhook.jsonl"
SECRET = ROOT / ".lab/secrets/pbx1/notifier"
WITH_NOTIFIER = json.dumps(
    {
        "asterisk_exporter_notifier_url": f"http://127.0.0.1:{PORT}/missed",
        "asterisk_exporter_notifier_show_last_digits": 4,
    }
)
#: Keeps what it is sent, one JSON object a line.
RECEIVER = f"""
import http.server, json

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open("{LOG}", "a") as log:
            log.write(json.dumps([self.headers["X-Asterisk-Signature"], body.decode()]) + "\\n")
        self.send_response(204)
        self.end_headers()

http.server.ThreadingHTTPServer(("127.0.0.1", {PORT}), Handler).serve_forever()
"""


def converge(lab: Lab, *more: str) -> int:
    """Run the exporter's role; return how much it changed."""
    result = lab.playbook("site.yml", "--tags", "asterisk_exporter", *more)
    assert result.returncode == 0, result.stdout + result.stderr
    return recap(result.stdout)["changed"]


@pytest.fixture
def notifier(lab: Lab) -> Iterator[None]:
    """A notifier whose receiver is down; in the end it is gone, and so is the receiver."""
    lab.run(f"rm -f {LOG}")
    assert converge(lab, "-e", WITH_NOTIFIER) > 0
    yield
    lab.exec("systemctl stop webhook")
    lab.run(f"rm -f {LOG}")
    assert converge(lab) > 0
    assert lab.exec(f"systemctl cat {UNIT}").returncode != 0
    assert lab.exec("pgrep -f '[a]sterisk-exporter notify'").returncode != 0
    assert not lab.run("find /etc /var/lib -name '*notifier*' -path '*asterisk*'")


def miss(lab: Lab, caller: str) -> str:
    """Call a queue, give up, and return the linkedid when the call is recorded."""
    query = f"SELECT linkedid FROM cdr WHERE src = '{caller}' ORDER BY id DESC LIMIT 1"
    before = lab.sql(query)
    lab.run(f"lab-call provider {caller} +493055502 4")
    return wait_until(lambda: (found := lab.sql(query)) != before and found, 30, "a record")[0][0]


def received(lab: Lab) -> list[tuple[str, str]]:
    text = lab.run(f"cat {LOG} 2>/dev/null || true")
    return [tuple(json.loads(line)) for line in text.splitlines()]


@pytest.mark.usefixtures("notifier")
def test_a_webhook_that_was_down_gets_every_call(lab: Lab) -> None:
    assert converge(lab, "-e", WITH_NOTIFIER) == 0

    def figures(name: str) -> float | None:
        return lab.metrics().get(f"asterisk_notifier_{name}{{}}")

    calls = [miss(lab, "+4915550031"), miss(lab, "+4915550032")]
    wait_until(lambda: figures("pending_calls") == 2, 90, "two calls are pending")
    wait_until(lambda: figures("failures_total"), 60, "a try that failed")
    assert figures("sent_total") == 0
    assert figures("oldest_pending_timestamp_seconds")
    shown = lab.run("asterisk-exporter notify --dry-run")
    assert [json.loads(line)["linkedid"] for line in shown.splitlines()] == calls

    # neither an end nor a restart loses any
    lab.run(f"systemctl kill --signal=KILL {UNIT}")
    calls.append(miss(lab, "+4915550033"))
    wait_until(lambda: figures("pending_calls") == 3, 90, "three calls are pending")
    lab.run(f"systemctl restart {UNIT}")
    command = f"python3 -c {shlex.quote(RECEIVER)}"
    lab.run(f"systemd-run --quiet --collect --unit=webhook {command}")
    wait_until(lambda: len(received(lab)) >= 3, 60, "the webhook has the calls")
    assert [json.loads(body)["linkedid"] for _, body in received(lab)] == calls
    wait_until(lambda: (figures("sent_total"), figures("pending_calls")) == (3, 0), 30, "figures")
    assert figures("oldest_pending_timestamp_seconds") is None

    # one that is decided while the webhook is up, after kill -9 of a notifier at work
    lab.run(f"systemctl kill --signal=KILL {UNIT}")
    calls.append(miss(lab, "+4915550034"))
    wait_until(lambda: len(received(lab)) >= 4, 90, "the fourth call")

    secret = SECRET.read_text().strip()
    for (header, body), linkedid, number in zip(received(lab), calls, range(31, 35)):
        sent_at = int(re.match(r"t=(\d+),", header)[1])  # type: ignore[index]
        assert header == signature(secret, body.encode(), sent_at)
        document = json.loads(body)
        assert document["linkedid"] == linkedid
        assert document["caller"] == f"+******00{number}"
        assert document["system_name"] == "pbx1"
        assert (document["destination"], document["reason"]) == ("sales", "abandoned")
    assert secret not in lab.run(f"journalctl --no-pager -u {UNIT}; ps -ewwo args")

    # confined as the exporter is, and the journal is not its to write
    lines = lab.run(f"systemd-analyze security --no-pager {UNIT} | tail -n 1 || true")
    assert float(lines.split(f"level for {UNIT}.service: ")[1].split()[0]) <= 2.0
    enter = f"nsenter -t $(systemctl show -P MainPID {UNIT}) -m"
    for folder, may in (("asterisk-exporter", False), ("asterisk-exporter-notifier", True)):
        written = lab.exec(f"{enter} touch /var/lib/private/{folder}/lock")
        assert (written.returncode == 0) == may, written.stderr
