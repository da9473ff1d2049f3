from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from asterisk_exporter import config
from asterisk_exporter.config import ConfigError

PATH = Path("/etc/asterisk-exporter/asterisk-exporter.yml")

FULL = """
listen: {address: 198.18.77.11, port: 9740}
state_directory: /var/lib/asterisk-exporter
system_name: pbx1
timezone: Asia/Kathmandu
ami:
  host: pbx1.example.org
  port: 5039
  username: exporter
  secret_file: /run/secrets/ami
  tls: {enabled: true, ca_file: /etc/ssl/ca.pem, server_name: pbx1}
  timeout_seconds: 1.2
endpoints: {up: "provider|backup-.*"}
queues: {members: true}
cdr:
  host: 192.0.2.5
  port: 5433
  database: cdr
  username: reader
  password_file: null
  sslmode: verify-full
  sslrootcert: /etc/ssl/ca.pem
  poll_seconds: 2
"""


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in (config.PATH_VARIABLE, config.SECRET_VARIABLE, "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)


def test_defaults():
    for text in ("", "---\n", "{}"):
        settings = config.parse(text, PATH)
        assert (settings.listen.address, settings.listen.port) == ("127.0.0.1", 9739)
        assert (settings.ami.host, settings.ami.port) == ("127.0.0.1", 5038)
        assert settings.ami.timeout_seconds == 1.5
        assert settings.endpoints.up is None
        assert settings.queues.members is False
        assert settings.cdr is None
        assert settings.zone is None


def test_everything():
    settings = config.parse(FULL, PATH)
    assert settings.listen.port == 9740
    assert settings.ami.tls.server_name == "pbx1"
    assert settings.cdr.poll_seconds == 2
    assert settings.zone.utcoffset(None) is None or settings.zone.key == "Asia/Kathmandu"
    database = config.database(settings, PATH)
    assert database.login == {
        "host": "192.0.2.5",
        "port": 5433,
        "dbname": "cdr",
        "user": "reader",
        "password": None,
        "sslmode": "verify-full",
        "sslrootcert": "/etc/ssl/ca.pem",
    }


def test_the_importer_checks_the_same_database_the_same_way():
    settings = config.parse(f"{FULL}importer: {{password_file: null}}\n", PATH)
    reader, writer = config.database(settings, PATH), config.import_database(settings, PATH)
    assert writer.login == {**reader.login, "user": "importer"}


def test_zone():
    zone = config.parse("timezone: Asia/Kathmandu", PATH).zone
    assert datetime(2026, 1, 1, tzinfo=zone).utcoffset() == timedelta(hours=5, minutes=45)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("ami: {port: 70000}", ["ami.port", "70000", "less than or equal to 65535"]),
        ("ami: {port: many}", ["ami.port", "'many'", "integer"]),
        ("ami: {prot: 5038}", ["ami.prot", "unknown key", "host, port, username"]),
        ("amy: {}", ["amy", "unknown key", "listen, state_directory"]),
        ("system_name: pbx1\ncdr: {hots: x}", ["cdr.hots", "unknown key", "database"]),
        ("ami: {tls: {verify: false}}", ["ami.tls.verify", "unknown key", "ca_file"]),
        ("ami: 5038", ["ami", "5038"]),
        ("ami: {timeout_seconds: 5}", ["ami.timeout_seconds", "5", "1.8"]),
        ("endpoints: {up: '('}", ["endpoints.up", "'('", "regular expression"]),
        ("timezone: Mars/Olympus", ["timezone", "Mars/Olympus", "Europe/Berlin"]),
        ("timezone: ../../etc/passwd", ["timezone", "IANA"]),
        ("cdr: {}", ["system_name", "asterisk.conf"]),
        ("system_name: p\ncdr: {sslmode: on}", ["cdr.sslmode", "verify-full"]),
        ("queues: {members: perhaps}", ["queues.members", "perhaps"]),
        ('ami: {username: "a\\nb"}', ["ami.username", "a\\nb"]),
        ("filesystems: [spool]", ["filesystems", "'spool'", "absolute paths, each once"]),
        ("filesystems: [/a, /a]", ["filesystems", "'/a'", "absolute paths, each once"]),
        ("wallboard: {objective_percent: 0}", ["wallboard.objective_percent", "greater than 0"]),
        ("wallboard: {language: de}", ["wallboard.language", "'de'", "'en' or 'ru'"]),
        ("- a\n- b", ["expected keys and values", "list"]),
        ("a: [", ["not YAML", "line"]),
        ("1: x", ["every key must be a text"]),
    ],
)
def test_errors_name_file_key_value_and_what_is_expected(text, parts):
    with pytest.raises(ConfigError) as wrong:
        config.parse(text, PATH)
    for part in [str(PATH), *parts]:
        assert part in str(wrong.value)


def test_several_errors_are_all_named():
    with pytest.raises(ConfigError) as wrong:
        config.parse("ami: {port: 0}\nlisten: {port: 0}", PATH)
    assert len(str(wrong.value).splitlines()) == 2


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*No such file"):
        config.load(tmp_path / "missing.yml")
    (tmp_path / "latin1.yml").write_bytes(b"system_name: caf\xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        config.load(tmp_path / "latin1.yml")


def test_where_the_file_is(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "default.yml")
    assert config.load()[0].system_name == ""
    (tmp_path / "default.yml").write_text("system_name: of-default")
    assert config.load()[0].system_name == "of-default"
    (tmp_path / "variable.yml").write_text("system_name: of-variable")
    monkeypatch.setenv(config.PATH_VARIABLE, str(tmp_path / "variable.yml"))
    assert config.load()[0].system_name == "of-variable"
    (tmp_path / "given.yml").write_text("system_name: given")
    assert config.load(tmp_path / "given.yml")[0].system_name == "given"
    monkeypatch.setenv(config.PATH_VARIABLE, str(tmp_path / "missing.yml"))
    with pytest.raises(ConfigError, match=r"missing\.yml"):
        config.load()


def test_secrets_beside_the_file_as_credential_or_absolute(tmp_path, monkeypatch):
    (tmp_path / "ami-secret").write_text("beside\n")
    path = tmp_path / "exporter.yml"
    settings = config.parse("", path)
    assert config.target(settings, path).secret == "beside"
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "ami-secret").write_text("credential")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    assert config.target(settings, path).secret == "credential"
    (tmp_path / "elsewhere").write_text("absolute")
    settings = config.parse(f"ami: {{secret_file: {tmp_path}/elsewhere}}", path)
    assert config.target(settings, path).secret == "absolute"
    monkeypatch.setenv(config.SECRET_VARIABLE, "variable")
    assert config.target(settings, path).secret == "variable"


@pytest.mark.parametrize("content", ["", "\n", "two\nlines", "nul\0nul"])
def test_a_secret_that_is_none_is_refused_and_not_shown(tmp_path, content):
    (tmp_path / "ami-secret").write_text(content)
    path = tmp_path / "exporter.yml"
    with pytest.raises(ConfigError, match="must hold one line") as wrong:
        config.target(config.parse("", path), path)
    assert "two" not in str(wrong.value)
    assert "nul\0" not in str(wrong.value)


def test_a_secret_that_is_missing(tmp_path):
    path = tmp_path / "exporter.yml"
    with pytest.raises(ConfigError, match=r"ami-secret: No such file.*secret of ami\.secret_file"):
        config.target(config.parse("", path), path)


def test_database_and_target(tmp_path):
    path = tmp_path / "exporter.yml"
    (tmp_path / "cdr-password").write_text("pass word\n")
    settings = config.parse("system_name: pbx1\ncdr: {}", path)
    assert config.database(settings, path).password == "pass word"
    assert config.database(config.parse("", path), path) is None
    (tmp_path / "ami-secret").write_text("x")
    tls = config.parse("ami: {tls: {enabled: true, ca_file: /ca.pem}}", path)
    assert config.target(tls, path).tls.ca_file == "/ca.pem"
    assert config.target(settings, path).tls is None


def test_where_an_import_goes(tmp_path):
    path = tmp_path / "exporter.yml"
    (tmp_path / "importer-password").write_text("pass word\n")
    settings = config.parse("system_name: pbx1\ncdr: {host: 192.0.2.5, username: reader}", path)
    found = config.import_database(settings, path)
    assert (found.host, found.username, found.password) == ("192.0.2.5", "importer", "pass word")
    for other in ("", "cdr: {source: csv}"):
        with pytest.raises(ConfigError, match=r"cdr: expected source postgresql"):
            config.import_database(config.parse(other, path), path)


@pytest.mark.parametrize("url", ["prometheus:9090", "http://user:word@127.0.0.1:9090", "http://"])
def test_prometheus_is_asked_without_a_login(url):
    with pytest.raises(config.ConfigError, match=r"doctor\.prometheus_url") as caught:
        config.parse(f"doctor: {{prometheus_url: '{url}'}}", Path("c.yml"))
    assert "word" not in str(caught.value)
