"""The peer of call_routing: a FastAGI server as most people write it, with requests.

naive_fastagi.py PORT URL TOKEN
"""

from __future__ import annotations

import socketserver
import sys
import urllib.parse

import requests

URL, TOKEN = sys.argv[2], sys.argv[3]


class Handler(socketserver.StreamRequestHandler):
    """One call."""

    def handle(self) -> None:
        """Ask the CRM who calls and where the call goes, and set three variables."""
        env = {}
        while line := self.rfile.readline().decode().strip():
            key, _, value = line.partition(":")
            env[key.strip()] = value.strip()
        caller = urllib.parse.quote(env["agi_callerid"])
        headers = {"Authorization": f"Token {TOKEN}"}
        number = urllib.parse.quote(env["agi_network_script"].partition("/")[2])
        route = requests.get(f"{URL}/route/{caller}/{number}", headers=headers, timeout=2).json()
        contact = requests.get(f"{URL}/lookup/{caller}", headers=headers, timeout=2).json()
        self.set_variable("ROUTE_TARGET", route["target"])
        self.set_variable("CRM_CONTACT", contact["id"])
        self.set_variable("ROUTE_RESULT", "routed")

    def set_variable(self, name: str, value: str) -> None:
        """Set a variable of the call."""
        self.wfile.write(f'SET VARIABLE {name} "{value}"\n'.encode())
        self.rfile.readline()


class Server(socketserver.ThreadingTCPServer):
    """A thread a call."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128


Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
