"""The link journals: the exporter has counted all that has been written."""

from __future__ import annotations

from collections.abc import Iterator

from asterisk_exporter import config
from asterisk_exporter.doctor.finding import Finding, critical, not_set_up, ok, warning
from asterisk_exporter.doctor.metrics import Scrape, scraped
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.doctor.services import age
from asterisk_exporter.journal.cdr_postgresql import Database

#: A record that waits for so long waits for something.
LATE_SECONDS = 30.0
STUCK_SECONDS = 300.0
_UNSETTLED = """
SELECT count(*) FROM cdr WHERE system_name = %s AND imported_at IS NULL
AND transaction_id >= cdr_transaction(pg_snapshot_xmin(pg_current_snapshot()))
"""
_OPEN = (
    "As the database's administrator look who it is: SELECT pid, usename, xact_start, query FROM "
    "pg_stat_activity WHERE backend_xid IS NOT NULL ORDER BY xact_start; it may be another "
    "database of that server. SELECT pg_terminate_backend(PID) ends it"
)
_LOOK = "Look at: journalctl -u asterisk-exporter -n 50; and at the load of this machine: uptime"


def look(pbx: Pbx) -> Iterator[Finding]:
    """Look how far the service is behind, by its own figures."""
    settings = pbx.settings
    sources = [name for name in ("queue_log", "cdr") if getattr(settings, name) is not None]
    if not sources:
        yield not_set_up("neither queue_log nor call records are read")
        return
    for name in sources:
        lag = labelled(scraped(pbx), "asterisk_exporter_journal_lag_seconds", name)
        is_late = name == "cdr" and lag is not None and lag >= LATE_SECONDS
        yield judge(name, scraped(pbx), is_late and _waits_for_a_transaction(pbx))


def labelled(scrape: Scrape, family: str, source: str) -> float | None:
    """Return the value of a source."""
    for labels, value in scrape.families.get(family, ()):
        if labels.get("source") == source:
            return value
    return None


def judge(name: str, scrape: Scrape, waits: bool) -> Finding:
    """Judge how far a source is behind. ``waits``: for a transaction of somebody else."""
    lag = labelled(scrape, "asterisk_exporter_journal_lag_seconds", name)
    if lag is None:
        return critical(f"{name} is not read: the service shows no such journal", _LOOK)
    if lag < LATE_SECONDS:
        read = labelled(scrape, "asterisk_exporter_journal_records", name) or 0
        wrong = labelled(scrape, "asterisk_exporter_journal_malformed", name) or 0
        malformed = f", {wrong:.0f} of them malformed" if wrong else ""
        return ok(f"{name}: all is counted, {read:.0f} records{malformed}")
    bad = critical if lag >= STUCK_SECONDS else warning
    text = f"{name}: what was written {age(lag)} ago is not counted yet"
    if waits:
        return bad(f"{text}: a transaction that began earlier is still open in PostgreSQL", _OPEN)
    return bad(text, _LOOK)


def _waits_for_a_transaction(pbx: Pbx) -> bool:
    """Say whether records are committed that may still be overtaken. Raises SourceError."""
    database = config.call_records(pbx.settings, pbx.path)
    if not isinstance(database, Database):
        return False
    [(count,)] = database.ask(_UNSETTLED, (pbx.settings.system_name,))
    return bool(count)
