"""The doctor on AMI: its socket, the firewall before it, our logins, and TLS; each is broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from doctor import Doctor
from lab import Lab, wait_until

MANAGER = "/etc/asterisk/manager.conf"
CONFIG = "/etc/asterisk-exporter/asterisk-exporter.yml"
#: Beside the configuration, since secrets are beside it.
CHANGED = "/etc/asterisk-exporter/doctor-test.yml"
Change = Callable[[str], None]


@pytest.fixture
def doctor(lab: Lab) -> Doctor:
    return Doctor(lab)


@pytest.fixture
def manager(lab: Lab) -> Iterator[Change]:
    """Change manager.conf by a program of sed, and at the end change it back."""

    def change(program: str) -> None:
        lab.run(f"sed -i -E '{program}' {MANAGER}")
        lab.asterisk("manager reload")

    lab.run(f"cp -p {MANAGER} /run/manager.conf")
    yield change
    lab.run(f"mv /run/manager.conf {MANAGER}")
    lab.asterisk("manager reload")
    lab.wait_until_well()


@pytest.fixture
def configure(lab: Lab) -> Iterator[Callable[[str], str]]:
    """Write a changed configuration, and return the arguments that name it."""

    def write(program: str) -> str:
        lab.run(f"sed -E '{program}' {CONFIG} > {CHANGED}")
        return f"--config {CHANGED}"

    yield write
    lab.run(f"rm -f {CHANGED}")


def ami(**changed: str) -> str:
    """Return the program of sed that changes keys of the section ``ami``."""
    return "/^ami:/,/^[a-z]+:$/ {" + "".join(
        f"s|^  {key}:.*|  {key}: {value}|;" for key, value in changed.items()
    ) + "}"  # fmt: skip


def section(name: str, *commands: str) -> str:
    """Return the program of sed that changes a section of manager.conf."""
    return f"/^\\[{name}\\]/,/^\\[/ {{{';'.join(commands)}}}"


def has(problems: dict[str, list[str]], link: str, *parts: str) -> bool:
    """Say whether one finding of a link has all these parts."""
    return any(all(part in said for part in parts) for said in problems.get(link, []))


def test_a_manager_interface_for_everybody(doctor: Doctor, manager: Change) -> None:
    manager(
        "s/^bindaddr =.*/bindaddr = 0.0.0.0/;"
        + section("exporter", "/^(deny|permit)/d")
        + ";"
        + section("exporter", "s/^read =.*/read = all/", "s/^write =.*/write = all/")
        + ";"
        + section("events", "s/^read =.*/read = reporting/")
        + ";"
        + section("control", "s/^write =.*/write = call,agent/")
    )
    found = doctor.look()
    problems = found.problems()
    assert has(problems, "AMI socket", "0.0.0.0:5038: secrets", "pbx_manager_address"), problems
    assert has(problems, "AMI socket", "No firewall rule of this machine keeps anybody out")
    assert has(problems, "AMI ACL", "'exporter' may log in from anywhere", "permit of exporter")
    more = "'exporter' may do more than it needs: run Command"
    assert has(problems, "AMI permissions", more, "write = reporting for exporter")
    assert has(problems, "AMI permissions", "'exporter' may receive events", "all")
    assert has(problems, "AMI permissions", "'events' gets no events of security")
    assert has(problems, "AMI permissions", "'control' may not run Originate", "asterisk-ctl")
    looked = ("AMI socket", "AMI login", "AMI ACL", "AMI permissions")
    assert [found.link(name)["status"] for name in looked] == [
        "WARNING", "OK", "WARNING", "CRITICAL"
    ]  # fmt: skip


def test_logins_that_are_refused(doctor: Doctor, manager: Change) -> None:
    manager(
        section("exporter", "s/^secret =.*/secret = another-one-than-before/")
        + ";s/^\\[events\\]/[event]/;"
        + section("control", "s/^permit =.*/permit = 192.0.2.0\\/24/")
    )
    found = doctor.look()
    problems = found.problems()
    secret = "refuses the secret of AMI user 'exporter'"
    assert has(problems, "AMI login", secret, "asterisk_exporter_ami_secret"), problems
    assert has(problems, "AMI events login", "no AMI user 'events'", "pbx_manager_users")
    kept_out = "keeps us out: we come from 127.0.0.1, and it lets in 192.0.2.0/24"
    assert has(problems, "AMI control login", kept_out, "permit of control")
    logins = ("AMI login", "AMI events login", "AMI control login")
    assert [found.link(name)["status"] for name in logins] == ["CRITICAL", "CRITICAL", "WARNING"]
    [permissions] = found.link("AMI permissions")["findings"]
    assert permissions["text"] == "not looked at: needs AMI login"
    assert "another-one-than-before" not in str(found.document)


def test_a_login_that_may_ask_nothing(doctor: Doctor, manager: Change) -> None:
    manager(section("exporter", "s/^write =.*/write = call/"))
    problems = doctor.look().problems()
    missing = (
        "'exporter' may not run ConfbridgeListRooms, CoreSettings, CoreShowChannels and 2 more"
    )
    assert has(problems, "AMI permissions", missing, "figures are missing"), problems


@pytest.mark.parametrize(
    ("changed", "link", "parts"),
    [
        (ami(port="5037"), "AMI socket", ("nothing listens on port 5037", "127.0.0.1:5038")),
        (ami(host="198.18.77.1"), "firewall to AMI", ("198.18.77.1:5038 refuses",)),
    ],
    ids=["nothing", "remote"],
)
def test_ami_that_is_not_there(
    doctor: Doctor, configure: Callable[[str], str], changed: str, link: str, parts: tuple[str, ...]
) -> None:
    found = doctor.look(configure(changed))
    assert has(found.problems(), link, *parts), found.problems()
    assert found.link(link)["status"] == "CRITICAL"
    assert f"needs {link}" in found.link("AMI login")["findings"][0]["text"]


def test_something_else_on_the_port(doctor: Doctor, configure: Callable[[str], str]) -> None:
    problems = doctor.look(configure(ami(port="22"))).problems()
    assert has(problems, "AMI socket", "0.0.0.0:22 belongs to sshd", "not to asterisk"), problems
    assert has(problems, "AMI login", "is not a manager interface: it began with 'SSH-2.0")


@pytest.fixture
def firewall(lab: Lab) -> Iterator[Callable[[str], None]]:
    """Add rules to a table of the test's own, and remove it at the end."""

    def add(rules: str) -> None:
        chain = f"type filter hook input priority 0; policy accept; {rules}"
        lab.run(
            "nft -f -",
            "table inet doctor; delete table inet doctor\n"
            f"table inet doctor {{ chain c {{ {chain}\n }}\n }}\n",
        )

    yield add
    lab.run("nft delete table inet doctor")


def test_firewalls_that_drop_and_reject(doctor: Doctor, firewall: Callable[[str], None]) -> None:
    firewall("tcp dport 5038 ct state new drop; tcp dport 9739 ct state new reject;")
    problems = doctor.look("--timeout 3").problems()
    dropped = "drops our own connection to AMI on 127.0.0.1:5038"
    rule = "the rule 'tcp dport 5038 ct state new drop' in inet doctor c"
    assert has(problems, "firewall to AMI", dropped, rule, "nft --handle list ruleset"), problems
    assert has(problems, "firewall to metrics", "9739 ct state new reject", "listen_address")
    assert has(problems, "exporter /metrics", "does not answer", "systemctl status")
    firewall("tcp dport 5038 ct state new reject with tcp reset;")
    problems = doctor.look("--timeout 3").problems()
    assert has(problems, "firewall to AMI", "rejects our own connection", "reject with tcp reset")
    firewall(
        "iifname lo accept; ip saddr 192.0.2.7 tcp dport 9739 accept; tcp dport 5000-9999 drop;"
    )
    links = {"firewall to AMI", "firewall to metrics", "exporter /metrics"}
    # The exporter may have lost AMI meanwhile, and tries again seconds later.
    wait_until(lambda: not doctor.look().problems().keys() & links, 30, "all of them are passed")


# TLS

CERTIFICATES = """
set -e
rm -rf /run/ami-tls; mkdir /run/ami-tls; cd /run/ami-tls
ca() {
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 99 \
        -addext basicConstraints=critical,CA:true -addext keyUsage=critical,keyCertSign \
        -keyout $1.key -out $1.pem -subj "/CN=$1 of the test" 2>/dev/null
}
ca ours; ca other
for days in 10 90; do
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout pbx.key -out pbx.csr \
        -subj /CN=pbx.example -addext subjectAltName=DNS:pbx.example 2>/dev/null
    openssl x509 -req -in pbx.csr -CA ours.pem -CAkey ours.key -days $days -copy_extensions copy \
        -out pbx.pem 2>/dev/null
    cat pbx.pem pbx.key > $days.pem
done
chown -R asterisk /run/ami-tls
"""


@pytest.fixture
def tls(lab: Lab, manager: Change) -> Change:
    """AMI over TLS on a port of its own, with the certificate that ends in so many days."""
    lab.run(CERTIFICATES)

    def serve(days: str) -> None:
        manager(
            "/^tls/d;/^\\[general\\]/a tlsenable = yes\\ntlsbindaddr = 127.0.0.1:5039\\n"
            f"tlscertfile = /run/ami-tls/{days}.pem\\ntlsprivatekey = /run/ami-tls/{days}.pem"
        )
        wait_until(lambda: "127.0.0.1:5039" in lab.run("ss -Hltn"), 15, "AMI over TLS")

    return serve


def over_tls(ca: str = "ours", name: str = "pbx.example") -> str:
    settings = f"{{enabled: true, ca_file: /run/ami-tls/{ca}.pem, server_name: {name}}}"
    return ami(port="5039", tls=settings)


def test_ami_over_tls(
    lab: Lab, doctor: Doctor, tls: Change, configure: Callable[[str], str]
) -> None:
    tls("90")
    arguments = configure(over_tls())
    found = doctor.look(arguments)
    assert not [link for link in found.problems() if link.startswith("AMI")], found.problems()
    [certificate] = found.link("AMI certificate")["findings"]
    said = r"TLSv1\.[23], certificate for pbx\.example by ours of the test, (89|90) days left"
    assert re.fullmatch(said, certificate["text"]), certificate
    assert "TLS:           yes" in lab.run(f"asterisk-exporter check --full {arguments}")
    assert "support" in lab.run(f"asterisk-ctl queue list {arguments}")
    made = lab.run(f"asterisk-ctl call originate 101 700 {arguments}")
    assert made.startswith("PJSIP/101-")
    lab.run(f"asterisk-ctl call hangup {made.split()[0]} {arguments}")
    tls("10")
    found = doctor.look(arguments)
    assert has(found.problems(), "AMI certificate", "pbx.example ends in 10 days", "tlscertfile")
    assert found.link("AMI certificate")["status"] == "WARNING"


def test_tls_that_cannot_be_trusted(
    lab: Lab, doctor: Doctor, tls: Change, configure: Callable[[str], str]
) -> None:
    tls("90")
    for changed, said, action in (
        (over_tls(name="other.example"), "not valid for 'other.example'", "set server_name"),
        (over_tls(ca="other"), "issuer certificate", "set ca_file"),
        (over_tls().replace("5039", "5038"), "does not speak TLS", "tlsenable"),
    ):
        found = doctor.look(configure(changed))
        assert has(found.problems(), "AMI certificate", said, action), found.problems()
        assert found.link("AMI certificate")["status"] == "CRITICAL"
    for changed in (over_tls(name="other.example"), over_tls(ca="other")):
        arguments = configure(changed)
        check = lab.exec(f"asterisk-exporter check {arguments}")
        assert (check.returncode, "ASTERISK CRITICAL" in check.stdout) == (2, True), check.stdout
        control = lab.exec(f"asterisk-ctl queue list {arguments}")
        assert (control.returncode, control.stdout) == (2, ""), control.stderr
