"""The links between the exporter and AMI."""

from __future__ import annotations

from collections.abc import Iterator

from asterisk_exporter import config
from asterisk_exporter.doctor.finding import Finding, ok
from asterisk_exporter.doctor.pbx import Pbx


def login(pbx: Pbx) -> Iterator[Finding]:
    """Log in as the exporter does."""
    seconds = pbx.replies["CoreStatus"].seconds
    target = config.target(pbx.settings, pbx.path)
    yield ok(f"{target.username} at {target}, answered in {seconds * 1000:.1f} ms")
