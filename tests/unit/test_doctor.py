"""The frame of the doctor; what the links say is tested by subject, beside this."""

from __future__ import annotations

import ast
import json
import os
import pwd
import re
from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from asterisk_exporter import config
from asterisk_exporter.ami.errors import RefusedError
from asterisk_exporter.cli import doctor as command
from asterisk_exporter.cli import main
from asterisk_exporter.cli.ctl import main as ctl
from asterisk_exporter.doctor import pbx as pbx_module
from asterisk_exporter.doctor.chain import LINKS, Link, examine
from asterisk_exporter.doctor.finding import critical, not_set_up, ok, warning
from asterisk_exporter.doctor.pbx import LookError, Pbx
from asterisk_exporter.health import Status

from .conftest import EXPORTER


@pytest.fixture
def pbx():
    return Pbx(config.Config(), Path("none.yml"), 1.0)


def says(*findings):
    return lambda _: findings


def fails(error):
    def look(_):
        raise error
        yield

    return look


def run(monkeypatch, tmp_path, links, *arguments):
    monkeypatch.setattr(command, "examine", lambda pbx: examine(pbx, links))
    monkeypatch.setattr(command.os, "geteuid", lambda: 0)
    path = tmp_path / "config.yml"
    path.write_text("{}")
    return CliRunner().invoke(main, ["doctor", "--config", str(path), *arguments])


def test_a_broken_link_hides_those_that_need_it(pbx):
    links = (
        Link("a", says(critical("broken", "mend it"))),
        Link("b", says(ok("never seen")), needs=("a",)),
        Link("c", says(ok("never seen")), needs=("b",)),
        Link("d", says(ok("seen"))),
    )
    found = {link.name: link for link in examine(pbx, links)}
    assert found["b"].findings[0].text == "not looked at: needs a"
    assert found["c"].findings[0].text == "not looked at: needs b"
    assert [link.status for link in found.values()] == [Status.CRITICAL, None, None, Status.OK]


def test_a_warning_hides_nothing_and_the_worst_comes_first(pbx):
    links = (
        Link("a", says(ok("1"), not_set_up("x"), warning("2", "do"), critical("3", "do"))),
        Link("b", says(warning("2", "do"))),
        Link("c", says(ok("seen")), needs=("b",)),
    )
    a, _, c = examine(pbx, links)
    assert [finding.text for finding in a.findings] == ["3", "2", "1", "not set up: x"]
    assert c.status is Status.OK


def test_what_cannot_be_looked_at_is_broken(pbx):
    links = (
        Link("a", fails(LookError("no such file", "make it"))),
        Link("b", fails(RefusedError("127.0.0.1:5038"))),
    )
    a, b = examine(pbx, links)
    assert a.findings == (critical("no such file", "make it"),)
    assert "nothing listens on 127.0.0.1:5038" in b.findings[0].text


def test_what_was_seen_before_an_error_is_kept(pbx):
    def look(_):
        yield warning("odd", "do")
        raise LookError("no such file", "make it")

    (a,) = examine(pbx, (Link("a", look),))
    assert a.findings == (critical("no such file", "make it"), warning("odd", "do"))


def test_an_error_of_this_program_is_not_hidden(pbx):
    with pytest.raises(ZeroDivisionError):
        list(examine(pbx, (Link("a", fails(ZeroDivisionError())),)))


def test_every_link_needs_only_links_before_it():
    before = set()
    for link in LINKS:
        assert set(link.needs) <= before, link.name
        assert link.name not in before
        before.add(link.name)


@pytest.mark.parametrize(
    ("findings", "status"),
    [
        ([ok("1")], Status.OK),
        ([ok("1"), not_set_up("x")], Status.OK),
        ([ok("1"), warning("2", "do")], Status.WARNING),
        ([warning("2", "do"), critical("3", "do")], Status.CRITICAL),
        ([not_set_up("x")], Status.UNKNOWN),
    ],
)
def test_the_exit_status_is_that_of_the_worst(monkeypatch, tmp_path, findings, status):
    links = [Link(str(n), says(finding)) for n, finding in enumerate(findings)]
    for arguments in ((), ("--json",)):
        assert run(monkeypatch, tmp_path, links, *arguments).exit_code == status


def test_json_has_every_finding(monkeypatch, tmp_path):
    links = (Link("a", says(ok("1"), warning("2\x1b[2J", "do"))), Link("b", says(not_set_up("x"))))
    shown = run(monkeypatch, tmp_path, links, "--json")
    assert "\x1b" not in shown.stdout
    assert json.loads(shown.stdout) == {
        "status": "WARNING",
        "exit_code": 1,
        "links": [
            {
                "name": "a",
                "status": "WARNING",
                "findings": [
                    {"status": "WARNING", "text": "2\x1b[2J", "action": "do"},
                    {"status": "OK", "text": "1", "action": None},
                ],
            },
            {
                "name": "b",
                "status": None,
                "findings": [{"status": None, "text": "not set up: x", "action": None}],
            },
        ],
    }


def test_text_for_people(monkeypatch, tmp_path):
    links = (
        Link("AMI login", says(ok("fine"), warning("odd\x1b[2J", "look at [general]"))),
        Link("CRM", says(not_set_up("x"))),
    )
    lines = [line.rstrip() for line in run(monkeypatch, tmp_path, links).stdout.splitlines()]
    assert lines == [
        "AMI login            WARNING  odd?[2J",
        "                              → look at [general]",
        "                     OK       fine",
        "CRM                  –        not set up: x",  # noqa: RUF001
        "",
        "WARNING: 0 links are well, 1 link is not.",
    ]


def test_only_root_and_only_with_a_configuration(monkeypatch, tmp_path):
    monkeypatch.setattr(command.os, "geteuid", lambda: 1000)
    shown = CliRunner().invoke(main, ["doctor"])
    assert (shown.exit_code, "root is needed" in shown.output) == (3, True)
    monkeypatch.setattr(command.os, "geteuid", lambda: 0)
    path = tmp_path / "config.yml"
    path.write_text("listen: 1\n")
    shown = CliRunner().invoke(main, ["doctor", "--config", str(path)])
    assert (shown.exit_code, "listen" in shown.output) == (3, True)


def test_a_command_that_hangs_or_is_missing(pbx):
    pbx.timeout = 0.1
    with pytest.raises(LookError, match=r"sleep 5 did not end within 0\.1 s"):
        pbx.run(("sleep", "5"))
    pbx.timeout = 10
    with pytest.raises(LookError, match="there is no command nothing-of-this-name"):
        pbx.run(("nothing-of-this-name",))
    assert pbx.run(("sh", "-c", "echo a; echo b >&2; exit 3")) == (3, "a\n", "b\n")


def texts():
    """Return every text in the sources of the doctor, by file."""
    for path in sorted((EXPORTER / "asterisk_exporter/doctor").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.name, node.value


def test_the_variables_that_it_names_exist():
    known = {
        name
        for path in EXPORTER.parent.glob("roles/*/defaults/main.yml")
        for name in yaml.safe_load(path.read_text(encoding="utf-8"))
    }
    metrics = {
        name
        for path in (EXPORTER / "asterisk_exporter").rglob("*.py")
        for name in re.findall(r"\w+", path.read_text(encoding="utf-8"))
        if "doctor" not in path.parts
    }
    roles = {path.name for path in EXPORTER.parent.glob("roles/*")}
    named = re.compile(
        r"(?<![/.\w])((?:asterisk|pbx|call_routing|alertmanager)_[a-z_]+[a-z])\b(?!\.)"
    )
    unknown = {
        (file, name)
        for file, text in texts()
        for name in named.findall(text)
        if name not in known | metrics | roles
    }
    assert unknown == set()


def test_the_commands_that_it_names_exist():
    programs, prose = {"asterisk-exporter": main, "asterisk-ctl": ctl}, {"cannot", "does", "has"}
    for file, text in texts():
        for program, words in re.findall(
            r"(?<!-u )(asterisk-(?:exporter|ctl))\b((?: [a-z-]+)+)", text
        ):
            command, rest = programs[program], words.split()
            while isinstance(command, click.Group) and rest and rest[0] not in prose:
                command = command.get_command(click.Context(command), rest.pop(0))
            assert command is not None, f"{file}: {program}{words}"
            options = {name for one in command.params for name in one.opts}
            assert {word for word in rest if word.startswith("--")} <= options, f"{file}: {words}"


def test_the_user_of_asterisk_is_that_of_the_pbx_not_of_a_console(monkeypatch, pbx):
    monkeypatch.setattr(pbx_module, "asterisk_process", os.getpid)
    assert pbx.asterisk_user == pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setattr(pbx_module, "asterisk_process", lambda: None)
    del pbx.__dict__["asterisk_user"]
    with pytest.raises(LookError, match="no process of Asterisk"):
        _ = pbx.asterisk_user
