# ruff: noqa: ARG001 - callbacks have fixed arguments, fixtures come as arguments
from __future__ import annotations

import time

import pytest

from asterisk_exporter.ami.client import AmiClient, Deadline
from asterisk_exporter.ami.errors import AmiError, ClosedBeforeBannerError, RefusedError
from asterisk_exporter.ami.session import AmiSession


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def ask(session):
    return session.ask(["CoreStatus", "QueueStatus"], Deadline(1.5))


def test_the_connection_is_kept_and_the_greeting_asked_once(ami_server, behave, target_of):
    server = ami_server(behave("busy"))
    session = AmiSession(target_of(server.port))
    for _ in range(3):
        replies = ask(session)
        assert set(replies) == {"CoreSettings", "ListCommands", "CoreStatus", "QueueStatus"}
        assert all(reply.error is None for reply in replies.values())
    assert len(server.connections) == 1
    assert server.received.count(b"Action: Login") == 1
    assert server.received.count(b"Action: ListCommands") == 1
    assert server.received.count(b"Action: CoreStatus") == 3
    assert session.reconnects == 0
    session.close()
    session.close()


def test_a_kept_connection_found_dead_is_reopened_at_once(ami_server, behave, target_of):
    server = ami_server(behave("busy"))
    session = AmiSession(target_of(server.port))
    ask(session)
    server.close()
    again = ami_server(behave("idle"), server.port)
    replies = ask(session)
    assert replies["CoreStatus"].message().get("CoreCurrentCalls") == "0"
    assert session.reconnects == 1
    assert len(again.connections) == 1


def test_a_connection_that_dies_at_once_again_is_a_failure(ami_server, behave, target_of):
    def die(name, reply, connection):
        if name != "CoreStatus":
            return False
        connection.close()
        raise OSError

    server = ami_server(behave("busy", instead=die))
    session = AmiSession(target_of(server.port))
    replies = ask(session)
    assert replies["CoreStatus"].error.kind == "connection_lost"
    with pytest.raises(AmiError):
        ask(session)
    assert len(server.connections) == 1


def test_failures_are_spaced_by_1_to_5_seconds(target_of):
    clock, attempts = Clock(), []

    def refuse(target, deadline):
        attempts.append(clock.now)
        raise RefusedError(str(target))

    session = AmiSession(target_of(1), connect=refuse, clock=clock, jitter=lambda: 1.0)
    for _ in range(400):
        with pytest.raises(RefusedError):
            ask(session)
        clock.now += 0.125
    waits = [round(b - a, 1) for a, b in zip(attempts, attempts[1:])]
    assert waits[:3] == [1.0, 2.0, 4.0]
    assert set(waits[3:]) == {5.0}


def test_jitter_only_shortens(target_of):
    clock, attempts = Clock(), []

    def refuse(target, deadline):
        attempts.append(clock.now)
        raise RefusedError(str(target))

    session = AmiSession(target_of(1), connect=refuse, clock=clock, jitter=lambda: 0.0)
    for _ in range(100):
        with pytest.raises(RefusedError):
            ask(session)
        clock.now += 0.05
    assert attempts[1] - attempts[0] == pytest.approx(0.75, abs=0.06)


def test_while_it_waits_it_answers_at_once(ami_server, behave, target_of):
    server = ami_server(lambda *_: None)
    session = AmiSession(target_of(server.port), clock=Clock())
    with pytest.raises(ClosedBeforeBannerError):
        ask(session)
    began = time.monotonic()
    for _ in range(50):
        with pytest.raises(ClosedBeforeBannerError):
            ask(session)
    assert time.monotonic() - began < 2
    assert len(server.connections) == 1


def test_success_resets_the_waiting(ami_server, behave, target_of):
    server = ami_server(behave("busy"))
    clock, fail = Clock(), [True] * 4

    def connect(target, deadline):
        if fail and fail.pop():
            raise RefusedError(str(target))
        return AmiClient.connect(target, deadline)

    session = AmiSession(target_of(server.port), connect=connect, clock=clock, jitter=lambda: 1.0)
    for _ in range(4):
        with pytest.raises(RefusedError):
            ask(session)
        clock.now += 6
    ask(session)
    session.close()
    fail.append(True)
    with pytest.raises(RefusedError):
        ask(session)
    clock.now += 1.01
    ask(session)
    assert session.reconnects == 1


def test_a_stalled_answer_ends_the_connection_and_waits(ami_server, behave, target_of):
    server = ami_server(behave("busy", instead=lambda name, *_: name == "QueueStatus"))
    session = AmiSession(target_of(server.port))
    replies = session.ask(["CoreStatus", "QueueStatus"], Deadline(0.3))
    assert replies["CoreStatus"].error is None
    assert replies["QueueStatus"].error.kind == "no_answer"
    with pytest.raises(AmiError, match="QueueStatus"):
        session.ask(["CoreStatus"], Deadline(0.3))


def test_a_greeting_that_dies_is_a_failure(ami_server, behave, target_of):
    def die(name, reply, connection):
        if name == "Login":
            return False
        connection.close()
        raise OSError

    session = AmiSession(target_of(ami_server(behave("busy", instead=die)).port))
    with pytest.raises(AmiError) as lost:
        ask(session)
    assert lost.value.kind == "connection_lost"


def test_commands_are_asked_again_until_all_modules_are_loaded(ami_server, behave, target_of):
    """Asterisk takes logins before it has loaded app_queue and the others."""
    loading = [True, True]

    def instead(name, reply, connection):
        if name != "ListCommands" or not loading:
            return False
        loading.pop()
        lines = reply.split(b"\r\n")
        connection.sendall(b"\r\n".join(n for n in lines if not n.startswith(b"QueueStatus")))
        return True

    server = ami_server(behave("busy", instead=instead))
    session = AmiSession(target_of(server.port))
    seen = [bool(ask(session)["ListCommands"].message().get("QueueStatus")) for _ in range(4)]
    assert seen == [False, True, True, True]
    assert server.received.count(b"Action: ListCommands") == 3


def test_a_connection_that_dies_while_asking_again(ami_server, behave, target_of):
    lists = []

    def instead(name, reply, connection):
        if name != "ListCommands":
            return False
        lists.append(name)
        if len(lists) == 2:
            connection.close()
            raise OSError
        return False

    server = ami_server(behave("denied", instead=instead))
    session = AmiSession(target_of(server.port))
    replies = ask(session)
    assert replies["ListCommands"].error.kind == "connection_lost"
    assert replies["QueueStatus"].error is None
    assert ask(session)["QueueStatus"].error is None
    assert len(server.connections) == 2
