"""AMI on the wire: bytes to messages and actions to bytes. Pure, no I/O.

Relied on: Asterisk's ``main/manager.c``. A message is lines ``Key: value`` ended by CRLF, and
an empty line ends the message. Values may hold any bytes of any encoding, sometimes a stray LF;
they are decoded as UTF-8 with ``surrogateescape``, so that nothing is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from asterisk_exporter.ami.errors import MalformedStreamError, UnsafeActionError

END = b"\r\n\r\n"
#: ``get_input()`` of manager.c drops a line that does not fit its buffer of 1025 bytes.
MAX_LINE_BYTES = 1024
#: ``AST_MAX_MANHEADERS``: later headers are silently ignored by Asterisk.
MAX_HEADERS = 128
#: No message of Asterisk comes near; a peer that sends more without an end is no Asterisk.
MAX_MESSAGE_BYTES = 1 << 20

_FORBIDDEN = re.compile("[\r\n\0]")
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_()-]*")
_BANNER = re.compile(rb"Asterisk Call Manager/(\S+)\s*")


class Message:
    """One message. Look values up by name; Asterisk's own spelling is the fastest.

    Made for long streams of which few fields are read: it keeps the text alone and searches it.
    A dict of all headers takes as long to build as ten searches, and ten times the memory.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        # with a line end on both sides, every header is found in the same way
        self._text = f"\r\n{text}\r\n"

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Message:
        """Return the message that has these headers."""
        return cls("\r\n".join(f"{key}: {value}" for key, value in pairs))

    def __repr__(self) -> str:
        """Name the message only: values can be secrets (AuthDetail carries trunk passwords)."""
        kind, name = (self.headers or (("empty", ""),))[0]
        return f"<Message {kind}: {name}, {len(self.headers)} headers>"

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """All headers in order, repeated ones too."""
        parts = [line.partition(":") for line in self._text.split("\r\n") if line]
        return tuple([(key, value.strip()) for key, _, value in parts])

    def get(self, name: str, default: str = "") -> str:
        """Return the first value of header ``name`` in any case, or ``default``."""
        text, line_start = self._text, f"\r\n{name}:"
        start = text.find(line_start)
        if start < 0:
            return next(iter(self.all(name)), default)
        start += len(line_start)
        return text[start : text.find("\r\n", start)].strip()

    def all(self, name: str) -> tuple[str, ...]:
        """Return every value of a header that may be repeated (``Variable``, ``Output``)."""
        wanted = name.lower()
        return tuple(value for key, value in self.headers if key.lower() == wanted)


def parse_message(block: bytes) -> Message:
    """Parse one message, given without its closing empty line."""
    return Message(block.decode("utf-8", "surrogateescape"))


class Splitter:
    """Cuts a stream, fed in pieces of any size, into the blocks of single messages."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the blocks that ``data`` completes.

        Raises MalformedStreamError when no message ends within MAX_MESSAGE_BYTES.
        """
        blocks = (self._rest + data).split(END)
        self._rest = blocks.pop()
        if len(self._rest) > MAX_MESSAGE_BYTES:
            raise MalformedStreamError(
                f"more than {MAX_MESSAGE_BYTES} bytes arrived without the end of a message. "
                "Expected AMI. Look at what listens on that port."
            )
        # a stray newline in a text leaves an empty line before the next message
        return [block for block in (b.strip(b"\r\n") for b in blocks) if block]


def parse_banner(line: bytes) -> str | None:
    """Return the AMI version of a banner line such as ``Asterisk Call Manager/11.0.0``."""
    found = _BANNER.fullmatch(line)
    return found.group(1).decode("ascii", "replace") if found else None


def encode_action(headers: Iterable[tuple[str, str]]) -> bytes:
    r"""Return the bytes of one action.

    Raises UnsafeActionError, without naming the value, when a key or value could end its line
    (CR, LF, NUL), when a line has 1024 bytes or more, or with more than 128 headers: Asterisk
    would read a second action or drop what does not fit.
    """
    lines: list[bytes] = []
    for key, value in headers:
        if not _KEY.fullmatch(key):
            raise UnsafeActionError(f"{key!r} cannot be an AMI header name. Expected letters.")
        if _FORBIDDEN.search(value):
            raise UnsafeActionError(f"the value of {key} contains CR, LF or NUL: not sent to AMI.")
        try:
            line = f"{key}: {value}\r\n".encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise UnsafeActionError(f"the value of {key} is not text: not sent to AMI.") from None
        if len(line) >= MAX_LINE_BYTES:
            raise UnsafeActionError(
                f"the line of {key} has {len(line)} bytes; AMI takes at most {MAX_LINE_BYTES - 1}."
            )
        lines.append(line)
    if not lines or len(lines) > MAX_HEADERS:
        raise UnsafeActionError(f"an action has 1 to {MAX_HEADERS} headers, not {len(lines)}.")
    return b"".join(lines) + b"\r\n"
