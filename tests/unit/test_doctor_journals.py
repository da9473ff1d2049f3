"""What the doctor says about how far the service has counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from asterisk_exporter import config
from asterisk_exporter.doctor import journals
from asterisk_exporter.doctor.metrics import parse
from asterisk_exporter.doctor.pbx import Pbx

TEXT = """
# TYPE asterisk_exporter_journal_records_total counter
asterisk_exporter_journal_records_total{{source="cdr"}} 10
# TYPE asterisk_exporter_journal_malformed_total counter
asterisk_exporter_journal_malformed_total{{source="cdr"}} {malformed}
# TYPE asterisk_exporter_journal_lag_seconds gauge
asterisk_exporter_journal_lag_seconds{{source="cdr"}} {lag}
"""


def scrape(lag=0.0, malformed=0):
    return parse(TEXT.format(lag=lag, malformed=malformed), 0.1)


def test_all_is_counted():
    assert journals.judge("cdr", scrape(29.9), waits=False).text == (
        "cdr: all is counted, 10 records"
    )
    assert journals.judge("cdr", scrape(malformed=2), waits=False).text == (
        "cdr: all is counted, 10 records, 2 of them malformed"
    )


@pytest.mark.parametrize(
    ("lag", "waits", "status", "action"),
    [
        (30, False, "WARNING", "journalctl"),
        (300, False, "CRITICAL", "journalctl"),
        (40, True, "WARNING", "pg_stat_activity"),
    ],
)
def test_records_that_wait(lag, waits, status, action):
    found = journals.judge("cdr", scrape(lag), waits)
    assert found.status.name == status
    assert found.text.startswith("cdr: what was written ")
    assert ("transaction" in found.text) == waits
    assert action in found.action


def test_a_journal_that_the_service_does_not_have():
    assert journals.judge("queue_log", scrape(), waits=False).status.name == "CRITICAL"


def look(monkeypatch, scraped, **settings):
    monkeypatch.setattr(journals, "scraped", lambda _: scraped)
    return list(journals.look(Pbx(config.Config(**settings), Path("none.yml"), 1.0)))


def test_what_is_configured_is_looked_at(monkeypatch):
    (found,) = look(monkeypatch, scrape())
    assert found.text.startswith("not set up: ")
    (found,) = look(monkeypatch, scrape(400), cdr={"source": "csv"})
    assert found.text == "cdr: what was written 6 min ago is not counted yet"
    (found,) = look(monkeypatch, scrape(), queue_log={})
    assert "queue_log is not read" in found.text
