"""`cdr import` into a real PostgreSQL, with the schema of the role."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import psycopg2
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from asterisk_exporter import api, foreign_cdr, importer, quality
from asterisk_exporter.cli import main
from asterisk_exporter.importer import COLUMNS, ImportFailedError, import_csv, import_database
from asterisk_exporter.journal.cdr_postgresql import Database

from .conftest import EXPORTER
from .postgresql import Cluster, make_cdr_database

UTC = timezone.utc
LINE = (
    '"","4930123","601","from-external","""Ada"" <4930123>","PJSIP/provider-01","PJSIP/101-02",'
    '"Queue","support,ikt","2026-01-31 13:05:59","2026-01-31 13:06:10","2026-01-31 13:07:00",61,50,'
    '"ANSWERED","DOCUMENTATION","1769864759.17","queue:support","","1769864759.17",42\n'
)


@pytest.fixture(scope="module")
def cluster():
    with tempfile.TemporaryDirectory(prefix="asterisk-exporter-tests-") as folder:
        one = Cluster(Path(folder))
        one.start()
        make_cdr_database(one)
        yield one
        one.stop("immediate")


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        (b"Ann", "Ann"),
        ("M\u00fcller \u041e\u0442\u0434\u0435\u043b \U0001f600".encode(), None),
        ("M\u00fcller".encode("latin-1"), "M\u00fcller"),
        (b"\xc0 \xff", "\u00c0 \u00ff"),
        (b"cut \xc3", "cut \u00c3"),
        (b"it's \\ 100 %", None),
        (b"\x80\x9f", "\x80\x9f"),
    ],
)
def test_no_text_of_a_caller_loses_the_record(cluster, written, kept):
    writer = psycopg2.connect(
        host="127.0.0.1",
        port=cluster.port,
        dbname="asterisk",
        user="asterisk",
        application_name="texts",
    )
    writer.autocommit = True
    writer.set_client_encoding("LATIN1")  # as cdr_pgsql.conf has it
    given = [written.decode("latin-1")] * 4
    with contextlib.closing(writer), writer.cursor() as cursor:
        cursor.execute(
            "INSERT INTO cdr (start, sequence, uniqueid, clid, src, dst) "
            "VALUES (now(), 1, %s, %s, %s, %s)",
            given,
        )
    [found] = cluster.execute(
        "DELETE FROM cdr WHERE system_name = 'texts' RETURNING uniqueid, clid, src, dst", "asterisk"
    )
    assert found == (written.decode() if kept is None else kept,) * 4


def test_only_who_writes_latin_1_is_read_so(cluster):
    cluster.execute(
        "INSERT INTO cdr (start, sequence, uniqueid, system_name) "
        "VALUES (now(), 1, '\u00c3\u00bc', 'utf')",
        "asterisk",
    )
    [found] = cluster.execute(
        "DELETE FROM cdr WHERE system_name = 'utf' RETURNING uniqueid", "asterisk"
    )
    assert found == ("\u00c3\u00bc",)


class Table:
    """The table, as its owner sees it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.target = Database("127.0.0.1", cluster.port, "asterisk", "importer")

    def rows(self, columns: str = "uniqueid, sequence", where: str = "true"):
        return self.execute(f"SELECT {columns} FROM cdr WHERE {where} ORDER BY id")

    def execute(self, sql: str):
        return self.cluster.execute(sql, "asterisk")

    def count(self) -> int:
        return self.execute("SELECT count(*) FROM cdr")[0][0]


@pytest.fixture
def table(cluster):
    one = Table(cluster)
    one.execute("TRUNCATE cdr")
    return one


@pytest.fixture
def master(tmp_path):
    """Return a function that writes a Master.csv."""

    def write(content: bytes | str) -> Path:
        path = tmp_path / "Master.csv"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def record(**changed: str) -> list[str]:
    row = next(csv.reader([LINE]))
    for name, value in changed.items():
        row[COLUMNS.index(name)] = value
    return row


def line(**changed: str) -> str:
    """Return a line as cdr_csv writes it: texts in quotes, numbers without."""
    row = record(**changed)
    numbers = {"duration", "billsec", "sequence"}
    return (
        ",".join(
            value if name in numbers else '"' + value.replace('"', '""') + '"'
            for name, value in zip(COLUMNS, row)
        )
        + "\n"
    )


def many(count: int, first: int = 0) -> str:
    return "".join(line(sequence=str(n), uniqueid=f"1.{n}") for n in range(first, first + count))


def summary(result) -> tuple[int, int, int]:
    return result.imported, result.skipped, result.errors


# --- Master.csv ----------------------------------------------------------------------------------


def test_a_record_arrives_as_it_is(table, master):
    assert line() == LINE
    result = import_csv(master(LINE), table.target, "pbx1")
    assert summary(result) == (1, 0, 0)
    ((*values, imported),) = table.rows(
        'system_name, accountcode, src, clid, start, answer, "end", duration, billsec, '
        "disposition, amaflags, uniqueid, userfield, linkedid, sequence, imported_at"
    )
    begun = datetime(2026, 1, 31, 13, 5, 59, tzinfo=UTC)
    assert values == [
        *("pbx1", "", "4930123", '"Ada" <4930123>', begun),
        *(begun + timedelta(seconds=11), begun + timedelta(seconds=61), 61, 50),
        *("ANSWERED", "DOCUMENTATION", "1769864759.17", "queue:support", "1769864759.17", 42),
    ]
    assert abs(datetime.now(UTC) - imported) < timedelta(minutes=1)


def test_a_second_time_nothing_is_added(table, master):
    path = master(many(250))
    assert summary(import_csv(path, table.target, "pbx1", batch_rows=100)) == (250, 0, 0)
    before = table.rows("id, transaction_id::text")
    assert summary(import_csv(path, table.target, "pbx1", batch_rows=100)) == (0, 250, 0)
    assert summary(import_csv(path, table.target, "pbx1")) == (0, 250, 0)
    assert table.rows("id, transaction_id::text") == before


def test_duplicates_within_a_file_and_within_a_batch(table, master):
    path = master(many(3) + many(5) + many(3))
    assert summary(import_csv(path, table.target, "pbx1")) == (5, 6, 0)
    table.execute("TRUNCATE cdr")
    assert summary(import_csv(path, table.target, "pbx1", batch_rows=2)) == (5, 6, 0)


def test_what_asterisk_wrote_is_not_imported_again(table, master):
    asterisk = table.cluster.connect("asterisk", "asterisk", "pbx1")
    with asterisk.cursor() as cursor:
        cursor.execute(
            "INSERT INTO cdr (start, uniqueid, sequence) "
            "VALUES ('2026-01-31 13:05:59+00', '1.2', 2)"
        )
    asterisk.close()
    assert summary(import_csv(master(many(4)), table.target, "pbx1")) == (3, 1, 0)
    assert table.rows("sequence", "imported_at IS NULL") == [(2,)]


def test_the_same_record_of_another_system_is_another(table, master):
    path = master(many(2))
    assert summary(import_csv(path, table.target, "pbx1")) == (2, 0, 0)
    assert summary(import_csv(path, table.target, "pbx2")) == (2, 0, 0)


def test_after_duplicates_the_fast_way_is_tried_again(table, master):
    import_csv(master(many(20)), table.target, "pbx1")
    ways = []
    result = importer.Result()

    class Watched(importer._Writer):
        def _insert_all(self, lines):
            ways.append(self._expect_new)
            return super()._insert_all(lines)

    connection = importer.connect(table.target, "UTC")
    writer = Watched(connection, result)
    with master(many(60)).open("rb") as raw:
        for batch in importer._csv_batches(raw, Path("Master.csv"), "pbx1", 10):
            writer.store(batch)
    connection.close()
    assert summary(result) == (40, 20, 0)
    assert ways[:5] == [True, False, False, True, True]


@pytest.fixture
def slow(table):
    """Each new record takes a millisecond, before its transaction ends."""
    table.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql "
        "AS 'BEGIN PERFORM pg_sleep(0.001); RETURN NULL; END';"
        "CREATE TRIGGER dawdle AFTER INSERT ON cdr FOR EACH ROW EXECUTE FUNCTION dawdle()"
    )
    yield
    table.execute("DROP FUNCTION dawdle CASCADE")


@pytest.mark.usefixtures("slow")
def test_kill_9_in_the_middle_leaves_whole_batches_and_a_second_run_completes(table, master):
    path = master(many(3000))
    code = (
        "import sys; from pathlib import Path; from asterisk_exporter import importer;"
        "from asterisk_exporter.journal.cdr_postgresql import Database;"
        "importer.import_csv(Path(sys.argv[1]),"
        " Database('127.0.0.1', int(sys.argv[2]), 'asterisk', 'importer'), 'pbx1', batch_rows=50)"
    )
    command = [sys.executable, "-c", code, str(path), str(table.cluster.port)]
    environment = {**os.environ, "PYTHONPATH": str(EXPORTER)}
    rng = random.Random(7)
    seen = 0
    for _ in range(3):
        running = subprocess.Popen(command, env=environment)
        until = time.monotonic() + 30
        wanted = seen + rng.randrange(200, 800)
        while table.count() < wanted and time.monotonic() < until:
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
        assert running.wait(10) == -signal.SIGKILL
        # the server ends what was under way
        while table.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'importer'") != [
            (0,)
        ]:
            time.sleep(0.02)
        seen = table.count()
        assert wanted <= seen < 3000
        assert seen % 50 == 0
    assert summary(import_csv(path, table.target, "pbx1")) == (3000 - seen, seen, 0)
    assert table.execute("SELECT count(*), count(DISTINCT sequence) FROM cdr") == [(3000, 3000)]


BAD = [
    ({"start": ""}, "start: ''"),
    ({"start": "2026-02-30 10:00:00"}, "start: '2026-02-30 10:00:00': expected a time"),
    ({"start": "2026-01-31 24:00:00"}, "start:"),
    ({"start": "2026-01-31 23:59:60"}, "start:"),
    ({"start": "2026-01-31T10:00:00"}, "start:"),
    ({"start": "2026-W01-1 10:00:00"}, "start:"),
    ({"start": "2026-01-31 10:00+01"}, "start:"),
    ({"start": "0000-00-00 00:00:00"}, "start:"),
    ({"start": "now"}, "start: 'now'"),
    ({"start": "٢٠٢٦-01-31 10:00:00"}, "start:"),
    ({"answer": "soon"}, "answer: 'soon'"),
    ({"end": "infinity"}, "end: 'infinity'"),
    ({"duration": "-5"}, "duration: '-5': expected a whole number from 0 to 2147483647"),
    ({"duration": "2147483648"}, "duration:"),
    ({"duration": ""}, "duration: ''"),
    ({"duration": "٣"}, "duration:"),
    ({"billsec": "1.5"}, "billsec: '1.5'"),
    ({"billsec": "9" * 6000}, "billsec: '" + "9" * 40 + "…'"),
    ({"sequence": str(2**63)}, f"sequence: '{2**63}': expected a whole number from 0"),
    ({"sequence": ""}, "sequence: ''"),
    ({"uniqueid": ""}, "uniqueid: ''"),
    ({"linkedid": ""}, "linkedid: ''"),
    ({"uniqueid": "1" * 150}, "uniqueid:"),
    ({"clid": "a\0b"}, "NUL"),
]


@pytest.mark.parametrize(("changed", "text"), BAD, ids=[str(n) for n in range(len(BAD))])
def test_a_bad_record_is_reported_with_its_line_and_the_rest_imported(table, master, changed, text):
    path = master(many(2) + line(**changed) + many(2, 5))
    result = import_csv(path, table.target, "pbx1")
    assert summary(result) == (4, 0, 1)
    (error,) = result.first_errors
    assert error.where == "line 3"
    assert text in error.text
    assert table.count() == 4


@pytest.mark.parametrize("changed", [{"duration": "2147483647"}, {"sequence": str(2**63 - 1)}])
def test_the_largest_numbers_fit(table, master, changed):
    assert summary(import_csv(master(line(**changed)), table.target, "pbx1")) == (1, 0, 0)


def test_lines_are_counted_as_an_editor_does(table, master):
    content = line(userfield="two\nlines\r\nthree") + "\n" + line(start="bad") + line(sequence="7")
    result = import_csv(master(content), table.target, "pbx1")
    assert summary(result) == (2, 0, 1)
    assert [error.where for error in result.first_errors] == ["line 5"]
    assert table.rows("userfield")[0] == ("two\nlines\r\nthree",)


def test_a_line_that_was_torn_costs_no_other(table, master):
    whole = many(4).splitlines(keepends=True)
    torn = whole[1][: whole[1].index("PJSIP/101") + 4] + "\n"
    content = whole[0] + torn + whole[2] + whole[3] + line(start="bad")
    result = import_csv(master(content), table.target, "pbx1")
    assert summary(result) == (3, 0, 2)
    assert [error.where for error in result.first_errors] == ["line 2", "line 5"]
    assert table.rows("sequence") == [(0,), (2,), (3,)]


@pytest.mark.parametrize("cut", range(1, len(LINE) - 1, 7))
def test_wherever_a_line_was_torn(table, master, cut):
    whole = many(4).splitlines(keepends=True)
    result = import_csv(
        master(whole[0] + whole[1][:cut] + "\n" + whole[2] + whole[3]), table.target, "pbx1"
    )
    # a cut in the last number leaves a whole record
    assert result.imported + result.errors == 4
    assert {(0,), (2,), (3,)} <= set(table.rows("sequence"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a\rb\n", "a carriage return outside of quotes"),
        ('"a\n', "its quotes do not end"),
        ('"a"b\n', "text follows a closing quote"),
        (f'"{"x" * 1_000_001}"\n', "longer than a million characters"),
    ],
)
def test_a_line_that_is_no_csv(table, master, content, said):
    result = import_csv(master(content), table.target, "pbx1")
    assert summary(result) == (0, 0, 1)
    assert said in result.first_errors[0].text


def test_the_first_ten_errors_are_kept(table, master):
    result = import_csv(master("\n".join(["x"] * 12) + "\n" + LINE), table.target, "pbx1")
    assert summary(result) == (1, 0, 12)
    assert [error.where for error in result.first_errors] == [f"line {n}" for n in range(1, 11)]


@pytest.mark.parametrize(
    ("columns", "lacks"),
    [
        (16, "uniqueid (loguniqueid), userfield (loguserfield), peeraccount, linkedid, sequence"),
        (17, "uniqueid (loguniqueid) or userfield (loguserfield), and peeraccount"),
        (18, "peeraccount, linkedid, sequence (newcdrcolumns)"),
        (19, "uniqueid (loguniqueid), userfield (loguserfield)"),
        (20, "uniqueid (loguniqueid) or userfield (loguserfield)"),
    ],
)
def test_a_file_without_the_tail_is_refused(table, master, columns, lacks):
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(record()[:columns])
    short = text.getvalue()
    with pytest.raises(ImportFailedError) as refused:
        import_csv(master(short * 3), table.target, "pbx1")
    assert lacks in str(refused.value)
    assert "newcdrcolumns = yes" in str(refused.value)
    assert table.count() == 0
    # one such line in a file that has the tail is an error of that line
    result = import_csv(master(short + LINE), table.target, "pbx1")
    assert summary(result) == (1, 0, 1)
    assert lacks in result.first_errors[0].text


def test_bytes_that_are_not_utf_8(table, master):
    content = LINE.encode().replace(b"Ada", b"M\xfcller \xe9").replace(b"support", "ä€".encode())
    assert summary(import_csv(master(content), table.target, "pbx1")) == (1, 0, 0)
    assert table.rows("clid, lastdata") == [('"Müller é" <4930123>', "ä€,ikt")]


@pytest.mark.parametrize(
    "text", ["\\N", "\\.", "a\n\\.\nb", "tab\there", "\\", "\\x41", "\r", "NULL", "'; --", "😀"]
)
def test_texts_that_mean_something_to_copy(table, master, text):
    path = master(line(userfield=text, accountcode=text))
    assert summary(import_csv(path, table.target, "pbx1")) == (1, 0, 0)
    assert table.rows("userfield, accountcode") == [(text, text)]


def test_times_of_another_zone(table, master):
    content = line() + line(start="2026-07-01 12:00:00", answer="", end="", sequence="2")
    import_csv(master(content), table.target, "pbx1", zone="Europe/Berlin")
    zone = ZoneInfo("Europe/Berlin")
    assert table.rows("start, answer") == [
        (
            datetime(2026, 1, 31, 13, 5, 59, tzinfo=zone),
            datetime(2026, 1, 31, 13, 6, 10, tzinfo=zone),
        ),
        (datetime(2026, 7, 1, 12, 0, 0, tzinfo=zone), None),
    ]


def test_a_rotated_file_that_is_compressed(table, tmp_path):
    path = tmp_path / "Master.csv.2.gz"
    path.write_bytes(gzip.compress(many(3).encode()))
    assert summary(import_csv(path, table.target, "pbx1")) == (3, 0, 0)
    for damaged in (path.read_bytes()[:-20], b"no gzip", path.read_bytes()[:20] + b"\xff" * 50):
        path.write_bytes(damaged)
        with pytest.raises(ImportFailedError, match=r"Master\.csv\.2\.gz"):
            import_csv(path, table.target, "pbx1")


def test_a_file_that_comes_through_a_pipe(table, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(many(30),))
    writer.start()
    told = []
    result = import_csv(pipe, table.target, "pbx1", progress=lambda *at: told.append(at))
    writer.join()
    assert summary(result) == (30, 0, 0)
    assert told == [(0, None)]


def test_an_empty_file(table, master):
    assert summary(import_csv(master(""), table.target, "pbx1")) == (0, 0, 0)


def test_progress_is_told(table, master):
    told = []
    path = master(many(100))
    import_csv(path, table.target, "pbx1", batch_rows=30, progress=lambda *at: told.append(at))
    assert len(told) == 4
    assert told[-1] == (path.stat().st_size, path.stat().st_size)


@pytest.mark.parametrize("name", ["", "pbx\n1", "x" * 64])
def test_a_system_name_that_asterisk_cannot_have(table, master, name):
    with pytest.raises(ImportFailedError, match="systemname"):
        import_csv(master(LINE), table.target, name)


def test_a_zone_that_is_none(table, master):
    with pytest.raises(ImportFailedError, match="Europe/Berlin"):
        import_csv(master(LINE), table.target, "pbx1", zone="Mars/Olympus")


def test_what_postgresql_refuses_stands_alone(table, master):
    """A rule that we do not know of: its record is reported, the others arrive."""
    table.execute("ALTER TABLE cdr ADD CONSTRAINT short CHECK (length(dst) < 10)")
    try:
        content = many(50) + line(dst="0" * 20, sequence="77") + many(50, 100)
        result = import_csv(master(content), table.target, "pbx1")
    finally:
        table.execute("ALTER TABLE cdr DROP CONSTRAINT short")
    assert summary(result) == (100, 0, 1)
    assert result.first_errors[0].where == "line 51"
    assert "PostgreSQL refuses it" in result.first_errors[0].text


def test_the_login_may_not_change_or_delete(table):
    connection = table.cluster.connect("asterisk", "importer")
    for statement in ("DELETE FROM cdr", "UPDATE cdr SET src = ''", "TRUNCATE cdr"):
        with pytest.raises(Exception, match="permission denied"), connection.cursor() as cursor:
            cursor.execute(statement)
    connection.close()


def test_a_table_without_the_migration(table, master):
    table.execute("ALTER TABLE cdr RENAME COLUMN imported_at TO other")
    try:
        with pytest.raises(ImportFailedError, match=r"imported_at.*does not exist.*cdr_database"):
            import_csv(master(LINE), table.target, "pbx1")
    finally:
        table.execute("ALTER TABLE cdr RENAME COLUMN other TO imported_at")


# --- any rows ------------------------------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
TIME = st.one_of(
    st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(
        lambda at: f"{at:%Y-%m-%d %H:%M:%S}".zfill(19)
    ),
    TEXT,
    st.sampled_from(["", "2026-01-31 13:05:59", "2026-13-01 00:00:00", "today", "-infinity"]),
)
NUMBER = st.one_of(
    st.integers(-2, 2**64).map(str),
    st.integers(0, 100).map(str),
    TEXT,
    st.sampled_from(["007", "1e3"]),
)
UNIQUEID = st.one_of(st.sampled_from(["1.1", "1.2"]), TEXT)
KINDS = {
    **dict.fromkeys(("start", "answer", "end"), TIME),
    **dict.fromkeys(("duration", "billsec", "sequence"), NUMBER),
    **dict.fromkeys(("uniqueid", "linkedid"), UNIQUEID),
}
ROW = st.one_of(
    st.tuples(*(KINDS.get(name, TEXT) for name in COLUMNS)).map(list),
    st.fixed_dictionaries({}, optional={name: KINDS.get(name, TEXT) for name in COLUMNS}).map(
        lambda changed: record(**changed)
    ),
)


LARGEST = {"duration": 2**31 - 1, "billsec": 2**31 - 1, "sequence": 2**63 - 1}


def time_of(text: str) -> datetime | None:
    """Return the time, written exactly as Asterisk does, or None."""
    try:
        at = datetime.strptime(text, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    # strptime takes single digits and digits of other scripts too
    return at if f"{at.year:04}-{at:%m-%d %H:%M:%S}" == text else None


def as_expected(row: list[str]):
    """Return what the table must hold, or None for a row that must be an error."""
    named = dict(zip(COLUMNS, row))
    numbers = {
        name: int(named[name])
        for name, largest in LARGEST.items()
        if re.fullmatch("[0-9]+", named[name]) and int(named[name]) <= largest
    }
    times = {name: time_of(named[name]) for name in ("start", "answer", "end")}
    good = (
        not any("\0" in text for text in row)
        and len(numbers) == len(LARGEST)
        and times["start"] is not None
        and all(times[name] or not named[name] for name in times)
        and named["uniqueid"]
        and named["linkedid"]
    )
    return tuple({**named, **times, **numbers}.values()) if good else None


@given(st.lists(ROW, max_size=12))
@example([record(), record(), record(start="")])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_rows(table, tmp_path, rows):
    table.execute("TRUNCATE cdr")
    expected, keys, bad = [], set(), 0
    for row in rows:
        value = as_expected(row)
        if value is None:
            bad += 1
            continue
        key = value[16], value[20], value[9]
        if key not in keys:
            keys.add(key)
            expected.append(value)
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    path = tmp_path / "any.csv"
    path.write_bytes(text.getvalue().encode())
    result = import_csv(path, table.target, "pbx1", batch_rows=5)
    assert summary(result) == (len(expected), len(rows) - bad - len(expected), bad)
    columns = ", ".join(f'"{name}"' for name in COLUMNS)
    assert table.rows(columns) == expected


@given(st.binary(max_size=300), st.integers(0, len(LINE)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_bytes_end_without_a_traceback(table, tmp_path, junk, at):
    path = tmp_path / "junk.csv"
    path.write_bytes(LINE.encode()[:at] + junk + LINE.encode()[at:] + LINE.encode())
    refused = ""
    try:
        result = import_csv(path, table.target, "pbx1")
    except ImportFailedError as error:
        refused = str(error)
    assert "it lacks" in refused if refused else sum(summary(result)) >= 1


# --- from a database -----------------------------------------------------------------------------


@pytest.fixture
def foreign(cluster):
    cluster.execute("CREATE DATABASE foreign_cdr")
    yield lambda sql: cluster.execute(sql, "foreign_cdr")
    cluster.execute("DROP DATABASE foreign_cdr WITH (FORCE)")


@pytest.fixture
def dsn(cluster):
    return f"postgresql://admin@127.0.0.1:{cluster.port}/foreign_cdr"


FREEPBX = """
CREATE TABLE cdr (
    calldate timestamp NOT NULL, clid text, src text, dst text, dcontext text, channel text,
    dstchannel text, lastapp text, lastdata text, duration integer, billsec integer,
    disposition text, amaflags integer, accountcode text, uniqueid text, userfield text, did text,
    recordingfile text, cnum text, linkedid text, peeraccount text, sequence integer
);
INSERT INTO cdr (calldate, src, dst, duration, billsec, disposition, amaflags, uniqueid, linkedid,
                 sequence)
VALUES ('2026-01-31 13:05:59', '4930123', '601', 61, 50, 'ANSWERED', 3, '1.1', '1.1', 1),
       ('2026-01-31 13:05:59', '4930123', '601', 20, 0, 'NO ANSWER', 3, '1.2', '1.1', 2),
       ('2026-01-31 13:05:59', '4930123', '601', 20, 0, 'ANSWERED', 3, '1.3', '1.1', 3),
       ('2026-01-31 13:05:59', '4930123', '601', 20, -1, 'ANSWERED', 3, '1.4', '1.1', 4)
"""


def test_freepbx_has_calldate_alone(table, foreign, dsn):
    foreign(FREEPBX)
    result = import_database(dsn, table.target, "pbx1", zone="Europe/Berlin")
    assert summary(result) == (3, 0, 1)
    assert str(result.first_errors[0]).startswith("uniqueid 1.4: billsec: '-1'")
    begun = datetime(2026, 1, 31, 13, 5, 59, tzinfo=ZoneInfo("Europe/Berlin"))
    ended = begun + timedelta(seconds=20)
    assert table.rows('start, answer, "end", accountcode, amaflags') == [
        (begun, begun + timedelta(seconds=11), begun + timedelta(seconds=61), "", "3"),
        (begun, None, ended, "", "3"),
        (begun, ended, ended, "", "3"),
    ]
    assert summary(import_database(dsn, table.target, "pbx1", zone="Europe/Berlin")) == (0, 3, 1)


def test_another_appliance_keeps_its_names_and_times(table, foreign, dsn):
    foreign(
        "CREATE TABLE cdr (id bigint, system_name text, start timestamptz, answer timestamptz, "
        '"end" timestamptz, duration int, billsec int, disposition text, uniqueid text, '
        "linkedid text, sequence bigint, src text);"
        "SET timezone = 'Asia/Kathmandu';"
        "INSERT INTO cdr VALUES (7, 'pbx9', '2026-01-31 13:05:59.25+00', NULL, NULL, 3, 0, "
        "'NO ANSWER', '1.5', '1.5', 5, E'a\\\\b\\tc'), "
        "(8, NULL, '2026-01-31 13:05:59Z', '1970-01-01', NULL, 3, 0, 'BUSY', '1.6', '1.6', 6, ''),"
        "(9, NULL, '2026-01-31 13:05:59+00', NULL, NULL, 3, NULL, 'BUSY', '1.6', '1.6', 6, '')"
    )
    result = import_database(dsn, table.target, "pbx1")
    assert summary(result) == (2, 0, 1)
    assert str(result.first_errors[0]).startswith("id 9: billsec: ''")
    begun = datetime(2026, 1, 31, 13, 5, 59, tzinfo=UTC)
    assert table.rows("system_name, start, answer, src") == [
        ("pbx9", begun + timedelta(milliseconds=250), None, "a\\b\tc"),
        ("pbx1", begun, None, ""),
    ]
    result = import_database(dsn, table.target, "mine", override_system_name=True)
    assert summary(result) == (2, 0, 1)
    assert table.rows("uniqueid", "system_name = 'mine'") == [("1.5",), ("1.6",)]


def test_only_the_last_days(table, foreign, dsn):
    foreign(FREEPBX)
    for sequence, hours in ((1, 26), (2, 22)):
        foreign(
            f"UPDATE cdr SET calldate = now() AT TIME ZONE 'UTC' - interval '{hours} hours' "
            f"WHERE sequence = {sequence}"
        )
    since = datetime.now(UTC) - timedelta(days=1)
    assert summary(import_database(dsn, table.target, "pbx1", since=since)) == (1, 0, 0)
    assert table.rows("sequence") == [(2,)]


@pytest.mark.parametrize("column", ["uniqueid", "linkedid", "sequence", "calldate", "billsec"])
def test_a_source_that_lacks_what_calls_need(table, foreign, dsn, column):
    foreign(FREEPBX)
    foreign(f"ALTER TABLE cdr DROP COLUMN {column}")
    with pytest.raises(ImportFailedError, match=rf"lacks (start|{column}).*expected"):
        import_database(dsn, table.target, "pbx1")


@pytest.mark.usefixtures("foreign")
def test_a_source_without_the_table(table, dsn):
    with pytest.raises(ImportFailedError, match="no table cdr"):
        import_database(dsn, table.target, "pbx1")


@pytest.mark.parametrize(
    "source",
    [
        *("postgresql://u:s3cret@127.0.0.1:1/x", "mysql://u:s3cret@127.0.0.1:1/x"),
        *("postgresql://u:s3cret/x@127.0.0.1/x", "mysql://u:s3cret", "oracle://u:s3cret@h/x"),
        *("postgresql://u:s3cret@[::1/x", "host=h password=s3cret", "mysql://u:s3cret@h:99999/x"),
        *(
            "postgresql://u:s3cret@127.0.0.1:1/x?nonsense=1",
            "postgresql://u:s3cret%zz@127.0.0.1:1/x",
        ),
    ],
)
def test_a_source_that_cannot_be_reached_and_its_password(table, source):
    with pytest.raises(ImportFailedError) as refused:
        import_database(source, table.target, "pbx1")
    assert "s3cret" not in str(refused.value)
    assert "PGPASSWORD" in str(refused.value)


def test_a_password_from_the_environment(monkeypatch):
    import pymysql  # noqa: PLC0415

    seen = {}

    def connect(**login):
        seen.update(login)
        raise pymysql.OperationalError(1045, "Access denied")

    monkeypatch.setattr(pymysql, "connect", connect)
    monkeypatch.setenv("MYSQL_PWD", "of-variable")
    for source, expected in (
        ("mysql://u@h/d", "of-variable"),
        ("mysql://u:p%40ss@h:3307/d%20b", "p@ss"),
    ):
        with pytest.raises(ImportFailedError, match="Access denied"):
            foreign_cdr.open_source(source)
        assert seen["password"] == expected
    assert (seen["port"], seen["database"]) == (3307, "d b")


def test_without_pymysql(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(ImportFailedError, match=r"asterisk-appliance\[mysql\]"):
        foreign_cdr.open_source("mysql://u@h/d")


def test_rows_of_mysql():
    """What PyMySQL gives: naive datetimes, zero dates as text, numbers."""
    naming = importer._Naming("pbx1", False, ZoneInfo("Europe/Berlin"))
    values = {name: "" for name in COLUMNS if name not in {"start", "answer", "end"}}
    values |= {"calldate": datetime(2026, 7, 1, 12), "duration": 30, "billsec": 20, "sequence": 3}
    values |= {"uniqueid": "1.1", "linkedid": "1.1", "disposition": "ANSWERED", "clid": None}
    system, row = importer.row_of(values, {"calldate": naming.zone}, naming)
    assert system == "pbx1"
    assert row[9:14] == [
        *("2026-07-01 10:00:00+00:00", "2026-07-01 10:00:10+00:00", "2026-07-01 10:00:30+00:00"),
        *("30", "20"),
    ]
    values["calldate"] = "0000-00-00 00:00:00"
    with pytest.raises(importer.BadRowError, match="start: NULL"):
        importer.row_of(values, {"calldate": naming.zone}, naming)
    values["calldate"], values["clid"] = datetime(2026, 7, 1, 12), "a\0"
    with pytest.raises(importer.BadRowError, match="clid"):
        importer.row_of(values, {"calldate": naming.zone}, naming)
    values["clid"], values["calldate"] = "", datetime(9999, 12, 31, 23, 59, 59)
    values["duration"] = 2**31 - 1
    with pytest.raises(importer.BadRowError, match="duration"):
        importer.row_of(values, {"calldate": naming.zone}, naming)


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def run(table, tmp_path):
    config = tmp_path / "exporter.yml"
    config.write_text(
        f"system_name: pbx1\ncdr: {{port: {table.cluster.port}, password_file: null}}\n"
        "importer: {password_file: null}\n"
    )

    def command(*arguments: object):
        words = [*map(str, arguments[:1]), "--config", str(config), *map(str, arguments[1:])]
        return CliRunner().invoke(main, ["cdr", *words])

    return command


def test_the_command_says_what_it_did(run, master):
    path = master(many(3) + line(start="never") + many(1))
    done = run("import", "--csv", path)
    assert done.exit_code == 1
    assert done.stdout == "Imported 3, skipped 1 (there already), errors 1.\n"
    assert done.stderr.startswith("line 4: start: 'never': expected a time")
    done = run("import", "--csv", master(many(3)), "--system-name", "pbx2")
    assert (done.exit_code, done.stdout) == (
        0,
        "Imported 3, skipped 0 (there already), errors 0.\n",
    )


def test_the_command_hides_control_characters(run, master):
    done = run("import", "--csv", master(line(start="\x1b[31mred")))
    assert "\x1b" not in done.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "one of --csv FILE and --from DSN"),
        (["--csv", "x", "--from", "y"], "one of --csv FILE and --from DSN"),
        (["--csv", "x", "--days", "3"], "--days goes with --from"),
        (["--csv", "/nonexistent/Master.csv"], "No such file"),
        (["--csv", "/"], "Is a directory"),
        (["--from", "mysql://u:s3cret@"], "is no DSN"),
        (["--csv", "/dev/null", "--timezone", "Mars"], "time zone 'Mars'"),
    ],
)
def test_the_command_cannot_run(run, arguments, said):
    done = run("import", *arguments)
    assert done.exit_code == 2
    assert said in done.stderr
    assert "Traceback" not in done.output
    assert "s3cret" not in done.output


def test_the_command_without_its_database(run, master, tmp_path):
    (tmp_path / "exporter.yml").write_text(
        "system_name: pbx1\ncdr: {port: 1, password_file: null}\nimporter: {password_file: null}\n"
    )
    for arguments in (["import", "--csv", master(LINE)], ["quality"]):
        done = run(*arguments)
        assert done.exit_code == 2
        assert "Connection refused" in done.stderr


# --- quality -------------------------------------------------------------------------------------


def call(linkedid: str, *legs: tuple[str, str, int], begun: str) -> str:
    return "".join(
        line(
            start=begun,
            linkedid=linkedid,
            uniqueid=f"{linkedid}.{number}",
            disposition=disposition,
            dstchannel=dstchannel,
            billsec=str(billsec),
        )
        for number, (disposition, dstchannel, billsec) in enumerate(legs)
    )


@pytest.fixture
def calls(table, master):
    """Four calls of the last hour, one of yesterday, one of another system."""

    def ago(**back: int) -> str:
        return f"{datetime.now(UTC) - timedelta(**back):%Y-%m-%d %H:%M:%S}"

    recent = (
        # ring-all: one of three answers
        call(
            "1",
            ("NO ANSWER", "a", 9),
            ("ANSWERED", "b", 60),
            ("NO ANSWER", "c", 9),
            begun=ago(minutes=5),
        ),
        # transferred: two people
        call("2", ("ANSWERED", "a", 30), ("ANSWERED", "b", 20), begun=ago(minutes=50)),
        call("3", ("ANSWERED", "a", 9), begun=ago(minutes=1)),
        # the dialplan alone answered
        call("4", ("ANSWERED", "", 300), ("NO ANSWER", "a", 20), begun=ago(minutes=2)),
    )
    import_csv(
        master("".join(recent) + call("5", ("ANSWERED", "a", 5), begun=ago(days=1))),
        table.target,
        "pbx1",
    )
    import_csv(master(call("6", ("ANSWERED", "a", 5), begun=ago(minutes=1))), table.target, "pbx2")


@pytest.mark.usefixtures("calls")
def test_quality_of_the_last_hour(run, table):
    done = run("quality", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "since_seconds": 3600,
        "short_seconds": 10,
        "calls": 4,
        "completed": 3,
        "completion_rate": 0.75,
        "average_talk_seconds": pytest.approx((60 + 50 + 9) / 3),
        "short_calls": 1,
    }
    same = api.call_quality(table.target, "pbx1", timedelta(hours=1))
    assert (same.calls, same.completed, same.short_calls) == (4, 3, 1)
    shown = run("quality", "--since", "2d").stdout
    assert re.search(r"^Calls: +5$", shown, re.MULTILINE)
    assert re.search(r"^Completion rate: +80\.0%$", shown, re.MULTILINE)
    assert re.search(r"^Average talk: +31\.0 s$", shown, re.MULTILINE)
    assert re.search(r"^Shorter than 10 s: +2$", shown, re.MULTILINE)


def test_quality_without_its_database():
    nowhere = Database("127.0.0.1", 1, "asterisk", "exporter", "a-password")
    with pytest.raises(api.SourceError, match=r"Connection refused.*Look at") as told:
        api.call_quality(nowhere, "pbx1", timedelta(hours=1))
    assert "a-password" not in str(told.value)


def test_quality_without_calls(run):
    done = run("quality", "--json")
    assert json.loads(done.stdout)["completion_rate"] is None
    assert "no calls" in run("quality").stdout


def test_records_without_a_linkedid_are_no_calls():
    records = [quality.Record(None, "ANSWERED", "a", 5), quality.Record("", "ANSWERED", "a", 5)]
    assert quality.assess(records).calls == 0
    assert quality.assess([quality.Record("1", "ANSWERED", "a", None)]).short_calls == 1
