"""The link about trunks: registrations at providers, and whether trunks answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from asterisk_exporter.ami.errors import UnknownActionError
from asterisk_exporter.collectors.endpoints import UNREACHABLE, endpoints
from asterisk_exporter.collectors.registrations import Registration, registrations
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

#: What each status of an outbound registration asks for, and Stopped like Rejected.
_REJECTED = (
    "The provider refuses the login: compare username, secret and host of pbx_trunks with the "
    "contract; grep 'registration attempt' /var/log/asterisk/messages.log | tail"
)
_SILENT = (
    "Does the provider's host answer at all (name, route, firewall, port)? "
    "grep 'registration attempt' /var/log/asterisk/messages.log | tail"
)

_SHOWN = re.compile(r"^ Endpoint: +[^ <].*? {2,}([A-Z][a-z ]+?) +[0-9]+ of ", re.MULTILINE)


def look(pbx: Pbx) -> Iterator[Finding]:
    """Look at outbound registrations, and at the endpoints that lead outside."""
    try:
        registered = registrations(pbx.replies["PJSIPShowRegistrationsOutbound"])
    except UnknownActionError:
        registered = []  # other channel drivers than PJSIP
    trunks = pbx.settings.calls.trunks
    known = {one.name: one.state for one in endpoints(pbx.replies["DeviceStateList"])}
    if pbx.asterisk_is_here:
        # one that a reload has added has no device state until something happens to it
        for name in trunks:
            state = known.get(name)
            if state in (None, "invalid"):
                known[name] = state_shown(pbx.asterisk(f"pjsip show endpoint {name}")) or "invalid"
    return judge(registered, trunks, known)


def state_shown(text: str) -> str | None:
    """Return the state in what ``pjsip show endpoint`` prints, None when there is no such."""
    found = _SHOWN.search(text)
    return None if found is None else found[1].lower().replace(" ", "_")


def judge(
    registered: Sequence[Registration], trunks: Sequence[str], states: Mapping[str, str]
) -> Iterator[Finding]:
    """Judge registrations, and trunks by the states of all endpoints."""
    if not registered and not trunks:
        yield not_set_up("no outbound registration, and no trunk (asterisk_exporter_trunks)")
        return
    bad = {name: _trunk(name, states.get(name, "invalid")) for name in trunks}
    yield from some([_unregistered(row) for row in registered if not row.registered])
    yield from some([finding for finding in bad.values() if finding is not None])
    well = [f"{row.name} registered at {row.server}" for row in registered if row.registered]
    well += [f"{name} reachable" for name in trunks if bad[name] is None]
    if well:
        yield ok(listed(well))


def _unregistered(row: Registration) -> Finding:
    text = f"{row.name} is not registered at {row.server} ({row.status}): no calls from outside"
    refused = row.status in {"Rejected", "Stopped"}
    return critical(text, _REJECTED if refused else _SILENT)


def _trunk(name: str, state: str) -> Finding | None:
    if state == "invalid":
        return warning(
            f"Asterisk knows no endpoint {name}, which is to be a trunk: calls over a trunk of "
            "another name count as internal",
            "Write the names of the endpoints that lead outside into asterisk_exporter_trunks "
            "(calls.trunks); asterisk -rx 'pjsip show endpoints' lists what there is",
        )
    if state in UNREACHABLE:
        return critical(
            f"trunk {name} does not answer ({state}): calls over it fail",
            f"asterisk -rx 'pjsip show endpoint {name}': has it a contact, and does that answer "
            "OPTIONS? Then ping its host, and look at the firewall",
        )
    return None
