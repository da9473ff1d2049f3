"""The alert rules against series made up for each case; promtool comes with the lab machine."""

from __future__ import annotations

import subprocess

from lab import HOST, ROOT, Lab


def test_rules_fire_and_stay_silent_as_they_should(lab: Lab) -> None:
    files = ["roles/prometheus/files/rules", "tests/rules"]
    archive = subprocess.run(["tar", "-c", *files], cwd=ROOT, capture_output=True, check=True)
    work = lab.run("mktemp -d").strip()
    subprocess.run(
        [ROOT / "appliance", "exec", HOST, "--", "tar", "-x", "-C", work],
        input=archive.stdout,
        check=True,
    )
    tested = lab.run(f"cd {work}/tests/rules && promtool test rules *.yml 2>&1")
    lab.run(f"rm -rf {work}")
    assert tested.count("SUCCESS") == len(list((ROOT / "tests/rules").glob("*.yml"))) > 0
