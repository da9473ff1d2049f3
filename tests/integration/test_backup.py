"""Backup and restore, on the PBX itself, with real data.

What is destroyed is all that a new disk would not have: the whole PostgreSQL cluster (a new one has
another identity, and transaction ids that begin anew), the exporter's state, astdb, voicemail,
queue_log, Master.csv.
"""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from lab import Lab, wait_until
from test_nothing_lost import HISTORY

VOICEMAIL = "/var/spool/asterisk/voicemail"
OWN_FILE = "/etc/asterisk/extensions.d/site.conf"
DESTROY = f"""
set -e
systemctl stop asterisk-exporter asterisk
cluster=$(pg_lsclusters --no-header | awk '{{ print $1 }}')
pg_dropcluster --stop "$cluster" main
pg_createcluster "$cluster" main --start >/dev/null
rm -rf {VOICEMAIL} /var/log/asterisk/queue_log* /var/log/asterisk/cdr-csv/* {OWN_FILE}
rm -f /var/lib/asterisk/astdb.sqlite3* /var/lib/asterisk-exporter/journal.sqlite*
systemctl start asterisk asterisk-exporter
"""

#: A message as app_voicemail leaves it.
MESSAGE = """
mkdir -p "$1" && cd "$1"
printf '[message]\\ncallerid=Ann <0151>\\norigtime=1796000000\\nduration=3\\n' >msg0000.txt
head -c 48000 /dev/zero >msg0000.wav
"""


@dataclass(frozen=True)
class Data:
    """What must be the same afterwards."""

    counters: dict[str, float]
    missed: list[dict[str, object]]
    records: list[list[str]]
    voicemail: str
    astdb: str
    own_file: str


def history(lab: Lab) -> dict[str, float]:
    """Return the counters of what has happened, less one: each start of Asterisk writes a line."""
    counters = {name: value for name, value in lab.metrics().items() if HISTORY.match(name)}
    del counters["asterisk_exporter_journal_records_total{source=queue_log}"]
    return counters


def data(lab: Lab) -> Data:
    return Data(
        history(lab),
        json.loads(lab.run("asterisk-exporter missed --since 30d --json")),
        lab.sql("SELECT count(*), md5(string_agg(cdr::text, ',' ORDER BY id)) FROM cdr"),
        lab.run(f"cd {VOICEMAIL} && find . -type f ! -name '.lock*' -exec sha256sum {{}} + | sort")
        + lab.asterisk("voicemail show users"),
        lab.asterisk("database show operations"),
        lab.run(f"cat {OWN_FILE}"),
    )


def originate(lab: Lab, where: str, seconds: int) -> None:
    lab.asterisk(f"channel originate Local/{where} application Wait {seconds}")


def settled(lab: Lab) -> bool:
    """Say whether all records are counted, and all calls decided."""
    lag = lab.metrics().get("asterisk_exporter_journal_lag_seconds{source=cdr}")
    query = (
        "import sqlite3; db = sqlite3.connect('file:/var/lib/asterisk-exporter/journal.sqlite"
        "?mode=ro', uri=True); print(db.execute('SELECT count(*) FROM leg').fetchone()[0])"
    )
    return lag == 0 and lab.run("python3 -", stdin=query).strip() == "0"


def playbook(lab: Lab, name: str, **variables: object) -> str:
    result = lab.playbook(f"playbooks/{name}.yml", "-e", json.dumps(variables))
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def refused(lab: Lab, name: str, **variables: object) -> str:
    result = lab.playbook(f"playbooks/{name}.yml", "-e", json.dumps(variables))
    assert result.returncode != 0, result.stdout
    return result.stdout


def pid(lab: Lab) -> str:
    return lab.run("systemctl show --property=MainPID --value asterisk")


@pytest.fixture(scope="module")
def backup(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Data]]:
    """Return a backup of the PBX, and what there was when it was made."""
    lab.run(f"echo '; of this site' >{OWN_FILE}")
    lab.asterisk("database put operations kept here")
    lab.run(f"runuser -u asterisk -- sh -s {VOICEMAIL}/default/100/INBOX", stdin=MESSAGE)
    missed = lab.run("asterisk-exporter missed --since 30d --json")
    originate(lab, "+493055502@from-external", 4)
    wait_until(
        lambda: lab.run("asterisk-exporter missed --since 30d --json") != missed and settled(lab),
        90,
        "a missed call is counted",
    )
    there = data(lab)
    directory = tmp_path_factory.mktemp("backups") / "of all hosts"
    playbook(lab, "backup", backup_directory=str(directory))
    [path] = (directory / "pbx1").iterdir()
    yield path, there
    lab.run(f"rm {OWN_FILE} {VOICEMAIL}/default/100/INBOX/msg0000.*")
    assert not lab.run("find /var/tmp -maxdepth 1 -name 'asterisk-*'")
    lab.asterisk("database deltree operations")


@pytest.fixture(scope="module")
def restored(lab: Lab, backup: tuple[Path, Data]) -> Data:
    """Destroy the data, restore it, and return what there was before."""
    path, there = backup
    begun = pid(lab)
    found = refused(lab, "restore", backup_directory=str(path.parents[1]))
    assert "restore_overwrite=true" in found
    assert pid(lab) == begun
    lab.run("sh -s", stdin=DESTROY)
    made = lab.playbook("site.yml", "--tags", "cdr_database")
    assert made.returncode == 0, made.stdout + made.stderr
    assert lab.sql("SELECT count(*) FROM cdr") == [["0"]]
    said = playbook(lab, "restore", backup_directory=str(path.parents[1]))
    assert f"{there.records[0][0]} call records" in said
    return there


def test_an_archive_is_nobody_elses(backup: tuple[Path, Data]) -> None:
    path, _ = backup
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with tarfile.open(path) as opened:
        assert {member.mode & 0o077 for member in opened} == {0}


def test_everything_is_there_again(lab: Lab, restored: Data) -> None:
    assert "kept" in restored.astdb
    wait_until(lambda: settled(lab), 60, "nothing waits to be counted")
    assert data(lab) == restored


@pytest.mark.usefixtures("restored")
def test_what_comes_after_is_counted_once(lab: Lab) -> None:
    def figures() -> tuple[float, float, int]:
        metrics = lab.metrics()
        records = sum(v for k, v in metrics.items() if k.startswith("asterisk_cdr_records_total{"))
        missed = sum(v for k, v in metrics.items() if k.startswith("asterisk_missed_calls_total{"))
        [[rows]] = lab.sql("SELECT count(*) FROM cdr WHERE system_name = 'pbx1'")
        return records, missed, int(rows)

    records, missed, rows = figures()
    originate(lab, "+493055502@from-external", 4)
    wait_until(lambda: figures()[1] > missed and settled(lab), 90, "a missed call")
    time.sleep(6)  # one more poll: nothing is read twice
    after = figures()
    assert after[1] == missed + 1
    assert after[2] > rows
    assert after[0] - records == after[2] - rows
