"""What other programs rely on, and that docs/python-api.md does what it says."""

from __future__ import annotations

import ast
import contextlib
import inspect
import io
import re
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from asterisk_exporter import api
from asterisk_exporter.journal.store import Change, JournalStore

from .conftest import SECRET, captured

DOCUMENT = Path(__file__).parents[2] / "docs" / "python-api.md"
BERLIN = ZoneInfo("Europe/Berlin")
AT = datetime(2026, 1, 2, 10, tzinfo=timezone.utc).timestamp()
BLOCK = re.compile(r"^```python( norun)?\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.M | re.S)


@pytest.fixture
def state(tmp_path):
    """The directory of a state file with missed calls, and figures of the days around now."""
    store = JournalStore(tmp_path / "state")
    change = Change("test", None)
    missed = ("+493012345", "493012345", "+493099999", "support", "abandoned", 30)
    change.run(
        "INSERT INTO missed VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            ("old", AT - 86_400, AT - 86_300, *missed),
            ("new", AT, AT + 60, *missed),
            ("withheld", AT + 60, AT + 90, "anonymous", None, *missed[2:]),
            ("spoken", AT + 120, AT + 180, "+331", "331", *missed[2:]),
        ],
    )
    change.run("INSERT INTO contact VALUES (?, ?, ?)", [("331", AT + 200, "outbound")])
    figures = {"offered": 43, "answered_in_service_level": 30, "short_abandoned": 3}
    change.run(
        "INSERT INTO daily VALUES (?, ?, ?, ?)",
        [
            ((datetime.now(BERLIN) + timedelta(days=n)).date().isoformat(), "support", name, value)
            for n in (-1, 0, 1)
            for name, value in figures.items()
        ],
    )
    store.apply(change)
    store.close()
    return tmp_path / "state"


def test_the_documentation_does_what_it_says(state, ami_server, behave, control_asterisk, tmp_path):
    (tmp_path / "secret").write_text(SECRET + "\n")
    port = ami_server(behave("busy")).port
    queues = captured("control", "QueueStatus")
    nobody, lunch = b"Paused: 0\r\nPausedReason: ", b"Paused: 1\r\nPausedReason: lunch"
    paused = queues.replace(nobody, lunch)
    control = control_asterisk(
        Getvar=b"Response: Success\r\nActionID: x\r\nValue: 1\r\n\r\n",
        QueuePause=b"Response: Success\r\nActionID: x\r\n\r\n",
        QueueStatus=[[queues], [queues], [paused]],
    )
    here = {
        '"192.0.2.11", 5038': f'"127.0.0.1", {control.port}',
        "192.0.2.10:5038": f"127.0.0.1:{port}",
        '"192.0.2.10", 5038': f'"127.0.0.1", {port}',
        "/etc/crm/ami-secret": str(tmp_path / "secret"),
        "/var/lib/asterisk-exporter": str(state),
    }
    text = DOCUMENT.read_text(encoding="utf-8")
    for documented, real in here.items():
        assert documented in text
        text = text.replace(documented, real)
    names: dict = {}
    ran = 0
    for norun, code, expected in BLOCK.findall(text):
        if norun:
            assert_calls_fit(code)
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(DOCUMENT), "exec", dont_inherit=True), names)
        assert printed.getvalue() == expected
        ran += 1
    assert ran == text.count("```python\n") == 7


def assert_calls_fit(code):
    """The names that an example imports are there, and it calls them with what they take."""
    names: dict = {}
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            exec(compile(ast.Module([node], []), "example", "exec"), names)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            keywords = {keyword.arg: None for keyword in node.keywords}
            inspect.signature(names[node.func.id]).bind(*node.args, **keywords)


def test_every_public_name_is_there_and_documented():
    text = DOCUMENT.read_text(encoding="utf-8")
    results = {"Health", "MissedCall", "QueueSummary", "Today"}  # are returned, not called
    for name in api.__all__:
        assert getattr(api, name)
        assert name in text or name in results
    assert api.__all__ == sorted(api.__all__)


def test_queue_summary(ami_server, behave, target_of, state):
    target = target_of(ami_server(behave("busy")).port)
    assert [queue.today for queue in api.queue_summary(target)] == [None] * 4
    [support] = api.queue_summary(target, state, queue="support", zone=BERLIN)
    assert (support.waiting, support.longest_wait_seconds, support.members) == (2, 14, 3)
    assert support.today.service_level_percent == 75.0
    with pytest.raises(api.UnknownQueueError, match="billing, sales, support, vip"):
        api.queue_summary(target, queue="suport")


def test_queue_summary_today_is_the_zones(ami_server, behave, target_of, tmp_path, monkeypatch):
    store = JournalStore(tmp_path)
    change = Change("test", None)
    change.run("INSERT INTO daily VALUES ('2026-01-03', 'support', 'offered', ?)", [(7,)])
    store.apply(change)
    store.close()
    target = target_of(ami_server(behave("busy")).port)
    # 23:30 in London, 00:30 of the next day in Berlin
    late = datetime(2026, 1, 2, 23, 30, tzinfo=timezone.utc).timestamp()
    monkeypatch.setattr(time, "time", lambda: late)
    offered = {
        zone: api.queue_summary(target, tmp_path, queue="support", zone=ZoneInfo(zone))[0].today
        for zone in ("Europe/London", "Europe/Berlin")
    }
    assert (offered["Europe/London"].offered, offered["Europe/Berlin"].offered) == (0, 7)


def test_queue_summary_without_its_state(ami_server, behave, target_of, tmp_path):
    with pytest.raises(api.JournalStoreError, match="cannot read"):
        api.queue_summary(target_of(ami_server(behave("busy")).port), tmp_path)


def test_queue_summary_of_what_does_not_answer(misbehaviour, ami_server, free_port, target_of):
    name, behaviour, kind = misbehaviour
    port = free_port() if behaviour is None else ami_server(behaviour).port
    if name in {"dies_after_login", "dies_in_status"}:  # at actions that are not asked here
        assert len(api.queue_summary(target_of(port), timeout=1.5)) == 4
        return
    with pytest.raises(api.AmiError) as caught:
        api.queue_summary(target_of(port), timeout=1.5)
    assert caught.value.kind == kind


def test_health_report_of_what_does_not_answer(misbehaviour, ami_server, free_port, target_of):
    _, behaviour, kind = misbehaviour
    port = free_port() if behaviour is None else ami_server(behaviour).port
    found, error = api.ask_health(target_of(port), timeout=1.5)
    assert found.status is api.Status.CRITICAL
    assert error.kind == kind
    if behaviour is None:
        assert api.health_report(target_of(port)) == found


def test_missed_calls(state):
    since = datetime(2026, 1, 2, tzinfo=BERLIN)
    assert [c.linkedid for c in api.missed_calls(state, since)] == ["new", "withheld", "spoken"]
    [call] = api.missed_calls(state, since, outstanding=True, zone=BERLIN)
    assert (call.linkedid, call.at) == ("new", datetime(2026, 1, 2, 11, tzinfo=BERLIN))
    assert api.missed_calls(state, timedelta(seconds=1)) == []
    assert len(api.missed_calls(state, timedelta(days=36_500))) == 4


def test_missed_calls_since_when(state):
    with pytest.raises(ValueError, match="a time with a zone"):
        api.missed_calls(state, datetime(2026, 1, 2))


def test_missed_calls_without_a_state(tmp_path):
    with pytest.raises(api.JournalStoreError, match="Look at"):
        api.missed_calls(tmp_path, timedelta(days=1))
