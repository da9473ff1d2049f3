from __future__ import annotations

import contextlib
import os
import sqlite3

import pytest

from asterisk_exporter.journal.store import (
    FILE_NAME,
    Change,
    JournalStore,
    JournalStoreError,
    read_only,
)


def change(at: int, **counts: int) -> Change:
    made = Change("cdr", {"id": at})
    for name, by in counts.items():
        made.count("records", name, by=by)
    return made


def test_cursor_and_counters_survive(tmp_path):
    store = JournalStore(tmp_path / "state")
    assert store.position("cdr") is None
    store.apply(change(1, BUSY=2, FAILED=0))
    store.apply(change(5, BUSY=1))
    store.close()
    again = JournalStore(tmp_path / "state")
    assert again.position("cdr") == {"id": 5}
    assert again.values("records") == {("BUSY",): 3, ("FAILED",): 0}
    assert again.values("others") == {}
    again.close()


def test_without_close_too(tmp_path):
    store = JournalStore(tmp_path)
    store.apply(change(1, BUSY=2))
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        assert db.execute("SELECT value FROM counter").fetchall() == [(2,)]
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    store.close()


def test_a_change_that_fails_changes_nothing(tmp_path):
    store = JournalStore(tmp_path)
    store.apply(change(1, BUSY=2))
    store._db.execute(
        "CREATE TRIGGER fail BEFORE UPDATE ON cursor BEGIN SELECT RAISE(FAIL, 'no'); END"
    )
    with pytest.raises(JournalStoreError, match="cannot write"):
        store.apply(change(9, BUSY=5))
    assert store.position("cdr") == {"id": 1}
    assert store.values("records") == {("BUSY",): 2}
    store._db.execute("DROP TRIGGER fail")
    store.apply(change(9, BUSY=5))
    assert store.values("records") == {("BUSY",): 7}
    store.close()


def test_a_file_that_another_process_has_locked(tmp_path):
    store = JournalStore(tmp_path)
    store._db.execute("PRAGMA busy_timeout = 50")
    other = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(JournalStoreError, match="locked"):
        store.apply(change(1, BUSY=1))
    assert store.values("records") == {}
    other.execute("ROLLBACK")
    store.apply(change(1, BUSY=1))
    other.close()
    store.close()


def test_one_process_per_directory(tmp_path):
    store = JournalStore(tmp_path)
    with pytest.raises(JournalStoreError, match="in use by another asterisk-exporter"):
        JournalStore(tmp_path)
    store.close()
    JournalStore(tmp_path).close()


def test_the_file_is_its_owners_alone(tmp_path):
    old = os.umask(0)
    try:
        JournalStore(tmp_path).close()
    finally:
        os.umask(old)
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("damage", ["not SQLite", "a page", "newer", "labels"])
def test_a_file_that_cannot_be_used_is_moved_aside(tmp_path, caplog, damage):
    store = JournalStore(tmp_path)
    store.apply(change(1, BUSY=2))
    store.close()
    path = tmp_path / FILE_NAME
    if damage == "not SQLite":
        path.write_bytes(b"something else " * 1000)
    elif damage == "a page":
        data = path.read_bytes()
        path.write_bytes(data[:4096] + b"\xff" * 4096 + data[8192:])
    else:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(
                "PRAGMA user_version = 99"
                if damage == "newer"
                else "UPDATE counter SET labels = '{'"
            )
    before = path.read_bytes()
    store = JournalStore(tmp_path)
    assert store.position("cdr") is None
    assert store.values("records") == {}
    store.apply(change(1, BUSY=1))
    store.close()
    (aside,) = tmp_path.glob(f"{FILE_NAME}.unusable-*")
    assert aside.read_bytes() == before
    assert str(aside) in caplog.text
    assert "the counters start again" in caplog.text
    assert ("newer" in caplog.text) == (damage == "newer")
    JournalStore(tmp_path).close()  # the new one is fine


def test_rows_change_with_the_counters(tmp_path):
    store = JournalStore(tmp_path)
    with_rows = change(1, BUSY=1)
    with_rows.run("INSERT INTO decided VALUES (?, ?)", [("a", 1.0), ("b", 2.0)])
    with_rows.run("DELETE FROM decided WHERE linkedid = ?", [("a",)])
    store.apply(with_rows)
    bad = change(2, BUSY=1)
    bad.run("INSERT INTO decided VALUES (?, ?)", [("c", 1.0), ("b", 2.0)])
    with pytest.raises(JournalStoreError, match="cannot write"):
        store.apply(bad)
    assert store.values("records") == {("BUSY",): 1}
    with read_only(tmp_path) as db:
        assert db.execute("SELECT * FROM decided").fetchall() == [("b", 2.0)]
        with pytest.raises(sqlite3.Error):
            db.execute("DELETE FROM decided")
    store.close()


LAYOUT_1 = """
CREATE TABLE counter (
    name TEXT NOT NULL, labels TEXT NOT NULL, value INTEGER NOT NULL, PRIMARY KEY (name, labels)
) WITHOUT ROWID;
CREATE TABLE missed (
    linkedid TEXT NOT NULL PRIMARY KEY, at REAL NOT NULL, ended REAL NOT NULL,
    caller TEXT NOT NULL, number TEXT, dialled TEXT NOT NULL, destination TEXT NOT NULL,
    reason TEXT NOT NULL, wait INTEGER
) WITHOUT ROWID;
CREATE INDEX missed_at ON missed (at);
INSERT INTO counter VALUES ('records', '["BUSY"]', 7);
INSERT INTO missed VALUES ('a', 5, 30, '+1', '1', '2', 'sales', 'abandoned', 25);
INSERT INTO missed VALUES ('b', 1, 20, '', NULL, '2', 'sales', 'timeout', NULL);
PRAGMA user_version = 1;
"""


def test_a_file_of_the_first_layout_is_taken_over(tmp_path):
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        db.executescript(LAYOUT_1)
    for _ in range(2):
        store = JournalStore(tmp_path)
        assert store.values("records") == {("BUSY",): 7}
        assert store.rows("SELECT * FROM missed ORDER BY id") == [
            (1, "b", 1, 20, "", None, "2", "sales", "timeout", None),
            (2, "a", 5, 30, "+1", "1", "2", "sales", "abandoned", 25),
        ]
        assert store.rows("SELECT name FROM sqlite_master WHERE name LIKE 'missed%'") == [
            ("missed",),
            ("missed_at",),
        ]
        store.close()


def test_taking_over_is_all_or_nothing(tmp_path):
    path = tmp_path / FILE_NAME
    with contextlib.closing(sqlite3.connect(path)) as db:
        # a table in the way of the new one
        db.executescript(LAYOUT_1 + "CREATE TABLE missed_1 (id INTEGER);")
    with pytest.raises(JournalStoreError, match="missed_1"):
        JournalStore(tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM missed").fetchone() == (2,)
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT 1 FROM sqlite_master WHERE name = 'missed_at'").fetchall()


def test_every_journal_has_an_identity_of_its_own(tmp_path):
    def identity(name):
        store = JournalStore(tmp_path / name)
        try:
            ((found,),) = store.rows("SELECT id FROM identity")
            return found
        finally:
            store.close()

    assert identity("a") == identity("a")
    assert identity("a") != identity("b")


def test_reading_a_state_that_is_not_there(tmp_path):
    with pytest.raises(JournalStoreError, match="cannot read"), read_only(tmp_path):
        pass


def test_reading_a_state_of_another_layout_says_what_to_do(tmp_path):
    JournalStore(tmp_path).close()
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.execute("PRAGMA user_version = 1")
    said = "has the layout 1.*systemctl restart asterisk-exporter"
    with pytest.raises(JournalStoreError, match=said), read_only(tmp_path):
        pass


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalStoreError, match="state directory"):
        JournalStore(tmp_path / "file" / "state")
