"""A machine with nothing on it but Debian: a dry run passes, and changes nothing."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from lab import ROOT, Lab, wait_until

MACHINE = ROOT / ".lab/machines/fresh"
INVENTORY = ("-i", "inventory/lab", "-i", "tests/integration/fresh.yml")


def exec_on_fresh(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "appliance", "exec", "fresh", "--", *command],
        capture_output=True,
        text=True,
        check=False,
    )


def running() -> bool:
    pattern = f"^systemd-nspawn --directory={MACHINE} "
    return (
        subprocess.run(
            ["pgrep", "--full", pattern], stdout=subprocess.DEVNULL, check=False
        ).returncode
        == 0
    )


@pytest.fixture
def fresh(lab: Lab) -> Iterator[None]:
    created = lab.playbook(*INVENTORY, "playbooks/lab/create.yml")
    assert created.returncode == 0, created.stdout
    yield
    exec_on_fresh("systemctl", "poweroff")
    wait_until(lambda: not running(), 120, "the fresh machine is off")
    subprocess.run(["rm", "-rf", MACHINE, f"{MACHINE}.built"], check=True)
    assert lab.playbook("playbooks/lab/create.yml").returncode == 0  # forgets its SSH entry


@pytest.mark.usefixtures("fresh")
def test_dry_run_on_a_fresh_machine(lab: Lab) -> None:
    packages = exec_on_fresh("dpkg-query", "--list").stdout
    assert "openssh-server" in packages
    result = lab.playbook(*INVENTORY, "site.yml", "--check", "--diff", "--limit", "fresh")
    assert result.returncode == 0, result.stdout + result.stderr
    assert exec_on_fresh("dpkg-query", "--list").stdout == packages
    parts = ("/etc/asterisk", "/etc/postgresql", "/etc/prometheus", "/etc/grafana")
    for path in (*parts, "/opt/asterisk-exporter"):
        assert exec_on_fresh("test", "-e", path).returncode == 1, path
