"""One POST to the CRM: a deadline on everything, TLS always verified, no redirects, no proxies."""

from __future__ import annotations

import http.client
import io
import ipaddress
import math
import re
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, cast
from urllib.parse import urlsplit

from asterisk_exporter import __version__
from asterisk_exporter.ami.client import Deadline
from asterisk_exporter.text import clean

#: Of an answer, so much is read at most, and so much is shown.
LONGEST_ANSWER = 65_536
SHOWN_ANSWER = 200
#: A part of a host name has so many characters at most.
LONGEST_LABEL = 63


class WebhookError(Exception):
    """No answer came: the text says why and what to look at. ``kind`` is the same for the same."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


@dataclass(frozen=True)
class Answer:
    """What the CRM said. ``retry_after`` is in seconds, None when it said nothing of that."""

    status: int
    reason: str = ""
    text: str = ""
    location: str = ""
    retry_after: float | None = None

    @property
    def taken(self) -> bool:
        """Whether the CRM has the call now."""
        return 200 <= self.status < 300

    def __str__(self) -> str:
        """Return it in one line."""
        said = f": {self.text}" if self.text else ""
        moved = f" to {self.location}" if self.location else ""
        return f"{self.status} {self.reason}".rstrip() + moved + said


@dataclass(frozen=True)
class Url:
    """Where the CRM listens. ``str()`` leaves out the query, which may hold a token."""

    secure: bool
    host: str
    port: int
    path: str
    target: str

    @classmethod
    def parse(cls, text: str) -> Url:
        """Return the parts of a URL. Raises ValueError, which says what is expected."""
        if not re.fullmatch(r"[!-~]+", text):
            raise ValueError("expected a URL in ASCII, without spaces")
        parts = urlsplit(text)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise ValueError("expected https:// and a host, such as https://crm.example.com/missed")
        if not all(0 < len(label) <= LONGEST_LABEL for label in _labels(parts.hostname)):
            raise ValueError(
                f"expected a host name whose parts between the dots have 1 to {LONGEST_LABEL} "
                "characters"
            )
        if parts.username is not None:
            raise ValueError("expected no user or password in the URL: the signature is the proof")
        if parts.fragment:
            raise ValueError("expected no # in the URL: what follows it is never sent")
        secure = parts.scheme == "https"
        if not secure and not _is_loopback(parts.hostname):
            raise ValueError(
                "expected https://, since callers' numbers must not travel in the clear; http:// "
                "is for 127.0.0.1, ::1 and localhost"
            )
        port = parts.port if parts.port is not None else (443 if secure else 80)
        path = parts.path or "/"
        target = f"{path}?{parts.query}" if parts.query else path
        return cls(secure, parts.hostname, port, path, target)

    @property
    def authority(self) -> str:
        """The header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.secure else 80) else f"{host}:{self.port}"

    def __str__(self) -> str:
        """Return it without the query."""
        return f"http{'s' if self.secure else ''}://{self.authority}{self.path}"


def _labels(host: str) -> list[str]:
    # an IPv6 address has none; a dot at the end is the root
    return [] if ":" in host else host[: -1 if host.endswith(".") else None].split(".")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Webhook:
    """The CRM's address, and the connection to it while there is something to send."""

    def __init__(self, url: Url, timeout_seconds: float, ca_file: str | None = None) -> None:
        """Prepare, without I/O. Raises OSError when ``ca_file`` cannot be used."""
        self.url = url
        self._timeout_seconds = timeout_seconds
        self._context: ssl.SSLContext | None = None
        if url.secure:
            self._context = ssl.create_default_context(cafile=ca_file)
            self._context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._socket: socket.socket | None = None

    def post(self, content: bytes, headers: Mapping[str, str]) -> Answer:
        """Send JSON and return the answer, all within the timeout. Raises WebhookError."""
        deadline = Deadline(self._timeout_seconds)
        try:
            if self._socket is None:
                self._socket = self._connect(deadline)
            _limit(self._socket, deadline)
            self._socket.sendall(self._head(content, headers) + content)
            return self._answer(self._socket, deadline)
        except (OSError, ValueError, http.client.HTTPException) as error:
            self.close()
            raise self._explained(error) from None

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, deadline: Deadline) -> socket.socket:
        found = socket.getaddrinfo(self.url.host, self.url.port, type=socket.SOCK_STREAM)
        for left, (family, kind, protocol, _, address) in zip(range(len(found), 0, -1), found):
            raw = socket.socket(family, kind, protocol)
            try:
                # an address that does not answer leaves time for the others
                raw.settimeout(_left(deadline) / left)
                raw.connect(address)
                _limit(raw, deadline)
                if self._context is None:
                    return raw
                return self._context.wrap_socket(raw, server_hostname=self.url.host)
            except OSError as error:
                raw.close()
                if left == 1 or isinstance(error, ssl.SSLError):
                    raise
        raise OSError("no address")

    def _head(self, content: bytes, headers: Mapping[str, str]) -> bytes:
        lines = {
            "Host": self.url.authority,
            "User-Agent": f"asterisk-exporter/{__version__}",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **headers,
        }
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST {self.url.target} HTTP/1.1\r\n{text}\r\n".encode("ascii")

    def _answer(self, connection: socket.socket, deadline: Deadline) -> Answer:
        response = http.client.HTTPResponse(
            cast(socket.socket, _Timed(connection, deadline)), method="POST"
        )
        response.begin()
        try:
            text = response.read(LONGEST_ANSWER)
            keep = response.isclosed() and not response.will_close
        except (OSError, ValueError, http.client.HTTPException):
            # what it decided is known: the status has come
            text, keep = b"", False
        if not keep:
            self.close()
        return Answer(
            status=response.status,
            reason=clean(response.reason),
            text=clean(" ".join(text.decode("utf-8", "replace").split()))[:SHOWN_ANSWER],
            location=clean(_without_query(response.getheader("Location", "")))[:SHOWN_ANSWER],
            retry_after=retry_after(response.getheader("Retry-After"), time.time()),
        )

    def _explained(self, error: Exception) -> WebhookError:
        url = self.url
        if isinstance(error, TimeoutError) or "timed out" in str(error):
            return WebhookError(
                "timeout", f"{url} did not answer within {self._timeout_seconds} s."
            )
        if isinstance(error, socket.gaierror):
            return WebhookError(
                "dns",
                f"the name {url.host} cannot be resolved ({error.strerror}). Look at the url.",
            )
        if isinstance(error, ssl.SSLError):
            why = getattr(error, "verify_message", "") or error.reason or str(error)
            return WebhookError(
                "tls", f"no TLS with {url}: {clean(why)}. Look at its certificate and at ca_file."
            )
        if isinstance(error, (http.client.HTTPException, ValueError)):
            why = clean(str(error).strip())[:SHOWN_ANSWER] or "it closed the connection"
            return WebhookError("http", f"{url} did not answer in HTTP: {why}.")
        why = getattr(error, "strerror", None) or str(error)
        return WebhookError("connection", f"no connection to {url}: {why}.")


class _Timed:
    """A socket as HTTPResponse reads it, with a deadline for all of the answer."""

    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection, self._deadline = connection, deadline

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Raw(self._connection, self._deadline))


class _Raw(io.RawIOBase):
    def __init__(self, connection: socket.socket, deadline: Deadline) -> None:
        self._connection, self._deadline = connection, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        _limit(self._connection, self._deadline)
        return self._connection.recv_into(buffer)


def _left(deadline: Deadline) -> float:
    left = deadline.remaining()
    if left <= 0:
        raise TimeoutError
    return left


def _limit(connection: socket.socket, deadline: Deadline) -> None:
    connection.settimeout(_left(deadline))


def _without_query(location: str) -> str:
    return location.partition("?")[0]


def retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, or None where it makes no sense."""
    if value is None:
        return None
    try:
        return max(0.0, float(int(value)))
    except (ValueError, OverflowError):
        pass
    try:
        seconds = parsedate_to_datetime(value).timestamp() - now
    # IndexError: Python 3.9, of a date that is cut short
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
