#!/usr/bin/env python3
"""A reference CRM: the smallest server that answers as docs/crm-openapi.yaml says.

Copy it, and put your own database where ``Directory`` is. It needs Python 3.9 and nothing else:

    crm_server.py --token-file FILE --data FILE [--address 127.0.0.1] [--port 8085]

The data is JSON: {"contacts": {CALLER: {…}}, "routes": {CALLER: {…}}}. A route under the caller's
number holds for whatever number that caller dials.
"""

from __future__ import annotations

import argparse
import hmac
import json
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Directory:
    """What the CRM knows. Replace these two methods."""

    def __init__(self, data: dict[str, Any]) -> None:
        self._contacts = data.get("contacts", {})
        self._routes = data.get("routes", {})

    def contact(self, caller: str) -> dict[str, Any] | None:
        """Return who has this number, or None."""
        return self._contacts.get(caller)

    def route(self, caller: str, extension: str) -> dict[str, Any] | None:  # noqa: ARG002
        """Return where this caller's call to ``extension`` goes, or None: no opinion."""
        return self._routes.get(caller)


class Handler(BaseHTTPRequestHandler):
    """Answers one connection; it stays open for the next call."""

    protocol_version = "HTTP/1.1"
    # else the answer's second packet waits for the acknowledgement of its first
    disable_nagle_algorithm = True
    wbufsize = -1
    server: CrmServer

    def do_GET(self) -> None:
        """Answer lookup and route."""
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Token {self.server.token}".encode()):
            self._answer(401, {"error": "wrong token"})
            return
        path = self.path.partition("?")[0]
        if not path.startswith(self.server.base + "/"):
            self._answer(404, {"error": "no such page"})
            return
        parts = path[len(self.server.base) + 1 :].split("/")
        what, *numbers = [urllib.parse.unquote(part) for part in parts]
        found = None
        if what == "lookup" and len(numbers) == 1:
            found = self.server.directory.contact(*numbers)
        elif what == "route" and len(numbers) == 2:
            found = self.server.directory.route(*numbers)
        if found is None:
            self._answer(204, None)
        elif what == "route" and "application/json" not in self.headers.get("Accept", ""):
            self._answer(200, found["target"])  # who asks for plain text gets the target alone
        else:
            self._answer(200, found)

    def _answer(self, status: int, content: dict[str, Any] | str | None) -> None:
        plain = isinstance(content, str)
        body = b"" if content is None else (content if plain else json.dumps(content)).encode()
        self.send_response(status)
        if status != 204:
            self.send_header("Content-Type", "text/plain" if plain else "application/json")
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_: object) -> None:
        """Log nothing: the callers are people."""


class CrmServer(ThreadingHTTPServer):
    """Listens on ``address``; ``base`` is the path before lookup and route."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self, address: tuple[str, int], token: str, directory: Directory, base: str = "/api"
    ) -> None:
        self.token = token
        self.directory = directory
        self.base = base
        super().__init__(address, Handler)


def main() -> None:
    """Serve until it is ended."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--token-file", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8085)
    options = parser.parse_args()
    directory = Directory(json.loads(options.data.read_text(encoding="utf-8")))
    token = options.token_file.read_text(encoding="utf-8").strip()
    CrmServer((options.address, options.port), token, directory).serve_forever()


if __name__ == "__main__":
    main()
