"""What the doctor says about the months of the CDR table."""

from __future__ import annotations

from datetime import date, datetime, timezone
from pathlib import Path

import pytest

from asterisk_exporter import config
from asterisk_exporter.doctor import cdr_months
from asterisk_exporter.doctor.pbx import Pbx

NOW = datetime(2026, 11, 30, 23, 59, tzinfo=timezone.utc)
MONTHS = {date(2026, 10, 1), date(2026, 11, 1), date(2026, 12, 1)}


def judge(months=MONTHS, unfiled=0, now=NOW):
    return [(found.status.name, found.text) for found in cdr_months.judge(months, unfiled, now)]


def test_months_are_in_order():
    assert judge() == [("OK", "3 months have a partition, the last is 2026-12")]


@pytest.mark.parametrize(
    ("now", "missing"),
    [(NOW.replace(month=12, day=1), "2027-01"), (NOW.replace(month=12, day=31), "2027-01")],
)
def test_none_is_made_ahead(now, missing):
    [(status, text)] = judge(now=now)
    assert status == "WARNING"
    assert text.startswith(f"no partition is made ahead for {missing}: ")


def test_the_default_holds_what_is_over():
    assert judge(unfiled=7) == [
        ("WARNING", "cdr_default holds 7 call records of months that are over")
    ]
    [(_, text)] = judge(unfiled=1000)
    assert "1000 or more" in text


def test_records_elsewhere_have_no_months():
    settings = config.Config(cdr={"source": "csv"})
    [found] = cdr_months.look(Pbx(settings, Path("none.yml"), 1.0))
    assert found.text == "not set up: the call records are in no PostgreSQL"
