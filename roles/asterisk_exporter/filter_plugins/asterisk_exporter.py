"""Filters of the role asterisk_exporter."""

from __future__ import annotations

import base64
import hmac
import re
import string
from typing import Any, Callable

#: What a pattern of Asterisk's dialplan means, beside the digits and sets that it names.
PATTERN = {"X": "[0-9]", "Z": "[1-9]", "N": "[2-9]", ".": ".+", "!": ".*", "-": ""}

#: bcrypt has the letters of base64 in an order of its own.
BCRYPT_BASE64 = str.maketrans(
    string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/",
    "./" + string.ascii_uppercase + string.ascii_lowercase + string.digits,
)


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


def bcrypt_hash(password: str, user: str) -> str:
    """Return the bcrypt hash of a user's password, the same each time.

    The salt is derived from both, so that a second run sees that nothing changed; a generated
    password is unique, so its salt is.
    """
    # only who has users needs it
    import bcrypt  # noqa: PLC0415

    salt = hmac.digest(password.encode(), f"asterisk-appliance {user}".encode(), "sha256")[:16]
    encoded = base64.b64encode(salt).decode().rstrip("=").translate(BCRYPT_BASE64)
    return bcrypt.hashpw(password.encode(), f"$2b$10${encoded}".encode()).decode()


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "asterisk_exporter_destinations": destinations,
            "asterisk_exporter_bcrypt": bcrypt_hash,
        }
