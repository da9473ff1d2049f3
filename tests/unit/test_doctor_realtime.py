"""What the doctor says about the database of phones and queues."""

from __future__ import annotations

from pathlib import Path

import pytest

from asterisk_exporter import config
from asterisk_exporter.doctor import realtime
from asterisk_exporter.doctor.pbx import Pbx

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("answered", "status", "text"),
    [
        (NOW - 4, "OK", "the database of phones and queues answered 4 s ago"),
        (NOW + 0.5, "OK", "the database of phones and queues answered 0 s ago"),
        (NOW - 30, "OK", "the database of phones and queues answered 30 s ago"),
        (NOW - 31, "CRITICAL", "the database of phones and queues has not answered for 31 s: "),
        (NOW - 7300, "CRITICAL", "the database of phones and queues has not answered for 2 h 1 m"),
        (0, "CRITICAL", "the database of phones and queues has not answered since asterisk-realt"),
    ],
)
def test_when_it_last_answered(answered, status, text):
    found = realtime.judge(answered, NOW)
    assert found.status.name == status
    assert found.text.startswith(text)


def look(file):
    pbx = Pbx(config.Config(realtime_file=file), Path("none.yml"), 1.0)
    [found] = realtime.look(pbx)
    return found


def test_the_files_time_is_the_answers(tmp_path):
    file = tmp_path / "seen"
    assert look(str(file)).status.name == "CRITICAL"
    file.touch()
    assert look(str(file)).status.name == "OK"


def test_a_pbx_without():
    assert look(None).text.startswith("not set up: ")
