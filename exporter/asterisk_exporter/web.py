"""The HTTP side: ``/metrics``, ``/-/healthy`` and the pages."""

from __future__ import annotations

import socket
import socketserver
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Callable
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import make_wsgi_app

#: A client that sends nothing for so long is closed.
CLIENT_TIMEOUT_SECONDS = 10
#: By name, what the address asks for behind the question mark.
Query = Mapping[str, list[str]]

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class Page:
    """An answer. ``policy`` is its Content-Security-Policy."""

    text: str
    status: str = "200 OK"
    content_type: str = "text/html; charset=utf-8"
    policy: str = "default-src 'none'"

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What goes before it: nobody keeps it, nothing from elsewhere runs in it."""
        return [
            ("Content-Type", self.content_type),
            ("Cache-Control", "no-store"),
            ("Content-Security-Policy", self.policy),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
        ]


def plain(text: str, status: str = "200 OK") -> Page:
    """Return a page of plain text."""
    return Page(text, status, "text/plain; charset=utf-8")


def make_app(
    registry: CollectorRegistry, pages: Mapping[str, Callable[[Query], Page]] | None = None
) -> WsgiApp:
    """Return the WSGI application; ``pages`` by path, each made anew for who asks."""
    metrics: WsgiApp = make_wsgi_app(registry)
    known = {"/-/healthy": lambda _: plain("OK\n"), **(pages or {})}

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", ""), environ.get("REQUEST_METHOD", "GET")
        text = ("Content-Type", "text/plain; charset=utf-8")
        if path not in known and path != "/metrics":
            start_response("404 Not Found", [text])
            return [b"Not found. Try /metrics.\n"]
        if method not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [text, ("Allow", "GET, HEAD")])
            return [b"Only GET.\n"]
        if path == "/metrics":
            # In OpenMetrics a counter's family has no _total: asterisk_calls and
            # asterisk_calls_total would be one family. So everybody gets the classic format.
            asked = {**environ, "REQUEST_METHOD": "GET", "HTTP_ACCEPT": "text/plain"}
            body = metrics(asked, start_response)
        else:
            page = known[path](urllib.parse.parse_qs(environ.get("QUERY_STRING", "")))
            start_response(page.status, page.headers)
            body = [page.text.encode()]
        return [] if method == "HEAD" else body

    return app


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    request_queue_size = 64

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of our own name, which may wait for DNS."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = CLIENT_TIMEOUT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the parent's name
        """Log nothing per request."""


def listen(
    registry: CollectorRegistry,
    address: str,
    port: int,
    pages: Mapping[str, Callable[[Query], Page]] | None = None,
) -> WSGIServer:
    """Return the bound server; call ``serve_forever``. Raises OSError."""
    kind = _Server6 if ":" in address else _Server
    return make_server(address, port, make_app(registry, pages), kind, _Handler)
