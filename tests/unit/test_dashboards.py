"""The dashboards: generated, complete, and made of what the appliance has."""

import functools
import itertools
import json
import re
from pathlib import Path

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from scripts import load

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(ROOT.glob("roles/grafana/files/dashboards/*.json"))
MODELS = {path.stem: json.loads(path.read_text()) for path in FILES}
UIDS = {
    "asterisk-overview",
    "asterisk-queues",
    "asterisk-agents",
    "asterisk-trunks",
    "asterisk-voice",
    "asterisk-exporter",
}
# Panels that every Grafana has. No pie charts, and no gauges.
CORE_PANELS = {
    "row",
    "stat",
    "timeseries",
    "table",
    "bargauge",
    "heatmap",
    "state-timeline",
    "text",
}
PANELS = [
    pytest.param(panel, id=f"{uid}: {panel['title']}")
    for uid, model in MODELS.items()
    for panel in model["panels"]
    if panel["type"] != "row"
]
QUERIES = [
    pytest.param(target["expr"], id=f"{param.id}: {target['refId']}")
    for param in PANELS
    for target in param.values[0].get("targets", [])
]
# Names that Grafana itself replaces.
BUILT_IN = {"__range", "__rate_interval", "__value"}
# Prometheus makes these, and its Python client.
OTHER_NAMES = {
    "ALERTS",
    "ALERTS_FOR_STATE",
    "up",
    "scrape_duration_seconds",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
}


def generator():
    return load("roles/grafana/dashboards.py")


def names(expr):
    """Return the metrics of an expression: every name that is no label, function or keyword."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|offset \$__range', "", expr)
    bare = re.sub(r"\b(by|on|ignoring|without|group_left) ?\([^)]*\)", "", bare)
    words = set(re.findall(r"[a-zA-Z_:][\w:]*\b(?!\s*\()", bare))
    return words - {"and", "or", "unless", "bool"}


@functools.cache
def known_names():
    """Return every word of the exporter, of its metrics' page and of the role prometheus."""
    places = [ROOT / "docs" / "metrics.md"]
    for pattern in ("exporter/**/*.py", "roles/prometheus/**/*.py", "roles/prometheus/**/*.yml"):
        places += ROOT.glob(pattern)
    words = set()
    for place in places:
        words |= set(re.findall(r"[a-zA-Z_:][\w:]*", place.read_text()))
    return words | OTHER_NAMES


def test_the_files_are_what_the_module_makes():
    files = generator().generate()
    stale = [
        str(path.relative_to(ROOT))
        for path, text in files.items()
        if not path.exists() or path.read_text() != text
    ]
    stale += [str(path.relative_to(ROOT)) for path in FILES if path not in files]
    assert stale == [], "run .venv/bin/python roles/grafana/dashboards.py"


def test_the_uids_are_those_that_alerts_link_to():
    assert {model["uid"] for model in MODELS.values()} == set(MODELS) == UIDS


@pytest.mark.parametrize("uid", MODELS)
def test_grafana_s_types_know_every_key(uid):
    """What the SDK's types do not know is lost on the way through them."""
    register_default_plugins()
    model = json.loads(json.dumps(MODELS[uid]))
    for annotation in model["annotations"]["list"]:
        for extra in ("titleFormat", "textFormat", "tagKeys"):
            assert annotation.pop(extra)
    assert json.loads(json.dumps(Dashboard.from_json(model), cls=JSONEncoder)) == model
    assert model["schemaVersion"] == 41


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_is_one_of_grafana_s_own_and_says_what_it_shows(panel):
    assert panel["type"] in CORE_PANELS
    assert panel["title"]
    assert len(panel["description"]) > 10
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for target in panel.get("targets", []):
        assert target["datasource"] == panel["datasource"]


@pytest.mark.parametrize("panel", PANELS)
def test_every_number_has_a_unit(panel):
    if panel["type"] == "text":
        return
    assert panel["fieldConfig"]["defaults"]["unit"]
    if panel["type"] == "table":
        (organize,) = (t for t in panel["transformations"] if t["id"] == "organize")
        renamed = organize["options"]["renameByName"]
        headings = {title for name, title in renamed.items() if name.startswith("Value")}
        with_unit = {
            override["matcher"]["options"]
            for override in panel["fieldConfig"]["overrides"]
            if any(shown["id"] == "unit" for shown in override["properties"])
        }
        assert len(headings) == len(panel["targets"])
        assert headings == with_unit


@pytest.mark.parametrize("panel", PANELS)
def test_tables_sort_by_a_column_that_they_have(panel):
    if panel["type"] == "table":
        (organize,) = (t for t in panel["transformations"] if t["id"] == "organize")
        (sort,) = panel["options"]["sortBy"]
        assert sort["displayName"] in organize["options"]["renameByName"].values()


@pytest.mark.parametrize("panel", PANELS)
def test_graphs_have_their_legend_in_a_sorted_table(panel):
    if panel["type"] == "timeseries":
        legend = panel["options"]["legend"]
        assert legend["displayMode"] == "table"
        assert legend["sortBy"].lower() in legend["calcs"]


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_of_today_shows_today_whatever_is_chosen(panel):
    said = "today" in panel["title"].lower()
    assert (panel.get("timeFrom") == "now/d") == said


@pytest.mark.parametrize("uid", MODELS)
def test_titles_are_unique(uid):
    titles = [panel["title"] for panel in MODELS[uid]["panels"]]
    assert len(titles) == len(set(titles))


@pytest.mark.parametrize("uid", MODELS)
def test_panels_lie_beside_each_other(uid):
    places = [(panel["title"], panel["gridPos"]) for panel in MODELS[uid]["panels"]]
    assert [title for title, at in places if at["x"] + at["w"] > 24] == []
    overlaps = [
        (one, other)
        for (one, a), (other, b) in itertools.combinations(places, 2)
        if a["x"] < b["x"] + b["w"]
        and b["x"] < a["x"] + a["w"]
        and a["y"] < b["y"] + b["h"]
        and b["y"] < a["y"] + a["h"]
    ]
    assert overlaps == []


@pytest.mark.parametrize("uid", MODELS)
def test_variables_that_are_used_are_there_and_the_other_way_round(uid):
    model = MODELS[uid]
    defined = [variable["name"] for variable in model["templating"]["list"]]
    without = {**model, "uid": None}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(without))) - BUILT_IN
    assert used == set(defined) | ({"__all"} & used)
    assert len(defined) == len(set(defined))


@pytest.mark.parametrize("expr", QUERIES)
def test_windows_follow_the_time_range(expr):
    """A fixed window shows too little or too much in another time range, or at a slow scrape."""
    windows = set(re.findall(r"\[([^\]]*)\]", expr))
    assert windows <= {"$__rate_interval", "$__range"}
    assert not re.search(r"\brate\([^[]*\[\$__range", expr)


@pytest.mark.parametrize("expr", QUERIES)
def test_queries_keep_to_the_chosen_pbxs(expr):
    if "ALERTS" not in expr:
        assert len(re.findall(r'instance=~"\$pbx"', expr)) == len(re.findall(r"\{", expr))


@pytest.mark.parametrize("expr", QUERIES)
def test_queries_ask_for_metrics_that_there_are(expr):
    known = known_names()
    unknown = {
        name
        for name in names(expr)
        if name not in known and re.sub(r"_(bucket|count|sum|total)$", "", name) not in known
    }
    assert names(expr)
    assert unknown == set()


@pytest.mark.parametrize("uid", MODELS)
def test_dashboards_lead_to_the_others_and_to_the_runbooks(uid):
    others, runbooks = MODELS[uid]["links"]
    assert others["type"] == "dashboards"
    assert set(others["tags"]) <= set(MODELS[uid]["tags"])
    assert others["includeVars"]
    assert others["keepTime"]
    assert runbooks["url"].startswith("${runbooks}/")


@pytest.mark.parametrize("uid", MODELS)
def test_alerts_are_marks_on_the_time_axis(uid):
    (alerts,) = MODELS[uid]["annotations"]["list"]
    assert alerts["enable"]
    assert 'ALERTS{alertstate="firing"' in alerts["expr"]


@pytest.mark.parametrize("uid", MODELS)
def test_the_role_finds_where_to_put_the_address_of_the_runbooks(uid):
    text = (ROOT / f"roles/grafana/files/dashboards/{uid}.json").read_text()
    assert text.count(generator().RUNBOOKS) == 1
