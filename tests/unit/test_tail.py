"""Real files, rotated in every way that logrotate, Asterisk and people have."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from asterisk_exporter.journal.runner import SourceError
from asterisk_exporter.journal.tail import Position, Tail


class Log:
    """A log as Asterisk writes it: it keeps the file open until it is told to open anew."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "queue_log"
        self.file = None
        self.numbers = itertools.count(1)
        self.written = []
        self.clock = int(time.time()) - 86400
        self.reopen()

    def reopen(self) -> None:
        if self.file is not None:
            self.file.close()
        new = not self.path.exists()
        self.file = self.path.open("ab", buffering=0)
        if new:
            self.tick()

    def write(self, lines: int = 1, half: bool = False) -> None:
        for _ in range(lines):
            line = b"%d|line %d|queue|NONE|TEST|" % (self.clock, next(self.numbers))
            self.written.append(line)
            self.file.write(line + b"\n")
        if half:
            self.file.write(b"%d|half" % self.clock)
        self.tick()

    def tick(self) -> None:
        """Let time pass, as mtimes show it."""
        self.clock += 60
        os.utime(self.file.fileno(), (self.clock, self.clock))

    def move(self) -> None:
        """Rename the way that logrotate does: .2 to .3, .1 to .2, the file to .1."""
        for number in range(8, 0, -1):
            for suffix in ("", ".gz"):
                old = self.path.with_name(f"queue_log.{number}{suffix}")
                if old.exists():
                    old.rename(self.path.with_name(f"queue_log.{number + 1}{suffix}"))
        self.path.rename(self.path.with_name("queue_log.1"))

    def rotate(self) -> None:
        self.move()
        self.reopen()

    def compress(self, number: int) -> None:
        plain = self.path.with_name(f"queue_log.{number}")
        packed = plain.with_name(plain.name + ".gz")
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        found = plain.stat()
        os.utime(packed, ns=(found.st_atime_ns, found.st_mtime_ns))
        plain.unlink()

    def copy_and_truncate(self) -> None:
        copy = self.path.with_name("queue_log.1")
        shutil.copyfile(self.path, copy)
        os.truncate(self.path, 0)
        os.utime(copy, (self.clock, self.clock))


class Reader:
    """Reads with a new Tail each time, from a position that went through JSON."""

    def __init__(self, log: Log, position: Position, max_bytes: int = 1 << 20) -> None:
        self.log = log
        self.position = position
        self.max_bytes = max_bytes
        self.lines = []
        self.malformed = 0

    def once(self) -> bool:
        tail = Tail(self.log.path)
        chunk = tail.read(self.position, self.max_bytes)
        tail.close()
        assert chunk.lines == b"" or chunk.lines.endswith(b"\n")
        self.lines += chunk.lines.splitlines()
        self.malformed += chunk.malformed
        self.position = Position.from_json(json.loads(json.dumps(chunk.position.as_json())))
        return chunk.more

    def all(self) -> None:
        for _ in range(1000):
            if not self.once():
                return
        raise AssertionError("never done")


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


@pytest.fixture
def reader(log):
    return Reader(log, Tail(log.path).end())


def test_a_line_that_is_half_written_waits(log, reader):
    log.write(2)
    log.file.write(b"half")
    reader.all()
    assert reader.lines == log.written
    log.file.write(b" a line\n")
    reader.all()
    assert reader.lines == [*log.written, b"half a line"]
    assert reader.malformed == 0


def test_the_first_start_is_at_the_end_of_the_complete_lines(log):
    log.write(3)
    log.file.write(b"ha")
    reader = Reader(log, Tail(log.path).end())
    reader.all()
    log.file.write(b"lf\n")
    reader.all()
    assert reader.lines == [b"half"]


def test_an_unfinished_first_line_at_the_first_start(log):
    log.file.write(b"17|ha")
    reader = Reader(log, Tail(log.path).end())
    reader.all()
    log.file.write(b"lf\n")
    reader.all()
    assert reader.lines == [b"17|half"]


def test_a_file_that_is_missing_at_the_first_start_is_new(log):
    log.path.unlink()
    reader = Reader(log, Tail(log.path).end())
    reader.all()
    assert reader.lines == []
    log.reopen()
    reader.all()
    log.write(2)
    reader.all()
    assert reader.lines == log.written


def test_an_empty_file_that_is_rotated_before_its_lines_are_read(log, reader):
    log.write(2)
    log.rotate()
    log.write(2)
    reader.all()
    assert reader.lines == log.written


#: What happens to a log, one after the other; between any two, there may be a read.
ROTATIONS = {
    "rename": ["write", "write", "move", "write", "write", "reopen", "write", "write"],
    "twice": ["write", "rotate", "write", "rotate", "write", "rotate", "write"],
    "compressed": ["write", "rotate", "write", "rotate", "compress 2", "write"],
    "delayed": [
        "write",
        "rotate",
        "write",
        "rotate",
        "compress 2",
        "rotate",
        "compress 2",
        "write",
    ],
    "copytruncate": ["write", "write", "copy_and_truncate", "write"],
    "renamed and not reopened for long": ["write", "move", "write", "write", "write"],
}


@pytest.mark.parametrize("steps", ROTATIONS.values(), ids=ROTATIONS.keys())
@pytest.mark.parametrize("max_bytes", [64, 1 << 20])
def test_rotation_at_every_instant(tmp_path, steps, max_bytes):
    for reads in itertools.product((False, True), repeat=len(steps)):
        directory = tmp_path / "".join(str(int(read)) for read in reads)
        directory.mkdir()
        log = Log(directory)
        log.write()
        begin = Tail(log.path).end()
        first = len(log.written)
        reader = Reader(log, begin, max_bytes)
        for step, read in zip(steps, reads):
            name, *arguments = step.split()
            getattr(log, name)(*map(int, arguments))
            if read:
                reader.once()
        reader.all()
        assert reader.lines == log.written[first:], reads
        assert reader.malformed == 0
        log.file.close()
        shutil.rmtree(directory)


def test_renamed_away_and_the_path_is_empty(log, reader):
    """Asterisk writes to the old file until it opens the new one, which may be made empty."""
    log.write()
    reader.all()
    log.move()
    log.path.touch()
    log.write()
    reader.all()
    log.reopen()
    log.write()
    reader.all()
    assert reader.lines == log.written


def test_the_last_line_of_a_finished_file_has_no_end(log, reader):
    log.write(2, half=True)
    reader.all()
    assert reader.malformed == 0
    log.rotate()
    reader.all()
    assert reader.malformed == 0  # nothing in the new file yet
    log.write(2)
    reader.all()
    assert reader.lines == log.written
    assert reader.malformed == 1


def test_truncation_loses_only_what_was_not_read(log, reader, caplog):
    log.write(2)
    reader.all()
    log.write()
    log.written.pop()
    os.truncate(log.path, 0)
    reader.all()
    assert "not counted" in caplog.text
    log.write(2)
    reader.all()
    assert reader.lines == log.written
    assert caplog.text.count("not counted") == 1


def test_truncation_does_not_bring_back_old_files(log, reader):
    log.write(2)
    log.rotate()
    log.write(2)
    reader.all()
    os.truncate(log.path, 0)
    log.write(2)
    reader.all()
    assert reader.lines == log.written


def test_cut_at_its_end(log, reader, caplog):
    log.write(40)
    reader.all()
    os.truncate(log.path, log.path.stat().st_size - 10)
    reader.all()
    assert "was cut" in caplog.text
    log.write()
    reader.all()
    assert reader.lines == log.written


def test_deleted_and_made_anew(log, reader):
    log.write(2)
    reader.all()
    log.path.unlink()
    reader.all()
    log.reopen()
    log.write(2)
    reader.all()
    assert reader.lines == log.written


def test_away_for_a_while(log, reader):
    log.write(2)
    reader.all()
    elsewhere = log.path.with_name("elsewhere")
    log.path.rename(elsewhere)
    reader.all()
    elsewhere.rename(log.path)
    log.write(1)
    reader.all()
    assert reader.lines == log.written


def test_away_for_a_while_with_an_old_backup_in_its_place(log, reader):
    log.write(35)
    shutil.copy(log.path, log.path.with_name("queue_log.bak"))
    log.write(5)
    reader.all()
    elsewhere = log.path.with_name("elsewhere")
    log.path.rename(elsewhere)
    reader.all()
    elsewhere.rename(log.path)
    log.write(1)
    reader.all()
    assert reader.lines == log.written


def test_the_file_that_was_read_was_deleted_by_rotation(log, reader, caplog):
    log.write(2)
    reader.all()
    log.rotate()
    log.write()
    log.rotate()
    log.write()
    log.rotate()
    log.write()
    log.path.with_name("queue_log.3").unlink()
    reader.all()
    assert reader.lines == log.written
    assert "gone" in caplog.text


def test_backups_beside_it_are_not_read_again(log, reader):
    log.write(2)
    reader.all()
    shutil.copy(log.path, log.path.with_name("queue_log.bak"))
    log.write()
    log.rotate()
    log.write(40)
    shutil.copy(log.path, log.path.with_name("queue_log.before-the-update"))
    log.write()
    reader.all()
    os.truncate(log.path, 0)
    reader.all()
    log.write()
    reader.all()
    assert reader.lines == log.written


def test_a_gzip_that_is_being_written(log, reader):
    log.write(1)
    reader.all()
    log.write(3)
    log.rotate()
    log.write()
    whole = gzip.compress(log.path.with_name("queue_log.1").read_bytes())
    for size in (0, 5, 20, len(whole) - 4):
        log.path.with_name("queue_log.1.gz").write_bytes(whole[:size])
        again = Reader(log, reader.position)
        again.all()
        assert reader.lines + again.lines == log.written, size


def test_oldest(log):
    for _ in range(3):
        log.write(3)
        log.rotate()
        if log.path.with_name("queue_log.2").exists():
            log.compress(2)
    log.write(1)
    shutil.copy(log.path, log.path.with_name("queue_log.bak"))
    log.path.with_name("queue_log_other").write_bytes(b"1|other\n")
    reader = Reader(log, Tail(log.path).oldest(), max_bytes=100)
    size = sum(len(line) + 1 for line in log.written)
    assert Tail(log.path).remaining(reader.position) == size
    reader.once()
    assert Tail(log.path).remaining(reader.position) == size - sum(
        len(line) + 1 for line in reader.lines
    )
    reader.all()
    assert reader.lines == log.written
    assert Tail(log.path).remaining(reader.position) == 0


def test_oldest_of_nothing(tmp_path):
    assert Tail(tmp_path / "queue_log").oldest().offset == 0


def test_a_line_that_never_ends_is_given_up(log):
    log.file.write(b"x" * 1000)
    reader = Reader(log, Position(), max_bytes=256)
    reader.all()
    log.file.write(b"\n")
    log.write()
    reader.all()
    assert reader.lines[-1:] == log.written
    assert reader.malformed == 3


def test_no_right_to_read(log, reader, monkeypatch):
    log.write()
    real = Path.open

    def denied(path, *arguments, **named):
        if path == log.path:
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(SourceError, match=f"cannot read {log.path}: Permission denied.*may read"):
        reader.all()
    monkeypatch.undo()
    reader.all()
    assert reader.lines == log.written


def test_no_right_to_read_the_rotated_file(log, reader, monkeypatch):
    log.write()
    reader.all()
    log.write()
    log.rotate()
    log.write()
    real = Path.open

    def denied(path, *arguments, **named):
        if path.name == "queue_log.1":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(SourceError, match="where the rest of an earlier"):
        reader.all()
    monkeypatch.undo()
    reader.all()
    assert reader.lines == log.written


def test_no_directory(tmp_path):
    with pytest.raises(SourceError, match="there is no directory"):
        Tail(tmp_path / "nowhere" / "queue_log").end()


def test_a_directory_in_its_place(tmp_path):
    (tmp_path / "queue_log").mkdir()
    with pytest.raises(SourceError, match="cannot read"):
        Tail(tmp_path / "queue_log").end()


def test_a_file_that_moves_while_it_is_looked_for(log, reader, monkeypatch):
    """logrotate renames .1 to .2 between the listing and the opening."""
    log.write()
    reader.all()
    log.write()
    log.rotate()
    log.write()
    real = Path.open
    moved = []

    def moves(path, *arguments, **named):
        if path.name == "queue_log.1" and not moved:
            moved.append(path.rename(path.with_name("queue_log.2")))
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, "open", moves)
    reader.all()
    assert reader.lines == log.written
    assert moved
