"""The role asterisk refuses what it cannot work with, before anything is changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROLES = Path(__file__).parents[2] / "roles"
KNOWN = yaml.safe_load((ROLES / "asterisk/vars/main.yml").read_text())["_asterisk_source_checksums"]
OWN = "0123456789abcdef" * 4
ROCKY = {
    "os_family": "RedHat",
    "distribution": "Rocky",
    "distribution_version": "9.5",
    "distribution_major_version": "9",
    "distribution_release": "Blue Onyx",
    "service_mgr": "systemd",
    "selinux": {"status": "enabled", "mode": "permissive"},
}
BOOKWORM = {
    "os_family": "Debian",
    "distribution": "Debian",
    "distribution_version": "12.9",
    "distribution_major_version": "12",
    "distribution_release": "bookworm",
    "service_mgr": "systemd",
}
CHECKSUMS = "{{ _asterisk_archives | map(attribute='checksum') | join(' ') }}"
#: Prints what it is asked for, as repositories that lack one of the packages do.
DNF = """\
#!/bin/sh
shift 3
printf '%s\\n' "$@" | grep -v net-snmp-devel
"""
#: By name of the host: its facts, variables, and what it is told.
REFUSED = {
    "rocky-package": (
        ROCKY,
        {"asterisk_packages": ["asterisk"]},
        "is Rocky 9.5 with systemd, and asterisk_install_method is package",
    ),
    "rocky-8": (
        {**ROCKY, "distribution_version": "8.10", "distribution_major_version": "8"},
        {"asterisk_install_method": "source"},
        "is Rocky 8.10 with systemd, and asterisk_install_method is source",
    ),
    "rocky-enforcing": (
        {**ROCKY, "selinux": {"status": "enabled", "mode": "enforcing"}},
        {"asterisk_install_method": "source"},
        "SELinux is enforcing on rocky-enforcing",
    ),
    "rocky-lacking": (
        ROCKY,
        {"asterisk_install_method": "source", "asterisk_source_packages": ["net-snmp-devel"]},
        "The repositories of rocky-lacking lack net-snmp-devel, which a build takes. Enable CRB",
    ),
    "bookworm": (BOOKWORM, {}, "has no Asterisk package that this role knows"),
    "bookworm-unknown": (
        BOOKWORM,
        {"asterisk_install_method": "source", "asterisk_source_version": "22.9.0"},
        "asterisk_source_checksum is '', and of 22.9.0 this role knows none: give the SHA-256",
    ),
}
#: By name of the host: facts, variables, and the SHA-256 of Asterisk's archive and of pjproject's.
BUILT = {
    "default": (BOOKWORM, {}, KNOWN["asterisk-22.10.1.tar.gz"], KNOWN["pjproject-2.17.tar.bz2"]),
    "rocky": (ROCKY, {}, KNOWN["asterisk-22.10.1.tar.gz"], KNOWN["pjproject-2.17.tar.bz2"]),
    "older": (
        BOOKWORM,
        {"asterisk_source_version": "20.21.0"},
        KNOWN["asterisk-20.21.0.tar.gz"],
        KNOWN["pjproject-2.17.tar.bz2"],
    ),
    "own": (
        BOOKWORM,
        {"asterisk_source_checksum": OWN, "asterisk_source_pjproject_checksum": OWN[::-1]},
        OWN,
        OWN[::-1],
    ),
}


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """Return what the preflight says to all of them, and the checksums that it takes."""
    directory = tmp_path_factory.mktemp("preflight")
    hosts = {name: {"facts": facts, **given} for name, (facts, given, _) in REFUSED.items()}
    hosts |= {
        name: {"facts": facts, "asterisk_install_method": "source", **given}
        for name, (facts, given, *_) in BUILT.items()
    }
    play = {
        "hosts": "all",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": sys.executable},
        "tasks": [
            # as if they had been gathered
            {"ansible.builtin.set_fact": {"ansible_facts": "{{ facts }}"}},
            {"ansible.builtin.debug": {"msg": f"{{{{ inventory_hostname }}}} takes {CHECKSUMS}"}},
            {"ansible.builtin.import_role": {"name": "asterisk", "tasks_from": "preflight"}},
        ],
    }
    (directory / "dnf").write_text(DNF)
    (directory / "dnf").chmod(0o755)
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all": {"hosts": hosts}}))
    (directory / "play.yml").write_text(yaml.safe_dump([play]))
    made = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "hosts.yml", "play.yml"],
        cwd=directory,
        env={
            **os.environ,
            "PATH": f"{directory}:{os.environ['PATH']}",
            "ANSIBLE_ROLES_PATH": str(ROLES),
            "ANSIBLE_NOCOLOR": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return made.stdout


def told(output, name):
    """Return what a host was refused for."""
    return " ".join(output.partition(f"fatal: [{name}]")[2].partition("fatal: [")[0].split())


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(output, name):
    _, _, says = REFUSED[name]
    assert says in told(output, name), output


@pytest.mark.parametrize("name", BUILT)
def test_archives_are_checked_with_what_is_given_or_else_known(output, name):
    *_, asterisk, pjproject = BUILT[name]
    assert f"{name} takes {asterisk} {pjproject}" in output
    assert told(output, name) == ""
