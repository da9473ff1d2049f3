"""Fixtures of the lab."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from doctor import Doctor
from lab import Lab, wait_until


@pytest.fixture(scope="session")
def lab() -> Lab:
    lab = Lab()
    result = lab.exec("true")
    assert result.returncode == 0, f"the lab is not up ({result.stderr.strip()}): ./appliance up"
    return lab


@pytest.fixture
def started(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Start (again) at the end whatever services the test stops, and wait until all is well.

    What connects to them comes back a moment later: the exporter, and what takes records to the
    database, without which those of the next calls would only be in Master.csv.
    """
    services: list[str] = []
    yield services.append
    for service in services:
        lab.run(f"systemctl reset-failed {service}; systemctl start {service}")
    lab.wait_until_well()

    def connected() -> bool:
        found = Doctor(lab).look()
        links = ("exporter /metrics", "CDR backends")
        return all(found.link(name)["status"] == "OK" for name in links)

    wait_until(connected, 90, "the exporter and the call records are connected")
