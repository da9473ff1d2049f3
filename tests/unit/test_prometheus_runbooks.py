"""The runbooks as pages: what Prometheus's templates must not touch, links, what goes."""

from __future__ import annotations

from pathlib import Path

import pytest
from scripts import load

ROOT = Path(__file__).parents[2]
RUNBOOKS = {path.stem: path.read_text() for path in (ROOT / "docs/runbooks").glob("*.md")}
MARKDOWN = """# Bad

## What it means

Something is `bad`: very. See [Worse](Worse.md).

```
echo "{{ x }}" <b>
```
"""


@pytest.fixture(scope="module")
def pages():
    return load("roles/prometheus/filter_plugins/prometheus_runbooks.py")


def test_what_looks_like_a_template_stays_text(pages):
    page = pages.page("Bad", MARKDOWN)
    assert 'echo &quot;{{"{{"}} x }}&quot; &lt;b&gt;' in page


def test_links_lead_to_pages_and_html_in_markdown_is_text(pages):
    page = pages.page("Bad", MARKDOWN + "\n<script>alert(1)</script>\n")
    assert '<a href="Worse.html">Worse</a>' in page
    assert "<script>" not in page


def test_the_page_asks_for_its_own_alert(pages):
    assert "ALERTS{alertname='Bad',alertstate='firing'}" in pages.page("Bad", MARKDOWN)


def test_the_index_has_the_first_sentence(pages):
    assert '<a href="Bad.html">Bad</a></td><td>Something is bad</td>' in pages.index(
        {"Bad": MARKDOWN}
    )


def test_what_is_not_wanted_any_more_goes(pages):
    files = pages.files({"docs/Bad.md": MARKDOWN}, "/d", ["/d/Bad.html", "/d/Old.html"])
    assert [(one["path"], one["content"] is None) for one in files] == [
        ("/d/Bad.html", False),
        ("/d/index.html", False),
        ("/d/Old.html", True),
    ]


@pytest.mark.parametrize("name", sorted(RUNBOOKS))
def test_every_runbook_becomes_a_page_and_links_only_to_others(pages, name):
    page = pages.page(name, RUNBOOKS[name])
    assert f"<title>{name}</title>" in page
    assert pages.meaning(RUNBOOKS[name]).strip()
    for link in pages.re.findall(r'href="(\w+)\.html"', page):
        assert link in {*RUNBOOKS, "index"}
