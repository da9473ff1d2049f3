"""Filter of the role fail2ban; it runs on the controller."""

from __future__ import annotations

import ipaddress
import re
from typing import Any, Callable

DURATION = re.compile(r"[1-9][0-9]*[smhd]")


def problems(settings: dict[str, Any]) -> list[str]:
    """Return a sentence for each variable of the role that cannot be.

    `settings` has the role's variables by their names.
    """
    found = [
        f"{name}: '{settings[name]}' is no duration; write such as 600s, 10m, 1h or 1d."
        for name in ("fail2ban_findtime", "fail2ban_bantime")
        if not DURATION.fullmatch(str(settings[name]))
    ]
    if int(settings["fail2ban_maxretry"]) < 1:
        found.append(f"fail2ban_maxretry is {settings['fail2ban_maxretry']}: give 1 or more.")
    found += [
        f"fail2ban_ignoreip: '{network}' is no network; write such as 192.0.2.0/24, 192.0.2.7 or"
        " 2001:db8::/32."
        for network in settings["fail2ban_ignoreip"]
        if not is_network(str(network))
    ]
    return found


def is_network(text: str) -> bool:
    """Return whether the text is a network or an address."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


class FilterModule:
    """Make the filter known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"fail2ban_problems": problems}
