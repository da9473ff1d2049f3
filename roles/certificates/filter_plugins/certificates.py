"""Filters of the role certificates; they run on the controller."""

from __future__ import annotations

import datetime
import ipaddress
import re
from pathlib import Path
from typing import Any, Callable

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key

# What a TLS client compares with; a * stands for one whole label, the first.
NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?")
FILES = ("certificates_certificate_file", "certificates_key_file", "certificates_ca_file")


def is_address(name: str) -> bool:
    """Return whether the text is an IP address."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def spelled(name: str) -> str:
    """Return a name or an address in the one way in which certificates are compared here."""
    return str(ipaddress.ip_address(name)) if is_address(name) else name.lower()


def subject_alt_names(names: list[str]) -> list[str]:
    """Return the names as a certificate request spells them, each once."""
    each = dict.fromkeys(spelled(name) for name in names)
    return [f"{'IP' if is_address(name) else 'DNS'}:{name}" for name in each]


def problems(settings: dict[str, Any]) -> list[str]:
    """Return a sentence for each variable of the role that cannot be.

    `settings` has the role's variables by their names.
    """
    found = [
        f"certificates_names: '{name}' is neither a name nor an address; write such as"
        " pbx.example.net, *.example.net or 192.0.2.11."
        for name in settings["certificates_names"]
        if not is_address(str(name)) and not NAME.fullmatch(str(name))
    ]
    given = [name for name in FILES if settings[name]]
    if given and len(given) < len(FILES):
        missing = [name for name in FILES if name not in given]
        found.append(
            f"{' and '.join(given)} without {' and '.join(missing)}: give all three, or none to"
            " have the inventory's own CA issue a certificate."
        )
    found += [
        f"{name} is '{settings[name]}': give the absolute path of a file on the controller."
        for name in given
        if not Path(settings[name]).is_absolute() or not Path(settings[name]).is_file()
    ]
    valid, renew = settings["certificates_valid_days"], settings["certificates_renew_days"]
    if not 2 <= int(valid) <= 3640:
        found.append(f"certificates_valid_days is {valid}: give days from 2 to 3640.")
    elif not 1 <= int(renew) < int(valid):
        found.append(
            f"certificates_renew_days is {renew}: give days from 1 to {int(valid) - 1}, fewer than"
            " certificates_valid_days."
        )
    return found


def file_problems(
    certificate_pem: str,
    key_pem: str,
    ca_pem: str,
    names: list[str],
    now: datetime.datetime | None = None,
) -> list[str]:
    """Return a sentence for each reason why a host cannot use this certificate from elsewhere.

    `names` are what the certificate should carry; the first is the host's own, and one of them
    is enough. The key is never part of a sentence.
    """
    try:
        chain = x509.load_pem_x509_certificates(certificate_pem.encode())
        trusted = x509.load_pem_x509_certificates(ca_pem.encode())
    except ValueError:
        return [
            "certificates_certificate_file and certificates_ca_file must hold PEM certificates."
        ]
    try:
        key = load_pem_private_key(key_pem.encode(), None)
    except TypeError:
        return [
            "certificates_key_file has a passphrase, which no service could type in: take it off"
            " (`openssl pkey`) and encrypt the file with Ansible Vault."
        ]
    except ValueError:
        return ["certificates_key_file must hold a private key in PEM."]
    found = []
    leaf = chain[0]
    now = now or datetime.datetime.now(datetime.timezone.utc)
    if leaf.public_key() != key.public_key():
        found.append(
            f"certificates_key_file is not the key of {subject(leaf)}, the first certificate in"
            " certificates_certificate_file."
        )
    if days_left(certificate_pem, now) < 0:
        found.append(
            f"certificates_certificate_file: {subject(leaf)} ended on"
            f" {leaf.not_valid_after_utc:%Y-%m-%d}; get a new one."
        )
    if leaf.not_valid_before_utc > now:
        found.append(
            f"certificates_certificate_file: {subject(leaf)} begins on"
            f" {leaf.not_valid_before_utc:%Y-%m-%d}; wait until then, or look at the clock here."
        )
    if not carries(leaf, names):
        found.append(
            f"certificates_certificate_file: {subject(leaf)} carries none of the names of this host"
            f" ({', '.join(name for name in names if not local(name))}); get one that does, or name"
            " in certificates_names what clients call this host."
        )
    if not leads_to(chain, trusted):
        found.append(
            f"certificates_certificate_file: {subject(leaf)} does not lead to a certificate in"
            " certificates_ca_file; put what is between them below it, in order."
        )
    return found


def days_left(certificate_pem: str, now: datetime.datetime | None = None) -> float:
    """Return the days until the first certificate ends; below 0 when it has."""
    now = now or datetime.datetime.now(datetime.timezone.utc)
    leaf = x509.load_pem_x509_certificate(certificate_pem.encode())
    return (leaf.not_valid_after_utc - now) / datetime.timedelta(days=1)


def due(certificate_pem: str, key_pem: str, ca_pem: str, names: list[str], days: int) -> bool:
    """Return whether the CA must issue a new certificate for a host.

    It must when the one that is there has fewer than `days` left, carries other `names`, or is of
    another key or CA.
    """
    leaf = x509.load_pem_x509_certificate(certificate_pem.encode())
    ca = x509.load_pem_x509_certificate(ca_pem.encode())
    key = load_pem_private_key(key_pem.encode(), None)
    return not (
        days_left(certificate_pem) >= days
        and set(carried_by(leaf)) == {spelled(name) for name in names}
        and leaf.public_key() == key.public_key()
        and issued(leaf, ca)
    )


def subject(certificate: x509.Certificate) -> str:
    """Return whom the certificate is for, as a person writes it."""
    return certificate.subject.rfc4514_string() or "the certificate"


def local(name: str) -> bool:
    """Return whether every host has that name."""
    return name in ("localhost", "127.0.0.1", "::1")


def carried_by(certificate: x509.Certificate) -> list[str]:
    """Return the names and addresses that a client may call the certificate's host."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    carried = [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]
    return carried + [str(a) for a in extension.value.get_values_for_type(x509.IPAddress)]


def carries(certificate: x509.Certificate, names: list[str]) -> bool:
    """Return whether a client that uses one of the names is satisfied."""
    wanted = {spelled(name) for name in names if not local(name)}
    wanted |= {f"*.{name.partition('.')[2]}" for name in wanted if not is_address(name)}
    return not wanted.isdisjoint(carried_by(certificate))


def leads_to(chain: list[x509.Certificate], trusted: list[x509.Certificate]) -> bool:
    """Return whether each certificate is issued by the next, and one of them by a trusted one."""
    for certificate, above in zip(chain, [*chain[1:], None]):
        if certificate in trusted or any(issued(certificate, ca) for ca in trusted):
            return True
        if above is None or not issued(certificate, above):
            return False
    return False


def issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Return whether the issuer has signed the certificate."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


class FilterModule:
    """Make the filters known to Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "certificates_subject_alt_names": subject_alt_names,
            "certificates_problems": problems,
            "certificates_due": due,
            "certificates_days_left": days_left,
            "certificates_file_problems": file_problems,
        }
