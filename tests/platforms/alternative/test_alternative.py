"""A PBX with its optional paths: encrypted, guarded, recorded."""

from __future__ import annotations

import base64
import re
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SITES = ROOT / ".lab/sites"
#: What docs/realtime.md has administrators write: a phone, and a queue with that phone.
PHONE, QUEUE = re.findall(
    r"```sql\n(INSERT .*?)```", (ROOT / "docs/realtime.md").read_text(), re.DOTALL
)
#: Another machine of the lab's network than this host, and one that guesses passwords.
OTHER, GUESSER = "198.18.77.76", "198.18.77.77"
ANSWERED = 'asterisk_calls_total{direction="inbound",outcome="answered"}'


@pytest.fixture(scope="module")
def address(host) -> str:
    return host.check_output("hostname --all-ip-addresses").split()[0]


@pytest.fixture(scope="module")
def trusted(host) -> ssl.SSLContext:
    """Return what trusts the inventory's CA."""
    return ssl.create_default_context(cafile=secrets(host) / "tls-ca.pem")


@pytest.fixture
def others() -> Iterator[None]:
    """Have their addresses on this host."""
    for other in (OTHER, GUESSER):
        subprocess.run(["ip", "address", "add", f"{other}/24", "dev", "pbxlab0"], check=True)
    yield
    for other in (OTHER, GUESSER):
        subprocess.run(["ip", "address", "delete", f"{other}/24", "dev", "pbxlab0"], check=True)


def secrets(host) -> Path:
    return SITES / host.check_output("hostname") / "secrets"


def wait_until(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(1)


def page(url: str, trusted: ssl.SSLContext, password: str = "") -> str:
    request = urllib.request.Request(url)
    if password:
        login = base64.b64encode(f"prometheus:{password}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
    # Platforms run beside the tests in the lab, at a lower priority.
    with urllib.request.urlopen(request, timeout=10, context=trusted) as answer:
        return answer.read().decode()


@pytest.fixture
def metrics(host, address, trusted) -> Callable[[], dict[str, float]]:
    """Return what scrapes: sample as in the exposition -> value."""
    password = (secrets(host) / "metrics-prometheus").read_text().strip()

    def scrape() -> dict[str, float]:
        lines = page(f"https://{address}:9739/metrics", trusted, password).splitlines()
        samples = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        return {name: float(value) for name, value in samples}

    return scrape


@pytest.mark.parametrize(
    "name", ["asterisk", "asterisk-exporter", "appliance-firewall", "fail2ban"]
)
def test_service_runs_and_starts_with_the_machine(host, name):
    assert host.service(name).is_running
    assert host.service(name).is_enabled


def test_nothing_has_failed_and_nothing_else_is_there(host):
    assert host.check_output("systemctl list-units --failed --no-legend --plain") == ""
    assert not host.service("call-routing").exists
    wait_until(lambda: host.run("asterisk-exporter check").rc == 0, 90)


def test_metrics_need_tls_and_a_password(address, trusted, metrics):
    with pytest.raises((ConnectionError, urllib.error.URLError)):
        page(f"http://{address}:9739/metrics", trusted)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        page(f"https://{address}:9739/metrics", trusted)
    assert metrics()["asterisk_up"] == 1


def test_sip_over_tls_shows_the_certificate(address, trusted):
    with socket.create_connection((address, 5061), timeout=2) as plain:
        trusted.wrap_socket(plain, server_hostname=address).close()


def test_a_call_is_answered_counted_and_recorded(host, metrics):
    before = metrics()[ANSWERED]
    host.run_test("lab-call provider +4915550001 +493055501 16")
    wait_until(lambda: metrics()[ANSWERED] == before + 1, 120)
    assert host.check_output("find /var/spool/asterisk/monitor -name '*-support-*.gsm'")


def test_the_script_asks_the_crm(host, metrics):
    answered = 'asterisk_queue_calls_answered_total{queue="vip"}'
    before = metrics()[answered]
    host.run_test("lab-call provider +491701234567 +493055505 16")
    wait_until(lambda: metrics()[answered] == before + 1, 120)


def test_a_build_plays_mp3(host):
    """It decodes a second of silence: frames of 8 kHz, mono, without data."""
    if not host.file("/opt/asterisk/current").exists:
        assert "mp3" not in host.check_output("asterisk -rx 'core show file formats'")
        return
    frame = r"\377\343\030\304" + r"\000" * 68
    sound = "/var/spool/asterisk/silence"  # its /tmp is its own
    host.run_test("printf %s >%s.mp3", frame * 14, sound)
    host.run_test("asterisk -rx 'module load res_convert.so'")
    host.run_test(f"asterisk -rx 'file convert {sound}.mp3 {sound}.sln'")
    assert host.file(f"{sound}.sln").size == 2 * 8000


def sql(host, statements: str) -> str:
    return host.check_output("runuser -u postgres -- psql -XAtq asterisk -c %s", statements)


def test_the_tables_of_phones_and_queues_are_those_of_this_asterisk(host):
    version = re.findall(r"\d+\.\d+\.\d+", host.check_output("asterisk -V"))[0]
    schema = host.file(f"/usr/local/lib/asterisk-realtime/asterisk-{version}.sql").content_string
    last = re.findall("^-- Running upgrade .* -> (.*)", schema, re.MULTILINE)[-1]
    assert sql(host, "SELECT version_num FROM realtime.alembic_version") == last


def test_a_phone_and_a_queue_of_the_database_take_calls(host):
    sql(host, PHONE + QUEUE)
    login = re.findall(r"'201', '201', '(.*)'", PHONE)[0]
    lab = "/usr/local/share/lab"
    host.run_test("echo ANSWER_AFTER_201=1000 >>%s/answer-after", lab)
    host.run_test(
        "echo %s >>%s/phones.csv", f"201;[authentication username=201 password={login}]", lab
    )
    host.run_test("systemctl start lab-phone@201")
    shown = "asterisk -rx 'pjsip show endpoint 201'"
    # A member whose state Asterisk does not know yet is rung some seconds later.
    wait_until(lambda: "Not in use" in host.check_output(shown), 90)
    log = host.file("/var/log/asterisk/queue_log")
    connected = re.compile(r"\|610\|Nina Nowak\|CONNECT\|")
    before = len(connected.findall(log.content_string))
    host.run_test("lab-call extension 101 610 5")
    assert len(connected.findall(log.content_string)) == before + 1


def connect(address: str, port: int, source: str) -> socket.socket:
    return socket.create_connection((address, port), timeout=2, source_address=(source, 0))


@pytest.mark.usefixtures("others")
def test_others_are_kept_out_and_who_guesses_is_banned(host, address):
    with pytest.raises(TimeoutError):
        connect(address, 9739, OTHER)
    insecure = ssl.create_default_context()
    insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
    for _ in range(3):
        with insecure.wrap_socket(connect(address, 5039, GUESSER)) as ami:
            ami.sendall(b"Action: Login\r\nUsername: exporter\r\nSecret: wrong\r\n\r\n")
            while ami.recv(4096):
                pass
    wait_until(lambda: GUESSER in host.check_output("fail2ban-client status asterisk"), 60)
    with pytest.raises(TimeoutError):
        connect(address, 5039, GUESSER)
    connect(address, 5039, OTHER).close()
