"""/metrics over real HTTP: the scrape, in process and as a program of its own."""

# ruff: noqa: ARG001, PLR0913, PLR0917 - callbacks have fixed arguments, fixtures come as arguments
from __future__ import annotations

import gzip
import logging
import re
import socket
import threading
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from asterisk_exporter import web
from asterisk_exporter.ami.session import AmiSession
from asterisk_exporter.collectors import (
    ConferenceCollector,
    CoreCollector,
    QueueCollector,
)
from asterisk_exporter.scrape import AsteriskCollector

from .conftest import closes_before_banner, never_says_a_word

COLLECTORS = (CoreCollector(), ConferenceCollector(), QueueCollector())


@pytest.fixture
def http():
    """Serve a registry: http(collector) returns the URL."""
    servers = []

    def start(*collectors, address="127.0.0.1") -> str:
        registry = CollectorRegistry()
        for collector in collectors:
            registry.register(collector)
        server = web.listen(registry, address, 0)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        host = f"[{address}]" if ":" in address else address
        return f"http://{host}:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def collector_at(target_of):
    def make(port: int, timeout=1.5, collectors=COLLECTORS) -> AsteriskCollector:
        return AsteriskCollector(AmiSession(target_of(port)), collectors, (), timeout)

    return make


def get(url: str, **headers: str):
    request = urllib.request.Request(url, headers=headers, method=headers.pop("method", "GET"))
    return urllib.request.urlopen(request, timeout=10)


def test_metrics(http, collector_at, ami_server, behave):
    url = http(collector_at(ami_server(behave("busy")).port))
    with get(url + "/metrics") as response:
        assert response.headers["Content-Type"].startswith("text/plain; version=")
        body = response.read().decode()
    assert "\nasterisk_up 1.0\n" in body
    assert '\nasterisk_queue_callers{queue="support"} 2.0\n' in body
    for collector in ("core", "conferences", "queues"):
        assert f'asterisk_exporter_collector_success{{collector="{collector}"}} 1.0' in body
        assert f'asterisk_exporter_collector_duration_seconds{{collector="{collector}"}}' in body
    assert 'asterisk_exporter_action_permitted{action="QueueStatus"} 1.0' in body
    assert "asterisk_exporter_ami_reconnects_total 0.0" in body
    assert re.search(r'asterisk_exporter_build_info\{python_version="3\.\d+\.\d+",version=', body)


def test_gzip_and_one_format_for_all(http, collector_at, ami_server, behave):
    """OpenMetrics could not tell the gauge asterisk_calls from the counter asterisk_calls_total."""
    url = http(collector_at(ami_server(behave("busy")).port))
    accept = "application/openmetrics-text; version=1.0.0"
    with get(url + "/metrics", **{"Accept": accept, "Accept-Encoding": "gzip"}) as response:
        assert response.headers["Content-Encoding"] == "gzip"
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        body = gzip.decompress(response.read()).decode()
    names = {family.name for family in text_string_to_metric_families(body)}
    assert {"asterisk_up", "asterisk_calls_processed", "asterisk_queue_members"} <= names


def test_other_paths(http):
    url = http()
    with get(url + "/-/healthy") as response:
        assert response.read() == b"OK\n"
    for path in ("/metric", "/metrics/", "/../etc/passwd", "/favicon.ico"):
        with pytest.raises(urllib.error.HTTPError) as missing:
            get(url + path)
        assert missing.value.code == 404


def test_other_methods(http):
    url = http()
    for path in ("/metrics", "/-/healthy"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            get(url + path, method="POST")
        assert refused.value.code == 405
        assert refused.value.headers["Allow"] == "GET, HEAD"
        with get(url + path, method="HEAD") as response:
            assert response.read() == b""


def test_ipv6(http):
    try:
        url = http(address="::1")
    except OSError:
        with (
            socket.socket(socket.AF_INET6) as probe,
            pytest.raises(OSError, match=r"assign|support"),
        ):
            probe.bind(("::1", 0))  # this machine has none
        return
    assert get(url + "/-/healthy").status == 200


def test_a_client_that_sends_nothing_does_not_block_the_others(http):
    url = http()
    port = int(url.rsplit(":", 1)[1])
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
    began = time.monotonic()
    assert get(url + "/-/healthy").status == 200
    assert time.monotonic() - began < web.CLIENT_TIMEOUT_SECONDS / 2
    for one in idle:
        one.close()


def test_binding_asks_no_name_server(monkeypatch):
    def fail(*_):
        raise AssertionError("asked the name server")

    monkeypatch.setattr(socket, "getfqdn", fail)
    web.listen(CollectorRegistry(), "127.0.0.1", 0).server_close()


def test_registering_does_no_io(collector_at, free_port):
    collector = collector_at(free_port())
    CollectorRegistry().register(collector)
    assert collector._session._last_error is None
    families = collector.describe()
    assert all(family.samples == [] for family in families)
    names = [family.name for family in families]
    assert len(names) == len(set(names))


def value(body: str, sample: str) -> float | None:
    found = re.search(rf"^{re.escape(sample)} (\S+)$", body, re.MULTILINE)
    return float(found[1]) if found else None


def test_concurrent_scrapes_share_one_flight(http, collector_at, ami_server):
    server = ami_server(never_says_a_word)
    url = http(collector_at(server.port, timeout=3.0))
    bodies, times = [], []

    def scrape():
        began = time.monotonic()
        bodies.append(get(url + "/metrics").read().decode())
        times.append(time.monotonic() - began)

    threads = [threading.Thread(target=scrape) for _ in range(12)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert max(times) < 5  # two would take six
    assert [value(body, "asterisk_up") for body in bodies] == [0] * 12
    assert len(server.connections) == 1


def test_a_scrape_that_breaks_does_not_break_the_next(collector_at, ami_server, behave):
    collector = collector_at(ami_server(behave("busy")).port)
    real, collector._session.ask = collector._session.ask, None
    with pytest.raises(TypeError):
        collector.collect()
    collector._session.ask = real
    assert collector.collect()


def test_one_collector_without_permission_does_not_take_the_others(
    collector_at, ami_server, behave, caplog
):
    deny = b"Response: Error\r\nActionID: %s\r\nMessage: Permission denied\r\n\r\n"

    def instead(name, reply, connection):
        if name != "ConfbridgeListRooms":
            return False
        action_id = re.search(rb"ActionID: (\S+)", reply)[1]
        connection.sendall(deny % action_id)
        return True

    collector = collector_at(ami_server(behave("busy", instead=instead)).port)
    for _ in range(3):
        shown = {
            (s.name, *s.labels.values()): s.value for f in collector.collect() for s in f.samples
        }
    assert shown["asterisk_up",] == 1
    success = "asterisk_exporter_collector_success"
    assert shown[success, "conferences"] == 0
    assert shown[success, "queues"] == shown[success, "core"] == 1
    assert ("asterisk_conference_participants",) not in shown
    assert shown["asterisk_queue_callers", "support"] == 2
    assert caplog.text.count("may not run ConfbridgeListRooms") == 1


def test_actions_that_the_login_may_not_run(collector_at, ami_server, behave):
    collector = collector_at(ami_server(behave("denied")).port)
    shown = {(s.name, *s.labels.values()): s.value for f in collector.collect() for s in f.samples}
    permitted = "asterisk_exporter_action_permitted"
    assert shown[permitted, "QueueStatus"] == 1
    assert shown[permitted, "CoreStatus"] == 0
    assert shown["asterisk_up",] == 0
    assert shown["asterisk_queue_callers", "support"] == 0


def test_a_stall_in_one_list_leaves_asterisk_up(collector_at, ami_server, behave):
    server = ami_server(behave("busy", instead=lambda name, *_: name == "QueueStatus"))
    families = collector_at(server.port, timeout=1.0).collect()
    shown = {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}
    assert shown["asterisk_up",] == 1
    assert shown["asterisk_exporter_collector_success", "queues"] == 0
    assert shown["asterisk_exporter_collector_success", "core"] == 1


def test_state_changes_are_logged_once(collector_at, ami_server, behave, caplog):
    server = ami_server(closes_before_banner)
    collector = collector_at(server.port)
    collector._session._clock = lambda: time.monotonic() * 1000
    with caplog.at_level(logging.INFO):
        for _ in range(5):
            collector.collect()
            time.sleep(0.01)
        server.close()
        ami_server(behave("busy"), server.port)
        for _ in range(3):
            time.sleep(0.02)
            collector.collect()
    assert caplog.text.count("before its banner") == 1
    assert caplog.text.count("AMI: connected, Asterisk 22.10.1") == 1


def test_while_ami_is_down_only_that_is_logged(collector_at, ami_server, behave, caplog):
    server = ami_server(behave("busy", instead=lambda name, *_: name == "CoreStatus"))
    collector_at(server.port, timeout=1.0).collect()
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_a_collector_that_works_again_is_logged(collector_at, ami_server, behave, caplog):
    bad = [True]

    def instead(name, reply, connection):
        if name == "CoreStatus" and bad:
            connection.sendall(reply.replace(b"CoreProcessedCalls: 9", b"CoreProcessedCalls: x"))
            return bad.pop()
        return False

    collector = collector_at(ami_server(behave("busy", instead=instead)).port)
    with caplog.at_level(logging.INFO):
        collector.collect()
        assert "CoreProcessedCalls = 'x'" in caplog.text
        collector.collect()
    assert "collector core: works again" in caplog.text


def test_serve_answers_whatever_asterisk_does_and_recovers(
    misbehaviour, serve, config_file, ami_server, behave, free_port
):
    _, behaviour, _ = misbehaviour
    server = None if behaviour is None else ami_server(behaviour)
    port = free_port() if server is None else server.port
    served = serve(config_file(port))
    for _ in range(3):
        began = time.monotonic()
        body = served.get()
        assert time.monotonic() - began < 1.5 + 2  # on a busy machine too
        assert value(body, "asterisk_up") == 0
        assert value(body, 'asterisk_exporter_collector_success{collector="queues"}') == 0
        assert "asterisk_queue_callers{" not in body
    if server is not None:
        server.close()
    good = ami_server(behave("busy"), port)
    served.wait_for("asterisk_up", 1)
    assert served.value('asterisk_queue_callers{queue="support"}') == 2
    assert len(good.connections) <= 2


def test_serve_survives_a_restart_of_asterisk_within_one_scrape(
    serve, config_file, ami_server, behave
):
    server = ami_server(behave("busy"))
    served = serve(config_file(server.port))
    assert served.value("asterisk_up") == 1
    server.close()
    again = ami_server(behave("idle"), server.port)
    assert served.value("asterisk_up") == 1
    assert served.value("asterisk_exporter_ami_reconnects_total") == 1
    again.close()
    assert served.value("asterisk_up") == 0


def test_a_half_open_connection_is_given_up_in_time(serve, config_file, ami_server, behave):
    """The peer is gone without a word: it still takes what we send and never answers."""
    gone = threading.Event()

    def swallow(name, reply, connection):
        return gone.is_set()

    server = ami_server(behave("busy", instead=swallow))
    served = serve(config_file(server.port))
    assert served.value("asterisk_up") == 1
    gone.set()
    began = time.monotonic()
    assert served.value("asterisk_up") == 0
    assert time.monotonic() - began < 1.5 + 2  # on a busy machine too
    gone.clear()
    served.wait_for("asterisk_up", 1)
