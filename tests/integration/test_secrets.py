"""Each secret of the inventory is where it is needed, and nowhere else.

Generated ones are those of the secrets directory, whatever they are; given ones are the options
that an argument spec marks as secret. So a new one is looked for without a word here.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lab import ROOT, Lab
from lab_secrets import generated, search

#: Who may read a file that has secrets, and which: path -> (mode, owner, names of secrets).
HOLDERS = {
    "/etc/asterisk/manager.conf": ("640", "asterisk:asterisk", r"ami-\w+"),
    "/etc/asterisk/pjsip.conf": ("640", "asterisk:asterisk", r"phone-\d+"),
    "/etc/asterisk/voicemail.conf": ("640", "asterisk:asterisk", r"voicemail-\d+"),
    "/etc/asterisk/cdr_pgsql.conf": ("640", "asterisk:asterisk", "postgresql-asterisk"),
    "/etc/asterisk-exporter/ami-secret": ("600", "root:root", "ami-exporter"),
    "/etc/asterisk-exporter/events-secret": ("600", "root:root", "ami-events"),
    "/etc/asterisk-exporter/control-secret": ("600", "root:root", "ami-control"),
    "/etc/asterisk-exporter/postgresql-password": ("600", "root:root", "postgresql-exporter"),
    "/etc/asterisk-exporter/importer-password": ("600", "root:root", "postgresql-importer"),
    "/etc/call-routing/crm-token": ("640", "root:asterisk", "crm-token"),
    "/etc/ssl/appliance/asterisk/key.pem": ("640", "root:asterisk", r"tls-key\.pem"),
    # What systemd gives to the services that need it.
    "/run/credentials/asterisk-exporter.service/ami-secret": ("440", "root:root", "ami-exporter"),
    "/run/credentials/asterisk-exporter.service/events-secret": ("440", "root:root", "ami-events"),
    "/run/credentials/asterisk-exporter.service/postgresql-password": (
        "440",
        "root:root",
        "postgresql-exporter",
    ),
    "/run/credentials/call-routing.service/crm-token": ("440", "root:root", "crm-token"),
    # The lab's own phones and CRM, which no other machine has.
    "/usr/local/share/lab/phones.csv": ("600", "root:root", r"phone-\d+"),
    "/usr/local/share/lab/crm-token": ("600", "root:root", "crm-token"),
    **{
        f"/run/lab-phone-{number}/login": ("600", "root:root", f"phone-{number}")
        for number in range(101, 107)
    },
}

#: Something for each option that an argument spec marks as secret; another SECRET each time.
GIVEN = """
pbx_phones:
  - {extension: "101", name: Alice, secret: "SECRET", pin: "PIN"}
  - {extension: "102", name: Bob}
  - {extension: "103", name: Carol}
  - {extension: "104", name: Dave}
  - {extension: "105", name: Erin}
  - {extension: "106", name: Frank}
pbx_trunks:
  - {name: provider, host: 127.0.0.2, username: me, secret: "SECRET", register: true}
pbx_voicemail_boxes: [{box: "100", pin: "PIN"}]
pbx_conferences: [{extension: "8000", name: team, pin: "PIN"}]
pbx_manager_users: {exporter: {write: [reporting], permit: [127.0.0.1/32], secret: "SECRET"}}
pbx_cdr_pgsql_password: "SECRET"
pbx_realtime: true
pbx_realtime_password: "SECRET"
cdr_database_asterisk_password: "SECRET"
cdr_database_exporter_password: "SECRET"
cdr_database_importer_password: "SECRET"
cdr_database_realtime_password: "SECRET"
call_routing_crm_token: "SECRET"
asterisk_exporter_tls: true
asterisk_exporter_users: [{name: prometheus, password: "SECRET"}]
pbx_prometheus_address: 127.0.0.1
pbx_prometheus_password: "SECRET"
prometheus_exporter_password: "SECRET"
prometheus_remote_write:
  - {name: one, url: "https://a.example.com/", basic_auth: {username: me, password: "SECRET"}}
  - {name: two, url: "https://b.example.com/", authorization: {credentials: "SECRET"}}
asterisk_exporter_ami_secret: "SECRET"
asterisk_exporter_events_secret: "SECRET"
asterisk_exporter_control_secret: "SECRET"
asterisk_exporter_cdr_password: "SECRET"
asterisk_exporter_importer_password: "SECRET"
asterisk_exporter_notifier_url: https://crm.example.com/missed
asterisk_exporter_notifier_secret: "SECRET"
alertmanager_smtp_smarthost: mail.example.com:587
alertmanager_smtp_from: pbx@example.com
alertmanager_smtp_username: pbx
alertmanager_smtp_password: "SECRET"
alertmanager_receivers:
  - name: duty
    emails: [duty@example.com]
    webhooks: [{url: "http://127.0.0.1:5001/SECRET"}]
    slack: [{channel: "#pbx", webhook_url: "http://127.0.0.1:5001/SECRET"}]
    telegram: [{chat_id: -100, bot_token: "123456:SECRET"}]
    pagerduty: [{routing_key: "SECRET"}]
grafana_api_url: http://127.0.0.1:9
grafana_api_token: "SECRET"
"""

CONFIGURE = ",".join(
    f"{role}_configure"
    for role in (
        *("cdr_database", "call_routing", "pbx", "asterisk_exporter"),
        *("prometheus", "alertmanager", "grafana"),
    )
)


def secret_options(
    options: dict[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Yield the path of each option that an argument spec marks as secret."""
    for name, option in options.items():
        if option.get("no_log"):
            yield (*path, name)
        yield from secret_options(option.get("options", {}), (*path, name))


def at(values: Any, path: tuple[str, ...]) -> Any:
    """Follow a path through mappings, and through the first items of lists."""
    for name in path:
        first = values[0] if isinstance(values, list) else values
        values = first.get(name)
    return values


@pytest.fixture(scope="module")
def found(lab: Lab) -> dict[str, Any]:
    return search(lab, generated())


def test_secrets_are_in_the_files_that_need_them_and_in_no_other(found: dict[str, Any]) -> None:
    assert {path: tuple(where[:2]) for path, where in found["files"].items()} == {
        path: where[:2] for path, where in HOLDERS.items()
    }
    misplaced = {
        path: name
        for path, (_, _, names) in found["files"].items()
        for name in names
        if not re.fullmatch(HOLDERS[path][2], name)
    }
    assert misplaced == {}


def test_each_generated_secret_is_deployed(found: dict[str, Any]) -> None:
    deployed = {name for _, _, names in found["files"].values() for name in names}
    # The CA's key stays here, and the webhook's secret after the tests that turn its unit on.
    assert deployed == generated().keys() - {"tls-ca-key.pem", "notifier"}


def test_no_process_log_or_report_shows_a_secret(found: dict[str, Any]) -> None:
    assert found["shown"] == {}


def test_no_page_shows_a_secret(lab: Lab) -> None:
    pages = [f"{lab.url('exporter')}/{path}" for path in ("", "metrics", "wallboard")]
    pages += [f"{lab.url('prometheus')}/api/v1/{name}" for name in ("status/config", "targets")]
    pages += [f"{lab.url('alertmanager')}/api/v2/status"]
    shown = "".join(lab.get(page) for page in pages)
    assert [name for name, value in generated().items() if len(value) > 8 and value in shown] == []


def test_the_log_of_ansible_has_no_secret() -> None:
    """What ./appliance wrote while it made the lab."""
    # What runs beside us may have written half a character.
    logs = (ROOT / ".lab/log").glob("*.log")
    shown = "".join(path.read_text(errors="replace") for path in logs)
    assert [name for name, value in generated().items() if len(value) > 8 and value in shown] == []


def test_only_the_controllers_user_reads_the_generated_ones() -> None:
    for path in (ROOT / ".lab/secrets").rglob("*"):
        public = path.suffix == ".pem" and "key" not in path.name
        assert public or path.stat().st_mode & 0o077 == 0, path


@pytest.fixture(scope="module")
def given() -> str:
    text = re.sub("SECRET", lambda _: secrets.token_hex(16), GIVEN)
    return re.sub(': "PIN"', lambda _: f': "{secrets.randbelow(9 * 10**11) + 10**11}"', text)


def test_each_secret_option_is_given_here(given: str) -> None:
    values = yaml.safe_load(given)
    specs = [yaml.safe_load(p.read_text()) for p in ROOT.glob("roles/*/meta/argument_specs.yml")]
    paths = [p for spec in specs for p in secret_options(spec["argument_specs"]["main"]["options"])]
    assert len(paths) > 20
    assert [path for path in paths if not at(values, path)] == []


def test_no_diff_shows_a_secret_old_or_new(lab: Lab, given: str, tmp_path: Path) -> None:
    """A dry run that would change all of them; it ends at a Grafana that is not there."""
    file = tmp_path / "given.yml"
    file.write_text(given)
    arguments = ["site.yml", "--check", "--diff", "-vvv", "-e", f"@{file}", "--tags", CONFIGURE]
    result = lab.playbook(*arguments)
    output = result.stdout + result.stderr
    assert "No Grafana answers at grafana_api_url" in output
    assert output.count("the output has been hidden due to the fact that 'no_log: true'") > 5
    secret = re.findall(r"[0-9a-f]{32}|\b\d{12}\b", given)
    assert len(secret) > 20
    assert [s for s in secret if s in output] == []
    assert [name for name, s in generated().items() if len(s) > 8 and s in output] == []
