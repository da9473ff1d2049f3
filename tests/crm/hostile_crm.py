#!/usr/bin/env python3
"""A CRM that behaves in every wrong way, one for each name in BEHAVIOURS.

hostile_crm.py PORT [CERTIFICATE KEY]: the name is the first part of the path, as in
http://127.0.0.1:PORT/drips/route/1/2. For "each" the last two digits of the path are its place in
BEHAVIOURS, so that calls at the same time may each meet another.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from typing import Callable

#: What must not be in any log.
TOKEN = "t0ken-of-the-tests-0123456789"


def _reply(body: bytes | str | dict, status: str = "200 OK", more: str = "") -> bytes:
    if isinstance(body, dict):
        body = json.dumps(body)
    data = body.encode() if isinstance(body, str) else body
    return (
        f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n{more}Connection: close\r\n\r\n"
    ).encode() + data


def _says(*reply: object, **more: object) -> Callable[[socket.socket], None]:
    data = _reply(*reply, **more)  # type: ignore[arg-type]
    return lambda connection: connection.sendall(data)


def _hangs(_: socket.socket) -> None:
    time.sleep(30)


def _drips(connection: socket.socket) -> None:
    for byte in _reply({"target": "queue:vip"}):
        connection.sendall(bytes([byte]))
        time.sleep(1)


def _drips_body(connection: socket.socket) -> None:
    head, _, body = _reply({"target": "queue:vip"}).partition(b"\r\n\r\n")
    connection.sendall(head + b"\r\n\r\n")
    for byte in body:
        connection.sendall(bytes([byte]))
        time.sleep(1)


def _endless_headers(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(10_000_000):
        connection.sendall(b"X-%d: y\r\n" % number)


def _endless_chunks(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(10_000_000):
        connection.sendall(b"400\r\n" + b"x" * 1024 + b"\r\n")


def _cut_short(connection: socket.socket) -> None:
    connection.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{"target": "queue:vip"')


#: name -> (what it does, the ROUTE_RESULT that must come of it)
BEHAVIOURS: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "good": (_says({"target": "queue:vip", "priority": 5, "language": "de"}), "routed"),
    "text": (_says("queue:vip\n"), "routed"),
    "none": (_says("", "204 No Content"), "no_route"),
    "unknown-caller": (_says("no such caller", "404 Not Found"), "no_route"),
    "hangs": (_hangs, "timeout"),
    "drips": (_drips, "timeout"),
    "drips-body": (_drips_body, "timeout"),
    "closes": (lambda _: None, "error"),
    "garbage": (lambda connection: connection.sendall(bytes(range(128, 256)) * 50), "error"),
    "endless-headers": (_endless_headers, "error"),
    "endless-chunks": (_endless_chunks, "error"),
    "cut-short": (_cut_short, "error"),
    "redirect": (
        _says("", "301 Moved Permanently", "Location: http://127.0.0.1/elsewhere\r\n"),
        "error",
    ),
    "broken": (_says("<html><h1>Server Error</h1></html>", "500 Internal Server Error"), "error"),
    "refuses-token": (_says({"detail": "Invalid token."}, "401 Unauthorized"), "error"),
    "huge": (_says(b'{"target": "' + b"x" * 10_000_000 + b'"}'), "error"),
    "html": (_says("<!DOCTYPE html><html>queue:vip</html>"), "invalid"),
    "empty": (_says(""), "invalid"),
    "array": (_says('["queue:vip"]'), "invalid"),
    "number": (_says({"target": 101}), "invalid"),
    "list": (_says({"target": ["101", "102"]}), "invalid"),
    "object": (_says({"target": {"queue": "vip"}}), "invalid"),
    "other-key": (_says({"Target": "queue:vip"}), "invalid"),
    "priority": (_says({"target": "queue:vip", "priority": "9"}), "invalid"),
    "language": (_says({"target": "queue:vip", "language": "../../tmp/x"}), "invalid"),
    "deep": (_says('{"target":' + "[" * 30_000), "invalid"),
    "not-utf-8": (_says(b"\xff\xfe\x00queue:vip"), "invalid"),
    "two-destinations": (_says({"target": "101&PJSIP/provider/900123456"}), "invalid"),
    "outbound": (_says({"target": "0900123456"}), "invalid"),
    "local": (_says({"target": "Local/101@internal"}), "invalid"),
    "path": (_says({"target": "../../etc/passwd"}), "invalid"),
    "variable": (_says({"target": "${SHELL(id)}"}), "invalid"),
    "lines": (_says({"target": "101\nEXEC System id\n"}), "invalid"),
    "unknown-extension": (_says({"target": "999"}), "invalid"),
    "unknown-queue": (_says("queue:nowhere"), "invalid"),
    "says-token-back": (_says({"target": f"{TOKEN}"}), "invalid"),
}


def named(path: str) -> str:
    """Return the name of what to do about a request."""
    first = path.split("/")[1]
    return list(BEHAVIOURS)[int(path[-2:])] if first == "each" else first


def asked(path: str) -> None:
    """Hear of the path of a request. (As a program: it is printed.)"""


def _serve(connection: socket.socket, context: ssl.SSLContext | None) -> None:
    with suppress(OSError), connection:
        if context is not None:
            connection = context.wrap_socket(connection, server_side=True)
        data = b""
        while b"\r\n\r\n" not in data:
            some = connection.recv(65536)
            if not some:
                return
            data += some
        path = data.split(b" ")[1].decode()
        asked(path)
        BEHAVIOURS[named(path)][0](connection)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(5)
        while connection.recv(65536):
            pass


def start(port: int = 0, certificate: tuple[str, str] | None = None) -> socket.socket:
    """Serve in threads; return the listener, whose closing ends it."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
    listener = socket.create_server(("127.0.0.1", port))

    def accept() -> None:
        with suppress(OSError):
            while True:
                arguments = (listener.accept()[0], context)
                threading.Thread(target=_serve, args=arguments, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return listener


if __name__ == "__main__":
    asked = partial(print, flush=True)  # type: ignore[assignment]
    start(int(sys.argv[1]), tuple(sys.argv[2:4]) or None)  # type: ignore[arg-type]
    threading.Event().wait()
