"""The roles firewall and fail2ban: rules from variables, and what their preflight refuses."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from scripts import load

ROOT = Path(__file__).resolve().parents[2]
firewall = load("roles/firewall/filter_plugins/firewall.py")
fail2ban = load("roles/fail2ban/filter_plugins/fail2ban.py")
table = load("roles/firewall/library/nftables_table.py")

EVERYBODY = ["0.0.0.0/0", "::/0"]


@pytest.mark.parametrize(
    ("sources", "matches"),
    [
        (EVERYBODY, [""]),
        (["::/0", "0.0.0.0/0", "192.0.2.7"], [""]),
        (["0.0.0.0/0"], ["meta nfproto ipv4 "]),
        (["::/0", "192.0.2.7"], ["ip saddr { 192.0.2.7/32 } ", "meta nfproto ipv6 "]),
        (
            ["192.0.2.0/24", "192.0.2.7", "198.51.100.1", "2001:db8::/32"],
            ["ip saddr { 192.0.2.0/24, 198.51.100.1/32 } ", "ip6 saddr { 2001:db8::/32 } "],
        ),
    ],
)
def test_sources_of_both_families(sources, matches):
    assert list(firewall.matches(sources)) == matches


def test_rules_in_the_language_of_nftables():
    rules = [
        {"port": 22, "sources": EVERYBODY},
        {"port": "10000-20000", "protocol": "udp", "sources": EVERYBODY},
        {"port": "5432", "protocol": "tcp", "sources": ["192.0.2.11", "2001:db8::11"]},
    ]
    assert firewall.statements(rules) == [
        "tcp dport 22 accept",
        "udp dport 10000-20000 accept",
        "ip saddr { 192.0.2.11/32 } tcp dport 5432 accept",
        "ip6 saddr { 2001:db8::11/128 } tcp dport 5432 accept",
    ]


def test_sip_is_open_where_it_listens():
    transports = [
        {"protocol": "udp", "bind": "0.0.0.0:5080"},
        {"protocol": "tcp", "bind": "192.0.2.1"},
        {"protocol": "tls", "bind": "[::]:5071"},
        {"protocol": "tls", "bind": "0.0.0.0"},
        {"protocol": "udp", "bind": "[::]:5080"},
    ]
    rules = firewall.sip_rules(transports, ["192.0.2.0/24"])
    assert [(rule["port"], rule["protocol"]) for rule in rules] == [
        ("5080", "udp"), ("5060", "tcp"), ("5071", "tcp"), ("5061", "tcp")
    ]  # fmt: skip
    assert {tuple(rule["sources"]) for rule in rules} == {("192.0.2.0/24",)}


def defaults(role):
    return yaml.safe_load((ROOT / "roles" / role / "defaults/main.yml").read_text())


def test_where_the_inventory_says_nothing_the_ports_are_those_of_the_other_roles():
    """They run in other plays, where their defaults are not seen."""
    audio = defaults("firewall")["firewall_rtp_ports"]
    for name in ("asterisk_rtp_start", "asterisk_rtp_end"):
        assert f"{name} | default({defaults('asterisk')[name]})" in audio
    transports = defaults("firewall")["firewall_sip_transports"]
    for one in defaults("pbx")["pbx_transports"]:
        assert str({"protocol": one["protocol"], "bind": one["bind"]}) in transports
    security = [
        n
        for n, levels in defaults("asterisk")["asterisk_log_files"].items()
        if "security" in levels
    ]
    assert defaults("fail2ban")["fail2ban_log_file"] == f"/var/log/asterisk/{security[0]}"


FINE = {
    "firewall_ssh_ports": [22, "2222"],
    "firewall_ssh_sources": ["192.0.2.0/24", "2001:db8::1"],
    "firewall_sip_sources": [],
    "firewall_rtp_ports": "10000-20000",
    "firewall_rules": [{"port": 5039, "sources": ["192.0.2.7"]}],
    "firewall_take_back_seconds": 30,
}


def test_settings_that_are_fine():
    assert firewall.problems(FINE) == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"firewall_ssh_ports": [0]}, "firewall_ssh_ports: '0' is no port"),
        ({"firewall_rtp_ports": "20000-10000"}, "firewall_rtp_ports: '20000-10000' is no port"),
        ({"firewall_rtp_ports": "10000:20000"}, "firewall_rtp_ports: '10000:20000' is no port"),
        (
            {"firewall_rules": [{"port": "70000", "sources": ["192.0.2.7"]}]},
            "firewall_rules: '70000' is no port",
        ),
        (
            {"firewall_rules": [{"port": "80; }", "sources": ["192.0.2.7"]}]},
            "firewall_rules: '80; }' is no port",
        ),
        ({"firewall_rules": [{"port": 80, "sources": []}]}, "port 80 has no sources"),
        (
            {"firewall_rules": [{"port": 80, "sources": ["192.0.2.7/24"]}]},
            "firewall_rules: '192.0.2.7/24' is no network",
        ),
        ({"firewall_ssh_sources": ["office"]}, "firewall_ssh_sources: 'office' is no network"),
        ({"firewall_ssh_sources": []}, "firewall_ssh_sources is empty"),
        ({"firewall_sip_sources": ["any"]}, "firewall_sip_sources: 'any' is no network"),
        ({"firewall_take_back_seconds": 2}, "firewall_take_back_seconds is 2"),
    ],
)
def test_settings_that_cannot_be_are_named(setting, expected):
    (problem,) = firewall.problems({**FINE, **setting})
    assert expected in problem


JAIL = {
    "fail2ban_maxretry": 5,
    "fail2ban_findtime": "10m",
    "fail2ban_bantime": "1d",
    "fail2ban_ignoreip": ["192.0.2.0/24", "2001:db8::1"],
}


def test_a_jail_that_is_fine():
    assert fail2ban.problems(JAIL) == []


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ({"fail2ban_maxretry": 0}, "fail2ban_maxretry is 0"),
        ({"fail2ban_findtime": "10 minutes"}, "fail2ban_findtime: '10 minutes' is no duration"),
        ({"fail2ban_bantime": "0h"}, "fail2ban_bantime: '0h' is no duration"),
        ({"fail2ban_ignoreip": ["provider"]}, "fail2ban_ignoreip: 'provider' is no network"),
    ],
)
def test_a_jail_that_cannot_be_is_named(setting, expected):
    (problem,) = fail2ban.problems({**JAIL, **setting})
    assert expected in problem


# --- the module that tries rules -----------------------------------------------------------------


class Module:
    """What the module asks of Ansible; nft answers with `statuses` by its first argument."""

    def __init__(self, path, check_mode=False, nft="/usr/sbin/nft", **statuses):
        self.params = {"table": "inet appliance", "path": str(path)}
        self.check_mode, self.nft, self.statuses = check_mode, nft, statuses
        self.ran = []

    def get_bin_path(self, _):
        return self.nft

    def run_command(self, command, check_rc=False, data=None):  # noqa: ARG002
        self.ran.append(" ".join(command))
        status = self.statuses.get(command[1].strip("-"), 0)
        if check_rc and status:
            raise SystemExit(self.ran[-1])
        return status, "", ""

    def fail_json(self, msg):
        raise SystemExit(msg)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "nftables.d" / "appliance.nft"


def test_new_rules_are_checked_and_their_end_is_set_before_they_are_in_force(path):
    module = Module(path)
    assert table.Table(module).tried("new", 30)
    check, stop, timer, load = module.ran
    assert check == "/usr/sbin/nft --check --file -"
    assert stop == "systemctl stop appliance-firewall-take-back.timer"
    assert timer.startswith("systemd-run ")
    assert "--on-active=30s" in timer
    assert load == f"/usr/sbin/nft --file {path}.trial"
    assert not path.exists()


def test_rules_that_nft_refuses_change_nothing(path):
    module = Module(path, check=1)
    with pytest.raises(SystemExit):
        table.Table(module).tried("new", 30)
    assert len(module.ran) == 1
    assert not path.parent.exists()


def test_rules_that_are_in_force_are_not_tried_again(path):
    path.parent.mkdir()
    path.write_text("old")
    assert not table.Table(Module(path)).tried("old", 30)
    assert table.Table(Module(path)).tried("new", 30)
    # somebody has flushed them
    assert table.Table(Module(path, list=1)).tried("old", 30)


def test_a_dry_run_checks_and_changes_nothing(path):
    module = Module(path, check_mode=True)
    assert table.Table(module).tried("new", 30)
    assert module.ran == ["/usr/sbin/nft --check --file -"]
    assert table.Table(Module(path, check_mode=True, nft=None)).tried("new", 30)
    assert not path.parent.exists()


def test_rules_are_kept_unless_they_have_been_taken_back(path):
    module = Module(path)
    table.Table(module).tried("new", 30)
    assert table.Table(module).kept()
    assert path.read_text() == "new"
    with pytest.raises(SystemExit, match="firewall_ssh_sources"):
        table.Table(module).kept()


def test_what_brings_the_old_rules_back():
    there = SimpleNamespace(path=Path("/etc/x.nft"), trial=Path("/etc/x.nft.trial"))
    command = table.take_back("inet appliance", there.path, there.trial)
    assert command == (
        "rm -f /etc/x.nft.trial\nif [ -e /etc/x.nft ]\nthen exec nft --file /etc/x.nft\n"
        "else exec nft delete table inet appliance\nfi"
    )


def test_nothing_is_left(path):
    path.parent.mkdir()
    path.write_text("old")
    assert table.Table(Module(path, check_mode=True)).absent()
    assert path.exists()
    module = Module(path)
    assert table.Table(module).absent()
    assert module.ran[-1] == "/usr/sbin/nft delete table inet appliance"
    assert not path.exists()
    assert not table.Table(Module(path, list=1)).absent()
    assert not table.Table(Module(path, nft=None)).absent()
