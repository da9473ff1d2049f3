"""The filter that the preflight asks which options the target's Asterisk does not know.

A pure function, as pbx_problems.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

#: Variables with free options, and the kind of object that these are of.
OBJECTS = {
    "pbx_phones": "endpoint",
    "pbx_trunks": "endpoint",
    "pbx_transports": "transport",
    "pbx_queues": "queue",
}

Version = tuple[int, ...]


def parse(text: str) -> Version:
    """Return the first version inside a text; empty where there is none."""
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def knows(version: Version, since: Iterable[str]) -> bool:
    """Say whether a version has what each of these branches has had since then."""
    first = {number[0]: number for number in map(parse, since)}
    if version[0] in first:
        return version >= first[version[0]]
    return version[0] > max(first)


def options(settings: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield (place, kind of object, option) for each free option."""
    for name, kind in OBJECTS.items():
        for i, item in enumerate(settings.get(name) or []):
            for option in item.get("options") or {}:
                yield f"{name}[{i}].options", kind, str(option)
    for option in settings.get("pbx_queue_general_options") or {}:
        yield "pbx_queue_general_options", "queues", str(option)


def pbx_unknown_options(
    settings: dict[str, Any], version: str, table: dict[str, dict[str, list[str]]]
) -> list[str]:
    """Return a sentence for each option that Asterisk of this version would not load a file with.

    `version` is a text with the version in it; where it has none, nothing is known to be wrong.
    `table`: the versions by option, by kind of object.
    """
    target = parse(version)
    return [
        f"{place}.{option} came with Asterisk {', '.join(table[kind][option])}, and the target has "
        f"{'.'.join(map(str, target))}: take it out, or install a newer Asterisk"
        for place, kind, option in options(settings)
        if target and option in table[kind] and not knows(target, table[kind][option])
    ]


class FilterModule:
    """Filters of the role pbx."""

    def filters(self) -> dict[str, Any]:
        """Return the filters by name."""
        return {"pbx_unknown_options": pbx_unknown_options}
