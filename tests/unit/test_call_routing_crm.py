"""agi-bin against CRMs that behave and misbehave, as FastAGI server and as script."""

import json
import os
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import hostile_crm
import pytest
from crm_server import CrmServer, Directory

from crm_routing import crm, server
from crm_routing.agi import Lines, SafeAgi
from crm_routing.breaker import Breaker
from crm_routing.crm import Client, CrmError, CrmTimeoutError
from crm_routing.route import Router, handle
from crm_routing.settings import Settings, SettingsError

SCRIPT = Path(__file__).parents[2] / "agi-bin" / "crm_route.py"
TARGETS = {"101": "extension:101", "queue:vip": "queue:vip"}
DEADLINE = 1.0


@pytest.fixture
def write(tmp_path):
    def write(url, token=hostile_crm.TOKEN, **more):
        (tmp_path / "crm-token").write_text(token + "\n")
        path = tmp_path / "settings.json"
        settings = {
            "url": url,
            "ca_file": None,
            "lookup": False,
            "deadline_seconds": DEADLINE,
            "cache_seconds": 0,
            "failures": 3,
            "retry_seconds": 1,
            "state_file": str(tmp_path / "state"),
            "targets": TARGETS,
            **more,
        }
        path.write_text(json.dumps(settings))
        return path

    return write


@pytest.fixture(scope="module")
def hostile():
    listener = hostile_crm.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    listener.close()


@pytest.fixture
def good():
    """A reference CRM; its connections are counted."""
    directory = Directory(
        {
            "contacts": {"+491": {"name": "Ann\n<x>", "id": 7, "language": "de", "vip": True}},
            "routes": {
                "+491": {"target": "queue:vip", "priority": 5},
                "2": {"target": "101", "language": "fr"},
            },
        }
    )
    made = CrmServer(("127.0.0.1", 0), hostile_crm.TOKEN, directory)
    made.connections = 0
    get = made.get_request

    def count():
        made.connections += 1
        return get()

    made.get_request = count
    threading.Thread(target=made.serve_forever, daemon=True).start()
    made.url = f"http://127.0.0.1:{made.server_address[1]}/api"
    yield made
    made.shutdown()
    made.server_close()


def router_of(path, said, breaker=None):
    return Router(
        Settings(str(path)), breaker or Breaker(3, 1.0), lambda _, text: said.append(text)
    )


def call(router, said, caller="+491", number="+493055505"):
    """Route one call; return the variables that it got."""
    env = f"agi_uniqueid: 1.2\nagi_callerid: {caller}\n\n".encode()
    answers = [env + b"200 result=1\n" * 10]
    sent = []
    agi = SafeAgi(Lines(lambda _: answers.pop() if answers else b""), sent.append)
    handle(agi, router, lambda _, text: said.append(text), number, "")
    lines = [line.decode().rstrip() for line in sent]
    assert all(line.startswith("SET VARIABLE ") for line in lines)
    return dict(line[14:-1].split('" "') for line in lines)


@pytest.mark.parametrize("name", hostile_crm.BEHAVIOURS)
def test_whatever_the_crm_does_the_call_goes_on(name, hostile, write):
    said = []
    router = router_of(write(f"{hostile}/{name}"), said)
    began = time.monotonic()
    variables = call(router, said)
    assert time.monotonic() - began < DEADLINE + 2
    expected = hostile_crm.BEHAVIOURS[name][1]
    # what never ends is one or the other: too much, or too late
    allowed = {expected, "timeout"} if name.startswith("endless") else {expected}
    assert variables["ROUTE_RESULT"] in allowed
    assert variables.get("ROUTE_TARGET") == ("queue:vip" if expected == "routed" else None)
    assert f": {variables['ROUTE_RESULT']}: " in said[-1]
    assert hostile_crm.TOKEN not in "".join(said)
    assert all(text.isprintable() for text in said)


def test_a_token_that_is_said_back_is_not_logged_in_part_either(good, write):
    said = []
    good.directory._routes["+491"] = {"target": "x" * 60 + hostile_crm.TOKEN}
    assert call(router_of(write(good.url), said), said)["ROUTE_RESULT"] == "invalid"
    assert hostile_crm.TOKEN[:8] not in "".join(said)


def test_a_crm_that_refuses_the_connection(free_port, write):
    said = []
    variables = call(router_of(write(f"http://127.0.0.1:{free_port()}"), said), said)
    assert variables == {"ROUTE_RESULT": "error"}
    assert "refused" in said[-1]


def test_a_name_server_that_does_not_answer(write, monkeypatch):
    said = []
    ask = socket.getaddrinfo

    def hangs(*arguments):
        if arguments[-1] == socket.AI_NUMERICHOST:
            return ask(*arguments)
        time.sleep(5)
        return []

    monkeypatch.setattr(crm.socket, "getaddrinfo", hangs)
    began = time.monotonic()
    variables = call(router_of(write("http://crm.invalid"), said), said)
    assert variables == {"ROUTE_RESULT": "timeout"}
    assert time.monotonic() - began < DEADLINE + 2


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", folder / "key", "-out", folder / "cert", "-days", "2"),
            *("-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return str(folder / "cert"), str(folder / "key")


@pytest.mark.parametrize(
    ("name", "trusted", "expected"),
    [("good", True, "routed"), ("good", False, "error"), ("drips", True, "timeout")],
)
def test_tls_is_checked_and_keeps_the_deadline(name, trusted, expected, certificate, write):
    said = []
    listener = hostile_crm.start(0, certificate)
    url = f"https://127.0.0.1:{listener.getsockname()[1]}/{name}"
    path = write(url, ca_file=certificate[0] if trusted else None)
    began = time.monotonic()
    assert call(router_of(path, said), said)["ROUTE_RESULT"] == expected
    assert time.monotonic() - began < DEADLINE + 2
    listener.close()


def test_a_tls_handshake_that_hangs(write):
    said = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        path = write(f"https://127.0.0.1:{silent.getsockname()[1]}")
        assert call(router_of(path, said), said)["ROUTE_RESULT"] == "timeout"


# --- the reference server


def test_a_known_caller(good, write):
    said = []
    variables = call(router_of(write(good.url, lookup=True), said), said)
    assert variables == {
        "ROUTE_TARGET": "queue:vip",
        "__CRM_CONTACT": "7",
        "CRM_CONTACT_VIP": "1",
        "CALLERID(name)": "Ann x",
        "CHANNEL(language)": "de",
        "QUEUE_PRIO": "5",
        "ROUTE_RESULT": "routed",
    }


def test_the_routes_language_goes_before_the_contacts(good, write):
    said = []
    good.directory._contacts["2"] = {"language": "de"}
    router = router_of(write(good.url, lookup=True), said)
    assert call(router, said, caller="2")["CHANNEL(language)"] == "fr"


@pytest.mark.parametrize("caller", ["anonymous", "", "1/../../admin", "+49 1; DROP", "x" * 2000])
def test_a_caller_without_a_number_is_not_looked_up(caller, good, write):
    asked = []
    good.directory.contact = asked.append
    good.directory.route = lambda *numbers: asked.append(numbers)
    said = []
    router = router_of(write(good.url, lookup=True), said)
    assert call(router, said, caller=caller) == {"ROUTE_RESULT": "no_route"}
    assert asked == [("anonymous", "+493055505")]


def test_a_lookup_that_fails_leaves_the_route(good, write):
    good.directory._contacts["+491"] = {"name": 5}
    said = []
    variables = call(router_of(write(good.url, lookup=True), said), said)
    assert variables["ROUTE_TARGET"] == "queue:vip"
    assert "lookup: name is 5" in said[0]


def test_a_wrong_token_is_an_error_and_not_logged(good, write):
    said = []
    path = write(good.url, token="another-token-0123456789")
    assert call(router_of(path, said), said) == {"ROUTE_RESULT": "error"}
    assert "refuses the token (401)" in said[-1]
    assert "another-token" not in "".join(said)


def test_one_connection_serves_many_calls_and_survives_the_crms_restart(good, write):
    said = []
    router = router_of(write(good.url, lookup=True), said)
    for _ in range(5):
        assert call(router, said)["ROUTE_RESULT"] == "routed"
    assert good.connections == 1
    [kept] = router._client._kept
    kept._sock.shutdown(socket.SHUT_RDWR)  # as when the other side closes an idle connection
    assert call(router, said)["ROUTE_RESULT"] == "routed"
    assert good.connections == 2


def test_the_cache_asks_once(good, write):
    said = []
    router = router_of(write(good.url, cache_seconds=60), said)
    asked = []
    good.directory.route = lambda *numbers: asked.append(numbers)
    for caller in ("1", "1", "2"):
        call(router, said, caller=caller)
    assert len(asked) == 2


def test_a_dead_crm_soon_costs_a_caller_nothing_and_one_that_is_back_is_noticed(hostile, write):
    said = []
    breaker = Breaker(3, 0.0)
    path = write(f"{hostile}/hangs")
    router = router_of(path, said, breaker)
    for _ in range(3):
        assert call(router, said)["ROUTE_RESULT"] == "timeout"
    began = time.monotonic()
    assert call(router, said)["ROUTE_RESULT"] == "error"
    assert time.monotonic() - began < DEADLINE
    assert sum("no longer wait" in text for text in said) == 1
    router._client = Client(f"{hostile}/good", hostile_crm.TOKEN)
    router.try_again()
    assert "answers again" in said[-1]
    assert call(router, said)["ROUTE_RESULT"] == "routed"


def test_an_invalid_reply_does_not_open_the_breaker(hostile, write):
    said = []
    router = router_of(write(f"{hostile}/html"), said)
    for _ in range(5):
        assert call(router, said)["ROUTE_RESULT"] == "invalid"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n101\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"1;x=y\r\n1\r\n2\r\n01\r\n0\r\nA: b\r\n\r\n",
        b"HTTP/1.0 200 OK\r\n\r\n101",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n101",
        b"HTTP/1.1 200\r\nContent-Length:3\r\n\r\n101",
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_http_in_its_forms(answer, step):
    assert _get(answer, step) == b"101"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n1011",
        b"HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\n101",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\n101\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\n101",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n101\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n101xx0\r\n\r\n",
        b"HTTP/2 200\r\n\r\n101",
        b"ICY 200 OK\r\n\r\n101",
    ],
)
def test_http_that_is_none(answer):
    with pytest.raises(CrmError) as caught:
        _get(answer, 1000)
    assert not isinstance(caught.value, CrmTimeoutError)


def _get(answer, step):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                for i in range(0, len(answer), step):
                    connection.sendall(answer[i : i + step])

        threading.Thread(target=serve, daemon=True).start()
        client = Client(f"http://127.0.0.1:{listener.getsockname()[1]}/x", "token-0123456789")
        return client.get("/y", time.monotonic() + 2)


@pytest.mark.parametrize("url", ["", "ftp://x", "http://", "http://a b/", "http://x/\r\nA: b"])
def test_an_address_that_is_none(url):
    with pytest.raises(CrmError, match="is no address"):
        Client(url, "token")


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "\x1b"])
def test_a_token_that_is_none_is_refused_and_not_shown(token, write):
    with pytest.raises(SettingsError) as caught:
        Settings(str(write("http://127.0.0.1", token=token)))
    assert not token or token not in str(caught.value)


# --- the server and the script


@pytest.fixture
def fastagi(write, capfd):
    running = []

    def start(url, **more):
        made = server.Server(Settings(str(write(url, **more))), "127.0.0.1", 0)
        thread = threading.Thread(target=made.run, daemon=True)
        thread.start()
        running.append((made, thread))
        return made

    yield start
    for made, thread in running:
        made.stop.set()
        thread.join(5)
        assert not thread.is_alive()
    capfd.readouterr()


SCRIPT_LINE = "agi_network_script: route/123\n"


def asterisk(port, caller="+491", answer=b"200 result=1\n"):
    """Be Asterisk for one call; return the lines that the server sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(f"{SCRIPT_LINE}agi_callerid: {caller}\n\n".encode())
        lines, stream = [], connection.makefile("rb")
        while line := stream.readline():
            lines.append(line.decode().strip())
            connection.sendall(answer)
        return lines


def test_the_server_answers_many_at_once(good, fastagi):
    made = fastagi(good.url, deadline_seconds=10)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(asterisk(made.port))) for _ in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 30
    assert {lines[-1] for lines in found} == {'SET VARIABLE "ROUTE_RESULT" "routed"'}


@pytest.fixture
def never_answers(monkeypatch):
    """A CRM that waits at each of the places where a client can wait for it."""
    listeners = []

    def start(where):
        silent = socket.create_server(("127.0.0.1", 0), backlog=0)
        listeners.append(silent)
        port = silent.getsockname()[1]
        if where == "connection":
            # of a listener whose queue is full, the kernel answers nobody
            listeners.extend(socket.socket() for _ in range(4))
            for filling in listeners[1:]:
                filling.setblocking(False)
                filling.connect_ex(("127.0.0.1", port))
        elif where == "name":
            monkeypatch.setattr(crm, "_resolve", lambda _, deadline: waits(deadline))
            return "http://crm.invalid"
        return f"{'https' if where == 'handshake' else 'http'}://127.0.0.1:{port}"

    def waits(deadline):
        time.sleep(max(0.0, deadline - time.monotonic()))
        raise socket.timeout("name server")

    yield start
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("where", ["name", "connection", "handshake", "answer"])
def test_calls_that_wait_for_the_crm_wait_at_once(where, never_answers, fastagi):
    made = fastagi(never_answers(where), failures=100)
    found = []
    threads = [threading.Thread(target=lambda: found.append(asterisk(made.port))) for _ in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert time.monotonic() - began < 3 * DEADLINE
    assert found == [['SET VARIABLE "ROUTE_RESULT" "timeout"']] * 4


def test_nobody_waits_for_a_call_of_which_asterisk_says_nothing(good, fastagi, monkeypatch, capfd):
    monkeypatch.setattr(server, "PEER_SECONDS", 3)
    made = fastagi(good.url)
    with socket.create_connection(("127.0.0.1", made.port), timeout=10) as mute:
        assert asterisk(made.port)[-1] == 'SET VARIABLE "ROUTE_RESULT" "routed"'
        ended, _, _ = select.select([mute], [], [], 0)
        assert not ended  # it was still waited for, and stood in nobody's way
        assert mute.recv(1) == b""
    # The connection is closed before its end is told.
    said, end = "", time.monotonic() + 5
    while "said nothing for 3 s" not in said and time.monotonic() < end:
        time.sleep(0.01)
        said += capfd.readouterr().err
    assert "said nothing for 3 s" in said


@pytest.mark.parametrize("answer", [b"HANGUP\n", b"520-x\n", b"", b"\xff\n"])
def test_a_call_that_ends_badly_ends_alone(answer, good, fastagi):
    made = fastagi(good.url)
    with socket.create_connection(("127.0.0.1", made.port)) as connection:
        connection.sendall(f"{SCRIPT_LINE}agi_callerid: 1\n\n".encode() + answer)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(5)
        while connection.recv(1000):
            pass
    assert asterisk(made.port)[-1] == 'SET VARIABLE "ROUTE_RESULT" "routed"'


def test_the_server_tries_a_dead_crm_again_by_itself(good, free_port, fastagi):
    made = fastagi(f"http://127.0.0.1:{free_port()}", retry_seconds=0.2)
    for _ in range(3):
        assert asterisk(made.port)[-1] == 'SET VARIABLE "ROUTE_RESULT" "error"'
    assert made.router.breaker.is_open
    made.router._client = Client(good.url, hostile_crm.TOKEN, wait=made._turns.wait)
    end = time.monotonic() + 5
    while made.router.breaker.is_open:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_more_calls_than_it_serves_are_turned_away(good, monkeypatch, fastagi):
    monkeypatch.setattr(server, "MOST_CALLS", 1)
    made = fastagi(good.url)
    with socket.create_connection(("127.0.0.1", made.port), timeout=5) as first:
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", made.port), timeout=5) as second:
            assert second.recv(1) == b""
        first.shutdown(socket.SHUT_WR)
        assert first.recv(1) == b""


@pytest.fixture
def script(tmp_path):
    """Run a copy of the script as the role installs it: isolated, its libraries beside it."""
    home = tmp_path / "home"
    shutil.copytree(SCRIPT.parent, home)
    import asterisk  # noqa: PLC0415
    import six  # noqa: PLC0415

    (home / "lib").mkdir(exist_ok=True)
    (home / "lib" / "asterisk").symlink_to(Path(asterisk.__path__[0]))
    (home / "lib" / "six.py").symlink_to(six.__file__)

    def run(path, data=b"", *options):
        options = options or ("+49305",)
        return subprocess.run(
            [sys.executable, "-IS", home / "crm_route.py", *options],
            env={**os.environ, "CALL_ROUTING_SETTINGS": str(path)},
            input=data,
            capture_output=True,
            timeout=20,
            check=False,
        )

    return run


CALL = b"agi_callerid: +491\n\n" + b"200 result=1\n" * 9


def test_the_script_routes_a_call(good, write, script):
    done = script(write(good.url, lookup=True), CALL)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[0] == 'SET VARIABLE "ROUTE_TARGET" "queue:vip"'
    assert lines[-1] == 'SET VARIABLE "ROUTE_RESULT" "routed"'


@pytest.mark.parametrize("name", ["drips", "huge", "two-destinations"])
def test_the_script_and_a_crm_that_misbehaves(name, hostile, write, script):
    done = script(write(f"{hostile}/{name}"), CALL)
    expected = hostile_crm.BEHAVIOURS[name][1]
    assert done.stdout.decode().splitlines() == [f'SET VARIABLE "ROUTE_RESULT" "{expected}"']


def test_the_script_without_settings_says_nothing_to_asterisk(tmp_path, script):
    done = script(tmp_path / "none.json", CALL)
    assert (done.returncode, done.stdout) == (1, b"")


def test_calls_of_the_script_share_a_breaker_and_leave_the_next_try_behind(
    hostile, write, script, tmp_path
):
    path = write(f"{hostile}/closes", retry_seconds=1, failures=2)
    for _ in range(2):
        script(path, CALL)
    state = tmp_path / "state"
    assert state.stat().st_mode & 0o777 == 0o600
    assert float(state.read_text().split()[1]) > time.time() - 10
    write(f"{hostile}/good", failures=2, retry_seconds=1)
    time.sleep(1.1)
    # this call is told at once that nobody is asked, and what it leaves behind asks
    done = script(path, CALL)
    assert done.stdout.decode().splitlines() == ['SET VARIABLE "ROUTE_RESULT" "error"']
    end = time.monotonic() + 5
    while state.read_text().split()[0] != "0":
        assert time.monotonic() < end
        time.sleep(0.05)
    done = script(path, CALL)
    assert done.stdout.decode().splitlines()[-1] == 'SET VARIABLE "ROUTE_RESULT" "routed"'


def test_ask_shows_what_the_crm_says(good, write, script):
    done = script(write(good.url, lookup=True), b"", "--ask", "+49 1", "123")
    found = json.loads(done.stdout)
    assert (found["result"], found["target"], found["contact"]["id"]) == (
        "routed",
        "queue:vip",
        "7",
    )
    assert hostile_crm.TOKEN not in done.stdout.decode()
