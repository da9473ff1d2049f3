"""The doctor's links that are services: what systemd says, and what is made of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from asterisk_exporter import config
from asterisk_exporter.doctor import services
from asterisk_exporter.doctor.pbx import Ran
from asterisk_exporter.doctor.process import is_server
from asterisk_exporter.doctor.services import (
    Unit,
    age,
    judge,
    judge_asterisk,
    judge_loader,
    units,
    wanted,
)
from asterisk_exporter.health import Status

RUNS = Unit("asterisk-exporter", True, "active", "running", "success", 0, "enabled", 7300.0)

SHOWN = """\
Id=asterisk.service
LoadState=loaded
ActiveState=active
SubState=running
UnitFileState=enabled
ActiveEnterTimestampMonotonic=42438146071
Result=success
NRestarts=2

Id=asterisk-exporter-notifier.service
LoadState=not-found
ActiveState=inactive
SubState=dead
UnitFileState=
ActiveEnterTimestampMonotonic=0
Result=success
NRestarts=
"""


def unit(name="asterisk-exporter", **changed):
    return Unit(**{**vars(RUNS), "name": name, **changed})


def test_what_systemctl_shows():
    assert units(SHOWN, 42498.0) == [
        Unit(
            "asterisk", True, "active", "running", "success", 2, "enabled", 42498.0 - 42438.146071
        ),
        Unit("asterisk-exporter-notifier", False, "inactive", "dead", "success", 0, "", None),
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (119, "119 s"), (120, "2 min"), (3661, "1 h 1 min"), (90000, "1 d 1 h")],
)
def test_a_span_of_time(seconds, shown):
    assert age(seconds) == shown


@pytest.mark.parametrize(
    ("found", "status", "text", "action"),
    [
        (RUNS, Status.OK, "asterisk-exporter has run for 2 h 1 min", ""),
        (
            unit(restarts=1, since_seconds=30.0),
            Status.OK,
            "asterisk-exporter has run for 30 s, restarted by systemd once",
            "",
        ),
        (unit(restarts=9, since_seconds=7e4), Status.OK, "restarted by systemd 9 times", ""),
        (unit(restarts=3, since_seconds=30.0), Status.WARNING, "keeps ending", "journalctl -u"),
        (unit(enabled="disabled"), Status.WARNING, "after a reboot", "systemctl enable"),
        (
            unit(active="inactive", sub="dead", since_seconds=None),
            Status.CRITICAL,
            "does not run: inactive",
            "systemctl start asterisk-exporter",
        ),
        (
            unit(active="activating", sub="auto-restart", result="exit-code", since_seconds=None),
            Status.CRITICAL,
            "ends as soon as it is started (exit-code)",
            "journalctl -u asterisk-exporter",
        ),
        (
            unit("call-routing", exists=False, active="inactive", since_seconds=None),
            Status.CRITICAL,
            "there is no service call-routing",
            "call_routing_method",
        ),
        (unit(exists=False, active="inactive", since_seconds=None), None, "no service", ""),
    ],
)
def test_a_service_that_has_to_run(found, status, text, action):
    finding = judge(found)
    assert (finding.status, text in finding.text) == (status, True), finding
    assert action in finding.action
    assert bool(finding.action) == bool(action)


def test_asterisk_may_be_started_by_others():
    stopped = unit("asterisk", active="inactive", since_seconds=None)
    missing = unit("asterisk", exists=False, active="inactive", since_seconds=None)
    looping = unit("asterisk", active="activating", sub="auto-restart", since_seconds=None)
    for found in (stopped, missing):
        assert judge_asterisk(found, 17).text == (
            "process 17 runs, started by other than the unit asterisk"
        )
        assert judge_asterisk(found, None).status is Status.CRITICAL
    assert "asterisk_exporter_ami_host" in judge_asterisk(missing, None).action
    assert judge_asterisk(looping, 17).status is Status.CRITICAL
    assert "/var/log/asterisk/messages" in judge_asterisk(stopped, None).action
    assert judge_asterisk(unit("asterisk"), 17).text == "asterisk has run for 2 h 1 min"


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"exists": False}, None),
        ({"active": "inactive", "since_seconds": None}, None),
        ({"since_seconds": 5.0}, None),
        ({"since_seconds": 300.0}, "has waited for 5 min"),
        ({"active": "failed", "since_seconds": None, "result": "timeout"}, "failed (timeout)"),
    ],
)
def test_the_loader_of_cdr_pgsql_may_have_ended(changed, text):
    found = judge_loader(unit("asterisk-cdr-pgsql", **changed))
    assert [finding.status for finding in found] == ([] if text is None else [Status.CRITICAL])
    assert all(text in finding.text and "Master.csv" in finding.text for finding in found)


def settings(**sections):
    return config.Config(**sections)


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        ({}, ["asterisk-exporter"]),
        (
            {"notifier": {"url": "https://crm/"}, "cdr": {}},
            ["asterisk-exporter", "asterisk-exporter-notifier"],
        ),
        (
            {"doctor": {"call_routing": {"listen": "127.0.0.1:4573"}}},
            ["asterisk-exporter", "call-routing"],
        ),
        ({"doctor": {"call_routing": {"listen": "192.0.2.1:4573"}}}, ["asterisk-exporter"]),
        ({"doctor": {"call_routing": {}}}, ["asterisk-exporter"]),
        ({"realtime_file": "/run/seen"}, ["asterisk-exporter", "asterisk-realtime"]),
    ],
)
def test_which_services_are_wanted(sections, names):
    assert wanted(settings(**sections)) == names


@pytest.mark.parametrize(
    ("line", "is_pbx"),
    [
        ("/usr/sbin/asterisk -g -f -p -U asterisk -G asterisk", True),
        ("/usr/sbin/asterisk -C /etc/asterisk/asterisk.conf", True),
        ("asterisk", True),
        ("asterisk -rvvv", False),
        ("asterisk -rx core show uptime", False),
        ("/usr/sbin/asterisk -vR", False),
    ],
)
def test_a_console_is_no_pbx(line, is_pbx):
    assert is_server(line.split()) is is_pbx


def fake(settings, shown="", here=True):
    return SimpleNamespace(
        settings=settings, asterisk_is_here=here, run=lambda _: Ran(0, shown, "")
    )


def test_asterisk_on_another_machine():
    found = list(services.asterisk(fake(settings(ami={"host": "pbx.example"}), here=False)))
    assert [(f.status, "pbx.example" in f.text) for f in found] == [(None, True)]


@pytest.mark.parametrize(("process", "status"), [(7, Status.OK), (None, Status.CRITICAL)])
def test_without_systemd(monkeypatch, process, status):
    monkeypatch.setattr(services, "_is_booted_by_systemd", lambda: False)
    monkeypatch.setattr(services, "asterisk_process", lambda: process)
    pbx = fake(settings())
    assert [finding.status for finding in services.asterisk(pbx)] == [status]
    assert [finding.status for finding in services.others(pbx)] == [None]


def test_the_loader_is_asked_for_only_with_postgresql(monkeypatch):
    monkeypatch.setattr(services, "_is_booted_by_systemd", lambda: True)
    failed = SHOWN.partition("\n\n")[0].replace("=active", "=failed")
    runs = SHOWN.partition("\n\n")[0]
    pbx = fake(settings(cdr={"host": "db"}), f"{runs}\n\n{failed}")
    assert [finding.status for finding in services.others(pbx)] == [Status.OK, Status.CRITICAL]
    pbx = fake(settings(cdr={"source": "csv"}), runs)
    assert [finding.status for finding in services.others(pbx)] == [Status.OK]
