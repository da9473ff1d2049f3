"""The role certificates: what its preflight refuses, and when its CA issues anew."""

import datetime
import ipaddress
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from scripts import load

role = load("roles/certificates/filter_plugins/certificates.py")
NOW = datetime.datetime(2026, 11, 24, 12, tzinfo=datetime.timezone.utc)
NAMES = ["pbx.example", "192.0.2.11", "localhost", "127.0.0.1"]


def entity(name, issuer=None, days=100, names=(), begun=400):
    """Return a certificate with its key, issued by `issuer` or by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - datetime.timedelta(days=begun))
        .not_valid_after(NOW + datetime.timedelta(days=days))
    )
    if names:
        alternatives = [
            x509.IPAddress(ipaddress.ip_address(name))
            if role.is_address(name)
            else x509.DNSName(name)
            for name in names
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), False)
    certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    return SimpleNamespace(
        certificate=certificate,
        key=key,
        pem=certificate.public_bytes(Encoding.PEM).decode(),
        key_pem=private(key, NoEncryption()),
    )


def private(key, encryption):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


ROOT = entity("root")
BETWEEN = entity("between", ROOT)
HOST = entity("pbx", BETWEEN, names=NAMES)


def problems(certificate=HOST.pem + BETWEEN.pem, key=HOST.key_pem, ca=ROOT.pem, names=None):
    return role.file_problems(certificate, key, ca, names or NAMES, NOW)


def settings(**given):
    return {
        "certificates_names": [],
        "certificates_certificate_file": "",
        "certificates_key_file": "",
        "certificates_ca_file": "",
        "certificates_valid_days": 397,
        "certificates_renew_days": 30,
        **given,
    }


def test_names_and_addresses_are_told_apart_and_said_once():
    names = ["Pbx.example", "pbx.example", "192.0.2.11", "2001:DB8:0::1"]
    assert role.subject_alt_names(names) == ["DNS:pbx.example", "IP:192.0.2.11", "IP:2001:db8::1"]


def test_settings_that_are_fine(tmp_path):
    file = tmp_path / "some.pem"
    file.touch()
    assert role.problems(settings()) == []
    assert role.problems(settings(certificates_names=["*.example.net", "pbx", "2001:db8::1"])) == []
    assert role.problems(settings(**dict.fromkeys(role.FILES, str(file)))) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"certificates_names": ["a b"]}, "certificates_names: 'a b' is neither"),
        ({"certificates_names": ["https://pbx"]}, "certificates_names: 'https://pbx' is neither"),
        ({"certificates_names": ["a.*.b"]}, "certificates_names: 'a.*.b' is neither"),
        ({"certificates_key_file": "/dev/null"}, "without certificates_certificate_file and"),
        (dict.fromkeys(role.FILES, "pbx.pem"), "certificates_ca_file is 'pbx.pem': give the absol"),
        (dict.fromkeys(role.FILES, "/none.pem"), "certificates_key_file is '/none.pem': give the"),
        ({"certificates_valid_days": 3650}, "certificates_valid_days is 3650: give days from 2 to"),
        (
            {"certificates_renew_days": 397},
            "certificates_renew_days is 397: give days from 1 to 396",
        ),
    ],
)
def test_settings_that_cannot_be(given, said):
    found = role.problems(settings(**given))
    assert [said in problem for problem in found].count(True) == 1, found


def test_a_certificate_from_elsewhere_that_is_fine():
    assert problems() == []
    # The CA file may name what is between, and a wildcard is as good as the name.
    assert problems(certificate=HOST.pem, ca=BETWEEN.pem) == []
    wild = entity("any", ROOT, names=["*.example"])
    assert problems(wild.pem, wild.key_pem) == []


STRANGER = entity("stranger")
LATE = entity("late", BETWEEN, days=-1, names=NAMES)
EARLY = entity("early", BETWEEN, names=NAMES, begun=-1)
NAMELESS = entity("nameless", BETWEEN)
LOCAL = entity("local", BETWEEN, names=["localhost", "127.0.0.1"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"key": STRANGER.key_pem}, "certificates_key_file is not the key of CN=pbx"),
        ({"key": private(HOST.key, BestAvailableEncryption(b"x"))}, "has a passphrase"),
        ({"key": HOST.pem}, "certificates_key_file must hold a private key"),
        ({"certificate": "none"}, "must hold PEM certificates"),
        ({"ca": ""}, "must hold PEM certificates"),
        (
            {"certificate": LATE.pem + BETWEEN.pem, "key": LATE.key_pem},
            "CN=late ended on 2026-11-23",
        ),
        (
            {"certificate": EARLY.pem + BETWEEN.pem, "key": EARLY.key_pem},
            "CN=early begins on 2026-11-25",
        ),
        (
            {"certificate": NAMELESS.pem + BETWEEN.pem, "key": NAMELESS.key_pem},
            "CN=nameless carries",
        ),
        (
            {"certificate": LOCAL.pem + BETWEEN.pem, "key": LOCAL.key_pem},
            "CN=local carries none of",
        ),
        (
            {"certificate": HOST.pem},
            "CN=pbx does not lead to a certificate in certificates_ca_file",
        ),
        ({"ca": STRANGER.pem}, "CN=pbx does not lead to a certificate in certificates_ca_file"),
    ],
)
def test_a_certificate_from_elsewhere_that_cannot_be(given, said):
    [problem] = problems(**given)
    assert said in problem


def test_a_new_certificate_is_due_when_and_only_when_something_is_different():
    soon = datetime.datetime.now(datetime.timezone.utc) - NOW
    host = entity("pbx", ROOT, days=soon.days + 40, names=NAMES)

    def due(key=host.key_pem, ca=ROOT.pem, names=NAMES, days=30):
        return role.due(host.pem, key, ca, names, days)

    assert not due()
    assert not due(names=["PBX.example", *reversed(NAMES)])
    assert due(days=60)
    assert due(key=STRANGER.key_pem)
    assert due(ca=STRANGER.pem)
    assert due(names=NAMES[:-1])
    assert due(names=[*NAMES, "more.example"])
