"""The rules of the role prometheus as far as the controller makes them; promtool tests the rest."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles/prometheus"


def test_recording_rules_are_up_to_date():
    generator = ROLE / "files/generate_recording_rules.py"
    assert subprocess.run([sys.executable, generator, "--check"], check=False).returncode == 0, (
        f"run {generator}"
    )
