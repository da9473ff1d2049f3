"""Options that the target's Asterisk does not know are refused, removed features never written."""

import re
from pathlib import Path

import pytest
import yaml
from scripts import load

ROLES = Path(__file__).parents[2] / "roles"
TABLE = yaml.safe_load((ROLES / "pbx" / "vars" / "main.yml").read_text())["_pbx_option_versions"]
_module = load("roles/pbx/filter_plugins/pbx_versions.py")

INSTALLED = "Asterisk 16.28.0~dfsg-0+deb11u4"
CANDIDATE = "asterisk:\n  Installed: (none)\n  Candidate: 1:22.10.1+dfsg+~cs6.17.60671434-1\n"


def refused(version, **options):
    settings = {"pbx_phones": [{"extension": "101"}, {"extension": "102", "options": options}]}
    return _module.pbx_unknown_options(settings, version, TABLE)


@pytest.mark.parametrize(
    ("version", "good"),
    [
        ("18.16.9", False),
        ("18.17.0", True),
        ("18.9.0", False),
        ("19.9.0", False),
        ("20.1.0", False),
        ("20.2.0", True),
        ("21.0.0", True),
        ("22.10.1", True),
    ],
)
def test_each_branch_has_its_own_first_version(version, good):
    assert _module.knows(_module.parse(version), ["18.17", "20.2"]) is good


def test_the_sentence_names_place_option_and_versions():
    (found,) = refused(INSTALLED, suppress_moh_on_sendonly="yes", direct_media="no")
    assert found.startswith(
        "pbx_phones[1].options.suppress_moh_on_sendonly came with Asterisk 20.11, 21.6, 22.1, and "
        "the target has 16.28.0:"
    )


def test_what_apt_would_install_counts():
    assert refused(CANDIDATE, suppress_moh_on_sendonly="yes") == []


@pytest.mark.parametrize("text", ["", "asterisk:\n  Installed: (none)\n  Candidate: (none)\n"])
def test_of_an_unknown_version_nothing_is_refused(text):
    assert refused(text, suppress_moh_on_sendonly="yes") == []


def test_trunks_and_transports_too():
    settings = {
        "pbx_trunks": [{"options": {"send_aoc": "yes"}}],
        "pbx_transports": [{"options": {"tcp_keepalive_enable": "yes"}}],
    }
    assert len(_module.pbx_unknown_options(settings, "20.0.0", TABLE)) == 2
    assert _module.pbx_unknown_options(settings, "20.8.0", TABLE) == []


def test_queues_and_what_all_of_them_share():
    settings = {
        "pbx_queues": [{}, {"options": {"periodic-announce-startdelay": 30, "weight": 2}}],
        "pbx_queue_general_options": {"log-caller-id-name": True, "persistentmembers": True},
    }
    of_queue, of_all = _module.pbx_unknown_options(settings, INSTALLED, TABLE)
    assert of_queue.startswith("pbx_queues[1].options.periodic-announce-startdelay came with")
    assert of_all.startswith("pbx_queue_general_options.log-caller-id-name came with")
    assert _module.pbx_unknown_options(settings, "22.4.0", TABLE) == []


def test_the_table_is_versions():
    for options in TABLE.values():
        for since in options.values():
            assert since == sorted(since, key=_module.parse)
            assert all(re.fullmatch(r"\d+\.\d+", one) for one in since)


REMOVED = (
    r"chan_sip|app_macro|res_monitor|app_meetme|membermacro|\bautomon\b|\b(Macro|Monitor)\(|SIP/"
)


def test_what_asterisk_21_removed_is_never_written():
    for name in ("asterisk", "call_routing", "pbx"):
        written = [*(ROLES / name / "templates").iterdir(), *(ROLES / name / "vars").iterdir()]
        for path in written:
            found = [one[0] for one in re.finditer(REMOVED, path.read_text().replace("PJSIP/", ""))]
            assert found == [], path
