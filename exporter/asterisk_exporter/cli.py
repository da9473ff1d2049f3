"""The command ``asterisk-exporter``."""

from __future__ import annotations

import logging
import re
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Callable, NoReturn

import click
import psycopg2
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector

from asterisk_exporter import __version__, config, health, report, web
from asterisk_exporter.ami.client import AmiClient, Deadline, Target
from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.ami.session import AmiSession
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

Command = Callable[..., Any]


def config_option(command: Command) -> Command:
    """Add ``--config``."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"Configuration file. Default: ${config.PATH_VARIABLE}, else {config.DEFAULT_PATH}.",
    )(command)


class NagiosCommand(click.Command):
    """A command whose bad usage is UNKNOWN (3), as monitoring plugins have it."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the arguments."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            error.show()
            sys.exit(int(health.Status.UNKNOWN))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, help="Show the version and exit.")
def main() -> None:
    """Prometheus exporter and health check for Asterisk."""


def _stop(message: object, code: int) -> NoReturn:
    for line in str(message).splitlines():
        click.echo(f"asterisk-exporter: {line}", err=True)
    sys.exit(code)


@main.command()
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
        _stop(error, 2)
    session = AmiSession(target)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_collector(settings, session, journal))
    where = (address or settings.listen.address, port or settings.listen.port)
    try:
        server = web.listen(registry, *where)
    except OSError as error:
        _stop(
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


@main.command(cls=NagiosCommand)
@config_option
@click.option("--host", help="Overrides ami.host.")
@click.option("--port", type=click.IntRange(1, 65535), help="Overrides ami.port.")
@click.option("--username", help="Overrides ami.username.")
@click.option(
    "--secret-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help=f"Overrides ami.secret_file; ${config.SECRET_VARIABLE} overrides both.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0.1, 300),
    default=5.0,
    show_default=True,
    help="Seconds for the whole check.",
)
@click.option("--full", is_flag=True, help="Show channels, endpoints, registrations, CDR age too.")
@click.option("--queues", "show_queues", is_flag=True, help="Show each queue too.")
@click.option("--json", "json_output", is_flag=True, help="Print one JSON document instead.")
@click.option(
    "--endpoints-ok",
    type=click.FloatRange(0, 100),
    default=90.0,
    show_default=True,
    help="Percentage of endpoints online below which it is WARNING.",
)
@click.option(
    "--endpoints-warning",
    type=click.FloatRange(0, 100),
    default=50.0,
    show_default=True,
    help="Percentage of endpoints online below which it is CRITICAL.",
)
@click.option(
    "--max-wait",
    type=click.FloatRange(0),
    default=120.0,
    show_default=True,
    help="Seconds a caller may wait in a queue before it is WARNING.",
)
def check(  # noqa: PLR0913 - one parameter an option
    *,
    config_path: Path | None,
    host: str | None,
    port: int | None,
    username: str | None,
    secret_file: Path | None,
    timeout: float,
    full: bool,
    show_queues: bool,
    json_output: bool,
    endpoints_ok: float,
    endpoints_warning: float,
    max_wait: float,
) -> None:
    """Ask Asterisk how it is; fit for Nagios.

    Exits 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (bad usage or configuration). The same things are
    judged whatever is shown.
    """
    try:
        settings, path = config.load(config_path)
        given = {"host": host, "port": port, "username": username}
        if secret_file is not None:
            given["secret_file"] = str(secret_file.absolute())
        ami = settings.ami.model_copy(update={k: v for k, v in given.items() if v is not None})
        target = config.target(settings.model_copy(update={"ami": ami}), path)
        database = config.database(settings, path)
    except config.ConfigError as unusable:
        click.echo(f"ASTERISK UNKNOWN - {report.clean(' '.join(str(unusable).splitlines()))}")
        sys.exit(int(health.Status.UNKNOWN))
    thresholds = health.Thresholds(endpoints_ok, endpoints_warning, max_wait)
    found, error = _ask(target, timeout, thresholds, database, settings.system_name)
    if json_output:
        click.echo(report.as_json(found, target, error))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100
        shown = report.Shown(full, show_queues, width)
        click.echo(report.as_text(found, target, error, shown))
    sys.exit(int(found.status))


def _ask(
    target: Target,
    timeout: float,
    thresholds: health.Thresholds,
    database: cdr_postgresql.Database | None,
    system_name: str,
) -> tuple[health.Health, AmiError | None]:
    """Return the report, and the error if the connection to AMI failed or ended."""
    deadline = Deadline(timeout)
    try:
        client = AmiClient.connect(target, deadline)
    except AmiError as error:
        return health.failed(error), error
    try:
        replies = {reply.action: reply for reply in client.request(health.ACTIONS, deadline)}
    finally:
        client.close()
    errors = (reply.error for reply in replies.values())
    ended = next((error for error in errors if error is not None and error.ends_connection), None)
    cdr = None
    if database is not None:
        cdr = _cdr(database, system_name, deadline)
    return health.assess(replies, time.time(), thresholds, cdr), ended


def _cdr(database: cdr_postgresql.Database, system_name: str, deadline: Deadline) -> health.Cdr:
    try:
        age = cdr_postgresql.latest_record_age(database, system_name, deadline.remaining())
    except (psycopg2.Error, TimeoutError) as error:
        return health.Cdr(error=f"{database}: {cdr_postgresql.explain(error)}")
    return health.Cdr(age_seconds=age)


@main.command("check-config")
@click.argument("file", type=click.Path(path_type=Path))
def check_config(file: Path) -> None:
    """Say whether FILE is a valid configuration.

    The secret files that it names need not exist. Exits 0 when it is valid, else 2.
    """
    try:
        config.load(file)
    except config.ConfigError as error:
        _stop(error, 2)
    click.echo(f"{file}: valid")
