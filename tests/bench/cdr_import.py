"""A million records of Master.csv into PostgreSQL: `cdr import` against psql's \\copy.

Both write into the table as the role makes it, with the same indexes, on a PostgreSQL of their own.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

from common import Context, Row, at_least, seconds

from asterisk_exporter.importer import COLUMNS, import_csv
from asterisk_exporter.journal.cdr_postgresql import Database

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))

from postgresql import Cluster, make_cdr_database

RECORDS = 1_000_000
ROUNDS = 2


def write_master(path: Path, records: int) -> None:
    """Write a Master.csv of a busy site: three records a second, two of three answered."""
    begin = datetime(2026, 1, 1)
    with path.open("w", encoding="utf-8") as stream:
        for n in range(records):
            start = begin + timedelta(seconds=n // 3)
            answered = n % 3 > 0
            answer = start + timedelta(seconds=5) if answered else ""
            number, unique = f"4930{n % 1_000_000:07d}", f"{1767225600 + n // 3}.{n}"
            stream.write(
                f'"","{number}","601","from-external","""Müller {n % 977}"" <{number}>",'
                f'"PJSIP/provider-{n:08x}","PJSIP/{100 + n % 80}-{n:08x}","Queue",'
                f'"support,iktx,,,300","{start}","{answer}","{start + timedelta(seconds=65)}",'
                f'65,{60 if answered else 0},"{"ANSWERED" if answered else "NO ANSWER"}",'
                f'"DOCUMENTATION","{unique}","queue:support","","{unique}",{n}\n'
            )


def copy(cluster: Cluster, path: Path) -> None:
    """Let psql copy the file into the table."""
    columns = ", ".join(f'"{name}"' for name in COLUMNS)
    statement = f"\\copy cdr ({columns}) FROM '{path}' WITH (FORMAT csv, FORCE_NULL (answer))"
    login = ("-h", "127.0.0.1", "-p", str(cluster.port), "-U", "admin", "-d", "asterisk")
    subprocess.run(
        [str(cluster.binaries / "psql"), "-X", "-q", *login, "-c", statement],
        check=True,
        env={**os.environ, "PGAPPNAME": "pbx1", "PGTZ": "UTC"},
    )


def bench(context: Context, records: int = RECORDS) -> Iterable[Row]:  # noqa: ARG001 - no lab
    """Return the row. Each is measured in turn, the better of its rounds counts."""
    with tempfile.TemporaryDirectory(prefix="asterisk-exporter-bench-") as folder:
        cluster = Cluster(Path(folder))
        cluster.start()
        try:
            make_cdr_database(cluster)
            path = Path(folder) / "Master.csv"
            write_master(path, records)
            target = Database("127.0.0.1", cluster.port, "asterisk", "importer")
            theirs, ours = [], []
            for _ in range(ROUNDS):
                _empty(cluster)
                theirs.append(seconds(lambda: copy(cluster, path)))
                _empty(cluster)
                ours.append(seconds(lambda: import_csv(path, target, "pbx1")))
                found = cluster.execute("SELECT count(*) FROM cdr", "asterisk")
                assert found == [(records,)], found
        finally:
            cluster.stop("immediate")
    work = f"cdr import, {records:,} records, against \\copy"
    return [at_least(work, records / min(ours), records / min(theirs), 0.5, "records/s")]


def _empty(cluster: Cluster) -> None:
    cluster.execute("TRUNCATE cdr", "asterisk")
    cluster.execute("CHECKPOINT", "asterisk")
