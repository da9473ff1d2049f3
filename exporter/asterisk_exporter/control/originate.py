"""A call between a phone of ours and an extension.

The phone rings first; when it answers, its channel runs the dialplan at the extension, as if the
phone had dialled it. Never Originate's Application and Data, which run anything.
"""

from __future__ import annotations

from dataclasses import dataclass

from asterisk_exporter.ami.client import Action
from asterisk_exporter.ami.protocol import Message
from asterisk_exporter.control import values
from asterisk_exporter.control.channels import require_device
from asterisk_exporter.control.errors import RefusedError
from asterisk_exporter.control.session import ControlSession

DEFAULT_RING_SECONDS = 30
#: Reason of OriginateResponse: control frames of Asterisk (include/asterisk/frame.h); 0 when no
#: call could be made at all.
REASONS = {
    "0": "no call could be made: is the phone registered, may it be called?",
    "1": "it was ended before anybody answered",
    "3": "it rang and nobody answered",
    "5": "the phone is busy",
    "8": "congestion: the phone or the way to it refused",
}


@dataclass(frozen=True)
class Originated:
    """The phone has answered: its channel, which the dialplan has at ``extension`` now."""

    channel: str
    uniqueid: str
    context: str
    extension: str


def action(
    phone: str, extension: str, context: str, ring_seconds: int, caller_id: str | None
) -> Action:
    """Return the action; every value has been checked."""
    fields = [
        ("Channel", f"PJSIP/{phone}"),
        ("Context", context),
        ("Exten", extension),
        ("Priority", "1"),
        ("Timeout", str(ring_seconds * 1000)),
        ("Async", "true"),
    ]
    if caller_id is not None:
        fields.append(("CallerID", caller_id))
    return Action("Originate", tuple(fields), "originate")


def outcome(message: Message, action_id: str) -> Originated | None:
    """Return the answered call when the event is the answer to our action.

    Raises RefusedError when it was not answered.
    """
    if message.get("Event") != "OriginateResponse" or message.get("ActionID") != action_id:
        return None
    if message.get("Response") != "Success":
        reason = message.get("Reason")
        said = REASONS.get(reason, "Asterisk does not say why")
        raise RefusedError(f"{message.get('Channel')} did not answer (reason {reason}): {said}.")
    return Originated(
        message.get("Channel"),
        message.get("Uniqueid"),
        message.get("Context"),
        message.get("Exten"),
    )


def originate(  # noqa: PLR0913 - one parameter a field
    session: ControlSession,
    phone: str,
    extension: str,
    *,
    context: str | None = None,
    ring_seconds: int = DEFAULT_RING_SECONDS,
    caller_id: str | None = None,
) -> Originated:
    """Call ``phone`` (``101``), and let it dial ``extension`` when it has answered.

    Returns when the phone has answered. ``caller_id``: what the phone shows and the extension is
    shown, a number or ``Alice <101>``; None: the phone's own. Raises AmiError and ControlError.
    """
    request = action(
        values.endpoint(phone),
        values.extension(extension),
        values.context(context, session.contexts),
        values.number("seconds to ring", ring_seconds, 1, 300),
        None if caller_id is None else values.caller_id(caller_id),
    )
    require_device(session, f"PJSIP/{values.endpoint(phone)}", session.deadline())
    deadline = session.deadline(ring_seconds)
    with session.events("call", deadline):
        action_id = session.change(request, deadline).message().get("ActionID")
        return session.wait_for(
            lambda message: outcome(message, action_id),
            deadline,
            f"OriginateResponse for PJSIP/{values.endpoint(phone)}",
        )
