"""What docs/scaling.md reckons with: the bytes and the time of a call, a record, a sample."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path

from cdr_poll import NEW, Site, _polls
from common import Context, NoLabError, Row, at_most, figure, medians, seconds

from asterisk_exporter import quality
from asterisk_exporter.journal.calls import Rules
from asterisk_exporter.journal.cdr import CdrCounter, parse
from asterisk_exporter.journal.cdr_postgresql import Database, PostgresqlSource
from asterisk_exporter.journal.ledger import MISSED as MISSED_CALLS
from asterisk_exporter.journal.ledger import CallLedger
from asterisk_exporter.journal.store import FILE_NAME, JournalStore

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from postgresql import MIGRATIONS, Cluster, begin_cdr_database, migrate

RECORDS = 1_000_000
MISSED = 20_000
ROUNDS = 5
#: Times may be so many times those of a table without months.
BAR = 1.5
#: Samples that Prometheus has scraped from the exporter, as a block of their own.
_BLOCK = """
set -e
folder=$(mktemp -d); trap 'rm -r "$folder"' EXIT; cd "$folder"
promtool tsdb dump-openmetrics --match '{job="asterisk"}' /var/lib/prometheus/metrics2 >samples
promtool tsdb create-blocks-from openmetrics samples blocks >/dev/null
grep -vc '^#' samples
du -bs blocks | cut -f1
promtool query instant http://ADDRESS:9090 \
    'scrape_samples_scraped{job="asterisk"}' | sed 's/.*=> \\([0-9]*\\).*/\\1/'
"""


def bench(context: Context, records: int = RECORDS) -> Iterable[Row]:
    """Yield the rows, those that need no lab first."""
    with tempfile.TemporaryDirectory(prefix="asterisk-exporter-bench-") as folder:
        yield from _state(Path(folder))
        cluster = Cluster(Path(folder))
        cluster.start()
        try:
            begin_cdr_database(cluster)
            migrate(cluster, sorted(MIGRATIONS.glob("*.sql")))
            cluster.execute("CREATE DATABASE one TEMPLATE asterisk")
            cluster.execute("CALL cdr_partitions(0)", "asterisk")
            yield from _table(cluster, Path(folder), records)
        finally:
            cluster.stop("immediate")
    yield from _samples(context)


def _state(folder: Path) -> Iterator[Row]:
    """Yield what the state file keeps of missed calls, each of another caller."""
    store = JournalStore(folder / "missed")
    counter = CdrCounter(store, CallLedger(store, Rules()))
    path = folder / "missed" / FILE_NAME
    counter.load()
    empty = path.stat().st_size
    for first in range(0, MISSED, 1000):
        rows = [_missed(n) for n in range(first, first + 1000)]
        counter.apply({}, [parse(row) for row in rows], rows[-1]["end"], rows[-1]["end"])
    later = MISSED + 60.0
    counter.apply({}, [], later, later)
    assert sum(store.values(MISSED_CALLS).values()) == MISSED
    store.close()
    grown = path.stat().st_size - empty
    yield figure("state file: a missed call", grown / MISSED, "bytes")


def _missed(n: int) -> dict[str, object]:
    unique = f"1767225600.{n}"
    return {
        "uniqueid": unique,
        "linkedid": unique,
        "sequence": n,
        "src": f"+49301{n:07}",
        "dst": "601",
        "dcontext": "from-external",
        "channel": f"PJSIP/provider-{n:08x}",
        "dstchannel": f"PJSIP/101-{n:08x}",
        "lastapp": "Dial",
        "lastdata": "PJSIP/101",
        "start": float(n),
        "end": n + 20.0,
        "duration": 20,
        "billsec": 0,
        "disposition": "NO ANSWER",
    }


def _table(cluster: Cluster, folder: Path, records: int) -> Iterator[Row]:
    """Yield what a table of sixty months takes, against the same records without months."""
    sites = [
        Site(cluster, "asterisk", records, folder / "state"),
        Site(cluster, "one", records, folder / "state", months=False),
    ]
    size = "SELECT sum(pg_total_relation_size(inhrelid)), sum(pg_relation_size(inhrelid)) FROM "
    [(total, heap)] = cluster.execute(size + "pg_inherits WHERE inhparent = 'cdr'::regclass", "one")
    yield figure("CDR: a record, its indexes included", float(total) / records, "bytes")
    yield figure("CDR: a record alone", float(heap) / records, "bytes")
    table = f"{records:,} records in 60 months / without months"
    yield at_most(f"poll of {NEW:,} new records, {table}", *_polls(sites), BAR)
    idle = [_repeated(site.poll) for site in sites]
    yield at_most(f"poll that finds nothing, {table}", *medians(ROUNDS, *idle), BAR)
    databases = [
        Database("127.0.0.1", cluster.port, name, "exporter") for name in ("asterisk", "one")
    ]
    ask = [
        lambda one=one: quality.call_quality(one, "pbx1", timedelta(days=30)) for one in databases
    ]
    yield at_most(f"cdr quality of 30 days, {table}", *medians(ROUNDS, *ask), BAR)
    for name in ("asterisk", "one"):  # as autovacuum does, a minute into a month
        cluster.execute("ANALYZE cdr", name)
    age = [_repeated(lambda one=one: one.newest_record_age("pbx1", 5)) for one in databases]
    yield at_most(f"age of the newest record, {table}", *medians(ROUNDS, *age), BAR)
    write = [lambda name=name: _write(cluster, name) for name in ("asterisk", "one")]
    yield at_most(f"INSERT of 1,000 records, one by one, {table}", *medians(ROUNDS, *write), BAR)
    yield _backfill(databases[0], folder, records // 2)
    taken = seconds(lambda: cluster.execute("CALL cdr_partitions(0)", "one"))
    yield figure("months made of a table without: records a second", records / taken, "records/s")


def _repeated(work: Callable[[], object], times: int = 20) -> Callable[[], None]:
    def repeat() -> None:
        for _ in range(times):
            work()

    return repeat


_numbers = iter(range(10**9))


def _write(cluster: Cluster, name: str) -> None:
    connection = cluster.connect(name, "asterisk", "pbx1")
    with connection.cursor() as cursor:
        for _ in range(1000):
            cursor.execute(
                "INSERT INTO cdr (start, disposition, uniqueid, linkedid, sequence) "
                "VALUES (now(), 'BUSY', 'w', 'w', %s)",
                (next(_numbers),),
            )
    connection.close()


def _backfill(database: Database, folder: Path, records: int) -> Row:
    store = JournalStore(folder / "backfill")
    source = PostgresqlSource(
        store, database, "pbx1", CdrCounter(store, CallLedger(store, Rules()))
    )
    source.open()
    source.begin(backfill=True)

    def read() -> None:
        while source.read():
            pass

    taken = seconds(read)
    source.close()
    store.close()
    return figure("CDR: backfill", records / taken, "records/s")


def _samples(context: Context) -> Iterator[Row]:
    """Yield what Prometheus keeps of the lab's exporter."""
    if not context.address:
        raise NoLabError("there is no lab to ask what Prometheus keeps")
    script = _BLOCK.replace("ADDRESS", context.address)
    done = subprocess.run(
        [*context.prefix, "sh", "-c", script], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NoLabError(f"{shlex.join(context.prefix)}: {done.stderr.strip()}")
    samples, size, series = map(int, done.stdout.split())
    yield figure("lab: samples of a scrape", series, "samples")
    yield figure(f"lab: a sample in a block of {samples:,}", size / samples, "bytes")
