"""What arrives: at a real mail server, and at one that stands for Slack, Telegram and PagerDuty.

Alerts are handed to the lab's Alertmanager as Prometheus does it; the receivers run in this
process, on the lab's bridge. The lab's own receivers are put back at the end.
"""

# ruff: noqa: RUF001 (Russian is checked here)
from __future__ import annotations

import datetime
import email
import email.message
import email.policy
import http.server
import json
import re
import socket
import threading
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from lab import Lab, wait_until

CONFIG = "/etc/prometheus/alertmanager.yml"
SECRETS = {
    "smtp": "secret-of-the-mailer",
    "webhook": "/secret-hook",
    "slack": "/services/secret-slack",
    "telegram": "123456:secret-of-the-bot",
    "pagerduty": "secretOfPagerDuty012345678901234",
}


# Alertmanager's PLAIN wants TLS with a certificate that it can check; LOGIN does not.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS")


@dataclass
class Arrived:
    """What has arrived, oldest first."""

    posts: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    mails: list[email.message.EmailMessage] = field(default_factory=list)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(frozen=True)
class Receivers:
    """Where the receivers listen."""

    address: str
    http: int
    smtp: int
    arrived: Arrived


def handler(arrived: Arrived) -> type[http.server.BaseHTTPRequestHandler]:
    """Return what answers each POST as Telegram does, which the others take too."""

    class Catcher(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            arrived.posts.append((self.path, json.loads(body)))
            answer = {"ok": True, "result": {"message_id": 1, "date": 1, "chat": {"id": -100}}}
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Catcher


class MailServer(SMTP):
    """Ask for a login in the words of other servers, which Alertmanager waits for."""

    AuthLoginUsernameChallenge = "Username:"
    AuthLoginPasswordChallenge = "Password:"


class MailServers(Controller):
    """Run it."""

    def factory(self) -> SMTP:
        return MailServer(self.handler, **self.SMTP_kwargs)


class Mailbox:
    """Keep the mails of those who log in."""

    def __init__(self, arrived: Arrived) -> None:
        self.arrived = arrived

    async def handle_DATA(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        content = envelope.content
        assert isinstance(content, bytes)
        mail = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(mail, email.message.EmailMessage)
        self.arrived.mails.append(mail)
        return "250 OK"

    def login(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, data: object
    ) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.arrived.logins.append((data.login, data.password))
        return AuthResult(success=data.password == SECRETS["smtp"].encode())


@pytest.fixture(scope="module")
def receivers(lab: Lab) -> Iterator[Receivers]:
    machine = urllib.parse.urlsplit(lab.url("alertmanager")).hostname
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((machine, 9))
        address = probe.getsockname()[0]
    with socket.socket() as probe:
        probe.bind((address, 0))
        smtp_port = probe.getsockname()[1]
    arrived = Arrived()
    mailbox = Mailbox(arrived)
    mail = MailServers(
        mailbox,
        hostname=address,
        port=smtp_port,
        authenticator=mailbox.login,
        auth_required=True,
        auth_require_tls=False,
    )
    web = http.server.ThreadingHTTPServer((address, 0), handler(arrived))
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    mail.start()
    yield Receivers(address, web.server_address[1], smtp_port, arrived)
    mail.stop()
    web.shutdown()
    web.server_close()


def weekday(days: int) -> str:
    """Return the day of the week that is so many days ahead."""
    day = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days)
    return day.strftime("%A").lower()


def variables(receivers: Receivers, **more: object) -> dict[str, object]:
    """Return role variables with one receiver of each kind."""
    base = f"http://{receivers.address}:{receivers.http}"
    duty = {
        "name": "duty",
        "emails": ["duty@example.com"],
        "webhooks": [{"url": base + SECRETS["webhook"]}],
        "slack": [{"channel": "#pbx", "webhook_url": base + SECRETS["slack"]}],
        "telegram": [{"chat_id": -100, "bot_token": SECRETS["telegram"], "api_url": base}],
        "pagerduty": [{"routing_key": SECRETS["pagerduty"], "url": f"{base}/v2/enqueue"}],
    }
    return {
        "alertmanager_receivers": [duty],
        "alertmanager_smtp_smarthost": f"{receivers.address}:{receivers.smtp}",
        "alertmanager_smtp_username": "pbx",
        "alertmanager_smtp_password": SECRETS["smtp"],
        "alertmanager_smtp_require_tls": False,
        "alertmanager_group_wait": "1s",
        "alertmanager_group_interval": "1s",
        **more,
    }


def converge(lab: Lab, tmp_path: Path, given: dict[str, object] | None = None) -> None:
    """Apply the role with these variables; without any, with those of the lab."""
    arguments = ["site.yml", "--tags", "alertmanager"]
    if given is not None:
        file = tmp_path / "vars.json"
        file.write_text(json.dumps(given))
        arguments += ["-e", f"@{file}"]
    result = lab.playbook(*arguments)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module", autouse=True)
def _as_it_was(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put the lab's own receivers back at the end."""
    yield
    converge(lab, tmp_path_factory.mktemp("vars"))


def text_of(mail: email.message.EmailMessage, kind: str) -> str:
    """Return one of the two parts of a mail."""
    part = mail.get_body((kind,))
    assert part is not None
    return str(part.get_content())


@dataclass(frozen=True)
class Run:
    """One language: what it is checked for, and the PBX whose alerts are sent in it."""

    lab: Lab
    arrived: Arrived
    language: str
    pbx: str = field(default_factory=lambda: f"pbx-{uuid.uuid4().hex[:8]}.example.com")

    def post(self, *alerts: dict[str, Any]) -> None:
        """Hand alerts to Alertmanager."""
        request = urllib.request.Request(
            f"{self.lab.url('alertmanager')}/api/v2/alerts",
            json.dumps(alerts).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=5):
            pass

    def alert(self, name: str, severity: str, over: bool = False, **labels: str) -> dict[str, Any]:
        """Return an alert such as the rules make, with characters that have a meaning in HTML."""
        # As if begun now: what has waited for longer than group_wait is not held back for others.
        now = datetime.datetime.now(datetime.UTC)
        alert: dict[str, Any] = {
            "labels": {
                "alertname": name,
                "severity": severity,
                "job": "asterisk",
                "instance": f"{self.pbx}:9739",
                **labels,
            },
            "annotations": {
                "summary": f"{name}: R&D <b>waits</b>",
                "description": 'Longest wait 95 s & "more" than <60 s>.',
                "action": "Type: asterisk -rx 'queue show'",
                "runbook_url": f"http://runbooks.example.com/{name}.html",
                "dashboard_url": "http://grafana.example.com/d/asterisk-queues?a=1&b=2",
            },
            "startsAt": now.isoformat(),
            "generatorURL": "http://prometheus.example.com/graph?g0.expr=up&g0.tab=1",
        }
        if over:
            alert["startsAt"] = (now - datetime.timedelta(minutes=5)).isoformat()
            alert["endsAt"] = now.isoformat()
        return alert

    def posts(self, path: str) -> list[dict[str, Any]]:
        """Return what was posted to a path about this PBX."""
        return [body for at, body in self.arrived.posts if at == path and self.pbx in str(body)]

    def mails(self) -> list[email.message.EmailMessage]:
        """Return the mails about this PBX."""
        return [mail for mail in self.arrived.mails if self.pbx in text_of(mail, "plain")]

    def webhooks(self, name: str) -> list[str]:
        """Return the states in which an alert of this PBX has reached the webhook."""
        return [
            a["status"]
            for body in self.posts(SECRETS["webhook"])
            for a in body["alerts"]
            if a["labels"]["alertname"] == name and a["labels"]["instance"] == f"{self.pbx}:9739"
        ]


WORDS = {
    "en": {
        "firing": "[CRITICAL] QueueNobodyAvailable: R&D <b>waits</b> (2 in all)",
        "resolved": "[RESOLVED] QueueNobodyAvailable: R&D <b>waits</b> (2 in all)",
        "about": "PBX: {pbx}, Queue: R&D <night>",
        "since": r"Since: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d CES?T",
        "lasted": r"Lasted: [\d: CEST-]+ – [\d: CEST-]+",
        "action": "What to do:",
        "silence": "Silence for 2 hours, on the monitoring host: ",
        "links": ["Runbook", "Dashboard", "All alerts"],
        "over": "RESOLVED: QueueWaitLong",
    },
    "ru": {
        "firing": "[АВАРИЯ] QueueNobodyAvailable: R&D <b>waits</b> (всего 2)",
        "resolved": "[ЗАВЕРШЕНО] QueueNobodyAvailable: R&D <b>waits</b> (всего 2)",
        "about": "АТС: {pbx}, Очередь: R&D <night>",
        "since": r"Началось: \d\d\.\d\d\.\d{4} \d\d:\d\d:\d\d CES?T",
        "lasted": r"Продолжалось: [\d:. CEST]+ – [\d:. CEST]+",
        "action": "Что делать:",
        "silence": "Заглушить на 2 часа, на сервере мониторинга: ",
        "links": ["Инструкция", "Дашборд", "Все оповещения"],
        "over": "ЗАВЕРШЕНО: QueueWaitLong",
    },
}


@pytest.fixture(scope="module", params=["en", "ru"])
def run(
    request: pytest.FixtureRequest,
    lab: Lab,
    receivers: Receivers,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """Alertmanager in one language. In English it is business hours, in Russian it is not."""
    # Midnight may come before the last test.
    days = [weekday(0), weekday(1)] if request.param == "en" else [weekday(3)]
    hours = {"weekdays": days, "location": "UTC"}
    given = variables(
        receivers,
        alertmanager_language=request.param,
        alertmanager_timezone="Europe/Berlin",
        alertmanager_business_hours=hours,
    )
    converge(lab, tmp_path_factory.mktemp("vars"), given)
    return Run(lab, receivers.arrived, request.param)


def escaped(text: str) -> str:
    """Escape as Slack wants it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def check_common(run: Run, text: str, state: str, escape: Callable[[str], str] = str) -> None:
    """Check what is in every text, whatever carries it."""
    words = WORDS[run.language]
    assert escape(str(words["about"]).format(pbx=run.pbx)) in text
    assert "http://grafana.example.com/d/asterisk-queues" in text
    if state == "firing":
        assert escape('Longest wait 95 s & "more" than <60 s>.') in text
        assert escape("Type: asterisk -rx 'queue show'") in text
        assert str(words["action"]) in text
        assert re.search(str(words["since"]), text)
        for name in ("QueueNobodyAvailable", "QueueWaitLong"):
            assert f"http://runbooks.example.com/{name}.html" in text
    else:
        assert escape(str(words["over"])) in text
        assert re.search(str(words["lasted"]), text)
    assert "no value" not in text
    assert "ZgotmplZ" not in text


def unescaped(html: str) -> str:
    """Turn HTML of a notification into its text, as a browser or Telegram shows it.

    Fails when there is a tag that the role's templates do not write: a value that was not escaped.
    """
    ours = r"</?(?:!DOCTYPE html|html|head|meta|body|div|span|p|b|a|code)(?: [^<>]*)?>"
    bare = re.sub(ours, "", html)
    assert "<" not in bare
    # Values contain <b>waits</b>: of the role's own <b> none stands around that word.
    assert "<b>waits" not in html
    for entity, sign in (
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&#34;", '"'),
        ("&#39;", "'"),
        ("&amp;", "&"),
    ):
        bare = bare.replace(entity, sign)
    return bare


def check_html(run: Run, html: str, state: str) -> None:
    """Check mail or Telegram: the text as it is shown, and where the links lead."""
    addresses = [a.replace("&amp;", "&") for a in re.findall(r'href="([^"]*)"', html)]
    check_common(run, unescaped(html) + "\n".join(addresses), state)
    assert "http://grafana.example.com/d/asterisk-queues?a=1&b=2" in addresses
    assert addresses[-1] == "http://prometheus.example.com/consoles/runbooks/index.html"
    labels = re.findall(r"<a [^>]*>([^<]*)</a>", html)
    links = WORDS[run.language]["links"]
    assert set(labels) == set(links if state == "firing" else links[1:])
    assert all(a.startswith("http://") for a in addresses)


def check_silence(run: Run, command: str) -> None:
    """The command of a mail silences, on the machine of Alertmanager, and is taken back."""
    silence = run.lab.run(command).strip()
    made = json.loads(run.lab.get(f"{run.lab.url('alertmanager')}/api/v2/silence/{silence}"))
    run.lab.run(f"amtool silence expire {silence}")
    assert made["status"]["state"] == "active"
    matchers = {matcher["name"]: matcher["value"] for matcher in made["matchers"]}
    assert matchers.pop("alertname") in ("QueueNobodyAvailable", "QueueWaitLong")
    assert matchers == {"instance": f"{run.pbx}:9739", "queue": "R&D <night>"}


@pytest.mark.parametrize("state", ["firing", "resolved"])
def test_two_alerts_of_a_queue_are_one_notification(run: Run, state: str) -> None:
    words = WORDS[run.language]
    run.arrived.mails.clear()
    run.arrived.posts.clear()
    run.post(
        *(
            run.alert(name, "critical", over=state == "resolved", queue="R&D <night>")
            for name in ("QueueNobodyAvailable", "QueueWaitLong")
        )
    )
    paths = {
        "slack": SECRETS["slack"],
        "telegram": f"/bot{SECRETS['telegram']}/sendMessage",
        "pagerduty": "/v2/enqueue",
    }
    wait_until(
        lambda: (
            run.mails()
            and all(run.posts(path) for path in paths.values())
            and run.webhooks("QueueWaitLong") == [state]
        ),
        20,
        f"{state} by every way",
    )
    subject = str(words[state])

    (mail,) = run.mails()
    assert mail["Subject"] == subject
    assert mail["To"] == "duty@example.com"
    assert run.arrived.logins[-1] == (b"pbx", SECRETS["smtp"].encode())
    plain = text_of(mail, "plain")
    check_common(run, plain, state)
    check_html(run, text_of(mail, "html"), state)
    assert "http://prometheus.example.com/consoles/runbooks/index.html" in plain
    commands = re.findall(f"{words['silence']}(.*)", plain)
    assert len(commands) == (2 if state == "firing" else 0)
    for command in commands:
        assert command in unescaped(text_of(mail, "html"))
        check_silence(run, command)

    (slack,) = run.posts(paths["slack"])
    (attachment,) = slack["attachments"]
    assert attachment["title"] == attachment["fallback"] == escaped(subject)
    assert attachment["title_link"] == "http://prometheus.example.com/consoles/runbooks/index.html"
    assert attachment["color"] == {"firing": "#c62828", "resolved": "#2e7d32"}[state]
    check_common(run, attachment["text"], state, escaped)

    (telegram,) = run.posts(paths["telegram"])
    assert telegram["parse_mode"] == "HTML"
    check_html(run, telegram["text"], state)

    (incident,) = run.posts(paths["pagerduty"])
    assert incident["routing_key"] == SECRETS["pagerduty"]
    assert incident["event_action"] == {"firing": "trigger", "resolved": "resolve"}[state]
    payload = incident["payload"]
    assert payload["summary"] == subject
    assert payload["source"] == f"{run.pbx}:9739"
    assert payload["component"] == "R&D <night>"
    check_common(run, payload["custom_details"][state], state)
    if state == "firing":
        assert payload["severity"] == "critical"
    assert [(link["text"], link["href"]) for link in incident["links"]] == [
        (words["links"][0], "http://runbooks.example.com/QueueNobodyAvailable.html"),
        (words["links"][1], "http://grafana.example.com/d/asterisk-queues?a=1&b=2"),
    ]


def test_warnings_wait_for_business_hours_and_infos_are_only_shown(run: Run) -> None:
    severities = {"TrunkUnreachable": "warning", "AsteriskRestarted": "info"}
    run.post(*(run.alert(name, severity) for name, severity in severities.items()))
    # The last to come: when it is there, whatever is sent at all has been sent.
    run.post(run.alert("AsteriskEndpointsLost", "critical", queue="last"))
    wait_until(lambda: run.webhooks("AsteriskEndpointsLost"), 20, "the critical one")
    if run.language == "en":
        wait_until(lambda: run.webhooks("TrunkUnreachable"), 20, "the warning")
        (card,) = wait_until(
            lambda: [b for b in run.posts("/v2/enqueue") if "TrunkUnreachable" in str(b)],
            20,
            "the warning at PagerDuty",
        )
        assert card["payload"]["severity"] == "warning"
    else:
        assert run.webhooks("TrunkUnreachable") == []
    assert run.webhooks("AsteriskRestarted") == []
    shown = json.loads(run.lab.get(f"{run.lab.url('alertmanager')}/api/v2/alerts"))
    assert {"TrunkUnreachable", "AsteriskRestarted"} <= {
        a["labels"]["alertname"] for a in shown if a["labels"]["instance"] == f"{run.pbx}:9739"
    }


def test_a_pbx_that_is_down_silences_its_other_alerts_only(run: Run) -> None:
    other = Run(run.lab, run.arrived, run.language)
    run.post(
        run.alert("AsteriskDown", "critical"),
        run.alert("QueueWaitLong", "critical", queue="vip"),
        run.alert("TrunkUnregistered", "warning", trunk="provider"),
        run.alert("AsteriskRecordingDiskFilling", "warning"),
        run.alert("MissedCalls", "critical", queue="sales", destination="queue:sales"),
        other.alert("QueueWaitLong", "critical", queue="vip"),
        other.alert("MissedCalls", "critical", queue="sales"),
        other.alert("MissedCalls", "warning", queue="sales"),
        other.alert("MissedCalls", "warning", queue="support"),
    )
    api = f"{run.lab.url('alertmanager')}/api/v2/alerts?active=false"

    def inhibited() -> set[tuple[str, str, str]]:
        labels = [a["labels"] for a in json.loads(run.lab.get(api)) if a["status"]["inhibitedBy"]]
        pbxs = {f"{run.pbx}:9739": "down", f"{other.pbx}:9739": "up"}
        return {
            (pbxs[of["instance"]], of["alertname"], of["severity"])
            for of in labels
            if of["instance"] in pbxs and of.get("queue") in (None, "vip", "sales", "support")
        }

    expected = {
        ("down", "QueueWaitLong", "critical"),
        ("down", "TrunkUnregistered", "warning"),
        ("up", "MissedCalls", "warning"),
    }
    wait_until(lambda: expected <= inhibited(), 20, "inhibited alerts")
    more = inhibited() - expected
    # Those of the test before, of the same PBX.
    assert {name for _, name, _ in more} <= {"TrunkUnreachable", "AsteriskRestarted"}
    wait_until(lambda: run.webhooks("AsteriskDown"), 20, "AsteriskDown arrived")
    wait_until(lambda: len(other.webhooks("MissedCalls")) > 0, 20, "the other PBX's arrived")
    wait_until(lambda: run.webhooks("MissedCalls"), 20, "what the journals know arrived")


def test_a_long_list_is_short_enough_for_telegram(run: Run) -> None:
    other = Run(run.lab, run.arrived, run.language)
    many = [
        other.alert(name, "critical", over=over, queue="many", trunk=str(n))
        for name, over in (("MissedCalls", False), ("QueueWaitLong", True))
        for n in range(40)
    ]
    for alert in many:
        # Begun now, those that are over too: one of before would not wait for those behind it.
        alert["startsAt"] = alert.get("endsAt", alert["startsAt"])
        alert["annotations"]["description"] = "A long description & what goes with it. " * 12
    other.post(*many)
    path = f"/bot{SECRETS['telegram']}/sendMessage"
    (message,) = wait_until(lambda: [m["text"] for m in other.posts(path)], 20, "a message")
    assert len(message) < 4096
    assert message.count("MissedCalls: R&amp;D") == 6
    assert message.count("QueueWaitLong: R&amp;D") == 2
    assert message.count(": 40") == 2


def test_the_log_has_neither_errors_nor_secrets(run: Run) -> None:
    unit = "prometheus-alertmanager"
    invocation = run.lab.run(f"systemctl show -P InvocationID {unit}").strip()
    log = run.lab.run(f"journalctl _SYSTEMD_INVOCATION_ID={invocation} -o cat")
    assert "Listening on" in log
    assert [line for line in log.splitlines() if re.search("level=(ERROR|WARN)", line)] == []
    shown = log + run.lab.run(f"systemctl cat {unit}; cat {CONFIG}")
    assert [secret for secret in SECRETS.values() if secret in shown] == []


def test_where_each_severity_goes(run: Run) -> None:
    tested = run.lab.run(
        "for severity in critical warning info none; do "
        f"amtool config routes test --config.file={CONFIG} severity=$severity; done"
    )
    assert tested.split() == ["duty", "duty", "nobody", "duty"]


def test_what_amtool_rejects_replaces_nothing(
    lab: Lab, receivers: Receivers, tmp_path: Path
) -> None:
    """Other secrets and another zone come with it: they must not be half applied either."""
    state = (
        f"sha256sum {CONFIG} /etc/prometheus/alertmanager-secrets/*; "
        "systemctl cat prometheus-alertmanager; "
        "systemctl show -p MainPID prometheus-alertmanager"
    )
    digest = f"{lab.url('alertmanager')}/metrics"
    running = re.compile(r"^alertmanager_config_hash .*$", re.MULTILINE)
    before = lab.run(state), running.findall(lab.get(digest))
    given = variables(
        receivers,
        alertmanager_timezone="Asia/Tokyo",
        alertmanager_smtp_password="another",
        alertmanager_routes=[{"matchers": ["severity=~("], "receiver": "duty"}],
    )
    with pytest.raises(AssertionError, match="amtool: error: failed to validate"):
        converge(lab, tmp_path, given)
    assert (lab.run(state), running.findall(lab.get(digest))) == before
    assert len(before[1]) == 1


def test_preflight_names_the_variable(lab: Lab, tmp_path: Path) -> None:
    """Preflight says so before anything is changed."""
    wrong = {
        "alertmanager_timezone": "Berlin",
        "alertmanager_business_hours": {"times": [{"start_time": "18:00", "end_time": "08:00"}]},
        "alertmanager_routes": [{"receiver": "night", "active_time_intervals": ["night"]}],
        "alertmanager_repeat_interval": "often",
    }
    with pytest.raises(AssertionError, match="changed=0") as refused:
        converge(lab, tmp_path, wrong)
    said = " ".join(str(refused.value).split())
    for says in (
        "alertmanager_timezone: there is no time zone 'Berlin'",
        "alertmanager_business_hours: times has 18:00 to 08:00",
        "alertmanager_routes: there is no receiver 'night'",
        "alertmanager_routes: active_time_intervals has 'night'",
        "alertmanager_repeat_interval: 'often' is no length of time",
    ):
        assert says in said
