"""Filters of the role call_routing."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any, Callable

URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
RESERVED = ("default", "hangup")
NUMBERS = {
    "call_routing_deadline_seconds": (0.1, 2),
    "call_routing_cache_seconds": (0, 3600),
    "call_routing_failures": (1, 100),
    "call_routing_retry_seconds": (1, 600),
    "call_routing_listen_port": (1, 65535),
}


def targets(pbx: dict[str, Any]) -> dict[str, str]:
    """Return what a reply may say: {text: destination of the dialplan}.

    The destinations of the inventory by their own names, extensions without `extension:` too, and
    the names that call_routing_destinations gives.
    """
    known = {"default": "default", "hangup": "hangup"}
    for phone in pbx["phones"]:
        extension = str(phone["extension"])
        known[extension] = known[f"extension:{extension}"] = f"extension:{extension}"
        if phone.get("voicemail", True):
            known[f"voicemail:{extension}"] = f"voicemail:{extension}"
    for kind, items, key in (
        ("queue", pbx["queues"], "name"),
        ("voicemail", pbx["boxes"], "box"),
        ("conference", pbx["conferences"], "extension"),
    ):
        known.update({f"{kind}:{item[key]}": f"{kind}:{item[key]}" for item in items})
    named = {str(name): str(to) for name, to in pbx["named"].items()}
    return {**known, **{name: known.get(to, to) for name, to in named.items()}}


def _is_loopback(address: Any) -> bool:
    try:
        return ipaddress.ip_address(str(address)).is_loopback
    except ValueError:
        return False


def _is_number(value: Any, low: float, high: float) -> bool:
    try:
        return low <= float(value) <= high
    except (TypeError, ValueError):
        return False


def problems(settings: dict[str, Any]) -> list[str]:
    """Return a sentence for each thing that cannot work, without the token."""
    found = []

    def add(name: str, advice: str) -> None:
        found.append(f"{name} is {settings[name]!r}: {advice}")

    if not URL.fullmatch(str(settings["call_routing_crm_url"])):
        add(
            "call_routing_crm_url",
            "give the address of the CRM, such as https://crm.example.com/telephony",
        )
    if not re.fullmatch(r"[!-~]{8,200}", str(settings["call_routing_crm_token"])):
        found.append(
            "call_routing_crm_token must be 8 to 200 printable ASCII characters without spaces; "
            "leave it empty to have one generated"
        )
    for name, (low, high) in NUMBERS.items():
        if not _is_number(settings[name], low, high):
            add(name, f"give a number from {low:g} to {high:g}")
    deadline = str(settings["call_routing_deadline_seconds"])
    if settings["call_routing_method"] == "curl" and deadline not in ("1", "2", "1.0", "2.0"):
        add("call_routing_deadline_seconds", "curl counts whole seconds: give 1 or 2")
    if not _is_loopback(settings["call_routing_listen_address"]):
        add(
            "call_routing_listen_address",
            "FastAGI has no password: give an address of loopback, such as 127.0.0.1",
        )
    return found + list(_named_problems(settings))


def _named_problems(settings: dict[str, Any]) -> Iterator[str]:
    found = settings["targets"]
    for name, to in settings["call_routing_destinations"].items():
        where = f"call_routing_destinations.{name}"
        if not NAME.fullmatch(str(name)):
            yield f"{where}: the name may have letters, digits, _ . and - only"
        if str(name) in RESERVED or f"extension:{name}" in found:
            yield f"{where}: the PBX has a destination of that name; choose another"
        if found.get(str(to)) is None or str(to) in settings["call_routing_destinations"]:
            yield f"{where} is {to!r}: the PBX has no such destination"


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"call_routing_targets": targets, "call_routing_problems": problems}
