"""The doctor on what writes, keeps and reads call records and queue_log."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from doctor import Doctor
from lab import Lab, wait_until

LOGS = "/var/log/asterisk"
QUEUE_LOG = f"{LOGS}/queue_log"
MASTER = f"{LOGS}/cdr-csv/Master.csv"


@pytest.fixture(scope="module")
def doctor(lab: Lab) -> Iterator[Doctor]:
    """Give the doctor, and wait at the end of all until it finds nothing any more."""
    doctor = Doctor(lab)
    yield doctor
    wait_until(lambda: not doctor.look().problems(), 90, "a healthy lab")


def test_files_that_somebody_may_not_use(lab: Lab, doctor: Doctor) -> None:
    size = lab.run(f"stat -c %s {QUEUE_LOG}").strip()
    lab.run(f"chown root: {QUEUE_LOG} {MASTER}; chmod 600 {QUEUE_LOG}; chmod 644 {MASTER}")
    lab.run(f"echo 'not a line of Asterisk' >>{QUEUE_LOG}")
    try:
        found = doctor.look().problems()
    finally:
        lab.run(f"truncate -s {size} {QUEUE_LOG}")
        lab.run(f"chown asterisk: {QUEUE_LOG} {MASTER}; chmod 644 {QUEUE_LOG}")
    unreadable, malformed = found["queue_log"]
    assert unreadable.startswith(f"the service may not read {QUEUE_LOG}")
    assert f"chgrp asterisk {QUEUE_LOG}" in unreadable
    assert "1 of the last" in malformed
    assert "'not a line of Asterisk'" in malformed
    (unwritable,) = found["Master.csv"]
    assert unwritable.startswith(f"Asterisk may not write {MASTER}")
    assert f"chmod u+w {MASTER}" in unwritable


def test_asterisk_writes_to_another_queue_log(lab: Lab, doctor: Doctor) -> None:
    """Each time it is the same file that comes back, so nothing is lost."""
    lab.run(f"mv {QUEUE_LOG} {QUEUE_LOG}-doctor")
    try:
        (renamed,) = doctor.look().problems()["queue_log"]
    finally:
        lab.run(f"mv {QUEUE_LOG}-doctor {QUEUE_LOG}")
    assert f"was renamed to {QUEUE_LOG}-doctor" in renamed
    assert "asterisk -rx 'logger rotate'" in renamed
    lab.run(f"ln {QUEUE_LOG} {LOGS}/doctor-keeps && rm {QUEUE_LOG}")
    try:
        (deleted,) = doctor.look().problems()["queue_log"]
    finally:
        lab.run(f"mv {LOGS}/doctor-keeps {QUEUE_LOG}")
    assert "that somebody has deleted" in deleted


def test_asterisk_writes_no_queue_log_and_no_records(lab: Lab, doctor: Doctor) -> None:
    files = ("logger.conf", "cdr.conf")
    lab.wait_until_quiet()  # with a call up no backend is unloaded
    for name in files:
        lab.run(f"cp -p /etc/asterisk/{name} /run/{name}")
    reload = "asterisk -rx 'logger reload'; asterisk -rx 'module reload cdr'"
    lab.run("sed -i 's/^queue_log = yes/queue_log = no/' /etc/asterisk/logger.conf")
    edit = "s/unanswered = yes/unanswered = no/; s/batch = no/batch = yes/"
    lab.run(f"sed -i '{edit}' /etc/asterisk/cdr.conf")
    try:
        lab.run(f"{reload}; asterisk -rx 'module unload cdr_pgsql.so'")
        found = doctor.look().problems()
        lab.run("sed -i 's/^enable = yes/enable = no/' /etc/asterisk/cdr.conf")
        lab.run(reload)
        (disabled,) = doctor.look().problems()["CDR backends"]
    finally:
        for name in files:
            lab.run(f"mv /run/{name} /etc/asterisk/{name}")
        lab.run(f"{reload}; systemctl restart asterisk-cdr-pgsql")
    (silent,) = found["queue_log"]
    assert silent.startswith(f"Asterisk does not write to {QUEUE_LOG}")
    assert "queue_log = yes" in silent
    unloaded, unanswered, batch = found["CDR backends"]
    assert unloaded.startswith("Asterisk writes call records to csv, and the exporter reads")
    assert "systemctl restart asterisk-cdr-pgsql" in unloaded
    assert "hangs up before anything was dialled" in unanswered
    assert "batch = no" in batch
    assert "CDR logging is disabled" in disabled
    assert "enable = yes" in disabled


def test_a_database_that_lets_nobody_in(doctor: Doctor) -> None:
    def look(**changed: object) -> str:
        found = doctor.look_with(lambda settings: settings["cdr"].update(changed))
        assert found.link("call records")["status"] is None
        (problem,) = found.problems()["CDR database"]
        return str(problem)

    refused = look(port=5999)
    assert "Connection refused" in refused
    assert "systemctl status postgresql" in refused
    rejected = look(password_file="ami-secret")
    assert "password authentication failed" in rejected
    assert "asterisk_exporter_cdr_password" in rejected
    assert "there is no table cdr" in look(database="postgres")


def test_grants(lab: Lab, doctor: Doctor) -> None:
    try:
        lab.sql("GRANT UPDATE, DELETE ON cdr TO exporter, importer; ALTER ROLE importer CREATEDB")
        more = doctor.look().problems()["CDR grants"]
        lab.sql("REVOKE SELECT ON cdr FROM exporter; REVOKE INSERT ON cdr FROM importer")
        less = doctor.look().problems()["CDR grants"]
    finally:
        lab.sql(
            "ALTER ROLE importer NOCREATEDB; REVOKE UPDATE, DELETE ON cdr FROM exporter, importer"
        )
        lab.sql("GRANT SELECT ON cdr TO exporter; GRANT INSERT ON cdr TO importer")
    assert "exporter may do more than read call records: DELETE, UPDATE" in more[0]
    assert "REVOKE DELETE, UPDATE ON cdr FROM exporter;" in more[0]
    assert "importer may do more than add call records: createdb" in more[1]
    assert "ALTER ROLE importer NOCREATEDB;" in more[1]
    assert "exporter may not read cdr" in less[0]
    assert "GRANT SELECT ON cdr TO exporter;" in less[0]
    assert any("importer may not INSERT" in one for one in less)


def test_records_that_do_not_arrive(lab: Lab, doctor: Doctor) -> None:
    lab.sql("REVOKE INSERT ON cdr FROM asterisk")
    try:
        lab.run("lab-call extension 101 102 1")
        found = wait_until(
            lambda: doctor.look().problems().get("call records"), 60, "the doctor misses a record"
        )
        other = doctor.look_with(lambda settings: settings.update(system_name="elsewhere"))
    finally:
        lab.sql("GRANT INSERT ON cdr TO asterisk")
        lab.run("lab-call extension 101 102 1")
    assert "call records do not arrive" in found[0]
    assert f"Asterisk wrote one to {MASTER}" in found[0]
    assert "cdr import" in found[0]
    (renamed,) = other.problems()["call records"]
    assert "are of pbx1, none of elsewhere" in renamed
    assert "asterisk_exporter_system_name" in renamed


def test_records_from_a_file(lab: Lab, doctor: Doctor) -> None:
    def read(path: str) -> dict[str, list[str]]:
        cdr = {"source": "csv", "file": path}
        return doctor.look_with(lambda settings: settings.update(cdr=cdr)).problems()

    # The exporter may not yet read the database again, which the tests before have kept from it.
    wait_until(lambda: not read(MASTER), 60, "nothing is wrong with records in a file")
    lab.run(f"tail -n 1 {MASTER} | cut -d, -f1-16 >/run/doctor.csv; chmod 600 /run/doctor.csv")
    try:
        unwritable, unreadable, short = read("/run/doctor.csv")["Master.csv"]
    finally:
        lab.run("rm /run/doctor.csv")
    assert unwritable.startswith("Asterisk may not write /run/doctor.csv")
    assert unreadable.startswith("the service may not read /run/doctor.csv")
    assert "newcdrcolumns = yes" in short
    (nowhere,) = read("/run/doctor/Master.csv")["Master.csv"]
    assert "mkdir -p /run/doctor" in nowhere


COPY = """
import sqlite3
source = sqlite3.connect("file:/var/lib/asterisk-exporter/journal.sqlite?mode=ro", uri=True)
source.backup(sqlite3.connect("/run/doctor-state/journal.sqlite"))
"""


def test_the_state_of_the_exporter(lab: Lab, doctor: Doctor) -> None:
    def read(path: str) -> list[str]:
        found = doctor.look_with(lambda settings: settings.update(state_directory=path))
        return found.problems()["exporter's state"]

    (missing,) = read("/run/doctor-nothing")
    assert "cannot read /run/doctor-nothing/journal.sqlite" in missing
    lab.run("mkdir /run/doctor-state && mount -t tmpfs -o size=3m tmpfs /run/doctor-state")
    try:
        lab.run("python3 -", COPY)
        lab.run("touch /run/doctor-state/journal.sqlite.unusable-20261124T060000")
        full, moved = read("/run/doctor-state")
    finally:
        lab.run("umount /run/doctor-state && rmdir /run/doctor-state")
    assert "the file system of /run/doctor-state has" in full
    assert "df -h /run/doctor-state" in full
    assert "journal.sqlite.unusable-20261124T060000" in moved
    assert "journalctl -u asterisk-exporter" in moved


def test_records_that_wait_for_a_transaction(lab: Lab, doctor: Doctor) -> None:
    """The row goes before the transaction ends, so it is never counted."""
    begin = "BEGIN; SELECT pg_current_xact_id(); SELECT pg_sleep(120)"
    lab.run(f"systemd-run -q --collect --unit=doctor-open --uid=postgres psql -X -c '{begin}'")
    open_one = "FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    wait_until(lambda: lab.sql(f"SELECT pid {open_one}"), 10, "an open transaction")
    begun = "now() - interval '10 min'"
    lab.sql(
        'INSERT INTO cdr (system_name, start, "end", uniqueid, linkedid) '
        f"VALUES ('pbx1', {begun}, {begun}, 'doctor', 'doctor')"
    )
    try:
        (found,) = wait_until(
            lambda: doctor.look().problems().get("journals"), 50, "the exporter waits"
        )
    finally:
        lab.sql("DELETE FROM cdr WHERE uniqueid = 'doctor'")
        # it would sleep on without its client
        lab.sql(f"SELECT pg_terminate_backend(pid) {open_one}")
    assert found.startswith("cdr: what was written 10 min ago is not counted yet: a transaction")
    assert "pg_stat_activity" in found
