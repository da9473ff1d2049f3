"""One AMI connection: synchronous, used by one thread, a deadline on everything.

No reader thread: ``Events: off`` at login means that nothing arrives unasked (stray events are
skipped all the same); a connection for events names their classes instead, and only receives.
Actions are pipelined: all are sent at once, then the replies are read. While reading, blocks are
only cut apart; they are parsed when all have arrived, because Asterisk writes QueueStatus with the
queue's lock held and gives a slow reader 100 ms (``writetimeout``).
"""

from __future__ import annotations

import ipaddress
import itertools
import re
import secrets
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Union

from asterisk_exporter.ami.errors import (
    ActionFailedError,
    AmiError,
    ClosedBeforeBannerError,
    ConnectionFailedError,
    ConnectionLostError,
    ConnectTimeoutError,
    LoginRejectedError,
    NoAnswerError,
    NotAmiError,
    PermissionDeniedError,
    RefusedError,
    TlsError,
    UnknownActionError,
    UnreachableError,
    UnsafeActionError,
)
from asterisk_exporter.ami.protocol import (
    Message,
    Splitter,
    encode_action,
    parse_banner,
    parse_message,
)

#: All that this exporter ever asks. No AMI login is read-only (QueueReset needs no class, and
#: ``reporting`` may unregister trunks), so the client itself refuses anything else.
ALLOWED_ACTIONS = frozenset(
    {
        "ConfbridgeListRooms",
        "CoreSettings",
        "CoreShowChannels",
        "CoreStatus",
        "DeviceStateList",
        "ListCommands",
        "PJSIPShowRegistrationsOutbound",
        "QueueStatus",
    }
)
#: Lists whose module answers ``Response: Error`` when there is nothing to list.
ERROR_WHEN_EMPTY = frozenset({"ConfbridgeListRooms", "PJSIPShowRegistrationsOutbound"})

RECV_BYTES = 1 << 18
#: Asterisk sends each item of a list by itself. After so short a rest a read takes many at once:
#: 60 reads for 1.3 MB where there were 2,700, and a third less time for a busy machine's scrape.
REST_SECONDS = 0.002
_BANNER = "the banner (a TLS port, usually 5039, says nothing to a client without TLS)"
_LIST_MARK = re.compile(rb"\r\nEventList:[ \t]*((?i:start|complete))")


@dataclass(frozen=True)
class TlsSettings:
    """How to check the server: always, against ``ca_file`` or the system's authorities."""

    ca_file: str | None = None
    server_name: str | None = None


@dataclass(frozen=True)
class Target:
    """Where to connect and as whom. The secret is never shown."""

    host: str
    port: int
    username: str
    secret: str = field(repr=False)
    tls: TlsSettings | None = None

    def __str__(self) -> str:
        """Return ``host:port``."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


class Deadline:
    """A point in time that a whole operation must meet, on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def remaining(self) -> float:
        """Seconds left, at least 0."""
        return max(0.0, self._end - time.monotonic())


@dataclass(frozen=True)
class Action:
    """One action with its fields. ``needs``: the class of ``write`` that messages name."""

    name: str
    fields: tuple[tuple[str, str], ...] = ()
    needs: str = "reporting"

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The lines that are sent, but for the ActionID."""
        return (("Action", self.name), *self.fields)


@dataclass(frozen=True)
class Reply:
    """The outcome of one action: its response and list items, or the error that replaces them.

    ``seconds`` is the time from sending the batch to the end of this reply.
    """

    action: str
    response: Message | None = None
    items: tuple[Message, ...] = ()
    error: AmiError | None = None
    seconds: float = 0.0

    def events(self, name: str) -> list[Message]:
        """Return the list items of one kind. Raises the reply's error, if it has one."""
        self.raise_for_error()
        return [item for item in self.items if item.get("Event") == name]

    def events_by_name(self) -> Mapping[str, list[Message]]:
        """Return the list items by kind, none for a kind that is not there. Raises as events()."""
        self.raise_for_error()
        found: defaultdict[str, list[Message]] = defaultdict(list)
        for item in self.items:
            found[item.get("Event")].append(item)
        return found

    def message(self) -> Message:
        """Return the response itself. Raises the reply's error, if it has one."""
        self.raise_for_error()
        assert self.response is not None  # noqa: S101 - a reply has one or the other
        return self.response

    def raise_for_error(self) -> None:
        """Raise the error of this reply, if it has one."""
        if self.error is not None:
            raise self.error


@dataclass
class _Pending:
    action: str
    needs: str = "reporting"
    blocks: list[bytes] = field(default_factory=list)
    response: Message | None = None
    done_after: float | None = None


def outcome(
    action: str,
    response: Message,
    items: Sequence[Message],
    username: str,
    needs: str = "reporting",
) -> Reply:
    """Turn a complete answer into a Reply. An empty PJSIP or ConfBridge list is no error.

    Relied on: ``action_confbridgelistrooms`` ("No active conferences."),
    ``ami_outbound_registrations`` and ``process_message`` ("Permission denied") of Asterisk.
    """
    if response.get("Response").lower() != "error":
        return Reply(action, response, tuple(items))
    said = response.get("Message").strip()
    error: AmiError | None
    if said.lower() == "permission denied":
        error = PermissionDeniedError(action, username, needs)
    elif said.lower().startswith("invalid/unknown command"):
        error = UnknownActionError(action)
    elif action in ERROR_WHEN_EMPTY and said.lower().startswith("no "):
        error = None
    else:
        error = ActionFailedError(action, said)
    return Reply(action, response, (), error)


class AmiClient:
    """A logged-in connection. Make one with ``AmiClient.connect``."""

    def __init__(
        self, sock: socket.socket, target: Target, allowed: frozenset[str] = ALLOWED_ACTIONS
    ) -> None:
        self._sock = sock
        self._target = target
        self._allowed = allowed
        self._splitter = Splitter()
        # some events carry the ActionID of the action that caused them, to every connection
        name = secrets.token_hex(8)
        self._ids = (f"{name}-{n}" for n in itertools.count(1))
        self._denied: dict[str, AmiError] = {}
        self._unasked: list[bytes] = []
        self.ami_version = ""
        self.usable = True

    def __repr__(self) -> str:
        """Name the connection without its secret."""
        return f"<AmiClient {self._target} as {self._target.username}>"

    @classmethod
    def connect(
        cls,
        target: Target,
        deadline: Deadline,
        events: str = "off",
        allowed: frozenset[str] = ALLOWED_ACTIONS,
    ) -> AmiClient:
        """Connect, check the banner and log in. Raises an AmiError that says what failed.

        ``events``: the classes to receive, as ``strings_to_mask()`` of manager.c reads them:
        ``reporting,security``. The login's ``read`` must hold them too. ``allowed``: the names of
        all actions that this connection will send.
        """
        sock = _open(target, deadline)
        client = cls(sock, target, allowed)
        try:
            client._read_banner(deadline)
            client._login(deadline, events)
        except BaseException:
            client.close()
            raise
        return client

    def close(self) -> None:
        """Close the connection; Asterisk needs no Logoff."""
        self.usable = False
        self._sock.close()

    def request(self, actions: Sequence[str], deadline: Deadline) -> list[Reply]:
        """Send all actions at once and return one Reply each, in the same order.

        A reply that is missing at the deadline, or when the connection ends, carries that error,
        and the client is no longer usable; those that were complete before are returned as such.
        """
        for action in actions:
            self._check_allowed(action)
        pending: dict[str, _Pending] = {}
        for action in actions:
            if action not in self._denied:
                pending[next(self._ids)] = _Pending(action)
        failure = self._exchange(
            b"".join(
                encode_action((("Action", p.action), ("ActionID", i))) for i, p in pending.items()
            ),
            pending,
            deadline,
        )
        answered = {p.action: self._finish(p, failure) for p in pending.values()}
        return [answered.get(a) or Reply(a, error=self._denied[a]) for a in actions]

    def ask(self, action: Action, deadline: Deadline) -> Reply:
        """Send one action with fields and return its Reply, as ``request`` does.

        Events that arrive meanwhile are kept for ``receive``. Raises UnsafeActionError when the
        action is not one of this connection's, or a value could end its line; nothing is sent then.
        """
        self._check_allowed(action.name)
        action_id = next(self._ids)
        pending = _Pending(action.name, action.needs)
        data = encode_action((*action.headers, ("ActionID", action_id)))
        failure = self._exchange(data, {action_id: pending}, deadline, self._unasked)
        return self._finish(pending, failure)

    def _check_allowed(self, action: str) -> None:
        if action not in self._allowed:
            raise UnsafeActionError(f"{action!r} is not on this exporter's list of actions.")

    def receive(self, deadline: Deadline) -> list[bytes]:
        """Return the blocks of the events that arrive next, unparsed; none at the deadline.

        Raises an AmiError when the connection has ended or its bytes are no AMI.
        """
        if self._unasked:
            blocks, self._unasked = self._unasked, []
            return blocks
        try:
            return self._splitter.feed(self._recv(deadline, "the events"))
        except NoAnswerError:
            return []
        except AmiError:
            self.close()
            raise

    def forget_events(self) -> None:
        """Drop the events that are kept for ``receive``."""
        self._unasked.clear()

    def _finish(self, pending: _Pending, failure: AmiError | None) -> Reply:
        if pending.done_after is None or pending.response is None:
            return Reply(pending.action, error=failure)
        items = [parse_message(block) for block in pending.blocks]
        reply = outcome(
            pending.action, pending.response, items, self._target.username, pending.needs
        )
        if isinstance(reply.error, PermissionDeniedError):
            # a session keeps its classes until it ends: do not fill the security log
            self._denied[pending.action] = reply.error
        return Reply(reply.action, reply.response, reply.items, reply.error, pending.done_after)

    def _exchange(
        self,
        data: bytes,
        pending: dict[str, _Pending],
        deadline: Deadline,
        unasked: list[bytes] | None = None,
    ) -> AmiError | None:
        """Send, then read until every pending action is complete. Returns what stopped it.

        A block of nobody (a stray event, the late answer to an earlier batch) goes to ``unasked``.
        """
        if not pending:
            return None
        began = time.monotonic()
        open_ids = set(pending)
        try:
            self._send(data, deadline, "the actions")
            while open_ids:
                waiting_for = ", ".join(p.action for i, p in pending.items() if i in open_ids)
                for block in self._splitter.feed(self._recv(deadline, waiting_for)):
                    owner = _owner(block)
                    if owner not in open_ids:
                        if unasked is not None:
                            unasked.append(block)
                        continue
                    if _completes(block, pending[owner]):
                        open_ids.discard(owner)
                        pending[owner].done_after = time.monotonic() - began
                if open_ids:
                    time.sleep(REST_SECONDS)
        except AmiError as error:
            self.close()
            return error
        return None

    def _read_banner(self, deadline: Deadline) -> None:
        line = b""
        while b"\n" not in line and len(line) < 128:
            try:
                data = self._recv(deadline, _BANNER)
            except ConnectionLostError:
                if not line:
                    raise ClosedBeforeBannerError(str(self._target)) from None
                raise NotAmiError(str(self._target), line) from None
            line += data
        first, newline, rest = line.partition(b"\n")
        version = parse_banner(first.rstrip(b"\r")) if newline else None
        if version is None:
            raise NotAmiError(str(self._target), line)
        self.ami_version = version
        self._splitter.feed(rest)

    def _login(self, deadline: Deadline, events: str) -> None:
        action_id = next(self._ids)
        pending = _Pending("Login")
        try:
            login = encode_action(
                (
                    ("Action", "Login"),
                    ("ActionID", action_id),
                    ("Username", self._target.username),
                    ("Secret", self._target.secret),
                    ("Events", events),
                )
            )
        except UnsafeActionError as error:
            raise UnsafeActionError(f"cannot log in: {error}") from None
        failure = self._exchange(login, {action_id: pending}, deadline, self._unasked)
        if failure is not None:
            raise failure
        assert pending.response is not None  # noqa: S101 - complete without failure
        if pending.response.get("Response") != "Success":
            try:
                source: str | None = self._sock.getsockname()[0]
            except OSError:
                source = None
            raise LoginRejectedError(
                str(self._target),
                self._target.username,
                pending.response.get("Message"),
                source,
            )

    def _send(self, data: bytes, deadline: Deadline, what: str) -> None:
        self._sock.settimeout(max(deadline.remaining(), 0.001))
        try:
            self._sock.sendall(data)
        except socket.timeout:
            raise NoAnswerError(str(self._target), what, deadline.seconds) from None
        except OSError as error:
            raise ConnectionLostError(str(self._target), what, _reason(error)) from None

    def _recv(self, deadline: Deadline, what: str) -> bytes:
        remaining = deadline.remaining()
        if remaining <= 0:
            raise NoAnswerError(str(self._target), what, deadline.seconds)
        self._sock.settimeout(remaining)
        try:
            data = self._sock.recv(RECV_BYTES)
        except socket.timeout:
            raise NoAnswerError(str(self._target), what, deadline.seconds) from None
        except OSError as error:
            raise ConnectionLostError(str(self._target), what, _reason(error)) from None
        if not data:
            raise ConnectionLostError(str(self._target), what)
        return data


def _owner(block: bytes) -> str:
    """Return the ActionID of one block, or nothing."""
    start = block.find(b"\r\nActionID: ")
    if start < 0:
        return ""
    end = block.find(b"\r\n", start + 2)
    return block[start + 12 : end if end >= 0 else None].decode("ascii", "replace").strip()


def _completes(block: bytes, entry: _Pending) -> bool:
    """Put one block where it belongs, items of a list unparsed; say whether it is the last."""
    # one in a thousand blocks has the header, and bytes are found faster than expressions
    mark = _LIST_MARK.search(block) if b"\r\nEventList:" in block else None
    if block[:9].lower() == b"response:":
        entry.response = parse_message(block)
        return mark is None
    if mark and mark.group(1).lower() == b"complete":
        return True
    entry.blocks.append(block)
    return False


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


_Address = tuple[int, Union[tuple[str, int], tuple[str, int, int, int]]]


def _open(target: Target, deadline: Deadline) -> socket.socket:
    """Open the TCP connection, with TLS if asked for, to the first address that answers."""
    error: AmiError = UnreachableError(str(target), "the name has no address")
    for family, address in _resolve(target, deadline):
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.settimeout(max(deadline.remaining(), 0.001))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _notice_when_gone(sock)
            return _wrap(sock, target, deadline) if target.tls else sock
        except AmiError:
            sock.close()
            raise
        except socket.timeout:
            error = ConnectTimeoutError(str(target), deadline.seconds)
        except ConnectionRefusedError:
            error = RefusedError(str(target))
        except OSError as cause:
            error = UnreachableError(str(target), _reason(cause))
        sock.close()
    raise error


def _notice_when_gone(sock: socket.socket) -> None:
    """Have the kernel ask a silent peer: one that only sends events cannot be missed otherwise."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, name):  # not on every system under these names
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _resolve(target: Target, deadline: Deadline) -> list[_Address]:
    """Resolve the host. getaddrinfo has no timeout, so a name is looked up in a thread."""
    try:
        ip = ipaddress.ip_address(target.host)
    except ValueError:
        pass
    else:
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        return [(family, (target.host, target.port))]
    found: list[_Address] = []
    failed: list[str] = []

    def look_up() -> None:
        try:
            for family, _, _, _, address in socket.getaddrinfo(
                target.host, target.port, type=socket.SOCK_STREAM
            ):
                found.append((family, address))  # type: ignore[arg-type]
        except (OSError, UnicodeError) as error:
            failed.append(str(getattr(error, "strerror", None) or error))

    thread = threading.Thread(target=look_up, name="resolve", daemon=True)
    thread.start()
    thread.join(deadline.remaining())
    if failed:
        raise UnreachableError(str(target), f"the name does not resolve ({failed[0]})")
    if thread.is_alive():
        raise ConnectionFailedError(
            str(target), f"the name was not resolved within {deadline.seconds:.1f} s"
        )
    return found


def _wrap(sock: socket.socket, target: Target, deadline: Deadline) -> socket.socket:
    assert target.tls is not None  # noqa: S101 - the caller asked
    try:
        context = ssl.create_default_context(cafile=target.tls.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise TlsError(
            f"cannot use the CA file {target.tls.ca_file}: {_reason(error)}. Expected "
            "certificates in PEM form."
        ) from None
    sock.settimeout(max(deadline.remaining(), 0.001))
    try:
        return context.wrap_socket(sock, server_hostname=target.tls.server_name or target.host)
    except ssl.SSLCertVerificationError as error:
        raise TlsError(
            f"the certificate of {target} does not pass: {error.verify_message}. Look at the "
            "certificate (tlscertfile in manager.conf), at tls.ca_file and tls.server_name here."
        ) from None
    except socket.timeout:
        raise NoAnswerError(str(target), "the TLS handshake", deadline.seconds) from None
    except (ssl.SSLError, OSError) as error:
        raise TlsError(
            f"no TLS with {target}: {_reason(error)}. Expected AMI over TLS. Look at tlsenable, "
            "tlsbindaddr (default port 5039; 5038 is plain) and tlscertfile in manager.conf."
        ) from None
