"""The CRM and the real Asterisk: whatever either side brings, the call goes somewhere it may."""

from __future__ import annotations

import json
import re
import shlex
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import hostile_crm
import pytest
from lab import ROOT, Lab, wait_until

DID = "+493055505"
FALLBACK, CHOSEN = "support", "vip"
DIALPLAN = "/etc/asterisk/extensions.d/test-routing.conf"
HOSTILE = "http://127.0.0.1:8099"
LONGEST_MS = 2500
INVITE = (Path(__file__).parent / "invite.py").read_text()


class Routed(NamedTuple):
    """What queue_log has of one call: the result, the time, the queue that it reached."""

    result: str
    milliseconds: int
    queue: str


class Calls:
    """Places calls to the number that the CRM is asked about."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    def place(self, name: str = "good") -> Routed:
        """Call from an extension of the test's dialplan."""
        before = self._log()
        self.lab.asterisk(f"channel originate Local/{name}@test-routing/n application Wait 9")
        return self.outcome(before)

    def outcome(self, before: int) -> Routed:
        """Wait until the newest call is in a queue, end it, and say what became of it."""

        def look() -> Routed | None:
            lines = [line.split("|") for line in self.lab.run(LOG).splitlines()[before:]]
            routes = [line for line in lines if line[4] == "ROUTE"]
            if not routes:
                return None
            assert len(routes) == 1, routes
            [queue] = [
                line[2] for line in lines if line[1] == routes[0][1] and line[4] == "ENTERQUEUE"
            ] or [""]
            return Routed(routes[0][5], int(routes[0][6]), queue) if queue else None

        found = wait_until(look, 8, "the call is in a queue")
        self.lab.asterisk("channel request hangup all")
        return found

    def _log(self) -> int:
        return len(self.lab.run(LOG).splitlines())


LOG = "LC_ALL=C tr -d '\\200-\\377' </var/log/asterisk/queue_log | grep '|.*|.*|.*|'"


def invite(calls: Calls, header: bytes) -> Routed:
    """Call over SIP, with this From header."""
    before = calls._log()
    hexed = header.hex()
    code = shlex.quote(INVITE)
    calls.lab.run(
        f"echo {hexed} | python3 -c 'import sys; sys.stdout.buffer.write(bytes.fromhex("
        f"sys.stdin.read()))' | systemd-run --quiet --pipe --collect python3 -c {code} {DID} 4 "
        ">/dev/null 2>&1 &"
    )
    return calls.outcome(before)


CALLERS = {
    "good": ("+491701230000", "Bob"),
    "quotes": ('1"2', 'a" "b'),
    "lines": ("12", "x\nagi_arg_1: 666\n\nSET VARIABLE ROUTE_RESULT routed\n"),
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


def extension(name: str) -> str:
    return re.sub("[^a-z]", "-", name)


@pytest.fixture(scope="module")
def calls(lab: Lab) -> Iterator[Calls]:
    """The test's dialplan, and a CRM that behaves in every wrong way."""
    quoted = {
        extension(name): [urllib.parse.quote(value, safe="") for value in pair]
        for name, pair in CALLERS.items()
    }
    lines = ["[test-routing]"]
    for name, (number, shown) in quoted.items():
        lines += [
            f"exten => {name},1,Set(CALLERID(num)=${{URIDECODE({number})}})",
            f" same => n,Set(CALLERID(name)=${{URIDECODE({shown})}})",
            f" same => n,Goto(from-external,{DID},1)",
        ]
    lab.run(f"cat >{DIALPLAN}", "\n".join(lines) + "\n")
    lab.asterisk("dialplan reload")
    lab.run("mkdir -p /run/test-routing")
    lab.run("cp -p /etc/call-routing/settings.json /etc/call-routing/crm-token /run/test-routing/")
    server = (ROOT / "tests/crm/hostile_crm.py").read_text()
    lab.run("cat >/run/test-routing/hostile_crm.py", server)
    lab.run(
        "cd /run/test-routing && openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert "
        "-days 2 -subj /CN=crm.example.com 2>/dev/null"
    )
    start = "systemd-run --quiet --collect --unit"
    script = "python3 /run/test-routing/hostile_crm.py"
    lab.run(f"{start} test-crm {script} 8099")
    lab.run(f"{start} test-crm-tls {script} 8443 /run/test-routing/cert /run/test-routing/key")
    yield Calls(lab)
    lab.run("systemctl stop test-crm test-crm-tls")
    lab.run("cp -p /run/test-routing/settings.json /run/test-routing/crm-token /etc/call-routing/")
    lab.run(f"rm -rf {DIALPLAN} /run/test-routing /run/asterisk/call-routing")
    lab.run("systemctl reset-failed call-routing; systemctl restart call-routing")
    lab.asterisk("dialplan reload")


@pytest.fixture(params=["fastagi", "agi"])
def way(request: pytest.FixtureRequest, calls: Calls) -> Callable[..., str]:
    """Ask this CRM, by the service or, while it is not there, by the script; return since when."""

    def use(url: str, token: str = hostile_crm.TOKEN) -> str:
        lab = calls.lab
        settings = json.loads(lab.run("cat /run/test-routing/settings.json"))
        lab.run("cat >/etc/call-routing/settings.json", json.dumps({**settings, "url": url}))
        lab.run("cat >/etc/call-routing/crm-token", token + "\n")
        lab.run("rm -f /run/asterisk/call-routing; systemctl reset-failed call-routing; true")
        verb = "restart" if request.param == "fastagi" else "stop"
        lab.run(f"systemctl {verb} call-routing")
        return lab.run("date +'%F %T.%6N'").strip()

    return use


def logged(lab: Lab, since: str) -> str:
    """What was logged anywhere, since then."""
    return lab.run(
        f"journalctl --no-pager -o cat -u call-routing -t crm_route -S '{since}'; "
        f"journalctl --no-pager -o cat -S '{since}'; cat /var/log/asterisk/messages.log"
    )


CRMS = {
    "good": (f"{HOSTILE}/good", "routed"),
    "text": (f"{HOSTILE}/text", "routed"),
    "no opinion": (f"{HOSTILE}/none", "no_route"),
    "refuses": ("http://127.0.0.1:8098", "error"),
    "certificate": ("https://127.0.0.1:8443/good", "error"),
    **{
        name: (f"{HOSTILE}/{name}", hostile_crm.BEHAVIOURS[name][1])
        for name in (
            *("hangs", "drips", "redirect", "broken", "refuses-token", "html", "huge", "number"),
            *("list", "two-destinations", "local", "path", "variable", "lines"),
            *("unknown-extension", "unknown-queue", "says-token-back"),
        )
    },
}


@pytest.mark.parametrize("name", CRMS)
def test_whatever_the_crm_does(name: str, calls: Calls, way: Callable[..., str]) -> None:
    url, result = CRMS[name]
    since = way(url)
    found = calls.place()
    assert found.result == result
    assert found.queue == (CHOSEN if result == "routed" else FALLBACK)
    assert found.milliseconds < LONGEST_MS
    text = logged(calls.lab, since)
    assert f": {result}: " in text
    assert hostile_crm.TOKEN not in text


def test_a_wrong_token(calls: Calls, way: Callable[..., str]) -> None:
    since = way("http://127.0.0.1:8085/api", "wrong-token-0123456789")
    assert calls.place()[::2] == ("error", FALLBACK)
    text = logged(calls.lab, since)
    assert "refuses the token (401)" in text
    assert "wrong-token" not in text


def asked(lab: Lab, since: str) -> list[str]:
    return [
        line
        for line in lab.run(f"journalctl --no-pager -o cat -u test-crm -S '{since}'").splitlines()
        if line.startswith("/")
    ]


@pytest.mark.parametrize("name", CALLERS)
def test_whoever_calls(name: str, calls: Calls, way: Callable[..., str]) -> None:
    since = way(f"{HOSTILE}/text")
    calls.lab.run("rm -f /tmp/x")
    found = calls.place(extension(name))
    assert found[::2] == ("routed", CHOSEN)
    assert found.milliseconds < LONGEST_MS
    numbers = {"good": "%2B491701230000", "lines": "12"}
    wanted = [f"/text/route/{numbers.get(name, 'anonymous')}/%2B493055505"]
    if name in numbers:
        wanted.append(f"/text/lookup/{numbers[name]}")
    wait_until(lambda: asked(calls.lab, since), 3, "the CRM was asked")
    assert asked(calls.lab, since) == wanted
    assert calls.lab.exec("test -e /tmp/x").returncode == 1


@pytest.mark.parametrize(
    "header",
    [
        b'"a\\"b" <sip:1%22%20x@127.0.0.2>',
        b'"${SHELL(touch /tmp/x)}" <sip:$%7BEXTEN%7D@127.0.0.2>',
        b'"M\xfcller \xff" <sip:12%FF@127.0.0.2>',
        b'"x" <sip:' + b"1" * 2000 + b"@127.0.0.2>",
        b'"a&b" <sip:101&PJSIP%2F900@127.0.0.2>',
        b'"../../x" <sip:..%2F..%2Fx@127.0.0.2>',
        b'"x%0Aagi_arg_1: 666" <sip:1%0A%0D2@127.0.0.2>',
        b'"" <sip:127.0.0.2>',
        b'"Anonymous" <sip:anonymous@anonymous.invalid>',
    ],
    ids=["quotes", "variable", "bytes", "long", "ampersand", "path", "lines", "empty", "anonymous"],
)
def test_whoever_calls_over_sip(header: bytes, calls: Calls, way: Callable[..., str]) -> None:
    since = way(f"{HOSTILE}/text")
    calls.lab.run("rm -f /tmp/x")
    found = invite(calls, header)
    assert found[::2] == ("routed", CHOSEN)
    assert found.milliseconds < LONGEST_MS
    wait_until(lambda: asked(calls.lab, since), 3, "the CRM was asked")
    assert asked(calls.lab, since) == ["/text/route/anonymous/%2B493055505"]
    assert calls.lab.exec("test -e /tmp/x").returncode == 1


def test_a_number_that_was_dialled_cannot_choose_its_destination(lab: Lab) -> None:
    # the first pattern of the number takes anything; a comma in it would be another argument
    calls = Calls(lab)
    before = calls._log()
    lab.run("lab-call provider +4915550077 0%2Cqueue:sales 2 || true")
    lines = lab.run(LOG).splitlines()[before:]
    assert not [line for line in lines if "|sales|" in line]


def test_neither_service_nor_script(calls: Calls, way: Callable[..., str]) -> None:
    way(f"{HOSTILE}/good")
    calls.lab.run("systemctl stop call-routing; chmod a-x /opt/call-routing/crm_route.py")
    try:
        assert calls.place()[::2] == ("error", FALLBACK)
    finally:
        calls.lab.run("chmod a+x /opt/call-routing/crm_route.py")


def test_a_service_that_stands_still_is_ended(calls: Calls, way: Callable[..., str]) -> None:
    way(f"{HOSTILE}/good")
    calls.lab.run("systemctl restart call-routing; systemctl kill -s STOP call-routing")
    found = calls.place()
    assert found.queue in {FALLBACK, CHOSEN}
    assert found.milliseconds < 6000  # the watchdog's 3 s, and the script's start


def test_a_dead_crm_soon_costs_a_caller_nothing(calls: Calls, way: Callable[..., str]) -> None:
    way(f"{HOSTILE}/hangs")
    first = [calls.place() for _ in range(3)]
    assert [call.result for call in first] == ["timeout"] * 3
    assert min(call.milliseconds for call in first) >= 1900
    found = calls.place()
    assert found[::2] == ("error", FALLBACK)
    assert found.milliseconds < 500


def test_what_the_crm_says_is_on_the_call(calls: Calls, way: Callable[..., str]) -> None:
    way("http://127.0.0.1:8085/api", calls.lab.run("cat /run/test-routing/crm-token").strip())
    lab = calls.lab
    lab.run("systemd-run --quiet --collect lab-call provider +491701234567 +493055505 5")
    channel = wait_until(
        lambda: re.search(r"^PJSIP/provider\S+", lab.asterisk("core show channels concise"), re.M),
        5,
        "the call is there",
    )[0].split("!")[0]

    def shown() -> str:
        return lab.asterisk(f"core show channel {channel}")

    wait_until(lambda: "ROUTE_RESULT=routed" in shown(), 5, "it is routed")
    text = shown()
    for line in ("CRM_CONTACT=4711", "ROUTE_TARGET=queue:vip", "QUEUE_PRIO=10"):
        assert line in text
    assert re.search(r"Language: de", text)
    assert "Caller ID Name: Ann Example" in text
    time.sleep(5)


def test_every_outcome_is_counted(calls: Calls, way: Callable[..., str]) -> None:
    def counted() -> dict[str, float]:
        return {k: v for k, v in calls.lab.metrics().items() if k.startswith("asterisk_route_")}

    before = wait_until(counted, 5, "the metrics are there")
    way(f"{HOSTILE}/html")
    calls.place()
    way(f"{HOSTILE}/good")
    calls.place()

    def grown() -> dict[str, float]:
        return {k: v - before[k] for k, v in counted().items() if v != before[k]}

    wanted = {"{result=invalid}": 1, "{result=routed}": 1}
    wait_until(
        lambda: (
            {
                k.removeprefix("asterisk_route_requests_total"): v
                for k, v in grown().items()
                if "requests" in k
            }
            == wanted
        ),
        10,
        f"{wanted} more",
    )
    assert grown()["asterisk_route_seconds_count{}"] == 2


def test_the_service_is_confined(lab: Lab) -> None:
    score = lab.run("systemd-analyze security --no-pager call-routing | tail -n 1 || true")
    assert float(score.split("level for call-routing.service: ")[1].split()[0]) <= 2.0
    modes = lab.run("stat -c '%a %U:%G' /etc/call-routing/crm-token /opt/call-routing/crm_route.py")
    assert modes.splitlines() == ["640 root:asterisk", "755 root:root"]


# --- the third way: Asterisk asks by itself. It comes last, since it converges the PBX twice.


@pytest.fixture(scope="module")
def curl(calls: Calls) -> Iterator[Callable[[str], None]]:
    """Let the dialplan ask; then the URL that it asks can be changed."""
    lab = calls.lab
    playbook = ("site.yml", "--tags", "call_routing,pbx_configure")
    done = lab.playbook(*playbook, "-e", "call_routing_method=curl")
    assert done.returncode == 0, done.stdout
    conf = "/etc/asterisk/extensions.d/call-routing.conf"
    lab.run(f"cp -p {conf} /run/test-routing/curl.conf")
    assert lab.exec("systemctl is-active call-routing").returncode != 0

    def use(url: str) -> None:
        lab.run(f"sed 's#http://127.0.0.1:8085/api#{url}#' /run/test-routing/curl.conf >{conf}")
        lab.asterisk("dialplan reload")

    yield use
    done = lab.playbook(*playbook)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", CRMS)
def test_whatever_the_crm_does_to_curl(
    name: str, calls: Calls, curl: Callable[[str], None]
) -> None:
    url, result = CRMS[name]
    # it takes plain text only, and has no limit of its own: what is not a destination is invalid
    result = {"good": "invalid", "huge": "invalid"}.get(name, result)
    curl(url)
    found = calls.place()
    assert found.result == result
    assert found.queue == (CHOSEN if result == "routed" else FALLBACK)
    assert found.milliseconds < LONGEST_MS


@pytest.mark.parametrize("name", CALLERS)
def test_whoever_calls_with_curl(name: str, calls: Calls, curl: Callable[[str], None]) -> None:
    curl(f"{HOSTILE}/text")
    since = calls.lab.run("date +'%F %T.%6N'").strip()
    assert calls.place(extension(name))[::2] == ("routed", CHOSEN)
    numbers = {"good": "%2B491701230000", "lines": "12"}
    wait_until(lambda: asked(calls.lab, since), 3, "the CRM was asked")
    assert asked(calls.lab, since) == [f"/text/route/{numbers.get(name, 'anonymous')}/%2B493055505"]


def test_curl_sends_the_token_and_no_console_shows_it(
    calls: Calls, curl: Callable[[str], None]
) -> None:
    lab = calls.lab
    curl("http://127.0.0.1:8085/api")
    token = lab.run("cat /usr/local/share/lab/crm-token").strip()
    lab.run(f"echo {token} >/etc/call-routing/crm-token")
    shown = "/run/test-routing/console"
    command = f"sleep 9 | asterisk -rvvvvv >{shown}"
    lab.run(f"systemd-run --quiet --collect --unit test-console sh -c '{command}'")
    wait_until(lambda: lab.exec(f"test -s {shown}").returncode == 0, 5, "a console")
    lab.run("lab-call provider +491701234567 +493055505 4")
    time.sleep(1)
    console = lab.run(f"systemctl stop test-console; cat {shown}")
    assert "ROUTE_RESULT=routed" in console
    assert token not in console
    assert token not in lab.asterisk("dialplan show call-routing-curl")
