"""The doctor's links of the dialplan and of call routing."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from asterisk_exporter import config
from asterisk_exporter.ami.client import Reply
from asterisk_exporter.ami.errors import ActionFailedError, PermissionDeniedError
from asterisk_exporter.ami.protocol import parse_message
from asterisk_exporter.doctor import agi, dialplan, routing
from asterisk_exporter.doctor.agi import Spoken
from asterisk_exporter.doctor.pbx import LookError, Pbx, Ran
from asterisk_exporter.health import Status

OK, WARNING, CRITICAL = Status.OK, Status.WARNING, Status.CRITICAL


def only(findings):
    [finding] = findings
    return finding


def shows(*extensions):
    items = [
        parse_message(f"Event: ListDialplan\r\nContext: c\r\n{extension}".encode())
        for extension in extensions
    ]
    return Reply("ShowDialPlan", items=tuple(items))


def fails(error):
    return Reply("ShowDialPlan", error=error)


class TestContexts:
    def test_none_is_wanted(self):
        found = only(dialplan.contexts(Pbx(config.Config(), Path("none.yml"), 1.0)))
        assert (found.status, "asterisk_exporter_doctor_contexts" in found.text) == (None, True)

    def test_loaded_empty_and_missing(self):
        replies = [
            shows("Extension: 1", "Extension: 2"),
            shows("IncludeContext: phones"),
            shows(""),
            fails(ActionFailedError("ShowDialPlan", "Did not find context d")),
        ]
        d, a, c = sorted(dialplan.judged("abcd", replies), key=lambda finding: finding.text)
        assert (a.status, a.text) == (OK, "a, b: 3 entries")
        assert (d.status, "no context d" in d.text) == (CRITICAL, True)
        assert r"'\[d\]'" in d.action
        assert (c.status, "context c is empty" in c.text) == (CRITICAL, True)

    @pytest.mark.parametrize(
        "error",
        [
            PermissionDeniedError("ShowDialPlan", "exporter", "reporting"),
            ActionFailedError("ShowDialPlan", "something else"),
        ],
    )
    def test_asterisk_does_not_say(self, error):
        with pytest.raises(type(error)):
            list(dialplan.judged(["a"], [fails(error)]))


class TestScript:
    def judged(self, ran, spare=False):
        return only(routing.judged_script(ran, "/opt/x.py", "asterisk", 0.05, spare=spare))

    def test_it_starts(self):
        found = self.judged(Ran(0, "", ""))
        assert (found.status, found.text) == (OK, "/opt/x.py starts as asterisk in 50 ms")

    @pytest.mark.parametrize(
        ("said", "text", "action"),
        [
            ("/opt/x.py: Permission denied", "Permission denied", "namei -l /opt/x.py"),
            ("env: \u2018/opt/x.py\u2019: No such file or directory", "No such", "namei -l"),
            (
                'Traceback (most recent call last):\n  File "/opt/x.py", line 2\n'
                "ModuleNotFoundError: No module named 'asterisk'\n",
                "as asterisk: ModuleNotFoundError: No module named 'asterisk'",
                "Its modules",
            ),
            (
                "crm_route: cannot read /etc/call-routing/crm-token: PermissionError",
                "crm-token: PermissionError",
                "readable by asterisk",
            ),
            ("", "it said nothing", "namei"),
        ],
    )
    def test_it_does_not(self, said, text, action):
        found = self.judged(Ran(1, "", said))
        assert found.status == CRITICAL
        assert text in found.text
        assert "Traceback" not in found.text
        assert action in found.action

    def test_it_is_only_the_spare(self):
        found = self.judged(Ran(126, "", "x: Permission denied"), spare=True)
        assert (found.status, "no other way" in found.text) == (WARNING, True)

    @pytest.mark.parametrize(("mode", "bad"), [(0o640, 0), (0o600, 0), (0o644, 1), (0o660, 1)])
    def test_who_may_read_the_token(self, mode, bad):
        found = list(routing.judged_token(Path("/etc/call-routing/crm-token"), 0o100000 | mode))
        assert [finding.status for finding in found] == [WARNING] * bad


class TestFastAgi:
    def judged(self, spoken, crm_works=True):
        return only(routing.judged_fastagi(spoken, "127.0.0.1:4573", crm_works=crm_works))

    def test_it_routes(self):
        found = self.judged(Spoken(0.0042, "no_route"))
        assert found == routing.ok("127.0.0.1:4573 routed a call in 4 ms: no_route")

    def test_nobody_listens_and_the_script_is_there(self):
        found = self.judged(Spoken(error="nothing listens there", refused=True))
        assert (found.status, "the script instead" in found.text) == (WARNING, True)

    def test_it_hangs(self):
        found = self.judged(Spoken(error="it accepts and says nothing within 5 s"))
        assert (found.status, "says nothing" in found.text) == (CRITICAL, True)

    def test_the_crm_answers_the_script_alone(self):
        found = self.judged(Spoken(0.004, "error"))
        assert (found.status, "restart call-routing" in found.action) == (CRITICAL, True)

    def test_the_crm_answers_nobody(self):
        assert self.judged(Spoken(0.004, "error"), crm_works=False).status == OK


@pytest.fixture
def server():
    """Serve one connection with what the test gives; return the address and what came."""
    listener = socket.create_server(("127.0.0.1", 0))
    came = []

    def serve(*says, close=True):
        def run():
            connection, _ = listener.accept()
            with connection:
                came.append(connection.recv(4096))
                for text in says:
                    connection.sendall(text)
                    came.append(connection.recv(4096))
                if not close:
                    connection.recv(4096)  # until the other end gives up

        threading.Thread(target=run, daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}", came

    yield serve
    listener.close()


class TestSpeak:
    def test_a_dialogue(self, server):
        address, came = server(
            b'SET VARIABLE "ROUTE_TARGET" "queue:vip"\n', b'SET VARIABLE "ROUTE_RESULT" "routed"\n'
        )
        spoken = agi.speak(address, 2)
        assert (spoken.error, spoken.result) == (None, "routed")
        assert b"agi_network_script: route/unknown/anonymous\n" in came[0]
        assert came[1] == b"200 result=1\n"

    def test_it_ends_without_a_result(self, server):
        address, _ = server(b'SET VARIABLE "A" "b"\n')
        assert agi.speak(address, 2).error == "it ended the call without ROUTE_RESULT"

    def test_silence(self, server):
        address, _ = server(close=False)
        spoken = agi.speak(address, 0.1)
        assert (spoken.error, spoken.refused) == ("it accepts and says nothing within 0.1 s", False)

    def test_nobody_listens(self, server):
        address, _ = server(close=False)
        host, _, port = address.rpartition(":")
        with socket.socket() as unused:
            unused.bind((host, 0))
            assert agi.speak(f"{host}:{unused.getsockname()[1]}", 1).refused
        agi.speak(f"{host}:{port}", 0.1)


def answer(result, reason="", seconds=0.002, **more):
    return {"result": result, "reason": reason, "seconds": seconds, "target": None, **more}


class TestCrm:
    def judged(self, said, url="https://crm.example.com:8443/api"):
        return only(routing.judged_crm(said, url, 2.0))

    def test_it_answers(self):
        found = self.judged(answer("no_route", "no opinion"))
        assert (found.status, "answered in 2.0 ms (no opinion)" in found.text) == (OK, True)
        found = self.judged(answer("routed", target="queue:vip"))
        assert (found.status, "(to queue:vip)" in found.text) == (OK, True)

    def test_it_is_slow(self):
        found = self.judged(answer("no_route", seconds=1.2))
        assert (found.status, "1200.0 ms" in found.text) == (WARNING, True)
        assert "call_routing_cache_seconds" in found.action

    @pytest.mark.parametrize(
        ("result", "reason", "action"),
        [
            ("error", "the CRM refuses the token (401)", "call_routing_crm_token"),
            ("timeout", "no answer in time", "overloaded"),
            (
                "error",
                "SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify "
                "failed: self-signed certificate (_ssl.c:1081)",
                "openssl s_client -connect crm.example.com:8443 ",
            ),
            ("error", "a redirect (301), which is not followed", "redirects to"),
            ("error", "status 500", "its own log"),
            ("invalid", "target is '<!DOCTYPE html>...', no destination of this PBX", "web page"),
            ("invalid", "it has no target", "docs/crm-routing.md"),
            ("error", "ConnectionRefusedError: [Errno 111] Connection refused", "does the CRM run"),
        ],
    )
    def test_it_does_not(self, result, reason, action):
        found = self.judged(answer(result, reason))
        assert found.status == CRITICAL
        assert reason in found.text
        assert action in found.action

    def test_the_port_of_https_is_known(self):
        said = answer("error", "certificate")
        assert "crm.example.com:443 " in self.judged(said, "https://crm.example.com/a").action

    def test_what_the_script_printed(self):
        assert routing.answer_of(Ran(1, '{"result": "error"}', "")) == {"result": "error"}
        for output in ("", "no", "[]"):
            assert routing.answer_of(Ran(1, output, "")) is None


@pytest.mark.parametrize("link", [routing.script, routing.fastagi, routing.crm])
def test_a_pbx_without_call_routing(link):
    found = only(link(Pbx(config.Config(), Path("none.yml"), 1.0)))
    assert (found.status, found.text) == (None, f"not set up: {routing.NOT_SET_UP}")


def test_a_pbx_without_the_service():
    settings = config.Config(doctor=config.Doctor(call_routing=config.DoctorCallRouting()))
    found = only(routing.fastagi(Pbx(settings, Path("none.yml"), 1.0)))
    assert (found.status, "call_routing_method is agi" in found.text) == (None, True)


class TestWhole:
    """The links with a script that says what the test gives."""

    @pytest.fixture
    def pbx(self, tmp_path, monkeypatch):
        settings = tmp_path / "settings.json"
        settings.write_text('{"url": "http://127.0.0.1:8085/api", "deadline_seconds": 2.0}')
        (tmp_path / "crm-token").write_text("token-of-the-test")
        (tmp_path / "crm-token").chmod(0o640)
        call_routing = config.DoctorCallRouting(settings=settings)
        found = Pbx(config.Config(doctor=config.Doctor(call_routing=call_routing)), Path("c"), 1.0)
        found.__dict__["asterisk_user"] = "asterisk"
        self.ran, self.says = Ran(0, '{"result": "no_route", "seconds": 0.002}', ""), "Info"
        monkeypatch.setattr(Pbx, "run", self.run)
        monkeypatch.setattr(Pbx, "asterisk", lambda *_: self.says)
        return found

    def run(self, command, user=None):
        assert user == "asterisk"
        assert command[0] in ("env", "/opt/call-routing/crm_route.py")
        return self.ran

    def test_all_is_well(self, pbx):
        assert [only(link(pbx)).status for link in (routing.script, routing.crm)] == [OK, OK]

    def test_asterisk_has_no_agi(self, pbx):
        self.says = "Your application(s) is (are) not registered"
        _, agi_is_missing = routing.script(pbx)
        assert (agi_is_missing.status, "res_agi.so" in agi_is_missing.action) == (CRITICAL, True)

    def test_the_script_is_broken(self, pbx):
        self.ran = Ran(1, "", "crm_route: cannot use settings.json")
        assert only(routing.script(pbx)).status == CRITICAL
        assert only(routing.crm(pbx)).status is None

    def test_settings_that_only_the_script_can_read(self, pbx):
        pbx.settings.doctor.call_routing.settings.write_text("{}")
        with pytest.raises(LookError, match=r"settings\.json: KeyError"):
            list(routing.crm(pbx))
