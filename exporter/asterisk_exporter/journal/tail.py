"""Follows a text file that Asterisk appends to, across rotation, without losing or repeating lines.

Asterisk opens its logs for appending and goes on writing to a file that was renamed until ``logger
rotate`` (``reload_logger()`` in main/logger.c) or a reload opens the path again; cdr_csv.c opens
Master.csv anew for each record. Which file is which is told by how it begins: inodes are reused,
and ``copytruncate`` leaves them as they are.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import os
import stat
import time
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from asterisk_exporter.journal.runner import SourceError

#: So much of a file's beginning tells it from others: the first line has its time.
HEAD_BYTES = 1024
BATCH_BYTES = 8 << 20
#: A file that is being renamed or compressed while one looks for it is there a moment later.
SEARCHES = 3
SEARCH_AGAIN_SECONDS = 0.05

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Position:
    """A place in one of the files that have had the path's name.

    ``head_length`` bytes at its beginning have ``head_digest``; ``inode`` tells it while it is
    empty. ``modified`` (Unix nanoseconds) is when it was last written to, as far as it was read.
    """

    offset: int = 0
    head_length: int = 0
    head_digest: str = ""
    inode: int = 0
    modified: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return what ``from_json`` takes."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Position:
        """Return the position that ``as_json`` gave."""
        return cls(**stored)


@dataclass(frozen=True)
class Chunk:
    """What one read found: complete lines, the position behind them.

    ``malformed``: unfinished lines that nobody will finish any more. ``more``: whether another
    read at once may find something.
    """

    lines: bytes
    position: Position
    malformed: int = 0
    more: bool = False


class _File:
    """An open file: the one at the path, or a rotated copy of an earlier one, plain or gzipped."""

    def __init__(self, path: Path, stream: IO[bytes], found: os.stat_result) -> None:
        self.path = path
        self.stat = found
        self.stream = stream
        self.packed = path.suffix == ".gz"
        self.head = self.read(0, HEAD_BYTES)

    def read(self, offset: int, size: int) -> bytes:
        """Return up to ``size`` bytes from ``offset``; nothing where a gzip file is damaged."""
        try:
            self.stream.seek(offset)
            return self.stream.read(size)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            log.debug("%s: %s", self.path, error)
            return b""

    @property
    def size(self) -> int:
        """Bytes that are in it, unpacked (up to 4 GiB)."""
        if not self.packed:
            return os.fstat(self.stream.fileno()).st_size
        try:
            with self.path.open("rb") as packed:
                packed.seek(-4, os.SEEK_END)
                return int.from_bytes(packed.read(4), "little")
        except OSError:
            return 0

    def holds(self, position: Position) -> bool:
        """Whether the position is in this file."""
        if not position.head_length:
            return bool(position.inode) and position.inode == self.stat.st_ino
        head = self.head[: position.head_length]
        return len(head) == position.head_length and _digest(head) == position.head_digest

    def position(self, offset: int) -> Position:
        """Return the position at ``offset``."""
        head = self.head[: offset or HEAD_BYTES]
        return Position(offset, len(head), _digest(head), self.stat.st_ino, self.stat.st_mtime_ns)

    def begins_like(self, other: _File) -> bool:
        """Whether one is a copy of the other: their complete lines so far are the same."""
        size = min(len(self.head), len(other.head))
        size = self.head.rfind(b"\n", 0, size) + 1
        return size > 0 and self.head[:size] == other.head[:size]


class Tail:
    """The lines of one growing file, in the order in which they were written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unreadable: list[Path] = []
        self._unpacked: _File | None = None
        self._missing = False

    def close(self) -> None:
        """Let go of the rotated file that was being read."""
        if self._unpacked is not None:
            self._unpacked.stream.close()
            self._unpacked = None

    def end(self) -> Position:
        """Return the position behind the last complete line that there is now. Raises SourceError.

        Without a file, or with an empty one, all that comes is new.
        """
        with contextlib.ExitStack() as stack:
            current = self._current(stack)
            if current is None:
                return self._before_the_first_line()
            size = current.size
            start = max(0, size - (64 << 10))
            while True:
                newline = current.read(start, size - start).rfind(b"\n")
                if newline >= 0 or start == 0:
                    return current.position(start + newline + 1 if newline >= 0 else 0)
                start = max(0, start - (4 << 20))

    def oldest(self) -> Position:
        """Return the beginning of the oldest file that there is. Raises SourceError."""
        with contextlib.ExitStack() as stack:
            current = self._current(stack)
            files = _without_copies(self._siblings(stack), current)
            return files[0].position(0) if files else self.end()

    def read(self, position: Position, max_bytes: int = BATCH_BYTES) -> Chunk:
        """Return the complete lines behind ``position``. Raises SourceError.

        A renamed file is stayed with while nothing is in a newer one, since Asterisk may still
        write to it; once something is, it is read to its end once more.
        """
        with contextlib.ExitStack() as stack:
            current = self._current(stack)
            if current is not None and current.holds(position):
                return self._take(current, position, max_bytes)
            # what follows is looked at before ours is read: then nobody writes to ours any more
            ours, following = self._search(stack, current, position)
            if ours is None:
                return self._go_on_without(following, position)
            chunk = self._take(ours, position, max_bytes)
            if not following:
                return chunk
            if chunk.position.offset > position.offset:
                return Chunk(chunk.lines, chunk.position, chunk.malformed, more=True)
            unfinished = len(ours.read(position.offset, 1))
            return Chunk(b"", following[0].position(0), unfinished, more=True)

    def remaining(self, position: Position) -> int:
        """Return how many bytes there are behind ``position``. Raises SourceError."""
        with contextlib.ExitStack() as stack:
            current = self._current(stack)
            if current is not None and current.holds(position):
                return max(0, current.size - position.offset)
            ours, following = self._locate(stack, current, position)
            here = 0 if ours is None else max(0, ours.size - position.offset)
            return here + sum(file.size for file in following)

    def _current(self, stack: contextlib.ExitStack) -> _File | None:
        """Return the file at the path; None while it is missing or empty."""
        try:
            current = self._open(stack, self._path)
        except FileNotFoundError:
            if not self._path.parent.is_dir():
                raise SourceError(
                    f"there is no directory {self._path.parent}. Look at: astlogdir in "
                    "asterisk.conf, the file's name in this program's configuration."
                ) from None
            if not self._missing:
                log.info("%s is not there yet", self._path)
            self._missing = True
            return None
        except OSError as error:
            raise SourceError(
                f"cannot read {self._path}: {error.strerror}. Expected a file that this user may "
                "read (r on the file, x on its directories; the group asterisk has both)."
            ) from None
        self._missing = False
        return current if current.head else None

    def _open(self, stack: contextlib.ExitStack, path: Path) -> _File:
        """Open a file until the stack ends. Raises OSError."""
        plain = stack.enter_context(path.open("rb"))
        found = os.fstat(plain.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(0, "it is not a regular file")
        if path.suffix != ".gz":
            return _File(path, plain, found)
        kept = self._unpacked
        if kept is not None and _same(kept.stat, found):
            return kept
        # in its own way: GzipFile leaves a file that it was given open
        packed = cast("IO[bytes]", gzip.open(path))  # noqa: SIM115 - kept across reads
        stack.callback(self._close_unless_kept, packed)
        return _File(path, packed, found)

    def _close_unless_kept(self, packed: IO[bytes]) -> None:
        if self._unpacked is None or self._unpacked.stream is not packed:
            packed.close()

    def _siblings(self, stack: contextlib.ExitStack) -> list[_File]:
        """Return the rotated files that have something in them, the oldest first."""
        files = []
        self._unreadable = []
        name = self._path.name
        try:
            paths = [
                path
                for path in self._path.parent.iterdir()
                if path.name.startswith((f"{name}.", f"{name}-"))
            ]
        except OSError as error:
            raise SourceError(
                f"cannot list {self._path.parent}: {error.strerror}. Expected a directory that "
                "this user may read (r and x on it), to find rotated files in."
            ) from None
        for path in paths:
            try:
                file = self._open(stack, path)
            except FileNotFoundError:
                continue  # renamed meanwhile: who needs it searches again
            except OSError:
                self._unreadable.append(path)
                continue
            if file.head:
                files.append(file)
        return sorted(files, key=lambda file: file.stat.st_mtime_ns)

    def _search(
        self, stack: contextlib.ExitStack, current: _File | None, position: Position
    ) -> tuple[_File | None, list[_File]]:
        """Locate the position's file; look again before it is given up for lost."""
        for _ in range(SEARCHES - 1):
            ours, following = self._locate(stack, current, position)
            if ours is not None or not position.head_length:
                return ours, following
            time.sleep(SEARCH_AGAIN_SECONDS)
        return self._locate(stack, current, position)

    def _locate(
        self, stack: contextlib.ExitStack, current: _File | None, position: Position
    ) -> tuple[_File | None, list[_File]]:
        """Return the position's file among the rotated ones, and those that follow on it."""
        siblings = self._siblings(stack)
        candidates = [
            file
            for file in siblings
            # a copy that was made earlier, of a part of it, is shorter
            if file.holds(position) and (file.packed or file.size >= position.offset)
        ]
        if not candidates:
            known = [file for file in siblings if file.stat.st_mtime_ns <= position.modified]
            newer = [
                file
                for file in siblings
                if file.stat.st_mtime_ns > position.modified
                and not file.holds(position)
                and not any(file.begins_like(other) for other in known)
            ]
            return None, _without_copies(newer, current)
        ours = max(candidates, key=lambda file: (not file.packed, file.size))
        newer = [
            file
            for file in siblings
            if file.stat.st_mtime_ns > ours.stat.st_mtime_ns and not file.begins_like(ours)
        ]
        return ours, _without_copies(newer, current)

    def _go_on_without(self, following: list[_File], position: Position) -> Chunk:
        """Return where to go on when the position's file is gone."""
        if not following and (self._missing or not position.head_length):
            return Chunk(b"", position)
        if position.head_length:
            self._say_lost(following, position)
        if following:
            return Chunk(b"", following[0].position(0), more=True)
        return Chunk(b"", self._before_the_first_line())

    def _before_the_first_line(self) -> Position:
        try:
            found = self._path.stat()
        except OSError:
            return Position(modified=time.time_ns())
        return Position(inode=found.st_ino, modified=found.st_mtime_ns)

    def _say_lost(self, following: list[_File], position: Position) -> None:
        if self._unreadable:
            names = ", ".join(map(str, self._unreadable))
            raise SourceError(
                f"cannot read {names}, where the rest of an earlier {self._path.name} may be. "
                "Expected files that this user may read (r)."
            )
        log.warning(
            "%s: the file that was read up to byte %d is gone, truncated or deleted; what it had "
            "behind that is not counted. Going on with %s from its beginning.",
            self._path,
            position.offset,
            following[0].path if following else self._path,
        )

    def _take(self, file: _File, position: Position, max_bytes: int) -> Chunk:
        if file.packed and file is not self._unpacked:
            self.close()
            self._unpacked = file
        data = file.read(position.offset, max_bytes)
        size = data.rfind(b"\n") + 1
        more = len(data) == max_bytes
        if not size and more:
            # Asterisk's lines end at 8 KiB: nothing to wait for
            return Chunk(b"", file.position(position.offset + len(data)), 1, more)
        if not size and position.head_length:
            if not data and not file.packed and file.size < position.offset:
                log.warning("%s was cut to %d bytes; they are read", file.path, file.size)
                return Chunk(b"", file.position(file.size))
            return Chunk(b"", position)
        return Chunk(data[:size], file.position(position.offset + size), 0, more)


def _digest(head: bytes) -> str:
    return hashlib.sha256(head).hexdigest() if head else ""


def _same(one: os.stat_result, other: os.stat_result) -> bool:
    return (one.st_dev, one.st_ino, one.st_size, one.st_mtime_ns) == (
        other.st_dev,
        other.st_ino,
        other.st_size,
        other.st_mtime_ns,
    )


def _without_copies(files: list[_File], current: _File | None) -> list[_File]:
    """Return the files and then the current one, each content once.

    Of copies the current file stays, else the plain one, else the longest: gzip leaves both for
    a while, and people make backups.
    """
    chosen: list[_File] = []
    best_first = sorted(files, key=lambda file: (file.packed, -file.size))
    for file in ([current] if current is not None else []) + best_first:
        if not any(file.begins_like(other) for other in chosen):
            chosen.append(file)
    ordered = [file for file in files if file in chosen]
    return ordered + ([current] if current is not None else [])
