"""File systems on this host, such as the one that fills with recordings."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from asterisk_exporter.collectors.base import label

#: A network file system whose server is gone answers never; /metrics does not wait for it.
TIMEOUT_SECONDS = 0.2

log = logging.getLogger(__name__)


class FilesystemCollector(Collector):
    """Registered with prometheus_client beside the scrape of AMI, since it does not depend on it.

    ::

        asterisk_filesystem_size_bytes{path="/var/spool/asterisk"} 2.1e+10
        asterisk_filesystem_avail_bytes{path="/var/spool/asterisk"} 1.2e+10

    A path that cannot be read has no samples; the log says why, once.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._looks = [_Look(path) for path in paths]

    def describe(self) -> list[Metric]:
        """Return the families without samples, without I/O."""
        return list(_families())

    def collect(self) -> list[Metric]:
        """Return the families with samples."""
        size, avail = families = _families()
        for look in self._looks:
            look.start()
        for look in self._looks:
            found = look.result()
            if found is not None:
                size.add_metric([label(look.path)], found.f_blocks * found.f_frsize)
                # not f_bfree: the rest is root's
                avail.add_metric([label(look.path)], found.f_bavail * found.f_frsize)
        return list(families)


class _Look:
    """Asks for one path's file system, at most one question at a time."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._found: os.statvfs_result | None = None
        self._error = ""
        self._said = ""

    def start(self) -> None:
        """Ask, unless an earlier question is still open."""
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._ask, name="statvfs", daemon=True)
                thread.start()
                # Only now: another scrape joins whatever thread is here.
                self._thread = thread

    def _ask(self) -> None:
        try:
            self._found, self._error = os.statvfs(self.path), ""
        except OSError as error:
            self._found, self._error = None, error.strerror or str(error)

    def result(self) -> os.statvfs_result | None:
        """Return the answer, or None; says in the log what is wrong when that changes."""
        assert self._thread is not None  # noqa: S101 - start() comes first
        self._thread.join(TIMEOUT_SECONDS)
        error = f"no answer within {TIMEOUT_SECONDS} s" if self._thread.is_alive() else self._error
        if error != self._said:
            if error:
                log.warning("filesystems: cannot measure %s: %s", self.path, error)
            else:
                log.info("filesystems: %s can be measured again", self.path)
            self._said = error
        return None if error else self._found


def _families() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    return (
        GaugeMetricFamily(
            "asterisk_filesystem_size_bytes",
            "Size of the file system that holds the path.",
            labels=["path"],
        ),
        GaugeMetricFamily(
            "asterisk_filesystem_avail_bytes",
            "What users other than root may still write to the file system that holds the path.",
            labels=["path"],
        ),
    )
