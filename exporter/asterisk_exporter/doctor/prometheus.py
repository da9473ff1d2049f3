"""Whether Prometheus runs, scrapes this exporter, and has an Alertmanager that answers."""

from __future__ import annotations

import re
import time
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import Any

from asterisk_exporter.config import Listen
from asterisk_exporter.doctor import prometheus_api
from asterisk_exporter.doctor.finding import (
    Finding,
    critical,
    listed,
    not_looked_at,
    not_set_up,
    ok,
    warning,
)
from asterisk_exporter.doctor.pbx import LookError, Pbx, is_here, is_loopback
from asterisk_exporter.doctor.prometheus_api import Prometheus, epoch, seconds

NOT_SET_UP = "doctor.prometheus_url is null (asterisk_exporter_doctor_prometheus_url)"
#: What the rules of the role `prometheus` look at.
JOB = "asterisk"
#: Rules look at 5 minutes, in which they need two samples and the next.
MOST_INTERVAL = 120.0
_LATE = 3
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
_RELOADED = re.compile(r"^prometheus_config_last_reload_successful ([01])", re.MULTILINE)
_TARGETS = "prometheus_exporter_targets"
Target = dict[str, Any]


def server(pbx: Pbx) -> Iterator[Finding]:
    """Ask for its version, and whether it could read its configuration."""
    prometheus = prometheus_api.at(pbx)
    if prometheus is None:
        yield not_set_up(NOT_SET_UP)
        return
    began = time.monotonic()
    version = prometheus.api("status/buildinfo").get("version")
    milliseconds = (time.monotonic() - began) * 1000
    yield ok(f"version {version} at {prometheus.url}, answered in {milliseconds:.1f} ms")
    try:
        metrics = prometheus.get("/metrics")
    except LookError:
        return  # behind something that lets only the API through
    yield from judged_reload(metrics)


def judged_reload(metrics: str) -> Iterator[Finding]:
    """Return what Prometheus's own metrics say of its last reload."""
    found = _RELOADED.search(metrics)
    if found and found[1] == "0":
        yield warning(
            "it could not read its configuration as it is now, and goes on with that of before; "
            "it will not start again with it",
            "On its host: promtool check config /etc/prometheus/prometheus.yml; "
            "journalctl -u prometheus -n 20",
        )


def scraping(pbx: Pbx) -> Iterator[Finding]:
    """Look for this exporter among its targets."""
    prometheus = prometheus_api.at(pbx)
    if prometheus is None:
        yield not_set_up(NOT_SET_UP)
        return
    targets = _targets(pbx, prometheus)
    listen = pbx.settings.listen
    ours = [target for target in targets if is_ours(target, listen, prometheus.host)]
    if ours:
        yield from judged_targets(ours, prometheus.clock().there)
        return
    query = f"asterisk_info{{system_name={_quoted(pbx.settings.system_name)}}}"
    found = prometheus.listed("query", "result", query=query) if pbx.settings.system_name else []
    yield from judged_absence(targets, listen, prometheus, [item["metric"] for item in found])


def _targets(pbx: Pbx, prometheus: Prometheus) -> list[Target]:
    return pbx.once(
        "targets", lambda _: prometheus.listed("targets", "activeTargets", state="active")
    )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def is_ours(target: Target, listen: Listen, prometheus_host: str) -> bool:
    """Say whether a target is this exporter: on this machine, where it listens.

    Loopback is that of the machine that Prometheus is on.
    """
    url = urllib.parse.urlsplit(target["scrapeUrl"])
    host = url.hostname or ""
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    if port != listen.port or not is_here(host):
        return False
    if is_loopback(host) and not is_here(prometheus_host):
        return False
    if listen.address in _WILDCARDS:
        return True
    return is_loopback(host) == is_loopback(listen.address)


def judged_targets(ours: Sequence[Target], now: float) -> Iterator[Finding]:
    """Return how this exporter is scraped; ``now`` is by Prometheus's clock."""
    for target in ours:
        yield _judged_target(target, now)
        job = target["labels"].get("job")
        if job != JOB:
            yield warning(
                f"{target['scrapeUrl']} has the job {job}, and the rules and dashboards of the "
                f"appliance look for {JOB}",
                f"Give its entry of scrape_configs job_name: {JOB}, or name it in {_TARGETS}.",
            )
    if len(ours) > 1:
        yield warning(
            f"{len(ours)} targets are this exporter "
            f"({', '.join(target['scrapeUrl'] for target in ours)}): sums count every call "
            f"{len(ours)} times",
            f"Leave it once in {_TARGETS} and prometheus_extra_scrape_configs.",
        )


def _judged_target(target: Target, now: float) -> Finding:
    url, health, error = target["scrapeUrl"], target["health"], target["lastError"]
    interval = seconds(target.get("scrapeInterval", "")) or 15.0
    age = now - epoch(target["lastScrape"])
    if health == "down":
        return critical(
            f"Prometheus cannot scrape {url}: {error}: the figures of now are lost",
            "Type: systemctl status asterisk-exporter. Does it listen there "
            "(asterisk_exporter_listen_address), and does a firewall let Prometheus in?",
        )
    if health != "up":
        return warning(
            f"Prometheus has not scraped {url} yet", f"Look again in {interval:g} seconds."
        )
    if age > _LATE * interval + 1:
        return critical(
            f"Prometheus scraped {url} {age:.0f} s ago, though it should every {interval:g} s",
            "It hangs or is overloaded; on its host: journalctl -u prometheus -n 20; uptime",
        )
    took = target.get("lastScrapeDuration", 0.0) * 1000
    said = f"{url} every {interval:g} s, last {max(age, 0):.0f} s ago in {took:.0f} ms"
    if interval > MOST_INTERVAL:
        return warning(
            f"{said}: rules look at 5 minutes, and miss what happens between",
            "Set prometheus_scrape_interval to 60s or less.",
        )
    return ok(said)


def judged_absence(
    targets: Sequence[Target],
    listen: Listen,
    prometheus: Prometheus,
    series: Sequence[dict[str, str]],
) -> Iterator[Finding]:
    """Return what it means that no target is this exporter.

    ``series``: the labels of asterisk_info with our system's name, which came another way.
    """
    if series:
        names = ", ".join(sorted(labels.get("instance", "?") for labels in series))
        yield ok(f"figures of this PBX arrive as {names}; no target has an address of this host")
        return
    where = f"[{listen.address}]" if ":" in listen.address else listen.address
    known = listed([target["scrapeUrl"] for target in targets]) or "none"
    text = f"Prometheus does not scrape this exporter ({where}:{listen.port})"
    if is_loopback(listen.address) and not is_here(prometheus.host):
        yield critical(
            f"{text}, and could not: it is on another host, and the exporter listens on loopback",
            f"Set asterisk_exporter_listen_address to this host's own address, and name that in "
            f"{_TARGETS}.",
        )
        return
    yield critical(
        f"{text}: no figures are kept, no alert can fire. Its targets: {known}",
        f"Name it in {_TARGETS} and run the playbook with --tags prometheus.",
    )


def alertmanager(pbx: Pbx) -> Iterator[Finding]:
    """Look whether alerts have somewhere to go, and reach it."""
    prometheus = prometheus_api.at(pbx)
    if prometheus is None:
        yield not_set_up(NOT_SET_UP)
        return
    known = [item["url"] for item in prometheus.listed("alertmanagers", "activeAlertmanagers")]
    if not known:
        yield warning(
            "Prometheus sends its alerts nowhere: nobody is told",
            "Name an Alertmanager in prometheus_alertmanager_targets.",
        )
        return
    targets = {
        urllib.parse.urlsplit(target["scrapeUrl"]).netloc: target
        for target in _targets(pbx, prometheus)
    }
    for url in known:
        target = targets.get(urllib.parse.urlsplit(url).netloc)
        if target is not None and target["health"] != "unknown":
            yield judged_alertmanager(url, target)
        elif is_loopback(urllib.parse.urlsplit(url).hostname or "") and not is_here(
            prometheus.host
        ):
            yield not_looked_at(f"{url} is of another host, and Prometheus does not scrape it")
        else:
            yield _asked(url, pbx.timeout)


def judged_alertmanager(url: str, target: Target) -> Finding:
    """Return whether Prometheus, which scrapes it too, reaches it."""
    if target["health"] == "down":
        return _silent(url, target["lastError"])
    return ok(f"{_base(url)} is reached by Prometheus")


def _asked(url: str, timeout: float) -> Finding:
    base = _base(url)
    try:
        Prometheus(base, timeout).get("/-/ready")
    except LookError as error:
        return _silent(url, str(error))
    return ok(f"{base} is ready")


def _base(url: str) -> str:
    return re.sub(r"/api/v[0-9]+/alerts$", "", url)


def _silent(url: str, said: str) -> Finding:
    return critical(
        f"Alertmanager at {_base(url)} does not answer: {said}: nobody is told of alerts",
        "On its host: systemctl status prometheus-alertmanager. Is it the address in "
        "prometheus_alertmanager_targets, and the way there open?",
    )
