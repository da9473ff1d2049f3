"""What goes to the CRM, and what of its replies is taken; pure.

A reply is untrusted. It can choose among the destinations that the inventory has, give a priority
and a language, and say who the caller is. Nothing else of it goes anywhere.
"""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes 4 ms, and the script starts once a call
    from collections.abc import Mapping
    from typing import Any

ANONYMOUS = "anonymous"
MOST_DIGITS = 32
MOST_PRIORITY = 100
MOST_NAME = 80
MOST_ID = 64
MOST_URL = 500

_DECORATION = str.maketrans("", "", " -.()")
_NUMBER = re.compile(rf"\+?[0-9]{{1,{MOST_DIGITS}}}")
_DECORATED = re.compile(r"\+?[0-9]+(?:[ .()-]{1,2}[0-9]+)*")
# compiled when a reply has them
_LANGUAGE = r"[a-z]{2,3}(?:[_-][A-Za-z]{2,4})?"
_ID = r"[A-Za-z0-9_.:-]+"
_URL = r"https?://[!#-;=?-Z_a-z~%]+"
#: Not in a name: what ends a line, a quoted text or a header of SIP, or begins a variable.
_UNFIT_IN_NAME = r'[\x00-\x1f\x7f-\x9f\u2028\u2029"\\<>$`|;\ufffd]+'


class InvalidReply(Exception):  # noqa: N818 - the result is called invalid
    """The reply is not what the contract says; the text says which part of it."""


class Route:
    """Where a call goes. ``target`` is the dialplan's name; None: the CRM has no opinion."""

    __slots__ = ("language", "priority", "target")

    def __init__(
        self, target: str | None = None, priority: int | None = None, language: str | None = None
    ) -> None:
        self.target = target
        self.priority = priority
        self.language = language


class Contact:
    """Who calls, as the CRM knows. Empty texts: it did not say."""

    __slots__ = ("id", "language", "name", "url", "vip")

    def __init__(
        self,
        name: str = "",
        id: str = "",  # noqa: A002 - the contract's name
        url: str = "",
        language: str | None = None,
        vip: bool | None = None,
    ) -> None:
        self.name = name
        self.id = id
        self.url = url
        self.language = language
        self.vip = vip


def caller(text: str) -> str:
    """Return the caller's number as it goes to the CRM, or ``anonymous``.

    Spaces and the like are left out; a number with anything else in it is nobody's. It is not
    mended by leaving that out, since what remains may be somebody else's number.
    """
    text = text.strip()
    if _DECORATED.fullmatch(text):
        plain = text.translate(_DECORATION)
        if _NUMBER.fullmatch(plain):
            return plain
    return ANONYMOUS


def dialled(text: str) -> str:
    """Return the number that was called as it goes to the CRM, or ``unknown``."""
    return text if _NUMBER.fullmatch(text) else "unknown"


def _object(body: bytes) -> dict[str, Any]:
    import json  # noqa: PLC0415 - a plain text needs none

    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidReply("no JSON") from None
    if not isinstance(found, dict):
        raise InvalidReply(f"JSON, but a {type(found).__name__} and no object")
    return found


def _language(value: object) -> str | None:
    if value is not None and not (isinstance(value, str) and re.fullmatch(_LANGUAGE, value)):
        raise InvalidReply(f"language is {shown(value)}, not a language such as de or en_GB")
    return value


def route(body: bytes, targets: Mapping[str, str]) -> Route:
    """Return what the reply to ``route`` says. Raises InvalidReply."""
    body = body.strip()
    if not body.startswith(b"{"):
        try:
            return Route(_target(body.decode("utf-8"), targets))
        except UnicodeDecodeError:
            raise InvalidReply("neither JSON nor UTF-8 text") from None
    given = _object(body)
    target, priority = given.get("target"), given.get("priority")
    language = _language(given.get("language"))
    if priority is not None and not (type(priority) is int and 0 <= priority <= MOST_PRIORITY):
        raise InvalidReply(f"priority is {shown(priority)}, not a number up to {MOST_PRIORITY}")
    if target is None:
        if "target" not in given:
            raise InvalidReply("it has no target")
        return Route(None, priority, language)
    return Route(_target(target, targets), priority, language)


def _target(value: object, targets: Mapping[str, str]) -> str:
    if not isinstance(value, str):
        raise InvalidReply(f"target is {shown(value)}, not a text")
    found = targets.get(value)
    if found is None:
        raise InvalidReply(f"target is {shown(value)}, no destination of this PBX")
    return found


def contact(body: bytes) -> Contact:
    """Return what the reply to ``lookup`` says. Raises InvalidReply."""
    given = _object(body.strip())
    name, url, vip = given.get("name") or "", given.get("url") or "", given.get("vip")
    number = given.get("id")
    if type(number) is int:
        number = str(number)
    number = number or ""
    if not isinstance(name, str):
        raise InvalidReply(f"name is {shown(name)}, not a text")
    if not isinstance(number, str) or (number and not re.fullmatch(_ID, number[: MOST_ID + 1])):
        raise InvalidReply(f"id is {shown(number)}, not letters, digits, _ . : and -")
    if len(number) > MOST_ID:
        raise InvalidReply(f"id is longer than {MOST_ID} characters")
    if not isinstance(url, str) or len(url) > MOST_URL or (url and not re.fullmatch(_URL, url)):
        raise InvalidReply(f"url is {shown(url)}, no address of a web page")
    if vip is not None and not isinstance(vip, bool):
        raise InvalidReply(f"vip is {shown(vip)}, neither true nor false")
    return Contact(fit_name(name), number, url, _language(given.get("language")), vip)


def fit_name(name: str) -> str:
    """Return a name that can be shown on a phone and said in SIP and AGI."""
    text = name[: 4 * MOST_NAME].encode("utf-8", "replace").decode()
    return " ".join(re.sub(_UNFIT_IN_NAME, " ", text).split())[:MOST_NAME].strip()


def shown(value: object) -> str:
    """Return an untrusted value for a log: ASCII, one line, short."""
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
