"""``asterisk-exporter notify``."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

import click

from asterisk_exporter import __version__, config
from asterisk_exporter.cli.common import config_option, log_level_option, log_to_stderr, stop
from asterisk_exporter.cli.terminal import json_text
from asterisk_exporter.journal.store import JournalStoreError
from asterisk_exporter.notifier import event
from asterisk_exporter.notifier.delivery import Notifier, Place, Writer
from asterisk_exporter.notifier.state import StateError, StateFile, first_state
from asterisk_exporter.notifier.webhook import Url, Webhook, WebhookError

#: How long the call that is under way may take when told to end.
ENDING_SECONDS = 2.0
#: More than a journal holds.
_ALL = 2**62

log = logging.getLogger("asterisk_exporter.notifier")


@click.command()
@config_option
@click.option("--once", is_flag=True, help="Deliver what is pending, and end.")
@click.option("--dry-run", is_flag=True, help="Print what is pending, send nothing.")
@click.option("--test", "test_event", is_flag=True, help="Send one made-up call, and end.")
@log_level_option
def notify(
    *, config_path: Path | None, once: bool, dry_run: bool, test_event: bool, log_level: str
) -> None:
    """Post each missed call to the configured webhook, until SIGTERM or SIGINT.

    Exits 0 when it was told to end or delivered everything, and 2 when it cannot start, or, with
    --once and --test, when the webhook did not take a call.
    """
    if once + dry_run + test_event > 1:
        raise click.UsageError("expected one of --once, --dry-run and --test.")
    log_to_stderr(log_level)
    try:
        settings, path = config.load(config_path)
        section, secret = config.notifier(settings, path)
    except config.ConfigError as error:
        stop(error, 2)
    place = Place(settings.state_directory, settings.zone)
    writer = Writer(settings.system_name, secret, section.show_last_digits)
    file = StateFile(section.state_directory)
    try:
        if dry_run:
            _print_pending(place, writer, file)
            return
        webhook = _webhook(section)
        if test_event:
            _send_test(writer, webhook)
            return
        file.lock()
        try:
            notifier = Notifier(place, file, writer, webhook)
            if not once:
                _run_until_told(notifier, webhook)
            elif notifier.deliver(threading.Event()) is not None:
                sys.exit(2)
        finally:
            file.unlock()
    except (StateError, JournalStoreError, WebhookError) as error:
        stop(error, 2)


def _webhook(section: config.Notifier) -> Webhook:
    """Return the CRM's end. Raises WebhookError."""
    try:
        return Webhook(Url.parse(section.url), section.timeout_seconds, section.ca_file)
    except OSError as error:
        raise WebhookError(
            "tls",
            f"cannot use {section.ca_file} ({error.strerror or error}). Expected notifier.ca_file "
            "to be a file of PEM certificates that this user may read.",
        ) from None


def _print_pending(place: Place, writer: Writer, file: StateFile) -> None:
    _, calls = place.pending(file.load() or first_state(), _ALL)
    for _, call in calls:
        click.echo(json_text(writer.document(call)))


def _send_test(writer: Writer, webhook: Webhook) -> None:
    call = event.test_call(datetime.now(timezone.utc))
    document = event.event(call, writer.system_name, writer.show_last_digits, event.TEST)
    answer = writer.post(webhook, document)
    if not answer.taken:
        raise WebhookError("answer", f"{webhook.url} answered {answer}")
    click.echo(f"{webhook.url} answered {answer}")


def _run_until_told(notifier: Notifier, webhook: Webhook) -> None:
    told, stopping = threading.Event(), threading.Event()
    signals: list[str] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        signals.append(signal.Signals(number).name)
        told.set()

    def run() -> None:
        try:
            notifier.run(stopping)
        finally:
            told.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    thread = threading.Thread(target=run, name="notifier", daemon=True)
    thread.start()
    log.info("asterisk-exporter %s posts missed calls to %s", __version__, webhook.url)
    told.wait()
    if not signals:
        sys.exit(1)  # the thread has said why
    log.info("ending (%s)", signals[0])
    stopping.set()
    # what is not answered by then is sent again at the next start
    thread.join(ENDING_SECONDS)
