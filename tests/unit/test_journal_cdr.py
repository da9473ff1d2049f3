"""The CDR reader against a real PostgreSQL, which misbehaves in all the real ways."""

# ruff: noqa: ARG001, PLR0913, PLR0917 - callbacks have fixed arguments, fixtures come as arguments
from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest

from asterisk_exporter.journal import runner
from asterisk_exporter.journal.calls import Rules
from asterisk_exporter.journal.cdr import (
    DISPOSITIONS,
    MOST_DISPOSITIONS,
    OTHER,
    RECORDS,
    CdrCounter,
    newest_record_age,
)
from asterisk_exporter.journal.cdr_postgresql import Database, PostgresqlSource
from asterisk_exporter.journal.ledger import CallLedger
from asterisk_exporter.journal.runner import Journal, SourceError
from asterisk_exporter.journal.store import JournalStore

from .conftest import EXPORTER
from .postgresql import Cluster, make_cdr_database


@pytest.fixture(scope="session")
def cluster():
    # not below pytest's own folder, which only the user of the tests may enter
    with tempfile.TemporaryDirectory(prefix="asterisk-exporter-tests-") as folder:
        one = Cluster(Path(folder))
        one.start()
        make_cdr_database(one)
        yield one
        one.stop("immediate")


class Table:
    """A database with the CDR table, and PBXs that write to it."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster, self.name = cluster, name
        self.database = Database("127.0.0.1", cluster.port, name, "exporter")
        self.writers = []

    def writer(self, system: str = "pbx1"):
        """Return a connection as Asterisk's; its application_name names the system."""
        connection = self.cluster.connect(self.name, "asterisk", system)
        self.writers.append(connection)
        return connection

    def write(self, *dispositions, system: str = "pbx1") -> None:
        writer = self.writer(system)
        for disposition in dispositions:
            insert(writer, disposition)
        writer.close()

    def execute(self, sql: str):
        return self.cluster.execute(sql, self.name)

    def close(self) -> None:
        for writer in self.writers:
            with contextlib.suppress(psycopg2.Error):
                writer.close()


def insert(connection, disposition, ended: str = "now()") -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            'INSERT INTO cdr (start, "end", disposition, uniqueid, linkedid) '
            f"VALUES (now(), {ended}, %s, %s, %s)",
            (disposition, *[f"pbx1-{next(CALLS)}"] * 2),
        )


NUMBERS = iter(range(1000))
CALLS = iter(range(10**6))


def source_of(table, store, batch_rows: int = 1000, system: str = "pbx1") -> PostgresqlSource:
    counter = CdrCounter(store, CallLedger(store, Rules()))
    return PostgresqlSource(store, table.database, system, counter, batch_rows)


@contextlib.contextmanager
def opened(table, store, backfill: bool = False):
    """Give a source that has begun."""
    source = source_of(table, store)
    source.open()
    source.begin(backfill)
    yield source
    source.close()


@pytest.fixture
def table(cluster):
    name = f"cdr{next(NUMBERS)}"
    cluster.execute(f"CREATE DATABASE {name} TEMPLATE asterisk")
    made = Table(cluster, name)
    yield made
    made.close()
    cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def store(tmp_path):
    made = JournalStore(tmp_path / "state")
    yield made
    made.close()


@pytest.fixture
def reading(table, store):
    """Return (reader, poll): poll() reads all there is and returns counts that are not 0."""
    reader = source_of(table, store, batch_rows=3)
    reader.open()
    reader.begin(False)

    def poll() -> dict[str, int]:
        while reader.read():
            pass
        return counts(store)

    yield reader, poll
    reader.close()


def counts(store: JournalStore) -> dict[str, int]:
    return {labels[0]: value for labels, value in store.values(RECORDS).items() if value}


def test_records_are_counted_by_disposition_once(table, reading, store):
    _, poll = reading
    table.write("ANSWERED", "ANSWERED", "NO ANSWER", "BUSY", "FAILED", "CONGESTION", "CANCEL")
    expected = dict.fromkeys(DISPOSITIONS, 1) | {"ANSWERED": 2}
    assert poll() == expected
    assert poll() == expected
    table.write("BUSY")
    assert poll() == expected | {"BUSY": 2}
    assert dict(table.execute("SELECT disposition, count(*) FROM cdr GROUP BY 1")) == poll()
    assert store.values("asterisk_exporter_journal_records") == {("cdr",): 8}


def test_usual_dispositions_are_0_from_the_start(reading, store):
    assert store.values(RECORDS) == {(name,): 0 for name in DISPOSITIONS}


def test_counting_begins_at_the_first_start(table, store):
    table.write("ANSWERED", "BUSY")
    with opened(table, store) as reader:
        reader.read()
        table.write("FAILED")
        reader.read()
    assert counts(store) == {"FAILED": 1}


def test_another_systems_records_are_not_ours(table, reading):
    _, poll = reading
    table.write("ANSWERED", system="pbx2")
    table.write("BUSY", system="pbx1")
    table.write("ANSWERED", "ANSWERED", "ANSWERED", "ANSWERED", system="pbx2")
    assert poll() == {"BUSY": 1}


def test_a_record_that_commits_late_is_neither_lost_nor_overtaken(table, reading):
    _, poll = reading
    slow = table.writer()
    slow.autocommit = False
    insert(slow, "BUSY")
    # these have higher ids and are committed first
    table.write("ANSWERED", "ANSWERED")
    assert poll() == {}
    slow.commit()
    assert poll() == {"BUSY": 1, "ANSWERED": 2}
    assert poll() == {"BUSY": 1, "ANSWERED": 2}


def test_many_writers_that_commit_in_any_order(table, reading):
    _, poll = reading
    writers = [table.writer() for _ in range(6)]
    for writer in writers:
        writer.autocommit = False
    for writer in writers:
        insert(writer, "BUSY")
        insert(writer, "FAILED")
    seen = []
    for number in (3, 0, 5, 1, 4, 2):
        insert(writers[number], "ANSWERED")
        writers[number].commit()
        seen.append(sum(poll().values()))
    assert seen == sorted(seen)
    assert poll() == {"BUSY": 6, "FAILED": 6, "ANSWERED": 6}


def test_transaction_ids_are_ordered_as_numbers(table, reading):
    reader, poll = reading
    reader.position = replace(reader.position, transaction_id=0)
    ids = [9, 10, 11, 99, 100, 101, 102]
    for transaction_id in reversed(ids):
        table.execute(
            "INSERT INTO cdr (transaction_id, system_name, start, disposition) "
            f"VALUES ('{transaction_id}', 'pbx1', now(), 'BUSY')"
        )
    seen = []
    while reader.read():
        seen.append(reader.position.transaction_id)
    seen.append(reader.position.transaction_id)
    assert seen == [11, 101, 102]
    assert poll() == {"BUSY": len(ids)}


def test_a_record_that_is_rolled_back_is_not_counted(table, reading):
    _, poll = reading
    slow = table.writer()
    slow.autocommit = False
    insert(slow, "BUSY")
    slow.rollback()
    table.write("ANSWERED")
    assert poll() == {"ANSWERED": 1}


def test_what_began_before_the_first_start_and_committed_later_is_counted(table, store):
    slow = table.writer()
    slow.autocommit = False
    insert(slow, "BUSY")
    with opened(table, store) as reader:
        slow.commit()
        reader.read()
    assert counts(store) == {"BUSY": 1}


def test_unread_records_have_an_age(table, reading):
    reader, poll = reading
    assert reader.lag_seconds() == 0
    slow = table.writer()
    slow.autocommit = False
    insert(slow, "BUSY")
    held_back = table.writer()
    insert(held_back, "ANSWERED", ended="now() - interval '90 seconds'")
    poll()
    assert 90 <= reader.lag_seconds() < 100
    slow.commit()
    poll()
    assert reader.lag_seconds() == 0


def test_odd_dispositions(table, reading, store):
    _, poll = reading
    table.write("ANSWERED", None, "", "TWIN")
    assert poll() == {"ANSWERED": 1, OTHER: 2, "TWIN": 1}
    assert store.values("asterisk_exporter_journal_malformed") == {("cdr",): 2}
    table.write(*(f"ODD {n}" for n in range(40)), "TWIN", "X" * 500)
    found = poll()
    assert len(store.values(RECORDS)) <= MOST_DISPOSITIONS + 1
    assert sum(found.values()) == 46
    assert found["TWIN"] == 2
    assert found[OTHER] > 30


def test_the_cursor_survives(table, store):
    for disposition in ("ANSWERED", "BUSY"):
        with opened(table, store) as reader:
            table.write(disposition)
            reader.read()
    # and what is written while no exporter runs
    table.write("FAILED")
    with opened(table, store) as reader:
        reader.read()
    assert counts(store) == {"ANSWERED": 1, "BUSY": 1, "FAILED": 1}


def test_another_database_is_noticed(table, reading, store, cluster, caplog):
    _, poll = reading
    table.write("ANSWERED")
    poll()
    cluster.execute("CREATE DATABASE other TEMPLATE asterisk")
    try:
        other = Table(cluster, "other")
        other.write("BUSY", "BUSY")
        with caplog.at_level(logging.WARNING), opened(other, store) as moved:
            assert "another database" in caplog.text
            other.write("FAILED")
            moved.read()
    finally:
        cluster.execute("DROP DATABASE other WITH (FORCE)")
    assert counts(store) == {"ANSWERED": 1, "FAILED": 1}


def test_transaction_ids_that_went_back_are_noticed(table, reading, store, caplog):
    reader, poll = reading
    table.write("ANSWERED")
    poll()
    position = reader.position
    reader.position = replace(position, transaction_id=position.transaction_id + 10**6)
    with caplog.at_level(logging.WARNING):
        reader.begin(False)
    assert "gone back" in caplog.text
    table.write("BUSY")
    assert poll() == {"ANSWERED": 1, "BUSY": 1}


def test_restored_records_are_never_counted(table, store):
    """A dump brings transaction ids of the cluster it came from, which ours has yet to reach."""
    table.write("BUSY", "BUSY", "BUSY")
    table.execute(
        "UPDATE cdr SET transaction_id = "
        "((pg_snapshot_xmax(pg_current_snapshot())::text::bigint + 5)::text)::xid8"
    )
    with opened(table, store) as reader:
        for _ in range(20):
            table.write("ANSWERED")
            reader.read()
    assert counts(store) == {"ANSWERED": 20}


def spend(table, transactions: int) -> None:
    """Let so many transactions pass in the cluster of a table."""
    [(begins,)] = table.execute("SELECT max(begins) FROM cdr_cluster")
    table.execute(
        f"UPDATE cdr_cluster SET begins = begins + {transactions} WHERE begins = {begins};"
        "ALTER TABLE cdr ALTER transaction_id SET DEFAULT "
        f"(pg_current_xact_id()::text::bigint + {begins + transactions})::text::xid8"
    )


@pytest.fixture
def clusters(table, store):
    """Return (read, copy, restore): of a table whose ids are far above those of its new cluster.

    read() counts all there is; copy() is a backup, restore() what goes on with one.
    """
    copies = []

    def copy(one: Table) -> Table:
        name = f"{table.name}_{len(copies)}"
        one.cluster.execute(f"CREATE DATABASE {name} TEMPLATE {one.name}")
        copies.append(Table(one.cluster, name))
        return copies[-1]

    def restore(one: Table) -> Table:
        restored = copy(one)
        restored.execute("SELECT cdr_continue()")
        return restored

    def read(one: Table) -> dict[str, int]:
        with opened(one, store) as reader:
            while reader.read():
                pass
            assert reader.lag_seconds() == 0
        return counts(store)

    table.execute("SELECT cdr_continue()")
    spend(table, 5 << 32)
    yield read, copy, restore
    for one in copies:
        one.close()
        one.cluster.execute(f"DROP DATABASE {one.name} WITH (FORCE)")


def test_a_restored_database_goes_on(table, clusters):
    """What the backup has and the exporter's state has not is counted, and what comes later."""
    read, _, restore = clusters
    assert read(table) == {}
    table.write("ANSWERED", "BUSY")
    assert read(table) == {"ANSWERED": 1, "BUSY": 1}
    table.write("FAILED", "FAILED")
    second = restore(table)
    second.write("CANCEL")
    expected = {"ANSWERED": 1, "BUSY": 1, "FAILED": 2, "CANCEL": 1}
    assert read(second) == expected
    second.write("CANCEL")
    assert read(second) == expected | {"CANCEL": 2}
    third = restore(second)
    third.write("BUSY")
    assert read(third) == expected | {"CANCEL": 2, "BUSY": 2}
    [(newest,)] = third.execute(
        "SELECT disposition FROM cdr ORDER BY transaction_id DESC, id DESC LIMIT 1"
    )
    assert newest == "BUSY"


def test_a_state_that_is_newer_than_the_backup_misses_nothing(table, clusters):
    """Only the database's machine was lost: its backup lacks what was counted already."""
    read, copy, restore = clusters
    read(table)
    table.write("ANSWERED")
    read(table)
    backup = copy(table)
    spend(table, 10**6)
    table.write("BUSY", "BUSY")
    assert read(table) == {"ANSWERED": 1, "BUSY": 2}
    second = restore(backup)
    second.write("FAILED")
    assert read(second) == {"ANSWERED": 1, "BUSY": 2, "FAILED": 1}
    spend(second, 10**6)
    second.write("FAILED")
    assert read(second) == {"ANSWERED": 1, "BUSY": 2, "FAILED": 2}
    # the same old backup once more: it does not know the cluster that the cursor is from
    third = restore(backup)
    third.write("CANCEL")
    assert read(third) == {"ANSWERED": 1, "BUSY": 2, "FAILED": 2, "CANCEL": 1}


def test_a_database_in_its_cluster_is_left_alone(table):
    table.execute("SELECT cdr_continue()")
    before = table.execute("TABLE cdr_cluster")
    assert [begins for begins, *_ in before] == [0]
    table.write("ANSWERED")
    table.execute("SELECT cdr_continue()")
    assert table.execute("TABLE cdr_cluster") == before
    [(same,)] = table.execute("SELECT transaction_id::text::xid = xmin FROM cdr")
    assert same


def call_records(*dispositions: str, linkedid: str = "a") -> list[dict]:
    """Return records of an inbound call's first channel that ended just now."""
    return [
        {
            "uniqueid": linkedid,
            "linkedid": linkedid,
            "disposition": disposition,
            "src": "+49301234567",
            "dcontext": "from-external",
            "lastapp": "Dial",
            "channel": "PJSIP/provider-01",
            "dstchannel": f"PJSIP/11{n}-02",
            "sequence": n,
        }
        for n, disposition in enumerate(dispositions)
    ]


def insert_record(connection, record: dict) -> None:
    columns = ", ".join(record)
    marks = ", ".join(["%s"] * len(record))
    with connection.cursor() as cursor:
        cursor.execute(
            f'INSERT INTO cdr (start, "end", {columns}) VALUES (now(), now(), {marks})',
            list(record.values()),
        )


@contextlib.contextmanager
def deciding(table, store, settle_seconds: float = 0.3, system: str = "pbx1"):
    """Give a source whose calls settle soon."""
    ledger = CallLedger(store, Rules(settle_seconds=settle_seconds))
    source = PostgresqlSource(store, table.database, system, CdrCounter(store, ledger))
    source.open()
    source.begin(False)
    yield source
    source.close()


def decided(store) -> dict[tuple[str, ...], int]:
    return {labels: value for labels, value in store.values("asterisk_calls").items() if value}


def read_for(source, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        source.read()
        time.sleep(0.02)


def first_decided(source, store) -> dict[tuple[str, ...], int]:
    """Read until a call is decided; an autovacuum may hold it back for a moment."""
    wait_until(lambda: not source.read() and decided(store))
    return decided(store)


def test_a_call_is_decided_when_it_has_settled(table, store):
    with deciding(table, store, settle_seconds=2) as source:
        insert_record(table.writer(), call_records("NO ANSWER")[0])
        read_for(source, 0.2)
        assert decided(store) == {}
        assert first_decided(source, store) == {("inbound", "missed"): 1}


def test_a_leg_that_is_held_open_turns_a_missed_call_into_an_answered_one(table, store):
    """It was written before the call had settled, and is committed long after."""
    rung, answered = call_records("NO ANSWER", "ANSWERED")
    with deciding(table, store) as source:
        slow = table.writer()
        slow.autocommit = False
        insert_record(slow, answered)
        insert_record(table.writer(), rung)
        read_for(source, 1.5)
        assert decided(store) == {}
        slow.commit()
        assert first_decided(source, store) == {("inbound", "answered"): 1}


def test_a_later_leg_that_is_held_open_counts_too(table, store):
    """The first leg is counted already when the clock is asked: its horizon must be above both.

    A snapshot's xmax is above the last transaction that has ended, not above those that are open.
    """
    rung, answered = call_records("NO ANSWER", "ANSWERED")
    with deciding(table, store) as source:
        insert_record(table.writer(), rung)
        source.read()
        first, second = table.writer(), table.writer()
        first.autocommit = second.autocommit = False
        insert_record(first, call_records("BUSY", linkedid="other")[0])
        insert_record(second, answered)
        read_for(source, 0.6)
        first.rollback()
        read_for(source, 0.6)
        assert decided(store) == {}
        second.commit()
        assert first_decided(source, store) == {("inbound", "answered"): 1}


def test_open_calls_survive_a_restart(table, store):
    rung, answered = call_records("NO ANSWER", "ANSWERED")
    with deciding(table, store, settle_seconds=60) as source:
        insert_record(table.writer(), rung)
        source.read()
    with deciding(table, store) as source:
        insert_record(table.writer(), answered)
        assert first_decided(source, store) == {("inbound", "answered"): 1}


def test_calls_of_two_systems_in_one_table(table, store, tmp_path):
    (ours,) = call_records("NO ANSWER")
    (theirs,) = call_records("ANSWERED")
    other_store = JournalStore(tmp_path / "other")
    with deciding(table, store) as one, deciding(table, other_store, system="pbx2") as two:
        insert_record(table.writer("pbx1"), ours)
        insert_record(table.writer("pbx2"), theirs)
        assert first_decided(one, store) == {("inbound", "missed"): 1}
        assert first_decided(two, other_store) == {("inbound", "answered"): 1}
    other_store.close()


def test_imported_records_are_history(table, reading):
    _, poll = reading
    table.execute(
        "INSERT INTO cdr (system_name, start, disposition, uniqueid, imported_at) "
        "VALUES ('pbx1', now(), 'BUSY', 'i', now())"
    )
    table.write("ANSWERED")
    assert poll() == {"ANSWERED": 1}


def test_backfill_begins_with_the_first_record(table, store):
    table.write("BUSY", "ANSWERED")
    journal = journal_of(table, store, batch_rows=1)
    seen = []
    journal.run_backfill(seen.append)
    assert counts(store) == {"BUSY": 1, "ANSWERED": 1}
    assert len(seen) == 3
    assert abs(seen[-1] - time.time()) < 10


def test_backfill_is_for_the_first_start_only(table, store, caplog):
    with opened(table, store):
        pass
    table.write("BUSY")
    with caplog.at_level(logging.INFO):
        journal_of(table, store).run_backfill(lambda _: None)
    assert "already has a cursor" in caplog.text
    assert counts(store) == {}


def test_the_connection_can_only_read(table):
    connection = table.database.connect()
    with pytest.raises(psycopg2.Error), connection.cursor() as cursor:
        cursor.execute("DELETE FROM cdr")
    connection.close()


def journal_of(table, store, poll_seconds=0.1, batch_rows=1000) -> Journal:
    return Journal(store, source_of(table, store, batch_rows), poll_seconds)


def wait_until(condition, seconds=30.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not within the time"
        time.sleep(0.05)


def samples(journal) -> dict[str, float]:
    _, _, families = journal.collect()
    return {
        s.name + "".join(f"[{value}]" for value in s.labels.values()): s.value
        for family in families
        for s in family.samples
    }


def test_the_journal_polls_and_shows(table, store, caplog):
    journal = journal_of(table, store)
    assert journal.collect()[0] is False
    assert [f.name for f in journal.describe()] == [f.name for f in journal.collect()[2]]
    with caplog.at_level(logging.INFO):
        journal.start()
        wait_until(lambda: journal.collect()[0])
        assert samples(journal)["asterisk_exporter_journal_last_record_timestamp_seconds[cdr]"] == 0
        table.write("ANSWERED", "BUSY")
        wait_until(lambda: samples(journal)["asterisk_exporter_journal_records_total[cdr]"] == 2)
    shown = samples(journal)
    assert shown["asterisk_cdr_records_total[ANSWERED]"] == 1
    assert shown["asterisk_cdr_records_total[NO ANSWER]"] == 0
    last = shown["asterisk_exporter_journal_last_record_timestamp_seconds[cdr]"]
    assert abs(last - time.time()) < 10
    wait_until(lambda: samples(journal)["asterisk_exporter_journal_lag_seconds[cdr]"] == 0)
    assert caplog.text.count("reading from") == 1
    journal.stop()
    assert not journal._thread.is_alive()


def test_a_backlog_of_several_batches_is_read_in_one_poll(table, store):
    with opened(table, store):
        pass
    journal = journal_of(table, store, 60, batch_rows=2)
    table.write(*["BUSY"] * 7)
    journal.start()
    wait_until(lambda: counts(store) == {"BUSY": 7})
    journal.stop()


def test_a_database_that_restarts(table, store, cluster, caplog):
    journal = journal_of(table, store)
    with caplog.at_level(logging.INFO):
        journal.start()
        wait_until(lambda: journal.collect()[0])  # counting has begun
        table.write("ANSWERED")
        wait_until(lambda: counts(store) == {"ANSWERED": 1})
        cluster.stop()
        wait_until(lambda: not journal.collect()[0])
        assert samples(journal)["asterisk_cdr_records_total[ANSWERED]"] == 1
        assert samples(journal)["asterisk_exporter_journal_lag_seconds[cdr]"] > 0
        time.sleep(1.5)
        cluster.start()
        table.write("BUSY")
        wait_until(lambda: counts(store) == {"ANSWERED": 1, "BUSY": 1})
    assert caplog.text.count("cdr: lost") == 1
    assert caplog.text.count("reading from") == 2
    journal.stop()


def test_a_database_that_hangs_delays_nobody(table, store, cluster):
    journal = journal_of(table, store)
    journal.start()
    wait_until(lambda: journal.collect()[0])  # counting has begun
    table.write("ANSWERED")
    wait_until(lambda: counts(store) == {"ANSWERED": 1})
    # stop every process of the cluster: sockets stay open and silent
    processes = [cluster.leader(), *children(cluster.leader())]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(0.5)
        began = time.monotonic()
        assert samples(journal)["asterisk_cdr_records_total[ANSWERED]"] == 1
        journal.stop(0.2)
        assert time.monotonic() - began < 2
        with pytest.raises(TimeoutError, match="no answer within"):
            newest_record_age(table.database, "pbx1", 0.5)
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not journal._thread.is_alive())


def children(pid: int) -> list[int]:
    return [int(n) for n in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_lag_grows_while_the_database_hangs(table, store, monkeypatch):
    journal = journal_of(table, store)
    journal.start()
    wait_until(lambda: journal.collect()[0])
    journal.stop()
    wait_until(lambda: not journal._thread.is_alive())
    now = time.monotonic()
    monkeypatch.setattr(runner.time, "monotonic", lambda: now + 60)
    ok, _, _ = journal.collect()
    assert ok is False
    assert 60 <= samples(journal)["asterisk_exporter_journal_lag_seconds[cdr]"] < 75


def test_a_wrong_table_is_an_error_and_not_an_end(table, store, caplog):
    table.execute("ALTER TABLE cdr RENAME TO elsewhere")
    journal = journal_of(table, store)
    journal.start()
    wait_until(lambda: 'relation "cdr" does not exist' in caplog.text)
    table.execute("ALTER TABLE elsewhere RENAME TO cdr")
    wait_until(lambda: journal.collect()[0])
    journal.stop()


def test_age_of_the_latest_record(table):
    assert newest_record_age(table.database, "pbx1", 5) is None
    insert(table.writer(), "BUSY", ended="now() - interval '40 seconds'")
    table.write("ANSWERED", system="pbx2")
    assert 40 <= newest_record_age(table.database, "pbx1", 5) < 50
    nowhere = Database("127.0.0.1", 1, "x", "exporter", "secret-of-the-test")
    with pytest.raises(SourceError, match="refused"):
        newest_record_age(nowhere, "pbx1", 5)
    assert "secret-of-the-test" not in repr(nowhere) + str(nowhere)


READER = """
import sys, pathlib
from asterisk_exporter.journal.calls import Rules
from asterisk_exporter.journal.cdr import CdrCounter
from asterisk_exporter.journal.cdr_postgresql import Database, PostgresqlSource
from asterisk_exporter.journal.ledger import CallLedger
from asterisk_exporter.journal.store import JournalStore
store = JournalStore(pathlib.Path(sys.argv[1]))
database = Database("127.0.0.1", int(sys.argv[2]), sys.argv[3], "exporter")
counter = CdrCounter(store, CallLedger(store, Rules(settle_seconds=0)))
source = PostgresqlSource(store, database, "pbx1", counter, batch_rows=7)
source.open()
source.begin(False)
print("ready", flush=True)
while True:
    source.read()
"""


def test_kill_9_at_any_moment_neither_loses_nor_repeats(table, tmp_path):
    state = tmp_path / "killed"
    command = [sys.executable, "-c", READER, str(state), str(table.cluster.port), table.name]
    environment = {**os.environ, "PYTHONPATH": str(EXPORTER)}
    writer, written, last = table.writer(), 0, 0
    for run in range(12):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        for _ in range(60):
            insert(writer, "ANSWERED")
            written += 1
        time.sleep(0.003 * run)
        process.kill()
        process.communicate()
        store = JournalStore(state)
        now = counts(store).get("ANSWERED", 0)
        store.close()
        assert last <= now <= written
        last = now
    store = JournalStore(state)
    counter = CdrCounter(store, CallLedger(store, Rules(settle_seconds=0)))
    reader = PostgresqlSource(store, table.database, "pbx1", counter)
    reader.open()
    reader.begin(False)
    # an autovacuum may hold the last ones back for a moment
    wait_until(lambda: not reader.read() and reader.lag_seconds() == 0)
    assert counts(store) == {"ANSWERED": written}
    # each record is a call of its own, and decided once
    wait_until(
        lambda: not reader.read() and sum(store.values("asterisk_calls").values()) == written
    )
    reader.close()
    store.close()


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_crash_beside_the_commit(table, store, reading, monkeypatch, where):
    reader, _ = reading
    table.write("ANSWERED", "BUSY")
    real = store.apply

    def crash(change):
        if where == "after":
            real(change)
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "apply", crash)
    with pytest.raises(KeyboardInterrupt):
        reader.read()
    monkeypatch.setattr(store, "apply", real)
    with opened(table, store) as again:
        again.read()
    assert counts(store) == {"ANSWERED": 1, "BUSY": 1}


def cdr_config(config_file, table, ami_port, tmp_path) -> Path:
    return config_file(
        ami_port,
        f"system_name: pbx1\nstate_directory: {tmp_path}/served\n"
        f"cdr: {{port: {table.cluster.port}, database: {table.name}, password_file: null,"
        " poll_seconds: 0.1}\n",
    )


def test_served_counters_never_go_down_across_kill_9(
    table, serve, config_file, ami_server, behave, tmp_path
):
    path = cdr_config(config_file, table, ami_server(behave("busy")).port, tmp_path)
    sample = 'asterisk_cdr_records_total{disposition="ANSWERED"}'
    written = 0
    for _ in range(3):
        served = serve(path)
        served.wait_for('asterisk_exporter_collector_success{collector="cdr"}', 1)
        assert served.value(sample) >= written - 5  # what was written before the kill
        table.write(*["ANSWERED"] * 5)
        written += 5
        served.wait_for(sample, written)
        served.end(signal.SIGKILL)
        table.write(*["ANSWERED"] * 5)  # while it is down
        written += 5
    served = serve(path)
    served.wait_for(sample, written)
    assert served.end() == 0


def test_two_processes_never_share_a_state_directory(
    table, serve, config_file, ami_server, behave, tmp_path, command, free_port
):
    path = cdr_config(config_file, table, ami_server(behave("busy")).port, tmp_path)
    serve(path)
    done = command("serve", "--config", path, "--port", free_port())
    assert done.returncode == 2
    assert "in use by another asterisk-exporter" in done.stderr


def test_check_shows_the_age_of_the_newest_record(
    table, config_file, ami_server, behave, tmp_path, command
):
    path = cdr_config(config_file, table, ami_server(behave("idle")).port, tmp_path)
    done = command("check", "--config", path, "--full")
    assert "CDR:           database answers, no record yet" in done.stdout
    insert(table.writer(), "BUSY", ended="now() - interval '40 seconds'")
    done = command("check", "--config", path, "--json")
    assert 40 <= json.loads(done.stdout)["cdr"]["age_seconds"] < 60
