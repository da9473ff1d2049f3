"""Filters of the role firewall; they run on the controller."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Any, Callable

PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
# What a transport of PJSIP binds to; without a port that of its protocol.
BIND = re.compile(r"(?:\[[^]]*\]|[^:]*):(\d+)")
DEFAULT_PORTS = {"tls": "5061"}


def sip_rules(transports: list[dict[str, Any]], sources: list[str]) -> list[dict[str, Any]]:
    """Return the rules that let the sources reach what SIP listens on.

    `transports` are those of the role pbx.
    """
    rules: list[dict[str, Any]] = []
    for transport in transports:
        protocol = transport["protocol"]
        given = BIND.fullmatch(str(transport["bind"]))
        rule = {
            "port": given[1] if given else DEFAULT_PORTS.get(protocol, "5060"),
            "protocol": "udp" if protocol == "udp" else "tcp",
            "sources": sources,
        }
        if rule not in rules:
            rules.append(rule)
    return rules


def statements(rules: list[dict[str, Any]]) -> list[str]:
    """Return the rules in the language of nftables."""
    return [
        f"{source}{rule.get('protocol', 'tcp')} dport {rule['port']} accept"
        for rule in rules
        for source in matches(rule["sources"])
    ]


def matches(sources: list[str]) -> Iterator[str]:
    """Yield what matches a packet from these networks: nothing for everybody, else one a family."""
    v4, v6 = networks(sources, 4), networks(sources, 6)
    if v4 == ["0.0.0.0/0"] and v6 == ["::/0"]:
        yield ""
        return
    if v4:
        yield "meta nfproto ipv4 " if v4 == ["0.0.0.0/0"] else f"ip saddr {{ {', '.join(v4)} }} "
    if v6:
        yield "meta nfproto ipv6 " if v6 == ["::/0"] else f"ip6 saddr {{ {', '.join(v6)} }} "


def networks(sources: list[str], version: int) -> list[str]:
    """Return the networks of one version of IP; what lies in another one would be a conflict."""
    given = (ipaddress.ip_network(source) for source in sources)
    return [
        str(one) for one in ipaddress.collapse_addresses(n for n in given if n.version == version)
    ]


def problems(settings: dict[str, Any]) -> list[str]:
    """Return a sentence for each variable of the role that cannot be.

    `settings` has the role's variables by their names.
    """
    ports = {
        "firewall_ssh_ports": settings["firewall_ssh_ports"],
        "firewall_rtp_ports": [settings["firewall_rtp_ports"]],
        "firewall_rules": [rule["port"] for rule in settings["firewall_rules"]],
    }
    sources = {
        "firewall_ssh_sources": settings["firewall_ssh_sources"],
        "firewall_sip_sources": settings["firewall_sip_sources"],
        "firewall_rules": [one for rule in settings["firewall_rules"] for one in rule["sources"]],
    }
    found = [
        f"{name}: '{port}' is no port from 1 to 65535, nor a range such as 8000-8010."
        for name, given in ports.items()
        for port in given
        if not is_port(str(port))
    ]
    found += [
        f"{name}: '{source}' is no network; write such as 192.0.2.0/24, 192.0.2.7 or 2001:db8::/32."
        for name, given in sources.items()
        for source in given
        if not is_network(str(source))
    ]
    if not settings["firewall_ssh_sources"]:
        found.append(
            "firewall_ssh_sources is empty, and nobody could ever log in: name the networks of your"
            " administrators and of this controller."
        )
    found += [
        f"firewall_rules: port {rule['port']} has no sources; name them, or leave the rule out."
        for rule in settings["firewall_rules"]
        if not rule["sources"]
    ]
    seconds = int(settings["firewall_take_back_seconds"])
    if not 10 <= seconds <= 600:
        found.append(f"firewall_take_back_seconds is {seconds}: give seconds from 10 to 600.")
    return found


def is_port(text: str) -> bool:
    """Return whether the text is a port or a range of ports."""
    match = PORTS.fullmatch(text)
    return match is not None and 1 <= int(match[1]) <= int(match[2] or match[1]) <= 65535


def is_network(text: str) -> bool:
    """Return whether the text is a network or an address."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


class FilterModule:
    """Make the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "firewall_sip_rules": sip_rules,
            "firewall_statements": statements,
            "firewall_problems": problems,
        }
