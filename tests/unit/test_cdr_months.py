"""The CDR table by months: nothing is lost or read twice, and polls leave old months alone."""

from __future__ import annotations

import contextlib
import random
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import psycopg2
import pytest

from asterisk_exporter.doctor import cdr_months
from asterisk_exporter.importer import import_csv
from asterisk_exporter.journal import cdr_postgresql
from asterisk_exporter.journal.calls import Rules
from asterisk_exporter.journal.cdr import RECORDS, CdrCounter
from asterisk_exporter.journal.cdr_postgresql import Database, PostgresqlSource
from asterisk_exporter.journal.ledger import CallLedger
from asterisk_exporter.journal.store import JournalStore

from .postgresql import MIGRATIONS, Cluster, begin_cdr_database, migrate

NUMBERS = iter(range(10**6))
PATHS = sorted(MIGRATIONS.glob("*.sql"))
BEFORE_MONTHS = PATHS[:3]


@pytest.fixture(scope="module")
def cluster():
    """Return a server with the databases that tests have copies of.

    They are `asterisk`, `old` as the release before had it, and `years` with five of records.
    """
    # This month must not become the last one while the tests run.
    while (now := datetime.now(timezone.utc)).month != (now + timedelta(minutes=5)).month:
        time.sleep(1)
    with tempfile.TemporaryDirectory(prefix="asterisk-exporter-tests-") as folder:
        one = Cluster(Path(folder))
        one.start()
        begin_cdr_database(one)
        migrate(one, BEFORE_MONTHS)
        one.execute("CREATE DATABASE old TEMPLATE asterisk")
        migrate(one, PATHS[3:])
        one.execute("CALL cdr_partitions(0)", "asterisk")
        one.execute("CREATE DATABASE years TEMPLATE asterisk")
        one.execute(
            "INSERT INTO cdr (system_name, start, disposition, uniqueid, sequence) "
            f"SELECT 'pbx1', {months_ago('n')}, 'BUSY', 'y' || n, n FROM generate_series(0, 59) n",
            "years",
        )
        one.execute("CALL cdr_partitions(0)", "years")
        yield one
        one.stop("immediate")


class Table:
    """A CDR database, PBXs that write to it, and an exporter that reads it."""

    def __init__(self, cluster: Cluster, name: str, folder: Path) -> None:
        self.cluster, self.name = cluster, name
        self.store = JournalStore(folder / "state")
        database = Database("127.0.0.1", cluster.port, name, "exporter")
        counter = CdrCounter(self.store, CallLedger(self.store, Rules()))
        self.reader = PostgresqlSource(self.store, database, "pbx1", counter, batch_rows=200)
        self.reader.open()
        self.reader.begin(backfill=False)

    def execute(self, sql: str):
        return self.cluster.execute(sql, self.name)

    def connect(self, user: str = "asterisk"):
        return self.cluster.connect(self.name, user, "pbx1")

    def write(self, *starts: str, imported: str = "NULL") -> None:
        """Write a record as Asterisk does, one for each start, which is SQL."""
        with contextlib.closing(self.connect()) as connection:
            for start in starts:
                insert(connection, start, imported)

    def poll(self) -> int:
        """Read all there is; return how many records have been counted."""
        while self.reader.read():
            pass
        return sum(self.store.values(RECORDS).values())

    def keep(self, retention_months: int = 0, zone: str = "UTC") -> list[str]:
        """Do what the timer does; return what it says."""
        with contextlib.closing(self.connect("admin")) as connection:
            with connection.cursor() as cursor:
                cursor.execute(f"SET TimeZone = '{zone}'")
                cursor.execute(f"CALL cdr_partitions({retention_months})")
            return [line.removeprefix("NOTICE:  ").strip() for line in connection.notices]

    def rows(self):
        """Return all rows, whole, with the names of their partitions left out."""
        return self.execute("SELECT * FROM cdr ORDER BY id")

    def places(self) -> dict[str, int]:
        """Return how many records each partition has, of those that have any."""
        return dict(self.execute("SELECT tableoid::regclass::text, count(*) FROM cdr GROUP BY 1"))

    def plans(self, monkeypatch) -> list[str]:
        """Return how PostgreSQL goes about what a poll asks of the table."""
        found, ask = [], self.reader._ask

        def explain(sql, **values):
            if "FROM cdr\n" in sql or "FROM cdr WHERE" in sql:
                found.append(
                    "\n".join(row["QUERY PLAN"] for row in ask("EXPLAIN " + sql, **values))
                )
            return ask(sql, **values)

        with monkeypatch.context() as patch:
            patch.setattr(self.reader, "_ask", explain)
            self.poll()
            self.reader.lag_seconds()
        return found

    def close(self) -> None:
        self.reader.close()
        self.store.close()


def insert(connection, start: str, imported: str = "NULL") -> None:
    number = next(NUMBERS)
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO cdr (start, disposition, uniqueid, linkedid, sequence, imported_at) "
            f"VALUES ({start}, 'BUSY', 'u{number}', 'u{number}', {number}, {imported})"
        )


def months_ago(months: int | str) -> str:
    """Return SQL for the middle of the month so many months ago."""
    return f"date_trunc('month', now()) - {months} * interval '1 month' + interval '14 days'"


def name_of(months: int) -> str:
    """Return the name of the partition of the month so many months ago."""
    now = datetime.now(timezone.utc)
    years, month = divmod(now.year * 12 + now.month - 1 - months, 12)
    return f"cdr_{years}_{month + 1:02}"


@contextlib.contextmanager
def table_of(cluster, template, folder):
    name = f"cdr{next(NUMBERS)}"
    cluster.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    table = Table(cluster, name, folder)
    yield table
    table.close()
    cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def table(cluster, tmp_path):
    with table_of(cluster, "asterisk", tmp_path) as made:
        yield made


@pytest.fixture
def old_table(cluster, tmp_path):
    """Return a table of the release before, and a reader that has begun there."""
    with contextlib.ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            for name in ("_IDENTITY", "_RESTORED"):
                sql = getattr(cdr_postgresql, name).replace("cdr_transaction(", "(")
                sql = sql.replace("SELECT begins FROM cdr_here", "SELECT NULL::bigint AS begins")
                patch.setattr(cdr_postgresql, name, sql)
            made = stack.enter_context(table_of(cluster, "old", tmp_path))
        yield made


@pytest.fixture
def years(cluster, tmp_path):
    """Return a table that has had a record in each month of five years."""
    with table_of(cluster, "years", tmp_path) as made:
        yield made


# --- a table of the release before ---------------------------------------------------------------


def test_no_record_is_changed_or_read_twice_when_months_come(old_table):
    old_table.write(*(months_ago(n) for n in range(30)), imported="now()")
    old_table.write(*(months_ago(n) for n in range(30)))
    before = old_table.rows()
    last = old_table.execute("SELECT last_value FROM cdr_id")
    for path in PATHS[3:]:
        old_table.execute(path.read_text())
    assert old_table.rows() == before
    assert old_table.poll() == 30
    assert old_table.places() == {"cdr_default": 60}
    said = old_table.keep()
    assert f"filed 2 records in {name_of(29)}" in said
    assert old_table.rows() == before
    assert old_table.places() == {name_of(n): 2 for n in range(30)}
    assert old_table.poll() == 30
    assert old_table.execute("SELECT last_value FROM cdr_id") == last
    old_table.write("now()", months_ago(12))
    assert old_table.poll() == 32
    assert old_table.keep() == []


def test_a_reader_of_the_release_before_goes_on(old_table, monkeypatch):
    """It is replaced after the database, and knows nothing of what has settled."""
    old_table.write("now()", months_ago(3))
    for path in PATHS[3:]:
        old_table.execute(path.read_text())
    old_table.keep()
    horizon = cdr_postgresql._HORIZON.replace(
        "cdr_settled", "(SELECT NULL::xid8, NULL::timestamptz) AS s (transaction_id, before)"
    )
    monkeypatch.setattr(cdr_postgresql, "_HORIZON", horizon)
    assert old_table.poll() == 2


def test_indexes_are_taken_over_and_columns_are_as_they_were(old_table):
    columns = (
        "SELECT attname, atttypid, attnotnull, pg_get_expr(adbin, adrelid) FROM pg_attribute "
        "LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum "
        "WHERE attrelid = 'cdr'::regclass AND attnum > 0 ORDER BY attnum"
    )
    indexes = (
        "SELECT indexrelid FROM pg_index WHERE indrelid = to_regclass('{}') ORDER BY indexrelid"
    )
    before = old_table.execute(columns), old_table.execute(indexes.format("cdr"))
    for path in PATHS[3:]:
        old_table.execute(path.read_text())
    assert (old_table.execute(columns), old_table.execute(indexes.format("cdr_default"))) == before
    old_table.keep()
    month = old_table.execute(indexes.format(name_of(0)))
    assert len(month) == len(before[1]) == 5
    assert old_table.execute(
        f"SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'p' "
        f"AND conrelid = '{name_of(0)}'::regclass"
    ) == [("PRIMARY KEY (id)",)]


# --- what polls look at --------------------------------------------------------------------------


def test_a_poll_leaves_old_months_alone(years, monkeypatch):
    years.poll()
    plans = years.plans(monkeypatch)
    assert len(plans) == 2
    for plan in plans:
        assert "cdr_default" in plan
        assert name_of(0) in plan
        assert not [n for n in range(2, 60) if name_of(n) in plan]


def test_who_has_not_read_all_looks_everywhere(years, monkeypatch):
    """Its records may be in any month: it was down while the months settled."""
    years.reader.position = cdr_postgresql.replace(years.reader.position, transaction_id=1, id=0)
    years.reader.open()
    first, *_ = years.plans(monkeypatch)
    assert name_of(59) in first
    assert years.poll() == 60
    assert all(name_of(59) not in plan for plan in years.plans(monkeypatch))


def test_a_record_that_comes_to_an_old_month_is_read_at_once(years, monkeypatch):
    counted = years.poll()
    years.write(months_ago(40))
    assert years.poll() == counted + 1
    assert years.places()[name_of(40)] == 2
    assert all(name_of(39) in plan for plan in years.plans(monkeypatch))
    years.keep()
    years.poll()
    assert all(name_of(39) not in plan for plan in years.plans(monkeypatch))


def test_imported_records_disturb_no_poll(years, monkeypatch):
    counted = years.poll()
    years.write(months_ago(40), imported="now()")
    assert years.poll() == counted
    assert all(name_of(40) not in plan for plan in years.plans(monkeypatch))


def test_months_do_not_settle_while_somebody_writes_there(years):
    """Also not by a record that finds nothing to take back, since another was later still."""
    years.write(months_ago(50))
    slow = years.connect()
    slow.autocommit = False
    insert(slow, months_ago(40))
    with contextlib.closing(years.connect("admin")) as admin, admin.cursor() as cursor:
        settle = f"SELECT cdr_settle({months_ago(2)})"
        with pytest.raises(psycopg2.errors.LockNotAvailable):
            cursor.execute(settle)
        slow.commit()
        counted = years.poll()
        cursor.execute(settle)
    slow.close()
    assert years.poll() == counted


def test_a_record_is_read_that_is_filed_during_the_poll(years, monkeypatch):
    """It moves from the default into an old month, between what a poll asks."""
    counted = years.poll()
    years.write(months_ago(90))
    ask = years.reader._ask

    def file_first(sql, **values):
        if sql == cdr_postgresql._BATCH and name_of(90) not in years.places():
            years.keep()
        return ask(sql, **values)

    monkeypatch.setattr(years.reader, "_ask", file_first)
    years.reader.read()
    assert name_of(90) in years.places()
    assert years.poll() == counted + 1


def test_a_record_is_read_that_is_filed_while_a_poll_waits_for_its_month(years):
    """A poll has chosen its partitions when the default is locked for a new one."""
    counted = years.poll()
    years.write(months_ago(90), "now()")
    with contextlib.closing(years.connect("admin")) as keeper, ThreadPoolExecutor() as pool:
        keeper.autocommit = False
        with keeper.cursor() as cursor:
            cursor.execute(
                f"SELECT cdr_add_month(date_trunc('month', {months_ago(90)})::timestamp)"
            )
        poll = pool.submit(years.reader.read)
        waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = 'cdr_default'::regclass"
        while not (years.execute(waits) or poll.done()):
            time.sleep(0.01)
        keeper.commit()
        poll.result()
    assert name_of(90) in years.places()
    assert years.poll() == counted + 2


def test_nothing_is_lost_whatever_comes_while_months_are_kept(years):
    """Records of all ages, some held open, while the timer's work is done again and again."""
    counted, over = years.poll(), threading.Event()
    old = {name_of(n) for n in range(60, 90)}

    def write(seed: int) -> int:
        dice, written = random.Random(seed), 0
        with contextlib.closing(years.connect()) as connection:
            connection.autocommit = False
            while not over.is_set():
                for _ in range(dice.choice([1, 1, 1, 5])):
                    age = dice.choice([0, 0, 1, dice.randrange(70), dice.randrange(90)])
                    insert(connection, months_ago(age))
                    written += 1
                    over.wait(dice.choice([0.01, 0.01, 0.05]))
                connection.commit()
        return written

    def keep() -> None:
        while not over.is_set():
            # somebody writes to an old month: it does not settle yet
            with contextlib.suppress(psycopg2.errors.LockNotAvailable):
                years.keep()

    with ThreadPoolExecutor() as pool:
        writers = [pool.submit(write, seed) for seed in range(3)]
        keeper = pool.submit(keep)
        try:
            for _ in range(25):
                years.reader.read()
                over.wait(0.05)
            end = time.monotonic() + 30
            while not old & set(years.places()) and time.monotonic() < end:
                over.wait(0.05)
        finally:
            over.set()
        written = sum(writer.result() for writer in writers)
        keeper.result()
    assert old & set(years.places()), "none was filed meanwhile"
    assert years.poll() == counted + written


# --- months --------------------------------------------------------------------------------------


def test_months_are_made_ahead(table):
    months = table.execute("SELECT partition::text FROM cdr_months ORDER BY begins")
    assert months == [(name_of(0),), (name_of(-1),), (name_of(-2),)]
    table.write("now()", months_ago(-2))
    assert table.places() == {name_of(0): 1, name_of(-2): 1}


@pytest.mark.parametrize("zone", ["America/New_York", "Pacific/Kiritimati", "UTC"])
def test_a_month_is_one_of_utc(table, zone):
    table.write(
        "timestamptz '2025-10-31 19:59:59 America/New_York'",
        "timestamptz '2025-10-31 20:00 America/New_York'",
        "timestamptz '2025-12-01 00:59:59.9 Europe/Berlin'",
    )
    table.keep(zone=zone)
    assert table.places() == {"cdr_2025_10": 1, "cdr_2025_11": 2}
    assert table.execute(
        "SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'cdr_2025_11'"
    ) == [("FOR VALUES FROM ('2025-11-01 00:00:00+00') TO ('2025-12-01 00:00:00+00')",)]


def test_what_has_no_month_arrives_all_the_same(table):
    table.write("'1970-01-01'", "'infinity'", months_ago(-5), months_ago(3))
    assert table.poll() == 4
    assert table.keep() == [f"filed 1 records in {name_of(3)}"]
    assert table.places() == {"cdr_default": 3, name_of(3): 1}
    assert table.poll() == 4


def test_a_record_is_known_again_in_its_month(table, tmp_path):
    line = (
        '"","1","2","c","","PJSIP/a-1","","Dial","","{at}","","{at}",1,0,'
        '"NO ANSWER","DOCUMENTATION","u{n}","","","u{n}",{n}\n'
    )
    now = datetime.now(timezone.utc)
    lines = [
        line.format(at=(now - timedelta(days=40 * n)).strftime("%Y-%m-%d %H:%M:%S"), n=n)
        for n in range(20)
    ]
    path = tmp_path / "Master.csv"
    path.write_text("".join(lines))
    target = Database("127.0.0.1", table.cluster.port, table.name, "importer")
    assert import_csv(path, target, "pbx1").imported == 20
    table.keep()
    again = import_csv(path, target, "pbx1")
    assert (again.imported, again.skipped, again.errors) == (0, 20, 0)


def test_the_logins_reach_no_partition_but_through_the_table(table):
    table.write("now()")
    for user, statement in (
        ("asterisk", f"INSERT INTO {name_of(0)} (start) VALUES (now())"),
        ("asterisk", "INSERT INTO cdr_default (start) VALUES (now())"),
        ("asterisk", "SELECT FROM cdr"),
        ("asterisk", "UPDATE cdr_settled SET before = 'infinity'"),
        ("exporter", f"SELECT FROM {name_of(0)}"),
        ("importer", "INSERT INTO cdr_default (start) VALUES (now())"),
        ("importer", "CALL cdr_partitions(1)"),
    ):
        with (
            contextlib.closing(table.connect(user)) as connection,
            connection.cursor() as cursor,
            pytest.raises(psycopg2.Error, match=r"permission denied|must be owner"),
        ):
            cursor.execute(statement)


def test_the_doctor_asks_with_the_exporters_login(table):
    database = Database("127.0.0.1", table.cluster.port, table.name, "exporter")
    assert len(database.ask(cdr_months._MONTHS)) == 3
    table.write(months_ago(3), "'1970-01-01'")
    assert database.ask(cdr_months._UNFILED, (cdr_months.MOST,)) == [(1,)]
    table.keep()
    assert database.ask(cdr_months._UNFILED, (cdr_months.MOST,)) == [(0,)]


# --- retention -----------------------------------------------------------------------------------


def test_old_months_go_and_no_figure_with_them(years):
    counted = years.poll()
    years.write("'1970-01-01'")
    said = years.keep(12)
    assert len(said) == 48
    assert all("older than 12 months" in line for line in said[:-1])
    assert said[0].startswith(f"dropped {name_of(59)} (")
    assert said[-1].startswith("deleted 1 records that began before ")
    assert set(years.places()) == {name_of(n) for n in range(13)}
    assert years.keep(12) == []
    assert years.poll() == counted
    assert years.reader.lag_seconds() == 0
    years.write("now()")
    assert years.poll() == counted + 1


def test_nothing_is_dropped_unless_it_is_asked_for(years):
    assert years.keep(0) == []
    assert years.keep(60) == []
    with pytest.raises(psycopg2.errors.RaiseException, match=r"cdr_partitions\(-1\): expected 0"):
        years.keep(-1)
    assert len(years.places()) == 60
