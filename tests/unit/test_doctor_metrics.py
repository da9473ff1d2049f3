"""The doctor's links that are the exporter's own: /metrics, and its secrets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from asterisk_exporter import config
from asterisk_exporter.config import Listen
from asterisk_exporter.doctor import secret_files
from asterisk_exporter.doctor.metrics import Scrape, judge, metrics, parse, url
from asterisk_exporter.doctor.pbx import LookError, Pbx
from asterisk_exporter.health import Status

EXPOSITION = """\
# HELP asterisk_up Whether it answers.
# TYPE asterisk_up gauge
asterisk_up 1.0
# HELP asterisk_exporter_build_info x
# TYPE asterisk_exporter_build_info gauge
asterisk_exporter_build_info{python_version="3.14.8",version="0.1.0"} 1.0
# HELP asterisk_exporter_collector_success x
# TYPE asterisk_exporter_collector_success gauge
asterisk_exporter_collector_success{collector="core"} 1.0
asterisk_exporter_collector_success{collector="cdr"} 1.0
# HELP asterisk_exporter_events_connected x
# TYPE asterisk_exporter_events_connected gauge
asterisk_exporter_events_connected 1.0
# HELP process_open_fds x
# TYPE process_open_fds gauge
process_open_fds 12.0
"""


def judged(text=EXPOSITION, seconds=0.012, installed="0.1.0", events=True):
    return list(judge(parse(text, seconds), "http://x/metrics", installed, events))


@pytest.mark.parametrize(
    ("address", "where"),
    [
        ("127.0.0.1", "http://127.0.0.1:9739/metrics"),
        ("0.0.0.0", "http://127.0.0.1:9739/metrics"),
        ("::", "http://[::1]:9739/metrics"),
        ("2001:db8::1", "http://[2001:db8::1]:9739/metrics"),
    ],
)
def test_where_it_is(address, where):
    assert url(Listen(address=address)) == where


def test_all_is_well():
    [fine] = judged()
    assert fine.status is Status.OK
    assert fine.text == "http://x/metrics: version 0.1.0, 5 values in 12 ms"
    [fine] = judged(EXPOSITION.replace("connected 1.0", "connected 0.0"), events=False)
    assert fine.status is Status.OK


@pytest.mark.parametrize(
    ("text", "changed", "status", "said"),
    [
        (EXPOSITION, {"installed": "0.2.0"}, Status.WARNING, "runs version 0.1.0, and 0.2.0 is"),
        (EXPOSITION, {"seconds": 3.0}, Status.WARNING, "took 3.0 s"),
        (EXPOSITION.replace("up 1.0", "up 0.0"), {}, Status.CRITICAL, "does not reach Asterisk"),
        (EXPOSITION.replace('"cdr"} 1', '"cdr"} 0'), {}, Status.CRITICAL, "to collect cdr: those"),
        (EXPOSITION.replace("connected 1", "connected 0"), {}, Status.CRITICAL, "receive events"),
    ],
)
def test_what_is_not_well(text, changed, status, said):
    bad, fine = judged(text, **changed)
    assert (bad.status, said in bad.text, bool(bad.action)) == (status, True, True), bad
    assert fine.status is Status.OK


def test_collectors_of_an_asterisk_that_is_down_are_no_news():
    text = EXPOSITION.replace("up 1.0", "up 0.0").replace('"core"} 1', '"core"} 0')
    assert len(judged(text)) == 2


def test_something_else_answers():
    [bad] = list(judge(Scrape({}, 0.0), "http://x/metrics", "0.1.0", events=True))
    assert (bad.status, "something else" in bad.text) == (Status.CRITICAL, True)


def test_nothing_answers():
    pbx = Pbx(config.Config(listen={"port": 1}), Path("none.yml"), 1.0)
    with pytest.raises(LookError, match=r"127\.0\.0\.1:1/metrics does not answer: .*refused"):
        list(metrics(pbx))


# secrets


@pytest.mark.parametrize(
    ("mode", "owner", "said"),
    [
        (0o100600, "root", None),
        (0o100640, "root", None),
        (0o100400, "asterisk", None),
        (0o100644, "root", "mode 0644: anybody on this machine can read the secret"),
        (0o100620, "root", "mode 0620: others can change the secret"),
        (0o100600, "joe", "belongs to joe, who can read and change"),
    ],
)
def test_a_secret(mode, owner, said):
    finding = secret_files.judge(Path("/etc/x/secret"), mode, owner, ("root", "asterisk"))
    if said is None:
        assert finding is None
    else:
        assert (finding.status, said in finding.text) == (Status.WARNING, True), finding
        assert "/etc/x/secret" in finding.action


@pytest.mark.parametrize(
    ("sections", "names"),
    [
        ({}, ["ami-secret"]),
        ({"cdr": {"source": "csv"}}, ["ami-secret"]),
        ({"cdr": {"source": "mysql"}}, ["ami-secret", "cdr-password"]),
        (
            {
                "cdr": {"password_file": "/run/db"},
                "events": {"enabled": True},
                "control": {},
                "notifier": {"url": "https://crm/"},
                "doctor": {"metrics_username": "prometheus"},
            },
            [
                "ami-secret", "events-secret", "control-secret", "/run/db", "importer-password",
                "metrics-password", "notifier-secret",
            ],
        ),
    ],
)  # fmt: skip
def test_which_secrets_there_are(sections, names):
    found = secret_files.paths(config.Config(**sections), Path("/etc/x/config.yml"))
    assert found == [Path("/etc/x") / name for name in names]


def test_the_files_themselves(tmp_path, monkeypatch):
    monkeypatch.setattr(secret_files, "_owner", lambda _: "root")
    settings = config.Config(events={"enabled": True}, control={})
    pbx = SimpleNamespace(settings=settings, path=tmp_path / "config.yml")
    [none] = secret_files.secret_files(pbx)
    assert none.status is None
    for name, mode in (("ami-secret", 0o600), ("events-secret", 0o644)):
        (tmp_path / name).touch(mode)
        (tmp_path / name).chmod(mode)
    bad, fine = secret_files.secret_files(pbx)
    assert "events-secret has mode 0644" in bad.text
    assert fine.text == "1 of 2 are for their owner alone"
