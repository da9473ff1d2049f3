"""Filters of the role alertmanager; they run on the controller."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Receiver = dict[str, Any]
Route = dict[str, Any]

# Kind in the inventory, key of its secret there, section and key in Alertmanager's configuration.
KINDS = (
    ("webhooks", "url", "webhook_configs", "url_file"),
    ("slack", "webhook_url", "slack_configs", "api_url_file"),
    ("telegram", "bot_token", "telegram_configs", "bot_token_file"),
)
SLACK_TEXT = (
    "{{ range .Alerts }}*{{ .Annotations.summary }}* ({{ .Status }})\n"
    "{{ .Annotations.description }}\n{{ .Annotations.action }}\n{{ end }}"
)


def secret_name(receiver: Receiver, kind: str, index: int) -> str:
    """Return the file name of one secret."""
    return f"{receiver['name']}-{kind}-{index}"


def secrets(receivers: list[Receiver], smtp_password: str) -> dict[str, str]:
    """Return the content of each secret by file name."""
    found = {"smtp-password": smtp_password} if smtp_password else {}
    for receiver in receivers:
        for kind, key, _, _ in KINDS:
            for index, target in enumerate(receiver.get(kind) or []):
                found[secret_name(receiver, kind, index)] = target[key]
    return found


def config(receivers: list[Receiver], directory: str) -> list[dict[str, Any]]:
    """Return the section `receivers` of alertmanager.yml, with secrets as files in directory."""
    result = []
    for receiver in receivers:
        entry: dict[str, Any] = {"name": receiver["name"]}
        for to in receiver.get("emails") or []:
            entry.setdefault("email_configs", []).append({"to": to, "send_resolved": True})
        for kind, key, section, file_key in KINDS:
            for index, target in enumerate(receiver.get(kind) or []):
                shown = {"send_resolved": True, **target}
                del shown[key]
                if kind == "slack":
                    shown.setdefault("text", SLACK_TEXT)
                shown[file_key] = f"{directory}/{secret_name(receiver, kind, index)}"
                entry.setdefault(section, []).append(shown)
        result.append(entry)
    return result


def receiver_problems(receiver: Receiver, name: str) -> Iterator[str]:
    """Yield what is wrong with one receiver."""
    where = f"alertmanager_receivers: '{name}'"
    if not re.fullmatch(r"\w([\w-]*\w)?", name, re.ASCII):
        yield f"{where}: the name may have letters, digits, _ and - only."
    if not any(receiver.get(kind) for kind in ("emails", *(kind[0] for kind in KINDS))):
        yield f"{where} has none of emails, webhooks, slack, telegram: it would tell nobody."
    for to in receiver.get("emails") or []:
        if not re.fullmatch(r"[^@\s]+@[^@\s]+", to):
            yield f"{where}: emails has '{to}', which is no mail address."
    for kind, key, _, _ in KINDS:
        pattern = r"\S+" if key == "bot_token" else r"https?://\S+"
        for index, target in enumerate(receiver.get(kind) or []):
            if not re.fullmatch(pattern, str(target.get(key) or "")):
                expected = (
                    "a token" if key == "bot_token" else "an address with http:// or https://"
                )
                yield f"{where}: {kind}[{index}].{key} must be {expected}."


def used_receivers(default: str, routes: list[Route]) -> Iterator[tuple[str, str]]:
    """Yield each receiver that is sent to, with the variable that names it."""
    yield "alertmanager_default_receiver", default
    for route in routes:
        yield "alertmanager_routes", route.get("receiver") or ""
        yield from used_receivers("", route.get("routes") or [])


def problems(receivers: list[Receiver], default: str, routes: list[Route]) -> list[str]:
    """Return one sentence for each receiver that cannot be meant so. Shows no secret."""
    names = [str(receiver.get("name", "")) for receiver in receivers]
    found = [
        f"alertmanager_receivers: the name '{name}' is there twice."
        for name in sorted(set(names))
        if names.count(name) > 1
    ]
    for receiver, name in zip(receivers, names):
        found.extend(receiver_problems(receiver, name))
    known = {"", *names} if receivers else {"", "nobody"}
    found.extend(
        f"{variable}: there is no receiver '{name}'; alertmanager_receivers has {names}."
        for variable, name in used_receivers(default, routes)
        if name not in known
    )
    return found


class FilterModule:
    """Make the filters known to Ansible."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {
            "alertmanager_config": config,
            "alertmanager_problems": problems,
            "alertmanager_secrets": secrets,
        }
