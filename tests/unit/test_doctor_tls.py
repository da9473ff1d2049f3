"""The doctor's link that is the certificate of AMI over TLS."""

from __future__ import annotations

import ssl
from types import SimpleNamespace

import pytest

from asterisk_exporter import config
from asterisk_exporter.config import Tls
from asterisk_exporter.doctor import tls
from asterisk_exporter.doctor.pbx import LookError
from asterisk_exporter.health import Status

NOW = ssl.cert_time_to_seconds("Nov 24 12:00:00 2026 GMT")


def certificate(days):
    return {
        "subject": ((("commonName", "pbx.example"),),),
        "issuer": ((("countryName", "DE"),), (("commonName", "Our CA"),)),
        "notAfter": tls.time.strftime("%b %d %H:%M:%S %Y GMT", tls.time.gmtime(NOW + days * 86400)),
    }


@pytest.mark.parametrize(
    ("days", "status", "text"),
    [
        (60, Status.OK, "TLSv1.3, certificate for pbx by Our CA, 60 days left"),
        (20, Status.WARNING, "the certificate of AMI for pbx ends in 20 days"),
        (2, Status.CRITICAL, "the certificate of AMI for pbx ends in 2 days"),
    ],
)
def test_a_certificate_that_passes(days, status, text):
    finding = tls.judge(certificate(days), "TLSv1.3", "pbx", NOW)
    assert (finding.status, finding.text) == (status, text)
    assert ("manager reload" in finding.action) is (status is not Status.OK)


def test_an_issuer_without_a_common_name():
    named = {**certificate(60), "issuer": ((("organizationName", "We"),),)}
    assert "by organizationName = We," in tls.judge(named, "TLSv1.3", "pbx", NOW).text


@pytest.mark.parametrize(
    ("said", "action"),
    [
        ("certificate has expired", "tlscertfile"),
        ("certificate is not yet valid", "clocks"),
        ("Hostname mismatch, certificate is not valid for 'pbx'.", "server_name"),
        ("IP address mismatch, certificate is not valid for '192.0.2.1'.", "server_name"),
        ("unable to get local issuer certificate", "is not among /etc/ca.pem: set ca_file"),
        ("self-signed certificate", "ca_file"),
        ("CA cert does not include key usage extension", "keyUsage=critical,keyCertSign"),
        ("Missing Subject Key Identifier", "RFC 5280"),
    ],
)
def test_a_certificate_that_does_not(said, action):
    error = ssl.SSLCertVerificationError()
    error.verify_message = said
    finding = tls.judge_refused(error, "pbx:5039", Tls(ca_file="/etc/ca.pem"), "pbx")
    assert (finding.status, said in finding.text) == (Status.CRITICAL, True)
    assert action in finding.action


def look(**ami):
    return list(tls.certificate(SimpleNamespace(settings=config.Config(ami=ami), timeout=1.0)))


def test_without_tls_and_without_a_server():
    assert [finding.status for finding in look()] == [None]
    [refused] = look(port=1, tls={"enabled": True})
    assert (refused.status, "does not speak TLS" in refused.text) == (Status.CRITICAL, True)
    with pytest.raises(LookError, match=r"/none\.pem cannot be used: No such file"):
        look(tls={"enabled": True, "ca_file": "/none.pem"})
