"""The page ``/``: where everything is, and whether all is well."""

from __future__ import annotations

from html import escape

from asterisk_exporter import __version__
from asterisk_exporter.live import Look
from asterisk_exporter.style import COLOURS, policy, static

STYLE = COLOURS + static("landing.css")
POLICY = policy(STYLE)


def page(look: Look, with_wallboard: bool) -> str:
    """Return the page as HTML."""
    links = [
        ("/metrics", "Metrics", "for Prometheus"),
        ("/-/healthy", "Health", "answers OK while this process lives"),
    ]
    if with_wallboard:
        links.append(("/wallboard", "Wallboard", "the queues, for the wall"))
    listed = "".join(
        f'<li><a href="{path}">{name}</a> <span class="muted">{text}</span></li>'
        for path, name, text in links
    )
    rows = [_row("Asterisk", look.error is None, "answers", "gives no figures", look.error)]
    for name, ok in look.journals:
        rows.append(_row(name, ok, "is read", "is not read", "The exporter's log says why."))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Asterisk exporter</title>
<link rel="icon" href="data:,">
<style>{STYLE}</style>
</head>
<body>
<main>
<h1>Asterisk exporter</h1>
<p class="muted">Version {escape(__version__)}</p>
<h2>Pages</h2>
<ul>{listed}</ul>
<h2>Now, at {look.at:%Y-%m-%d %H:%M:%S}</h2>
<table>{"".join(rows)}</table>
</main>
</body>
</html>
"""


def _row(name: str, ok: bool, good: str, bad: str, why: str | None) -> str:
    told = f'<span class="good">✓ {good}</span>'
    if not ok:
        told = f'<span class="bad">▲ {bad}</span><br>{escape(why or "")}'
    return f'<tr><th scope="row">{escape(name)}</th><td>{told}</td></tr>'
