"""The production site to copy: its hosts find each other."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "inventory" / "example"


@pytest.mark.parametrize(
    ("host", "variable", "value"),
    [
        ("pbx1.example.net", "pbx_cdr_pgsql_host", "192.0.2.21"),
        ("pbx1.example.net", "asterisk_exporter_cdr_host", "192.0.2.21"),
        ("pbx1.example.net", "asterisk_exporter_listen_address", "192.0.2.11"),
        ("pbx1.example.net", "asterisk_exporter_doctor_prometheus_url", ""),
        ("db1.example.net", "cdr_database_clients", ["192.0.2.11/32"]),
        ("mon1.example.net", "prometheus_exporter_targets", ["192.0.2.11:9739"]),
    ],
)
def test_its_hosts_find_each_other(host, variable, value):
    """Ask Ansible for the value, without a connection."""
    command = Path(sys.executable).parent / "ansible"
    result = subprocess.run(
        [command, "-i", EXAMPLE, host, "-m", "debug", "-a", f"var={variable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    _, _, answer = result.stdout.partition(" => ")
    assert json.loads(answer)[variable] == value
