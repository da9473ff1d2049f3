"""The role asterisk: which builds its preflight refuses, and what makes a build another one."""

import hashlib
import shlex
import shutil
import subprocess
from pathlib import Path

import jinja2
import pytest
import yaml
from scripts import load

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/asterisk"
role = load("roles/asterisk/filter_plugins/asterisk_source.py")
SUM = "0123456789abcdef" * 4
SETTINGS = {
    "asterisk_source_version": "22.10.1",
    "asterisk_source_url": "https://mirror.example/asterisk-22.10.1.tar.gz",
    "asterisk_source_file": "",
    "asterisk_source_checksum": SUM,
    "asterisk_source_pjproject_version": "2.17",
    "asterisk_source_pjproject_url": "http://192.0.2.1/pjproject-2.17.tar.bz2",
    "asterisk_source_pjproject_file": "",
    "asterisk_source_pjproject_checksum": SUM,
    "asterisk_source_mp3": False,
    "asterisk_source_enable": ["res_snmp", "DONT_OPTIMIZE", "CORE-SOUNDS-EN-GSM"],
    "asterisk_source_disable": ["chan_iax2"],
}
LOADED = ["pbx_config.so", "app_dial.so"]
KNOWN = yaml.safe_load((ROLE / "vars/main.yml").read_text())["_asterisk_source_checksums"]


def problems(**settings):
    return role.problems({**SETTINGS, **settings}, LOADED, KNOWN)


@pytest.mark.parametrize(
    "version", ["22.10.1", "20.6.0", "23.0.0-rc1", "21.0.0-beta1", "20.7-cert4"]
)
def test_settings_that_are_fine(version):
    assert problems(asterisk_source_version=version) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("asterisk_source_version", ""),
        ("asterisk_source_version", "22"),
        ("asterisk_source_version", "22.10.1; reboot"),
        ("asterisk_source_checksum", ""),
        ("asterisk_source_checksum", SUM.upper()),
        ("asterisk_source_checksum", f"sha256:{SUM}"),
        ("asterisk_source_url", "asterisk-22.10.1.tar.gz"),
        ("asterisk_source_url", "ftp://192.0.2.1/asterisk.tar.gz"),
        ("asterisk_source_url", "file:///root/asterisk.tar.gz"),
        ("asterisk_source_file", "asterisk-22.10.1.tar.gz"),
        ("asterisk_source_file", "/nonexistent/asterisk-22.10.1.tar.gz"),
        ("asterisk_source_pjproject_version", "latest"),
        ("asterisk_source_pjproject_checksum", SUM[1:]),
        ("asterisk_source_enable", ["res snmp"]),
        ("asterisk_source_disable", ["$(reboot)"]),
        ("asterisk_source_disable", ["res_snmp"]),
        ("asterisk_source_disable", ["app_dial"]),
    ],
)
def test_a_variable_that_cannot_be_is_named(name, value):
    (problem,) = problems(**{name: value})
    shown = value[0] if isinstance(value, list) else value
    assert problem.startswith(f"{name}")
    assert f"'{shown}'" in problem


def test_a_file_on_the_controller_needs_no_address_and_must_be_the_one_of_its_checksum(tmp_path):
    archive = tmp_path / "asterisk.tar.gz"
    archive.write_bytes(b"a tree")
    actual = hashlib.sha256(b"a tree").hexdigest()
    given = {"asterisk_source_url": "", "asterisk_source_file": str(archive)}
    assert problems(**given, asterisk_source_checksum=actual) == []
    (problem,) = problems(**given)
    assert problem.startswith("asterisk_source_checksum")
    assert actual in problem


def test_a_checksum_that_nobody_knows_is_asked_for():
    (problem,) = problems(asterisk_source_version="22.9.0", asterisk_source_checksum="")
    assert "of 22.9.0 this role knows none: give the SHA-256 of the archive" in problem
    assert "or take one of asterisk-22.11.0.tar.gz" in problem


def test_mp3_needs_another_archive_than_upstreams():
    upstream = {"asterisk_source_checksum": KNOWN["asterisk-22.10.1.tar.gz"]}
    assert problems(**upstream) == []
    assert problems(asterisk_source_mp3=True) == []
    (problem,) = problems(**upstream, asterisk_source_mp3=True)
    assert problem.startswith("asterisk_source_mp3 is true")


def test_known_checksums_are_of_archives_that_a_build_takes():
    assert all(role.CHECKSUM.fullmatch(checksum) for checksum in KNOWN.values())
    assert len(set(KNOWN.values())) == len(KNOWN)
    defaults = yaml.safe_load((ROLE / "defaults/main.yml").read_text())
    assert f"asterisk-{defaults['asterisk_source_version']}.tar.gz" in KNOWN
    assert f"pjproject-{defaults['asterisk_source_pjproject_version']}.tar.bz2" in KNOWN


def test_a_build_is_named_after_all_that_makes_it():
    first = role.build_id("22.10.1", "make")
    assert first.startswith("22.10.1-")
    assert first == role.build_id("22.10.1", "make")
    assert first != role.build_id("22.10.1", "make -j2")


# --- the script that builds


DEBIAN = {"os_family": "Debian", "distribution": "Debian", "distribution_major_version": "13"}
ROCKY = {"os_family": "RedHat", "distribution": "Rocky", "distribution_major_version": "9"}


def script(**settings):
    """Return the build script as Ansible renders it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ROLE / "templates"),
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["quote"] = shlex.quote
    required = yaml.safe_load((ROLE / "vars/main.yml").read_text())["_asterisk_source_required"]
    return environment.get_template("build.sh.j2").render(
        **{
            **SETTINGS,
            "ansible_facts": DEBIAN,
            "_asterisk_builds": "/opt/asterisk",
            "_asterisk_source_switches": required,
            **settings,
        }
    )


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
@pytest.mark.parametrize("facts", [DEBIAN, ROCKY], ids=lambda facts: facts["distribution"])
@pytest.mark.parametrize("mp3", [False, True])
def test_shellcheck_has_nothing_to_say_about_the_script(mp3, facts):
    checked = subprocess.run(
        ["shellcheck", "--shell=sh", "--exclude=SC1091,SC2043,SC2016,SC2317", "-"],
        input=script(asterisk_source_mp3=mp3, ansible_facts=facts),
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.stdout == ""


@pytest.mark.parametrize(
    "change",
    [
        {"asterisk_source_version": "22.10.2"},
        {"asterisk_source_checksum": SUM[::-1]},
        {"asterisk_source_pjproject_checksum": SUM[::-1]},
        {"asterisk_source_disable": []},
        {"_asterisk_source_switches": ["res_srtp"]},
        {"asterisk_source_mp3": True},
        {"ansible_facts": {**DEBIAN, "distribution_major_version": "12"}},
    ],
)
def test_each_thing_that_goes_into_a_build_gives_another_script(change):
    assert script(**change) != script()


def test_where_an_archive_comes_from_makes_no_other_build():
    assert script(asterisk_source_url="https://other.example/a.tar.gz") == script()


def test_prompts_are_packages_on_debian_and_of_the_archive_on_rhel():
    linked = "ln -s /usr/share/asterisk/sounds /usr/share/asterisk/moh"
    lacking = "this archive lacks the prompts"
    debian, rhel = script(), script(ansible_facts=ROCKY)
    assert linked in debian
    assert lacking not in debian
    assert linked not in rhel
    assert lacking in rhel
    assert "MENUSELECT_CORE_SOUNDS" not in rhel
    # upstream's sounds/Makefile wants more files in --with-download-cache than the archive has
    assert "--with-externals-cache" in rhel


def test_each_family_has_a_package_for_each_purpose():
    packages = yaml.safe_load((ROLE / "vars/main.yml").read_text())["_asterisk_source_packages"]
    assert set(packages) == {DEBIAN["os_family"], ROCKY["os_family"]}
    # the compiler of C is a package of its own on RHEL, and tar is not in its smallest installation
    assert len(packages["RedHat"]) == len(packages["Debian"]) + 2


def test_what_ends_an_upgrade_is_not_spoilt_by_a_daemon_reload():
    """Systemd 252 writes a semicolon of a unit that runs as no shell reads it."""
    unit = yaml.safe_load((ROLE / "vars/main.yml").read_text())["_asterisk_upgrade_unit"]
    after = [word for word in unit if word.startswith("--property=ExecStopPost=")]
    assert after[-1] == "--property=ExecStopPost=/bin/systemctl start asterisk"
    assert not [word for word in after if ";" in word or "$" in word]
