"""File systems: figures of the kernel's, and paths that give none."""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from asterisk_exporter.collectors import filesystems
from asterisk_exporter.collectors.filesystems import TIMEOUT_SECONDS, FilesystemCollector

SIZE, AVAIL = "asterisk_filesystem_size_bytes", "asterisk_filesystem_avail_bytes"


def samples(collector):
    return {(s.name, s.labels["path"]): s.value for f in collector.collect() for s in f.samples}


def test_size_and_what_others_than_root_may_use(monkeypatch, tmp_path):
    found = samples(FilesystemCollector([str(tmp_path)]))
    assert found[SIZE, str(tmp_path)] == shutil.disk_usage(tmp_path).total
    real = os.statvfs(tmp_path)
    # f_frsize, f_blocks, f_bfree and f_bavail, all different
    fixed = os.statvfs_result((65536, 4096, 1000, 300, 200, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda _: fixed)
    assert samples(FilesystemCollector(["/a"])) == {
        (SIZE, "/a"): 4096 * 1000,
        (AVAIL, "/a"): 4096 * 200,
    }


def test_a_path_that_cannot_be_read_has_no_samples_and_is_logged_once(tmp_path, caplog):
    missing = tmp_path / "spool"
    collector = FilesystemCollector([str(missing), str(tmp_path)])
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            assert set(samples(collector)) == {(SIZE, str(tmp_path)), (AVAIL, str(tmp_path))}
        assert [record.getMessage() for record in caplog.records] == [
            f"filesystems: cannot measure {missing}: No such file or directory"
        ]
        missing.mkdir()
        assert (SIZE, str(missing)) in samples(collector)
    assert caplog.records[-1].getMessage() == f"filesystems: {missing} can be measured again"


def test_a_file_system_that_hangs_delays_no_scrape(monkeypatch, caplog):
    answers, real, asked = threading.Event(), os.statvfs, []

    def hangs(path):
        asked.append(path)
        answers.wait(10)
        return real("/")

    monkeypatch.setattr(os, "statvfs", hangs)
    collector = FilesystemCollector(["/nfs"])
    began = time.monotonic()
    assert samples(collector) == samples(collector) == {}
    assert time.monotonic() - began < 2 * TIMEOUT_SECONDS + 2
    assert asked == ["/nfs"]
    assert caplog.text.count("no answer within") == 1
    answers.set()
    while (SIZE, "/nfs") not in samples(collector):
        assert time.monotonic() - began < 10


def test_names_of_other_encodings(monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(range(11)))
    path = os.fsdecode(b"/caf\xe9")
    assert {path for _, path in samples(FilesystemCollector([path]))} == {r"/caf\xe9"}


@pytest.mark.parametrize("more", ["filesystems: [/]", ""])
def test_served_while_asterisk_is_down(serve, config_file, free_port, more):
    body = serve(config_file(free_port(), more)).get()
    assert "\nasterisk_up 0.0\n" in body
    assert (f'{SIZE}{{path="/"}} ' in body) == bool(more)


def test_two_scrapes_at_once(monkeypatch, tmp_path):
    """One creates the thread that asks while the other looks for its answer."""
    start = threading.Thread.start

    def start_slowly(thread):
        if thread.name == "statvfs":
            time.sleep(0.05)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_slowly)
    monkeypatch.setattr(filesystems, "TIMEOUT_SECONDS", 10)
    collector = FilesystemCollector([str(tmp_path)])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: samples(collector), range(4)))
    assert all((SIZE, str(tmp_path)) in one for one in found)
