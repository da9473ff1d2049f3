"""Records and queue visits of real calls, as Asterisk 22.10 wrote them, and what they are."""

from __future__ import annotations

import contextlib
import re
import time
from calendar import timegm
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asterisk_exporter.journal import calls, visits
from asterisk_exporter.journal.calls import DidClass, Rules, Visit, decide, match_number
from asterisk_exporter.journal.cdr import CdrCounter
from asterisk_exporter.journal.ledger import CALLS, DAY, MISSED, TALK, CallLedger
from asterisk_exporter.journal.queue_log_source import QueueLogSource
from asterisk_exporter.journal.record import Record
from asterisk_exporter.journal.store import JournalStore, JournalStoreError

COLUMNS = [
    *("uniqueid", "linkedid", "sequence"),
    *("src", "dst", "dcontext"),
    *("channel", "dstchannel", "lastapp"),
    *("lastdata", "start", "answer"),
    *("end", "duration", "billsec"),
    *("disposition", "userfield", "accountcode"),
    *("peeraccount",),
]
SAMPLES = (Path(__file__).parent / "call_records.txt").read_text().splitlines()
RULES = Rules(
    trunks=frozenset({"provider"}), classes=(DidClass(r"\+49305551\d", "sales"),), keep_days=30
)

#: caller: direction, outcome, destination and reason of each of the caller's calls
EXPECTED = {
    "+4915500000001": ["inbound answered"],
    "+4915500000002": ["inbound answered"],
    "+4915500000003": ["inbound answered"],
    "+4915500000004": ["inbound missed nobody abandoned"],
    "+4915500000005": ["inbound missed nobody abandoned"],
    "+4915500000006": ["inbound missed nobody timeout"],
    "+4915500000007": ["inbound missed emptying empty"],
    "+4915500000008": ["inbound missed emptying empty"],
    "+4915500000009": ["inbound missed full abandoned"],
    "+4915500000010": ["inbound missed full full"],
    "+4915500000011": ["inbound missed nobody timeout", "inbound missed nobody key"],
    "+4915500000012": ["inbound missed nobody withdrawn"],
    "+4915500000013": ["inbound answered"],
    "+4915500000014": ["inbound missed ignored-alone abandoned"],
    "+4915500000015": ["inbound answered"],
    "+4915500000016": ["inbound answered"],
    "+4915500000017": ["inbound answered"],
    "+4915500000018": ["inbound missed other ivr_hangup"],
    "+4915500000019": ["inbound missed closed closed"],
    "+4915500000020": ["inbound answered"],
    "+4915500000021": ["inbound answered"],
    "+4915500000022": ["inbound missed other voicemail"],
    "+4915500000023": ["inbound missed other no_answer"],
    "+4915500000024": ["inbound missed other no_answer"],
    "+4915500000025": ["inbound missed other busy"],
    "+4915500000026": ["inbound missed other no_answer"],
    "+4915500000104": ["inbound answered", "inbound answered"],
    "101": ["outbound answered"],
    "102": ["internal answered"],
}
#: Waited in a queue when Asterisk was killed; no record of it was ever written.
KILLED = "+491550693720000"


def sample_records() -> list[Record]:
    found = []
    for line in SAMPLES:
        fields = line.split("|")
        if len(fields) != len(COLUMNS) or line.startswith("columns"):
            continue
        values = dict(zip(COLUMNS, fields))
        for name in ("start", "answer", "end"):
            clock = values[name] and time.strptime(f"2026-11-24 {values[name]}", "%Y-%m-%d %X")
            values[name] = timegm(clock) if clock else None
        found.append(Record.from_values(values))
    return found


def sample_queue_log() -> str:
    lines = {line for line in SAMPLES if re.match(r"\d{10}\|", line)}
    return "".join(f"{line}\n" for line in sorted(lines, key=lambda line: (line[:10], order(line))))


def order(line: str) -> int:
    """Lines of one second in the order in which they must have been written."""
    exits = ("EXITWITH", "ABANDON", "COMPLETE", "EXITEMPTY", "WITHDRAW", "TRANSFER")
    return sum((n + 1) * (word in line) for n, word in enumerate(("CONNECT", "COMPLETE"))) or (
        -1 if any(word in line for word in exits) else 0
    )


RECORDS = sample_records()
CALLER = {r.linkedid: r.src for r in RECORDS if r.uniqueid == r.linkedid}
#: When Asterisk wrote the records of a channel: when it ended.
WRITTEN = {
    name: max(record.end for record in RECORDS if record.uniqueid == name)
    for name in {record.uniqueid for record in RECORDS}
}
END = max(record.end for record in RECORDS)
LATER = END + DAY


MISSED_COLUMNS = "linkedid, at, ended, caller, number, dialled, destination, reason, wait"


class Site:
    """A state file with what reads records into it; `again` is a restart."""

    def __init__(self, folder: Path, rules: Rules = RULES) -> None:
        self.folder, self.rules = folder, rules
        self.store = JournalStore(folder / "state")
        self.read_through = LATER
        self.begin()

    def begin(self) -> None:
        ledger = CallLedger(self.store, self.rules, lambda: self.read_through)
        self.counter = CdrCounter(self.store, ledger)
        self.counter.load()

    def again(self) -> None:
        self.store.close()
        self.store = JournalStore(self.folder / "state")
        self.begin()

    def read_queue_log(self, text: str) -> None:
        path = self.folder / "queue_log"
        path.write_text(text)
        source = QueueLogSource(self.store, path, visits.ServiceLevels({"x": 20}))
        source.prune = False
        source.open()
        source.begin(backfill=True)
        while source.read():
            pass

    def read(self, records, watermark: float, read_at: float = 0.0) -> None:
        read = self.store.values("asterisk_exporter_journal_records").get(("cdr",), 0)
        self.counter.apply({"read": read + len(records)}, records, read_at, watermark)

    def visit(self, *values) -> None:
        with contextlib.closing(self.store._db.cursor()) as cursor:
            cursor.execute("INSERT OR REPLACE INTO visit VALUES (?,?,?,?,?,?,?,?,?)", values)

    def values(self, name: str) -> dict:
        return {labels: value for labels, value in self.store.values(name).items() if value}

    def everything(self) -> tuple:
        return (
            {name: self.values(name) for name in self.store._values},
            *(
                sorted(self.store.rows(f"SELECT {columns} FROM {table}"), key=repr)
                for columns, table in (
                    # not the id: it is the order in which they came to be decided
                    (MISSED_COLUMNS, "missed"),
                    ("*", "contact"),
                    ("*", "leg"),
                    ("*", "visit"),
                )
            ),
        )

    def outstanding(self) -> dict[str, float]:
        (family,) = (f for f in self.counter.families() if f.name == f"{MISSED}_outstanding")
        return {s.labels["destination"]: s.value for s in family.samples if s.value}


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def real(site):
    site.read_queue_log(sample_queue_log())
    return site


def described(call: calls.Call) -> str:
    told = [call.direction, call.outcome]
    if call.direction == "inbound" and call.outcome == "missed":
        told += [call.destination, call.reason]
    return " ".join(told)


def test_every_real_call_is_what_it_was(real):
    rules = replace(RULES, classes=())
    found: dict[str, list[str]] = {}
    for linkedid in sorted(CALLER):
        records = [record for record in RECORDS if record.linkedid == linkedid]
        its_visits = [
            Visit(*row)
            for row in real.store.rows(
                "SELECT callid, queue, entered, caller, outcome, wait, talk, ended FROM visit "
                "WHERE callid = ?",
                (linkedid,),
            )
        ]
        call = decide(linkedid, records, its_visits, rules)
        found.setdefault(call.caller, []).append(described(call))
    assert found == EXPECTED


def test_counters_of_the_real_calls(real):
    real.read(RECORDS, LATER)
    told = [one.split(" ") for many in EXPECTED.values() for one in many]
    missed = Counter(tuple(one[2:]) for one in told if one[1] == "missed")
    killed = ("nobody", "failed")
    assert real.values(MISSED) == {**missed, killed: 1}
    by_outcome = Counter((one[0], one[1]) for one in told)
    by_outcome["inbound", "missed"] += 1
    assert real.values(CALLS) == by_outcome
    assert sum(real.values(MISSED).values()) == real.values(CALLS)["inbound", "missed"]
    assert real.values("asterisk_trunk_attempts") == {("provider",): 1}
    assert real.values("asterisk_trunk_answered") == {("provider",): 1}
    assert real.values("asterisk_trunk_talk_seconds") == {("provider",): 4}
    assert not real.values("asterisk_trunk_network_failures")
    assert real.values(f"{TALK}_sum")["outbound",] == 4
    # queue talk as queue_log has it; 5 s after the blind transfer, 4 s with a phone
    assert real.values(f"{TALK}_sum")["inbound",] == (2 + 4 + 2 + 5) + (2 + 2 + 2 + 2 + 2) + 4 + (
        13 + 7
    )
    assert real.values(f"{TALK}_bucket")["inbound", "+Inf"] == by_outcome["inbound", "answered"]
    assert real.values(f"{TALK}_bucket")["inbound", "10.0"] == by_outcome["inbound", "answered"] - 1
    # all is decided, and nothing is left but what may still be answered by a late record
    assert not real.store.rows("SELECT * FROM leg")
    assert {row[0] for row in real.store.rows("SELECT outcome FROM visit")} <= {"answered"}


def test_who_waits_to_be_called_back(real):
    real.read(RECORDS, LATER)
    expected = Counter(
        told.split(" ")[2]
        for caller, many in EXPECTED.items()
        for told in many
        # whom 101 called back, with other digits in front
        if "missed" in told and caller != "+4915500000005"
    )
    expected["nobody"] += 1
    assert real.outstanding() == expected
    ended = dict(real.store.rows("SELECT caller, ended FROM missed"))
    (family,) = (f for f in real.counter.families() if "oldest" in f.name)
    oldest = {s.labels["destination"]: s.value for s in family.samples}
    assert oldest["full"] == ended["+4915500000010"]
    assert set(oldest) == set(expected)


def test_every_series_is_0_before_its_first_call(real):
    real.read([], 0)
    assert real.store.values(CALLS)["inbound", "missed"] == 0
    assert real.store.values(MISSED)["nobody", "abandoned"] == 0
    assert real.store.values(MISSED)["sales", "no_answer"] == 0
    assert real.store.values(MISSED)["other", "ivr_hangup"] == 0
    assert ("nobody", "busy") not in real.store.values(MISSED)
    assert real.store.values("asterisk_trunk_attempts") == {("provider",): 0}
    assert real.store.values(f"{TALK}_bucket")["inbound", "10.0"] == 0
    assert real.outstanding() == {}
    (family,) = (f for f in real.counter.families() if f.name == f"{MISSED}_outstanding")
    assert {s.labels["destination"] for s in family.samples} >= {"nobody", "full", "sales", "other"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    one = Site(tmp_path_factory.mktemp("reference"))
    one.read_queue_log(sample_queue_log())
    one.read(RECORDS, LATER)
    yield one.everything()
    one.store.close()


MANY = settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)


@MANY
@given(st.data())
def test_any_order_any_batches_and_a_restart_after_each(tmp_path_factory, reference, data):
    shuffled = data.draw(st.permutations(RECORDS))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(RECORDS) - 1), max_size=5)))
    restarts = data.draw(st.booleans())
    one = Site(tmp_path_factory.mktemp("order"))
    try:
        one.read_queue_log(sample_queue_log())
        for start, end in zip([0, *cuts], [*cuts, len(RECORDS)]):
            one.read(shuffled[start:end], 0)
            if restarts:
                one.again()
        one.read([], LATER)
        assert one.everything() == reference
    finally:
        one.store.close()


@MANY
@given(st.integers(1, len(RECORDS)), st.booleans())
def test_history_is_decided_as_it_is_read(tmp_path_factory, reference, size, restarts):
    """A backfill knows no clock: the newest record read is how far it is."""
    one = Site(tmp_path_factory.mktemp("history"))
    try:
        one.read_queue_log(sample_queue_log())
        written = sorted(RECORDS, key=lambda one: (WRITTEN[one.uniqueid], one.sequence))
        newest = 0.0
        for start in range(0, len(written), size):
            batch = written[start : start + size]
            newest = max(newest, *(record.end for record in batch))
            one.read(batch, newest, read_at=newest)
            if restarts:
                one.again()
        one.read([], LATER)
        assert one.everything() == reference
    finally:
        one.store.close()


NUMBER = "+4930123456789"


def record(uniqueid="a", linkedid="a", end=100.0, disposition="NO ANSWER", **given) -> Record:
    values = {
        "uniqueid": uniqueid,
        "linkedid": linkedid,
        "src": NUMBER,
        "dst": "+493055512",
        "dcontext": "from-external",
        "channel": "PJSIP/provider-0000000a",
        "lastapp": "Dial",
        "start": end - 10,
        "end": end,
        "billsec": 7 if disposition == "ANSWERED" else 0,
        "disposition": disposition,
        **given,
    }
    return Record.from_values(values)


def outbound(**given) -> Record:
    channel, dst = "PJSIP/101-0000001f", "030 123456789"
    return record(
        **{"uniqueid": "o", "linkedid": "o", "channel": channel, "dcontext": "internal"}
        | {"src": "101", "dst": dst, "dstchannel": "PJSIP/provider-00000020"}
        | given
    )


def test_a_call_is_decided_when_it_has_settled(site):
    site.read([record(dstchannel="PJSIP/111-01")], 109)
    assert not site.values(CALLS)
    site.read([], 110)
    assert site.values(CALLS) == {("inbound", "missed"): 1}


def test_a_channels_earlier_record_does_not_decide_its_call(site):
    """Both are written when the channel ends, and the first may be read alone."""
    rung = record(dstchannel="PJSIP/115-0a", end=100, sequence=1)
    answered = record(dstchannel="PJSIP/111-0b", end=900, disposition="ANSWERED", sequence=2)
    site.read([rung], 900, read_at=900)
    site.again()
    site.read([], 905, read_at=905)
    assert not site.values(CALLS)
    site.read([answered], 905, read_at=905)
    site.read([], 915, read_at=915)
    assert site.values(CALLS) == {("inbound", "answered"): 1}


def test_a_call_waits_for_queue_log(site):
    site.read_through = 105
    site.read([record(lastapp="Queue")], 200)
    assert not site.values(CALLS)
    site.visit("a", "support", 90, NUMBER, "answered", "PJSIP/111", 3, 7, 100)
    site.read_through = 200
    site.read([], 200)
    assert site.values(CALLS) == {("inbound", "answered"): 1}


def test_legs_that_end_early_do_not_end_a_call(site):
    """A ring-all with Local members writes its attempts' records while the caller still waits."""
    site.visit("a", "support", 90, NUMBER, None, None, None, None, None)
    for number, end in enumerate((100, 120, 140)):
        leg = record(f"leg{number}", end=end, channel="Local/111@phones-01;2", dcontext="phones")
        site.read([leg], end + 5)
    site.read([], 5000)
    site.again()
    assert not site.values(CALLS)
    site.visit("a", "support", 90, NUMBER, "answered", "Local/111", 4000, 500, 5000)
    site.read([record(lastapp="Queue", disposition="ANSWERED", end=5000)], 5005)
    site.read([], 5010)
    assert site.values(CALLS) == {("inbound", "answered"): 1}


def test_a_call_whose_first_channel_left_no_record(site):
    site.read([record("b", "nowhere", disposition="BUSY", dstchannel="PJSIP/1-0")], 699)
    assert not site.values(CALLS)
    site.read([], 700)
    assert site.values(CALLS) == {("inbound", "missed"): 1}


def test_an_agent_who_answers_when_the_caller_is_gone(site):
    site.visit("a", "support", 90, NUMBER, "abandoned", None, 9, None, 99)
    late = record(
        "leg", disposition="ANSWERED", channel="Local/111@p-01;2", dstchannel="PJSIP/111-02"
    )
    site.read([record(lastapp="Queue", disposition="ANSWERED"), late], LATER)
    assert site.values(MISSED) == {("support", "abandoned"): 1}


def test_overflow_to_a_phone_that_answers(site):
    site.visit("a", "support", 80, NUMBER, "timeout", None, 10, None, 90)
    both = [
        record(lastapp="Queue", disposition="ANSWERED", end=90),
        record(disposition="ANSWERED", dstchannel="PJSIP/111-02"),
    ]
    site.read(both, LATER)
    assert site.values(CALLS) == {("inbound", "answered"): 1}
    assert site.values(f"{TALK}_sum") == {("inbound",): 7}


def test_a_local_channel_that_went_to_voicemail(site):
    both = [
        record(disposition="ANSWERED", dstchannel="Local/111@phones-0a;1"),
        record("b", disposition="ANSWERED", lastapp="VoiceMail", channel="Local/111@phones-0a;2"),
    ]
    site.read(both, LATER)
    assert site.values(CALLS) == {("inbound", "missed"): 1}
    answering = replace(both[1], lastapp="Dial", dstchannel="PJSIP/111-01")
    found = [replace(r, linkedid="z", uniqueid="z" + r.uniqueid) for r in (both[0], answering)]
    site.read([replace(found[0], uniqueid="z"), found[1]], LATER)
    assert site.values(CALLS)["inbound", "answered"] == 1


@pytest.mark.parametrize("lastapp", ["Playback", "VoiceMail", "Queue", "BackGround"])
def test_what_the_dialplan_answered_reached_nobody(lastapp):
    call = decide("a", [record(lastapp=lastapp, disposition="ANSWERED")], [], RULES)
    assert call.outcome == "missed"
    assert call.reason == ("voicemail" if lastapp == "VoiceMail" else "ivr_hangup")


def test_a_conference_is_an_answer():
    call = decide("a", [record(lastapp="ConfBridge", disposition="ANSWERED")], [], RULES)
    assert (call.outcome, call.talk) == ("answered", 7)


def test_without_queue_log_the_agents_record_tells():
    answered = record(lastapp="Queue", disposition="ANSWERED", dstchannel="PJSIP/111-01")
    assert decide("a", [answered], [], RULES).outcome == "answered"
    waiting = Visit("a", "support", 90, NUMBER, "abandoned", 9, None, 99)
    assert decide("a", [answered], [waiting], RULES).outcome == "missed"


@pytest.mark.parametrize(
    ("dispositions", "inbound", "outward"),
    [
        (["NO ANSWER"], "no_answer", "missed"),
        (["CANCEL"], "no_answer", "missed"),
        (["BUSY"], "busy", "busy"),
        (["FAILED"], "failed", "failed"),
        (["CONGESTION"], "failed", "failed"),
        (["CONGESTION", "NO ANSWER", "BUSY"], "no_answer", "missed"),
        (["FAILED", "BUSY"], "busy", "busy"),
        (["NEWS"], "failed", "failed"),
    ],
)
def test_nobody_answered(dispositions, inbound, outward):
    legs = [
        record(disposition=one, dstchannel=f"PJSIP/11{n}-0{n}")
        for n, one in enumerate(dispositions)
    ]
    call = decide("a", legs, [], RULES)
    assert (call.outcome, call.reason) == ("missed", inbound)
    assert (
        decide("o", [outbound(disposition=d) for d in dispositions], [], RULES).outcome == outward
    )


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [("join_empty", "empty"), ("incompatible", "failed"), ("unknown", "failed"), (None, "failed")]
    + [
        (one, one)
        for one in ("abandoned", "timeout", "empty", "full", "key", "withdrawn", "closed")
    ],
)
def test_the_last_visit_is_the_reason_and_the_first_the_destination(outcome, reason):
    visits_ = [
        Visit("a", "another", 95, NUMBER, outcome, 5, None, 100),
        Visit("a", "first", 90, NUMBER, "timeout", 5, None, 95),
    ]
    call = decide("a", [record(lastapp="VoiceMail", disposition="ANSWERED")], visits_, RULES)
    assert (call.destination, call.reason, call.wait) == ("first", reason, 10)


def test_directions():
    assert decide("o", [outbound()], [], RULES).direction == "outbound"
    unreached = outbound(dstchannel="", lastdata="PJSIP/030123@provider,60,f(x)")
    assert decide("o", [unreached], [], RULES).direction == "outbound"
    assert decide("o", [outbound()], [], replace(RULES, trunks=frozenset())).direction == "internal"
    elsewhere = record(dcontext="custom")
    assert decide("a", [elsewhere], [], RULES).direction == "inbound"
    assert decide("a", [elsewhere], [], replace(RULES, trunks=frozenset())).direction == "internal"
    forwarded = record(dstchannel="PJSIP/provider-0b", disposition="ANSWERED")
    assert decide("a", [forwarded], [], RULES).direction == "inbound"


def test_a_phone_that_calls_a_service_is_answered():
    service = outbound(dstchannel="", lastapp="VoiceMailMain", disposition="ANSWERED")
    assert decide("o", [service], [], RULES).outcome == "answered"
    rung = outbound(dstchannel="PJSIP/111-0a")
    box = outbound(dstchannel="", lastapp="VoiceMail", disposition="ANSWERED", end=120)
    assert decide("o", [rung, box], [], RULES).outcome == "missed"


def test_destination_classes_match_the_whole_number():
    assert decide("a", [record()], [], RULES).destination == "sales"
    assert decide("a", [record(dst="+4930555123")], [], RULES).destination == "other"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("+49 30 123456789", "123456789"),
        ("0123456789", "123456789"),
        ("111", "111"),
        ("anonymous", None),
        ("", None),
    ],
)
def test_numbers_are_compared_by_their_last_digits(text, number):
    assert match_number(text, 9) == number


def test_calling_back_settles_all_of_a_callers_missed_calls(site):
    site.read([record(), record("b", "b", end=130)], 500)
    assert site.outstanding() == {"sales": 2}
    # not answered, and answered before the second was missed
    site.read([outbound(end=200), outbound(uniqueid="p", linkedid="p", end=110)], 500)
    assert site.outstanding() == {"sales": 2}
    answered = outbound(uniqueid="q", linkedid="q", disposition="ANSWERED", end=200)
    site.read([replace(answered, uniqueid="r", linkedid="r", end=110.0)], 500)
    assert site.outstanding() == {"sales": 1}
    site.read([answered], 500)
    assert site.outstanding() == {}
    site.read([record("c", "c", end=300)], 500)
    assert site.outstanding() == {"sales": 1}
    # and the caller gets through
    site.read([record("d", "d", end=400, disposition="ANSWERED", dstchannel="PJSIP/1-0")], 500)
    assert site.outstanding() == {}
    site.again()
    assert site.outstanding() == {}


def test_nobody_can_be_called_back_who_hides_the_number(site):
    site.read([record(src="anonymous")], 500)
    assert site.values(MISSED)
    assert site.outstanding() == {}


def test_a_record_that_comes_late(site):
    site.read([record()], 500)
    assert site.outstanding() == {"sales": 1}
    site.again()
    late = record(disposition="ANSWERED", dstchannel="PJSIP/111-0a", end=101)
    site.read([late], 600)
    assert site.outstanding() == {}
    assert site.values(CALLS) == {("inbound", "missed"): 1}
    assert site.values("asterisk_cdr_records") == {("NO ANSWER",): 1, ("ANSWERED",): 1}
    assert not site.store.rows("SELECT * FROM leg")


def test_a_late_record_of_voicemail_answers_nothing(site):
    site.read([record()], 500)
    site.read([record(disposition="ANSWERED", lastapp="VoiceMail")], 600)
    site.read([record(disposition="ANSWERED", lastapp="Queue", dstchannel="PJSIP/1-0")], 600)
    assert site.outstanding() == {"sales": 1}


def test_who_waited_when_asterisk_was_killed_is_counted_once(site):
    site.visit("a", "support", 90, NUMBER, "lost", None, 20, None, 110)
    site.read([], 119)
    assert not site.values(MISSED)
    site.read([], 120)
    site.again()
    site.read([], 500)
    assert site.values(MISSED) == {("support", "failed"): 1}
    assert site.outstanding() == {"support": 1}
    assert not site.store.rows("SELECT * FROM visit")


def test_a_lost_visit_of_a_call_that_has_records_is_its_own(site):
    site.visit("a", "support", 90, NUMBER, "lost", None, 20, None, 110)
    site.read([record(lastapp="Queue", end=115)], 124)
    assert not site.values(CALLS)
    site.read([], 125)
    assert site.values(CALLS) == {("inbound", "missed"): 1}
    site.read([], 500)
    assert site.values(MISSED) == {("support", "failed"): 1}


def test_a_visit_that_is_closed_after_its_call_is_no_second_call(site):
    site.visit("b", "support", 90, NUMBER, None, None, None, None, None)
    site.read([record(), record("b", dstchannel="PJSIP/1-0")], 500)
    site.visit("b", "support", 90, NUMBER, "lost", None, 20, None, 110)
    site.read([], 600)
    assert site.values(CALLS) == {("inbound", "missed"): 1}


def test_missed_calls_have_an_order_that_outlives_them(site):
    def ids():
        return dict(site.store.rows("SELECT linkedid, id FROM missed"))

    site.read([record()], 500)
    site.read([record("b", "b", end=200.0)], 600)
    assert ids() == {"a": 1, "b": 2}
    site.read([], 300 + 30 * DAY)
    assert ids() == {}
    late = 400.0 + 30 * DAY
    site.read([record("c", "c", end=late)], late + 100)
    assert ids() == {"c": 3}
    # after two days nobody knows any more that it was decided
    site.read([], late + 3 * DAY)
    site.read([record("c", "c", end=late), record("d", "d", end=late)], late + 4 * DAY)
    assert list(ids()) == ["c", "d"]
    assert ids()["c"] == 3 < ids()["d"]


def test_old_rows_go(site):
    site.read([record(), outbound(disposition="ANSWERED", dst="0405556667")], 500)
    site.visit("z", "support", 90, NUMBER, "answered", "x", 3, 7, 100)
    site.visit("y", "support", 90, NUMBER, None, None, None, None, None)
    site.read([], 100 + 3 * DAY)
    assert [row[0] for row in site.store.rows("SELECT callid FROM visit")] == ["y"]
    assert not site.store.rows("SELECT * FROM decided")
    assert site.outstanding() == {"sales": 1}
    site.read([], 200 + 30 * DAY)
    assert site.outstanding() == {}
    assert not site.store.rows("SELECT * FROM missed")
    assert not site.store.rows("SELECT * FROM contact")


def test_a_change_that_fails_is_made_again(site, monkeypatch):
    site.read([record("leg", dstchannel="PJSIP/1-0")], 50)

    def fail(_change):
        raise JournalStoreError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(site.store, "apply", fail)
        with pytest.raises(JournalStoreError):
            site.read([record()], 500)
    site.counter.load()
    site.read([record()], 500)
    assert site.values(CALLS) == {("inbound", "missed"): 1}
    assert not site.store.rows("SELECT * FROM leg")


def test_trunks_count_their_attempts(site):
    ended = ("ANSWERED", "BUSY", "FAILED", "CONGESTION", "NO ANSWER")
    legs = [outbound(uniqueid=d, linkedid=d, disposition=d) for d in ended]
    legs.append(outbound(uniqueid="x", linkedid="x", dstchannel="", lastdata="PJSIP/1@provider,60"))
    legs.append(outbound(uniqueid="y", linkedid="y", dstchannel="PJSIP/provider2-0a"))
    legs.append(record())
    site.read(legs, 0)
    shown = {
        name.rpartition("trunk_")[2]: sum(site.values(name).values())
        for name in (*calls_of_trunks(),)
    }
    assert shown == {"attempts": 6, "answered": 1, "network_failures": 2, "talk_seconds": 7}


def calls_of_trunks() -> list[str]:
    figures = ("attempts", "answered", "network_failures", "talk_seconds")
    return [f"asterisk_trunk_{one}" for one in figures]
