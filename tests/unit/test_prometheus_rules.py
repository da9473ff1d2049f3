"""The rules of the role prometheus as far as the controller makes them; promtool tests the rest."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scripts import load

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/prometheus"
RULE_FILES = sorted((ROLE / "files/rules").glob("*.yml"))


rules = load("roles/prometheus/filter_plugins/prometheus_rules.py")
DEFAULTS = {
    name.removeprefix("prometheus_"): value
    for name, value in yaml.safe_load((ROLE / "defaults/main.yml").read_text()).items()
}


def settings(**changed):
    return {**DEFAULTS, **changed}


def alerts(path):
    return [
        rule
        for group in yaml.safe_load(path.read_text())["groups"]
        for rule in group["rules"]
        if "alert" in rule
    ]


# --- objectives


@given(st.floats(min_value=50, max_value=99.9))
def test_every_window_of_every_objective_can_fire_and_the_faster_needs_more(objective):
    fast, middle, slow = (rules.burn_threshold(objective, pair) for pair in rules.PAIRS)
    budget = 1 - objective / 100
    # All calls late is a ratio of 1, and an objective that is just kept is one of the budget.
    assert budget == pytest.approx(slow)
    assert slow < middle < fast < 1


def test_the_rules_of_every_objective_have_thresholds_that_can_be_passed():
    for objective in (50 + step / 10 for step in range(500)):
        made = rules.thresholds(settings(service_level_objective=objective))
        found = {
            rule["labels"]["window"]: float(re.search(r"\+ (\S+)", rule["expr"])[1])
            for rule in made
            if rule["record"] == "queue:asterisk_queue_service_level_burn_threshold:ratio"
        }
        assert list(found) == ["1h", "6h", "3d"]
        assert 0 < found["3d"] < found["6h"] < found["1h"] < 1, objective


def test_the_stock_factors_are_used_where_they_can_fire():
    found = [rules.burn_threshold(99.9, pair) for pair in rules.PAIRS]
    assert found == pytest.approx([0.0144, 0.006, 0.001])
    # 14.4 and 6 times 0.2 are above 1.
    found = [rules.burn_threshold(80, pair) for pair in rules.PAIRS]
    assert found == pytest.approx([0.6, 0.4, 0.2])


# --- thresholds


def test_defaults_are_fine():
    assert rules.problems(settings()) == []


def test_every_setting_of_the_filter_is_a_variable_with_a_default():
    named = yaml.safe_load((ROLE / "vars/main.yml").read_text())["_prometheus_settings"]
    assert named == {name: f"{{{{ prometheus_{name} }}}}" for name in named}
    assert set(named) == {*rules.THRESHOLDS, "queues", "destinations"}
    assert set(named) <= set(DEFAULTS)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"service_level_objective": 0.8},
            "prometheus_service_level_objective is 0.8; write percent: 80",
        ),
        (
            {"service_level_objective": "lots"},
            "prometheus_service_level_objective is 'lots', which is no number",
        ),
        ({"service_level_objective": True}, "'True', which is no number"),
        ({"service_level_objective": float("nan")}, "'nan', which is no number"),
        ({"service_level_objective": 0}, "prometheus_service_level_objective is 0; write percent"),
        (
            {"service_level_objective": -5},
            "prometheus_service_level_objective is -5; write percent",
        ),
        (
            {"service_level_objective": 100},
            "_level_objective is 100; write percent, at least 1 and less than 100",
        ),
        ({"service_level_minimum_offered": 0}, "_offered is 0; write a whole number of at least 1"),
        (
            {"service_level_minimum_offered": 2.5},
            "prometheus_service_level_minimum_offered is 2.5; write a whole number",
        ),
        (
            {"queue_full_percent": 101},
            "prometheus_queue_full_percent is 101; write percent, at least 1 and at most 100",
        ),
        (
            {"missed_calls_critical": 1, "missed_calls_warning": 2},
            "prometheus_missed_calls_critical is 1, fewer than the 2 of",
        ),
        (
            {"queues": {"vip": {"service_level_objective": 0.95}}},
            "prometheus_queues: vip: service_level_objective is 0.95; write percent: 95",
        ),
        (
            {"queues": {"vip": {"objective": 95}}},
            "prometheus_queues: vip: 'objective' is no threshold of a queue; there are a",
        ),
        ({"queues": {"vip": 95}}, "prometheus_queues: vip must be a mapping"),
        ({"queues": []}, "prometheus_queues must be a mapping"),
        (
            {"destinations": {"sales": {"missed_calls_warning": 20}}},
            "prometheus_destinations: sales: missed_calls_critical is 10, fewer than the 20",
        ),
        (
            {"destinations": {"sales": {"longest_wait_seconds": 20}}},
            "sales: 'longest_wait_seconds' is no threshold of a destination",
        ),
    ],
)
def test_what_cannot_be_meant_is_named_with_what_to_write(changed, says):
    (problem,) = rules.problems(settings(**changed))
    assert says in problem


def test_numbers_may_be_text_as_the_command_line_gives_them():
    changed = {"service_level_objective": "90", "missed_calls_warning": "2"}
    assert rules.problems(settings(**changed)) == []
    assert "+ 0.9\n" in rules.thresholds(settings(**changed))[0]["expr"]


def test_a_queue_has_its_own_threshold_and_any_other_the_default():
    made = rules.thresholds(settings(queues={"vip": {"longest_wait_seconds": 60}}))
    (rule,) = [
        r for r in made if r["record"] == "queue:asterisk_queue_longest_wait_threshold:seconds"
    ]
    assert rule["expr"] == (
        "max by (job, instance, queue) (\n"
        '  0 * asterisk_queue_longest_wait_seconds{queue="vip"} + 60\n'
        "    or\n"
        "  0 * asterisk_queue_longest_wait_seconds + 120\n"
        ")"
    )


@given(st.text())
def test_a_name_cannot_leave_its_quotes(name):
    made = rules.thresholds(settings(queues={name: {"longest_wait_seconds": 60}}))
    (rule,) = [
        r for r in made if r["record"] == "queue:asterisk_queue_longest_wait_threshold:seconds"
    ]
    line = rule["expr"].split("\n")[1]
    before, after = "  0 * asterisk_queue_longest_wait_seconds{queue=", "} + 60"
    assert line.startswith(before)
    assert line.endswith(after)
    assert json.loads(line[len(before) : -len(after)]) == name


@pytest.mark.parametrize(("text", "seconds"), [("15m", "900"), ("1h30m", "5400"), ("500ms", "0.5")])
def test_the_window_is_known_in_seconds(text, seconds):
    assert rules.recent(text)[0]["expr"] == f"vector({seconds})"


# --- rendering

FILE = """
groups:
  - name: some
    interval: 1m
    rules:
      - {record: "a:b:c", expr: "1"}
      - alert: Bad
        expr: bad > 0
        for: 1m
        annotations: {summary: "{{ $value }}", dashboard: asterisk-queues}
"""


def rendered(**how):
    ((group,),) = [rules.rendered(FILE, "some.yml", how.pop("alert_for", {}), **how)]
    return group


def test_a_rule_file_stays_what_it_is():
    assert rendered() == {
        "name": "some",
        "interval": "1m",
        "rules": [
            {"record": "a:b:c", "expr": "1"},
            {
                "alert": "Bad",
                "expr": "bad > 0",
                "for": "1m",
                "annotations": {"summary": "{{ $value }}"},
            },
        ],
    }


def test_an_alert_gets_its_duration_its_page_and_its_dashboard():
    alert = rendered(
        alert_for={"Bad": "10s", "Other": "1h"},
        grafana_url="https://grafana.example.net/",
        runbook_url="https://wiki.example.net/{alert}.html",
    )["rules"][1]
    assert alert["for"] == "10s"
    assert alert["annotations"] == {
        "summary": "{{ $value }}",
        "runbook_url": "https://wiki.example.net/Bad.html",
        "dashboard_url": "https://grafana.example.net/d/asterisk-queues"
        '?{{ if eq $labels.job "asterisk" }}var-pbx={{ $labels.instance | urlquery }}{{ end }}'
        "{{ with $labels.queue }}&var-queue={{ . | urlquery }}{{ end }}",
    }


@pytest.mark.parametrize(
    "text", ["", "[]", "groups: {}", "groups: [a]", "groups: [{name: a}]", "a: b: c"]
)
def test_what_is_no_rule_file_is_named(text):
    with pytest.raises(ValueError, match=r"^some\.yml is no"):
        rules.rendered(text, "some.yml", {})


# --- the role's own files


def test_recording_rules_are_up_to_date():
    generator = ROLE / "files/generate_recording_rules.py"
    assert subprocess.run([sys.executable, generator, "--check"], check=False).returncode == 0, (
        f"run {generator}"
    )


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.stem)
def test_every_alert_has_what_a_person_needs(path):
    for alert in alerts(path):
        name, annotations = alert["alert"], alert["annotations"]
        assert alert["labels"]["severity"] in {"critical", "warning", "info"}, name
        assert set(annotations) - {"dashboard"} == {"summary", "description", "action"}, name
        for text in annotations.values():
            assert text == text.strip(), name
            assert "\n" not in text, name


TESTED = {
    test["alertname"]
    for path in (ROOT / "tests/rules").glob("*.yml")
    for case in yaml.safe_load(path.read_text())["tests"]
    for test in case.get("alert_rule_test", [])
    if test["exp_alerts"] and all(alert["exp_annotations"] for alert in test["exp_alerts"])
}


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.stem)
def test_every_alert_is_seen_firing_by_a_test_that_compares_its_text(path):
    assert {alert["alert"] for alert in alerts(path)} <= TESTED


@pytest.mark.parametrize("path", RULE_FILES, ids=lambda path: path.stem)
def test_every_alert_has_a_runbook_and_a_row_in_the_readme(path):
    readme = (ROLE / "README.md").read_text()
    for alert in alerts(path):
        name, severity = alert["alert"], alert["labels"]["severity"]
        page = (ROOT / f"docs/runbooks/{name}.md").read_text()
        assert page.startswith(f"# {name}\n")
        headings = re.findall(r"^## (.*)", page, re.MULTILINE)
        assert headings == [
            "What it means", "What to look at", "What to do", "Why it may be wrong",
        ], name  # fmt: skip
        assert re.search(rf"^\| `{name}`.*\|.*\b{severity}\b", readme, re.MULTILINE), name
