"""What the doctor says about queue_log, Master.csv, the state, and the disk that they are on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from asterisk_exporter import config
from asterisk_exporter.ami.client import Reply
from asterisk_exporter.ami.errors import UnknownActionError
from asterisk_exporter.doctor import files, master_csv, queue_log, state
from asterisk_exporter.doctor.files import Opened, Rights
from asterisk_exporter.doctor.pbx import LookError, Pbx, Ran
from asterisk_exporter.journal.store import JournalStore, JournalStoreError

LINE = "1795492538|pbx1-1.1|support|NONE|ABANDON|1|1|5\n"
RECORD = (
    '"","101","102","internal","","PJSIP/101-1","PJSIP/102-2","Dial","","2026-11-24 16:14:06",'
    '"2026-11-24 16:14:06","2026-11-24 16:14:09",3,3,"ANSWERED","DOCUMENTATION","u","","","l",7\n'
)


def texts(findings) -> list[str]:
    return [
        f"{finding.status.name if finding.status is not None else None}: {finding.text}"
        for finding in findings
    ]


def pbx_of(monkeypatch, replies=None, here=True, **settings) -> Pbx:
    """Give a PBX whose Asterisk is this very process, and the exporter too."""
    pbx = Pbx(config.Config(**settings), Path("none.yml"), 1.0)
    pbx.asterisk_is_here = here
    if replies is not None:
        pbx.replies = replies
    for module in (queue_log, master_csv):
        monkeypatch.setattr(module, "asterisk_process", os.getpid)
    monkeypatch.setattr(files, "exporter_rights", lambda _: files.rights_of(os.getpid()))
    return pbx


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "queue_log"
    path.write_text(LINE)
    return path


def settings_of(path: Path) -> dict:
    return {"queue_log": {"file": path}}


def test_queue_log_that_is_well(monkeypatch, path):
    pbx = pbx_of(monkeypatch, **settings_of(path))
    with path.open("a"):
        (found,) = texts(queue_log.look(pbx))
    assert found.startswith(f"OK: {path}, 47 B; newest entry ABANDON ")


def test_queue_log_that_is_not_configured_or_not_needed(monkeypatch, tmp_path, replies):
    assert texts(queue_log.look(pbx_of(monkeypatch))) == [
        "None: not set up: queues are not counted (asterisk_exporter_queue_log_file)"
    ]
    settings = settings_of(tmp_path / "queue_log")
    none = Reply("QueueStatus", error=UnknownActionError("QueueStatus"))
    pbx = pbx_of(monkeypatch, replies("idle", QueueStatus=none), **settings)
    assert texts(queue_log.look(pbx)) == [
        "None: not set up: Asterisk has no queue, and writes no queue_log"
    ]
    (missing,) = texts(queue_log.look(pbx_of(monkeypatch, replies("idle"), **settings)))
    assert missing == f"CRITICAL: {tmp_path}/queue_log: No such file or directory"


def test_an_empty_queue_log_on_another_machine_than_asterisk(monkeypatch, path):
    path.write_text("")
    assert texts(queue_log.look(pbx_of(monkeypatch, here=False, **settings_of(path)))) == [
        f"OK: {path}, 0 B; no entry yet"
    ]


def test_nobody_writes_to_queue_log(monkeypatch, path):
    found = list(queue_log.look(pbx_of(monkeypatch, **settings_of(path))))
    assert found[0].status.name == "CRITICAL"
    assert found[0].text.startswith(f"Asterisk does not write to {path}:")
    assert "queue_log = yes" in found[0].action


@pytest.mark.parametrize("again", [True, False])
def test_asterisk_writes_to_a_renamed_or_deleted_queue_log(monkeypatch, path, replies, again):
    pbx = pbx_of(monkeypatch, replies("idle"), **settings_of(path))
    with path.open("a"):
        path.rename(f"{path}.1")
        if again:
            path.write_text(LINE)
        (renamed, *_) = queue_log.look(pbx)
        Path(f"{path}.1").unlink()
        (deleted, *_) = queue_log.look(pbx)
    assert renamed.status.name == "WARNING"
    assert f"renamed to {path}.1" in renamed.text
    assert deleted.status.name == "CRITICAL"
    assert "deleted" in deleted.text
    assert "logger rotate" in deleted.action


def test_lines_that_are_not_asterisks(path):
    lines = ["x" * 100, LINE.strip(), "", LINE.strip()]
    (found,) = queue_log.judge_lines(path, lines)
    assert found.status.name == "WARNING"
    assert found.text.startswith(f"2 of the last 4 lines of {path}")
    assert list(queue_log.judge_lines(path, [LINE.strip()])) == []


def test_only_the_end_of_a_long_queue_log_is_read(monkeypatch, path):
    monkeypatch.setattr(queue_log, "TAIL_BYTES", 60)
    path.write_text("nonsense\n" * 100 + LINE)
    assert queue_log.lines(pbx_of(monkeypatch, **settings_of(path))) == ["nonsense", LINE.strip()]


def test_rights_of_a_process():
    status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t102 9 \n"
    assert files.parse_rights(status) == Rights(2, 6, (102, 9))
    assert files.rights_of(2**22 + 1) is None


@pytest.mark.parametrize(
    ("shown", "expected"),
    [(f"{os.getpid()}\n", files.rights_of(os.getpid())), ("0\n", None), ("", None), (None, None)],
)
def test_rights_of_the_service(shown, expected):
    """None: there is no systemctl."""

    def run(_):
        if shown is None:
            raise LookError("no command", "do")
        return Ran(0, shown, "")

    pbx = Pbx(config.Config(), Path("none.yml"), 1.0)
    pbx.run = run
    assert files.exporter_rights(pbx) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be somebody else")
def test_what_another_user_may(path):
    path.chmod(0o640)
    os.chown(path, 0, 4242)
    for folder in path.parents:
        if folder.stat().st_uid == os.geteuid() and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    nobody = Rights(65534, 65534, ())
    assert not nobody.may("r", path)
    group = Rights(65534, 65534, (4242,))
    assert group.may("r", path)
    assert not group.may("w", path)
    path.parent.chmod(0o700)
    assert not group.may("r", path)


def test_opened_files(path):
    with path.open():
        found = path.stat()
        assert Opened(str(path), (found.st_dev, found.st_ino)) in list(files.opened(os.getpid()))


@pytest.mark.parametrize(
    ("free", "size", "expected"),
    [
        (3 << 20, 1 << 40, "CRITICAL: the file system of /x has 3 MiB left of 1.0 TiB: what"),
        (500 << 20, 20 << 30, "WARNING: the file system of /x has 500 MiB left of 20 GiB"),
        (500 << 20, 5 << 30, None),
        (50 << 30, 2 << 40, None),
    ],
)
def test_room(free, size, expected):
    found = texts(files.judge_room(Path("/x"), free, size))
    assert [text[: len(expected or "")] for text in found] == ([expected] if expected else [])


def csv_of(monkeypatch, path: Path, **more) -> list[str]:
    pbx = pbx_of(monkeypatch, cdr={"source": "csv", "file": path}, **more)
    return texts(master_csv.look(pbx))


def test_master_csv_as_the_source(monkeypatch, tmp_path):
    path = tmp_path / "Master.csv"
    assert csv_of(monkeypatch, path) == [
        f"OK: {path} is not there yet: it comes with the next call's record"
    ]
    path.write_text(RECORD)
    (found,) = csv_of(monkeypatch, path)
    assert found.startswith(f"OK: {path} has records, ")
    path.write_text(RECORD + RECORD.rpartition(",")[0] + "\n")
    (short, _) = csv_of(monkeypatch, path)
    assert short.startswith(f"CRITICAL: the newest record of {path} cannot be part of a call")


def test_the_newest_record_of_a_long_master_csv(monkeypatch, tmp_path):
    """Its end begins within a record; and a name may hold a newline."""
    path = tmp_path / "Master.csv"
    monkeypatch.setattr(master_csv, "LONGEST_RECORD_BYTES", int(1.5 * len(RECORD)))
    for last in (RECORD, RECORD.replace('"internal",""', '"internal","a\nb"')):
        path.write_text(3 * RECORD + last)
        (found,) = csv_of(monkeypatch, path)
        assert found.startswith("OK")


def test_master_csv_without_a_directory(monkeypatch, tmp_path):
    monkeypatch.setattr(files.Rights, "may", lambda *_: True)
    (found,) = csv_of(monkeypatch, tmp_path / "none" / "Master.csv")
    assert found.startswith(f"CRITICAL: there is no directory {tmp_path}/none")
    (tmp_path / "file").touch()
    (found,) = csv_of(monkeypatch, tmp_path / "file" / "Master.csv")
    assert found.startswith(f"CRITICAL: {tmp_path}/file/Master.csv: Not a directory")


def test_master_csv_as_the_second_copy(monkeypatch, tmp_path):
    path = tmp_path / "Master.csv"
    path.write_text("only when it is read does it matter what is in it\n")
    monkeypatch.setattr(master_csv, "SECOND_COPY", path)
    settings = {"cdr": {"source": "postgresql"}, "system_name": "pbx1"}
    for backends, expected in (
        ("    pgsql\n    csv\n", f"OK: {path} has a second copy of the records, 50 B"),
        ("    pgsql\n", "None: not set up: no second copy of the call records (cdr_csv.so)"),
    ):
        pbx = pbx_of(monkeypatch, **settings)
        pbx.asterisk = lambda _, text=backends: f"* Registered Backends\n{text}"
        (found,) = texts(master_csv.look(pbx))
        assert found.startswith(expected)
    monkeypatch.setattr(files.Rights, "may", lambda *_: False)
    pbx = pbx_of(monkeypatch, **settings)
    pbx.asterisk = lambda _: "* Registered Backends\n    csv\n"
    (unwritable, _) = texts(master_csv.look(pbx))
    assert unwritable.startswith(f"WARNING: Asterisk may not write {path}")
    assert texts(master_csv.look(pbx_of(monkeypatch)))[0].startswith("None: not set up")


def test_state(monkeypatch, tmp_path):
    (nothing,) = texts(state.look(pbx_of(monkeypatch)))
    assert nothing.startswith("None: not set up")
    pbx = pbx_of(monkeypatch, state_directory=tmp_path, **settings_of(tmp_path / "queue_log"))
    with pytest.raises(JournalStoreError, match="cannot read"):
        list(state.look(pbx))
    JournalStore(tmp_path).close()
    (found,) = texts(state.look(pbx))
    assert found.startswith(f"OK: {tmp_path}: ")
    assert found.endswith(" 0 counters, 0 missed calls kept")
    for name in ("a.unusable-1", "a.unusable-2", "a.unusable-2-wal"):
        (tmp_path / name).touch()
    moved, _ = texts(state.look(pbx))
    assert moved.startswith("WARNING: a state file could not be used")
    assert "(a.unusable-2)" in moved


def test_bytes_for_people():
    shown = [files.shown_bytes(number) for number in (0, 1023, 1024, 5 << 20, 3 << 40)]
    assert shown == ["0 B", "1023 B", "1 KiB", "5 MiB", "3.0 TiB"]
