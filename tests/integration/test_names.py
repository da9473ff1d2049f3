"""Names as people give them, on the real output as Prometheus' own tool reads it."""

from __future__ import annotations

import base64
import textwrap
import urllib.request

from lab import Lab, wait_until
from prometheus_client.parser import text_string_to_metric_families

#: A name of the log is a line's field: everything but a bar and a line end.
QUEUES = ['"sales"', r"back\slash", "Поддержка", "😀 joy", "a{b}=c,d", "tab\tand space ", "é" * 60]
PORT = 9799


def queue_log() -> bytes:
    lines = []
    for n, queue in enumerate(QUEUES):
        agent = f"Agent/{queue}"
        lines += [
            f"1795500000|odd.{n}|{queue}|NONE|ENTERQUEUE||+49|1",
            f"1795500001|odd.{n}|{queue}|{agent}|RINGNOANSWER|1000",
            f"1795500003|odd.{n}|{queue}|{agent}|CONNECT|3|odd.9{n}|1",
            f"1795500009|odd.{n}|{queue}|{agent}|COMPLETEAGENT|3|6|1",
        ]
    text = "".join(f"{line}\n" for line in lines).encode()
    return text + "1795500010|odd.x|Büro|NONE|ENTERQUEUE||1|1\n".encode("latin-1")


def fetch(url: str) -> str:
    """Return the page, or nothing while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return str(response.read().decode())
    except OSError:
        return ""


def test_promtool_finds_no_fault(lab: Lab) -> None:
    lab.run("promtool check metrics", stdin=fetch(f"{lab.url('exporter')}/metrics"))


def test_odd_names_are_exposed_as_they_are(lab: Lab) -> None:
    address = lab.url("exporter").rpartition(":")[0]
    config = textwrap.dedent(
        f"""
        listen: {{address: 0.0.0.0, port: {PORT}}}
        state_directory: /run/odd/state
        ami: {{secret_file: /etc/asterisk-exporter/ami-secret}}
        queue_log: {{file: /run/odd/queue_log, service_levels: {{support: 20}}}}
        """
    )
    lab.run("mkdir -p /run/odd; cat >/run/odd/config.yml", stdin=config)
    lab.run("base64 --decode >/run/odd/queue_log", stdin=base64.b64encode(queue_log()).decode())
    lab.run(
        "systemd-run --quiet --collect --unit=odd"
        " asterisk-exporter serve --backfill --config /run/odd/config.yml"
    )
    try:
        url = f"{address}:{PORT}/metrics"
        text = wait_until(lambda: fetch(url), 60, "the exporter answers")
        lab.run("promtool check metrics", stdin=text)
        samples = [s for f in text_string_to_metric_families(text) for s in f.samples]
        answered = {
            s.labels["queue"]: s.value
            for s in samples
            if s.name == "asterisk_queue_calls_answered_total"
        }
        assert {queue: answered.get(queue) for queue in QUEUES} == dict.fromkeys(QUEUES, 1.0)
        assert answered[r"B\xfcro"] == 0
        members = {
            s.labels["member"] for s in samples if s.name == "asterisk_queue_ring_no_answer_total"
        }
        assert members == {f"Agent/{queue}" for queue in QUEUES}
    finally:
        lab.run("systemctl stop odd; rm -r /run/odd")
