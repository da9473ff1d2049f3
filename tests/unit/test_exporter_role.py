"""What the role asterisk_exporter says of the notifier's ca_file; Ansible itself runs the tasks."""

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
