"""What the doctor says about call records: who writes them, where, and whether they come."""

from __future__ import annotations

from pathlib import Path

import pytest

from asterisk_exporter import config
from asterisk_exporter.ami.client import Reply
from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.config import Cdr, CdrCsv, CdrMysql
from asterisk_exporter.doctor import call_records, cdr_backends, cdr_database
from asterisk_exporter.doctor.call_records import Witness
from asterisk_exporter.doctor.cdr_database import Facts
from asterisk_exporter.doctor.finding import critical
from asterisk_exporter.doctor.pbx import LookError, Pbx
from asterisk_exporter.journal.queue_log import Entry

NOW = 1795492538.0
STATUS = """
Call Detail Record (CDR) settings
----------------------------------
  Logging:                    Enabled
  Mode:                       {mode}
  Log calls by default:       Yes
  Log unanswered calls:       {unanswered}
  Log congestion:             Yes

* Registered Backends
  -------------------
{backends}
"""
CONNECTED = """
Connected to {database}@127.0.0.1, port 5432 using table {table} for 1 minute, 16 seconds
  Wrote 279 records since last restart and 53 records since last reconnect.
"""


def texts(findings) -> list[str]:
    return [
        f"{finding.status.name if finding.status is not None else None}: {finding.text}"
        for finding in findings
    ]


def status(backends="    pgsql\n    csv", mode="Simple", unanswered="Yes"):
    text = STATUS.format(backends=backends, mode=mode, unanswered=unanswered)
    return cdr_backends.parse(text)


def connected(database="asterisk", table="cdr"):
    return CONNECTED.format(database=database, table=table)


def test_all_backends_are_well():
    found = cdr_backends.judge(status(), Cdr(), connected())
    assert texts(found) == [
        "OK: Asterisk writes to pgsql, csv; 279 records to PostgreSQL since that was loaded"
    ]


@pytest.mark.parametrize(
    ("cdr", "backends", "well"),
    [
        (Cdr(), "    Adaptive ODBC", True),
        (CdrMysql(source="mysql"), "    ODBC", True),
        (CdrMysql(source="mysql"), "    mysql", True),
        (CdrCsv(source="csv"), "    csv\n    pgsql", True),
        (CdrCsv(source="csv"), "    cdr-custom", False),
        (CdrMysql(source="mysql"), "    csv", False),
        (Cdr(), "    (none)", False),
    ],
)
def test_what_writes_where_the_exporter_reads(cdr, backends, well):
    found = list(cdr_backends.judge(status(backends), cdr, None))
    assert [finding.status.name for finding in found] == ["OK" if well else "CRITICAL"]


def test_what_the_exporter_reads_is_not_written():
    nothing, one = (
        next(cdr_backends.judge(status(backends), Cdr(), None)) for backends in ("(none)", "  csv")
    )
    assert nothing.text == (
        "Asterisk writes call records to nothing, and the exporter reads the postgresql database "
        "asterisk"
    )
    assert "records to csv," in one.text
    assert "asterisk-cdr-pgsql" in one.action
    assert "asterisk_exporter_cdr_source" in one.action


def test_cdr_settings_that_lose_records():
    found = status("    pgsql (suspended)\n", "Batch", "No")
    suspended, unanswered, batch, well = cdr_backends.judge(found, Cdr(), connected())
    assert suspended.status.name == "CRITICAL"
    assert "backend pgsql is suspended" in suspended.text
    assert "cdr_pgsql.so" in suspended.action
    assert (unanswered.status.name, batch.status.name) == ("WARNING", "WARNING")
    assert "unanswered = yes" in unanswered.action
    assert "batch = no" in batch.action
    assert well.text.startswith("Asterisk writes to pgsql;")
    disabled = "\n  Logging:                    Disabled\n"
    (found,) = texts(cdr_backends.judge(cdr_backends.parse(disabled), Cdr(), None))
    assert found == "CRITICAL: Asterisk writes no call records at all: CDR logging is disabled"


def test_cdr_pgsql_that_is_not_connected_or_elsewhere():
    lost, _ = cdr_backends.judge(status(), Cdr(), "Not currently connected to a PgSQL server.\n")
    assert "not connected to PostgreSQL" in lost.text
    assert "cdr import" in lost.action
    for other in ({"database": "other"}, {"table": "calls"}):
        elsewhere, _ = cdr_backends.judge(status(), Cdr(), connected(**other))
        assert elsewhere.status.name == "CRITICAL"
        assert f"writes to table {other.get('table', 'cdr')} of database" in elsewhere.text


def test_backends_are_not_looked_at_elsewhere():
    pbx = Pbx(config.Config(), Path("none.yml"), 1.0)
    assert texts(cdr_backends.look(pbx))[0].startswith("None: not set up: no call records")
    pbx = Pbx(config.Config(cdr={}, system_name="x"), Path("none.yml"), 1.0)
    pbx.asterisk_is_here = False
    assert texts(cdr_backends.look(pbx))[0].startswith("None: not looked at")


def facts(*privileges: str, attributes=(), **more) -> Facts:
    given = {"columns": cdr_database._COLUMNS, **more}
    return Facts("PostgreSQL 18.6", 0.0123, frozenset(privileges), frozenset(attributes), **given)


def test_the_table():
    assert texts(cdr_database.judge_table(facts(), "P", ours=True)) == [
        "OK: P: PostgreSQL 18.6, answered in 12 ms"
    ]
    (missing,) = cdr_database.judge_table(facts(has_table=False), "P", ours=True)
    assert missing.text == "P: there is no table cdr that this login sees"
    old = facts(columns=cdr_database._COLUMNS - {"imported_at"})
    (lacks,) = cdr_database.judge_table(old, "P", ours=True)
    assert lacks.text == "P: the table cdr lacks imported_at"
    assert "cdr_database" in lacks.action
    assert texts(cdr_database.judge_table(old, "P", ours=False))[0].startswith("OK")


@pytest.mark.parametrize(
    ("error", "action"),
    [
        ('server at "127.0.0.1", port 5432 failed: Connection refused', "systemctl status"),
        ("Can't connect to MySQL server on '127.0.0.1'", "systemctl status"),
        ("timeout expired", "firewall"),
        ('FATAL:  password authentication failed for user "exporter"', "cdr_password"),
        ("Access denied for user 'exporter'@'localhost'", "cdr_password"),
        ("failed: SSL error: certificate verify failed", "asterisk_exporter_cdr_sslrootcert"),
        ('server certificate for "x" does not match host name "y"', "the name asterisk_exp"),
        ("no pg_hba.conf entry for host", "cdr_database_clients"),
        ('FATAL:  database "x" does not exist', "asterisk_exporter_cdr_database"),
        ("something else", "server's log"),
    ],
)
def test_what_to_do_when_the_database_lets_nobody_in(error, action):
    assert action in cdr_database.why(error)


def test_a_database_that_does_not_answer(tmp_path):
    (tmp_path / "cdr-password").write_text("secret")
    given = {"port": 9, "host": "127.0.0.1"}
    for source in ("postgresql", "mysql"):
        settings = config.Config(cdr={"source": source, **given}, system_name="x")
        pbx = Pbx(settings, tmp_path / "config.yml", 1.0)
        with pytest.raises(LookError, match=r"at 127.0.0.1:9 as exporter: ") as told:
            list(cdr_database.look(pbx))
        assert "systemctl status" in told.value.action
        assert "secret" not in str(told.value)


@pytest.mark.parametrize("look", [cdr_database.look, cdr_database.grants])
def test_without_a_database(look):
    for cdr in (None, {"source": "csv"}):
        (found,) = look(Pbx(config.Config(cdr=cdr), Path("none.yml"), 1.0))
        assert found.status is None


def test_grants_that_are_right():
    assert texts(cdr_database.judge_grants(Cdr(), facts("SELECT"))) == [
        "OK: exporter may read cdr, and nothing else"
    ]
    assert texts(cdr_database.judge_importer("importer", facts("SELECT", "INSERT"))) == [
        "OK: importer may add records, and change none"
    ]


def test_grants_that_are_missing():
    (found,) = cdr_database.judge_grants(Cdr(), facts())
    assert found.status.name == "CRITICAL"
    assert "GRANT SELECT ON cdr TO exporter;" in found.action
    (found,) = cdr_database.judge_importer("importer", facts("SELECT"))
    assert found.status.name == "WARNING"
    assert "GRANT INSERT ON cdr TO importer;" in found.action


def test_grants_that_are_too_many():
    (more,) = cdr_database.judge_grants(Cdr(), facts("SELECT", "DELETE"))
    assert more.status.name == "WARNING"
    assert "call records: DELETE." in more.text
    assert "REVOKE DELETE ON cdr FROM exporter;" in more.action
    every = facts("SELECT", "DELETE", attributes=["superuser", "createdb"])
    (most,) = cdr_database.judge_grants(Cdr(), every)
    assert "createdb, superuser" in most.text
    assert "ALTER ROLE exporter NOCREATEDB NOSUPERUSER;" in most.action
    adds = facts("SELECT", "INSERT", attributes=["createrole"])
    (most,) = cdr_database.judge_importer("importer", adds)
    assert most.status.name == "WARNING"
    freepbx = CdrMysql(source="mysql", username="freepbxuser")
    (more,) = cdr_database.judge_grants(freepbx, facts("ALL PRIVILEGES"))
    assert "GRANT SELECT ON asteriskcdrdb.cdr" in more.action


@pytest.mark.parametrize(
    ("grants", "here", "everywhere"),
    [
        (["GRANT USAGE ON *.* TO `e`@`%`", "GRANT SELECT ON `a`.* TO `e`@`%`"], {"SELECT"}, set()),
        (["GRANT SELECT (`id`, `src`), INSERT ON `a`.`cdr` TO e"], {"SELECT", "INSERT"}, set()),
        (["GRANT ALL PRIVILEGES ON `b`.* TO e", "GRANT `role` TO `e`@`%`"], set(), set()),
        (
            ["GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION"],
            {"ALL PRIVILEGES", "GRANT OPTION"},
            {"ALL PRIVILEGES on *.*", "GRANT OPTION on *.*"},
        ),
        (["GRANT SELECT ON *.* TO e"], {"SELECT"}, set()),
        ([r"GRANT SELECT ON `a`.* TO e", r"GRANT DELETE ON `a\_b`.* TO e"], {"SELECT"}, set()),
    ],
)
def test_grants_of_mysql(grants, here, everywhere):
    assert cdr_database.parse_grants(grants, "a") == (here, everywhere)


def judged(newest, *due):
    return call_records.judge(newest, [Witness(at, text) for at, text in due], NOW, 10)


def test_a_quiet_pbx_is_well():
    assert judged(None) is None
    assert judged(NOW - 86400) is None
    assert judged(NOW - 60, (NOW - 60, "x"), (NOW - 55, "y")) is None
    # its record is on the way
    assert judged(NOW - 60, (NOW - 5, "x")) is None


def test_records_do_not_arrive():
    found = judged(NOW - 3600, (NOW - 60, "x happened"), (NOW - 30, "y happened"))
    assert found.status.name == "CRITICAL"
    assert found.text == ("call records do not arrive: the newest is 1 h 0 min old, and y happened")
    assert "cdr show status" in found.action
    assert judged(None, (NOW - 30, "y")).text == (
        "call records do not arrive: there is none, and y"
    )


def test_what_queue_log_tells():
    def entry(ago: float, event: str) -> Entry:
        return Entry(int(NOW - ago), "c", "support", "NONE", event, "")

    log = [entry(90, "ABANDON"), entry(60, "COMPLETECALLER"), entry(30, "COMPLETEAGENT")]
    (found,) = call_records.of_queue_log(log, NOW)
    assert found == Witness(NOW - 60, "a caller left queue support 60 s ago")
    assert list(call_records.of_queue_log([entry(90000, "ABANDON")], NOW)) == []


def test_what_the_calls_processed_tell():
    assert list(call_records.of_processed(2, NOW - 3600, NOW)) == []
    (found,) = call_records.of_processed(9, NOW - 3600, NOW)
    assert "processed 9 calls since it was started 1 h 0 min ago" in found.text
    assert call_records.judge(NOW - 3700, [found], NOW, 10) is not None
    assert call_records.judge(NOW - 3500, [found], NOW, 10) is None


def test_records_of_another_system():
    found = critical("none", "look")
    assert call_records.judge_systems(found, "a", []) is found
    assert call_records.judge_systems(found, "a", ["a", "b"]) is found
    other = call_records.judge_systems(found, "a", ["c", "b"])
    assert other.text == "none. The newest records in the table are of b, c, none of a"
    assert "asterisk_exporter_system_name" in other.action


def test_witnesses_of_real_replies(replies, monkeypatch, tmp_path):
    settings = config.Config(cdr={}, system_name="pbx1", timezone="UTC")
    pbx = Pbx(settings, Path("none.yml"), 1.0)
    pbx.replies = replies("busy")
    pbx.asterisk_is_here = False
    assert list(call_records.witnesses(pbx, NOW)) == []
    monkeypatch.setattr(call_records, "FEWEST_CALLS", 0)
    (found,) = call_records.witnesses(pbx, NOW)
    assert "Asterisk has processed 0 calls since" in found.text
    headers = pbx.replies["CoreStatus"].message().headers
    older = Message.of(pair for pair in headers if pair[0] != "CoreProcessedCalls")
    pbx.replies = replies("busy", CoreStatus=Reply("CoreStatus", older))
    assert list(call_records.witnesses(pbx, NOW)) == []
    pbx.replies = replies("busy")
    path = tmp_path / "Master.csv"
    path.touch()
    monkeypatch.setattr(call_records.master_csv, "second_copy", lambda _: path)
    copy, _ = call_records.witnesses(pbx, path.stat().st_mtime + 40)
    assert copy == Witness(path.stat().st_mtime, f"Asterisk wrote one to {path} 40 s ago")
    assert len(list(call_records.witnesses(pbx, path.stat().st_mtime + 90000))) == 1


@pytest.mark.parametrize("newest", [None, 5.0])
def test_call_records_of_a_file(monkeypatch, newest):
    pbx = Pbx(config.Config(cdr={"source": "csv"}), Path("none.yml"), 1.0)
    pbx.asterisk_is_here = False
    place = type("File", (), {"newest_record_age": lambda *_: newest})()
    monkeypatch.setattr(call_records.config, "call_records", lambda *_: place)
    monkeypatch.setattr(call_records, "witnesses", lambda *_: [])
    (found,) = texts(call_records.look(pbx))
    assert found == ("OK: no record yet" if newest is None else "OK: the newest is 5 s old")
    monkeypatch.setattr(call_records, "witnesses", lambda _, now: [Witness(now - 400, "x")])
    (found,) = texts(call_records.look(pbx))
    assert found.startswith("CRITICAL" if newest is None else "OK")


def test_a_file_that_comes_with_the_first_record(monkeypatch, tmp_path):
    cdr = {"source": "csv", "file": tmp_path / "Master.csv"}
    pbx = Pbx(config.Config(cdr=cdr), Path("none.yml"), 1.0)
    pbx.asterisk_is_here = False
    monkeypatch.setattr(call_records, "witnesses", lambda *_: [])
    assert texts(call_records.look(pbx)) == ["OK: no record yet"]
