"""What the role asterisk_exporter refuses; Ansible itself runs the tasks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

TASKS = Path(__file__).parents[2] / "roles/asterisk_exporter/tasks/configure.yml"
#: By name: how the file is made, and whether it will do.
FILES = {
    "right": (lambda path: path.write_text("PEM"), True),
    "link": (lambda path: path.symlink_to(path.with_name("target")), True),
    "absent": (lambda path: None, False),  # noqa: ARG005
    "folder": (lambda path: path.mkdir(), False),
    "private": (lambda path: (path.write_text("PEM"), path.chmod(0o600)), False),
}


@pytest.mark.parametrize("check", [False, True])
def test_a_ca_file_that_the_notifier_cannot_read_is_refused(tmp_path, check):
    (block,) = [t for t in yaml.safe_load(TASKS.read_text()) if "trusts" in t["name"]]
    (tmp_path / "target").write_text("PEM")
    (tmp_path / "target").chmod(0o644)
    plays = []
    for name, (make, _) in FILES.items():
        make(tmp_path / name)
        variables = {
            "asterisk_exporter_notifier_url": "https://crm.example.com/",
            "asterisk_exporter_notifier_ca_file": str(tmp_path / name),
            "ansible_python_interpreter": sys.executable,
        }
        say = {"name": "Say", "ansible.builtin.debug": {"msg": f"refused {name}"}}
        tasks = [{"name": "Try", "block": [block], "rescue": [say]}]
        local = {"hosts": "localhost", "connection": "local", "gather_facts": False}
        plays.append({**local, "vars": variables, "tasks": tasks})
    unset = {"asterisk_exporter_notifier_url": "", "asterisk_exporter_notifier_ca_file": None}
    plays.append({**plays[0], "vars": unset, "tasks": [block]})
    (tmp_path / "play.yml").write_text(yaml.safe_dump(plays))
    program = Path(sys.executable).with_name("ansible-playbook")
    made = subprocess.run(
        [program, "-i", "localhost,", "play.yml", *(["--check"] if check else [])],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    for name, (_, fits) in FILES.items():
        assert (f"refused {name}" in made.stdout) != fits, name
    assert "must be a PEM file on the PBX" in made.stdout


#: By name of the task: variables that it takes and that it refuses.
ASSERTIONS = {
    "No call records in plain text": (
        [
            {"cdr_host": "127.0.0.1", "cdr_sslmode": "prefer"},
            {"cdr_host": "192.0.2.21", "cdr_sslmode": "verify-full"},
            {"cdr_host": "192.0.2.21", "cdr_sslmode": "disable"},
            {"cdr_host": "192.0.2.21", "cdr_sslmode": "prefer", "cdr_source": "mysql"},
            {"cdr_host": "", "cdr_sslmode": "prefer"},
        ],
        [{"cdr_host": "192.0.2.21", "cdr_sslmode": mode} for mode in ("allow", "prefer")],
    ),
    "Users have names": (
        [
            {"tls": False, "users": []},
            {"tls": True, "users": [{"name": "prometheus"}, {"name": "wall-board_2"}]},
        ],
        [
            {"tls": False, "users": [{"name": "prometheus"}]},
            {"tls": True, "users": [{"name": "a:b"}]},
            {"tls": True, "users": [{"name": "a"}, {"name": "a"}]},
        ],
    ),
    "Passwords of users are": (
        [{"users": [{"name": "a"}, {"name": "b", "password": "x" * 72}]}, {"users": []}],
        [{"users": [{"name": "b", "password": bad}]} for bad in ("short", "x" * 73, "ä" * 20, "")],
    ),
}


def test_what_the_preflight_refuses(tmp_path):
    role = TASKS.parents[1]
    tasks = yaml.safe_load((role / "tasks/preflight.yml").read_text())
    private = yaml.safe_load((role / "vars/main.yml").read_text())
    expected, plays = [], []
    for name, (good, bad) in ASSERTIONS.items():
        (task,) = [t for t in tasks if name in t["name"]]
        for fits, settings in [(True, one) for one in good] + [(False, one) for one in bad]:
            number = len(plays)
            variables = {
                **{k: v for k, v in private.items() if "passwords" in k or "_generated" in k},
                "_asterisk_exporter_secret": private["_asterisk_exporter_secret"],
                "asterisk_exporter_tls": True,
                "asterisk_exporter_cdr_source": "postgresql",
                "asterisk_exporter_secrets_dir": str(tmp_path / "secrets"),
                **{f"asterisk_exporter_{key}": value for key, value in settings.items()},
            }
            say = {"name": "Say", "ansible.builtin.debug": {"msg": f"refused {number:02}"}}
            local = {"hosts": "localhost", "connection": "local", "gather_facts": False}
            block = [{"name": "Try", "block": [task], "rescue": [say]}]
            plays.append({**local, "vars": variables, "tasks": block})
            if not fits:
                expected.append(f"refused {number:02}")
    (tmp_path / "play.yml").write_text(yaml.safe_dump(plays))
    made = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "localhost,", "play.yml"],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    assert [f"refused {n:02}" for n in range(len(plays)) if f"refused {n:02}" in made.stdout] == (
        expected
    ), made.stdout
    assert "x" * 73 not in made.stdout
    # one is generated for whom the inventory gives none, and for nobody else
    assert [path.name for path in (tmp_path / "secrets").iterdir()] == ["metrics-a"]
