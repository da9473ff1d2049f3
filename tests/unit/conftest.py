"""What the unit tests share: captured replies, and AMI servers that behave and misbehave."""

# ruff: noqa: ARG001 - callbacks have fixed arguments, fixtures come as arguments
from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hypothesis import settings

from asterisk_exporter.ami.client import Reply, Target, outcome
from asterisk_exporter.ami.protocol import Splitter, parse_message

# HYPOTHESIS_PROFILE=nightly looks further
settings.register_profile("ci", max_examples=200, deadline=None)
settings.register_profile("nightly", max_examples=10_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

REPLIES = Path(__file__).parent / "replies"
EXPORTER = Path(__file__).parents[2] / "exporter"
SECRET = "s3cret-of-the-test"
BANNER = b"Asterisk Call Manager/11.0.0\r\n"


def captured(folder: str, action: str) -> bytes:
    """Return a captured reply, from `idle` where the folder has none of its own."""
    path = REPLIES / folder / f"{action}.txt"
    return (path if path.exists() else REPLIES / "idle" / f"{action}.txt").read_bytes()


def reply_of(folder: str, action: str) -> Reply:
    messages = [parse_message(block) for block in Splitter().feed(captured(folder, action))]
    if "EventList" in dict(messages[0].headers):
        assert messages[-1].get("EventList") == "Complete"
        messages.pop()
    return outcome(action, messages[0], messages[1:], "exporter")


class AnyReplies(dict):
    """Replies of one folder, loaded as they are asked for."""

    def __init__(self, folder: str, **changed: Reply) -> None:
        super().__init__(changed)
        self.folder = folder

    def __missing__(self, action: str) -> Reply:
        self[action] = reply_of(self.folder, action)
        return self[action]


@pytest.fixture
def replies():
    return AnyReplies


class AmiServer:
    """A TCP server on loopback; each connection is handed to `behaviour(connection, stop)`."""

    def __init__(self, behaviour, port: int = 0) -> None:
        self.stop = threading.Event()
        self.connections = []
        self.received = b""
        self._behaviour = behaviour
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(("127.0.0.1", port))
        self._listener.listen(50)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._behaviour(self, connection)
        hang_up(connection)

    def close(self) -> None:
        self.stop.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            hang_up(connection)


def hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def read_action(server: AmiServer, connection: socket.socket, rest: list) -> dict | None:
    """Return the headers of the next action, or None at the end. `rest` keeps what is left."""
    while b"\r\n\r\n" not in rest[0]:
        data = connection.recv(65536)
        if not data:
            return None
        server.received += data
        rest[0] += data
    block, _, rest[0] = rest[0].partition(b"\r\n\r\n")
    return dict(line.split(": ", 1) for line in block.decode().split("\r\n"))


def answer(action: dict, folder: str) -> bytes:
    name, action_id = action["Action"], action["ActionID"].encode()
    if name == "Login":
        ok = action["Secret"] == SECRET
        said = b"Success" if ok else b"Error"
        text = b"Authentication accepted" if ok else b"Authentication failed"
        return b"Response: %s\r\nActionID: %s\r\nMessage: %s\r\n\r\n" % (said, action_id, text)
    raw = captured(folder, name)
    return re.sub(rb"ActionID: \w+", b"ActionID: " + action_id, raw)


def good(folder: str = "busy", instead=None):
    """Behave like the Asterisk whose replies were captured.

    `instead(name, reply, connection)` may send a reply itself and return True.
    """

    def behaviour(server: AmiServer, connection: socket.socket) -> None:
        connection.sendall(BANNER)
        rest = [b""]
        while (action := read_action(server, connection, rest)) is not None:
            reply = answer(action, folder)
            if b"Authentication failed" in reply:
                time.sleep(1)  # as Asterisk does
                connection.sendall(reply)
                return
            if instead is None or not instead(action["Action"], reply, connection):
                connection.sendall(reply)

    return behaviour


def control(replies: dict):
    """Behave like an Asterisk to the login `control`: as captured, or by `replies` per action.

    A reply is bytes, or a list of what to send one after the other: bytes, (seconds to wait, name
    of a capture) or "close". A list of lists has one for each time that the action comes.
    """
    turns = {name: iter(how) for name, how in replies.items() if _turns(how)}

    def behaviour(server: AmiServer, connection: socket.socket) -> None:
        connection.sendall(BANNER)
        rest = [b""]
        while (action := read_action(server, connection, rest)) is not None:
            server.actions.append(action)
            name, action_id = action["Action"], action["ActionID"].encode()
            if name == "Login":
                how = [answer(action, "control")]
            elif name in turns:
                how = next(turns[name])
            else:
                how = replies.get(name) if name in replies else [(0.0, name)]
            for what in how if isinstance(how, list) else [how]:
                if what == "close":
                    return
                if isinstance(what, tuple):
                    time.sleep(what[0])
                    what = captured("control", what[1])  # noqa: PLW2901 - what it stands for
                connection.sendall(re.sub(rb"ActionID: [\w-]+", b"ActionID: " + action_id, what))

    return behaviour


def _turns(how) -> bool:
    return isinstance(how, list) and all(isinstance(one, list) for one in how)


def closes_before_banner(server, connection):
    """Asterisk above authlimit, or while it starts."""


def never_says_a_word(server, connection):
    server.stop.wait()


def banner_then_silence(server, connection):
    connection.sendall(BANNER)
    server.stop.wait()


def drips(server, connection):
    """Always in time for the next recv, never done."""
    for byte in BANNER * 3:
        connection.sendall(bytes([byte]))
        if server.stop.wait(0.1):
            return


def drips_replies(server, connection):
    def drip(name, reply, connection):
        if name == "Login":
            return False
        for _ in range(100):  # long enough to be too late, and the test ends all the same
            connection.sendall(b"x")
            if server.stop.wait(0.05):
                break
        return True

    good(instead=drip)(server, connection)


def wrong_password(server, connection):
    connection.sendall(BANNER)
    rest = [b""]
    action = read_action(server, connection, rest)
    time.sleep(0.5)  # Asterisk waits a second; our deadlines here are little more
    connection.sendall(
        b"Response: Error\r\nActionID: %s\r\nMessage: Authentication failed\r\n\r\n"
        % action["ActionID"].encode()
    )


def another_protocol(server, connection):
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    server.stop.wait()


def garbage_after_login(server, connection):
    def garbage(name, reply, connection):
        if name == "Login":
            return False
        connection.sendall(bytes(range(128, 256)) * (1 << 14))
        return True

    good(instead=garbage)(server, connection)


def _dies(where):
    def die(name, reply, connection):
        if name != where:
            return False
        connection.sendall(reply[: len(reply) // 2])
        connection.close()
        raise OSError

    return die


def dies_after_login(server, connection):
    good(instead=_dies("CoreSettings"))(server, connection)


def dies_in_status(server, connection):
    good(instead=_dies("CoreStatus"))(server, connection)


#: behaviour, the kind of error that it must be called
MISBEHAVIOURS = {
    "refused": (None, "refused"),
    "closes_before_banner": (closes_before_banner, "closed_before_banner"),
    "never_says_a_word": (never_says_a_word, "no_answer"),
    "banner_then_silence": (banner_then_silence, "no_answer"),
    # at 10 bytes/s the banner takes 3 s: a shorter deadline passes before it is complete
    "drips": (drips, "no_answer"),
    "drips_replies": (drips_replies, "no_answer"),
    "wrong_password": (wrong_password, "login_rejected"),
    "another_protocol": (another_protocol, "not_ami"),
    "garbage_after_login": (garbage_after_login, "malformed_reply"),
    "dies_after_login": (dies_after_login, "connection_lost"),
    "dies_in_status": (dies_in_status, "connection_lost"),
}


@pytest.fixture(params=MISBEHAVIOURS)
def misbehaviour(request):
    """(name, behaviour or None for a closed port, expected kind)."""
    return (request.param, *MISBEHAVIOURS[request.param])


@pytest.fixture
def ami_server():
    """Start servers: ami_server(behaviour, port=0). All end with the test."""
    servers = []

    def start(behaviour, port: int = 0) -> AmiServer:
        servers.append(AmiServer(behaviour, port))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def control_asterisk(ami_server):
    """Start an Asterisk for the login `control`: see `control`. It knows what it was asked."""

    def start(**replies) -> AmiServer:
        server = ami_server(control(replies))
        server.actions = []
        server.all = lambda name: [one for one in server.actions if one["Action"] == name]
        server.sent = lambda name: server.all(name)[-1]
        return server

    return start


@pytest.fixture
def behave():
    return good


@pytest.fixture
def free_port():
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


@pytest.fixture
def target_of():
    def make(port: int, **changed) -> Target:
        return Target(
            **{
                "host": "127.0.0.1",
                "port": port,
                "username": "exporter",
                "secret": SECRET,
                **changed,
            }
        )

    return make


@pytest.fixture
def config_file(tmp_path):
    """Write a configuration with its secret: config_file(ami_port, more_yaml)."""

    def write(ami_port: int, more: str = "", secret: str = SECRET) -> Path:
        (tmp_path / "ami-secret").write_text(secret + "\n")
        path = tmp_path / "exporter.yml"
        path.write_text(f"timezone: UTC\nami: {{port: {ami_port}}}\n{more}")
        return path

    return write


@pytest.fixture
def environment():
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ASTERISK_EXPORTER")}
    clean.pop("CREDENTIALS_DIRECTORY", None)
    return {**clean, "PYTHONPATH": str(EXPORTER)}


@pytest.fixture
def command(environment):
    """Run asterisk-exporter as a program of its own: command(*arguments)."""

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "asterisk_exporter", *map(str, arguments)],
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    return run


class Served:
    """A running `asterisk-exporter serve`."""

    def __init__(self, process: subprocess.Popen, port: int) -> None:
        self.process = process
        self.url = f"http://127.0.0.1:{port}"
        self.log = ""

    def get(self, path: str = "/metrics") -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return response.read().decode()

    def listens(self) -> bool:
        try:
            return bool(self.get("/-/healthy"))
        except (urllib.error.URLError, ConnectionError):
            return False

    def value(self, sample: str) -> float | None:
        found = re.search(rf"^{re.escape(sample)} (\S+)$", self.get(), re.MULTILINE)
        return float(found[1]) if found else None

    def wait_for(self, sample: str, value: float, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while (last := self.value(sample)) != value:
            assert time.monotonic() < end, f"{sample} is {last}, not {value}, after {seconds} s"
            time.sleep(0.1)

    def end(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.log += self.process.communicate(timeout=30)[1]
        return self.process.returncode


@pytest.fixture
def serve(environment, free_port):
    """Start `asterisk-exporter serve`: serve(config_path, *options)."""
    running = []

    def start(path: Path, *options: str) -> Served:
        port = free_port()
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "asterisk_exporter", "serve"),
                *("--config", str(path), "--port", str(port), *options),
            ],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        served = Served(process, port)
        running.append(served)
        end = time.monotonic() + 30
        while not served.listens():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < end, "serve does not listen"
            time.sleep(0.05)
        return served

    yield start
    for served in running:
        served.end(signal.SIGKILL)
