"""The AMI logins that the configuration names: what each may do, and what came of each."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Callable

from asterisk_exporter import config
from asterisk_exporter.ami.client import ALLOWED_ACTIONS, Action, AmiClient, Target
from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.control.session import CONTROL_ACTIONS
from asterisk_exporter.doctor.acl import Acl, acl
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.events import CLASSES

_LIST = frozenset({"ListCommands"})
_PRIVILEGES = re.compile(r"\(Priv: ([^()]*)\)\s*$")


@dataclass(frozen=True)
class Account:
    """An AMI login of ours, with all that it needs. ``variable``: of the inventory, its secret.

    ``target``: where and as whom to log in; raises ConfigError. ``loss``: what is not without;
    ``serious``: that is figures.
    """

    username: str
    target: Callable[[], Target]
    variable: str
    actions: frozenset[str]
    read: frozenset[str]
    write: frozenset[str]
    loss: str
    serious: bool = True


def exporter(settings: config.Config, path: Path) -> Account:
    """Return the login of the exporter itself."""
    return Account(
        settings.ami.username,
        partial(config.target, settings, path),
        "asterisk_exporter_ami_secret",
        ALLOWED_ACTIONS,
        read=frozenset(),
        write=frozenset({"reporting"}),
        loss="figures are missing from the next connection on",
    )


def events(settings: config.Config, path: Path) -> Account | None:
    """Return the login that receives events, None when it is off."""
    if not settings.events.enabled:
        return None
    return Account(
        settings.events.username,
        partial(config.events_target, settings, path),  # type: ignore[arg-type] # None when off
        "asterisk_exporter_events_secret",
        frozenset(),
        read=frozenset(CLASSES.split(",")),
        write=frozenset(),
        loss="voice quality and security events are not counted",
    )


def control(settings: config.Config, path: Path) -> Account | None:
    """Return the login of asterisk-ctl, None where there is none."""
    if settings.control is None:
        return None
    return Account(
        settings.control.username,
        lambda: config.control_target(settings, path)[0],
        "asterisk_exporter_control_secret",
        CONTROL_ACTIONS,
        read=frozenset({"call", "dialplan"}),
        write=frozenset({"call", "agent", "originate"}),
        loss="asterisk-ctl cannot work",
        serious=False,
    )


def accounts(pbx: Pbx) -> list[Account]:
    """Return the logins that are configured, the exporter's first."""
    found = [make(pbx.settings, pbx.path) for make in (exporter, events, control)]
    return [account for account in found if account is not None]


@dataclass(frozen=True)
class Session:
    """A login that succeeded: the classes that each action it may run is open to."""

    commands: Mapping[str, frozenset[str]]


def commands(reply: Message) -> dict[str, frozenset[str]]:
    """Parse the reply to ListCommands; an action that is open to all has no class."""
    found = {}
    for name, text in reply.headers:
        match = _PRIVILEGES.search(text)
        if match is not None:
            classes = frozenset(match.group(1).split(","))
            found[name] = classes - {"all", "<none>"}
    return found


def outcome(pbx: Pbx, account: Account) -> Session | AmiError | config.ConfigError:
    """Log in, once, and return what came of it."""
    return pbx.once(f"login {account.username}", partial(_log_in, account=account))


def _log_in(pbx: Pbx, account: Account) -> Session | AmiError | config.ConfigError:
    deadline = pbx.deadline()
    try:
        client = AmiClient.connect(account.target(), deadline, allowed=_LIST)
        try:
            return Session(commands(client.ask(Action("ListCommands"), deadline).message()))
        finally:
            client.close()
    except (AmiError, config.ConfigError) as error:
        return error


@dataclass(frozen=True)
class User:
    """What Asterisk knows of a login: classes, and its ACL.

    ``has_acl`` without ``acl``: this Asterisk does not show its rules.
    """

    name: str
    has_acl: bool
    acl: Acl | None
    read: frozenset[str]


def user(name: str, text: str) -> User | None:
    """Parse ``manager show user``; None, there is no such user."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            values.setdefault(key.strip(), value.strip())
    if values.get("username") != name:
        return None
    has_acl = values.get("ACL") == "yes"
    read = frozenset(values.get("read perm", "").split(",")) - {"", "<none>"}
    return User(name, has_acl, acl(text) if has_acl else None, read)


def ask_user(pbx: Pbx, name: str) -> User | None:
    """Ask Asterisk's console for a user, once. Raises LookError."""
    text = pbx.once(f"user {name}", partial(_shown, name=name))
    return user(name, text)


def _shown(pbx: Pbx, *, name: str) -> str:
    return pbx.asterisk(f"manager show user {name}")


def source(host: str, port: int) -> str:
    """Return the address that this machine has towards a host, nothing where there is no way."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[
            0
        ]
        with socket.socket(family, kind, protocol) as sock:
            sock.connect(address)
            return str(sock.getsockname()[0])
    except (OSError, UnicodeError):
        return ""
