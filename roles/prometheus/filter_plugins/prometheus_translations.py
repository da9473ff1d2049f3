"""The texts of the alerts in another language; runs on the controller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Rule = dict[str, Any]
Group = dict[str, Any]


def key_of(rule: Rule, alerts: Mapping[str, Any]) -> str:
    """Return under which key a translation has the texts of a rule.

    Where rules of one alert differ in their texts, it is the alert and the label that tells them
    apart: a template does not see the labels that a rule adds.
    """
    labels = rule.get("labels", {})
    keys = [f"{rule['alert']}/{labels.get(name)}" for name in ("window", "cause", "severity")]
    return next((key for key in keys if key in alerts), rule["alert"])


def texts_of(rule: Rule, translation: Mapping[str, Any]) -> dict[str, str]:
    """Return the annotations of an alert in the other language, those that there are.

    Prometheus writes durations as 1h 5m; the units become those of the language.
    """
    alerts = translation["alerts"]
    found: dict[str, str] = alerts.get(key_of(rule, alerts), {})
    units = "".join(
        f' | reReplaceAll "([0-9]){latin}" "$1 {unit}"'
        for latin, unit in translation["units"].items()
    )
    return {
        name: text.replace("| humanizeDuration", f"| humanizeDuration{units}")
        for name, text in found.items()
    }


def translated(groups: list[Group], translation: Mapping[str, Any]) -> list[Group]:
    """Return rule groups with the alerts' texts in the other language; with none, as they are."""
    if not translation:
        return groups
    return [
        {
            **group,
            "rules": [
                {**rule, "annotations": {**rule["annotations"], **texts_of(rule, translation)}}
                if "alert" in rule
                else rule
                for rule in group["rules"]
            ],
        }
        for group in groups
    ]


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, object]:
        """Return the filter by name."""
        return {"prometheus_rules_translated": translated}
