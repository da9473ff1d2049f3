"""The filter that the preflight asks what is wrong with a PBX's inventory.

A pure function from the variables of the role `pbx` to a list of sentences, one a problem, each
naming the variable and the value. Secrets are never part of a sentence.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Any, Callable

STRATEGIES = (
    "ringall",
    "leastrecent",
    "fewestcalls",
    "random",
    "rrmemory",
    "rrordered",
    "linear",
    "wrandom",
)
MANAGER_CLASSES = (
    "system",
    "call",
    "log",
    "verbose",
    "agent",
    "user",
    "config",
    "command",
    "dtmf",
    "reporting",
    "cdr",
    "dialplan",
    "originate",
    "agi",
    "cc",
    "aoc",
    "test",
    "security",
    "message",
    "all",
)
SECRET_KEYS = ("secret", "pin", "pbx_cdr_pgsql_password", "pbx_realtime_password")
SECRET_LENGTH = 16

EXTENSION = re.compile(r"[0-9]{2,10}")
# Asterisk takes more, but its parts disagree: Queue() splits at a comma, queue_log at a bar, the
# CLI at a space, the recording's path at a slash, and 80 characters are cut without a word.
QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
OBJECT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
SYSTEM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
OPTION_KEY = re.compile(r"[a-z0-9][a-z0-9_-]*", re.IGNORECASE)
LANGUAGE = re.compile(r"[a-z]{2,3}([_-][A-Za-z_]+)?")
SOUND = re.compile(r"[A-Za-z0-9_./&-]+")
HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
CODEC = re.compile(r"[a-z0-9_]+")
EMAIL = re.compile(r"[^\s,;|<>\"]+@[^\s,;|<>\"]+")
CALLER_ID = re.compile(r"\+?[0-9]{1,20}")
DID = re.compile(r"any|\+?[0-9]{1,30}|_[+0-9XZN.!\[\]-]+")
OUTBOUND_PATTERN = re.compile(r"[0-9*#]{1,30}|_[0-9*#XZN.!\[\]-]+")
# What a name in a configuration file or a caller id must not carry.
NAME_FORBIDDEN = re.compile(r"[,\"<>|=\[\]&]")


class Problems:
    """The sentences found so far."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def add(self, where: str, value: Any, advice: str) -> None:
        """Note that the variable `where` has `value`, and what it should have."""
        self.found.append(f"{where} is {shown(value)}: {advice}")

    def secret(self, where: str, advice: str) -> None:
        """Note a problem of a secret, without its value."""
        self.found.append(f"{where} {advice}")

    def match(self, where: str, value: Any, pattern: re.Pattern[str], advice: str) -> bool:
        """Note a value that is not wholly of `pattern`."""
        plain = isinstance(value, (str, int)) and not isinstance(value, bool)
        if plain and pattern.fullmatch(str(value)):
            return True
        self.add(where, value, advice)
        return False

    def number(self, where: str, value: Any, low: int, high: int) -> None:
        """Note a value that is not a whole number from `low` to `high`."""
        try:
            good = not isinstance(value, bool) and low <= int(str(value)) <= high
        except ValueError:
            good = False
        if not good:
            self.add(where, value, f"give a whole number from {low} to {high}")


def shown(value: Any) -> str:
    """Return a value as a reader of the message can find it, on one line."""
    if isinstance(value, (str, bool, int, float)) or value is None:
        return repr(value if isinstance(value, (bool, int, float)) else str(value or ""))
    return f"a {type(value).__name__} of {len(value)}" if hasattr(value, "__len__") else repr(value)


def as_list(settings: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the mappings of a list variable, each with the name that a message uses for it."""
    given = settings.get(name) or []
    if not isinstance(given, (list, tuple)):
        return []
    return [(f"{name}[{i}]", item) for i, item in enumerate(given) if isinstance(item, dict)]


# --- every value --------------------------------------------------------------------------------


def every_text(where: str, value: Any, key: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (place, key, text) for each text inside `value`, keys included."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield f"a key of {where}", "", str(name)
            yield from every_text(f"{where}.{name}", item, str(name))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from every_text(f"{where}[{i}]", item, key)
    elif isinstance(value, str):
        yield where, key, str(value)


def unsafe_texts(settings: dict[str, Any], problems: Problems) -> None:
    """Find text that would end its line, start a comment or be evaluated by the dialplan."""
    for name, value in settings.items():
        for where, key, text in every_text(name, value, name):
            bad = [c for c in text if ord(c) < 32 or ord(c) == 127]
            if bad:
                what = f"holds a control character (code {ord(bad[0])})"
            elif ";" in text:
                what = "holds a semicolon, which starts a comment in Asterisk's files"
            elif "${" in text or "$[" in text:
                what = "holds ${ or $[, which the dialplan would evaluate"
            else:
                continue
            if key in SECRET_KEYS:
                problems.secret(where, f"{what}: take it out")
            else:
                problems.add(where, text, f"it {what}: take it out")


def option_keys(settings: dict[str, Any], problems: Problems) -> None:
    """Find options that are not written as `key: value`."""
    places = [("pbx_queue_general_options", settings.get("pbx_queue_general_options"))]
    for name in ("pbx_transports", "pbx_phones", "pbx_trunks", "pbx_queues"):
        places += [
            (f"{where}.options", item.get("options")) for where, item in as_list(settings, name)
        ]
    for where, options in places:
        for key in options or {}:
            problems.match(f"a key of {where}", key, OPTION_KEY, "give an option's name")
            if str(key) in ("type", "member", "template"):
                problems.add(f"a key of {where}", key, "this role writes that line itself")


# --- numbers that can be dialled ----------------------------------------------------------------


def numbers(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (place, number) for everything that a phone can dial inside the PBX."""
    for name in ("pbx_phones", "pbx_queues", "pbx_conferences"):
        for where, item in as_list(settings, name):
            if name != "pbx_queues" or "extension" in item:
                yield f"{where}.extension", item.get("extension")
    parking = settings.get("pbx_parking") or {}
    yield "pbx_parking.extension", parking.get("extension")
    try:
        first, last = int(parking.get("first", 0)), int(parking.get("last", -1))
    except (TypeError, ValueError):
        return
    for number in range(first, min(last, first + 999) + 1):
        yield "pbx_parking.first to last", number


def duplicates(
    pairs: Iterable[tuple[str, Any]], problems: Problems, same: Callable[[str], str] = str
) -> None:
    """Find values that two places have."""
    seen: dict[str, str] = {}
    for where, value in pairs:
        text = same(str(value))
        if text in seen:
            problems.add(where, value, f"{seen[text]} has it already; give each its own")
        else:
            seen[text] = where


def dialled_numbers(settings: dict[str, Any], problems: Problems) -> None:
    """Check that every number is one, and belongs to one thing."""
    everything = list(numbers(settings))
    for where, number in everything:
        problems.match(where, number, EXTENSION, "give two to ten digits")
    duplicates(everything, problems)
    problems.match(
        "pbx_voicemail_extension",
        settings.get("pbx_voicemail_extension"),
        re.compile(r"\*[0-9*]{1,6}"),
        "give a star and up to six digits, so that no phone can have it",
    )
    parking = settings.get("pbx_parking") or {}
    try:
        backwards = int(parking.get("first")) > int(parking.get("last"))
    except (TypeError, ValueError):
        backwards = True
    if backwards:
        problems.add("pbx_parking.last", parking.get("last"), "it must not be below first")


def boxes(settings: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return (place, box) for every voicemail box, those of the phones included."""
    own = [(f"{w}.box", b.get("box")) for w, b in as_list(settings, "pbx_voicemail_boxes")]
    phones = [
        (f"{w}.extension", p.get("extension"))
        for w, p in as_list(settings, "pbx_phones")
        if p.get("voicemail", True)
    ]
    return phones + own


def voicemail(settings: dict[str, Any], problems: Problems) -> None:
    """Check the boxes, and that the default one exists."""
    known = boxes(settings)
    for where, box in known:
        if where.endswith(".box"):
            problems.match(where, box, EXTENSION, "give two to ten digits")
    duplicates(known, problems)
    default = str(settings.get("pbx_default_voicemail"))
    if default not in {str(box) for _, box in known}:
        problems.add("pbx_default_voicemail", default, "there is no such voicemail box")
    for name in ("pbx_voicemail_boxes", "pbx_phones"):
        for where, item in as_list(settings, name):
            named(where, item, problems)
            pin(where, item, problems)
            if item.get("email"):
                problems.match(f"{where}.email", item["email"], EMAIL, "give one mail address")
    problems.match(
        "pbx_voicemail_from", settings.get("pbx_voicemail_from"), EMAIL, "give one mail address"
    )


def named(where: str, item: dict[str, Any], problems: Problems) -> None:
    """Check a name that people read: on a display, in a directory."""
    name = item.get("name")
    if name is not None and (NAME_FORBIDDEN.search(str(name)) or len(str(name)) > 79):
        problems.add(f"{where}.name", name, 'at most 79 characters, and none of , " < > | = [ ] &')


def pin(where: str, item: dict[str, Any], problems: Problems) -> None:
    """Check digits that somebody types on a phone."""
    given = item.get("pin")
    if given is not None and not re.fullmatch(r"[0-9]{4,12}", str(given)):
        problems.secret(f"{where}.pin", "must be four to twelve digits")


def secret(where: str, given: Any, least: int, problems: Problems) -> None:
    """Check a secret that the inventory gives."""
    if not isinstance(given, str) or not given:
        problems.secret(
            where, "is empty or no text: give it, or leave it out to have one generated"
        )
    elif len(given) < least:
        problems.secret(where, f"has {len(given)} characters: give at least {least}")
    elif not re.fullmatch(r"[!-~]+", given):
        problems.secret(where, "holds a space or a character outside ASCII: take it out")


# --- phones and trunks --------------------------------------------------------------------------


def phones(settings: dict[str, Any], problems: Problems) -> None:
    """Check what is a phone's own."""
    for where, phone in as_list(settings, "pbx_phones"):
        if "secret" in phone:
            secret(f"{where}.secret", phone["secret"], SECRET_LENGTH, problems)
        if "caller_id" in phone:
            problems.match(
                f"{where}.caller_id", phone["caller_id"], CALLER_ID, "give digits, + before them"
            )
        if "max_contacts" in phone:
            problems.number(f"{where}.max_contacts", phone["max_contacts"], 1, 20)
        named_transports = {str(t.get("name")): t for _, t in as_list(settings, "pbx_transports")}
        transport = named_transports.get(str(phone.get("transport")), {})
        if "transport" in phone and not transport:
            problems.add(
                f"{where}.transport",
                phone["transport"],
                f"pbx_transports has {', '.join(named_transports)}; give one of these names",
            )
        encryption(where, phone, transport.get("protocol"), problems)


def encryption(where: str, item: dict[str, Any], protocol: Any, problems: Problems) -> None:
    """Check that who encrypts audio does not send its keys as they are: SDES puts them into SIP."""
    if "media_encryption" in item and protocol != "tls":
        problems.add(
            f"{where}.media_encryption",
            item["media_encryption"],
            f"its keys would go over the network as they are; give {where}.transport too, with TLS",
        )


def trunks(settings: dict[str, Any], problems: Problems) -> None:
    """Check the trunks: a name, a host, addresses, and a login that is whole."""
    given = as_list(settings, "pbx_trunks")
    duplicates(
        [(f"{where}.name", trunk.get("name")) for where, trunk in given], problems, str.lower
    )
    protocols = {t.get("protocol") for _, t in as_list(settings, "pbx_transports")}
    for where, trunk in given:
        name = trunk.get("name")
        problems.match(f"{where}.name", name, OBJECT_NAME, "give letters, digits, _ and -")
        if str(name).lower() in ("phone", "global", "system") or str(name).startswith("transport-"):
            problems.add(
                f"{where}.name", name, "pjsip.conf has a section of that name; choose another"
            )
        if not address(trunk.get("host")):
            problems.match(
                f"{where}.host", trunk.get("host"), HOST, "give the provider's host or address"
            )
        if "port" in trunk:
            problems.number(f"{where}.port", trunk["port"], 1, 65535)
        protocol = trunk.get("transport", "udp")
        if protocol not in protocols:
            problems.add(
                f"{where}.transport",
                protocol,
                "pbx_transports has none with that protocol, so that no call could be sent",
            )
        encryption(where, trunk, protocol, problems)
        for i, source in enumerate(trunk.get("match") or []):
            if not network(source):
                problems.match(f"{where}.match[{i}]", source, HOST, "give an address or a network")
        if trunk.get("username") is not None:
            problems.match(
                f"{where}.username", trunk["username"], re.compile(r"[^\s@:,]+"), "give one word"
            )
            secret(f"{where}.secret", trunk.get("secret"), 8, problems)
        elif trunk.get("register"):
            problems.add(
                f"{where}.username", None, "a trunk that registers needs username and secret"
            )
        codecs(f"{where}.codecs", trunk.get("codecs", ["alaw"]), problems)


def codecs(where: str, given: Any, problems: Problems) -> None:
    """Check a list of codecs: named ones, never `all`."""
    if not isinstance(given, (list, tuple)) or not given:
        problems.add(where, given, "list at least one codec")
        return
    for i, codec in enumerate(given):
        if str(codec) == "all" or not CODEC.fullmatch(str(codec)):
            problems.add(f"{where}[{i}]", codec, "name one codec, for example alaw")


def address(text: Any) -> bool:
    """Return whether a text is one address."""
    try:
        ipaddress.ip_address(str(text))
    except ValueError:
        return False
    return True


def network(text: Any) -> bool:
    """Return whether a text is an address or a network."""
    try:
        ipaddress.ip_network(str(text), strict=False)
    except ValueError:
        return False
    return True


def networks(where: str, given: Any, problems: Problems) -> None:
    """Check a list of addresses and networks."""
    for i, item in enumerate(given or []):
        if not network(item):
            problems.add(f"{where}[{i}]", item, "give an address or a network, as 192.0.2.0/24")


def transports(settings: dict[str, Any], problems: Problems) -> None:
    """Check what SIP listens on."""
    given = as_list(settings, "pbx_transports")
    if not given:
        problems.add("pbx_transports", settings.get("pbx_transports"), "SIP needs at least one")
    duplicates([(f"{where}.name", t.get("name")) for where, t in given], problems)
    for where, transport in given:
        problems.match(f"{where}.name", transport.get("name"), OBJECT_NAME, "give a short name")
        if transport.get("protocol") not in ("udp", "tcp", "tls"):
            problems.add(f"{where}.protocol", transport.get("protocol"), "it is udp, tcp or tls")
        bind = re.fullmatch(r"\[?(.+?)\]?(:[0-9]{1,5})?", str(transport.get("bind")))
        if not bind or not (network(transport.get("bind")) or network(bind.group(1))):
            problems.add(f"{where}.bind", transport.get("bind"), "give ADDRESS:PORT")
        transport_files(where, transport, problems)


def transport_files(where: str, transport: dict[str, Any], problems: Problems) -> None:
    """Check the files that a transport names on the PBX: a certificate comes with its key."""
    for key in ("cert_file", "priv_key_file", "ca_list_file"):
        if key in transport and not str(transport[key]).startswith("/"):
            problems.add(f"{where}.{key}", transport[key], "give the file's full path")
    for key, other in (("cert_file", "priv_key_file"), ("priv_key_file", "cert_file")):
        if key in transport and other not in transport:
            problems.add(f"{where}.{other}", None, f"give it with {key}, or neither of them")


# --- queues -------------------------------------------------------------------------------------

DESTINATIONS = (
    "give default, queue:NAME, extension:NUMBER, voicemail:BOX, conference:NUMBER, hangup, or"
    " realtime:NUMBER with pbx_realtime"
)
QUEUE_NUMBERS = {
    "timeout": (1, 3600),
    "retry": (0, 3600),
    "maxlen": (0, 100000),
    "weight": (0, 10000),
    "wrapuptime": (0, 86400),
    "servicelevel": (0, 86400),
    "announce_frequency": (0, 86400),
    "periodic_announce_frequency": (0, 86400),
    "max_wait": (1, 86400),
}
QUEUE_WORDS = (
    "strategy",
    "musicclass",
    "joinempty",
    "leavewhenempty",
    "announce_holdtime",
    "announce_position",
    "periodic_announce",
    "ringinuse",
)


def queues(settings: dict[str, Any], problems: Problems) -> None:
    """Check the queues: names, strategies, numbers, members and what follows a queue."""
    given = as_list(settings, "pbx_queues")
    # app_queue compares names without regard to case.
    duplicates(
        [(f"{where}.name", queue.get("name")) for where, queue in given], problems, str.lower
    )
    extensions = {str(phone.get("extension")) for _, phone in as_list(settings, "pbx_phones")}
    for where, queue in given:
        queue_itself(where, queue, problems)
        members(where, queue.get("members") or [], extensions, problems)
        if "overflow" in queue:
            destination(f"{where}.overflow", queue["overflow"], settings, problems)
    overflow_rings(given, problems)
    names = {str(queue.get("name")) for _, queue in given}
    if str(settings.get("pbx_default_queue")) not in names:
        problems.add(
            "pbx_default_queue", settings.get("pbx_default_queue"), "there is no such queue"
        )


def overflow_rings(given: list[tuple[str, dict[str, Any]]], problems: Problems) -> None:
    """Find queues whose overflow leads back to them: a caller would never leave."""
    after = {
        str(queue.get("name")): str(queue["overflow"]).partition("queue:")[2]
        for _, queue in given
        if "overflow" in queue
    }
    known: set[str] = set()
    for where, queue in given:
        path = [str(queue.get("name"))]
        while after.get(path[-1]) and after[path[-1]] not in path:
            path.append(after[path[-1]])
        if after.get(path[-1]) == path[0] and not known & set(path):
            known |= set(path)
            problems.add(
                f"{where}.overflow",
                queue.get("overflow"),
                f"it leads back to {path[0]}, so that a caller goes round in a ring",
            )


def queue_itself(where: str, queue: dict[str, Any], problems: Problems) -> None:
    """Check a queue's name and its options."""
    name = queue.get("name")
    problems.match(
        f"{where}.name",
        name,
        QUEUE_NAME,
        "give up to 64 letters, digits, dots, hyphens and underscores, a letter or digit first",
    )
    if str(name).lower() == "general":
        problems.add(f"{where}.name", name, "queues.conf keeps its own settings under that name")
    strategy = queue.get("strategy", "ringall")
    if strategy not in STRATEGIES:
        problems.add(f"{where}.strategy", strategy, f"app_queue knows {', '.join(STRATEGIES)}")
    for key, (low, high) in QUEUE_NUMBERS.items():
        if key in queue:
            problems.number(f"{where}.{key}", queue[key], low, high)
    for key in queue.get("options") or {}:
        plain = str(key).lower().replace("-", "_")
        if plain in QUEUE_NUMBERS or plain in QUEUE_WORDS:
            problems.add(f"a key of {where}.options", key, f"write it as {where}.{plain}")


def members(where: str, given: Any, extensions: set[str], problems: Problems) -> None:
    """Check that a queue's members are phones, each once."""
    numbers_seen = []
    for i, item in enumerate(given):
        member = item if isinstance(item, dict) else {"extension": item}
        place = f"{where}.members[{i}]"
        numbers_seen.append((place, member.get("extension")))
        if str(member.get("extension")) not in extensions:
            problems.add(
                place, member.get("extension"), "no phone in pbx_phones has that extension"
            )
        if "penalty" in member:
            problems.number(f"{place}.penalty", member["penalty"], 0, 1000)
        named(place, member, problems)
    duplicates(numbers_seen, problems)


# --- routes -------------------------------------------------------------------------------------


def destination(where: str, value: Any, settings: dict[str, Any], problems: Problems) -> None:
    """Check that a route leads somewhere."""
    kind, _, name = str(value).partition(":")
    if value in ("default", "hangup"):
        return
    if kind == "realtime":
        number_in_database(where, value, name, settings, problems)
        return
    known = {
        "queue": ("pbx_queues", "name"),
        "extension": ("pbx_phones", "extension"),
        "conference": ("pbx_conferences", "extension"),
    }
    if kind == "voicemail":
        names = {str(box) for _, box in boxes(settings)}
    elif kind in known:
        variable, key = known[kind]
        names = {str(item.get(key)) for _, item in as_list(settings, variable)}
    else:
        problems.add(
            where,
            value,
            DESTINATIONS,
        )
        return
    if name not in names:
        problems.add(where, value, f"there is no {kind} {shown(name)}")


def number_in_database(
    where: str, value: Any, number: str, settings: dict[str, Any], problems: Problems
) -> None:
    """Check a number that the database decides about."""
    if not settings.get("pbx_realtime"):
        problems.add(where, value, "numbers in the database need pbx_realtime: true")
    elif not EXTENSION.fullmatch(number):
        problems.add(where, value, "give two to ten digits after realtime:")


def brackets(pattern: str) -> bool:
    """Return whether the character sets of a dial pattern are closed and not empty."""
    return not re.search(r"[\[\]]", re.sub(r"\[[^\[\]]+\]", "", pattern))


def wildcards(pattern: str) -> bool:
    """Return whether . and ! stand only at a dial pattern's end."""
    return not re.search(r"[.!].", pattern)


def routes(settings: dict[str, Any], problems: Problems) -> None:
    """Check the ways in and out."""
    given = as_list(settings, "pbx_inbound_routes")
    duplicates([(f"{where}.did", route.get("did")) for where, route in given], problems)
    for where, route in given:
        did = str(route.get("did"))
        if not (DID.fullmatch(did) and brackets(did) and wildcards(did)) or did in ("_.", "_!"):
            problems.add(
                f"{where}.did", route.get("did"), "give a number, a pattern as _4930X., or any"
            )
        destination(f"{where}.to", route.get("to"), settings, problems)
    given = as_list(settings, "pbx_outbound_routes")
    duplicates([(f"{where}.pattern", route.get("pattern")) for where, route in given], problems)
    names = {str(trunk.get("name")) for _, trunk in as_list(settings, "pbx_trunks")}
    for where, route in given:
        outbound_route(where, route, names, problems)


def outbound_route(where: str, route: dict[str, Any], names: set[str], problems: Problems) -> None:
    """Check one way out."""
    pattern = str(route.get("pattern"))
    if not (OUTBOUND_PATTERN.fullmatch(pattern) and brackets(pattern) and wildcards(pattern)):
        problems.add(
            f"{where}.pattern", route.get("pattern"), "give a number, or a pattern as _0Z."
        )
    elif pattern[1:2] in (".", "!"):
        problems.add(
            f"{where}.pattern", pattern, "it lets phones dial anything; give its first digits"
        )
    if str(route.get("trunk")) not in names:
        problems.add(f"{where}.trunk", route.get("trunk"), "no trunk in pbx_trunks has that name")
    if "strip" in route:
        problems.number(f"{where}.strip", route["strip"], 0, 20)
    if "prepend" in route:
        problems.match(
            f"{where}.prepend", route["prepend"], re.compile(r"\+?[0-9]{0,20}"), "give digits"
        )
    if route.get("caller_id") is not None:
        problems.match(
            f"{where}.caller_id", route["caller_id"], CALLER_ID, "give digits, + before them"
        )


# --- the rest -----------------------------------------------------------------------------------


def conferences(settings: dict[str, Any], problems: Problems) -> None:
    """Check the rooms."""
    for where, room in as_list(settings, "pbx_conferences"):
        named(where, room, problems)
        pin(where, room, problems)
        if "max_members" in room:
            problems.number(f"{where}.max_members", room["max_members"], 1, 10000)


def manager(settings: dict[str, Any], problems: Problems) -> None:
    """Check the AMI logins."""
    users = settings.get("pbx_manager_users")
    for name, user in (users if isinstance(users, dict) else {}).items():
        where = f"pbx_manager_users.{name}"
        problems.match(
            "a key of pbx_manager_users", name, OBJECT_NAME, "give letters, digits, _ and -"
        )
        if str(name).lower() == "general":
            problems.add(
                "a key of pbx_manager_users", name, "manager.conf keeps its settings there"
            )
        if not isinstance(user, dict):
            problems.add(where, user, "give a mapping with read, write and permit")
            continue
        if "secret" in user:
            secret(f"{where}.secret", user["secret"], SECRET_LENGTH, problems)
        for key in ("read", "write"):
            for i, name_of_class in enumerate(user.get(key) or []):
                if name_of_class not in MANAGER_CLASSES:
                    problems.add(
                        f"{where}.{key}[{i}]",
                        name_of_class,
                        f"the manager interface knows {', '.join(MANAGER_CLASSES)}",
                    )
        if not user.get("permit"):
            problems.add(
                f"{where}.permit", user.get("permit"), "nobody could log in; list networks"
            )
        networks(f"{where}.permit", user.get("permit"), problems)
    manager_sockets(settings, problems)


def manager_sockets(settings: dict[str, Any], problems: Problems) -> None:
    """Check where AMI listens: beyond loopback with TLS only."""
    for name in ("pbx_manager_port", "pbx_manager_tls_port"):
        problems.number(name, settings.get(name), 1024, 65535)
    plain, tls = settings.get("pbx_manager_address"), settings.get("pbx_manager_tls_address")
    if not address(plain) or not ipaddress.ip_address(str(plain)).is_loopback:
        problems.add(
            "pbx_manager_address",
            plain,
            "give 127.0.0.1 or ::1: without TLS, secrets would go over the network as they are;"
            " other machines reach pbx_manager_tls_address",
        )
    if not tls:
        return
    if not address(tls):
        problems.add("pbx_manager_tls_address", tls, "give an address of this host, or 0.0.0.0")
    if str(settings.get("pbx_manager_tls_port")) == str(settings.get("pbx_manager_port")):
        problems.add(
            "pbx_manager_tls_port", settings["pbx_manager_tls_port"], "pbx_manager_port has it"
        )


def metrics(settings: dict[str, Any], problems: Problems) -> None:
    """Check where Asterisk's own metrics are served: beyond loopback with TLS and a user only."""
    listens = settings.get("pbx_prometheus_address")
    if not listens:
        return
    problems.number("pbx_prometheus_port", settings.get("pbx_prometheus_port"), 1024, 65535)
    user = settings.get("pbx_prometheus_username")
    if user:
        problems.match(
            "pbx_prometheus_username", user, OBJECT_NAME, "give letters, digits, _ and -"
        )
        password = settings.get("pbx_prometheus_password")
        secret("pbx_prometheus_password", password, SECRET_LENGTH, problems)
    if not address(listens):
        problems.add("pbx_prometheus_address", listens, "give an address of this host")
    elif not (
        ipaddress.ip_address(listens).is_loopback or (settings.get("pbx_prometheus_tls") and user)
    ):
        problems.add(
            "pbx_prometheus_address",
            listens,
            "beyond loopback it needs pbx_prometheus_tls: true and pbx_prometheus_username",
        )


def simple_values(settings: dict[str, Any], problems: Problems) -> None:
    """Check the variables that hold one value."""
    word = re.compile(r"[^\s=]+")
    for name, pattern, advice in (
        (
            "pbx_system_name",
            SYSTEM_NAME,
            "give up to 63 letters, digits, dots, hyphens, underscores",
        ),
        ("pbx_language", LANGUAGE, "give a language as en, en_GB or fr"),
        ("pbx_default_greeting", SOUND, "give the names of sound files, joined by &"),
        ("pbx_recording_format", re.compile("wav|wav49|gsm"), "it is wav, wav49 or gsm"),
        ("pbx_cdr_pgsql_host", word, "give a host, an address or a socket's directory"),
        ("pbx_cdr_pgsql_database", word, "give one word"),
        ("pbx_cdr_pgsql_user", word, "give one word"),
    ):
        problems.match(name, settings.get(name), pattern, advice)
    password = settings.get("pbx_cdr_pgsql_password")
    if password:
        secret("pbx_cdr_pgsql_password", password, 8, problems)
    external = settings.get("pbx_external_address")
    if external:
        problems.match("pbx_external_address", external, HOST, "give a host or an address")
    networks("pbx_local_networks", settings.get("pbx_local_networks"), problems)
    networks("pbx_phone_networks", settings.get("pbx_phone_networks"), problems)
    codecs("pbx_codecs", settings.get("pbx_codecs"), problems)


def database(settings: dict[str, Any], problems: Problems) -> None:
    """Check that call records go to another host over TLS, unless the inventory says otherwise."""
    host, mode = str(settings.get("pbx_cdr_pgsql_host")), settings.get("pbx_cdr_pgsql_sslmode")
    here = host in ("127.0.0.1", "::1", "localhost") or host.startswith("/")
    if mode in ("allow", "prefer") and not here:
        problems.add(
            "pbx_cdr_pgsql_sslmode",
            mode,
            f"the database is on another host ({host}), which call records would go to in plain"
            " text without a word where TLS fails; give verify-full, or disable where the network"
            " between the two is trusted",
        )


def realtime(settings: dict[str, Any], problems: Problems) -> None:
    """Check that it is known where the tables of realtime are to be made."""
    if settings.get("pbx_realtime_password"):
        secret("pbx_realtime_password", settings["pbx_realtime_password"], SECRET_LENGTH, problems)
    if settings.get("pbx_realtime") and not settings.get("pbx_realtime_database_host"):
        problems.add(
            "pbx_realtime_database_host",
            "",
            f"the database is on another host ({settings.get('pbx_cdr_pgsql_host')}); give its name"
            " in the inventory, where the tables are made",
        )


def shapes(settings: dict[str, Any], problems: Problems) -> None:
    """Check that lists are lists of mappings."""
    for name in (
        "pbx_transports",
        "pbx_phones",
        "pbx_trunks",
        "pbx_queues",
        "pbx_inbound_routes",
        "pbx_outbound_routes",
        "pbx_conferences",
        "pbx_voicemail_boxes",
    ):
        given = settings.get(name)
        if not isinstance(given, (list, tuple)):
            problems.add(name, given, "give a list")
            continue
        for i, item in enumerate(given):
            if not isinstance(item, dict):
                problems.add(f"{name}[{i}]", item, "give a mapping, as {key: value}")
    for name in ("pbx_parking", "pbx_manager_users", "pbx_queue_general_options"):
        if not isinstance(settings.get(name), dict):
            problems.add(name, settings.get(name), "give a mapping")


def pbx_problems(settings: dict[str, Any]) -> list[str]:
    """Return a sentence for each thing that Asterisk could not take, or should not.

    `settings` has the role's variables by their names. An empty list: the inventory is good.
    """
    problems = Problems()
    shapes(settings, problems)
    if problems.found:
        return problems.found
    for check in (
        unsafe_texts,
        option_keys,
        simple_values,
        database,
        realtime,
        transports,
        phones,
        trunks,
        dialled_numbers,
        voicemail,
        queues,
        routes,
        conferences,
        manager,
        metrics,
    ):
        check(settings, problems)
    return problems.found


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {"pbx_problems": pbx_problems}
