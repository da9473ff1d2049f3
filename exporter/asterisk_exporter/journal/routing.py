"""What the CRM was asked about calls, from the lines that the dialplan of call_routing writes.

``epoch|callid|NONE|NONE|ROUTE|result|milliseconds``: one for each call that it was to be asked
about, whichever way, also when nobody answered or the caller hung up meanwhile.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric

from asterisk_exporter.journal.queue_log import Entry
from asterisk_exporter.journal.store import Change, JournalStore

EVENT = "ROUTE"
REQUESTS = "asterisk_route_requests"
#: Not cumulative: {bound}. The sum is in milliseconds.
TIMES = "route_time"
TIME_MS = "route_time_ms"

RESULTS = ("routed", "no_route", "timeout", "error", "invalid", "abandoned")
#: Milliseconds. The deadline is 2 s; what is above 2.5 s has no excuse.
BOUNDS_MS = (5, 10, 25, 50, 100, 250, 500, 1000, 2000, 2500)


class Routes:
    """The lines of one batch."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._results: dict[str, int] = {}
        self._times: dict[str, int] = {}
        self._total_ms = 0

    def take(self, entry: Entry) -> None:
        """Count one line; a result that is none of ours is an error."""
        result, _, text = entry.data.partition("|")
        if result not in RESULTS:
            result = "error"
        self._results[result] = self._results.get(result, 0) + 1
        if text.isdecimal() and len(text) <= 7:
            index = bisect_left(BOUNDS_MS, int(text))
            bound = str(BOUNDS_MS[index]) if index < len(BOUNDS_MS) else "+Inf"
            self._times[bound] = self._times.get(bound, 0) + 1
            self._total_ms += int(text)

    def write(self, change: Change) -> None:
        """Put what was counted into a change, and begin anew."""
        for result, number in self._results.items():
            change.count(REQUESTS, result, by=number)
        for bound, number in self._times.items():
            change.count(TIMES, bound, by=number)
        if self._total_ms:
            change.count(TIME_MS, by=self._total_ms)
        self._clear()


def families(store: JournalStore | None = None) -> list[Metric]:
    """Return the families; without a store without samples. Every result is there from the start.

    ::

        asterisk_route_requests_total{result="routed"} 12.0
        asterisk_route_seconds_bucket{le="0.005"} 11.0
    """
    requests = CounterMetricFamily(
        REQUESTS,
        "Calls about which the CRM was to be asked, by what came of it.",
        labels=["result"],
    )
    times = HistogramMetricFamily(
        "asterisk_route_seconds",
        "Time that such a call waited until it was known where it goes, or the caller hung up.",
    )
    if store is not None:
        counted = store.values(REQUESTS)
        for result in RESULTS:
            requests.add_metric([result], counted.get((result,), 0))
        by_bound = store.values(TIMES)
        counts = [by_bound.get((str(bound),), 0) for bound in (*BOUNDS_MS, "+Inf")]
        names = [*(str(bound / 1000) for bound in BOUNDS_MS), "+Inf"]
        buckets = list(zip(names, map(float, accumulate(counts))))
        times.add_metric([], buckets, store.values(TIME_MS).get((), 0) / 1000)
    return [requests, times]
