# ruff: noqa: RUF001 (Russian is checked here)
"""The alert rules against series made up for each case; promtool comes with the lab machine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any

import pytest
import yaml
from lab import HOST, ROOT, Lab
from scripts import load

ROLE = ROOT / "roles/prometheus"
TESTS = sorted(path.name for path in (ROOT / "tests/rules").glob("*.yml"))
#: Files of thresholds that tests/rules name, by what differs from the role's defaults.
THRESHOLDS: dict[str, dict[str, Any]] = {
    "thresholds.yml": {},
    "thresholds_objectives.yml": {
        "queues": {
            f"o{objective}": {"service_level_objective": objective}
            for objective in (50, 80, 95, 99.9)
        }
    },
}

#: What one alert says in Russian of 3725 seconds.
RUSSIAN = {
    "summary": "Очередь support: звонящий ждёт уже 1 ч 2 мин 5 с (pbx1)",
    "description": "Самое долгое ожидание в очереди support: 1 ч 2 мин 5 с; сейчас в ожидании: 4.",
    "action": "На АТС выполните: asterisk-exporter queues (кто ждёт и кто может ответить)",
}


def filters(name: str = "prometheus_rules") -> ModuleType:
    return load(f"roles/prometheus/filter_plugins/{name}.py")


def generated(**settings: Any) -> str:
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8"))
    plain = {name.removeprefix("prometheus_"): value for name, value in defaults.items()}
    groups = filters().generated({**plain, **settings}, plain["missed_calls_window"])
    return yaml.safe_dump({"groups": groups}, sort_keys=False)


def in_russian() -> str:
    """Return all rules of the role as it renders them with prometheus_alert_language: ru."""
    translation = yaml.safe_load((ROLE / "files/translations/ru.yml").read_text(encoding="utf-8"))
    groups = [
        group
        for path in sorted((ROLE / "files/rules").glob("*.yml"))
        for group in filters("prometheus_translations").translated(
            filters().rendered(path.read_text(encoding="utf-8"), path.name, {}), translation
        )
    ]
    return yaml.safe_dump({"groups": groups}, allow_unicode=True, sort_keys=False)


@pytest.fixture(scope="module")
def work(lab: Lab) -> Iterator[str]:
    """A folder on the lab machine with the rules, their tests, and generated thresholds."""
    files = ["roles/prometheus/files/rules", "tests/rules"]
    archive = subprocess.run(["tar", "-c", *files], cwd=ROOT, capture_output=True, check=True)
    folder = lab.run("mktemp -d").strip()
    subprocess.run(
        [ROOT / "appliance", "exec", HOST, "--", "tar", "-x", "-C", folder],
        input=archive.stdout,
        check=True,
    )
    for name, settings in THRESHOLDS.items():
        lab.run(f"cat >{folder}/tests/rules/{name}", stdin=generated(**settings))
    lab.run(f"cat >{folder}/tests/rules/russian.yml", stdin=in_russian())
    yield folder
    lab.run(f"rm -rf {folder}")


@pytest.fixture(scope="module")
def tested(lab: Lab, work: str) -> dict[str, str]:
    """What promtool prints by the file with tests; two at a time, as each takes one processor."""

    def test(name: str) -> str:
        done = lab.exec(f"cd {work}/tests/rules && promtool test rules {name} 2>&1")
        return f"{done.stdout}exit status {done.returncode}"

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(TESTS, pool.map(test, TESTS)))


@pytest.mark.parametrize("name", TESTS)
def test_rules_fire_and_stay_silent_as_they_should(tested: dict[str, str], name: str) -> None:
    assert tested[name].count("SUCCESS") == 1, tested[name]
    assert tested[name].endswith("exit status 0"), tested[name]


def test_rules_have_no_lint(lab: Lab, work: str) -> None:
    files = "../../roles/prometheus/files/rules/*.yml thresholds*.yml"
    check = "promtool check rules --lint=all --lint-fatal"
    checked = lab.run(f"cd {work}/tests/rules && {check} {files} 2>&1")
    rules = len(list((ROLE / "files/rules").glob("*.yml")))
    assert checked.count("SUCCESS") == rules + len(THRESHOLDS)


def test_the_rules_in_russian_are_as_good(lab: Lab, work: str) -> None:
    folder = f"{work}/tests/rules"
    lab.run(f"promtool check rules --lint=all --lint-fatal {folder}/russian.yml 2>&1")
    labels = '{job="asterisk",instance="pbx1",queue="support"}'
    series = {
        "asterisk_queue_longest_wait_seconds": 3725,
        "queue:asterisk_queue_longest_wait_threshold:seconds": 60,
        "asterisk_queue_callers": 4,
    }
    test = {
        "rule_files": ["russian.yml"],
        "tests": [
            {
                "interval": "15s",
                "input_series": [
                    {"series": name + labels, "values": f"{value}x8"}
                    for name, value in series.items()
                ],
                "alert_rule_test": [
                    {
                        "eval_time": "1m",
                        "alertname": "QueueWaitLong",
                        "exp_alerts": [
                            {
                                "exp_labels": {
                                    "severity": "warning",
                                    "job": "asterisk",
                                    "instance": "pbx1",
                                    "queue": "support",
                                },
                                "exp_annotations": RUSSIAN,
                            }
                        ],
                    }
                ],
            }
        ],
    }
    lab.run(f"cat >{folder}/russian_test.yml", stdin=yaml.safe_dump(test))
    assert "SUCCESS" in lab.run(f"promtool test rules {folder}/russian_test.yml 2>&1")
