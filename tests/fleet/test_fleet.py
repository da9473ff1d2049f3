"""Two PBXs, one Prometheus, one store: figures of each and of both, and one PBX that is off.

The tests are one story, and run in this order.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import textwrap
import urllib.parse
from pathlib import Path

from doctor import Doctor
from history import wait_until_settled
from lab import ROOT, Lab, wait_until

PBXS = ("berlin", "hamburg")
INBOUND = 'asterisk_calls_total{job="asterisk", direction="inbound"}'
#: Links of the doctor, see docs/commands.md.
LINKS = ("Prometheus", "scraping", "rules", "Alertmanager", "clocks")
#: Asks the store as who looks at it does, with its password.
ASK_STORE = textwrap.dedent(
    """
    import base64, sys, urllib.parse, urllib.request
    password = open("/etc/lab-store-password").read()
    url = "http://127.0.0.1:8428/api/v1/query?query=" + urllib.parse.quote(sys.argv[1])
    login = base64.b64encode(f"prometheus:{password}".encode()).decode()
    request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
    print(urllib.request.urlopen(request, timeout=5).read().decode())
    """
)

Figures = dict[str, float]


def by_instance(answer: str) -> Figures:
    return {
        item["metric"].get("instance", ""): float(item["value"][1])
        for item in json.loads(answer)["data"]["result"]
    }


def figures(monitor: Lab, query: str) -> Figures:
    """Ask Prometheus for a figure of each PBX."""
    address = f"{monitor.url('prometheus')}/api/v1/query?query="
    return by_instance(monitor.get(address + urllib.parse.quote(query)))


def stored(monitor: Lab, query: str) -> Figures:
    """Ask the store for the same."""
    return by_instance(monitor.run(f"python3 -c {shlex.quote(ASK_STORE)} {shlex.quote(query)}"))


def inbound(monitor: Lab) -> Figures:
    return figures(monitor, f"sum by (instance) ({INBOUND})")


def inbound_of_the_past(monitor: Lab, *pbxs: Lab) -> Figures:
    """Return them when all are counted; a call is, ten seconds after its end."""
    for pbx in pbxs:
        wait_until_settled(pbx)
    counted = {pbx.host: inbound_at(pbx) for pbx in pbxs}
    wait_until(lambda: inbound(monitor) == counted, 60, f"Prometheus has them: {counted}")
    return counted


def inbound_at(pbx: Lab) -> float:
    """Ask the exporter."""
    return sum(
        value
        for name, value in pbx.metrics().items()
        if name.startswith("asterisk_calls_total{direction=inbound,")
    )


def call(pbx: Lab) -> None:
    """Call vip, where a phone answers after two seconds."""
    pbx.run("lab-call provider +4915550078 +493055503 4")


def firing(monitor: Lab) -> set[tuple[str, str]]:
    """Return which alerts Alertmanager has, and of which PBX."""
    alerts = json.loads(monitor.get(f"{monitor.url('alertmanager')}/api/v2/alerts"))
    return {(a["labels"]["alertname"], a["labels"].get("instance", "")) for a in alerts}


def machines() -> list[str]:
    """Return the process of each machine that is on."""
    command = ["pgrep", "--full", f"^systemd-nspawn --directory={ROOT}/.lab/sites/fleet/"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_no_machine_can_end_the_services_of_another() -> None:
    """systemd ends a service by its control group, whose name is the unit's."""
    running = machines()
    groups = {Path(f"/proc/{pid}/cgroup").read_text().rpartition("0::")[2] for pid in running}
    assert len(groups) == len(running) == 3, groups


def test_prometheus_and_the_store_know_both_by_name(monitor: Lab) -> None:
    both = dict.fromkeys(PBXS, 1)
    wait_until(lambda: figures(monitor, 'up{job="asterisk"}') == both, 30, "both are scraped")
    wait_until(
        lambda: stored(monitor, 'asterisk_up{site="fleet"}') == both,
        60,
        "samples of both in the store",
    )


def test_the_doctor_of_each_finds_its_way_to_the_one_prometheus(berlin: Lab, hamburg: Lab) -> None:
    for pbx in (berlin, hamburg):
        report = Doctor(pbx).look()
        statuses = {name: report.link(name)["status"] for name in LINKS}
        assert statuses == dict.fromkeys(LINKS, "OK"), report.problems()


def test_calls_are_counted_where_they_were_and_in_total(
    berlin: Lab, hamburg: Lab, monitor: Lab
) -> None:
    before = inbound_of_the_past(monitor, berlin, hamburg)
    for pbx in (berlin, hamburg, berlin):
        call(pbx)
    expected = {"berlin": before["berlin"] + 2, "hamburg": before["hamburg"] + 1}
    wait_until(lambda: inbound(monitor) == expected, 90, f"the calls of both: {expected}")
    assert figures(monitor, f"sum({INBOUND})") == {"": sum(expected.values())}
    query = f"sum by (instance) ({INBOUND})"
    wait_until(lambda: stored(monitor, query) == expected, 60, "the same in the store")
    # The rules: each PBX, and all of them.
    rate = "asterisk_queue_calls_offered:rate1h"
    wait_until(lambda: figures(monitor, f"job:{rate} > 0"), 60, "the total of the rules")
    # One is evaluated after the other: in between they are of two moments.
    same = f"abs(job:{rate} - on (job) sum by (job) (instance:{rate})) < 1e-9"
    wait_until(lambda: len(figures(monitor, same)) == 1, 20, "it is the sum of both")


def test_one_that_is_off_does_not_hide_the_other(berlin: Lab, hamburg: Lab, monitor: Lab) -> None:
    before = inbound_of_the_past(monitor, berlin, hamburg)
    total = 'sum(increase(asterisk_calls_total{job="asterisk", direction="inbound"}[1h]))'
    total_before = figures(monitor, total)[""]
    hamburg.exec("systemctl poweroff")
    wait_until(
        lambda: ("AsteriskExporterDown", "hamburg") in firing(monitor), 120, "somebody is told"
    )
    assert ("AsteriskExporterDown", "berlin") not in firing(monitor)
    call(berlin)
    wait_until(
        lambda: inbound(monitor) == {"berlin": before["berlin"] + 1}, 90, "the call of the other"
    )
    assert figures(monitor, total)[""] > total_before
    assert figures(monitor, 'up{job="asterisk"}') == {"berlin": 1, "hamburg": 0}

    # One that is still on its way down would not be started.
    wait_until(lambda: len(machines()) == 2, 120, "hamburg is off")
    made = monitor.playbook("playbooks/lab/create.yml")
    assert made.returncode == 0, made.stdout + made.stderr
    wait_until(lambda: inbound(monitor).keys() == set(PBXS), 90, "it is back")
    # It goes on where it was: what the exporter has counted outlives the machine's end.
    assert inbound(monitor)["hamburg"] == before["hamburg"]
    wait_until(
        lambda: ("AsteriskExporterDown", "hamburg") not in firing(monitor), 90, "that is told, too"
    )
    hamburg.wait_until_well()
    call(hamburg)
    wait_until(
        lambda: inbound(monitor)["hamburg"] == before["hamburg"] + 1, 90, "one more, and no other"
    )
    grown = figures(monitor, f"sum by (instance) (resets({INBOUND}[15m]))")
    assert grown == dict.fromkeys(PBXS, 0)
