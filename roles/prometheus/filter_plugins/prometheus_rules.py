"""Filters of the role prometheus; they run on the controller."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

Rule = dict[str, Any]
Group = dict[str, Any]
Settings = Mapping[str, Any]

#: Where thresholds of one queue or destination stand in the inventory, by label.
OVERRIDES = {"queue": "queues", "destination": "destinations"}


@dataclass(frozen=True)
class Pair:
    """Two windows of a burn-rate alert: ``factor`` is the stock one, ``cap`` see burn_threshold."""

    window: str
    factor: float
    cap: float


#: 14.4, 6 and 1 spend 2 % of a 30-day budget in an hour, 5 % in 6 hours, 10 % in 3 days.
PAIRS = (Pair("1h", 14.4, 1 / 2), Pair("6h", 6, 1 / 4), Pair("3d", 1, 0))


def burn_threshold(objective: float, pair: Pair) -> float:
    """Return above which share of late and lost calls a burn-rate alert fires.

    The stock threshold is factor * b with the budget b = 1 - objective. It was made for objectives
    such as 99.9 %: at 80 % it is 14.4 * 0.2 = 2.88, and no share of calls is above 1. So it
    is capped between b, where the objective is just kept, and 1, where no call is in time: half
    way for the fast pair, a quarter for the middle one, not above b for the slow one. With
    0 < b < 1 therefore b <= slow < middle < fast < 1: each can fire, and the faster needs more.
    """
    budget = (100 - objective) / 100
    return min(pair.factor * budget, budget + (1 - budget) * pair.cap)


def burn(objective: float) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield the series that an objective in percent makes: record, labels, value."""
    yield "queue:asterisk_queue_service_level_objective:ratio", {}, objective / 100
    for pair in PAIRS:
        record = "queue:asterisk_queue_service_level_burn_threshold:ratio"
        yield record, {"window": pair.window}, burn_threshold(objective, pair)


def as_series(
    record: str, scale: float = 1, **labels: str
) -> Callable[[float], Iterator[tuple[str, dict[str, str], float]]]:
    """Return what makes a setting one series, in the unit of what it is compared with."""

    def made(value: float) -> Iterator[tuple[str, dict[str, str], float]]:
        yield record, labels, value * scale

    return made


@dataclass(frozen=True)
class Threshold:
    """A setting: ``series`` has the labels that its threshold needs, and ``makes`` is what for.

    The value is at least ``least`` and below ``below``; ``whole`` if there are no halves of it.
    """

    label: str
    series: str
    makes: Callable[[float], Iterator[tuple[str, dict[str, str], float]]]
    least: float
    below: float = math.inf
    whole: bool = False
    percent: bool = False


OFFERED = "asterisk_queue_calls_offered_total"
WAIT = "asterisk_queue_longest_wait_seconds"
OUTSTANDING = "asterisk_missed_calls_outstanding"
#: By the name of the variable without prometheus_. What is compared with live figures takes its
#: labels from them, what is compared with history from history, which stays when Asterisk is down.
THRESHOLDS = {
    "service_level_objective": Threshold("queue", OFFERED, burn, 1, 100, percent=True),
    "service_level_minimum_offered": Threshold(
        "queue",
        OFFERED,
        as_series("queue:asterisk_queue_service_level_minimum_offered:count"),
        1,
        whole=True,
    ),
    "abandonment_percent": Threshold(
        "queue",
        OFFERED,
        as_series("queue:asterisk_queue_abandonment_threshold:ratio", 0.01),
        1,
        100,
        percent=True,
    ),
    "abandonment_minimum_offered": Threshold(
        "queue",
        OFFERED,
        as_series("queue:asterisk_queue_abandonment_minimum_offered:count"),
        1,
        whole=True,
    ),
    "longest_wait_seconds": Threshold(
        "queue", WAIT, as_series("queue:asterisk_queue_longest_wait_threshold:seconds"), 1
    ),
    "queue_full_percent": Threshold(
        "queue",
        "asterisk_queue_callers",
        as_series("queue:asterisk_queue_callers_threshold:ratio", 0.01),
        1,
        100.1,
        percent=True,
    ),
    "ring_no_answer_count": Threshold(
        "queue",
        OFFERED,
        as_series("queue:asterisk_queue_ring_no_answer_threshold:count"),
        1,
        whole=True,
    ),
    "missed_calls_warning": Threshold(
        "destination",
        OUTSTANDING,
        as_series("destination:asterisk_missed_calls_threshold:count", severity="warning"),
        1,
        whole=True,
    ),
    "missed_calls_critical": Threshold(
        "destination",
        OUTSTANDING,
        as_series("destination:asterisk_missed_calls_threshold:count", severity="critical"),
        1,
        whole=True,
    ),
    "missed_calls_critical_percent": Threshold(
        "destination",
        OUTSTANDING,
        as_series("destination:asterisk_missed_calls_threshold:ratio", 0.01),
        1,
        100.1,
        percent=True,
    ),
    "missed_calls_outstanding": Threshold(
        "destination",
        OUTSTANDING,
        as_series("destination:asterisk_missed_calls_outstanding_threshold:count"),
        1,
        whole=True,
    ),
    "missed_calls_outstanding_minutes": Threshold(
        "destination",
        OUTSTANDING,
        as_series("destination:asterisk_missed_calls_outstanding_threshold:seconds", 60),
        1,
    ),
}


def number(value: object) -> float | None:
    """Return a setting as a number, which may be written as text; None if it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def value_problem(threshold: Threshold, value: object) -> str | None:
    """Return what is wrong with the value of one threshold, as the end of a sentence."""
    found = number(value)
    if found is None:
        return f"is '{value}', which is no number."
    if threshold.percent and 0 < found < 1:
        return f"is {value}; write percent: {found * 100:g}, not {value}."
    if threshold.least <= found < threshold.below and not (threshold.whole and found % 1):
        return None
    kind = "a whole number" if threshold.whole else "percent" if threshold.percent else "a number"
    if threshold.below == math.inf:
        return f"is {value}; write {kind} of at least {threshold.least:g}."
    top = "at most 100" if threshold.below > 100 else "less than 100"
    return f"is {value}; write {kind}, at least {threshold.least:g} and {top}."


def override_problems(settings: Settings, label: str) -> Iterator[str]:
    """Yield what is wrong with the thresholds of single queues or destinations."""
    variable = f"prometheus_{OVERRIDES[label]}"
    known = sorted(name for name, threshold in THRESHOLDS.items() if threshold.label == label)
    overrides = settings[OVERRIDES[label]]
    if not isinstance(overrides, Mapping):
        yield f"{variable} must be a mapping: a {label}'s name, then its thresholds."
        return
    for name, values in overrides.items():
        if not isinstance(values, Mapping):
            yield f"{variable}: {name} must be a mapping of thresholds, such as {known[0]}."
            continue
        for setting, value in values.items():
            if setting not in known:
                yield (
                    f"{variable}: {name}: '{setting}' is no threshold of a {label}; "
                    f"there are {', '.join(known)}."
                )
            elif problem := value_problem(THRESHOLDS[setting], value):
                yield f"{variable}: {name}: {setting} {problem}"


def problems(settings: Settings) -> list[str]:
    """Return one sentence for each threshold that cannot be meant so."""
    found = [
        f"prometheus_{name} {problem}"
        for name, threshold in THRESHOLDS.items()
        if (problem := value_problem(threshold, settings[name]))
    ]
    for label in OVERRIDES:
        found.extend(override_problems(settings, label))
    if found:
        return found
    everywhere = {"": {}, **settings["destinations"]}
    for destination, values in everywhere.items():
        warning, critical = (
            float(values.get(name, settings[name]))
            for name in ("missed_calls_warning", "missed_calls_critical")
        )
        if critical < warning:
            where = f"prometheus_destinations: {destination}: " if destination else "prometheus_"
            found.append(
                f"{where}missed_calls_critical is {critical:g}, fewer than the {warning:g} "
                "of missed_calls_warning; write at least as many."
            )
    return found


def thresholds(settings: Settings) -> list[Rule]:
    """Return the recording rules for all thresholds.

    A threshold is a series with the labels of what it is compared with, so that a rule stays a
    plain comparison and a dashboard can draw it. The monitoring host does not know the
    queues; one that the inventory does not name has the default.
    """
    rules = []
    for name, threshold in THRESHOLDS.items():
        of_one = {
            f"{threshold.series}{{{threshold.label}={quoted(which)}}}": float(values[name])
            for which, values in settings[OVERRIDES[threshold.label]].items()
            if name in values
        }
        # The first that matches counts, the default is the last.
        cases = {**of_one, threshold.series: float(settings[name])}
        for made in zip(*(threshold.makes(value) for value in cases.values())):
            record, labels, _ = made[0]
            terms = "\n    or\n".join(
                f"  0 * {series} + {figure(value)}" for series, (_, _, value) in zip(cases, made)
            )
            rule = {
                "record": record,
                "expr": f"max by (job, instance, {threshold.label}) (\n{terms}\n)",
            }
            rules.append({**rule, "labels": labels} if labels else rule)
    return rules


def recent(window: str) -> list[Rule]:
    """Return the recording rules for missed calls in the inventory's window.

    increase() is no whole number, hence the rounding.
    """
    missed = "asterisk_missed_calls_total"
    inbound = 'asterisk_calls_total{direction="inbound"}'
    return [
        {
            "record": "asterisk_missed_calls_recent_window:seconds",
            "expr": f"vector({seconds(window)})",
        },
        {
            "record": "destination:asterisk_missed_calls_recent:count",
            "expr": f"""\
round(sum by (job, instance, destination) (
{grown(missed, window)}
))""",
        },
        {
            "record": "destination:asterisk_missed_calls_recent:ratio",
            "expr": f"""\
clamp_max(
  destination:asterisk_missed_calls_recent:count
    / on (job, instance) group_left ()
  (round(sum by (job, instance) (
{grown(inbound, window)}
  )) > 0), 1)""",
        },
    ]


def grown(series: str, window: str) -> str:
    """Return PromQL for how much a counter has grown in a window, where increase() is blind.

    increase() does not see the first value of a series. A destination that appears with its first
    missed call is known by this: a window ago the same exporter had other destinations. Then all
    of its value is new. And when nobody has looked for a window (Prometheus or the exporter was
    away), what counts is the growth since the last look of that day.
    """
    return f"""\
  ({series} unless {series} offset {window})
    and on (job, instance) {series} offset {window}
    or
  ({series} - last_over_time({series}[1d] offset {window}) >= 0
    unless on (job, instance) {series} offset {window})
    or
  increase({series}[{window}])"""


def seconds(duration: str) -> str:
    """Return a duration of Prometheus, such as 1h30m, in seconds."""
    units = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
    parts = re.findall(r"(\d+)(ms|[smhdwy])", duration)
    return figure(sum(int(count) * units[unit] for count, unit in parts))


def figure(value: float) -> str:
    """Return a number as PromQL reads it."""
    return f"{value:.10g}"


def quoted(text: object) -> str:
    """Return a text as a string of PromQL, whose escapes are those of JSON."""
    return json.dumps(str(text), ensure_ascii=False)


def generated(settings: Settings, window: str) -> list[Group]:
    """Return the rule groups that depend on the inventory."""
    return [{"name": "thresholds", "rules": [*thresholds(settings), *recent(window)]}]


def rendered(
    text: str,
    name: str,
    alert_for: Mapping[str, str],
    grafana_url: str = "",
    runbook_url: str = "",
) -> list[Group]:
    """Return the groups of a rule file, ready for Prometheus.

    ``alert_for`` has `for` by alert. Each alert gets a runbook_url with its name in place of
    {alert}; the file's annotation `dashboard`, a uid, becomes the address of that dashboard, with
    the PBX and the queue that the alert is about. An empty address leaves the annotation out.
    """
    return [
        {
            **group,
            "rules": [
                rendered_rule(rule, alert_for, grafana_url, runbook_url) for rule in group["rules"]
            ],
        }
        for group in groups(text, name)
    ]


def groups(text: str, name: str) -> list[Group]:
    """Return the groups of one rule file; ValueError names the file that is none."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name} is not YAML: {error}") from error
    found = content.get("groups") if isinstance(content, dict) else None
    if not isinstance(found, list) or not all(
        isinstance(group, dict) and isinstance(group.get("rules"), list) for group in found
    ):
        raise ValueError(f"{name} is no rule file: it must have groups, and each of them rules.")
    return found


def rendered_rule(
    rule: Rule, alert_for: Mapping[str, str], grafana_url: str, runbook_url: str
) -> Rule:
    """Return one rule with what the inventory says about it."""
    if "alert" not in rule:
        return rule
    alert = rule["alert"]
    annotations = dict(rule.get("annotations", {}))
    dashboard = annotations.pop("dashboard", None)
    if runbook_url:
        annotations["runbook_url"] = runbook_url.replace("{alert}", alert)
    if dashboard and grafana_url:
        annotations["dashboard_url"] = (
            f"{grafana_url.rstrip('/')}/d/{dashboard}"
            '?{{ if eq $labels.job "asterisk" }}var-pbx={{ $labels.instance | urlquery }}{{ end }}'
            "{{ with $labels.queue }}&var-queue={{ . | urlquery }}{{ end }}"
        )
    override = {"for": alert_for[alert]} if alert in alert_for else {}
    return {**rule, **override, "annotations": annotations}


class FilterModule:
    """Make the filters known to Ansible."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {
            "prometheus_rules_generated": generated,
            "prometheus_rules_problems": problems,
            "prometheus_rules_rendered": rendered,
            "prometheus_seconds": lambda duration: float(seconds(duration)),
        }
