"""What the preflight of the role pbx says about an inventory, and that it says no secret."""

from pathlib import Path

import pytest
import yaml
from scripts import load

ROLE = Path(__file__).parents[2] / "roles" / "pbx"
_module = load("roles/pbx/filter_plugins/pbx_problems.py")
pbx_problems = _module.pbx_problems

TRUNK = {"name": "provider", "host": "192.0.2.10"}
SECRET = "hidden-and-long-enough"


@pytest.fixture
def settings():
    """Give the role's own defaults, with the values that Ansible would compute."""
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
    looked_at = yaml.safe_load((ROLE / "vars" / "main.yml").read_text())["_pbx_settings"]
    given = {name: defaults[name] for name in looked_at}
    given["pbx_system_name"] = "pbx1"
    return given


def test_the_defaults_are_good(settings):
    assert pbx_problems(settings) == []


def test_the_example_to_copy_is_good(settings):
    inventory = ROLE.parents[1] / "inventory" / "example" / "group_vars" / "pbx.yml"
    given = yaml.safe_load(inventory.read_text())
    plain = {name: value for name, value in given.items() if "{{" not in str(value)}
    assert len(plain) >= 5
    settings.update((name, value) for name, value in plain.items() if name in settings)
    assert pbx_problems(settings) == []


def test_a_whole_site_is_good(settings):
    settings["pbx_trunks"] = [
        {
            **TRUNK,
            "match": ["192.0.2.0/24", "sip.example.net", "2001:db8::1"],
            "username": "acct",
            "secret": "12345678",
            "register": True,
            "codecs": ["alaw"],
            "options": {"from_domain": "example.net"},
        }
    ]
    settings["pbx_outbound_routes"] = [
        {"pattern": "_0Z.", "trunk": "provider", "strip": 1, "prepend": "+49"},
        {"pattern": 112, "trunk": "provider", "caller_id": "+4930100"},
    ]
    settings["pbx_inbound_routes"] += [
        {"did": "_4930[1-5]XX", "to": "queue:sales"},
        {"did": "+4930100", "to": "extension:101"},
        {"did": 4930101, "to": "voicemail:100"},
        {"did": "4930102", "to": "conference:8000"},
        {"did": "4930103", "to": "hangup"},
    ]
    settings["pbx_queues"][0]["members"] = [101, {"extension": 102, "penalty": 1, "name": "Ann"}]
    assert pbx_problems(settings) == []


def one_problem(settings):
    found = pbx_problems(settings)
    assert len(found) == 1, found
    return found[0]


# --- queues ---


def test_unknown_strategy(settings):
    settings["pbx_queues"][1]["strategy"] = "roundrobin"
    said = one_problem(settings)
    assert said.startswith("pbx_queues[1].strategy is 'roundrobin': app_queue knows ringall,")


@pytest.mark.parametrize(
    "name",
    [
        "general", "General", "", "a b", "a,b", "a/b", "a|b", "a;b", "[a]", "a]", "-a", "ümlaut",
        "x" * 65, "a&b", "a@b", "a(!)", None, True, ["a"],
    ],
)  # fmt: skip
def test_queue_names_that_asterisk_cannot_take(settings, name):
    settings["pbx_queues"][2]["name"] = name
    found = pbx_problems(settings)
    assert any(text.startswith("pbx_queues[2].name is ") for text in found), found


def test_queue_names_differ_by_more_than_case(settings):
    settings["pbx_queues"][1]["name"] = "Support"
    assert "pbx_queues[1].name is 'Support': pbx_queues[0].name has it already" in one_problem(
        settings
    )


def test_a_member_is_a_phone(settings):
    settings["pbx_queues"][0]["members"] = ["101", "199"]
    assert one_problem(settings).startswith("pbx_queues[0].members[1] is '199': no phone")


def test_a_member_is_there_once(settings):
    settings["pbx_queues"][0]["members"] = ["101", 101]
    assert "members[1] is 101: pbx_queues[0].members[0] has it already" in one_problem(settings)


@pytest.mark.parametrize(
    ("key", "value"), [("timeout", 0), ("maxlen", -1), ("weight", "heavy"), ("servicelevel", True)]
)
def test_queue_numbers(settings, key, value):
    settings["pbx_queues"][0][key] = value
    assert f"pbx_queues[0].{key} is {value!r}: give a whole number" in one_problem(settings)


def test_an_option_that_has_a_key_of_its_own(settings):
    settings["pbx_queues"][0]["options"] = {"announce-frequency": 10}
    assert "write it as pbx_queues[0].announce_frequency" in one_problem(settings)


@pytest.mark.parametrize("key", ["member", "type", "a b", "x]\n[y"])
def test_options_that_are_none(settings, key):
    settings["pbx_queues"][0]["options"] = {key: "1"}
    assert any("pbx_queues[0].options" in text for text in pbx_problems(settings))


def test_a_queue_does_not_follow_itself(settings):
    settings["pbx_queues"][0]["overflow"] = "queue:support"
    assert "it leads back to support" in one_problem(settings)


def test_queues_do_not_follow_each_other_in_a_ring(settings):
    settings["pbx_queues"][0]["overflow"] = "queue:sales"
    settings["pbx_queues"][1]["overflow"] = "queue:support"
    settings["pbx_queues"][2]["overflow"] = "queue:sales"
    assert one_problem(settings).startswith(
        "pbx_queues[0].overflow is 'queue:sales': it leads back"
    )


# --- numbers ---


@pytest.mark.parametrize(
    ("variable", "entry", "place"),
    [
        ("pbx_phones", {"extension": "101", "voicemail": False}, "pbx_phones[0].extension"),
        ("pbx_phones", {"extension": "8000"}, "pbx_conferences[0].extension"),
        ("pbx_conferences", {"extension": 700}, "pbx_parking.extension"),
        ("pbx_phones", {"extension": "705"}, "pbx_parking.first to last"),
        ("pbx_phones", {"extension": "601"}, "pbx_queues[0].extension"),
    ],
)
def test_a_number_belongs_to_one_thing(settings, variable, entry, place):
    settings[variable].append(entry)
    said = one_problem(settings)
    assert place in said
    assert str(entry["extension"]) in said or "70" in said
    assert "has it already" in said


def test_a_box_belongs_to_one(settings):
    settings["pbx_voicemail_boxes"].append({"box": "101"})
    assert "pbx_voicemail_boxes[1].box is '101': pbx_phones[0].extension has it" in one_problem(
        settings
    )


@pytest.mark.parametrize("extension", ["", "1", "10a", "_1XX", None, "12345678901"])
def test_extensions_are_digits(settings, extension):
    settings["pbx_phones"][0]["extension"] = extension
    assert any(
        text.startswith(f"pbx_phones[0].extension is {extension or ''!r}")
        for text in pbx_problems(settings)
    )


def test_parking_places_count_upwards(settings):
    settings["pbx_parking"]["last"] = 690
    assert one_problem(settings).startswith("pbx_parking.last is 690")


def test_voicemail_extension(settings):
    settings["pbx_voicemail_extension"] = "101"
    assert one_problem(settings).startswith("pbx_voicemail_extension is '101'")


# --- routes ---


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("queue:billing", "there is no queue 'billing'"),
        ("extension:199", "there is no extension '199'"),
        ("voicemail:999", "there is no voicemail '999'"),
        ("conference:8001", "there is no conference '8001'"),
        ("realtime:610", "numbers in the database need pbx_realtime: true"),
        ("support", "give default, queue:NAME"),
        ("outbound:0900", "give default, queue:NAME"),
        (None, "give default, queue:NAME"),
    ],
)
def test_a_route_leads_somewhere(settings, to, why):
    settings["pbx_inbound_routes"][0]["to"] = to
    said = one_problem(settings)
    assert said.startswith("pbx_inbound_routes[0].to is ")
    assert why in said


def test_a_route_leads_to_a_number_in_the_database(settings):
    settings |= {"pbx_realtime": True, "pbx_realtime_database_host": "db1"}
    settings["pbx_inbound_routes"][0]["to"] = "realtime:610"
    assert pbx_problems(settings) == []


@pytest.mark.parametrize("number", ["", "6", "12345678901", "20&PJSIP/30", "alice"])
def test_such_a_number_is_digits(settings, number):
    settings |= {"pbx_realtime": True, "pbx_realtime_database_host": "db1"}
    settings["pbx_inbound_routes"][0]["to"] = f"realtime:{number}"
    assert "two to ten digits" in one_problem(settings)


def test_realtime_knows_where_its_tables_are_made(settings):
    settings |= {"pbx_realtime": True, "pbx_realtime_database_host": ""}
    settings["pbx_cdr_pgsql_host"] = "db.example.net"
    said = one_problem(settings)
    assert said.startswith("pbx_realtime_database_host is ''")
    assert "db.example.net" in said


def test_the_password_of_realtime_is_long_and_not_shown(settings):
    settings["pbx_realtime_password"] = "tooshort"
    said = one_problem(settings)
    assert said.startswith("pbx_realtime_password has 8 characters")
    assert "tooshort" not in said


@pytest.mark.parametrize("did", ["", "s", "_.", "_!", "_[12", "_[]1", "_1.2", "12 34", "h", None])
def test_a_did_is_a_number_or_a_pattern(settings, did):
    settings["pbx_inbound_routes"] = [{"did": did, "to": "default"}]
    assert one_problem(settings).startswith("pbx_inbound_routes[0].did is ")


def test_a_did_has_one_route(settings):
    settings["pbx_inbound_routes"].append({"did": "any", "to": "hangup"})
    assert "pbx_inbound_routes[0].did has it already" in one_problem(settings)


@pytest.mark.parametrize(
    "pattern", ["", "_", "_.", "_!", "_X!.", "_0[", "0900,1", "_0Z&", "phone", None]
)
def test_dial_patterns(settings, pattern):
    settings["pbx_trunks"] = [TRUNK]
    settings["pbx_outbound_routes"] = [{"pattern": pattern, "trunk": "provider"}]
    assert one_problem(settings).startswith("pbx_outbound_routes[0].pattern is ")


@pytest.mark.parametrize(
    ("key", "value"),
    [("trunk", "other"), ("strip", -1), ("prepend", "0;"), ("caller_id", "Ann <1>")],
)
def test_the_rest_of_a_way_out(settings, key, value):
    settings["pbx_trunks"] = [TRUNK]
    settings["pbx_outbound_routes"] = [{"pattern": "_0Z.", "trunk": "provider", key: value}]
    assert any(t.startswith(f"pbx_outbound_routes[0].{key} is ") for t in pbx_problems(settings))


def test_the_default_destination_exists(settings):
    settings["pbx_default_queue"] = "billing"
    settings["pbx_default_voicemail"] = "999"
    found = pbx_problems(settings)
    assert len(found) == 2
    assert any(text.startswith("pbx_default_queue is 'billing'") for text in found)
    assert any(text.startswith("pbx_default_voicemail is '999'") for text in found)


# --- trunks and transports ---


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"host": None}, "pbx_trunks[0].host"),
        ({"host": "a b"}, "pbx_trunks[0].host"),
        ({"name": "101"}, "pbx_trunks[0].name"),
        ({"name": "phone"}, "pbx_trunks[0].name"),
        ({"name": "transport-udp"}, "pbx_trunks[0].name"),
        ({"port": 0}, "pbx_trunks[0].port"),
        ({"match": ["192.0.2.0/33x y"]}, "pbx_trunks[0].match[0]"),
        ({"register": True}, "pbx_trunks[0].username"),
        ({"codecs": ["all"]}, "pbx_trunks[0].codecs[0]"),
        ({"codecs": []}, "pbx_trunks[0].codecs"),
        ({"transport": "tls"}, "pbx_trunks[0].transport"),
        ({"transport": "tcp", "media_encryption": "sdes"}, "pbx_trunks[0].media_encryption"),
        ({"media_encryption": "sdes"}, "pbx_trunks[0].media_encryption"),
    ],
)
def test_trunks(settings, change, place):
    settings["pbx_trunks"] = [{**TRUNK, **change}]
    assert one_problem(settings).startswith(f"{place} is ")


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"protocol": "ws"}, "pbx_transports[0].protocol"),
        ({"bind": "everywhere"}, "pbx_transports[0].bind"),
        ({"protocol": "tls", "cert_file": "/a.pem"}, "pbx_transports[0].priv_key_file"),
        ({"protocol": "tls", "priv_key_file": "/a.pem"}, "pbx_transports[0].cert_file"),
        ({"protocol": "tls", "ca_list_file": "a.pem"}, "pbx_transports[0].ca_list_file"),
    ],
)
def test_transports(settings, change, place):
    settings["pbx_transports"][0].update(change)
    assert any(text.startswith(f"{place} is ") for text in pbx_problems(settings))


TLS = {"name": "secure", "protocol": "tls", "bind": "0.0.0.0:5061"}


def test_phones_and_trunks_over_tls_may_encrypt(settings):
    settings["pbx_transports"].append(TLS)
    settings["pbx_phones"][0].update(transport="secure", media_encryption="sdes")
    settings["pbx_phones"][1].update(transport="udp")
    settings["pbx_trunks"] = [{**TRUNK, "transport": "tls", "media_encryption": "sdes"}]
    assert pbx_problems(settings) == []


@pytest.mark.parametrize("transport", [{}, {"transport": "udp"}])
def test_a_phone_sends_no_key_as_it_is(settings, transport):
    settings["pbx_transports"].append(TLS)
    settings["pbx_phones"][0].update(media_encryption="sdes", **transport)
    assert one_problem(settings).startswith("pbx_phones[0].media_encryption is 'sdes': its keys")


def test_a_phone_comes_by_a_transport_that_is_there(settings):
    settings["pbx_phones"][0]["transport"] = "tls"
    said = "pbx_phones[0].transport is 'tls': pbx_transports has udp, tcp; give one of these names"
    assert one_problem(settings) == said


@pytest.mark.parametrize("bind", ["0.0.0.0", "[::]:5060", "198.51.100.1:5061", "::"])
def test_binds(settings, bind):
    settings["pbx_transports"][0]["bind"] = bind
    assert pbx_problems(settings) == []


def test_no_transport(settings):
    settings["pbx_transports"] = []
    assert "SIP needs at least one" in one_problem(settings)


# --- secrets ---


@pytest.mark.parametrize("secret", ["", "short", None, 1234567890123456789, "x" * 15, "é" * 20])
def test_secrets_of_phones_and_logins(settings, secret):
    settings["pbx_phones"][0]["secret"] = secret
    settings["pbx_manager_users"]["exporter"]["secret"] = secret
    found = pbx_problems(settings)
    assert [text.split(" ")[0] for text in found] == [
        "pbx_phones[0].secret",
        "pbx_manager_users.exporter.secret",
    ]
    assert not any(str(secret) in text for text in found if secret)


def test_the_password_of_the_database(settings):
    settings["pbx_cdr_pgsql_password"] = "short"
    assert one_problem(settings) == "pbx_cdr_pgsql_password has 5 characters: give at least 8"


@pytest.mark.parametrize("mode", ["allow", "prefer"])
def test_no_call_record_goes_to_another_host_in_plain_text_by_accident(settings, mode):
    settings |= {"pbx_cdr_pgsql_host": "192.0.2.21", "pbx_cdr_pgsql_sslmode": mode}
    assert one_problem(settings).startswith(f"pbx_cdr_pgsql_sslmode is '{mode}': ")
    assert "192.0.2.21" in one_problem(settings)


@pytest.mark.parametrize(
    ("host", "mode"),
    [
        ("127.0.0.1", "prefer"),
        ("/var/run/postgresql", "prefer"),
        ("192.0.2.21", "verify-full"),
        ("192.0.2.21", "require"),
        ("192.0.2.21", "disable"),
    ],
)
def test_how_call_records_may_go_to_the_database(settings, host, mode):
    settings |= {"pbx_cdr_pgsql_host": host, "pbx_cdr_pgsql_sslmode": mode}
    assert pbx_problems(settings) == []


def test_a_login_needs_its_secret(settings):
    settings["pbx_trunks"] = [{**TRUNK, "username": "acct"}]
    assert one_problem(settings).startswith("pbx_trunks[0].secret is empty")


@pytest.mark.parametrize("pin", ["123", "12345678901234", "12ab"])
def test_pins(settings, pin):
    settings["pbx_phones"][0]["pin"] = pin
    settings["pbx_conferences"][0]["pin"] = pin
    found = pbx_problems(settings)
    assert len(found) == 2
    assert not any(pin in text for text in found)


@pytest.mark.parametrize("tail", ["\nx", ";", "\r", "\x00", "${SHELL(id)}", "$[1]"])
def test_a_bad_secret_is_never_shown(settings, tail):
    settings["pbx_phones"][0]["secret"] = SECRET + tail
    settings["pbx_manager_users"]["exporter"]["secret"] = SECRET + tail
    settings["pbx_trunks"] = [{**TRUNK, "username": "acct", "secret": SECRET + tail}]
    settings["pbx_cdr_pgsql_password"] = SECRET + tail
    found = pbx_problems(settings)
    assert len(found) >= 4
    assert SECRET not in "\n".join(found)


# --- injection ---


@pytest.mark.parametrize("tail", ["\n[x]", "\r\nsecret = x", "; x", "\x07", "${X}", "$[1]"])
@pytest.mark.parametrize(
    ("variable", "path"),
    [
        ("pbx_system_name", []),
        ("pbx_language", []),
        ("pbx_default_greeting", []),
        ("pbx_external_address", []),
        ("pbx_voicemail_mail_command", []),
        ("pbx_cdr_pgsql_host", []),
        ("pbx_phones", [0, "name"]),
        ("pbx_phones", [0, "email"]),
        ("pbx_phones", [0, "options"]),
        ("pbx_queues", [0, "musicclass"]),
        ("pbx_queues", [0, "joinempty"]),
        ("pbx_queues", [0, "options"]),
        ("pbx_codecs", [0]),
        ("pbx_manager_users", ["exporter", "permit", 0]),
        ("pbx_manager_users", ["exporter", "write", 0]),
        ("pbx_queue_general_options", ["autofill"]),
    ],
)
def test_no_value_leaves_its_line(settings, variable, path, tail):
    if not path:
        settings[variable] = "x" + tail
    else:
        holder = settings[variable]
        for step in path[:-1]:
            holder = holder[step]
        last = path[-1]
        holder[last] = {"language": "x" + tail} if last == "options" else "x" + tail
    assert any(text.startswith(variable) for text in pbx_problems(settings))


def test_a_message_stays_on_one_line(settings):
    settings["pbx_phones"][0]["name"] = "a\nb"
    assert all("\n" not in text for text in pbx_problems(settings))


# --- manager and the rest ---


@pytest.mark.parametrize(
    ("user", "place"),
    [
        ({"permit": []}, "pbx_manager_users.x.permit"),
        ({"permit": ["everyone"]}, "pbx_manager_users.x.permit[0]"),
        ({"permit": ["192.0.2.1"], "write": ["queue"]}, "pbx_manager_users.x.write[0]"),
        ({"permit": ["192.0.2.1"], "read": ["redirect"]}, "pbx_manager_users.x.read[0]"),
        ("text", "pbx_manager_users.x"),
    ],
)
def test_manager_users(settings, user, place):
    settings["pbx_manager_users"]["x"] = user
    assert one_problem(settings).startswith(f"{place} is ")


def test_ami_for_other_machines(settings):
    settings["pbx_manager_tls_address"] = "0.0.0.0"
    assert pbx_problems(settings) == []
    settings["pbx_manager_tls_port"] = 5038
    assert one_problem(settings).startswith("pbx_manager_tls_port is 5038: pbx_manager_port has it")
    settings.update(pbx_manager_tls_port=443, pbx_manager_tls_address="pbx.example")
    assert [text.split(" is ")[0] for text in pbx_problems(settings)] == [
        "pbx_manager_tls_port",
        "pbx_manager_tls_address",
    ]


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.11", "::"])
def test_ami_without_tls_is_for_this_machine_alone(settings, address):
    settings["pbx_manager_address"] = address
    assert "other machines reach pbx_manager_tls_address" in one_problem(settings)


def test_asterisks_own_metrics_without_tls_are_for_this_machine_alone(settings):
    settings.update(pbx_prometheus_address="127.0.0.1", pbx_prometheus_username="")
    settings.update(pbx_prometheus_tls=False)
    assert pbx_problems(settings) == []
    for given in ({}, {"pbx_prometheus_tls": True}):
        settings.update(given, pbx_prometheus_address="192.0.2.11")
        assert "beyond loopback it needs pbx_prometheus_tls" in one_problem(settings)
    settings.update(pbx_prometheus_username="prometheus", pbx_prometheus_password="x" * 32)
    assert pbx_problems(settings) == []


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (
            {"pbx_prometheus_address": "pbx.example"},
            "pbx_prometheus_address is 'pbx.example': give",
        ),
        ({"pbx_prometheus_port": 80}, "pbx_prometheus_port is 80"),
        ({"pbx_prometheus_username": "a b"}, "pbx_prometheus_username is 'a b'"),
        ({"pbx_prometheus_password": "s3cret"}, "pbx_prometheus_password has 6 characters"),
    ],
)
def test_metrics_that_cannot_be_served_so(settings, changed, says):
    settings.update(pbx_prometheus_address="::1", pbx_prometheus_username="prometheus")
    settings.update({"pbx_prometheus_password": "x" * 16, **changed})
    problem = one_problem(settings)
    assert says in problem
    assert "s3cret" not in problem


@pytest.mark.parametrize("name", ["general", "a b", "[x]", "1"])
def test_manager_names(settings, name):
    settings["pbx_manager_users"][name] = {"permit": ["127.0.0.1"]}
    assert any("a key of pbx_manager_users is " in text for text in pbx_problems(settings))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("pbx_phones", "101"),
        ("pbx_queues", {"support": {}}),
        ("pbx_inbound_routes", ["any"]),
        ("pbx_parking", None),
        ("pbx_manager_users", []),
    ],
)
def test_shapes(settings, variable, value):
    settings[variable] = value
    assert one_problem(settings).startswith(variable)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("pbx_system_name", "two words"),
        ("pbx_system_name", "x" * 64),
        ("pbx_language", "English"),
        ("pbx_default_greeting", "a b"),
        ("pbx_recording_format", "mp3"),
        ("pbx_manager_address", "localhost"),
        ("pbx_local_networks", ["home"]),
        ("pbx_phone_networks", ["10.0.0.0/40"]),
        ("pbx_codecs", ["!all"]),
        ("pbx_voicemail_from", "nobody"),
    ],
)
def test_single_values(settings, variable, value):
    settings[variable] = value
    assert one_problem(settings).startswith(variable)


def test_every_problem_at_once(settings):
    settings["pbx_queues"][0]["strategy"] = "roundrobin"
    settings["pbx_phones"].append({"extension": "101"})
    settings["pbx_inbound_routes"].append({"did": "1", "to": "queue:none"})
    settings["pbx_phones"][1]["secret"] = "short"
    assert len(pbx_problems(settings)) >= 4


def test_ansible_finds_the_filter():
    assert _module.FilterModule().filters() == {"pbx_problems": pbx_problems}
