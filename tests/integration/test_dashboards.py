"""Every query of every panel against the lab's Prometheus, as Grafana would ask it."""

from __future__ import annotations

import json
import math
import re
import time
import urllib.parse
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from lab import ROOT, Lab, wait_until

Model = dict[str, Any]
DASHBOARDS: list[Model] = [
    json.loads(path.read_text())
    for path in sorted((ROOT / "roles/grafana/files/dashboards").glob("*.json"))
]

#: Panels that show nothing in the lab, and why. The test fails when one of them has data.
NO_DATA = {
    "asterisk-exporter: Missed calls waiting for the notifier": "the lab has no CRM to notify",
    "asterisk-trunks: Outbound registrations": "the lab's trunk registers nowhere",
    "asterisk-voice: Round trip, worst 5 %": "SIPp answers no RTCP, so nobody knows the round trip",
    "asterisk-voice: Round trip time": "SIPp answers no RTCP, so nobody knows the round trip",
}
#: A healthy lab fires none: this one has a test of its own.
ALERTS = "asterisk-overview: Alerts that fire"

PANELS = {
    f"{model['uid']}: {panel['title']}": (model, panel)
    for model in DASHBOARDS
    for panel in model["panels"]
    if panel.get("targets")
}
QUERIES = [
    pytest.param(name, target, id=f"{name}: {target['refId']}")
    for name, (_, panel) in PANELS.items()
    for target in panel["targets"]
    if name not in {ALERTS, *NO_DATA}
]
SCRAPE_SECONDS = 5


def values_of(lab: Lab, variable: Model) -> list[str]:
    """Return what label_values() of a variable's query has."""
    found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
    assert found
    match = urllib.parse.quote(found[1].replace('instance=~"$pbx"', ""))
    api = f"{lab.url('prometheus')}/api/v1/label/{found[2]}/values?match[]={match}"
    values: list[str] = json.loads(lab.get(api, 10))["data"]
    return values


def duration(text: str) -> float:
    """Return the seconds of now/d, now-24h or 10m."""
    if text == "now/d":
        midnight = time.mktime((*time.localtime()[:3], 0, 0, 0, 0, 0, -1))
        return max(time.time() - midnight, 60)
    number, unit = re.fullmatch(r"(?:now-)?(\d+)([mh])", text).groups()  # type: ignore[union-attr]
    return int(number) * {"m": 60, "h": 3600}[unit]


def ask(lab: Lab, model: Model, panel: Model, target: Model) -> list[Model]:
    """Return the series of a query that have a number, its variables replaced as Grafana does."""
    seconds = duration(panel.get("timeFrom") or model["time"]["from"])
    # A panel is about 1000 pixels wide.
    step = max(seconds / 1000, duration(panel.get("interval", "0m")), SCRAPE_SECONDS)
    replaced = {
        "$__range": f"{seconds:.0f}s",
        "$__rate_interval": f"{max(step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS):.0f}s",
    }
    for variable in model["templating"]["list"]:
        if variable["type"] == "query":
            escaped = [
                re.sub(r"[\\^$*{}\[\]'+?.()|]", r"\\\\\g<0>", value)
                for value in values_of(lab, variable)
            ]
            assert escaped, variable["name"]
            replaced[f"${variable['name']}"] = (
                escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})"
            )
    expr = target["expr"]
    for name, value in sorted(replaced.items(), reverse=True):
        expr = expr.replace(name, value)
    assert "$" not in expr
    now = time.time()
    arguments: dict[str, Any] = {"query": expr}
    if target["instant"]:
        path = "query"
    else:
        path = "query_range"
        # Grafana moves the ends to multiples of the step; here the last one is now.
        arguments |= {"start": now - seconds // step * step, "end": now, "step": step}
    url = f"{lab.url('prometheus')}/api/v1/{path}?{urllib.parse.urlencode(arguments)}"
    result: list[Model] = json.loads(lab.get(url, 10))["data"]["result"]
    return [
        series
        for series in result
        if any(
            math.isfinite(float(value)) for _, value in series.get("values") or [series["value"]]
        )
    ]


#: An answered call, one that goes out, one that the CRM routes, and one that is missed because the
#: only member who is not paused lets it ring; that member logs in, pauses for a moment, and goes.
#: The last is the second to vip that is answered: rate() sees no first one of a histogram.
CALLS = """
end() {
    asterisk -rx 'queue remove member PJSIP/106 from support'
    for phone in 101 102 103; do
        asterisk -rx "queue unpause member PJSIP/$phone queue support"
    done
    sed -i 's/^ANSWER_AFTER_106=.*/ANSWER_AFTER_106=8000/' /usr/local/share/lab/answer-after
    systemctl restart lab-phone@106
}
trap end EXIT
set -e
sed -i 's/^ANSWER_AFTER_106=.*/ANSWER_AFTER_106=60000/' /usr/local/share/lab/answer-after
systemctl restart lab-phone@106
asterisk -rx 'queue add member PJSIP/106 to support'
for phone in 101 102 103 106; do
    asterisk -rx "queue pause member PJSIP/$phone queue support"
done
lab-call provider +4915550071 +493055502 14 & answered=$!
lab-call extension 101 0004915550073 6 & out=$!
lab-call provider +491701234567 +493055505 8 &
sleep 6
asterisk -rx 'queue unpause member PJSIP/106 queue support'
lab-call provider +4915550072 +493055501 30
lab-call provider +4915550074 +493055503 5
wait $answered
wait $out
"""


@pytest.fixture(scope="module")
def calls(lab: Lab) -> Callable[[], None]:
    """Place the calls of today: some panels know nothing of those before midnight."""
    placed: set[date] = set()

    def place() -> None:
        if date.today() not in placed:
            placed.add(date.today())
            lab.run(CALLS)

    place()
    return place


@pytest.mark.parametrize(("name", "target"), QUERIES)
def test_every_panel_shows_something(
    lab: Lab, calls: Callable[[], None], name: str, target: Model
) -> None:
    model, panel = PANELS[name]

    def shown() -> list[Model]:
        calls()
        return ask(lab, model, panel, target)

    # Records are counted seconds after a call, and rules over long windows evaluated every 2 min.
    found = wait_until(shown, 300, f"data for {target['expr']}")
    labels = set.union(*(set(series["metric"]) for series in found))
    if panel["type"] == "table":
        (organize,) = (t for t in panel["transformations"] if t["id"] == "organize")
        headings = {n for n in organize["options"]["renameByName"] if not n.startswith("Value")}
        assert labels == headings
    else:
        assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= labels


@pytest.mark.usefixtures("calls")
@pytest.mark.parametrize("name", NO_DATA)
def test_what_shows_nothing_here_shows_nothing(lab: Lab, name: str) -> None:
    model, panel = PANELS[name]
    # Now: another test may have made the lab have it for a while.
    found = [ask(lab, model, panel, target | {"instant": True}) for target in panel["targets"]]
    assert found == [[]] * len(found), f"it has data: {NO_DATA[name]} is no longer so"


def test_an_alert_is_listed_and_marked(lab: Lab, started: Callable[[str], None]) -> None:
    model, panel = PANELS[ALERTS]
    (target,) = panel["targets"]
    started("asterisk")
    lab.run("systemctl stop asterisk")

    def listed() -> list[Model]:
        found = ask(lab, model, panel, target)
        return [row for row in found if row["metric"]["alertname"] == "AsteriskDown"]

    (row,) = wait_until(listed, 90, "AsteriskDown in the table")
    assert set(row["metric"]) <= set(panel["transformations"][1]["options"]["renameByName"])
    assert row["metric"]["severity"] == "critical"
    assert 0 <= time.time() - float(row["value"][1]) / 1000 < 120
    mark = {"expr": model["annotations"]["list"][0]["expr"], "instant": False}

    def marked() -> bool:
        return "AsteriskDown" in {m["metric"]["alertname"] for m in ask(lab, model, panel, mark)}

    # The last point of a range is up to a step ago, which late in the day is 86 s.
    wait_until(marked, 150, "AsteriskDown as an annotation")
