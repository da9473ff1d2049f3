"""Real SIP calls, and what Asterisk, the CDR table and Prometheus say of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator

import pytest
from history import wait_until_settled
from lab import Lab, wait_until

DIALPLAN = "/etc/asterisk/extensions.d/test-texts.conf"
DISPOSITIONS = "SELECT disposition, count(*) FROM cdr WHERE system_name = 'pbx1' GROUP BY 1"


def queue_counters(lab: Lab, queue: str) -> tuple[int, int]:
    """Completed and abandoned, as ``queue show`` prints them."""
    found = re.search(r"\bC:(\d+), A:(\d+),", lab.asterisk(f"queue show {queue}"))
    assert found
    return int(found[1]), int(found[2])


def records(lab: Lab) -> dict[str, int]:
    return {disposition: int(count) for disposition, count in lab.sql(DISPOSITIONS)}


def seen_by_prometheus(lab: Lab, disposition: str) -> int:
    return int(lab.prometheus(f'asterisk_cdr_records_total{{disposition="{disposition}"}}') or 0)


def call(lab: Lab, arguments: str) -> list[list[str]]:
    """Place a call and return its records: (dst, disposition, lastapp, dstchannel, answered)."""
    [[newest]] = lab.sql("SELECT coalesce(max(id), 0) FROM cdr")
    lab.run(f"lab-call {arguments}")
    lab.wait_until_quiet()  # the caller knows of the end before Asterisk is through with it
    source = arguments.split()[1]

    def made() -> list[list[str]]:
        return lab.sql(
            "SELECT dst, disposition, lastapp, dstchannel, answer IS NOT NULL FROM cdr"
            f" WHERE id > {newest} AND linkedid IN"
            f" (SELECT linkedid FROM cdr WHERE id > {newest} AND src = '{source}') ORDER BY id"
        )

    wait_until(made, 20, "the call is recorded")
    return made()  # Asterisk writes them one after the other


@pytest.fixture(scope="module")
def caught_up(lab: Lab) -> None:
    """Prometheus has counted what was before."""
    wait_until_settled(lab)
    name = "asterisk_cdr_records_total"
    counted = sum(value for key, value in lab.metrics().items() if key.startswith(f"{name}{{"))
    wait_until(lambda: lab.prometheus(f"sum({name})") == counted, 60, "Prometheus has seen it")


@pytest.fixture
def reconciled(lab: Lab, caught_up: None) -> Iterator[None]:  # noqa: ARG001 - it comes first
    """After the test, Prometheus has counted exactly the records that the test made."""
    before = records(lab)
    counted = {name: seen_by_prometheus(lab, name) for name in before}
    yield
    assert records(lab) != before, "the test made no record"

    def same() -> bool:
        after = records(lab)  # the last one may have come since
        made = {name: after[name] - before.get(name, 0) for name in after}
        return made == {n: seen_by_prometheus(lab, n) - counted.get(n, 0) for n in after}

    wait_until(same, 60, "Prometheus has counted what was made")


@pytest.mark.usefixtures("reconciled")
def test_call_answered_in_a_queue(lab: Lab) -> None:
    completed, abandoned = queue_counters(lab, "support")
    rows = call(lab, "provider +4915550011 +493055501 10")
    assert queue_counters(lab, "support") == (completed + 1, abandoned)
    assert [row[1:3] for row in rows if row[3].startswith("PJSIP/10")] == [["ANSWERED", "Queue"]]


@pytest.mark.usefixtures("reconciled")
def test_call_abandoned_in_a_queue(lab: Lab) -> None:
    completed, abandoned = queue_counters(lab, "sales")
    rows = call(lab, "provider +4915550012 +493055502 4")
    assert queue_counters(lab, "sales") == (completed, abandoned + 1)
    assert not [row for row in rows if row[1] == "ANSWERED" and row[3].startswith("PJSIP/10")]


@pytest.mark.usefixtures("reconciled")
def test_call_from_extension_to_extension(lab: Lab) -> None:
    dst, disposition, app, channel, _ = call(lab, "extension 101 102 6")[0]
    assert (dst, disposition, app) == ("102", "ANSWERED", "Dial")
    assert channel.startswith("PJSIP/102-")


@pytest.mark.usefixtures("reconciled")
def test_caller_who_gives_up_before_anyone_answers_leaves_a_record(lab: Lab) -> None:
    rows = call(lab, "provider +4915550013 +493055504 3")
    assert [row[4] for row in rows] == ["f"] * len(rows)
    assert rows[0][1] in {"NO ANSWER", "CANCEL"}


def test_waiting_callers_are_on_the_live_metrics(lab: Lab) -> None:
    lab.wait_until_quiet()
    lab.run("systemd-run --quiet --collect lab-call provider +4915550014 +493055502 6")
    sample = "asterisk_queue_callers{queue=sales}"
    metrics = wait_until(
        lambda: (found := lab.metrics())[sample] == 1 and found, 20, "a caller waits in sales"
    )
    assert metrics["asterisk_calls{}"] == 1
    assert metrics["asterisk_queue_longest_wait_seconds{queue=sales}"] <= 6
    wait_until(lambda: lab.metrics()[sample] == 0, 30, "nobody waits in sales")


def test_a_recorded_call_leaves_a_wav_file(lab: Lab) -> None:
    recordings = "find /var/spool/asterisk/monitor -name '*support*.wav' -size +0"
    before = lab.run(recordings).splitlines()
    lab.run("lab-call provider +4915550015 +493055501 10")
    wait_until(
        lambda: len(lab.run(recordings).splitlines()) == len(before) + 1, 20, "one file more"
    )


def test_master_csv_has_the_same_records_as_the_database(lab: Lab) -> None:
    call(lab, "provider +4915550016 +493055501 4")
    wait_until_settled(lab)  # all its records are there
    query = (
        "SELECT src, dst, channel, dstchannel, disposition, uniqueid, linkedid, sequence FROM cdr"
    )
    newest = "(SELECT linkedid FROM cdr WHERE src = '+4915550016' ORDER BY id DESC LIMIT 1)"
    in_database = lab.sql(f"{query} WHERE linkedid = {newest}")
    rows = list(csv.reader(lab.run("cat /var/log/asterisk/cdr-csv/Master.csv").splitlines()))
    assert {len(row) for row in rows} == {21}  # linkedid, sequence and the rest of the tail
    columns = (1, 2, 5, 6, 14, 16, 19, 20)
    in_file = [[row[c] for c in columns] for row in rows if row[19] == in_database[0][6]]
    assert sorted(in_file) == sorted(in_database) != []


def test_a_name_that_is_not_utf_8_loses_no_record(lab: Lab) -> None:
    """PJSIP of Asterisk 22 replaces such bytes, but not that of 20, nor other channel drivers."""
    lines = [
        "[test-texts]",
        "exten => s,1,Set(CALLERID(all)=${URIDECODE(Br%FCnner)} <+4915550067>)",
        " same => n,Goto(from-external,+493055504,1)",
    ]
    since = int(lab.sql("SELECT coalesce(max(id), 0) FROM cdr")[0][0])

    def names() -> list[str]:
        asked = f"SELECT clid FROM cdr WHERE id > {since} AND src = '+4915550067'"
        return [clid for (clid,) in lab.sql(asked)]

    lab.run(f"cat >{DIALPLAN}", "\n".join(lines) + "\n")
    try:
        lab.asterisk("dialplan reload")
        lab.asterisk("channel originate Local/s@test-texts/n application Wait 1")
        found = wait_until(names, 60, "the record")
    finally:
        lab.run(f"rm {DIALPLAN}")
        lab.asterisk("dialplan reload")
    assert set(found) == {'"Br\u00fcnner" <+4915550067>'}
