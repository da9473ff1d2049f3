"""Filters of the role asterisk_exporter."""

from __future__ import annotations

import re
from typing import Any, Callable

#: What a pattern of Asterisk's dialplan means, beside the digits and sets that it names.
PATTERN = {"X": "[0-9]", "Z": "[1-9]", "N": "[2-9]", ".": ".+", "!": ".*", "-": ""}


def number_regexp(did: str) -> str:
    """Return the regular expression of a number, of a dial pattern (`_4930X.`), or of `any`."""
    if did == "any":
        return ".*"
    if not did.startswith("_"):
        return re.escape(did)
    parts = re.findall(r"\[[^\]]*\]|.", did[1:])
    return "".join(
        part if part.startswith("[") else PATTERN.get(part.upper(), re.escape(part))
        for part in parts
    )


def destinations(routes: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the destinations of inbound routes that do not lead to a queue.

    The order is the dialplan's: numbers, then patterns, then any number, which is `default`.
    """
    found = []
    for route in routes:
        did, to = str(route["did"]), str(route["to"])
        if not to.startswith("queue:"):
            order = 2 if did == "any" else int(did.startswith("_"))
            name = "default" if did == "any" else to
            found.append((order, {"did": number_regexp(did), "name": name}))
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"asterisk_exporter_destinations": destinations}
