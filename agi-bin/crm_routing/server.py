"""The FastAGI server: a thread a call, kept connections to the CRM, one breaker for all calls."""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import threading
import time

from crm_routing.agi import AGIError, Lines, SafeAgi
from crm_routing.breaker import Breaker
from crm_routing.crm import CrmError
from crm_routing.route import Router, handle
from crm_routing.settings import Settings, SettingsError
from crm_routing.turns import Turns

#: Calls at once. More are turned away, and go on without the CRM.
MOST_CALLS = 500
#: Asterisk is on this host: what it says comes at once.
PEER_SECONDS = 5
POLL_SECONDS = 0.5
END_SECONDS = 3.0


def say(level: int, text: str) -> None:
    """Log a line, the way systemd takes its level."""
    sys.stderr.write(f"<{level}>{text}\n")
    sys.stderr.flush()


def notify(state: str) -> None:
    """Tell systemd; see sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.connect("\0" + path[1:] if path.startswith("@") else path)
            sock.send(state.encode())


class Server:
    """Accepts calls until ``stop`` is set."""

    def __init__(self, settings: Settings, address: str, port: int) -> None:
        breaker = Breaker(settings.failures, settings.retry_seconds)
        self._turns = Turns()
        self.router = Router(settings, breaker, say, self._turns.wait)
        self.stop = threading.Event()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.socket(family)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((address, port))
        self._listener.listen(128)
        self._listener.settimeout(POLL_SECONDS)
        self._calls = threading.BoundedSemaphore(MOST_CALLS)
        self.port: int = self._listener.getsockname()[1]

    def run(self) -> None:
        """Serve. A watchdog of systemd's hears from this loop."""
        threading.Thread(target=self._tries, name="tries", daemon=True).start()
        said = 0.0
        while not self.stop.is_set():
            if time.monotonic() - said >= POLL_SECONDS:
                said = time.monotonic()
                notify("WATCHDOG=1")
            try:
                connection, _ = self._listener.accept()
            except socket.timeout:
                continue
            except OSError as error:
                say(3, f"cannot accept: {error}")
                self.stop.wait(0.1)
                continue
            if not self._calls.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()
        self._listener.close()
        end = time.monotonic() + END_SECONDS
        for _ in range(MOST_CALLS):  # all of them are free once no call is left
            if not self._calls.acquire(timeout=max(0.0, end - time.monotonic())):
                break

    def _serve(self, connection: socket.socket) -> None:
        def read(most: int) -> bytes:
            try:
                data: bytes = self._turns.wait(connection.recv, most)
            except BlockingIOError:
                raise socket.timeout(f"it said nothing for {PEER_SECONDS} s") from None
            return data

        try:
            with self._turns, connection:
                # the kernel's: for one of its own, Python asks poll() before each recv() and send()
                timeval = struct.pack("ll", PEER_SECONDS, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                agi = SafeAgi(Lines(read), connection.sendall)
                # agi://ADDRESS/route/NUMBER or agi://ADDRESS/route/NUMBER/anonymous
                _, number, who, *_ = (agi.env.get("agi_network_script", "") + "//").split("/")
                handle(agi, self.router, say, number, who)
        except AGIError as error:
            say(6, f"ended: {error}")
        finally:
            self._calls.release()

    def _tries(self) -> None:
        while not self.stop.wait(POLL_SECONDS):
            if self.router.breaker.due():
                with self._turns:
                    self.router.try_again()


def serve(settings: Settings, address: str, port: int) -> int:
    """Serve until SIGTERM or SIGINT. Returns 0. Raises SettingsError where it cannot begin."""
    try:
        server = Server(settings, address, port)
    except (CrmError, OSError) as error:
        raise SettingsError(f"cannot serve {address}:{port}: {error}") from None
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: server.stop.set())
    say(6, f"FastAGI on {address}:{server.port}, CRM at {settings.url}")
    notify("READY=1")
    server.run()
    return 0
