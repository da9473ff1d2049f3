"""The machines of the site fleet.

Each file of this directory is one story, and each story changes the site more than the one before.
"""

from __future__ import annotations

import pytest
from fleet import Monitor, Pbx
from lab import Lab

STORIES = ["test_fleet", "test_restore", "test_upgrade", "test_uninstall"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    stories = {f"tests/fleet/{name}.py": place for place, name in enumerate(STORIES)}
    items.sort(key=lambda item: stories.get(item.nodeid.partition("::")[0], 0))


def reached(lab: Lab) -> None:
    result = lab.exec("true")
    assert result.returncode == 0, f"{result.stderr.strip()}: ./appliance up --site fleet"


@pytest.fixture(scope="session")
def berlin() -> Pbx:
    pbx = Pbx("berlin", site="fleet")
    reached(pbx)
    return pbx


@pytest.fixture(scope="session")
def hamburg() -> Pbx:
    pbx = Pbx("hamburg", site="fleet")
    reached(pbx)
    return pbx


@pytest.fixture(scope="session")
def monitor() -> Lab:
    lab = Monitor("monitor", site="fleet")
    reached(lab)
    return lab
