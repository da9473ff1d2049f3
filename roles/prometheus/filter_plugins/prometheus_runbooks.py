"""The runbooks as pages that Prometheus itself serves; runs on the controller.

Prometheus takes the pages for console templates, so what looks like Go's template language acts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import PurePath
from typing import Any

STYLE = """
:root { color-scheme: light dark; --line: #8886; --dim: #8882; }
body { max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
body { font: 1.05rem/1.5 system-ui, sans-serif; }
h1 { overflow-wrap: anywhere; }
h2 { margin-top: 2rem; }
pre, code { font-family: ui-monospace, monospace; font-size: .92em; background: var(--dim); }
pre { padding: .7rem 1rem; overflow-x: auto; }
pre code { background: none; }
table { border-collapse: collapse; }
td, th { text-align: left; vertical-align: top; padding: .3rem 1rem .3rem 0; }
td, th, nav, .now { border-bottom: 1px solid var(--line); }
nav, .now { padding: .5rem 0; }
"""
PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title><style>{style}</style></head>
<body>
{body}
</body></html>
"""
#: What Prometheus fills in when somebody looks: the labels of one alert that fires,
LABELS = """{{ range $name, $value := .Labels }}
{{ if not (match "^(__name__|alert.*|job|severity)$" $name) }}
{{ $name }} <b>{{ $value }}</b>
{{ end }}
{{ end }}"""
#: for whom one alert fires at this moment,
FIRES_NOW = """
<div class="now">
{{ with query "ALERTS{alertname='ALERT',alertstate='firing'}" }}
<b>Fires now:</b>
<ul>{{ range . }}<li>LABELS</li>{{ end }}</ul>
{{ else }}
Does not fire now.
{{ end }}
</div>
""".replace("LABELS", LABELS)
#: and which do. Debian's Prometheus has no page of alerts of its own.
ALL_THAT_FIRE = """
{{ with query "ALERTS{alertstate='firing'}" }}
<table>
{{ range . }}
<tr>
<td>{{ .Labels.severity }}</td>
<td><a href="{{ .Labels.alertname }}.html">{{ .Labels.alertname }}</a></td>
<td>LABELS</td>
</tr>
{{ end }}
</table>
{{ else }}
<p>No alert fires.</p>
{{ end }}
""".replace("LABELS", LABELS)


def escaped(html: str) -> str:
    """Return HTML that Go's templates leave as it is."""
    return html.replace("{{", '{{"{{"}}')


def page(alert: str, markdown: str) -> str:
    """Return the page of one alert as a console template. Links to other runbooks stay links."""
    # Ansible loads all filters anew for each task; no other task should wait for this.
    from markdown_it import MarkdownIt  # noqa: PLC0415

    text = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    text = escaped(re.sub(r'href="(\w+)\.md"', r'href="\1.html"', text))
    nav = '<nav><a href="index.html">All alerts and runbooks</a></nav>'
    fires_now = FIRES_NOW.replace("'ALERT'", f"'{alert}'")
    heading, rest = text.split("</h1>", 1)
    body = f"{nav}\n{heading}</h1>{fires_now}{rest}"
    return PAGE.format(title=escape(alert), style=STYLE, body=body)


def meaning(markdown: str) -> str:
    """Return the first sentence of a runbook's first section, as plain text."""
    section = markdown.split("## ", 2)[1].split("\n", 1)[1].strip()
    sentence = re.split(r"(?<=[.:])\s", section.split("\n\n")[0].replace("\n", " "), maxsplit=1)[0]
    return sentence.replace("`", "").rstrip(":")


def index(runbooks: Mapping[str, str]) -> str:
    """Return the page that says which alerts fire and has all runbooks."""
    rows = "\n".join(
        f'<tr><td><a href="{alert}.html">{alert}</a></td><td>{escape(meaning(text))}</td></tr>'
        for alert, text in sorted(runbooks.items())
    )
    body = f"<h1>Alerts</h1>{ALL_THAT_FIRE}<h2>Runbooks</h2>\n" + escaped(
        f"<table>\n{rows}\n</table>"
    )
    return PAGE.format(title="Alerts", style=STYLE, body=body)


def files(
    runbooks: Mapping[str, str], directory: str, there: Iterable[str]
) -> list[dict[str, str | None]]:
    """Return the files of a directory as asterisk_config_files takes them.

    ``runbooks``: Markdown by the path of its file. ``there``: what the directory holds now; what is
    not wanted any more goes.
    """
    by_alert = {PurePath(path).stem: text for path, text in runbooks.items()}
    pages = {f"{directory}/{alert}.html": page(alert, text) for alert, text in by_alert.items()}
    pages[f"{directory}/index.html"] = index(by_alert)
    gone = [{"path": path, "content": None} for path in there if path not in pages]
    return [{"path": path, "content": text} for path, text in sorted(pages.items())] + gone


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"prometheus_runbook_files": files}
