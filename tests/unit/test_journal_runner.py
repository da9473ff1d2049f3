"""The thread behind journals with a source that misbehaves, and journals in the whole service."""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime, timezone

import pytest
from prometheus_client.core import GaugeMetricFamily

from asterisk_exporter import config
from asterisk_exporter.cli.serve import Backfill
from asterisk_exporter.journal import runner
from asterisk_exporter.journal.cdr_csv import CsvFile
from asterisk_exporter.journal.cdr_mysql import Layout, MysqlTable
from asterisk_exporter.journal.runner import Journal, SourceError
from asterisk_exporter.journal.store import Change, JournalStore, JournalStoreError
from asterisk_exporter.scrape import merged


class Numbers:
    """A source of batches; `fails` is raised by the next call of that name."""

    def __init__(self, store: JournalStore, name: str = "numbers", batches: int = 0) -> None:
        self.store, self.name, self.batches = store, name, batches
        self.last_record = 0.0
        self.fails: dict[str, Exception] = {}
        self.calls: list[str] = []
        self.hang = threading.Event()
        self.hang.set()

    def __str__(self) -> str:
        return "a list of numbers"

    def _called(self, what: str) -> None:
        self.calls.append(what)
        if what in self.fails:
            raise self.fails.pop(what)

    def open(self) -> None:
        self._called("open")

    def begin(self, backfill: bool) -> None:
        self._called("begin all" if backfill else "begin")

    def read(self) -> bool:
        self._called("read")
        self.hang.wait()
        change = Change(self.name, {"at": self.last_record})
        change.count(runner.READ, self.name)
        self.store.apply(change)
        self.last_record += 1
        self.batches -= 1
        return self.batches > 0

    def lag_seconds(self) -> float:
        return 7.0

    def close(self) -> None:
        self.calls.append("close")

    def describe(self) -> list:
        return [GaugeMetricFamily(f"{self.name}_own", "Own.")]

    def families(self) -> list:
        return self.describe()


@pytest.fixture
def store(tmp_path):
    made = JournalStore(tmp_path / "state")
    yield made
    made.close()


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.01)


def samples(families) -> dict:
    return {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}


@pytest.mark.parametrize("where", ["open", "begin", "read"])
@pytest.mark.parametrize("error", [SourceError("it is gone"), JournalStoreError("disk full")])
def test_a_failure_opens_the_source_anew(store, monkeypatch, caplog, where, error):
    monkeypatch.setattr(runner, "FIRST_WAIT_SECONDS", 0.05)
    source = Numbers(store)
    source.fails[where] = error
    journal = Journal(store, source, 0.05)
    with caplog.at_level(logging.INFO):
        journal.start()
        wait_until(lambda: journal.collect()[0])
    journal.stop()
    assert source.calls.count("close") == 2
    assert source.calls.index("close") < len(source.calls) - 1 - source.calls[::-1].index("open")
    assert caplog.text.count(f"numbers: lost a list of numbers: {error}") == 1
    assert caplog.text.count("numbers: reading from a list of numbers") == 1


def test_what_a_journal_shows(store):
    source = Numbers(store, batches=3)
    journal = Journal(store, source, 0.05)
    ok, _, families = journal.collect()
    assert not ok
    assert [f.name for f in families] == [f.name for f in journal.describe()]
    journal.start()
    wait_until(lambda: journal.collect()[0])
    journal.stop()
    shown = samples(journal.collect()[2])
    assert shown["asterisk_exporter_journal_records_total", "numbers"] >= 3
    assert shown["asterisk_exporter_journal_lag_seconds", "numbers"] == 7
    assert shown["asterisk_exporter_journal_last_record_timestamp_seconds", "numbers"] >= 3


def test_a_source_that_hangs_is_late_and_keeps_nobody(store, monkeypatch):
    source = Numbers(store)
    journal = Journal(store, source, 0.05)
    journal.start()
    wait_until(lambda: journal.collect()[0])
    source.hang.clear()
    now = time.monotonic()
    monkeypatch.setattr(runner.time, "monotonic", lambda: now + 60)
    ok, _, families = journal.collect()
    assert not ok
    assert samples(families)["asterisk_exporter_journal_lag_seconds", "numbers"] >= 59
    monkeypatch.undo()
    began = time.monotonic()
    journal.stop(0.1)
    assert time.monotonic() - began < 5
    source.hang.set()


def test_journals_share_the_families_about_themselves(store):
    one, two = (Journal(store, Numbers(store, name), 1) for name in ("one", "two"))
    families = merged([*one.collect()[2], *two.collect()[2]])
    assert len({family.name for family in families}) == len(families)
    lag = [s.labels["source"] for f in families for s in f.samples if "_lag_" in s.name]
    assert lag == ["one", "two"]
    described = merged([*one.describe(), *two.describe()])
    assert [f.name for f in described] == [f.name for f in families]


def test_backfill_reads_all_and_tells_how_far(store):
    source = Numbers(store, batches=4)
    shares: list[float] = []
    Journal(store, source, 1).run_backfill(Backfill(shares.append))
    assert source.calls == ["open", "begin all", *["read"] * 4, "close"]
    assert shares == sorted(shares)
    assert len(shares) == 4
    Journal(store, source, 1).run_backfill(Backfill(shares.append))
    assert len(shares) == 4


def test_backfill_that_fails_says_so_and_lets_go(store):
    source = Numbers(store)
    source.fails["read"] = SourceError("it is gone")
    with pytest.raises(SourceError, match="it is gone"):
        Journal(store, source, 1).run_backfill(lambda _: None)
    assert source.calls[-1] == "close"


def test_the_share_of_a_history():
    shares: list[float] = []
    tell = Backfill(shares.append)
    now = time.time()
    for moment in (now - 1000, now - 500, now, now + 50):
        tell(moment)
    assert shares == pytest.approx([0, 0.5, 1, 1], abs=0.01)


def line(uniqueid: str, disposition: str, lastapp: str = "Dial") -> str:
    ended = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M:%S")
    texts = ("", "+49301234567", "+493055512", "from-external", "", "PJSIP/p-01", "PJSIP/111-02")
    times = (lastapp, "", ended, "", ended)
    tail = (disposition, "DOCUMENTATION", uniqueid, "", "", uniqueid)
    quoted = ",".join(f'"{text}"' for text in (*texts, *times))
    return quoted + ",1,1," + ",".join(f'"{text}"' for text in tail) + ",1\n"


def test_served_calls_of_master_csv_and_visits_of_queue_log(
    serve, config_file, ami_server, behave, tmp_path
):
    records, queue_log = tmp_path / "Master.csv", tmp_path / "queue_log"
    now = int(time.time())
    records.write_text(
        line("a", "NO ANSWER") + line("b", "ANSWERED") + line("q", "ANSWERED", "Queue")
    )
    queue_log.write_text(
        f"{now - 9}|q|support|NONE|ENTERQUEUE||+49301234568|1\n"
        f"{now - 1}|q|support|NONE|ABANDON|1|1|8\n"
    )
    more = (
        f"state_directory: {tmp_path}/state\n"
        f"cdr: {{source: csv, file: {records}, poll_seconds: 0.1}}\n"
        f"queue_log: {{file: {queue_log}, poll_seconds: 0.1}}\n"
        "calls: {settle_seconds: 0.5, destinations: [{did: '[+]493055.*', name: sales}]}\n"
    )
    served = serve(config_file(ami_server(behave("busy")).port, more), "--backfill")
    assert served.value('asterisk_cdr_records_total{disposition="ANSWERED"}') == 2
    missed = 'asterisk_missed_calls_total{destination="%s",reason="%s"}'
    served.wait_for(missed % ("support", "abandoned"), 1)
    # the caller of a got through with b
    served.wait_for(missed % ("sales", "no_answer"), 1)
    assert served.value('asterisk_missed_calls_outstanding{destination="sales"}') == 0
    assert served.value('asterisk_missed_calls_outstanding{destination="support"}') == 0
    assert served.value('asterisk_calls_total{direction="inbound",outcome="answered"}') == 1
    text = served.get()
    assert text.count("# TYPE asterisk_exporter_journal_records_total counter") == 1
    for source in ("cdr", "queue_log"):
        assert f'asterisk_exporter_journal_records_total{{source="{source}"}}' in text
    assert served.end() == 0


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("cdr: {source: csv}", CsvFile),
        ("cdr: {source: mysql, password_file: null}", MysqlTable),
        ("cdr: {source: mysql, password_file: null, system_column: s}\nsystem_name: p", MysqlTable),
    ],
)
def test_sources_of_call_records(tmp_path, text, kind):
    settings = config.parse(text, tmp_path / "c.yml")
    assert isinstance(config.call_records(settings, tmp_path / "c.yml"), kind)
    assert config.database(settings, tmp_path / "c.yml") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cdr: {source: oracle}", ["cdr", "postgresql, mysql or csv"]),
        ("cdr: {source: csv, host: x}", ["cdr.host", "unknown key", "file"]),
        ("cdr: {source: csv, timezone: Mars}", ["cdr.timezone", "IANA"]),
        ("cdr: {source: mysql, system_column: s}", ["system_name"]),
        ("calls: {destinations: [{did: '(', name: x}]}", ["regular expression"]),
        ("calls: {match_digits: 0}", ["calls.match_digits"]),
        ("calls: {trunk: [x]}", ["calls.trunk", "unknown key", "trunks"]),
    ],
)
def test_bad_configuration_is_named(tmp_path, text, expected):
    with pytest.raises(config.ConfigError) as told:
        config.parse(text, tmp_path / "c.yml")
    for part in expected:
        assert part in str(told.value)


def test_mysql_columns_are_known_by_name():
    columns = [
        {"name": name, "type": "varchar", "extra": "auto_increment" if name == "Id" else ""}
        for name in ("Id", "CallDate", "uniqueid", "linkedid", "disposition", "duration", "billsec")
    ]
    layout = Layout.from_columns(MysqlTable("h", 1, "d", "u", table="odd`na%me"), columns)
    assert {c.field: c.name for c in layout.columns}["start"] == "CallDate"
    assert "FROM `odd``na%%me`" in layout.select("")
    row = {column.field: "" for column in layout.columns}
    values = layout.values({**row, "start": 100.0, "duration": 9, "billsec": 4})
    assert (values["end"], values["answer"]) == (109.0, 105.0)
