"""Filters of the role cdr_database; they run on the controller."""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress

ITERATIONS = 4096  # what PostgreSQL itself uses (scram_iterations)


def scram_verifier(password: str) -> str:
    """Return what PostgreSQL stores in pg_authid for this password (RFC 5803, SCRAM-SHA-256).

    The server is sent this and never the password. The salt is derived from the
    password, so that the same password always gives the same verifier and a second
    run can see that nothing changed; a generated password is unique, so its salt is.
    The password must be printable ASCII, for which SASLprep changes nothing.
    """
    secret = password.encode("ascii")
    salt = hmac.digest(secret, b"asterisk-appliance scram salt", "sha256")[:16]
    salted = hashlib.pbkdf2_hmac("sha256", secret, salt, ITERATIONS)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode("ascii") for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${ITERATIONS}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def why_no_address(text: str) -> str:
    """Return why the text is no address on which PostgreSQL could listen, or nothing."""
    if text in ("*", "localhost"):
        return ""
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        return str(error)
    return ""


def why_no_network(text: str) -> str:
    """Return why the text is no network with a prefix length, or nothing."""
    if "/" not in text:
        return "it has no prefix length"
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        return str(error)
    return ""


def address_problems(listen_addresses: list[str], clients: list[str]) -> list[str]:
    """Return one sentence for each address or network that PostgreSQL could not use."""
    return [
        *(
            f"cdr_database_listen_addresses: '{address}' is no address of this host"
            f" ({why_no_address(address)}); write one such as 192.0.2.10, or '*' for all."
            for address in listen_addresses
            if why_no_address(address)
        ),
        *(
            f"cdr_database_clients: '{network}' is no network ({why_no_network(network)}); write"
            " 192.0.2.11/32 for one machine or 192.0.2.0/24 for all of a network."
            for network in clients
            if why_no_network(network)
        ),
    ]


class FilterModule:
    """Make the filters known to Ansible."""

    def filters(self) -> dict[str, object]:
        """Return the filters by name."""
        return {
            "cdr_database_scram_verifier": scram_verifier,
            "cdr_database_address_problems": address_problems,
        }
