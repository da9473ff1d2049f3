"""The doctor on queues without anybody to answer, queues without a service level, and trunks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from doctor import Doctor
from lab import Lab, wait_until

#: Member: interface, penalty, name, state interface, ringinuse, wrap-up, paused.
QUEUES = """
[doctor-empty]
servicelevel = 10
[doctor-paused]
servicelevel = 10
member => PJSIP/101,0,,,,0,yes
[doctor-gone]
member => PJSIP/999
"""
TRUNKS = """
[doctor-silent]
type = endpoint
context = from-external
aors = doctor-silent
[doctor-silent]
type = aor
[doctor-registration]
type = registration
server_uri = sip:127.0.0.1:5999
client_uri = sip:doctor@127.0.0.1:5999
"""


@pytest.fixture
def broken(lab: Lab) -> Iterator[None]:
    files = {"queues.conf": QUEUES, "pjsip.conf": TRUNKS}
    reload = "asterisk -rx 'queue reload all'; asterisk -rx 'module reload res_pjsip.so'"
    for name, more in files.items():
        lab.run(f"cp -p /etc/asterisk/{name} /run/{name} && cat >>/etc/asterisk/{name}", more)
    lab.run(reload)
    try:
        yield
    finally:
        for name in files:
            lab.run(f"mv /run/{name} /etc/asterisk/{name}")
        lab.run(reload)
        wait_until(lambda: Doctor(lab).look().status == "OK", 60, "a healthy lab")


def test_queues_and_trunks_that_lose_calls(lab: Lab, broken: None) -> None:  # noqa: ARG001
    trunks = ["doctor-silent", "doctor-typo"]
    found = Doctor(lab).look_with(lambda c: c["calls"].update(trunks=trunks)).problems()
    empty, gone, paused = sorted(found["queue members"])
    assert empty.startswith("queue doctor-empty has no members")
    assert "pbx_queues" in empty
    assert gone.startswith("queue doctor-gone has only members who are invalid")
    assert paused.startswith("queue doctor-paused has only members who are paused")
    assert "asterisk-ctl queue unpause MEMBER --queue doctor-paused" in paused
    (level,) = found["service levels"]
    assert level.startswith("queue doctor-gone has no service level")
    assert "asterisk_exporter_service_levels" in level
    registration, silent, unknown = found["trunks"]
    assert "doctor-registration is not registered at sip:127.0.0.1:5999" in registration
    assert "registration attempt" in registration
    assert silent.startswith("trunk doctor-silent does not answer (unavailable)")
    assert unknown.startswith("Asterisk knows no endpoint doctor-typo")
    assert "asterisk_exporter_trunks" in unknown
