"""Visits and members against a second, simpler account of the same lines."""

from __future__ import annotations

from collections import Counter
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asterisk_exporter.journal import visits as figures
from asterisk_exporter.journal.queue_log import parse
from asterisk_exporter.journal.store import Change, JournalStore
from asterisk_exporter.journal.visits import Rules, ServiceLevels, Visits

BEGIN = 1_795_505_000
SERVICE_LEVEL = 20
SHORT = 5
REASON = {
    "ABANDON": "abandoned",
    "EXITWITHTIMEOUT": "timeout",
    "EXITEMPTY": "empty",
    "EXITWITHKEY": "key",
    "WITHDRAW": "withdrawn",
    "SYSCOMPAT": "incompatible",
}
#: What follows the event; {n} is its figure of seconds.
EXITS = {
    "ABANDON": "2|4|{n}",
    "EXITWITHTIMEOUT": "1|1|{n}",
    "EXITEMPTY": "1|1|{n}",
    "EXITWITHKEY": "1|2|2|{n}",
    "WITHDRAW": "1|1|{n}|a|reason",
    "SYSCOMPAT": "",
}
ENDS = {
    "COMPLETEAGENT": "3|{n}|1",
    "COMPLETECALLER": "3|{n}|1",
    "BLINDTRANSFER": "111|internal|3|{n}|1",
    "ATTENDEDTRANSFER": "BRIDGE|some-id|3|{n}|1",
}


def count(text: str, visits: Visits | None = None, **named) -> Change:
    """Return the change that the lines make."""
    made = visits or Visits(ServiceLevels({"q": SERVICE_LEVEL}), Rules())
    change = Change("queue_log", None)
    named = {"now": BEGIN + 1_000_000, "at_end": False, **named}
    made.apply(map(parse, text.splitlines()), change, **named)
    return change


def grown(change: Change, name: str) -> dict[tuple[str, ...], int]:
    return {labels: by for (metric, labels), by in change.add.items() if metric == name and by}


# --- the second account

CALLER = st.integers(0, 1)
QUEUE = st.sampled_from(["q", "r"])
NUMBER = st.integers(0, 30)
STEP = st.tuples(
    st.sampled_from(
        ["ENTERQUEUE"] * 6
        + ["CONNECT"] * 6
        + [*EXITS, *ENDS]
        + ["REFUSED", "QUEUESTART", "AGENTDUMP"]
    ),
    CALLER,
    QUEUE,
    NUMBER,
    st.integers(0, 3),
)


def line_of(step, at: int) -> str:
    event, caller, queue, number, _ = step
    head = f"{at}|c.{caller}|{queue}|PJSIP/1|{event}|"
    if event == "QUEUESTART":
        return f"{at}|NONE|NONE|NONE|QUEUESTART|"
    if event == "REFUSED":
        return head + ("full", "join_empty", "closed", "surprise")[number % 4]
    data = {"ENTERQUEUE": "|+49155|1", "CONNECT": "{n}|x|1", "AGENTDUMP": "", **EXITS, **ENDS}
    return head + data[event].format(n=number)


class Reference:
    """Each caller's visits as a list, whose last one is where the caller is now."""

    def __init__(self) -> None:
        self.got: Counter[tuple[str, ...]] = Counter()
        self.visits: dict[int, list[dict]] = {}
        self.closed: list[dict] = []

    def close(self, visit: dict, mine: list[dict]) -> None:
        if mine[-1] is visit:
            self.closed += mine
            mine.clear()
        else:
            mine.remove(visit)
            self.closed.append(visit)

    def step(self, step, at: int) -> None:
        event, caller, queue, number, _ = step
        if event == "QUEUESTART":
            for mine in self.visits.values():
                if mine:
                    self.lose(mine)
            return
        mine = self.visits.setdefault(caller, [])
        here = next((visit for visit in reversed(mine) if visit["queue"] == queue), None)
        if event == "ENTERQUEUE":
            self.got["offered", queue] += 1
            if mine and (mine[-1]["waiting"] or mine[-1]["queue"] == queue):
                self.lose(mine)
            mine.append({"queue": queue, "waiting": True, "at": at})
        elif event == "REFUSED":
            self.got["offered", queue] += 1
            self.got[
                "unanswered", queue, ("full", "join_empty", "closed", "unknown")[number % 4]
            ] += 1
        elif event == "CONNECT" and here and here["waiting"]:
            here["waiting"] = False
            self.got["answered", queue] += 1
            self.got["in service level", queue] += number <= (SERVICE_LEVEL if queue == "q" else 0)
            self.got["wait", queue, "answered"] += number
        elif event in REASON and here and here["waiting"]:
            wait = at - here["at"] if event == "SYSCOMPAT" else number
            self.got["unanswered", queue, REASON[event]] += 1
            self.got["short", queue] += event == "ABANDON" and wait <= SHORT
            self.got["wait", queue, "unanswered"] += wait
            self.close(here, mine)
        elif event in ENDS and here and not here["waiting"]:
            self.got["talks", queue] += 1
            self.got["talk", queue] += number
            self.close(here, mine)

    def lose(self, mine: list[dict]) -> None:
        if mine[-1]["waiting"]:
            self.got["unanswered", mine[-1]["queue"], "lost"] += 1
        self.close(mine[-1], mine)


@given(st.lists(STEP, min_size=1, max_size=40) | st.lists(STEP, min_size=40, max_size=60))
def test_agrees_with_a_second_account(steps):
    reference, at, text = Reference(), BEGIN, ""
    for step in steps:
        at += step[4]
        reference.step(step, at)
        text += line_of(step, at) + "\n"
    visits = Visits(ServiceLevels({"q": SERVICE_LEVEL}), Rules(short_abandon_seconds=SHORT))
    change = count(text, visits)
    names = {
        "offered": figures.OFFERED,
        "answered": figures.ANSWERED,
        "in service level": figures.IN_SERVICE_LEVEL,
        "unanswered": figures.UNANSWERED,
        "short": figures.SHORT_ABANDONED,
        "wait": figures.WAIT_SECONDS,
        "talks": figures.COMPLETED,
        "talk": figures.TALK_SECONDS,
    }
    for name, metric in names.items():
        expected = {
            tuple(rest): by for (kind, *rest), by in reference.got.items() if kind == name and by
        }
        assert grown(change, metric) == expected, name
    # conservation: whoever came was answered, was not, or waits
    waiting = sum(visit["waiting"] for mine in reference.visits.values() for visit in mine)
    came, answered, unanswered = (
        sum(grown(change, metric).values())
        for metric in (figures.OFFERED, figures.ANSWERED, figures.UNANSWERED)
    )
    assert came == answered + unanswered + waiting
    rows = [row for sql, rows in change.statements if "INTO visit" in sql for row in rows]
    assert sum(row[4] is None for row in rows) == waiting
    assert sum(row[8] is None for row in rows) == sum(map(len, reference.visits.values()))


# --- single cases


@pytest.mark.parametrize(("event", "reason"), REASON.items())
def test_an_exit(event, reason):
    data = EXITS[event].format(n=7)
    change = count(
        f"{BEGIN}|c.1|q|NONE|ENTERQUEUE||+49155|1\n{BEGIN + 7}|c.1|q|NONE|{event}|{data}\n"
        f"{BEGIN + 7}|c.1|q|NONE|{event}|{data}\n"
    )
    assert grown(change, figures.UNANSWERED) == {("q", reason): 1}
    assert grown(change, figures.WAITS) == {("q", "unanswered", "7"): 1}
    assert ("c.1", "q", BEGIN, "+49155", reason, None, 7, None, BEGIN + 7) in rows_of(change)


def rows_of(change: Change) -> list[tuple]:
    return [row for sql, rows in change.statements if "INTO visit" in sql for row in rows]


@pytest.mark.parametrize(("event", "data"), ENDS.items())
def test_an_end_of_a_talk(event, data):
    change = count(
        f"{BEGIN}|c.1|q|NONE|ENTERQUEUE||+49155|1\n{BEGIN + 3}|c.1|q|Bob|CONNECT|3|x|1\n"
        f"{BEGIN + 12}|c.1|q|Bob|{event}|{data.format(n=9)}\n"
    )
    assert rows_of(change) == [("c.1", "q", BEGIN, "+49155", "answered", "Bob", 3, 9, BEGIN + 12)]
    assert grown(change, figures.AGENT_SECONDS) == {("Bob", "talking"): 9}
    assert grown(change, figures.TALKS) == {("q", "10"): 1}


def test_an_attended_transfer_to_a_link_has_a_field_more():
    change = count(
        f"{BEGIN}|c.1|q|NONE|ENTERQUEUE||+49155|1\n{BEGIN + 3}|c.1|q|Bob|CONNECT|3|x|1\n"
        f"{BEGIN + 12}|c.1|q|Bob|ATTENDEDTRANSFER|LINK|SIP/a|SIP/b|3|9|1\n"
    )
    assert grown(change, figures.TALK_SECONDS) == {("q",): 9}


def test_a_connect_that_is_logged_twice():
    connect = f"{BEGIN + 3}|c.1|q|Bob|CONNECT|3|x|1\n"
    change = count(f"{BEGIN}|c.1|q|NONE|ENTERQUEUE||+49155|1\n{connect}{connect}")
    assert grown(change, figures.ANSWERED) == {("q",): 1}
    assert grown(change, figures.WAITS) == {("q", "answered", "3"): 1}


def test_figures_that_a_line_lacks_are_the_times_of_the_lines():
    change = count(
        f"{BEGIN}|c.1|q|NONE|ENTERQUEUE|\n{BEGIN + 3}|c.1|q|Bob|CONNECT|\n"
        f"{BEGIN + 12}|c.1|q|Bob|COMPLETEAGENT|\n"
        f"{BEGIN}|c.2|q|NONE|ENTERQUEUE|\n{BEGIN + 4}|c.2|q|NONE|ABANDON|1\n"
    )
    assert rows_of(change) == [
        ("c.1", "q", BEGIN, "", "answered", "Bob", 3, 9, BEGIN + 12),
        ("c.2", "q", BEGIN, "", "abandoned", None, 4, None, BEGIN + 4),
    ]


def test_short_abandons_are_abandons():
    change = count(
        "".join(
            f"{BEGIN}|c.{wait}|q|NONE|ENTERQUEUE||1|1\n"
            f"{BEGIN + wait}|c.{wait}|q|NONE|ABANDON|1|1|{wait}\n"
            for wait in (0, 5, 6)
        )
    )
    assert grown(change, figures.UNANSWERED) == {("q", "abandoned"): 3}
    assert grown(change, figures.SHORT_ABANDONED) == {("q",): 2}


def test_a_crash():
    change = count(
        f"{BEGIN}|c.1|q|NONE|ENTERQUEUE||1|1\n{BEGIN}|c.2|r|NONE|ENTERQUEUE||1|1\n"
        f"{BEGIN + 1}|c.2|r|Bob|CONNECT|1|x|1\n{BEGIN + 30}|NONE|NONE|NONE|QUEUESTART|\n"
        f"{BEGIN + 31}|c.1|q|NONE|ABANDON|1|1|31\n"
    )
    assert grown(change, figures.UNANSWERED) == {("q", "lost"): 1}
    assert grown(change, figures.WAITS) == {("r", "answered", "1"): 1}
    assert sorted(rows_of(change)) == [
        ("c.1", "q", BEGIN, "1", "lost", None, 30, None, BEGIN + 30),
        ("c.2", "r", BEGIN, "1", "answered", "Bob", 1, None, BEGIN + 30),
    ]


def test_a_transfer_into_another_queue_that_is_logged_late():
    change = count(
        f"{BEGIN}|c.1|q|NONE|ENTERQUEUE||1|1\n{BEGIN + 1}|c.1|q|Bob|CONNECT|1|x|1\n"
        f"{BEGIN + 9}|c.1|r|NONE|ENTERQUEUE||1|1\n"
        f"{BEGIN + 9}|c.1|q|Bob|BLINDTRANSFER|r|queues|1|8|1\n"
        f"{BEGIN + 11}|c.1|r|Eve|CONNECT|2|x|1\n{BEGIN + 15}|c.1|r|Eve|COMPLETEAGENT|2|4|1\n"
    )
    assert grown(change, figures.TALK_SECONDS) == {("q",): 8, ("r",): 4}


def test_a_talk_ends_once():
    """The earlier of two visits has ended: a second line about it is about nothing."""
    transfer = f"{BEGIN + 9}|c.1|q|Bob|BLINDTRANSFER|r|queues|1|8|1\n"
    change = count(
        f"{BEGIN}|c.1|q|NONE|ENTERQUEUE||1|1\n{BEGIN + 1}|c.1|q|Bob|CONNECT|1|x|1\n"
        f"{BEGIN + 9}|c.1|r|NONE|ENTERQUEUE||1|1\n{transfer}{transfer}"
    )
    assert grown(change, figures.COMPLETED) == {("q",): 1}
    assert grown(change, figures.STRAY) == {("q", "completed"): 1}


def test_a_transfer_that_is_never_logged():
    change = count(
        f"{BEGIN}|c.1|q|NONE|ENTERQUEUE||1|1\n{BEGIN + 1}|c.1|q|Bob|CONNECT|1|x|1\n"
        f"{BEGIN + 9}|c.1|r|NONE|ENTERQUEUE||1|1\n{BEGIN + 11}|c.1|r|NONE|ABANDON|1|1|2\n"
    )
    assert rows_of(change)[0] == ("c.1", "q", BEGIN, "1", "answered", "Bob", 1, None, BEGIN + 9)


def test_refused_callers():
    change = count(
        "".join(
            f"{BEGIN}|c.{why}|q|NONE|REFUSED|{why}\n"
            for why in ("full", "join_empty", "closed", "odd")
        )
    )
    assert grown(change, figures.OFFERED) == {("q",): 4}
    assert grown(change, figures.UNANSWERED) == {
        ("q", why): 1 for why in ("full", "join_empty", "closed", "unknown")
    }
    assert grown(change, figures.WAITS) == {}
    assert ("c.full", "q", BEGIN, "", "full", None, 0, None, BEGIN) in rows_of(change)


def test_names_are_bounded(monkeypatch):
    monkeypatch.setattr(figures, "MAX_QUEUES", 3)
    monkeypatch.setattr(figures, "MAX_MEMBERS", 2)
    change = count(
        "".join(
            f"{BEGIN}|c.{i}|queue {i}|NONE|ENTERQUEUE||1|1\n"
            f"{BEGIN}|c.{i}|queue {i}|P/{i}|RINGNOANSWER|1\n"
            for i in range(9)
        )
    )
    assert grown(change, figures.OFFERED) == {
        ("queue 0",): 1,
        ("queue 1",): 1,
        ("queue 2",): 1,
        ("other",): 6,
    }
    assert {member for _, member in grown(change, figures.RING_NO_ANSWER)} == {
        "P/0",
        "P/1",
        "other",
    }


def test_days_are_those_of_the_pbx(tmp_path):
    store = JournalStore(tmp_path)
    visits = Visits(ServiceLevels({"q": SERVICE_LEVEL}), Rules(zone=ZoneInfo("Europe/Berlin")))
    midnight = 1_795_474_800  # 2026-11-24 00:00 +0100
    text = "".join(
        f"{at}|c.{at}|q|NONE|ENTERQUEUE||1|1\n{at}|c.{at}|q|NONE|ABANDON|1|1|0\n"
        for at in (midnight - 1, midnight, midnight + 1, midnight - 1)
    )
    store.apply(count(text, visits))
    rows = store.rows("SELECT day, value FROM daily WHERE figure = 'offered' ORDER BY day")
    assert rows == [("2026-11-23", 2), ("2026-11-24", 2)]
    assert {figure for (figure,) in store.rows("SELECT figure FROM daily")} == {
        "offered",
        "abandoned",
        "short_abandoned",
        "unanswered",
    }
    # fourteen days later the older one goes
    later = midnight + 13 * 86400 + 3600
    store.apply(count(f"{later}|c.9|q|NONE|ENTERQUEUE||1|1\n", visits, now=later))
    assert [day for (day,) in store.rows("SELECT DISTINCT day FROM daily ORDER BY day")] == [
        "2026-11-24",
        "2026-12-07",
    ]
    store.close()


@pytest.mark.parametrize(
    ("keep", "prune", "left"), [(True, True, 1), (True, False, 2), (False, True, 1)]
)
def test_finished_visits_go(tmp_path, keep, prune, left):
    store = JournalStore(tmp_path)
    visits = Visits(ServiceLevels({"q": SERVICE_LEVEL}), Rules(keep_visits=keep))
    store.apply(count(f"{BEGIN}|c.1|q|NONE|ENTERQUEUE||1|1\n", visits, prune=prune))
    store.apply(count(f"{BEGIN}|c.1|q|NONE|ABANDON|1|1|0\n", visits, prune=prune))
    assert store.rows("SELECT count(*) FROM visit") == [(int(keep),)]
    later = BEGIN + 3 * 86400
    store.apply(count(f"{later}|c.2|q|NONE|ENTERQUEUE||1|1\n", visits, prune=prune))
    assert store.rows("SELECT count(*) FROM visit") == [(left,)]
    store.close()


# --- members

MEMBER_STEP = st.tuples(
    st.integers(0, 9),
    st.sampled_from(
        [
            "ADDMEMBER|",
            "ADDMEMBER|PAUSED",
            "REALTIME ADDMEMBER|",
            "REALTIME ADDMEMBER|PAUSED",
            "REMOVEMEMBER|",
            "PAUSE|",
            "UNPAUSE|",
            "PAUSEALL|",
            "QUEUESTART|",
        ]
    ),
    QUEUE,
    st.sampled_from(["PJSIP/1", "Bob"]),
)


def take(event: str, place: tuple[str, str], added: set, paused: set, realtime: set) -> None:
    if "ADDMEMBER" in event:
        added.add(place)
    if event.startswith("REALTIME"):
        realtime.add(place)
    if event.endswith("ADDMEMBER|PAUSED") or event == "PAUSE|":
        paused.add(place)
    if event in ("UNPAUSE|", "REMOVEMEMBER|"):
        paused.discard(place)
    if event == "REMOVEMEMBER|":
        added.discard(place)
        realtime.discard(place)
    if event == "QUEUESTART|":
        added -= realtime
        paused &= added
        realtime.clear()


def seconds_of(steps, begin: int, end: int) -> Counter[tuple[str, str]]:
    """Look at each second, who is what by then."""
    lines, at = [], begin
    for after, event, queue, member in steps:
        at += after
        lines.append((at, event, (queue, member)))
    added, paused, realtime = set(), set(), set()
    got: Counter[tuple[str, str]] = Counter()
    for second in range(begin, end):
        for when, event, place in lines:
            if when == second:
                take(event, place, added, paused, realtime)
        for state, places in (("logged_in", added), ("paused", paused)):
            for member in {member for _, member in places}:
                got[member, state] += 1
    return got


@given(st.lists(MEMBER_STEP, max_size=25), st.integers(0, 20))
def test_members_time(steps, rest):
    at, text = BEGIN, ""
    for after, event, queue, member in steps:
        at += after
        by, _, what = event.rpartition(" ")
        text += f"{at}|{by or 'NONE'}|{queue}|{member}|{what}\n"
    change = count(text, now=at + rest + 0.9, at_end=True)
    assert grown(change, figures.AGENT_SECONDS) == seconds_of(steps, BEGIN, at + rest)


def test_members_time_grows_while_nothing_happens(tmp_path):
    store = JournalStore(tmp_path)
    visits = Visits(ServiceLevels({}), Rules())

    def at(seconds: float, text: str = "") -> int:
        store.apply(count(text, visits, now=BEGIN + seconds, at_end=True))
        return store.values(figures.AGENT_SECONDS).get(("P/1", "logged_in"), 0)

    assert at(2, f"{BEGIN}|MANAGER|q|P/1|ADDMEMBER|\n") == 2
    assert at(4.5) == 2  # not written more often than every five seconds
    assert at(9.9) == 9
    assert at(5) == 9  # the clock was set back
    assert at(14) == 14
    visits = Visits(ServiceLevels({}), Rules())
    visits.load(store, BEGIN)
    assert at(20) == 20
    assert at(30, f"{BEGIN + 19}|MANAGER|q|P/1|REMOVEMEMBER|\n") == 20  # late by a second
    assert at(90) == 20
    assert store.rows("SELECT * FROM presence") == []
    store.close()


def test_a_member_of_realtime_who_has_gone_during_a_restart_is_away(tmp_path):
    """Also for an exporter that was started in between."""
    store = JournalStore(tmp_path)
    visits = Visits(ServiceLevels({}), Rules())

    def at(seconds: float, text: str = "") -> dict:
        store.apply(count(text, visits, now=BEGIN + seconds, at_end=True))
        return dict(store.values(figures.AGENT_SECONDS))

    at(10, "".join(f"{BEGIN}|REALTIME|q|P/{n}|ADDMEMBER|PAUSED\n" for n in (1, 2)))
    visits = Visits(ServiceLevels({}), Rules())
    visits.load(store, BEGIN)
    back = f"{BEGIN + 20}|NONE|NONE|NONE|QUEUESTART|\n{BEGIN + 24}|REALTIME|q|P/2|ADDMEMBER|\n"
    assert at(30, back) == {
        ("P/1", "logged_in"): 20,
        ("P/1", "paused"): 20,
        ("P/2", "logged_in"): 26,
        ("P/2", "paused"): 20,
    }
    store.close()


def test_a_line_from_the_future_counts_no_time_that_has_not_been():
    change = count(
        f"{BEGIN}|MANAGER|q|P/1|ADDMEMBER|\n{BEGIN + 10**9}|MANAGER|r|P/1|ADDMEMBER|\n"
        f"{BEGIN + 20}|MANAGER|q|P/2|ADDMEMBER|\n",
        now=BEGIN + 60,
        at_end=True,
    )
    assert grown(change, figures.AGENT_SECONDS) == {("P/1", "logged_in"): 60}
