"""The notifier against a CRM that behaves and misbehaves; its journal is a real one."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import logging
import os
import random
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone
from email.utils import formatdate
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from asterisk_exporter import config
from asterisk_exporter.cli import main
from asterisk_exporter.journal.store import FILE_NAME, Change, JournalStore
from asterisk_exporter.missed import MissedCall
from asterisk_exporter.notifier import event, webhook
from asterisk_exporter.notifier.delivery import (
    REFUSED_TRIES,
    Notifier,
    Place,
    Writer,
    wait_seconds,
)
from asterisk_exporter.notifier.metrics import NotifierCollector
from asterisk_exporter.notifier.state import FILE_NAME as STATE
from asterisk_exporter.notifier.state import State, StateError, StateFile
from asterisk_exporter.notifier.webhook import (
    LONGEST_ANSWER,
    Answer,
    Url,
    Webhook,
    WebhookError,
    retry_after,
)

ROOT = Path(__file__).parents[2]
SECRET = "sixteen-letters-or-more"
MISSED = "INSERT INTO missed VALUES (NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
#: In the future: no first start is after these calls.
AT = datetime(2099, 1, 2, 10, tzinfo=timezone.utc).timestamp()
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK"


class Crm:
    """A server that answers each request with what ``behave`` says, and keeps the requests.

    ``behave(request number)`` returns the bytes to answer, or a function of the connection.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.behave = lambda _number: OK
        self.bodies: list[bytes] = []
        self.heads: list[str] = []
        self.connections = 0
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http{'s' if self._context else ''}://127.0.0.1:{self.port}/missed?token=t0ken"

    @property
    def calls(self) -> list[str]:
        return [json.loads(body)["linkedid"] for body in self.bodies]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            file = connection.makefile("rb")
            while line := file.readline():
                head = line.decode()
                while (line := file.readline()) not in {b"\r\n", b""}:
                    head += line.decode()
                length = int(re.search(r"Content-Length: (\d+)", head)[1])
                self.heads.append(head)
                self.bodies.append(file.read(length))
                answer = self.behave(len(self.bodies) - 1)
                if callable(answer):
                    answer(connection)
                    return
                connection.sendall(answer)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            # wakes the thread that accepts
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def crm():
    made = Crm()
    yield made
    made.close()


class Pbx:
    """A journal and a notifier's state."""

    def __init__(self, folder: Path) -> None:
        self.journal, self.state = folder / "journal", folder / "notifier"
        self.store = JournalStore(self.journal)
        self.made = 0

    def miss(self, count: int = 1, **given) -> None:
        """Decide calls that are missed; their linkedids are their numbers."""
        for _ in range(count):
            change = Change("test", None)
            row = {
                "linkedid": str(self.made),
                "at": AT + self.made,
                "ended": AT + self.made + 30,
                "caller": "+493012345678",
                "number": "012345678",
                "dialled": "+4930901820",
                "destination": "support",
                "reason": "abandoned",
                "wait": 30,
                **given,
            }
            change.run(MISSED, [tuple(row.values())])
            self.store.apply(change)
            self.made += 1

    def forget(self) -> None:
        change = Change("test", None)
        change.run("DELETE FROM missed WHERE at < ?", [(AT + 10**6,)])
        self.store.apply(change)

    def notifier(self, url: str, timeout: float = 2, **given) -> Notifier:
        file = StateFile(self.state)
        file.lock()
        file.unlock()
        writer = Writer("pbx1", SECRET, **given)
        place = Place(self.journal, timezone.utc)
        return Notifier(place, file, writer, Webhook(Url.parse(url), timeout), lambda: 0.0)

    def started(self, url: str, **given) -> Notifier:
        """Return a notifier that has begun, before any call."""
        made = self.notifier(url, **given)
        assert made.deliver(threading.Event()) is None
        return made

    @property
    def kept(self) -> State:
        return StateFile(self.state).load()


@pytest.fixture
def pbx(tmp_path):
    made = Pbx(tmp_path)
    yield made
    made.store.close()


def deliver(notifier: Notifier) -> float | None:
    return notifier.deliver(threading.Event())


# What is sent


def verified(secret: str, header: str, body: bytes) -> bool:
    found = re.fullmatch(r"t=(\d+),v1=([0-9a-f]{64})", header)
    digest = hmac.new(secret.encode(), f"{found[1]}.".encode() + body, hashlib.sha256).hexdigest()
    return abs(time.time() - int(found[1])) < 60 and hmac.compare_digest(digest, found[2])


def test_a_call_as_the_crm_gets_it(pbx, crm):
    notifier = pbx.started(crm.url)
    pbx.miss(wait=None)
    assert deliver(notifier) is None
    (body,), (head,) = crm.bodies, crm.heads
    document = json.loads(body)
    assert document == {
        "event": "missed_call",
        "version": 1,
        "id": event.event_id("missed_call", "pbx1", "0"),
        "system_name": "pbx1",
        "linkedid": "0",
        "caller": "+493012345678",
        "at": "2099-01-02T10:00:00+00:00",
        "dialled": "+4930901820",
        "destination": "support",
        "reason": "abandoned",
        "wait_seconds": None,
    }
    assert head.startswith("POST /missed?token=t0ken HTTP/1.1\r\n")
    headers = dict(line.split(": ", 1) for line in head.splitlines()[1:])
    assert headers["Host"] == f"127.0.0.1:{crm.port}"
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Asterisk-Delivery"] == document["id"]
    assert verified(SECRET, headers["X-Asterisk-Signature"], body)
    assert not verified("another secret", headers["X-Asterisk-Signature"], body)
    assert not verified(SECRET, headers["X-Asterisk-Signature"], body + b" ")


def test_a_withheld_number_is_said_to_be(pbx, crm):
    notifier = pbx.started(crm.url, show_last_digits=3)
    pbx.miss(caller="anonymous", number=None)
    deliver(notifier)
    assert json.loads(crm.bodies[0])["caller"] == "withheld"


@pytest.mark.parametrize(
    ("caller", "shown", "masked"),
    [
        ("+493012345678", None, "+493012345678"),
        ("+493012345678", 4, "+********5678"),
        ("+493012345678", 0, "+************"),
        ("(030) 123-45", 2, "(***) ***-45"),
        ("john.doe7", 4, "****.***7"),
        ("112", 4, "112"),
        ("withheld", 0, "withheld"),
        ("", 4, ""),
    ],
)
def test_masking(caller, shown, masked):
    assert event.masked(caller, shown) == masked


@given(st.text(), st.integers(0, 15))
def test_a_masked_number_shows_no_more_than_it_may(caller, shown):
    masked = event.masked(f"x{caller}", shown)
    assert len(masked) == len(caller) + 1
    left = [c for c in masked if c.isalnum()]
    digits = [c for c in caller if c.isdigit()]
    assert left == digits[max(0, len(digits) - shown) :]


@given(st.text(), st.text())
def test_any_caller_makes_a_body_in_ascii_that_stays_the_same(caller, destination):
    at = datetime(2026, 1, 2, tzinfo=timezone.utc)
    call = MissedCall("1", caller, None, at, "", destination, "full", 0, None, None)
    body = event.body(event.event(call, "pbx1", None))
    assert body == event.body(event.event(call, "pbx1", None))
    assert body.isascii()
    assert b"\n" not in body
    assert json.loads(body)["destination"] == destination


def test_the_page_for_crms_verifies_what_is_sent():
    """The code that docs/missed-call-webhook.md tells people to copy."""
    page = (ROOT / "docs/missed-call-webhook.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict = {}
    exec(code, names)
    body = event.body({"caller": "Jörg"})
    now = int(time.time())
    header = event.signature(SECRET, body, now)
    assert names["genuine"](SECRET, header, body)
    assert not names["genuine"](SECRET, header, body + b" ")
    assert not names["genuine"]("other", header, body)
    assert not names["genuine"](SECRET, event.signature(SECRET, body, now - 301), body)
    assert not names["genuine"](SECRET, event.signature(SECRET, body, now + 301), body)
    for bad in ("", "t=,v1=", "t=1", "v1=00", header.replace("t=", "t=x"), "t=\u0661,v1=00"):
        assert not names["genuine"](SECRET, bad, body)
    example = re.search(r"```json\n(.*?)```", page, re.DOTALL)[1]
    shown = event.event(event.test_call(datetime.now(timezone.utc)), "pbx1", None)
    assert list(json.loads(example)) == list(shown)


# At least once, in order


def test_history_before_the_first_start_is_not_sent(pbx, crm):
    pbx.miss(ended=time.time() - 1)
    notifier = pbx.started(crm.url)
    pbx.miss(ended=time.time() - 3600)  # an hour old, read by a backfill just now
    pbx.miss()
    deliver(notifier)
    assert crm.calls == ["2"]


def test_one_connection_for_all_that_is_pending(pbx, crm):
    notifier = pbx.started(crm.url)
    pbx.miss(250)
    assert deliver(notifier) is None
    assert crm.calls == [str(n) for n in range(250)]
    assert crm.connections == 1
    assert pbx.kept.sent == 250
    pbx.miss()
    deliver(notifier)
    assert crm.connections == 2


def test_in_the_order_of_their_decision(pbx, crm):
    notifier = pbx.started(crm.url)
    pbx.miss(linkedid="z", at=AT + 900)
    pbx.miss(linkedid="a", at=AT)
    pbx.miss(linkedid="m", at=AT + 500)
    deliver(notifier)
    assert crm.calls == ["z", "a", "m"]


def test_a_crm_that_is_down_gets_every_call_afterwards(pbx, crm):
    crm.behave = lambda n: b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n" if n < 20 else OK
    notifier = pbx.started(crm.url)
    waits = []
    for _ in range(20):
        pbx.miss()
        waits.append(deliver(notifier))
    assert crm.calls == ["0"] * 20
    assert waits == [min(300, 2**n) for n in range(20)]
    assert pbx.kept.failures == 20
    # and then without a pause
    assert deliver(notifier) is None
    assert crm.calls[20:] == [str(n) for n in range(20)]
    assert (pbx.kept.sent, pbx.kept.failures) == (20, 20)
    crm.behave = lambda _: b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n"
    pbx.miss()
    assert deliver(notifier) == 1


def test_where_it_was_survives_a_restart(pbx, crm):
    notifier = pbx.started(crm.url)
    pbx.miss(3)
    crm.behave = lambda n: OK if n < 2 else b"HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n"
    assert deliver(notifier) == 1
    crm.behave = lambda _: OK
    assert deliver(pbx.notifier(crm.url)) is None
    assert crm.calls == ["0", "1", "2", "2"]


def test_ids_go_on_after_all_calls_are_forgotten(pbx, crm):
    notifier = pbx.started(crm.url)
    pbx.miss(3)
    deliver(notifier)
    pbx.forget()
    deliver(notifier)
    pbx.miss(2)
    deliver(notifier)
    assert crm.calls == ["0", "1", "2", "3", "4"]


def test_a_journal_that_was_begun_anew_does_not_stall_it(pbx, crm, caplog):
    notifier = pbx.started(crm.url)
    pbx.miss(5)
    deliver(notifier)
    pbx.store.close()
    for file in pbx.journal.glob(f"{FILE_NAME}*"):
        file.unlink()
    pbx.store = JournalStore(pbx.journal)
    pbx.miss(7)
    deliver(notifier)
    assert crm.calls == [str(n) for n in range(12)]
    assert "another one" in caplog.text


def test_an_older_copy_of_the_journal_does_not_stall_it(pbx, crm):
    notifier = pbx.started(crm.url)
    pbx.miss(2)
    deliver(notifier)
    pbx.store.close()
    copy = (pbx.journal / FILE_NAME).read_bytes()
    pbx.store = JournalStore(pbx.journal)
    pbx.miss(3)
    deliver(notifier)
    pbx.store.close()
    (pbx.journal / FILE_NAME).write_bytes(copy)
    pbx.store = JournalStore(pbx.journal)
    deliver(notifier)
    pbx.miss(linkedid="after")
    deliver(notifier)
    assert crm.calls == ["0", "1", "2", "3", "4", "after"]


def test_a_full_disk_after_an_answer_repeats_no_call(pbx, crm, monkeypatch):
    notifier = pbx.started(crm.url)
    pbx.miss(2)
    save = StateFile.save

    def full(*_):
        raise StateError("cannot write: No space left on device")

    monkeypatch.setattr(StateFile, "save", full)
    assert deliver(notifier) == 1
    assert deliver(notifier) == 2
    assert crm.calls == ["0"]
    monkeypatch.setattr(StateFile, "save", save)
    assert deliver(notifier) is None
    assert crm.calls == ["0", "1"]


def test_without_a_journal_it_waits(pbx, crm, caplog):
    caplog.set_level(logging.INFO)
    notifier = pbx.notifier(crm.url)
    hidden = pbx.journal.rename(pbx.journal.with_name("hidden"))
    assert deliver(notifier) == 1
    assert deliver(notifier) == 2
    assert caplog.text.count("cannot read") == 1
    # its own disk is not spared by a long wait
    assert [deliver(notifier) for _ in range(8)][2:] == [10.0] * 6
    hidden.rename(pbx.journal)
    pbx.miss()
    assert deliver(notifier) is None
    assert crm.calls == ["0"]
    assert "works again" in caplog.text
    assert pbx.kept.failures == 0


# A CRM that misbehaves


def empty(connection):
    connection.close()


def reset(connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def hang(_connection):
    time.sleep(5)


def drip_head(connection):
    for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Slow: " + b"x" * 100:
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def endless_head(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for n in range(10**6):
        connection.sendall(b"X-%d: x\r\n" % n)


def continues(connection):
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


def answers(status: str, *headers: str, text: str = "") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(text.encode())}"]
    return "\r\n".join([*lines, "", text]).encode()


FAILURES = {
    "closes at once": (empty, "closed"),
    "resets": (reset, "reset by peer"),
    "hangs": (hang, "did not answer within 1.0 s"),
    "drips bytes": (drip_head, "did not answer within 1.0 s"),
    "never ends its headers": (endless_head, "got more than 100 headers"),
    "is no web server": (b"SSH-2.0-OpenSSH_9.2\r\n", "did not answer in HTTP"),
    "500": (answers("500 Oops", text="<b>no\x1b[2J\nway</b>"), "answered 500 Oops: <b>no?[2J way"),
    "301": (
        answers("301 Moved", "Location: https://other.example/?token=secret"),
        "answered 301 Moved to https://other.example/.",
    ),
    "401": (answers("401 Unauthorized"), "answered 401 Unauthorized."),
    "404": (answers("404 Not Found"), "answered 404 Not Found."),
    "410": (answers("410 Gone"), "answered 410 Gone."),
    "429": (answers("429 Slow"), "answered 429 Slow."),
    "says nothing but to go on": (continues, "did not answer within 1.0 s"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_call_that_was_not_taken_is_kept(pbx, crm, caplog, name):
    behaviour, said = FAILURES[name]
    notifier = pbx.started(crm.url, timeout=1.0)
    pbx.miss()
    crm.behave = lambda _: behaviour
    began = time.monotonic()
    for n in range(10):
        assert deliver(notifier) == 2 ** min(n, 8) if n < 8 else 300
        if n == 1:
            assert time.monotonic() - began < 2 + 3
            break
    assert len(crm.bodies) == 2
    assert len(caplog.messages) == 1  # not at every try
    assert said in caplog.text
    assert "t0ken" not in caplog.text
    assert "secret" not in caplog.text
    assert (pbx.kept.sent, pbx.kept.failures, pbx.kept.cursor) == (0, 2, 0)
    crm.behave = lambda _: OK
    assert deliver(notifier) is None
    assert pbx.kept.sent == 1


def closes_mid_answer(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")


def drips_body(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    with contextlib.suppress(OSError):
        for _ in range(1000):
            connection.sendall(b"x")
            time.sleep(0.05)


def huge(connection):
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999\r\n\r\n")
    with contextlib.suppress(OSError):
        for _ in range(10_000):
            connection.sendall(b"x" * LONGEST_ANSWER)


TAKEN = {
    "closes in its answer's middle": closes_mid_answer,
    "drips its answer": drips_body,
    "answers without end": huge,
    "nothing to say": b"HTTP/1.1 204 No Content\r\n\r\n",
    "accepted": answers("202 Accepted"),
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nOK\r\n0\r\n\r\n",
    "bad chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n",
    "closes": answers("200 OK", "Connection: close"),
    "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\n",
}


@pytest.mark.parametrize("name", TAKEN)
def test_the_status_says_that_a_call_was_taken(pbx, crm, name):
    behaviour = TAKEN[name]
    if name == "HTTP/1.0":
        answer = behaviour

        def behaviour(connection):
            connection.sendall(answer)

    notifier = pbx.started(crm.url, timeout=1.0)
    pbx.miss(2)
    crm.behave = lambda _: behaviour
    began = time.monotonic()
    assert deliver(notifier) is None
    assert time.monotonic() - began < 2 + 3
    assert crm.calls == ["0", "1"]
    assert pbx.kept.sent == 2


@pytest.mark.parametrize("name", ["nothing to say", "accepted", "chunks"])
def test_a_whole_answer_keeps_the_connection(pbx, crm, name):
    notifier = pbx.started(crm.url)
    pbx.miss(5)
    crm.behave = lambda _: TAKEN[name]
    assert deliver(notifier) is None
    assert crm.connections == 1


def test_a_call_that_is_refused_is_left_out_in_the_end(pbx, crm, caplog):
    crm.behave = lambda n: (
        answers("422 No", text="no such customer") if b'"0"' in crm.bodies[n] else OK
    )
    notifier = pbx.started(crm.url)
    pbx.miss(3)
    waits = [deliver(notifier) for _ in range(REFUSED_TRIES)]
    assert waits == [*(2**n for n in range(REFUSED_TRIES - 1)), None]
    assert sum(waits[:-1]) == 127  # the two minutes of the documentation
    assert crm.calls == ["0"] * REFUSED_TRIES + ["1", "2"]
    assert "the call 0 is left out: 422 No: no such customer" in caplog.text
    assert (pbx.kept.sent, pbx.kept.refused, pbx.kept.failures) == (2, 1, REFUSED_TRIES)


def test_an_outage_before_does_not_prolong_the_refusals(pbx, crm):
    crm.behave = lambda n: answers("500 No") if n < 10 else answers("400 No")
    notifier = pbx.started(crm.url)
    pbx.miss()
    waits = [deliver(notifier) for _ in range(10 + REFUSED_TRIES)]
    assert waits[10:] == [*(2**n for n in range(REFUSED_TRIES - 1)), None]


def test_other_failures_do_not_count_as_refusals(pbx, crm):
    crm.behave = lambda n: answers("500 No") if n % 3 else answers("400 No")
    notifier = pbx.started(crm.url)
    pbx.miss()
    assert None not in [deliver(notifier) for _ in range(5 * REFUSED_TRIES)]


def test_a_crm_that_is_not_there(pbx, crm, caplog):
    notifier = pbx.started(crm.url)
    crm.close()
    pbx.miss()
    assert deliver(notifier) == 1
    assert "no connection to http://127.0.0.1" in caplog.text
    assert "refused" in caplog.text


def test_a_name_that_is_not_there(pbx, crm, caplog, monkeypatch):
    def nowhere(*_args, **_named):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    notifier = pbx.started(crm.url)
    notifier._webhook.url = Url.parse("https://crm.invalid/missed")
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    pbx.miss()
    assert deliver(notifier) == 1
    assert "the name crm.invalid cannot be resolved" in caplog.text


def test_an_address_that_does_not_answer_leaves_time_for_the_next(crm, monkeypatch):
    real = socket.getaddrinfo

    def two(host, port, **named):
        (good,) = real(host, port, **named)
        # SYNs to a full backlog are dropped
        return [(*good[:4], full.getsockname()), good]

    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", two)
        webhook = Webhook(Url.parse(crm.url), 1)
        assert webhook.post(b"{}", {}).taken
        webhook.close()


# TLS


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    for name, names in (("right", "IP:127.0.0.1"), ("wrong", "DNS:crm.example.com")):
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *("-subj", "/CN=crm", "-addext", f"subjectAltName={names}"),
                *("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"),
            ],
            check=True,
            capture_output=True,
        )
    return folder


@pytest.mark.parametrize(
    ("served", "trusted", "said"),
    [
        ("right", "right", None),
        ("wrong", "wrong", "IP address mismatch"),
        ("right", None, "self.signed certificate"),
        (None, "right", "no TLS with"),
    ],
)
def test_the_certificate_is_checked(certificates, served, trusted, said):
    context = None
    if served:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates / f"{served}.pem", certificates / f"{served}.key")
    crm = Crm(context)
    if not served:
        crm._serve = lambda connection: connection.sendall(b"plain text\n")
    url = Url.parse(f"https://127.0.0.1:{crm.port}/missed")
    webhook = Webhook(url, 2, str(certificates / f"{trusted}.pem") if trusted else None)
    if said is None:
        assert webhook.post(b"{}", {}).taken
        assert webhook.post(b"{}", {}).taken
        assert crm.connections == 1
    else:
        with pytest.raises(WebhookError, match=said) as raised:
            webhook.post(b"{}", {})
        assert raised.value.kind == "tls"
        assert crm.bodies == []
    webhook.close()
    crm.close()


def test_a_handshake_that_hangs(crm):
    crm._serve = hang
    webhook = Webhook(Url.parse(f"https://127.0.0.1:{crm.port}/"), 0.3)
    began = time.monotonic()
    with pytest.raises(WebhookError, match=r"did not answer within 0\.3 s"):
        webhook.post(b"{}", {})
    assert time.monotonic() - began < 4


# Pure parts


@given(st.integers(1, 10**6), st.none() | st.floats(0, 10**9), st.floats(0, 1))
def test_waits_grow_and_have_bounds(tries, asked, jitter):
    wait = wait_seconds(tries, asked, jitter)
    assert 0.75 <= wait <= (300 if asked is None else 900)
    assert wait <= wait_seconds(tries + 1, asked, jitter)
    if asked is not None:
        assert wait >= min(asked, 900)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("120", 120),
        ("0", 0),
        ("-5", 0),
        ("soon", None),
        ("9" * 400, None),
        ("9" * 5000, None),
        (formatdate(1_000_090, usegmt=True), 90),
        (formatdate(999_000, usegmt=True), 0),
        ("Thu, 99 Foo 2026 00:00:00 GMT", None),
        ("Tue, 24 Nov", None),
    ],
)
def test_retry_after(value, seconds):
    assert retry_after(value, 1_000_000) == seconds


def test_a_date_on_which_python_3_9_stumbles(monkeypatch):
    def stumble(_value):
        raise IndexError("string index out of range")

    monkeypatch.setattr(webhook, "parsedate_to_datetime", stumble)
    assert retry_after("Tue, 24 Nov", 0) is None


def test_the_crm_is_left_alone_for_as_long_as_it_asks(pbx, crm):
    crm.behave = lambda n: answers("503 Busy", f"Retry-After: {[120, 10**6, 0][n]}")
    notifier = pbx.started(crm.url)
    pbx.miss()
    assert [deliver(notifier) for _ in range(3)] == [120, 900, 4]


@pytest.mark.parametrize(
    ("text", "shown", "target"),
    [
        ("https://crm.example.com", "https://crm.example.com/", "/"),
        ("https://crm.example.com:8443/a?b=c", "https://crm.example.com:8443/a", "/a?b=c"),
        ("https://[2001:db8::1]/a", "https://[2001:db8::1]/a", "/a"),
        ("http://127.0.0.1:8000/a", "http://127.0.0.1:8000/a", "/a"),
        ("http://[::1]/a", "http://[::1]/a", "/a"),
        ("http://localhost/a", "http://localhost/a", "/a"),
        (f"https://{'a' * 63}.de./", f"https://{'a' * 63}.de./", "/"),
    ],
)
def test_urls(text, shown, target):
    url = Url.parse(text)
    assert str(url) == shown
    assert url.target == target


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a URL"),
        ("https://crm.example.com/a b", "without spaces"),
        ("https://crm.example.com/\r\nX: y", "without spaces"),
        ("https://crm.exämple.com/", "ASCII"),
        ("crm.example.com/missed", "expected https://"),
        ("ftp://crm.example.com/", "expected https://"),
        ("https:///missed", "and a host"),
        ("https://user:pass@crm.example.com/", "no user or password"),
        ("https://crm.example.com/#a", "no #"),
        ("http://crm.example.com/", "in the clear"),
        ("http://192.0.2.1/", "in the clear"),
        ("http://127.0.0.1.example.com/", "in the clear"),
        ("https://crm.example.com:99999/", "ort"),
        ("https://crm.example.com:x/", "ort"),
        ("https://[2001:db8::1/", "IPv6"),
        ("https://crm..example.com/", "between the dots"),
        ("https://.example.com/", "between the dots"),
        ("https://crm.example.com../", "between the dots"),
        (f"https://{'a' * 64}.example.com/", "1 to 63"),
    ],
)
def test_urls_that_are_refused(text, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        Url.parse(text)
    text = text.replace("\r\n", "\\r\\n")
    with pytest.raises(config.ConfigError, match=r"notifier\.url") as raised:
        config.parse(f'cdr: {{source: csv}}\nnotifier: {{url: "{text}"}}\n', tmp_path / "a.yml")
    assert "user:pass" not in str(raised.value)


def test_a_password_with_a_slash_is_not_shown(tmp_path):
    text = "notifier: {url: 'https://user:pa/ss@crm.example.com/'}"
    with pytest.raises(config.ConfigError, match=r"notifier\.url") as raised:
        config.parse(f"cdr: {{source: csv}}\n{text}\n", tmp_path / "a.yml")
    assert "ss@" not in str(raised.value)
    assert "pa/" not in str(raised.value)
    assert "https://\u2026@crm.example.com/" in str(raised.value)


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{}", "notifier.url"),
        ("{url: 'https://crm.example.com/', show_last_digits: -1}", "show_last_digits"),
        ("{url: 'https://crm.example.com/', timeout_seconds: 0}", "timeout_seconds"),
        ("{url: 'https://crm.example.com/', secret: x}", "secret_file"),
    ],
)
def test_a_section_that_makes_no_sense(tmp_path, section, said):
    with pytest.raises(config.ConfigError, match=said):
        config.parse(f"cdr: {{source: csv}}\nnotifier: {section}\n", tmp_path / "a.yml")


def test_without_call_records_there_is_nothing_to_notify_of(tmp_path):
    with pytest.raises(config.ConfigError, match="cdr: None: expected where the call records"):
        config.parse("notifier: {url: 'https://crm.example.com/'}\n", tmp_path / "a.yml")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "nonsense", '{"since": "x"}', '{"since": 1, "journal": 5}']
)
def test_a_damaged_state_is_not_taken_for_none(tmp_path, content):
    (tmp_path / STATE).write_text(content)
    with pytest.raises(StateError, match=r"is damaged .*Move it away"):
        StateFile(tmp_path).load()


def test_one_notifier_a_directory(tmp_path):
    first, second = StateFile(tmp_path), StateFile(tmp_path)
    first.lock()
    with pytest.raises(StateError, match="in use by another notifier"):
        second.lock()
    first.unlock()
    second.lock()
    second.save(State(since=1.0))
    assert {p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == {0o600}
    second.unlock()


def test_a_state_directory_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="cannot use the state directory"):
        StateFile(tmp_path / "file" / "state").lock()


# Metrics


def samples(collector) -> dict[str, float]:
    collector.refresh()
    return {s.name: s.value for family in collector.collect() for s in family.samples}


def test_metrics(pbx, crm, caplog):
    collector = NotifierCollector(pbx.journal, pbx.state)
    nothing = {
        "asterisk_notifier_pending_calls": 0,
        "asterisk_notifier_sent_total": 0,
        "asterisk_notifier_failures_total": 0,
        "asterisk_notifier_refused_total": 0,
    }
    assert samples(collector) == nothing
    pbx.miss(2)
    # a notifier that never ran is noticed
    waiting = {
        "asterisk_notifier_pending_calls": 2,
        "asterisk_notifier_oldest_pending_timestamp_seconds": AT + 30,
    }
    assert samples(collector) == {**nothing, **waiting}
    crm.behave = lambda n: answers("500 No") if n == 0 else OK
    notifier = pbx.notifier(crm.url)
    deliver(notifier)
    failed = {"asterisk_notifier_failures_total": 1}
    assert samples(collector) == {**nothing, **waiting, **failed}
    deliver(notifier)
    assert samples(collector) == {**nothing, **failed, "asterisk_notifier_sent_total": 2}
    assert not caplog.records or "state" not in caplog.text
    assert {f.name for f in collector.describe()} == {f.name for f in collector.collect()}


def test_counters_do_not_jump_from_zero(pbx, crm):
    """Zeros before the first look and of a damaged file would be resets and increases."""
    pbx.started(crm.url)
    collector = NotifierCollector(pbx.journal, pbx.state)
    assert not any(family.samples for family in collector.collect())
    assert "asterisk_notifier_sent_total" in samples(collector)
    (pbx.state / STATE).write_text("nonsense")
    assert not [name for name in samples(collector) if name.endswith("_total")]


def test_metrics_of_what_cannot_be_read(pbx, crm, caplog):
    collector = NotifierCollector(pbx.journal, pbx.state)
    pbx.started(crm.url)
    pbx.miss()
    (pbx.state / STATE).write_text("nonsense")
    for _ in range(2):
        assert samples(collector)["asterisk_notifier_pending_calls"] == 1
    assert caplog.text.count("is damaged") == 1
    pbx.journal.rename(pbx.journal.with_name("hidden"))
    assert "asterisk_notifier_pending_calls" not in samples(collector)


# The command


@pytest.fixture
def configured(tmp_path, pbx, crm, monkeypatch):
    for name in (config.PATH_VARIABLE, "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "exporter.yml"
    (tmp_path / "notifier-secret").write_text(f"{SECRET}\n")
    path.write_text(
        f"system_name: pbx1\ntimezone: UTC\nstate_directory: {pbx.journal}\ncdr: {{}}\n"
        f"notifier: {{url: '{crm.url}', state_directory: {pbx.state}, show_last_digits: 4,"
        " timeout_seconds: 1}\n"
    )
    return path


def run(path, *options):
    return CliRunner().invoke(main, ["notify", "--config", str(path), *options])


def test_dry_run_prints_and_changes_nothing(configured, pbx, crm):
    result = run(configured, "--dry-run")
    assert (result.exit_code, result.output) == (0, "")
    assert not pbx.state.exists()
    pbx.started(crm.url)
    pbx.miss(2)
    result = run(configured, "--dry-run")
    assert result.exit_code == 0
    lines = [json.loads(line) for line in result.output.splitlines()]
    assert [line["linkedid"] for line in lines] == ["0", "1"]
    assert lines[0]["caller"] == "+********5678"
    assert crm.bodies == []
    assert pbx.kept.cursor == 0


def test_once(configured, pbx, crm):
    assert run(configured, "--once").exit_code == 0
    pbx.miss(3)
    crm.behave = lambda n: OK if n == 0 else answers("500 No")
    assert run(configured, "--once").exit_code == 2
    crm.behave = lambda _: OK
    assert run(configured, "--once").exit_code == 0
    assert crm.calls == ["0", "1", "1", "2"]


def test_a_test_event(configured, pbx, crm):
    crm.behave = lambda n: answers("200 OK", text="thanks\x1b") if n == 0 else answers("403 No")
    result = run(configured, "--test")
    assert result.exit_code == 0
    assert result.output == f"http://127.0.0.1:{crm.port}/missed answered 200 OK: thanks?\n"
    document = json.loads(crm.bodies[0])
    assert (document["event"], document["caller"]) == ("test", "+*******0123")
    header = re.search(r"X-Asterisk-Signature: (.*)\r\n", crm.heads[0])[1]
    assert verified(SECRET, header, crm.bodies[0])
    result = run(configured, "--test")
    assert result.exit_code == 2
    assert "answered 403 No" in result.output
    assert not pbx.state.exists()


def test_a_second_notifier_is_refused(configured, pbx):
    file = StateFile(pbx.state)
    file.lock()
    for options in ([], ["--once"]):
        result = run(configured, *options)
        assert result.exit_code == 2
        assert "in use by another notifier" in result.output
    file.unlock()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("cdr: {}\nsystem_name: a\n", "expected the section notifier"),
        (
            "cdr: {}\nsystem_name: a\nnotifier: {url: 'https://a/', secret_file: none}\n",
            "secret of notifier.secret_file",
        ),
        (
            "cdr: {}\nsystem_name: a\nnotifier: {url: 'https://a/', ca_file: /nowhere.pem}\n",
            "cannot use /nowhere.pem",
        ),
    ],
)
def test_what_it_cannot_start_with(configured, content, said):
    configured.write_text(content)
    result = run(configured, "--test")
    assert result.exit_code == 2
    assert said in result.output


def test_options_that_exclude_each_other(configured):
    assert "expected one of" in run(configured, "--once", "--test").output


def start(path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "exporter")}
    return subprocess.Popen(
        [sys.executable, "-m", "asterisk_exporter", "notify", "--config", str(path)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(what, seconds=20):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told_also_while_the_crm_hangs(configured, pbx, crm, number):
    run(configured, "--once")
    process = start(configured)
    pbx.miss()
    wait_for(lambda: crm.bodies)
    wait_for(lambda: pbx.kept.sent == 1)
    crm.behave = lambda _: hang
    pbx.miss()
    wait_for(lambda: len(crm.bodies) > 1)
    began = time.monotonic()
    process.send_signal(number)
    _, log = process.communicate(timeout=10)
    assert process.returncode == 0
    assert time.monotonic() - began < 4
    assert f"posts missed calls to http://127.0.0.1:{crm.port}/missed\n" in log
    assert "ending" in log
    assert SECRET not in log


def test_killed_at_any_moment_every_call_arrives_in_order(configured, pbx, crm):
    """kill -9 between a request, its answer and the cursor: repeats, but neither gaps nor swaps."""
    run(configured, "--once")
    rng = random.Random(4)
    crm.behave = lambda _: time.sleep(rng.uniform(0, 0.02)) or OK
    kills = 0
    while kills < 10:
        process = start(configured)
        before = len(crm.bodies)
        pbx.miss(rng.randint(5, 30))
        wait_for(lambda seen=before: len(crm.bodies) > seen)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.communicate()
        kills += 1
    assert run(configured, "--once").exit_code == 0
    first = list(dict.fromkeys(crm.calls))
    assert first == [str(n) for n in range(pbx.made)]
    # at most the call under way is repeated at each kill
    assert len(crm.calls) - len(first) <= kills
    assert {p.name for p in pbx.state.iterdir()} == {"lock", "state.json"}


def test_an_answer_in_one_line():
    assert str(Answer(200)) == "200"
    assert str(Answer(503, "Down", "later", "/x")) == "503 Down to /x: later"
