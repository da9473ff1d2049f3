"""What the CRM is told of a call, and the signature under it. Pure.

For those who receive it: docs/missed-call-webhook.md.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from datetime import datetime
from typing import Any

from asterisk_exporter.missed import WITHHELD, MissedCall, as_dict

MISSED_CALL = "missed_call"
TEST = "test"
#: Grows when a field changes its meaning or goes; new fields may come at any time.
VERSION = 1
#: What an event says of its call, in the words of ``asterisk-exporter missed --json``.
CALL_FIELDS = ("linkedid", "caller", "at", "dialled", "destination", "reason", "wait_seconds")
SIGNATURE_HEADER = "X-Asterisk-Signature"
DELIVERY_HEADER = "X-Asterisk-Delivery"
MASK = "*"


def masked(caller: str, shown: int | None) -> str:
    """Return the caller with all letters and digits masked but the last ``shown`` digits.

    None masks nothing. Who withheld the number has nothing to mask.
    """
    if shown is None or caller == WITHHELD:
        return caller
    kept = [i for i, c in enumerate(caller) if c.isdigit()]
    kept = kept[max(0, len(kept) - shown) :]
    return "".join(MASK if c.isalnum() and i not in kept else c for i, c in enumerate(caller))


def event_id(kind: str, system_name: str, linkedid: str) -> str:
    """Return the same UUID for the same call, however often it is sent."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{kind}:{system_name}:{linkedid}"))


def event(
    call: MissedCall, system_name: str, shown: int | None, kind: str = MISSED_CALL
) -> dict[str, Any]:
    """Return the event of a call, with ``shown`` digits of its caller."""
    known = as_dict(call)
    return {
        "event": kind,
        "version": VERSION,
        "id": event_id(kind, system_name, call.linkedid),
        "system_name": system_name,
        **{name: known[name] for name in CALL_FIELDS},
        "caller": masked(call.caller, shown),
    }


def test_call(at: datetime) -> MissedCall:
    """Return a call that never was, for ``--test``; its numbers are reserved for examples."""
    return MissedCall(
        linkedid=f"test-{int(at.timestamp())}",
        caller="+12025550123",
        number="2025550123",
        at=at,
        dialled="+12025550199",
        destination="support",
        reason="abandoned",
        wait_seconds=42,
        spoken_at=None,
        spoken_direction=None,
    )


def body(document: dict[str, Any]) -> bytes:
    """Return the bytes that are sent and signed: JSON in ASCII, the same at every try."""
    return json.dumps(document).encode("ascii")


def signature(secret: str, content: bytes, at: int) -> str:
    """Return the signature of ``content`` as sent at ``at`` (Unix time): ``t=…,v1=…``."""
    signed = f"{at}.".encode("ascii") + content
    digest = hmac.new(secret.encode("utf-8"), signed, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"
