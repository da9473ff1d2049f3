"""The web configuration of Prometheus' exporters: what is understood, TLS, passwords."""

from __future__ import annotations

import base64
import contextlib
import datetime
import http.client
import ipaddress
import os
import socket
import ssl
import threading
import time
from pathlib import Path

import bcrypt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from prometheus_client import CollectorRegistry
from scripts import load

from asterisk_exporter import config, web, web_config
from asterisk_exporter.config import ConfigError
from asterisk_exporter.doctor.metrics import scraped, way
from asterisk_exporter.doctor.pbx import LookError, Pbx
from asterisk_exporter.web_config import Doorkeeper, WebSettings

role = load("roles/asterisk_exporter/filter_plugins/asterisk_exporter.py")
PASSWORD = "correct horse battery staple"
HASH = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
OTHER = bcrypt.hashpw(b"another", bcrypt.gensalt(4)).decode()
USERS = f"basic_auth_users:\n  prometheus: {HASH}\n"
TLS = "tls_server_config:\n  cert_file: tls/cert.pem\n  key_file: tls/key.pem\n"


def issue(folder: Path, name: str) -> bytes:
    """Put a new certificate for 127.0.0.1, its own issuer, and its key into a folder."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.timezone.utc)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), False)
        .sign(key, hashes.SHA256())
    )
    folder.mkdir(exist_ok=True)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for file, content in (
        ("cert.pem", certificate.public_bytes(Encoding.PEM)),
        ("key.pem", pem),
    ):
        new = folder / f"{file}.new"
        new.write_bytes(content)
        new.rename(folder / file)
    return certificate.public_bytes(Encoding.DER)


def basic(user="prometheus", password=PASSWORD):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.fixture
def path(tmp_path):
    issue(tmp_path / "tls", "exporter")
    return tmp_path / "web.yml"


@pytest.fixture
def served(path):
    """Serve nothing behind a web configuration: served(text) returns the server."""
    servers = []

    def start(text):
        path.write_text(text)
        server = web.listen(CollectorRegistry(), "127.0.0.1", 0, web=WebSettings(path))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def trusting(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(certificate)
    return context


def status(server, path="/metrics", tls=None, **headers):
    """Return the status and the headers of an answer."""
    kind = http.client.HTTPConnection if tls is None else http.client.HTTPSConnection
    more = {} if tls is None else {"context": tls}
    with contextlib.closing(kind("127.0.0.1", server.server_port, timeout=5, **more)) as client:
        client.request("GET", path, headers=headers)
        answer = client.getresponse()
        answer.read()
        return answer.status, answer.headers


# --- the file


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (USERS.replace("basic_auth_users", "basic_auth"), ["basic_auth: unknown", "basic_auth_us"]),
        (TLS + "  cert: x\n", ["tls_server_config.cert: unknown key", "cert_file, key_file"]),
        (TLS + "  cipher_suites: [x]\n", ["tls_server_config.cipher_suites: unknown key"]),
        (TLS + "  client_allowed_sans: [x]\n", ["tls_server_config.client_allowed_sans: unkn"]),
        (TLS + "  min_version: TLS10\n", ["tls_server_config.min_version: 'TLS10'", "'TLS12' or"]),
        (TLS + "  min_version: TLS13\n  max_version: TLS12\n", ["not above max_version"]),
        (TLS + "  client_auth_type: RequireAnyClientCert\n", ["client_auth_type: 'RequireAny"]),
        (TLS + "  client_auth_type: RequireAndVerifyClientCert\n", ["expected client_ca_file"]),
        (TLS + "  client_ca_file: tls/cert.pem\n", ["expected client_ca_file with Verify"]),
        ("tls_server_config: {cert_file: a}", ["tls_server_config.key_file: missing"]),
        ("http_server_config: {http2: true}", ["http_server_config.http2: True: expected False"]),
        ("http_server_config: {headers: {Server: x}}", ["headers.Server", "'X-Frame-Options'"]),
        ("http_server_config: {headers: {X-Frame-Options: x}}", ["deny or sameorigin"]),
        ("rate_limit: {interval: 1s}", ["rate_limit: unknown key"]),
        ("basic_auth_users: {'a:b': x}", ["basic_auth_users"]),
        ("- a", ["expected keys and values"]),
    ],
)
def test_what_is_not_understood_is_refused_by_name(path, text, parts):
    path.write_text(text)
    with pytest.raises(ConfigError) as wrong:
        web_config.protection(path)
    for part in [str(path), *parts]:
        assert part in str(wrong.value)


def test_neither_password_nor_key_is_shown(path):
    secret = "hunter2-in-plain"
    for text in (
        f"basic_auth_users: {{prometheus: {secret}}}",
        f"tls_server_config: {{key: {secret}}}",
        f"basic_auth_users: {secret}",
    ):
        path.write_text(text)
        with pytest.raises(ConfigError) as wrong:
            web_config.load(path)
        assert secret not in str(wrong.value)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"cert_file": "none.pem"}, "No such file"),
        ({"key_file": "tls/cert.pem"}, "expected a certificate and its key"),
        ({"key_file": "other/key.pem"}, "KEY_VALUES_MISMATCH"),
        ({"client_ca_file": "web.yml"}, "client_ca_file web.yml"),
    ],
)
def test_files_that_cannot_be_used(path, names, said):
    issue(path.parent / "other", "other")
    text = TLS
    for key, name in names.items():
        text += f"  {key}: {name}\n" if key == "client_ca_file" else ""
        text = text.replace(f"{key}: tls/{key[:-5]}.pem", f"{key}: {name}")
    if "client_ca_file" in names:
        text += "  client_auth_type: RequireAndVerifyClientCert\n"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        web_config.protection(path)


@pytest.mark.parametrize("text", ["", "basic_auth_users:\n", "tls_server_config:\n"])
def test_nothing_is_asked_for(served, text):
    assert status(served(text))[0] == 200


def test_the_command_reads_it(command, config_file, tmp_path):
    (tmp_path / "web.yml").write_text("basic_auth_users: {a: b}")
    settings = config_file(1, "listen: {web_config_file: web.yml}\n")
    checked = command("check-config", settings)
    assert (checked.returncode, "basic_auth_users" in checked.stderr) == (2, True)
    refused = command("serve", "--config", settings)
    assert (refused.returncode, "basic_auth_users" in refused.stderr) == (2, True)
    assert "Traceback" not in refused.stderr
    (tmp_path / "web.yml").write_text(USERS)
    assert command("check-config", settings).returncode == 0


# --- passwords


def test_who_is_let_in_and_where(served):
    server = served(USERS)
    for page in ("/metrics", "/-/healthy", "/", "/none"):
        refused, headers = status(server, page)
        assert refused == 401
        assert headers["WWW-Authenticate"].startswith("Basic realm=")
        assert status(server, page, Authorization=basic(password="x"))[0] == 401
        assert status(server, page, Authorization=basic(user="x"))[0] == 401
    assert status(server, Authorization=basic())[0] == 200
    assert status(server, "/none", Authorization=basic())[0] == 404


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Basic",
        "Basic !!",
        "Basic YWJj",
        "Bearer x",
        "Basic /w==",
        basic(password="\0"),
        "Basic Og==",
    ],
)
def test_a_header_that_is_none(header):
    assert not Doorkeeper().lets_in({"prometheus": HASH.encode()}, header)


@pytest.fixture
def checks(monkeypatch):
    """Record each use of bcrypt."""
    used, real = [], bcrypt.checkpw

    def checkpw(password, hashed):
        used.append((password, hashed))
        return real(password, hashed)

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    return used


def test_a_scrape_costs_no_bcrypt_but_the_first(checks):
    doorkeeper, users = Doorkeeper(), {"prometheus": HASH.encode()}
    assert all(doorkeeper.lets_in(users, basic()) for _ in range(50))
    assert len(checks) == 1
    assert not doorkeeper.lets_in(users, basic(password="x"))
    assert doorkeeper.lets_in(users, basic())
    assert len(checks) == 2


def test_a_changed_hash_ends_what_was_known():
    doorkeeper = Doorkeeper()
    assert doorkeeper.lets_in({"prometheus": HASH.encode()}, basic())
    assert not doorkeeper.lets_in({"prometheus": OTHER.encode()}, basic())
    assert doorkeeper.lets_in({"prometheus": OTHER.encode()}, basic(password="another"))
    assert not doorkeeper.lets_in({"somebody": HASH.encode()}, basic())


def test_a_user_who_is_not_there_costs_as_much_as_one_who_is(checks):
    doorkeeper, users = Doorkeeper(), {"prometheus": HASH.encode()}
    assert not doorkeeper.lets_in(users, basic(user="nobody"))
    assert checks == [(PASSWORD.encode(), HASH.encode())]


def test_guesses_wait_for_each_other_and_fill_no_memory(monkeypatch):
    doorkeeper, users = Doorkeeper(), {"prometheus": HASH.encode()}
    assert doorkeeper.lets_in(users, basic())
    checking, most = [], []

    def checkpw(*_):
        checking.append(1)
        most.append(len(checking))
        time.sleep(0.01)
        checking.pop()
        return False

    monkeypatch.setattr(bcrypt, "checkpw", checkpw)
    guesses = [
        threading.Thread(target=doorkeeper.lets_in, args=(users, basic(f"u{n}", f"p{n}")))
        for n in range(10)
    ]
    began = time.monotonic()
    for guess in guesses:
        guess.start()
    assert doorkeeper.lets_in(users, basic())  # who is known waits for nobody
    assert any(guess.is_alive() for guess in guesses)
    for guess in guesses:
        guess.join()
    assert most == [1] * 10
    assert time.monotonic() - began >= 10 * 5 * 0.01
    assert list(doorkeeper._known) == ["prometheus"]


def test_a_password_that_bcrypt_cuts():
    long = "x" * 100
    users = {"prometheus": bcrypt.hashpw(long[:72].encode(), bcrypt.gensalt(4))}
    assert Doorkeeper().lets_in(users, basic(password=long))


def test_users_are_read_anew(served, path):
    server = served(USERS)
    assert status(server, Authorization=basic())[0] == 200
    path.write_text(f"basic_auth_users: {{prometheus: {OTHER}}}")
    assert status(server, Authorization=basic())[0] == 401
    assert status(server, Authorization=basic(password="another"))[0] == 200


@pytest.mark.parametrize("text", ["", "basic_auth_users: {a: b}", "a: [", None])
def test_a_file_that_breaks_opens_nothing(served, path, caplog, text):
    server = served(USERS)
    if text is None:
        path.unlink()
    else:
        path.write_text(text)
    for _ in range(3):
        assert status(server)[0] == 401
        assert status(server, Authorization=basic())[0] == 200
    assert caplog.text.count("what was said before holds") == 1
    path.write_text(USERS)
    assert status(server, Authorization=basic())[0] == 200


def test_the_hash_of_a_password_is_bcrypts_and_the_same_each_time():
    for password in ("a" * 16, "b" * 72, "!~" * 20):
        hashed = role.bcrypt_hash(password, "prometheus")
        assert hashed == role.bcrypt_hash(password, "prometheus")
        assert hashed.startswith("$2b$10$")
        assert bcrypt.checkpw(password.encode(), hashed.encode())
        assert role.bcrypt_hash(password, "wallboard")[:29] != hashed[:29]
    assert role.bcrypt_hash("c" * 16, "prometheus") != role.bcrypt_hash("d" * 16, "prometheus")


# --- TLS


def test_everything_is_spoken_over_tls(served, path):
    server = served(TLS + USERS)
    tls = trusting(path.parent / "tls/cert.pem")
    assert status(server, tls=tls)[0] == 401
    assert status(server, tls=tls, Authorization=basic())[0] == 200
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        status(server, Authorization=basic())


def test_versions(served, path):
    server = served(TLS + "  min_version: TLS13\n")
    tls = trusting(path.parent / "tls/cert.pem")
    assert status(server, tls=tls)[0] == 200
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        status(server, tls=tls)


def test_a_client_needs_a_certificate(served, path):
    issue(path.parent / "client", "client")
    server = served(
        TLS + "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: client/cert.pem\n"
    )
    tls = trusting(path.parent / "tls/cert.pem")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        status(server, tls=tls)
    tls.load_cert_chain(path.parent / "client/cert.pem", path.parent / "client/key.pem")
    assert status(server, tls=tls)[0] == 200


def presented(server) -> bytes:
    pem = ssl.get_server_certificate(("127.0.0.1", server.server_port))
    return ssl.PEM_cert_to_DER_cert(pem)


def test_a_renewed_certificate_is_presented_at_once(served, path):
    server = served(TLS)
    before = presented(server)
    renewed = issue(path.parent / "tls", "renewed")
    assert presented(server) == renewed != before


def test_half_a_renewal_changes_nothing(served, path, caplog):
    server = served(TLS)
    before = presented(server)
    key = path.parent / "tls/key.pem"
    old = key.read_bytes()
    renewed = issue(path.parent / "tls", "renewed")
    new = key.read_bytes()
    key.write_bytes(old)
    assert presented(server) == presented(server) == before
    assert caplog.text.count("KEY_VALUES_MISMATCH") == 1
    key.write_bytes(new)
    assert presented(server) == renewed


def test_tls_does_not_go_without_a_restart(served, path, caplog):
    server = served(TLS)
    path.write_text(USERS)
    assert presented(server)
    assert "tls_server_config has gone" in caplog.text


def test_headers_are_added_where_there_are_none(served):
    server = served(
        "http_server_config:\n  headers:\n    Strict-Transport-Security: max-age=60\n"
        "    Content-Security-Policy: default-src *\n    X-Frame-Options: ''\n"
    )
    _, headers = status(server, "/-/healthy")
    assert headers["Strict-Transport-Security"] == "max-age=60"
    assert headers.get_all("Content-Security-Policy") == ["default-src 'none'"]
    assert "X-Frame-Options" not in headers
    assert status(server)[1]["Content-Security-Policy"] == "default-src *"


# --- clients that cost


def test_one_who_does_not_shake_hands_holds_up_nobody(served, path):
    server = served(TLS)
    silent = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(20)]
    began = time.monotonic()
    assert status(server, tls=trusting(path.parent / "tls/cert.pem"))[0] == 200
    assert time.monotonic() - began < web.CLIENT_TIMEOUT_SECONDS / 2
    for one in silent:
        one.close()


def test_more_connections_than_there_are_threads_for_are_closed(served, monkeypatch):
    monkeypatch.setattr(web, "MAX_CONNECTIONS", 3)
    server = served("")
    held = [socket.create_connection(("127.0.0.1", server.server_port)) for _ in range(3)]
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as one_more:
        assert one_more.recv(1) == b""
    for one in held:
        one.close()
    assert server._free.acquire(timeout=10)  # when the first has been noticed
    server._free.release()
    assert status(server)[0] == 200


@pytest.mark.parametrize("tls", ["", TLS])
def test_one_who_speaks_a_byte_at_a_time_is_cut_off(served, path, monkeypatch, tls):
    monkeypatch.setattr(web, "CONNECTION_SECONDS", 0.5)
    server = served(tls)
    client = socket.create_connection(("127.0.0.1", server.server_port), timeout=2)
    if tls:
        context = trusting(path.parent / "tls/cert.pem")
        client = context.wrap_socket(client, server_hostname="127.0.0.1")
    began = time.monotonic()
    with client, contextlib.suppress(OSError):
        while time.monotonic() - began < 10:
            client.sendall(b"G")
            time.sleep(0.1)
    assert time.monotonic() - began < 5
    while server._open:
        assert time.monotonic() - began < 10
        time.sleep(0.01)


def test_nobody_is_told_of_clients_that_speak_no_tls(served, caplog):
    server = served(TLS)
    with socket.create_connection(("127.0.0.1", server.server_port)) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            client.recv(100)
    assert not caplog.records


# --- the doctor


@pytest.fixture
def doctor(served, path):
    """Look with the eyes of the doctor: doctor(web config, password)."""

    def make(text, password=PASSWORD, **more):
        server = served(text)
        (path.parent / "metrics-password").write_text(password)
        more.setdefault("metrics_username", "prometheus")
        listen = {"port": server.server_port, "web_config_file": "web.yml"}
        settings = config.Config(listen=listen, doctor=more)
        return Pbx(settings, path.parent / "exporter.yml", 2.0)

    return make


@pytest.mark.parametrize("text", [USERS, TLS, TLS + USERS])
def test_the_doctor_looks_as_prometheus_does(doctor, text):
    pbx = doctor(text)
    assert scraped(pbx).families == {}
    assert way(pbx).url.startswith("https:" if TLS in text else "http:")


def test_the_doctor_has_another_password(doctor):
    with pytest.raises(LookError, match="wants another user or password"):
        scraped(doctor(USERS, "other"))
    with pytest.raises(LookError, match="wants another user or password"):
        scraped(doctor(USERS, metrics_username=None))


def test_the_doctor_sends_no_password_to_another_certificate(doctor, path):
    pbx = doctor(TLS + USERS)
    way(pbx)
    issue(path.parent / "tls", "somebody else")
    with pytest.raises(LookError, match=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"):
        scraped(pbx)


def test_the_example_of_the_documentation_is_understood(path):
    page = (Path(__file__).parents[2] / "docs/web-config.md").read_text()
    path.write_text(page.split("```yaml\n")[1].split("```")[0].replace("/etc/ssl/exporter", "tls"))
    for name in ("certificate", "clients"):
        os.link(path.parent / "tls/cert.pem", path.parent / f"tls/{name}.pem")
    found = web_config.protection(path)
    assert found.tls is not None
    assert found.users
    assert found.headers
