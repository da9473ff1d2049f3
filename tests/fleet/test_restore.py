"""A PBX whose machine is destroyed, and put back onto a new one, while the other goes on.

The tests are one story, and run in this order.
"""

from __future__ import annotations

import json
import re
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from fleet import Pbx
from history import history, settled, wait_until_settled
from lab import Lab, wait_until

VOICEMAIL = "/var/spool/asterisk/voicemail"
OWN_FILE = "/etc/asterisk/extensions.d/site.conf"
#: A message as app_voicemail leaves it.
MESSAGE = """
mkdir -p "$1" && cd "$1"
printf '[message]\\ncallerid=Ann <0151>\\norigtime=1796000000\\nduration=3\\n' >msg0000.txt
head -c 48000 /dev/zero >msg0000.wav
"""
#: What only this disk has, as it was made on it.
IDENTITY = """
cat /etc/ssh/ssh_host_ed25519_key.pub
cd / && runuser -u postgres -- psql -XAtc 'SELECT system_identifier FROM pg_control_system()'
"""


@dataclass(frozen=True)
class Data:
    """What must be the same afterwards."""

    counters: dict[str, float]
    missed: list[dict[str, object]]
    records: list[list[str]]
    journals: str
    voicemail: str
    astdb: str
    own_file: str


def data(pbx: Pbx) -> Data:
    return Data(
        history(pbx),
        json.loads(pbx.run("asterisk-exporter missed --since 30d --json")),
        pbx.records(),
        # less what Asterisk writes when it starts
        pbx.run("cd /var/log/asterisk; cat cdr-csv/Master.csv; grep -v QUEUESTART queue_log"),
        pbx.run(f"cd {VOICEMAIL} && find . -type f ! -name '.lock*' -exec sha256sum {{}} + | sort")
        + pbx.asterisk("voicemail show users"),
        pbx.asterisk("database show operations"),
        pbx.run(f"cat {OWN_FILE}"),
    )


def processes(pbx: Pbx) -> str:
    units = "asterisk asterisk-exporter call-routing 'postgresql@*'"
    return pbx.run(f"systemctl show --property=Id --property=MainPID {units}")


def miss_a_call(pbx: Pbx) -> None:
    """Let a caller of sales give up, and return when that is counted."""
    caller = "+4915550079"

    def missed() -> int:
        return pbx.run("asterisk-exporter missed --since 30d --json").count(caller)

    before = missed()
    pbx.run(f"lab-call provider {caller} +493055502 3")
    wait_until(lambda: missed() > before and settled(pbx), 120, "a missed call is counted")


def playbook(lab: Lab, *arguments: str) -> str:
    result = lab.playbook(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@dataclass(frozen=True)
class Backup:
    """An archive, and what there was when it was made."""

    path: Path
    data: Data

    def variables(self) -> str:
        return json.dumps({"backup_directory": str(self.path.parents[1])})


@pytest.fixture(scope="module")
def backup(hamburg: Pbx, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    hamburg.run(f"echo '; of this site' >{OWN_FILE}")
    hamburg.asterisk("database put operations kept here")
    hamburg.run(f"runuser -u asterisk -- sh -s {VOICEMAIL}/default/100/INBOX", stdin=MESSAGE)
    hamburg.run("lab-call provider +4915550078 +493055503 4")
    miss_a_call(hamburg)
    there = data(hamburg)
    directory = tmp_path_factory.mktemp("backups") / "of all hosts"
    playbook(
        hamburg, "playbooks/backup.yml", "-e", json.dumps({"backup_directory": str(directory)})
    )
    assert not hamburg.run("find /var/tmp -maxdepth 1 -name 'asterisk-*'")
    assert {path.name for path in directory.iterdir()} == {"berlin", "hamburg"}
    [path] = (directory / "hamburg").iterdir()
    return Backup(path, there)


@dataclass(frozen=True)
class Other:
    """The PBX that goes on."""

    counters: dict[str, float]
    records: list[list[str]]
    processes: str


def other(pbx: Pbx) -> Other:
    return Other(history(pbx), pbx.records(), processes(pbx))


@pytest.fixture(scope="module")
def before(berlin: Pbx) -> Other:
    wait_until_settled(berlin)
    return other(berlin)


@pytest.fixture(scope="module")
def restored(hamburg: Pbx, backup: Backup, before: Other) -> Data:  # noqa: ARG001 - berlin before
    """Destroy the machine, make another, restore it; return what there was before."""
    identity = hamburg.run("sh -s", stdin=IDENTITY)
    playbook(hamburg, "playbooks/lab/destroy_machine.yml", "--limit", "hamburg")
    assert hamburg.exec("true").returncode != 0
    made = playbook(
        hamburg,
        *("playbooks/lab/create.yml", "site.yml", "--limit", "hamburg"),
        *("-e", "asterisk_exporter_start=false"),
    )
    assert not re.search(r"^(berlin|monitor) ", made, re.M)
    new = hamburg.run("sh -s", stdin=IDENTITY)
    assert not set(new.splitlines()) & set(identity.splitlines())
    assert hamburg.sql("SELECT count(*) FROM cdr") == [["0"]]
    said = playbook(
        hamburg,
        *("playbooks/restore.yml", "playbooks/lab/phones.yml", "--limit", "hamburg"),
        *("-e", backup.variables()),
    )
    assert f"{backup.data.records[0][0]} call records" in said
    assert not hamburg.run("find /var/tmp -maxdepth 1 -name 'asterisk-*'")
    return backup.data


def test_an_archive_is_nobody_elses(backup: Backup) -> None:
    assert backup.path.stat().st_mode & 0o777 == 0o600
    assert backup.path.parent.stat().st_mode & 0o777 == 0o700
    with tarfile.open(backup.path) as opened:
        assert {member.mode & 0o077 for member in opened} == {0}


def test_a_pbx_that_has_data_is_not_overwritten(hamburg: Pbx, backup: Backup) -> None:
    running = processes(hamburg)
    result = hamburg.playbook(
        "playbooks/restore.yml", "--limit", "hamburg", "-e", backup.variables()
    )
    assert result.returncode != 0, result.stdout
    assert "restore_overwrite=true" in result.stdout
    assert processes(hamburg) == running


def test_everything_is_there_again(hamburg: Pbx, restored: Data) -> None:
    assert "kept" in restored.astdb
    wait_until_settled(hamburg)
    assert data(hamburg) == restored


@pytest.mark.usefixtures("restored")
def test_the_other_goes_on_as_it_was(berlin: Pbx, before: Other) -> None:
    assert other(berlin) == before


@pytest.mark.usefixtures("restored")
def test_what_comes_after_is_counted_once(hamburg: Pbx) -> None:
    def figures() -> tuple[float, float, int]:
        metrics = hamburg.metrics()
        records = sum(v for k, v in metrics.items() if k.startswith("asterisk_cdr_records_total{"))
        missed = sum(v for k, v in metrics.items() if k.startswith("asterisk_missed_calls_total{"))
        [[rows]] = hamburg.sql("SELECT count(*) FROM cdr WHERE system_name = 'hamburg'")
        return records, missed, int(rows)

    records, missed, rows = figures()
    miss_a_call(hamburg)
    time.sleep(6)  # one more poll: nothing is read twice
    after = figures()
    assert after[1] == missed + 1
    assert after[2] > rows
    assert after[0] - records == after[2] - rows


@pytest.mark.usefixtures("restored")
def test_no_call_of_the_past_seems_to_be_of_now(hamburg: Pbx, monitor: Lab) -> None:
    """The one Prometheus saw figures go on, where counters from 0 would be calls once more."""
    missed = 'sum(asterisk_missed_calls_total{instance="hamburg"})'
    now = sum(
        v for k, v in hamburg.metrics().items() if k.startswith("asterisk_missed_calls_total{")
    )
    wait_until(lambda: monitor.prometheus(missed) == now, 60, "Prometheus has the newest")
    for name in ("calls", "missed_calls", "cdr_records", "queue_calls_offered"):
        counters = f'asterisk_{name}_total{{instance="hamburg"}}[1h]'
        assert monitor.prometheus(f"max(resets({counters}))") == 0, name
