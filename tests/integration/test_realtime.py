"""Phones, queues and members in PostgreSQL: added by SQL, and what goes on while it is down.

One converge turns realtime on and one off; the statements are those of docs/realtime.md. The tests
build on each other.
"""

from __future__ import annotations

import csv
import re
import time
from collections.abc import Callable, Iterator

import pytest
from doctor import Doctor
from lab import ROOT, Lab, wait_until
from lab_secrets import search

SECRET = ROOT / ".lab/secrets/postgresql-realtime"
TAGS = "cdr_database_configure,pbx_configure,asterisk_exporter_configure"
PHONE, QUEUE, CHANGE = re.findall(
    r"<!-- run by tests/integration/test_realtime.py -->\n```sql\n(.*?)```",
    (ROOT / "docs/realtime.md").read_text(),
    re.DOTALL,
)
FIRST, SECOND = re.findall(r"'([a-z0-9-]{20,})'", PHONE + CHANGE)
UNIT = "/etc/systemd/system/asterisk-realtime.service"
FILES = {
    "/etc/asterisk/sorcery.conf": "asterisk 640",
    "/etc/asterisk/extconfig.conf": "asterisk 640",
    "/etc/asterisk/res_odbc.conf": "asterisk 640",
    "/etc/asterisk/realtime.pgpass": "asterisk 600",
    "/usr/local/lib/asterisk-realtime/forget-changed": "root 755",
    UNIT: "root 644",
}
LAB = "/usr/local/share/lab"
MASTER = "/var/log/asterisk/cdr-csv/Master.csv"
#: Packets from and to PostgreSQL vanish, as when its host has no power.
VANISHED = """
table inet realtime_test {
  chain lost {
    type filter hook input priority 0
    iifname lo tcp sport 5432 drop
    iifname lo tcp dport 5432 drop
  }
}
"""


def converge(lab: Lab, wanted: bool, *arguments: str, tags: str = TAGS) -> str:
    switch = ("-e", f"{{pbx_realtime: {str(wanted).lower()}}}")
    made = lab.playbook("site.yml", "--tags", tags, "--diff", *switch, *arguments)
    assert made.returncode == 0, made.stdout + made.stderr
    lab.asterisk("core waitfullybooted")
    return made.stdout


def changed(output: str) -> int:
    found = re.search(r"^pbx1\s*:.*\bchanged=(\d+)", output, re.MULTILINE)
    assert found, output
    return int(found[1])


def execute(lab: Lab, statements: str) -> None:
    lab.run("runuser -u postgres -- psql -XAtq -v ON_ERROR_STOP=1 -1 asterisk", stdin=statements)


def give_phone(lab: Lab, password: str) -> None:
    """Have the lab's phone 201 know its password; it answers after a second."""
    take_phone(lab)
    login = f"201;[authentication username=201 password={password}]"
    lab.run(f"cat >>{LAB}/phones.csv", stdin=f"{login}\n")
    lab.run(f"echo ANSWER_AFTER_201=1000 >>{LAB}/answer-after")


def take_phone(lab: Lab) -> None:
    lab.run(f"sed -i '/201[;=]/d' {LAB}/phones.csv {LAB}/answer-after")


@pytest.fixture(scope="module", autouse=True)
def realtime(lab: Lab) -> Iterator[str]:
    """Turn realtime on, and off at the end. Gives what Ansible printed."""
    said = converge(lab, wanted=True)
    # Its phones are asked anew, now that Asterisk has restarted: before that nobody can call them.
    lab.wait_until_well()
    yield said
    lab.run("nft delete table inet realtime_test 2>/dev/null; systemctl start postgresql")
    lab.run("systemctl stop lab-phone@201")
    take_phone(lab)
    lab.asterisk("database query \"DELETE FROM astdb WHERE key LIKE '/registrar/contact/201;%'\"")
    converge(lab, wanted=False)
    left = lab.run(f"ls -d {' '.join(FILES)} 2>/dev/null; grep -s asterisk /etc/odbc.ini; true")
    logins = lab.sql("SELECT rolname FROM pg_roles WHERE rolname = 'realtime'")
    lab.sql("DROP SCHEMA realtime CASCADE")
    SECRET.unlink()
    assert (left, logins) == ("", [])
    lab.run("systemctl restart lab-phones.target")
    lab.wait_until_well()


def records(lab: Lab) -> list[list[str]]:
    """Call records of Master.csv, which needs no database."""
    return list(csv.reader(lab.run(f"cat {MASTER}").splitlines()))


def call(lab: Lab, caller: str, number: str, seconds: int = 3) -> Callable[[], list[list[str]]]:
    """Call from a phone of ours, and return what looks for the records of the call.

    The call may take as long as the patience of both sides, and no longer.
    """
    before = len(records(lab))
    began = time.monotonic()
    lab.exec(f"lab-call extension {caller} {number} {seconds}")
    assert time.monotonic() - began < 2 * seconds + 3
    return lambda: [row for row in records(lab)[before:] if row[2] == number]


def answered_by(lab: Lab, caller: str, number: str, seconds: int = 3) -> str:
    """Call from a phone of ours, and return the endpoint that answered."""
    found = call(lab, caller, number, seconds)

    # A phone that rang has a record too, and each is written after the other.
    def answers() -> list[str]:
        return [row[6] for row in found() if row[14] == "ANSWERED" and row[6].startswith("PJSIP/")]

    [channel, *_] = wait_until(answers, 30, f"the record of who answered {caller} on {number}")
    return channel.removeprefix("PJSIP/").split("-")[0]


# --- with the database


def test_upstreams_tables_are_those_of_this_asterisk(lab: Lab) -> None:
    version = re.search(r"\d+\.\d+\.\d+", lab.run("asterisk -V"))
    assert version
    kept = f"/usr/local/lib/asterisk-realtime/asterisk-{version[0]}.sql"
    last = lab.run(f"sed -n 's/^-- Running upgrade .* -> //p' {kept} | tail -n 1").strip()
    assert lab.sql("SELECT version_num FROM realtime.alembic_version") == [[last]]


def test_a_second_run_changes_nothing(lab: Lab) -> None:
    assert changed(converge(lab, True, "--check", tags="pbx_configure")) == 0


def test_a_phone_added_by_sql_calls_and_is_called_without_a_reload(lab: Lab) -> None:
    execute(lab, PHONE)
    give_phone(lab, FIRST)
    lab.run("systemctl start lab-phone@201")
    wait_until(lambda: "Not in use" in lab.asterisk("pjsip show endpoint 201"), 90, "201 is there")
    assert answered_by(lab, "101", "201") == "201"
    assert answered_by(lab, "201", "102") == "102"


def test_a_queue_and_members_added_by_sql_take_calls_without_a_reload(lab: Lab) -> None:
    """610 is in the database alone. Of vip, where all ring, the new one answers first."""
    execute(lab, QUEUE)
    before = lab.run("wc -l </var/log/asterisk/queue_log").strip()
    assert answered_by(lab, "104", "610") == "201"
    assert answered_by(lab, "104", "603") == "201"
    log = lab.run(f"tail -n +{int(before) + 1} /var/log/asterisk/queue_log")
    assert re.findall(r"\|(610|vip)\|Nina Nowak\|CONNECT\|", log) == ["610", "vip"]
    metrics = lab.metrics()
    assert sum(v for k, v in metrics.items() if "queue_members{" in k and "queue=610" in k) == 1


def test_a_pause_is_kept_in_the_database(lab: Lab) -> None:
    paused = "SELECT paused FROM realtime.queue_members WHERE queue_name = '610'"
    lab.asterisk("queue pause member PJSIP/201 queue 610")
    assert lab.sql(paused) == [["1"]]
    lab.asterisk("queue unpause member PJSIP/201 queue 610")
    assert lab.sql(paused) == [["0"]]


def test_asterisks_login_may_do_no_more_than_it_needs(lab: Lab) -> None:
    rights = lab.sql(
        "SELECT table_schema, table_name, privilege_type FROM information_schema.table_privileges"
        " WHERE grantee = 'realtime' ORDER BY 1, 2"
    )
    tables = ["ps_aors", "ps_auths", "ps_endpoints", "queue_members", "queues"]
    assert rights == [["realtime", table, "SELECT"] for table in tables]
    modes = lab.run(f"stat -c '%n %U %a' {' '.join(FILES)}").splitlines()
    assert modes == [f"{path} {mode}" for path, mode in FILES.items()]
    score = lab.run("systemd-analyze security --no-pager asterisk | tail -n 1 || true")
    assert float(score.split("level for asterisk.service: ")[1].split()[0]) <= 5.0


def test_its_password_is_nowhere_else(lab: Lab, realtime: str) -> None:
    secret = SECRET.read_text().strip()
    found = search(lab, {"postgresql-realtime": secret})
    assert set(found["files"]) == {"/etc/asterisk/res_odbc.conf", "/etc/asterisk/realtime.pgpass"}
    assert found["shown"] == {}
    assert secret not in realtime


def test_a_change_holds_without_a_reload(lab: Lab) -> None:
    execute(lab, CHANGE)
    wait_until(lambda: SECOND in lab.asterisk("pjsip show auth 201"), 60, "the new password")
    register = "systemctl restart lab-phone@201"
    assert lab.exec(register).returncode != 0, "the old password is still good"
    lab.run("systemctl stop lab-phone@201")  # systemd tries again every two seconds
    give_phone(lab, SECOND)
    lab.run(register)
    wait_until(lambda: "Not in use" in lab.asterisk("pjsip show endpoint 201"), 90, "201 is there")
    assert answered_by(lab, "201", "101") == "101"


# --- without it


def works(lab: Lab) -> None:
    """What must go on: phones of both kinds, and a queue of the inventory."""
    assert answered_by(lab, "101", "102") == "102"
    assert answered_by(lab, "201", "102") == "102"
    assert answered_by(lab, "101", "201") == "201"
    assert answered_by(lab, "104", "603", 5) != ""


def firing(lab: Lab) -> bool:
    alert = 'ALERTS{alertname="AsteriskRealtimeDatabaseDown", alertstate="firing"}'
    return lab.prometheus(alert) == 1


def test_a_database_that_is_down(lab: Lab) -> None:
    lab.run("systemctl stop postgresql")
    works(lab)
    # It registers anew, too.
    lab.run("systemctl restart lab-phone@201 && systemctl is-active lab-phone@201")
    assert answered_by(lab, "101", "201") == "201"
    [unknown] = wait_until(call(lab, "101", "610"), 30, "the record of a number that is unknown")
    assert unknown[6] == ""
    wait_until(lambda: firing(lab), 180, "the alert")
    [told] = Doctor(lab).look().problems()["realtime"]
    assert told.startswith("the database of phones and queues has not answered for ")


def test_all_is_well_by_itself_when_it_is_back(lab: Lab) -> None:
    """Even with an Asterisk that was started meanwhile; no phone registers anew."""
    lab.run("systemctl restart asterisk && asterisk -rx 'core waitfullybooted'")
    lab.run("systemctl start postgresql")
    # The doctor first: without a scrape there is no alert either.
    wait_until(lambda: Doctor(lab).look().link("realtime")["status"] == "OK", 60, "an answer")
    wait_until(lambda: not firing(lab), 60, "the alert is over")
    wait_until(lambda: "Not in use" in lab.asterisk("pjsip show endpoint 201"), 120, "201 is there")
    assert answered_by(lab, "101", "201") == "201"
    assert answered_by(lab, "104", "610") == "201"


def talks(lab: Lab, caller: str, number: str) -> bool:
    """Say whether a phone answered: it rings for a second or two, then they talk for four.

    By the clock, since records wait for the database of call records, which has vanished too.
    """
    began = time.monotonic()
    lab.exec(f"lab-call extension {caller} {number} 4")
    return 4.8 < time.monotonic() - began < 9


def test_a_database_whose_host_vanishes(lab: Lab) -> None:
    """No answer, no refusal; connections that are open hang."""
    connected = "grep -c '|vip|.*|CONNECT|' /var/log/asterisk/queue_log"
    before, records_before = int(lab.run(connected)), len(records(lab))
    lab.run("nft -f -", stdin=VANISHED)
    try:
        for _ in range(2):
            assert talks(lab, "101", "102")
            assert talks(lab, "201", "102")
            assert talks(lab, "101", "201")
            lab.exec("lab-call extension 104 603 8")
    finally:
        lab.run("nft delete table inet realtime_test")
    assert int(lab.run(connected)) == before + 2

    # cdr_pgsql waits for the database before the file is written, and TCP tries again after twice
    # as long each time: up to a minute after it is back.
    def recorded() -> bool:
        rows = records(lab)[records_before:]
        return len({row[16] for row in rows if row[2] == "603" and row[14] == "ANSWERED"}) == 2

    wait_until(recorded, 180, "the records of the calls to vip")


def test_a_table_that_somebody_locks(lab: Lab) -> None:
    lock = "BEGIN; LOCK realtime.ps_aors, realtime.queue_members; SELECT pg_sleep(25)"
    locked = (
        "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'AccessExclusiveLock'"
        " AND relation = 'realtime.queue_members'::regclass"
    )
    lab.run(f"systemd-run --quiet --collect -p User=postgres psql -qc '{lock}' asterisk")
    wait_until(lambda: lab.sql(locked) == [["1"]], 30, "the lock")
    assert answered_by(lab, "101", "201") == "201"
    assert answered_by(lab, "104", "603", 5) != ""
