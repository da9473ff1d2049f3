"""playbooks/upgrade.yml with a package that really is newer, on two PBXs that have calls.

The tests are one story, and run in this order.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fleet import Pbx
from history import Watch
from lab import Lab, channels, wait_until

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
UPGRADE = "playbooks/upgrade.yml"
#: Any file that is not the one that runs.
EXCHANGE = "cd /usr/sbin && cp -p asterisk asterisk.new && mv asterisk.new asterisk"


class Run(threading.Thread):
    """A run of playbooks in the background."""

    def __init__(self, site: Lab, *arguments: str) -> None:
        super().__init__()
        self.site, self.arguments = site, arguments
        self.status, self.output = -1, ""
        self.start()

    def run(self) -> None:
        result = self.site.playbook(*self.arguments)
        self.status, self.output = result.returncode, result.stdout + result.stderr

    def waits_for(self, pbx: Pbx) -> None:
        """Return when that PBX waits for a moment without a call."""
        wait_until(
            lambda: waits(pbx) or not self.is_alive(), 600, f"{pbx.host} waits for its calls to end"
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


def asterisk(pbx: Pbx) -> Asterisk:
    return Asterisk(
        process(pbx),
        pbx.run("dpkg-query -Wf '${Version}' asterisk"),
        pbx.asterisk("core show version").split()[1],
    )


def now(*pbxs: Pbx) -> dict[str, Asterisk]:
    return {pbx.host: asterisk(pbx) for pbx in pbxs}


def process(pbx: Pbx) -> str:
    return pbx.run("systemctl show --property=MainPID --value asterisk").strip()


def waits(pbx: Pbx) -> bool:
    return "core stop" in pbx.run("ps -eo args")


def changed(pbx: Pbx, how: str) -> int:
    """Return when Asterisk last came (ActiveEnter) or went (ActiveExit)."""
    show = f"systemctl show --timestamp=unix --property={how}Timestamp --value asterisk"
    return int(pbx.run(show).strip().lstrip("@"))


def call(pbx: Pbx, caller: str) -> set[str]:
    """Call an agent, and return the channels of the call when both talk."""
    there = channels(pbx)
    pbx.run(f"systemd-run --quiet --collect lab-call provider {caller} +493055502 3600")
    wait_until(
        lambda: pbx.asterisk("core show channels concise").count("!Up!AppQueue!") > len(there) // 2,
        90,
        "an agent has answered",
    )
    return channels(pbx) - there


def hang_up(pbx: Pbx) -> None:
    pbx.asterisk("channel request hangup all")


@contextmanager
def watched(pbx: Pbx) -> Iterator[Watch]:
    watch = Watch(pbx)
    thread = threading.Thread(target=watch.run)
    thread.start()
    try:
        yield watch
    finally:
        watch.over = True
        thread.join()


@pytest.fixture(scope="module")
def old(berlin: Pbx, hamburg: Pbx) -> Iterator[dict[str, Asterisk]]:
    """Offer a newer package to both, and return what there is before it is taken."""
    both = (berlin, hamburg)
    for pbx in both:
        hang_up(pbx)
        pbx.wait_until_quiet()
    before = now(*both)
    on_both(NEWER, both)
    yield before
    for pbx in both:
        pbx.exec("systemctl stop asterisk-upgrade")  # waits for nothing more
    on_both(OLDER, both)
    for pbx in both:
        pbx.wait_until_well()
        after = asterisk(pbx)
        assert (after.package, after.version) == (
            before[pbx.host].package,
            before[pbx.host].version,
        )


def on_both(script: str, pbxs: tuple[Pbx, Pbx]) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda pbx: pbx.run("sh -s", stdin=script), pbxs))


def test_what_would_come(berlin: Pbx, hamburg: Pbx, old: dict[str, Asterisk]) -> None:
    for pbx in (berlin, hamburg):
        pbx.run("apt-get -qq update")
    run = Run(berlin, UPGRADE, "--check")
    said = run.result()
    assert run.status == 0, said
    package = old["berlin"].package
    assert said.count(f"asterisk {package} to {package}+newer") == 2
    assert said.count("changed=0") == 2
    assert now(berlin, hamburg) == old


def test_it_gives_up_and_no_call_is_cut(
    berlin: Pbx, hamburg: Pbx, old: dict[str, Asterisk]
) -> None:
    up = {pbx: call(pbx, "+4915600") for pbx in (berlin, hamburg)}
    run = Run(berlin, UPGRADE, "-e", "upgrade_wait_minutes=0.5")
    run.waits_for(berlin)
    assert not waits(hamburg)
    up[berlin] |= call(berlin, "+4915601")  # is taken meanwhile
    run.waits_for(hamburg)
    assert not waits(berlin)
    said = run.result()
    assert run.status != 0, said
    assert now(berlin, hamburg) == old
    for pbx in (berlin, hamburg):
        assert f"{pbx.host} had no moment without a call" in said
        assert up[pbx] <= channels(pbx)
        assert call(pbx, "+4915602")  # and nothing waits for its end any more
        assert pbx.run("systemctl show --property=Restart --value asterisk").strip() == "always"


def test_one_goes_after_the_other(
    berlin: Pbx, hamburg: Pbx, monitor: Lab, old: dict[str, Asterisk], tmp_path: Path
) -> None:
    """The second has its moment at once, but waits until the first is through."""
    hang_up(hamburg)
    hamburg.wait_until_quiet()
    up = channels(berlin)
    assert up
    where = json.dumps({"backup_directory": str(tmp_path)})
    with watched(berlin) as first, watched(hamburg) as second:
        run = Run(berlin, "playbooks/backup.yml", UPGRADE, "-e", where)
        run.waits_for(berlin)
        time.sleep(5)
        assert now(berlin, hamburg) == old
        assert channels(berlin) == up
        assert not waits(hamburg)
        hang_up(berlin)
        said = run.result()
    assert run.status == 0, said
    new = now(berlin, hamburg)
    for host, asterisk_now in new.items():
        assert asterisk_now.process != old[host].process
        assert asterisk_now.package == f"{old[host].package}+newer"
        assert re.match(r"\d+\.\d+\.9[+~]", asterisk_now.version), new
        assert [path.suffix for path in (tmp_path / host).iterdir()] == [".tar"]
    assert changed(berlin, "ActiveEnter") <= changed(hamburg, "ActiveExit")
    away = [float(seconds) for seconds in re.findall(r"Asterisk was away for ([\d.]+) s", said)]
    assert len(away) == 2
    assert all(0 < seconds < 60 for seconds in away)
    assert first.went_down + second.went_down == []
    down = 'count(ALERTS{alertname="AsteriskDown",alertstate="firing"})'
    wait_until(lambda: monitor.prometheus(down) is None, 60, "Prometheus sees both again")


def test_there_is_nothing_more_to_do(berlin: Pbx, hamburg: Pbx, old: dict[str, Asterisk]) -> None:
    before = now(berlin, hamburg)
    run = Run(berlin, UPGRADE)
    said = run.result()
    assert run.status == 0, said
    assert said.count("Nothing to do") == 2
    assert said.count("changed=0") == 2
    assert now(berlin, hamburg) == before != old


@pytest.mark.usefixtures("old")
def test_a_restart_at_the_deadline_refuses_calls_before(berlin: Pbx) -> None:
    """The old process of a program that was exchanged is enough for a restart."""
    berlin.wait_until_well()  # its phones too: it was just started
    berlin.run(EXCHANGE)
    before = process(berlin)
    call(berlin, "+4915603")
    options = "upgrade_wait_minutes=0.4 upgrade_refuse_calls=true upgrade_at_deadline=restart"
    run = Run(berlin, UPGRADE, "--limit", "berlin", "-e", options)
    run.waits_for(berlin)
    # The command to wait may still be on its way to Asterisk.
    another = "lab-call provider +4915604 +493055502 1"
    wait_until(
        lambda: "503 Service Unavailable" in berlin.exec(another).stderr, 10, "calls are refused"
    )
    # still up; Asterisk's console tells nothing now
    berlin.run("pgrep --full '[s]ipp .*4915603'")
    said = run.result()
    assert run.status == 0, said
    assert "is of another one than is installed" in said
    assert process(berlin) != before
    assert berlin.exec("pgrep --full '[s]ipp .*4915603'").stdout == ""
