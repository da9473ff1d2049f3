"""playbooks/uninstall.yml on a PBX and on the monitoring host: nothing of ours is left but data.

site.yml goes on with that; and when it is asked for, no data is left either.
The tests are one story, and run in this order.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

import pytest
from fleet import Pbx
from history import history, settled, wait_until_settled
from lab import Lab, wait_until
from lab_secrets import generated

#: Names of what is ours, for who does not know the roles.
OURS = "asterisk|call-routing|cdr-partitions|appliance|prometheus|alertmanager"
COMMANDS = "asterisk asterisk-exporter asterisk-ctl prometheus promtool amtool"
#: The lab's own files, which site.yml does not write.
LABS = re.compile(
    r"/(lab|\.lab|victoria-metrics)|^/etc/(ssh|apt|network|hosts|systemd/(network|resolved))"
)
#: What the package manager knows of packages that are gone, and systemd's own.
PACKAGES = r"^/var/(cache|lib)/(apt|dpkg|systemd|ucf)/|^/var/log/(apt|journal)/"
PORTS = {4573, 5038, 5039, 5060, 5061, 9090, 9093, 9739}
OWN_FILE = "/etc/asterisk/extensions.d/site.conf"
HOSTS = ("hamburg", "monitor")
CONFIRMED = ("--limit", ",".join(HOSTS), "-e", f"uninstall_confirm={','.join(HOSTS)}")


@dataclass(frozen=True)
class Data:
    """What stays."""

    records: list[list[str]]
    queue_log: str
    recordings: str


def data(pbx: Pbx) -> Data:
    digests = "find {} -type f -exec sha256sum {{}} + | sort"
    return Data(
        pbx.records(),
        pbx.run("sha256sum /var/log/asterisk/queue_log /var/log/asterisk/cdr-csv/Master.csv"),
        pbx.run(digests.format("/var/spool/asterisk/monitor /var/spool/asterisk/voicemail")),
    )


def uninstall(pbx: Pbx, *arguments: str) -> tuple[int, str]:
    result = pbx.playbook("playbooks/uninstall.yml", *arguments)
    return result.returncode, re.sub(r"\s+", " ", result.stdout + result.stderr)


def count_one_call(pbx: Pbx, caller: str) -> None:
    """Call once, and return when that call and no other is counted."""

    def counted() -> float:
        metrics = pbx.metrics()
        return sum(v for k, v in metrics.items() if k.startswith("asterisk_calls_total{"))

    wait_until_settled(pbx)
    before = counted()
    pbx.run(f"lab-call provider {caller} +493055501 5")
    wait_until(lambda: counted() == before + 1 and settled(pbx), 120, "the call is counted")


def calls_of_berlin(time: int) -> str:
    return f'sum(asterisk_calls_total{{instance="berlin"}} @ {time})'


@dataclass(frozen=True)
class There:
    """What there was."""

    data: Data
    counters: dict[str, float]
    time: int
    #: in Prometheus, then
    calls_of_berlin: float | None


@pytest.fixture(scope="module")
def uninstalled(hamburg: Pbx, monitor: Lab) -> There:
    """Uninstall, and return what there was."""
    hamburg.asterisk("channel request hangup all")
    count_one_call(hamburg, "+4915700")
    hamburg.run(f"echo '; of this site' >{OWN_FILE}")
    now = int(monitor.run("date +%s"))
    figure = monitor.prometheus(calls_of_berlin(now))
    assert figure
    there = There(data(hamburg), history(hamburg), now, figure)
    status, said = uninstall(hamburg, *CONFIRMED)
    assert status == 0, said
    return there


@pytest.fixture(scope="module")
def emptied(hamburg: Pbx) -> None:
    """Uninstall once more, with the data."""
    status, said = uninstall(hamburg, *CONFIRMED, "-e", "uninstall_data=true")
    assert status == 0, said


def test_it_must_be_meant(hamburg: Pbx) -> None:
    status, said = uninstall(hamburg, "--limit", "hamburg", "-e", "uninstall_confirm=berlin")
    assert status != 0
    assert "--limit hamburg -e uninstall_confirm=hamburg" in said
    assert "call records, counters and series stay" in said
    status, said = uninstall(
        hamburg, "--limit", ",".join(HOSTS), "--check", "-e", "uninstall_data=true"
    )
    assert status == 0, said
    assert hamburg.exec("asterisk-exporter check").returncode in {0, 1}


@pytest.mark.usefixtures("uninstalled")
@pytest.mark.parametrize("host", HOSTS)
def test_nothing_of_ours_is_left(host: str, request: pytest.FixtureRequest) -> None:
    machine: Lab = request.getfixturevalue(host)
    units = machine.run("systemctl list-units --all --plain --no-legend; systemctl list-unit-files")
    # not-found: the lab's phones come after them
    there = [line.split()[0] for line in units.splitlines() if line and "not-found" not in line]
    assert [unit for unit in there if re.search(OURS, unit)] == []
    assert machine.exec(f"command -v {COMMANDS}").stdout == ""
    written = machine.exec("grep -rlI 'Ansible managed' /etc /opt /usr/local /lib/systemd").stdout
    assert [path for path in written.splitlines() if not LABS.search(path)] == []
    secrets = "\n".join(v for v in generated(machine.secrets).values() if len(v) > 6)
    held = machine.exec(
        "grep -rlaF --devices=skip --file=- /etc /opt /usr/local /run", stdin=secrets
    )
    assert [path for path in held.stdout.splitlines() if not LABS.search(path)] == []
    sockets = machine.run("ss --no-header --listening --numeric --tcp --udp")
    assert PORTS & {int(port) for port in re.findall(r":(\d+) ", sockets)} == set()
    groups = machine.run("getent group").splitlines()
    assert [group for group in groups if group.startswith("asterisk-")] == []
    paths = "/opt/asterisk-exporter /opt/call-routing /etc/asterisk-exporter"
    assert machine.exec(f"ls -d {paths} /etc/call-routing /etc/ssl/appliance").stdout == ""


def test_the_data_is_there(hamburg: Pbx, uninstalled: There) -> None:
    assert data(hamburg) == uninstalled.data
    assert uninstalled.data.recordings
    assert hamburg.run("find /etc/asterisk -type f").split() == [OWN_FILE]


def test_it_goes_on_after_another_install(hamburg: Pbx, monitor: Lab, uninstalled: There) -> None:
    made = hamburg.playbook("site.yml", "--limit", ",".join(HOSTS))
    assert made.returncode == 0, made.stdout + made.stderr
    hamburg.wait_until_well()
    assert history(hamburg) == uninstalled.counters
    count_one_call(hamburg, "+4915701")
    assert monitor.prometheus(calls_of_berlin(uninstalled.time)) == uninstalled.calls_of_berlin


@pytest.mark.usefixtures("emptied")
@pytest.mark.parametrize("host", HOSTS)
def test_the_data_goes_where_that_is_asked_for(host: str, request: pytest.FixtureRequest) -> None:
    machine: Lab = request.getfixturevalue(host)
    places = "/home /opt /root /srv /usr/local /var"
    found = machine.run(f"find {places} -ignore_readdir_race -xdev ! -type d").splitlines()
    left = [path for path in found if re.search(OURS, path)]
    assert [path for path in left if not re.search(PACKAGES, path) and not LABS.search(path)] == []
    assert machine.exec("getent passwd asterisk").stdout == ""


def test_its_database_goes_too(hamburg: Pbx) -> None:
    ask = "SELECT datname FROM pg_database UNION SELECT rolname FROM pg_roles WHERE rolcanlogin"
    left = hamburg.run(f"cd / && runuser -u postgres -- psql -XAtc {shlex.quote(ask)}").split()
    assert set(left) == {"postgres", "template0", "template1"}
