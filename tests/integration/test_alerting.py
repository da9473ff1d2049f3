"""AsteriskDown reaches a person: a webhook on the lab machine, as the inventory has it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator

import pytest
from lab import Lab, wait_until

RECEIVER = textwrap.dedent(
    """
    import http.server
    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with open("/run/lab-webhook", "ab") as received:
                received.write(body.strip() + b"\\n")
            self.send_response(200)
            self.end_headers()
    http.server.HTTPServer(("127.0.0.1", 5001), Receiver).serve_forever()
    """
)


@pytest.fixture
def webhook(lab: Lab) -> Iterator[Callable[[], list[tuple[str, str]]]]:
    """A real receiver; returns what has arrived as (alert name, status)."""
    lab.run("cat >/run/lab-webhook.py; : >/run/lab-webhook", stdin=RECEIVER)
    lab.run("systemd-run --quiet --unit=lab-webhook python3 /run/lab-webhook.py")

    def received() -> list[tuple[str, str]]:
        notices = [json.loads(line) for line in lab.run("cat /run/lab-webhook").splitlines()]
        return [(a["labels"]["alertname"], a["status"]) for n in notices for a in n["alerts"]]

    yield received
    lab.run("systemctl stop lab-webhook; rm -f /run/lab-webhook /run/lab-webhook.py")


def test_asterisk_down_is_delivered_and_resolved(
    lab: Lab,
    webhook: Callable[[], list[tuple[str, str]]],
    started: Callable[[str], None],
) -> None:
    started("asterisk")
    lab.run("systemctl stop asterisk")
    wait_until(lambda: ("AsteriskDown", "firing") in webhook(), 90, "AsteriskDown was delivered")
    lab.run("systemctl start asterisk")
    wait_until(lambda: ("AsteriskDown", "resolved") in webhook(), 90, "AsteriskDown was resolved")
