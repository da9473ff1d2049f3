"""Secrets: generated only where the inventory gives none, in the same way in every role."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOOKUP = "lookup('ansible.builtin.password'"
GIVEN = "given-by-the-inventory"


def evaluate(expression, directory, **given):
    """Ask Ansible for what an expression is in the role pbx, without a connection."""
    command = [Path(sys.executable).parent / "ansible", "-i", "pbx9,", "pbx9", "-m", "debug"]
    for file in ("defaults", "vars"):
        command += ["-e", f"@{ROOT}/roles/pbx/{file}/main.yml"]
    command += ["-e", json.dumps({"pbx_secrets_dir": str(directory), **given})]
    result = subprocess.run(
        [*command, "-a", json.dumps({"var": expression})],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.partition(" => ")[2])[expression]


def test_what_is_given_is_taken_and_no_file_made(tmp_path):
    taken = evaluate(
        "[_pbx_phone_secrets, _pbx_voicemail_pins, _pbx_manager_secrets, _pbx_cdr_pgsql_password]",
        tmp_path,
        pbx_phones=[{"extension": "101", "secret": GIVEN, "pin": "1234"}],
        pbx_voicemail_boxes=[{"box": "1", "pin": 5678}],
        pbx_manager_users={"exporter": {"secret": GIVEN}},
        pbx_cdr_pgsql_password=GIVEN,
    )
    assert taken == [
        {"phone-101": GIVEN},
        {"voicemail-1": 5678, "voicemail-101": "1234"},
        {"ami-exporter": GIVEN},
        GIVEN,
    ]
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_given_is_generated_once(tmp_path):
    phones = [{"extension": "101"}, {"extension": "102", "secret": GIVEN}]
    first, second = evaluate(
        "[_pbx_phone_secrets, _pbx_phone_secrets]", tmp_path, pbx_phones=phones
    )
    [file] = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert file == tmp_path / "pbx9/phone-101"
    assert first == second == {"phone-101": file.read_text().strip(), "phone-102": GIVEN}
    assert re.fullmatch(r"[A-Za-z0-9]{32}", first["phone-101"])


@pytest.mark.parametrize("names", ["", "ami,telephone", "tls-ca-key.pem"])
def test_a_name_that_is_none_is_refused_with_those_that_are(names, tmp_path):
    files = ["postgresql-asterisk", "mysql-exporter", "tls-ca-key.pem"]
    files += [f"pbx1.example.net/{name}" for name in ("ami-exporter", "phone-101", "tls-key.pem")]
    (tmp_path / "pbx1.example.net").mkdir()
    for file in files:
        (tmp_path / file).write_text("secret-of-the-test\n")
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", "inventory/example"]
    command += ["playbooks/rotate-secrets.yml", "-e", f"secrets_dir={tmp_path}"]
    result = subprocess.run(
        [*command, "-e", f"rotate={names}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0
    said = " ".join((result.stdout + result.stderr).split())
    assert f"rotate is '{names}'" in said
    assert "of this inventory: ami-exporter, phone-101, postgresql-asterisk;" in said
    assert "secret-of-the-test" not in said
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == len(files)


def test_every_role_asks_for_a_generated_secret_only_where_none_is_given():
    files = [path for path in ROOT.glob("roles/*/*/*") if path.suffix in (".yml", ".j2")]
    asked = [path for path in files for _ in range(path.read_text().count(LOOKUP))]
    assert len(asked) > 10
    assert {path.relative_to(ROOT).parts[2:] for path in asked} == {("vars", "main.yml")}
    for path in asked:
        text = " ".join(path.read_text().split())
        assert text.count(LOOKUP) == text.count(f" or {LOOKUP}"), path
