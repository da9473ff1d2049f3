"""``asterisk-exporter serve``."""

from __future__ import annotations

import logging
import re
import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import click
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from asterisk_exporter import __version__, config, web
from asterisk_exporter.ami.session import AmiSession
from asterisk_exporter.cli.common import config_option, stop
from asterisk_exporter.collectors import (
    ChannelCollector,
    ConferenceCollector,
    CoreCollector,
    EndpointCollector,
    QueueCollector,
    RegistrationCollector,
)
from asterisk_exporter.journal import cdr_postgresql
from asterisk_exporter.journal.store import JournalStore, JournalStoreError
from asterisk_exporter.scrape import AsteriskCollector

log = logging.getLogger("asterisk_exporter")


@click.command()
@config_option
@click.option("--listen", "address", metavar="ADDRESS", help="Overrides listen.address.")
@click.option("--port", type=click.IntRange(1, 65535), help="Overrides listen.port.")
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least severe messages to log, to standard error.",
)
def serve(config_path: Path | None, address: str | None, port: int | None, log_level: str) -> None:
    """Serve /metrics until SIGTERM or SIGINT.

    Exits 0 when it was told to end and 2 when it cannot start.
    """
    logging.basicConfig(level=log_level.upper(), format="%(levelname)s %(message)s")
    try:
        settings, path = config.load(config_path)
        target = config.target(settings, path)
        database = config.database(settings, path)
        store = journal = None
        if database is not None and settings.cdr is not None:
            store = JournalStore(settings.state_directory)
            journal = cdr_postgresql.CdrJournal(
                store, database, settings.system_name, settings.cdr.poll_seconds
            )
    except (config.ConfigError, JournalStoreError) as error:
        stop(error, 2)
    session = AmiSession(target)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_collector(settings, session, journal))
    where = (address or settings.listen.address, port or settings.listen.port)
    try:
        server = web.listen(registry, *where)
    except OSError as error:
        stop(
            f"cannot listen on {where[0]}:{where[1]}: {error.strerror}. Look at listen.address and "
            "listen.port, and at who has the port (ss -ltnp).",
            2,
        )
    _serve_until_told(server, journal, f"{where[0]}:{where[1]}")
    session.close()
    if store is not None:
        store.close()


def _collector(
    settings: config.Config,
    session: AmiSession,
    journal: cdr_postgresql.CdrJournal | None,
) -> AsteriskCollector:
    up = settings.endpoints.up
    collectors = (
        CoreCollector(settings.zone),
        ChannelCollector(),
        EndpointCollector(None if up is None else re.compile(up)),
        RegistrationCollector(),
        ConferenceCollector(),
        QueueCollector(settings.queues.members),
    )
    journals = () if journal is None else (journal,)
    return AsteriskCollector(session, collectors, journals, settings.ami.timeout_seconds)


def _serve_until_told(server: Any, journal: cdr_postgresql.CdrJournal | None, where: str) -> None:
    told = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        log.info("ending (%s)", signal.Signals(number).name)
        told.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    threading.Thread(target=server.serve_forever, args=(0.1,), name="http", daemon=True).start()
    if journal is not None:
        journal.start()
    log.info("asterisk-exporter %s serves http://%s/metrics", __version__, where)
    told.wait()
    server.shutdown()
    server.server_close()
    if journal is not None:
        journal.stop()
