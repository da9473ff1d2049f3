"""What nftables would do with a new TCP connection: pure, from ``nft --json list ruleset``.

Three answers: a rule is met, is not, or may be (its source is not known here, or it asks for what
this does not know). Relied on: libnftables-json(5).
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

ENDS = ("accept", "drop", "reject")
#: What may let a rule not be met, for reasons that are not in the packet or not shown.
UNKNOWN = ("limit", "xt", "quota", "lookup", "socket")
#: The kernel allows no more jumps.
MAX_DEPTH = 16
#: An interface that is not lo, whichever.
OTHER = object()
INTERFACES = ("iif", "iifname", "oif", "oifname")
#: The packet has no such field: what asks for it is not met.
ABSENT = object()
_HANDLE = re.compile(r"\s*(.*?)\s*# handle (\d+)$")
_OPENS = re.compile(r"(table|chain) (.*?)\s*\{")


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection. ``source`` None: nobody knows."""

    port: int
    source: str | None = None
    loopback: bool = False
    version: int = 4


class Rule(NamedTuple):
    """A rule, or with ``handle`` 0 the policy of a chain."""

    family: str
    table: str
    chain: str
    handle: int = 0


@dataclass(frozen=True)
class Outcome:
    """What happens to a packet: ``end`` is one of ENDS, by ``rule``.

    ``maybe``: what may be met before that, and names the port.
    """

    end: str
    rule: Rule | None = None
    maybe: tuple[tuple[str, Rule], ...] = ()

    @property
    def passes(self) -> bool | None:
        """Whether it gets through; None, some do."""
        accepted = self.end == "accept"
        if any((end == "accept") != accepted for end, _ in self.maybe):
            return None
        return accepted


@dataclass(frozen=True)
class Ruleset:
    """The rules of a machine."""

    chains: tuple[Mapping[str, Any], ...] = ()
    rules: Mapping[tuple[str, str, str], tuple[Mapping[str, Any], ...]] = field(
        default_factory=dict
    )
    sets: Mapping[tuple[str, str, str], Sequence[Any]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Ruleset:
        """Parse ``nft --json list ruleset``. Raises ValueError."""
        chains: list[Mapping[str, Any]] = []
        rules: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
        sets: dict[tuple[str, str, str], Sequence[Any]] = {}
        for entry in json.loads(text)["nftables"]:
            for kind, one in entry.items():
                if kind == "chain":
                    chains.append(one)
                elif kind == "rule":
                    rules.setdefault((one["family"], one["table"], one["chain"]), []).append(one)
                elif kind in ("set", "map"):
                    sets[one["family"], one["table"], one["name"]] = one.get("elem", ())
        return cls(tuple(chains), {key: tuple(value) for key, value in rules.items()}, sets)

    def outcome(self, packet: Packet, hook: str = "input") -> Outcome:
        """Walk the filters of a hook: all of them have to let the packet pass."""
        family = "ip" if packet.version == 4 else "ip6"
        chains = [
            one
            for one in self.chains
            if one.get("hook") == hook
            and one.get("type") == "filter"
            and one["family"] in (family, "inet")
        ]
        maybe: list[tuple[str, Rule]] = []
        for chain in sorted(chains, key=lambda one: int(one.get("prio", 0))):
            walk = _Walk(self, packet, chain["family"], chain["table"])
            end = walk.chain(chain["name"], certain=True)
            if end is None or end == "return":
                end = chain.get("policy", "accept")
                walk.by = Rule(chain["family"], chain["table"], chain["name"])
            if end != "accept":
                return Outcome(end, walk.by, tuple(walk.maybe))
            maybe += [one for one in walk.maybe if one[0] != "accept"]
        return Outcome("accept", None, tuple(maybe))


class _Walk:
    """One walk through the chains of one table."""

    def __init__(self, ruleset: Ruleset, packet: Packet, family: str, table: str) -> None:
        self.ruleset = ruleset
        self.packet = packet
        self.key = (family, table)
        self.by: Rule | None = None
        self.maybe: list[tuple[str, Rule]] = []

    def chain(self, name: str, *, certain: bool, named: bool = False, depth: int = 0) -> str | None:
        """Return what surely ends the packet here, None when nothing does."""
        if depth > MAX_DEPTH:
            return None
        for rule in self.ruleset.rules.get((*self.key, name), ()):
            verdict, met, names = self.asked(rule["expr"])
            if verdict is None or met is False:
                continue
            end = self.follow(verdict, rule, certain and met is True, named or names, depth)
            if end is not None:
                return end
        return None

    def asked(
        self, expressions: Sequence[Mapping[str, Any]]
    ) -> tuple[Mapping[str, Any] | None, bool | None, bool]:
        """Return a rule's verdict, whether it is met, and whether it names the port."""
        verdict: Mapping[str, Any] | None = None
        met: bool | None = True
        names = False
        for kind, what in (item for one in expressions for item in one.items()):
            answer: bool | None = True
            asks: Mapping[str, Any] = {}
            if kind == "match":
                answer, asks = self.match(what), what["left"]
            elif kind == "vmap":
                (verdict, answer), asks = self.verdict_of(what), what["key"]
            elif kind in UNKNOWN:
                answer = None
            elif kind in (*ENDS, "jump", "goto", "return"):
                verdict = {kind: what}
            met = _both(met, answer)
            names = names or (answer is True and _asks_port(asks))
        return verdict, met, names

    def follow(
        self,
        verdict: Mapping[str, Any],
        rule: Mapping[str, Any],
        certain: bool,
        names: bool,
        depth: int,
    ) -> str | None:
        """Return what a verdict comes to, None when the next rule is asked."""
        [(kind, what)] = verdict.items()
        if kind in ("jump", "goto"):
            end = self.chain(what["target"], certain=certain, named=names, depth=depth + 1)
            if not certain:
                return None
            return "return" if kind == "goto" and end is None else _unless_returned(end)
        if kind == "return":
            return "return" if certain else None
        by = Rule(*self.key, rule["chain"], rule["handle"])
        if certain:
            self.by = by
            return kind
        if names:
            self.maybe.append((kind, by))
        return None

    def match(self, what: Mapping[str, Any]) -> bool | None:
        """Say whether a condition is met."""
        value = self.value(what["left"])
        if value is ABSENT:
            return False
        if value is None:
            return None
        answer = self.is_in(value, what["right"])
        if what["op"] == "!=":
            return None if answer is None else not answer
        return answer if what["op"] in ("==", "in") else None

    def verdict_of(self, what: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, bool | None]:
        """Look a verdict up in a map."""
        value, data = self.value(what["key"]), what["data"]
        if value is ABSENT:
            return None, False
        for key, verdict in self.elements(data):
            if value is not None and self.is_in(value, key) is True:
                return verdict, True
        return None, None if value in (None, OTHER) else False

    def elements(self, data: Any) -> Sequence[Any]:
        """Return the elements of a set or map, which may have a name."""
        if isinstance(data, str) and data.startswith("@"):
            return self.ruleset.sets.get((*self.key, data[1:]), ())
        return data.get("set", ()) if isinstance(data, Mapping) else ()

    def value(self, left: Mapping[str, Any]) -> Any:
        """Return the packet's value of a field, None where nobody knows."""
        [(kind, what)] = left.items()
        if kind == "payload":
            return self.header(what.get("protocol"), what.get("field"))
        if kind == "meta":
            return {
                "l4proto": "tcp",
                "nfproto": f"ipv{self.packet.version}",
                **dict.fromkeys(INTERFACES, "lo" if self.packet.loopback else OTHER),
            }.get(what.get("key"))
        return "new" if kind == "ct" and what.get("key") == "state" else None

    def header(self, protocol: str | None, name: str | None) -> Any:
        """Return a header's field of the packet."""
        if protocol in ("tcp", "th"):
            return self.packet.port if name == "dport" else None
        if protocol == ("ip" if self.packet.version == 4 else "ip6"):
            fields = {"saddr": self.packet.source, "protocol": "tcp", "nexthdr": "tcp"}
            return fields.get(name or "")
        return ABSENT if protocol in ("ip", "ip6", "udp", "icmp", "icmpv6", "sctp") else None

    def is_in(self, value: Any, right: Any) -> bool | None:
        """Say whether a value is one of those."""
        if isinstance(right, str) and right.startswith("@"):
            right = {"set": self.elements(right)}
        if isinstance(right, Mapping) and "elem" in right:
            right = right["elem"]["val"]
        several = right.get("set") if isinstance(right, Mapping) else right
        if isinstance(several, (list, tuple)):
            answers = [self.is_in(value, one) for one in several]
            return True if True in answers else None if None in answers else False
        if value is OTHER:
            return False if right == "lo" else None
        if isinstance(right, Mapping):
            return _in_range(value, right)
        return _same(value, right)


def _both(one: bool | None, other: bool | None) -> bool | None:
    return False if False in (one, other) else None if None in (one, other) else True


def _unless_returned(end: str | None) -> str | None:
    return None if end == "return" else end


def _asks_port(left: Mapping[str, Any]) -> bool:
    return bool(left.get("payload", {}).get("field") == "dport")


def _in_range(value: Any, right: Mapping[str, Any]) -> bool | None:
    try:
        if "prefix" in right:
            network = f"{right['prefix']['addr']}/{right['prefix']['len']}"
            return ipaddress.ip_address(value) in ipaddress.ip_network(network, strict=False)
        low, high = right["range"]
        if isinstance(value, int):
            return bool(low <= value <= high)
        first, it, last = (ipaddress.ip_address(one) for one in (low, value, high))
    except (ValueError, KeyError, TypeError):
        return None
    return int(first) <= int(it) <= int(last)


def _same(value: Any, right: Any) -> bool | None:
    if isinstance(right, str) and right.endswith("*"):
        return str(value).startswith(right[:-1])
    if isinstance(right, (str, int)):
        return bool(value == right)
    return None


def texts(listing: str) -> Iterator[tuple[Rule, str]]:
    """Yield each rule of ``nft --handle list ruleset`` as a person writes it."""
    family = table = chain = ""
    for line in listing.splitlines():
        opened = _OPENS.match(line.strip())
        if opened and opened.group(1) == "table":
            family, _, table = opened.group(2).partition(" ")
        elif opened:
            chain = opened.group(2)
        elif match := _HANDLE.match(line):
            yield Rule(family, table, chain, int(match.group(2))), match.group(1)
