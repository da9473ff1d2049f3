"""The doctor's links of Prometheus: itself, scraping, rules, Alertmanager, clocks."""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from scripts import ROOT, load

from asterisk_exporter import config
from asterisk_exporter.doctor import clocks, prometheus, rules
from asterisk_exporter.doctor.pbx import LookError, Pbx
from asterisk_exporter.doctor.prometheus_api import Clock, Prometheus, epoch, seconds
from asterisk_exporter.health import Status

OK, WARNING, CRITICAL = Status.OK, Status.WARNING, Status.CRITICAL
NOW = 1_795_535_757.0
LAST = "2026-11-24T15:55:55.742423308Z"  # 1.3 s before


def only(findings):
    [finding] = findings
    return finding


class Web:
    """Says to each path what the test gives: a status and a text, or data of the API."""

    def __init__(self):
        self.says = {}

    def api(self, path, data):
        self.says[f"/api/v1/{path}"] = (200, json.dumps({"status": "success", "data": data}))


@pytest.fixture
def web():
    said = Web()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = urlsplit(self.path).path
            if path == "/api/v1/query" and "time%28%29" in self.path and path not in said.says:
                said.api("query", {"result": [time.time(), str(time.time())]})
            status, text = said.says.get(path, (404, "no such page"))
            if status is None:
                time.sleep(0.3)
            if status:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    said.url = f"http://127.0.0.1:{server.server_port}"
    yield said
    server.shutdown()
    server.server_close()


def pbx_of(url=None, **more):
    settings = config.Config(doctor=config.Doctor(prometheus_url=url), system_name="pbx1", **more)
    return Pbx(settings, Path("none.yml"), 1.0)


LINKS = [prometheus.server, prometheus.scraping, rules.look, prometheus.alertmanager]


@pytest.mark.parametrize("link", LINKS)
def test_nobody_knows_where_prometheus_is(link):
    found = only(link(pbx_of()))
    assert (found.status, found.text) == (None, f"not set up: {prometheus.NOT_SET_UP}")


class TestApi:
    @pytest.mark.parametrize(
        ("status", "says"),
        [
            (401, "wants a login"),
            (503, "is starting"),
            (404, "answered 404"),
            (200, "no answer of Prometheus's API"),
            (0, "RemoteDisconnected|closed connection"),
        ],
    )
    def test_what_is_not_prometheus(self, web, status, says):
        web.says["/api/v1/rules"] = (status, "<html>")
        with pytest.raises(LookError, match=says) as caught:
            Prometheus(web.url, 1).api("rules")
        assert caught.value.action

    def test_an_error_of_its_own(self, web):
        web.says["/api/v1/query"] = (200, '{"status": "error", "error": "too many samples"}')
        with pytest.raises(LookError, match="too many samples"):
            Prometheus(web.url, 1).api("query", query="up")

    @pytest.mark.parametrize("data", [[], {"groups": None}])
    def test_an_answer_of_another_shape(self, web, data):
        web.api("rules", data)
        with pytest.raises(LookError, match="no groups in its answer"):
            Prometheus(web.url, 1).listed("rules", "groups")

    def test_nobody_there(self):
        with pytest.raises(LookError, match="Connection refused"):
            Prometheus("http://127.0.0.1:1", 1).api("rules")
        with pytest.raises(LookError, match=r"no\.invalid"):
            Prometheus("http://no.invalid:9090", 1).api("rules")

    def test_silence(self, web):
        web.says["/api/v1/rules"] = (None, "")
        with pytest.raises(LookError, match=r"no answer within 0\.1 s"):
            Prometheus(web.url, 0.1).api("rules")

    def test_no_proxy_of_a_shell(self, web, monkeypatch):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        web.api("rules", {"groups": []})
        assert Prometheus(web.url, 1).api("rules") == {"groups": []}

    def test_times(self):
        assert epoch(LAST) == pytest.approx(NOW - 1.2576)
        assert epoch("2026-11-24T16:55:55+01:00") == NOW - 2
        assert epoch("2026-11-24T15:55:55.5Z") == NOW - 1.5
        assert epoch("0001-01-01T00:00:00Z") == 0
        assert [seconds(text) for text in ("15s", "1m30s", "500ms", "")] == [15, 90, 0.5, 0]


class TestServer:
    def test_it_runs(self, web):
        web.api("status/buildinfo", {"version": "3.5.3"})
        web.says["/metrics"] = (200, "prometheus_config_last_reload_successful 1\n")
        found = only(prometheus.server(pbx_of(web.url)))
        assert (found.status, "version 3.5.3" in found.text) == (OK, True)

    def test_metrics_are_closed(self, web):
        web.api("status/buildinfo", {"version": "3.5.3"})
        assert only(prometheus.server(pbx_of(web.url))).status == OK

    def test_it_could_not_reload(self):
        metrics = "# HELP x\nprometheus_config_last_reload_successful 0\n"
        found = only(prometheus.judged_reload(metrics))
        assert (found.status, "promtool check config" in found.action) == (WARNING, True)
        assert not list(prometheus.judged_reload("up 0\n"))


def target(url="http://127.0.0.1:9739/metrics", health="up", error="", job="asterisk", **more):
    return {
        "scrapeUrl": url,
        "health": health,
        "lastError": error,
        "lastScrape": LAST,
        "lastScrapeDuration": 0.017,
        "scrapeInterval": "5s",
        "labels": {"job": job, "instance": urlsplit(url).netloc},
        **more,
    }


class TestOurTarget:
    @pytest.mark.parametrize(
        ("url", "listen", "server", "ours"),
        [
            ("http://127.0.0.1:9739/metrics", "127.0.0.1", "127.0.0.1", True),
            ("http://localhost:9739/metrics", "127.0.0.1", "127.0.0.1", True),
            ("http://127.0.0.1:9739/metrics", "0.0.0.0", "127.0.0.1", True),
            # loopback of another machine
            ("http://127.0.0.1:9739/metrics", "127.0.0.1", "192.0.2.1", False),
            ("http://127.0.0.1:9100/metrics", "127.0.0.1", "127.0.0.1", False),
            ("http://192.0.2.11:9739/metrics", "0.0.0.0", "127.0.0.1", False),
            ("http://127.0.0.1:9739/metrics", "192.0.2.11", "127.0.0.1", False),
        ],
    )
    def test_which_is(self, url, listen, server, ours):
        found = prometheus.is_ours(target(url), config.Listen(address=listen), server)
        assert found is ours


class TestScraping:
    def judged(self, *targets):
        return list(prometheus.judged_targets(targets, NOW))

    def test_it_scrapes(self):
        found = only(self.judged(target()))
        said = "http://127.0.0.1:9739/metrics every 5 s, last 1 s ago in 17 ms"
        assert (found.status, found.text) == (OK, said)

    @pytest.mark.parametrize(
        ("changed", "status", "text"),
        [
            ({"health": "down", "error": "connection refused"}, CRITICAL, "connection refused"),
            ({"health": "unknown"}, WARNING, "not scraped"),
            (
                {"lastScrape": "2026-11-24T15:55:00Z"},
                CRITICAL,
                "57 s ago, though it should every 5",
            ),
            ({"scrapeInterval": "3m"}, WARNING, "every 180 s"),
        ],
    )
    def test_it_does_not(self, changed, status, text):
        found = only(self.judged(target(**changed)))
        assert found.status == status
        assert text in found.text
        assert found.action

    def test_another_job(self):
        well, job = self.judged(target(job="pbx"))
        assert (well.status, job.status) == (OK, WARNING)
        assert "has the job pbx" in job.text

    def test_twice(self):
        *_, twice = self.judged(target(), target("http://localhost:9739/metrics"))
        assert (twice.status, "count every call 2 times" in twice.text) == (WARNING, True)

    def test_it_is_no_target(self, web):
        web.api("targets", {"activeTargets": [target("http://192.0.2.1:9739/metrics")]})
        web.api("query", {"result": []})
        found = only(prometheus.scraping(pbx_of(web.url)))
        assert found.status == CRITICAL
        assert "(127.0.0.1:9739): no figures are kept" in found.text
        assert "Its targets: http://192.0.2.1:9739/metrics" in found.text
        assert "prometheus_exporter_targets" in found.action

    def test_many_targets_are_not_all_named(self):
        targets = [target(f"http://192.0.2.{n}/") for n in range(20)]
        judged = prometheus.judged_absence(
            targets, config.Listen(), Prometheus("http://localhost", 1), []
        )
        assert only(judged).text.endswith("http://192.0.2.7/ and 12 more")

    def test_figures_that_come_another_way(self, web):
        web.api("targets", {"activeTargets": []})
        web.api(
            "query", {"result": [{"metric": {"instance": "pbx1.example.net"}, "value": [0, "1"]}]}
        )
        found = only(prometheus.scraping(pbx_of(web.url)))
        assert (found.status, "arrive as pbx1.example.net" in found.text) == (OK, True)

    def test_loopback_cannot_be_scraped_from_elsewhere(self):
        elsewhere = Prometheus("http://192.0.2.31:9090", 1)
        found = only(prometheus.judged_absence([], config.Listen(), elsewhere, []))
        assert (found.status, "on another host" in found.text) == (CRITICAL, True)
        assert "asterisk_exporter_listen_address" in found.action


def rule(name="r", health="ok", **more):
    return {"name": name, "health": health, "lastError": "", **more}


def group(name, *found, at=LAST):
    return {"name": name, "interval": 5, "lastEvaluation": at, "rules": found or (rule(),)}


ALL = [group(name) for name in rules.GROUPS]


class TestRules:
    def judged(self, groups):
        return list(rules.judged(groups, NOW))

    def test_the_groups_are_those_of_the_role(self):
        role = ROOT / "roles/prometheus"
        filters = load("roles/prometheus/filter_plugins/prometheus_rules.py")
        defaults = yaml.safe_load((role / "defaults/main.yml").read_text(encoding="utf-8"))
        plain = {name.removeprefix("prometheus_"): value for name, value in defaults.items()}
        found = filters.generated(plain, "15m")
        for path in (role / "files/rules").glob("*.yml"):
            found += filters.groups(path.read_text(encoding="utf-8"), path.name)
        assert sorted(item["name"] for item in found) == list(rules.GROUPS)

    def test_all_is_well(self):
        found = only(self.judged([*ALL, group("own", rule("X", state="firing"))]))
        said = f"{len(ALL) + 1} groups, {len(ALL) + 1} rules are loaded; firing: X"
        assert (found.status, found.text) == (OK, said)

    @pytest.mark.parametrize("groups", [[], [group("own")]])
    def test_none_of_ours(self, groups):
        found = only(self.judged(groups))
        assert (found.status, "none of the appliance's" in found.text) == (WARNING, True)

    def test_some_are_missing(self):
        missing, _ = self.judged(ALL[2:])
        assert (missing.status, "missing: asterisk, certificates:" in missing.text) == (
            WARNING,
            True,
        )

    def test_rules_that_fail(self):
        bad = [rule(f"Bad{n}", "err", lastError="many-to-many") for n in range(10)]
        found = self.judged([*ALL, group("own", *bad)])
        assert [one.status for one in found] == [WARNING] * 9 + [OK]
        assert found[0].text == "the rule own: Bad0 fails: many-to-many"
        assert found[8].text == "and 2 more like these"

    def test_they_stand_still(self):
        late = group("queues", at="2026-11-24T15:54:57Z")
        begins = group("voice", at="0001-01-01T00:00:00Z")
        groups = [one for one in ALL if one["name"] not in ("queues", "voice")]
        still, _ = self.judged([*groups, late, begins])
        assert (still.status, still.text[:38]) == (
            CRITICAL,
            "queues: not evaluated for up to 60 s: ",
        )

    def test_asked(self, web):
        web.api("rules", {"groups": []})
        assert "none of the appliance's" in only(rules.look(pbx_of(web.url))).text


class TestAlertmanager:
    def look(self, web, alertmanagers, *targets):
        web.api("alertmanagers", {"activeAlertmanagers": [{"url": url} for url in alertmanagers]})
        web.api("targets", {"activeTargets": targets})
        return only(prometheus.alertmanager(pbx_of(web.url)))

    def test_none(self, web):
        found = self.look(web, [])
        assert (found.status, "nobody is told" in found.text) == (WARNING, True)

    @pytest.mark.parametrize(("health", "status"), [("up", OK), ("down", CRITICAL)])
    def test_what_prometheus_says(self, web, health, status):
        scraped = target("http://192.0.2.1:9093/am/metrics", health, "connection refused")
        found = self.look(web, ["http://192.0.2.1:9093/am/api/v2/alerts"], scraped)
        assert found.status == status
        assert "http://192.0.2.1:9093/am " in found.text

    @pytest.mark.parametrize(("ready", "status"), [(200, OK), (503, CRITICAL)])
    def test_it_is_asked_itself(self, web, ready, status):
        web.says["/-/ready"] = (ready, "")
        assert self.look(web, [f"{web.url}/api/v2/alerts"]).status == status

    def test_it_is_of_another_host(self, monkeypatch):
        pbx = pbx_of("http://192.0.2.1:9090")
        answers = {
            "alertmanagers": {"activeAlertmanagers": [{"url": "http://127.0.0.1:1/api/v2/alerts"}]},
            "targets": {"activeTargets": []},
        }
        monkeypatch.setattr(Prometheus, "api", lambda _, path, **__: answers[path])
        found = only(prometheus.alertmanager(pbx))
        assert (found.status, "of another host" in found.text) == (None, True)

    def test_it_has_not_been_scraped(self, web):
        web.says["/-/ready"] = (503, "")
        scraped = target(f"{web.url}/metrics", "unknown")
        assert self.look(web, [f"{web.url}/api/v2/alerts"], scraped).status == CRITICAL


class TestClocks:
    @pytest.mark.parametrize(
        ("there", "uncertain", "status"),
        [(0.4, 0, OK), (-1.9, 0, OK), (2.5, 1, OK), (2.5, 0.1, WARNING), (-31, 0.1, CRITICAL)],
    )
    def test_how_far_they_differ(self, there, uncertain, status):
        found = clocks.judged("Prometheus", Clock(NOW + there, NOW, uncertain))
        assert found.status == status
        assert ("behind" if there < 0 else "ahead") in found.text

    def test_there_is_no_other(self):
        found = only(clocks.look(pbx_of()))
        assert (found.status, "not set up" in found.text) == (None, True)

    def test_prometheus_is_asked(self, web):
        assert only(clocks.look(pbx_of(web.url))).status == OK
        web.api("query", {"result": [0, str(time.time() - 3600)]})
        found = only(clocks.look(pbx_of(web.url)))
        assert (found.status, bool(re.search(r"360\d\.\d s behind", found.text))) == (
            CRITICAL,
            True,
        )

    def test_nobody_answers(self, tmp_path):
        (tmp_path / "cdr-password").write_text("secret-of-the-test\n")
        cdr = config.Cdr(port=1)
        pbx = pbx_of("http://127.0.0.1:1", cdr=cdr)
        pbx.path = tmp_path / "config.yml"
        found = list(clocks.look(pbx))
        assert [one.status for one in found] == [None, None]
