"""The page ``/wallboard``: a pure function from a Summary to HTML, for a screen on the wall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from asterisk_exporter.live import Missed
from asterisk_exporter.style import COLOURS, digest, policy, static
from asterisk_exporter.summary import NOTHING, QueueSummary, Summary

REFRESH_SECONDS = 5
#: Figures that nothing has renewed for so long are taken off the screen.
STALE_SECONDS = 12
#: So many queues get a card each; more get a line each.
MOST_CARDS = 4
#: More lines than these are too small to read from afar: the page scrolls.
MOST_LINES = 20

TEXTS: dict[str, dict[str, str]] = {
    "en": {
        "waiting": "Waiting",
        "longest": "Longest wait",
        "agents": "Free agents",
        "agents_paused": "Free · {} paused",
        "level": "Service level",
        "answered": "Answered",
        "answered_of": "Answered of {}",
        "lost": "Lost",
        "paused": "{} paused",
        "nobody": "0 free",
        "hours": "{}h{:02}",
        "queue": "Queue",
        "total": "All queues",
        "now": "Now",
        "today": "Today",
        "missed": "Missed calls today",
        "no_missed": "Missed calls are not known",
        "call_back": "to call back",
        "down": "No figures from Asterisk",
        "unknown_queue": "No such queue",
        "no_queues": "Asterisk has no queues",
        "no_today": "No figures of today",
        "stale": "No connection",
        "stale_since": "These would be the figures of",
    },
    "ru": {
        "waiting": "Ждут",
        "longest": "Дольше всех",
        "agents": "Свободны",
        "agents_paused": "Свободны · пауза {}",
        "level": "Уровень сервиса",
        "answered": "Отвечено",
        "answered_of": "Отвечено из {}",
        "lost": "Потеряно",
        "paused": "пауза {}",
        "nobody": "свободных 0",
        "hours": "{}ч{:02}",
        "queue": "Очередь",
        "total": "Все очереди",  # noqa: RUF001 - Cyrillic
        "now": "Сейчас",
        "today": "Сегодня",
        "missed": "Пропущено сегодня",
        "no_missed": "О пропущенных нет данных",  # noqa: RUF001 - Cyrillic
        "call_back": "перезвонить",
        "down": "Нет данных от Asterisk",
        "unknown_queue": "Нет такой очереди",
        "no_queues": "В Asterisk нет очередей",  # noqa: RUF001 - Cyrillic
        "no_today": "Нет данных за сегодня",
        "stale": "Нет связи",
        "stale_since": "Последние данные:",
    },
}

STYLE = (
    COLOURS
    + static("wallboard.css")
    # lines, two of headings and one of the total, below the header
    + "".join(f".t{n}{{--row:{82 / (n + 2.6):.3f}vh}}\n" for n in range(1, MOST_LINES + 1))
)
SCRIPT = static("wallboard.js")
POLICY = policy(STYLE, SCRIPT)
#: Tells a page whether the exporter behind it is still the one that it came from.
BUILD = digest(STYLE + SCRIPT)


@dataclass(frozen=True)
class View:
    """What a viewer asked for. No ``queues`` are all; ``theme`` empty is the browser's."""

    queues: tuple[str, ...] = ()
    language: str = "en"
    theme: str = ""


@dataclass(frozen=True)
class Board:
    """What is shown. ``missed`` is None without current call records.

    ``missed_unknown``: there are call records, but they are not read.
    ``problem`` names the headline when the summary has no queues but an error.
    """

    title: str
    objective_percent: float
    summary: Summary
    missed: Missed | None = None
    missed_unknown: bool = False
    problem: Literal["down", "unknown_queue"] = "down"


@dataclass(frozen=True)
class _Figure:
    """One figure.

    ``label`` is below it in a card, ``aside`` beside it in a table. ``state`` is good or bad or
    neither; a bad one has a sign in its text.
    """

    name: str
    text: str
    label: str
    aside: str = ""
    state: str = ""

    @property
    def html(self) -> str:
        """The figure itself; what is no digit in a percentage is small."""
        shown = escape(self.text).replace("▼ ", "<i>▼ </i>").replace(" %", "<i> %</i>")
        return f'<span class="figure {self.state}" data-figure="{self.name}">{shown}</span>'


def view_of(query: Mapping[str, Sequence[str]], language: str) -> View:
    """Return what the address asks for; what makes no sense is as if it were not there."""
    asked = query.get("lang", [""])[-1]
    theme = query.get("theme", [""])[-1]
    return View(
        queues=tuple(query.get("queue", ())),
        language=asked if asked in TEXTS else language,
        theme=theme if theme in ("light", "dark") else "",
    )


def page(board: Board, view: View) -> str:
    """Return the whole page as HTML."""
    texts = TEXTS[view.language]
    theme = f' data-theme="{view.theme}"' if view.theme else ""
    return f"""<!DOCTYPE html>
<html lang="{view.language}"{theme}>
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(board.title)}</title>
<link rel="icon" href="data:,">
<noscript><meta http-equiv="refresh" content="{REFRESH_SECONDS}"></noscript>
<style>{STYLE}</style>
</head>
<body>
{_board(board, texts)}
<div id="stale" role="alert" hidden><div class="alarm"><b>▲ {texts["stale"]}</b>\
<p>{texts["stale_since"]} <span id="since"></span></p></div></div>
<script>{SCRIPT}</script>
</body>
</html>
"""


def _board(board: Board, texts: Mapping[str, str]) -> str:
    found, at = board.summary, board.summary.at
    missed = ""
    if board.missed is not None:
        calls, callers = board.missed.calls, board.missed.outstanding
        missed = f'{texts["missed"]} <b data-figure="missed">{calls}</b>'
        if callers:
            text = f'▲ {texts["call_back"]} <b data-figure="outstanding">{callers}</b>'
            missed += f' <span class="open">{text}</span>'
    elif board.missed_unknown:
        missed = f'<span class="open">▲ {texts["no_missed"]}</span>'
    parts = [
        f'<main id="board" data-build="{BUILD}" data-time="{at:%H:%M:%S}"'
        f' data-refresh="{REFRESH_SECONDS}" data-stale="{STALE_SECONDS}">',
        f'<header><h1>{escape(board.title)}</h1><p class="missed">{missed}</p>'
        f'<p class="clock"><time datetime="{at.isoformat()}">{at:%H:%M}</time></p></header>',
    ]
    if found.queues is None or found.total is None:
        parts.append(_alarm(texts[board.problem], found.error or ""))
    elif not found.queues:
        parts.append(_alarm(texts["no_queues"], ""))
    else:
        if found.today_error is not None:
            note = f"▲ {texts['no_today']}: {found.today_error}"
            parts.append(f'<p class="note" role="alert">{escape(note)}</p>')
        show = _cards if len(found.queues) <= MOST_CARDS else _table
        parts.append(show(found.queues, found.total, board.objective_percent, texts))
    return "\n".join([*parts, "</main>"])


def _alarm(headline: str, text: str) -> str:
    return f'<div class="alarm" role="alert"><b>▲ {headline}</b><p>{escape(text)}</p></div>'


def duration(seconds: int, texts: Mapping[str, str]) -> str:
    """Return seconds as 0:07, 12:34 or 1h02."""
    if seconds >= 3600:
        return texts["hours"].format(seconds // 3600, seconds % 3600 // 60)
    return f"{seconds // 60}:{seconds % 60:02}"


def _figures(
    queue: QueueSummary, objective_percent: float, texts: Mapping[str, str]
) -> list[_Figure]:
    """Return what is shown of a queue, in this order."""
    idle = "" if queue.waiting else "idle"
    agents = texts["agents_paused"].format(queue.paused)
    paused = texts["paused"].format(queue.paused) if queue.paused else ""
    longest = duration(queue.longest_wait_seconds, texts)
    return [
        _Figure("waiting", str(queue.waiting), texts["waiting"], state=idle),
        _Figure("longest", longest, texts["longest"], state=idle),
        _Figure("agents", f"{queue.available}/{queue.members}", agents, paused),
        *_today(queue, objective_percent, texts),
    ]


def _today(
    queue: QueueSummary, objective_percent: float, texts: Mapping[str, str]
) -> list[_Figure]:
    today = queue.today
    if today is None:
        return [_Figure(name, NOTHING, texts[name]) for name in ("level", "answered", "lost")]
    percent = today.service_level_percent
    level = _Figure("level", NOTHING, texts["level"])
    if percent is not None:
        # rounded down, so that 79.9 never reads as the 80 that it is not
        missed = percent < objective_percent
        text = f"▼ {int(percent)} %" if missed else f"{int(percent)} %"
        level = _Figure("level", text, texts["level"], state="bad" if missed else "good")
    of = texts["answered_of"].format(today.offered)
    return [
        level,
        _Figure("answered", str(today.answered), of, f"/ {today.offered}"),
        _Figure("lost", str(today.unanswered), texts["lost"]),
    ]


def _state(queue: QueueSummary, texts: Mapping[str, str]) -> tuple[str, str]:
    """Return what is wrong in a queue now: its colour, and the words that say the same."""
    # 0 s is Asterisk's default: no service level has been set
    if queue.over_service_level and queue.service_level_seconds:
        return "bad", f"▲ {queue.over_service_level} > {queue.service_level_seconds} s"
    if queue.waiting and not queue.available:
        return "warn", f"▲ {texts['nobody']}"
    return "", ""


def _cards(
    queues: Sequence[QueueSummary],
    total: QueueSummary,
    objective_percent: float,
    texts: Mapping[str, str],
) -> str:
    cards = []
    for queue in queues:
        state, sign = _state(queue, texts)
        name = escape(queue.name)
        cards.append(
            f'<section class="card {state}" data-queue="{name}"><h2>'
            f'<span class="name">{name}</span> <span class="sign">{escape(sign)}</span></h2>'
            f"{_list(_figures(queue, objective_percent, texts))}</section>"
        )
    shown = f'<div class="cards c{len(queues)}">\n' + "\n".join(cards) + "\n</div>"
    if len(queues) > 1:
        shown += (
            f'\n<section class="sum" data-total><h2>{texts["total"]}</h2>'
            f"{_list(_figures(total, objective_percent, texts))}</section>"
        )
    return shown


def _list(figures: Sequence[_Figure]) -> str:
    shown = (f"<div><dt>{escape(f.label)}</dt><dd>{f.html}</dd></div>" for f in figures)
    return f"<dl>{''.join(shown)}</dl>"


def _table(
    queues: Sequence[QueueSummary],
    total: QueueSummary,
    objective_percent: float,
    texts: Mapping[str, str],
) -> str:
    columns = ("waiting", "longest", "agents", "level", "answered", "lost")
    headings = "".join(f'<th scope="col">{texts[name]}</th>' for name in columns)

    def row(queue: QueueSummary, name: str, what: str) -> str:
        state, sign = ("", "") if queue is total else _state(queue, texts)
        head = f'<div><span class="name">{escape(name)}</span>'
        head += f'<span class="sign">{escape(sign)}</span></div>'
        cells = "".join(map(_cell, _figures(queue, objective_percent, texts)))
        return f'<tr class="{state}" {what}><th scope="row">{head}</th>{cells}</tr>'

    rows = "\n".join(row(q, q.name, f'data-queue="{escape(q.name)}"') for q in queues)
    return (
        f'<table class="t{min(len(queues), MOST_LINES)}">'
        f'<thead><tr><th></th><th scope="colgroup" colspan="3">{texts["now"]}</th>'
        f'<th scope="colgroup" colspan="3">{texts["today"]}</th></tr>'
        f'<tr><th scope="col">{texts["queue"]}</th>{headings}</tr></thead>'
        f"<tbody>\n{rows}\n</tbody>"
        f"<tfoot>{row(total, texts['total'], 'data-total')}</tfoot></table>"
    )


def _cell(figure: _Figure) -> str:
    small = f" <small>{escape(figure.aside)}</small>" if figure.aside else ""
    return f"<td>{figure.html}{small}</td>"
