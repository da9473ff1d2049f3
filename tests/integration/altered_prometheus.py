"""Stands before the lab's Prometheus and alters what it says, for the tests of the doctor.

altered_prometheus.py PORT ADDRESS: asks ADDRESS; the first part of the path is a name in ALTERED.
"""

from __future__ import annotations

import json
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

OLD = "2026-01-01T00:00:00Z"


def _nothing(path: str, data: dict[str, Any]) -> None:
    """Know no target, no rules, no Alertmanager, no series, and be 3600.5 s ahead."""
    if path == "query" and data["resultType"] == "scalar":
        data["result"][1] = str(float(data["result"][1]) + 3600.5)
    elif path == "query":
        data["result"] = []
    for key in ("activeTargets", "groups", "activeAlertmanagers"):
        if key in data:
            data[key] = []


def _late(path: str, data: dict[str, Any]) -> None:
    """Be 5.5 s behind; scrape twice, as another job; stand still; have a dead Alertmanager."""
    if path == "query":
        data["result"][1] = str(float(data["result"][1]) - 5.5)
    for target in data.get("activeTargets", []):
        target["lastScrape"] = OLD
        target["labels"]["job"] = "pbx"
    if "activeTargets" in data:
        data["activeTargets"] *= 2
    for group in data.get("groups", []):
        group["lastEvaluation"] = OLD
    if "activeAlertmanagers" in data:
        data["activeAlertmanagers"] = [{"url": "http://127.0.0.1:1/api/v2/alerts"}]


def _seldom(path: str, data: dict[str, Any]) -> None:  # noqa: ARG001
    """Scrape every three minutes."""
    for target in data.get("activeTargets", []):
        target["scrapeInterval"] = "3m"


ALTERED = {"nothing": _nothing, "late": _late, "seldom": _seldom}


class Handler(BaseHTTPRequestHandler):
    """Answers one question of the API."""

    def do_GET(self) -> None:
        _, name, path = self.path.split("/", 2)
        if name not in ALTERED:
            self.send_error(401)
            return
        with urllib.request.urlopen(f"{sys.argv[2]}/{path}", timeout=5) as response:
            body = response.read()
        if path.startswith("api/v1/"):
            document = json.loads(body)
            ALTERED[name](path.partition("?")[0].removeprefix("api/v1/"), document["data"])
            body = json.dumps(document).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
