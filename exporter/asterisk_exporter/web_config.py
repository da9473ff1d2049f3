"""The web configuration: TLS and passwords of ``/metrics`` and the pages.

The file is the one that Prometheus' own exporters take (docs/web-configuration.md of its
exporter-toolkit). What the models here have is what is understood, with the meaning that it has
there; everything else is refused by name.

No ``from __future__ import annotations`` here: pydantic reads the annotations at run time, on
Python 3.9 too.
"""

import base64
import binascii
import hmac
import logging
import secrets
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Callable, Literal, Optional

from pydantic import Field, field_validator, model_validator

from asterisk_exporter.config import ConfigError, Section, parse_sections, read_text

#: Longer passwords are cut there by bcrypt itself, wherever they are hashed.
BCRYPT_BYTES = 72
#: After a wrong password nobody's is checked for so many times as long as that took.
PAUSE_FACTOR = 4

_VERSIONS = {"TLS12": ssl.TLSVersion.TLSv1_2, "TLS13": ssl.TLSVersion.TLSv1_3}
_CLIENTS = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}

Version = Literal["TLS12", "TLS13"]
Username = Annotated[str, Field(pattern=r"^[^:\x00-\x1f]+$")]
BcryptHash = Annotated[
    str, Field(pattern=r"^\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{53}$")
]
HeaderName = Literal[
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
]
HeaderValue = Annotated[str, Field(pattern=r"^[ -~]*$")]

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

log = logging.getLogger(__name__)


class TlsServer(Section):
    """Certificate and key, PEM files beside the configuration, and who may connect."""

    cert_file: str = Field(min_length=1)
    key_file: str = Field(min_length=1)
    client_auth_type: Literal[
        "NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"
    ] = "NoClientCert"
    client_ca_file: Optional[str] = Field(default=None, min_length=1)
    min_version: Version = "TLS12"
    max_version: Version = "TLS13"

    @model_validator(mode="after")
    def _fits(self) -> "TlsServer":
        if (self.client_auth_type == "NoClientCert") != (self.client_ca_file is None):
            raise ValueError(
                "expected client_ca_file with VerifyClientCertIfGiven or "
                "RequireAndVerifyClientCert, and without it neither"
            )
        if self.min_version > self.max_version:
            raise ValueError("expected a min_version that is not above max_version")
        return self


class HttpServer(Section):
    """Headers that are added to answers which do not have them. There is no HTTP/2."""

    http2: Literal[False] = False
    headers: dict[HeaderName, HeaderValue] = Field(default={})

    @field_validator("headers")
    @classmethod
    def _known_values(cls, value: dict[str, str]) -> dict[str, str]:
        if value.get("X-Frame-Options", "").lower() not in ("", "deny", "sameorigin"):
            raise ValueError("expected X-Frame-Options to be deny or sameorigin")
        if value.get("X-Content-Type-Options", "").lower() not in ("", "nosniff"):
            raise ValueError("expected X-Content-Type-Options to be nosniff")
        return value


class WebConfig(Section):
    """The whole file. Without users anybody may look; without the first, it is plain HTTP."""

    tls_server_config: Optional[TlsServer] = None
    http_server_config: Optional[HttpServer] = None
    basic_auth_users: Optional[dict[Username, BcryptHash]] = None


def load(path: Path) -> WebConfig:
    """Return what the file says. Raises ConfigError."""
    return parse_sections(read_text(path, "a web configuration in YAML"), path, WebConfig)


#: Differs when a file has been written or replaced; None: it is not there.
Stamp = Optional[tuple[int, ...]]


@dataclass(frozen=True)
class Protection:
    """What a web configuration comes to. ``files``: what it was read from, as that was then."""

    files: Mapping[Path, Stamp]
    tls: Optional[ssl.SSLContext]
    users: Mapping[str, bytes]
    headers: tuple[tuple[str, str], ...]


def protection(path: Path) -> Protection:
    """Return what the file and those that it names come to. Raises ConfigError."""
    files = {path: _stamp(path)}
    said = load(path)
    tls, http = said.tls_server_config, said.http_server_config or HttpServer()
    names = () if tls is None else (tls.cert_file, tls.key_file, tls.client_ca_file)
    named = [path.parent / name for name in names if name is not None]
    files.update({file: _stamp(file) for file in named})
    return Protection(
        files=files,
        tls=None if tls is None else _context(tls, path),
        users={user: hashed.encode() for user, hashed in (said.basic_auth_users or {}).items()},
        headers=tuple((name, value) for name, value in http.headers.items() if value),
    )


def _context(tls: TlsServer, path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _VERSIONS[tls.min_version]
    context.maximum_version = _VERSIONS[tls.max_version]
    context.options |= ssl.OP_NO_RENEGOTIATION
    try:
        # with a password, which it has none of, OpenSSL asks nobody at a terminal for one
        context.load_cert_chain(path.parent / tls.cert_file, path.parent / tls.key_file, "")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: tls_server_config: cert_file {tls.cert_file} and key_file {tls.key_file}: "
            f"{_reason(error)}; expected a certificate and its key, PEM files that this user may "
            "read, without a passphrase"
        ) from None
    if tls.client_ca_file is not None:
        try:
            context.load_verify_locations(path.parent / tls.client_ca_file)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{path}: tls_server_config: client_ca_file {tls.client_ca_file}: "
                f"{_reason(error)}; expected certificates in PEM"
            ) from None
    context.verify_mode = _CLIENTS[tls.client_auth_type]
    return context


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)


class WebSettings:
    """The protection that holds now: as the files are, looked at whenever somebody connects.

    While they cannot be used, what they said before holds; a certificate and its key are two
    files, and cannot be replaced at once.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. Raises ConfigError."""
        self._path = path
        self._lock = threading.Lock()
        self._current = protection(path)
        self._wrong = ""

    def current(self) -> Protection:
        """Return it; costs a few calls of stat() when nothing has changed."""
        with self._lock:
            if any(_stamp(file) != was for file, was in self._current.files.items()):
                self._renew()
            return self._current

    def _renew(self) -> None:
        try:
            found = protection(self._path)
            for what, had, has in (
                ("tls_server_config", self._current.tls, found.tls),
                ("basic_auth_users", self._current.users, found.users),
            ):
                if bool(had) != bool(has):
                    raise ConfigError(
                        f"{self._path}: {what} has {'gone' if had else 'come'}, which takes a "
                        "restart: an empty file does not open what was closed"
                    )
        except ConfigError as error:
            if str(error) != self._wrong:
                log.error("what was said before holds: %s", error)
            self._wrong = str(error)
        else:
            log.info("%s: read anew", self._path)
            self._current, self._wrong = found, ""


def _stamp(file: Path) -> Stamp:
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


class Doorkeeper:
    """Checks passwords, which bcrypt makes slow on purpose.

    Who was let in is known again at once, until the hash is another one; what is kept is one
    digest a user. Everybody else is checked one at a time and with pauses after wrong passwords,
    so that guessing takes no more than a fraction of one processor.
    """

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)
        self._known: dict[str, tuple[bytes, bytes]] = {}
        self._one = threading.Lock()

    def lets_in(self, users: Mapping[str, bytes], authorization: str) -> bool:
        """Say whether the header has a user and the right password.

        A user who is not there takes as long as one who is.
        """
        user, password = _credentials(authorization)
        if user is None:
            return False
        hashed = users.get(user)
        proof = hmac.digest(self._key, password, "sha256")
        if hashed is not None and user in self._known:
            known_hash, known_proof = self._known[user]
            if known_hash == hashed and hmac.compare_digest(known_proof, proof):
                return True
        right = self._check(password, hashed or next(iter(users.values())))
        if right and hashed is not None:
            self._known[user] = (hashed, proof)
            return True
        return False

    def _check(self, password: bytes, hashed: bytes) -> bool:
        # only who has users needs it
        import bcrypt  # noqa: PLC0415

        with self._one:
            began = time.monotonic()
            try:
                right = bool(bcrypt.checkpw(password[:BCRYPT_BYTES], hashed))
            except ValueError:  # what no password can have, such as a NUL
                right = False
            if not right:
                time.sleep(PAUSE_FACTOR * (time.monotonic() - began))
        return right


def _credentials(authorization: str) -> tuple[Optional[str], bytes]:
    """Return user and password of the header (RFC 7617); user None: there are none."""
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        return None, b""
    try:
        user, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        return (user.decode() if colon else None), password
    except (binascii.Error, ValueError):
        return None, b""


def guarded(app: WsgiApp, web: WebSettings) -> WsgiApp:
    """Return the application behind what the web configuration says."""
    doorkeeper = Doorkeeper()

    def guard(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        now = web.current()

        def start(status: str, headers: list[tuple[str, str]], *more: Any) -> Any:
            there = {name.lower() for name, _ in headers}
            added = [pair for pair in now.headers if pair[0].lower() not in there]
            return start_response(status, headers + added, *more)

        said = environ.get("HTTP_AUTHORIZATION", "")
        if now.users and not doorkeeper.lets_in(now.users, said):
            start(
                "401 Unauthorized",
                [
                    ("Content-Type", "text/plain; charset=utf-8"),
                    ("WWW-Authenticate", 'Basic realm="asterisk-exporter", charset="UTF-8"'),
                ],
            )
            return [b"A user and the right password are needed.\n"]
        return app(environ, start)

    return guard
