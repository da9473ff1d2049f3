"""A PBX switched off and on: what runs, who listens where, and a real call that is counted."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest


@pytest.mark.parametrize("name", ["asterisk", "asterisk-exporter", "call-routing", "postgresql"])
def test_service_runs_and_starts_with_the_machine(host, name):
    assert host.service(name).is_running
    assert host.service(name).is_enabled


def test_nothing_has_failed(host):
    assert host.check_output("systemctl list-units --failed --no-legend --plain") == ""


def test_only_what_the_inventory_opens_is_reached_from_outside(host):
    said = host.check_output("ss --no-header --listening --tcp --udp --numeric --processes")
    reached = {
        (protocol, int(address.rpartition(":")[2]))
        for protocol, _, _, _, address, _, process in map(str.split, said.splitlines())
        # what SIPp plays is the lab's
        if not address.startswith(("127.", "[::1]")) and '"sipp"' not in process
    }
    # PJSIP asks name servers from a port that the kernel chose
    reached = {(protocol, port) for protocol, port in reached if protocol == "tcp" or port < 32768}
    tcp = {("tcp", port) for port in (22, 5039, 5060, 5061, 9739)}
    assert reached == tcp | {("udp", 5060)}


@pytest.mark.parametrize(
    ("unit", "most"), [("asterisk-exporter", 2.0), ("call-routing", 2.0), ("asterisk", 5.0)]
)
def test_service_is_confined(host, unit, most):
    said = host.run(f"systemd-analyze security --no-pager {unit}").stdout
    assert float(re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)[0]) <= most


def test_health_check(host):
    end = time.monotonic() + 90
    # A phone that answers late is asked again.
    while (said := host.run("asterisk-exporter check")).rc:
        assert time.monotonic() < end, said.stdout
        time.sleep(1)


def test_a_call_is_answered_and_counted(host):
    counted = (
        'asterisk_calls_total{direction="inbound",outcome="answered"}',
        'asterisk_queue_calls_answered_total{queue="support"}',
    )
    before = metrics(host)
    host.run_test("lab-call provider +4915550001 +493055501 16")
    end = time.monotonic() + 120
    while any((after := metrics(host))[name] != before[name] + 1 for name in counted):
        assert time.monotonic() < end, {name: after[name] - before[name] for name in counted}
        time.sleep(1)


def metrics(host) -> dict[str, float]:
    """What Prometheus would see: sample as in the exposition -> value."""
    address = host.check_output("hostname --all-ip-addresses").split()[0]
    # Platforms run beside the tests in the lab, at a lower priority.
    with urllib.request.urlopen(f"http://{address}:9739/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    }
