"""Real calls that leave queues in every way there is, and a ledger of what must be counted.

The ledger says what callers and agents did: what the table below made them do, checked against
what the agents' phones saw. Nothing in it is read back from Asterisk's records.
"""

from __future__ import annotations

import json
import re
import textwrap
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from lab import HOST, ROOT, Lab, wait_until

HERE = Path(__file__).parent
ROLE = yaml.safe_load((ROOT / "roles/pbx/defaults/main.yml").read_text())
INVENTORY = yaml.safe_load((ROOT / "inventory/lab/group_vars/pbx.yml").read_text())
ADDED = yaml.safe_load((HERE / "visits.yml").read_text())

#: The number to call for each destination; `closed` is in visits-extensions.conf.
NUMBERS = {route["to"]: route["did"] for route in ADDED["pbx_inbound_routes"]} | {
    "queue:closed": "+493055522",
    "default": "+493055599",
}

#: Where things are on the lab machine.
WORK = "/run/visits"
SCENARIOS = "/usr/local/share/lab"
DIALPLAN = "/etc/asterisk/extensions.d/visits.conf"
QUEUE_LOG = "/var/log/asterisk/queue_log"

#: Runs the script that comes on its standard input, which SIPp would otherwise swallow.
SHELL = "script=$(mktemp) && trap 'rm $script' EXIT && cat >$script && sh $script </dev/null"

LOCAL_MEMBER = "Local/112@phones/n"

#: What each phone does: a SIPp scenario, and the milliseconds that it rings where it lets one say.
PHONES: dict[str, tuple[str, int | None]] = {
    "111": (f"{SCENARIOS}/phone.xml", 1000),
    "112": (f"{WORK}/hangs-up.xml", None),
    "113": (f"{WORK}/refers.xml", None),
    "114": (f"{WORK}/consults.xml", None),
    "115": (f"{SCENARIOS}/phone.xml", 3_600_000),
    "116": (f"{SCENARIOS}/phone.xml", 3_600_000),
    "117": (f"{WORK}/busy.xml", None),
    "118": (f"{SCENARIOS}/phone.xml", 3_600_000),
    "119": (f"{SCENARIOS}/phone.xml", 3_600_000),
    "120": (f"{SCENARIOS}/phone.xml", 3_600_000),
}

#: Exits that app_queue counts in its `Abandoned`.
COUNTED_AS_ABANDONED = {"abandoned", "timeout", "empty", "withdrawn", "incompatible"}

#: Callers whom app_queue never let in.
REFUSED = {"full", "join_empty", "closed"}


#: Why a call was missed, where that has another name than how it left the queue.
MISSED = {"join_empty": "empty", "lost": "failed"}


@dataclass(frozen=True)
class Row:
    """Calls that all go the same way. Times are in seconds."""

    name: str
    to: str
    calls: int
    #: The caller hangs up so long after the call is up; a queue's dialplan answers at once.
    patience: float
    #: How the visit ends: answered, or a reason. Of calls to no queue: answered, or why missed.
    end: str
    #: The visit that comes next: (queue, how it ends).
    then: tuple[str, str] | None = None
    #: The phone that must have answered, and the one that must have rung in vain.
    agent: str | None = None
    ignored_by: str | None = None
    #: Answered when the service level was over; abandoned within the time for short ones.
    late: bool = False
    short: bool = False
    start: float = 0
    every: float = 0.1
    scenario: str = f"{SCENARIOS}/provider.xml"
    #: The row whose callers call again.
    callers_of: str | None = None
    #: SIPp's own verdict; a refused call counts as failed there. None: whatever it is.
    status: int | None = 0

    @property
    def visits(self) -> list[tuple[str, str]]:
        """All of (queue, how the visit ends)."""
        kind, _, name = self.to.partition(":")
        first = {"queue": name, "default": ADDED["pbx_default_queue"]}.get(kind)
        if first is None or self.end == "ivr_hangup":
            return []
        return [(first, self.end), *([self.then] if self.then else [])]

    @property
    def missed(self) -> str | None:
        """Why nobody spoke to the caller; None when somebody did."""
        return None if self.agent else MISSED.get(self.end, self.end)


@dataclass(frozen=True)
class Epoch:
    """Rows that run at once, and commands that run meanwhile: (seconds, shell command)."""

    name: str
    rows: tuple[Row, ...]
    commands: tuple[tuple[float, str], ...] = ()


def asterisk(command: str) -> str:
    return f"asterisk -rx '{command}'"


SOON = (
    Row("agent ends", "queue:agent-ends", 4, 30, "answered", agent="112", every=1.2),
    Row("caller ends", "queue:caller-ends", 4, 8, "answered", agent="111", every=1.2),
    Row("abandoned", "queue:nobody", 4, 8, "abandoned"),
    Row("timeout", "queue:nobody", 4, 30, "timeout"),
)

RING_ALL = ("ring-all", "answered")

EVERY_WAY = Epoch(
    "every way",
    (
        Row("agent ends", "queue:agent-ends", 40, 60, "answered", agent="112", every=1.2),
        Row("caller ends", "queue:caller-ends", 40, 8, "answered", agent="111", every=1.2),
        Row("transfer", "queue:transfers", 12, 12, "answered", agent="113", every=3),
        Row("consultation", "queue:consults", 8, 24, "answered", agent="114", every=4),
        Row("rings all", "queue:ring-all", 12, 60, "answered", agent="112", every=2.5),
        Row("local member", "queue:local-member", 12, 60, "answered", agent="112", every=2.5),
        Row("after a prompt", "default", 10, 60, "answered", agent="112", every=2.5),
        Row("abandoned", "queue:nobody", 40, 8, "abandoned"),
        Row("short", "queue:nobody", 40, 2.5, "abandoned", short=True, start=1),
        Row("timeout", "queue:nobody", 30, 30, "timeout", start=2),
        Row("key", "queue:nobody", 15, 20, "key", start=3, scenario=f"{WORK}/presses-1.xml"),
        Row("withdrawn", "queue:nobody", 15, 30, "withdrawn"),
        Row("voicemail next", "queue:records", 6, 9, "timeout"),
        Row("queue next", "queue:spills", 6, 60, "timeout", RING_ALL, agent="112", every=4),
        Row("empty", "queue:emptying", 12, 60, "empty"),
        Row("join empty", "queue:emptying", 15, 60, "join_empty", start=10),
        Row("fills", "queue:full", 1, 15, "abandoned"),
        Row("full", "queue:full", 15, 60, "full", start=6),
        Row("closed", "queue:closed", 15, 60, "closed"),
        Row(
            "ignored, answered",
            "queue:ignored",
            10,
            60,
            "answered",
            agent="112",
            ignored_by="115",
            late=True,
            every=5,
        ),
        Row(
            "ignored, abandoned",
            "queue:ignored-alone",
            5,
            7.5,
            "abandoned",
            ignored_by="115",
            every=10,
        ),
        Row("hangs up in the prompt", "default", 8, 2.5, "ivr_hangup"),
        Row("extension", "extension:111", 6, 5, "answered", agent="111"),
        Row("voicemail", "extension:115", 5, 20, "voicemail"),
        Row("no answer", "extension:116", 5, 30, "no_answer", status=1),
        Row("gives up", "extension:116", 4, 3, "no_answer"),
        Row("busy", "extension:117", 5, 30, "busy", status=1),
        Row(
            "calls again",
            "queue:agent-ends",
            3,
            60,
            "answered",
            agent="112",
            start=50,
            every=1.2,
            callers_of="abandoned",
        ),
    ),
    (
        (7, f"python3 {WORK}/withdraw.py nobody {{withdrawn}}"),
        (6, asterisk("queue pause member PJSIP/121 queue emptying")),
        (19, asterisk("queue unpause member PJSIP/121 queue emptying")),
        (20, asterisk("queue reload all")),
        (25, asterisk("core reload")),
        (3, "lab-call extension 101 102 10"),
        # 0 is the way out, 00 the way abroad: a missed caller is called back.
        (40, "lab-call extension 102 000{called_back} 10"),
    ),
)

AFTER_THE_RESET = Epoch("after the reset", SOON)

KILLED = Epoch(
    "killed",
    (
        Row("lost", "queue:nobody", 6, 14, "lost", status=None),
        Row(
            "talking",
            "queue:caller-ends",
            3,
            12,
            "answered",
            agent="111",
            every=1.2,
            status=None,
        ),
    ),
    ((7, "systemctl kill --signal=KILL --kill-whom=main asterisk"),),
)

AFTER_THE_START = Epoch("after the start", SOON)


@dataclass(frozen=True)
class Call:
    """One call of the ledger."""

    caller: str
    row: Row
    epoch: str

    @property
    def destination(self) -> str | None:
        """The first queue; None when it reached none."""
        return self.row.visits[0][0] if self.row.visits else None


@dataclass
class Ledger:
    """What happened, as callers and agents saw it."""

    calls: list[Call] = field(default_factory=list)
    #: (queue, member) -> times that the member's phone rang in vain.
    ring_no_answer: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: Epoch -> queue -> Abandoned of app_queue at the epoch's end, counted since it began.
    app_queue_abandoned: dict[str, dict[str, int]] = field(default_factory=dict)
    #: Missed callers with whom somebody spoke later, by number.
    spoken: set[str] = field(default_factory=set)

    @property
    def visits(self) -> list[tuple[Call, str, str]]:
        """All of (call, queue, how the visit ended), refused ones included."""
        return [(call, queue, end) for call in self.calls for queue, end in call.row.visits]

    @property
    def queues(self) -> set[str]:
        return {queue for _, queue, _ in self.visits}

    def offered(self) -> Counter[str]:
        return Counter(queue for _, queue, _ in self.visits)

    def answered(self) -> Counter[str]:
        return Counter(queue for _, queue, end in self.visits if end == "answered")

    def answered_in_service_level(self) -> Counter[str]:
        return Counter(q for c, q, end in self.visits if end == "answered" and not c.row.late)

    def unanswered(self) -> Counter[tuple[str, str]]:
        return Counter((queue, end) for _, queue, end in self.visits if end != "answered")

    def short_abandoned(self) -> Counter[str]:
        return Counter(q for c, q, end in self.visits if end == "abandoned" and c.row.short)

    def missed(self) -> Counter[tuple[str | None, str]]:
        """(destination, reason) -> calls."""
        return Counter((c.destination, c.row.missed) for c in self.calls if c.row.missed)

    @property
    def recorded(self) -> list[Call]:
        """The calls with records: Asterisk writes them at a call's end, if it lives so long."""
        return [call for call in self.calls if call.epoch != KILLED.name]

    def abandoned_in_app_queue(self, epoch: str) -> Counter[str]:
        return Counter(
            queue
            for call, queue, end in self.visits
            if call.epoch == epoch and end in COUNTED_AS_ABANDONED
        )


# --- the lab with more queues and phones ---------------------------------------------------------


def settings() -> dict[str, Any]:
    """Return the variables of the role pbx: those of the lab, and visits.yml on top."""
    own = ROLE | INVENTORY
    return {
        name: own[name] + more if isinstance(more, list) else more for name, more in ADDED.items()
    }


def configure(lab: Lab, *arguments: str) -> None:
    result = lab.playbook("site.yml", "--tags", "pbx_configure", *arguments)
    assert result.returncode == 0, result.stdout + result.stderr


def phone_command(extension: str) -> str:
    """Register one phone and start it, from the port that it listens on."""
    scenario, rings = PHONES[extension]
    common = f"-i 127.0.0.1 -p 5{extension} -nostdin"
    return textwrap.dedent(
        f"""
        sipp 127.0.0.1:5060 -sf {SCENARIOS}/register.xml {common} -inf login-{extension} -m 1 -aa \\
            -recv_timeout 5000 >register-{extension}.out 2>&1
        systemd-run --quiet --collect --unit=visits-phone-{extension} --working-directory={WORK} \\
            --property=StandardOutput=null sipp 127.0.0.1:5060 -sf {scenario} {common} \\
            -aa -rtp_echo -min_rtp_port 3{extension}0 {f"-recv_timeout {rings}" if rings else ""} \\
            -trace_logs -log_file {WORK}/{extension}.log
        """
    )


def write(path: str, text: str) -> str:
    """Return the shell command that writes a file."""
    return f"cat >{path} <<'END_OF_FILE'\n{text.rstrip()}\nEND_OF_FILE\n"


def login(extension: str) -> str:
    """SIPp's injection file of one phone, as in phones.csv of the lab."""
    secret = (ROOT / ".lab/secrets" / HOST / f"phone-{extension}").read_text().strip()
    return f"SEQUENTIAL\n{extension};[authentication username={extension} password={secret}]"


def start(lab: Lab) -> None:
    """Start the phones and the dialplan of the tests."""
    script = [f"set -eu; mkdir -p {WORK} {Path(DIALPLAN).parent}; cd {WORK}"]
    files = [*HERE.glob("sipp/*.xml"), HERE / "withdraw.py"]
    script += [write(file.name, file.read_text()) for file in files]
    script.append(write(DIALPLAN, (HERE / "visits-extensions.conf").read_text()))
    for extension in PHONES:
        script += [write(f"login-{extension}", login(extension)), phone_command(extension)]
    script.append(asterisk("dialplan reload"))
    script.append(asterisk(f"queue add member {LOCAL_MEMBER} to local-member"))
    lab.run(SHELL, stdin="\n".join(script))
    wait_until(lambda: phones_reachable(lab), 60, "Asterisk reaches the phones")


def phones_reachable(lab: Lab) -> bool:
    """Tell whether all can be called; those that were deaf as they started are asked again."""
    contacts = lab.asterisk("pjsip show contacts")
    deaf = [e for e in PHONES if not re.search(rf"\b{e}/sip:\S+\s+\S+\s+Avail", contacts)]
    lab.run("; ".join([asterisk(f"pjsip qualify {e}") for e in deaf] or ["true"]))
    return not deaf


def stop(lab: Lab) -> None:
    """Leave nothing of the tests but records."""
    boxes = " ".join(
        f"/var/spool/asterisk/voicemail/default/{p['extension']}" for p in ADDED["pbx_phones"]
    )
    lab.exec(asterisk(f"queue remove member {LOCAL_MEMBER} from local-member"))
    lab.run(f"systemctl stop 'visits-*'; rm -rf {WORK} {DIALPLAN} {boxes}")
    lab.asterisk("dialplan reload")


@contextmanager
def more_queues(lab: Lab) -> Iterator[None]:
    """Give the lab the queues and phones of visits.yml for a while."""
    configure(lab, "-e", json.dumps(settings()))
    try:
        start(lab)
        yield
    finally:
        stop(lab)
        configure(lab)
        # It would tell the state of a phone that it no longer has until its next start.
        lab.run("systemctl restart asterisk")
        lab.wait_until_well()


# --- one epoch -----------------------------------------------------------------------------------


def numbers(epoch: int, row: int, calls: int) -> list[str]:
    """Return callers of one row: no two calls of all runs have the same (while 27 hours pass)."""
    return [f"+49155{int(time.time()) % 100_000:05}{epoch}{row:02}{n:02}" for n in range(calls)]


def sipp_command(index: int, row: Row, calls: int) -> str:
    """Place all calls of one row, and say how SIPp liked it."""
    provider = INVENTORY["lab_provider_address"]
    return textwrap.dedent(
        f"""
        (
            sleep {row.start}
            status=0
            sipp 127.0.0.1:5060 -sf {row.scenario} -i {provider} -p {7000 + index} \\
                -min_rtp_port {21000 + 10 * index} -inf callers-{index} -m {calls} -l {calls} \\
                -r 1 -rp {int(row.every * 1000)} -recv_timeout {int(row.patience * 1000)} \\
                -nostdin -rtp_echo -trace_err -error_file errors-{index} >output-{index} 2>&1 ||
                status=$?
            echo "{index} $status"
            cat errors-{index} >&2 2>/dev/null || true
        ) &
        """
    )


def callers(epoch: int, rows: tuple[Row, ...], scale: float) -> dict[str, list[str]]:
    """Row -> its callers."""
    result: dict[str, list[str]] = {}
    for index, row in enumerate(rows):
        calls = max(1, round(row.calls * scale))
        again = result[row.callers_of][:calls] if row.callers_of else None
        result[row.name] = again or numbers(epoch, index, calls)
    return result


def play(lab: Lab, number: int, epoch: Epoch, scale: float) -> list[Call]:
    """Make all calls of one epoch, and return them when they are over."""
    by_row = callers(number, epoch.rows, scale)
    words = {
        "withdrawn": " ".join(by_row.get("withdrawn", [])),
        "called_back": by_row["abandoned"][-1].lstrip("+") if "abandoned" in by_row else "",
    }
    script = [f"cd {WORK}; rm -f errors-*"]
    for index, row in enumerate(epoch.rows):
        lines = [f"{caller};{NUMBERS[row.to]}" for caller in by_row[row.name]]
        script.append(write(f"callers-{index}", "\n".join(["SEQUENTIAL", *lines])))
        script.append(sipp_command(index, row, len(lines)))
    script += [f"(sleep {at}; {command.format(**words)} >&2) &" for at, command in epoch.commands]
    script.append("wait")
    result = lab.exec(SHELL, stdin="\n".join(script))
    for line in result.stdout.splitlines():
        index, status = map(int, line.split())
        row = epoch.rows[index]
        assert row.status in {None, status}, f"{row.name}: SIPp says {status}\n{result.stderr}"
    return [Call(caller, row, epoch.name) for row in epoch.rows for caller in by_row[row.name]]


def seen_by_phones(lab: Lab) -> Counter[tuple[str, str, str]]:
    """(what, extension, caller), of the phones' own logs."""
    logs = lab.run(f"cd {WORK}; grep -H . *.log || true")
    found = re.findall(r"^(\d+)\.log:(\w+)\s.*?sip:([+\d]+)@", logs, re.MULTILINE)
    return Counter((what, extension, caller) for extension, what, caller in found)


def check_phones(calls: list[Call], seen: Counter[tuple[str, str, str]]) -> None:
    """Check that whoever should have spoken to a caller did, and nobody else."""
    meant = Counter(("answered", c.row.agent, c.caller) for c in calls if c.row.agent)
    meant += Counter(("cancelled", c.row.ignored_by, c.caller) for c in calls if c.row.ignored_by)
    # 111 is whom 113 and 114 transfer to; whom 114 consults sees 114 call.
    meant += Counter(("answered", "111", c.caller) for c in calls if c.row.agent == "113")
    meant += Counter(("answered", "111", "114") for c in calls if c.row.agent == "114")
    callers = {c.caller for c in calls if c.row.visits or c.row.agent} | {c for _, _, c in meant}
    # An extension or a fourth phone that rings in vain is no agent who ignores a caller.
    was = Counter(
        {
            (what, extension, caller): times
            for (what, extension, caller), times in seen.items()
            if caller in callers and (what == "answered" or extension == "115")
        }
    )
    assert was == meant, f"not as meant: missing {meant - was}, too many {was - meant}"


def abandoned(lab: Lab) -> dict[str, int]:
    """Abandoned of each queue, as app_queue counts it."""
    shown = lab.asterisk("queue show")
    return {q: int(a) for q, a in re.findall(r"^(\S+) has .*, A:(\d+),", shown, re.MULTILINE)}


def is_booted(lab: Lab) -> bool:
    return lab.exec(asterisk("core waitfullybooted")).returncode == 0


def run(lab: Lab, scale: float = 1) -> Ledger:
    """Make all the calls; the lab has ``more_queues``. Scale 1: 409 visits, 2 minutes."""
    ledger = Ledger()
    lab.asterisk("queue reset stats")
    for number, epoch in enumerate((EVERY_WAY, AFTER_THE_RESET, KILLED, AFTER_THE_START)):
        calls = play(lab, number, epoch, scale)
        if epoch is KILLED:
            wait_until(lambda: is_booted(lab), 60, "Asterisk is started again")
            wait_until(lambda: phones_reachable(lab), 60, "Asterisk reaches the phones again")
        lab.wait_until_quiet()
        seen = seen_by_phones(lab)
        check_phones(calls, seen)
        ledger.calls += calls
        for call in calls:
            if call.row.ignored_by:
                member = f"PJSIP/{call.row.ignored_by}"
                rang = seen["cancelled", call.row.ignored_by, call.caller]
                ledger.ring_no_answer[call.row.visits[0][0], member] += rang
        if epoch is not KILLED:
            ledger.app_queue_abandoned[epoch.name] = abandoned(lab)
        if epoch is EVERY_WAY:
            ledger.spoken |= {c.caller for c in calls if c.row.callers_of}
            ledger.spoken.add([c for c in calls if c.row.name == "abandoned"][-1].caller)
            lab.asterisk("queue reset stats")
    return ledger
