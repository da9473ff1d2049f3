"""Hundreds of real visits, and the figures that came of them against an independent ledger.

Four accounts must agree: what callers and agents did (the ledger), queue_log as recounted here,
app_queue's own counters, and the exporter's metrics.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from history import wait_until_settled
from lab import Lab, wait_until
from visits import ADDED, KILLED, QUEUE_LOG, Ledger, more_queues, run

SERVICE_LEVEL = {queue["name"]: queue.get("servicelevel", 0) for queue in ADDED["pbx_queues"]}
SHORT_ABANDON_SECONDS = 5
EXITS = {
    "ABANDON": "abandoned",
    "EXITWITHTIMEOUT": "timeout",
    "EXITEMPTY": "empty",
    "EXITWITHKEY": "key",
    "WITHDRAW": "withdrawn",
    "SYSCOMPAT": "incompatible",
}


@dataclass
class Recount:
    """What the lines of a queue_log say, counted the plain way, with nothing of the exporter's."""

    offered: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)
    answered_in_service_level: Counter[str] = field(default_factory=Counter)
    unanswered: Counter[tuple[str, str]] = field(default_factory=Counter)
    short_abandoned: Counter[str] = field(default_factory=Counter)
    ring_no_answer: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: (caller, queue, end) of visits that were let in.
    visits: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    #: (callid, queue) -> caller.
    waiting: dict[tuple[str, str], str] = field(default_factory=dict)

    def take(self, line: str) -> None:
        _, callid, queue, agent, event, *data = line.split("|")
        if event == "ENTERQUEUE":
            self.offered[queue] += 1
            self.waiting[callid, queue] = data[1]
        elif event == "REFUSED":
            self.offered[queue] += 1
            self.unanswered[queue, data[0]] += 1
        elif event == "RINGNOANSWER":
            self.ring_no_answer[queue, agent] += 1
        elif event == "CONNECT":
            self.answered[queue] += 1
            self.answered_in_service_level[queue] += int(data[0]) <= SERVICE_LEVEL[queue]
            self.leave((callid, queue), "answered")
        elif event in EXITS:
            self.take_exit((callid, queue), event, data)
        elif event == "QUEUESTART":
            for visit in list(self.waiting):
                self.unanswered[visit[1], "lost"] += 1
                self.leave(visit, "lost")

    def take_exit(self, visit: tuple[str, str], event: str, data: list[str]) -> None:
        self.unanswered[visit[1], EXITS[event]] += 1
        if event == "ABANDON":
            self.short_abandoned[visit[1]] += int(data[2]) <= SHORT_ABANDON_SECONDS
        self.leave(visit, EXITS[event])

    def leave(self, visit: tuple[str, str], end: str) -> None:
        self.visits[self.waiting.pop(visit), visit[1], end] += 1


def recount(lines: list[str]) -> Recount:
    it = Recount()
    for line in lines:
        it.take(line)
    assert not it.waiting, f"still in a queue: {it.waiting}"
    return it


@dataclass(frozen=True)
class Proof:
    """One run, and what was there before."""

    ledger: Ledger
    recount: Recount
    metrics_before: dict[str, float]
    #: When it began, in Unix seconds.
    began: int


@pytest.fixture(scope="module")
def proof(lab: Lab) -> Iterator[Proof]:
    with more_queues(lab):
        wait_until_settled(lab)
        began = int(time.time())
        before = lab.metrics()
        lines = int(lab.run(f"wc -l <{QUEUE_LOG}"))
        ledger = run(lab)
        wait_until_settled(lab)
        gained = lab.run(f"tail -n +{lines + 1} {QUEUE_LOG}").splitlines()
        yield Proof(ledger, recount(gained), before, began)


def gained(lab: Lab, proof: Proof, family: str) -> dict[str, float]:
    """Return what the counters of one family gained: labels as in the exposition -> gain."""
    now = {k: v for k, v in lab.metrics().items() if k.startswith(f"{family}{{")}
    gains = {key: value - proof.metrics_before.get(key, 0) for key, value in now.items()}
    return {key[len(family) :]: gain for key, gain in gains.items() if gain}


def expect(lab: Lab, proof: Proof, family: str, gains: dict[str, int]) -> None:
    """Wait until the exporter has counted that, and no more."""
    gains = {labels: gain for labels, gain in gains.items() if gain}
    last: dict[str, float] = {}

    def same() -> bool:
        last.clear()
        last.update(gained(lab, proof, family))
        return last == gains

    try:
        wait_until(same, 60, family)
    except AssertionError:
        assert last == gains, family


def by_queue(counts: Counter[str]) -> dict[str, int]:
    return {f"{{queue={queue}}}": count for queue, count in counts.items()}


# --- the ledger, queue_log and app_queue ---------------------------------------------------------


def test_every_way_was_gone_often_enough(proof: Proof) -> None:
    let_in = sum(proof.recount.visits.values())
    assert let_in >= 300, let_in
    ways = {end for _, _, end in proof.ledger.visits}
    assert ways == {"answered", *EXITS.values(), "lost", "full", "join_empty", "closed"} - {
        "incompatible"  # no channel of today's Asterisk makes it
    }


@pytest.mark.parametrize(
    "count",
    ["offered", "answered", "answered_in_service_level", "unanswered", "short_abandoned"],
)
def test_queue_log_has_what_the_callers_did(proof: Proof, count: str) -> None:
    assert +getattr(proof.recount, count) == getattr(proof.ledger, count)()


def test_queue_log_has_the_phones_that_rang_in_vain(proof: Proof) -> None:
    assert proof.recount.ring_no_answer == proof.ledger.ring_no_answer


def test_queue_log_has_each_caller_in_its_queue(proof: Proof) -> None:
    refused = {"full", "join_empty", "closed"}  # those lines do not name the caller
    ledger = Counter((c.caller, q, end) for c, q, end in proof.ledger.visits if end not in refused)
    assert proof.recount.visits == ledger


def test_every_visit_has_one_end(proof: Proof) -> None:
    ends = proof.ledger.answered()
    for (queue, _), count in proof.ledger.unanswered().items():
        ends[queue] += count
    assert ends == proof.ledger.offered()


def test_app_queue_counts_the_same_as_abandoned(proof: Proof) -> None:
    epochs = proof.ledger.app_queue_abandoned
    assert len(epochs) == 3
    for epoch, counted in epochs.items():
        ours = proof.ledger.abandoned_in_app_queue(epoch)
        assert {q: n for q, n in counted.items() if n} == dict(ours), epoch


def test_every_call_left_a_record_but_those_that_died_with_asterisk(lab: Lab, proof: Proof) -> None:
    rows = lab.sql(
        f"SELECT DISTINCT src FROM cdr WHERE start >= to_timestamp({proof.began})"
        " AND src LIKE '+49155%'"
    )
    assert {src for (src,) in rows} == {call.caller for call in proof.ledger.recorded}


# --- the exporter --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "count", ["offered", "answered", "answered_in_service_level", "short_abandoned"]
)
def test_exporter_counts_the_visits(lab: Lab, proof: Proof, count: str) -> None:
    expected = by_queue(getattr(proof.ledger, count)())
    expect(lab, proof, f"asterisk_queue_calls_{count}_total", expected)


def test_exporter_counts_how_callers_left(lab: Lab, proof: Proof) -> None:
    expected = {
        f"{{queue={queue},reason={reason}}}": n
        for (queue, reason), n in proof.ledger.unanswered().items()
    }
    expect(lab, proof, "asterisk_queue_calls_unanswered_total", expected)


def test_exporter_counts_phones_that_rang_in_vain(lab: Lab, proof: Proof) -> None:
    expected = {
        f"{{member={member},queue={queue}}}": n
        for (queue, member), n in proof.ledger.ring_no_answer.items()
    }
    expect(lab, proof, "asterisk_queue_ring_no_answer_total", expected)


def test_exporter_counts_the_missed_calls(lab: Lab, proof: Proof) -> None:
    expected = {
        f"{{destination={destination or 'default'},reason={reason}}}": n
        for (destination, reason), n in proof.ledger.missed().items()
    }
    expect(lab, proof, "asterisk_missed_calls_total", expected)


def test_exporter_counts_the_calls(lab: Lab, proof: Proof) -> None:
    # Of a call that died while talking nothing is left but its visit: nobody missed it.
    missed = proof.ledger.missed().total()
    answered = sum(call.row.missed is None for call in proof.ledger.recorded)
    expected = {
        "{direction=inbound,outcome=answered}": answered,
        "{direction=inbound,outcome=missed}": missed,
        "{direction=internal,outcome=answered}": 1,
        "{direction=outbound,outcome=answered}": 1,
    }
    expect(lab, proof, "asterisk_calls_total", expected)


def test_missed_lists_each_caller_with_the_reason(lab: Lab, proof: Proof) -> None:
    expected = {
        (call.caller, call.destination or "default", call.row.missed, call.caller in spoken)
        for spoken in [proof.ledger.spoken]
        for call in proof.ledger.calls
        if call.row.missed
    }
    minutes = (int(time.time()) - proof.began) // 60 + 1
    listed: set[tuple[str, str, str, bool]] = set()

    def same() -> bool:
        listed.clear()
        for call in json.loads(lab.run(f"asterisk-exporter missed --json --since {minutes}m")):
            key = (call["caller"], call["destination"], call["reason"], bool(call["spoken_at"]))
            listed.add(key)
        return {key for key in listed if key[0] in {caller for caller, *_ in expected}} == expected

    wait_until(same, 60, "the missed calls are listed")
    assert any(call.epoch == KILLED.name for call in proof.ledger.calls if call.row.missed)
