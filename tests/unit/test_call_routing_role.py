"""The role call_routing: what a reply may say, its preflight, its lock; and the CRM's contract."""

import json
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path

import jsonschema
import pytest
import yaml
from crm_server import CrmServer, Directory
from scripts import load

from crm_routing import reply

ROOT = Path(__file__).resolve().parents[2]
OPENAPI = yaml.safe_load((ROOT / "docs/crm-openapi.yaml").read_text())
TOKEN = "token-0123456789"


role = load("roles/call_routing/filter_plugins/call_routing.py")
PBX = {
    "phones": [{"extension": "101"}, {"extension": 103, "voicemail": False}],
    "queues": [{"name": "vip"}],
    "boxes": [{"box": "100"}],
    "conferences": [{"extension": "8000"}],
    "named": {"night": "voicemail:100", "boss": "101"},
}
GOOD = {
    "call_routing_method": "fastagi",
    "call_routing_crm_url": "https://crm.example.com:8443/telephony",
    "call_routing_crm_token": TOKEN,
    "call_routing_deadline_seconds": 2,
    "call_routing_cache_seconds": 0,
    "call_routing_failures": 3,
    "call_routing_retry_seconds": 10,
    "call_routing_destinations": PBX["named"],
    "call_routing_listen_address": "127.0.0.1",
    "call_routing_listen_port": 4573,
    "targets": role.targets(PBX),
}


def test_a_reply_may_say_what_the_inventory_has():
    assert role.targets(PBX) == {
        "default": "default",
        "hangup": "hangup",
        "101": "extension:101",
        "extension:101": "extension:101",
        "voicemail:101": "voicemail:101",
        "103": "extension:103",
        "extension:103": "extension:103",
        "queue:vip": "queue:vip",
        "voicemail:100": "voicemail:100",
        "conference:8000": "conference:8000",
        "night": "voicemail:100",
        "boss": "extension:101",
    }


def test_settings_that_are_fine():
    assert role.problems(GOOD) == []
    assert role.problems({**GOOD, "call_routing_method": "curl"}) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("call_routing_crm_url", url)
            for url in ("", "crm.example.com", "https://x/${X}", "ftp://x")
        ),
        ("call_routing_deadline_seconds", 2.5),
        ("call_routing_deadline_seconds", 0),
        ("call_routing_deadline_seconds", "two"),
        ("call_routing_cache_seconds", -1),
        ("call_routing_failures", 0),
        ("call_routing_retry_seconds", 0),
        ("call_routing_listen_port", 0),
        ("call_routing_listen_address", "0.0.0.0"),
        ("call_routing_listen_address", "localhost"),
    ],
)
def test_a_problem_names_the_variable_and_the_value(name, value):
    [problem] = role.problems({**GOOD, name: value})
    assert problem.startswith(f"{name} is {value!r}: ")


@pytest.mark.parametrize("token", ["", "short", "two words of it", "line\nbreak-0123456789"])
def test_a_token_that_does_not_fit_is_not_shown(token):
    [problem] = role.problems({**GOOD, "call_routing_crm_token": token})
    assert not token or token not in problem


def test_curl_counts_whole_seconds():
    found = role.problems(
        {**GOOD, "call_routing_method": "curl", "call_routing_deadline_seconds": 1.5}
    )
    assert [problem.split()[0] for problem in found] == ["call_routing_deadline_seconds"]


@pytest.mark.parametrize(
    ("name", "to"),
    [
        ("101", "queue:vip"),
        ("hangup", "101"),
        ("a b", "101"),
        ("x", "900"),
        ("x", "boss"),
        ("x", ""),
    ],
)
def test_a_name_that_cannot_be_a_destination(name, to):
    named = {"boss": "101", name: to}
    targets = role.targets({**PBX, "named": named})
    found = role.problems({**GOOD, "call_routing_destinations": named, "targets": targets})
    assert any(problem.startswith(f"call_routing_destinations.{name}") for problem in found)


def test_the_lock_is_that_of_the_repository():
    def pins(path):
        text = path.read_text().replace("\\\n", " ")
        return {line.split()[0]: line.split()[1:] for line in text.splitlines() if "==" in line}

    wanted = pins(ROOT / "roles/call_routing/files/requirements.txt")
    locked = pins(ROOT / "requirements.lock")
    assert {name.split("==")[0] for name in wanted} == {"pyst2", "six"}
    assert {name: locked[name] for name in wanted} == wanted


# --- the contract


def schema(name):
    return {"$ref": f"#/components/schemas/{name}", "components": OPENAPI["components"]}


def fits(name, value):
    return jsonschema.Draft202012Validator(schema(name)).is_valid(value)


def test_the_openapi_file_is_whole():
    assert OPENAPI["openapi"] == "3.1.0"
    for each in OPENAPI["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(each)
    references = re.findall(r'\$ref: "#/([^"]+)"', (ROOT / "docs/crm-openapi.yaml").read_text())
    assert references
    for reference in references:
        found = OPENAPI
        for part in reference.split("/"):
            found = found[part]
    for path, methods in OPENAPI["paths"].items():
        operation = methods["get"]
        names = {
            OPENAPI["components"]["parameters"]["caller"]["name"] if "$ref" in p else p["name"]
            for p in operation["parameters"]
        }
        assert names == set(re.findall(r"{(\w+)}", path))
        assert {"200", "204", "404", "401"} <= set(operation["responses"])


@pytest.mark.parametrize(
    "value",
    [
        {"target": "101"},
        {"target": None},
        {"target": "queue:vip", "priority": 5, "language": "en_GB"},
        {"target": 101},
        {"target": ["101"]},
        {},
        [],
        {"target": "101", "priority": "5"},
        {"target": "101", "priority": True},
        {"target": "101", "priority": 101},
        {"target": "101", "priority": -1},
        {"target": "101", "language": "../x"},
    ],
)
def test_routes_are_taken_as_the_schema_says(value):
    try:
        reply.route(json.dumps(value).encode(), role.targets(PBX))
        taken = True
    except reply.InvalidReply:
        taken = False
    assert taken == fits("Route", value)


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"name": "Ann", "id": 7, "url": "https://x/1", "language": "de", "vip": True},
        {"name": None, "id": None, "url": None, "language": None, "vip": None},
        {"name": 1},
        {"id": 1.5},
        {"id": "x" * 65},
        {"url": "javascript:x"},
        {"vip": "yes"},
        {"language": "x"},
        [],
    ],
)
def test_contacts_are_taken_as_the_schema_says(value):
    try:
        reply.contact(json.dumps(value).encode())
        taken = True
    except reply.InvalidReply:
        taken = False
    assert taken == fits("Contact", value)


@pytest.fixture
def reference():
    data = {
        "contacts": {"+491": {"name": "Ann", "id": 7}},
        "routes": {"+491": {"target": "queue:vip", "priority": 5}},
    }
    server = CrmServer(("127.0.0.1", 0), TOKEN, Directory(data))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/api"
    server.shutdown()
    server.server_close()


def fetch(url, token=TOKEN, accept="application/json"):
    request = urllib.request.Request(
        url, headers={"Authorization": f"Token {token}", "Accept": accept}
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


def test_the_reference_server_keeps_the_contract(reference):
    status, body = fetch(f"{reference}/route/%2B491/%2B493055505")
    assert status == 200
    assert fits("Route", json.loads(body))
    status, body = fetch(f"{reference}/lookup/%2B491")
    assert status == 200
    assert fits("Contact", json.loads(body))
    assert fetch(f"{reference}/route/%2B491/1", accept="text/plain") == (200, b"queue:vip")
    assert fetch(f"{reference}/lookup/anonymous")[0] == 204
    assert fetch(f"{reference}/route/2/3")[0] == 204
    assert fetch(f"{reference}/route/2/3/4")[0] == 204
    assert fetch(f"{reference.removesuffix('/api')}/route/%2B491/1")[0] == 404
    assert fetch(f"{reference}/lookup/%2B491", token="wrong")[0] == 401
