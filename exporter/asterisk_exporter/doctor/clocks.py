"""Whether the clocks of the PBX, the database of the call records and Prometheus agree.

Both are asked what time it is; the middle of the time that the answer took is ours.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg2

from asterisk_exporter import config
from asterisk_exporter.doctor import prometheus_api
from asterisk_exporter.doctor.finding import (
    Finding,
    critical,
    not_looked_at,
    not_set_up,
    ok,
    warning,
)
from asterisk_exporter.doctor.pbx import LookError, Pbx
from asterisk_exporter.doctor.prometheus_api import Clock
from asterisk_exporter.journal.cdr import Place
from asterisk_exporter.journal.cdr_mysql import MysqlTable, ask
from asterisk_exporter.journal.cdr_postgresql import Database
from asterisk_exporter.journal.runner import SourceError

#: Seconds. Calls are told apart, and figures are old or of the future, by less than a minute.
WARNING, CRITICAL = 2.0, 30.0
_HARM = {
    "Prometheus": "ages and times in alerts and dashboards are wrong by that",
    "the database": "the age of call records, and when a call is over, are wrong by that",
}


def look(pbx: Pbx) -> Iterator[Finding]:
    """Compare each clock there is with this machine's."""
    prometheus = prometheus_api.at(pbx)
    cdr = pbx.settings.cdr
    if prometheus is None and not isinstance(cdr, config.CdrDatabase):
        yield not_set_up("neither a database of call records nor Prometheus: no clock but this")
    if isinstance(cdr, config.CdrDatabase):
        try:
            place = config.call_records(pbx.settings, pbx.path)
            yield judged("the database", database_clock(place, pbx.timeout))
        except (config.ConfigError, psycopg2.Error, SourceError):
            yield not_looked_at("the database does not answer: see CDR database")
    if prometheus is not None:
        try:
            yield judged("Prometheus", prometheus.clock())
        except LookError:
            yield not_looked_at("Prometheus does not answer: see Prometheus")


def database_clock(place: Place | None, timeout: float) -> Clock:
    """Ask the database. Raises psycopg2.Error, SourceError."""
    assert isinstance(place, (Database, MysqlTable))  # noqa: S101 - Master.csv has no clock
    connection = place.connect(max(2, int(timeout)))
    try:
        before = time.time()
        if isinstance(place, Database):
            with connection.cursor() as cursor:
                cursor.execute("SELECT extract(epoch FROM clock_timestamp())::float8")
                [value] = cursor.fetchone()
        else:
            [row] = ask(connection, "SELECT unix_timestamp(now(6)) AS clock")
            value = row["clock"]
        after = time.time()
    finally:
        connection.close()
    return Clock(float(value), (before + after) / 2, (after - before) / 2)


def judged(whose: str, clock: Clock) -> Finding:
    """Return how far a clock is from ours."""
    ahead = clock.there - clock.here
    skew = abs(ahead)
    sure = max(0.0, skew - clock.uncertain)
    if sure <= WARNING:
        return ok(f"{whose}: {skew:.3f} s {'ahead' if ahead > 0 else 'behind'}")
    finding = critical if sure > CRITICAL else warning
    return finding(
        f"the clock of {whose} is {skew:.1f} s {'ahead of' if ahead > 0 else 'behind'} this "
        f"machine's: {_HARM[whose]}",
        "Let one service keep the time on both, such as chrony or systemd-timesyncd. To see which "
        "is wrong: timedatectl",
    )
