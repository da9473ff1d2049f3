"""The machines of the site fleet."""

from __future__ import annotations

import pytest
from lab import Lab


def machine(host: str) -> Lab:
    lab = Lab(host, site="fleet")
    result = lab.exec("true")
    assert result.returncode == 0, f"{result.stderr.strip()}: ./appliance up --site fleet"
    return lab


@pytest.fixture(scope="session")
def berlin() -> Lab:
    return machine("berlin")


@pytest.fixture(scope="session")
def hamburg() -> Lab:
    return machine("hamburg")


@pytest.fixture(scope="session")
def monitor() -> Lab:
    return machine("monitor")
