"""What has happened on a PBX, as its exporter counts it: that only grows, whatever comes."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from http.client import HTTPException

from lab import Lab, wait_until

#: The counters of queue_log and of call records.
HISTORY = re.compile(
    r"asterisk_(queue_(calls|wait|talk|ring|agent)\w*|calls_total|missed_calls_total|call_seconds\w*"
    r"|trunk_\w+|cdr_records_total|exporter_journal_(records|malformed)_total)\{"
)
#: Prints how many records wait for the end of their call.
UNDECIDED = (
    "import sqlite3; db = sqlite3.connect('file:/var/lib/asterisk-exporter/journal.sqlite"
    "?mode=ro', uri=True); print(db.execute('SELECT count(*) FROM leg').fetchone()[0])"
)


def history(lab: Lab) -> dict[str, float]:
    """Return these counters, less one: each start of Asterisk writes a line."""
    counters = {name: value for name, value in lab.metrics().items() if HISTORY.match(name)}
    del counters["asterisk_exporter_journal_records_total{source=queue_log}"]
    return counters


def settled(lab: Lab) -> bool:
    """Say whether all records are counted, and all calls decided."""
    lag = lab.metrics().get("asterisk_exporter_journal_lag_seconds{source=cdr}")
    return lag == 0 and lab.run("python3 -", stdin=UNDECIDED).strip() == "0"


def wait_until_read(lab: Lab, source: str) -> None:
    """Return when a journal has been read as far as it goes now."""
    seconds = f"asterisk_exporter_collector_duration_seconds{{collector={source}}}"

    def last_poll() -> float | None:
        """How long it took, which is never the same twice; 0 before the first."""
        try:
            return lab.metrics().get(seconds)
        except OSError:  # it is just starting
            return None

    for _ in range(2):  # the poll that ends first may have begun before
        known = (None, 0, last_poll())
        wait_until(lambda known=known: last_poll() not in known, 60, f"{source} is read")


def wait_until_settled(lab: Lab) -> None:
    """Return when no call is up, and those that were are counted: no figure is on its way."""
    lab.wait_until_quiet()
    wait_until_read(lab, "cdr")
    # a call whose first channel left no record is over after ten minutes
    wait_until(lambda: settled(lab), 660, "all calls are decided")


@dataclass
class Watch:
    """Scrapes as fast as it can, and remembers every counter that went down."""

    lab: Lab
    went_down: list[str] = field(default_factory=list)
    scrapes: int = 0
    over: bool = False

    def run(self) -> None:
        highest: dict[str, float] = {}
        while not self.over:
            try:
                metrics = self.lab.metrics()
            except (OSError, HTTPException):
                metrics = {}  # just killed, perhaps amid its answer
            self.scrapes += bool(metrics)
            for name, value in metrics.items():
                if HISTORY.match(name):
                    if value < highest.get(name, 0):
                        self.went_down.append(f"{name}: {highest[name]} -> {value}")
                    highest[name] = max(value, highest.get(name, 0))
            time.sleep(0.1)
