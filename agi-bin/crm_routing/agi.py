"""AGI, spoken by pyst2's ``asterisk.agi`` with everything that touches the wire made safe.

pyst2 0.5.1 quotes nothing, so that a line feed in a value is a second command; it reads for ever at
the end of a stream, dies on bytes that are not UTF-8, logs each line to standard error, and takes
SIGHUP, which only a main thread may. What Asterisk accepts: agi_handle_command() and parse_args()
in res/res_agi.c.
"""

from __future__ import annotations

import re

from asterisk.agi import (
    AGI,
    AGIAppError,
    AGIError,
    AGIHangup,
    AGIInvalidCommand,
    AGIResultHangup,
    AGIUnknownError,
    AGIUsageError,
)

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes 4 ms, and the script starts once a call
    from typing import Callable

__all__ = ["AGIError", "AGIHangup", "Lines", "SafeAgi"]

#: A 2,000-character caller id is in five lines of what Asterisk says first.
MOST_LINES = 200
MOST_BYTES = 64 << 10
#: res_agi.c reads a command into AGI_BUF_LEN, 2048.
MOST_COMMAND_BYTES = 2000
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RESULT = re.compile(r"result=(\S*)\s*(?:\((.*)\))?")


class Lines:
    """Lines of a stream, from a function that returns some of its bytes, and none at its end."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._buffer = b""

    def readline(self) -> str:
        """Return the next line without its end. Raises AGIHangup at the end of the stream."""
        while True:
            line, end, rest = self._buffer.partition(b"\n")
            if end:
                self._buffer = rest
                return line.rstrip(b"\r").decode("utf-8", "replace")
            if len(self._buffer) > MOST_BYTES:
                raise AGIUnknownError("a line of Asterisk's does not end")
            try:
                data = self._read(MOST_BYTES)
            except OSError as error:
                raise AGIHangup(f"Asterisk went away: {error}") from None
            if not data:
                raise AGIHangup("Asterisk went away")
            self._buffer += data


class SafeAgi(AGI):
    """One call. ``env`` has what Asterisk said first.

    ``write`` takes the bytes of a command. Raises AGIHangup where the call has ended.
    """

    def __init__(self, lines: Lines, write: Callable[[bytes], object]) -> None:
        # not super().__init__(): it takes SIGHUP and reads for ever
        self._lines = lines
        self._write = write
        self._got_sighup = False
        self.env: dict[str, str] = {}
        self._get_agi_env()

    def _get_agi_env(self) -> None:
        size = 0
        for _ in range(MOST_LINES):
            line = self._lines.readline()
            size += len(line)
            if size > MOST_BYTES:
                break
            if not line:
                return
            key, _, value = line.partition(":")
            # The first one counts: a line feed in the caller's name makes lines of the caller's
            # own, or ends them all, and whatever is used here comes before it.
            self.env.setdefault(key.strip(), value.strip())
        raise AGIUnknownError("what Asterisk says first does not end")

    def _quote(self, string: object) -> str:
        """Return one argument as Asterisk's parser reads it back. Raises ValueError."""
        text = str(string)
        if _CONTROL.search(text):
            raise ValueError("a value with a control character cannot be said in AGI")
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    def send_command(self, command: str, *args: object) -> None:
        """Send one command, which is one line. Raises ValueError where it would be more."""
        line = " ".join((command, *map(str, args))).encode("utf-8", "replace")
        if b"\n" in line or b"\r" in line or b"\0" in line or len(line) > MOST_COMMAND_BYTES:
            raise ValueError("not one AGI command")
        try:
            self._write(line + b"\n")
        except OSError as error:
            raise AGIHangup(f"Asterisk went away: {error}") from None

    def get_result(self, stdin: object = None) -> dict[str, tuple[str, str]]:  # noqa: ARG002
        """Return the result of the last command, as pyst2 does. Raises AGIError."""
        line = self._lines.readline()
        if line.startswith("HANGUP"):
            raise AGIHangup("the caller hung up")
        code, rest = line[:3], line[4:]
        if code == "200":
            found = _RESULT.search(rest)
            if not found:
                raise AGIUnknownError(200, "no result")
            value, data = found[1], found[2] or ""
            if data == "hangup":
                raise AGIResultHangup("the caller hung up")
            if value == "-1":
                raise AGIAppError("the command failed, or the caller hung up")
            return {"result": (value, data)}
        if code == "511":
            raise AGIHangup("the channel is dead")
        if code == "510":
            raise AGIInvalidCommand("Asterisk does not know the command")
        if code == "520":
            if line[3:4] == "-":
                self._skip_usage()
            raise AGIUsageError("Asterisk does not take the command so")
        raise AGIUnknownError("not an answer of AGI")

    def _skip_usage(self) -> None:
        for _ in range(MOST_LINES):
            if self._lines.readline().startswith("520"):
                return
        raise AGIUnknownError("a usage text does not end")
