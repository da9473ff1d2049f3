"""All that a link may look at: I/O is here, and asked once however many links want it."""

from __future__ import annotations

import ipaddress
import os
import pwd
import re
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Callable, NamedTuple, TypeVar, cast

from asterisk_exporter import config, health
from asterisk_exporter.ami.client import AmiClient, Deadline, Reply
from asterisk_exporter.collectors.base import Replies
from asterisk_exporter.doctor.process import asterisk_process

T = TypeVar("T")

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class LookError(Exception):
    """Something could not be looked at. ``action``: what to do about it."""

    def __init__(self, text: str, action: str) -> None:
        super().__init__(text)
        self.action = action


class Ran(NamedTuple):
    """How a command of this machine ended, and what it printed."""

    status: int
    output: str
    errors: str


class Pbx:
    """The machine that we are on, and what its configuration names.

    ``timeout`` is in seconds, for each question.
    """

    def __init__(self, settings: config.Config, path: Path, timeout: float) -> None:
        self.settings = settings
        self.path = path
        self.timeout = timeout
        self._once: dict[str, Any] = {}

    def once(self, name: str, look: Callable[[Pbx], T]) -> T:
        """Return what ``look`` does, of the first time: for what several links want."""
        if name not in self._once:
            self._once[name] = look(self)
        return cast(T, self._once[name])

    def deadline(self) -> Deadline:
        """Return the deadline of a question that is asked now."""
        return Deadline(self.timeout)

    @cached_property
    def asterisk_is_here(self) -> bool:
        """Whether the Asterisk of ``ami.host`` runs on this machine."""
        return is_here(self.settings.ami.host)

    @cached_property
    def has_console(self) -> bool:
        """Whether that Asterisk's console can be asked: not in a container, not elsewhere."""
        return self.asterisk_is_here and shutil.which("asterisk") is not None

    @cached_property
    def replies(self) -> Replies:
        """AMI's replies to ``health.ACTIONS``, by action. Raises AmiError, ConfigError."""
        deadline = self.deadline()
        client = AmiClient.connect(config.target(self.settings, self.path), deadline)
        try:
            found: list[Reply] = client.request(health.ACTIONS, deadline)
        finally:
            client.close()
        return {reply.action: reply for reply in found}

    @cached_property
    def asterisk_user(self) -> str:
        """The name of the user that Asterisk runs as here. Raises LookError."""
        process = asterisk_process()
        if process is not None:
            with suppress(OSError, KeyError):  # it ended meanwhile; a user of a container
                return pwd.getpwuid(Path(f"/proc/{process}").stat().st_uid).pw_name
        raise LookError("no process of Asterisk runs here", "systemctl status asterisk")

    def run(self, command: Sequence[str], user: str | None = None) -> Ran:
        """Run a command of this machine, whatever its exit status. Raises LookError.

        ``user``: whose rights it has; ours without. Not by runuser, which opens a session.
        """
        try:
            rights = {} if user is None else _rights(user)
            done = subprocess.run(  # noqa: S603 - no shell, and our own words
                command,
                capture_output=True,
                text=True,
                errors="backslashreplace",
                timeout=self.timeout,
                check=False,
                stdin=subprocess.DEVNULL,
                **rights,
            )
        except PermissionError as error:
            return Ran(126, "", f"{command[0]}: {error.strerror}")
        except FileNotFoundError:
            raise LookError(
                f"there is no command {command[0]} on this machine",
                "Run the doctor on the PBX itself, as root.",
            ) from None
        except subprocess.TimeoutExpired:
            raise LookError(
                f"{' '.join(command)} did not end within {self.timeout:g} s",
                "Look at the machine's load, and whether that command hangs by itself.",
            ) from None
        return Ran(done.returncode, done.stdout, done.stderr)

    def asterisk(self, command: str) -> str:
        """Return what Asterisk's own console says to ``command``. Raises LookError."""
        ran = self.run(("asterisk", "-rx", command))
        if ran.status != 0:
            said = " ".join((ran.errors or ran.output).split())
            raise LookError(
                f"asterisk -rx {command!r}: {said}",
                "Is Asterisk running, and is this root? systemctl status asterisk",
            )
        return _COLOUR.sub("", ran.output)


def is_loopback(address: str) -> bool:
    """Say whether an address is this machine's own, for nobody else."""
    try:
        return ipaddress.ip_address(address.replace("::ffff:", "")).is_loopback
    except ValueError:
        return address == "localhost"


def is_here(host: str) -> bool:
    """Say whether a host is this machine: whether one of its addresses can be bound to."""
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError):
        return False
    for family, kind, protocol, _, address in found:
        with socket.socket(family, kind, protocol) as sock:
            try:
                sock.bind(address)
            except OSError:
                continue
            return True
    return False


def _rights(user: str) -> dict[str, Any]:
    """Return what subprocess.run() takes to run something as that user."""
    entry = pwd.getpwnam(user)
    groups = os.getgrouplist(user, entry.pw_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": groups}
