"""The doctor on the lab's PBX: all is well, and what each link says when it is broken."""

from __future__ import annotations

from doctor import Doctor
from lab import Lab


def test_all_is_well(lab: Lab) -> None:
    found = Doctor(lab).look()
    assert found.status == "OK", found.problems()
