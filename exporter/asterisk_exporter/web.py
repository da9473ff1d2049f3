"""The HTTP side: ``/metrics``, ``/-/healthy`` and the pages."""

from __future__ import annotations

import logging
import socket
import socketserver
import sys
import threading
import time
import urllib.parse
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Callable
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import make_wsgi_app

from asterisk_exporter.web_config import WebSettings, WsgiApp, guarded

#: A client that sends nothing for so long is closed.
CLIENT_TIMEOUT_SECONDS = 10
#: One who sends and takes little by little is closed after so long.
CONNECTION_SECONDS = 30
#: At the same time; more are closed at once.
MAX_CONNECTIONS = 32
#: By name, what the address asks for behind the question mark.
Query = Mapping[str, list[str]]

log = logging.getLogger(__name__)


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
    """A thread a connection, of which there are few, and none for ever."""

    daemon_threads = True
    request_queue_size = 64
    #: None: plain HTTP.
    web: WebSettings | None = None

    def __init__(self, *given: Any) -> None:
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: dict[socket.socket, float] = {}
        super().__init__(*given)

    def server_bind(self) -> None:
        """Bind without HTTPServer's look-up of our own name, which may wait for DNS."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, or close it."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # the system has no thread left
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer; the handshake of TLS is part of it, so that it holds up nobody else."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Answer over TLS where it is wanted, and in time."""
        context = None if self.web is None else self.web.current().tls
        if context is not None:
            request.settimeout(CLIENT_TIMEOUT_SECONDS)
            request = context.wrap_socket(request, server_side=True)
        self._open[request] = time.monotonic() + CONNECTION_SECONDS
        try:
            super().finish_request(request, client_address)
        finally:
            del self._open[request]
            if context is not None:
                request.close()

    def service_actions(self) -> None:
        """Cut off whose time is over; the thread then ends by itself."""
        now = time.monotonic()
        for connection, ends_at in list(self._open.items()):
            if now > ends_at:
                with suppress(OSError):
                    # not SSLSocket's own, after which its thread would go on in plain text
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """Log what went wrong; a client that leaves or speaks no TLS is nothing of ours."""
        error = sys.exc_info()[1]
        level = logging.DEBUG if isinstance(error, OSError) else logging.ERROR
        log.log(level, "%s: %s", client_address[0], error, exc_info=level == logging.ERROR)


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
    web: WebSettings | None = None,
) -> WSGIServer:
    """Return the bound server; call ``serve_forever``. Raises OSError.

    ``web`` None: plain HTTP, open to all.
    """
    kind = _Server6 if ":" in address else _Server
    app = make_app(registry, pages)
    server = make_server(address, port, app if web is None else guarded(app, web), kind, _Handler)
    server.web = web
    return server
