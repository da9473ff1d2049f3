"""The link that is where AMI listens."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from asterisk_exporter.config import Ami
from asterisk_exporter.doctor.finding import Finding, critical, not_set_up, ok, warning
from asterisk_exporter.doctor.firewall import keeps_out
from asterisk_exporter.doctor.pbx import LookError, Pbx, is_loopback

_PROCESS = re.compile(r'\("([^"]*)",pid=(\d+)')
_SETTING = re.compile(r"^\s*([^:]+?):\s+(.*?)\s*$")
_SETTINGS = 'asterisk -rx "manager show settings"'


@dataclass(frozen=True)
class Socket:
    """A TCP socket that listens. ``address``: without brackets and scope; ``*`` is any."""

    address: str
    port: int
    process: str
    pid: int | None

    def __str__(self) -> str:
        """Return ``address:port``."""
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{address}:{self.port}"

    @property
    def takes_all(self) -> bool:
        """Whether it listens on every address."""
        return self.address in ("*", "0.0.0.0", "::")  # noqa: S104 - what others bind to

    @property
    def beyond_loopback(self) -> bool:
        """Whether others than this machine can reach it."""
        return self.takes_all or not is_loopback(self.address)


def sockets(text: str) -> list[Socket]:
    """Parse ``ss -Hltnp``."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 4:
            continue
        address, _, port = words[3].rpartition(":")
        match = _PROCESS.search(line)
        found.append(
            Socket(
                address.strip("[]").partition("%")[0],
                int(port) if port.isdigit() else 0,
                match.group(1) if match else "",
                int(match.group(2)) if match else None,
            )
        )
    return found


def settings(text: str) -> dict[str, str]:
    """Parse ``manager show settings``."""
    return {
        match.group(1): match.group(2)
        for line in text.splitlines()
        if (match := _SETTING.match(line)) is not None
    }


def judge_ours(ami: Ami, addresses: Iterable[str], found: Sequence[Socket]) -> Finding:
    """Judge the socket that the exporter connects to. ``addresses``: what ``ami.host`` is."""
    wanted = set(addresses)
    there = [one for one in found if one.port == ami.port]
    fitting = [one for one in there if one.takes_all or one.address in wanted]
    asterisks = [str(one) for one in found if one.process == "asterisk"]
    elsewhere = f"; asterisk listens on {', '.join(asterisks)}" if asterisks else ""
    action = (
        f"Look at enabled, bindaddr and port in [general] of manager.conf ({_SETTINGS}), at "
        "pbx_manager_address and pbx_manager_port, and at asterisk_exporter_ami_host and "
        "asterisk_exporter_ami_port (ami.host and ami.port)."
    )
    if not there:
        return critical(
            f"nothing listens on port {ami.port} (ami.port), where AMI is expected{elsewhere}",
            action,
        )
    if not fitting:
        return critical(
            f"AMI is expected on {ami.host}:{ami.port}, and listens on "
            f"{', '.join(map(str, there))} only",
            action,
        )
    other = next((one for one in fitting if one.process not in ("asterisk", "")), None)
    if other is not None:
        return warning(
            f"{other} belongs to {other.process} (process {other.pid}), not to asterisk{elsewhere}",
            f"Well where it is a proxy before AMI. Else give one of them another port: {action}",
        )
    return ok(f"asterisk listens on {', '.join(map(str, fitting))}")


def beyond_loopback(found: Sequence[Socket], address: str) -> list[Socket]:
    """Return where AMI is for others too; ``address``: where Asterisk says that it listens."""
    port = address.rpartition(":")[2]
    return [
        one
        for one in found
        if one.process == "asterisk" and str(one.port) == port and one.beyond_loopback
    ]


def ami_beyond_loopback(pbx: Pbx) -> bool:
    """Say whether others than this machine reach AMI, with TLS or without. Raises LookError."""
    said = settings(pbx.once("manager settings", manager_settings))
    found = pbx.once("ss", listening)
    return any(beyond_loopback(found, said.get(f"{way} Bindaddress", "")) for way in ("TCP", "TLS"))


def judge_plain(exposed: Sequence[Socket], protection: str) -> Finding:
    """Judge AMI without TLS that others can reach."""
    return warning(
        f"AMI without TLS listens beyond loopback, on {', '.join(map(str, exposed))}: secrets and "
        f"callers' numbers go over the network as they are. {protection}",
        "Let it listen on 127.0.0.1: pbx_manager_address (bindaddr in manager.conf); others reach "
        "it over TLS: pbx_manager_tls_address (tlsenable, tlsbindaddr).",
    )


def _addresses(host: str) -> set[str]:
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return set()
    return {str(address[0]) for *_, address in found}


def listening(pbx: Pbx) -> list[Socket]:
    """Return the TCP sockets that listen on this machine. Raises LookError."""
    ran = pbx.run(("ss", "-Hltnp"))
    if ran.status != 0:
        raise LookError(f"ss: {ran.errors.strip()}", "Look at what listens yourself: ss -ltnp")
    return sockets(ran.output)


def manager_settings(pbx: Pbx) -> str:
    """Return how Asterisk has set AMI up. Raises LookError."""
    return pbx.asterisk("manager show settings")


def ami(pbx: Pbx) -> Iterator[Finding]:
    """Look at what listens, where Asterisk is on this machine."""
    ours = pbx.settings.ami
    if not pbx.asterisk_is_here:
        yield not_set_up(f"AMI is on another machine, {ours.host}:{ours.port}")
        return
    found = pbx.once("ss", listening)
    yield judge_ours(ours, _addresses(ours.host), found)
    if not pbx.has_console:
        return
    said = settings(pbx.once("manager settings", manager_settings))
    plain = said.get("TCP Bindaddress", "")
    exposed = beyond_loopback(found, plain)
    if exposed:
        yield judge_plain(exposed, keeps_out(pbx, exposed[0].port))
