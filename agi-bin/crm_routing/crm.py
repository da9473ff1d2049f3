"""The CRM over HTTP/1.1, with a deadline that holds whatever the CRM does.

This is a client of our own for one kind of request, for two reasons. Importing http.client takes
26 ms of processor time (email, ssl), as much as all else that the script does for a call. And a
timeout of a socket is one of each recv(): to a server that sends a byte a second, no library that
sets it once is ever late. Here each recv() has what is left of the whole.
"""

from __future__ import annotations

import re
import socket
import time
from collections import deque

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes 4 ms, and the script starts once a call
    from typing import Any, Callable

    #: Calls a function that may block with its arguments, and returns what that returns.
    Wait = Callable[..., Any]

MOST_BYTES = 64 << 10
MOST_HEAD_BYTES = 16 << 10
#: Connections that are kept while no call needs them, and for how long.
MOST_KEPT = 64
KEEP_SECONDS = 30.0
RESOLVED_SECONDS = 60.0

_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: .*)?")
_CHUNK = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;.*)?")
_ADDRESS = re.compile(
    r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?((?:/[!-~]*)?)"
)


class CrmError(Exception):
    """The CRM gave no answer that could be looked at; the text says why, without the token."""


class CrmTimeoutError(CrmError):
    """The deadline passed."""


class _StaleError(Exception):
    """A kept connection was closed by the CRM before this request."""


def without_others(function: Callable[..., Any], *args: object) -> Any:
    """Return what ``function`` does: the ``Wait`` of a process that does one thing at a time."""
    return function(*args)


def _left(deadline: float) -> float:
    """Return the seconds up to a monotonic time. Raises socket.timeout."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise socket.timeout("deadline")
    return seconds


class _Connection:
    """One connection to the CRM, for one request after the other."""

    def __init__(self, sock: socket.socket, wait: Wait) -> None:
        self.used = 0.0
        self._sock = sock
        self._wait = wait
        self._data = b""
        self._deadline = 0.0

    def close(self) -> None:
        self._sock.close()

    def get(self, request: bytes, deadline: float) -> tuple[int, bytes, bool]:
        """Return status, body, and whether the connection can be kept.

        Raises CrmError, OSError, and _StaleError where nothing of an answer came.
        """
        self._deadline = deadline
        try:
            self._sock.settimeout(_left(deadline))
            self._sock.sendall(request)
            self._more()
        except socket.timeout:
            raise
        except OSError as error:
            raise _StaleError(error) from None
        if not self._data:
            raise _StaleError("the CRM closed the connection without an answer")
        while True:
            minor, status, headers = self._head()
            if status >= 200:
                break
        body, framed = self._body(status, headers)
        option = headers.get(b"connection", b"").lower()
        keep = framed and (option == b"keep-alive" if minor == b"0" else option != b"close")
        return status, body, keep and not self._data

    def _more(self) -> bool:
        self._sock.settimeout(_left(self._deadline))
        data: bytes = self._wait(self._sock.recv, MOST_BYTES)
        self._data += data
        return bool(data)

    def _upto(self, end: bytes, most: int) -> bytes:
        """Return what there is before ``end``, and take both away."""
        while end not in self._data:
            if len(self._data) > most:
                raise CrmError("an answer that is not HTTP, or has too long a head")
            if not self._more():
                raise CrmError("an answer that ends too early")
        found, _, self._data = self._data.partition(end)
        if len(found) > most:
            raise CrmError("an answer that is not HTTP, or has too long a head")
        return found

    def _head(self) -> tuple[bytes, int, dict[bytes, bytes]]:
        first, *lines = self._upto(b"\r\n\r\n", MOST_HEAD_BYTES).split(b"\r\n")
        found = _STATUS.fullmatch(first)
        if not found:
            raise CrmError("an answer that is not HTTP")
        headers: dict[bytes, bytes] = {}
        for line in lines:
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip()
            if headers.setdefault(name, value) != value and name == b"content-length":
                raise CrmError("an answer with two lengths")
        return found[1], int(found[2]), headers

    def _body(self, status: int, headers: dict[bytes, bytes]) -> tuple[bytes, bool]:
        """Return the body, and whether its end was told by anything but the connection's."""
        if status in (204, 304):
            return b"", True
        coding = headers.get(b"transfer-encoding", b"").lower()
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise CrmError("an answer that is compressed, which was not asked for")
        if coding == b"chunked":
            return self._chunks(), True
        if coding:
            raise CrmError("an answer in a transfer coding that was not asked for")
        length = headers.get(b"content-length")
        if length is None:
            while self._more():
                self._check_size(len(self._data))
            found, self._data = self._data, b""
            return found, False
        if not length.isdigit() or len(length) > 15:
            raise CrmError("an answer without a proper length")
        return self._exactly(int(length)), True

    def _exactly(self, length: int) -> bytes:
        self._check_size(length)
        while len(self._data) < length:
            if not self._more():
                raise CrmError("an answer that ends too early")
        found, self._data = self._data[:length], self._data[length:]
        return found

    def _chunks(self) -> bytes:
        body = b""
        while True:
            found = _CHUNK.fullmatch(self._upto(b"\r\n", 1000))
            if not found:
                raise CrmError("an answer whose chunks are none")
            length = int(found[1], 16)
            self._check_size(len(body) + length)
            if not length:
                break
            body += self._exactly(length)
            if self._exactly(2) != b"\r\n":
                raise CrmError("an answer whose chunks are none")
        for _ in range(100):  # trailers
            if not self._upto(b"\r\n", 1000):
                return body
        raise CrmError("an answer with too many trailers")

    def _check_size(self, length: int) -> None:
        if length > MOST_BYTES:
            raise CrmError(f"an answer of more than {MOST_BYTES >> 10} KiB")


class Client:
    """GET below a base address, with the token; connections are kept. Any thread may call it.

    ``wait`` calls whatever waits for the CRM. Raises CrmError where the address is none.
    """

    def __init__(
        self, url: str, token: str, ca_file: str | None = None, wait: Wait = without_others
    ) -> None:
        found = _ADDRESS.fullmatch(url)
        if not found:
            raise CrmError(f"{url!r} is no address such as https://crm.example.com/telephony")
        scheme, host, port, path = found.groups()
        self._host = host.strip("[]")
        self._port = int(port or {"http": 80, "https": 443}[scheme])
        self._path = path.rstrip("/")
        self._token = token.encode()
        self._wait = wait
        self._tail = (
            f" HTTP/1.1\r\nHost: {host}{':' + port if port else ''}\r\n"
            f"Authorization: Token {token}\r\nAccept: application/json, text/plain\r\n"
            "User-Agent: asterisk-appliance\r\n\r\n"
        ).encode()
        self._kept: deque[_Connection] = deque()
        self._resolved: tuple[float, list[Any]] = (0.0, [])
        self._tls = _tls_context(ca_file) if scheme == "https" else None

    def get(self, path: str, deadline: float) -> bytes | None:
        """Return the body of a 200, or None for 204 and 404. Raises CrmError.

        ``path`` has been quoted; ``deadline`` is of time.monotonic(). A CRM that says our token
        back does not get it into a log.
        """
        request = b"GET " + (self._path + path).encode() + self._tail
        try:
            status, body = self._exchange(request, deadline)
        except socket.timeout:
            raise CrmTimeoutError("no answer in time") from None
        except (OSError, _StaleError) as error:
            raise CrmError(f"{type(error).__name__.strip('_')}: {error}"[:200]) from None
        if status in (204, 404):
            return None
        if status != 200:
            raise CrmError(_refusal(status))
        return body.replace(self._token, b"***")

    def _exchange(self, request: bytes, deadline: float) -> tuple[int, bytes]:
        while True:
            connection = self._take()
            fresh = connection is None
            if connection is None:
                connection = self._connect(deadline)
            keep = False
            try:
                status, body, keep = connection.get(request, deadline)
            except _StaleError:
                # one that was kept may have been closed by the CRM meanwhile
                if fresh:
                    raise
                continue
            else:
                return status, body
            finally:
                if keep and len(self._kept) < MOST_KEPT:
                    connection.used = time.monotonic()
                    self._kept.append(connection)
                else:
                    connection.close()

    def _take(self) -> _Connection | None:
        """Return the connection that was used last, if it can be used."""
        while True:
            try:
                connection = self._kept.pop()
            except IndexError:
                return None
            if time.monotonic() - connection.used < KEEP_SECONDS:
                return connection
            connection.close()

    def _connect(self, deadline: float) -> _Connection:
        error = OSError("no address")
        for family, kind, protocol, _, address in self._addresses(deadline):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(_left(deadline))
                self._wait(sock.connect, address)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is not None:
                    sock = self._tls.wrap_socket(
                        sock, server_hostname=self._host, do_handshake_on_connect=False
                    )
                    sock.settimeout(_left(deadline))
                    self._wait(sock.do_handshake)
            except OSError as failed:
                sock.close()
                if isinstance(failed, socket.timeout):
                    raise
                error = failed
            else:
                return _Connection(sock, self._wait)
        raise error

    def _addresses(self, deadline: float) -> list[Any]:
        """Return what getaddrinfo() does, and wait for it up to the deadline. Raises OSError."""
        until, found = self._resolved
        if time.monotonic() < until:
            return found
        # as bytes, for which Python does not import its IDNA tables
        where = (self._host.encode(), self._port, 0, socket.SOCK_STREAM, 0)
        try:
            found = socket.getaddrinfo(*where, socket.AI_NUMERICHOST)
        except socket.gaierror:
            found = self._wait(_resolve, where, deadline)
        self._resolved = (time.monotonic() + RESOLVED_SECONDS, found)
        return found


def _resolve(where: tuple[Any, ...], deadline: float) -> list[Any]:
    # nothing ends getaddrinfo(): it is waited for in a thread, and left there
    import threading  # noqa: PLC0415 - the script needs it only for a name

    answer: list[Any] = []

    def ask() -> None:
        try:
            answer.append(socket.getaddrinfo(*where))
        except OSError as error:
            answer.append(error)

    thread = threading.Thread(target=ask, name="resolve", daemon=True)
    thread.start()
    thread.join(_left(deadline))
    if not answer:
        raise socket.timeout("name server")
    if isinstance(answer[0], OSError):
        raise answer[0]
    return list(answer[0])


def _tls_context(ca_file: str | None) -> Any:
    import ssl  # noqa: PLC0415 - a CRM without TLS needs none

    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise CrmError(f"cannot use the certificates in {ca_file}: {error}") from None


def _refusal(status: int) -> str:
    if status in (401, 403):
        return f"the CRM refuses the token ({status})"
    if 300 <= status < 400:
        return f"a redirect ({status}), which is not followed"
    return f"status {status}"
