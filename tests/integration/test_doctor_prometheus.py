"""The doctor, with a Prometheus that is broken, or that knows nothing of this PBX."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from doctor import Doctor, Report
from lab import Lab, wait_until

FOLDER = "/run/test-doctor"
ALTERED = (Path(__file__).parent / "altered_prometheus.py").read_text()
PORT = 8095


def api(lab: Lab, path: str) -> Any:
    return json.loads(lab.get(f"{lab.url('prometheus')}/api/v1/{path}", 10))["data"]


def health(lab: Lab) -> dict[str, str]:
    """Return how each job is scraped."""
    return {
        target["labels"]["job"]: target["health"] for target in api(lab, "targets")["activeTargets"]
    }


def refused(lab: Lab) -> set[str]:
    """Return the jobs whose last scrape found nobody who listens."""
    targets = api(lab, "targets")["activeTargets"]
    return {t["labels"]["job"] for t in targets if "connection refused" in t["lastError"]}


def test_the_exporter_and_alertmanager_are_down(lab: Lab, started: Callable[[str], None]) -> None:
    services = {"asterisk": "asterisk-exporter", "alertmanager": "prometheus-alertmanager"}
    try:
        for service in services.values():
            started(service)
        lab.run(f"systemctl stop {' '.join(services.values())}")
        # not just down: a scrape that was under way ends in another way
        wait_until(lambda: refused(lab) == set(services), 30, "Prometheus misses both")
        found = Doctor(lab).look().problems()
    finally:
        lab.run(f"systemctl start {' '.join(services.values())}")
        wait_until(lambda: set(health(lab).values()) == {"up"}, 60, "Prometheus has both again")
    [scraping] = found["scraping"]
    assert "cannot scrape http://198.18.77.11:9739/metrics: " in scraping
    assert "connection refused" in scraping
    assert "systemctl status asterisk-exporter" in scraping
    [alertmanager] = found["Alertmanager"]
    assert "Alertmanager at http://198.18.77.11:9093 does not answer" in alertmanager
    assert "systemctl status prometheus-alertmanager" in alertmanager


FAILING = """
  - name: failing
    rules:
      - {record: "test:failing", expr: "up * on () up"}
"""
RULES = "/etc/prometheus/appliance-rules.yml"
CONFIGURATION = "/etc/prometheus/prometheus.yml"


def test_rules_are_missing_or_fail_and_the_configuration_is_broken(lab: Lab) -> None:
    def failing() -> bool:
        rules = [rule for group in api(lab, "rules")["groups"] for rule in group["rules"]]
        return any(rule["health"] == "err" for rule in rules)

    lab.run(f"mkdir -p {FOLDER} && cp -p {RULES} {CONFIGURATION} {FOLDER}/")
    try:
        lab.run(f"sed -i 's/name: queues$/name: own/' {RULES} && cat >>{RULES}", FAILING)
        lab.run("systemctl reload prometheus")
        wait_until(failing, 60, "the rule was evaluated")
        lab.run(f"echo 'no: such key' >>{CONFIGURATION} && ! systemctl reload prometheus || true")
        reloaded = f"{lab.url('prometheus')}/metrics"
        bad = "\nprometheus_config_last_reload_successful 0"
        wait_until(lambda: bad in lab.get(reloaded), 30, "Prometheus refuses the configuration")
        found = Doctor(lab).look().problems()
    finally:
        lab.run(f"cp -p {FOLDER}/*.yml /etc/prometheus/ && rm -rf {FOLDER}")
        lab.run("systemctl reload prometheus")
        names = {"Prometheus", "rules"}
        wait_until(lambda: not names & Doctor(lab).look().problems().keys(), 60, "all rules")
    [server] = found["Prometheus"]
    assert "could not read its configuration" in server
    assert "promtool check config" in server
    missing, rule = sorted(found["rules"])
    assert "groups of rules are missing: queues:" in missing
    assert "--tags prometheus" in missing
    assert "the rule failing: test:failing fails: found duplicate series" in rule
    assert "AlertRulesFailing" in rule


@pytest.fixture(scope="module")
def at(lab: Lab) -> Iterator[Callable[[str], Report]]:
    """Look with another address of Prometheus in a copy of the configuration."""
    lab.run(f"rm -rf {FOLDER}; cp -a /etc/asterisk-exporter {FOLDER}")
    lab.run(f"cat >{FOLDER}/altered.py", ALTERED)
    script = f"python3 {FOLDER}/altered.py {PORT} {lab.url('prometheus')}"
    lab.run(f"systemd-run --quiet --collect --unit test-doctor-prometheus {script}")
    wait_until(lambda: f"127.0.0.1:{PORT}" in lab.run("ss -Hltn"), 15, "it listens")
    path = f"{FOLDER}/asterisk-exporter.yml"

    def look(url: str) -> Report:
        lab.run(f"sed -i 's,prometheus_url:.*,prometheus_url: {url},' {path}")
        return Doctor(lab).look(f"--config {path}")

    yield look
    lab.run(f"systemctl stop test-doctor-prometheus; rm -rf {FOLDER}")


#: An answer takes some of them, and nobody knows on which way.
TENTHS = re.compile(r"\.\d(?= s (ahead|behind))")
CASES: dict[str, dict[str, list[str]]] = {
    "http://127.0.0.1:8096": {
        "Prometheus": [
            "at http://127.0.0.1:8096: Connection refused \u2192 "
            "Is asterisk_exporter_doctor_prometheus_url"
        ],
    },
    f"http://127.0.0.1:{PORT}/login": {"Prometheus": ["wants a login (401)"]},
    f"http://127.0.0.1:{PORT}/nothing": {
        "scraping": ["does not scrape this exporter (198.18.77.11:9739)"],
        "rules": ["none of the appliance's rules are loaded"],
        "Alertmanager": ["sends its alerts nowhere"],
        "clocks": ["the clock of Prometheus is 3600 s ahead"],
    },
    f"http://127.0.0.1:{PORT}/late": {
        "scraping": [
            *("though it should every 5 s",) * 2,
            *("has the job pbx",) * 2,
            "sums count every call 2 times",
        ],
        "rules": ["not evaluated for up to "],
        "Alertmanager": ["at http://127.0.0.1:1 does not answer: "],
        "clocks": ["the clock of Prometheus is 5 s behind"],
    },
    f"http://127.0.0.1:{PORT}/seldom": {"scraping": ["prometheus_scrape_interval to 60s"]},
}


@pytest.mark.parametrize("url", CASES)
def test_what_prometheus_says(at: Callable[[str], Report], url: str) -> None:
    found = at(url).problems()
    assert set(found) == set(CASES[url])
    for name, said in CASES[url].items():
        assert len(found[name]) == len(said)
        for part in said:
            texts = [TENTHS.sub("", text) for text in found[name]]
            assert sum(part in text for text in texts) == said.count(part), found[name]


def test_the_clock_of_the_database(lab: Lab) -> None:
    """The exporter's login finds a clock that is ahead; those that are connected do not."""
    schema = "doctor_test"
    body = "SELECT pg_catalog.clock_timestamp() + interval '60.5 s'"
    try:
        lab.sql(
            f"CREATE SCHEMA {schema}; GRANT USAGE ON SCHEMA {schema} TO exporter; "
            f"CREATE FUNCTION {schema}.clock_timestamp() RETURNS timestamptz LANGUAGE sql "
            f"AS $${body}$$; ALTER ROLE exporter SET search_path = {schema}, pg_catalog, public"
        )
        [found] = Doctor(lab).look().problems()["clocks"]
    finally:
        lab.sql(f"ALTER ROLE exporter RESET search_path; DROP SCHEMA IF EXISTS {schema} CASCADE")
    assert "the clock of the database is 60." in found
    assert "s ahead of this machine's" in found
    assert "timedatectl" in found
