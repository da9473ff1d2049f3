"""The role prometheus refuses releases without the package promtool, before anything is changed."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROLES = Path(__file__).parents[2] / "roles"
WITHOUT_PROMTOOL = {
    "bullseye": "Debian 11",
    "bookworm": "Debian 12",
    "jammy": "Ubuntu 22.04",
    "noble": "Ubuntu 24.04",
}
WITH_PROMTOOL = {"trixie": "Debian 13"}


def test_releases_that_are_refused(tmp_path):
    hosts = {}
    for release, name in {**WITHOUT_PROMTOOL, **WITH_PROMTOOL}.items():
        distribution, version = name.split()
        facts = {"os_family": "Debian", "service_mgr": "systemd", "distribution": distribution}
        facts.update(distribution_version=version, distribution_release=release)
        hosts[release] = {"facts": facts}
    play = {
        "hosts": "all",
        "connection": "local",
        "gather_facts": False,
        "tasks": [
            # as if they had been gathered
            {"ansible.builtin.set_fact": {"ansible_facts": "{{ facts }}"}},
            {"ansible.builtin.import_role": {"name": "prometheus", "tasks_from": "preflight"}},
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
    told = {}
    for failure in made.stdout.split("fatal: [")[1:]:
        release, _, rest = failure.partition("]")
        told[release] = " ".join(rest.split())
    assert told.keys() == WITHOUT_PROMTOOL.keys(), made.stdout
    for release, name in WITHOUT_PROMTOOL.items():
        assert f"is {name} ({release}), which has no package promtool" in told[release]
