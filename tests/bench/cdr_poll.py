"""A poll that finds 1,000 new call records: in a table of ten million against one of ten thousand.

Both have sixty months. Half of the old records were imported after the exporter began to count, so
they are behind its cursor and it must not walk through them.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from common import Context, Row, at_most, seconds

from asterisk_exporter.journal.calls import Rules
from asterisk_exporter.journal.cdr import CdrCounter
from asterisk_exporter.journal.cdr_postgresql import Database, PostgresqlSource
from asterisk_exporter.journal.ledger import CallLedger
from asterisk_exporter.journal.store import JournalStore

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from postgresql import Cluster, make_cdr_database

LARGE, SMALL = 10_000_000, 10_000
NEW = 1_000
ROUNDS = 9
MONTHS = 60
DATABASES = {"asterisk": LARGE, "small": SMALL}

_FILL = """
INSERT INTO cdr (system_name, src, dst, dcontext, clid, channel, dstchannel, lastapp, lastdata,
                 start, answer, "end", duration, billsec, disposition, uniqueid, linkedid,
                 sequence, imported_at)
SELECT 'pbx1', '4930' || n, '601', 'from-external', '4930' || n, 'PJSIP/provider-' || n,
       'PJSIP/101-' || n, 'Queue', 'support', at, at, at + interval '1 minute', 60, 60,
       (ARRAY['ANSWERED', 'NO ANSWER', 'BUSY'])[1 + n % 3], '1767225600.' || n,
       '1767225600.' || n, n, {imported}
FROM generate_series({first}, {last}) AS n,
     LATERAL (SELECT {at} AS at) AS times
"""
_MONTHS = f"""
SELECT cdr_add_month(date_trunc('month', now() AT TIME ZONE 'UTC') - n * interval '1 month')
FROM generate_series(1, {MONTHS}) AS n
"""


class Site:
    """A table and an exporter's reader on it. Without ``months`` the default has all records."""

    def __init__(
        self, cluster: Cluster, name: str, rows: int, folder: Path, months: bool = True
    ) -> None:
        self._cluster, self._name, self._next = cluster, name, rows
        self._step = MONTHS * 30 * 86400 / rows
        half = rows // 2
        if months:
            self._execute(_MONTHS)
        indexes = self._without_indexes()
        self._fill(0, half - 1)
        self._execute(f"SELECT setval('cdr_id', {rows * 2})")
        store = JournalStore(folder / name)
        counter = CdrCounter(store, CallLedger(store, Rules()))
        database = Database("127.0.0.1", cluster.port, name, "exporter")
        self._source = PostgresqlSource(store, database, "pbx1", counter)
        self._source.open()
        self._source.begin(backfill=False)
        self._fill(half, rows - 1, imported="now()")
        for index in indexes:
            self._execute(index)
        if months:
            self._execute("CALL cdr_partitions(0)")
        self._execute("VACUUM ANALYZE cdr")

    def add(self) -> None:
        """Write the new records, as Asterisk does."""
        self._fill(self._next, self._next + NEW - 1, at="now()")
        self._next += NEW

    def poll(self) -> None:
        """Read all there is, as the journal's thread does; check that it was what is new."""
        while self._source.read():
            pass
        self._source.lag_seconds()

    def counted(self) -> int:
        """Return how many records the exporter has counted."""
        return sum(self._source._store.values("asterisk_cdr_records").values())

    def _fill(self, first: int, last: int, imported: str = "NULL", at: str | None = None) -> None:
        if at is None:
            at = f"now() - interval '{MONTHS * 30} days' + n * interval '{self._step} seconds'"
        for begin in range(first, last + 1, 500_000):
            end = min(last, begin + 499_999)
            self._execute(_FILL.format(first=begin, last=end, imported=imported, at=at))

    def _without_indexes(self) -> list[str]:
        """Drop indexes that the reader does not need; return how they are made.

        Built at the end they are ready sooner.
        """
        found = self._execute(
            "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'cdr' "
            "AND indexname <> 'cdr_cursor'"
        )
        for name, _ in found:
            self._execute(f"DROP INDEX {name}")
        # of all partitions, not ONLY of the table above them
        return [made.replace(" ON ONLY ", " ON ") for _, made in found]

    def _execute(self, sql: str):
        return self._cluster.execute(sql, self._name)


def bench(context: Context) -> Iterable[Row]:  # noqa: ARG001 - no lab
    """Return the row."""
    with tempfile.TemporaryDirectory(prefix="asterisk-exporter-bench-") as folder:
        cluster = Cluster(Path(folder))
        cluster.start()
        try:
            make_cdr_database(cluster)
            cluster.execute("CREATE DATABASE small TEMPLATE asterisk")
            sites = [
                Site(cluster, name, rows, Path(folder) / "state")
                for name, rows in DATABASES.items()
            ]
            ours, peer = _polls(sites)
            for site in sites:
                assert site.counted() == NEW * (ROUNDS + 1), site.counted()
        finally:
            cluster.stop("immediate")
    return [at_most(f"poll of {NEW:,} new records, {LARGE:,} rows / {SMALL:,}", ours, peer, 1.5)]


def _polls(sites: list[Site]) -> list[float]:
    """Return the median seconds of a poll of each site."""
    times = []
    for _ in range(ROUNDS + 1):
        for site in sites:
            site.add()
        times.append([seconds(site.poll) for site in sites])
    return [statistics.median(found) for found in zip(*times[1:])]
