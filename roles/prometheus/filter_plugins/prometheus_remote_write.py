"""Filters for the entries of remote_write; they run on the controller.

An entry is what Prometheus takes, and may have its secret by value: the role puts that into a file
of its own, which Prometheus reads anew with each request, and the configuration names the file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Any
from urllib.parse import urlsplit

Entry = dict[str, Any]

#: Sections of an entry that may have a secret, and its key; KEY_file is the same from a file.
SECRETS = {"basic_auth": "password", "authorization": "credentials", "oauth2": "client_secret"}
#: Secrets that would stand in the configuration itself, and what to write instead.
SHOWN = {
    "bearer_token": "authorization: {credentials: …}",
    "tls_config.key": "tls_config: {key_file: …}, a file of that host",
    "sigv4.secret_key": "sigv4: {profile: …} or {role_arn: …}",
    "azuread.oauth.client_secret": "azuread: {managed_identity: …}",
}


def secrets(entry: Entry) -> Iterator[tuple[str, str, str]]:
    """Yield section, key and value of each secret that an entry has by value."""
    for section, key in SECRETS.items():
        value = (entry.get(section) or {}).get(key)
        if value:
            yield section, key, str(value)


def path(entry: Entry, key: str, directory: str) -> str:
    """Return where one secret of an entry is."""
    return f"{directory}/{entry['name']}-{key}"


def named_by_file(entries: Iterable[Entry], directory: str) -> list[Entry]:
    """Return the entries as they are configured: with files in place of secrets."""
    shown = []
    for entry in entries:
        made = dict(entry)
        for section, key, _ in secrets(entry):
            rest = {name: value for name, value in entry[section].items() if name != key}
            made[section] = {**rest, f"{key}_file": path(entry, key, directory)}
        shown.append(made)
    return shown


def files(
    entries: Iterable[Entry], directory: str, there: Iterable[str]
) -> list[dict[str, str | None]]:
    """Return the files of the secrets as asterisk_config_files takes them.

    ``there``: what the directory holds now; what is not wanted any more goes.
    """
    wanted = {
        path(entry, key, directory): value for entry in entries for _, key, value in secrets(entry)
    }
    gone = [{"path": name, "content": None} for name in there if name not in wanted]
    return [{"path": name, "content": value} for name, value in wanted.items()] + gone


def on_loopback(host: str) -> bool:
    """Say whether a host is this one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def given(entry: Entry, option: str) -> bool:
    """Say whether an entry has an option, which is a path of keys such as sigv4.secret_key."""
    value: Any = entry
    for key in option.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return bool(value)


def entry_problems(entry: Entry) -> Iterator[str]:
    """Yield what is wrong with one entry, without what is secret in it."""
    name = entry.get("name")
    if name is not None and not re.fullmatch(r"\w([\w.-]*\w)?", str(name), re.ASCII):
        yield "name may have letters, digits, _, - and . only."
    by_value = [f"{section}.{key}" for section, key, _ in secrets(entry)]
    if by_value and not name:
        yield f"{by_value[0]} needs a name beside it, which its file has too."
    address = urlsplit(str(entry.get("url") or ""))
    if address.scheme not in ("http", "https") or not address.hostname:
        yield "url must be an address with http:// or https://, such as https://HOST/api/v1/write."
    elif "@" in address.netloc:
        yield "url has a login in it, which everybody sees; write basic_auth."
    elif address.scheme == "http" and not on_loopback(address.hostname):
        login = [section for section in (*SECRETS, "bearer_token") if entry.get(section)]
        if login:
            yield f"{login[0]} would be readable on the way to http://{address.netloc}; use https."
    for option, instead in SHOWN.items():
        if given(entry, option):
            yield f"{option} would stand in the configuration; write {instead}."


def problems(entries: list[Entry]) -> list[str]:
    """Return one sentence for each thing that cannot be meant so."""
    found = [
        f"prometheus_remote_write[{index}]: {problem}"
        for index, entry in enumerate(entries)
        for problem in entry_problems(entry)
    ]
    names = [entry["name"] for entry in entries if entry.get("name")]
    twice = sorted({name for name in names if names.count(name) > 1})
    return [*found, *(f"prometheus_remote_write: '{name}' is there twice." for name in twice)]


class FilterModule:
    """Make the filters known to Ansible."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {
            "prometheus_remote_write_files": files,
            "prometheus_remote_write_named_by_file": named_by_file,
            "prometheus_remote_write_problems": problems,
        }
