"""The link that is realtime: the database of phones and queues answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from asterisk_exporter.collectors import realtime
from asterisk_exporter.doctor.finding import Finding, critical, not_set_up, ok
from asterisk_exporter.doctor.pbx import Pbx
from asterisk_exporter.doctor.services import age

#: It is asked every five seconds, and may take ten for its answer.
LATE_SECONDS = 30


def look(pbx: Pbx) -> Iterator[Finding]:
    """Look when the database last answered."""
    file = pbx.settings.realtime_file
    if file is None:
        yield not_set_up("phones and queues are those of the inventory (pbx_realtime)")
    else:
        yield judge(realtime.answered(Path(file)), time.time())


def judge(answered: float, now: float) -> Finding:
    """Judge the Unix time of the last answer; 0: there was none."""
    seconds = now - answered
    if seconds <= LATE_SECONDS:
        return ok(f"the database of phones and queues answered {max(0.0, seconds):.0f} s ago")
    since = f"for {age(seconds)}" if answered else "since asterisk-realtime began"
    return critical(
        f"the database of phones and queues has not answered {since}: its queues take no calls, "
        "and phones that Asterisk has not met yet are unknown",
        "journalctl -u asterisk-realtime -n 20 says why; on the database's host: systemctl status "
        "postgresql. Neither restart Asterisk nor reload PJSIP before: it would forget the phones "
        "that it knows",
    )
