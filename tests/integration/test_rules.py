"""The alert rules against series made up for each case; promtool comes with the lab machine."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import yaml
from lab import HOST, ROOT, Lab

ROLE = ROOT / "roles/prometheus"
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


def filters() -> ModuleType:
    path = ROLE / "filter_plugins/prometheus_rules.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def generated(**settings: Any) -> str:
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text(encoding="utf-8"))
    plain = {name.removeprefix("prometheus_"): value for name, value in defaults.items()}
    groups = filters().generated({**plain, **settings}, plain["missed_calls_window"])
    return yaml.safe_dump({"groups": groups}, sort_keys=False)


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
    yield folder
    lab.run(f"rm -rf {folder}")


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "tests/rules").glob("*.yml")))
def test_rules_fire_and_stay_silent_as_they_should(lab: Lab, work: str, name: str) -> None:
    tested = lab.run(f"cd {work}/tests/rules && promtool test rules {name} 2>&1")
    assert tested.count("SUCCESS") == 1


def test_rules_have_no_lint(lab: Lab, work: str) -> None:
    files = "../../roles/prometheus/files/rules/*.yml thresholds*.yml"
    check = "promtool check rules --lint=all --lint-fatal"
    checked = lab.run(f"cd {work}/tests/rules && {check} {files} 2>&1")
    rules = len(list((ROLE / "files/rules").glob("*.yml")))
    assert checked.count("SUCCESS") == rules + len(THRESHOLDS)
