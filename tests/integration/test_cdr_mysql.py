"""The CDR reader against a real MariaDB: commits that come late, gaps, tables of all sorts.

The server is the lab machine's, which gets the package mariadb-server for it, or any other that
ASTERISK_TEST_MYSQL names as host:port:user:password (a user who may make databases and users).
"""

# ruff: noqa: ARG001 - fixtures that are only asked for come as arguments
from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pymysql
import pytest
from history import wait_until_read, wait_until_settled
from lab import HOST, ROOT, Lab, wait_until

from asterisk_exporter import config
from asterisk_exporter.doctor import cdr_database
from asterisk_exporter.doctor.clocks import database_clock
from asterisk_exporter.doctor.pbx import LookError, Pbx
from asterisk_exporter.journal import cdr_mysql
from asterisk_exporter.journal.calls import Rules
from asterisk_exporter.journal.cdr import RECORDS, CdrCounter, newest_record_age
from asterisk_exporter.journal.cdr_mysql import GAP_SECONDS, MysqlSource, MysqlTable
from asterisk_exporter.journal.ledger import CALLS, CallLedger
from asterisk_exporter.journal.runner import SourceError
from asterisk_exporter.journal.store import JournalStore

VARIABLE = "ASTERISK_TEST_MYSQL"
#: FreePBX's table as its framework makes it, and the id that one has to add.
FREEPBX = """
CREATE TABLE cdr (
    id BIGINT NOT NULL AUTO_INCREMENT UNIQUE KEY,
    calldate datetime NOT NULL DEFAULT '1000-01-01 00:00:00', clid varchar(80) NOT NULL DEFAULT '',
    src varchar(80) NOT NULL DEFAULT '', dst varchar(80) NOT NULL DEFAULT '',
    dcontext varchar(80) NOT NULL DEFAULT '', channel varchar(80) NOT NULL DEFAULT '',
    dstchannel varchar(80) NOT NULL DEFAULT '', lastapp varchar(80) NOT NULL DEFAULT '',
    lastdata varchar(80) NOT NULL DEFAULT '', duration int NOT NULL DEFAULT 0,
    billsec int NOT NULL DEFAULT 0, disposition varchar(45) NOT NULL DEFAULT '',
    amaflags int NOT NULL DEFAULT 0, accountcode varchar(20) NOT NULL DEFAULT '',
    uniqueid varchar(32) NOT NULL DEFAULT '', userfield varchar(255) NOT NULL DEFAULT '',
    did varchar(50) NOT NULL DEFAULT '', recordingfile varchar(255) NOT NULL DEFAULT '',
    linkedid varchar(32) NOT NULL DEFAULT '', peeraccount varchar(80) NOT NULL DEFAULT '',
    sequence int NOT NULL DEFAULT 0, KEY calldate (calldate), KEY uniqueid (uniqueid)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4
"""
#: contrib/ast-db-manage's, with an id and the name of the system.
ALEMBIC = """
CREATE TABLE cdr (
    id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY, `system` varchar(40),
    accountcode varchar(80), src varchar(80), dst varchar(80), dcontext varchar(80),
    clid varchar(80), channel varchar(80), dstchannel varchar(80), lastapp varchar(80),
    lastdata varchar(80), `start` TIMESTAMP NULL, answer TIMESTAMP NULL, `end` TIMESTAMP NULL,
    duration int, billsec int, disposition varchar(45), amaflags varchar(45),
    userfield varchar(256), uniqueid varchar(150), linkedid varchar(150),
    peeraccount varchar(80), sequence int
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4
"""


@pytest.fixture(scope="module")
def server(request) -> Iterator[dict]:
    """Give what pymysql.connect() needs to make databases."""
    named = os.environ.get(VARIABLE)
    if named:
        host, port, user, password = named.split(":")
        yield {"host": host, "port": int(port), "user": user, "password": password}
        return
    lab: Lab = request.getfixturevalue("lab")
    had = lab.exec("dpkg -s mariadb-server").returncode == 0
    if not had:
        lab.run(
            "apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq mariadb-server"
        )
    lab.run(
        "mariadb -e \"CREATE OR REPLACE USER tests@localhost IDENTIFIED BY 'tests'; "
        'GRANT ALL ON *.* TO tests@localhost WITH GRANT OPTION"'
    )
    with tunnel(3306) as port:
        yield {"host": "127.0.0.1", "port": port, "user": "tests", "password": "tests"}
    lab.run('mariadb -e "DROP USER tests@localhost"')
    if not had:
        lab.run(
            "DEBIAN_FRONTEND=noninteractive apt-get purge -yq 'mariadb-*' && apt-get autoremove -yq"
        )


@contextlib.contextmanager
def tunnel(remote: int) -> Iterator[int]:
    """Forward a port of this host to one of the lab machine's loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ssh = subprocess.Popen(
        [
            *("ssh", "-F", str(ROOT / ".lab/ssh/config"), "-N", "-o", "ControlPath=none"),
            *("-L", f"127.0.0.1:{port}:127.0.0.1:{remote}", HOST),
        ]
    )
    try:
        wait_until(lambda: answers(port), 60, "a tunnel")
        yield port
    finally:
        ssh.terminate()
        ssh.wait()


def answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Database:
    """A database of one test, with writers as Asterisk is one and a login that may only read."""

    def __init__(self, server: dict, name: str) -> None:
        self.server, self.name = server, name
        self.writers = []
        with self.administrator() as cursor:
            cursor.execute(f"CREATE DATABASE {name}")
            for host in ("%", "localhost"):
                cursor.execute(f"CREATE OR REPLACE USER {name}@'{host}' IDENTIFIED BY 'reads'")
                cursor.execute(f"GRANT SELECT ON {name}.* TO {name}@'{host}'")
        self.calls = iter(range(10**6))

    def table(self, **given) -> MysqlTable:
        host, port = self.server["host"], self.server["port"]
        return MysqlTable(host, port, self.name, self.name, "reads", **given)

    def writer(self):
        writer = pymysql.connect(**self.server, database=self.name)
        self.writers.append(writer)
        return writer

    def execute(self, sql: str) -> None:
        writer = self.writer()
        with writer.cursor() as cursor:
            cursor.execute(sql)
        writer.commit()

    def insert(self, writer, disposition: str, ended: datetime | None = None, **given) -> None:
        ended = ended or datetime.now(timezone.utc).replace(tzinfo=None)
        uniqueid = f"pbx1-{next(self.calls)}"
        values = {
            "calldate": ended - timedelta(seconds=9),
            "duration": 9,
            "src": "+49301234567",
            "uniqueid": uniqueid,
            "linkedid": uniqueid,
            "disposition": disposition,
            "dcontext": "from-external",
            "dst": "100",
            "channel": "PJSIP/provider-01",
            "lastapp": "Dial",
            "dstchannel": "PJSIP/111-01",
            "billsec": 0,
            "sequence": 1,
            **given,
        }
        columns = ", ".join(f"`{name}`" for name, value in values.items() if value is not None)
        told = [value for value in values.values() if value is not None]
        with writer.cursor() as cursor:
            marks = ", ".join(["%s"] * len(told))
            cursor.execute(f"INSERT INTO cdr ({columns}) VALUES ({marks})", told)

    def write(self, *dispositions: str, **given) -> None:
        writer = self.writer()
        for disposition in dispositions:
            self.insert(writer, disposition, **given)
            writer.commit()

    def close(self) -> None:
        for writer in self.writers:
            with contextlib.suppress(pymysql.err.MySQLError):
                writer.close()
        with self.administrator() as cursor:
            cursor.execute(f"DROP DATABASE {self.name}")
            for host in ("%", "localhost"):
                cursor.execute(f"DROP USER {self.name}@'{host}'")

    @contextlib.contextmanager
    def administrator(self):
        with contextlib.closing(pymysql.connect(**self.server, autocommit=True)) as connection:
            yield connection.cursor()


NUMBERS = iter(range(1000))


@pytest.fixture
def database(server) -> Iterator[Database]:
    made = Database(server, f"cdrtest{os.getpid()}_{next(NUMBERS)}")
    yield made
    made.close()


@pytest.fixture
def store(tmp_path) -> Iterator[JournalStore]:
    made = JournalStore(tmp_path)
    yield made
    made.close()


UTC = {"zone": timezone.utc}


@contextlib.contextmanager
def reading(store, table: MysqlTable, backfill: bool = False, settle: float = 0, rows: int = 1000):
    ledger = CallLedger(store, Rules(settle_seconds=settle))
    source = MysqlSource(store, table, "pbx1", CdrCounter(store, ledger), rows)
    source.open()
    source.begin(backfill)
    yield source
    source.close()


def counts(store: JournalStore, name: str = RECORDS) -> dict[str, int]:
    return {labels[-1]: value for labels, value in store.values(name).items() if value}


def test_records_are_counted_once(store, database):
    database.execute(FREEPBX)
    database.write("BUSY")
    with reading(store, database.table(**UTC), rows=2) as source:
        assert not source.read()
        database.write("ANSWERED", "NO ANSWER", "ANSWERED", "FAILED", "CANCEL")
        while source.read():
            pass
        source.read()
        assert counts(store) == {"ANSWERED": 2, "NO ANSWER": 1, "FAILED": 1, "CANCEL": 1}
        assert source.lag_seconds() == 0
        assert abs(source.last_record - time.time()) < 30
        source.read()
    assert counts(store, CALLS) == {"answered": 2, "missed": 3}
    database.write("BUSY")
    with reading(store, database.table(**UTC)) as source:
        source.read()
    assert counts(store)["BUSY"] == 1


def test_backfill_begins_with_the_first(store, database):
    database.execute(FREEPBX)
    database.write("BUSY", "ANSWERED", ended=datetime(2026, 1, 1, 12, 0))
    with reading(store, database.table(**UTC), backfill=True, rows=1) as source:
        while source.read():
            pass
    assert counts(store) == {"BUSY": 1, "ANSWERED": 1}


@pytest.fixture
def short_gaps(monkeypatch):
    """Let gaps be passed at once: what is held open must not be one."""
    monkeypatch.setattr(cdr_mysql, "GAP_SECONDS", 0.0)


def test_a_record_that_commits_late_is_neither_lost_nor_overtaken(store, database, short_gaps):
    database.execute(FREEPBX)
    with reading(store, database.table(**UTC)) as source:
        slow = database.writer()
        database.insert(slow, "BUSY")
        database.write("ANSWERED", "ANSWERED")
        began = time.monotonic()
        assert source.read() is False
        assert time.monotonic() - began < 3
        assert counts(store) == {}
        slow.commit()
        source.read()
        assert counts(store) == {"BUSY": 1, "ANSWERED": 2}


def test_a_leg_that_is_held_open_turns_a_missed_call_into_an_answered_one(
    store, database, short_gaps
):
    database.execute(FREEPBX)
    with reading(store, database.table(**UTC), settle=1) as source:
        slow = database.writer()
        call = {"uniqueid": "u", "linkedid": "u"}
        database.insert(slow, "ANSWERED", **call, sequence=2)
        database.write("NO ANSWER", **call)
        for _ in range(3):
            source.read()
        assert counts(store, CALLS) == {}
        slow.commit()
        source.read()
        time.sleep(1.1)
        source.read()
        assert counts(store, CALLS) == {"answered": 1}


def test_a_record_that_is_rolled_back_is_passed_when_it_is_sure(store, database):
    database.execute(FREEPBX)
    with reading(store, database.table(**UTC)) as source:
        gone = database.writer()
        database.insert(gone, "BUSY")
        gone.rollback()
        database.write("ANSWERED")
        source.read()
        assert counts(store) == {}
        assert source.lag_seconds() > 0
        time.sleep(GAP_SECONDS)
        source.read()
        assert counts(store) == {"ANSWERED": 1}


def test_many_writers_that_commit_in_any_order(store, database):
    """Each holds its transaction for a moment; some give up."""
    database.execute(FREEPBX)
    expected = {"BUSY": 0, "ANSWERED": 0}
    guard = threading.Lock()

    def write(number: int) -> None:
        writer = pymysql.connect(**database.server, database=database.name)
        for turn in range(25):
            disposition = "BUSY" if (number + turn) % 2 else "ANSWERED"
            database.insert(writer, disposition)
            time.sleep(0.002 * ((number * 7 + turn * 3) % 11))
            if (number + turn) % 7 == 0:
                writer.rollback()
                continue
            writer.commit()
            with guard:
                expected[disposition] += 1
        writer.close()

    with reading(store, database.table(**UTC)) as source:
        threads = [threading.Thread(target=write, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            source.read()

        def all_are_counted() -> bool:
            source.read()
            decided = sum(counts(store, CALLS).values())
            return (counts(store), decided) == (expected, sum(expected.values()))

        wait_until(all_are_counted, 10 * GAP_SECONDS, f"{expected} are counted")


def test_two_systems_in_one_table(store, database):
    database.execute(ALEMBIC)
    table = database.table(system_column="system")
    with reading(store, table) as source:
        writer = database.writer()
        now = datetime.now(timezone.utc).replace(tzinfo=None)
        with writer.cursor() as cursor:
            cursor.execute("SET time_zone = '+00:00'")
        for system, disposition in (("pbx2", "BUSY"), ("pbx1", "ANSWERED"), ("pbx2", "FAILED")):
            times = {"calldate": None, "start": now, "end": now}
            database.insert(writer, disposition, system=system, **times)
        writer.commit()
        source.read()
        assert counts(store) == {"ANSWERED": 1}
        assert abs(source.last_record - time.time()) < 30
        assert source.lag_seconds() == 0
    assert newest_record_age(table, "pbx1", 20) < 30
    assert newest_record_age(table, "it's %s", 20) is None


def test_the_doctor_reads_its_clock(database):
    clock = database_clock(database.table(), 5)
    assert abs(clock.there - clock.here) < 1 + clock.uncertain


def test_times_are_wall_clock_of_the_pbx(store, database):
    database.execute(FREEPBX)
    zone = ZoneInfo("Asia/Tokyo")
    with reading(store, database.table(zone=zone)) as source:
        database.write("BUSY", ended=datetime.now(zone).replace(tzinfo=None))
        source.read()
        assert abs(source.last_record - time.time()) < 30
    assert newest_record_age(database.table(zone=zone), "", 20) < 30


def test_a_table_that_was_emptied(store, database, caplog):
    database.execute(FREEPBX)
    with reading(store, database.table(**UTC)) as source:
        database.write("BUSY", "BUSY")
        source.read()
    database.execute("TRUNCATE cdr")
    with reading(store, database.table(**UTC)) as source:
        database.write("ANSWERED")
        source.read()
    assert counts(store) == {"BUSY": 2, "ANSWERED": 1}
    assert "restored or emptied" in caplog.text


@pytest.mark.parametrize(
    ("change", "helps"),
    [
        ("DROP COLUMN id", "ADD COLUMN id BIGINT NOT NULL AUTO_INCREMENT"),
        ("DROP COLUMN linkedid", "ADD COLUMN linkedid VARCHAR(150)"),
        ("DROP COLUMN uniqueid", "ADD COLUMN uniqueid VARCHAR(150)"),
        ("DROP COLUMN disposition", "no column disposition"),
    ],
)
def test_a_table_that_will_not_do(store, database, change, helps):
    database.execute(FREEPBX)
    database.execute(f"ALTER TABLE cdr {change}")
    with pytest.raises(SourceError) as told, reading(store, database.table(**UTC)):
        pass
    assert helps in str(told.value)
    for statement in str(told.value).split("Run: ")[1:]:
        # what is told works
        for one in statement.split("; ")[:-1]:
            database.execute(one)
        with reading(store, database.table(**UTC)) as source:
            source.read()


def test_no_table_and_a_wrong_password(store, database):
    with pytest.raises(SourceError, match="sees no table cdr"), reading(store, database.table()):
        pass
    wrong = MysqlTable(
        database.server["host"], database.server["port"], database.name, database.name, "wrong"
    )
    with pytest.raises(SourceError, match="Access denied"):
        wrong.connect()
    assert "wrong" not in repr(wrong) + str(wrong)


def test_history_of_freepbx_is_imported(lab: Lab, server: dict) -> None:
    """By the command, on the PBX; what cannot be a record is named, and nothing comes twice."""
    rows = (
        "(1, '2026-07-01 12:00:00', 'Müller 😀', 30, 20, 'ANSWERED', 'old.1', 'old.1', 1), "
        "(2, '0000-00-00 00:00:00', '', 30, 0, 'BUSY', 'old.2', 'old.2', 2), "
        "(3, '2026-07-01 12:00:00', '', 30, 0, 'BUSY', 'old.3', 'old.3', 3)"
    )
    columns = "id, calldate, clid, duration, billsec, disposition, uniqueid, linkedid, sequence"
    with pymysql.connect(**server, charset="utf8mb4", autocommit=True) as mysql:
        cursor = mysql.cursor()
        cursor.execute("CREATE OR REPLACE DATABASE freepbx")
        cursor.execute("USE freepbx")
        cursor.execute("SET sql_mode = ''")
        cursor.execute(FREEPBX)
        cursor.execute(f"INSERT INTO cdr ({columns}) VALUES {rows}")
    imported = "system_name = 'pbx1' AND uniqueid LIKE 'old.%' AND imported_at IS NOT NULL"
    wait_until_settled(lab)
    counted = [value for name, value in sorted(lab.metrics().items()) if "cdr_records" in name]
    command = (
        "MYSQL_PWD=tests asterisk-exporter cdr import --timezone Europe/Berlin"
        " --from mysql://tests@127.0.0.1:3306/freepbx"
    )
    try:
        first = lab.exec(command)
        assert first.returncode == 1, first.stdout + first.stderr
        assert "id 2: " in first.stdout + first.stderr
        found = lab.sql(
            "SELECT uniqueid, clid, extract(epoch FROM start)::int, "
            f"extract(epoch FROM answer - start)::int FROM cdr WHERE {imported} ORDER BY 1"
        )
        noon = str(int(datetime(2026, 7, 1, 10, tzinfo=timezone.utc).timestamp()))
        assert found == [["old.1", "Müller 😀", noon, "10"], ["old.3", "", noon, ""]]
        lab.exec(command)
        assert lab.sql(f"SELECT count(*) FROM cdr WHERE {imported}") == [["2"]]
        wait_until_read(lab, "cdr")
        after = [value for name, value in sorted(lab.metrics().items()) if "cdr_records" in name]
        assert after == counted
    finally:
        lab.sql(f"DELETE FROM cdr WHERE {imported}")


def test_the_doctor_on_a_table_of_mysql(database, tmp_path):
    """A login that may only read is well; FreePBX's own may do everything, which is named."""
    database.execute(FREEPBX)
    (tmp_path / "reads").write_text("reads")
    host, port, name = database.server["host"], database.server["port"], database.name
    cdr = {"host": host, "port": port, "database": name, "username": name, "source": "mysql"}
    settings = config.Config(cdr={**cdr, "password_file": "reads"})

    def look() -> list[str]:
        pbx = Pbx(settings, tmp_path / "config.yml", 5)
        found = [*cdr_database.look(pbx), *cdr_database.grants(pbx)]
        return [f"{finding.status.name}: {finding.text}" for finding in found]

    answered, granted = look()
    assert answered.startswith(f"OK: MySQL table {name}.cdr at {host}:{port} as {name}: MySQL ")
    assert granted == f"OK: {name} may read {name}.cdr, and nothing else"
    with database.administrator() as cursor:
        for known in ("%", "localhost"):
            cursor.execute(f"GRANT ALL ON {name}.* TO {name}@'{known}'")
    assert look()[1].startswith(
        f"WARNING: {name} may do more than read call records: ALL PRIVILEGES."
    )
    (tmp_path / "reads").write_text("wrong")
    with pytest.raises(LookError, match="Access denied") as told:
        look()
    assert "asterisk_exporter_cdr_password" in told.value.action
