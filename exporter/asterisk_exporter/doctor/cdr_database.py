"""The links that are the CDR database: it answers, and each login may do just what it needs."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg2
import psycopg2.extras

from asterisk_exporter import config
from asterisk_exporter.config import Cdr, CdrCsv, CdrMysql, ConfigError
from asterisk_exporter.doctor.cdr_backends import NO_RECORDS
from asterisk_exporter.doctor.finding import Finding, critical, not_set_up, ok, warning
from asterisk_exporter.doctor.pbx import LookError, Pbx
from asterisk_exporter.journal.cdr_mysql import Layout, MysqlTable, ask
from asterisk_exporter.journal.cdr_postgresql import Database, explain
from asterisk_exporter.journal.runner import SourceError

#: Columns of the role's table that a table of somebody else lacks.
_COLUMNS = frozenset({"id", "transaction_id", "system_name", "imported_at", "linkedid", "uniqueid"})
_FACTS = """
SELECT current_setting('server_version') AS version, to_regclass('cdr') IS NOT NULL AS has_table,
       to_regclass('cdr_months') IS NOT NULL AS has_months,
       ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = to_regclass('cdr')
             AND attnum > 0 AND NOT attisdropped) AS columns,
       ARRAY(SELECT p FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p
             WHERE has_table_privilege(to_regclass('cdr'), p)) AS privileges,
       ARRAY(SELECT word FROM (VALUES (rolsuper, 'superuser'), (rolcreaterole, 'createrole'),
             (rolcreatedb, 'createdb'), (rolreplication, 'replication'),
             (rolbypassrls, 'bypassrls')) AS a (has, word) WHERE has) AS attributes
FROM pg_roles WHERE rolname = current_user
"""
#: Of what a server says why it lets nobody in, in the languages that it may speak: what to do.
_WHY = (
    (
        r"Connection refused|No route|timed out|timeout|Can't connect|could not translate|getaddr",
        "Does the database server run, listen on that address and port, and does a firewall let us "
        "through? systemctl status postgresql; ss -ltnp; asterisk_exporter_cdr_host, "
        "asterisk_exporter_cdr_port",
    ),
    (
        r"password|Access denied|authentication",
        "Converge with the roles cdr_database and asterisk_exporter; or set "
        "asterisk_exporter_cdr_username and asterisk_exporter_cdr_password to a login that may "
        "read the table",
    ),
    (
        r"certificate",
        "The database's certificate must carry the name asterisk_exporter_cdr_host and lead to "
        "asterisk_exporter_cdr_sslrootcert. Converge with the roles cdr_database, which issues it, "
        "and asterisk_exporter; or name the file of who issued it",
    ),
    (
        r"pg_hba|SSL",
        "Let this host in: cdr_database_clients (pg_hba.conf); TLS: asterisk_exporter_cdr_sslmode",
    ),
    (
        r"database|Unknown database|too many|remaining connection",
        "Look at asterisk_exporter_cdr_database, and at the server's log: journalctl -u "
        "'postgresql*' -n 50",
    ),
)


@dataclass(frozen=True)
class Facts:
    """What a login found. ``privileges`` on the table, ``attributes`` of the login."""

    version: str
    seconds: float
    privileges: frozenset[str]
    attributes: frozenset[str]
    has_table: bool = True
    has_months: bool = True
    columns: frozenset[str] = frozenset()


def why(error: str) -> str:
    """Return what to do about a connection that failed."""
    for pattern, action in _WHY:
        if re.search(pattern, error):
            return action
    return "Look at the database server's log, and at asterisk_exporter_cdr_host and its kin"


def facts(pbx: Pbx) -> Facts:
    """Return what the exporter's login finds. Raises LookError, ConfigError, SourceError."""
    return pbx.once("CDR database", _facts)


def _facts(pbx: Pbx) -> Facts:
    place = config.call_records(pbx.settings, pbx.path)
    if isinstance(place, MysqlTable):
        return _mysql(place, pbx.timeout)
    if not isinstance(place, Database):
        raise LookError("the call records are in no database", "")
    return postgresql(place, pbx.timeout)


def postgresql(database: Database, timeout: float) -> Facts:
    """Return what a login finds in PostgreSQL. Raises LookError."""
    began = time.monotonic()
    try:
        connection = database.connect(max(2, int(timeout)))
        try:
            with connection.cursor(cursor_factory=psycopg2.extras.RealDictCursor) as cursor:
                cursor.execute(_FACTS)
                row: dict[str, Any] = cursor.fetchone()
        finally:
            connection.close()
    except psycopg2.Error as error:
        raise LookError(f"{database}: {explain(error)}", why(str(error))) from None
    return Facts(
        version=f"PostgreSQL {row['version'].split()[0]}",
        seconds=time.monotonic() - began,
        privileges=frozenset(row["privileges"]),
        attributes=frozenset(row["attributes"]),
        has_table=row["has_table"],
        has_months=row["has_months"],
        columns=frozenset(row["columns"]),
    )


def _mysql(table: MysqlTable, timeout: float) -> Facts:
    began = time.monotonic()
    try:
        connection = table.connect(max(2, int(timeout)))
    except SourceError as error:
        raise LookError(f"{table}: {error}", why(str(error))) from None
    try:
        Layout.of(connection, table)
        (row,) = ask(connection, "SELECT VERSION() AS version")
        grants = [str(value) for one in ask(connection, "SHOW GRANTS") for value in one.values()]
    finally:
        connection.close()
    privileges, attributes = parse_grants(grants, table.database)
    version = f"MySQL {row['version']}"
    return Facts(version, time.monotonic() - began, privileges, attributes)


def parse_grants(grants: Collection[str], database: str) -> tuple[frozenset[str], frozenset[str]]:
    """Return the privileges on a database and the global ones in what SHOW GRANTS says."""
    here: set[str] = set()
    everywhere: set[str] = set()
    for grant in grants:
        found = re.match(r"GRANT (.+?) ON (?:TABLE )?(\S+?)\.(\S+) TO ", grant)
        if found is None:
            continue  # a role
        words = set(re.sub(r" ?\(.*?\)", "", found[1]).split(", ")) - {"USAGE"}
        if "WITH GRANT OPTION" in grant:
            words.add("GRANT OPTION")
        name = re.sub(r"\\(.)", r"\1", found[2].strip("`"))
        if name == "*":
            everywhere |= words
        elif name in (database, "%"):
            here |= words
    return frozenset(here | everywhere), frozenset(
        f"{word} on *.*" for word in everywhere - {"SELECT"}
    )


def look(pbx: Pbx) -> Iterator[Finding]:
    """Look whether the database answers, and has the table."""
    cdr = pbx.settings.cdr
    if cdr is None:
        yield not_set_up(NO_RECORDS)
    elif isinstance(cdr, CdrCsv):
        yield not_set_up("the call records come from Master.csv (asterisk_exporter_cdr_source)")
    else:
        place = config.call_records(pbx.settings, pbx.path)
        yield from judge_table(facts(pbx), str(place), isinstance(cdr, Cdr))


def judge_table(found: Facts, place: str, ours: bool) -> Iterator[Finding]:
    """Judge the table. ``ours``: the role cdr_database's, whose columns are known."""
    missing = sorted(_COLUMNS - found.columns) if ours else []
    if ours and not found.has_months:
        missing.append("months")
    if not found.has_table:
        yield critical(
            f"{place}: there is no table cdr that this login sees",
            "Converge the database's host with the role cdr_database; or "
            "asterisk_exporter_cdr_database names another than Asterisk writes to",
        )
    elif missing:
        yield critical(
            f"{place}: the table cdr lacks {', '.join(missing)}",
            "Converge the database's host with the role cdr_database of this release",
        )
    else:
        yield ok(f"{place}: {found.version}, answered in {found.seconds * 1000:.0f} ms")


def grants(pbx: Pbx) -> Iterator[Finding]:
    """Look at what the exporter's login and the importer's may do."""
    cdr = pbx.settings.cdr
    if cdr is None or isinstance(cdr, CdrCsv):
        yield not_set_up("no database is read")
        return
    yield from judge_grants(cdr, facts(pbx))
    if isinstance(cdr, Cdr):
        yield from _importer(pbx)


def judge_grants(cdr: Cdr | CdrMysql, found: Facts) -> Iterator[Finding]:
    """Judge what the exporter's login may do: SELECT, and nothing else."""
    login = cdr.username
    user = login if isinstance(cdr, Cdr) else f"'{login}'@'%'"
    table = "cdr" if isinstance(cdr, Cdr) else f"{cdr.database}.{cdr.table}"
    reads = found.privileges & {"SELECT", "ALL PRIVILEGES"}
    if not reads:
        yield critical(
            f"{login} may not read {table}: no call record is counted",
            f"As the database's administrator: GRANT SELECT ON {table} TO {user};",
        )
    more = sorted(found.attributes or found.privileges - {"SELECT"})
    if more:
        yield warning(
            f"{login} may do more than read call records: {', '.join(more)}. Who has the "
            "exporter's password can change or remove them",
            _less(login, more)
            if isinstance(cdr, Cdr)
            else (
                f"Give the exporter a login of its own: CREATE USER exporter …; GRANT SELECT ON "
                f"{table} TO exporter; and set asterisk_exporter_cdr_username and "
                "asterisk_exporter_cdr_password"
            ),
        )
    if reads and not more:
        yield ok(f"{login} may read {table}, and nothing else")


def _less(login: str, more: Collection[str]) -> str:
    attributes = [f"no{word}" for word in more if word.islower()]
    if attributes:
        statement = f"ALTER ROLE {login} {' '.join(attributes).upper()};"
    else:
        statement = f"REVOKE {', '.join(more)} ON cdr FROM {login};"
    return f"As the database's administrator: {statement} or name a login that may only read"


def _importer(pbx: Pbx) -> Iterator[Finding]:
    try:
        database = config.import_database(pbx.settings, pbx.path)
    except ConfigError:
        yield not_set_up("no login for asterisk-exporter cdr import (asterisk_exporter_importer_*)")
        return
    try:
        found = postgresql(database, pbx.timeout)
    except LookError as error:
        yield warning(f"asterisk-exporter cdr import cannot work: {error}", error.action)
        return
    yield from judge_importer(database.username, found)


def judge_importer(login: str, found: Facts) -> Iterator[Finding]:
    """Judge what the importer's login may do: add records, and tell what there is."""
    needs = {"SELECT", "INSERT"}
    missing = sorted(needs - found.privileges)
    if missing:
        yield warning(
            f"{login} may not {', '.join(missing)}: asterisk-exporter cdr import cannot work",
            f"As the database's administrator: GRANT {', '.join(missing)} ON cdr TO {login};",
        )
    more = sorted(found.attributes or found.privileges - needs)
    if more:
        yield warning(
            f"{login} may do more than add call records: {', '.join(more)}", _less(login, more)
        )
    if not missing and not more:
        yield ok(f"{login} may add records, and change none")
