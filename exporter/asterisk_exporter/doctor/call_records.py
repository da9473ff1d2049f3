"""The link call records: each call that is over has left one where the exporter reads."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from asterisk_exporter import config
from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.collectors.base import integer
from asterisk_exporter.collectors.core import wall_clock_to_timestamp
from asterisk_exporter.config import ConfigError
from asterisk_exporter.doctor import cdr_backends, master_csv, queue_log
from asterisk_exporter.doctor.cdr_backends import NO_RECORDS
from asterisk_exporter.doctor.finding import Finding, critical, not_set_up, ok
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.doctor.services import age
from asterisk_exporter.journal.cdr_csv import CsvFile
from asterisk_exporter.journal.cdr_postgresql import Database
from asterisk_exporter.journal.queue_log import Entry

#: So long a record may take, from the end of its call to the exporter's source.
GRACE_SECONDS = 10.0
#: The same where Asterisk writes in batches (cdr.conf: time = 300).
BATCH_SECONDS = 330.0
#: What is older tells about the past, not about now.
OLD_SECONDS = 86400.0
#: With these the caller's channel ends, so its record is due.
_GONE = frozenset({"ABANDON", "COMPLETECALLER"})
#: Fewer calls may all be such that leave no record (NoCDR).
FEWEST_CALLS = 3
_SYSTEMS = """
SELECT DISTINCT system_name FROM (SELECT system_name FROM cdr ORDER BY id DESC LIMIT 100) AS newest
"""
_ACTION = (
    "Look at: asterisk -rx 'cdr show status'; grep -i cdr /var/log/asterisk/messages.log | tail. "
    "What Master.csv has can be brought in: asterisk-exporter cdr import --csv "
    "/var/log/asterisk/cdr-csv/Master.csv"
)


@dataclass(frozen=True)
class Witness:
    """Something that tells that a record has been due since ``at`` (Unix time)."""

    at: float
    text: str


def look(pbx: Pbx) -> Iterator[Finding]:
    """Compare the newest record with what else tells of calls."""
    place = config.call_records(pbx.settings, pbx.path)
    if place is None:
        yield not_set_up(NO_RECORDS)
        return
    system, now = pbx.settings.system_name, time.time()
    # a file comes with the first record
    empty = isinstance(place, CsvFile) and not place.path.exists()
    seconds = None if empty else place.newest_record_age(system, pbx.timeout)
    newest = None if seconds is None else now - seconds
    batch = pbx.asterisk_is_here and cdr_backends.status(pbx).batch
    grace = BATCH_SECONDS if batch else GRACE_SECONDS
    found = judge(newest, list(witnesses(pbx, now)), now, grace)
    if found is None:
        yield ok("no record yet" if newest is None else f"the newest is {age(now - newest)} old")
    elif isinstance(place, Database):
        yield judge_systems(found, system, [name for (name,) in place.ask(_SYSTEMS)])
    else:
        yield found


def judge(newest: float | None, due: Sequence[Witness], now: float, grace: float) -> Finding | None:
    """Judge the newest record's time by what else tells of calls; None when it is well.

    ``grace``: seconds that a record may take.
    """
    missed = [
        one for one in due if now - one.at > grace and (newest is None or newest < one.at - grace)
    ]
    if not missed:
        return None
    latest = max(missed, key=lambda one: one.at)
    have = "there is none" if newest is None else f"the newest is {age(now - newest)} old"
    return critical(f"call records do not arrive: {have}, and {latest.text}", _ACTION)


def judge_systems(found: Finding, system: str, systems: Iterable[str]) -> Finding:
    """Return the finding, or a better one where other systems' records do arrive."""
    others = ", ".join(sorted(systems))
    if not others or system in systems:
        return found
    return critical(
        f"{found.text}. The newest records in the table are of {others}, none of {system}",
        "The name has to be the one that Asterisk writes: systemname in asterisk.conf and appname "
        "in cdr_pgsql.conf (pbx_system_name), and asterisk_exporter_system_name",
    )


def witnesses(pbx: Pbx, now: float) -> Iterator[Witness]:
    """Yield what tells that there have been calls. Raises LookError."""
    yield from of_queue_log(queue_log.entries(pbx), now)
    path = master_csv.second_copy(pbx)
    if path is not None and path.exists() and now - (at := path.stat().st_mtime) < OLD_SECONDS:
        yield Witness(at, f"Asterisk wrote one to {path} {age(now - at)} ago")
    try:
        status = pbx.replies["CoreStatus"].message()
        if not status.get("CoreProcessedCalls"):
            return  # Asterisk before 20.12, 21.7 and 22.2
        active = len(
            {
                row.get("Linkedid")
                for row in pbx.replies["CoreShowChannels"].events("CoreShowChannel")
            }
        )
        date, clock = status.get("CoreStartupDate"), status.get("CoreStartupTime")
        began = wall_clock_to_timestamp(date, clock, pbx.settings.zone, now)
        yield from of_processed(integer(status, "CoreProcessedCalls") - active, began, now)
    except (AmiError, ConfigError):
        return  # the link AMI login says so


def of_queue_log(entries: Sequence[Entry], now: float) -> Iterator[Witness]:
    """Yield the last caller who hung up in a queue."""
    for entry in reversed(entries):
        if entry.event in _GONE and now - entry.time < OLD_SECONDS:
            yield Witness(
                entry.time, f"a caller left queue {entry.queue} {age(now - entry.time)} ago"
            )
            return


def of_processed(calls: int, began: float, now: float) -> Iterator[Witness]:
    """Yield the calls that Asterisk has processed since it began."""
    if calls >= FEWEST_CALLS:
        # when they were is not known, but it was after the start
        text = f"Asterisk has processed {calls} calls since it was started {age(now - began)} ago"
        yield Witness(began + GRACE_SECONDS, text)
