"""An Asterisk of the bench's own in the lab machine, beside the one that is there.

It has its own configuration, state, socket and AMI port, few modules, and no SIP transport. It
listens on all addresses of that machine, for as long as the bench lasts, with a secret made for it.
"""

from __future__ import annotations

import contextlib
import io
import secrets
import subprocess
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from common import Context, NoLabError

from asterisk_exporter.ami.client import AmiClient, Deadline, Target
from asterisk_exporter.ami.protocol import encode_action

PORT = 15038
FOLDER = "/run/asterisk-bench"
MODULES = (
    "app_confbridge",
    "app_queue",
    "bridge_softmix",
    "func_cut",
    "pbx_config",
    "res_manager_devicestate",
    "res_pjproject",
    "res_pjsip",
    "res_pjsip_outbound_registration",
    "res_sorcery_astdb",
    "res_sorcery_config",
    "res_sorcery_memory",
)


@dataclass(frozen=True)
class Size:
    """How much there is to tell: ``members`` are those of each queue, ``pairs`` two channels."""

    queues: int
    members: int
    pairs: int


def configuration(size: Size, secret: str) -> dict[str, str]:
    """Return the files of the configuration by name."""
    queues = "".join(
        f"[queue-{queue}]\nstrategy = ringall\nservicelevel = 20\n"
        + "".join(
            f"member => Local/{queue * size.members + n}@member,0,Agent {n} of {queue}\n"
            for n in range(size.members)
        )
        for queue in range(size.queues)
    )
    directories = "".join(
        f"{name} => {FOLDER}\n"
        for name in ("astetcdir", "astdbdir", "astspooldir", "astrundir", "astlogdir", "astkeydir")
    )
    return {
        "asterisk.conf": f"[directories]\n{directories}[options]\nmaxfiles = 16384\n",
        "modules.conf": "[modules]\nautoload = no\n"
        + "".join(f"load = {module}.so\n" for module in MODULES),
        "manager.conf": f"[general]\nenabled = yes\nbindaddr = 0.0.0.0\nport = {PORT}\n"
        f"[exporter]\nsecret = {secret}\nwrite = reporting\n"
        f"[caller]\nsecret = {secret}\nwrite = originate\n",
        "queues.conf": f"[general]\n{queues}",
        "extensions.conf": "[member]\nexten => _X.,1,Congestion()\n"
        "[wait]\nexten => s,1,Answer()\n same => n,Wait(86400)\n",
        "logger.conf": "[general]\n[logfiles]\n",
        "confbridge.conf": "[general]\n",
        "pjsip.conf": "",
    }


def archive(files: dict[str, str]) -> bytes:
    """Return the files as a tar archive."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o600
            tar.addfile(entry, io.BytesIO(text.encode()))
    return data.getvalue()


def remotely(context: Context, script: str, data: bytes = b"") -> str:
    """Run a shell script on the machine. Raises NoLabError when it fails."""
    done = subprocess.run(
        [*context.prefix, "sh", "-c", script], input=data, capture_output=True, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        raise NoLabError(f"a command failed on the machine with Asterisk: {said}")
    return done.stdout.decode(errors="replace")


@contextlib.contextmanager
def asterisk(context: Context, size: Size) -> Iterator[Target]:
    """Start an Asterisk of this size, yield its AMI, and end it."""
    if not context.address:
        raise NoLabError("there is no lab in this clone; bring it up with: ./appliance up")
    secret = secrets.token_hex(16)
    end = (
        f"if [ -d {FOLDER} ]; then asterisk -C {FOLDER}/asterisk.conf -rx 'core stop now' "
        f">/dev/null 2>&1 || true; i=0; while [ -e {FOLDER}/asterisk.ctl ] && [ $i -lt 50 ]; "
        f"do sleep 0.1; i=$((i + 1)); done; rm -rf {FOLDER}; fi"
    )
    start = (
        f"{end}; mkdir -m 700 {FOLDER} && tar -x -C {FOLDER} && "
        f"asterisk -C {FOLDER}/asterisk.conf >/dev/null 2>&1 </dev/null; i=0; "
        f"until asterisk -C {FOLDER}/asterisk.conf -rx 'core waitfullybooted' | grep -q booted; "
        "do [ $i -lt 100 ] || exit 1; sleep 0.1; i=$((i + 1)); done"
    )
    try:
        remotely(context, start, archive(configuration(size, secret)))
        target = Target(context.address, PORT, "exporter", secret)
        _originate(Target(context.address, PORT, "caller", secret), size.pairs)
        _wait_for_channels(target, 2 * size.pairs)
        yield target
    finally:
        remotely(context, end)


def _originate(target: Target, pairs: int) -> None:
    """Make channels. The exporter's client refuses to, so this speaks over its socket."""
    client = AmiClient.connect(target, Deadline(5))
    for number in range(pairs):
        client._sock.sendall(
            encode_action(
                (
                    ("Action", "Originate"),
                    ("ActionID", f"bench-{number}"),
                    ("Channel", "Local/s@wait/n"),
                    ("Application", "Wait"),
                    ("Data", "86400"),
                    ("Async", "true"),
                )
            )
        )
        # each answers before the next is asked, so that the thread that makes channels keeps up
        while not client._splitter.feed(client._sock.recv(1 << 16)):
            pass
    client.close()


def _wait_for_channels(target: Target, channels: int) -> None:
    deadline = Deadline(60)
    client = AmiClient.connect(target, Deadline(5))
    while True:
        [reply] = client.request(["CoreStatus"], Deadline(5))
        if int(reply.message().get("CoreCurrentCalls")) >= channels:
            break
        if not deadline.remaining():
            raise NoLabError(f"{channels} channels did not come up: {reply.message().headers}")
        time.sleep(0.2)
    client.close()
