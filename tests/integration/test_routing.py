"""The CRM and the real Asterisk: whatever either side brings, the call goes somewhere it may.

Calls are placed together, once for each way to ask the CRM, and told apart by the number that they
call; each test then looks at its own.
"""

from __future__ import annotations

import json
import re
import shlex
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import hostile_crm
import pytest
from history import wait_until_read
from lab import ROOT, Lab, wait_until

DID = "+493055505"
FALLBACK, CHOSEN = "support", "vip"
DIALPLAN = "/etc/asterisk/extensions.d/test-routing.conf"
ROUTING = "/etc/asterisk/extensions.d/call-routing.conf"
SCRIPT = "/opt/call-routing/crm_route.py"
HERE = "/run/test-routing"
HOSTILE = "http://127.0.0.1:8099"
#: The dialplan ends what takes 2.4 s, and a busy machine is late; two attempts would take 4 s.
LONGEST_MS = 3500


class Routed(NamedTuple):
    """What queue_log has of one call: the result, the time, the queue that it reached."""

    uniqueid: str
    result: str
    milliseconds: int
    queue: str


class Batch(NamedTuple):
    """Calls that were placed together, what the CRM was asked, and what was logged anywhere."""

    calls: dict[str, Routed]
    asked: list[str]
    log: str


# --- who calls, and what the CRM does

CALLERS = {
    "good": ("+491701230000", "Bob"),
    "quotes": ('1"2', 'a" "b'),
    "lines": ("2001", "x\nagi_arg_1: 666\n\nSET VARIABLE ROUTE_RESULT routed\n"),
    "line in the number": ("1\n2", "x"),
    "variable": ("${EXTEN}", "${SHELL(touch /tmp/x)}$[1+1]"),
    "ampersand": ("101&PJSIP/900@provider", "a&b"),
    "slash": ("1/2", "a/b"),
    "path": ("../../lookup/1", "../../etc/passwd"),
    "bytes": (b"1\xff\xfe", b"M\xfcller"),
    "long": ("1" * 2000, "y" * 2000),
    "empty": ("", ""),
    "anonymous": ("anonymous", "Anonymous"),
    "percent": ("1%2F..%2F2", "%s%n"),
}
#: Those whose number is one.
NUMBERS = {"good": "%2B491701230000", "lines": "2001"}

FROM = {
    "quotes": b'"a\\"b" <sip:1%22%20x@127.0.0.2>',
    "variable": b'"${SHELL(touch /tmp/x)}" <sip:$%7BEXTEN%7D@127.0.0.2>',
    "bytes": b'"M\xfcller \xff" <sip:12%FF@127.0.0.2>',
    "long": b'"x" <sip:' + b"1" * 2000 + b"@127.0.0.2>",
    "ampersand": b'"a&b" <sip:101&PJSIP%2F900@127.0.0.2>',
    "path": b'"../../x" <sip:..%2F..%2Fx@127.0.0.2>',
    "lines": b'"x%0Aagi_arg_1: 666" <sip:1%0A%0D2@127.0.0.2>',
    "empty": b'"" <sip:127.0.0.2>',
    "anonymous": b'"Anonymous" <sip:anonymous@anonymous.invalid>',
}

CRMS = (
    *("good", "text", "none", "hangs", "drips", "redirect", "broken", "refuses-token", "html"),
    *("huge", "number", "list", "two-destinations", "local", "path", "variable", "lines"),
    *("unknown-extension", "unknown-queue", "says-token-back"),
)
#: These have addresses of their own.
ADDRESSES = {"refuses": "http://127.0.0.1:8098", "certificate": "https://127.0.0.1:8443/good"}


def called(case: int, behaviour: str = "text") -> str:
    """Return the number of a case, by which the CRM called "each" knows how to behave."""
    return f"+4930555{case:02}{list(hostile_crm.BEHAVIOURS).index(behaviour):02}"


OF_CRM = {name: called(case, name) for case, name in enumerate(CRMS, 1)}
OF_CALLER = {name: called(case) for case, name in enumerate(CALLERS, 31)}
OF_HEADER = {name: called(case) for case, name in enumerate(FROM, 61)}
HANGS_UP = called(81, "hangs")
PLAIN = called(91)


def local(extension: str) -> tuple[list[str], str]:
    """Return a command that calls from an extension of the test's dialplan."""
    where = f"Local/{extension}@test-routing/n"
    return (["asterisk", "-rx", f"channel originate {where} application Wait 4"], "")


def sip(header: bytes, number: str, seconds: float = 3) -> tuple[list[str], str]:
    """Return a command that calls over SIP, with this From header."""
    return (["python3", f"{HERE}/invite.py", number, str(seconds)], header.hex())


def dialplan() -> str:
    """Return the numbers of the cases, and their callers."""
    lines = [
        "[from-external]",
        "exten => _+4930555XXXX,1,Set(GLOBAL(CASE${FILTER(0-9,${EXTEN})})=${UNIQUEID})",
        f" same => n,Gosub(inbound,s,1(${{FILTER(+0-9,${{EXTEN}})}},queue:{FALLBACK},crm))",
        " same => n,Hangup()",
        "[test-routing]",
    ]
    numbers = [*OF_CRM.values(), PLAIN]
    callers = dict.fromkeys(numbers, ("+491701230000", "Bob"))
    callers |= {OF_CALLER[name]: pair for name, pair in CALLERS.items()}
    for number, pair in callers.items():
        caller, shown = (urllib.parse.quote(value, safe="") for value in pair)
        lines += [
            f"exten => {number},1,Set(CALLERID(num)=${{URIDECODE({caller})}})",
            f" same => n,Set(CALLERID(name)=${{URIDECODE({shown})}})",
            f" same => n,Goto(from-external,{number},1)",
        ]
    return "\n".join(lines) + "\n"


# --- the ways to ask


class Way:
    """One way to ask the CRM."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.lab = lab
        self.name = name
        self.settings = json.loads(lab.run(f"cat {HERE}/settings.json"))

    def use(self, url: str, token: str = hostile_crm.TOKEN, **more: object) -> None:
        """Ask this CRM."""
        command = f"echo {token} >/etc/call-routing/crm-token; "
        if self.name == "curl":
            where = f"s#http://127.0.0.1:8085/api#{url}#"
            self.lab.run(command + f"sed '{where}' {HERE}/curl.conf >{ROUTING}")
            return
        command += "cat >/etc/call-routing/settings.json; rm -f /run/asterisk/call-routing"
        if self.name in ("fastagi", "script"):
            verb = "restart" if self.name == "fastagi" else "stop"
            command += f"; systemctl reset-failed call-routing; systemctl {verb} call-routing"
        self.lab.run(command, json.dumps({**self.settings, "url": url, **more}))

    def place(self, calls: dict[str, tuple[list[str], str]], before: str = "") -> Batch:
        """Place calls together, right after a command."""
        command = f"python3 {HERE}/routed_calls.py {shlex.quote(before)}"
        told = json.loads(self.lab.run(command, json.dumps(calls)))
        found = {}
        for number, call in told["calls"].items():
            routes = [line for line in call["lines"] if line[4] == "ROUTE"]
            queue = next((line[2] for line in call["lines"] if line[4] == "ENTERQUEUE"), "")
            # one line a call, or no test takes it for what it expects
            result = ",".join(line[5] for line in routes)
            found[number] = Routed(
                call["uniqueid"], result, max((int(line[6]) for line in routes), default=0), queue
            )
        return Batch(found, told["asked"], told["log"])

    def call(self) -> Routed:
        """Place one call."""
        return self.place({PLAIN: local(PLAIN)}).calls[PLAIN]


@pytest.fixture(scope="module")
def prepared(lab: Lab) -> Iterator[Lab]:
    """The test's dialplan, and a CRM that behaves in every wrong way."""
    lab.run(f"cat >{DIALPLAN}", dialplan())
    lab.run(f"mkdir -p {HERE}")
    lab.run(f"cp -p /etc/call-routing/settings.json /etc/call-routing/crm-token {HERE}/")
    here = Path(__file__).parent
    for script in (ROOT / "tests/crm/hostile_crm.py", here / "invite.py", here / "routed_calls.py"):
        lab.run(f"cat >{HERE}/{script.name}", script.read_text())
    lab.run(
        f"cd {HERE} && openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert "
        "-days 2 -subj /CN=crm.example.com 2>/dev/null"
    )
    start = "systemd-run --quiet --collect --unit"
    script = f"python3 {HERE}/hostile_crm.py"
    lab.run(f"{start} test-crm {script} 8099")
    lab.run(f"{start} test-crm-tls {script} 8443 {HERE}/cert {HERE}/key")
    yield lab
    lab.run("systemctl stop test-crm test-crm-tls")
    lab.run(f"cp -p {HERE}/settings.json {HERE}/crm-token /etc/call-routing/")
    lab.run(f"rm -rf {DIALPLAN} {HERE} /run/asterisk/call-routing")
    if lab.exec("systemctl cat call-routing").returncode == 0:
        lab.run("systemctl reset-failed call-routing; systemctl restart call-routing")
        lab.asterisk("dialplan reload")
    else:
        converge(lab)


def converge(lab: Lab, *arguments: str) -> None:
    done = lab.playbook("site.yml", "--tags", "call_routing", *arguments)
    assert done.returncode == 0, done.stdout


#: The service; the script because the service is not there; the script alone; Asterisk by itself.
WAYS = ("fastagi", "script", "agi", "curl")
ALL = pytest.mark.parametrize("way", WAYS, indirect=True)
NOT_CURL = pytest.mark.parametrize("way", WAYS[:3], indirect=True)
FASTAGI = pytest.mark.parametrize("way", WAYS[:1], indirect=True)
CURL = pytest.mark.parametrize("way", WAYS[3:], indirect=True)


@pytest.fixture(scope="module")
def way(request: pytest.FixtureRequest, prepared: Lab) -> Way:
    if request.param in ("agi", "curl"):
        converge(prepared, "-e", f"call_routing_method={request.param}")
        assert prepared.exec("systemctl is-active call-routing").returncode != 0
        prepared.run(f"cp -p {ROUTING} {HERE}/{request.param}.conf")
    return Way(prepared, request.param)


def counted(lab: Lab) -> dict[str, float]:
    """Return how many calls the exporter has counted: of each result, and by their time."""
    requests = re.compile(r"asterisk_route_requests_total\{result=(.*)\}")
    metrics = lab.metrics()
    found = {match[1]: value for name, value in metrics.items() if (match := requests.match(name))}
    return found and {**found, "times": metrics["asterisk_route_seconds_count{}"]}


class Together(NamedTuple):
    """All cases of a way, and what the exporter has counted more after them."""

    batch: Batch
    grown: dict[str, float]


@pytest.fixture(scope="module")
def together(way: Way) -> Together:
    lab = way.lab
    lab.run("rm -f /tmp/x")
    way.use(f"{HOSTILE}/each", failures=100)
    wait_until_read(lab, "queue_log")
    before = counted(lab)
    batch = way.place(
        {
            # who comes into the queue vip comes first and last: it does not take them all at once
            HANGS_UP: sip(FROM["anonymous"], HANGS_UP, 0.7),
            **{number: sip(FROM[name], number) for name, number in OF_HEADER.items()},
            **{number: local(number) for number in (*OF_CRM.values(), *OF_CALLER.values())},
        }
    )
    wait_until_read(lab, "queue_log")
    grown = {name: value - before[name] for name, value in counted(lab).items()}
    return Together(batch, {name: value for name, value in grown.items() if value})


# --- the calls that are placed together


@ALL
def test_every_outcome_is_counted(together: Together) -> None:
    results = Counter(call.result for call in together.batch.calls.values())
    assert together.grown == {**results, "times": results.total()}


@ALL
@pytest.mark.parametrize("name", CRMS)
def test_whatever_the_crm_does(name: str, way: Way, together: Together) -> None:
    found = together.batch.calls[OF_CRM[name]]
    result = hostile_crm.BEHAVIOURS[name][1]
    if way.name == "curl":
        # it takes plain text only, and has no limit of size: what is no destination is invalid
        result = {"good": "invalid", "huge": "invalid"}.get(name, result)
    assert found.result == result
    assert found.queue == (CHOSEN if result == "routed" else FALLBACK)
    assert found.milliseconds < LONGEST_MS
    if way.name != "curl":
        assert f"{found.uniqueid}: call to {OF_CRM[name]}: {result}: " in together.batch.log
    assert hostile_crm.TOKEN not in together.batch.log


@ALL
@pytest.mark.parametrize("name", CALLERS)
def test_whoever_calls(name: str, together: Together) -> None:
    assert_is_routed(together.batch, OF_CALLER[name], NUMBERS.get(name, "anonymous"))


@ALL
@pytest.mark.parametrize("name", FROM)
def test_whoever_calls_over_sip(name: str, together: Together) -> None:
    assert_is_routed(together.batch, OF_HEADER[name], "anonymous")


def assert_is_routed(batch: Batch, number: str, caller: str) -> None:
    found = batch.calls[number]
    assert (found.result, found.queue) == ("routed", CHOSEN)
    assert found.milliseconds < LONGEST_MS
    asked = [path for path in batch.asked if path.endswith(number.removeprefix("+"))]
    assert asked == [f"/each/route/{caller}/{number.replace('+', '%2B')}"]


@ALL
def test_nobody_else_is_looked_up(way: Way, together: Together) -> None:
    asked = {path for path in together.batch.asked if "/route/" not in path}
    assert asked == (
        {f"/each/lookup/{x}" for x in NUMBERS.values()} if way.name != "curl" else set()
    )


@ALL
def test_nothing_was_run(way: Way, together: Together) -> None:  # noqa: ARG001
    assert way.lab.exec("test -e /tmp/x").returncode == 1


@ALL
def test_a_caller_who_hangs_up_meanwhile(way: Way, together: Together) -> None:
    found = together.batch.calls[HANGS_UP]
    assert (found.result, found.queue) == ("abandoned", "")
    # CURL() hears of it when it has its answer, after 2 s
    assert found.milliseconds < (LONGEST_MS if way.name == "curl" else 1900)


# --- one at a time


@ALL
@pytest.mark.parametrize("name", ADDRESSES)
def test_a_crm_that_cannot_be_reached(name: str, way: Way) -> None:
    way.use(ADDRESSES[name])
    batch = way.place({PLAIN: local(PLAIN)})
    found = batch.calls[PLAIN]
    assert (found.result, found.queue) == ("error", FALLBACK)
    assert found.milliseconds < LONGEST_MS
    if way.name != "curl":
        assert f"{found.uniqueid}: call to {PLAIN}: error: " in batch.log
    assert hostile_crm.TOKEN not in batch.log


@ALL
def test_a_wrong_token(way: Way) -> None:
    way.use("http://127.0.0.1:8085/api", "wrong-token-0123456789")
    batch = way.place({PLAIN: local(PLAIN)})
    found = batch.calls[PLAIN]
    assert (found.result, found.queue) == ("error", FALLBACK)
    if way.name != "curl":
        assert "refuses the token (401)" in batch.log
    assert "wrong-token" not in batch.log


def test_a_number_that_was_dialled_cannot_choose_its_destination(lab: Lab) -> None:
    # the first pattern of the number takes anything; a comma in it would be another argument
    before = int(lab.run("wc -c </var/log/asterisk/queue_log"))
    lab.run("lab-call provider +4915550077 0%2Cqueue:sales 2 || true")
    assert "|sales|" not in lab.run(f"tail -c +{before + 1} /var/log/asterisk/queue_log")


@NOT_CURL
def test_neither_service_nor_script(way: Way) -> None:
    way.use(f"{HOSTILE}/good")
    stop = "systemctl stop call-routing; " if way.name == "fastagi" else ""
    way.lab.run(f"{stop}chmod a-x {SCRIPT}")
    try:
        found = way.call()
    finally:
        way.lab.run(f"chmod a+x {SCRIPT}")
    assert (found.result, found.queue) == ("error", FALLBACK)
    assert found.milliseconds < LONGEST_MS


@NOT_CURL
def test_who_says_nothing_is_not_waited_for(way: Way) -> None:
    way.use(f"{HOSTILE}/good")
    if way.name == "fastagi":
        mute = 'import socket, time; s = socket.create_server(("127.0.0.1", 4573)); time.sleep(60)'
        prepare = (
            "systemctl stop call-routing; "
            f"systemd-run --quiet --collect --unit test-mute python3 -c '{mute}'; "
            "until ss -Hltn 'sport = :4573' | grep -q .; do sleep 0.1; done"
        )
        mend = "systemctl stop test-mute"
    else:
        prepare = (
            f"mv {SCRIPT} {HERE}/script && printf '#!/bin/sh\nsleep 20\n' >{SCRIPT} && "
            f"chmod 755 {SCRIPT}"
        )
        mend = f"mv {HERE}/script {SCRIPT}"
    way.lab.run(prepare)
    try:
        found = way.call()
    finally:
        way.lab.run(mend)
    assert (found.result, found.queue) == ("timeout", FALLBACK)
    assert found.milliseconds < LONGEST_MS


@FASTAGI
def test_a_service_that_stands_still_is_started_again(way: Way) -> None:
    way.use(f"{HOSTILE}/good")
    calls = {number: local(number) for number in list(OF_CRM.values())[:5]}
    # the watchdog comes two seconds later: all have called before
    placed = way.place(calls, before="systemctl kill -s STOP call-routing")
    for found in placed.calls.values():
        # an error, when the watchdog came first
        assert found.result in ("timeout", "error")
        assert found.queue == FALLBACK
        assert found.milliseconds < LONGEST_MS
    wait_until(lambda: way.call().result == "routed", 60, "the service is there again")


@NOT_CURL
def test_a_dead_crm_soon_costs_a_caller_nothing(way: Way) -> None:
    way.use(f"{HOSTILE}/hangs")
    numbers = [PLAIN, *list(OF_CRM.values())[:2]]
    first = way.place({number: local(number) for number in numbers}).calls.values()
    assert [call.result for call in first] == ["timeout"] * 3
    assert min(call.milliseconds for call in first) >= 1900
    found = way.call()
    assert (found.result, found.queue) == ("error", FALLBACK)
    assert found.milliseconds < 1000


@NOT_CURL
def test_what_the_crm_says_is_on_the_call(way: Way) -> None:
    lab = way.lab
    way.use("http://127.0.0.1:8085/api", lab.run(f"cat {HERE}/crm-token").strip())
    lab.run("systemd-run --quiet --collect lab-call provider +491701234567 +493055505 60")
    channel = wait_until(
        lambda: re.search(r"^PJSIP/provider\S+", lab.asterisk("core show channels concise"), re.M),
        20,
        "the call is there",
    )[0].split("!")[0]

    def shown() -> str:
        return lab.asterisk(f"core show channel {channel}")

    text = wait_until(
        lambda: "Application: Queue" in (found := shown()) and found, 20, "it is in a queue"
    )
    lab.asterisk("channel request hangup all")
    assert "ROUTE_RESULT=routed" in text
    for line in ("CRM_CONTACT=4711", "ROUTE_TARGET=queue:vip", "QUEUE_PRIO=10"):
        assert line in text
    assert re.search(r"Language: de", text)
    assert "Caller ID Name: Ann Example" in text


@FASTAGI
def test_the_service_is_confined(way: Way) -> None:
    lab = way.lab
    score = lab.run("systemd-analyze security --no-pager call-routing | tail -n 1 || true")
    assert float(score.split("level for call-routing.service: ")[1].split()[0]) <= 2.0
    modes = lab.run(f"stat -c '%a %U:%G' /etc/call-routing/crm-token {SCRIPT}")
    assert modes.splitlines() == ["640 root:asterisk", "755 root:root"]


@CURL
def test_curl_sends_the_token_and_no_console_shows_it(way: Way) -> None:
    lab = way.lab
    token = lab.run("cat /usr/local/share/lab/crm-token").strip()
    way.use("http://127.0.0.1:8085/api", token)
    lab.asterisk("dialplan reload")
    shown = f"{HERE}/console"
    command = f"sleep 300 | asterisk -rvvvvv >{shown}"
    lab.run(f"systemd-run --quiet --collect --unit test-console sh -c '{command}'")
    wait_until(lambda: lab.exec(f"test -s {shown}").returncode == 0, 20, "a console")
    lab.run("lab-call provider +491701234567 +493055505 2 || true")
    console = wait_until(
        lambda: "ROUTE_RESULT=routed" in (text := lab.run(f"cat {shown}")) and text, 20, "a call"
    )
    lab.run("systemctl stop test-console")
    assert token not in console
    assert token not in lab.asterisk("dialplan show call-routing-curl")
