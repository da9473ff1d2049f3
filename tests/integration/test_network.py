"""The lab's network on a host whose firewall drops what is forwarded, in a network of its own."""

from __future__ import annotations

import subprocess
import textwrap
from pathlib import Path

from lab import ROOT

FIREWALL = (
    "table ip filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }"
)


def test_lab_passes_a_firewall_that_drops_and_leaves_it_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "firewall.nft").write_text(FIREWALL)
    script = textwrap.dedent(
        f"""
        set -e
        exec 2>&1
        export PATH="{ROOT}/.venv/bin:$PATH"
        export lab="-e lab_clone={tmp_path}"
        destroy="ansible-playbook playbooks/lab/destroy.yml $lab"
        mkdir {tmp_path}/.lab
        create="ansible-playbook playbooks/lab/create.yml --tags network $lab"
        nft -f {tmp_path}/firewall.nft
        nft list ruleset >{tmp_path}/before
        cat /proc/sys/net/ipv4/ip_forward >>{tmp_path}/before
        $create
        nft list chain ip filter FORWARD >{tmp_path}/during
        $create | grep changed=0
        nft list chain ip filter FORWARD | cmp - {tmp_path}/during
        cat /sys/class/net/pbxlab0/ifalias

        # A site goes, and the network stays for the machine of another.
        sites={tmp_path}/.lab/sites
        other="systemd-nspawn --directory=$sites/other/machines/m"
        bash -c "exec -a '$other' sleep 600" >/dev/null 2>&1 &
        mkdir -p $sites/one/ssh
        $destroy -e lab_directory=$sites/one
        [ ! -e $sites/one ]
        nft list chain ip filter FORWARD | cmp - {tmp_path}/during
        ip link show pbxlab0
        kill $!

        $destroy
        nft list ruleset >{tmp_path}/after
        cat /proc/sys/net/ipv4/ip_forward >>{tmp_path}/after
        ip link show pbxlab0 && exit 1
        exit 0
        """
    )
    result = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", f"mount -t sysfs none /sys; {script}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    during = (tmp_path / "during").read_text()
    assert 'iifname "pbxlab0" accept comment "pbxlab0"' in during
    assert 'oifname "pbxlab0" accept comment "pbxlab0"' in during
    assert (tmp_path / "after").read_text() == (tmp_path / "before").read_text()
