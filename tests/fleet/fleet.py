"""What the tests do with the machines of the site fleet."""

from __future__ import annotations

import base64
import ssl
import urllib.request

from lab import Lab

#: Seconds that a page has. The fleet runs beside the tests in the lab, at a lower priority.
PATIENCE = 10.0


class Pbx(Lab):
    """A PBX, whose figures are for those who have a password, over TLS."""

    def exposition(self) -> str:
        password = (self.secrets / "metrics-prometheus").read_text().strip()
        login = base64.b64encode(f"prometheus:{password}".encode()).decode()
        request = urllib.request.Request(
            f"{self.url(self.host)}/metrics", headers={"Authorization": f"Basic {login}"}
        )
        tls = ssl.create_default_context(cafile=str(self.secrets / "tls-ca.pem"))
        with urllib.request.urlopen(request, timeout=PATIENCE, context=tls) as response:
            return str(response.read().decode())

    def records(self) -> list[list[str]]:
        """Return the number of call records, and a digest of them."""
        return self.sql("SELECT count(*), md5(string_agg(cdr::text, ',' ORDER BY id)) FROM cdr")


class Monitor(Lab):
    """The machine that monitors both."""

    def get(self, url: str, seconds: float = PATIENCE) -> str:
        with urllib.request.urlopen(url, timeout=seconds) as response:
            return str(response.read().decode())
