"""The configuration file: YAML, checked in full before anything starts.

No ``from __future__ import annotations`` here: pydantic reads the annotations at run time, on
Python 3.9 too.
"""

import os
import re
from datetime import tzinfo
from pathlib import Path
from typing import Any, Literal, Optional
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from asterisk_exporter.ami.client import Target, TlsSettings
from asterisk_exporter.journal.cdr_postgresql import Database

DEFAULT_PATH = Path("/etc/asterisk-exporter/asterisk-exporter.yml")
PATH_VARIABLE = "ASTERISK_EXPORTER_CONFIG"
SECRET_VARIABLE = "ASTERISK_EXPORTER_AMI_SECRET"  # noqa: S105 - a variable's name


class ConfigError(Exception):
    """The configuration cannot be used. Names the file, the key, the value, what is expected."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(_Section):
    """Where ``/metrics`` is served."""

    address: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=9739, ge=1, le=65535)


class Tls(_Section):
    """TLS towards AMI. The certificate is always checked."""

    enabled: bool = False
    ca_file: Optional[str] = None
    server_name: Optional[str] = None


class Ami(_Section):
    """The AMI login."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=5038, ge=1, le=65535)
    username: str = Field(default="exporter", min_length=1, pattern=r"^[^\r\n\x00]+$")
    secret_file: str = Field(default="ami-secret", min_length=1)
    tls: Tls = Tls()
    timeout_seconds: float = Field(default=1.5, gt=0, le=1.8)


class Events(_Section):
    """A second AMI login, which receives events; ``read`` is reporting and security."""

    enabled: bool = False
    username: str = Field(default="events", min_length=1, pattern=r"^[^\r\n\x00]+$")
    secret_file: str = Field(default="events-secret", min_length=1)


class Endpoints(_Section):
    """``up``: a regular expression; endpoints whose whole name matches get a series each."""

    up: Optional[str] = None

    @field_validator("up")
    @classmethod
    def _compiles(cls, value: Optional[str]) -> Optional[str]:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"expected a regular expression ({error})") from None
        return value


class Queues(_Section):
    """``members``: a series per member, queue and state. Many; off by default."""

    members: bool = False


class Cdr(_Section):
    """The PostgreSQL table ``cdr``."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=5432, ge=1, le=65535)
    database: str = Field(default="asterisk", min_length=1)
    username: str = Field(default="exporter", min_length=1)
    password_file: Optional[str] = "cdr-password"  # noqa: S105 - a file's name
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    poll_seconds: float = Field(default=5.0, ge=0.1, le=3600)


class Importer(_Section):
    """The login with which ``cdr import`` adds records to the database of ``cdr``."""

    username: str = Field(default="importer", min_length=1)
    password_file: Optional[str] = "importer-password"  # noqa: S105 - a file's name


class QueueLog(_Section):
    """The file ``queue_log``. ``service_levels``: seconds by queue, before what AMI says."""

    file: Path = Path("/var/log/asterisk/queue_log")
    short_abandon_seconds: int = Field(default=5, ge=0, le=3600)
    poll_seconds: float = Field(default=1.0, ge=0.1, le=3600)
    service_levels: dict[str, int] = {}

    @field_validator("service_levels")
    @classmethod
    def _seconds(cls, value: dict[str, int]) -> dict[str, int]:
        for queue, seconds in value.items():
            if not 0 <= seconds <= 7200:
                raise ValueError(f"expected 0 to 7200 seconds for {queue}")
        return value


class Config(_Section):
    """The whole file; every key has a default."""

    listen: Listen = Listen()
    state_directory: Path = Path("/var/lib/asterisk-exporter")
    system_name: str = ""
    timezone: Optional[str] = None
    ami: Ami = Ami()
    events: Events = Events()
    endpoints: Endpoints = Endpoints()
    queues: Queues = Queues()
    cdr: Optional[Cdr] = None
    importer: Importer = Importer()

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: Optional[str]) -> Optional[str]:
        if value is not None:
            try:
                ZoneInfo(value)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError(
                    "expected a zone of the IANA database such as Europe/Berlin, or null for "
                    "this system's (is the package tzdata installed?)"
                ) from None
        return value

    @property
    def zone(self) -> Optional[tzinfo]:
        """The PBX's zone; None is this system's."""
        return None if self.timezone is None else ZoneInfo(self.timezone)


def load(path: Optional[Path] = None) -> tuple[Config, Path]:
    """Return the configuration and the path that relative secret files are beside.

    ``path`` None: $ASTERISK_EXPORTER_CONFIG, else the default path, else defaults alone.
    Raises ConfigError.
    """
    explicit = path or (Path(os.environ[PATH_VARIABLE]) if os.environ.get(PATH_VARIABLE) else None)
    chosen = explicit or DEFAULT_PATH
    if explicit is None and not chosen.exists():
        return Config(), chosen
    return parse(_read(chosen, "a YAML file"), chosen), chosen


def parse(text: str, path: Path) -> Config:
    """Return the configuration in ``text``; ``path`` is for messages. Raises ConfigError."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{path}: not YAML: {problem}") from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected keys and values, not {type(data).__name__}")
    try:
        config = Config(**data)
    except (ValidationError, TypeError) as error:
        raise ConfigError(_explain(error, path)) from None
    if config.cdr is not None and not config.system_name:
        raise ConfigError(
            f"{path}: system_name: '': expected the systemname of asterisk.conf, since cdr is set "
            "and the table may hold the records of several systems"
        )
    return config


def _explain(error: Exception, path: Path) -> str:
    if not isinstance(error, ValidationError):
        return f"{path}: every key must be a text"
    lines = []
    for item in error.errors(include_url=False):
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            lines.append(f"{path}: {key}: unknown key; expected one of: {_known(item['loc'])}")
            continue
        said = item["msg"].replace("Value error, ", "").replace("Input should be", "expected")
        lines.append(f"{path}: {key}: {item['input']!r}: {said}")
    return "\n".join(lines)


def _known(location: tuple[Any, ...]) -> str:
    model: Any = Config
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation
        inner = [a for a in getattr(annotation, "__args__", ()) if a is not type(None)]
        model = inner[0] if inner else annotation
    return ", ".join(model.model_fields)


def _read(path: Path, expected: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}. Expected {expected} that this user may read."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is not UTF-8 text. Expected {expected}.") from None


def read_secret(name: str, key: str, config_path: Path) -> str:
    """Return the first line of a secret's file.

    A relative name is a systemd credential when $CREDENTIALS_DIRECTORY is set and has it, else a
    file beside the configuration. Raises ConfigError, which never shows the content.
    """
    path = Path(name)
    if not path.is_absolute():
        credentials = os.environ.get("CREDENTIALS_DIRECTORY")
        base = Path(credentials) if credentials else config_path.parent
        path = base / name
    secret = _read(path, f"the secret of {key}").rstrip("\r\n")
    if not secret or re.search("[\r\n\0]", secret):
        raise ConfigError(f"{path} ({key}) must hold one line, the secret, and nothing else")
    return secret


def target(config: Config, config_path: Path) -> Target:
    """Return where AMI is, with the secret. Raises ConfigError."""
    ami = config.ami
    secret = os.environ.get(SECRET_VARIABLE) or read_secret(
        ami.secret_file, "ami.secret_file", config_path
    )
    return _target(ami, ami.username, secret)


def _target(ami: Ami, username: str, secret: str) -> Target:
    tls = TlsSettings(ami.tls.ca_file, ami.tls.server_name) if ami.tls.enabled else None
    return Target(ami.host, ami.port, username, secret, tls)


def events_target(config: Config, config_path: Path) -> Optional[Target]:
    """Return where events come from, or None when they are off. Raises ConfigError."""
    events = config.events
    if not events.enabled:
        return None
    secret = read_secret(events.secret_file, "events.secret_file", config_path)
    return _target(config.ami, events.username, secret)


def database(config: Config, config_path: Path) -> Optional[Database]:
    """Return where the CDR table is, or None without. Raises ConfigError."""
    cdr = config.cdr
    if cdr is None:
        return None
    password = None
    if cdr.password_file is not None:
        password = read_secret(cdr.password_file, "cdr.password_file", config_path)
    return Database(cdr.host, cdr.port, cdr.database, cdr.username, password, cdr.sslmode)


def import_database(config: Config, config_path: Path) -> Database:
    """Return where ``cdr import`` writes: the database of ``cdr``, with the importer's login.

    Raises ConfigError.
    """
    cdr, importer = config.cdr, config.importer
    if cdr is None:
        raise ConfigError(
            f"{config_path}: cdr: not set: expected the PostgreSQL that the records go to. Set "
            "cdr.host and the login of the section importer"
        )
    password = None
    if importer.password_file is not None:
        password = read_secret(importer.password_file, "importer.password_file", config_path)
    return Database(cdr.host, cdr.port, cdr.database, importer.username, password, cdr.sslmode)
