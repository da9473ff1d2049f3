"""``crm_route.py --ask CALLER NUMBER``: what the CRM says of a call, for people."""

from __future__ import annotations

import json
import sys
import time

from crm_routing import reply
from crm_routing.breaker import Breaker
from crm_routing.crm import CrmError
from crm_routing.route import Router
from crm_routing.settings import Settings


def _fields(item: reply.Route | reply.Contact) -> dict[str, object]:
    return {name: getattr(item, name) for name in item.__slots__}


def ask(settings: Settings, caller: str, number: str) -> int:
    """Print one JSON object. Returns 0 when the CRM answered as the contract says, else 1."""
    began = time.monotonic()
    said: list[str] = []
    try:
        router = Router(settings, Breaker(1, 1.0), lambda _, text: said.append(text))
    except CrmError as error:
        print(f"crm_route: {error}", file=sys.stderr)
        return 1
    decision = router.decide(reply.caller(caller), reply.dialled(number))
    shown = {
        "caller": reply.caller(caller),
        "number": reply.dialled(number),
        "result": decision.result,
        "reason": router.scrubbed(decision.reason),
        **_fields(decision.route),
        "contact": _fields(decision.contact),
        "said": said,
        "seconds": round(time.monotonic() - began, 4),
    }
    print(json.dumps(shown, indent=2))
    return 0 if decision.result in ("routed", "no_route") else 1
