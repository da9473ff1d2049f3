"""The wallboard as a screen on the wall shows it: in Chromium, at 1920 by 1080.

The host gets the package chromium for it, and a font, where it has none.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from lab import Lab, wait_until
from playwright.sync_api import Browser, Page, expect, sync_playwright
from prometheus_client import CollectorRegistry

from asterisk_exporter import wallboard, web
from asterisk_exporter.live import Missed
from asterisk_exporter.summary import QueueSummary, Summary, Today
from asterisk_exporter.wallboard import Board, View

CHROMIUM = Path("/usr/bin/chromium")
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
SCREEN = {"width": 1920, "height": 1080}
#: Elements whose content is wider or higher than they are, or that are not on the screen.
DOES_NOT_FIT = """() => [...document.querySelectorAll(
    "#board, #board header, .cards, .card, .sum, dl, dl > div, table, tr, td, .alarm, .clock"
)].filter(e => {
    const box = e.getBoundingClientRect();
    return box.right > innerWidth + 1 || box.bottom > innerHeight + 1 || box.left < -1
        || e.scrollWidth > e.clientWidth + 2 && !["TR", "TABLE"].includes(e.tagName)
}).map(e => `${e.tagName}.${e.className}: ${e.textContent.slice(0, 40)}`)"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        packages = ["chromium", "fonts-dejavu-core"]
        install = ["apt-get", "install", "-yq", "--no-install-recommends", *packages]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-q"], check=True)
        subprocess.run(install, check=True, env=environment)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Screen:
    """A page, everything that it asked of the network, and what went wrong in it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.asked: list[str] = []
        self.problems: list[str] = []
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("console", lambda said: self.problems.append(said.text))
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    def figure(self, queue: str, name: str) -> str:
        row = "[data-total]" if queue == "Total" else f'[data-queue="{queue}"]'
        return self.page.locator(f'{row} [data-figure="{name}"]').inner_text().strip()


@pytest.fixture
def screen(browser: Browser) -> Iterator[Callable[..., Screen]]:
    """Open a screen: screen(url, **what Playwright calls a context's options)."""
    contexts = []

    def show(url: str, **options: object) -> Screen:
        context = browser.new_context(**{"viewport": SCREEN, **options})
        contexts.append(context)
        made = Screen(context.new_page())
        made.page.goto(url)
        return made

    yield show
    for context in contexts:
        context.close()


@pytest.fixture
def url(lab: Lab) -> str:
    return f"{lab.url('exporter')}/wallboard"


def test_the_figures_are_those_of_the_command(
    lab: Lab, url: str, screen: Callable[..., Screen]
) -> None:
    def same() -> bool:
        shown = screen(url)
        told = json.loads(lab.run("asterisk-exporter queues --json"))
        assert told["queues"]
        for queue in [*told["queues"], told["total"]]:
            name, today = queue["name"], queue["today"]
            percent = today["service_level_percent"]
            figures = {
                "waiting": str(queue["waiting"]),
                "agents": f"{queue['available']}/{queue['members']}",
                "answered": str(today["answered"]),
                "lost": str(today["unanswered"]),
                "level": "–" if percent is None else f"{int(percent)} %",  # noqa: RUF001
            }
            found = {figure: shown.figure(name, figure) for figure in figures}
            found["level"] = found["level"].replace("▼", "").strip()
            if found != figures:
                return False
            label = shown.page.locator(f'[data-queue="{name}"] dt', has_text="Answered of")
            if name != "Total":
                assert label.inner_text() == f"Answered of {today['offered']}"
        return True

    # a call may end between the two
    wait_until(same, 60, "the page and the command tell the same")


def test_a_call_appears_without_a_reload_and_nothing_else_is_asked_for(
    lab: Lab, url: str, screen: Callable[..., Screen]
) -> None:
    shown = screen(f"{url}?queue=sales")
    shown.page.evaluate("window.sameDocument = true")
    assert shown.page.locator('[data-queue="support"]').count() == 0
    wait_until(lambda: shown.figure("sales", "waiting") == "0", 30, "nobody waits in sales")
    # right after a refresh, so that the next comes in the middle of the seconds that the call waits
    with shown.page.expect_response(shown.page.url):
        pass
    lab.run("systemd-run --quiet --collect lab-call provider +4915550077 +493055502 7")
    waiting = shown.page.locator('[data-queue="sales"] [data-figure="waiting"]')
    # the call's way into the queue, the refresh, and the two seconds for which a look is kept
    expect(waiting).to_have_text("1", timeout=15000)
    assert "4915550077" not in shown.page.content()
    expect(waiting).to_have_text("0", timeout=30000)
    assert shown.page.evaluate("window.sameDocument")
    assert shown.problems == []
    hosts = {urllib.parse.urlsplit(asked).netloc for asked in shown.asked if "data:" not in asked}
    assert hosts == {urllib.parse.urlsplit(url).netloc}


def test_figures_that_nothing_renews_leave_the_screen(
    lab: Lab, url: str, screen: Callable[..., Screen], started: Callable[[str], None]
) -> None:
    started("asterisk-exporter")
    shown = screen(url)
    expect(shown.page.locator("#board")).to_be_visible()
    lab.run("systemctl stop asterisk-exporter")
    alarm = shown.page.locator("#stale")
    expect(alarm).to_be_visible(timeout=(wallboard.STALE_SECONDS + 10) * 1000)
    expect(alarm).to_contain_text("▲ No connection")
    expect(shown.page.locator("#board")).to_be_hidden()
    assert shown.page.evaluate(DOES_NOT_FIT) == []
    lab.run("systemctl start asterisk-exporter")
    expect(alarm).to_be_hidden(timeout=60000)
    expect(shown.page.locator('[data-queue="support"]')).to_be_visible(timeout=30000)


def test_asterisk_down_is_said(
    lab: Lab, url: str, screen: Callable[..., Screen], started: Callable[[str], None]
) -> None:
    started("asterisk")
    shown = screen(f"{url}?lang=ru")
    lab.run("systemctl stop asterisk")
    expect(shown.page.locator("#board .alarm b")).to_have_text(
        "▲ Нет данных от Asterisk", timeout=30000
    )
    assert shown.page.locator("[data-figure]").count() == 0
    lab.run("systemctl start asterisk")
    expect(shown.page.locator('[data-queue="support"]')).to_be_visible(timeout=60000)


def test_without_javascript_it_refreshes_itself(url: str, screen: Callable[..., Screen]) -> None:
    shown = screen(url, java_script_enabled=False)
    expect(shown.page.locator('[data-queue="support"]')).to_be_visible()
    with shown.page.expect_request(url, timeout=wallboard.REFRESH_SECONDS * 3000):
        pass


def test_light_and_dark(url: str, screen: Callable[..., Screen]) -> None:
    def brightness(shown: Screen) -> int:
        colour = shown.page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(",")))

    for system in ("light", "dark"):
        assert (brightness(screen(url, color_scheme=system)) < 200) == (system == "dark")
        for asked in ("light", "dark"):
            shown = screen(f"{url}?theme={asked}", color_scheme=system)
            assert (brightness(shown) < 200) == (asked == "dark")


def test_the_front_page(lab: Lab, screen: Callable[..., Screen]) -> None:
    shown = screen(lab.url("exporter"))
    expect(shown.page.locator("table")).to_contain_text("✓ answers")
    assert shown.page.locator("tr", has_text="✓ is read").count() == 2
    shown.page.click("text=Wallboard")
    expect(shown.page.locator('[data-queue="support"]')).to_be_visible()
    assert shown.problems == []


# many queues, which the lab has not


def made_up(number: int, today_error: str | None = None) -> Board:
    """Return a board of large figures and long names, everything at its worst."""
    today = None if today_error else Today(9876, 8888, 7000, 300, 40, 988)

    def queue(name: str) -> QueueSummary:
        return QueueSummary(name, 128, 3599, 120, 300, 88, 88, 88, today)

    names = [
        "<script>alert(1)</script>" if n == 1 else f"Kundendienst und Reklamation {n}"
        for n in range(number)
    ]
    summary = Summary(
        datetime(2026, 11, 24, 23, 59, 59, tzinfo=timezone.utc),
        tuple(map(queue, names)),
        queue("Total"),
        today_error=today_error,
    )
    return Board("A call centre with a name as long as they are", 90, summary, Missed(1234, 567))


@pytest.fixture
def served() -> Iterator[Callable[[Board], str]]:
    """Serve a board as the exporter does, on this host's loopback."""
    shown: list[Board] = []

    def answer(query: web.Query) -> web.Page:
        view: View = wallboard.view_of(query, "en")
        return web.Page(wallboard.page(shown[-1], view), policy=wallboard.POLICY)

    server = web.listen(CollectorRegistry(), "127.0.0.1", 0, {"/wallboard": answer})
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def show(board: Board) -> str:
        shown.append(board)
        return f"http://127.0.0.1:{server.server_port}/wallboard"

    yield show
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("language", ["en", "ru"])
@pytest.mark.parametrize("error", [None, "queue_log is not read. Look at the exporter's log."])
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 12])
def test_it_fits_on_one_screen(
    number: int,
    error: str | None,
    language: str,
    served: Callable[[Board], str],
    screen: Callable[..., Screen],
) -> None:
    shown = screen(f"{served(made_up(number, error))}?lang={language}")
    assert shown.page.locator("[data-queue]").count() == number
    size = "[document.documentElement.scrollWidth, document.documentElement.scrollHeight]"
    assert shown.page.evaluate(size) == [SCREEN["width"], SCREEN["height"]]
    assert shown.page.evaluate(DOES_NOT_FIT) == []
    smallest = shown.page.evaluate(
        "Math.min(...[...document.querySelectorAll('[data-queue] [data-figure]')]"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    # digits of 18 mm and more, 12 mm with twelve queues, on a screen of 55 inches (685 mm high)
    assert smallest >= (36 if number == 12 else 43 if number > 4 else 54)
    assert shown.problems == []
