# ruff: noqa: ARG001, ARG002 - callbacks have fixed arguments, fixtures come as arguments
from __future__ import annotations

import logging
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from asterisk_exporter import config, events
from asterisk_exporter.ami.errors import ConnectionLostError
from asterisk_exporter.ami.protocol import Message, Splitter, parse_message
from asterisk_exporter.events import (
    ASSUMED_CLOCK_RATE,
    CLOCKS_KEPT,
    SECURITY_EVENTS,
    Clocks,
    Distribution,
    EventCollector,
    Figures,
    report,
)

from .conftest import BANNER, MISBEHAVIOURS, REPLIES, answer, hang_up, read_action

#: A call of signed linear at 16 kHz to an Echo(), with 8 % of its packets dropped on each way,
#: and two refused AMI logins. From Asterisk 22.10.1.
STREAM = (REPLIES / "events" / "lossy_16_khz.txt").read_bytes()
MESSAGES = [parse_message(block) for block in Splitter().feed(STREAM)]


def samples(families) -> dict:
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }


def noted(messages) -> dict:
    figures = Figures()
    for message in messages:
        figures.note(message)
    return samples(figures.families())


def sent(**changed) -> Message:
    fields = {
        "Event": "RTCPSent",
        "Privilege": "reporting,all",
        "Uniqueid": "1.1",
        "From": "192.0.2.1:10000",
        "To": "198.51.100.1:4000",
        "MES": "88.1",
        "Report0SourceSSRC": "0x00000001",
        "Report0FractionLost": "64",
        "Report0IAJitter": "80",
    }
    return Message.of({**fields, **changed}.items())


def test_the_captured_call_has_its_loss_jitter_round_trips_and_scores():
    found = noted(MESSAGES)
    for direction in ("received", "sent"):
        for name in ("packet_loss_ratio", "jitter_seconds", "mes"):
            assert found[f"asterisk_rtp_{name}_count", direction] == 10
        # Asterisk's own summary of this call: 15 % and 7 % lost
        assert found["asterisk_rtp_packet_loss_ratio_sum", direction] / 10 == pytest.approx(
            0.11, abs=0.03
        )
        assert found["asterisk_rtp_packet_loss_ratio_bucket", direction, "0.05"] == 0
        assert found["asterisk_rtp_packet_loss_ratio_bucket", direction, "0.2"] == 10
        # the loss is heard on both sides: nothing near the flawless 88
        assert 3 <= found["asterisk_rtp_mes_bucket", direction, "40.0"] < 10
        assert found["asterisk_rtp_mes_bucket", direction, "65.0"] == 10
        assert 0 < found["asterisk_rtp_jitter_seconds_sum", direction] < 0.01
    # of ten reports two came before a sender report was seen, and have no round trip
    assert found["asterisk_rtp_round_trip_seconds_count",] == 8
    assert 0.001 < found["asterisk_rtp_round_trip_seconds_sum",] < 0.02


def test_the_clock_is_measured_from_the_captured_sender_reports():
    clocks, rates = Clocks(), []
    for message in MESSAGES:
        if message.get("Event").startswith("RTCP"):
            found = report(message, clocks)
            if found.jitter_seconds:
                rates.append(float(message.get("Report0IAJitter")) / found.jitter_seconds)
    assert rates[0] == ASSUMED_CLOCK_RATE
    assert set(rates[-8:]) == {16000}


def test_security_events_are_counted_by_name_and_start_at_zero():
    found = noted(MESSAGES)
    counted = {key[1]: value for key, value in found.items() if key[0].startswith("asterisk_sec")}
    assert counted == {
        **dict.fromkeys(SECURITY_EVENTS, 0),
        "InvalidPassword": 1,
        "InvalidAccountID": 1,
        "other": 0,
    }


def test_an_unknown_security_event_is_other_and_other_classes_are_nothing():
    unknown = Message.of([("Event", "NewInLaterAsterisk"), ("Privilege", "security,all")])
    named_other = Message.of([("Event", "other"), ("Privilege", "security,all")])
    nothing = Message.of([("Event", "InvalidPassword"), ("Privilege", "reporting,all")])
    found = noted([unknown, named_other, nothing])
    assert found["asterisk_security_events_total", "other"] == 2
    assert found["asterisk_security_events_total", "InvalidPassword"] == 0
    assert sum(value for key, value in found.items() if "rtp" in key[0]) == 0


def test_the_fraction_lost_is_in_256ths_and_jitter_in_units_of_the_clock():
    found = report(sent(), Clocks())
    assert found == events.Report("received", 0.25, 0.01, None, 88.1)


def test_each_direction_has_its_own_clock():
    clocks = Clocks()
    for ntp, rtp in (("100.0", "0"), ("105.0", "240000")):
        ours = report(sent(SentNTP=ntp, SentRTP=rtp), clocks)
    # Asterisk's sender reports are about what it sends, their report blocks about what it receives
    assert ours.jitter_seconds == 80 / ASSUMED_CLOCK_RATE
    theirs = sent(Event="RTCPReceived", From="198.51.100.1:4000", To="192.0.2.1:10000")
    assert report(theirs, clocks).jitter_seconds == 80 / 48000


def test_what_the_peer_reports_is_the_direction_that_asterisk_sent():
    found = report(sent(Event="RTCPReceived", RTT="0.0150"), Clocks())
    assert (found.direction, found.round_trip_seconds) == ("sent", 0.015)


@pytest.mark.parametrize("rtt", ["0.0000", "65535.9980"])
def test_a_round_trip_not_known_or_wrapped_is_none(rtt):
    found = report(sent(Event="RTCPReceived", RTT=rtt), Clocks())
    assert found.round_trip_seconds is None


def test_a_report_of_an_older_asterisk_has_no_score():
    fields = {name: value for name, value in sent().headers if name != "MES"}
    figures = Figures()
    figures.note(Message.of(fields.items()))
    found = samples(figures.families())
    assert found["asterisk_rtp_mes_count", "received"] == 0
    assert found["asterisk_rtp_jitter_seconds_count", "received"] == 1


def test_without_a_report_block_only_the_clock_is_learned():
    clocks = Clocks()
    for ntp, rtp in (("100.0", "0"), ("105.0", "240000")):
        message = [
            ("Event", "RTCPSent"),
            ("Uniqueid", "1.1"),
            *(("From", "a"), ("MES", "88.1"), ("SentNTP", ntp), ("SentRTP", rtp)),
        ]
        assert report(Message.of(message), clocks) is None
    assert clocks.rate(("1.1", "a", "sent")) == 48000
    assert clocks.rate(("1.1", "a", "received")) == ASSUMED_CLOCK_RATE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Report0FractionLost", "256"),
        ("Report0FractionLost", "-1"),
        ("Report0IAJitter", ""),
        ("Report0IAJitter", "nan"),
        ("MES", "101"),
        ("RTT", "x"),
        ("SentNTP", "now"),
    ],
)
def test_what_makes_no_sense_is_refused_and_counts_nothing(name, value):
    figures = Figures()
    with pytest.raises(ValueError, match=r"float|not from"):
        figures.note(sent(**{name: value}))
    assert not any(
        value for key, value in samples(figures.families()).items() if key[0].endswith("_count")
    )


STREAM_KEY = ("1.1", "192.0.2.1:10000", "sent")


@given(st.sampled_from(events.CLOCK_RATES), st.integers(0, (1 << 32) - 1), st.floats(1.5, 10))
def test_any_clock_is_measured_across_the_wrap_of_its_counter(rate, first, seconds):
    clocks = Clocks()
    clocks.learn(STREAM_KEY, 1000.0, first)
    clocks.learn(STREAM_KEY, 1000.0 + seconds, (first + int(rate * seconds)) % (1 << 32))
    assert clocks.rate(STREAM_KEY) == rate


def test_a_pause_or_too_close_a_pair_leaves_the_clock_as_it_was():
    clocks = Clocks()
    clocks.learn(STREAM_KEY, 0.0, 0)
    clocks.learn(STREAM_KEY, 5.0, 80000)
    for ntp, rtp in ((10.0, 130000), (15.0, 130160), (15.5, 154160), (9.0, 244160)):
        clocks.learn(STREAM_KEY, ntp, rtp)
    assert clocks.rate(STREAM_KEY) == 16000


def test_only_the_latest_streams_are_remembered():
    clocks = Clocks()
    for moment in (0, 5):
        for number in range(CLOCKS_KEPT):
            clocks.learn((str(number),), moment, moment * 48000)
    clocks.learn(("0",), 10, 10 * 48000)
    clocks.learn(("one more",), 0, 0)
    assert len(clocks._seen) == CLOCKS_KEPT
    assert clocks.rate(("0",)) == 48000
    assert clocks.rate(("1",)) == ASSUMED_CLOCK_RATE


def test_buckets_hold_what_is_at_most_their_bound():
    distribution = Distribution((1, 2))
    for value in (0.5, 1, 1.5, 3):
        distribution.add(value)
    assert (distribution.counts, distribution.sum) == ([2, 1, 1], 6.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                [name for message in MESSAGES for name, _ in message.headers] + ["Nothing"]
            ),
            st.one_of(st.text(max_size=9), st.integers().map(str), st.floats().map(str)),
        ),
        max_size=8,
    ),
    st.sampled_from(MESSAGES),
)
def test_a_changed_event_counts_or_is_refused_and_does_nothing_else(changes, message):
    figures = Figures()
    try:
        figures.note(Message.of([*changes, *message.headers]))
    except ValueError:
        return
    assert all(0 <= value < float("inf") for value in samples(figures.families()).values())


# ---- the connection ------------------------------------------------------------------------------


def emits(stream: bytes, then=None):
    """Log in, send the stream in small pieces, and stay, or do what `then` does."""

    def behaviour(server, connection):
        connection.sendall(BANNER)
        action = read_action(server, connection, [b""])
        connection.sendall(answer(action, "idle"))
        for start in range(0, len(stream), 999):
            connection.sendall(stream[start : start + 999])
        (then or (lambda _: server.stop.wait()))(connection)

    return behaviour


@pytest.fixture
def collector_of(target_of):
    collectors = []

    def make(server, **options) -> EventCollector:
        target = target_of(server.port, username="events")
        collectors.append(EventCollector(target, jitter=lambda: 0.0, **options))
        collectors[-1].start()
        return collectors[-1]

    yield make
    for collector in collectors:
        collector.stop()
        assert not any(thread.is_alive() for thread in collector._threads)


def wait_for(collector, condition, seconds=30.0) -> dict:
    end = time.monotonic() + seconds
    while not condition(found := samples(collector.collect())):
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


LOST = ConnectionLostError("192.0.2.1:5038", "the events")
UP = "asterisk_exporter_events_connected"
DROPPED = "asterisk_exporter_events_dropped_total"
RECONNECTS = "asterisk_exporter_events_reconnects_total"
RECEIVED = ("asterisk_rtp_mes_count", "received")


def test_events_of_a_connection_arrive_and_its_login_asks_for_their_classes(
    ami_server, collector_of
):
    server = ami_server(emits(STREAM))
    found = wait_for(collector_of(server), lambda found: found[RECEIVED] == 10)
    assert (found[UP,], found[DROPPED,], found[RECONNECTS,]) == (1, 0, 0)
    assert found["asterisk_security_events_total", "InvalidPassword"] == 1
    assert server.received.count(b"Action:") == 1
    assert b"Events: reporting,security\r\n" in server.received


def test_the_exposition_is_valid_and_small(ami_server, collector_of):
    collector = collector_of(ami_server(emits(STREAM)))
    wait_for(collector, lambda found: found[RECEIVED] == 10)
    registry = CollectorRegistry()
    registry.register(collector)
    text = generate_latest(registry).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert set(families) == {family.name for family in collector.describe()}
    assert sum(len(family.samples) for family in families.values()) < 120
    labels = {name for family in families.values() for s in family.samples for name in s.labels}
    assert labels == {"direction", "event", "le"}


def test_a_malformed_event_is_counted_as_dropped_and_stops_nothing(ami_server, collector_of):
    broken = b"Event: RTCPSent\r\nReport0SourceSSRC: 0x1\r\nReport0IAJitter: \xff\r\n\r\n"
    noise = b"\x80\x81\r\n\r\nno event at all\r\n\r\n"
    server = ami_server(emits(broken + noise + STREAM))
    found = wait_for(collector_of(server), lambda found: found[RECEIVED] == 10)
    assert (found[UP,], found[DROPPED,]) == (1, 1)


def test_what_does_not_fit_into_the_queue_is_counted(ami_server, collector_of, monkeypatch):
    total = len(MESSAGES) * 20

    go_on = threading.Event()
    monkeypatch.setattr(Figures, "note", lambda *_: go_on.wait(30))
    collector = collector_of(ami_server(emits(STREAM * 20)), queue_length=5)
    found = wait_for(collector, lambda found: found[DROPPED,] >= total - 8)
    go_on.set()
    assert found[UP,] == 1
    assert found[DROPPED,] < total


def test_an_outage_is_seen_and_ended(ami_server, collector_of):
    lives = iter([hang_up, None])

    def behaviour(server, connection):
        emits(STREAM, next(lives))(server, connection)

    collector = collector_of(ami_server(behaviour))
    wait_for(collector, lambda found: found[RECEIVED] == 10 and not found[UP,])
    found = wait_for(collector, lambda found: found[RECEIVED] == 20)
    assert (found[UP,], found[RECONNECTS,]) == (1, 1)


def test_waits_grow_until_a_connection_succeeds(target_of, monkeypatch):
    class LostAtOnce:
        def receive(self, deadline):
            raise LOST

        def close(self):
            pass

    outcomes = iter([LOST, LOST, LOST, LostAtOnce(), LOST])
    waits = []

    def connect(target, deadline, classes):
        outcome = next(outcomes, None)
        if outcome is None:
            collector._told.set()
        if not isinstance(outcome, LostAtOnce):
            raise LOST
        return outcome

    def wait_seconds(failures, jitter):
        waits.append(failures)
        return 0.0

    monkeypatch.setattr(events, "wait_seconds", wait_seconds)
    collector = EventCollector(target_of(1), connect)
    collector.start()
    collector._told.wait(5)
    collector.stop()
    assert waits == [0, 1, 2, 0, 1, 2]


def test_an_endless_message_is_dropped_with_its_connection(ami_server, collector_of):
    lives = iter([lambda connection: connection.sendall(b"x" * (3 << 20)), None])

    def behaviour(server, connection):
        emits(b"", next(lives))(server, connection)

    found = wait_for(collector_of(ami_server(behaviour)), lambda found: found[RECONNECTS,] == 1)
    assert (found[UP,], found[DROPPED,]) == (1, 1)


@pytest.mark.parametrize("name", ["wrong_password", "another_protocol", "closes_before_banner"])
def test_a_failed_login_is_said_once_and_tried_patiently(ami_server, collector_of, caplog, name):
    server = ami_server(MISBEHAVIOURS[name][0])
    with caplog.at_level(logging.ERROR):
        collector = collector_of(server)
        wait_for(collector, lambda _: caplog.messages)
        time.sleep(1.5)
    assert samples(collector.collect())[UP,] == 0
    assert 1 <= len(server.connections) <= 4
    assert len([line for line in caplog.messages if line.startswith("events: ")]) == 1
    assert "s3cret" not in caplog.text


# ---- its configuration ---------------------------------------------------------------------------


def test_events_are_off_by_default(tmp_path):
    settings, path = config.Config(), tmp_path / "c.yml"
    assert config.events_target(settings, path) is None


def test_events_have_a_login_of_their_own_at_the_same_place(tmp_path):
    path = tmp_path / "c.yml"
    (tmp_path / "events-secret").write_text("of the events\n")
    text = "ami: {host: pbx.example.net, port: 5039, tls: {enabled: true}}\nevents: {enabled: true}"
    target = config.events_target(config.parse(text, path), path)
    assert (str(target), target.username) == ("pbx.example.net:5039", "events")
    assert (target.secret, target.tls is not None) == ("of the events", True)


def test_a_missing_secret_of_the_events_is_named(tmp_path):
    settings = config.parse("events: {enabled: true}", tmp_path / "c.yml")
    with pytest.raises(config.ConfigError, match=r"the secret of events\.secret_file"):
        config.events_target(settings, tmp_path / "c.yml")
