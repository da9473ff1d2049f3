"""Filters of the role call_routing."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Callable

URL = re.compile(r"https?://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
RESERVED = ("default", "hangup")


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


def problems(settings: dict[str, Any]) -> list[str]:
    """Return a sentence for each thing that cannot work, without the token."""
    found = []

    def add(name: str, advice: str) -> None:
        found.append(f"{name} is {settings[name]!r}: {advice}")

    def number(name: str, low: float, high: float) -> None:
        try:
            good = low <= float(settings[name]) <= high
        except (TypeError, ValueError):
            good = False
        if not good:
            add(name, f"give a number from {low:g} to {high:g}")

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
    number("call_routing_deadline_seconds", 0.1, 2)
    number("call_routing_cache_seconds", 0, 3600)
    number("call_routing_failures", 1, 100)
    number("call_routing_retry_seconds", 1, 600)
    number("call_routing_listen_port", 1, 65535)
    if settings["call_routing_method"] == "curl":
        if float(settings["call_routing_deadline_seconds"]) not in (1.0, 2.0):
            add("call_routing_deadline_seconds", "curl counts whole seconds: give 1 or 2")
    try:
        loopback = ipaddress.ip_address(str(settings["call_routing_listen_address"])).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        add(
            "call_routing_listen_address",
            "FastAGI has no password: give an address of loopback, such as 127.0.0.1",
        )
    known = targets({"phones": [], "queues": [], "boxes": [], "conferences": [], "named": {}})
    known.update(settings["targets"])
    named = settings["call_routing_destinations"]
    own = {name: to for name, to in settings["targets"].items() if name not in named}
    for name, to in named.items():
        where = f"call_routing_destinations.{name}"
        if not NAME.fullmatch(str(name)):
            found.append(f"{where}: the name may have letters, digits, _ . and - only")
        if str(name) in RESERVED or f"extension:{name}" in own:
            found.append(f"{where}: the PBX has a destination of that name; choose another")
        if str(to) not in own and str(to) not in RESERVED:
            found.append(f"{where} is {to!r}: the PBX has no such destination")
    return found


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"call_routing_targets": targets, "call_routing_problems": problems}
