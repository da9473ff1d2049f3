"""Lines of queue_log about the CRM, and the figures made of them."""

import pytest

from asterisk_exporter.journal import routing
from asterisk_exporter.journal.queue_log_source import QueueLogSource
from asterisk_exporter.journal.store import JournalStore
from asterisk_exporter.journal.visits import ServiceLevels


@pytest.fixture
def store(tmp_path):
    made = JournalStore(tmp_path / "state")
    yield made
    made.close()


def started(store, path):
    source = QueueLogSource(store, path, ServiceLevels({"q": 10}))
    source.open()
    source.begin(backfill=False)
    return source


def samples(source):
    return {
        s.name + "".join(f"{{{v}}}" for v in s.labels.values()): s.value
        for family in source.families()
        for s in family.samples
        if s.name.startswith("asterisk_route_")
    }


def line(result, milliseconds="4"):
    return f"1767225600|pbx1-1.2|NONE|NONE|ROUTE|{result}|{milliseconds}\n"


def test_every_result_is_there_from_the_start(store, tmp_path):
    (tmp_path / "queue_log").touch()
    seen = samples(started(store, tmp_path / "queue_log"))
    assert {k: v for k, v in seen.items() if "requests" in k} == {
        f"asterisk_route_requests_total{{{result}}}": 0 for result in routing.RESULTS
    }
    assert seen["asterisk_route_seconds_count"] == 0
    assert seen["asterisk_route_seconds_sum"] == 0


def test_each_line_counts_once_across_a_restart(store, tmp_path):
    path = tmp_path / "queue_log"
    path.touch()
    source = started(store, path)
    path.write_text(line("routed", "5") + line("routed", "6") + line("timeout", "2004"))
    while source.read():
        pass
    source.read()
    source = started(store, path)
    path.write_text(path.read_text() + line("invalid", "99999"))
    source.read()
    seen = samples(source)
    assert seen["asterisk_route_requests_total{routed}"] == 2
    assert seen["asterisk_route_requests_total{timeout}"] == 1
    assert seen["asterisk_route_requests_total{invalid}"] == 1
    assert seen["asterisk_route_requests_total{error}"] == 0
    buckets = {
        k.removeprefix("asterisk_route_seconds_bucket"): v for k, v in seen.items() if "bucket" in k
    }
    assert buckets == {
        **dict.fromkeys(["{0.005}"], 1),
        **dict.fromkeys([f"{{{b / 1000}}}" for b in routing.BOUNDS_MS[1:9]], 2),
        "{2.5}": 3,
        "{+Inf}": 4,
    }
    assert seen["asterisk_route_seconds_count"] == 4
    assert seen["asterisk_route_seconds_sum"] == pytest.approx(102.014)


def test_they_make_no_queue(store, tmp_path):
    path = tmp_path / "queue_log"
    path.touch()
    source = started(store, path)
    path.write_text(line("routed"))
    source.read()
    names = {v for f in source.families() for s in f.samples for v in s.labels.values()}
    assert "NONE" not in names


@pytest.mark.parametrize(
    "data", ["what|4", "", "routed", "routed|-4", "routed|x", "routed|99999999"]
)
def test_a_line_that_is_not_ours_is_counted_and_has_no_time(data, store, tmp_path):
    path = tmp_path / "queue_log"
    path.touch()
    source = started(store, path)
    path.write_text(f"1767225600|1.2|NONE|NONE|ROUTE|{data}\n")
    source.read()
    seen = samples(source)
    result = "routed" if data.startswith("routed") else "error"
    assert seen[f"asterisk_route_requests_total{{{result}}}"] == 1
    assert seen["asterisk_route_seconds_count"] == (1 if data == "what|4" else 0)
