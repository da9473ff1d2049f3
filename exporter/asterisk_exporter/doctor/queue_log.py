"""What queue_log says, for the links that want it."""

from __future__ import annotations

import io

from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.journal import queue_log

#: So much of the file's end is read.
TAIL_BYTES = 1 << 20


def entries(pbx: Pbx) -> list[queue_log.Entry]:
    """Return what the last lines say; nothing where the file cannot be read."""
    return [entry for entry in map(queue_log.parse, pbx.once("queue_log", _tail)) if entry]


def _tail(pbx: Pbx) -> list[str]:
    configured = pbx.settings.queue_log
    if configured is None:
        return []
    try:
        with configured.file.open("rb") as file:
            file.seek(max(0, file.seek(0, io.SEEK_END) - TAIL_BYTES))
            if file.tell():
                file.readline()
            return queue_log.lines(file.read())
    except OSError:
        return []
