"""What other programs, such as a CRM, may rely on. See docs/python-api.md.

Nothing here keeps a connection or a thread, but for ControlSession until it is closed; each call
asks anew and raises what went wrong.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path

from asterisk_exporter import health, missed, summary
from asterisk_exporter.ami.client import AmiClient, Deadline, Target, TlsSettings
from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.collectors.queues import queues as queues_in
from asterisk_exporter.control.channels import Channel, list_channels
from asterisk_exporter.control.errors import ControlError
from asterisk_exporter.control.hangup import HungUp, hang_up
from asterisk_exporter.control.originate import Originated, originate
from asterisk_exporter.control.park import Parked, park
from asterisk_exporter.control.queue_members import (
    QueueMember,
    add_member,
    list_members,
    pause_member,
    remove_member,
    unpause_member,
)
from asterisk_exporter.control.session import ControlSession
from asterisk_exporter.control.transfer import Transferred, transfer
from asterisk_exporter.foreign_cdr import ImportFailedError
from asterisk_exporter.health import Health, Status, Thresholds
from asterisk_exporter.importer import import_csv, import_database
from asterisk_exporter.journal.cdr import Place, newest_record_age
from asterisk_exporter.journal.cdr_postgresql import Database
from asterisk_exporter.journal.runner import SourceError
from asterisk_exporter.journal.store import JournalStoreError, read_only
from asterisk_exporter.missed import MissedCall
from asterisk_exporter.quality import Quality, call_quality
from asterisk_exporter.summary import QueueSummary, Today, UnknownQueueError

__all__ = [
    "AmiClient",
    "AmiError",
    "Channel",
    "ControlError",
    "ControlSession",
    "Database",
    "Deadline",
    "Health",
    "HungUp",
    "ImportFailedError",
    "JournalStoreError",
    "MissedCall",
    "Originated",
    "Parked",
    "Quality",
    "QueueMember",
    "QueueSummary",
    "SourceError",
    "Status",
    "Target",
    "Thresholds",
    "TlsSettings",
    "Today",
    "Transferred",
    "UnknownQueueError",
    "add_member",
    "ask_health",
    "call_quality",
    "hang_up",
    "health_report",
    "import_csv",
    "import_database",
    "list_channels",
    "list_members",
    "missed_calls",
    "originate",
    "park",
    "pause_member",
    "queue_summary",
    "remove_member",
    "transfer",
    "unpause_member",
]

DEFAULT_TIMEOUT_SECONDS = 5.0


def health_report(
    target: Target,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    thresholds: Thresholds | None = None,
    database: Place | None = None,
    system_name: str = "",
) -> Health:
    """Ask Asterisk how it is, within ``timeout`` seconds for all of it.

    Never raises for what is wrong with the PBX: a connection that fails is CRITICAL, with the
    reason in ``problems``. ``database``: look at the age of ``system_name``'s newest record too.
    """
    return ask_health(target, timeout, thresholds, database, system_name)[0]


def ask_health(
    target: Target,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    thresholds: Thresholds | None = None,
    database: Place | None = None,
    system_name: str = "",
) -> tuple[Health, AmiError | None]:
    """Like health_report, with the error if the connection to AMI failed or ended."""
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
    cdr = None if database is None else _cdr(database, system_name, deadline)
    return health.assess(replies, time.time(), thresholds or Thresholds(), cdr), ended


def _cdr(database: Place, system_name: str, deadline: Deadline) -> health.Cdr:
    try:
        age = newest_record_age(database, system_name, deadline.remaining())
    except (SourceError, TimeoutError) as error:
        return health.Cdr(error=f"{database}: {error}")
    return health.Cdr(age_seconds=age)


def queue_summary(
    target: Target,
    state_directory: Path | None = None,
    *,
    queue: str | None = None,
    timeout: float = DEFAULT_TIMEOUT_SECONDS,
    zone: tzinfo | None = None,
) -> list[QueueSummary]:
    """Return the queues as they are now, by name; ``queue`` picks one.

    ``today`` is None without ``state_directory``; with it, it holds the figures since midnight in
    ``zone``, which is the PBX's (None: this system's). ``timeout`` is in seconds. Raises AmiError,
    UnknownQueueError, and JournalStoreError when the state cannot be read.
    """
    deadline = Deadline(timeout)
    client = AmiClient.connect(target, deadline)
    try:
        [reply] = client.request(("QueueStatus",), deadline)
    finally:
        client.close()
    now = time.time()
    found = summary.choose(queues_in(reply, now), queue)
    today: Mapping[str, Today] | None = None
    if state_directory is not None:
        today = summary.read_today(state_directory, missed.local(now, zone).date())
    return summary.join(found, today)


def missed_calls(
    state_directory: Path,
    since: datetime | timedelta,
    *,
    outstanding: bool = False,
    zone: tzinfo | None = None,
) -> list[MissedCall]:
    """Return the missed calls that began at ``since`` or later, newest last.

    ``since`` is an aware time, or how far to look back from now. ``outstanding``: only those whose
    caller has a number and with whom nobody has spoken since. Times are in ``zone`` (None: this
    system's). Raises JournalStoreError when the state cannot be read, and ValueError for a time
    without a zone.
    """
    if isinstance(since, timedelta):
        since = datetime.now(timezone.utc) - since
    elif since.tzinfo is None:
        raise ValueError(
            f"since {since}: expected a time with a zone, such as datetime.now(timezone.utc), or "
            "a timedelta"
        )
    with read_only(state_directory) as db:
        calls = missed.missed_calls(db, since, zone)
    return [call for call in calls if call.outstanding or not outstanding]
