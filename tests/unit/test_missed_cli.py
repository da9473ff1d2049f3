from __future__ import annotations

import csv
import io
import json
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner

from asterisk_exporter import config, missed
from asterisk_exporter.cli import main, terminal
from asterisk_exporter.journal.store import Change, JournalStore, read_only

MISSED = "INSERT INTO missed VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
CONTACT = "INSERT INTO contact VALUES (?, ?, ?)"
#: 2026-01-02 10:00 UTC, 11:00 in Berlin
AT = datetime(2026, 1, 2, 10, tzinfo=timezone.utc).timestamp()
BERLIN = ZoneInfo("Europe/Berlin")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    for name in (config.PATH_VARIABLE, config.SECRET_VARIABLE, "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "default.yml")


def row(  # noqa: PLR0913 - a column each
    linkedid="pbx1-1.1",
    *,
    at=AT,
    ended=None,
    caller="+493012345",
    number="493012345",
    dialled="+493099999",
    destination="support",
    reason="abandoned",
    wait=30,
):
    end = at + 60 if ended is None else ended
    return (linkedid, at, end, caller, number, dialled, destination, reason, wait)


@pytest.fixture
def state(tmp_path):
    """Write a state file: state(missed rows, contact rows); gives its directory."""

    def write(calls=(), contacts=()):
        directory = tmp_path / "state"
        store = JournalStore(directory)
        change = Change("test", None)
        change.run(MISSED, calls)
        change.run(CONTACT, contacts)
        store.apply(change)
        store.close()
        return directory

    return write


@pytest.fixture
def configured(tmp_path):
    """Write a configuration of the test's state directory."""

    def write(zone="Europe/Berlin"):
        path = tmp_path / "exporter.yml"
        path.write_text(f"timezone: {zone}\nstate_directory: {tmp_path}/state\n")
        return path

    return write


def calls_of(directory, since=AT - 3600, zone=BERLIN):
    with read_only(directory) as db:
        return missed.missed_calls(db, datetime.fromtimestamp(since, timezone.utc), zone)


def run(*arguments):
    return CliRunner().invoke(main, ["missed", *map(str, arguments)])


def test_a_missed_call(state):
    [call] = calls_of(state([row()]))
    assert call == missed.MissedCall(
        linkedid="pbx1-1.1",
        caller="+493012345",
        number="493012345",
        at=datetime(2026, 1, 2, 11, tzinfo=BERLIN),
        dialled="+493099999",
        destination="support",
        reason="abandoned",
        wait_seconds=30,
        spoken_at=None,
        spoken_direction=None,
    )
    assert call.outstanding


@pytest.mark.parametrize(
    ("contact_at", "spoken"),
    [(AT - 100, False), (AT + 59, False), (AT + 60, True), (AT + 99, True)],
)
def test_only_who_spoke_after_the_call_ended_has_spoken(state, contact_at, spoken):
    contacts = [("493012345", contact_at, "outbound"), ("another", AT + 500, "inbound")]
    [call] = calls_of(state([row()], contacts))
    assert call.outstanding is not spoken
    assert call.spoken_direction == ("outbound" if spoken else None)
    assert call.spoken_at == (datetime.fromtimestamp(contact_at, BERLIN) if spoken else None)


def test_the_newest_comes_last_and_since_counts_from_the_start(state):
    rows = [row("c", at=AT + 5), row("b", at=AT), row("a", at=AT), row("old", at=AT - 0.001)]
    assert [call.linkedid for call in calls_of(state(rows), since=AT)] == ["a", "b", "c"]


def test_a_caller_without_digits_is_shown_and_is_nobody_to_call(state):
    [call] = calls_of(state([row(caller="alice", number=None)]))
    assert (call.caller, call.outstanding) == ("alice", False)


def test_a_withheld_number_is_nobody_to_call(state):
    rows = [row("a", caller="", number=None), row("b", caller="Anonymous", number=None)]
    for call in calls_of(state(rows, [("", AT + 500, "inbound")])):
        assert call.caller == "withheld"
        assert not call.outstanding
        assert call.spoken_at is None


def test_times_are_the_zones_own_through_a_clock_change(state):
    # 2026-03-29 02:00 in Berlin does not exist; 01:59:59 is +01:00, 03:00 is +02:00
    change = datetime(2026, 3, 29, 1, tzinfo=timezone.utc).timestamp()
    calls = calls_of(state([row("a", at=change - 1), row("b", at=change)]))
    assert [missed.as_dict(call)["at"] for call in calls] == [
        "2026-03-29T01:59:59+01:00",
        "2026-03-29T03:00:00+02:00",
    ]


def test_without_a_zone_it_is_this_systems(state):
    [call] = calls_of(state([row()]), zone=None)
    assert call.at.utcoffset() is not None
    assert call.at.timestamp() == AT


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("+493012345", "+493012345"),
        ("withheld", "withheld"),
        ("49 30-12345", "49 30-12345"),
        ("+", "'+"),
        ("+49 30-12", "'+49 30-12"),
        ("+49+1", "'+49+1"),
        ("+493012345\n", "'+493012345\n"),
        ("-1", "'-1"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ('=HYPERLINK("http://x")', '\'=HYPERLINK("http://x")'),
        (" =1+1", "' =1+1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("1;=1+1", "1;'=1+1"),
        ("1,=1+1", "1,'=1+1"),
    ],
)
def test_a_cell_is_no_formula(text, cell):
    assert missed.safe_cell(text) == cell


FULL_ROWS = [
    row("a"),
    row("b", at=AT + 60, caller="=1+1", number="11", reason="timeout", wait=None),
    row("c", at=AT + 120, caller="", number=None, dialled="", destination="sales"),
    row("d", at=AT + 180, caller="+33\x1b[2J1\x9b", number="331"),
]
FULL_CONTACTS = [("11", AT + 86_400, "inbound"), ("331", AT + 480, "outbound")]


@pytest.fixture
def age():
    """The --since that reaches to the rows."""
    return f"{int((datetime.now(timezone.utc).timestamp() - AT) // 86_400) + 2}d"


def test_json(state, configured, age):
    state(FULL_ROWS, FULL_CONTACTS)
    shown = run("--config", configured(), "--since", age, "--json")
    assert shown.exit_code == 0
    first, second, third, fourth = json.loads(shown.output)
    assert list(first.items()) == [
        ("linkedid", "a"),
        ("caller", "+493012345"),
        ("at", "2026-01-02T11:00:00+01:00"),
        ("dialled", "+493099999"),
        ("destination", "support"),
        ("reason", "abandoned"),
        ("wait_seconds", 30),
        ("spoken_at", None),
        ("spoken_direction", None),
        ("outstanding", True),
    ]
    assert second["wait_seconds"] is None
    assert (second["spoken_at"], second["spoken_direction"], second["outstanding"]) == (
        "2026-01-03T11:00:00+01:00",
        "inbound",
        False,
    )
    assert (third["caller"], third["outstanding"]) == ("withheld", False)
    assert fourth["caller"] == "+33\x1b[2J1\x9b"
    assert "\x1b" not in shown.output
    assert "\x9b" not in shown.output


def test_csv(state, configured, age):
    state(FULL_ROWS, FULL_CONTACTS)
    shown = run("--config", configured(), "--since", age, "--csv")
    assert shown.exit_code == 0
    rows = list(csv.reader(io.StringIO(shown.output)))
    assert rows[0] == list(missed.FIELDS)
    assert rows[1] == [
        *("a", "+493012345", "2026-01-02T11:00:00+01:00", "+493099999", "support", "abandoned"),
        *("30", "", "", "true"),
    ]
    assert rows[2][1] == "'=1+1"
    assert rows[2][6] == ""
    assert rows[3][1] == "withheld"
    assert rows[4][1] == "'+33?[2J1?"
    assert len(rows) == 5


def test_csv_without_calls_is_its_header(state, configured):
    state()
    assert run("--config", configured(), "--csv").output == ",".join(missed.FIELDS) + "\n"
    assert json.loads(run("--config", configured(), "--json").output) == []


def test_text(state, configured, age):
    state(FULL_ROWS, FULL_CONTACTS)
    shown = run("--config", configured(), "--since", age)
    assert shown.exit_code == 0
    *lines, last = shown.output.splitlines()
    rows = [[c.strip() for c in line.strip("│").split("│")] for line in lines if line[0] == "│"]
    who = ("support", "+493099999")
    assert rows == [
        ["2026-01-02 11:00", "+493012345", *who, "abandoned", "30 s", "no"],
        ["2026-01-02 11:01", "=1+1", *who, "timeout", "\u2013", "got through 2026-01-03 11:00"],
        ["2026-01-02 11:02", "withheld", "sales", "", "abandoned", "30 s", "unknown"],
        ["2026-01-02 11:03", "+33?[2J1?", *who, "abandoned", "30 s", "called back 11:08"],
    ]
    assert last == "4 missed calls: 3 abandoned, 1 timeout. 1 outstanding."


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_cut_off(state, configured, age, monkeypatch, width):
    longest = row("e", at=AT + 240, caller="+4915123456789", number="0151", dialled="+493090182055")
    state([*FULL_ROWS, longest], FULL_CONTACTS)
    monkeypatch.setattr(terminal, "WIDTH", width)
    shown = run("--config", configured(), "--since", age).output
    assert max(map(len, shown.splitlines())) <= width
    words = ("2026-01-02", "11:04", "+4915123456789", "+493090182055", "abandoned", "support")
    for text in (*words, "withheld", "got through", "2026-01-03 11:00", "called back"):
        assert text in shown


def test_outstanding(state, configured, age):
    again = row("e", at=AT + 240)
    state([*FULL_ROWS, again], FULL_CONTACTS)
    arguments = ("--config", configured(), "--since", age, "--outstanding")
    assert [call["linkedid"] for call in json.loads(run(*arguments, "--json").output)] == ["a", "e"]
    shown = run(*arguments)
    assert shown.output.splitlines()[-1] == "2 missed calls: 2 abandoned. 2 outstanding (1 caller)."


def test_none(state, configured):
    state([row()])
    before = datetime.now(BERLIN)
    shown = run("--config", configured())
    dates = {f"{now - timedelta(hours=24):%Y-%m-%d}" for now in (before, datetime.now(BERLIN))}
    said, _, since = shown.output.partition(" since ")
    assert (said, since[:10] in dates) == ("No missed calls", True)
    assert run("--config", configured(), "--outstanding").output.startswith(
        "No outstanding missed calls since "
    )


def test_the_state_cannot_be_read(configured, command):
    done = command("missed", "--config", configured())
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot read" in done.stderr
    assert "Look at" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_state_file(configured, command, state):
    path = state([row()]) / "journal.sqlite"
    path.write_bytes(b"x" * 4096)
    done = command("missed", "--config", configured())
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments", [("--json", "--csv"), ("--since", "yesterday"), ("--config", "/nonexistent.yml")]
)
def test_called_wrongly(arguments):
    shown = run(*arguments)
    assert shown.exit_code == 2
    assert "Traceback" not in shown.output


def test_one_call_is_no_plural(state):
    assert missed.totals(calls_of(state([row()]))) == "1 missed call: 1 abandoned. 1 outstanding."
