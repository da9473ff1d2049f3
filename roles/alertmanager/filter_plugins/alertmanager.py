"""Filters of the role alertmanager; they run on the controller."""

from __future__ import annotations

import re
import zoneinfo
from collections.abc import Iterable, Iterator
from typing import Any

Receiver = dict[str, Any]
Route = dict[str, Any]
Interval = dict[str, Any]

# Kind in the inventory, key of its secret there, section and key in Alertmanager's configuration.
KINDS = (
    ("webhooks", "url", "webhook_configs", "url_file"),
    ("slack", "webhook_url", "slack_configs", "api_url_file"),
    ("telegram", "bot_token", "telegram_configs", "bot_token_file"),
    ("pagerduty", "routing_key", "pagerduty_configs", "routing_key_file"),
)
# What each secret looks like, and the words for it.
ADDRESS = (r"https?://\S+", "an address with http:// or https://")
SECRETS = {
    "url": ADDRESS,
    "webhook_url": ADDRESS,
    "bot_token": (r"[0-9]+:[\w-]+", "a token such as BotFather gives, 123456:ABC-def"),
    "routing_key": (r"[0-9A-Za-z]{32}", "the integration key of a service, 32 letters and digits"),
}

BUSINESS_HOURS = "business_hours"
WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")
DURATION = r"(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?"


def template(name: str) -> str:
    """Return Alertmanager's call of one of the role's own templates."""
    return f'{{{{ template "{name}" . }}}}'


ALERTS_URL = template("notification.all")
# What stands in each section besides address and secret.
TEXTS: dict[str, dict[str, Any]] = {
    "email_configs": {
        "headers": {"Subject": template("notification.subject")},
        "text": template("mail.text"),
        "html": template("mail.html"),
    },
    "webhook_configs": {},
    "slack_configs": {
        "title": template("slack.title"),
        "title_link": ALERTS_URL,
        "fallback": template("slack.title"),
        "color": template("notification.colour"),
        "text": template("slack.text"),
    },
    "telegram_configs": {"parse_mode": "HTML", "message": template("telegram.message")},
    "pagerduty_configs": {
        "description": template("notification.subject"),
        "severity": template("pagerduty.severity"),
        "source": "{{ .CommonLabels.instance }}",
        "class": "{{ .CommonLabels.alertname }}",
        "component": template("pagerduty.component"),
        "client": "Alertmanager",
        "client_url": ALERTS_URL,
        "details": {"firing": template("text.firing"), "resolved": template("text.resolved")},
        "links": [
            {
                "href": f"{{{{ (index .Alerts 0).Annotations.{annotation} }}}}",
                "text": template(f"words.{word}"),
            }
            for annotation, word in (("runbook_url", "runbook"), ("dashboard_url", "dashboard"))
        ],
    },
}


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
    """Return the section `receivers` of alertmanager.yml, with secrets as files in directory.

    The receiver `nobody`, which tells nobody, is always there.
    """
    result = []
    for receiver in receivers:
        entry: dict[str, Any] = {"name": receiver["name"]}
        for to in receiver.get("emails") or []:
            mail = {"to": to, "send_resolved": True, **TEXTS["email_configs"]}
            entry.setdefault("email_configs", []).append(mail)
        for kind, key, section, file_key in KINDS:
            for index, target in enumerate(receiver.get(kind) or []):
                shown = {"send_resolved": True, **TEXTS[section], **target}
                del shown[key]
                shown[file_key] = f"{directory}/{secret_name(receiver, kind, index)}"
                entry.setdefault(section, []).append(shown)
        result.append(entry)
    if not any(entry["name"] == "nobody" for entry in result):
        result.append({"name": "nobody"})
    return result


def intervals(given: list[Interval], business_hours: dict[str, Any]) -> list[Interval]:
    """Return the section `time_intervals`: those given, and the business hours by their name.

    Business hours are meant by the clock of the machine, unless they name a place.
    """
    if not business_hours:
        return given
    hours = {"location": "Local", **business_hours}
    return [*given, {"name": BUSINESS_HOURS, "time_intervals": [hours]}]


def receiver_problems(receiver: Receiver, name: str) -> Iterator[str]:
    """Yield what is wrong with one receiver."""
    where = f"alertmanager_receivers: '{name}'"
    if not re.fullmatch(r"\w([\w-]*\w)?", name, re.ASCII):
        yield f"{where}: the name may have letters, digits, _ and - only."
    kinds = ["emails", *(kind[0] for kind in KINDS)]
    if name != "nobody" and not any(receiver.get(kind) for kind in kinds):
        yield f"{where} has none of {', '.join(kinds)}: it would tell nobody."
    for to in receiver.get("emails") or []:
        if not re.fullmatch(r"[^@\s]+@[^@\s]+", to):
            yield f"{where}: emails has '{to}', which is no mail address."
    for kind, key, _, _ in KINDS:
        pattern, expected = SECRETS[key]
        for index, target in enumerate(receiver.get(kind) or []):
            if not re.fullmatch(pattern, str(target.get(key) or ""), re.ASCII):
                yield f"{where}: {kind}[{index}].{key} must be {expected}."
            for option in ("url", "api_url"):
                given = target.get(option)
                if option != key and given and not re.fullmatch(ADDRESS[0], str(given)):
                    yield f"{where}: {kind}[{index}].{option} must be {ADDRESS[1]}."


def duration_problem(variable: str, value: object) -> Iterator[str]:
    """Yield what is wrong with a length of time."""
    text = str(value)
    if not re.fullmatch(DURATION, text, re.ASCII) or not re.search("[1-9]", text):
        yield f"{variable}: '{text}' is no length of time; write one such as 30s, 5m or 4h."


def route_problems(
    variable: str, routes: list[Route], receivers: set[str], names: list[str]
) -> Iterator[str]:
    """Yield what is wrong with routes: who and when there is not, and lengths of time."""
    for route in routes:
        receiver = route.get("receiver") or ""
        if receiver not in receivers:
            yield (
                f"{variable}: there is no receiver '{receiver}'; "
                f"alertmanager_receivers has {sorted(receivers - {''})}."
            )
        for key in ("active_time_intervals", "mute_time_intervals"):
            for name in route.get(key) or []:
                if name not in names:
                    yield (
                        f"{variable}: {key} has '{name}', which is neither in "
                        f"alertmanager_time_intervals nor '{BUSINESS_HOURS}' with "
                        "alertmanager_business_hours set."
                    )
        for key in ("group_wait", "group_interval", "repeat_interval"):
            if key in route:
                yield from duration_problem(f"{variable}: {key}", route[key])
        yield from route_problems(variable, route.get("routes") or [], receivers, names)


def problems(
    receivers: list[Receiver],
    default: str,
    routes: dict[str, list[Route]],
    interval_names: Iterable[str] = (),
) -> list[str]:
    """Return one sentence for each receiver that cannot be meant so. Shows no secret.

    routes are those of each variable that has some.
    """
    names = [str(receiver.get("name", "")) for receiver in receivers]
    found = [
        f"alertmanager_receivers: the name '{name}' is there twice."
        for name in sorted(set(names))
        if names.count(name) > 1
    ]
    for receiver, name in zip(receivers, names):
        found.extend(receiver_problems(receiver, name))
    known = {"", "nobody", *names}
    found.extend(
        route_problems("alertmanager_default_receiver", [{"receiver": default}], known, [])
    )
    for variable, given in routes.items():
        found.extend(route_problems(variable, given, known, list(interval_names)))
    return found


def minutes(text: object) -> int | None:
    """Return the minute of the day of a time such as 08:00, or nothing."""
    if not isinstance(text, str) or not re.fullmatch(r"\d\d:[0-5]\d", text, re.ASCII):
        return None
    minute = int(text[:2]) * 60 + int(text[3:])
    return minute if minute <= 24 * 60 else None


def span_problems(where: str, span: dict[str, Any]) -> Iterator[str]:
    """Yield what is wrong with one entry of `time_intervals`."""
    known = ("times", "weekdays", "days_of_month", "months", "years", "location")
    for key in span:
        if key not in known:
            yield f"{where}: '{key}' is unknown; there are {', '.join(known)}."
    for times in span.get("times") or []:
        start, end = minutes(times.get("start_time")), minutes(times.get("end_time"))
        if start is None or end is None:
            yield (
                f"{where}: times needs start_time and end_time as '08:00' to '24:00', in quotes; "
                f"it has {dict(times)}."
            )
        elif start >= end:
            yield (
                f"{where}: times has {times['start_time']} to {times['end_time']}; the end must "
                "be later. Past midnight, write two entries."
            )
    for days in span.get("weekdays") or []:
        order = [WEEKDAYS.index(day) for day in str(days).lower().split(":") if day in WEEKDAYS]
        if len(order) != str(days).count(":") + 1 or len(order) > 2 or order != sorted(order):
            yield (
                f"{where}: weekdays has '{days}'; write a day such as 'monday' or a span such as "
                "'monday:friday'. The week begins with sunday."
            )
    yield from zone_problems(f"{where}: location", span.get("location") or "Local")


def zone_problems(where: str, zone: str) -> Iterator[str]:
    """Yield what is wrong with a time zone; nothing where the controller knows no zones."""
    known = zoneinfo.available_timezones()
    if known and zone != "Local" and zone not in known:
        yield f"{where}: there is no time zone '{zone}'; write one such as Europe/Berlin."


def time_problems(
    given: list[Interval], business_hours: dict[str, Any], zone: str, durations: dict[str, str]
) -> list[str]:
    """Return one sentence for each variable about times that cannot be meant so."""
    names = [str(interval.get("name") or "") for interval in intervals(given, business_hours)]
    found = [
        f"alertmanager_time_intervals: the name '{name}' is missing or there twice."
        for name in sorted(set(names))
        if names.count(name) > 1 or not name
    ]
    for interval in given:
        where = f"alertmanager_time_intervals: '{interval.get('name')}'"
        for span in interval.get("time_intervals") or []:
            found.extend(span_problems(where, span))
    found.extend(span_problems("alertmanager_business_hours", business_hours))
    found.extend(zone_problems("alertmanager_timezone", zone or "Local"))
    for variable, value in durations.items():
        found.extend(duration_problem(variable, value))
    return found


class FilterModule:
    """Make the filters known to Ansible."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {
            "alertmanager_config": config,
            "alertmanager_intervals": intervals,
            "alertmanager_problems": problems,
            "alertmanager_secrets": secrets,
            "alertmanager_time_problems": time_problems,
        }
