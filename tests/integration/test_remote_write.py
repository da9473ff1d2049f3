"""Samples go to a store too, and what the alerts on it rest on means what they take it for.

The store is one that does as it is told: answers 204, 503 or 400. A real one is in tests/fleet.
"""

from __future__ import annotations

import base64
import json
import re
import textwrap
from collections.abc import Iterator

import pytest
from lab import Lab, wait_until

FOLDER = "/etc/prometheus/appliance-remote-write"
PASSWORD = "of-the-store-and-of-nobody-else"
STORE = {
    "name": "store",
    "url": "http://127.0.0.1:5003/api/v1/write",
    "basic_auth": {"username": "pbx", "password": PASSWORD},
}
TAGS = ("--tags", "prometheus_configure")
SERVER = textwrap.dedent(
    """
    import http.server, pathlib
    class Store(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            pathlib.Path("/run/lab-store").write_text(self.headers["Authorization"] or "nobody")
            self.send_response(int(pathlib.Path("/run/lab-store-answers").read_text()))
            self.end_headers()
    http.server.ThreadingHTTPServer(("127.0.0.1", 5003), Store).serve_forever()
    """
)


def answer(lab: Lab, status: int) -> None:
    lab.run(f"echo {status} >/run/lab-store-answers")


@pytest.fixture(scope="module")
def converged(lab: Lab) -> Iterator[str]:
    """A store that takes all, and Prometheus that sends there. Gives what Ansible printed."""
    before = lab.run("cat /etc/prometheus/prometheus.yml")
    answer(lab, 204)
    lab.run("cat >/run/lab-store.py; : >/run/lab-store", stdin=SERVER)
    lab.run("systemd-run --quiet --unit=lab-store python3 /run/lab-store.py")
    entries = json.dumps({"prometheus_remote_write": [STORE]})
    made = lab.playbook("site.yml", *TAGS, "--diff", "-e", entries)
    assert made.returncode == 0, made.stdout + made.stderr
    again = lab.playbook("site.yml", *TAGS, "--check", "-e", entries)
    assert re.search(r"^pbx1 .*\bchanged=0\b", again.stdout, re.MULTILINE), again.stdout
    yield made.stdout + made.stderr
    back = lab.playbook("site.yml", *TAGS)
    assert back.returncode == 0, back.stdout + back.stderr
    lab.run("systemctl stop lab-store; rm /run/lab-store*")
    assert lab.run("cat /etc/prometheus/prometheus.yml") == before
    assert lab.run(f"ls {FOLDER}") == ""


def test_the_store_gets_samples_and_its_password_is_shown_nowhere(lab: Lab, converged: str) -> None:
    login = base64.b64encode(f"pbx:{PASSWORD}".encode()).decode()
    wait_until(lambda: lab.run("cat /run/lab-store").strip() == f"Basic {login}", 60, "samples")
    shown = lab.run("cat /etc/prometheus/prometheus.yml; ps -ewwo args; journalctl -u prometheus")
    assert PASSWORD not in shown + lab.get(f"{lab.url('prometheus')}/api/v1/status/config")
    assert PASSWORD not in converged
    of_the_file = lab.run(
        f"stat -c '%U %G %a' {FOLDER}/store-password; cat {FOLDER}/store-password"
    )
    assert of_the_file == f"root prometheus 640\n{PASSWORD}"


@pytest.mark.usefixtures("converged")
def test_what_the_alerts_rest_on(lab: Lab) -> None:
    def of_the_store(name: str) -> float | None:
        return lab.prometheus(f'prometheus_remote_storage_{name}{{remote_name="store"}}')

    def behind() -> float | None:
        sent = "prometheus_remote_storage_queue_highest_sent_timestamp_seconds"
        return lab.prometheus(f'time() - {sent}{{job="prometheus", remote_name="store"}}')

    wait_until(lambda: (behind() or 99) < 12, 90, "the store is up to date")
    answer(lab, 503)
    wait_until(lambda: (behind() or 0) > 15, 90, "it falls behind while it is not there")
    assert of_the_store("samples_failed_total") == 0
    answer(lab, 204)
    wait_until(lambda: (behind() or 99) < 12, 120, "it has what waited")
    assert of_the_store("samples_failed_total") == 0

    answer(lab, 400)
    refused = wait_until(lambda: of_the_store("samples_failed_total"), 90, "samples are refused")
    assert refused <= (of_the_store("samples_total") or 0)
