"""The circuit breaker: after failures in a row nobody waits for the CRM until it answers again.

No caller is the one to try it again: the server does that in a thread, the script in a process that
it leaves behind.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    #: (failures in a row, Unix time of the next try; 0 while closed)
    State = tuple[int, float]
    Change = Callable[[State], State]

CLOSED = (0, 0.0)
#: More than any state of a FileBreaker takes.
_LINE_BYTES = 40


class Breaker:
    """In memory, for the server; any thread may call it.

    ``failures`` in a row open it. While it is open, ``due`` is true once in ``retry_seconds``.
    """

    def __init__(
        self, failures: int, retry_seconds: float, clock: Callable[[], float] = time.time
    ) -> None:
        self._failures = failures
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._state: State = CLOSED

    @property
    def is_open(self) -> bool:
        """Whether nobody is to wait for the CRM."""
        return bool(self._read()[1])

    def due(self) -> bool:
        """Whether it is open and the CRM is to be tried now; whoever asked tries it."""
        if not self.is_open:
            return False
        now = self._clock()

        def claim(state: State) -> State:
            # a clock that was set back must not keep it open for ever
            waits = now < state[1] <= now + self._retry_seconds
            return state if waits or not state[1] else (state[0], now + self._retry_seconds)

        before, after = self._change(claim)
        return before != after

    def record(self, answered: bool) -> str:
        """Take note of a try; return ``opened`` or ``closed`` when that changed, else nothing."""
        if answered and self._read() == CLOSED:
            return ""
        again = self._clock() + self._retry_seconds

        def count(state: State) -> State:
            if answered:
                return CLOSED
            failures = state[0] + 1
            return (failures, again if failures >= self._failures else 0.0)

        before, after = self._change(count)
        if bool(before[1]) == bool(after[1]):
            return ""
        return "opened" if after[1] else "closed"

    def _read(self) -> State:
        return self._state

    def _change(self, change: Change) -> tuple[State, State]:
        # two threads at once lose one failure of many; the state is replaced whole
        before = self._state
        self._state = after = change(before)
        return before, after


class FileBreaker(Breaker):
    """In a file, for the script, which runs once a call. Without the file it is closed."""

    def __init__(
        self,
        path: str,
        failures: int,
        retry_seconds: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(failures, retry_seconds, clock)
        self._path = path

    def _read(self) -> State:
        try:
            with open(self._path, "rb") as file:  # noqa: PTH123 - once a call
                return _parsed(file.read(100))
        except OSError:
            return CLOSED

    def _change(self, change: Change) -> tuple[State, State]:
        import fcntl  # noqa: PLC0415 - only a CRM that fails needs it

        try:
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return CLOSED, CLOSED  # nowhere to keep it: each call tries the CRM
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            before = _parsed(os.read(handle, 100))
            after = change(before)
            # Always as long: who reads takes no lock, and finds neither nothing nor a mixture.
            line = (b"%d %.3f" % after).ljust(_LINE_BYTES - 1) + b"\n"
            os.pwrite(handle, line, 0)
            os.ftruncate(handle, len(line))
        finally:
            os.close(handle)
        return before, after


def _parsed(data: bytes) -> State:
    try:
        count, again = data.split()
        return (int(count), float(again))
    except ValueError:
        return CLOSED
