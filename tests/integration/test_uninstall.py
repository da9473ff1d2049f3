"""playbooks/uninstall.yml: nothing of ours is left but the data, which site.yml goes on with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from history import history, settled
from lab import Lab, wait_until
from lab_secrets import generated

#: Units, programs and files that are ours, found by who does not know the roles.
UNITS = "asterisk|call-routing|cdr-partitions|appliance|prometheus"
COMMANDS = "asterisk asterisk-exporter asterisk-ctl prometheus promtool amtool"
#: The lab's own files, which site.yml does not write.
LABS = re.compile(r"/(lab|\.lab)|^/etc/(ssh|apt|network|hosts|systemd/(network|resolved))")
PORTS = {4573, 5038, 5039, 5060, 5061, 9090, 9093, 9739}


@dataclass(frozen=True)
class Data:
    """What stays."""

    records: list[list[str]]
    queue_log: str
    recordings: str


def data(lab: Lab) -> Data:
    digests = "find {} -type f -exec sha256sum {{}} + | sort"
    return Data(
        lab.sql("SELECT count(*), md5(string_agg(cdr::text, ',' ORDER BY id)) FROM cdr"),
        lab.run("sha256sum /var/log/asterisk/queue_log /var/log/asterisk/cdr-csv/Master.csv"),
        lab.run(digests.format("/var/spool/asterisk/monitor /var/spool/asterisk/voicemail")),
    )


def uninstall(lab: Lab, *arguments: str) -> tuple[int, str]:
    result = lab.playbook("playbooks/uninstall.yml", *arguments)
    return result.returncode, re.sub(r"\s+", " ", result.stdout + result.stderr)


def count_one_call(lab: Lab, caller: str) -> None:
    """Call once, and return when that call and no other is counted."""

    def counted() -> float:
        metrics = lab.metrics()
        return sum(v for k, v in metrics.items() if k.startswith("asterisk_calls_total{"))

    before = counted()
    lab.run(f"lab-call provider {caller} +493055501 5")
    wait_until(lambda: counted() == before + 1 and settled(lab), 60, "the call is counted")


@pytest.fixture(scope="module")
def uninstalled(lab: Lab) -> Iterator[tuple[Data, dict[str, float]]]:
    """Uninstall, and return what there was: the data, and the counters."""
    lab.asterisk("channel request hangup all")
    count_one_call(lab, "+4915700")
    counters, there = history(lab), data(lab)
    status, said = uninstall(lab, "-e", "uninstall_confirm=pbx1")
    assert status == 0, said
    yield there, counters
    if lab.exec("asterisk-exporter check").returncode != 0:
        lab.playbook("site.yml")


def test_it_must_be_meant(lab: Lab) -> None:
    status, said = uninstall(lab, "-e", "uninstall_confirm=pbx2")
    assert status != 0
    assert "--limit pbx1 -e uninstall_confirm=pbx1" in said
    assert "call records, counters and series stay" in said
    status, said = uninstall(lab, "--check", "-e", "uninstall_data=true")
    assert status == 0, said
    assert lab.exec("asterisk-exporter check").returncode in {0, 1}


@pytest.mark.usefixtures("uninstalled")
def test_nothing_of_ours_is_left(lab: Lab) -> None:
    units = lab.run("systemctl list-units --all --plain --no-legend; systemctl list-unit-files")
    # not-found: the lab's phones come after them
    there = [line.split()[0] for line in units.splitlines() if line and "not-found" not in line]
    assert [unit for unit in there if re.search(UNITS, unit)] == []
    assert lab.exec(f"command -v {COMMANDS}").stdout == ""
    written = lab.exec("grep -rlI 'Ansible managed' /etc /opt /usr/local /lib/systemd").stdout
    assert [path for path in written.splitlines() if not LABS.search(path)] == []
    secrets = "\n".join(value for value in generated().values() if len(value) > 6)
    held = lab.exec("grep -rlaF --devices=skip --file=- /etc /opt /usr/local /run", stdin=secrets)
    assert [path for path in held.stdout.splitlines() if not LABS.search(path)] == []
    sockets = lab.run("ss --no-header --listening --numeric --tcp --udp")
    assert PORTS & {int(port) for port in re.findall(r":(\d+) ", sockets)} == set()
    groups = lab.run("getent group").splitlines()
    assert [group for group in groups if group.startswith("asterisk-")] == []
    paths = "/opt/asterisk-exporter /opt/call-routing /etc/asterisk /etc/asterisk-exporter"
    assert lab.exec(f"ls -d {paths} /etc/call-routing /etc/ssl/appliance").stdout == ""


def test_the_data_is_there(lab: Lab, uninstalled: tuple[Data, dict[str, float]]) -> None:
    assert data(lab) == uninstalled[0]
    assert uninstalled[0].recordings


def test_it_goes_on_after_another_install(
    lab: Lab, uninstalled: tuple[Data, dict[str, float]]
) -> None:
    made = lab.playbook("site.yml")
    assert made.returncode == 0, made.stdout + made.stderr
    wait_until(lambda: lab.exec("asterisk-exporter check").returncode == 0, 90, "a healthy lab")
    assert history(lab) == uninstalled[1]
    count_one_call(lab, "+4915701")
