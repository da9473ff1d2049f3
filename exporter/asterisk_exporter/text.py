"""Text that comes from others, and text for people."""

from __future__ import annotations


def clean(text: str) -> str:
    """Return text without control characters: names come from a PBX and go to a terminal."""
    return "".join(c if c.isprintable() else "?" for c in text)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: ``1 call``, ``2 calls``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")
