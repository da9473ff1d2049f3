"""The filters of cdr_database and alertmanager, and the lock of asterisk_exporter."""

import base64
import hashlib
import hmac
import re
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from scripts import load

ROOT = Path(__file__).resolve().parents[2]


database = load("roles/cdr_database/filter_plugins/cdr_database.py")
exporter = load("roles/asterisk_exporter/filter_plugins/asterisk_exporter.py")
alertmanager = load("roles/alertmanager/filter_plugins/alertmanager.py")
wheels = load("roles/asterisk_exporter/files/wheels.py")
LOCK = ROOT / "roles/asterisk_exporter/files/requirements.txt"


# --- cdr_database


def test_a_verifier_is_what_postgresql_checks_a_client_against():
    # RFC 5802: the server holds H(ClientKey) and ServerKey; the client proves it has ClientKey.
    verifier = database.scram_verifier("pencil-pencil-pencil")
    scheme, parameters, keys = verifier.split("$")
    iterations, salt = parameters.split(":")
    stored, server = (base64.b64decode(key) for key in keys.split(":"))
    salted = hashlib.pbkdf2_hmac(
        "sha256", b"pencil-pencil-pencil", base64.b64decode(salt), int(iterations)
    )
    client_key = hmac.digest(salted, b"Client Key", "sha256")
    assert scheme == "SCRAM-SHA-256"
    assert hashlib.sha256(client_key).digest() == stored
    assert hmac.digest(salted, b"Server Key", "sha256") == server


def test_a_verifier_is_the_same_each_time_and_another_for_another_password():
    assert database.scram_verifier("a" * 32) == database.scram_verifier("a" * 32)
    assert (
        database.scram_verifier("a" * 32).split("$")[1]
        != database.scram_verifier("b" * 32).split("$")[1]
    )


def test_addresses_that_are_fine():
    assert (
        database.address_problems(
            ["127.0.0.1", "::1", "*", "localhost"], ["192.0.2.0/24", "2001:db8::/32"]
        )
        == []
    )


@pytest.mark.parametrize("network", ["192.0.2.1", "192.0.2.1/24", "192.0.2.0/33", "pbx1/32", ""])
def test_a_network_that_is_none_is_named(network):
    (problem,) = database.address_problems([], [network])
    assert f"cdr_database_clients: '{network}'" in problem


def test_an_address_that_is_none_is_named():
    (problem,) = database.address_problems(["192.0.2.300"], [])
    assert "cdr_database_listen_addresses: '192.0.2.300'" in problem


@pytest.mark.parametrize("path", sorted((ROOT / "roles/cdr_database/files/migrations").iterdir()))
def test_migrations_are_numbered_without_gap_and_leave_transactions_alone(path):
    names = sorted(other.name for other in path.parent.iterdir())
    assert int(path.name.split("_")[0]) == names.index(path.name) + 1
    # What a function or procedure will do one day is a text here; a procedure may well commit.
    now = re.sub(r"\$\$.*?\$\$", "", path.read_text(), flags=re.DOTALL)
    statements = [line.split("--")[0].strip().upper() for line in now.splitlines()]
    ends = re.compile(r"(BEGIN|COMMIT|ROLLBACK)\b.*;|\\")
    assert not any(ends.match(line) for line in statements)


# --- alertmanager

DUTY = {
    "name": "duty",
    "emails": ["duty@example.com"],
    "webhooks": [{"url": "https://example.com/hook?token=s3cret", "send_resolved": False}],
    "slack": [{"channel": "#pbx", "webhook_url": "https://example.com/s3cret"}],
    "telegram": [{"chat_id": -100, "bot_token": "1:s3cret"}],
    "pagerduty": [{"routing_key": "0123456789abcdef0123456789s3cret"}],
}
HOURS = {
    "weekdays": ["monday:friday", "saturday"],
    "times": [{"start_time": "08:00", "end_time": "24:00"}],
    "location": "Europe/Berlin",
}


def test_the_configuration_names_secrets_and_shows_none():
    receiver, nobody = alertmanager.config([DUTY], "/run/credentials/x")
    assert nobody == {"name": "nobody"}
    assert "s3cret" not in str(receiver)
    assert receiver["email_configs"][0]["to"] == "duty@example.com"
    assert receiver["webhook_configs"] == [
        {"url_file": "/run/credentials/x/duty-webhooks-0", "send_resolved": False}
    ]
    assert receiver["slack_configs"][0]["api_url_file"] == "/run/credentials/x/duty-slack-0"
    assert receiver["telegram_configs"][0]["bot_token_file"] == "/run/credentials/x/duty-telegram-0"
    assert receiver["telegram_configs"][0]["chat_id"] == -100
    (pagerduty,) = receiver["pagerduty_configs"]
    assert pagerduty["routing_key_file"] == "/run/credentials/x/duty-pagerduty-0"


def test_what_the_inventory_says_of_a_target_is_kept():
    telegram = {"chat_id": 1, "bot_token": "1:s3cret", "api_url": "https://bot.example.com"}
    duty = {"name": "duty", "telegram": [telegram]}
    (shown,) = alertmanager.config([duty], "/x")[0]["telegram_configs"]
    assert shown["api_url"] == "https://bot.example.com"


def test_every_template_that_the_configuration_calls_is_defined_in_every_language():
    called = re.findall(r'template "([\w.]+)"', str(alertmanager.config([DUTY], "/x")))
    folder = ROOT / "roles/alertmanager/files/templates"
    frame = (folder / "notification.tmpl").read_text()
    called += re.findall(r'template "([\w.]+)"', frame)
    languages = sorted(folder.glob("words.*.tmpl"))
    assert len(languages) == 2
    words = [re.findall(r'define "([\w.]+)"', path.read_text()) for path in languages]
    assert words[0] == words[1]
    defined = {*re.findall(r'define "([\w.]+)"', frame), *words[0]}
    assert set(called) - defined == set()
    assert set(words[0]) - set(called) == set()


def test_each_secret_that_the_configuration_names_is_there():
    assert alertmanager.secrets([DUTY], "mail") == {
        "smtp-password": "mail",
        "duty-webhooks-0": "https://example.com/hook?token=s3cret",
        "duty-slack-0": "https://example.com/s3cret",
        "duty-telegram-0": "1:s3cret",
        "duty-pagerduty-0": "0123456789abcdef0123456789s3cret",
    }
    assert alertmanager.secrets([], "") == {}


def test_receivers_and_routes_that_are_fine():
    routes = [{"receiver": "duty", "routes": [{"matchers": ["a=b"]}]}]
    routes.append(
        {"receiver": "nobody", "active_time_intervals": ["day"], "repeat_interval": "1h30m"}
    )
    assert alertmanager.problems([DUTY], "duty", {"alertmanager_routes": routes}, ["day"]) == []
    assert alertmanager.problems([], "", {}) == []


@pytest.mark.parametrize(
    ("receivers", "default", "routes", "expected"),
    [
        ([DUTY, DUTY], "", [], "'duty' is there twice"),
        ([{"name": "a/b", "emails": ["x@example.com"]}], "", [], "'a/b': the name may have"),
        ([{"name": "idle"}], "", [], "'idle' has none of emails"),
        ([{"name": "a", "emails": ["nobody"]}], "", [], "emails has 'nobody'"),
        ([{"name": "a", "webhooks": [{"url": "s3cret"}]}], "", [], "webhooks[0].url must be"),
        ([{"name": "a", "telegram": [{"bot_token": ""}]}], "", [], "telegram[0].bot_token must be"),
        (
            [{"name": "a", "telegram": [{"bot_token": "s3cret"}]}],
            "",
            [],
            "telegram[0].bot_token must be",
        ),
        (
            [{"name": "a", "telegram": [{"bot_token": "1:s3cret", "api_url": "example.com"}]}],
            "",
            [],
            "telegram[0].api_url must be",
        ),
        (
            [{"name": "a", "pagerduty": [{"routing_key": "s3cret"}]}],
            "",
            [],
            "pagerduty[0].routing_key must be",
        ),
        ([DUTY], "night", [], "alertmanager_default_receiver: there is no receiver 'night'"),
        (
            [DUTY],
            "",
            [{"routes": [{"receiver": "x"}]}],
            "alertmanager_routes: there is no receiver",
        ),
        (
            [DUTY],
            "",
            [{"routes": [{"active_time_intervals": ["night"]}]}],
            "alertmanager_routes: active_time_intervals has 'night'",
        ),
        (
            [DUTY],
            "",
            [{"mute_time_intervals": ["night"]}],
            "alertmanager_routes: mute_time_intervals has 'night'",
        ),
        (
            [DUTY],
            "",
            [{"repeat_interval": "often"}],
            "alertmanager_routes: repeat_interval: 'often'",
        ),
        ([DUTY], "", [{"repeat_interval": "0s"}], "alertmanager_routes: repeat_interval: '0s'"),
    ],
)
def test_a_problem_is_named_without_the_secret(receivers, default, routes, expected):
    (problem,) = alertmanager.problems(receivers, default, {"alertmanager_routes": routes}, ["day"])
    assert expected in problem
    assert "s3cret" not in problem


def test_business_hours_become_an_interval_by_the_clock_of_the_machine():
    assert alertmanager.intervals([], {}) == []
    (hours,) = alertmanager.intervals([], {"weekdays": ["monday:friday"]})
    assert hours == {
        "name": "business_hours",
        "time_intervals": [{"location": "Local", "weekdays": ["monday:friday"]}],
    }
    night = {"name": "night", "time_intervals": []}
    given, hours = alertmanager.intervals([night], HOURS)
    assert given == night
    assert hours["time_intervals"] == [HOURS]


def test_times_that_are_fine():
    night = {"name": "night", "time_intervals": [{"weekdays": ["sunday"], "months": ["1:3"]}]}
    durations = {"alertmanager_group_wait": "10s", "alertmanager_repeat_interval": "1d12h"}
    assert alertmanager.time_problems([night], HOURS, "Asia/Yekaterinburg", durations) == []
    assert alertmanager.time_problems([], {}, "", {}) == []


@pytest.mark.parametrize(
    ("hours", "expected"),
    [
        ({"times": [{"start_time": 480, "end_time": "18:00"}]}, "in quotes"),
        ({"times": [{"start_time": "08:00"}]}, "needs start_time and end_time"),
        ({"times": [{"start_time": "8:00", "end_time": "18:00"}]}, "needs start_time and end_time"),
        (
            {"times": [{"start_time": "08:00", "end_time": "24:01"}]},
            "needs start_time and end_time",
        ),
        ({"times": [{"start_time": "22:00", "end_time": "06:00"}]}, "Past midnight, write two"),
        ({"weekdays": ["mo"]}, "weekdays has 'mo'"),
        ({"weekdays": ["monday:sunday"]}, "The week begins with sunday"),
        ({"weekdays": ["monday:tuesday:friday"]}, "weekdays has 'monday:tuesday:friday'"),
        ({"location": "Berlin"}, "location: there is no time zone 'Berlin'"),
        ({"day": ["monday"]}, "'day' is unknown"),
    ],
)
def test_hours_that_cannot_be_are_named(hours, expected):
    (problem,) = alertmanager.time_problems([], hours, "", {})
    assert problem.startswith("alertmanager_business_hours: ")
    assert expected in problem
    night = {"name": "night", "time_intervals": [hours]}
    (problem,) = alertmanager.time_problems([night], {}, "", {})
    assert problem.startswith("alertmanager_time_intervals: 'night': ")
    assert expected in problem


@pytest.mark.parametrize(
    ("given", "hours", "zone", "durations", "expected"),
    [
        ([{"name": "business_hours"}], HOURS, "", {}, "alertmanager_time_intervals: the name 'bus"),
        ([{}], {}, "", {}, "alertmanager_time_intervals: the name '' is missing"),
        ([], {}, "Mars/Olympus", {}, "alertmanager_timezone: there is no time zone 'Mars/Olympus'"),
        (
            [],
            {},
            "",
            {"alertmanager_group_wait": "10"},
            "alertmanager_group_wait: '10' is no length",
        ),
        ([], {}, "", {"alertmanager_group_wait": ""}, "alertmanager_group_wait: '' is no length"),
    ],
)
def test_other_problems_with_times(given, hours, zone, durations, expected):
    (problem,) = alertmanager.time_problems(given, hours, zone, durations)
    assert problem.startswith(expected)


# --- asterisk_exporter


def locked(python):
    lines = wheels.requirements_for(LOCK, python, "x86_64").splitlines()
    found = [Requirement(line.split(" --hash")[0]) for line in lines]
    return {canonicalize_name(item.name): next(iter(item.specifier)).version for item in found}


@pytest.mark.parametrize("python", ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"])
def test_the_lock_fits_what_the_package_asks_for(python):
    pins = locked(python)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        wanted = Requirement(text)
        assert wanted.specifier.contains(pins[canonicalize_name(wanted.name)]), text


def test_the_lock_has_versions_and_hashes_and_no_index():
    text = LOCK.read_text()
    assert "://" not in text
    for block in text.replace("\\\n", " ").splitlines():
        if block and not block.startswith("#"):
            assert "==" in block
            assert "--hash=sha256:" in block


def test_markers_are_those_of_the_target(tmp_path):
    lock = tmp_path / "lock.txt"
    lock.write_text(
        "# comment\na==1 ; python_full_version < '3.10' \\\n    --hash=sha256:00\n"
        "a==2 ; python_full_version >= '3.10'\nb==1 ; sys_platform == 'win32'\n"
    )
    assert wheels.requirements_for(lock, "3.9", "x86_64") == "a==1 --hash=sha256:00\n"
    assert wheels.requirements_for(lock, "3.14", "x86_64") == "a==2\n"


def test_the_digest_follows_source_lock_python_and_machine_and_not_the_readme(tmp_path):
    package = tmp_path / "exporter" / "asterisk_exporter"
    (package / "__pycache__").mkdir(parents=True)
    code, lock = package / "cli.py", tmp_path / "lock.txt"
    for path in (code, lock, tmp_path / "pyproject.toml", tmp_path / "README.md"):
        path.write_text("one")

    def digest(python="3.14", machine="x86_64"):
        return wheels.digest_of(tmp_path, lock, python, machine)

    seen = [digest(), digest("3.13"), digest(machine="aarch64")]
    code.write_text("two")
    seen.append(digest())
    lock.write_text("two")
    seen.append(digest())
    assert len(set(seen)) == len(seen)
    (tmp_path / "README.md").write_text("two")
    (package / "__pycache__" / "cli.pyc").write_text("two")
    assert digest() == seen[-1]


# --- asterisk_exporter ---------------------------------------------------------------------------


def test_destinations_are_the_routes_that_lead_to_no_queue():
    routes = [
        {"did": "any", "to": "default"},
        {"did": "_4930X.", "to": "voicemail:100"},
        {"did": "4930123", "to": "queue:support"},
        {"did": "+4930124", "to": "extension:101"},
    ]
    assert exporter.destinations(routes) == [
        {"did": r"\+4930124", "name": "extension:101"},
        {"did": "4930[0-9].+", "name": "voicemail:100"},
        {"did": ".*", "name": "default"},
    ]
    assert exporter.destinations([{"did": "any", "to": "queue:support"}]) == []


@pytest.mark.parametrize(
    ("did", "fits", "fits_not"),
    [
        ("4930123", ["4930123"], ["49301234", "4930122"]),
        ("+4930", ["+4930"], ["4930", "44930"]),
        ("any", ["", "s", "+1"], []),
        ("_4930X.", ["493012"], ["49301", "4930"]),
        ("_4930!", ["4930", "49301"], ["493"]),
        ("_ZN[1-3]", ["121", "993"], ["021", "114"]),
        ("_+49-30X", ["+49301"], ["+49-301"]),
    ],
)
def test_a_dial_pattern_as_a_regular_expression(did, fits, fits_not):
    regexp = re.compile(exporter.number_regexp(did))
    assert [number for number in fits if not regexp.fullmatch(number)] == []
    assert [number for number in fits_not if regexp.fullmatch(number)] == []
