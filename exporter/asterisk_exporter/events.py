"""What is only told in events: the quality of RTP streams, and security events.

A connection of its own, off by default, for events are lost while it is down: that is why its
outages are metrics too. One thread reads and only cuts the stream apart, because Asterisk drops a
client that reads slowly (``writetimeout``); another parses. Between them is a bounded queue, and
what does not fit into it is counted.
"""

from __future__ import annotations

import logging
import queue
import random
import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Callable, Union

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector as RegistryCollector

from asterisk_exporter.ami.client import AmiClient, Deadline, Target
from asterisk_exporter.ami.errors import AmiError, MalformedStreamError
from asterisk_exporter.ami.protocol import Message, parse_message
from asterisk_exporter.ami.session import wait_seconds

Family = Union[CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily]

#: The classes that the connection asks for, and that its login must have as ``read``.
CLASSES = "reporting,security"
#: ``sec_events[]`` in Asterisk's main/security_events.c (22.10.1).
SECURITY_EVENTS = (
    "FailedACL",
    "InvalidAccountID",
    "SessionLimit",
    "MemoryLimit",
    "LoadAverageLimit",
    "RequestNotSupported",
    "RequestNotAllowed",
    "AuthMethodNotAllowed",
    "RequestBadFormat",
    "SuccessfulAuth",
    "UnexpectedAddress",
    "ChallengeResponseFailed",
    "InvalidPassword",
    "ChallengeSent",
    "InvalidTransport",
)
OTHER = "other"
#: The media that Asterisk received (its own reports, RTCPSent), and the media that it sent (the
#: peer's reports, RTCPReceived).
DIRECTIONS = RECEIVED, SENT = ("received", "sent")

QUEUE_LENGTH = 10_000
CONNECT_SECONDS = 5.0
#: How long a thread may need to notice that it is to end.
POLL_SECONDS = 0.5

#: RTP clocks of the media that Asterisk knows; G.722's is 8000 (RFC 3551).
CLOCK_RATES = (8000, 12000, 16000, 24000, 32000, 44100, 48000, 90000)
#: Until two sender reports have told the clock of a stream: that of G.711, G.722, G.729 and GSM.
ASSUMED_CLOCK_RATE = 8000
CLOCKS_KEPT = 4096

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """One RTCP report block. ``loss_ratio`` is 0 to 1, ``mes`` 0 to 100, None when not known."""

    direction: str
    loss_ratio: float
    jitter_seconds: float
    round_trip_seconds: float | None
    mes: float | None


class Clocks:
    """RTP clock rates in Hz, measured: sender reports tell one instant as NTP and as RTP time.

    No event names the codec. A stream is known by its channel, local address and direction, for
    RTCPReceived of 22.10.1 has the peer's NTP seconds where its SSRC should be
    (``ast_rtcp_interpret()`` in res/res_rtp_asterisk.c). Only the streams seen last are remembered.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, ...], tuple[float, int, int]] = OrderedDict()

    def learn(self, stream: tuple[str, ...], ntp_seconds: float, rtp: int) -> None:
        """Note a sender report. Pauses in a stream, or too close a pair, teach nothing."""
        rate = ASSUMED_CLOCK_RATE
        if stream in self._seen:
            earlier_ntp, earlier_rtp, rate = self._seen.pop(stream)
            elapsed = ntp_seconds - earlier_ntp
            if elapsed >= 1:
                measured = ((rtp - earlier_rtp) % (1 << 32)) / elapsed
                nearest = min(CLOCK_RATES, key=lambda known: abs(known - measured))
                if abs(nearest - measured) < 0.1 * nearest:
                    rate = nearest
        self._seen[stream] = ntp_seconds, rtp, rate
        if len(self._seen) > CLOCKS_KEPT:
            self._seen.popitem(last=False)

    def rate(self, stream: tuple[str, ...]) -> int:
        """Return the clock rate of a stream in Hz, or the assumed one."""
        return self._seen[stream][2] if stream in self._seen else ASSUMED_CLOCK_RATE


def _within(text: str, lowest: float, highest: float) -> float:
    number = float(text)
    if not lowest <= number <= highest:  # NaN neither
        raise ValueError(f"{text!r} is not from {lowest} to {highest}")
    return number


def report(message: Message, clocks: Clocks) -> Report | None:
    """Return what an RTCPSent or RTCPReceived says, or None without a report block.

    The jitter is in units of the RTP clock, the fraction lost in 256ths (``rtcp_report_to_ami`` in
    Asterisk's main/rtp_engine.c, which since 20 adds MES). RTT is 0 until the peer has seen a
    sender report, and wraps at 65,536 s when a clock steps back. Raises ValueError.
    """
    ours = message.get("Event") == "RTCPSent"
    speaks, reported = (SENT, RECEIVED) if ours else (RECEIVED, SENT)
    channel, local = message.get("Uniqueid"), message.get("From" if ours else "To")
    if message.get("SentNTP"):
        ntp_seconds = _within(message.get("SentNTP"), 0, 1 << 33)
        rtp = int(_within(message.get("SentRTP"), 0, (1 << 32) - 1))
        clocks.learn((channel, local, speaks), ntp_seconds, rtp)
    if not message.get("Report0SourceSSRC"):
        return None
    jitter = _within(message.get("Report0IAJitter"), 0, (1 << 32) - 1)
    round_trip = _within(message.get("RTT") or "0", 0, 1 << 16)
    mes = message.get("MES")
    return Report(
        direction=reported,
        loss_ratio=_within(message.get("Report0FractionLost"), 0, 255) / 256,
        jitter_seconds=jitter / clocks.rate((channel, local, reported)),
        round_trip_seconds=round_trip if 0 < round_trip < 1 << 15 else None,
        mes=_within(mes, 0, 100) if mes else None,
    )


class Distribution:
    """Counts of observations up to each bound; the last bound is infinity."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = (*bounds, float("inf"))
        self.counts = [0] * len(self.bounds)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count one observation."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str] = ()) -> None:
        """Add the buckets as samples."""
        names = [*map(str, map(float, self.bounds[:-1])), "+Inf"]
        family.add_metric(labels, list(zip(names, accumulate(self.counts))), self.sum)


_LOSS = (0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)
_JITTER = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)
_ROUND_TRIP = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 1, 2)
#: Silence scores 20; G.711 without delay and loss 88.
_MES = (30, 40, 50, 60, 65, 70, 75, 80, 85, 90)


class Figures:
    """All that the events add up to. One thread notes, any may ask for the families."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clocks = Clocks()
        self._loss = {direction: Distribution(_LOSS) for direction in DIRECTIONS}
        self._jitter = {direction: Distribution(_JITTER) for direction in DIRECTIONS}
        self._mes = {direction: Distribution(_MES) for direction in DIRECTIONS}
        self._round_trip = Distribution(_ROUND_TRIP)
        self._security = dict.fromkeys((*SECURITY_EVENTS, OTHER), 0)

    def note(self, message: Message) -> None:
        """Add one event; what is neither RTCP nor security is none of ours. Raises ValueError."""
        name = message.get("Event")
        if name in {"RTCPSent", "RTCPReceived"}:
            found = report(message, self._clocks)
            if found is not None:
                self._add(found)
        elif message.get("Privilege").startswith("security,"):
            with self._lock:
                self._security[name if name in self._security else OTHER] += 1

    def _add(self, found: Report) -> None:
        with self._lock:
            self._loss[found.direction].add(found.loss_ratio)
            self._jitter[found.direction].add(found.jitter_seconds)
            if found.round_trip_seconds is not None:
                self._round_trip.add(found.round_trip_seconds)
            if found.mes is not None:
                self._mes[found.direction].add(found.mes)

    def families(self) -> list[Family]:
        """Return the families with samples."""
        loss, jitter, mes, round_trip, security = families = _figure_families()
        with self._lock:
            for family, by_direction in (
                (loss, self._loss),
                (jitter, self._jitter),
                (mes, self._mes),
            ):
                for direction, distribution in by_direction.items():
                    distribution.add_to(family, [direction])
            self._round_trip.add_to(round_trip)
            for name, number in self._security.items():
                security.add_metric([name], number)
        return [*families]


def _figure_families() -> tuple[
    HistogramMetricFamily,
    HistogramMetricFamily,
    HistogramMetricFamily,
    HistogramMetricFamily,
    CounterMetricFamily,
]:
    return (
        HistogramMetricFamily(
            "asterisk_rtp_packet_loss_ratio",
            "Share of packets lost since the report before, one observation a report.",
            labels=["direction"],
        ),
        HistogramMetricFamily(
            "asterisk_rtp_jitter_seconds",
            "Interarrival jitter, one observation a report.",
            labels=["direction"],
        ),
        HistogramMetricFamily(
            "asterisk_rtp_mes",
            "Asterisk's Media Experience Score, 0 to 100 (88 is flawless), one a report.",
            labels=["direction"],
        ),
        HistogramMetricFamily(
            "asterisk_rtp_round_trip_seconds", "Round trip time, one observation a report."
        ),
        CounterMetricFamily(
            "asterisk_security_events", "Security events by their name.", labels=["event"]
        ),
    )


def _connection_families() -> tuple[GaugeMetricFamily, CounterMetricFamily, CounterMetricFamily]:
    return (
        GaugeMetricFamily(
            "asterisk_exporter_events_connected",
            "Whether the connection for events is up; events are lost while it is not.",
        ),
        CounterMetricFamily(
            "asterisk_exporter_events_reconnects", "Event connections after the first one."
        ),
        CounterMetricFamily(
            "asterisk_exporter_events_dropped",
            "Events that did not fit into the queue or made no sense.",
        ),
    )


class EventCollector(RegistryCollector):
    """The connection, its two threads and their figures, to be registered and started.

    ::

        asterisk_exporter_events_connected 1.0
        asterisk_exporter_events_reconnects_total 0.0
        asterisk_exporter_events_dropped_total 0.0
        asterisk_rtp_jitter_seconds_bucket{direction="received",le="0.01"} 4.0
        asterisk_security_events_total{event="InvalidPassword"} 1.0
    """

    def __init__(
        self,
        target: Target,
        connect: Callable[[Target, Deadline, str], AmiClient] = AmiClient.connect,
        jitter: Callable[[], float] = random.random,
        queue_length: int = QUEUE_LENGTH,
    ) -> None:
        self._target = target
        self._connect = connect
        self._jitter = jitter
        self._blocks: queue.Queue[bytes] = queue.Queue(queue_length)
        self._figures = Figures()
        self._told = threading.Event()
        self._lock = threading.Lock()
        self._connected = False
        self._connections = 0
        self._dropped = 0
        self._said = ""
        self._threads = [
            threading.Thread(target=run, name=name, daemon=True)
            for name, run in (("events", self._read), ("events-parse", self._parse))
        ]

    def start(self) -> None:
        """Start reading."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop reading and wait for the threads, which are quick about it."""
        self._told.set()
        for thread in self._threads:
            thread.join(POLL_SECONDS + CONNECT_SECONDS)

    def describe(self) -> Iterable[Family]:
        """Return every family without samples and without I/O."""
        return [*_connection_families(), *_figure_families()]

    def collect(self) -> Iterable[Family]:
        """Return every family as it stands."""
        connected, reconnects, dropped = families = _connection_families()
        with self._lock:
            connected.add_metric([], self._connected)
            reconnects.add_metric([], max(0, self._connections - 1))
            dropped.add_metric([], self._dropped)
        return [*families, *self._figures.families()]

    def _read(self) -> None:
        """Keep a connection and queue what it brings, until told to stop."""
        failures = 0
        while not self._told.is_set():
            error = self._receive()
            if error is not None:
                if self._connected:
                    failures = 0
                self._note_lost(error)
                self._told.wait(wait_seconds(failures, self._jitter()))
                failures = min(failures + 1, 8)

    def _receive(self) -> AmiError | None:
        """Connect and queue what arrives; return what ended it, or None when told to stop."""
        try:
            client = self._connect(self._target, Deadline(CONNECT_SECONDS), CLASSES)
        except AmiError as error:
            return error
        self._note_connected()
        try:
            while not self._told.is_set():
                for block in client.receive(Deadline(POLL_SECONDS)):
                    self._queue(block)
        except AmiError as error:
            return error
        finally:
            client.close()
        return None

    def _queue(self, block: bytes) -> None:
        try:
            self._blocks.put_nowait(block)
        except queue.Full:
            self._drop()

    def _parse(self) -> None:
        while not self._told.is_set():
            try:
                block = self._blocks.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            self._note(block)

    def _note(self, block: bytes) -> None:
        try:
            self._figures.note(parse_message(block))
        except ValueError as error:
            log.debug("events: %s", error)
            self._drop()

    def _drop(self) -> None:
        with self._lock:
            self._dropped += 1

    def _note_connected(self) -> None:
        with self._lock:
            self._connected = True
            self._connections += 1
        self._said = ""
        log.info("events: connected")

    def _note_lost(self, error: AmiError) -> None:
        with self._lock:
            self._connected = False
            self._dropped += isinstance(error, MalformedStreamError)
        if self._said != error.kind:
            self._said = error.kind
            log.error("events: %s", error)
