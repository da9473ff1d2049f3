"""What an alert links to is there, from Prometheus itself; and certificates are watched."""

from __future__ import annotations

import json
import re
import urllib.error
from collections.abc import Iterator

import pytest
from lab import ROOT, Lab, wait_until

PORT = "127.0.0.1:5039"
WATCHED = json.dumps({"prometheus_certificate_targets": [PORT]})


def alerts(lab: Lab) -> dict[str, str]:
    """The runbook of each alert that Prometheus has loaded."""
    groups = json.loads(lab.get(f"{lab.url('prometheus')}/api/v1/rules?type=alert"))["data"]
    return {
        rule["name"]: rule["annotations"]["runbook_url"]
        for group in groups["groups"]
        for rule in group["rules"]
    }


def test_each_alert_links_to_its_page(lab: Lab) -> None:
    for name, url in alerts(lab).items():
        page = lab.get(url)
        assert f"<title>{name}</title>" in page
        assert "{{" not in page
        assert "template" not in page.lower(), "Go's own words when a template fails"


def test_the_index_leads_to_every_page(lab: Lab) -> None:
    base = f"{lab.url('prometheus')}/consoles/runbooks"
    linked = set(re.findall(r'href="(\w+)\.html"', lab.get(f"{base}/index.html")))
    assert linked == {path.stem for path in (ROOT / "docs/runbooks").glob("*.md")}
    for link in linked:
        lab.get(f"{base}/{link}.html")


def test_a_page_says_for_whom_its_alert_fires(lab: Lab, quiet_alert: str) -> None:
    assert "Does not fire now" in lab.get(alerts(lab)[quiet_alert])


@pytest.fixture
def quiet_alert(lab: Lab) -> str:
    wait_until(
        lambda: lab.prometheus('sum(ALERTS{alertname="TrunkUnregistered"})') is None,
        60,
        "no registration of before is missed any more",
    )
    return "TrunkUnregistered"


@pytest.fixture
def certificate(lab: Lab) -> Iterator[None]:
    """A TLS port of the lab with a certificate that ends in two days."""
    lab.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=pbx1 -keyout /run/lab.key "
        "-out /run/lab.crt 2>/dev/null && systemd-run --quiet --unit=lab-tls openssl s_server "
        f"-quiet -accept {PORT} -key /run/lab.key -cert /run/lab.crt"
    )
    yield
    lab.run("systemctl stop lab-tls; rm -f /run/lab.key /run/lab.crt")


def converge(lab: Lab, *more: str) -> None:
    done = lab.playbook("site.yml", "--tags", "prometheus", *more)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.usefixtures("certificate")
def test_a_certificate_near_its_end_is_told(lab: Lab) -> None:
    converge(lab, "-e", WATCHED)
    try:
        wait_until(
            lambda: lab.prometheus(
                f'ALERTS{{alertname="AsteriskCertificateExpires",instance="{PORT}"}}'
            ),
            240,  # it is looked at once a minute, and the blackbox exporter may miss the first look
            "the alert on the certificate is pending",
        )
        again = lab.playbook("site.yml", "--tags", "prometheus", "-e", WATCHED)
        assert re.search(r"pbx1 .* changed=0 ", again.stdout), again.stdout[-3000:]
        listening = lab.run("ss -Hltn 'sport = :9115'").split()
        assert listening[3] == "127.0.0.1:9115"
    finally:
        converge(lab)
    assert lab.exec("systemctl cat prometheus-blackbox-exporter").returncode != 0
    with pytest.raises(urllib.error.URLError):
        lab.get("http://198.18.77.11:9115/")


def test_a_target_that_is_none_is_refused(lab: Lab) -> None:
    wrong = json.dumps({"prometheus_certificate_targets": ["https://192.0.2.1/"]})
    done = lab.playbook("site.yml", "--tags", "prometheus", "-e", wrong)
    assert done.returncode != 0
    assert "prometheus_certificate_targets" in done.stdout
    assert "https://192.0.2.1/" in done.stdout
