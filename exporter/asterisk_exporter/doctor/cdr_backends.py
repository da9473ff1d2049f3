"""The link that is Asterisk's side of call records: what it has loaded to write them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from asterisk_exporter.config import AnyCdr, Cdr, CdrCsv, CdrMysql
from asterisk_exporter.doctor.finding import (
    Finding,
    critical,
    not_looked_at,
    not_set_up,
    ok,
    warning,
)
from asterisk_exporter.doctor.pbx import Pbx

NO_RECORDS = "no call records are read (asterisk_exporter_cdr_host)"
#: The names under which Asterisk's modules register, in lower case, by what they can write to.
_WRITERS = {
    Cdr: ("pgsql", "adaptive odbc", "odbc"),
    CdrMysql: ("mysql", "adaptive odbc", "odbc"),
    CdrCsv: ("csv",),
}
_LOAD = {
    Cdr: "cdr_pgsql.so (pbx_cdr_pgsql_enabled); systemctl restart asterisk-cdr-pgsql",
    CdrMysql: "cdr_adaptive_odbc.so, or cdr_mysql.so before Asterisk 19",
    CdrCsv: "cdr_csv.so",
}
_RELOAD = "asterisk -rx 'module reload cdr'"
_CONNECTED = re.compile(r"Connected to (.*)@(.*?)(?:, port (\d+))? using table (.*?)(?: with| for)")
_WROTE = re.compile(r"Wrote (\d+) records since last restart")


@dataclass(frozen=True)
class CdrStatus:
    """What ``cdr show status`` says. ``backends``: in lower case; ``suspended`` is some of them."""

    enabled: bool
    batch: bool
    unanswered: bool
    backends: tuple[str, ...]
    suspended: tuple[str, ...] = ()


def parse(text: str) -> CdrStatus:
    """Return what Asterisk's console printed."""
    values = dict(re.findall(r"^ +([A-Z][^:\n]+): +(\S.*?) *$", text, re.MULTILINE))
    rest = text.partition("Registered Backends")[2]
    names = [line.strip().lower() for line in rest.splitlines()]
    listed = [name for name in names if name.strip("-") and name != "(none)"]
    suspended = [name for name in listed if name.endswith("(suspended)")]
    return CdrStatus(
        enabled=values.get("Logging") == "Enabled",
        batch=values.get("Mode") == "Batch",
        unanswered=values.get("Log unanswered calls") == "Yes",
        backends=tuple(name.partition(" (suspended)")[0] for name in listed),
        suspended=tuple(name.partition(" (suspended)")[0] for name in suspended),
    )


def status(pbx: Pbx) -> CdrStatus:
    """Return what Asterisk writes call records to. Raises LookError."""
    return pbx.once("cdr show status", lambda pbx: parse(pbx.asterisk("cdr show status")))


def look(pbx: Pbx) -> Iterator[Finding]:
    """Look at what Asterisk writes call records to."""
    cdr = pbx.settings.cdr
    if cdr is None:
        yield not_set_up(NO_RECORDS)
    elif not pbx.asterisk_is_here:
        yield not_looked_at(f"Asterisk's console is on {pbx.settings.ami.host}")
    else:
        found = status(pbx)
        pgsql = isinstance(cdr, Cdr) and "pgsql" in found.backends
        yield from judge(found, cdr, pbx.asterisk("cdr show pgsql status") if pgsql else None)


def judge(found: CdrStatus, cdr: AnyCdr, pgsql: str | None) -> Iterator[Finding]:
    """Judge what is loaded. ``pgsql``: what ``cdr show pgsql status`` prints, where it is."""
    if not found.enabled:
        yield critical(
            "Asterisk writes no call records at all: CDR logging is disabled",
            f"Set enable = yes in [general] of cdr.conf; {_RELOAD}",
        )
        return
    writers = [name for name in found.backends if name in _WRITERS[type(cdr)]]
    if not writers:
        yield critical(
            f"Asterisk writes call records to {', '.join(found.backends) or 'nothing'}, and the "
            f"exporter reads {_named(cdr)}",
            f"Load a module that writes there: {_LOAD[type(cdr)]}; or set "
            "asterisk_exporter_cdr_source to where the records are",
        )
    for name in found.suspended:
        yield critical(
            f"Asterisk's CDR backend {name} is suspended: it writes nothing",
            f"asterisk -rx 'module unload cdr_{name}.so'; asterisk -rx 'module load cdr_{name}.so'",
        )
    if not found.unanswered:
        yield warning(
            "Asterisk leaves no record of a caller who hangs up before anything was dialled: such "
            "missed calls are not counted",
            f"Set unanswered = yes in [general] of cdr.conf; {_RELOAD}",
        )
    if found.batch:
        yield warning(
            "Asterisk writes call records in batches: they come late, and a crash loses those that "
            "wait",
            f"Set batch = no in [general] of cdr.conf; {_RELOAD}",
        )
    if pgsql is not None and isinstance(cdr, Cdr):
        yield from judge_pgsql(pgsql, cdr)
    if writers:
        yield ok(f"Asterisk writes to {', '.join(found.backends)}{_wrote(pgsql)}")


def _named(cdr: AnyCdr) -> str:
    return str(cdr.file) if isinstance(cdr, CdrCsv) else f"the {cdr.source} database {cdr.database}"


def _wrote(pgsql: str | None) -> str:
    number = _WROTE.search(pgsql or "")
    return f"; {number[1]} records to PostgreSQL since that was loaded" if number else ""


def judge_pgsql(text: str, cdr: Cdr) -> Iterator[Finding]:
    """Judge the connection of cdr_pgsql."""
    found = _CONNECTED.search(text)
    if found is None:
        yield critical(
            "cdr_pgsql is loaded, and is not connected to PostgreSQL: records are lost but for "
            "Master.csv",
            "Does PostgreSQL run? Are host, user and password in cdr_pgsql.conf right "
            "(pbx_cdr_pgsql_host and its kin)? Then systemctl restart asterisk-cdr-pgsql, and "
            "bring in what is missing: asterisk-exporter cdr import --csv "
            "/var/log/asterisk/cdr-csv/Master.csv",
        )
    elif (found[1], found[4]) != (cdr.database, "cdr"):
        yield critical(
            f"Asterisk writes to table {found[4]} of database {found[1]} at {found[2]}, and the "
            f"exporter reads cdr of {cdr.database} at {cdr.host}",
            "Make pbx_cdr_pgsql_database and asterisk_exporter_cdr_database the same",
        )
