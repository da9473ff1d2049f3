"""docs/from-a-crm-integration.md, row by row: each command, call and metric does what the row says.

What is run is read from the document; what came of it is asked of Asterisk, the database and the
webhook's receiver.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import crm_tasks
import pytest
import yaml
from history import wait_until_settled
from lab import Lab, wait_until
from prometheus_client.parser import text_string_to_metric_families
from test_control import ANSI, channels, channels_of
from test_notifier import LOG, PORT, RECEIVER, received

PYTHON = "/opt/asterisk-exporter/bin/python"
ETC = "/etc/asterisk-exporter"
WORK = "/run/crm-tasks"
CALLER = "+4915550061"
KNOWN_CALLER = "+491701234567"
#: A password of the database that records are imported from.
ENVIRONMENT = {
    "PGPASSWORD": "of-the-crm",
    "ASTERISK_EXPORTER_CONFIG": f"{ETC}/asterisk-exporter.yml",
}
#: An exporter of the tests' own, with a notifier, so that nothing need be converged.
OWN_PORT = 9798
OWN_CONFIG = f"{WORK}/etc/asterisk-exporter.yml"
IMPORTED = "imported_at IS NOT NULL AND uniqueid LIKE 'crm-tasks.%'"
#: Runs a call of the table; prints its result.
SHOW = """
import dataclasses, json, sys

def plain(value):
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    return type(value).__name__

print(json.dumps(eval(sys.argv[1]), default=plain))
"""


REQUEST = """
import sys, urllib.request

method, token, url = sys.argv[1:]
headers = {"Authorization": f"Token {token}", "Accept": "application/json"}
request = urllib.request.Request(url, headers=headers, method=method)
print(urllib.request.urlopen(request, timeout=5).read().decode())
"""
Samples = list[tuple[str, dict[str, str], float]]


def total(samples: Samples, name: str, labels: dict[str, str]) -> float:
    """Return the sum of a metric, or the count of a histogram, where it has these labels."""
    found = [
        value
        for sample, has, value in samples
        if sample in (name, f"{name}_count") and labels.items() <= has.items()
    ]
    assert found, f"/metrics has no {name} {labels}"
    return sum(found)


class Tasks:
    """Runs the cells of the document's table, and knows which were not run."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.rows = crm_tasks.rows()
        self.left = {
            (row.task, cell)
            for row in self.rows.values()
            for cell in (row.command, row.python, row.http, *row.metrics)
            if cell
        }
        #: Calls between phones that were answered, and linkedids of missed ones.
        self.internal = 0
        self.missed: list[str] = []
        self.first = self.scrape()

    def command(self, task: str, wrap: str = "", **environment: str) -> str:
        """Run a row's command and return what it printed; it must succeed."""
        command = self._take(task, self.rows[task].command)
        return self.lab.run(f"{self._prepared(environment)} {wrap} {command}")

    def python(self, task: str) -> Any:
        """Evaluate a row's call with the document's names and return the result."""
        call = shlex.quote(self._take(task, self.rows[task].python))
        code = shlex.quote(crm_tasks.names() + SHOW)
        return json.loads(self.lab.run(f"{self._prepared({})} {PYTHON} -c {code} {call}"))

    def do(self, task: str, way: str) -> None:
        """Run a row's command or its call."""
        if way == "command":
            self.command(task)
        else:
            self.python(task)

    def request(self, task: str) -> Any:
        """Ask the lab's CRM what the row says, and return its answer."""
        method, path = self._take(task, self.rows[task].http).split()
        url = json.loads(self.lab.run("cat /etc/call-routing/settings.json"))["url"]
        token = "$(cat /etc/call-routing/crm-token)"
        code = shlex.quote(REQUEST)
        return json.loads(self.lab.run(f'python3 -c {code} {method} "{token}" {url}{path}'))

    def posted(self, task: str) -> list[dict[str, Any]]:
        """Return the events that the webhook was sent by the row's method."""
        assert self._take(task, self.rows[task].http) == "POST"
        return [json.loads(body) for _, body in received(self.lab)]

    def scrape(self, port: int = 9739) -> Samples:
        """Return what an exporter has."""
        text = self.lab.get(self.lab.url("exporter").replace("9739", str(port)) + "/metrics")
        return [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        ]

    def all_is_read(self) -> bool:
        """Whether the exporter of the tests' own reads what it counts from."""
        try:
            samples = self.scrape(OWN_PORT)
        except OSError:  # it is just starting
            return False
        read = [
            value
            for name, has, value in samples
            if name == "asterisk_exporter_collector_success"
            and has["collector"] in ("cdr", "queue_log")
        ]
        return read == [1, 1]

    def value(self, task: str, name: str, port: int = 9739, **labels: str) -> float:
        """Return the sum of a row's metric."""
        assert name in self.rows[task].metrics, f"{task}: the document has no {name}"
        self._take(task, name)
        return total(self.scrape(port), name, labels)

    def gained(self, task: str, name: str, **labels: str) -> float:
        """Return how much a row's metric has grown since the tests began."""
        return self.value(task, name, **labels) - total(self.first, name, labels)

    @contextmanager
    def change(self, task: str, name: str, by: float, **labels: str) -> Iterator[None]:
        """Expect a row's metric to change by so much."""
        wanted = self.value(task, name, **labels) + by
        yield
        wait_until(lambda: self.value(task, name, **labels) == wanted, 20, f"{name} {by:+}")

    def _prepared(self, environment: dict[str, str]) -> str:
        known = " ".join(f"{k}={v}" for k, v in {**ENVIRONMENT, **environment}.items())
        return f"cd {WORK} && env {known}"

    def _take(self, task: str, cell: str | None) -> str:
        assert cell is not None, f"{task}: the document has no such cell"
        self.left.discard((task, cell))
        return cell


@pytest.fixture(scope="module")
def tasks(lab: Lab) -> Iterator[Tasks]:
    """The document, an exporter and a notifier of the tests' own, and a webhook."""
    config = yaml.safe_load(lab.run(f"cat {ETC}/asterisk-exporter.yml"))
    config["listen"] |= {"address": "0.0.0.0", "port": OWN_PORT}
    config["state_directory"] = f"{WORK}/state"
    config["calls"]["settle_seconds"] = config["cdr"]["poll_seconds"] = 1
    config["events"]["enabled"] = False
    config["notifier"] = {
        "url": f"http://127.0.0.1:{PORT}/missed",
        "state_directory": f"{WORK}/notifier",
    }
    unit = f"systemd-run --quiet --collect -E ASTERISK_EXPORTER_CONFIG={OWN_CONFIG} --unit"
    lab.run(
        f"rm -rf {LOG} {WORK}; mkdir -p {WORK} && cp -a {ETC} {WORK}/etc && "
        f"echo the-secret-of-the-webhook >{WORK}/etc/notifier-secret && cat >{OWN_CONFIG} && "
        f"{unit}=crm-tasks-webhook python3 -c {shlex.quote(RECEIVER)} && "
        f"{unit}=crm-tasks-exporter asterisk-exporter serve && "
        f"{unit}=crm-tasks-notifier asterisk-exporter notify",
        stdin=yaml.safe_dump(config),
    )
    lab.wait_until_well()
    wait_until_settled(lab)
    made = Tasks(lab)
    wait_until(made.all_is_read, 60, "the exporter of the tests' own has begun to count")
    yield made
    lab.exec("systemctl stop crm-tasks-webhook crm-tasks-exporter crm-tasks-notifier")
    lab.run(f"rm -rf {LOG} {WORK}")


each_way = pytest.mark.parametrize("way", ["command", "python"])


def test_the_connection(tasks: Tasks) -> None:
    shown = tasks.command("Test the connection")
    assert re.search(r"^AMI login +OK ", shown, re.M)
    assert tasks.python("Test the connection") == "AmiClient"
    assert tasks.value("Test the connection", "asterisk_up") == 1


def test_health_report(tasks: Tasks) -> None:
    shown = tasks.command("Health report")
    report = tasks.python("Health report")
    assert shown.startswith("ASTERISK OK - ")
    assert report["problems"] == []
    online = report["endpoints_online"]
    assert f"Endpoints:     {online} online" in shown
    assert tasks.value("Health report", "asterisk_endpoints") == online > 0
    assert tasks.value("Health report", "asterisk_endpoint_up", endpoint="provider") == 1


# --- calls ---------------------------------------------------------------------------------------


@each_way
def test_calls(way: str, tasks: Tasks) -> None:
    lab = tasks.lab
    wait_until(lambda: not channels(lab), 30, "no channels")
    try:
        with tasks.change("Originate a call", "asterisk_calls", 1):
            tasks.do("Originate a call", way)
        concise = "core show channels concise"
        wait_until(lambda: lab.asterisk(concise).count("!Up!") == 2, 30, "they talk")
        [moved] = channels_of(lab, "102")
        with tasks.change("Park a call", "asterisk_parked_calls", 1):
            tasks.do("Park a call", way)
        assert moved in lab.asterisk("parking show default")
        tasks.do("Transfer a call", way)
        wait_until(
            lambda: tasks.value("Transfer a call", "asterisk_channels", state="ringing") == 1,
            8,
            "it rings",
        )
        assert channels_of(lab, "102") == [moved]
        assert len(channels_of(lab, "103")) == 1
        assert moved not in lab.asterisk("parking show default")
        tasks.do("Hang up", way)
        wait_until(lambda: not channels(lab), 20, "nobody is left")
        tasks.internal += 1
    finally:
        lab.asterisk("channel request hangup all")


# --- records -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def history(lab: Lab, tasks: Tasks) -> Iterator[None]:  # noqa: ARG001 - makes the directory
    """Records from elsewhere: a Master.csv, and a database with another one."""
    lines = io.StringIO()
    csv.writer(lines, lineterminator="\n").writerows(record(number) for number in (1, 2))
    lab.run(f"cat >{WORK}/Master.csv", stdin=lines.getvalue())
    psql = "runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1"
    lab.run(
        f"{psql} -c \"CREATE ROLE crm LOGIN PASSWORD '{ENVIRONMENT['PGPASSWORD']}'\" "
        "-c 'CREATE DATABASE crm OWNER crm'"
    )
    lab.run(
        f"{psql} crm",
        stdin="CREATE TABLE cdr (start timestamptz, duration int, billsec int, disposition text,"
        " uniqueid text, linkedid text, sequence int); GRANT SELECT ON cdr TO crm;"
        " INSERT INTO cdr VALUES ('2020-01-31 13:05:59Z', 61, 0, 'CONGESTION', 'crm-tasks.3',"
        " 'crm-tasks.3', 3);",
    )
    yield
    lab.run(f"{psql} -c 'DROP DATABASE crm' -c 'DROP ROLE crm'")
    lab.sql(f"DELETE FROM cdr WHERE {IMPORTED}")


def record(number: int) -> list[object]:
    """Return a record of 2020 as Asterisk's cdr_csv writes it."""
    called = ("", "+49301234567", "601", "from-external", "", "PJSIP/provider-1", "PJSIP/101-2")
    times = ("2020-01-31 13:05:59", "", "2020-01-31 13:07:00", 61, 0)
    unique = f"crm-tasks.{number}"
    names = ("CONGESTION", "DOCUMENTATION", unique, "", "", unique, number)
    return [*called, "Queue", "support", *times, *names]


@each_way
@pytest.mark.usefixtures("history")
def test_imports(way: str, tasks: Tasks) -> None:
    tasks.lab.sql(f"DELETE FROM cdr WHERE {IMPORTED}")
    for task, new in (("Import call records, CSV", 2), ("Import them, database", 1)):
        for wanted in ((new, 0, 0), (0, new, 0)):
            if way == "command":
                said = tasks.command(task)
                found = tuple(map(int, re.findall(r"(?:Imported|skipped|errors) (\d+)", said)))
            else:
                result = tasks.python(task)
                found = (result["imported"], result["skipped"], result["errors"])
            assert found == wanted, task
    ids = [f"crm-tasks.{n}" for n in (1, 2, 3)]
    rows = tasks.lab.sql(f"SELECT uniqueid FROM cdr WHERE {IMPORTED} ORDER BY uniqueid")
    assert rows == [[one] for one in ids]


# --- queues --------------------------------------------------------------------------------------


def waiting(table: str, queue: str) -> list[int]:
    return [int(found) for found in re.findall(rf"│ {queue} +│ +(\d+) │", table)]


@pytest.fixture
def nobody_answers(lab: Lab) -> Iterator[None]:
    """Who calls sales waits: its agents are paused."""
    agents = ("103", "104", "105")
    for agent in agents:
        lab.asterisk(f"queue pause member PJSIP/{agent} queue sales")
    yield
    for agent in agents:
        lab.asterisk(f"queue unpause member PJSIP/{agent} queue sales")


@pytest.mark.usefixtures("nobody_answers")
def test_queue_statistics(tasks: Tasks) -> None:
    now, watch, lab = "Queue statistics", "Watch the queues", tasks.lab
    query = f"SELECT linkedid FROM cdr WHERE src = '{CALLER}' ORDER BY id DESC LIMIT 1"
    before = lab.sql(query)
    with ThreadPoolExecutor() as pool:
        # Without --foreground the process group is told too: a second Ctrl-C, after the first.
        ctrl_c = "timeout --foreground --preserve-status -s INT 26"
        watched = pool.submit(tasks.command, watch, ctrl_c)
        with tasks.change(now, "asterisk_queue_calls_offered_total", 1, queue="sales"):
            lab.run(f"systemd-run --quiet --collect lab-call provider {CALLER} +493055502 14")
        wait_until(
            lambda: tasks.value(watch, "asterisk_queue_callers", queue="sales") == 1,
            5,
            "a caller waits",
        )
        assert waiting(tasks.command(now), "sales") == [1]
        [sales] = [queue for queue in tasks.python(now) if queue["name"] == "sales"]
        assert (sales["waiting"], sales["today"]["offered"] > 0) == (1, True)
        [sales] = tasks.python(watch)
        assert (sales["name"], sales["waiting"]) == ("sales", 1)
        seen = waiting(watched.result(), "sales")
        assert (1 in seen, seen[-1]) == (True, 0)
    wait_until(lambda: lab.sql(query) != before, 20, "a record")
    tasks.missed.append(lab.sql(query)[0][0])


@each_way
def test_agents(way: str, tasks: Tasks) -> None:
    def shown(text: str) -> int:
        """In how many queues Asterisk shows the agent so."""
        lines = ANSI.sub("", tasks.lab.asterisk("queue show")).splitlines()
        return sum("PJSIP/105" in line and text in line for line in lines)

    add, remove = "Add an agent to a queue", "Remove an agent"
    assert (shown(""), shown("(dynamic)")) == (2, 0)
    try:
        with tasks.change(add, "asterisk_queue_members", 1, queue="support"):
            tasks.do(add, way)
        assert shown("(dynamic)") == 1
        with tasks.change("Pause an agent", "asterisk_queue_members_paused", 3):
            tasks.do("Pause an agent", way)
        assert shown("paused:lunch") == 3
        with tasks.change("End the pause", "asterisk_queue_members_available", 3):
            tasks.do("End the pause", way)
        assert shown("paused") == 0
        with tasks.change(remove, "asterisk_queue_members", -1, queue="support"):
            tasks.do(remove, way)
        assert shown("") == 2
    finally:
        tasks.lab.exec("asterisk-ctl queue unpause 105; asterisk-ctl queue remove support 105")


# --- the CRM is asked -----------------------------------------------------------------------------


def test_lookup_and_route(tasks: Tasks) -> None:
    lookup, route, lab = "Look up a caller", "Route a caller", tasks.lab
    said = json.loads(tasks.command(lookup))
    assert (said["result"], said["target"]) == ("routed", "queue:vip")
    assert said["contact"]["name"] == tasks.request(lookup)["name"] == "Ann Example"
    assert tasks.request(route)["target"] == "queue:vip"
    with (
        tasks.change(route, "asterisk_route_requests_total", 1, result="routed"),
        tasks.change(lookup, "asterisk_route_seconds", 1),
    ):
        lab.run(f"systemd-run --quiet --collect lab-call provider {KNOWN_CALLER} +493055505 60")
        wait_until(
            lambda: "!Queue!vip," in lab.asterisk("core show channels concise"), 20, "she is in vip"
        )
        lab.asterisk("channel request hangup all")


# --- what came of the calls above ----------------------------------------------------------------


def test_missed_calls_are_posted(tasks: Tasks) -> None:
    task = "Notify of missed calls"
    assert "answered 204" in tasks.command(task, ASTERISK_EXPORTER_CONFIG=OWN_CONFIG)
    [made_up] = [event for event in tasks.posted(task) if event["event"] == "test"]
    assert made_up["version"] == 1

    def calls() -> list[str]:
        return [one["linkedid"] for one in tasks.posted(task) if one["event"] == "missed_call"]

    wait_until(lambda: set(tasks.missed) <= set(calls()), 60, "the missed call is posted")
    wait_until(
        lambda: tasks.value(task, "asterisk_notifier_sent_total", OWN_PORT) == len(calls()),
        60,
        "they are counted",
    )


def test_whom_to_call_back(tasks: Tasks) -> None:
    task, sales = "Whom to call back", {"destination": "sales"}
    for name in ("asterisk_missed_calls_total", "asterisk_missed_calls_outstanding"):
        wait_until(
            lambda name=name: tasks.gained(task, name, **sales) == len(tasks.missed), 60, name
        )
    listed = [call for call in tasks.python(task) if call["caller"] == CALLER]
    assert {call["linkedid"] for call in listed} >= set(tasks.missed)
    assert tasks.command(task).count(CALLER) == len(listed)


def test_call_quality(tasks: Tasks) -> None:
    quality = "Call quality"
    internal = {"direction": "internal"}
    for task, name in (("Hang up", "asterisk_calls_total"), (quality, "asterisk_call_seconds")):
        wait_until(
            lambda task=task, name=name: tasks.gained(task, name, **internal) == tasks.internal,
            60,
            name,
        )
    assert tasks.gained(quality, "asterisk_rtp_mes") > 0
    query = "SELECT count(DISTINCT linkedid) FROM cdr WHERE start > now() - interval '24 hours'"
    [[calls]] = tasks.lab.sql(query)
    found = tasks.python(quality)
    assert (str(found["calls"]), found["completed"] >= tasks.internal) == (calls, True)
    assert re.search(rf"^Calls: +{calls}$", tasks.command(quality), re.M)


def test_imported_records_are_not_counted(tasks: Tasks) -> None:
    """The missed call came after them, and is."""
    for task in ("Import call records, CSV", "Import them, database"):
        assert tasks.gained(task, "asterisk_cdr_records_total") > 0
        assert tasks.gained(task, "asterisk_cdr_records_total", disposition="CONGESTION") == 0


# --- the whole document --------------------------------------------------------------------------


def test_prometheus_has_the_alerts(tasks: Tasks) -> None:
    groups = json.loads(tasks.lab.get(f"{tasks.lab.url('prometheus')}/api/v1/rules"))["data"]
    rules = {rule["name"] for group in groups["groups"] for rule in group["rules"]}
    assert {alert for row in tasks.rows.values() for alert in row.alerts} <= rules


def test_no_cell_is_left(tasks: Tasks) -> None:
    assert tasks.left == set()
