"""A connection that is kept between scrapes, and reopened with patience.

No thread of its own: it connects when it is asked something. After a failure it waits (1 s,
growing to at most 5 s, with jitter) and meanwhile answers at once with the last error, so that
frequent scrapes never hammer an Asterisk that delays every refused login by a second.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Sequence
from typing import Callable

from asterisk_exporter.ami.client import ALLOWED_ACTIONS, AmiClient, Deadline, Reply, Target
from asterisk_exporter.ami.errors import AmiError, ConnectionLostError

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 5.0
#: Asked once per connection, since they cannot change while it lasts; but again and again while
#: an action is missing, for Asterisk takes logins before it has loaded its modules (run on 22.10).
GREETING = ("CoreSettings", "ListCommands")

log = logging.getLogger(__name__)


def wait_seconds(failures: int, jitter: float) -> float:
    """Return how long to wait after so many failures before this one; ``jitter`` is 0 to 1."""
    wait = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**failures)
    # jitter shortens, so that the longest wait stays the longest
    return wait * (0.75 + 0.25 * jitter)


class AmiSession:
    """Keeps one AmiClient. Not thread-safe: the scraper asks from one thread at a time."""

    def __init__(
        self,
        target: Target,
        connect: Callable[[Target, Deadline], AmiClient] = AmiClient.connect,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._target = target
        self._connect = connect
        self._clock = clock
        self._jitter = jitter
        self._client: AmiClient | None = None
        self._greeting: list[Reply] = []
        self._failures = 0
        self._not_before = 0.0
        self._last_error: AmiError | None = None
        self._was_connected = False
        self.reconnects = 0

    def ask(self, actions: Sequence[str], deadline: Deadline) -> dict[str, Reply]:
        """Ask all actions and the greeting's; returns the replies by action.

        Raises the AmiError that kept it from connecting, or the last one while it waits.
        """
        kept, client = self._client is not None, self._client or self._open(deadline)
        replies = client.request(actions, deadline)
        if kept and _found_dead(replies):
            # Asterisk was restarted since the last scrape: that is no failure of this one
            log.info("the kept AMI connection had ended; reopening it")
            self._client = None
            client = self._open(deadline)
            replies = client.request(actions, deadline)
        if not client.usable:
            self._client = None
            self._wait_after(next(reply.error for reply in replies if reply.error))
        elif not _lists_all(self._greeting):
            self._greeting = client.request(GREETING, deadline)
            if not client.usable:
                self._client = None
        return {reply.action: reply for reply in (*self._greeting, *replies)}

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _open(self, deadline: Deadline) -> AmiClient:
        if self._last_error is not None and self._clock() < self._not_before:
            raise self._last_error
        try:
            client = self._connect(self._target, deadline)
            greeting = client.request(GREETING, deadline)
            if not client.usable:
                raise next(r.error for r in greeting if r.error)
        except AmiError as error:
            self._wait_after(error)
            raise
        if self._was_connected:
            self.reconnects += 1
        self._was_connected = True
        self._client, self._greeting = client, greeting
        self._failures, self._last_error = 0, None
        return client

    def _wait_after(self, error: AmiError) -> None:
        self._not_before = self._clock() + wait_seconds(self._failures, self._jitter())
        self._failures = min(self._failures + 1, 8)
        self._last_error = error


def _found_dead(replies: Sequence[Reply]) -> bool:
    """Whether the connection ended before anything was answered on it."""
    return all(isinstance(reply.error, ConnectionLostError) for reply in replies)


def _lists_all(greeting: Sequence[Reply]) -> bool:
    """Whether ListCommands named every action that we may ask."""
    commands = greeting[GREETING.index("ListCommands")].response
    return commands is not None and all(commands.get(action) for action in ALLOWED_ACTIONS)
