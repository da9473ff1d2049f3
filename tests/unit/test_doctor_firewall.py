"""The doctor's links that are firewalls: what nftables would do, and what is said about it."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from asterisk_exporter import config
from asterisk_exporter.doctor import firewall
from asterisk_exporter.doctor.firewall import Answer, judge_ami, judge_metrics, knock, protection
from asterisk_exporter.doctor.nft import Outcome, Packet, Rule, Ruleset, texts
from asterisk_exporter.doctor.pbx import Pbx, Ran
from asterisk_exporter.health import Status

DPORT = {"payload": {"protocol": "tcp", "field": "dport"}}
SADDR = {"payload": {"protocol": "ip", "field": "saddr"}}


def match(left, right, op="=="):
    return {"match": {"op": op, "left": left, "right": right}}


UDP = {"payload": {"protocol": "udp", "field": "dport"}}
XT = {"xt": {"type": "match", "name": "x"}}


def meta(key, right, op="=="):
    return match({"meta": {"key": key}}, right, op)


def port(right, op="=="):
    return match(DPORT, right, op)


def by_port(data):
    return {"vmap": {"key": DPORT, "data": data}}


ACCEPT, DROP = {"accept": None}, {"drop": None}
REJECT = {"reject": {"type": "tcp reset"}}


def ruleset(*rules, policy="accept", chains=(), sets=(), hook="input"):
    """Return a table with a chain ``input`` that has these rules, and more chains of their own."""
    base = {"family": "inet", "table": "t"}
    entries = [
        {"metainfo": {"json_schema_version": 1}},
        {"table": {"family": "inet", "name": "t", "handle": 1}},
        *({"set": {**base, "name": name, "elem": elements}} for name, elements in sets),
        {
            "chain": {
                **base, "name": "input", "type": "filter", "hook": hook, "prio": 0, "policy": policy
            }
        },
    ]  # fmt: skip
    for chain, listed in (("input", rules), *chains):
        entries += [{"chain": {**base, "name": chain}}] if chain != "input" else []
        for handle, expr in enumerate(listed, 1):
            entries.append({"rule": {**base, "chain": chain, "handle": handle, "expr": expr}})
    return Ruleset.parse(json.dumps({"nftables": entries}))


AMI, REMOTE = Packet(5038, loopback=True), Packet(5038)


@pytest.mark.parametrize(
    ("found", "packet", "passes"),
    [
        (Ruleset(), REMOTE, True),
        (ruleset(), REMOTE, True),
        (ruleset(policy="drop"), REMOTE, False),
        (ruleset([port(5038), DROP]), REMOTE, False),
        (ruleset([port(5039), DROP]), REMOTE, True),
        (ruleset([port(5038), {"counter": None}, REJECT]), REMOTE, False),
        (ruleset([port({"set": [80, 5038]}), DROP]), REMOTE, False),
        (ruleset([port({"set": [80, {"range": [5000, 5100]}]}), DROP]), REMOTE, False),
        (ruleset([port({"range": [1, 100]}, "!="), DROP]), REMOTE, False),
        (ruleset([port("@ami"), DROP], sets=[("ami", [{"elem": {"val": 5038}}])]), REMOTE, False),
        (ruleset([port("@ami"), DROP], sets=[("ami", [22])]), REMOTE, True),
        # lo first, as every firewall has it
        (ruleset([meta("iif", "lo"), ACCEPT], policy="drop"), AMI, True),
        (ruleset([meta("iif", "lo"), ACCEPT], policy="drop"), REMOTE, False),
        (ruleset([meta("iifname", "lo", "!="), port(5038), DROP]), AMI, True),
        (ruleset([meta("iifname", "lo", "!="), port(5038), DROP]), REMOTE, False),
        # an established connection is none that begins
        (
            ruleset(
                [match({"ct": {"key": "state"}}, ["established", "related"], "in"), ACCEPT],
                policy="drop",
            ),
            REMOTE,
            False,
        ),
        # some sources only
        (ruleset([match(SADDR, "192.0.2.7"), port(5038), ACCEPT], policy="drop"), REMOTE, None),
        (ruleset([match(SADDR, "192.0.2.7", "!="), port(5038), DROP]), REMOTE, None),
        (
            ruleset([match(SADDR, "192.0.2.7"), port(5038), ACCEPT], policy="drop"),
            Packet(5038, "192.0.2.7"),
            True,
        ),
        (
            ruleset([match(SADDR, "192.0.2.7"), port(5038), ACCEPT], policy="drop"),
            Packet(5038, "192.0.2.8"),
            False,
        ),
        (
            ruleset([match(SADDR, {"prefix": {"addr": "192.0.2.0", "len": 24}}), DROP]),
            Packet(5038, "192.0.2.8"),
            False,
        ),
        (
            ruleset([match(SADDR, {"range": ["192.0.2.1", "192.0.2.9"]}), DROP]),
            Packet(5038, "192.0.2.8"),
            False,
        ),
        # a blacklist that does not name the port is no closed door
        (ruleset([match(SADDR, "192.0.2.7"), DROP]), REMOTE, True),
        (ruleset([match(SADDR, "192.0.2.7"), DROP]), Packet(5038, "2001:db8::1", False, 6), True),
        # other protocols
        (ruleset([meta("l4proto", {"set": ["icmp", "udp"]}), DROP]), REMOTE, True),
        (ruleset([match(UDP, 5038), DROP]), AMI, True),
        # what this does not know may be met
        (ruleset([XT, port(5038), ACCEPT], policy="drop"), AMI, None),
        (ruleset([{"limit": {"rate": 5}}, port(5038), DROP]), AMI, None),
        (ruleset([match({"concat": []}, 1), port(5038), DROP]), AMI, None),
        # chains
        (ruleset([{"jump": {"target": "a"}}], chains=[("a", [[port(5038), DROP]])]), AMI, False),
        (
            ruleset(
                [port(5038), {"jump": {"target": "a"}}],
                [ACCEPT],
                policy="drop",
                chains=[("a", [[{"return": None}], [DROP]])],
            ),
            AMI,
            True,
        ),
        (
            ruleset([{"goto": {"target": "a"}}], [ACCEPT], policy="drop", chains=[("a", [])]),
            AMI,
            False,
        ),
        (ruleset([{"return": None}], [ACCEPT], policy="drop"), AMI, False),
        (
            ruleset(
                [match(SADDR, "192.0.2.7"), {"jump": {"target": "a"}}],
                policy="drop",
                chains=[("a", [[port(5038), ACCEPT]])],
            ),
            REMOTE,
            None,
        ),
        # verdict maps
        (ruleset([by_port({"set": [[5038, DROP]]})]), AMI, False),
        (ruleset([by_port({"set": [[22, DROP]]})]), AMI, True),
        (ruleset([by_port("@m")], sets=[("m", [[5038, DROP]])]), AMI, False),
        (ruleset([{"vmap": {"key": SADDR, "data": {"set": [["192.0.2.7", DROP]]}}}]), AMI, True),
        # another hook
        (ruleset(policy="drop", hook="forward"), REMOTE, True),
    ],
)  # fmt: skip
def test_what_becomes_of_a_packet(found, packet, passes):
    assert found.outcome(packet).passes is passes


def test_the_firewall_of_the_appliance_and_its_bans():
    """Roles firewall and fail2ban, as nft shows their tables."""
    states = {"ct": {"key": "state"}}
    firewall_of_ours = ruleset(
        [meta("iif", "lo"), ACCEPT],
        [match(states, {"set": ["established", "related"]}), ACCEPT],
        [match(states, "invalid", "in"), DROP],
        [meta("l4proto", {"set": ["icmp", "ipv6-icmp"]}), ACCEPT],
        [match(SADDR, "192.0.2.50"), port(22), ACCEPT],
        [match(UDP, {"range": [10000, 20000]}), ACCEPT],
        [port(5060), ACCEPT],
        [match(SADDR, "192.0.2.31"), port(9739), ACCEPT],
        [meta("nfproto", "ipv6"), port(80), ACCEPT],
        policy="drop",
    )
    assert firewall_of_ours.outcome(Packet(9739)).passes is None
    assert firewall_of_ours.outcome(Packet(9739, "192.0.2.31")).passes is True
    assert firewall_of_ours.outcome(Packet(9739, "192.0.2.50")).passes is False
    assert firewall_of_ours.outcome(REMOTE).passes is False
    assert firewall_of_ours.outcome(AMI).passes is True
    assert firewall_of_ours.outcome(Packet(5060)).passes is True
    assert firewall_of_ours.outcome(Packet(80, version=6)).passes is True
    bans = [meta("l4proto", {"set": ["tcp", "udp"]}), match(SADDR, "@addr-set-asterisk"), DROP]
    banned = ruleset(bans, sets=[("addr-set-asterisk", ["203.0.113.9"])])
    assert banned.outcome(REMOTE).passes is True
    assert banned.outcome(Packet(5038, "203.0.113.9")).passes is False


def test_a_jump_that_never_ends():
    loop = ruleset([{"jump": {"target": "a"}}], chains=[("a", [[{"jump": {"target": "a"}}]])])
    assert loop.outcome(AMI).passes is True


def test_the_rule_that_ended_it_has_a_text():
    listing = """\
table ip other {
\tchain input { # handle 1
\t\ttcp dport 1 accept # handle 1
\t}
}
table inet t { # handle 1
\tset ports { # handle 3
\t\ttype inet_service
\t}

\tchain input { # handle 1
\t\ttype filter hook input priority filter; policy drop;
\t\ttcp dport 5038 counter packets 3 bytes 180 drop comment "no AMI" # handle 1
\t}
}
"""
    words = dict(texts(listing))
    outcome = ruleset([port(5038), DROP]).outcome(REMOTE)
    assert outcome.rule == Rule("inet", "t", "input", 1)
    assert firewall.described(outcome.rule, words) == (
        "the rule 'tcp dport 5038 counter packets 3 bytes 180 drop comment \"no AMI\"' in inet t "
        "input"
    )
    policy = ruleset(policy="drop").outcome(REMOTE).rule
    assert firewall.described(policy, words) == "the policy of inet t input"
    assert firewall.described(None, words) == "no rule"


BY = Rule("inet", "t", "input", 1)
WORDS = {BY: "tcp dport 5038 drop"}
PASSES, DROPS, REJECTS = Outcome("accept"), Outcome("drop", BY), Outcome("reject", BY)


@pytest.mark.parametrize(
    ("answer", "outcome", "status", "text"),
    [
        (Answer.OPEN, PASSES, Status.OK, "AMI on pbx:5038 is reached in 1.5 ms"),
        (Answer.SILENT, DROPS, Status.CRITICAL, "drops our own connection"),
        (Answer.REFUSED, REJECTS, Status.CRITICAL, "rejects our own connection to AMI on pbx:5038"),
        (Answer.SILENT, PASSES, Status.CRITICAL, "neither accepts nor refuses"),
        (Answer.REFUSED, PASSES, Status.CRITICAL, "nothing listens there, or a firewall rejects"),
        (Answer.NO_WAY, PASSES, Status.CRITICAL, "there is no way to pbx:5038"),
    ],
)
def test_our_way_to_ami(answer, outcome, status, text):
    finding = judge_ami("pbx:5038", answer, 0.0015, outcome, WORDS)
    assert (finding.status, text in finding.text) == (status, True), finding
    assert ("'tcp dport 5038 drop' in inet t input" in finding.text) is (outcome is not PASSES)
    assert bool(finding.action) is (status is Status.CRITICAL)


@pytest.mark.parametrize(
    ("scraper", "outcome", "status", "text"),
    [
        (None, PASSES, Status.OK, "lets other machines reach /metrics on 192.0.2.1:9739"),
        (None, Outcome("drop", BY, (("accept", BY),)), Status.OK, "lets some of other machines"),
        (None, DROPS, Status.WARNING, "drops what other machines send"),
        ("prom", PASSES, Status.OK, "lets Prometheus on prom reach"),
        ("prom", REJECTS, Status.CRITICAL, "rejects what Prometheus on prom send"),
    ],
)
def test_the_way_of_prometheus(scraper, outcome, status, text):
    finding = judge_metrics("192.0.2.1:9739", scraper, outcome, WORDS)
    assert (finding.status, text in finding.text) == (status, True), finding
    assert ("asterisk_exporter_listen_address" in finding.action) is (status is not Status.OK)


def test_what_keeps_others_out():
    assert protection(PASSES, WORDS) == "No firewall rule of this machine keeps anybody out."
    assert protection(DROPS, WORDS).startswith("The firewall keeps others out: the rule 'tcp")
    some = Outcome("drop", BY, (("accept", BY),))
    assert protection(some, WORDS).startswith("The firewall keeps all but some out")


@pytest.mark.parametrize(
    ("nft", "ran", "why"),
    [
        (None, None, "there is no nft on this machine"),
        ("/sbin/nft", Ran(1, "", "Operation not permitted\n"), "at: Operation not permitted"),
        ("/sbin/nft", Ran(0, "table inet t", ""), "not what this program expects"),
    ],
)
def test_rules_that_cannot_be_looked_at_are_no_finding(monkeypatch, nft, ran, why):
    monkeypatch.setattr(firewall.shutil, "which", lambda _: nft)
    monkeypatch.setattr(firewall, "knock", lambda *_: (Answer.OPEN, 0.001))
    pbx = Pbx(config.Config(listen={"address": "192.0.2.1"}), Path("x"), 1.0)
    pbx.run = lambda _: ran
    [ami] = firewall.to_ami(pbx)
    [scrape] = firewall.to_metrics(pbx)
    assert (ami.status, scrape.status, why in scrape.text) == (Status.OK, None, True)
    assert why in firewall.keeps_out(pbx, 5038)


def test_the_way_of_a_prometheus_that_is_known(monkeypatch):
    found = ruleset([match(SADDR, "192.0.2.7"), port(9739), ACCEPT], policy="drop")
    for url, status in (
        ("http://192.0.2.7:9090", Status.OK),
        (None, Status.OK),
        ("https://192.0.2.8/p", Status.CRITICAL),
    ):
        settings = config.Config(listen={"address": "192.0.2.1"}, doctor={"prometheus_url": url})
        pbx = Pbx(settings, Path("x"), 1.0)
        monkeypatch.setattr(firewall, "rules", lambda _: (found, {}))
        assert [finding.status for finding in firewall.to_metrics(pbx)] == [status], url
    local = Pbx(config.Config(), Path("x"), 1.0)
    assert [finding.status for finding in firewall.to_metrics(local)] == [None]


def test_a_knock():
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = server.getsockname()[1]
        assert knock("127.0.0.1", there, 1.0)[0] is Answer.OPEN
    assert knock("127.0.0.1", there, 1.0)[0] is Answer.REFUSED
    assert knock("no host", 1, 1.0)[0] is Answer.NO_WAY
