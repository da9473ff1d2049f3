"""What may be put into an action. Pure: each function returns the value or refuses it.

``encode_action`` keeps a value in its line; here, it keeps its meaning. Relied on: ``&`` rings a
second device and ``/`` begins a technology's own address (``dial_exec_full()`` of app_dial.c and
chan_pjsip); ``,`` and ``|`` end a field; app_queue has 80 bytes for a name, an interface and a
reason, and keeps members in AstDB with ``;`` and ``|`` between fields (``dump_queue_members()``).
"""

from __future__ import annotations

import re

from asterisk_exporter.control.errors import RefusedValueError

_ENDPOINT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_EXTENSION = re.compile(r"[A-Za-z0-9+*#][A-Za-z0-9+*#_.:-]{0,78}")
_CALLER_ID = re.compile(
    r"(?:(?P<name>[^\"<>,&|;\\]{1,60}?)\s*<(?P<quoted>\+?[0-9*#]{1,40})>|\+?[0-9*#]{1,40})"
)
#: AST_MAX_EXTENSION, AST_CHANNEL_NAME and the texts of app_queue, with their closing NUL.
MAX_BYTES = 79


def endpoint(value: str) -> str:
    """Return the PJSIP endpoint that ``101`` or ``PJSIP/101`` names."""
    name = value[6:] if value[:6].upper() == "PJSIP/" else value
    if not _ENDPOINT.fullmatch(name):
        raise RefusedValueError("phone", value, "an extension such as 101, or PJSIP/101")
    return name


def interface(value: str) -> str:
    """Return a queue member's interface, ``PJSIP/101``, from that or from ``101``."""
    return f"PJSIP/{endpoint(value)}"


def extension(value: str) -> str:
    """Return an extension to which a call may be sent."""
    if not _EXTENSION.fullmatch(value):
        raise RefusedValueError("extension", value, "one number or name, such as 102")
    return value


def context(value: str | None, allowed: tuple[str, ...]) -> str:
    """Return the context to send a call to: one of those that are allowed, the first by default."""
    if value is None:
        return allowed[0]
    if value not in allowed:
        raise RefusedValueError("context", value, f"one of {', '.join(allowed)}")
    return value


def caller_id(value: str) -> str:
    """Return a caller id: a number, or ``Alice <101>``."""
    found = _CALLER_ID.fullmatch(value)
    if found is None or not value.isprintable() or len(value.encode()) > MAX_BYTES:
        raise RefusedValueError("caller id", value, "a number, or a name and <number>")
    return f'"{found["name"].strip()}" <{found["quoted"]}>' if found["name"] else value


def text(what: str, value: str) -> str:
    """Return a member's name or a reason: printable, 79 bytes, without ``|``, ``;``, and quotes."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        size = 0
    if not (0 < size <= MAX_BYTES) or not value.isprintable() or re.search(r'[|;"\\]', value):
        raise RefusedValueError(
            what, value, f'1 to {MAX_BYTES} bytes of printable text without | ; " \\'
        )
    return value


def member_name(value: str) -> str:
    """Return a member's name, which queue_log and others take for one field."""
    if re.search("[,&/@]", value):
        raise RefusedValueError("member name", value, "a name without , & / @")
    return text("member name", value)


def number(what: str, value: int, lowest: int, highest: int) -> int:
    """Return a number in its limits."""
    if not lowest <= value <= highest:
        raise RefusedValueError(what, str(value), f"{lowest} to {highest}")
    return value
