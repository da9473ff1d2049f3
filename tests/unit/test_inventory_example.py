"""The production site to copy: its hosts find each other."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "inventory" / "example"


@pytest.mark.parametrize(
    ("host", "variable", "value"),
    [
        ("pbx1.example.net", "pbx_cdr_pgsql_host", "192.0.2.21"),
        ("pbx1.example.net", "asterisk_exporter_cdr_host", "192.0.2.21"),
        ("pbx1.example.net", "asterisk_exporter_listen_address", "192.0.2.11"),
        ("pbx1.example.net", "asterisk_exporter_doctor_prometheus_url", ""),
        ("db1.example.net", "cdr_database_clients", ["192.0.2.11/32"]),
        (
            "pbx1.example.net",
            "firewall_rules",
            [{"port": 9739, "sources": ["192.0.2.31"]}],
        ),
        ("pbx1.example.net", "fail2ban_ignoreip", ["198.51.100.10", "198.51.100.11"]),
        ("db1.example.net", "firewall_rules", [{"port": 5432, "sources": ["192.0.2.11/32"]}]),
        ("mon1.example.net", "prometheus_exporter_targets", ["192.0.2.11:9739"]),
        ("mon1.example.net", "prometheus_exporter_names", {"192.0.2.11": "pbx1.example.net"}),
        ("mon1.example.net", "prometheus_certificate_targets", ["192.0.2.11:9739"]),
    ],
)
def test_its_hosts_find_each_other(host, variable, value):
    """Ask Ansible for the value, without a connection."""
    command = Path(sys.executable).parent / "ansible"
    result = subprocess.run(
        [command, "-i", EXAMPLE, host, "-m", "debug", "-a", f"var={variable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    _, _, answer = result.stdout.partition(" => ")
    assert json.loads(answer)[variable] == value


def test_secrets_in_a_vault_are_decrypted_with_its_password_only(tmp_path):
    """As docs/secrets.md says: a copy of the site, a filled-in and encrypted vault.yml."""
    site, password = tmp_path / "mysite", tmp_path / "password"
    shutil.copytree(EXAMPLE, site)
    password.write_text("of-the-vault\n")
    example = (site / "group_vars/all/vault.yml.example").read_text()
    vault = site / "group_vars/all/vault.yml"
    vault.write_text(example.replace('vault_provider_secret: ""', "vault_provider_secret: given"))
    key = ("--vault-password-file", password)
    bin_directory = Path(sys.executable).parent
    subprocess.run([bin_directory / "ansible-vault", "encrypt", *key, vault], check=True)
    assert vault.read_text().startswith("$ANSIBLE_VAULT;1.1;AES256\n")

    ask = [bin_directory / "ansible", "-i", site, "pbx1.example.net", "-m", "debug"]
    ask += ["-a", "msg={{ vault_provider_secret }}"]
    opened = subprocess.run([*ask, *key], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(opened.stdout.partition(" => ")[2])["msg"] == "given"
    closed = subprocess.run(ask, cwd=ROOT, capture_output=True, text=True, check=False)
    assert closed.returncode != 0
    assert "vault" in closed.stderr


def test_the_vault_has_what_the_example_takes_from_it():
    files = [path for path in EXAMPLE.rglob("*.yml") if path.is_file()]
    taken = {name for path in files for name in re.findall(r"\bvault_\w+", path.read_text())}
    vault = (EXAMPLE / "group_vars/all/vault.yml.example").read_text()
    assert taken == set(yaml.safe_load(vault))
