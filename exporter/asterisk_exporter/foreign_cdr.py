"""The table ``cdr`` of another database, to import from: Asterisk's, or FreePBX's in MySQL."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime
from typing import Any, Callable
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import psycopg2
from psycopg2 import extensions

from asterisk_exporter.journal.cdr_postgresql import explain

CONNECT_SECONDS = 10
FETCH_ROWS = 2000


class ImportFailedError(Exception):
    """The import cannot begin or go on; what was imported until then stays."""


class Source:
    """The table, its columns with their types, and how its database speaks.

    ``cursor`` makes one that does not fetch everything at once; ``errors`` are what it raises.
    """

    def __init__(
        self,
        connection: Any,
        columns: Mapping[str, str],
        cursor: Callable[[], Any],
        errors: tuple[type[Exception], ...],
        quote: str = '"',
    ) -> None:
        self._connection = connection
        self._columns = columns
        self._cursor = cursor
        self._errors = errors
        self._quote = quote

    @property
    def columns(self) -> frozenset[str]:
        """The names of the columns."""
        return frozenset(self._columns)

    def knows_zone(self, column: str) -> bool:
        """Say whether the column's times are instants, not somebody's local time."""
        return self._columns[column] in {"timestamp with time zone", "timestamp(mysql)"}

    def rows(self, wanted: Sequence[str], begin: str, since: datetime | None) -> Iterator[Any]:
        """Yield tuples of the wanted columns; ``since`` leaves out what began earlier.

        Raises ImportFailedError.
        """
        names = ", ".join(f"{self._quote}{name}{self._quote}" for name in wanted)
        statement = f"SELECT {names} FROM cdr"  # noqa: S608 - names of columns
        if since is not None:
            statement += f" WHERE {self._quote}{begin}{self._quote} >= %s"
        try:
            with closing(self._cursor()) as cursor:
                cursor.execute(statement, None if since is None else (since,))
                while rows := cursor.fetchmany(FETCH_ROWS):
                    yield from rows
        except self._errors as error:
            raise ImportFailedError(f"lost the source: {_first_line(error)}") from None
        except (UnicodeDecodeError, LookupError) as error:
            raise ImportFailedError(
                f"the source sends text that cannot be read ({error}): expected a database whose "
                "encoding is what its text is written in."
            ) from None

    def close(self) -> None:
        """End the connection."""
        with suppress(Exception):
            self._connection.close()


def open_source(source: str) -> Source:
    """Return the table that a DSN names. Raises ImportFailedError, which shows no password."""
    parts = _split(source)
    try:
        if parts.scheme in {"postgresql", "postgres"}:
            return _open_postgresql(parts)
        return _open_mysql(parts)
    except psycopg2.Error as error:
        raise _cannot_open(parts, explain(error)) from None


def _split(source: str) -> SplitResult:
    """Return the parts of a DSN; the message shows none of them, a password may be in any."""
    with suppress(ValueError):
        parts = urlsplit(source)
        known = parts.scheme in {"postgresql", "postgres", "mysql"}
        # .port raises ValueError and would show a part of a password with a slash
        if known and (parts.port is None or parts.port) and parts.path.strip("/"):
            return parts
    raise ImportFailedError(
        "the source is no DSN that can be used: expected postgresql://USER@HOST:PORT/DATABASE or "
        "mysql://USER@HOST:PORT/DATABASE, with / @ : # % in names and passwords percent-encoded. "
        "The password may be in $PGPASSWORD or $MYSQL_PWD instead."
    )


def _named(parts: SplitResult) -> str:
    host = parts.hostname or "localhost"
    return f"{parts.scheme} database {unquote(parts.path.strip('/'))} at {host}"


def _cannot_open(parts: SplitResult, why: str) -> ImportFailedError:
    return ImportFailedError(
        f"cannot read {_named(parts)}: {why}. Expected a login that may read its table cdr; the "
        "password may be in the DSN or in $PGPASSWORD or $MYSQL_PWD."
    )


def _login(parts: SplitResult) -> dict[str, Any]:
    given = {
        "host": parts.hostname,
        "port": parts.port,
        "user": None if parts.username is None else unquote(parts.username),
        "password": None if parts.password is None else unquote(parts.password),
    }
    return {name: value for name, value in given.items() if value is not None}


def _open_postgresql(parts: SplitResult) -> Source:
    options = dict(parse_qsl(parts.query))
    connection = psycopg2.connect(
        **{
            "connect_timeout": CONNECT_SECONDS,
            "application_name": "asterisk-exporter cdr import",
            **options,
            **_login(parts),
            "dbname": unquote(parts.path.strip("/")),
            "client_encoding": "UTF8",
        }
    )
    try:
        connection.set_session(
            isolation_level=extensions.ISOLATION_LEVEL_REPEATABLE_READ, readonly=True
        )
        with connection.cursor() as cursor:
            cursor.execute("SET TIME ZONE 'UTC'")
            cursor.execute(
                "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
                "WHERE attrelid = to_regclass('cdr') AND attnum > 0 AND NOT attisdropped"
            )
            columns = dict(cursor.fetchall())
    except psycopg2.Error:
        connection.close()
        raise
    return Source(connection, columns, lambda: connection.cursor("cdr_import"), (psycopg2.Error,))


def _open_mysql(parts: SplitResult) -> Source:
    try:
        import pymysql  # noqa: PLC0415 - an extra
        from pymysql.cursors import SSCursor  # noqa: PLC0415
    except ImportError:
        raise ImportFailedError(
            "reading MySQL needs PyMySQL: expected the extra `mysql` to be installed "
            "(pip install 'asterisk-appliance[mysql]'; the role asterisk_exporter installs it)."
        ) from None
    login = _login(parts)
    login.setdefault("password", os.environ.get("MYSQL_PWD", ""))
    try:
        connection = pymysql.connect(
            **login,
            database=unquote(parts.path.strip("/")),
            charset="utf8mb4",
            connect_timeout=CONNECT_SECONDS,
            init_command="SET time_zone = '+00:00'",
        )
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT column_name, data_type FROM information_schema.columns "
                "WHERE table_schema = database() AND table_name = 'cdr'"
            )
            columns = {name: _mysql_type(kind) for name, kind in cursor.fetchall()}
    except (pymysql.MySQLError, OSError, RuntimeError) as error:
        raise _cannot_open(parts, _first_line(error)) from None
    return Source(
        connection,
        columns,
        lambda: connection.cursor(SSCursor),
        (pymysql.MySQLError, OSError),
        quote="`",
    )


def _mysql_type(kind: Any) -> str:
    # information_schema sends bytes in some versions; DATETIME is anybody's time, TIMESTAMP is UTC
    text = kind.decode() if isinstance(kind, bytes) else str(kind)
    return "timestamp(mysql)" if text.lower() == "timestamp" else text


def _first_line(error: BaseException) -> str:
    """Return what a driver says; PyMySQL's errors are (number, text)."""
    lines = str(error.args[-1] if error.args else error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
