"""On the lab machine: calls, placed together, and what became of each.

routed_calls.py COMMAND, which a shell runs right before the first call. Standard input is JSON:
{number that is called: [command that calls it, its standard input in hexadecimal]}. Standard output
too: of each number the caller's uniqueid and its lines of queue_log, and what was logged meanwhile.
"""

import contextlib
import json
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

# Asterisk and a script a call share two processors with the measuring
APART_SECONDS = 0.15
LONGEST_SECONDS = 30
LOGS = [Path("/var/log/asterisk", name) for name in ("queue_log", "messages.log")]


def run(*command: str) -> str:
    """Return what a command prints."""
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return done.stdout.decode(errors="backslashreplace")


def added(log: Path) -> str:
    """Return what a log has more than at the beginning."""
    with log.open("rb") as file:
        file.seek(sizes[log])
        return file.read().decode(errors="backslashreplace")


def outcomes() -> dict:
    """Return what is known of each call; the test's dialplan keeps who has called which number."""
    found = re.findall(r"CASE([0-9]+)=(\S+)", run("asterisk", "-rx", "dialplan show globals"))
    uniqueids = {f"+{number}": uniqueid for number, uniqueid in found}
    lines = [line.split("|") for line in added(LOGS[0]).splitlines()]
    return {
        number: {
            "uniqueid": uniqueids.get(number, ""),
            "lines": [x for x in lines if len(x) > 4 and x[1] == uniqueids.get(number)],
        }
        for number in calls
    }


def is_over(outcome: dict) -> bool:
    """Whether a call is in a queue, or never comes into one."""
    lines = outcome["lines"]
    return any(x[4] == "ENTERQUEUE" or x[4:6] == ["ROUTE", "abandoned"] for x in lines)


calls = json.load(sys.stdin)
sizes = {log: log.stat().st_size for log in LOGS}
run("asterisk", "-rx", "dialplan reload")  # it forgets who called before
began = datetime.now().strftime("%F %T.%f")
run("sh", "-c", sys.argv[1])
placed = []
for command, given in calls.values():
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(bytes.fromhex(given))
    placed.append(process)
    time.sleep(APART_SECONDS)
end = time.monotonic() + LONGEST_SECONDS
while time.monotonic() < end and not all(map(is_over, outcomes().values())):
    time.sleep(0.2)
result = {"calls": outcomes()}
run("asterisk", "-rx", "channel request hangup all")
for process in placed:
    process.wait()
run("journalctl", "--sync")
journal = ("journalctl", "--no-pager", "-o", "cat", "-S", began)
result["asked"] = [x for x in run(*journal, "-u", "test-crm").splitlines() if x.startswith("/")]
result["log"] = run(*journal) + added(LOGS[1])
json.dump(result, sys.stdout)
