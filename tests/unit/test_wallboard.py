"""The wallboard: what it shows of a Summary, and how many questions it asks Asterisk."""

# ruff: noqa: ARG001, PLR0913, PLR0917 - callbacks have fixed arguments, fixtures come as arguments
from __future__ import annotations

import base64
import hashlib
import html
import re
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import pytest
from prometheus_client import CollectorRegistry

from asterisk_exporter import __version__, config, landing, missed, pages, style, wallboard, web
from asterisk_exporter.ami.session import AmiSession
from asterisk_exporter.collectors.queues import Member, Queue
from asterisk_exporter.journal.store import Change, JournalStore
from asterisk_exporter.live import KEEP_SECONDS, Live, Look, Missed
from asterisk_exporter.missed import MissedCall
from asterisk_exporter.summary import (
    NOTHING,
    QueueSummary,
    Summary,
    Today,
    UnknownQueueError,
    total,
)
from asterisk_exporter.wallboard import Board, View

from .conftest import MISBEHAVIOURS

AT = datetime(2026, 11, 24, 10, 41, 5, tzinfo=timezone.utc)
TODAY = Today(143, 128, 112, 9, 3, 15)


def queue(name="support", **changed) -> QueueSummary:
    known = {
        "waiting": 2,
        "longest_wait_seconds": 74,
        "over_service_level": 0,
        "service_level_seconds": 60,
        "members": 5,
        "available": 2,
        "paused": 1,
        "today": TODAY,
    }
    return QueueSummary(name=name, **{**known, **changed})


def board(*queues, objective=80, missed=None, title="pbx1", **changed) -> Board:
    summary = Summary(AT, queues, queue("Total") if queues else total([], None), **changed)
    return Board(title, objective, summary, missed)


def page(*queues, view=View(), **changed) -> str:  # noqa: B008 - it is frozen
    return wallboard.page(board(*queues, **changed), view)


class Figures(HTMLParser):
    """What a page shows: figures by queue, and the texts outside of them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.queue, self.figure, self.text = "", "", ""
        self.found, self.states, self.tags, self._depth = {}, {}, [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append((tag, given))
        if "data-queue" in given or "data-total" in given:
            self.queue = given.get("data-queue", "all")
            self.states[self.queue] = given.get("class", "")
        if "data-figure" in given:
            self.figure, self._tag = given["data-figure"], tag
            self.states[self.queue, self.figure] = given.get("class", "")
            self.found[self.queue, self.figure] = ""

    def handle_endtag(self, tag):
        if self.figure and tag == self._tag:
            self.figure = ""

    def handle_data(self, data):
        if self.figure:
            self.found[self.queue, self.figure] += data
        self.text += data


@pytest.mark.parametrize("number", [1, 4, 5, 12])
def test_figures_as_cards_and_as_a_table(number):
    queues = [queue(f"q{n}", waiting=n, available=n + 1, members=20) for n in range(number)]
    shown = Figures(page(*queues))
    for n in range(number):
        found = {figure: text for (name, figure), text in shown.found.items() if name == f"q{n}"}
        assert found == {
            "waiting": str(n),
            "longest": "1:14",
            "agents": f"{n + 1}/20",
            "level": "80 %",
            "answered": "128",
            "lost": "15",
        }
    assert (("all", "waiting") in shown.found) == (number > 1)
    assert ("table" in [tag for tag, _ in shown.tags]) == (number > wallboard.MOST_CARDS)
    assert "1 paused" in shown.text
    assert "143" in shown.text  # offered
    assert "10:41" in shown.text


@pytest.mark.parametrize("number", [1, 6])
def test_what_is_wrong_has_a_colour_and_a_word(number):
    others = [queue(f"other{n}") for n in range(number - 1)]
    late = Figures(page(queue(over_service_level=2, available=0), *others))
    assert "bad" in late.states["support"]
    assert "▲ 2 > 60 s" in late.text
    alone = Figures(page(queue(available=0), *others))
    assert "warn" in alone.states["support"]
    assert "▲ 0 free" in alone.text
    for calm in (queue(), queue(waiting=0, available=0)):
        shown = Figures(page(calm, *others))
        assert shown.states["support"].split() in ([], ["card"])
        assert "▲" not in shown.text.replace("▲ No connection", "")


def test_a_service_level_that_is_not_set_is_not_missed():
    shown = Figures(page(queue(over_service_level=2, service_level_seconds=0, available=0)))
    assert "warn" in shown.states["support"]
    assert "> 0 s" not in shown.text


@pytest.mark.parametrize(
    ("in_level", "text", "state"),
    [(100, "100 %", "good"), (80, "80 %", "good"), (79, "▼ 79 %", "bad"), (0, "▼ 0 %", "bad")],
)
def test_service_level_against_the_objective(in_level, text, state):
    shown = Figures(page(queue(today=Today(100, 100, in_level))))
    assert shown.found["support", "level"] == text
    assert state in shown.states["support", "level"].split()


def test_a_percentage_is_rounded_down():
    shown = Figures(page(queue(today=Today(10000, 9999, 7999))))
    assert shown.found["support", "level"] == "▼ 79 %"
    shown = Figures(page(queue(today=Today(10000, 9999, 9999)), objective=100))
    assert shown.found["support", "level"] == "▼ 99 %"


def test_nothing_offered_has_no_service_level():
    shown = Figures(page(queue(today=Today())))
    assert shown.found["support", "level"] == NOTHING
    assert shown.found["support", "answered"] == "0"


@pytest.mark.parametrize("number", [1, 6])
def test_figures_that_are_not_known_are_dashes_and_it_says_so(number):
    queues = [queue(f"q{n}", today=None) for n in range(number)]
    shown = Figures(page(*queues, today_error="queue_log is <not> read"))
    for figure in ("level", "answered", "lost"):
        assert shown.found["q0", figure] == NOTHING
    assert "▲ No figures of today: queue_log is <not> read" in shown.text


def test_while_asterisk_is_down_there_is_no_figure():
    down = Board("pbx1", 80, Summary(AT, error="nobody <listens>"))
    shown = Figures(wallboard.page(down, View()))
    assert shown.found == {}
    assert "▲ No figures from Asterisk" in shown.text
    assert "nobody <listens>" in shown.text
    assert ("div", {"class": "alarm", "role": "alert"}) in shown.tags


def test_no_queues():
    assert "Asterisk has no queues" in Figures(page()).text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (7, "0:07"), (754, "12:34"), (3599, "59:59"), (3723, "1h02"), (86400, "24h00")],
)
def test_durations(seconds, text):
    assert wallboard.duration(seconds, wallboard.TEXTS["en"]) == text


@pytest.mark.parametrize("number", [1, 6])
def test_names_are_not_obeyed(number):
    name = "<script>alert('\"1&2')</script>"
    others = [queue(f"other{n}") for n in range(number - 1)]
    made = page(queue(name), *others, title=name, view=View((name,)))
    shown = Figures(made)
    assert (name, "waiting") in shown.found
    assert [tag for tag, _ in shown.tags].count("script") == 1
    assert shown.text.count(name) >= 2
    assert name not in made


def test_missed_calls():
    shown = Figures(page(queue(), missed=Missed(17, 4)))
    assert "Missed calls today 17" in shown.text
    assert "▲ to call back 4" in shown.text
    assert "to call back" not in Figures(page(queue(), missed=Missed(17, 0))).text
    assert "Missed calls" not in Figures(page(queue())).text


@pytest.mark.parametrize(
    ("language", "text"),
    [("en", "▲ Missed calls are not known"), ("ru", "▲ О пропущенных нет данных")],  # noqa: RUF001
)
def test_missed_calls_that_are_not_known(language, text):
    for unknown in (True, False):
        made = Board("pbx1", 80, board(queue()).summary, missed_unknown=unknown)
        shown = Figures(wallboard.page(made, View(language=language)))
        assert (text in shown.text) == unknown


def test_languages_have_the_same_texts():
    english, russian = wallboard.TEXTS["en"], wallboard.TEXTS["ru"]
    assert english.keys() == russian.keys()
    for name, text in english.items():
        assert text.count("{}") == russian[name].count("{}"), name
    shown = Figures(page(queue(), view=View(language="ru")))
    assert "Уровень сервиса" in shown.text
    assert "Service level" not in shown.text
    assert shown.tags[0] == ("html", {"lang": "ru"})


def test_what_an_address_asks_for():
    asked = {"queue": ["a", "b"], "lang": ["ru"], "theme": ["dark"]}
    assert wallboard.view_of(asked, "en") == View(("a", "b"), "ru", "dark")
    assert wallboard.view_of({"lang": ["xx"], "theme": ['"><b>']}, "ru") == View((), "ru", "")
    assert 'data-theme="dark"' in page(queue(), view=View(theme="dark"))
    assert "data-theme=" not in page(queue()).partition("<style>")[0]


def test_the_page_needs_nothing_else_and_lets_nothing_else_in():
    made = page(queue())
    [sheet], [script] = (
        re.findall(f"<{tag}>(.*?)</{tag}>", made, re.S) for tag in ("style", "script")
    )
    for kind, text in (("style", sheet), ("script", script)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in wallboard.POLICY
    assert "default-src 'none'" in wallboard.POLICY
    assert "unsafe" not in wallboard.POLICY
    assert not re.search(r"\b(src|href)=\"(?!data:)|url\(|@import|https?://", made)
    assert " style=" not in made
    assert '<noscript><meta http-equiv="refresh" content="5"></noscript>' in made


def luminance(colour: str) -> float:
    """WCAG 2's relative luminance."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", style.PALETTES)
@pytest.mark.parametrize("pair", style.PAIRS, ids=" on ".join)
def test_contrast(theme, pair):
    darker, lighter = sorted(luminance(style.PALETTES[theme][name]) for name in pair)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_contrast_is_computed_as_wcag_says():
    assert (luminance("#ffffff") + 0.05) / (luminance("#000000") + 0.05) == pytest.approx(21)
    assert (luminance("#ffffff") + 0.05) / (luminance("#777777") + 0.05) == pytest.approx(
        4.48, abs=0.01
    )


def test_every_colour_that_a_style_names_is_in_both_palettes():
    named = set(re.findall(r"var\(--([\w-]+)\)", style.static("wallboard.css")))
    named |= set(re.findall(r"var\(--([\w-]+)\)", style.static("landing.css")))
    assert named - {"u", "row"} == set(style.PALETTES["light"]) == set(style.PALETTES["dark"])


# from Asterisk to the page


def call(destination, number, spoken=False) -> MissedCall:
    return MissedCall(
        *("1.1", "+49", number, AT, "", destination, "timeout", 5),
        *((AT, "inbound") if spoken else (None, None)),
    )


def look(**changed) -> Look:
    agent = Member("A", "PJSIP/1", "not_in_use", False, False)
    queues = (Queue("sales", 30, (), (agent,)), Queue("Support", 60, (70, 5), (agent,)))
    calls = (call("sales", "1"), call("support", "2"), call("support", "2"), call("other", None))
    known = {"queues": queues, "today": {"support": TODAY}, "missed": calls}
    return Look(AT, **{**known, **changed})


def test_chosen_queues_and_their_missed_calls():
    found, lost = look().of()
    assert [q.name for q in found.queues] == ["sales", "Support"]
    assert (found.total.waiting, found.total.members) == (2, 1)
    assert lost == Missed(4, 2)
    found, lost = look().of(("SUPPORT",))
    assert [(q.name, q.today) for q in found.queues] == [("Support", TODAY)]
    assert (found.total.over_service_level, lost) == (1, Missed(2, 1))
    assert len(look().of(("support", "sales"))[0].queues) == 2
    with pytest.raises(UnknownQueueError, match=r"suport.*Support, sales"):
        look().of(("support", "suport"))
    assert look(queues=None, error="gone").of(("suport",)) == (Summary(AT, error="gone"), None)
    assert look(missed=None).of()[1] is None
    assert look(missed=None, journals=(("cdr", False),)).missed_unknown
    assert not look(missed=None, journals=(("queue_log", False),)).missed_unknown
    assert not look(journals=(("cdr", False),)).missed_unknown


@pytest.mark.parametrize(
    ("zone", "at", "expected"),
    [
        ("Europe/Berlin", "2026-11-24T23:30:00+00:00", "2026-11-24T23:00:00+00:00"),
        # the day on which the clock goes back began in summer time
        ("Europe/Berlin", "2026-10-25T12:00:00+00:00", "2026-10-24T22:00:00+00:00"),
        ("Asia/Kathmandu", "2026-11-24T18:00:00+00:00", "2026-11-23T18:15:00+00:00"),
    ],
)
def test_midnight(zone, at, expected):
    when = missed.local(datetime.fromisoformat(at).timestamp(), ZoneInfo(zone))
    assert missed.midnight(when, ZoneInfo(zone)) == datetime.fromisoformat(expected)


def test_midnight_without_a_zone_is_this_systems(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        start = missed.midnight(missed.local(AT.timestamp(), None), None)
    finally:
        monkeypatch.undo()
        time.tzset()
    assert start == datetime(2026, 11, 24, 5, tzinfo=timezone.utc)


@pytest.fixture
def served_pages(target_of):
    """Serve the pages of a configuration: served_pages(ami_port, yaml, address) gives the URL."""
    servers = []

    def start(port: int, more: str = "", listens="127.0.0.1") -> str:
        settings = config.parse(f"timezone: UTC\n{more}", config.DEFAULT_PATH)
        live = Live(AmiSession(target_of(port)), settings)
        made = pages.all_pages(settings, listens, live)
        server = web.listen(CollectorRegistry(), "127.0.0.1", 0, made)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def test_twenty_viewers_cost_one_question(served_pages, ami_server, behave, monkeypatch):
    monkeypatch.setattr("asterisk_exporter.live.KEEP_SECONDS", 60)  # all twenty come within them

    def slowly(name, reply, connection):
        time.sleep(0.2)
        return False

    server = ami_server(behave("busy", instead=slowly))
    url = served_pages(server.port)
    addresses = [f"{url}/wallboard?queue={('support', 'sales', 'vip')[n % 3]}" for n in range(20)]
    found = []
    threads = [threading.Thread(target=lambda a=a: found.append(get(a))) for a in addresses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert all('data-figure="waiting"' in text for text in found)
    assert server.received.count(b"Action: QueueStatus") == 1
    assert len(server.connections) == 1
    get(url + "/")
    assert server.received.count(b"Action: QueueStatus") == 1


def test_it_looks_again_after_two_seconds(target_of, ami_server, behave):
    server, now = ami_server(behave("busy")), [100.0]
    live = Live(AmiSession(target_of(server.port)), config.Config(), clock=lambda: now[0])
    first = live.look()
    now[0] += KEEP_SECONDS - 0.01
    assert live.look() is first
    now[0] += 0.01
    assert live.look() is not first
    assert len(server.connections) == 1


def test_figures_of_a_real_answer(served_pages, ami_server, behave):
    shown = Figures(get(served_pages(ami_server(behave("busy")).port) + "/wallboard"))
    assert shown.found["support", "waiting"] == "2"
    assert shown.found["support", "longest"] == "0:14"
    assert shown.found["all", "waiting"] == "4"
    assert shown.found["support", "level"] == NOTHING
    assert "No figures of today: no queue_log is configured" in shown.text


@pytest.mark.parametrize("name", sorted(MISBEHAVIOURS.keys() - {"dies_in_status"}))
def test_while_asterisk_is_down_or_hangs(name, served_pages, ami_server, free_port):
    behaviour, _ = MISBEHAVIOURS[name]
    port = free_port() if behaviour is None else ami_server(behaviour).port
    url = served_pages(port)
    for path, said in (("/wallboard", "No figures from Asterisk"), ("/", "gives no figures")):
        began = time.monotonic()
        text = get(url + path)
        assert time.monotonic() - began < 1.5 + 2  # on a busy machine too
        assert said in text


def test_while_asterisk_refuses_to_tell(served_pages, ami_server, behave):
    def denied(name, reply, connection):
        if name == "QueueStatus":
            action_id = re.search(rb"ActionID: (.*)\r\n", reply)[0]
            connection.sendall(
                b"Response: Error\r\n" + action_id + b"Message: Permission denied\r\n\r\n"
            )
        return name == "QueueStatus"

    url = served_pages(ami_server(behave("busy", instead=denied)).port)
    for path, said in (("/wallboard", "No figures from Asterisk"), ("/", "gives no figures")):
        text = get(url + path)
        assert said in text
        assert "may not run QueueStatus" in text


def test_an_unknown_queue(served_pages, ami_server, behave):
    url = served_pages(ami_server(behave("busy")).port)
    shown = Figures(get(url + "/wallboard?queue=suport&queue=support"))
    assert "▲ No such queue" in shown.text
    assert "billing, sales, support, vip" in shown.text
    assert shown.found == {}


@pytest.mark.parametrize(
    ("more", "listens", "is_on"),
    [
        ("", "127.0.0.1", True),
        ("", "::1", True),
        ("", "localhost", True),
        ("", "198.18.77.11", False),
        ("", "0.0.0.0", False),
        ("", "::", False),
        ("wallboard: {enabled: true}", "0.0.0.0", True),
        ("wallboard: {enabled: false}", "127.0.0.1", False),
    ],
)
def test_off_beyond_loopback_unless_told(served_pages, ami_server, behave, more, listens, is_on):
    url = served_pages(ami_server(behave("busy")).port, more, listens)
    assert ('href="/wallboard"' in get(url + "/")) == is_on
    if is_on:
        assert 'data-queue="support"' in get(url + "/wallboard")
    else:
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(url + "/wallboard")
        assert refused.value.code == 404
        assert "wallboard: {enabled: true}" in refused.value.read().decode()


def test_the_front_page(served_pages, ami_server, behave):
    url = served_pages(ami_server(behave("busy")).port)
    made = get(url + "/")
    assert f"Version {__version__}" in made
    assert "✓ answers" in made
    links = re.findall(r'href="(/[^"]*)"', made)
    assert links == ["/metrics", "/-/healthy", "/wallboard"]
    for link in links:
        assert urllib.request.urlopen(url + link, timeout=5).status == 200
    [sheet] = re.findall(r"<style>(.*?)</style>", made, re.DOTALL)
    assert f"style-src 'sha256-{style.digest(sheet)}'" in landing.POLICY
    assert "script-src" not in landing.POLICY


def test_settings(served_pages, ami_server, behave):
    more = "system_name: pbx1\nwallboard: {language: ru, objective_percent: 95, title: Salon & Co}"
    text = get(served_pages(ami_server(behave("busy")).port, more) + "/wallboard")
    assert "<h1>Salon &amp; Co</h1>" in text
    assert 'lang="ru"' in text
    port = ami_server(behave("busy")).port
    assert "<h1>pbx1</h1>" in get(served_pages(port, "system_name: pbx1") + "/wallboard")


def test_headers(served_pages, ami_server, behave):
    url = served_pages(ami_server(behave("busy")).port)
    for path in ("/", "/wallboard"):
        with urllib.request.urlopen(url + path, timeout=5) as response:
            assert response.headers["Cache-Control"] == "no-store"
            assert "default-src 'none'" in response.headers["Content-Security-Policy"]
            assert response.headers["Content-Type"] == "text/html; charset=utf-8"


# the running service


QUEUE_LOG = (
    "{0}|pbx1-1|support|NONE|ENTERQUEUE||+4915550001|1\n{1}|pbx1-1|support|NONE|ABANDON|1|1|9\n"
)


def test_served(serve, config_file, ami_server, behave, tmp_path):
    log = tmp_path / "queue_log"
    log.touch()
    more = f"state_directory: {tmp_path}/state\nqueue_log: {{file: {log}, poll_seconds: 0.1}}"
    path = config_file(ami_server(behave("busy")).port, more)
    # Where it is noon now: the day must not end meanwhile.
    noon = f"Etc/GMT{datetime.now(timezone.utc).hour - 12:+d}"
    path.write_text(path.read_text().replace("timezone: UTC", f"timezone: {noon}"))
    served = serve(path)

    def shown(path: str, text: str) -> str:
        end = time.monotonic() + 30
        while text not in (made := html.unescape(served.get(path))):
            assert time.monotonic() < end, f"no {text!r} in {made}"
            time.sleep(0.2)
        return made

    shown("/", 'queue_log</th><td><span class="good">✓ is read')
    served.get()  # a scrape tells the reader which queues there are
    now = int(time.time())
    with log.open("a") as file:
        file.write(QUEUE_LOG.format(now - 9, now))
    shown("/wallboard", "Answered of 1<")
    assert Figures(served.get("/wallboard")).found["support", "lost"] == "1"
    assert "+4915550001" not in served.get("/wallboard")
    log.rename(tmp_path / "elsewhere")
    log.mkdir()  # a file that cannot be read
    shown("/wallboard", "No figures of today: queue_log is not read")
    shown("/", 'queue_log</th><td><span class="bad">▲ is not read')


def test_todays_missed_calls_from_the_state_file(target_of, ami_server, behave, tmp_path):
    class Journal:
        def __init__(self, name):
            self.name, self.ok = name, True

    store = JournalStore(tmp_path)
    now = datetime.now(timezone.utc)
    start = missed.midnight(now, timezone.utc)
    rows = [
        (f"1.{n}", at.timestamp(), at.timestamp(), "+49", "49", "", "support", "timeout", 5)
        for n, at in enumerate((start, now, start - timedelta(seconds=1)))
    ]
    change = Change("cdr", {})
    columns = "linkedid, at, ended, caller, number, dialled, destination, reason, wait"
    change.run(f"INSERT INTO missed ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
    store.apply(change)
    store.close()
    settings = config.parse(f"timezone: UTC\nstate_directory: {tmp_path}", config.DEFAULT_PATH)
    journal = Journal("cdr")
    session, clock = AmiSession(target_of(ami_server(behave("busy")).port)), [0.0]
    live = Live(session, settings, [journal], lambda: clock[0])
    assert live.look().of()[1] == Missed(2, 1)
    assert live.look().of(("sales",))[1] == Missed(0, 0)
    journal.ok, clock[0] = False, 10.0
    assert live.look().of()[1] is None
    made = pages.all_pages(settings, "127.0.0.1", live)["/wallboard"]({})
    assert "Missed calls are not known" in str(made)
    journal.ok, clock[0] = True, 20.0
    with sqlite3.connect(tmp_path / "journal.sqlite") as db:
        db.execute("DROP TABLE missed")
    assert live.look().missed is None
    live.close()


def test_the_service_carries_no_tables_for_terminals(environment):
    code = "import sys, asterisk_exporter.cli.serve; print('rich' in sys.modules)"
    made = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert made.stdout == "False\n"
