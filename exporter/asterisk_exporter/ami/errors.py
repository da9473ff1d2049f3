"""What can go wrong between this program and AMI, told apart.

Every message says what happened, what was expected, and what to look at. None of them
carries a secret or a reply's text beyond Asterisk's own one-line ``Message``.
"""

from __future__ import annotations


class AmiError(Exception):
    """Base of all AMI errors. ``kind`` is a short stable name for programs and tests."""

    kind = "ami_error"
    #: Whether the connection is of no more use, not only one answer.
    ends_connection = False


class UnsafeActionError(AmiError):
    """An action was refused here, before a byte was sent."""

    kind = "unsafe_action"


class ConnectionFailedError(AmiError):
    """No TCP connection could be made, for a reason the system names."""

    kind = "connection_failed"

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(
            f"cannot connect to {target}: {reason}. Expected Asterisk's manager interface there. "
            "Look at the host name and port, the route and the firewall between."
        )


class RefusedError(AmiError):
    """The host answered, and nothing listens on the port."""

    kind = "refused"

    def __init__(self, target: str) -> None:
        super().__init__(
            f"nothing listens on {target} (connection refused). Expected Asterisk's manager "
            "interface there. Look at: systemctl status asterisk; and enabled, bindaddr and port "
            'in [general] of manager.conf (asterisk -rx "manager show settings").'
        )


class UnreachableError(ConnectionFailedError):
    """The host does not resolve or no route leads to it."""

    kind = "unreachable"


class ConnectTimeoutError(AmiError):
    """The TCP connection did not come up within the deadline."""

    kind = "connect_timeout"

    def __init__(self, target: str, seconds: float) -> None:
        super().__init__(
            f"no connection to {target} within {seconds:.1f} s: neither accepted nor refused. "
            "Look at whether the host is up, and at a firewall that drops packets on the way."
        )


class ClosedBeforeBannerError(AmiError):
    """The peer accepted and closed without a word."""

    kind = "closed_before_banner"

    def __init__(self, target: str) -> None:
        super().__init__(
            f"{target} accepted the connection and closed it before its banner. Expected "
            "'Asterisk Call Manager/...'. Asterisk does so above authlimit (too many connections "
            "that have not logged in; manager.conf, default 50) and while it stops or starts. Look "
            'at: asterisk -rx "manager show connected", asterisk -rx "core show uptime", and a '
            "proxy in between."
        )


class NotAmiError(AmiError):
    """Something else than AMI answers on that port."""

    kind = "not_ami"

    def __init__(self, target: str, got: bytes) -> None:
        shown = got[:60].decode("ascii", "backslashreplace")
        shown = "".join(c if c.isprintable() else "." for c in shown)
        super().__init__(
            f"{target} is not a manager interface: it began with {shown!r} where "
            "'Asterisk Call Manager/...' was expected. Look at the port (AMI: 5038, with TLS 5039)."
        )


class NoAnswerError(AmiError):
    """The peer is connected and silent, or too slow for the deadline."""

    kind = "no_answer"
    ends_connection = True

    def __init__(self, target: str, waiting_for: str, seconds: float) -> None:
        super().__init__(
            f"{target} did not finish {waiting_for} within {seconds:.1f} s. Look at the machine's "
            'load, at whether Asterisk hangs (asterisk -rx "core show uptime"), and at the '
            "timeout configured here."
        )


class ConnectionLostError(AmiError):
    """An established connection ended while an answer was due."""

    kind = "connection_lost"
    ends_connection = True

    def __init__(self, target: str, waiting_for: str, reason: str = "closed by Asterisk") -> None:
        super().__init__(
            f"the connection to {target} ended during {waiting_for} ({reason}). Expected a "
            "complete answer. Look at whether Asterisk was restarted or crashed (journalctl -u "
            "asterisk), and at writetimeout in manager.conf."
        )


class MalformedReplyError(AmiError):
    """An answer came and makes no sense."""

    kind = "malformed_reply"


class MalformedStreamError(MalformedReplyError):
    """The peer's bytes are not AMI messages."""

    ends_connection = True


class LoginRejectedError(AmiError):
    """Asterisk refused the login."""

    kind = "login_rejected"

    def __init__(self, target: str, username: str, said: str, source: str | None) -> None:
        came_from = f" This client came from {source}." if source else ""
        super().__init__(
            f"{target} refused the login of user {username!r}: {said!r}. Asterisk gives this one "
            "answer to a wrong secret, to an unknown user and to an address outside the user's "
            f"deny/permit list.{came_from} Look at the secret in manager.conf, at asterisk -rx "
            f'"manager show user {username}" (does it exist, has it an ACL), and at Asterisk\'s '
            "log, which says 'failed to pass IP ACL' when it is the address."
        )


class PermissionDeniedError(AmiError):
    """The login lacks the class that the action needs."""

    kind = "permission_denied"

    def __init__(self, action: str, username: str, needs: str = "reporting") -> None:
        super().__init__(
            f"AMI user {username!r} may not run {action}. Expected write = {needs}. Look at: "
            f'asterisk -rx "manager show user {username}" and '
            f'asterisk -rx "manager show command {action}".'
        )


class UnknownActionError(AmiError):
    """Asterisk has no such action: the module that brings it is not loaded."""

    kind = "unknown_action"

    def __init__(self, action: str) -> None:
        super().__init__(
            f"this Asterisk does not know the action {action}: the module that brings it is not "
            f'loaded. Look at asterisk -rx "module show" and at modules.conf.'
        )


class ActionFailedError(AmiError):
    """Asterisk answered ``Response: Error`` for another reason."""

    kind = "action_failed"

    def __init__(self, action: str, said: str) -> None:
        super().__init__(f"Asterisk answered {action} with an error: {said!r}.")


class TlsError(AmiError):
    """The TLS handshake or the check of the certificate failed."""

    kind = "tls"
