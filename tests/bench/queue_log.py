"""A million lines of queue_log, counted from their beginning into a state file, by one core."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from common import Context, Row

from asterisk_exporter.journal.queue_log_source import QueueLogSource
from asterisk_exporter.journal.store import JournalStore
from asterisk_exporter.journal.visits import OFFERED, Rules, ServiceLevels

LINES = 1_000_000
ROUNDS = 3
LEAST_LINES_PER_SECOND = 200_000
BEGIN = 1_760_000_000
QUEUES = [f"queue-{number}" for number in range(20)]
MEMBERS = [f"PJSIP/{number}" for number in range(100, 250)]


def call(rng: random.Random, at: int, number: int) -> Iterator[tuple[int, str]]:
    """One visit: three in four are answered, some rings are ignored."""
    queue, callid = rng.choice(QUEUES), f"pbx1-{at}.{number}"
    head = f"|{callid}|{queue}|"
    yield at, f"{head}NONE|ENTERQUEUE||+49155{number:08d}|1"
    wait = int(rng.expovariate(1 / 25))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):
        yield at + wait // 2, f"{head}{rng.choice(MEMBERS)}|RINGNOANSWER|15000"
    if rng.random() < 0.75:
        member, talk = rng.choice(MEMBERS), int(rng.expovariate(1 / 180))
        yield at + wait, f"{head}{member}|CONNECT|{wait}|pbx1-{at}.{number}1|4"
        end = rng.choice(("COMPLETEAGENT", "COMPLETECALLER"))
        if rng.random() < 0.05:
            yield at + wait + talk, f"{head}{member}|BLINDTRANSFER|111|internal|{wait}|{talk}|1"
        else:
            yield at + wait + talk, f"{head}{member}|{end}|{wait}|{talk}|1"
    else:
        end = rng.choice(("ABANDON|1|1", "ABANDON|1|1", "EXITWITHTIMEOUT|1|1", "EXITEMPTY|1|1"))
        yield at + wait, f"{head}NONE|{end}|{wait}"


def history(lines: int, per_day: int = 10_000) -> list[str]:
    """Return a log of this many lines, in the order of their times."""
    rng = random.Random(1)
    made: list[tuple[int, str]] = [
        (BEGIN, f"|MANAGER|{queue}|{member}|ADDMEMBER|")
        for queue in QUEUES[:5]
        for member in MEMBERS[:50]
    ]
    number = 0
    while len(made) < lines:
        at = BEGIN + int(number * 86400 / per_day)
        made += call(rng, at, number)
        if number % 20 == 0:
            member, queue = rng.choice(MEMBERS[:50]), rng.choice(QUEUES[:5])
            made.append((at, f"|NONE|{queue}|{member}|PAUSE|lunch"))
            made.append((at + 900, f"|NONE|{queue}|{member}|UNPAUSE|"))
        number += 1
    made.sort(key=lambda line: line[0])
    return [f"{at}{rest}\n" for at, rest in made[:lines]]


def backfill(directory: Path, path: Path, keep_visits: bool) -> float:
    """Return the seconds of a processor that it took."""
    store = JournalStore(directory)
    levels = ServiceLevels(dict.fromkeys(QUEUES, 20))
    source = QueueLogSource(store, path, levels, rules=Rules(keep_visits=keep_visits))
    source.open()
    source.begin(backfill=True)
    began = time.process_time()
    while source.read():
        pass
    used = time.process_time() - began
    assert sum(store.values(OFFERED).values()) > 0
    store.close()
    return used


def bench(context: Context) -> Iterable[Row]:  # noqa: ARG001 - no lab
    """Return a row with, and one without visits that are kept for the CDR journal."""
    with tempfile.TemporaryDirectory(prefix="asterisk-exporter-bench-") as folder:
        path = Path(folder) / "queue_log"
        path.write_text("".join(history(LINES)))
        for keep, which in ((True, "with CDR"), (False, "without CDR")):
            used = statistics.median(
                backfill(Path(folder) / f"{keep}-{number}", path, keep) for number in range(ROUNDS)
            )
            rate = LINES / used
            yield Row(
                f"queue_log backfill, {which}, per processor second",
                f"{rate:,.0f} lines/s",
                "",
                "",
                f"≥ {LEAST_LINES_PER_SECOND:,} lines/s",
                rate >= LEAST_LINES_PER_SECOND,
            )
