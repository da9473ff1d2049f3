"""What the role call_routing wrote: a JSON file, and beside it the token."""

from __future__ import annotations

import json
import os

PATH = "/etc/call-routing/settings.json"
PATH_VARIABLE = "CALL_ROUTING_SETTINGS"
TOKEN_NAME = "crm-token"  # noqa: S105 - a file's name


class SettingsError(Exception):
    """The settings cannot be used; the text never holds the token."""


class Settings:
    """The settings.

    ``targets``: what a reply may say -> where the dialplan then sends the call. ``token``: goes
    into a header and nowhere else.
    """

    __slots__ = (
        "ca_file",
        "cache_seconds",
        "deadline_seconds",
        "failures",
        "lookup",
        "retry_seconds",
        "state_file",
        "targets",
        "token",
        "url",
    )

    def __init__(self, path: str) -> None:
        try:
            with open(path, encoding="utf-8") as file:  # noqa: PTH123 - pathlib takes 5 ms a call
                given = json.load(file)
            self.url: str = given["url"].rstrip("/")
            self.ca_file: str | None = given["ca_file"]
            self.lookup: bool = given["lookup"]
            self.deadline_seconds = float(given["deadline_seconds"])
            self.cache_seconds = float(given["cache_seconds"])
            self.failures = int(given["failures"])
            self.retry_seconds = float(given["retry_seconds"])
            self.state_file: str = given["state_file"]
            self.targets: dict[str, str] = dict(given["targets"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SettingsError(f"cannot use {path}: {type(error).__name__}: {error}") from None
        self.token = _token(path)


def _token(settings_path: str) -> str:
    """Return the credential of that name where systemd gave one, else the file's first line."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY") or os.path.dirname(settings_path)  # noqa: PTH120
    path = f"{folder}/{TOKEN_NAME}"
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123
            token = file.read().strip()
    except (OSError, ValueError) as error:
        raise SettingsError(f"cannot read {path}: {type(error).__name__}") from None
    if not token or not token.isprintable() or " " in token:
        raise SettingsError(f"{path} must hold one printable word, the token")
    return token


def load(path: str | None = None) -> Settings:
    """Return the settings. Raises SettingsError."""
    return Settings(path or os.environ.get(PATH_VARIABLE) or PATH)
