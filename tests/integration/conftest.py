"""Fixtures of the lab."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from lab import Lab


@pytest.fixture(scope="session")
def lab() -> Lab:
    lab = Lab()
    result = lab.exec("true")
    assert result.returncode == 0, f"the lab is not up ({result.stderr.strip()}): ./appliance up"
    return lab


@pytest.fixture
def started(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Start (again) at the end whatever services the test stops, and wait until all is well."""
    services: list[str] = []
    yield services.append
    for service in services:
        lab.run(f"systemctl reset-failed {service}; systemctl start {service}")
    lab.wait_until_well()
