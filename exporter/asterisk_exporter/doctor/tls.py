"""The link that is the certificate of AMI over TLS."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from typing import Any

from asterisk_exporter.config import Tls
from asterisk_exporter.doctor import sockets
from asterisk_exporter.doctor.finding import Finding, critical, not_set_up, ok, warning
from asterisk_exporter.doctor.pbx import LookError, Pbx

DAY_SECONDS = 86400
#: As the alert AsteriskCertificateExpires has it.
WARNING_DAYS = 21
CRITICAL_DAYS = 3
#: X509_V_FLAG_PARTIAL_CHAIN, which ssl names since Python 3.10.
PARTIAL_CHAIN = 0x80000
# AMI reads it again only together with a manager.conf that is newer than the one it knows.
_RELOAD = 'touch /etc/asterisk/manager.conf; asterisk -rx "manager reload"'
_RENEW = (
    "The playbook renews what the inventory's own CA issued. Another one: renew tlscertfile of "
    f"manager.conf, then: {_RELOAD}. What issues it says why it did not do so in time."
)


def _name(parts: Any) -> str:
    """Return the common name in a subject or issuer, or all of it."""
    pairs = [pair for part in parts for pair in part]
    named = [value for key, value in pairs if key == "commonName"]
    return named[0] if named else ", ".join(f"{key} = {value}" for key, value in pairs)


def judge(certificate: dict[str, Any], version: str, name: str, now: float) -> Finding:
    """Judge a certificate that passes. ``certificate``: as ``SSLSocket.getpeercert`` has it."""
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - now) / DAY_SECONDS
    issuer = _name(certificate.get("issuer", ()))
    if days < WARNING_DAYS:
        bad = critical if days < CRITICAL_DAYS else warning
        return bad(f"the certificate of AMI for {name} ends in {days:.0f} days", _RENEW)
    return ok(f"{version}, certificate for {name} by {issuer}, {days:.0f} days left")


def judge_refused(error: ssl.SSLCertVerificationError, where: str, tls: Tls, name: str) -> Finding:
    """Say why a certificate does not pass: its time, its name, or who issued it."""
    said = error.verify_message or str(error)
    text = f"the certificate of AMI on {where} does not pass: {said}"
    if "expired" in said:
        return critical(text, _RENEW)
    if "not yet valid" in said:
        return critical(text, "Look at the clocks of both machines: timedatectl")
    if "match" in said or "not valid for" in said:
        return critical(
            text,
            f"It must carry the name {name}: set server_name of asterisk_exporter_ami_tls to a "
            "name that it has, or issue one that has this name.",
        )
    if "extension" in said or "Key Identifier" in said or "Basic Constraints" in said:
        return critical(
            text,
            "It is not made as RFC 5280 asks, which Python checks since 3.13: issue the "
            "authority's again with basicConstraints=critical,CA:true and "
            "keyUsage=critical,keyCertSign, and the server's with it.",
        )
    issuers = tls.ca_file or "the system's authorities"
    return critical(
        text,
        f"Who issued it is not among {issuers}: set ca_file of asterisk_exporter_ami_tls to the "
        "certificate of that authority; intermediate ones belong into tlscertfile of manager.conf.",
    )


def for_others(pbx: Pbx) -> Finding:
    """Look at what AMI shows to other machines, while the exporter comes without TLS.

    It must be what is in the file. A WARNING at most: no figure depends on it. Raises LookError.
    """
    if not pbx.has_console:
        return not_set_up("the exporter speaks AMI without TLS (asterisk_exporter_ami_tls)")
    said = sockets.settings(pbx.once("manager settings", sockets.manager_settings))
    if said.get("TLS Enable") != "Yes":
        return not_set_up("AMI speaks no TLS (pbx_manager_tls_address)")
    file, where = said["TLS Certfile"], said["TLS Bindaddress"]
    host, _, port = where.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= PARTIAL_CHAIN
    try:
        context.load_verify_locations(file)
        plain = socket.create_connection((host.strip("[]"), int(port)), timeout=pbx.timeout)
        with plain, context.wrap_socket(plain) as sock:
            found, version = sock.getpeercert() or {}, sock.version() or "TLS"
    except ssl.SSLCertVerificationError as error:
        if "expired" in error.verify_message:
            return warning(f"the certificate of AMI on {where} has ended", _RENEW)
        return warning(f"AMI on {where} shows another certificate than {file} has", _RELOAD)
    except (OSError, ssl.SSLError) as error:
        return warning(
            f"AMI over TLS on {where} cannot be used: {error.strerror or error}",
            f"Look at {file}, and at what Asterisk says about it: /var/log/asterisk/messages.log",
        )
    finding = judge(found, version, _name(found.get("subject", ())) or where, time.time())
    return warning(finding.text, finding.action) if finding.action else finding


def certificate(pbx: Pbx) -> Iterator[Finding]:
    """Look at the certificate of AMI: the exporter's way, or else that of other machines."""
    ami = pbx.settings.ami
    if not ami.tls.enabled:
        yield for_others(pbx)
        return
    where, name = f"{ami.host}:{ami.port}", ami.tls.server_name or ami.host
    try:
        context = ssl.create_default_context(cafile=ami.tls.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise LookError(
            f"the CA file {ami.tls.ca_file} cannot be used: {error.strerror or error}",
            "Set ca_file of asterisk_exporter_ami_tls to a file of certificates in PEM form.",
        ) from None
    try:
        plain = socket.create_connection((ami.host, ami.port), timeout=pbx.timeout)
        with plain, context.wrap_socket(plain, server_hostname=name) as sock:
            found, version = sock.getpeercert() or {}, sock.version() or "TLS"
    except ssl.SSLCertVerificationError as error:
        yield judge_refused(error, where, ami.tls, name)
    except (OSError, ssl.SSLError) as error:
        yield critical(
            f"{where} does not speak TLS: {error.strerror or error}",
            "Look at tlsenable, tlsbindaddr (usually port 5039; 5038 is plain), tlscertfile and "
            'tlsprivatekey in manager.conf (asterisk -rx "manager show settings"), and at '
            "asterisk_exporter_ami_port.",
        )
    else:
        yield judge(found, version, name, time.time())
