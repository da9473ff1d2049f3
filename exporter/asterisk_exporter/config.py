"""The configuration file: YAML, checked in full before anything starts.

No ``from __future__ import annotations`` here: pydantic reads the annotations at run time, on
Python 3.9 too.
"""

import os
import re
from datetime import tzinfo
from pathlib import Path
from typing import Annotated, Any, Literal, Optional, TypeVar, Union
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    field_validator,
)

from asterisk_exporter.ami.client import Target, TlsSettings
from asterisk_exporter.journal.calls import DidClass, Rules
from asterisk_exporter.journal.cdr import Place
from asterisk_exporter.journal.cdr_csv import CsvFile
from asterisk_exporter.journal.cdr_mysql import MysqlTable
from asterisk_exporter.journal.cdr_postgresql import Database
from asterisk_exporter.notifier.webhook import Url

DEFAULT_PATH = Path("/etc/asterisk-exporter/asterisk-exporter.yml")
PATH_VARIABLE = "ASTERISK_EXPORTER_CONFIG"
SECRET_VARIABLE = "ASTERISK_EXPORTER_AMI_SECRET"  # noqa: S105 - a variable's name


class ConfigError(Exception):
    """The configuration cannot be used. Names the file, the key, the value, what is expected."""


def _checked_pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"expected a regular expression ({error})") from None
    return value


def _checked_zone(value: str) -> str:
    try:
        ZoneInfo(value)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            "expected a zone of the IANA database such as Europe/Berlin, or null for "
            "this system's (is the package tzdata installed?)"
        ) from None
    return value


Context = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,79}$")]


class Section(BaseModel):
    """Keys and values; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Listen(Section):
    """Where ``/metrics`` is served. ``web_config_file``: its TLS and passwords; null, neither."""

    address: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=9739, ge=1, le=65535)
    web_config_file: Optional[str] = Field(default=None, min_length=1)


class Tls(Section):
    """TLS towards AMI. The certificate is always checked."""

    enabled: bool = False
    ca_file: Optional[str] = None
    server_name: Optional[str] = None


class Ami(Section):
    """The AMI login."""

    host: str = Field(default="127.0.0.1", min_length=1)
    port: int = Field(default=5038, ge=1, le=65535)
    username: str = Field(default="exporter", min_length=1, pattern=r"^[^\r\n\x00]+$")
    secret_file: str = Field(default="ami-secret", min_length=1)
    tls: Tls = Tls()
    timeout_seconds: float = Field(default=1.5, gt=0, le=1.8)


class Events(Section):
    """A second AMI login, which receives events; ``read`` is reporting and security."""

    enabled: bool = False
    username: str = Field(default="events", min_length=1, pattern=r"^[^\r\n\x00]+$")
    secret_file: str = Field(default="events-secret", min_length=1)


class Control(Section):
    """The AMI login of ``asterisk-ctl``. ``contexts``: where it may send calls."""

    username: str = Field(default="control", min_length=1, pattern=r"^[^\r\n\x00]+$")
    secret_file: str = Field(default="control-secret", min_length=1)
    contexts: list[Context] = Field(default=["internal"], min_length=1)


class Endpoints(Section):
    """``up``: a regular expression; endpoints whose whole name matches get a series each."""

    up: Optional[str] = None

    @field_validator("up")
    @classmethod
    def _compiles(cls, value: Optional[str]) -> Optional[str]:
        return None if value is None else _checked_pattern(value)


class Queues(Section):
    """``members``: a series per member, queue and state. Many; off by default."""

    members: bool = False


class CdrDatabase(Section):
    """What the two databases share."""

    host: str = Field(default="127.0.0.1", min_length=1)
    username: str = Field(default="exporter", min_length=1)
    password_file: Optional[str] = "cdr-password"  # noqa: S105 - a file's name
    poll_seconds: float = Field(default=5.0, ge=0.1, le=3600)


class Cdr(CdrDatabase):
    """The PostgreSQL table ``cdr``. ``sslmode``, ``sslrootcert``: as libpq names them."""

    source: Literal["postgresql"] = "postgresql"
    port: int = Field(default=5432, ge=1, le=65535)
    database: str = Field(default="asterisk", min_length=1)
    sslmode: Literal["disable", "allow", "prefer", "require", "verify-ca", "verify-full"] = "prefer"
    sslrootcert: Optional[str] = Field(default=None, min_length=1)


class CdrMysql(CdrDatabase):
    """A MySQL or MariaDB table; the defaults are FreePBX's.

    ``system_column``: the column that says which system wrote a row, where several do.
    """

    source: Literal["mysql"]
    port: int = Field(default=3306, ge=1, le=65535)
    database: str = Field(default="asteriskcdrdb", min_length=1)
    table: str = Field(default="cdr", min_length=1)
    system_column: Optional[str] = Field(default=None, min_length=1)


class CdrCsv(Section):
    """The file Master.csv. ``timezone``: its times' zone (``usegmtime`` in cdr.conf: UTC)."""

    source: Literal["csv"]
    file: Path = Path("/var/log/asterisk/cdr-csv/Master.csv")
    timezone: str = "UTC"
    poll_seconds: float = Field(default=5.0, ge=0.1, le=3600)

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        return _checked_zone(value)


_CDR = {"postgresql": Cdr, "mysql": CdrMysql, "csv": CdrCsv}


def _cdr_source(value: Any) -> Optional[str]:
    """Return which of the sources a section is about."""
    if isinstance(value, dict):
        source = value.get("source", "postgresql")
        return source if source in _CDR else None
    return getattr(value, "source", None)


AnyCdr = Annotated[
    Union[
        Annotated[Cdr, Tag("postgresql")],
        Annotated[CdrMysql, Tag("mysql")],
        Annotated[CdrCsv, Tag("csv")],
    ],
    Discriminator(
        _cdr_source,
        custom_error_type="source",
        custom_error_message="expected source to be postgresql, mysql or csv",
    ),
]


class Destination(Section):
    """Numbers that are one destination. ``did``: a regular expression of the whole number."""

    did: str = Field(min_length=1)
    name: str = Field(min_length=1, max_length=64)

    @field_validator("did")
    @classmethod
    def _compiles(cls, value: str) -> str:
        return _checked_pattern(value)


class Calls(Section):
    """How calls are told apart.

    ``trunks``: the endpoints that lead outside. ``match_digits``: how many last digits tell a
    caller. ``keep_days``: how long a missed call may wait to be called back.
    """

    trunks: list[str] = []
    inbound_contexts: list[str] = ["from-external"]
    destinations: list[Destination] = []
    settle_seconds: float = Field(default=10.0, ge=0, le=3600)
    match_digits: int = Field(default=9, ge=4, le=15)
    keep_days: int = Field(default=30, ge=1, le=366)

    @property
    def rules(self) -> Rules:
        """The same as the journal has it."""
        return Rules(
            trunks=frozenset(self.trunks),
            inbound_contexts=frozenset(self.inbound_contexts),
            classes=tuple(DidClass(one.did, one.name) for one in self.destinations),
            settle_seconds=self.settle_seconds,
            match_digits=self.match_digits,
            keep_days=self.keep_days,
        )


class Importer(Section):
    """The login with which ``cdr import`` adds records to the database of ``cdr``."""

    username: str = Field(default="importer", min_length=1)
    password_file: Optional[str] = "importer-password"  # noqa: S105 - a file's name


class QueueLog(Section):
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


class Notifier(Section):
    """Where missed calls are sent. ``show_last_digits``: of a caller's number; null shows all."""

    url: str
    secret_file: str = Field(default="notifier-secret", min_length=1)
    ca_file: Optional[str] = None
    show_last_digits: Optional[int] = Field(default=None, ge=0, le=15)
    timeout_seconds: float = Field(default=10.0, ge=0.1, le=60)
    state_directory: Path = Path("/var/lib/asterisk-exporter-notifier")

    @field_validator("url")
    @classmethod
    def _fits(cls, value: str) -> str:
        Url.parse(value)
        return value


class Wallboard(Section):
    """The page ``/wallboard``. ``enabled`` null: only where ``listen.address`` is loopback.

    ``objective_percent``: below it a service level is marked. ``title``: what is on top; empty, the
    system's name.
    """

    enabled: Optional[bool] = None
    title: str = ""
    language: Literal["en", "ru"] = "en"
    objective_percent: float = Field(default=80.0, gt=0, le=100)


class DoctorCallRouting(Section):
    """The routing script, its settings, and where it listens: ``host:port``; null, it does not."""

    script: Path = Path("/opt/call-routing/crm_route.py")
    settings: Path = Path("/etc/call-routing/settings.json")
    listen: Optional[str] = None


class Doctor(Section):
    """What ``asterisk-exporter doctor`` looks at beside what the other sections name.

    ``contexts``: of the dialplan, without which calls are lost. ``call_routing`` null: the CRM is
    not asked. ``prometheus_url`` null: nobody here knows where Prometheus is. ``metrics_username``
    and ``metrics_password_file``: who may scrape, where the web configuration has users.
    """

    contexts: list[Context] = []
    call_routing: Optional[DoctorCallRouting] = None
    prometheus_url: Optional[str] = Field(default=None, pattern=r"^https?://[^\s/@]+(/[^\s]*)?$")
    metrics_username: Optional[str] = None
    metrics_password_file: str = Field(default="metrics-password", min_length=1)


class Config(Section):
    """The whole file; every key has a default.

    ``filesystems``: paths; the file system of each has its size and free space measured.
    ``realtime_file``: what asterisk-realtime writes when the database answers; null: no realtime.
    """

    listen: Listen = Listen()
    state_directory: Path = Path("/var/lib/asterisk-exporter")
    system_name: str = ""
    timezone: Optional[str] = None
    ami: Ami = Ami()
    events: Events = Events()
    control: Optional[Control] = None
    endpoints: Endpoints = Endpoints()
    queues: Queues = Queues()
    cdr: Optional[AnyCdr] = None
    calls: Calls = Calls()
    queue_log: Optional[QueueLog] = None
    importer: Importer = Importer()
    notifier: Optional[Notifier] = None
    filesystems: list[str] = ["/var/spool/asterisk"]
    realtime_file: Optional[str] = Field(default=None, pattern="^/")
    wallboard: Wallboard = Wallboard()
    doctor: Doctor = Doctor()

    @field_validator("filesystems")
    @classmethod
    def _absolute_once(cls, value: list[str]) -> list[str]:
        for path in value:
            if not path.startswith("/") or value.count(path) > 1:
                raise ValueError(f"expected absolute paths, each once, not {path!r}")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: Optional[str]) -> Optional[str]:
        return None if value is None else _checked_zone(value)

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
    return parse(read_text(chosen, "a YAML file"), chosen), chosen


#: Of the web configuration; its values are not for a log.
_SECRETS = "basic_auth_users"
_Sections = TypeVar("_Sections", bound=Section)


def parse_sections(text: str, path: Path, model: type[_Sections]) -> _Sections:
    """Return what YAML says, as the model has it; ``path`` is for messages. Raises ConfigError."""
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
        return model(**data)
    except (ValidationError, TypeError) as error:
        raise ConfigError(_explain(error, path, model)) from None


def parse(text: str, path: Path) -> Config:
    """Return the configuration in ``text``; ``path`` is for messages. Raises ConfigError."""
    config = parse_sections(text, path, Config)
    if _needs_system_name(config.cdr) and not config.system_name:
        raise ConfigError(
            f"{path}: system_name: '': expected the systemname of asterisk.conf, since cdr is set "
            "and the table may hold the records of several systems"
        )
    if config.notifier is not None and config.cdr is None:
        raise ConfigError(
            f"{path}: cdr: None: expected where the call records are, since notifier is set and "
            "missed calls are told from them"
        )
    return config


def _needs_system_name(cdr: Optional[AnyCdr]) -> bool:
    """Say whether a table is read that may hold the records of several systems."""
    return isinstance(cdr, Cdr) or (isinstance(cdr, CdrMysql) and cdr.system_column is not None)


def _explain(error: Exception, path: Path, model: type[Section]) -> str:
    if not isinstance(error, ValidationError):
        return f"{path}: every key must be a text"
    lines = []
    for item in error.errors(include_url=False):
        # pydantic puts which of the sources it is between cdr and its key
        shown = [part for n, part in enumerate(item["loc"]) if not (n == 1 and part in _CDR)]
        key = ".".join(map(str, shown))
        if item["type"] == "extra_forbidden":
            lines.append(
                f"{path}: {key}: unknown key; expected one of: {_known(item['loc'], model)}"
            )
            continue
        if item["type"] == "missing":  # what there is instead may be a secret
            lines.append(f"{path}: {key}: missing")
            continue
        said = item["msg"].replace("Value error, ", "").replace("Input should be", "expected")
        # a URL may hold a password, and that a /
        given = re.sub("//.*@", "//\u2026@", repr(item["input"]))
        if _SECRETS in item["loc"]:
            given = "\u2026"
        lines.append(f"{path}: {key}: {given}: {said}")
    return "\n".join(lines)


def _known(location: tuple[Any, ...], model: Any) -> str:
    for part in location[:-1]:
        if part in _CDR:
            model = _CDR[part]
            continue
        annotation = model.model_fields[part].annotation
        inner = [a for a in getattr(annotation, "__args__", ()) if a is not type(None)]
        model = inner[0] if inner else annotation
    return ", ".join(model.model_fields)


def read_text(path: Path, expected: str) -> str:
    """Return a file's text; ``expected`` is for messages. Raises ConfigError."""
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
    secret = read_text(path, f"the secret of {key}").rstrip("\r\n")
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


def notifier(config: Config, config_path: Path) -> tuple[Notifier, str]:
    """Return where missed calls are sent, and the secret. Raises ConfigError."""
    found = config.notifier
    if found is None:
        raise ConfigError(
            f"{config_path}: notifier: null: expected the section notifier with the url that "
            "missed calls are sent to"
        )
    return found, read_secret(found.secret_file, "notifier.secret_file", config_path)


def control_target(config: Config, config_path: Path) -> tuple[Target, Control]:
    """Return where ``asterisk-ctl`` goes, and its section. Raises ConfigError."""
    control = config.control
    if control is None:
        raise ConfigError(
            f"{config_path}: control: expected username and secret_file of an AMI login with "
            "read = call,dialplan and write = call,agent,originate. The role asterisk_exporter "
            "writes both when asterisk_exporter_control is true"
        )
    secret = read_secret(control.secret_file, "control.secret_file", config_path)
    return _target(config.ami, control.username, secret), control


def call_records(config: Config, config_path: Path) -> Optional[Place]:
    """Return where the call records are, or None without. Raises ConfigError."""
    cdr = config.cdr
    if isinstance(cdr, CdrCsv):
        return CsvFile(cdr.file, ZoneInfo(cdr.timezone))
    if isinstance(cdr, CdrMysql):
        return MysqlTable(
            host=cdr.host,
            port=cdr.port,
            database=cdr.database,
            username=cdr.username,
            password=_password(cdr, config_path),
            table=cdr.table,
            system_column=cdr.system_column,
            zone=config.zone,
        )
    return database(config, config_path)


def web_config_path(config: Config, config_path: Path) -> Optional[Path]:
    """Return where the web configuration is, or None without."""
    name = config.listen.web_config_file
    return None if name is None else config_path.parent / name


def database(config: Config, config_path: Path) -> Optional[Database]:
    """Return where the CDR table is, or None where it is not in PostgreSQL. Raises ConfigError."""
    cdr = config.cdr
    if not isinstance(cdr, Cdr):
        return None
    return _database(cdr, cdr.username, _password(cdr, config_path))


def _database(cdr: Cdr, username: str, password: Optional[str]) -> Database:
    return Database(
        cdr.host, cdr.port, cdr.database, username, password, cdr.sslmode, cdr.sslrootcert
    )


def _password(cdr: CdrDatabase, config_path: Path) -> Optional[str]:
    if cdr.password_file is None:
        return None
    return read_secret(cdr.password_file, "cdr.password_file", config_path)


def import_database(config: Config, config_path: Path) -> Database:
    """Return where ``cdr import`` writes: the database of ``cdr``, with the importer's login.

    Raises ConfigError.
    """
    cdr, importer = config.cdr, config.importer
    if not isinstance(cdr, Cdr):
        raise ConfigError(
            f"{config_path}: cdr: expected source postgresql, which the records go to. Set "
            "cdr.host and the login of the section importer"
        )
    password = None
    if importer.password_file is not None:
        password = read_secret(importer.password_file, "importer.password_file", config_path)
    return _database(cdr, importer.username, password)
