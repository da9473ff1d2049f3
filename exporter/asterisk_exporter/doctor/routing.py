"""Call routing: the script as Asterisk starts it, the service, and the CRM that both ask.

All of it is asked about a call of nobody to nowhere: ``anonymous`` to ``unknown``, as the circuit
breaker does.
"""

from __future__ import annotations

import json
import re
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from asterisk_exporter.config import DoctorCallRouting
from asterisk_exporter.doctor import agi
from asterisk_exporter.doctor.agi import CALLER, NUMBER, Spoken
from asterisk_exporter.doctor.finding import (
    Finding,
    critical,
    not_looked_at,
    not_set_up,
    ok,
    warning,
)
from asterisk_exporter.doctor.pbx import LookError, Pbx, Ran

NOT_SET_UP = "doctor.call_routing is null (call_routing_method is neither fastagi nor agi)"
TOKEN_NAME = "crm-token"  # noqa: S105 - a file's name
#: Of the deadline; a CRM that takes longer is about to be late.
SLOW = 0.5
_ROLE = "run the playbook with --tags call_routing"
#: What to do about what the script says, by how that begins.
_ADVICE = (
    (
        ".*refuses the token",
        "Give the CRM and the inventory's call_routing_crm_token the same token (here it is in "
        f"/etc/call-routing/{TOKEN_NAME}), and {_ROLE}.",
    ),
    (
        "timeout",
        "Is the CRM overloaded, or does a firewall drop the way there? Until it answers, calls "
        "wait for call_routing_deadline_seconds. From here: {curl}",
    ),
    (
        "error: .*(?i:ssl|certificate)",
        "Its certificate must be valid, for the name in call_routing_crm_url, and of an authority "
        "that this machine or call_routing_crm_ca_file trusts. To see it: {s_client}",
    ),
    (
        "error: a redirect",
        "Put the address that it redirects to into call_routing_crm_url. To see it: {curl}",
    ),
    (
        "error: status",
        "The CRM itself failed: its own log says why. From here: {curl}",
    ),
    (
        "invalid: target is '<",
        "That is a web page, such as one to log in: call_routing_crm_url must be the address of "
        "the CRM's API. To see it: {curl}",
    ),
    (
        "invalid",
        "docs/crm-routing.md says what the CRM is to answer. To see what it does: {curl}",
    ),
    (
        "",
        "Is call_routing_crm_url right, does the CRM run, and is the way there open? "
        "From here: {curl}",
    ),
)


def script(pbx: Pbx) -> Iterator[Finding]:
    """Start the script as Asterisk does, and hang up before a word was said."""
    routing = pbx.settings.doctor.call_routing
    if routing is None:
        yield not_set_up(NOT_SET_UP)
        return
    user = pbx.asterisk_user
    began = time.monotonic()
    ran = pbx.run(
        ("env", f"CALL_ROUTING_SETTINGS={routing.settings}", str(routing.script)), user=user
    )
    seconds = time.monotonic() - began
    spare = routing.listen is not None and _spoken(pbx, routing.listen).error is None
    yield from judged_script(ran, str(routing.script), user, seconds, spare=spare)
    if "not registered" in pbx.asterisk("core show application AGI"):
        yield critical(
            "Asterisk has no application AGI: no call is routed by the CRM",
            "Type: asterisk -rx 'module load res_agi.so'. Does modules.conf leave it out? "
            f"Otherwise {_ROLE}.",
        )
    token = routing.settings.parent / TOKEN_NAME
    if token.exists():
        yield from judged_token(token, token.stat().st_mode)


def judged_script(
    ran: Ran, path: str, user: str, seconds: float, *, spare: bool
) -> Iterator[Finding]:
    """Return how the script started. ``spare``: it is only for when the service is not there."""
    if ran.status == 0:
        yield ok(f"{path} starts as {user} in {seconds * 1000:.0f} ms")
        return
    said = last_line(ran.errors)
    broken = warning if spare else critical
    harm = "calls have no other way when the service stops" if spare else "no call is routed by it"
    text = f"{path} does not run as {user}: {said}: {harm}"
    if "settings.json" in said or TOKEN_NAME in said:
        action = (
            f"That file must be readable by {user}, its content as the role call_routing writes "
            f"it: {_ROLE}."
        )
    elif "Error" in said:
        action = f"Its modules or its Python are not those that were installed: {_ROLE}."
    else:
        action = (
            f"Type: namei -l {path}. {user} must be able to read and execute it, on a file system "
            f"without noexec, with the interpreter that its first line names: or {_ROLE}."
        )
    yield broken(text, action)


def judged_token(path: Path, mode: int) -> Iterator[Finding]:
    """Return whether others may read the token."""
    if mode & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        yield warning(
            f"{path} has mode {stat.S_IMODE(mode):04o}: others may read or write the CRM's token",
            f"Type: chmod 0640 {path}",
        )


def last_line(text: str) -> str:
    """Return the last line of what a program said: of a traceback, the error itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _spoken(pbx: Pbx, listen: str) -> Spoken:
    return pbx.once("FastAGI", lambda pbx: agi.speak(listen, pbx.timeout))


def _asked(pbx: Pbx, routing: DoctorCallRouting) -> dict[str, Any] | None:
    """Return what the script, as Asterisk's user, has from the CRM; None where it does not run."""
    options = ("--settings", str(routing.settings), "--ask", CALLER, NUMBER)
    command = (str(routing.script), *options)
    return answer_of(pbx.once("CRM", lambda pbx: pbx.run(command, user=pbx.asterisk_user)))


def fastagi(pbx: Pbx) -> Iterator[Finding]:
    """Have the service route a call."""
    routing = pbx.settings.doctor.call_routing
    if routing is None:
        yield not_set_up(NOT_SET_UP)
    elif routing.listen is None:
        yield not_set_up("doctor.call_routing.listen is null (call_routing_method is agi)")
    else:
        crm = _asked(pbx, routing)
        yield from judged_fastagi(
            _spoken(pbx, routing.listen),
            routing.listen,
            crm_works=crm is not None and _is_answer(str(crm.get("result"))),
        )


def judged_fastagi(spoken: Spoken, listen: str, *, crm_works: bool) -> Iterator[Finding]:
    """Return whether the service serves. ``crm_works``: for the script the CRM does."""
    if spoken.refused:
        yield warning(
            f"FastAGI at {listen}: {spoken.error}; each call starts the script instead, which "
            "costs it a process",
            "Type: systemctl status call-routing; journalctl -u call-routing -n 20",
        )
    elif spoken.error is not None:
        yield critical(
            f"FastAGI at {listen}: {spoken.error}; calls wait for it, and go on without the CRM",
            "Type: systemctl restart call-routing; journalctl -u call-routing -n 20. Does "
            "something else listen there? ss -ltnp",
        )
    elif crm_works and not _is_answer(spoken.result):
        yield critical(
            f"FastAGI at {listen} says {spoken.result} while the script has an answer of the CRM",
            "It reads the token and its settings when it starts: systemctl restart call-routing. "
            "A CRM that has just come back is asked again after call_routing_retry_seconds.",
        )
    else:
        yield ok(f"{listen} routed a call in {spoken.seconds * 1000:.0f} ms: {spoken.result}")


def answer_of(ran: Ran) -> dict[str, Any] | None:
    """Return what ``--ask`` printed, or None where it did not come to that."""
    try:
        found = json.loads(ran.output)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _is_answer(result: str) -> bool:
    return result in ("routed", "no_route")


def crm(pbx: Pbx) -> Iterator[Finding]:
    """Ask the CRM with the token that is here."""
    routing = pbx.settings.doctor.call_routing
    if routing is None:
        yield not_set_up(NOT_SET_UP)
        return
    answer = _asked(pbx, routing)
    if answer is None:
        # the script's own link says why, and how bad that is
        yield not_looked_at("the script that asks it does not run")
        return
    url, deadline = _settings(routing.settings)
    yield from judged_crm(answer, url, deadline)


def _settings(path: Path) -> tuple[str, float]:
    """Return the CRM's address and the deadline, which the script has just read."""
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        return str(given["url"]), float(given["deadline_seconds"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LookError(f"{path}: {type(error).__name__}", f"To write it anew, {_ROLE}.") from None


def judged_crm(answer: dict[str, Any], url: str, deadline: float) -> Iterator[Finding]:
    """Return what the CRM said of a call of nobody, and how long that took."""
    result, reason = str(answer.get("result")), str(answer.get("reason"))
    seconds = float(answer.get("seconds") or 0.0)
    if not _is_answer(result):
        yield critical(
            f"the CRM at {url}: {reason}; calls go on without it", advice(result, reason, url)
        )
        return
    what = "no opinion" if result == "no_route" else f"to {answer.get('target')}"
    said = f"{url} takes the token and answered in {seconds * 1000:.1f} ms ({what})"
    if seconds > SLOW * deadline:
        yield warning(
            f"{said}: callers wait for that long, and after {deadline:g} s go on without it",
            "Make the CRM's answer quicker, such as with an index on its telephone numbers; "
            "call_routing_cache_seconds spares a caller who calls again.",
        )
    else:
        yield ok(said)


def advice(result: str, reason: str, url: str) -> str:
    """Return what to do about a CRM without an answer."""
    curl = f"curl -i {url}/route/{CALLER}/{NUMBER}"
    said = f"{result}: {reason}"
    found = next(text for pattern, text in _ADVICE if re.match(pattern, said))
    return found.format(curl=curl, s_client=_s_client(url))


def _s_client(url: str) -> str:
    authority = url.partition("://")[2].partition("/")[0]
    where = authority if re.search(r":[0-9]+$", authority) else f"{authority}:443"
    return f"openssl s_client -connect {where} </dev/null"
