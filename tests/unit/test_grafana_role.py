"""The role grafana: what it refuses, and what it tells a Grafana over the API.

No Debian has a Grafana: a stand-in keeps to what Grafana's documentation says of its HTTP API.
"""

import http.server
import json
import re
import subprocess
import sys
import threading
import urllib.parse
from pathlib import Path

import pytest
import yaml
from scripts import load

ROOT = Path(__file__).resolve().parents[2]
ROLE = ROOT / "roles" / "grafana"
UIDS = {path.stem for path in ROLE.glob("files/dashboards/*.json")}
TOKEN = "glsa_a-token-of-nobody"


def plugin():
    return load("roles/grafana/filter_plugins/grafana.py")


GOOD = {
    name: value
    for name, value in yaml.safe_load((ROLE / "defaults" / "main.yml").read_text()).items()
    if "{{" not in str(value)
} | {
    "grafana_prometheus_scrape_interval": "15s",
    "grafana_runbooks_url": "http://127.0.0.1:9090/consoles/runbooks",
}


def test_defaults_are_accepted():
    assert plugin().problems(GOOD) == []
    assert (
        plugin().problems(GOOD | {"grafana_api_url": "https://g.example", "grafana_api_token": "x"})
        == []
    )


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (
            {"grafana_prometheus_url": "127.0.0.1:9090"},
            "grafana_prometheus_url is '127.0.0.1:9090'",
        ),
        ({"grafana_runbooks_url": "/consoles"}, "grafana_runbooks_url"),
        ({"grafana_apt_url": "ftp://a.example"}, "grafana_apt_url"),
        ({"grafana_apt_key_url": ""}, "grafana_apt_key_url"),
        ({"grafana_api_url": "g.example", "grafana_api_token": "x"}, "grafana_api_url is"),
        ({"grafana_prometheus_scrape_interval": "15"}, "grafana_prometheus_scrape_interval"),
        ({"grafana_listen_port": 65536}, "grafana_listen_port"),
        ({"grafana_listen_port": 0}, "grafana_listen_port"),
        ({"grafana_listen_address": "grafana.example"}, "grafana_listen_address"),
        ({"grafana_folder": " "}, "grafana_folder"),
        ({"grafana_dashboards_dir": "/etc"}, "grafana_dashboards_dir"),
        ({"grafana_provisioning_dir": "etc/grafana"}, "grafana_provisioning_dir"),
        (
            {"grafana_dashboards_dir": "/etc/grafana/provisioning/dashboards"},
            "grafana_dashboards_dir is in /etc/grafana/provisioning/",
        ),
        ({"grafana_api_url": "https://g.example"}, "grafana_api_token"),
        ({"grafana_api_token": "secret"}, "grafana_api_url"),
        (
            {
                "grafana_api_url": "https://g.example",
                "grafana_api_token": "secret",
                "grafana_install": True,
            },
            "grafana_install and grafana_api_url exclude each other",
        ),
    ],
)
def test_nonsense_is_refused_by_name(changed, named):
    (problem,) = plugin().problems(GOOD | changed)
    assert named in problem
    assert "secret" not in problem


class Grafana(http.server.ThreadingHTTPServer):
    """A stand-in for Grafana's HTTP API."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folders, self.datasources, self.dashboards, self.writes = {}, {}, {}, []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def dashboard(self, uid, folder, **more):
        """Keep a dashboard as Grafana does, with an id and a version of its own."""
        self.dashboards[uid] = {
            "meta": {"folderUid": folder},
            "dashboard": {"uid": uid, "id": len(self.dashboards) + 1, "version": 7, **more},
        }

    def answer(self, method, path, query, body):
        """Return the status and the answer."""
        kind, _, uid = path.removeprefix("/api/").partition("/")
        if method != "GET":
            self.writes.append((method, path))
        if kind == "search":
            return 200, [
                {"uid": uid}
                for uid, kept in self.dashboards.items()
                if kept["meta"]["folderUid"] in query["folderUIDs"]
                and set(query["tag"]) <= set(kept["dashboard"].get("tags", []))
            ]
        if kind == "dashboards" and method == "POST":
            assert body["folderUid"] in self.folders
            assert body["overwrite"]
            self.dashboard(folder=body["folderUid"], **body["dashboard"])
            return 200, {"status": "success"}
        kept = getattr(self, kind)
        uid = uid.removeprefix("uid/")
        if method == "POST":
            kept[body["uid"]] = body
        elif uid not in kept:
            return 404, {"message": "not found"}
        elif method == "PUT":
            kept[uid] = body
        elif method == "DELETE":
            return 200, kept.pop(uid)
        return 200, kept[uid or body["uid"]]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        url = urllib.parse.urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, answer = 401, {"message": "Invalid API key"}
        if self.headers["Authorization"] == f"Bearer {TOKEN}":
            status, answer = self.server.answer(
                self.command, url.path, urllib.parse.parse_qs(url.query), json.loads(body or "{}")
            )
        payload = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - http.server calls them by these names

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture
def grafana():
    server = Grafana()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run(tmp_path, *arguments, **variables):
    """Run the role on this host, without facts; return the exit status, `changed`, the output."""
    play = tmp_path / "play.yml"
    play.write_text(
        "- hosts: localhost\n  gather_facts: false\n  connection: local\n  roles: [grafana]\n"
    )
    variables |= {"ansible_python_interpreter": sys.executable}
    result = subprocess.run(
        [
            *(Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", play, "-vv"),
            *("-e", json.dumps(variables), *arguments),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    output = result.stdout + result.stderr
    assert TOKEN not in output
    return result.returncode, int(re.search(r"changed=(\d+)", output)[1]), output


def test_it_brings_a_grafana_up_to_date_over_its_api(tmp_path, grafana):
    def go(*arguments, **more):
        return run(
            tmp_path, *arguments, grafana_api_url=grafana.url, grafana_api_token=TOKEN, **more
        )

    # A dry run only looks.
    status, _, output = go("--check")
    assert status == 0, output
    assert grafana.writes == []

    status, changed, output = go(grafana_runbooks_url="https://p.example/runbooks")
    assert (status, changed) == (0, 3), output
    assert set(grafana.dashboards) == UIDS
    assert grafana.datasources["asterisk-prometheus"]["url"] == "http://127.0.0.1:9090"
    assert grafana.folders["asterisk-appliance"]["title"] == "Asterisk"
    kept = json.dumps(grafana.dashboards)
    assert kept.count("https://p.example/runbooks") == len(UIDS)

    # Nothing to do, and nothing done.
    grafana.writes.clear()
    status, changed, output = go(grafana_runbooks_url="https://p.example/runbooks")
    assert (status, changed) == (0, 0), output
    assert grafana.writes == []

    # What somebody changed is put right, what is ours no more goes, what never was ours stays.
    grafana.dashboards["asterisk-voice"]["dashboard"]["title"] = "Mine"
    grafana.dashboards["asterisk-queues"]["meta"]["folderUid"] = "elsewhere"
    grafana.datasources["asterisk-prometheus"]["url"] = "http://elsewhere:9090"
    grafana.dashboard("asterisk-old", "asterisk-appliance", tags=["asterisk-appliance"])
    grafana.dashboard("copy", "elsewhere", tags=["asterisk-appliance"])
    grafana.dashboard("other", "asterisk-appliance")
    status, changed, output = go(
        grafana_runbooks_url="https://p.example/runbooks", grafana_folder="Telephony"
    )
    assert (status, changed) == (0, 4), output
    assert sorted(grafana.writes) == [
        ("DELETE", "/api/dashboards/uid/asterisk-old"),
        ("POST", "/api/dashboards/db"),
        ("POST", "/api/dashboards/db"),
        ("PUT", "/api/datasources/uid/asterisk-prometheus"),
        ("PUT", "/api/folders/asterisk-appliance"),
    ]
    assert set(grafana.dashboards) == UIDS | {"copy", "other"}
    assert grafana.dashboards["asterisk-voice"]["dashboard"]["title"] != "Mine"
    assert grafana.folders["asterisk-appliance"]["title"] == "Telephony"


def test_a_token_that_grafana_does_not_know_is_named(tmp_path, grafana):
    status, changed, output = run(
        tmp_path, grafana_api_url=grafana.url, grafana_api_token="secret-but-wrong"
    )
    assert (status, changed) == (2, 0)
    assert "Grafana does not know grafana_api_token" in output
    assert "secret-but-wrong" not in output


def test_an_address_where_no_grafana_is_is_named(tmp_path):
    status, changed, output = run(
        tmp_path, grafana_api_url="http://127.0.0.1:9", grafana_api_token=TOKEN
    )
    assert (status, changed) == (2, 0)
    assert "No Grafana answers at grafana_api_url, http://127.0.0.1:9" in output


def test_files_for_a_grafana_that_is_not_there(tmp_path):
    where = {
        "grafana_provisioning_dir": f"{tmp_path}/provisioning",
        "grafana_dashboards_dir": f"{tmp_path}/dashboards",
    }
    status, changed, output = run(tmp_path, "--check", **where)
    assert (status, changed) == (0, 1), output
    assert not (tmp_path / "provisioning").exists()

    status, changed, output = run(tmp_path, **where)
    assert (status, changed) == (0, 1), output
    assert "Grafana is not installed on localhost" in output
    source = yaml.safe_load((tmp_path / "provisioning/datasources/asterisk.yaml").read_text())
    assert source["datasources"][0] == {
        "name": "Asterisk",
        "uid": "asterisk-prometheus",
        "type": "prometheus",
        "access": "proxy",
        "url": "http://127.0.0.1:9090",
        "jsonData": {"httpMethod": "POST", "timeInterval": "15s"},
        "editable": False,
    }
    provider = yaml.safe_load((tmp_path / "provisioning/dashboards/asterisk.yaml").read_text())
    assert provider["providers"][0]["options"] == {"path": where["grafana_dashboards_dir"]}
    there = {path.stem: path.read_text() for path in (tmp_path / "dashboards").iterdir()}
    assert there == {uid: (ROLE / f"files/dashboards/{uid}.json").read_text() for uid in UIDS}

    # A dashboard that a later version does not have goes; then there is nothing to do.
    (tmp_path / "dashboards/asterisk-old.json").write_text("{}")
    assert run(tmp_path, **where)[:2] == (0, 1)
    assert {path.stem for path in (tmp_path / "dashboards").iterdir()} == UIDS
    assert run(tmp_path, **where)[:2] == (0, 0)
