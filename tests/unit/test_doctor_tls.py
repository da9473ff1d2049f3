"""The doctor's link that is the certificate of AMI over TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
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
    settings = config.Config(ami=ami)
    pbx = SimpleNamespace(settings=settings, timeout=1.0, has_console=False)
    return list(tls.certificate(pbx))


def look_for_others(**said):
    """What is found where the exporter comes without TLS, and AMI's settings are these."""
    shown = "".join(f"  TLS {key}:      {value}\n" for key, value in said.items())
    pbx = SimpleNamespace(
        settings=config.Config(), timeout=1.0, has_console=True, once=lambda *_: shown
    )
    [finding] = tls.certificate(pbx)
    return finding


def test_without_tls_and_without_a_server():
    assert [finding.status for finding in look()] == [None]
    [refused] = look(port=1, tls={"enabled": True})
    assert (refused.status, "does not speak TLS" in refused.text) == (Status.CRITICAL, True)
    with pytest.raises(LookError, match=r"/none\.pem cannot be used: No such file"):
        look(tls={"enabled": True, "ca_file": "/none.pem"})


def test_tls_for_others_that_is_off_or_broken(tmp_path):
    assert look_for_others(Enable="No").text.startswith("not set up: AMI speaks no TLS")
    listener = {"Enable": "Yes", "Bindaddress": "127.0.0.1:1", "Certfile": tmp_path / "none.pem"}
    broken = look_for_others(**listener)
    assert (broken.status, "No such file" in broken.text) == (Status.WARNING, True)


@pytest.fixture
def listener(tmp_path):
    """AMI's settings over TLS; what it shows ends in two days, and is in the file ``shown``."""
    for name in ("shown", "other"):
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
                *(
                    "-subj",
                    "/CN=pbx1",
                    "-keyout",
                    tmp_path / f"{name}.key",
                    "-out",
                    tmp_path / name,
                ),
            ],
            check=True,
            capture_output=True,
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "shown", tmp_path / "shown.key")

    def show() -> None:
        with contextlib.suppress(OSError), sock.accept()[0] as client:
            context.wrap_socket(client, server_side=True).recv(1)

    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=show)
        thread.start()
        where = f"127.0.0.1:{sock.getsockname()[1]}"
        yield {"Enable": "Yes", "Bindaddress": where, "Certfile": tmp_path / "shown"}
        thread.join(5)


def test_what_ami_shows_to_others_near_its_end(listener):
    found = look_for_others(**listener)
    assert found.status is Status.WARNING, "the exporter needs it not"
    assert found.text in [f"the certificate of AMI for pbx1 ends in {days} days" for days in (1, 2)]


def test_a_file_that_ami_has_not_read_yet(listener):
    file = listener["Certfile"].parent / "other"
    found = look_for_others(**{**listener, "Certfile": file})
    where = listener["Bindaddress"]
    assert found.text == f"AMI on {where} shows another certificate than {file} has"
    assert found.action.startswith("touch /etc/asterisk/manager.conf")
