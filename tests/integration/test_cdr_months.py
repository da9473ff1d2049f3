"""The months of the call records: the unit that keeps them, and what the doctor says of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from doctor import Doctor
from lab import Lab, wait_until


@pytest.fixture
def record_of_2001(lab: Lab) -> Iterator[None]:
    """Have a record of a PBX whose clock is wrong."""
    lab.sql(
        "INSERT INTO cdr (system_name, start, uniqueid, sequence) "
        "VALUES ('pbx9', '2001-02-03', 'months.1', 1)"
    )
    yield
    lab.sql("DROP TABLE IF EXISTS cdr_2001_02; DELETE FROM cdr WHERE uniqueid = 'months.1'")


@pytest.mark.usefixtures("record_of_2001")
def test_a_record_without_a_month_gets_one(lab: Lab) -> None:
    where = "SELECT tableoid::regclass FROM cdr WHERE uniqueid = 'months.1'"
    assert lab.sql(where) == [["cdr_default"]]
    [problem] = Doctor(lab).look().problems()["CDR months"]
    assert problem.startswith("cdr_default holds 1 call records of months that are over")
    assert lab.run("systemctl is-enabled cdr-partitions.timer").strip() == "enabled"
    lab.run("systemctl start cdr-partitions.service")
    assert lab.sql(where) == [["cdr_2001_02"]]
    journal = "journalctl --unit cdr-partitions --lines 20 --output cat --no-pager"
    filed = "filed 1 records in cdr_2001_02"
    wait_until(lambda: filed in lab.run(journal), 20, "the journal has it")
    assert Doctor(lab).look().link("CDR months")["status"] == "OK"
