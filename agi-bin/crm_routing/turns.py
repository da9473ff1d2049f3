"""Threads that work one at a time and wait all at once."""

from __future__ import annotations

import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable


class Turns:
    """A turn is a ``with``; whoever has it calls what may block through ``wait``.

    The interpreter's lock lets one thread run at a time as well. But each system call of the
    thread that has it lets go of it, a thread that wants it asks again and again, and eight calls
    at once spent two thirds of the processor time on handing it over. Threads that wait for their
    turn want nothing of it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        """Wait for a turn."""
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        """Let the next one work."""
        self._lock.release()

    def wait(self, function: Callable[..., Any], *args: object) -> Any:
        """Return what ``function`` does, and let others work meanwhile."""
        self._lock.release()
        try:
            return function(*args)
        finally:
            self._lock.acquire()
