"""The doctor, on a PBX whose dialplan, routing script, service or CRM is broken."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator

import hostile_crm
import pytest
from doctor import Doctor, Report
from lab import ROOT, Lab, wait_until

FOLDER = "/run/test-doctor"
CONFIG = f"{FOLDER}/asterisk-exporter.yml"
SCRIPT = "/opt/call-routing/crm_route.py"
TOKEN = "/etc/call-routing/crm-token"
CRM = "http://127.0.0.1:8097"
CRM_TLS = "https://127.0.0.1:8447"


@pytest.fixture
def routes_again(lab: Lab) -> Iterator[None]:
    """Wait until calls are routed by the CRM again."""
    yield
    lab.run("systemctl reset-failed call-routing; systemctl start call-routing")
    names = ("dialplan contexts", "AGI script", "FastAGI", "CRM")

    def well() -> bool:
        found = Doctor(lab).look()
        return all(found.link(name)["status"] == "OK" for name in names)

    wait_until(well, 60, "dialplan, script, service and CRM are well")


@pytest.mark.usefixtures("routes_again")
def test_contexts_that_are_missing_or_empty_and_a_script_that_cannot_be_started(lab: Lab) -> None:
    try:
        lab.asterisk("dialplan remove context from-external")
        lab.asterisk("dialplan remove context call-routing")
        lab.asterisk("dialplan add extension 1,1,NoOp into call-routing")
        lab.asterisk("dialplan remove extension 1@call-routing")
        lab.run(f"chmod 0700 {SCRIPT}; chmod 0644 {TOKEN}; systemctl stop call-routing")
        found = Doctor(lab).look().problems()
    finally:
        lab.run(f"chmod 0755 {SCRIPT}; chmod 0640 {TOKEN}")
        lab.asterisk("dialplan remove context call-routing")
        lab.asterisk("dialplan reload")
    missing, empty = sorted(found["dialplan contexts"])
    assert "no context from-external" in missing
    assert "dialplan reload" in missing
    assert "context call-routing is empty" in empty
    script, token = found["AGI script"]
    assert "Permission denied" in script
    assert f"namei -l {SCRIPT}" in script
    assert "mode 0644" in token
    assert f"chmod 0640 {TOKEN}" in token
    [fastagi] = found["FastAGI"]
    assert "nothing listens there; each call starts the script instead" in fastagi
    assert "systemctl status call-routing" in fastagi


BROKEN = {
    f"chmod 0600 {TOKEN}": (
        f"chmod 0640 {TOKEN}",
        "crm-token: PermissionError",
        "must be readable by asterisk",
    ),
    "mv /opt/call-routing/lib/asterisk /opt/call-routing/lib/gone": (
        "mv /opt/call-routing/lib/gone /opt/call-routing/lib/asterisk",
        "No module named 'asterisk'",
        "--tags call_routing",
    ),
}


@pytest.mark.usefixtures("routes_again")
@pytest.mark.parametrize("broken", BROKEN)
def test_a_script_that_cannot_do_its_work(lab: Lab, broken: str) -> None:
    mended, text, action = BROKEN[broken]
    try:
        lab.run(broken)
        [found] = Doctor(lab).look().problems()["AGI script"]
    finally:
        lab.run(mended)
    assert text in found
    assert action in found
    assert "Traceback" not in found


def test_an_asterisk_without_agi(lab: Lab, started: Callable[[str], None]) -> None:
    """Not by unloading it: what was loaded may hang Asterisk's loader then."""
    started("asterisk")
    conf = "/etc/asterisk/modules.d/zz-test.conf"
    try:
        lab.run(f"echo 'noload = res_agi.so' >{conf}; systemctl restart asterisk")
        lab.asterisk("core waitfullybooted")
        [found] = Doctor(lab).look().problems()["AGI script"]
    finally:
        lab.run(f"rm {conf}; systemctl restart asterisk")
    assert "Asterisk has no application AGI" in found
    assert "module load res_agi.so" in found


Use = Callable[[str], None]


@pytest.fixture(scope="module")
def crm(lab: Lab) -> Iterator[Use]:
    """Look with other settings of the routing, which are beside a copy of the configuration."""
    lab.run(f"cp -a /etc/asterisk-exporter {FOLDER} && chmod 0755 {FOLDER}")
    lab.run(f"cp -p /etc/call-routing/* {FOLDER}/")
    lab.run(f"cat >{FOLDER}/hostile_crm.py", (ROOT / "tests/crm/hostile_crm.py").read_text())
    lab.run(
        f"cd {FOLDER} && openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert "
        "-days 2 -subj /CN=crm.example.com 2>/dev/null"
    )
    start = "systemd-run --quiet --collect --unit"
    script = f"python3 {FOLDER}/hostile_crm.py"
    lab.run(f"{start} test-doctor-crm {script} {CRM.rpartition(':')[2]}")
    tls = f"{CRM_TLS.rpartition(':')[2]} {FOLDER}/cert {FOLDER}/key"
    lab.run(f"{start} test-doctor-crm-tls {script} {tls}")
    both = [url.partition("://")[2] for url in (CRM, CRM_TLS)]
    wait_until(lambda: all(at in lab.run("ss -Hltn") for at in both), 15, "both CRMs listen")
    settings = json.loads(lab.run(f"cat {FOLDER}/settings.json"))

    lab.run(f"cat >{FOLDER}/crm-token", hostile_crm.TOKEN + "\n")
    lab.run(f"sed -i 's,/etc/call-routing/,{FOLDER}/,' {CONFIG}")

    def use(url: str) -> None:
        changed = {**settings, "url": url, "deadline_seconds": 2.0}
        lab.run(f"cat >{FOLDER}/settings.json", json.dumps(changed))

    yield use
    lab.run("systemctl stop 'test-doctor-*'")
    lab.run(f"rm -rf {FOLDER}")


@pytest.mark.parametrize(
    ("url", "text", "action"),
    [
        (f"{CRM}/refuses-token", "refuses the token (401)", "call_routing_crm_token"),
        (f"{CRM}/hangs", "no answer in time", "firewall"),
        (f"{CRM}/html", "target is '<", "web page"),
        (f"{CRM_TLS}/good", "certificate verify failed", "openssl s_client -connect 127.0.0.1:"),
        ("http://127.0.0.1:8098", "Connection refused", "does the CRM run"),
    ],
)
def test_a_crm_that_does_not_answer(lab: Lab, crm: Use, url: str, text: str, action: str) -> None:
    crm(url)
    found = look(lab)
    [crm_says] = found.problems()["CRM"]
    assert url in crm_says
    assert text in crm_says
    assert action in crm_says


def look(lab: Lab, listen: str = "127.0.0.1:4573") -> Report:
    """Look with the copy of the configuration, and a service that is said to be elsewhere."""
    lab.run(f"sed -i 's/127.0.0.1:45../{listen}/' {CONFIG}")
    found = Doctor(lab).look(f"--config {CONFIG} --timeout 6")
    assert hostile_crm.TOKEN not in json.dumps(found.document)
    return found


def test_a_service_that_has_settings_of_before_and_one_that_is_silent(lab: Lab, crm: Use) -> None:
    crm(f"{CRM}/refuses-token")
    start = "systemd-run --quiet --collect --unit"
    service = f"{SCRIPT} --settings {FOLDER}/settings.json --listen 127.0.0.1:4575"
    lab.run(f"{start} test-doctor-service --property=Type=notify {service}")
    silence = 'import socket, time; s = socket.create_server(("127.0.0.1", 4576)); time.sleep(99)'
    lab.run(f"{start} test-doctor-silence python3 -c {shlex.quote(silence)}")
    crm(f"{CRM}/good")
    found = look(lab, "127.0.0.1:4575")
    assert "(to queue:vip)" in found.link("CRM")["findings"][0]["text"]
    [fastagi] = found.problems()["FastAGI"]
    assert "says error while the script has an answer" in fastagi
    assert "restart call-routing" in fastagi
    [fastagi] = look(lab, "127.0.0.1:4576").problems()["FastAGI"]
    assert "it accepts and says nothing within 6 s" in fastagi
