"""The doctor as its administrator runs it, for tests that break a link."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import yaml
from lab import Lab

CONFIG = "/etc/asterisk-exporter/asterisk-exporter.yml"
#: Beside it, for the secret files that it names.
OTHER_CONFIG = "/etc/asterisk-exporter/doctor-test.yml"


@dataclass(frozen=True)
class Report:
    """What ``asterisk-exporter doctor --json`` said."""

    document: dict[str, Any]

    @property
    def status(self) -> str:
        """The worst of all links."""
        return str(self.document["status"])

    def problems(self) -> dict[str, list[str]]:
        """Return by link what is not well: each finding's text and what to do."""
        return {
            link["name"]: [
                f"{finding['text']} \u2192 {finding['action']}"
                for finding in link["findings"]
                if finding["status"] not in ("OK", None)
            ]
            for link in self.document["links"]
            if link["status"] not in ("OK", None)
        }

    def link(self, name: str) -> dict[str, Any]:
        """Return one link."""
        [found] = [link for link in self.document["links"] if link["name"] == name]
        return dict(found)


@dataclass(frozen=True)
class Doctor:
    """Runs the doctor."""

    lab: Lab

    def look(self, arguments: str = "") -> Report:
        """Run it; whatever it finds, its exit status is that of the worst."""
        result = self.lab.exec(f"asterisk-exporter doctor --json {arguments}")
        assert result.returncode in (0, 1, 2), f"{result.stdout}{result.stderr}"
        document = json.loads(result.stdout)
        assert document["exit_code"] == result.returncode
        return Report(document)

    def look_with(self, edit: Callable[[dict[str, Any]], object]) -> Report:
        """Run it with another configuration than the service has."""
        settings = yaml.safe_load(self.lab.run(f"cat {CONFIG}"))
        edit(settings)
        self.lab.run(f"cat >{OTHER_CONFIG}", yaml.safe_dump(settings))
        try:
            return self.look(f"--config {OTHER_CONFIG}")
        finally:
            self.lab.run(f"rm {OTHER_CONFIG}")
