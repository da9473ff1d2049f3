"""The role asterisk refuses machines that it was not made for, before anything is changed."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROLES = Path(__file__).parents[2] / "roles"
ROCKY = {"os_family": "RedHat", "distribution": "Rocky", "distribution_release": "Blue Onyx"}
BOOKWORM = {"os_family": "Debian", "distribution": "Debian", "distribution_release": "bookworm"}
#: By name of the host: its facts, variables, and what it is told.
HOSTS = {
    "rocky": (
        ROCKY,
        {"asterisk_packages": ["asterisk"]},
        "is Rocky 9.5 with systemd, whose packages it does not know",
    ),
    "rocky-source": (
        ROCKY,
        {"asterisk_install_method": "source"},
        "is Rocky 9.5 with systemd, whose packages it does not know",
    ),
    "bookworm": (BOOKWORM, {}, "has no Asterisk package that this role knows"),
}


def test_what_is_refused(tmp_path):
    hosts = {
        name: {"facts": {"distribution_version": "9.5", "service_mgr": "systemd", **facts}, **given}
        for name, (facts, given, _) in HOSTS.items()
    }
    play = {
        "hosts": "all",
        "connection": "local",
        "gather_facts": False,
        "tasks": [
            # as if they had been gathered
            {"ansible.builtin.set_fact": {"ansible_facts": "{{ facts }}"}},
            {"ansible.builtin.import_role": {"name": "asterisk", "tasks_from": "preflight"}},
        ],
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    (tmp_path / "play.yml").write_text(yaml.safe_dump([play]))
    made = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "hosts.yml", "play.yml"],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_ROLES_PATH": str(ROLES), "ANSIBLE_NOCOLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 2, made.stdout
    told = dict.fromkeys(HOSTS, "")
    for failure in made.stdout.split("fatal: [")[1:]:
        name, _, rest = failure.partition("]")
        told[name] = " ".join(rest.split())
    for name, (_, _, says) in HOSTS.items():
        assert says in told[name], made.stdout
