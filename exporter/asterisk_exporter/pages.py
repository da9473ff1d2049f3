"""The pages for people: which there are, and what each is made of."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Callable

from asterisk_exporter import landing, wallboard
from asterisk_exporter.config import Config
from asterisk_exporter.live import Live
from asterisk_exporter.summary import Summary, UnknownQueueError
from asterisk_exporter.web import Page, Query, plain

WALLBOARD_IS_OFF = (
    "The wallboard is off: it is on by itself only where the exporter listens on loopback. Turn it "
    "on with wallboard: {enabled: true} in the exporter's configuration (role asterisk_exporter: "
    "asterisk_exporter_wallboard: true).\n"
)


def all_pages(config: Config, address: str, live: Live) -> Mapping[str, Callable[[Query], Page]]:
    """Return the pages by path. ``address`` is where the server listens."""
    wanted = config.wallboard.enabled
    shown = is_loopback(address) if wanted is None else wanted

    def front(_: Query) -> Page:
        return Page(landing.page(live.look(), shown), policy=landing.POLICY)

    def board(query: Query) -> Page:
        view = wallboard.view_of(query, config.wallboard.language)
        title = config.wallboard.title or config.system_name or "Asterisk"
        objective, look = config.wallboard.objective_percent, live.look()
        try:
            found = look.of(view.queues)
            made = wallboard.Board(title, objective, *found, look.missed_unknown)
        except UnknownQueueError as error:
            # shown and not 404: Asterisk may lack a queue while it starts
            unknown = Summary(look.at, error=str(error))
            made = wallboard.Board(title, objective, unknown, problem="unknown_queue")
        return Page(wallboard.page(made, view), policy=wallboard.POLICY)

    def off(_: Query) -> Page:
        return plain(WALLBOARD_IS_OFF, "404 Not Found")

    return {"/": front, "/wallboard": board if shown else off}


def is_loopback(address: str) -> bool:
    """Say whether only this host can reach the address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"
