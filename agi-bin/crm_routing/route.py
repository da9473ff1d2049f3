"""One call: ask the CRM, and tell Asterisk what it said."""

from __future__ import annotations

import time

from crm_routing import reply
from crm_routing.agi import AGIError, AGIHangup, SafeAgi
from crm_routing.breaker import Breaker
from crm_routing.crm import Client, CrmError, CrmTimeoutError, without_others
from crm_routing.reply import Contact, InvalidReply, Route
from crm_routing.settings import Settings

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes 4 ms, and the script starts once a call
    from typing import Any, Callable

    from crm_routing.crm import Wait

    Say = Callable[[int, str], None]

#: Of syslog, and with <> before it of a line that systemd takes.
WARNING, INFO = 4, 6
MOST_CACHED = 1000


class Decision:
    """What is known at the end. ``result``: routed, no_route, timeout, error or invalid."""

    __slots__ = ("contact", "reason", "result", "route")

    def __init__(self, result: str, reason: str = "", route: Route | None = None) -> None:
        self.result = result
        self.reason = reason
        self.route = route or Route()
        self.contact = Contact()


class Router:
    """Asks the CRM. Any thread may call it. ``wait`` is the client's."""

    def __init__(
        self, settings: Settings, breaker: Breaker, say: Say, wait: Wait = without_others
    ) -> None:
        self._settings = settings
        self._client = Client(settings.url, settings.token, settings.ca_file, wait)
        self._say = say
        self._cache: dict[tuple[str, str], tuple[float, Decision]] = {}
        self._last_dialled = ""
        self.breaker = breaker

    def decide(self, caller: str, dialled: str) -> Decision:
        """Return where a call goes, within the deadline. The numbers are as ``reply`` made them."""
        began = time.monotonic()
        cached = self._cached(caller, dialled, began)
        if cached is not None:
            return cached
        self._last_dialled = dialled
        if self.breaker.is_open:
            return Decision("error", "the CRM failed repeatedly and is not asked for now")
        deadline = began + self._settings.deadline_seconds
        try:
            decision = self._ask(caller, dialled, deadline)
        except CrmTimeoutError as error:
            self._record(False)
            return Decision("timeout", str(error))
        except CrmError as error:
            self._record(False)
            return Decision("error", str(error))
        except InvalidReply as error:
            self._record(True)
            return Decision("invalid", str(error))
        if self._settings.lookup and caller != reply.ANONYMOUS:
            decision.contact = self._look_up(caller, deadline)
        self._keep(caller, dialled, decision)
        return decision

    def try_again(self, dialled: str = "") -> None:
        """Ask for nobody, so that the breaker closes when the CRM answers."""
        deadline = time.monotonic() + self._settings.deadline_seconds
        try:
            self._ask(reply.ANONYMOUS, dialled or self._last_dialled or "unknown", deadline)
        except CrmError:
            self._record(False)
        except InvalidReply:
            self._record(True)

    def _ask(self, caller: str, dialled: str, deadline: float) -> Decision:
        body = self._client.get(f"/route/{_quoted(caller)}/{_quoted(dialled)}", deadline)
        self._record(True)
        if body is None:
            return Decision("no_route", "no opinion")
        route = reply.route(body, self._settings.targets)
        if route.target is None:
            return Decision("no_route", "no opinion", route)
        return Decision("routed", "", route)

    def _look_up(self, caller: str, deadline: float) -> Contact:
        """Return who calls; nothing where the CRM does not say. The route stays as it is."""
        try:
            body = self._client.get(f"/lookup/{_quoted(caller)}", deadline)
            return Contact() if body is None else reply.contact(body)
        except (CrmError, InvalidReply) as error:
            self._say(WARNING, f"lookup: {self.scrubbed(str(error))}")
            return Contact()

    def _record(self, answered: bool) -> None:
        changed = self.breaker.record(answered)
        if changed == "opened":
            self._say(WARNING, "the CRM failed repeatedly: calls no longer wait for it")
        elif changed == "closed":
            self._say(INFO, "the CRM answers again")

    def _cached(self, caller: str, dialled: str, now: float) -> Decision | None:
        if not self._settings.cache_seconds:
            return None
        until, decision = self._cache.get((caller, dialled), (0.0, None))
        return decision if now < until else None

    def _keep(self, caller: str, dialled: str, decision: Decision) -> None:
        if self._settings.cache_seconds:
            if len(self._cache) >= MOST_CACHED:
                self._cache.clear()
            until = time.monotonic() + self._settings.cache_seconds
            self._cache[caller, dialled] = (until, decision)

    def scrubbed(self, text: str) -> str:
        """Return a text for the log; a CRM may well say our token back."""
        return text.replace(self._settings.token, "***")


def _quoted(number: str) -> str:
    """Return a number as part of a path: of what ``reply`` lets through, + alone is quoted."""
    return number.replace("+", "%2B")


def handle(agi: SafeAgi, router: Router, say: Say, number: str, who: str) -> None:
    """Route the call to ``number`` that ``agi`` is about.

    ``who`` is empty, or ``anonymous`` where the dialplan saw that the caller's number is none: of
    one with a line feed in it, AGI brings the first line alone.

    Raises AGIError when it ends meanwhile.
    """
    began = time.monotonic()
    env: dict[str, str] = agi.env
    number = reply.dialled(number)
    call = reply.shown(env.get("agi_uniqueid", ""))[1:-1]
    try:
        decision = router.decide(reply.caller(who or env.get("agi_callerid", "")), number)
    except Exception as error:  # noqa: BLE001 - a fault of ours is no reason to lose the call
        decision = Decision("error", f"{type(error).__name__}: {error}")
    told = _tell(agi, decision)
    taken = (time.monotonic() - began) * 1000
    what = decision.route.target or decision.reason
    level = INFO if decision.result in ("routed", "no_route") else WARNING
    text = f"{call}: call to {number}: {decision.result}: {router.scrubbed(what)}"
    say(level, f"{text} ({taken:.0f} ms){told}")


def _tell(agi: SafeAgi, decision: Decision) -> str:
    """Set the call's variables, the result last; return what Asterisk did not take."""
    route, contact = decision.route, decision.contact
    language = route.language or contact.language
    wanted: list[tuple[str, Any]] = [("ROUTE_TARGET", route.target)]
    # __: a phone that the call rings has it too
    wanted += [("__CRM_CONTACT", contact.id), ("__CRM_CONTACT_URL", contact.url)]
    if contact.vip is not None:
        wanted.append(("CRM_CONTACT_VIP", int(contact.vip)))
    wanted += [("CALLERID(name)", contact.name), ("CHANNEL(language)", language)]
    wanted.append(("QUEUE_PRIO", route.priority))
    refused = []
    for name, value in wanted:
        if value is None or value == "":
            continue
        try:
            agi.set_variable(name, value)
        except AGIHangup:
            raise
        except (AGIError, ValueError):
            refused.append(name)
    agi.set_variable("ROUTE_RESULT", decision.result)
    return f"; not taken: {', '.join(refused)}" if refused else ""
