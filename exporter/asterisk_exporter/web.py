"""The HTTP side: ``/metrics``, ``/-/healthy`` and a landing page."""

from __future__ import annotations

import socket
import socketserver
from collections.abc import Iterable
from typing import Any, Callable
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import make_wsgi_app

from asterisk_exporter import __version__

#: A client that sends nothing for so long is closed.
CLIENT_TIMEOUT_SECONDS = 10
_LANDING = f"""<!DOCTYPE html>
<html lang="en"><head><title>Asterisk exporter</title></head>
<body><h1>Asterisk exporter {__version__}</h1>
<ul><li><a href="/metrics">Metrics</a></li><li><a href="/-/healthy">Health</a></li></ul>
</body></html>
""".encode()

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def make_app(registry: CollectorRegistry) -> WsgiApp:
    """Return the WSGI application."""
    metrics: WsgiApp = make_wsgi_app(registry)
    pages = {
        "/": ("text/html; charset=utf-8", _LANDING),
        "/-/healthy": ("text/plain; charset=utf-8", b"OK\n"),
    }

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path, method = environ.get("PATH_INFO", ""), environ.get("REQUEST_METHOD", "GET")
        text = ("Content-Type", "text/plain; charset=utf-8")
        if path not in pages and path != "/metrics":
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
            content_type, page = pages[path]
            start_response("200 OK", [("Content-Type", content_type)])
            body = [page]
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


def listen(registry: CollectorRegistry, address: str, port: int) -> WSGIServer:
    """Return the bound server; call ``serve_forever``. Raises OSError."""
    kind = _Server6 if ":" in address else _Server
    return make_server(address, port, make_app(registry), kind, _Handler)
