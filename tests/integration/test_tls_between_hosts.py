"""/metrics, Asterisk's own metrics and PostgreSQL as other hosts reach them: over TLS, checked,
and with passwords.

One converge turns both on and one puts the lab back; the machine's own address on the bridge is
another host's to all of them.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from doctor import Doctor
from lab import ROOT, Lab, wait_until

ADDRESS = "198.18.77.11"
TAGS = "cdr_database_configure,pbx_configure,asterisk_exporter_configure,prometheus_configure"
WALLBOARD_PASSWORD = "as-long-as-a-night-of-standby-duty"
REMOTE = {
    "cdr_database_listen_addresses": ["127.0.0.1", "::1", ADDRESS],
    "cdr_database_clients": [f"{ADDRESS}/32"],
    "pbx_cdr_pgsql_host": ADDRESS,
    "asterisk_exporter_cdr_host": ADDRESS,
    "pbx_prometheus_address": ADDRESS,
    "asterisk_exporter_tls": True,
    "asterisk_exporter_users": [
        {"name": "prometheus"},
        {"name": "wallboard", "password": WALLBOARD_PASSWORD},
    ],
}
CERTIFICATES = "/etc/ssl/appliance"
SECRETS = Path(ROOT / ".lab/secrets")


def changed(output: str) -> int:
    found = re.search(r"^pbx1\s*:.*\bchanged=(\d+)", output, re.MULTILINE)
    assert found, output
    return int(found[1])


@pytest.fixture(scope="module", autouse=True)
def remote(lab: Lab) -> Iterator[str]:
    """Converge with TLS, and without it at the end. Gives what Ansible printed."""
    on = ("-e", json.dumps(REMOTE), "--diff")
    made = lab.playbook("site.yml", "--tags", TAGS, *on)
    assert made.returncode == 0, made.stdout + made.stderr
    yield made.stdout
    back = lab.playbook("site.yml", "--tags", TAGS)
    assert back.returncode == 0, back.stdout + back.stderr
    left = lab.exec(
        "ls /etc/asterisk/http.conf /etc/asterisk/prometheus.conf; ss -Htln sport = 8088"
    )
    assert left.stdout == ""
    (SECRETS / "metrics-prometheus").unlink()
    lab.run("rm /etc/asterisk-exporter/metrics-password")
    up = 'up{job="asterisk"} == 1 and time() - timestamp(up{job="asterisk"}) < 10'
    wait_until(lambda: lab.prometheus(up), 60, "a scrape in plain HTTP")
    lab.wait_until_well()


def trusting(ca: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca))


def status(
    path: str, tls: ssl.SSLContext, user: str = "", password: str = "", port: int = 9739
) -> int:
    """Return how the exporter answers this host, or what else listens."""
    request = urllib.request.Request(f"https://{ADDRESS}:{port}{path}")
    if user:
        login = base64.b64encode(f"{user}:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
    try:
        # a wrong password is answered after a pause
        with urllib.request.urlopen(request, timeout=10, context=tls) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


# --- /metrics


def target(lab: Lab) -> dict[str, str]:
    """Return what Prometheus says of its target that is the exporter."""
    targets = json.loads(lab.get(f"{lab.url('prometheus')}/api/v1/targets?state=active", 10))
    [found] = [t for t in targets["data"]["activeTargets"] if t["labels"]["job"] == "asterisk"]
    return dict(found)


def test_prometheus_scrapes_over_tls_and_with_a_password(lab: Lab) -> None:
    wait_until(lambda: target(lab)["scrapeUrl"].startswith("https:"), 60, "the new target")
    wait_until(lambda: target(lab)["health"] == "up", 60, f"a scrape over TLS ({target(lab)})")


def test_every_page_asks_who_it_is_over_tls_only() -> None:
    tls = trusting(SECRETS / "tls-ca.pem")
    password = (SECRETS / "metrics-prometheus").read_text().strip()
    for page in ("/metrics", "/wallboard", "/", "/-/healthy"):
        assert status(page, tls) == status(page, tls, "prometheus", "guessed") == 401
        assert status(page, tls, "prometheus", password) == 200
        assert status(page, tls, "wallboard", WALLBOARD_PASSWORD) == 200
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(f"http://{ADDRESS}:9739/metrics", timeout=2)
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        status("/metrics", ssl.create_default_context())


def test_promtool_takes_the_web_configuration(lab: Lab) -> None:
    assert "SUCCESS" in lab.run("promtool check web-config /etc/asterisk-exporter/web.yml 2>&1")
    score = lab.run("systemd-analyze security --no-pager asterisk-exporter | tail -n 1 || true")
    assert float(score.split("level for asterisk-exporter.service: ")[1].split()[0]) <= 2.0


def test_a_renewed_certificate_takes_no_restart(lab: Lab) -> None:
    def presented() -> str:
        return ssl.get_server_certificate((ADDRESS, 9739)).strip()

    folder = f"{CERTIFICATES}/asterisk-exporter"
    pid = lab.run("systemctl show -p MainPID asterisk-exporter")
    before = presented()
    # Into the files that are there, whose owner and mode the service needs.
    lab.run(
        f"cd {folder} && mkdir old && cp -p *.pem old && openssl req -x509 -days 2 -nodes -newkey"
        " ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN=renewed -keyout /run/k -out /run/c"
        " && cat /run/k >key.pem && cat /run/c >certificate.pem"
    )
    try:
        assert presented() == lab.run("cat /run/c").strip() != before
    finally:
        lab.run(f"cd {folder} && mv old/*.pem . && rmdir old; rm /run/k /run/c")
    assert presented() == before
    assert lab.run("systemctl show -p MainPID asterisk-exporter") == pid
    # A scrape in between did not trust the other one, and the last one is what the doctor sees.
    wait_until(lambda: target(lab)["health"] == "up", 60, "a scrape with the certificate of before")


def test_the_doctor_finds_its_way(lab: Lab) -> None:
    problems = Doctor(lab).look().problems()
    named = {"exporter /metrics", "secret files", "CDR database", "CDR grants", "scraping"}
    assert not named & problems.keys(), problems


def test_no_secret_is_shown(lab: Lab, remote: str) -> None:
    files = [p.read_text().strip() for p in SECRETS.rglob("*") if p.is_file()]
    secrets = [text for text in files if "BEGIN CERTIFICATE" not in text]
    hashes = re.findall(r"\$2b\S{50}", lab.run("cat /etc/asterisk-exporter/web.yml"))
    assert len(hashes) == 2
    shown = remote + "".join(
        lab.run(command)
        for command in (
            "ps -ewwo args",
            "journalctl --no-pager",
            "cat /etc/prometheus/prometheus.yml /etc/asterisk-exporter/asterisk-exporter.yml",
            "systemctl cat asterisk asterisk-exporter prometheus",
        )
    )
    found = [s[:3] + "…" for s in [*secrets, *hashes, WALLBOARD_PASSWORD] if s in shown]
    assert found == []
    modes = {
        "/etc/prometheus/appliance-exporter-password": "root prometheus 640",
        "/etc/asterisk-exporter/metrics-password": "root root 600",
        "/etc/asterisk-exporter/web.yml": "root asterisk-exporter-web 640",
        f"{CERTIFICATES}/asterisk-exporter/key.pem": "root asterisk-exporter-web 640",
        f"{CERTIFICATES}/postgresql/key.pem": "root postgres 640",
    }
    assert lab.run(f"stat -c '%U %G %a' {' '.join(modes)}").splitlines() == list(modes.values())


def test_a_second_run_changes_nothing(lab: Lab) -> None:
    again = lab.playbook("site.yml", "--check", "--tags", TAGS, "-e", json.dumps(REMOTE))
    assert again.returncode == 0, again.stdout + again.stderr
    assert changed(again.stdout) == 0, again.stdout


# --- Asterisk's own metrics


def test_asterisks_own_metrics_are_for_prometheus_alone(lab: Lab) -> None:
    tls = trusting(SECRETS / "tls-ca.pem")
    password = (SECRETS / "metrics-prometheus").read_text().strip()
    assert "Running" in lab.asterisk("module show like res_prometheus")
    assert status("/metrics", tls, port=8088) == 401
    assert status("/metrics", tls, "prometheus", "guessed", 8088) == 401
    assert status("/metrics", tls, "prometheus", password, 8088) == 200
    assert status("/httpstatus", tls, "prometheus", password, 8088) == 404
    with pytest.raises((urllib.error.URLError, ConnectionError)):
        urllib.request.urlopen(f"http://{ADDRESS}:8088/metrics", timeout=2)


def test_no_series_of_prometheus_names_a_call(lab: Lab) -> None:
    job = 'job="res_prometheus"'
    lab.run("(lab-call provider +4915550078 +493055503 12 >/dev/null 2>&1 &)")
    # Of one scrape while they talk: two figures of each of two channels, and one of their bridge.
    dropped = f"scrape_samples_scraped{{{job}}} - scrape_samples_post_metric_relabeling{{{job}}}"
    talking = f"({dropped}) and on (instance) asterisk_channels_count{{{job}}} == 2"
    wait_until(lambda: lab.prometheus(talking) == 5, 30, "a call whose own figures are dropped")
    uniqueid = lab.run("hostname").strip() + "-[0-9]+[.][0-9]+"
    labels = ("id", "name", "linkedid")
    named = " or ".join(f'{{{job}, {label}=~"{uniqueid}|PJSIP/.*-.*"}}' for label in labels)
    assert lab.prometheus(f"count({named})") is None
    assert lab.prometheus(f'count({{{job}, __name__=~"asterisk_endpoints_.+", id!=""}})') == 14


# --- PostgreSQL


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (f"host={ADDRESS} sslmode=verify-full sslrootcert={CERTIFICATES}/ca.pem", "t|TLSv1.3"),
        (
            f"host={ADDRESS} sslmode=verify-full sslrootcert=/etc/ssl/certs/ssl-cert-snakeoil.pem",
            "certificate verify failed",
        ),
        (
            f"host=db.example.net hostaddr={ADDRESS} sslmode=verify-full"
            f" sslrootcert={CERTIFICATES}/ca.pem",
            'does not match host name "db.example.net"',
        ),
        (f"host={ADDRESS} sslmode=disable", "no pg_hba.conf entry"),
    ],
    ids=["right", "another CA", "another name", "plain"],
)
def test_the_exporters_login_from_another_host(lab: Lab, how: str, said: str) -> None:
    query = "SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    result = lab.exec(
        "PGPASSWORD=$(cat /etc/asterisk-exporter/postgresql-password)"
        f" psql -XAt '{how} user=exporter dbname=asterisk' -c '{query}'"
    )
    assert said in result.stdout + result.stderr


def test_passwords_are_kept_as_scram(lab: Lab) -> None:
    kinds = lab.sql(
        "SELECT rolname, split_part(rolpassword, '$', 1) FROM pg_authid"
        " WHERE rolpassword IS NOT NULL ORDER BY 1"
    )
    assert kinds == [[name, "SCRAM-SHA-256"] for name in ("asterisk", "exporter", "importer")]


def test_a_calls_record_arrives_over_tls(lab: Lab) -> None:
    sessions = (
        "SELECT usename, bool_and(ssl), bool_and(client_addr = '198.18.77.11') FROM pg_stat_ssl"
        " JOIN pg_stat_activity USING (pid) WHERE usename IN ('asterisk', 'exporter')"
        " GROUP BY 1 ORDER BY 1"
    )
    wait_until(
        lambda: lab.sql(sessions) == [["asterisk", "t", "t"], ["exporter", "t", "t"]],
        90,
        f"sessions of both, over TLS ({lab.sql(sessions)})",
    )
    lab.run("lab-call provider +4915550077 +493055504 1")
    record = "SELECT count(*) > 0 FROM cdr WHERE src = '+4915550077'"
    wait_until(lambda: lab.sql(record) == [["t"]], 30, "the record of the call")
