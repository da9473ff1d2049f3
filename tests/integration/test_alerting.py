"""Alerts reach a person: a webhook on the lab machine, as the inventory has it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from history import settled
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


Webhook = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def webhook(lab: Lab) -> Iterator[Webhook]:
    """A real receiver; returns the alerts that have arrived."""
    lab.run("cat >/run/lab-webhook.py; : >/run/lab-webhook", stdin=RECEIVER)
    lab.run("systemd-run --quiet --unit=lab-webhook python3 /run/lab-webhook.py")

    def received() -> list[dict[str, Any]]:
        notices = [json.loads(line) for line in lab.run("cat /run/lab-webhook").splitlines()]
        return [alert for notice in notices for alert in notice["alerts"]]

    yield received
    lab.run("systemctl stop lab-webhook; rm -f /run/lab-webhook /run/lab-webhook.py")


def told(webhook: Webhook, name: str, status: str, **labels: str) -> list[dict[str, Any]]:
    """Return the alerts of that name and status that have arrived."""
    expected = {"alertname": name, **labels}.items()
    return [a for a in webhook() if a["status"] == status and expected <= a["labels"].items()]


def test_asterisk_down_is_delivered_and_resolved(
    lab: Lab,
    webhook: Webhook,
    started: Callable[[str], None],
) -> None:
    started("asterisk")
    lab.run("systemctl stop asterisk")
    wait_until(lambda: told(webhook, "AsteriskDown", "firing"), 90, "AsteriskDown was delivered")
    lab.run("systemctl start asterisk")
    wait_until(lambda: told(webhook, "AsteriskDown", "resolved"), 90, "AsteriskDown was resolved")


def get_through(lab: Lab, caller: str) -> None:
    """Call vip, where a phone answers after two seconds."""
    lab.run(f"lab-call provider {caller} +493055503 8")


def test_a_missed_call_is_told_and_getting_through_ends_it(lab: Lab, webhook: Webhook) -> None:
    """The lab tells of one caller of vip, and forgets missed calls after a minute."""
    # A call of before may be missed and not counted yet.
    wait_until(lambda: settled(lab), 60, "all calls of before are decided")
    open_calls = json.loads(lab.run("asterisk-exporter missed --outstanding --since 30d --json"))
    for caller in {call["caller"] for call in open_calls if call["destination"] == "vip"}:
        get_through(lab, caller)
    active = 'count(ALERTS{alertname=~"MissedCalls.*", destination="vip"})'
    wait_until(lambda: lab.prometheus(active) is None, 240, "no alert about vip from before")
    lab.run("lab-call provider +4915550078 +493055503 1")
    # Alertmanager tells of it again when another destination joins its group.
    missed, *_ = wait_until(
        lambda: told(webhook, "MissedCalls", "firing", destination="vip", severity="warning"),
        120,
        "MissedCalls was delivered",
    )
    assert missed["annotations"]["summary"].startswith("Missed calls at vip: 1 (")
    assert missed["annotations"]["runbook_url"].endswith("/MissedCalls.html")
    outstanding = "MissedCallsOutstanding"
    wait_until(
        lambda: told(webhook, outstanding, "firing", destination="vip"), 240, "who is to be called"
    )
    # The window has passed meanwhile, or is about to.
    wait_until(
        lambda: told(webhook, "MissedCalls", "resolved", destination="vip"), 180, "no more missed"
    )
    get_through(lab, "+4915550078")
    wait_until(
        lambda: told(webhook, outstanding, "resolved", destination="vip"),
        120,
        "the caller got through",
    )


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ("[{alert: Broken, expr: 'up =='}]", "parse error"),
        ("[{record: 'a:b:c', expr: '1'}, {record: 'a:b:c', expr: '2'}]", "duplicate"),
    ],
)
def test_rules_that_promtool_rejects_replace_nothing(
    lab: Lab, tmp_path: Path, rules: str, says: str
) -> None:
    def running() -> tuple[str, str]:
        groups = json.loads(lab.get(f"{lab.url('prometheus')}/api/v1/rules"))["data"]["groups"]
        names = sorted(rule["name"] for group in groups for rule in group["rules"])
        return lab.run("cat /etc/prometheus/appliance-rules.yml"), str(names)

    before = running()
    extra = tmp_path / "extra.yml"
    extra.write_text(f"groups: [{{name: extra, rules: {rules}}}]\n", encoding="utf-8")
    wanted = json.dumps({"prometheus_extra_rule_files": [str(extra)]})
    result = lab.playbook("site.yml", "--tags", "prometheus_configure", "-e", wanted)
    assert result.returncode != 0
    assert says in result.stdout
    assert running() == before
