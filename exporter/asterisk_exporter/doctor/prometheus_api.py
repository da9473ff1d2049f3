"""What Prometheus says of itself, over HTTP."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn

from asterisk_exporter.doctor.pbx import LookError, Pbx

MOST_BYTES = 32 << 20
_URL = "asterisk_exporter_doctor_prometheus_url"


@dataclass(frozen=True)
class Clock:
    """What time Prometheus has, and how much is uncertain; ours is ``here``. Unix seconds."""

    there: float
    here: float
    uncertain: float


class Prometheus:
    """Asks the Prometheus at an address. Raises LookError, which says why it does not answer."""

    def __init__(self, url: str, timeout: float) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        # a proxy of this shell's environment is not on the way that is meant
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @property
    def host(self) -> str:
        """The host in the address."""
        return urllib.parse.urlsplit(self.url).hostname or ""

    def api(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of the API."""
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        text = self.get(f"/api/v1/{path}{query}")
        try:
            document = json.loads(text)
            if document["status"] == "success":
                return document["data"]
            said = str(document.get("error"))
        except (ValueError, KeyError, TypeError, AttributeError):
            said = "no answer of Prometheus's API"
        raise LookError(f"{self.url}/api/v1/{path}: {said[:200]}", _not_prometheus())

    def listed(self, path: str, key: str, **parameters: str) -> list[Any]:
        """Return the list of that name in the data of an answer."""
        data = self.api(path, **parameters)
        found = data.get(key) if isinstance(data, dict) else None
        if not isinstance(found, list):
            raise LookError(f"{self.url}/api/v1/{path}: no {key} in its answer", _not_prometheus())
        return found

    def clock(self) -> Clock:
        """Ask what time it is there."""
        before = time.time()
        # nocache: VictoriaMetrics, which answers the same API, says the time of 30 s ago else
        _, value = self.listed("query", "result", query="time()", nocache="1")
        after = time.time()
        return Clock(float(value), (before + after) / 2, (after - before) / 2)

    def get(self, path: str) -> str:
        """Return a page below the address."""
        try:
            with self._opener.open(f"{self.url}{path}", timeout=self._timeout) as response:
                return str(response.read(MOST_BYTES).decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            with error:
                self._refused(error.code)
        except urllib.error.URLError as error:
            self._unreachable(error.reason)
        except (OSError, http.client.HTTPException) as error:
            self._unreachable(error)

    def _refused(self, status: int) -> NoReturn:
        if status in (401, 403):
            raise LookError(
                f"{self.url} wants a login ({status}), and the doctor has none",
                f"Name in {_URL} an address without one, such as that on its own host.",
            )
        if status == 503:
            raise LookError(
                f"{self.url} is starting, or overloaded (503)",
                "Look again in a minute; on its host: journalctl -u prometheus -n 20",
            )
        raise LookError(f"{self.url} answered {status}", _not_prometheus())

    def _unreachable(self, reason: object) -> NoReturn:
        if isinstance(reason, socket.timeout):
            said = f"no answer within {self._timeout:g} s"
        else:
            said = str(getattr(reason, "strerror", None) or reason) or type(reason).__name__
        raise LookError(
            f"Prometheus at {self.url}: {said}",
            f"Is {_URL} its address, and the way there open? On its host: "
            "systemctl status prometheus",
        ) from None


def _not_prometheus() -> str:
    return f"Name in {_URL} the address of Prometheus itself: that below which /api/v1/query is."


def at(pbx: Pbx) -> Prometheus | None:
    """Return the Prometheus that is set, or None without."""
    url = pbx.settings.doctor.prometheus_url
    return None if url is None else Prometheus(url, pbx.timeout)


def epoch(text: str) -> float:
    """Return the Unix time of one of its times, which have nanoseconds; the year 1: 0."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,6})?\d*(Z|[+-]\d\d:\d\d)", text)
    if found is None or text.startswith("0001-"):
        return 0.0
    zone = "+00:00" if found[3] == "Z" else found[3]
    fraction = (found[2] or ".0").ljust(7, "0")
    return datetime.fromisoformat(f"{found[1]}{fraction}{zone}").timestamp()


def seconds(text: str) -> float:
    """Return the seconds of one of its durations: 1m30s, 500ms."""
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    return sum(float(n) * units[unit] for n, unit in re.findall(r"([\d.]+)(ms|[smhd])", text))
