"""The doctor on services, the exporter's own /metrics and its secrets; each is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from doctor import Doctor
from lab import Lab, wait_until

Started = Callable[[str], None]
CONFIG = "/etc/asterisk-exporter/asterisk-exporter.yml"
CHANGED = "/etc/asterisk-exporter/doctor-test.yml"


def test_asterisk_that_does_not_run(lab: Lab, started: Started) -> None:
    started("asterisk")
    lab.run("systemctl stop asterisk")
    found = Doctor(lab).look()
    [service] = found.link("Asterisk service")["findings"]
    assert service["status"] == "CRITICAL"
    assert service["text"].startswith("asterisk does not run: ")
    assert "systemctl start asterisk" in service["action"]
    [login] = found.link("AMI login")["findings"]
    assert login["text"].startswith("not looked at: needs Asterisk service")


@pytest.fixture
def looping(lab: Lab, started: Started) -> Iterator[str]:
    """A service that ends whenever it is started, and is not started at boot."""
    started("call-routing")
    folder = "/run/systemd/system/call-routing.service.d"
    override = "[Service]\\nExecStart=\\nExecStart=/bin/false\\nRestart=always\\nRestartSec=60\\n"
    lab.run(f"mkdir -p {folder}; printf '{override}' > {folder}/test.conf")
    lab.run("systemctl daemon-reload; systemctl restart --no-block call-routing")
    state = "systemctl show --property=SubState --value call-routing"
    wait_until(lambda: lab.run(state).strip() == "auto-restart", 30, "a loop")
    yield "call-routing"
    lab.run(f"rm -r {folder}; systemctl daemon-reload; systemctl stop call-routing")


def test_services_that_do_not_run(lab: Lab, started: Started, looping: str) -> None:
    started("asterisk-exporter")
    lab.run("systemctl stop asterisk-exporter")
    problems = Doctor(lab).look().problems()
    looped, stopped = sorted(problems["other services"], key=lambda said: looping not in said)
    assert "ends as soon as it is started (exit-code)" in looped
    assert "journalctl -u call-routing" in looped
    assert "asterisk-exporter does not run: inactive" in stopped
    assert "systemctl start asterisk-exporter" in stopped
    [metrics] = problems["exporter /metrics"]
    assert "9739/metrics does not answer" in metrics
    assert "asterisk_exporter_listen_address" in metrics


@pytest.fixture
def stand_in(lab: Lab) -> Iterator[None]:
    """Serve what another version would, which has lost Asterisk, to a changed configuration."""
    folder = "/run/doctor-test"
    lab.run(f"mkdir -p {folder}")
    text = lab.get(f"{lab.url('exporter')}/metrics")
    text = text.replace('version="', 'version="9').replace("asterisk_up 1.0", "asterisk_up 0.0")
    lab.run(f"cat > {folder}/metrics", text)
    serve = f"python3 -m http.server --bind 127.0.0.1 --directory {folder} 9740"
    lab.run(f"systemd-run --quiet --collect --unit=doctor-test {serve}")
    listen = "s|^  address:.*|  address: 127.0.0.1|;s|^  port: 9739|  port: 9740|"
    notifier = "notifier:\\n  url: https://crm.example/\\n  secret_file: events-secret\\n"
    lab.run(f"sed '{listen}' {CONFIG} > {CHANGED}; printf '{notifier}' >> {CHANGED}")
    lab.run("systemctl disable call-routing; chmod 0644 /etc/asterisk-exporter/ami-secret")
    wait_until(lambda: "127.0.0.1:9740" in lab.run("ss -Hltn"), 15, "its page")
    yield
    lab.run("systemctl enable call-routing; chmod 0600 /etc/asterisk-exporter/ami-secret")
    lab.run(f"systemctl stop doctor-test; rm -r {folder} {CHANGED}")


@pytest.mark.usefixtures("stand_in")
def test_what_runs_and_is_not_as_it_should_be(lab: Lab) -> None:
    found = Doctor(lab).look(f"--config {CHANGED}")
    problems = found.problems()
    services = " ".join(problems["other services"])
    assert "there is no service asterisk-exporter-notifier" in services
    assert "asterisk_exporter_notifier_url" in services
    assert "call-routing has run" in services
    assert "systemctl enable call-routing" in services
    lost, older = problems["exporter /metrics"]
    assert "does not reach Asterisk: asterisk_up is 0" in lost
    assert "the service runs version 9" in older
    assert "systemctl restart asterisk-exporter" in older
    [secret] = problems["secret files"]
    assert "ami-secret has mode 0644: anybody on this machine can read the secret" in secret
    assert "chmod 0600" in secret
