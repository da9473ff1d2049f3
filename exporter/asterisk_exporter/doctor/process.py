"""The process of the PBX on this machine, told from consoles of it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


def is_server(arguments: Iterable[str]) -> bool:
    """Say whether a command line of ``asterisk`` is the PBX, not a console of it (-r, -x)."""
    return not any(
        part[:1] == "-" and part[:2] != "--" and set(part) & set("rRx")
        for part in list(arguments)[1:]
    )


def asterisk_process() -> int | None:
    """Return the process of the PBX on this machine."""
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended since
            if (path / "comm").read_text().strip() == "asterisk":
                line = (path / "cmdline").read_bytes().decode("utf-8", "replace")
                if is_server(line.rstrip("\0").split("\0")):
                    return int(path.name)
    return None
