"""The link CDR months: the table's partitions are made ahead, and what is over is filed in them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from datetime import date, datetime, timedelta, timezone

from asterisk_exporter import config
from asterisk_exporter.doctor.finding import Finding, not_set_up, ok, warning
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.journal.cdr_postgresql import Database

#: Not further: a month of millions is not counted for this.
MOST = 1000
_MONTHS = "SELECT (begins AT TIME ZONE 'UTC')::date FROM cdr_months"
# cdr_partitions() files a month on the second day after its end, and nothing from before 2000.
_UNFILED = """
SELECT count(*) FROM (
    SELECT FROM cdr_default WHERE start >= '2000-01-01 00:00:00+00'
    AND start < date_trunc('month', now() AT TIME ZONE 'UTC' - interval '3 days') AT TIME ZONE 'UTC'
    LIMIT %s
) AS unfiled
"""
_ACTION = (
    "On the database's host: systemctl status cdr-partitions.timer; journalctl -u cdr-partitions "
    "-n 50; systemctl start cdr-partitions.service does at once what is due"
)


def look(pbx: Pbx) -> Iterator[Finding]:
    """Look at the months that there are. Raises SourceError."""
    place = config.call_records(pbx.settings, pbx.path)
    if not isinstance(place, Database):
        yield not_set_up("the call records are in no PostgreSQL")
        return
    months = {month for (month,) in place.ask(_MONTHS)}
    [(unfiled,)] = place.ask(_UNFILED, (MOST,))
    yield from judge(months, unfiled, datetime.now(timezone.utc))


def judge(months: Collection[date], unfiled: int, now: datetime) -> Iterator[Finding]:
    """Judge the first days of the months, and the records of past months in the default."""
    following = (now.date().replace(day=1) + timedelta(days=32)).replace(day=1)
    if following not in months:
        yield warning(
            f"no partition is made ahead for {following:%Y-%m}: its call records will be in "
            "cdr_default. None is lost, but polls and lists get slower",
            _ACTION,
        )
    if unfiled:
        yield warning(
            f"cdr_default holds {unfiled}{' or more' if unfiled >= MOST else ''} call records of "
            "months that are over",
            _ACTION,
        )
    if following in months and not unfiled:
        yield ok(f"{len(months)} months have a partition, the last is {max(months):%Y-%m}")
