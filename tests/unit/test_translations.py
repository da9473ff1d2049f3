# ruff: noqa: RUF001 (Russian is checked here)
"""The alerts' texts in Russian say of what the English ones say, with the same figures."""

import re
from pathlib import Path

import pytest
import yaml
from scripts import load

ROLE = Path(__file__).resolve().parents[2] / "roles/prometheus"
TRANSLATION = yaml.safe_load((ROLE / "files/translations/ru.yml").read_text())
TEXTS = ("summary", "description", "action")
TEMPLATE = re.compile(r"\{\{.*?\}\}", re.DOTALL)
# Names and commands that are written in Latin letters in Russian, too.
LATIN = re.compile(
    r"journalctl -u [a-z-]+( --since -\w+| -n 20| \|)|systemctl status [a-z-]+|ssh|ping|mtr"
    r"""| \| grep -i (rule|remote)"""
    r"""|grep (-E )?"[a-z ()|]+"( /var/log/asterisk/messages.log \| tail)?"""
    r"""|asterisk -rx ("[a-z ]+"|'[a-z ]+')"""
    r"|du -xh --max-depth=2 /var/spool/asterisk \| sort -h \| tail|/etc/asterisk/manager.conf"
    r"|tail -n \d+ /var/log/asterisk/(queue_log|messages.log)|df /var/log|write = reporting"
    r"|manager.conf"
    r"|openssl s_client -connect +</dev/null( \| openssl x509 -noout -dates)?|pg_stat_activity"
    r"|asterisk-exporter( missed( --outstanding)?| queues| check| notify --test)?"
    r"|Alertmanager|Asterisk|Prometheus|AMI|ASR|CDR|cdr|CRM|NER|OPTIONS|RTCP|SIP|TLS|Wi-Fi"
    r"|/opt/call-routing/crm_route.py --ask anonymous NUMBER"
    r"|journalctl -u call-routing -t crm_route -n 20"
    r"|No response|queue_log|\bC\b|\bA\b"
)


translations = load("roles/prometheus/filter_plugins/prometheus_translations.py")
RULES = [
    (translations.key_of(rule, TRANSLATION["alerts"]), rule["annotations"])
    for path in sorted((ROLE / "files/rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
]


def used(text):
    """Return labels, values and queries in the templates of a text."""
    parts = TEMPLATE.findall(text)
    quoted = {found for part in parts for found in re.findall(r'"[^"]*"|`[^`]*`', part)}
    figures = {found for part in parts for found in re.findall(r"\$labels\.\w+|\$value", part)}
    return figures | {found for found in quoted if "{" in found}


def test_every_alert_is_translated_and_nothing_else():
    assert set(TRANSLATION["alerts"]) == {key for key, _ in RULES}


@pytest.mark.parametrize(("key", "english"), RULES)
def test_a_translation_has_all_texts_in_russian_with_the_same_figures(key, english):
    russian = TRANSLATION["alerts"][key]
    assert set(russian) == set(TEXTS)
    for name in TEXTS:
        plain = TEMPLATE.sub(" ", russian[name])
        assert re.search("[а-яё]{3}", plain), name
        assert re.findall("[A-Za-z]+", LATIN.sub("", plain)) == [], name
        assert used(russian[name]) == used(english[name]), name
        # As the English texts are tested to be: one line.
        assert "\n" not in russian[name].strip()


def test_a_rule_gets_its_texts_and_keeps_the_rest():
    group = {"name": "g", "interval": "1m"}
    record = {"record": "a:b:c", "expr": "1"}
    ours = {
        "alert": "QueueServiceLevelBurn",
        "expr": "1",
        "labels": {"window": "6h"},
        "annotations": {"summary": "English", "runbook_url": "http://x"},
    }
    other = {"alert": "Own", "expr": "1", "annotations": {"summary": "Own"}}
    groups = [{**group, "rules": [record, ours, other]}]
    (made,) = translations.translated(groups, TRANSLATION)
    assert made["interval"] == "1m"
    assert made["rules"][0] == record
    assert made["rules"][2] == other
    assert "последние 6 часов" in made["rules"][1]["annotations"]["description"]
    assert made["rules"][1]["annotations"]["runbook_url"] == "http://x"
    assert translations.translated(groups, {}) == groups


def test_units_of_durations_are_russian():
    ours = {"alert": "QueueWaitLong", "annotations": {}}
    ((made,),) = (g["rules"] for g in translations.translated([{"rules": [ours]}], TRANSLATION))
    for text in ("summary", "description"):
        assert '| humanizeDuration | reReplaceAll "([0-9])ms" "$1 мс"' in made["annotations"][text]
    assert "humanizeDuration }}" not in str(made)
