"""The parser, and the source on real files and a real state file."""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asterisk_exporter.collectors.base import label
from asterisk_exporter.collectors.queues import Queue
from asterisk_exporter.config import ConfigError
from asterisk_exporter.config import parse as parse_config
from asterisk_exporter.journal import visits as figures
from asterisk_exporter.journal.queue_log import lines, parse, seconds
from asterisk_exporter.journal.queue_log_source import QueueLogSource, totals
from asterisk_exporter.journal.runner import MALFORMED, READ, Journal, SourceError
from asterisk_exporter.journal.store import JournalStore, JournalStoreError
from asterisk_exporter.journal.visits import Rules, ServiceLevels

BEGIN = 1_795_505_000
#: Where a state file's fsync costs nothing, for tests that make hundreds.
IN_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None

#: As Asterisk 22.10 wrote them.
TRANSFERRED = """\
1795505798|pbx1-1795505798.61|consults|NONE|ENTERQUEUE||+4915500000104|1
1795505799|pbx1-1795505798.61|consults|PJSIP/114|CONNECT|1|pbx1-1795505798.62|1
1795505806|pbx1-1795505798.61|consults|PJSIP/114|ATTENDEDTRANSFER|BRIDGE|3b53a0d1-3b89|1|7|1
1795505799|pbx1-1795505798.61|consults|PJSIP/114|CONNECT|1|pbx1-1795505798.62|1
"""


@pytest.mark.parametrize(
    ("line", "entry"),
    [
        (
            "1795505374|a.1|q|NONE|ENTERQUEUE||+49155|1",
            (1795505374, "a.1", "q", "NONE", "ENTERQUEUE", "|+49155|1"),
        ),
        (
            "1795505374|NONE|NONE|NONE|QUEUESTART|",
            (1795505374, "NONE", "NONE", "NONE", "QUEUESTART", ""),
        ),
        ("1795505374.25|a.1|q|NONE|X|", (1795505374, "a.1", "q", "NONE", "X", "")),
        ('1795505374|a.1|Отдел "1"\\|NONE|X|', (1795505374, "a.1", 'Отдел "1"\\', "NONE", "X", "")),
        ("", None),
        ("1795505374|a.1|q|NONE", None),
        ("1795505374|a.1|q|NONE|ENTERQUEUE", None),
        ("1795505374|a.1|q|NONE||", None),
        ("yesterday|a.1|q|NONE|X|", None),
        (".5|a.1|q|NONE|X|", None),
        ("-5|a.1|q|NONE|X|", None),
        ("9" * 5000 + "|a.1|q|NONE|X|", None),
        ("9" * 12 + "|a.1|q|NONE|X|", None),
    ],
)
def test_parse(line, entry):
    assert parse(line) == entry


@pytest.mark.parametrize(
    ("data", "index", "value"),
    [
        ("1|2|3", 2, 3),
        ("a|b|1|7|1", -2, 7),
        ("1", 2, None),
        ("1||3", 1, None),
        ("1|-2", 1, None),
        ("9999999999", 0, None),
    ],
)
def test_seconds(data, index, value):
    assert seconds(data, index) == value


@given(st.binary())
def test_text_is_what_labels_are(data):
    data = data.replace(b"\n", b"")
    assert lines(data + b"\n") == [label(data.decode("utf-8", "surrogateescape"))]


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_any_text_parses_or_does_not(line):
    parse(line)


EVENTS = sorted(figures.Visits(ServiceLevels({}), Rules())._handlers)
FIELD = st.one_of(
    st.sampled_from(
        [b"", b"1", b"99999999999", b"\xff\xfe", b"\x00", b"q", "Отдел 😀".encode(), b'"\\']
    ),
    st.binary(max_size=12),
)


@given(st.lists(st.tuples(st.sampled_from(EVENTS), st.lists(FIELD, max_size=9)), max_size=20))
def test_lines_of_any_bytes_never_raise(made):
    data = b"".join(
        b"%d|%s|%s|%s|%s|%s\n"
        % (BEGIN, *(fields + [b"x"] * 3)[:3], event.encode(), b"|".join(fields[3:]))
        for event, fields in made
    )
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        path = Path(directory) / "queue_log"
        path.write_bytes(data + b"\n\xff|\x00\n|||||\n")
        source = started(Path(directory) / "state", path, backfill=True)
        drain(source)
        for family in source.families():
            for sample in family.samples:
                "".join(sample.labels.values()).encode()
        source.open()
        source._store.close()


def started(
    directory: Path, path: Path, *, backfill: bool = False, levels=None, **rules
) -> QueueLogSource:
    store = JournalStore(directory)
    source = QueueLogSource(
        store,
        path,
        ServiceLevels({"q": 20}) if levels is None else levels,
        rules=Rules(**rules),
        clock=lambda: BEGIN + 10_000.5,
    )
    source.open()
    source.begin(backfill)
    return source


def drain(source: QueueLogSource) -> None:
    while source.read():
        pass


def samples(source: QueueLogSource) -> dict[str, float]:
    return {
        f"{sample.name}{{{','.join(sample.labels.values())}}}": sample.value
        for family in source.families()
        for sample in family.samples
    }


@pytest.fixture
def path(tmp_path):
    made = tmp_path / "queue_log"
    made.touch()
    return made


@pytest.fixture
def source(tmp_path, path):
    made = started(tmp_path / "state", path)
    yield made
    made.close()
    made._store.close()


def test_an_attended_transfer_is_one_answered_visit(source, path):
    path.write_text(TRANSFERRED)
    drain(source)
    seen = samples(source)
    assert seen["asterisk_queue_calls_offered_total{consults}"] == 1
    assert seen["asterisk_queue_calls_answered_total{consults}"] == 1
    assert seen["asterisk_queue_talk_seconds_sum{consults}"] == 7
    assert seen["asterisk_queue_agent_seconds_total{PJSIP/114,talking}"] == 7
    assert source._store.values(READ) == {("queue_log",): 4}
    assert source._store.values(MALFORMED) == {("queue_log",): 0}
    assert source.last_record == 1795505806


def test_a_queue_has_every_counter_from_the_start(source):
    source.levels.learn([Queue("new", 15, (), ())])
    drain(source)
    seen = samples(source)
    for reason in (
        "abandoned",
        "timeout",
        "empty",
        "key",
        "withdrawn",
        "incompatible",
        "lost",
        "full",
        "join_empty",
        "closed",
    ):
        assert seen[f"asterisk_queue_calls_unanswered_total{{new,{reason}}}"] == 0
    assert "asterisk_queue_calls_unanswered_total{new,unknown}" not in seen
    for name in ("offered", "answered", "answered_in_service_level", "short_abandoned"):
        assert seen[f"asterisk_queue_calls_{name}_total{{new}}"] == 0
    # histograms come with their first observation: 100 queues have 5,000 series at most
    assert not [name for name in seen if "wait_seconds" in name or "talk_seconds" in name]


def visit(number: int, at: int, wait: int, talk: int | None, queue: str = "q") -> str:
    head = f"|c.{number}|{queue}|"
    text = f"{at}{head}NONE|ENTERQUEUE||0155|1\n"
    if talk is None:
        return f"{text}{at + wait}{head}NONE|ABANDON|1|1|{wait}\n"
    return (
        f"{text}{at + wait}{head}PJSIP/1|CONNECT|{wait}|c.x|1\n"
        f"{at + wait + talk}{head}PJSIP/1|COMPLETECALLER|{wait}|{talk}|1\n"
    )


def test_histograms(tmp_path, path):
    waits = [0, 5, 6, 20, 21, 25, 26, 599, 600, 601, 660, 661, 8000]
    path.write_text("".join(visit(i, BEGIN, wait, 30 + (i == 1)) for i, wait in enumerate(waits)))
    source = started(tmp_path / "state", path, backfill=True)
    drain(source)

    def at_most(bound: str) -> float:
        return samples(source)[f"asterisk_queue_wait_seconds_bucket{{q,answered,{bound}}}"]

    assert [at_most(b) for b in ("5.0", "10.0", "15.0", "20.0", "30.0", "300.0", "+Inf")] == [
        *(2, 3, 3, 4, 7, 7, 13)
    ]
    seen = samples(source)
    assert seen["asterisk_queue_wait_seconds_sum{q,answered}"] == sum(waits)
    assert seen["asterisk_queue_calls_answered_in_service_level_total{q}"] == 4
    assert seen["asterisk_queue_talk_seconds_bucket{q,30.0}"] == 12
    assert seen["asterisk_queue_talk_seconds_bucket{q,60.0}"] == 13
    # a service level that changes later has an exact bucket for the past too
    source.levels.learn([Queue("q2", 25, (), ()), Queue("q3", 600, (), ())])
    drain(source)
    assert (at_most("25.0"), at_most("600.0")) == (6, 9)
    source._store.close()


def test_nothing_is_read_before_a_service_level_is_known(tmp_path, path, caplog):
    caplog.set_level("INFO")
    source = started(tmp_path / "state", path, levels=ServiceLevels({}))
    path.write_text(visit(1, BEGIN, 12, 5))
    assert source.read() is False
    assert source.read() is False
    assert source.lag_seconds() == 10_000.5
    assert source.read_through == 0
    assert [name for name in samples(source) if name.startswith("asterisk_queue")] == []
    assert caplog.text.count("waiting for AMI") == 1
    source.levels.learn([Queue("q", 12, (), ())])
    drain(source)
    assert samples(source)["asterisk_queue_calls_answered_in_service_level_total{q}"] == 1
    assert source.lag_seconds() == 0
    assert source.read_through == source._clock()
    source._store.close()
    # the next start knows it, and does not wait
    again = started(tmp_path / "state", path, levels=ServiceLevels({}))
    path.write_text(path.read_text() + visit(2, BEGIN + 50, 12, 5) + visit(3, BEGIN + 90, 13, 5))
    drain(again)
    assert samples(again)["asterisk_queue_calls_answered_in_service_level_total{q}"] == 2
    again._store.close()


def test_the_configuration_is_before_what_ami_says(source):
    source.levels.learn([Queue("Q", 1, (), ()), Queue("r", 2, (), ())])
    assert [source.levels.of(name) for name in ("q", "Q", "r", "R", "s")] == [20, 20, 2, 2, 0]


def test_a_service_level_that_changes(source, path):
    source.levels.learn([Queue("r", 10, (), ())])
    path.write_text(visit(1, BEGIN, 15, 5, "r"))
    drain(source)
    source.levels.learn([Queue("r", 15, (), ())])
    with path.open("a") as file:
        file.write(visit(2, BEGIN + 50, 15, 5, "r"))
    drain(source)
    assert samples(source)["asterisk_queue_calls_answered_in_service_level_total{r}"] == 1


def test_the_spelling_of_a_queue(source, path):
    """Queue(Support) finds [support]; ENTERQUEUE logs the one, CONNECT the other."""
    path.write_text(
        f"{BEGIN}|c.1|Support|NONE|ENTERQUEUE||1|1\n{BEGIN}|c.1|support|PJSIP/1|CONNECT|0|x|0\n"
        f"{BEGIN}|c.2|Ä|NONE|ENTERQUEUE||1|1\n{BEGIN}|c.3|ä|NONE|ENTERQUEUE||1|1\n"
    )
    source.levels.learn([Queue("SUPPORT", 5, (), ())])
    drain(source)
    seen = samples(source)
    assert seen["asterisk_queue_calls_offered_total{SUPPORT}"] == 1
    assert seen["asterisk_queue_calls_answered_total{SUPPORT}"] == 1
    assert seen["asterisk_queue_calls_offered_total{Ä}"] == 1
    assert seen["asterisk_queue_calls_offered_total{ä}"] == 1


def test_malformed_lines_are_counted(source, path):
    path.write_text(f"nonsense\n{TRANSFERRED}\n{BEGIN}|c|q|NONE\n")
    drain(source)
    assert source._store.values(READ) == {("queue_log",): 7}
    assert source._store.values(MALFORMED) == {("queue_log",): 3}


def test_an_idle_poll_writes_nothing(source, path):
    path.write_text(visit(1, BEGIN, 1, 2))
    drain(source)
    written = []
    source._store.apply = written.append
    drain(source)
    assert written == []


def test_what_cannot_be_written_is_read_again(source, path):
    path.write_text(visit(1, BEGIN, 1, 2))
    source._store._db.execute(
        "CREATE TRIGGER no BEFORE INSERT ON visit BEGIN SELECT RAISE(FAIL, 'disk full'); END"
    )
    with pytest.raises(JournalStoreError):
        drain(source)
    source.close()
    assert [name for name in samples(source) if name.startswith("asterisk_queue")] == []
    source._store._db.execute("DROP TRIGGER no")
    source.open()
    source.begin(backfill=False)
    drain(source)
    assert samples(source)["asterisk_queue_calls_offered_total{q}"] == 1


def test_backfill_starts_at_the_oldest_and_only_once(tmp_path, path):
    path.with_name("queue_log.1").write_text(visit(1, BEGIN, 1, 2))
    path.write_text(visit(2, BEGIN + 10, 1, 2))
    source = started(tmp_path / "state", path, backfill=True)
    assert source.remaining_bytes() > 0
    drain(source)
    assert source.remaining_bytes() == 0
    source.begin(backfill=True)
    drain(source)
    assert samples(source)["asterisk_queue_calls_offered_total{q}"] == 2
    source._store.close()


def test_without_backfill_what_was_there_is_not_counted(tmp_path, path):
    path.write_text(visit(1, BEGIN, 1, 2) + f"{BEGIN}|c.9|q|NONE|ENTERQUEUE||1|1\n")
    source = started(tmp_path / "state", path)
    with path.open("a") as file:
        file.write(f"{BEGIN}|c.9|q|P|CONNECT|5|x|1\n{BEGIN}|c.9|q|P|COMPLETEAGENT|5|9|1\n")
        file.write(f"{BEGIN}|c.8|q|NONE|ABANDON|1|1|9\n")
    drain(source)
    seen = samples(source)
    assert seen["asterisk_queue_calls_offered_total{q}"] == 0
    assert seen["asterisk_queue_calls_answered_total{q}"] == 0
    assert seen["asterisk_queue_calls_unanswered_total{q,abandoned}"] == 0
    # app_queue counts them all the same
    assert totals(source._store).figures["q"] == (1, 1)
    source._store.close()


def test_the_thread_reads_it(tmp_path, path):
    store = JournalStore(tmp_path / "state")
    source = QueueLogSource(store, path, ServiceLevels({"q": 20}))
    journal = Journal(store, source, 0.01)
    journal.run_backfill([].append)
    journal.start()
    try:
        path.write_text(visit(1, BEGIN, 1, 2))
        for _ in range(500):
            if store.values(figures.COMPLETED).get(("q",)):
                break
            journal._stop.wait(0.01)
        ok, _, families = journal.collect()
    finally:
        journal.stop(5)
        store.close()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families
        for sample in family.samples
    }
    assert ok
    assert found["asterisk_queue_calls_answered_total", "q"] == 1
    assert found["asterisk_exporter_journal_records_total", "queue_log"] == 3
    assert found["asterisk_exporter_journal_lag_seconds", "queue_log"] == 0
    assert {family.name for family in source.describe()} == {
        family.name for family in source.families()
    }


def test_no_file_and_no_directory(tmp_path):
    with pytest.raises(SourceError, match="there is no directory"):
        started(tmp_path / "state", tmp_path / "nowhere" / "queue_log")


def test_its_section_of_the_configuration():
    path = Path("exporter.yml")
    assert parse_config("", path).queue_log is None
    section = parse_config("queue_log: {service_levels: {support: 20}}", path).queue_log
    assert section.file == Path("/var/log/asterisk/queue_log")
    assert (section.short_abandon_seconds, section.poll_seconds) == (5, 1.0)
    assert section.service_levels == {"support": 20}
    with pytest.raises(ConfigError, match="expected 0 to 7200 seconds for support"):
        parse_config("queue_log: {service_levels: {support: -1}}", path)


# --- any split of the file into reads, with a new process each time


CALLERS, NAMES, AGENTS = range(3), ("q", "R"), ("PJSIP/1", "Bob")
SHAPES = [
    "{t}|c.{c}|{q}|NONE|ENTERQUEUE||+49{c}|1",
    "{t}|c.{c}|{q}|{m}|CONNECT|{n}|x|1",
    "{t}|c.{c}|{q}|{m}|COMPLETEAGENT|{n}|{n}|1",
    "{t}|c.{c}|{q}|{m}|BLINDTRANSFER|111|internal|1|{n}|1",
    "{t}|c.{c}|{q}|NONE|ABANDON|1|1|{n}",
    "{t}|c.{c}|{q}|NONE|EXITWITHTIMEOUT|1|1|{n}",
    "{t}|c.{c}|{q}|NONE|REFUSED|full",
    "{t}|c.{c}|{q}|{m}|RINGNOANSWER|{n}",
    "{t}|MANAGER|{q}|{m}|ADDMEMBER|",
    "{t}|MANAGER|{q}|{m}|ADDMEMBER|PAUSED",
    "{t}|MANAGER|{q}|{m}|REMOVEMEMBER|",
    "{t}|NONE|{q}|{m}|PAUSE|",
    "{t}|NONE|{q}|{m}|UNPAUSE|",
    "{t}|NONE|NONE|NONE|QUEUESTART|",
    "nonsense",
]
STEP = st.tuples(
    st.integers(1, 30),
    st.sampled_from(SHAPES),
    st.sampled_from(CALLERS),
    st.sampled_from(NAMES),
    st.sampled_from(AGENTS),
    st.integers(0, 40),
)


def written(steps) -> bytes:
    at, text = BEGIN, ""
    for after, shape, caller, queue, member, number in steps:
        at += after
        text += shape.format(t=at, c=caller, q=queue, m=member, n=number) + "\n"
    return text.encode()


def newest(data: bytes) -> int:
    times = re.findall(rb"^(\d+)\|.*\n", data, re.MULTILINE)
    return int(times[-1]) if times else BEGIN


def state(store: JournalStore) -> dict[str, object]:
    tables = {
        table: sorted(map(json.dumps, store.rows(f"SELECT * FROM {table}")))
        for table in ("counter", "visit", "presence", "daily")
    }
    return tables | {"offset": store.position("queue_log")["offset"]}


@given(
    st.lists(STEP, max_size=25),
    st.lists(st.integers(0, 1500), max_size=6),
    st.booleans(),
    st.booleans(),
)
def test_any_split_into_reads_counts_the_same(steps, cuts, keep, rotates):
    data = written(steps)
    with tempfile.TemporaryDirectory(dir=IN_MEMORY) as directory:
        home = Path(directory)
        path = home / "queue_log"
        path.touch()
        rules = Rules(keep_visits=keep)
        source = None
        parts = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
        for begin, end in zip([0, *parts], parts):
            if rotates and data[:begin].endswith(b"\n"):
                path.rename(path.with_name(f"queue_log.{begin}"))
                path.touch()
            with path.open("ab") as file:
                file.write(data[begin:end])
            store = JournalStore(home / "parts")
            source = QueueLogSource(
                store,
                path,
                ServiceLevels({"q": 20}),
                rules=rules,
                clock=lambda end=end: float(newest(data[:end])),
            )
            source.open()
            source.begin(backfill=True)
            drain(source)
            if end < len(data):
                store.close()
        whole = home / "whole"
        whole.mkdir()
        (whole / "queue_log").write_bytes(data)
        single = QueueLogSource(
            JournalStore(whole / "state"),
            whole / "queue_log",
            ServiceLevels({"q": 20}),
            rules=rules,
            clock=lambda: float(newest(data)),
        )
        single.open()
        single.begin(backfill=True)
        drain(single)
        got, expected = state(source._store), state(single._store)
        if rotates:
            got.pop("offset")
            expected.pop("offset")
        assert got == expected
        source._store.close()
        single._store.close()
