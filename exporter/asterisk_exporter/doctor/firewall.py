"""The links that are firewalls: between us and AMI, and between Prometheus and us."""

from __future__ import annotations

import shutil
import socket
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from enum import Enum

from asterisk_exporter.doctor.finding import (
    Finding,
    critical,
    not_looked_at,
    not_set_up,
    ok,
    warning,
)
from asterisk_exporter.doctor.nft import Outcome, Packet, Rule, Ruleset, texts
from asterisk_exporter.doctor.pbx import Pbx, is_here, is_loopback

_HOW = {"drop": "drops", "reject": "rejects"}
#: A port of the same site answers within less, or something drops packets.
KNOCK_SECONDS = 2.0
_SHOW = "nft --handle list ruleset"


class Answer(Enum):
    """What became of a connection."""

    OPEN = "answers"
    REFUSED = "refused"
    SILENT = "silent"
    NO_WAY = "no way"


def knock(host: str, port: int, seconds: float) -> tuple[Answer, float]:
    """Connect and close; return what came of it, and after how many seconds."""
    start = time.monotonic()
    try:
        socket.create_connection((host, port), timeout=seconds).close()
        answer = Answer.OPEN
    except ConnectionRefusedError:
        answer = Answer.REFUSED
    except socket.timeout:
        answer = Answer.SILENT
    except (OSError, UnicodeError):
        answer = Answer.NO_WAY
    return answer, time.monotonic() - start


def described(rule: Rule | None, words: Mapping[Rule, str]) -> str:
    """Return a rule, or a chain's policy, as a person finds it."""
    if rule is None:
        return "no rule"
    where = f"{rule.family} {rule.table} {rule.chain}"
    return f"the rule {words[rule]!r} in {where}" if rule in words else f"the policy of {where}"


def judge_ami(
    where: str, answer: Answer, seconds: float, outcome: Outcome, words: Mapping[Rule, str]
) -> Finding:
    """Judge our way to AMI; ``outcome`` is that of this machine's own rules."""
    if answer is Answer.OPEN:
        return ok(f"AMI on {where} is reached in {seconds * 1000:.1f} ms")
    if outcome.passes is False:
        return critical(
            f"this machine's firewall {_HOW[outcome.end]} our own connection to AMI on {where}: "
            f"{described(outcome.rule, words)}",
            f"Let it pass, before that rule: iifname lo accept, or the port ({_SHOW}).",
        )
    if answer is Answer.REFUSED:
        return critical(
            f"{where} refuses: nothing listens there, or a firewall rejects; no rule seen here "
            "does",
            'Look at AMI over there (asterisk -rx "manager show settings"), at its firewall, and '
            "at asterisk_exporter_ami_port (ami.port).",
        )
    if answer is Answer.SILENT:
        return critical(
            f"{where} neither accepts nor refuses within {seconds:.1f} s, and no rule seen here "
            "drops it: a firewall on the way or over there does, or the machine is down",
            "Look at that machine's firewall, and at rules that nft does not show "
            "(iptables-legacy-save). It must let this machine reach AMI's port.",
        )
    return critical(
        f"there is no way to {where}: the name does not resolve, or there is no route",
        "Look at asterisk_exporter_ami_host (ami.host), and at: ip route get ADDRESS.",
    )


def judge_metrics(
    where: str, scraper: str | None, outcome: Outcome, words: Mapping[Rule, str]
) -> Finding:
    """Judge Prometheus' way to /metrics. ``scraper``: its host, None where nobody knows."""
    who = "other machines" if scraper is None else f"Prometheus on {scraper}"
    if outcome.passes is False:
        text = (
            f"the firewall {_HOW[outcome.end]} what {who} send to /metrics on {where}: "
            f"{described(outcome.rule, words)}"
        )
        action = (
            f"Let Prometheus' address reach the port, before that rule ({_SHOW}); or serve "
            "loopback only (asterisk_exporter_listen_address)."
        )
        return warning(text, action) if scraper is None else critical(text, action)
    some = "some of " if outcome.passes is None else ""
    return ok(f"the firewall lets {some}{who} reach /metrics on {where}")


def protection(outcome: Outcome, words: Mapping[Rule, str]) -> str:
    """Say what keeps others from a port that listens for all."""
    if outcome.passes is True:
        return "No firewall rule of this machine keeps anybody out."
    some = "all but some" if outcome.passes is None else "others"
    return f"The firewall keeps {some} out: {described(outcome.rule, words)}."


def rules(pbx: Pbx) -> tuple[Ruleset, dict[Rule, str]] | str:
    """Return the rules and their texts; or why they cannot be looked at, as in a container."""
    if shutil.which("nft") is None:
        return "there is no nft on this machine"
    ran = pbx.run(("nft", "--json", "list", "ruleset"))
    listing = pbx.run(("nft", "--handle", "list", "ruleset"))
    try:
        if ran.status == 0:
            return Ruleset.parse(ran.output), dict(texts(listing.output))
        said = " ".join(ran.errors.split())
    except (ValueError, KeyError, TypeError):
        said = "its JSON is not what this program expects"
    return f"the rules of nftables cannot be looked at: {said}"


def keeps_out(pbx: Pbx, port: int) -> str:
    """Say what of this machine's firewall keeps others from a port."""
    found = pbx.once("nft", rules)
    if isinstance(found, str):
        return f"Whether a firewall keeps others out is not known: {found}."
    ruleset, words = found
    return protection(ruleset.outcome(Packet(port)), words)


def to_ami(pbx: Pbx) -> Iterator[Finding]:
    """Look at our way to AMI."""
    ami, here = pbx.settings.ami, pbx.asterisk_is_here
    answer, seconds = knock(ami.host, ami.port, min(pbx.timeout, KNOCK_SECONDS))
    found = pbx.once("nft", rules)
    ruleset, words = (Ruleset(), {}) if isinstance(found, str) else found
    outcome = ruleset.outcome(Packet(ami.port, loopback=here), "input" if here else "output")
    yield judge_ami(f"{ami.host}:{ami.port}", answer, seconds, outcome, words)


def to_metrics(pbx: Pbx) -> Iterator[Finding]:
    """Look at Prometheus' way to /metrics, where that listens beyond loopback."""
    listen = pbx.settings.listen
    where = f"{listen.address}:{listen.port}"
    found = pbx.once("nft", rules)
    if is_loopback(listen.address):
        yield not_set_up(f"/metrics is for this machine only, on {where} (listen.address)")
    elif isinstance(found, str):
        yield not_looked_at(found)
    else:
        ruleset, words = found
        scraper, outcome = _scrape(pbx.settings.doctor.prometheus_url, ruleset, listen.port)
        yield judge_metrics(where, scraper, outcome, words)


def _scrape(url: str | None, ruleset: Ruleset, port: int) -> tuple[str | None, Outcome]:
    """Return Prometheus' host, and what becomes of its first packet."""
    host = urllib.parse.urlsplit(url).hostname if url is not None else None
    if host is None:
        return None, ruleset.outcome(Packet(port))
    if is_here(host):
        return host, ruleset.outcome(Packet(port, loopback=True))
    try:
        [*_, address] = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        return host, ruleset.outcome(Packet(port))
    source = str(address[0])
    return host, ruleset.outcome(Packet(port, source, version=6 if ":" in source else 4))
