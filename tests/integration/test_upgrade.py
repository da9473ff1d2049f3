"""playbooks/upgrade.yml with a package that really is newer, while calls are up."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from history import Watch
from lab import Lab, wait_until

#: A repository with the installed packages, of a version that ends in +newer, and an Asterisk that
#: says so. The old ones are kept beside it.
NEWER = r"""
set -e
version=$(dpkg-query -Wf '${Version}' asterisk)
mkdir -p /var/tmp/newer/old && cd /var/tmp/newer/old
apt-get download $(dpkg-query -Wf '${Package} ${source:Package} ${source:Version}\n' |
    awk -v version="$version" '$2 == "asterisk" && $3 == version { print $1 }') >&2
cd ..
for package in old/*.deb; do
    dpkg-deb -R "$package" tree
    # what depends on exactly this version does so on the new one
    perl -pi -e 's/\Q'"$version"'\E/$&+newer/g' tree/DEBIAN/control
    # of the same length: nothing in the program moves
    program=tree/usr/sbin/asterisk
    [ ! -e $program ] || perl -pi -e 's/\d+\.\d+\.\K\d(?=[~+]dfsg)/9/g' $program
    dpkg-deb -Znone -b tree . >&2
    rm -r tree
done
for package in *.deb; do
    dpkg-deb -f "$package"
    set -- $(stat -c %s "$package") $(sha256sum "$package")
    printf 'Filename: ./%s\nSize: %s\nSHA256: %s\n\n' "$package" "$1" "$2"
done >Packages
echo 'deb [trusted=yes] file:/var/tmp/newer ./' >/etc/apt/sources.list.d/newer.list
"""
OLDER = """
rm /etc/apt/sources.list.d/newer.list
apt-get -qq update
dpkg --force-downgrade -i /var/tmp/newer/old/*.deb
rm -r /var/tmp/newer
"""
#: Any file that is not the one that runs.
EXCHANGE = "cd /usr/sbin && cp -p asterisk asterisk.new && mv asterisk.new asterisk"


class Run(threading.Thread):
    """A run of the playbook in the background."""

    def __init__(self, lab: Lab, *arguments: str) -> None:
        super().__init__()
        self.lab, self.arguments = lab, arguments
        self.status, self.output = -1, ""
        self.start()

    def run(self) -> None:
        result = self.lab.playbook("playbooks/upgrade.yml", *self.arguments)
        self.status, self.output = result.returncode, result.stdout + result.stderr

    def waits(self) -> None:
        """Return when Asterisk waits for a moment without a call."""
        wait_until(
            lambda: "core stop" in self.lab.run("ps -eo args") or not self.is_alive(),
            240,
            "it waits for a moment without a call",
        )
        assert self.is_alive(), self.output

    def result(self) -> str:
        """Return what it printed, in one line."""
        self.join()
        return re.sub(r"\s+", " ", self.output)


@dataclass(frozen=True)
class Asterisk:
    """Which Asterisk is it?"""

    process: str
    package: str
    version: str


def asterisk(lab: Lab) -> Asterisk:
    return Asterisk(
        lab.run("systemctl show --property=MainPID --value asterisk").strip(),
        lab.run("dpkg-query -Wf '${Version}' asterisk"),
        lab.asterisk("core show version").split()[1],
    )


def channels(lab: Lab) -> set[str]:
    return set(re.findall(r"^PJSIP/[^!]+", lab.asterisk("core show channels concise"), re.M))


def call(lab: Lab, caller: str) -> set[str]:
    """Call an agent, and return the channels of the call when both talk."""
    there = channels(lab)
    lab.run(f"systemd-run --quiet --collect lab-call provider {caller} +493055502 600")
    wait_until(
        lambda: lab.asterisk("core show channels concise").count("!AppQueue!") > len(there) // 2,
        30,
        "an agent has answered",
    )
    return channels(lab) - there


def quiet(lab: Lab) -> None:
    lab.asterisk("channel request hangup all")
    lab.wait_until_quiet()


@pytest.fixture(scope="module")
def old(lab: Lab) -> Iterator[Asterisk]:
    """Offer a newer package, and return what there is before it is taken."""
    quiet(lab)
    before = asterisk(lab)
    lab.run("sh -s", stdin=NEWER)
    yield before
    lab.exec("systemctl stop asterisk-upgrade")  # waits for nothing more
    lab.run("sh -s", stdin=OLDER)
    wait_until(lambda: lab.exec("asterisk-exporter check").returncode == 0, 60, "a healthy lab")
    after = asterisk(lab)
    assert (after.package, after.version) == (before.package, before.version)


def test_what_would_come(lab: Lab, old: Asterisk) -> None:
    lab.run("apt-get -qq update")
    run = Run(lab, "--check")
    said = run.result()
    assert run.status == 0, said
    assert f"asterisk {old.package} to {old.package}+newer" in said
    assert "changed=0" in said
    assert asterisk(lab) == old


def test_it_gives_up_and_no_call_is_cut(lab: Lab, old: Asterisk) -> None:
    first = call(lab, "+4915600")
    run = Run(lab, "-e", "upgrade_wait_minutes=0.5")
    run.waits()
    second = call(lab, "+4915601")  # is taken meanwhile
    said = run.result()
    assert run.status != 0, said
    assert "had no moment without a call" in said
    assert asterisk(lab) == old
    assert first | second <= channels(lab)
    assert call(lab, "+4915602")  # and nothing waits for its end any more
    assert lab.run("systemctl show --property=Restart --value asterisk").strip() == "always"


def test_it_goes_on_when_the_calls_end(lab: Lab, old: Asterisk) -> None:
    up = channels(lab)
    assert up
    watch = Watch(lab)
    watching = threading.Thread(target=watch.run)
    watching.start()
    try:
        run = Run(lab)
        run.waits()
        assert channels(lab) == up
        assert asterisk(lab) == old
        lab.asterisk("channel request hangup all")
        said = run.result()
    finally:
        watch.over = True
        watching.join()
    assert run.status == 0, said
    new = asterisk(lab)
    assert new.process != old.process
    assert new.package == f"{old.package}+newer"
    assert re.match(r"\d+\.\d+\.9[+~]", new.version), new
    [away] = re.findall(r"Asterisk was away for ([\d.]+) s", said)
    assert 0 < float(away) < 30
    assert watch.went_down == []
    assert lab.prometheus('ALERTS{alertname="AsteriskDown",alertstate="firing"}') is None


def test_there_is_nothing_more_to_do(lab: Lab, old: Asterisk) -> None:
    before = asterisk(lab)
    run = Run(lab)
    said = run.result()
    assert run.status == 0, said
    assert "Nothing to do" in said
    assert "changed=0" in said
    assert asterisk(lab) == before != old


@pytest.mark.usefixtures("old")
def test_a_restart_at_the_deadline_refuses_calls_before(lab: Lab) -> None:
    """The old process of a program that was exchanged is enough for a restart."""
    lab.run(EXCHANGE)
    before = asterisk(lab)
    call(lab, "+4915603")
    options = "upgrade_wait_minutes=0.4 upgrade_refuse_calls=true upgrade_at_deadline=restart"
    run = Run(lab, "-e", options)
    run.waits()
    refused = lab.exec("lab-call provider +4915604 +493055502 5")
    assert "503 Service Unavailable" in refused.stderr
    lab.run("pgrep --full '[s]ipp .*4915603'")  # still up; Asterisk's console tells nothing now
    said = run.result()
    assert run.status == 0, said
    assert "is of another one than is installed" in said
    assert asterisk(lab).process != before.process
    assert lab.exec("pgrep --full '[s]ipp .*4915603'").stdout == ""
