"""How calls went, from their records: how many were completed, and how long people talked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta

import psycopg2

from asterisk_exporter.journal.cdr_postgresql import Database, explain
from asterisk_exporter.journal.runner import SourceError

SHORT_SECONDS = 10
#: A week of a busy site is more than the exporter's own five seconds.
STATEMENT_TIMEOUT = "60s"

_RECORDS = """
SELECT linkedid, disposition, dstchannel, billsec FROM cdr
WHERE system_name = %s AND start >= %s
"""
# As a constant: the months before it are not even planned for.
_BEGIN = "SELECT set_config('statement_timeout', %s, false), (now() - %s)::text"


@dataclass(frozen=True)
class Record:
    """What one call record says. ``billsec`` is in seconds."""

    linkedid: str | None
    disposition: str | None
    dstchannel: str | None
    billsec: int | None

    @property
    def answered(self) -> bool:
        """Say whether somebody was reached.

        A channel that only the dialplan answered (an announcement, voicemail, a queue that was
        left) has no second channel; an attempt that nobody took is not ANSWERED.
        """
        return self.disposition == "ANSWERED" and bool(self.dstchannel)


@dataclass(frozen=True)
class Quality:
    """Figures of some calls. None: there are no calls to tell it from."""

    calls: int
    completed: int
    completion_rate: float | None
    average_talk_seconds: float | None
    short_calls: int


def call_quality(database: Database, system_name: str, since: timedelta) -> Quality:
    """Return the figures of ``system_name``'s calls that began no longer ago than ``since``.

    Imported records count too. Raises SourceError when the database cannot be asked.
    """
    try:
        return assess(records(database, system_name, since))
    except psycopg2.Error as error:
        raise SourceError(
            f"{database}: {explain(error)}. Look at whether it is the right login, and whether "
            "PostgreSQL runs there."
        ) from None


def assess(records: Iterable[Record]) -> Quality:
    """Return the figures; a call is all records of one linkedid.

    Its talk time is the billsec of its answered records together: a transferred call has several.
    Short is a completed call of less than SHORT_SECONDS.
    """
    talk: dict[str, int | None] = {}
    for record in records:
        if not record.linkedid:
            continue
        known = talk.setdefault(record.linkedid, None)
        if record.answered:
            talk[record.linkedid] = (known or 0) + (record.billsec or 0)
    seconds = [value for value in talk.values() if value is not None]
    return Quality(
        calls=len(talk),
        completed=len(seconds),
        completion_rate=len(seconds) / len(talk) if talk else None,
        average_talk_seconds=sum(seconds) / len(seconds) if seconds else None,
        short_calls=sum(value < SHORT_SECONDS for value in seconds),
    )


def records(database: Database, system_name: str, since: timedelta) -> Iterator[Record]:
    """Yield the records of one system that began since then. Raises psycopg2.Error."""
    with closing(database.connect()) as connection:
        with connection.cursor() as cursor:
            cursor.execute(_BEGIN, (STATEMENT_TIMEOUT, since))
            [(_, begin)] = cursor.fetchall()
        connection.autocommit = False
        # a named cursor: the records come as they are needed
        with connection.cursor("quality") as cursor:
            cursor.itersize = 10_000
            cursor.execute(_RECORDS, (system_name, begin))
            for row in cursor:
                yield Record(*row)
