"""Filters of the role asterisk; they run on the controller."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any, Callable
from urllib.parse import urlsplit

VERSION = re.compile(r"\d+(\.\d+){1,2}(-(rc|beta|cert)\d+)?")
CHECKSUM = re.compile(r"[0-9a-f]{64}")
# How menuselect spells a module or an option.
SWITCH = re.compile(r"[A-Za-z0-9_-]+")
# The two archives, by the beginning of their variables' names.
ARCHIVES = ("asterisk_source", "asterisk_source_pjproject")


def problems(settings: dict[str, Any], loaded: list[str], known: dict[str, str]) -> list[str]:
    """Return a sentence for each variable with which no build can be made.

    `settings` has the role's variables by their names, `loaded` the modules that this role loads,
    `known` the SHA-256 of archives by their names.
    """
    found = []
    for archive in ARCHIVES:
        found += archive_problems(settings, archive, known)
    if settings["asterisk_source_mp3"] and settings["asterisk_source_checksum"] in known.values():
        found.append(
            "asterisk_source_mp3 is true, and asterisk_source_checksum is of upstream's archive,"
            " which lacks the decoder: give one that has it, or set it to false."
        )
    chosen = {name: settings[f"asterisk_source_{name}"] for name in ("enable", "disable")}
    found += [
        f"asterisk_source_{name}: '{switch}' is no switch of menuselect; write such as res_snmp or"
        " DONT_OPTIMIZE."
        for name, switches in chosen.items()
        for switch in switches
        if not SWITCH.fullmatch(str(switch))
    ]
    found += [
        f"asterisk_source_disable: '{switch}' is in asterisk_source_enable too; leave it in one."
        for switch in chosen["disable"]
        if switch in chosen["enable"]
    ]
    found += [
        f"asterisk_source_disable: '{switch}' would be missing, since this role loads {switch}.so."
        for switch in chosen["disable"]
        if f"{switch}.so" in loaded
    ]
    return found


def archive_problems(settings: dict[str, Any], archive: str, known: dict[str, str]) -> list[str]:
    """Return a sentence for each variable that does not lead to one known archive."""
    version, url, file, checksum = (
        str(settings[f"{archive}_{name}"]) for name in ("version", "url", "file", "checksum")
    )
    found = []
    if not VERSION.fullmatch(version):
        found.append(f"{archive}_version is '{version}': give a release such as 22.10.1.")
    if not checksum:
        found.append(
            f"{archive}_checksum is '', and of {version} this role knows none: give the SHA-256 of"
            f" the archive, as whoever publishes it states it, or take one of {', '.join(known)}."
        )
    elif not CHECKSUM.fullmatch(checksum):
        found.append(
            f"{archive}_checksum is '{checksum}': give the SHA-256 of the archive, 64 digits of"
            " 0-9 and a-f, as whoever publishes it states it."
        )
    if file and not (Path(file).is_absolute() and Path(file).is_file()):
        found.append(
            f"{archive}_file is '{file}': give the absolute path of a file on the controller."
        )
    elif file and CHECKSUM.fullmatch(checksum):
        actual = hashlib.sha256(Path(file).read_bytes()).hexdigest()
        if actual != checksum:
            found.append(
                f"{archive}_checksum is '{checksum}', and the SHA-256 of {file} is {actual}."
            )
    address = urlsplit(url)
    if not file and not (address.scheme in ("http", "https") and address.hostname):
        found.append(f"{archive}_url is '{url}': give an address with http or https.")
    return found


def build_id(version: str, script: str) -> str:
    """Return the name of a build: its version, and a digest of all that makes it what it is."""
    return f"{version}-{hashlib.sha256(script.encode()).hexdigest()[:10]}"


class FilterModule:
    """Make the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "asterisk_source_problems": problems,
            "asterisk_build_id": build_id,
        }
