"""When the database of phones and queues (realtime) last answered."""

from __future__ import annotations

from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector


class RealtimeCollector(Collector):
    """Registered with prometheus_client beside the scrape of AMI, which could not tell.

    The unit asterisk-realtime asks that database with Asterisk's login every five seconds, and
    writes a file anew when it was answered: the file's time is the figure, whatever is in it.
    0: it has not answered since the unit began, or nobody asks.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)

    def describe(self) -> list[GaugeMetricFamily]:
        """Return the family without samples, without I/O."""
        return [_family()]

    def collect(self) -> list[GaugeMetricFamily]:
        """Return the family with its sample."""
        family = _family()
        family.add_metric([], answered(self._path))
        return [family]


def answered(path: Path) -> float:
    """Return the Unix time of the last answer, 0 without one."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _family() -> GaugeMetricFamily:
    return GaugeMetricFamily(
        "asterisk_realtime_answered_timestamp_seconds",
        "Unix time at which the database of phones and queues (realtime) last answered the login"
        " that Asterisk has there; 0, not since asterisk-realtime began.",
    )
