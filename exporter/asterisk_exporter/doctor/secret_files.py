"""The link that is who can read our secrets."""

from __future__ import annotations

import pwd
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from asterisk_exporter.config import Cdr, CdrCsv, Config
from asterisk_exporter.doctor.finding import Finding, not_set_up, ok, warning
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.doctor.services import service_user


def paths(settings: Config, config_path: Path) -> list[Path]:
    """Return the files of secrets that the configuration names, whether they are there or not."""
    cdr = settings.cdr
    names = [settings.ami.secret_file]
    if settings.events.enabled:
        names.append(settings.events.secret_file)
    if settings.control is not None:
        names.append(settings.control.secret_file)
    if cdr is not None and not isinstance(cdr, CdrCsv) and cdr.password_file is not None:
        names.append(cdr.password_file)
    if isinstance(cdr, Cdr) and settings.importer.password_file is not None:
        names.append(settings.importer.password_file)
    if settings.doctor.metrics_username is not None:
        names.append(settings.doctor.metrics_password_file)
    if settings.notifier is not None:
        names.append(settings.notifier.secret_file)
    return [config_path.parent / name for name in names]


def judge(path: Path, mode: int, owner: str, users: Iterable[str]) -> Finding | None:
    """Judge one file; ``users``: who may own it. None: all is well."""
    bits = stat.S_IMODE(mode)
    wanted = "It must be for root alone"
    if bits & (stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP):
        return warning(
            f"{path} has mode {bits:04o}: "
            f"{'anybody on this machine' if bits & stat.S_IROTH else 'others'} "
            f"can {'read' if bits & stat.S_IROTH else 'change'} the secret",
            f"{wanted}: chmod 0600 {path}; and change the secret, which others may know.",
        )
    if owner not in users:
        return warning(
            f"{path} belongs to {owner}, who can read and change the secret",
            f"{wanted}, or for the user of the service: chown root: {path}",
        )
    return None


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def secret_files(pbx: Pbx) -> Iterator[Finding]:
    """Look at owner and mode of each file; one that is missing is another link's matter."""
    there = [path for path in paths(pbx.settings, pbx.path) if path.exists()]
    owners = {path: _owner(path.stat().st_uid) for path in there}
    users = {"root"}
    if set(owners.values()) - users:
        users.add(service_user(pbx))
    judged = [judge(path, path.stat().st_mode, owner, users) for path, owner in owners.items()]
    found = [finding for finding in judged if finding is not None]
    yield from found
    if not there:
        yield not_set_up(f"no secret is in a file beside {pbx.path}")
    elif len(found) < len(there):
        yield ok(f"{len(there) - len(found)} of {len(there)} are for their owner alone")
