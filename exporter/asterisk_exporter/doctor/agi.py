"""AGI as Asterisk speaks it: to the service that asks the CRM, of a call of nobody to nowhere."""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass

#: What the circuit breaker asks about too.
CALLER, NUMBER = "anonymous", "unknown"
_ROUTE_RESULT = re.compile(r'SET VARIABLE "?ROUTE_RESULT"? "?(\w+)')


@dataclass(frozen=True)
class Spoken:
    """An AGI dialogue: how long it took and the ROUTE_RESULT, or what went wrong.

    ``refused``: nobody listens there, which Asterisk notices at once.
    """

    seconds: float = 0.0
    result: str = ""
    error: str | None = None
    refused: bool = False


def speak(listen: str, timeout: float) -> Spoken:
    """Say what Asterisk would of a call of nobody, and take what it is told."""
    host, _, port = listen.rpartition(":")
    head = (
        f"agi_network: yes\nagi_network_script: route/{NUMBER}/{CALLER}\nagi_uniqueid: doctor\n"
        f"agi_callerid: {CALLER}\nagi_extension: {NUMBER}\n\n"
    )
    began = time.monotonic()
    end = began + timeout
    result = ""
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout) as connection:
            connection.sendall(head.encode())
            with connection.makefile("rb") as lines:
                while not result:
                    connection.settimeout(max(0.001, end - time.monotonic()))
                    line = lines.readline(4096).decode("utf-8", "replace")
                    if not line:
                        break
                    found = _ROUTE_RESULT.match(line)
                    result = found[1] if found else ""
                    connection.sendall(b"200 result=1\n")
    except socket.timeout:
        return Spoken(error=f"it accepts and says nothing within {timeout:g} s")
    except ConnectionRefusedError:
        return Spoken(error="nothing listens there", refused=True)
    except OSError as error:
        return Spoken(error=error.strerror or str(error))
    if not result:
        return Spoken(error="it ended the call without ROUTE_RESULT")
    return Spoken(time.monotonic() - began, result)
