"""The lab: one real machine, reached as its administrator reaches it."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
HOST = "pbx1"
T = TypeVar("T")


class Lab:
    """What the tests do with a lab machine; commands go through ``./appliance exec``."""

    def __init__(self, host: str = HOST, site: str = "lab") -> None:
        self.host = host
        self.site = site

    @property
    def secrets(self) -> Path:
        """Where the controller keeps the secrets of the site."""
        return ROOT / ".lab" / ("" if self.site == "lab" else f"sites/{self.site}") / "secrets"

    def exec(self, command: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run a shell command as root and return its result, whatever it is."""
        return subprocess.run(
            [ROOT / "appliance", "exec", self.host, "--", "sh", "-c", command],
            input=stdin,
            capture_output=True,
            text=True,
            errors="backslashreplace",  # a log may have a caller's bytes
            check=False,
            timeout=600,
        )

    def run(self, command: str, stdin: str = "") -> str:
        """Run a shell command as root and return what it printed; it must succeed."""
        result = self.exec(command, stdin)
        assert result.returncode == 0, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    def asterisk(self, command: str) -> str:
        """Run one command of Asterisk's own CLI."""
        return self.run(f"asterisk -rx {shlex.quote(command)}")

    def sql(self, query: str) -> list[list[str]]:
        """Ask the CDR database as its administrator: rows of texts."""
        out = self.run(f"runuser -u postgres -- psql -XAtq -F '|' asterisk -c {shlex.quote(query)}")
        return [line.split("|") for line in out.splitlines()]

    def url(self, name: str) -> str:
        """Return the address of a web page, as ``./appliance url`` prints it."""
        return subprocess.run(
            [ROOT / "appliance", "url", "--site", self.site, name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    def get(self, url: str, seconds: float = 2) -> str:
        """Fetch a page. One of ours has 2 seconds, like a scrape."""
        with urllib.request.urlopen(url, timeout=seconds) as response:
            return str(response.read().decode())

    def exposition(self) -> str:
        """Scrape the exporter."""
        return self.get(f"{self.url('exporter')}/metrics")

    def metrics(self) -> dict[str, float]:
        """Scrape the exporter: sample as in the exposition text -> value."""
        return {
            f"{s.name}{{{','.join(f'{k}={v}' for k, v in sorted(s.labels.items()))}}}": s.value
            for family in text_string_to_metric_families(self.exposition())
            for s in family.samples
        }

    def prometheus(self, query: str) -> float | None:
        """Ask Prometheus for one number; None when it has no answer."""
        api = f"{self.url('prometheus')}/api/v1/query?query={urllib.parse.quote(query)}"
        result: list[Any] = json.loads(self.get(api, 10))["data"]["result"]
        assert len(result) <= 1, result
        return float(result[0]["value"][1]) if result else None

    def wait_until_quiet(self) -> None:
        """Return when no call is up."""
        count = "core show channels count"
        none = re.compile(r"^0 active channels", re.M)  # not 10
        wait_until(lambda: none.search(self.asterisk(count)), 90, "quiet")

    def wait_until_well(self) -> None:
        """Return when the health check finds nothing."""
        wait_until(lambda: self.exec("asterisk-exporter check").returncode == 0, 90, "it is well")

    def playbook(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ansible-playbook from the root of the clone.

        With --tags without the preflight of every host, which takes half of the time: each role
        has its own again.
        """
        if "--tags" in arguments:
            arguments += ("--skip-tags", "preflight")
        return subprocess.run(
            [ROOT / ".venv/bin/ansible-playbook", "-i", f"inventory/{self.site}", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )


def channels(lab: Lab) -> set[str]:
    """Return the names of all SIP channels that are up."""
    return set(re.findall(r"^PJSIP/[^!]+", lab.asterisk("core show channels concise"), re.M))


def wait_until(what: Callable[[], T], seconds: float, describe: str) -> T:
    """Ask again and again until the answer is true, and return it."""
    end = time.monotonic() + seconds
    while True:
        answer = what()
        if answer:
            return answer
        assert time.monotonic() < end, f"not within {seconds} s: {describe} (last: {answer!r})"
        time.sleep(0.3)
