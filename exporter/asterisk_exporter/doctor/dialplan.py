"""The dialplan that Asterisk has in memory, as AMI tells: it may be on another host."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from asterisk_exporter import config
from asterisk_exporter.ami.client import Action, AmiClient, Reply
from asterisk_exporter.ami.errors import ActionFailedError
from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.doctor.finding import Finding, critical, not_set_up, ok
from asterisk_exporter.doctor.pbx import Pbx

_SHOW = "ShowDialPlan"


def contexts(pbx: Pbx) -> Iterator[Finding]:
    """Ask for each context that calls need."""
    wanted = list(dict.fromkeys(pbx.settings.doctor.contexts))
    if not wanted:
        yield not_set_up("doctor.contexts (asterisk_exporter_doctor_contexts) names none")
        return
    deadline = pbx.deadline()
    # this action for this connection alone: the exporter itself never sends it
    target = config.target(pbx.settings, pbx.path)
    client = AmiClient.connect(target, deadline, allowed=frozenset({_SHOW}))
    try:
        replies = [client.ask(Action(_SHOW, (("Context", name),)), deadline) for name in wanted]
    finally:
        client.close()
    yield from judged(wanted, replies)


def judged(names: Sequence[str], replies: Sequence[Reply]) -> Iterator[Finding]:
    """Return what is missing. Raises AmiError where Asterisk did not say."""
    loaded, entries = [], 0
    for name, reply in zip(names, replies):
        if _is_missing(reply):
            yield critical(
                f"Asterisk has no context {name}: calls that need it are lost",
                "Type: asterisk -rx 'dialplan reload'. If it is still missing, find it with "
                rf"grep -rn '\[{name}\]' /etc/asterisk, and read what "
                "/var/log/asterisk/messages.log says of the reload.",
            )
            continue
        found = [item for item in reply.events("ListDialplan") if _leads(item)]
        if not found:
            yield critical(
                f"context {name} is empty: no number leads anywhere in it",
                f"Look at what the files in /etc/asterisk have below [{name}], then type: "
                "asterisk -rx 'dialplan reload'",
            )
            continue
        loaded.append(name)
        entries += len(found)
    if loaded:
        yield ok(f"{', '.join(loaded)}: {entries} entries")


def _leads(item: Message) -> bool:
    """Say whether it is more than the context's own name."""
    return any(item.get(key) for key in ("Extension", "IncludeContext", "Switch"))


def _is_missing(reply: Reply) -> bool:
    """Say whether there is no such context; ``manager_show_dialplan`` of pbx.c has the words."""
    error = reply.error
    return isinstance(error, ActionFailedError) and "did not find context" in str(error).lower()
