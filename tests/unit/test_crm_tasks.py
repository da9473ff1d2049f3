"""docs/from-a-crm-integration.md names what there is; tests/integration does what it says."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
from pathlib import Path

import click
import crm_tasks
import pytest
import yaml

from asterisk_exporter import api
from asterisk_exporter.cli import main as exporter
from asterisk_exporter.cli.ctl import main as ctl
from crm_routing import main as routing

ROOT = Path(__file__).parents[2]
ROWS = crm_tasks.rows()
PROGRAMS = {"asterisk-exporter": exporter, "asterisk-ctl": ctl}
SCRIPT = "/opt/call-routing/crm_route.py"
WORDS = {
    word
    for path in [ROOT / "docs/metrics.md", *(ROOT / "exporter").rglob("*.py")]
    for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))
}
ALERTS = {
    rule["alert"]
    for path in (ROOT / "roles/prometheus/files/rules").glob("*.yml")
    for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


def having(what):
    """Return the rows that have a cell, as parameters."""
    found = [row for row in ROWS.values() if getattr(row, what)]
    return pytest.mark.parametrize("row", found, ids=[row.task for row in found])


def test_every_row_says_how_and_where_it_shows():
    for row in ROWS.values():
        assert (row.python is None) != (row.http is None), row.task
        assert row.metrics, row.task
    assert len({row.command for row in ROWS.values()} - {None}) == len(ROWS) - 1  # "the same"


@having("command")
def test_a_command_takes_these_arguments(row, monkeypatch):
    program, *arguments = shlex.split(row.command)
    if program == SCRIPT:
        asked = []
        monkeypatch.setattr(routing.settings_file, "load", lambda _: None)
        monkeypatch.setattr("crm_routing.ask.ask", lambda *given: asked.append(given) or 0)
        assert routing.main(arguments) == 0
        assert asked == [(None, *arguments[1:])]
        return
    command, context = PROGRAMS[program], None
    while isinstance(command, click.Group):
        context = command.make_context(program, list(arguments), parent=context)
        program, command, arguments = command.resolve_command(context, arguments)
        assert command is not None
    command.make_context(program, arguments, parent=context)


def imported():
    tree = ast.parse(crm_tasks.names())
    return {
        alias.name
        for one in tree.body
        if isinstance(one, ast.ImportFrom) and one.module == "asterisk_exporter.api"
        for alias in one.names
    }


def used(code):
    return {one.id for one in ast.walk(ast.parse(code)) if isinstance(one, ast.Name)}


def test_the_names_are_public_and_all_are_used():
    assert imported() <= set(api.__all__)
    calls = " ; ".join(row.python for row in ROWS.values() if row.python)
    assert imported() <= used(calls) | used(crm_tasks.names())


@having("python")
def test_a_call_is_made_of_names_that_the_document_has(row):
    known = imported() | {"Path", "timedelta"}
    known |= {
        name.id
        for one in ast.walk(ast.parse(crm_tasks.names()))
        if isinstance(one, ast.Assign)
        for name in ast.walk(one.targets[0])
        if isinstance(name, ast.Name)
    }
    assert used(row.python) <= known
    call = ast.parse(row.python, mode="eval").body
    assert isinstance(call, ast.Call)
    function = eval(ast.unparse(call.func), vars(api))
    keywords = {keyword.arg: None for keyword in call.keywords}
    inspect.signature(function).bind(*call.args, **keywords)


@having("http")
def test_a_request_is_one_of_the_contracts(row):
    method, _, path = row.http.partition(" ")
    if method == "POST":
        assert not path
        assert "\nPOST /" in (ROOT / "docs/missed-call-webhook.md").read_text(encoding="utf-8")
        return
    contract = yaml.safe_load((ROOT / "docs/crm-openapi.yaml").read_text(encoding="utf-8"))
    patterns = {
        re.sub(r"\{\w+\}", "[^/]+", known): methods for known, methods in contract["paths"].items()
    }
    [methods] = [methods for known, methods in patterns.items() if re.fullmatch(known, path)]
    assert method.lower() in methods


@having("metrics")
def test_metrics_are_those_of_the_exporter(row):
    for name in row.metrics:
        assert name in WORDS or name.removesuffix("_total") in WORDS, name


@having("alerts")
def test_alerts_are_rules(row):
    assert set(row.alerts) <= ALERTS


def test_links_lead_somewhere():
    text = crm_tasks.DOCUMENT.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)]+)\)", text):
        name, _, anchor = link.partition("#")
        page = crm_tasks.DOCUMENT.parent / name
        assert page.is_file(), link
        headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
        assert not anchor or anchor in [one.lower().replace(" ", "-") for one in headings], link
