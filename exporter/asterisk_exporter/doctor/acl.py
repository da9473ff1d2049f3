"""An ACL of Asterisk, as its console shows it: pure.

Relied on: ``ast_acl_output()`` and ``ast_apply_acl()`` of main/acl.c. In a list the last rule that
fits is the one that counts, and an address that none fits may come in; each list must let it in.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import NamedTuple, Union

_RULE = re.compile(r"\s*\d+:\s+(allow|deny) - (\S+)/(\S+)\s*$")
_LIST = re.compile(r"ACL: (?!(?:yes|no)\s*$)")
_Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
#: Addresses of documentation (RFC 5737, RFC 3849): who lets them in, lets everybody in.
ANYBODY = ("203.0.113.77", "2001:db8::77")


class Rule(NamedTuple):
    """One line of an ACL."""

    allow: bool
    network: _Network


Acl = tuple[tuple[Rule, ...], ...]


def acl(text: str) -> Acl | None:
    """Return the lists in ``manager show user``, None where it only says that there are some."""
    lists: list[list[Rule]] = []
    for line in text.splitlines():
        match = _RULE.match(line)
        if _LIST.match(line):
            lists.append([])
        elif match and lists:
            lists[-1].append(Rule(match.group(1) == "allow", _network(*match.groups()[1:])))
    return tuple(tuple(one) for one in lists) or None


def _network(address: str, mask: str) -> _Network:
    bits = bin(int(ipaddress.ip_address(mask))).count("1")
    return ipaddress.ip_network(f"{address}/{bits}", strict=False)


def lets_in(lists: Acl, address: str) -> bool:
    """Say whether an address may log in."""
    return all(_allows(one, address) for one in lists)


def _allows(rules: Sequence[Rule], address: str) -> bool:
    host = ipaddress.ip_address(address)
    fitting = [rule.allow for rule in rules if host in rule.network]
    return fitting[-1] if fitting else True


def is_open(lists: Acl) -> bool:
    """Say whether everybody may log in."""
    return any(lets_in(lists, address) for address in ANYBODY)


def allowed(lists: Acl) -> str:
    """Return the networks that may log in, for people."""
    found = [str(rule.network) for one in lists for rule in one if rule.allow]
    return ", ".join(dict.fromkeys(found)) or "nowhere"
