"""Filters of the role grafana; they run on the controller."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

URL = r"https?://[^\s/?#]+[^\s?#]*"
PATH = r"(/[^/\s]+){2,}"
PORT = r"[1-9]\d{0,3}|[1-5]\d{4}|6[0-4]\d{3}|65[0-4]\d{2}|655[0-2]\d|6553[0-5]"
URLS = (
    "grafana_apt_url",
    "grafana_apt_key_url",
    "grafana_prometheus_url",
    "grafana_runbooks_url",
    "grafana_api_url",
)
# Grafana gives each dashboard these when it takes it.
GIVEN = ("id", "version")

# What each variable must look like, and what to write instead.
FORMS = {
    **dict.fromkeys(URLS, (URL, "write an address with http:// or https://")),
    "grafana_prometheus_scrape_interval": (r"(\d+(ms|[smhd]))+", "write a duration such as 15s"),
    "grafana_listen_address": (r"[0-9A-Fa-f:.]+", "write an IP address such as 127.0.0.1"),
    "grafana_listen_port": (PORT, "write a port such as 3000"),
    "grafana_folder": (r".*\S.*", "write the name of the dashboards' folder"),
    "grafana_provisioning_dir": (PATH, "write the full path of a folder"),
    "grafana_dashboards_dir": (PATH, "write the full path of a folder of its own"),
}


def malformed(variables: dict[str, Any]) -> Iterator[str]:
    """Yield which variables do not look as they must."""
    for name, (pattern, advice) in FORMS.items():
        value = str(variables[name])
        if not re.fullmatch(pattern, value) and (value or name != "grafana_api_url"):
            yield f"{name} is '{value}'; {advice}."


def contradictions(variables: dict[str, Any]) -> Iterator[str]:
    """Yield which variables exclude each other; the token is not in it."""
    api, token = variables["grafana_api_url"], variables["grafana_api_token"]
    if api and not token:
        yield "grafana_api_url needs grafana_api_token, the token of a service account there."
    if token and not api:
        yield "grafana_api_token is for grafana_api_url, which is empty; set both or neither."
    if api and variables["grafana_install"]:
        yield (
            "grafana_install and grafana_api_url exclude each other: a Grafana that this role"
            " installs is provisioned by files. Leave one of them out."
        )
    providers = variables["grafana_provisioning_dir"].rstrip("/") + "/"
    if variables["grafana_dashboards_dir"].startswith(providers):
        yield (
            f"grafana_dashboards_dir is in {providers}, where Grafana expects files of another"
            " kind; name a folder elsewhere."
        )


def problems(variables: dict[str, Any]) -> list[str]:
    """Return what is wrong with the variables of the role."""
    return [*malformed(variables), *contradictions(variables)]


def files(dashboards: dict[str, str], directory: str, there: list[str]) -> list[dict[str, str]]:
    """Return what asterisk_config_files shall do: write the dashboards, remove other files."""
    wanted = {f"{directory}/{uid}.json": text for uid, text in dashboards.items()}
    return [
        *({"path": path, "content": text} for path, text in wanted.items()),
        *({"path": path} for path in there if path not in wanted),
    ]


def same(wanted: Any, there: Any) -> bool:
    """Return whether Grafana has what is wanted; what it has beyond that is its own."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(
            key in there and same(value, there[key]) for key, value in wanted.items()
        )
    return bool(wanted == there)


def outdated(answers: list[dict[str, Any]], wanted: dict[str, str], folder: str) -> list[str]:
    """Return the uids of the dashboards that Grafana lacks, or has otherwise or elsewhere.

    answers: those of GET /api/dashboards/uid/UID, each with the UID as `item`.
    """
    current = {answer["item"]: answer["json"] for answer in answers if answer.get("status") == 200}
    return [
        uid
        for uid, text in wanted.items()
        if uid not in current
        or current[uid]["meta"].get("folderUid") != folder
        or {k: v for k, v in current[uid]["dashboard"].items() if k not in GIVEN}
        != json.loads(text)
    ]


class FilterModule:
    """Filters by name."""

    def filters(self) -> dict[str, Any]:
        """Return the filters."""
        return {
            "grafana_problems": problems,
            "grafana_files": files,
            "grafana_same": same,
            "grafana_outdated": outdated,
        }
