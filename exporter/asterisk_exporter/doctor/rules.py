"""The rules that Prometheus has loaded, and whether it can evaluate them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from asterisk_exporter.doctor import prometheus_api
from asterisk_exporter.doctor.finding import (
    Finding,
    critical,
    listed,
    not_set_up,
    ok,
    some,
    warning,
)
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.doctor.prometheus import NOT_SET_UP
from asterisk_exporter.doctor.prometheus_api import epoch

#: The groups of the role `prometheus`: those of files/rules and the generated one.
GROUPS = (
    *("asterisk", "certificates", "missed_calls", "monitoring", "notifier", "queues"),
    *("recording", "recording_budget", "recording_long", "records", "routing"),
    *("security", "service_level", "thresholds", "trunks", "usual", "voice"),
)
_LATE = 3
_PLAYBOOK = "run the playbook with --tags prometheus"
Group = dict[str, Any]


def look(pbx: Pbx) -> Iterator[Finding]:
    """Ask for the groups and how their last evaluation went."""
    prometheus = prometheus_api.at(pbx)
    if prometheus is None:
        yield not_set_up(NOT_SET_UP)
        return
    groups = prometheus.listed("rules", "groups")
    yield from judged(groups, prometheus.clock().there)


def judged(groups: Sequence[Group], now: float) -> Iterator[Finding]:
    """Return what is missing, fails or stands still; ``now`` is by Prometheus's clock."""
    names = {group["name"] for group in groups}
    missing = [name for name in GROUPS if name not in names]
    if len(missing) == len(GROUPS):
        yield warning(
            f"none of the appliance's rules are loaded (other groups: {len(groups)}): no alert of "
            "the appliance can fire",
            f"On the host of Prometheus {_PLAYBOOK}, or load roles/prometheus/files/rules there.",
        )
        return
    if missing:
        yield warning(
            f"groups of rules are missing: {', '.join(missing)}: their alerts cannot fire",
            f"To load the rules of this version, {_PLAYBOOK}.",
        )
    yield from some(
        [
            warning(
                f"the rule {group['name']}: {rule['name']} fails: "
                f"{str(rule.get('lastError'))[:300]}",
                "docs/runbooks/AlertRulesFailing.md says what such an error means.",
            )
            for group in groups
            for rule in group["rules"]
            if rule["health"] == "err"
        ]
    )
    yield from _judged_age(groups, now)
    rules = [rule for group in groups for rule in group["rules"]]
    firing = sorted({rule["name"] for rule in rules if rule.get("state") == "firing"})
    said = f"{len(groups)} groups, {len(rules)} rules are loaded"
    yield ok(f"{said}; firing: {', '.join(firing)}" if firing else said)


def _judged_age(groups: Sequence[Group], now: float) -> Iterator[Finding]:
    """Return which groups stand still; those that begin have no evaluation yet."""
    late = [
        (group["name"], now - epoch(group["lastEvaluation"]))
        for group in groups
        if epoch(group["lastEvaluation"])
        and now - epoch(group["lastEvaluation"]) > _LATE * group["interval"] + 1
    ]
    if late:
        oldest = max(age for _, age in late)
        yield critical(
            f"{listed([name for name, _ in late])}: not evaluated for up to {oldest:.0f} s:"
            " alerts come late or not at all",
            "Prometheus hangs or is overloaded; on its host: journalctl -u prometheus -n 20; "
            "uptime",
        )
