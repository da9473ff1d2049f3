"""Text that comes from others."""

from __future__ import annotations


def clean(text: str) -> str:
    """Return text without control characters: names come from a PBX and go to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)
