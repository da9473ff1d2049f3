# ruff: noqa: PLR0913, PLR0917 - callbacks have fixed arguments, fixtures come as arguments
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import click
import pytest
from click.testing import CliRunner

from asterisk_exporter import __version__, config
from asterisk_exporter.cli import main

from .conftest import EXPORTER, SECRET, closes_before_banner


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    for name in (config.PATH_VARIABLE, config.SECRET_VARIABLE, "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(config, "DEFAULT_PATH", tmp_path / "default.yml")


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def commands():
    context = click.Context(main)
    return {name: main.get_command(context, name) for name in main.list_commands(context)}


def test_every_command_and_option_has_help():
    for name, command in commands().items():
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.opts}"
                assert parameter.help.endswith("."), f"{name} {parameter.opts}"
        shown = run(name, "--help")
        assert shown.exit_code == 0
        assert command.help.splitlines()[0] in shown.output
    names = {"serve", "check", "check-config", "doctor", "missed", "notify", "queues", "cdr"}
    assert set(commands()) == names
    assert names <= set(run("--help").output.split())


def test_the_service_carries_no_tables_and_importers():
    shown = subprocess.run(
        [sys.executable, "-c", "import asterisk_exporter.cli.serve, sys; print(*sys.modules)"],
        env={**os.environ, "PYTHONPATH": str(EXPORTER)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {"asterisk_exporter.cli.serve", "psycopg2"} <= set(shown.stdout.split())
    assert {"rich", "asterisk_exporter.importer"}.isdisjoint(shown.stdout.split())


def test_version():
    assert __version__ in run("--version").output


def test_no_secret_is_an_argument():
    for command in commands().values():
        for parameter in command.params:
            assert parameter.name not in ("secret", "password")


def test_check(config_file, ami_server, behave):
    path = config_file(ami_server(behave("busy")).port)
    shown = run("check", "--config", path)
    assert shown.exit_code == 1
    assert shown.output.startswith("ASTERISK WARNING - 5 of 7 endpoints online (71 %); ")
    assert "Connection:    ok, answered in" in shown.output
    assert "Channels:" not in shown.output
    shown = run("check", "--config", path, "--full", "--queues")
    assert "Channels:      15" in shown.output
    assert "│ support" in shown.output
    assert "CDR:           not configured" in shown.output


def test_check_options_override_the_configuration(config_file, ami_server, behave, tmp_path):
    server = ami_server(behave("busy"))
    (tmp_path / "other-secret").write_text(SECRET)
    path = config_file(1, secret="not it")
    shown = run(
        *("check", "--config", path, "--host", "localhost", "--port", server.port),
        *("--username", "another", "--secret-file", tmp_path / "other-secret"),
        *("--endpoints-ok", 70, "--json"),
    )
    document = json.loads(shown.output)
    assert document["target"] == {
        "host": "localhost",
        "port": server.port,
        "username": "another",
        "tls": False,
    }
    assert b"Username: another\r\n" in server.received
    assert not any("endpoints online" in problem["text"] for problem in document["problems"])
    assert document["exit_code"] == shown.exit_code == 1


def test_check_takes_the_secret_from_the_environment(config_file, ami_server, behave, monkeypatch):
    monkeypatch.setenv(config.SECRET_VARIABLE, SECRET)
    path = config_file(ami_server(behave("busy")).port, secret="not it")
    assert run("check", "--config", path).exit_code == 1


def test_check_without_a_configuration(ami_server, behave, monkeypatch):
    monkeypatch.setenv(config.SECRET_VARIABLE, SECRET)
    assert run("check", "--port", ami_server(behave("busy")).port).exit_code == 1


def test_check_names_each_misbehaviour_in_time(misbehaviour, config_file, ami_server, free_port):
    _, behaviour, kind = misbehaviour
    port = free_port() if behaviour is None else ami_server(behaviour).port
    began = time.monotonic()
    done = run("check", "--config", config_file(port), "--timeout", 1.5, "--json")
    assert time.monotonic() - began < 1.5 + 2  # not for ever, on a busy machine too
    assert done.exit_code == 2, done.output
    document = json.loads(done.output)
    assert document["status"] == "CRITICAL"
    text = document["problems"][0]["text"]
    assert "Look at" in text
    assert document["connection"]["ok"] is False
    assert document["connection"]["error"]["kind"] == kind
    assert len(document["problems"]) == 1
    assert SECRET not in done.output


def test_check_says_it_in_its_first_line(config_file, ami_server):
    path = config_file(ami_server(closes_before_banner).port)
    shown = run("check", "--config", path, "--full", "--queues")
    assert shown.exit_code == 2
    first, *rest = shown.output.splitlines()
    assert first.startswith("ASTERISK CRITICAL - 127.0.0.1:")
    assert "closed it before its banner" in first
    assert "authlimit" in first
    assert "Connection:    failed (closed_before_banner)" in rest
    assert "Asterisk:      unknown" in rest


def test_check_with_a_cdr_database_that_is_down(config_file, ami_server, behave, free_port):
    port = free_port()
    more = f"system_name: pbx1\ncdr: {{port: {port}, password_file: null}}\n"
    shown = run("check", "--config", config_file(ami_server(behave("idle")).port, more), "--full")
    assert shown.exit_code == 1
    assert f"CDR database: PostgreSQL database asterisk at 127.0.0.1:{port}" in shown.output
    assert "refused" in shown.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--port", "0"),
        ("--port", "many"),
        ("--timeout", "-1"),
        ("--no-such-option",),
        ("argument",),
        ("--endpoints-ok", "101"),
        ("--config", "/nonexistent/exporter.yml"),
        (),  # no secret anywhere
    ],
)
def test_check_called_wrongly_is_unknown(arguments, command):
    done = command("check", *arguments)
    assert done.returncode == 3
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stdout + done.stderr


def test_check_with_a_bad_configuration_is_unknown(config_file):
    shown = run("check", "--config", config_file(5038, "queues: {membres: true}"))
    assert shown.exit_code == 3
    assert shown.output.startswith("ASTERISK UNKNOWN - ")
    assert "queues.membres" in shown.output
    assert len(shown.output.splitlines()) == 1


def test_check_config(config_file, tmp_path):
    path = config_file(5038)
    (tmp_path / "ami-secret").unlink()
    shown = run("check-config", path)
    assert (shown.exit_code, shown.output) == (0, f"{path}: valid\n")
    path.write_text("listen: {port: x}\nami: {port: 0}")
    shown = run("check-config", path)
    assert shown.exit_code == 2
    assert "listen.port: 'x'" in shown.output
    assert "ami.port: 0" in shown.output
    assert run("check-config", tmp_path / "missing.yml").exit_code == 2
    assert run("check-config").exit_code == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_cleanly_and_soon(serve, config_file, ami_server, behave, number):
    served = serve(config_file(ami_server(behave("busy")).port, "filesystems: []"))
    assert served.value("asterisk_up") == 1
    assert served.value("process_open_fds") > 0
    began = time.monotonic()
    assert served.end(number) == 0
    assert time.monotonic() - began < 1 + 2  # on a busy machine too
    lines = served.log.splitlines()
    assert lines[0].startswith(f"INFO asterisk-exporter {__version__} serves http://127.0.0.1:")
    assert lines[1].startswith("INFO AMI: connected")
    assert lines[2:] == [f"INFO ending ({number.name})"]
    assert SECRET not in served.log


def test_serve_cannot_start(config_file, free_port, command, tmp_path, ami_server, behave):
    path = config_file(free_port())
    done = command("serve", "--config", path, "--listen", "203.0.113.1")
    assert done.returncode == 2
    assert "cannot listen on 203.0.113.1:9739" in done.stderr
    taken = ami_server(behave("busy")).port
    done = command("serve", "--config", path, "--port", taken)
    assert done.returncode == 2
    assert "in use" in done.stderr
    done = command("serve", "--config", tmp_path / "missing.yml")
    assert done.returncode == 2
    assert "cannot read" in done.stderr
    (tmp_path / "ami-secret").unlink()
    done = command("serve", "--config", path)
    assert done.returncode == 2
    assert "ami.secret_file" in done.stderr
    for text in (done.stdout, done.stderr):
        assert "Traceback" not in text


def test_serve_with_a_state_directory_it_cannot_use(config_file, free_port, command, tmp_path):
    (tmp_path / "file").write_text("")
    more = f"system_name: pbx1\nstate_directory: {tmp_path}/file/x\ncdr: {{password_file: null}}\n"
    done = command("serve", "--config", config_file(free_port(), more), "--port", free_port())
    assert done.returncode == 2
    assert "cannot use the state directory" in done.stderr


def test_serve_with_a_database_that_is_down_from_the_start(
    serve, config_file, ami_server, behave, free_port, tmp_path
):
    port = free_port()
    more = (
        f"system_name: pbx1\nstate_directory: {tmp_path}/state\n"
        f"cdr: {{port: {port}, password_file: null, poll_seconds: 0.1}}\n"
    )
    served = serve(config_file(ami_server(behave("busy")).port, more))
    assert served.value("asterisk_up") == 1
    assert served.value('asterisk_exporter_collector_success{collector="cdr"}') == 0
    time.sleep(2.5)
    assert served.value("asterisk_up") == 1
    assert served.end() == 0
    assert served.log.count("cdr: lost") == 1


def test_the_module_is_the_command(environment):
    done = subprocess.run(
        [sys.executable, "-m", "asterisk_exporter", "--version"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert __version__ in done.stdout
