# ruff: noqa: ARG001 - callbacks have fixed arguments, fixtures come as arguments
from __future__ import annotations

import socket
import ssl
import subprocess
import time

import pytest

from asterisk_exporter.ami import client as client_module
from asterisk_exporter.ami.client import (
    ALLOWED_ACTIONS,
    AmiClient,
    Deadline,
    TlsSettings,
    outcome,
)
from asterisk_exporter.ami.errors import (
    ActionFailedError,
    AmiError,
    ConnectionFailedError,
    ConnectionLostError,
    LoginRejectedError,
    NoAnswerError,
    NotAmiError,
    PermissionDeniedError,
    TlsError,
    UnknownActionError,
    UnreachableError,
    UnsafeActionError,
)
from asterisk_exporter.ami.protocol import parse_message

from .conftest import SECRET, reply_of

ALL = ("CoreStatus", "QueueStatus", "CoreShowChannels", "ConfbridgeListRooms")


@pytest.fixture
def connect(ami_server, target_of):
    clients = []

    def make(behaviour, seconds=2.0, **changed):
        server = ami_server(behaviour)
        clients.append(AmiClient.connect(target_of(server.port, **changed), Deadline(seconds)))
        clients[-1].server = server
        return clients[-1]

    yield make
    for one in clients:
        one.close()


def test_a_batch_is_answered_in_order(connect, behave):
    client = connect(behave("busy"))
    assert client.ami_version == "11.0.0"
    replies = client.request(ALL, Deadline(2))
    assert [reply.action for reply in replies] == list(ALL)
    assert [len(reply.items) for reply in replies] == [0, 15, 15, 1]
    assert [reply.error for reply in replies] == [None] * 4
    assert replies[0].message().get("CoreProcessedCalls") == "9"
    assert all(0 < reply.seconds < 2 for reply in replies)
    assert client.usable


def test_replies_are_the_captured_ones(connect, behave):
    [reply] = connect(behave("busy")).request(["QueueStatus"], Deadline(2))
    expected = reply_of("busy", "QueueStatus").items

    def without_id(items):
        return [[h for h in item.headers if h[0] != "ActionID"] for item in items]

    assert without_id(reply.items) == without_id(expected)


def test_the_whole_batch_is_sent_before_the_first_answer(connect, behave):
    def wait_for_all(name, reply, connection):
        if name == "CoreStatus":
            time.sleep(0.2)
            seen.append(client.server.received.count(b"Action: "))
        return False

    seen = []
    client = connect(behave("busy", instead=wait_for_all))
    client.request(ALL, Deadline(2))
    assert seen == [1 + len(ALL)]
    sent = client.server.received
    assert b"Events: off" in sent
    ids = [line for line in sent.split(b"\r\n") if line.startswith(b"ActionID")]
    assert len(set(ids)) == 1 + len(ALL)


def test_answers_match_by_action_id_in_any_order(connect, behave):
    kept = []

    def swap(name, reply, connection):
        if name == "Login":
            return False
        kept.append(reply)
        if len(kept) == 2:
            connection.sendall(kept[1] + kept[0])
        return True

    status, queues = connect(behave("busy", instead=swap)).request(
        ["CoreStatus", "QueueStatus"], Deadline(2)
    )
    assert status.message().get("CoreCurrentCalls") == "17"
    assert len(queues.items) == 15


def test_stray_events_and_foreign_answers_are_skipped(connect, behave):
    stray = (
        b"Event: FullyBooted\r\nPrivilege: system,all\r\nUptime: 1\r\n\r\n"
        b"Event: QueueMember\r\nActionID: exporter-999\r\nQueue: q\r\n\r\n"
        b"Response: Success\r\nActionID: exporter-998\r\n\r\n"
    )

    def noise(name, reply, connection):
        connection.sendall(stray + reply.replace(b"\r\n\r\nEvent", b"\r\n\r\n" + stray + b"Event"))
        return True

    status, queues = connect(behave("busy", instead=noise)).request(
        ["CoreStatus", "QueueStatus"], Deadline(2)
    )
    assert status.error is None
    assert len(queues.items) == 15


def test_the_end_of_a_list_is_found_in_any_case(connect, behave):
    def shout(name, reply, connection):
        connection.sendall(reply.replace(b"EventList: Complete", b"EventList: COMPLETE"))
        return True

    [queues] = connect(behave("busy", instead=shout)).request(["QueueStatus"], Deadline(2))
    assert len(queues.items) == 15


def test_an_empty_conference_list_is_zero_items(connect, behave):
    [reply] = connect(behave("idle")).request(["ConfbridgeListRooms"], Deadline(2))
    assert reply.message().get("Response") == "Error"
    assert reply.events("ConfbridgeListRooms") == []


def test_an_action_not_on_the_list_is_never_sent(connect, behave):
    client = connect(behave("busy"))
    before = client.server.received
    for action in ("QueueReset", "Command", "PJSIPUnregister", "corestatus", "Ping\r\n"):
        with pytest.raises(UnsafeActionError, match="not on this exporter's list"):
            client.request(["CoreStatus", action], Deadline(2))
    assert client.server.received == before
    assert client.usable


def test_the_list_of_actions_holds_only_questions():
    assert all(
        any(word in action for word in ("List", "Status", "Show", "Settings"))
        for action in ALLOWED_ACTIONS
    )


def test_a_denied_action_fails_alone_and_is_asked_once_per_connection(connect, behave):
    client = connect(behave("denied"))
    for _ in range(2):
        status, queues = client.request(["CoreStatus", "QueueStatus"], Deadline(2))
        assert isinstance(status.error, PermissionDeniedError)
        assert "write = reporting" in str(status.error)
        assert queues.error is None
    assert client.server.received.count(b"Action: CoreStatus") == 1
    assert client.server.received.count(b"Action: QueueStatus") == 2
    assert client.request(["CoreStatus"], Deadline(2))[0].error is status.error


@pytest.mark.parametrize("action", ["CoreShowChannels", "ConfbridgeListRooms"])
def test_denied_is_no_empty_list(action):
    assert isinstance(reply_of("denied", action).error, PermissionDeniedError)


def test_an_unknown_action_says_that_a_module_is_missing():
    error = reply_of("denied", "NoSuch").error
    assert isinstance(error, UnknownActionError)
    assert "not loaded" in str(error)


def test_other_errors_keep_asterisks_words():
    response = parse_message(b"Response: Error\r\nMessage: No such queue")
    reply = outcome("QueueStatus", response, (), "exporter")
    assert isinstance(reply.error, ActionFailedError)
    assert "No such queue" in str(reply.error)
    with pytest.raises(ActionFailedError):
        reply.events("QueueParams")


@pytest.mark.parametrize("text", [b"No registrations\n", b"No active conferences."])
def test_pjsip_answers_an_error_when_there_is_nothing_to_list(text):
    response = parse_message(b"Response: Error\r\nMessage: " + text)
    reply = outcome("PJSIPShowRegistrationsOutbound", response, (), "exporter")
    assert reply.events("OutboundRegistrationDetail") == []


def test_misbehaviour_is_named_within_the_deadline(misbehaviour, ami_server, target_of, free_port):
    _, behaviour, kind = misbehaviour
    port = free_port() if behaviour is None else ami_server(behaviour).port
    began = time.monotonic()
    try:
        client = AmiClient.connect(target_of(port), Deadline(1.5))
        replies = client.request(["CoreSettings", "CoreStatus"], Deadline(1.5))
        assert not client.usable
        error = next(reply.error for reply in replies if reply.error)
    except AmiError as caught:
        error = caught
    assert error.kind == kind
    assert time.monotonic() - began < 1.5 + 3
    assert f"127.0.0.1:{port}" in str(error) or kind == "malformed_reply"
    assert SECRET not in str(error)
    assert "xpected" in str(error) or "Look at" in str(error)


def test_a_refused_login_says_what_cannot_be_told(connect, behave):
    with pytest.raises(LoginRejectedError) as rejected:
        connect(behave("busy"), secret="wrong")
    text = str(rejected.value)
    for part in ("Authentication failed", "deny/permit", "127.0.0.1", "manager show user exporter"):
        assert part in text
    assert "'wrong'" not in text


def test_what_was_complete_before_the_end_is_kept(connect, behave):
    def die(name, reply, connection):
        if name != "CoreShowChannels":
            return False
        connection.sendall(reply[:2000])
        connection.close()
        raise OSError

    client = connect(behave("busy", instead=die))
    status, queues, channels, rooms = client.request(ALL, Deadline(2))
    assert status.error is None
    assert queues.error is None
    assert len(queues.items) == 15
    assert isinstance(channels.error, ConnectionLostError)
    assert isinstance(rooms.error, ConnectionLostError)
    assert channels.items == ()
    assert "CoreShowChannels, ConfbridgeListRooms" in str(channels.error)
    assert not client.usable


def test_a_slow_list_does_not_take_the_others_with_it(connect, behave):
    client = connect(behave("busy", instead=lambda name, *_: name == "QueueStatus"))
    began = time.monotonic()
    status, queues = client.request(["CoreStatus", "QueueStatus"], Deadline(1.0))
    assert time.monotonic() - began < 4
    assert status.error is None
    assert isinstance(queues.error, NoAnswerError)


def test_a_deadline_that_has_passed_asks_nothing(connect, behave):
    client = connect(behave("busy"))
    deadline = Deadline(0)
    assert isinstance(client.request(["CoreStatus"], deadline)[0].error, NoAnswerError)


def test_a_name_that_does_not_resolve(target_of):
    with pytest.raises(UnreachableError, match="does not resolve"):
        AmiClient.connect(target_of(5038, host="no-such-host.invalid"), Deadline(5))


def test_a_name_server_that_hangs_does_not_hang_us(target_of, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5) or [])
    began = time.monotonic()
    with pytest.raises(ConnectionFailedError, match="not resolved within"):
        AmiClient.connect(target_of(5038, host="pbx.example.org"), Deadline(0.3))
    assert time.monotonic() - began < 4


def test_a_name_with_several_addresses_tries_each(ami_server, behave, target_of, monkeypatch):
    server = ami_server(behave("busy"))
    addresses = [
        (socket.AF_INET, 0, 0, "", ("127.0.0.2", server.port)),
        (socket.AF_INET, 0, 0, "", ("127.0.0.1", server.port)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    AmiClient.connect(target_of(server.port, host="pbx.example.org"), Deadline(2)).close()


def test_an_address_that_never_answers(target_of, monkeypatch):
    def never(self, address):
        raise socket.timeout

    monkeypatch.setattr(client_module.socket.socket, "connect", never)
    with pytest.raises(AmiError) as timed_out:
        AmiClient.connect(target_of(5038, host="203.0.113.1"), Deadline(0.2))
    assert timed_out.value.kind == "connect_timeout"
    assert "neither accepted nor refused" in str(timed_out.value)


def test_no_route_to_the_host(target_of, monkeypatch):
    def unreachable(self, address):
        raise OSError(113, "No route to host")

    monkeypatch.setattr(client_module.socket.socket, "connect", unreachable)
    with pytest.raises(UnreachableError, match="No route to host"):
        AmiClient.connect(target_of(5038, host="203.0.113.1"), Deadline(0.2))


def test_a_peer_that_hangs_up_in_the_middle_of_its_banner(connect):
    with pytest.raises(NotAmiError, match="'Asterisk Call'"):
        connect(lambda _server, connection: connection.sendall(b"Asterisk Call"))


@pytest.mark.parametrize("field", ["username", "secret"])
def test_a_login_cannot_inject(connect, behave, field):
    with pytest.raises(UnsafeActionError, match="cannot log in") as refused:
        connect(behave("busy"), **{field: "x\r\n\r\nAction: QueueReset"})
    assert "QueueReset" not in str(refused.value)


def test_secrets_are_not_shown(target_of, connect, behave):
    target = target_of(5038)
    assert SECRET not in repr(target)
    assert str(target) == "127.0.0.1:5038"
    assert str(target_of(5038, host="::1")) == "[::1]:5038"
    assert SECRET not in repr(connect(behave("busy")))


def test_a_peer_that_reads_nothing_does_not_block_the_sender(connect, behave, monkeypatch):
    client = connect(behave("busy"))

    def full(data):
        raise socket.timeout

    monkeypatch.setattr(client, "_sock", FakeSocket(full))
    assert isinstance(client.request(["CoreStatus"], Deadline(1))[0].error, NoAnswerError)


def test_a_reset_while_sending(connect, behave, monkeypatch):
    client = connect(behave("busy"))

    def reset(data):
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(client, "_sock", FakeSocket(reset))
    error = client.request(["CoreStatus"], Deadline(1))[0].error
    assert isinstance(error, ConnectionLostError)
    assert "reset by peer" in str(error)


class FakeSocket:
    def __init__(self, sendall) -> None:
        self.sendall = sendall

    def settimeout(self, seconds) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-subj", "/CN=pbx1", "-addext", "subjectAltName=DNS:pbx1"),
            *("-keyout", folder / "key.pem", "-out", folder / "cert.pem"),
        ],
        check=True,
        capture_output=True,
    )
    return folder


def over_tls(certificate, behaviour):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")

    def wrapped(server, connection):
        with context.wrap_socket(connection, server_side=True) as tls:
            behaviour(server, tls)

    return wrapped


def test_tls_with_a_certificate_that_passes(connect, behave, certificate):
    tls = TlsSettings(str(certificate / "cert.pem"), "pbx1")
    client = connect(over_tls(certificate, behave("busy")), tls=tls)
    assert client.request(["CoreStatus"], Deadline(2))[0].error is None


def test_tls_checks_the_certificate_by_default(connect, behave, certificate):
    with pytest.raises(TlsError, match="does not pass"):
        connect(over_tls(certificate, behave("busy")), tls=TlsSettings())


def test_tls_checks_the_name(connect, behave, certificate):
    tls = TlsSettings(str(certificate / "cert.pem"), "another")
    with pytest.raises(TlsError, match=r"tls\.server_name"):
        connect(over_tls(certificate, behave("busy")), tls=tls)


def test_tls_on_the_plain_port(connect, behave):
    with pytest.raises(TlsError, match="5038 is plain"):
        connect(behave("busy"), tls=TlsSettings())


def test_tls_with_a_silent_peer(connect):
    with pytest.raises(NoAnswerError, match="TLS handshake"):
        connect(lambda server, _: server.stop.wait(), seconds=0.3, tls=TlsSettings())


def test_tls_with_a_ca_file_that_is_none(connect, behave, tmp_path):
    for content in (None, "not a certificate"):
        path = tmp_path / "ca.pem"
        if content:
            path.write_text(content)
        with pytest.raises(TlsError, match="cannot use the CA file"):
            connect(behave("busy"), tls=TlsSettings(str(path)))


def test_the_banner_may_come_with_the_next_bytes(connect, behave):
    def behaviour(server, connection):
        class Merging:
            def __init__(self):
                self.first = True

            def sendall(self, data):
                extra = b"Event: FullyBooted\r\n\r\n" if self.first else b""
                self.first = False
                connection.sendall(data + extra)

            def recv(self, size):
                return connection.recv(size)

        behave("busy")(server, Merging())

    assert connect(behaviour).request(["CoreStatus"], Deadline(2))[0].error is None
