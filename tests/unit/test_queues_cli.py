# ruff: noqa: ARG001, PLR0913, PLR0917 - callbacks have fixed arguments, fixtures come as arguments
from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from asterisk_exporter import config, summary
from asterisk_exporter.ami.client import Reply
from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.cli import main, terminal
from asterisk_exporter.collectors.queues import Member, Queue, queues
from asterisk_exporter.journal.store import Change, JournalStore, JournalStoreError
from asterisk_exporter.summary import Today

from .conftest import reply_of

DOCS = Path(__file__).parents[2] / "docs"
NOW = datetime.now(timezone.utc)
SUPPORT = {
    "offered": 43,
    "answered": 38,
    "answered_in_service_level": 30,
    "abandoned": 4,
    "short_abandoned": 3,
    "unanswered": 5,
}


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    for name in (config.PATH_VARIABLE, config.SECRET_VARIABLE, "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "default.yml")


def figures(queue, day, **values):
    return [(day, queue, figure, value) for figure, value in values.items()]


def days(*offsets, queue="support", **values):
    """Figures of the days around today: a test may run across midnight."""
    return [
        row
        for offset in offsets
        for row in figures(
            queue, (NOW + timedelta(days=offset)).date().isoformat(), **(values or SUPPORT)
        )
    ]


@pytest.fixture
def state(tmp_path):
    """Write a state file: state(daily rows); gives its directory."""

    def write(daily=()):
        store = JournalStore(tmp_path / "state")
        change = Change("test", None)
        change.run("INSERT INTO daily VALUES (?, ?, ?, ?)", daily)
        store.apply(change)
        store.close()
        return tmp_path / "state"

    return write


@pytest.fixture
def configured(config_file, tmp_path):
    return lambda port, more="": config_file(port, f"state_directory: {tmp_path}/state\n{more}")


def run(*arguments):
    return CliRunner().invoke(main, ["queues", *map(str, arguments)])


def cells(text):
    return [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in text.splitlines()
        if line.startswith("│")
    ]


def member(interface, *, state="not_in_use", paused=False):
    return Member(interface, interface, state, paused, in_wrap_up=False)


# figures


def test_service_level_of_nothing_has_no_value():
    assert Today().service_level_percent is None
    assert Today(offered=3, short_abandoned=3).service_level_percent is None
    assert Today(offered=2, short_abandoned=3).service_level_percent is None
    assert summary.percent_text(None) == "\u2013"


def test_service_level_leaves_out_short_abandons():
    today = Today(offered=43, answered=38, answered_in_service_level=30, short_abandoned=3)
    assert today.service_level_percent == 75.0
    assert summary.percent_text(75.0) == "75.0 %"


def test_nearly_all_is_not_all():
    assert summary.percent_text(99.99) == "99.9 %"
    assert summary.percent_text(100.0) == "100.0 %"
    assert summary.percent_text(0.0) == "0.0 %"


def test_only_the_days_figures_count(state):
    rows = days(-1, 0, 1) + days(0, queue="sales", offered=1, figure_of_a_newer_version=7)
    found = summary.read_today(state(rows), NOW.date())
    assert found == {"support": Today(**SUPPORT), "sales": Today(offered=1)}
    assert summary.read_today(state(), date(2001, 1, 1)) == {}


def test_figures_that_were_never_counted_are_not_zero(state):
    with pytest.raises(JournalStoreError, match="has not read a queue_log yet"):
        summary.read_today(state(), NOW.date())


def test_a_queue_log_without_calls_is_zero(tmp_path):
    store = JournalStore(tmp_path)
    store.apply(Change("queue_log", {"inode": 1}))
    store.close()
    assert summary.read_today(tmp_path, NOW.date()) == {}


def test_names_of_queues_are_compared_as_app_queue_does(state):
    rows = days(0, queue="Support", offered=1) + days(0, queue="SUPPORT", offered=2)
    today = summary.read_today(state(rows), NOW.date())
    [chosen] = summary.choose([Queue("support", 20, (), ()), Queue("x", 20, (), ())], "sUPPORT")
    assert chosen.name == "support"
    [joined] = summary.join([chosen], today)
    assert joined.today == Today(offered=3)


def test_a_queue_without_calls_today_has_zeros():
    [queue] = summary.join([Queue("q", 20, (), ())], {"other": Today(offered=5)})
    assert queue.today == Today()
    [queue] = summary.join([Queue("q", 20, (), ())], None)
    assert queue.today is None


def test_total_counts_a_member_of_two_queues_once():
    both = member("PJSIP/1")
    found = summary.total(
        [
            Queue("a", 20, (5, 30), (both, member("PJSIP/2", paused=True))),
            Queue("b", 10, (15,), (both, member("PJSIP/2"), member("PJSIP/3", state="in_use"))),
        ],
        {"a": Today(offered=3, answered=2), "b": Today(offered=1, abandoned=1), "gone": Today(9)},
    )
    assert (found.waiting, found.longest_wait_seconds, found.over_service_level) == (3, 30, 2)
    assert (found.members, found.available, found.paused) == (3, 2, 1)
    assert found.today == Today(offered=4, answered=2, abandoned=1)


def test_a_captured_reply(replies):
    found = summary.join(queues(reply_of("busy", "QueueStatus"), NOW.timestamp()), None)
    [sales] = [queue for queue in found if queue.name == "sales"]
    assert sales == summary.QueueSummary(
        name="sales",
        waiting=1,
        longest_wait_seconds=11,
        over_service_level=0,
        service_level_seconds=30,
        members=3,
        available=1,
        paused=1,
        today=None,
    )


# the command


def test_text(configured, ami_server, behave, state):
    state(days(-1, 0, 1))
    shown = run("--config", configured(ami_server(behave("busy")).port))
    assert shown.exit_code == 0
    first, *_ = shown.output.splitlines()
    assert re.fullmatch(r"Queues at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", first)
    zeros = ["0", "0", "\u2013", "0"]
    assert cells(shown.output) == [
        ["billing", "0", "0 s", "0", "1", "0", "1", *zeros],
        ["sales", "1", "11 s", "0", "1", "1", "3", *zeros],
        ["support", "2", "14 s", "0", "0", "0", "3", "43", "38", "75.0 %", "4"],
        ["vip", "1", "10 s", "0", "0", "0", "0", *zeros],
        ["Total", "4", "14 s", "0", "2", "1", "6", "43", "38", "75.0 %", "4"],
    ]


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_off(configured, ami_server, behave, state, monkeypatch, width):
    state(days(-1, 0, 1))
    monkeypatch.setattr(terminal, "WIDTH", width)
    shown = run("--config", configured(ami_server(behave("busy")).port)).output
    assert max(map(len, shown.splitlines())) <= width
    for text in ("Longest", "service", "level", "Available", "Answered", "Abandoned", "75.0 %"):
        assert text in shown, shown
    assert shown.count("Total") == (2 if width == 80 else 1)


def test_one_queue(configured, ami_server, behave, state):
    state(days(-1, 0, 1))
    path = configured(ami_server(behave("busy")).port)
    shown = run("--config", path, "--queue", "support")
    assert [row[0] for row in cells(shown.output)] == ["support"]
    document = json.loads(run("--config", path, "--queue", "support", "--json").output)
    assert [queue["name"] for queue in document["queues"]] == ["support"]
    assert document["total"]["waiting"] == 2


def test_an_unknown_queue_lists_those_there_are(configured, ami_server, behave, command):
    port = ami_server(behave("busy")).port
    for arguments in ((), ("--watch",), ("--json",)):
        done = command(
            "queues", "--config", configured(port), "--queue", "suport\x1b[2J", *arguments
        )
        assert (done.returncode, done.stdout) == (2, "")
        assert "'suport" in done.stderr
        assert "billing, sales, support, vip" in done.stderr
        assert "\x1b" not in done.stderr


def test_today_is_that_of_the_configured_zone(configured, ami_server, behave, state, monkeypatch):
    state(figures("support", "2026-01-03", offered=7))
    path = configured(ami_server(behave("busy")).port)
    # 23:30 in London, 00:30 of the next day in Berlin
    late = datetime(2026, 1, 2, 23, 30, tzinfo=timezone.utc).timestamp()
    monkeypatch.setattr(time, "time", lambda: late)
    found = {}
    for zone in ("Europe/London", "Europe/Berlin"):
        path.write_text(re.sub("timezone: .*", f"timezone: {zone}", path.read_text()))
        document = json.loads(run("--config", path, "--json").output)
        found[document["at"]] = document["total"]["today"]["offered"]
    assert found == {"2026-01-02T23:30:00+00:00": 0, "2026-01-03T00:30:00+01:00": 7}


def test_json(configured, ami_server, behave, state):
    state(days(-1, 0, 1))
    shown = run("--config", configured(ami_server(behave("busy")).port), "--json")
    document = json.loads(shown.output)
    assert list(document) == ["at", "error", "today_error", "queues", "total"]
    assert document["at"].endswith("+00:00")
    [support] = [queue for queue in document["queues"] if queue["name"] == "support"]
    assert list(support.items()) == [
        ("name", "support"),
        ("waiting", 2),
        ("longest_wait_seconds", 14),
        ("over_service_level", 0),
        ("service_level_seconds", 60),
        ("members", 3),
        ("available", 0),
        ("paused", 0),
        ("today", {**SUPPORT, "service_level_percent": 75.0}),
    ]
    [vip] = [queue for queue in document["queues"] if queue["name"] == "vip"]
    assert vip["today"]["service_level_percent"] is None
    assert list(document["total"]) == list(support)
    assert document["total"]["service_level_seconds"] is None


@pytest.mark.parametrize("how", ["none", "damaged", "never counted"])
def test_without_todays_figures_the_live_part_works(
    configured, ami_server, behave, state, tmp_path, how
):
    if how != "none":
        state()
    if how == "damaged":
        (tmp_path / "state" / "journal.sqlite").write_bytes(b"x" * 4096)
    path = configured(ami_server(behave("busy")).port)
    shown = run("--config", path)
    assert shown.exit_code == 0
    assert cells(shown.output)[-1] == ["Total", "4", "14 s", "0", "2", "1", "6"]
    assert "No figures of today: " in shown.output
    document = json.loads(run("--config", path, "--json").output)
    assert document["today_error"]
    assert all(queue["today"] is None for queue in [*document["queues"], document["total"]])


def test_without_queues(configured, ami_server, behave):
    def no_queues(name, reply, connection):
        if name != "QueueStatus":
            return False
        action_id = re.search(rb"ActionID: (\S+)", reply)[1]
        connection.sendall(
            b"Response: Success\r\nActionID: %s\r\nEventList: start\r\n\r\nEvent: "
            b"QueueStatusComplete\r\nActionID: %s\r\nEventList: Complete\r\n\r\n"
            % (action_id, action_id)
        )
        return True

    path = configured(ami_server(behave(instead=no_queues)).port)
    assert "Asterisk has no queues." in run("--config", path).output
    shown = run("--config", path, "--queue", "support")
    assert "Expected one of those that Asterisk has: none." in shown.output


def test_each_misbehaviour_is_an_error(misbehaviour, command, configured, ami_server, free_port):
    name, behaviour, _ = misbehaviour
    port = free_port() if behaviour is None else ami_server(behaviour).port
    done = command("queues", "--config", configured(port))
    assert "Traceback" not in done.stderr
    if name == "dies_in_status":  # which is not asked here
        assert done.returncode == 0
    else:
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("asterisk-exporter: ")
        assert f"127.0.0.1:{port}" in done.stderr or name == "garbage_after_login"


def test_names_cannot_draw_on_the_terminal():
    evil = "q\x1b[2J\x9b2J[red]"
    reply = Reply(
        "QueueStatus",
        Message("Response: Success"),
        (Message.of({"Event": "QueueParams", "Queue": evil, "ServiceLevel": "0"}.items()),),
    )
    found = queues(reply, 0.0)
    summaries = summary.join(found, None)
    [table] = summary.tables(summaries, summary.total(found, None), narrow=False)
    [name] = table.columns[0].cells
    assert name.plain == "q?[2J?2J[red]"
    document = summary.as_dict(summary.Summary(NOW, tuple(summaries)))
    text = terminal.json_text(document)
    assert json.loads(text)["queues"][0]["name"] == evil
    assert "\x1b" not in text
    assert "\x9b" not in text


# --watch


class Watched:
    """``queues --watch`` in a terminal of its own, or on a pipe."""

    def __init__(self, environment, *arguments, columns=120, terminal=True):
        self._end, other = pty.openpty() if terminal else os.pipe()
        if terminal:
            fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "asterisk_exporter", "queues", "--watch", *map(str, arguments)],
            env={**environment, "TERM": "xterm"},
            stdout=other,
            stderr=subprocess.PIPE,
        )
        os.close(other)
        self.output = ""

    def wait_for(self, text, seconds=30):
        """Read until the text comes; return what came and forget it."""
        end = time.monotonic() + seconds
        while text not in self.output:
            left = end - time.monotonic()
            assert left > 0, f"no {text!r} in {self.output!r}"
            if select.select([self._end], [], [], left)[0]:
                self.output += os.read(self._end, 65536).decode("utf-8", "replace")
        came, _, self.output = self.output.partition(text)
        return came

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        drain = threading.Thread(target=self._drain, daemon=True)
        drain.start()
        _, said = self.process.communicate(timeout=10)
        return self.process.returncode, said.decode()

    def _drain(self):
        try:
            while os.read(self._end, 65536):
                pass
        except OSError:
            pass

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        os.close(self._end)


@pytest.fixture
def watch(environment):
    # what a shell starts with & ignores it, and so does what that starts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    started = []

    def start(*arguments, **more):
        started.append(Watched(environment, *arguments, **more))
        return started[-1]

    yield start
    for watched in started:
        watched.close()
    signal.signal(signal.SIGINT, before)


def test_watch_refreshes_in_place_on_one_connection_and_ends_with_ctrl_c(
    configured, ami_server, behave, state, watch
):
    state(days(-1, 0, 1))
    server = ami_server(behave("busy"))
    watched = watch("--config", configured(server.port))
    began = time.monotonic()
    watched.wait_for("Total")
    watched.wait_for("Total")
    assert 1 < time.monotonic() - began < 30
    assert "\x1b[1A" in watched.wait_for("Total")  # the cursor goes up, so it is in place
    assert watched.interrupt() == (0, "")
    assert server.received.count(b"Action: Login") == 1
    assert server.received.count(b"Action: QueueStatus") >= 3


def test_watch_goes_on_through_a_restart(configured, ami_server, behave, watch):
    server = ami_server(behave("busy"))
    watched = watch("--config", configured(server.port))
    watched.wait_for("Total")
    server.close()
    watched.wait_for("nothing listens on 127.0.0.1:")
    assert watched.process.poll() is None
    ami_server(behave("busy"), server.port)
    watched.wait_for("Total")
    assert watched.interrupt() == (0, "")


def test_watch_a_queue_that_is_gone_for_a_while(configured, ami_server, behave, watch):
    server = ami_server(behave("busy"))
    watched = watch("--config", configured(server.port), "--queue", "support")
    watched.wait_for("│ support")
    server.close()
    watched.wait_for("nothing listens")
    again = ami_server(behave("idle"), server.port)  # busy and idle have the same queues
    watched.wait_for("│ support")
    assert again.received
    assert watched.interrupt() == (0, "")


def test_watch_as_json_is_a_document_a_line(configured, ami_server, behave, watch):
    server = ami_server(behave("busy"))
    watched = watch("--config", configured(server.port), "--json", terminal=False)
    first = json.loads(watched.wait_for("\n"))
    assert len(first["queues"]) == 4
    server.close()
    while (lost := json.loads(watched.wait_for("\n")))["error"] is None:
        pass  # from before it was closed
    assert "nothing listens" in lost["error"]
    assert lost["queues"] is lost["total"] is None
    assert list(lost) == list(first)
    assert watched.interrupt() == (0, "")


def test_watch_on_a_pipe_prints_one_screen_after_the_other(configured, ami_server, behave, watch):
    watched = watch("--config", configured(ami_server(behave("busy")).port), terminal=False)
    screens = [watched.wait_for("Total") for _ in range(2)]
    assert "\x1b" not in "".join(screens)
    assert watched.interrupt() == (0, "")


# the documentation


def test_every_command_and_option_is_documented():
    text = (DOCS / "commands.md").read_text()
    context = click.Context(main)
    own = {name: main.get_command(context, name) for name in main.list_commands(context)}
    commands = dict(own)
    for name, command in own.items():
        if isinstance(command, click.Group):
            commands.update({f"{name} {sub}": c for sub, c in command.commands.items()})
    for name, command in commands.items():
        section = re.search(rf"^##+ {name}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
        assert section, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert f"`{parameter.opts[0]}" in section[1], f"{name} {parameter.opts[0]}"
