"""The front door: exec, url, status, and who owns the lab."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from lab import ROOT, Lab


def appliance(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [ROOT / "appliance", *arguments], input=stdin, capture_output=True, check=False
    )


@pytest.mark.usefixtures("lab")
def test_exec_passes_everything_through() -> None:
    binary = bytes(range(256)) * 400
    script = 'printf "%s" "$1" >&2; cat; exit 7'
    argument = "two  words, 'quotes' \"and\" $HOME\nand a line\n"
    result = appliance("exec", "pbx1", "--", "sh", "-c", script, "sh", argument, stdin=binary)
    assert result.returncode == 7
    assert result.stdout == binary
    assert result.stderr.decode() == argument


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("exec", "pbx9", "--", "true"), "there is no lab machine 'pbx9'; there is: pbx1"),
        (("exec", "pbx1", "true"), "usage: ./appliance exec HOST -- CMD"),
        (("url", "grafana"), "there is no address named 'grafana'"),
        (("url",), "usage: ./appliance url NAME"),
        (("up", "--site", "mars"), "there is no site 'mars'; there is: lab fleet"),
        (("url", "--site"), "usage: ./appliance url --site NAME"),
        (("fly",), "there is no command 'fly'"),
        (
            ("test", "unit", "fly"),
            "the tests have no part 'fly'; there is: lint unit integration fleet",
        ),
    ],
)
@pytest.mark.usefixtures("lab")
def test_wrong_usage_is_explained(arguments: tuple[str, ...], says: str) -> None:
    result = appliance(*arguments)
    assert result.returncode == 2
    assert says in result.stderr.decode()


@pytest.mark.parametrize("name", ["exporter", "prometheus", "alertmanager"])
def test_url_can_be_opened(lab: Lab, name: str) -> None:
    assert lab.get(lab.url(name) + "/-/healthy")


@pytest.mark.usefixtures("lab")
def test_status_names_the_owner_and_every_service() -> None:
    result = appliance("status")
    assert result.returncode == 0
    text = result.stdout.decode()
    assert f"Lab of {ROOT}" in text
    # Machines that are tested beside us have services too.
    _, _, ours = text.partition(": pbx1\n")
    ours, _, _ = ours.partition("  process ")
    assert [line.split() for line in ours.splitlines() if line.endswith(" active")] == [
        [unit, "active"]
        for unit in (
            "asterisk",
            "postgresql",
            "asterisk-exporter",
            "call-routing",
            "prometheus",
            "prometheus-alertmanager",
        )
    ]
    assert "grafana-server" not in ours  # only some sites have it


def test_another_clone_does_not_share_the_lab(lab: Lab, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
    shutil.copy(ROOT / "appliance", clone)
    (clone / ".venv").symlink_to(ROOT / ".venv")
    for command in ("up", "down"):
        result = subprocess.run([clone / "appliance", command], capture_output=True, check=False)
        assert result.returncode == 2
        assert f"belongs to {ROOT}" in result.stderr.decode()
        assert f"{ROOT}/appliance down" in result.stderr.decode()
    assert lab.exec("true").returncode == 0
