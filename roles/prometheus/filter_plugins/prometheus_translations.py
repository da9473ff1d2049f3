"""The texts of the alerts in another language; runs on the controller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Rule = dict[str, Any]
Group = dict[str, Any]


def texts_of(rule: Rule, translation: Mapping[str, Any]) -> dict[str, str]:
    """Return the annotations of an alert in the other language, those that there are.

    A rule with the label window has texts of its own, as a template does not see the labels that a
    rule adds. Prometheus writes durations as 1h 5m; the units become those of the language.
    """
    alert, window = rule["alert"], rule.get("labels", {}).get("window")
    alerts = translation["alerts"]
    found: dict[str, str] = alerts.get(f"{alert}/{window}") or alerts.get(alert) or {}
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
