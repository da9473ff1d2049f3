"""Calls routed by the CRM: the FastAGI server against the AGI script and a server with requests.

The bench is Asterisk, the CRM is a process of its own; what counts is the processor time of whoever
is between them. Each call is a route and a lookup.
"""

from __future__ import annotations

import compileall
import contextlib
import importlib.util
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path

from common import Context, NoLabError, Row, at_least, at_most, limit

HERE = Path(__file__).parent
AGI_BIN = HERE.parents[1] / "agi-bin"
TOKEN = "token-of-the-bench-0123456789"
CRM, SLOW_CRM, OURS, PEER, SLOW = 18085, 18086, 14573, 14574, 14575
ROUNDS = 5
CALLS = 400
PARALLEL = 8
SCRIPTS = 25
#: 100 calls/s that each wait twice for this long are 50 at once.
CRM_SECONDS = 0.25
RATE = 100
SECONDS = 20
#: What Asterisk 22.10 says first.
ENV = """agi_network: yes
agi_network_script: route/+493055505
agi_request: agi://127.0.0.1:4573/route/+493055505
agi_channel: PJSIP/provider-0000002a
agi_language: en
agi_type: PJSIP
agi_uniqueid: pbx1-1795517895.42
agi_version: 22.10.1~dfsg+~cs6.17.60671434-1
agi_callerid: {caller}
agi_calleridname: {caller}
agi_callingpres: 0
agi_callingani2: 0
agi_callington: 0
agi_callingtns: 0
agi_dnid: +493055505
agi_rdnis: unknown
agi_context: call-routing
agi_extension: s
agi_priority: 4
agi_enhanced: 0.0
agi_accountcode: provider
agi_threadid: 139872340985536

"""


def _processor_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _install(folder: Path) -> Path:
    """Put the script where the role puts it: compiled, its libraries beside it."""
    home = folder / "call-routing"
    shutil.copytree(AGI_BIN, home, ignore=shutil.ignore_patterns("lib", "__pycache__"))
    (home / "lib").mkdir()
    for name in ("asterisk", "six"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise NoLabError(f"there is no {name} in .venv: pyst2 is missing")
        source = Path(spec.origin)
        source = source.parent if source.name == "__init__.py" else source
        (home / "lib" / source.name).symlink_to(source)
    compileall.compile_dir(home / "crm_routing", quiet=2)
    return home / "crm_route.py"


def _settings(folder: Path, port: int) -> Path:
    path = folder / f"settings-{port}.json"
    (folder / "crm-token").write_text(TOKEN, encoding="ascii")
    path.write_text(
        json.dumps(
            {
                "url": f"http://127.0.0.1:{port}",
                "ca_file": None,
                "lookup": True,
                "deadline_seconds": 2,
                "cache_seconds": 0,
                "failures": 3,
                "retry_seconds": 10,
                "state_file": str(folder / "state"),
                "targets": {"queue:vip": "queue:vip"},
            }
        ),
        encoding="ascii",
    )
    return path


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Go before everything else on this machine, with all that is started meanwhile.

    A time is measured then and no ratio: on a shared machine most of it would be the neighbours'.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except PermissionError as error:
        raise NoLabError(f"real-time priority is needed to measure times: {error}") from None
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextlib.contextmanager
def _process(port: int, *command: object) -> Iterator[int]:
    """Run a server until it is not needed; yield its process id once it listens."""
    process = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if process.poll() is not None:
                raise NoLabError(f"{command[1]} ended with {process.returncode}")
            time.sleep(0.1)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def _call(port: int, caller: str) -> float:
    """Be Asterisk for one call; return how long it took."""
    began = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(ENV.format(caller=caller).encode())
        said = b""
        while data := connection.recv(4096):
            said += data
            connection.sendall(b"200 result=1\n" * data.count(b"\n"))
        taken = time.perf_counter() - began
    if b"ROUTE_RESULT" not in said or b"routed" not in said:
        raise NoLabError(f"a call was not routed: {said!r}")
    return taken


def _calls_per_processor_second(port: int, pid: int) -> float:
    left = iter(range(CALLS))
    lock = threading.Lock()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            while True:
                with lock:
                    number = next(left, None)
                if number is None:
                    return
                _call(port, f"+4917{number:07}")
        except (OSError, NoLabError) as error:
            failures.append(error)

    used = _processor_seconds(pid)
    threads = [threading.Thread(target=work) for _ in range(PARALLEL)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise NoLabError(f"a call failed: {failures[0]}")
    return CALLS / max(_processor_seconds(pid) - used, 0.001)


def _run(command: list[str], data: bytes, settings: Path) -> float:
    """Return the processor seconds of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command,
        input=data,
        env={**os.environ, "CALL_ROUTING_SETTINGS": str(settings)},
        stdout=subprocess.PIPE,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if data and b'"ROUTE_RESULT" "routed"' not in done.stdout:
        raise NoLabError(f"the script did not route a call: {done.stdout!r}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _script_seconds(script: Path, settings: Path) -> tuple[float, float]:
    """Return the processor seconds of the script for a call, and of importing its AGI library."""
    call = ENV.format(caller="+491701234567").encode() + b"200 result=1\n" * 20
    ours: list[float] = []
    imports: list[float] = []
    for _ in range(SCRIPTS):
        ours.append(_run([sys.executable, "-IS", str(script), "+493055505"], call, settings))
        imports.append(_run([sys.executable, "-c", "import asterisk.agi"], b"", settings))
    return statistics.median(ours), statistics.median(imports)


def _overheads(port: int, crm: int) -> list[float]:
    """Return what calls at a steady rate took longer than the CRM's own answers, sorted."""
    taken: dict[str, float] = {}
    threads = []

    def work(caller: str) -> None:
        taken[caller] = _call(port, caller)

    began = time.perf_counter()
    for number in range(RATE * SECONDS):
        time.sleep(max(0.0, began + number / RATE - time.perf_counter()))
        thread = threading.Thread(target=work, args=(f"49{number:07}",))
        thread.start()
        threads.append(thread)
    for thread in threads:
        thread.join()
    with urllib.request.urlopen(f"http://127.0.0.1:{crm}/stats") as answer:
        own: dict[str, float] = json.load(answer)
    if len(taken) != RATE * SECONDS:
        raise NoLabError(f"{RATE * SECONDS - len(taken)} calls failed")
    return sorted(taken[caller] - own[caller] for caller in taken)


def bench(context: Context) -> Iterable[Row]:  # noqa: ARG001 - the lab is not needed
    """Measure for a minute."""
    if importlib.util.find_spec("requests") is None:
        raise NoLabError("there is no requests in .venv, which the peer needs: ./appliance up")
    python = sys.executable
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        script, settings = _install(folder), _settings(folder, CRM)
        stack.enter_context(_process(CRM, python, HERE / "slow_crm.py", CRM, 0))

        def server(port: int, crm: int) -> int:
            where = ("--settings", _settings(folder, crm), "--listen", f"127.0.0.1:{port}")
            return stack.enter_context(_process(port, python, "-IS", script, *where))

        ours = server(OURS, CRM)
        url = f"http://127.0.0.1:{CRM}"
        peer = stack.enter_context(
            _process(PEER, python, HERE / "naive_fastagi.py", PEER, url, TOKEN)
        )
        rates: tuple[list[float], list[float]] = ([], [])
        for _ in range(ROUNDS):
            rates[0].append(_calls_per_processor_second(OURS, ours))
            rates[1].append(_calls_per_processor_second(PEER, peer))
        served, naive = map(statistics.median, rates)
        script_seconds, import_seconds = _script_seconds(script, settings)
        unit = "calls/CPU-s"
        yield at_least("routing: FastAGI; peer: our script", served, 1 / script_seconds, 20, unit)
        yield at_least("routing: FastAGI; peer: FastAGI with requests", served, naive, 3, unit)
        work = "routing: processor time of the script for a call; peer: import asterisk.agi"
        yield at_most(work, script_seconds, import_seconds, 1.5)
        stack.enter_context(_undisturbed())
        stack.enter_context(_process(SLOW_CRM, python, HERE / "slow_crm.py", SLOW_CRM, CRM_SECONDS))
        server(SLOW, SLOW_CRM)
        late = _overheads(SLOW, SLOW_CRM)
        p99 = late[int(len(late) * 0.99)] * 1000
        yield limit("routing: 99 % over the CRM's own time, 100 calls/s, 50 at once", p99, 5, "ms")
