"""What the machine shows to others: sockets, privileges, secrets."""

from __future__ import annotations

import json
from pathlib import Path

from lab import ROOT, Lab


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


def test_exporter_is_confined(lab: Lab) -> None:
    rows = json.loads(lab.run("systemd-analyze security --json=short asterisk-exporter || true"))
    assert rows
    score = lab.run("systemd-analyze security --no-pager asterisk-exporter | tail -n 1 || true")
    assert float(score.split("level for asterisk-exporter.service: ")[1].split()[0]) <= 2.0


def test_confinement_leaves_the_exporter_its_own_figures(lab: Lab) -> None:
    metrics = lab.metrics()
    assert metrics["process_resident_memory_bytes{}"] > 0
    assert metrics["process_start_time_seconds{}"] > 1.7e9


def test_no_secret_is_shown(lab: Lab) -> None:
    secrets = [p.read_text().strip() for p in Path(ROOT / ".lab/secrets").rglob("*") if p.is_file()]
    assert len(secrets) > 5
    shown = "".join(
        lab.run(command)
        for command in (
            "ps -ewwo args",
            "systemctl cat asterisk asterisk-exporter prometheus prometheus-alertmanager",
            "journalctl --no-pager",
            "cat /var/log/asterisk/messages* /var/log/asterisk/security* /var/log/postgresql/*",
            "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'",
        )
    )
    shown += "".join(p.read_text() for p in (ROOT / ".lab/log").glob("*.log"))
    assert [s[:3] + "…" for s in secrets if s in shown] == []
