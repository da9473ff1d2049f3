"""What the machine shows to others: sockets and privileges; test_secrets.py has the secrets."""

from __future__ import annotations

import json

from lab import Lab


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
