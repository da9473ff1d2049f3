"""When the database of phones and queues last answered, and a file that is not there."""

from __future__ import annotations

import os

from asterisk_exporter.collectors.realtime import RealtimeCollector


def value(path):
    [family] = RealtimeCollector(str(path)).collect()
    [sample] = family.samples
    assert sample.name == "asterisk_realtime_answered_timestamp_seconds"
    return sample.value


def test_the_time_of_the_last_answer(tmp_path):
    file = tmp_path / "seen"
    file.touch(mode=0o000)
    os.utime(file, (1, 1_700_000_000))
    assert value(file) == 1_700_000_000


def test_nobody_asks(tmp_path):
    assert value(tmp_path / "gone" / "seen") == 0


def test_a_registration_asks_nobody():
    [family] = RealtimeCollector("/nowhere").describe()
    assert family.samples == []
