"""CoreStatus and CoreSettings: version, start and reload times, calls processed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, tzinfo

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from asterisk_exporter.ami.errors import MalformedReplyError
from asterisk_exporter.collectors.base import Family, Replies, integer, label


def wall_clock_to_timestamp(date: str, time: str, zone: tzinfo | None, now: float) -> float:
    """Convert CoreStatus' local wall clock (``2026-03-29``, ``03:30:00``) to Unix time.

    ``zone`` None is this system's zone. In the hour that autumn repeats, the later of both
    readings that is not in the future is meant. Raises MalformedReplyError.
    """
    try:
        local = datetime.strptime(f"{date} {time}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=zone)
    except ValueError:
        raise MalformedReplyError(
            f"CoreStatus has the time {date!r} {time!r} where YYYY-MM-DD hh:mm:ss was expected."
        ) from None
    earlier, later = sorted(local.replace(fold=fold).timestamp() for fold in (0, 1))
    return later if later <= now else earlier


@dataclass(frozen=True)
class CoreCollector:
    """Figures of the whole Asterisk.

    ::

        asterisk_info{version="22.10.1",system_name="pbx1"} 1.0
        asterisk_start_timestamp_seconds 1.795492391e+09
        asterisk_last_reload_timestamp_seconds 1.795492391e+09
        asterisk_calls_processed_total 9.0

    The last one needs Asterisk 20.12, 21.7 or 22.2; older ones do not tell it.
    """

    zone: tzinfo | None = None
    name = "core"
    actions = ("CoreStatus", "CoreSettings")

    def describe(self) -> list[Family]:
        """Return the families without samples."""
        return [
            GaugeMetricFamily(
                "asterisk_info",
                "Version of Asterisk and its system name.",
                labels=["version", "system_name"],
            ),
            GaugeMetricFamily(
                "asterisk_start_timestamp_seconds", "When Asterisk started, Unix time."
            ),
            GaugeMetricFamily(
                "asterisk_last_reload_timestamp_seconds",
                "When Asterisk last reloaded everything, Unix time.",
            ),
            CounterMetricFamily(
                "asterisk_calls_processed", "Calls since Asterisk started (CoreProcessedCalls)."
            ),
        ]

    def collect(self, replies: Replies, now: float) -> list[Family]:
        """Return the families with samples."""
        info, start, reload, processed = families = self.describe()
        status = replies["CoreStatus"].message()
        settings = replies["CoreSettings"].message()
        version, system_name = settings.get("AsteriskVersion"), settings.get("SystemName")
        info.add_metric([label(version), label(system_name)], 1)
        for family, which in ((start, "Startup"), (reload, "Reload")):
            date, time = status.get(f"Core{which}Date"), status.get(f"Core{which}Time")
            family.add_metric([], wall_clock_to_timestamp(date, time, self.zone, now))
        if status.get("CoreProcessedCalls"):  # since Asterisk 20.12, 21.7 and 22.2
            processed.add_metric([], integer(status, "CoreProcessedCalls"))
        return families
