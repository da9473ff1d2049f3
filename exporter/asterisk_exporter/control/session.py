"""A logged-in connection that may change something, and waits until Asterisk says that it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Callable, TypeVar

from asterisk_exporter.ami.client import Action, AmiClient, Deadline, Reply, Target
from asterisk_exporter.ami.errors import AmiError
from asterisk_exporter.ami.protocol import Message, encode_action, parse_message
from asterisk_exporter.control.errors import NotConfirmedError, RefusedValueError, refused

T = TypeVar("T")

#: All that this login ever asks. Its classes hold more (Setvar, Atxfer, QueueReset): not sent.
CONTROL_ACTIONS = frozenset(
    {
        "Events",
        "Getvar",
        "Hangup",
        "Originate",
        "Park",
        "QueueAdd",
        "QueuePause",
        "QueueRemove",
        "QueueStatus",
        "Redirect",
        "Status",
    }
)
DEFAULT_TIMEOUT_SECONDS = 5.0
DEFAULT_CONTEXTS = ("internal",)


class WouldSend(Exception):  # noqa: N818 - no error: a dry run has come to its end
    """Raised in a dry run in place of sending ``action``."""

    def __init__(self, action: Action) -> None:
        super().__init__(action.name)
        self.action = action


class ControlSession:
    """Made by ``open``; used by one thread; closed by ``with`` or ``close``.

    ``timeout`` is in seconds and for each operation. ``contexts``: where calls may be sent, the
    first unless told otherwise. ``dry_run``: look everything up, and raise WouldSend before the
    first action that changes something.
    """

    def __init__(
        self, client: AmiClient, timeout: float, contexts: Sequence[str], dry_run: bool
    ) -> None:
        self._client = client
        self._dry_run = dry_run
        self.timeout = timeout
        self.contexts = tuple(contexts)

    @classmethod
    def open(
        cls,
        target: Target,
        *,
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        contexts: Sequence[str] = DEFAULT_CONTEXTS,
        dry_run: bool = False,
    ) -> ControlSession:
        """Connect and log in within ``timeout`` seconds. Raises AmiError."""
        if not contexts:
            raise RefusedValueError("contexts", "", "one context or more")
        client = AmiClient.connect(target, Deadline(timeout), allowed=CONTROL_ACTIONS)
        return cls(client, timeout, contexts, dry_run)

    def __enter__(self) -> ControlSession:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def deadline(self, more_seconds: float = 0.0) -> Deadline:
        """Return the deadline of an operation that begins now."""
        return Deadline(self.timeout + more_seconds)

    def look(self, action: Action, deadline: Deadline) -> Reply:
        """Ask what changes nothing. Raises the reply's AmiError."""
        reply = self._client.ask(action, deadline)
        reply.raise_for_error()
        return reply

    def change(self, action: Action, deadline: Deadline) -> Reply:
        """Ask for a change. Raises RefusedError, and NotConfirmedError when no answer comes.

        Before anything is sent: UnsafeActionError, and WouldSend in a dry run.
        """
        encode_action(action.headers)
        if self._dry_run:
            raise WouldSend(action)
        reply = self._client.ask(action, deadline)
        if reply.error is None:
            return reply
        if reply.error.ends_connection:
            raise NotConfirmedError(f"{action.name} was sent, but not answered: {reply.error}")
        raise refused(action.name, reply.error)

    @contextmanager
    def events(self, classes: str, deadline: Deadline) -> Iterator[None]:
        """Receive events of these classes inside: before and after, none can be in the way."""
        if self._dry_run:
            yield
            return
        self.look(Action("Events", (("EventMask", classes),)), deadline)
        try:
            yield
        finally:
            if self._client.usable:
                self._client.ask(Action("Events", (("EventMask", "off"),)), Deadline(1.0))
                self._client.forget_events()

    def wait_for(
        self, match: Callable[[Message], T | None], deadline: Deadline, expected: str
    ) -> T:
        """Return the first answer of ``match`` to an event. ``match`` may raise a ControlError.

        Raises NotConfirmedError, which says what came instead.
        """
        seen: Counter[str] = Counter()
        while deadline.remaining() > 0:
            try:
                blocks = self._client.receive(deadline)
            except AmiError as error:
                raise NotConfirmedError(f"{expected} has not come: {error}") from None
            for block in blocks:
                message = parse_message(block)
                found = match(message)
                if found is not None:
                    return found
                seen[message.get("Event")] += 1
        came = ", ".join(f"{n} {name}" for name, n in sorted(seen.items())) or "no events"
        raise NotConfirmedError(
            f"not within {deadline.seconds:.1f} s: {expected}. Asterisk took the action; since "
            f"then came: {came}. Look at what became of it (asterisk-ctl call list), and whether "
            "the login has read = call,dialplan."
        )
