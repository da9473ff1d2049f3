"""The link that is the exporter's own ``/metrics``."""

from __future__ import annotations

import base64
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from asterisk_exporter import __version__, config, web_config
from asterisk_exporter.config import Listen
from asterisk_exporter.doctor.finding import Finding, critical, ok, warning
from asterisk_exporter.doctor.pbx import LookError, Pbx
from asterisk_exporter.doctor.tls import PARTIAL_CHAIN

#: Prometheus' default scrape_timeout is 10 s; ours ask within 2.
SLOW_SECONDS = 2.0
#: More is no exposition of ours.
MAX_BYTES = 64 << 20
_ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - what somebody may listen on
_LOOK = "Look at: journalctl -u asterisk-exporter -n 50"


@dataclass(frozen=True)
class Scrape:
    """What a scrape brought: by family, the value of each sample with its labels."""

    families: Mapping[str, tuple[tuple[Mapping[str, str], float], ...]]
    seconds: float

    def value(self, name: str) -> float | None:
        """Return the value of a family that has one sample."""
        samples = self.families.get(name, ())
        return samples[0][1] if samples else None


def url(listen: Listen, scheme: str = "http") -> str:
    """Return where this machine reaches ``/metrics``."""
    host = _ANY.get(listen.address, listen.address)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{listen.port}/metrics"


@dataclass(frozen=True)
class Way:
    """How the service is reached. ``tls`` None: it speaks plain HTTP."""

    url: str
    tls: ssl.SSLContext | None
    headers: Mapping[str, str]


def way(pbx: Pbx) -> Way:
    """Return how the web configuration lets us in. Raises ConfigError, LookError."""
    return pbx.once("way to /metrics", _way)


def _way(pbx: Pbx) -> Way:
    listen, doctor = pbx.settings.listen, pbx.settings.doctor
    path = config.web_config_path(pbx.settings, pbx.path)
    if path is None:
        return Way(url(listen), None, {})
    said, headers = web_config.load(path), {}
    if said.basic_auth_users and doctor.metrics_username:
        name = "doctor.metrics_password_file"
        password = config.read_secret(doctor.metrics_password_file, name, pbx.path)
        encoded = base64.b64encode(f"{doctor.metrics_username}:{password}".encode()).decode()
        headers["Authorization"] = f"Basic {encoded}"
    tls = said.tls_server_config
    if tls is None:
        return Way(url(listen), None, headers)
    return Way(url(listen, "https"), _trusting(path.parent / tls.cert_file), headers)


def _trusting(certificate: Path) -> ssl.SSLContext:
    """Return what trusts the service's own certificate, and no other, by any name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= PARTIAL_CHAIN
    try:
        context.load_verify_locations(certificate)
    except (OSError, ValueError) as error:
        raise LookError(
            f"the certificate of /metrics, {certificate}, cannot be used: {error}",
            "Converge with the role asterisk_exporter",
        ) from None
    return context


def parse(text: str, seconds: float) -> Scrape:
    """Parse an exposition. Raises ValueError."""
    families = {
        family.name: tuple((sample.labels, sample.value) for sample in family.samples)
        for family in text_string_to_metric_families(text)
        if family.name.startswith("asterisk_")
    }
    return Scrape(families, seconds)


def judge(scrape: Scrape, where: str, installed: str, events: bool) -> Iterator[Finding]:
    """Judge what the service says of itself. ``installed``: the version of this command."""
    info = scrape.families.get("asterisk_exporter_build_info", ())
    if not info:
        yield critical(
            f"{where} is answered by something else than asterisk-exporter",
            "Give one of them another port (asterisk_exporter_listen_port); see who listens: "
            "ss -ltnp",
        )
        return
    running = info[0][0].get("version", "")
    if running != installed:
        yield warning(
            f"the service runs version {running}, and {installed} is installed",
            "systemctl restart asterisk-exporter",
        )
    if scrape.value("asterisk_up") == 0:
        yield critical(
            "the service does not reach Asterisk: asterisk_up is 0",
            f"{_LOOK}. Where the link AMI login is well, the service has an old secret: systemctl "
            "restart asterisk-exporter",
        )
    else:
        yield from _collectors(scrape)
    if events and scrape.value("asterisk_exporter_events_connected") == 0:
        yield critical(
            "the service does not receive events: asterisk_exporter_events_connected is 0",
            f"{_LOOK}. If the link AMI events login is well: systemctl restart asterisk-exporter",
        )
    if scrape.seconds > SLOW_SECONDS:
        yield warning(
            f"{where} took {scrape.seconds:.1f} s; Prometheus gives up after its scrape_timeout",
            "Look at asterisk_exporter_collector_duration_seconds there, and at the load here.",
        )
    samples = sum(len(found) for found in scrape.families.values())
    yield ok(f"{where}: version {running}, {samples} values in {scrape.seconds * 1000:.0f} ms")


def _collectors(scrape: Scrape) -> Iterator[Finding]:
    failing = sorted(
        labels.get("collector", "")
        for labels, value in scrape.families.get("asterisk_exporter_collector_success", ())
        if value == 0
    )
    if failing:
        yield critical(
            f"the service fails to collect {', '.join(failing)}: those figures are missing", _LOOK
        )


def metrics(pbx: Pbx) -> Iterator[Finding]:
    """Scrape the service as Prometheus does."""
    scrape, where = scraped(pbx), way(pbx).url
    yield from judge(scrape, where, __version__, pbx.settings.events.enabled)


def scraped(pbx: Pbx) -> Scrape:
    """Return what the service says; nothing where that is no exposition. Raises LookError."""
    return pbx.once("/metrics", _scrape)


def _scrape(pbx: Pbx) -> Scrape:
    found = way(pbx)
    where = found.url
    # no proxy of this shell's has a part in it
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if found.tls is not None:
        handlers.append(urllib.request.HTTPSHandler(context=found.tls))
    opener = urllib.request.build_opener(*handlers)
    start = time.monotonic()
    try:
        asked = urllib.request.Request(where, headers=dict(found.headers))  # noqa: S310
        with opener.open(asked, timeout=pbx.timeout) as response:
            text = response.read(MAX_BYTES).decode("utf-8", "replace")
    except urllib.error.HTTPError as error:
        if error.code != HTTPStatus.UNAUTHORIZED:
            raise LookError(f"{where} answers {error.code} {error.reason}", _LOOK) from None
        raise LookError(
            f"{where} wants another user or password",
            "Set asterisk_exporter_users and converge; or set doctor.metrics_username and "
            "metrics_password_file to a user of the web configuration.",
        ) from None
    except (OSError, ValueError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise LookError(
            f"{where} does not answer: {reason}",
            "Does the service run, and listen there (asterisk_exporter_listen_address, "
            f"listen.address)? systemctl status asterisk-exporter. {_LOOK}",
        ) from None
    seconds = time.monotonic() - start
    try:
        return parse(text, seconds)
    except ValueError:
        return Scrape({}, seconds)
