"""The secrets that the controller keeps for the lab, and where the machine has them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from lab import ROOT, Lab

#: Where a program could have left one.
PLACES = [
    *("/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp"),
    *("/usr/lib/systemd", "/usr/local", "/var"),
]

#: What shows something to everybody on the machine, or to its administrator.
COMMANDS = [
    "ps -ewwo args",
    "cat /proc/[0-9]*/cmdline",
    "cat /proc/[0-9]*/environ",
    "systemctl show '*'",
    "systemctl cat '*'",
    "journalctl --no-pager --all",
    "cd /; runuser -u postgres -- psql -XAtc 'TABLE pg_stat_activity'",
    "find /var/log -path /var/log/journal -prune -o -type f -exec zcat -f {} +",
    "asterisk-exporter check",
    "asterisk-exporter doctor --json",
]


def generated(directory: Path = ROOT / ".lab/secrets") -> dict[str, str]:
    """Name and value of each secret that the controller keeps for the lab; of a key, its heart."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    values = {path.name: path.read_text().strip() for path in files if path.suffix != ".pem"}
    keys = {path.name: path.read_text() for path in files if path.match("*key.pem")}
    return values | {name: key.splitlines()[1] for name, key in keys.items()}


def search(lab: Lab, values: dict[str, str]) -> dict[str, Any]:
    """Look for secrets on the machine. They go there by standard input, and so into no ps."""
    script = (Path(__file__).parent / "search_secrets.py").read_text()
    request = {"secrets": values, "places": PLACES, "commands": COMMANDS}
    answer: dict[str, Any] = json.loads(
        lab.run(f"python3 -c {shlex.quote(script)}", stdin=json.dumps(request))
    )
    return answer
