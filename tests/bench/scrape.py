"""A whole scrape of a big Asterisk, against a bare socket that asks the same and parses nothing."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterable
from datetime import timezone
from pathlib import Path

from common import Context, Row, at_most, limit, medians
from pbx import Size, asterisk
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.registry import Collector as RegistryCollector

from asterisk_exporter.ami.client import Target
from asterisk_exporter.ami.protocol import END, encode_action
from asterisk_exporter.ami.session import AmiSession
from asterisk_exporter.collectors import all_collectors
from asterisk_exporter.journal.calls import Rules
from asterisk_exporter.journal.cdr import CdrCounter
from asterisk_exporter.journal.cdr_csv import CsvFile
from asterisk_exporter.journal.drift import QueueDrift
from asterisk_exporter.journal.ledger import CallLedger
from asterisk_exporter.journal.queue_log_source import QueueLogSource
from asterisk_exporter.journal.runner import Journal
from asterisk_exporter.journal.store import JournalStore
from asterisk_exporter.journal.visits import ServiceLevels
from asterisk_exporter.scrape import AsteriskCollector

SIZE = Size(queues=100, members=20, pairs=500)
ROUNDS = 15
COLLECTORS = all_collectors()
#: What the exporter asks in one scrape; the answer to the last ends with QueueStatusComplete.
ACTIONS = tuple(dict.fromkeys(a for collector in COLLECTORS for a in collector.actions))


class BareSocket:
    """Logs in once, then sends the actions and reads until the last answer has ended."""

    def __init__(self, target: Target) -> None:
        self._sock = socket.create_connection((target.host, target.port))
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ask(
            (("Username", target.username), ("Secret", target.secret), ("Events", "off")),
            ("Login",),
            b"Message: Authentication accepted",
        )

    def scrape(self) -> int:
        """Return how many bytes the answers to one scrape have."""
        return self._ask((), ACTIONS, b"Event: QueueStatusComplete")

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def _ask(self, more: tuple[tuple[str, str], ...], actions: Iterable[str], last: bytes) -> int:
        self._sock.sendall(
            b"".join(
                encode_action((("Action", action), ("ActionID", "bare"), *more))
                for action in actions
            )
        )
        length, tail = 0, b""
        while not (last in tail and tail.endswith(END)):
            data = self._sock.recv(1 << 18)
            if not data:
                raise ConnectionError("Asterisk closed the bare socket")
            length += len(data)
            tail = (tail + data)[-400:]
        return length


class Collected(RegistryCollector):
    """Families that have been collected before."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._families = list(registry.collect())

    def collect(self) -> list:
        """Return them again."""
        return self._families


class History:
    """The journals of an exporter that has just begun: every counter of every queue, at 0."""

    def __init__(self, folder: Path) -> None:
        for name in ("queue_log", "Master.csv"):
            (folder / name).touch()
        store = JournalStore(folder)
        self.queue_log = QueueLogSource(store, folder / "queue_log", ServiceLevels({}))
        self.queue_log.drift = QueueDrift()
        counter = CdrCounter(store, CallLedger(store, Rules()))
        cdr = CsvFile(folder / "Master.csv", timezone.utc).source(store, "bench", counter)
        self.journals = [Journal(store, self.queue_log, 1), Journal(store, cdr, 1)]

    def read(self) -> None:
        """Read what there is, as the journals' threads would, of the queues that are known."""
        for journal in self.journals:
            journal.source.open()
            journal.source.begin(backfill=False)
            journal.source.read()


def bench(context: Context) -> Iterable[Row]:
    """Compare a scrape with what its socket and its rendering take alone."""
    with tempfile.TemporaryDirectory() as folder, asterisk(context, SIZE) as target:
        history = History(Path(folder))
        session = AmiSession(target)
        registry = CollectorRegistry()
        registry.register(
            AsteriskCollector(session, COLLECTORS, history.journals, 10, history.queue_log)
        )
        bare = BareSocket(target)
        generate_latest(registry)  # AMI tells the queues
        history.read()
        text = generate_latest(registry).decode()
        assert "asterisk_up 1.0" in text
        assert 'asterisk_queue_calls_unanswered_total{queue="' in text
        rendered = CollectorRegistry()
        rendered.register(Collected(registry))
        whole, wire, rendering = medians(
            ROUNDS,
            lambda: generate_latest(registry),
            bare.scrape,
            lambda: generate_latest(rendered),
        )
        answer = bare.scrape()
        bare.close()
        session.close()
    yield at_most(
        f"scrape: 100 queues, 2,000 members, 1,000 channels ({answer / 1e6:.1f} MB of AMI); peer: "
        f"bare socket {wire * 1000:.1f} ms + rendering {rendering * 1000:.1f} ms",
        whole,
        wire + rendering,
        1.5,
    )
    series = sum(not line.startswith("#") for line in text.splitlines())
    yield limit("scrape: its exposition", series, 5000, "series")
