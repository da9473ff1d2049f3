"""The exporter at rest: what a served process needs when it is scraped every 15 seconds."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterable
from pathlib import Path

from common import Context, NoLabError, Row, limit
from pbx import Size, asterisk

from asterisk_exporter.ami.client import Target

SIZE = Size(queues=3, members=5, pairs=5)
PORT = 19739
INTERVAL_SECONDS = 15
SCRAPES = 4
PACKAGE = Path(__file__).parents[2] / "exporter"


def _resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _scrape() -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/metrics", timeout=5) as answer:
        body: bytes = answer.read()
    return body


def _first_scrape(process: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        if process.poll() is not None:
            raise NoLabError(f"the exporter ended with {process.returncode}")
        try:
            if b"asterisk_up 1.0" in _scrape():
                return
        except OSError:
            time.sleep(0.1)
    raise NoLabError("the exporter does not see the bench's Asterisk")


def _measure(target: Target, folder: Path) -> tuple[float, int]:
    """Return the share of one processor, and the most memory in bytes."""
    (folder / "ami-secret").write_text(target.secret + "\n", encoding="ascii")
    config = folder / "exporter.yml"
    config.write_text(
        f"listen: {{port: {PORT}}}\nami: {{host: {target.host}, port: {target.port}}}\n"
        f"system_name: bench\nstate_directory: {folder}/state\n"
        f"queue_log: {{file: {folder}/queue_log}}\n"
        f"cdr: {{source: csv, file: {folder}/Master.csv}}\n",
        encoding="ascii",
    )
    for journal in ("queue_log", "Master.csv"):
        (folder / journal).touch()
    process = subprocess.Popen(
        [sys.executable, "-m", "asterisk_exporter", "serve", "--config", str(config)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        stderr=subprocess.DEVNULL,
    )
    try:
        _first_scrape(process)
        began, used = time.monotonic(), _processor_seconds(process.pid)
        most = 0
        for number in range(1, SCRAPES + 1):
            time.sleep(max(0.0, began + number * INTERVAL_SECONDS - time.monotonic()))
            _scrape()
            most = max(most, _resident_bytes(process.pid))
        taken = time.monotonic() - began
        return (_processor_seconds(process.pid) - used) / taken, most
    finally:
        process.terminate()
        process.wait(10)


def bench(context: Context) -> Iterable[Row]:
    """Measure for a minute."""
    with tempfile.TemporaryDirectory() as folder, asterisk(context, SIZE) as target:
        share, memory = _measure(target, Path(folder))
    yield limit("exporter at rest: resident memory", memory / (1 << 20), 60, "MiB")
    yield limit("exporter at rest: of one processor", share * 100, 1, "%")
