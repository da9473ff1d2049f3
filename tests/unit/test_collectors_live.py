"""Every live metric, from replies that a real Asterisk sent."""

from __future__ import annotations

import re
import time as time_module
from datetime import timezone
from zoneinfo import ZoneInfo

import pytest
from prometheus_client.core import CollectorRegistry
from prometheus_client.exposition import generate_latest

from asterisk_exporter.ami.client import Reply
from asterisk_exporter.ami.errors import MalformedReplyError
from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.collectors import (
    ChannelCollector,
    ConferenceCollector,
    CoreCollector,
    EndpointCollector,
    QueueCollector,
    RegistrationCollector,
)
from asterisk_exporter.collectors.base import DEVICE_STATES, device_state, label
from asterisk_exporter.collectors.core import wall_clock_to_timestamp
from asterisk_exporter.collectors.queues import queues

#: When the `busy` replies were captured, to a few seconds.
NOW = 1795492538.0


def text(families) -> list[str]:
    """Return the exposition of families, without comments."""

    class Holder:
        def collect(self):
            return families

    registry = CollectorRegistry()
    registry.register(Holder())
    lines = generate_latest(registry).decode().splitlines()
    return [line for line in lines if not line.startswith("#")]


def non_zero(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.endswith(" 0.0")]


def event(**headers: str) -> Message:
    return Message.of(headers.items())


def listing(action: str, *items: Message) -> Reply:
    return Reply(action, event(Response="Success"), items)


COLLECTORS = (
    CoreCollector(timezone.utc),
    ChannelCollector(),
    EndpointCollector(re.compile("provider")),
    RegistrationCollector(),
    ConferenceCollector(),
    QueueCollector(),
    QueueCollector(members=True),
)


@pytest.mark.parametrize("collector", COLLECTORS)
def test_described_and_collected_families_are_the_same(collector, replies):
    described = [(f.name, f.type, f.documentation) for f in collector.describe()]
    families = collector.collect(replies("busy"), NOW)
    assert [(f.name, f.type, f.documentation) for f in families] == described
    assert all(f.samples == [] for f in collector.describe())
    assert all(f.documentation.endswith(".") for f in families)


def test_core(replies):
    assert text(CoreCollector(timezone.utc).collect(replies("busy"), NOW)) == [
        'asterisk_info{system_name="pbx1",version="22.10.1+dfsg+~cs6.17.60671434-1"} 1.0',
        "asterisk_start_timestamp_seconds 1.795492391e+09",
        "asterisk_last_reload_timestamp_seconds 1.795492391e+09",
        "asterisk_calls_processed_total 9.0",
    ]


def test_core_of_an_asterisk_that_does_not_count_calls(replies):
    found = CoreCollector(timezone.utc).collect(without_processed_calls(replies), NOW)
    assert text(found) == text(CoreCollector(timezone.utc).collect(replies("busy"), NOW))[:-1]


def without_processed_calls(replies):
    """CoreStatus as Asterisk 16 says it."""
    headers = [pair for pair in busy_status(replies) if pair[0] != "CoreProcessedCalls"]
    return replies("busy", CoreStatus=Reply("CoreStatus", Message.of(headers)))


@pytest.mark.parametrize(
    ("zone", "date", "time", "now", "expected"),
    [
        # winter and summer of Berlin: UTC+1, UTC+2
        ("Europe/Berlin", "2026-01-15", "12:00:00", 2e9, 1768474800),
        ("Europe/Berlin", "2026-07-15", "12:00:00", 2e9, 1784109600),
        # 02:30 happens twice on 25 October 2026: 00:30 UTC and 01:30 UTC
        ("Europe/Berlin", "2026-10-25", "02:30:00", 1792890000 + 1799, 1792888200),
        ("Europe/Berlin", "2026-10-25", "02:30:00", 1792890000 + 1800, 1792891800),
        ("UTC", "1970-01-02", "00:00:00", 2e9, 86400),
    ],
)
def test_wall_clock(zone, date, time, now, expected):
    assert wall_clock_to_timestamp(date, time, ZoneInfo(zone), now) == expected


def test_wall_clock_without_a_zone_is_this_systems(monkeypatch):
    monkeypatch.setenv("TZ", "America/New_York")
    time_module.tzset()
    try:
        assert wall_clock_to_timestamp("2026-01-15", "12:00:00", None, 2e9) == 1768496400
    finally:
        monkeypatch.undo()
        time_module.tzset()


@pytest.mark.parametrize("date", ["", "15.01.2026", "2026-13-01"])
def test_wall_clock_that_is_none(date):
    with pytest.raises(MalformedReplyError, match="YYYY-MM-DD"):
        wall_clock_to_timestamp(date, "12:00:00", timezone.utc, NOW)


def test_a_number_that_is_none(replies):
    status = Message.of(
        (k, "many" if k == "CoreProcessedCalls" else v) for k, v in busy_status(replies)
    )

    changed = replies("busy", CoreStatus=Reply("CoreStatus", status))
    with pytest.raises(MalformedReplyError, match="CoreProcessedCalls = 'many'"):
        CoreCollector(timezone.utc).collect(changed, NOW)


def busy_status(replies):
    return replies("busy")["CoreStatus"].message().headers


def test_channels_calls_and_parked_calls(replies):
    assert text(ChannelCollector().collect(replies("busy"), NOW)) == [
        'asterisk_channels{state="up",technology="Local"} 4.0',
        'asterisk_channels{state="ring",technology="PJSIP"} 0.0',
        'asterisk_channels{state="ringing",technology="PJSIP"} 3.0',
        'asterisk_channels{state="up",technology="PJSIP"} 8.0',
        # CoreCurrentCalls says 17: it counts channels, and two of ConfBridge's own
        "asterisk_calls 9.0",
        "asterisk_parked_calls 1.0",
    ]


def test_no_channels(replies):
    assert text(ChannelCollector().collect(replies("idle"), NOW)) == [
        'asterisk_channels{state="ring",technology="PJSIP"} 0.0',
        'asterisk_channels{state="ringing",technology="PJSIP"} 0.0',
        'asterisk_channels{state="up",technology="PJSIP"} 0.0',
        "asterisk_calls 0.0",
        "asterisk_parked_calls 0.0",
    ]


@pytest.mark.parametrize(
    ("number", "name"),
    [("0", "down"), ("3", "dialing"), ("4", "ring"), ("9", "pre_ring"), ("10", "unknown")],
)
def test_channel_states_by_number(number, name):
    channel = event(
        Event="CoreShowChannel", Channel="IAX2/x-1", ChannelState=number, Linkedid="1.1"
    )
    replies = {"CoreShowChannels": listing("C", channel), "DeviceStateList": listing("D")}
    families = ChannelCollector().collect(replies, NOW)
    assert f'asterisk_channels{{state="{name}",technology="IAX2"}} 1.0' in text(families)


def test_spaces_that_are_taken_are_parked_calls():
    spaces = listing(
        "DeviceStateList",
        device("park:701@parkedcalls", "INUSE"),
        device("park:702@parkedcalls", "NOT_INUSE"),
        device("park:71@parkedcalls-sales", "INUSE"),
        device("Custom:park:703@parkedcalls", "INUSE"),
    )
    # what is parked from a conversation
    channel = event(Event="CoreShowChannel", Channel="PJSIP/1-1", ChannelState="6", Application="X")
    replies = {"CoreShowChannels": listing("C", channel), "DeviceStateList": spaces}
    assert "asterisk_parked_calls 2.0" in text(ChannelCollector().collect(replies, NOW))


def test_endpoints(replies):
    families = EndpointCollector(re.compile("provider|backup.*")).collect(replies("busy"), NOW)
    assert non_zero(text(families)) == [
        'asterisk_endpoints{state="not_in_use",technology="PJSIP"} 2.0',
        'asterisk_endpoints{state="in_use",technology="PJSIP"} 2.0',
        'asterisk_endpoints{state="unavailable",technology="PJSIP"} 2.0',
        'asterisk_endpoints{state="ringing",technology="PJSIP"} 1.0',
        'asterisk_endpoint_up{endpoint="provider",technology="PJSIP"} 1.0',
    ]
    assert 'asterisk_endpoint_up{endpoint="backup-trunk",technology="PJSIP"} 0.0' in text(families)
    assert len(families[0].samples) == len(DEVICE_STATES)


def test_endpoints_one_by_one_only_when_the_whole_name_matches(replies):
    for pattern in ("provide", "rovider", "10", "PJSIP/provider"):
        families = EndpointCollector(re.compile(pattern)).collect(replies("busy"), NOW)
        assert families[1].samples == []
    assert EndpointCollector().collect(replies("busy"), NOW)[1].samples == []


def device(name: str, state: str) -> Message:
    return event(Event="DeviceStateChange", Device=name, State=state)


def test_device_states_that_are_no_endpoints():
    reply = listing(
        "DeviceStateList",
        device("Queue:sales_pause_PJSIP/104", "INUSE"),
        device("MWI:1234@default", "INUSE"),
        device("park:701@parkedcalls", "INUSE"),
        device("Custom:night/mode", "INUSE"),
        device("Local/201@agents", "INUSE"),
        device("PJSIP/101", "RINGINUSE"),
        device("PJSIP/102", "ONHOLD"),
        device("IAX2/a/b", "SOMETHING_NEW"),
    )
    families = EndpointCollector(re.compile(".*")).collect({"DeviceStateList": reply}, NOW)
    assert non_zero(text(families)) == [
        'asterisk_endpoints{state="unknown",technology="IAX2"} 1.0',
        'asterisk_endpoints{state="ring_in_use",technology="PJSIP"} 1.0',
        'asterisk_endpoints{state="on_hold",technology="PJSIP"} 1.0',
        'asterisk_endpoint_up{endpoint="a/b",technology="IAX2"} 1.0',
        'asterisk_endpoint_up{endpoint="101",technology="PJSIP"} 1.0',
        'asterisk_endpoint_up{endpoint="102",technology="PJSIP"} 1.0',
    ]


def test_registrations(replies):
    assert text(RegistrationCollector().collect(replies("busy"), NOW)) == [
        'asterisk_registration_up{registration="provider-reg",server="sip:127.0.0.1:5060"} 1.0',
        'asterisk_registration_up{registration="rejected-reg",server="sip:127.0.0.1:5060"} 0.0',
        'asterisk_registration_up{registration="silent-reg",server="sip:127.0.0.1:6299"} 0.0',
    ]


def test_unregistered_is_not_registered():
    row = event(
        Event="OutboundRegistrationDetail", ObjectName="r", ServerUri="sip:s", Status="Unregistered"
    )
    action = "PJSIPShowRegistrationsOutbound"
    families = RegistrationCollector().collect({action: listing(action, row)}, NOW)
    assert text(families) == ['asterisk_registration_up{registration="r",server="sip:s"} 0.0']


def test_no_registrations(replies):
    assert text(RegistrationCollector().collect(replies("empty"), NOW)) == []


def test_a_trunks_password_is_in_the_reply_and_nowhere_else(replies):
    busy = replies("busy")
    reply = busy["PJSIPShowRegistrationsOutbound"]
    passwords = [item.get("Password") for item in reply.items if item.get("Event") == "AuthDetail"]
    assert passwords == ["reg-secret-1", "wrong"]
    families = RegistrationCollector().collect(busy, NOW)
    assert "reg-secret-1" not in repr(reply) + repr(families) + "".join(text(families))


def test_conferences(replies):
    assert text(ConferenceCollector().collect(replies("busy"), NOW)) == [
        "asterisk_conference_participants 2.0"
    ]


def test_no_conferences(replies):
    assert text(ConferenceCollector().collect(replies("idle"), NOW)) == [
        "asterisk_conference_participants 0.0"
    ]


def test_queues(replies):
    lines = text(QueueCollector().collect(replies("busy"), NOW))
    assert [line for line in lines if "_members{" not in line] == [
        'asterisk_queue_callers{queue="billing"} 0.0',
        'asterisk_queue_callers{queue="sales"} 1.0',
        'asterisk_queue_callers{queue="support"} 2.0',
        'asterisk_queue_callers{queue="vip"} 1.0',
        'asterisk_queue_longest_wait_seconds{queue="billing"} 0.0',
        'asterisk_queue_longest_wait_seconds{queue="sales"} 11.0',
        'asterisk_queue_longest_wait_seconds{queue="support"} 14.0',
        'asterisk_queue_longest_wait_seconds{queue="vip"} 10.0',
        'asterisk_queue_callers_over_service_level{queue="billing"} 0.0',
        'asterisk_queue_callers_over_service_level{queue="sales"} 0.0',
        'asterisk_queue_callers_over_service_level{queue="support"} 0.0',
        # waits 10 s with a threshold of 10 s: not over it
        'asterisk_queue_callers_over_service_level{queue="vip"} 0.0',
        'asterisk_queue_members_paused{queue="billing"} 0.0',
        'asterisk_queue_members_paused{queue="sales"} 1.0',
        'asterisk_queue_members_paused{queue="support"} 0.0',
        'asterisk_queue_members_paused{queue="vip"} 0.0',
        'asterisk_queue_members_available{queue="billing"} 1.0',
        'asterisk_queue_members_available{queue="sales"} 1.0',
        'asterisk_queue_members_available{queue="support"} 0.0',
        'asterisk_queue_members_available{queue="vip"} 0.0',
        'asterisk_queue_service_level_seconds{queue="billing"} 0.0',
        'asterisk_queue_service_level_seconds{queue="sales"} 30.0',
        'asterisk_queue_service_level_seconds{queue="support"} 60.0',
        'asterisk_queue_service_level_seconds{queue="vip"} 10.0',
        'asterisk_queue_max_callers{queue="billing"} 0.0',
        'asterisk_queue_max_callers{queue="sales"} 0.0',
        'asterisk_queue_max_callers{queue="support"} 50.0',
        'asterisk_queue_max_callers{queue="vip"} 0.0',
    ]
    assert non_zero([line for line in lines if "_members{" in line]) == [
        'asterisk_queue_members{queue="billing",state="not_in_use"} 1.0',
        'asterisk_queue_members{queue="sales",state="not_in_use"} 2.0',
        'asterisk_queue_members{queue="sales",state="ringing"} 1.0',
        'asterisk_queue_members{queue="support",state="in_use"} 1.0',
        'asterisk_queue_members{queue="support",state="unavailable"} 1.0',
        'asterisk_queue_members{queue="support",state="ringing"} 1.0',
    ]
    assert len([line for line in lines if "_members{" in line]) == 4 * len(DEVICE_STATES)


def test_members_one_by_one(replies):
    lines = text(QueueCollector(members=True).collect(replies("busy"), NOW))
    who = 'interface="Local/201@agents/n",member="Dan Example",queue="sales"'
    assert f'asterisk_queue_member_state{{{who},state="not_in_use"}} 1.0' in lines
    assert f'asterisk_queue_member_state{{{who},state="ringing"}} 0.0' in lines
    assert f"asterisk_queue_member_paused{{{who}}} 1.0" in lines
    assert any('member="Zoë Ünal"' in line for line in lines)
    assert not any(
        "_member_" in line for line in text(QueueCollector().collect(replies("busy"), 0))
    )


def member(**changed: str) -> Message:
    headers = {
        "Event": "QueueMember",
        "Queue": "q",
        "Name": "A",
        "Location": "PJSIP/1",
        "Status": "1",
        "Paused": "0",
        "LastCall": "0",
        "Wrapuptime": "0",
    }
    return event(**{**headers, **changed})


PARAMS = event(Event="QueueParams", Queue="q", ServiceLevel="20")


def one_queue(*items: Message, now: float = NOW):
    [queue] = queues(listing("QueueStatus", PARAMS, *items), now)
    return queue


@pytest.mark.parametrize(
    ("number", "state", "available"),
    [
        ("0", "unknown", 1),
        ("1", "not_in_use", 1),
        ("2", "in_use", 0),
        ("3", "busy", 0),
        ("4", "invalid", 0),
        ("5", "unavailable", 0),
        ("6", "ringing", 0),
        ("7", "ring_in_use", 0),
        ("8", "on_hold", 0),
    ],
)
def test_member_states(number, state, available):
    queue = one_queue(member(Status=number))
    assert [s for s, count in queue.members_by_state.items() if count] == [state]
    assert queue.available == available


def test_a_paused_member_is_not_available_and_keeps_its_state():
    queue = one_queue(member(Paused="1"), member(Paused="1", Status="5"))
    assert (queue.paused, queue.available) == (2, 0)
    assert queue.members_by_state["not_in_use"] == 1


@pytest.mark.parametrize(
    ("last_call", "wrap_up", "available"),
    [
        (NOW - 29, 30, 0),
        (NOW - 30, 30, 1),
        (NOW - 1, 0, 1),
        (0, 30, 1),
    ],
)
def test_wrap_up(last_call, wrap_up, available):
    item = member(LastCall=str(int(last_call)), Wrapuptime=str(wrap_up))
    assert one_queue(item).available == available


def entry(wait: int) -> Message:
    return event(Event="QueueEntry", Queue="q", Wait=str(wait))


def test_waiting_callers():
    queue = one_queue(entry(5), entry(20), entry(21), entry(300))
    assert queue.waits == (5, 20, 21, 300)
    assert queue.longest_wait_seconds == 300
    assert queue.over_service_level == 2
    assert one_queue().longest_wait_seconds == 0


def test_a_device_state_of_a_later_asterisk_is_unknown():
    assert device_state(9) == device_state(-1) == "unknown"
    assert [device_state(n) for n in range(9)] == list(DEVICE_STATES)


def test_names_of_other_encodings_stay_distinct_and_valid():
    names = {label(raw.decode("utf-8", "surrogateescape")) for raw in (b"caf\xe9", b"caf\xe8")}
    assert names == {r"caf\xe9", r"caf\xe8"}
    assert label("Zoë") == "Zoë"


def test_no_callers_number_channel_or_id_is_a_label(replies):
    lines = "\n".join(line for c in COLLECTORS for line in text(c.collect(replies("busy"), NOW)))
    assert "17954925" not in lines.replace("1.7954925", "")
    assert "-0000000" not in lines
