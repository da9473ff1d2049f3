"""agi-bin: what is said to Asterisk, what is taken of the CRM's replies, the breaker."""

import contextlib
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crm_routing import reply
from crm_routing.agi import AGIError, AGIHangup, Lines, SafeAgi
from crm_routing.breaker import Breaker, FileBreaker
from crm_routing.reply import InvalidReply

TARGETS = {"101": "extension:101", "queue:vip": "queue:vip", "night": "voicemail:100"}
ENV = b"agi_uniqueid: 1.2\nagi_callerid: 123\n\n"


def agi_of(data, step=7):
    """An AGI whose Asterisk says this, a few bytes at a time, and then is gone."""
    parts = [data[i : i + step] for i in range(0, len(data), step)]
    sent = []
    agi = SafeAgi(Lines(lambda _: parts.pop(0) if parts else b""), sent.append)
    return agi, sent


def parsed(line):
    """The arguments that parse_args() of res/res_agi.c finds."""
    words, word, quoted, escaped = [], None, False, False
    for c in line:
        if escaped:
            word, escaped = (word or "") + c, False
        elif c == "\\":
            escaped = True
        elif c == '"':
            quoted, word = not quoted, word or ""
        elif c in " \t" and not quoted:
            if word is not None:
                words.append(word)
            word = None
        else:
            word = (word or "") + c
    return words if word is None else [*words, word]


# --- AGI


@given(st.text(max_size=300))
def test_a_value_is_one_argument_or_is_refused(value):
    agi, sent = agi_of(ENV + b"200 result=1\n")
    try:
        agi.set_variable("X", value)
    except ValueError:
        assert sent == []
        return
    [line] = sent
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert parsed(line.decode()[:-1]) == [
        "SET",
        "VARIABLE",
        "X",
        value.encode("utf-8", "replace").decode(),
    ]


@pytest.mark.parametrize("value", ["a\nEXEC System id", "a\r\nx", "a\0b", "x" * 3000])
def test_what_would_be_another_command_is_never_sent(value):
    agi, sent = agi_of(ENV + b"200 result=1\n")
    with pytest.raises(ValueError, match="AGI"):
        agi.set_variable("X", value)
    with pytest.raises(ValueError, match="AGI"):
        agi.send_command("NOOP", value)
    assert sent == []


@given(st.binary(max_size=2000))
def test_whatever_asterisk_says_first_ends(data):
    try:
        agi, _ = agi_of(data)
        agi.get_variable("X")
    except AGIError:
        return
    assert b"\n\n" in data.replace(b"\r", b"")


@given(st.binary(max_size=2000))
def test_whatever_asterisk_answers_ends(data):
    agi, _ = agi_of(ENV + data)
    try:
        agi.get_variable("X")
    except AGIError:
        return
    assert b"200 " in data


@pytest.mark.parametrize("rest", [b"agi_priority: 4\n\n", b"\n\nagi_priority: 4\n\n"])
def test_lines_that_are_in_a_callers_name_change_nothing_before_it(rest):
    said = b"agi_network_script: route/1\nagi_callerid: 2\nagi_calleridname: a\n"
    agi, _ = agi_of(said + b"agi_callerid: 666\nagi_network_script: route/666\n" + rest)
    assert agi.env["agi_network_script"] == "route/1"
    assert agi.env["agi_callerid"] == "2"


def test_a_name_that_is_not_utf_8_is_read():
    agi, _ = agi_of(b"agi_calleridname: M\xfcller\nagi_callerid: 1\n\n")
    assert agi.env["agi_callerid"] == "1"


@pytest.mark.parametrize(
    "data",
    [b"", b"agi_x: 1\n", b"agi_x", b"a: b\n" * 100_000, b"a" * 200_000],
    ids=["nothing", "no empty line", "half a line", "endless lines", "an endless line"],
)
def test_what_asterisk_says_first_must_end(data):
    with pytest.raises(AGIError):
        agi_of(data, step=65536)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", AGIHangup),
        (b"HANGUP\n", AGIHangup),
        (b"511 Command Not Permitted on a dead channel\n", AGIHangup),
        (b"200 result=-1\n", AGIError),
        (b"510 Invalid or unknown command\n", AGIError),
        (b"520-Invalid command syntax.\nUsage: x\n520 End of proper usage.\n", AGIError),
        (b"520-Invalid command syntax.\nUsage", AGIHangup),
        (b"520-Invalid\n" + b"Usage\n" * 1000, AGIError),
        (b"garbage\n", AGIError),
    ],
)
def test_an_answer_that_is_none_is_an_error(data, error):
    agi, _ = agi_of(ENV + data)
    with pytest.raises(error):
        agi.set_variable("X", "1")


def test_an_answer_after_a_usage_text_is_that_of_the_next_command():
    usage = b"520-Invalid command syntax.\nUsage: x\n520 End of proper usage.\n"
    agi, _ = agi_of(ENV + usage + b"200 result=1 (yes)\n")
    with pytest.raises(AGIError):
        agi.set_variable("X", "1")
    assert agi.get_variable("X") == "yes"


@pytest.mark.parametrize("value", ["\x1b[31m", "\x07", "a\tb", "\x7f"])
def test_a_control_character_is_no_value(value):
    agi, sent = agi_of(ENV + b"200 result=1\n")
    with pytest.raises(ValueError, match="control"):
        agi.set_variable("X", value)
    assert sent == []


# --- numbers


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("+49 170 123-4567", "+491701234567"),
        ("0301234", "0301234"),
        (" 101 ", "101"),
        *((text, "anonymous") for text in ("", "anonymous", "../../etc", "1'2", "1\n2", "12${X}")),
        *(
            (text, "anonymous")
            for text in (
                "1&2",
                "1/2",
                "1    2",
                "1/../2",
                "1%2F2",
                "\uff11\uff12",
                "1" * 33,
                "+",
                "a1",
            )
        ),
    ],
)
def test_a_caller_is_a_number_or_nobody(text, number):
    assert reply.caller(text) == number


@given(st.text())
def test_a_caller_never_leaves_the_path(text):
    assert set(reply.caller(text)) <= set("+0123456789") or reply.caller(text) == "anonymous"
    assert set(reply.dialled(text)) <= set("+0123456789") or reply.dialled(text) == "unknown"


# --- replies


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"target": "101"}', ("extension:101", None, None)),
        (b'{"target": "night", "priority": 0}', ("voicemail:100", 0, None)),
        (b' {"target": "queue:vip", "priority": 7, "language": "de", "more": []}\n', 0),
        (b"queue:vip\r\n", ("queue:vip", None, None)),
        (b'{"target": null}', (None, None, None)),
    ],
)
def test_a_reply_that_is_taken(body, expected):
    route = reply.route(body, TARGETS)
    assert (route.target, route.priority, route.language) == (expected or ("queue:vip", 7, "de"))


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_no_body_leads_anywhere_else(body):
    with contextlib.suppress(InvalidReply):
        assert reply.route(body, TARGETS).target in {*TARGETS.values(), None}
    with contextlib.suppress(InvalidReply):
        reply.contact(body)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("target", "priority", "language"), _VALUES))
)
def test_no_object_leads_anywhere_else(given_object):
    try:
        route = reply.route(json.dumps(given_object).encode(), TARGETS)
    except InvalidReply:
        return
    assert route.target in {*TARGETS.values(), None}
    assert route.priority is None or (type(route.priority) is int and 0 <= route.priority <= 100)


@given(
    st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("name", "id", "url", "language", "vip"), _VALUES)
    )
)
def test_no_contact_brings_anything_that_agi_refuses(given_object):
    try:
        contact = reply.contact(json.dumps(given_object).encode())
    except InvalidReply:
        return
    for value in (contact.name, contact.id, contact.url, contact.language or ""):
        agi, _ = agi_of(ENV + b"200 result=1\n")
        agi.set_variable("X", value)


@pytest.mark.parametrize(
    ("name", "fit"),
    [
        ("Ann O'Neill & Söhne (Berlin)", "Ann O'Neill & Söhne (Berlin)"),
        ('a"b\\c\r\nd', "a b c d"),
        ("${SHELL(id)}", "{SHELL(id)}"),
        ("<sip:x@y>;tag=1|2`", "sip:x@y tag=1 2"),
        ("x" * 500, "x" * 80),
        ("\ud800", "?"),
    ],
)
def test_a_name_is_made_fit(name, fit):
    assert reply.fit_name(name) == fit


@pytest.mark.parametrize(
    "given_object",
    [
        *(
            {"name": 1},
            {"id": "a b"},
            {"id": "x" * 65},
            {"id": 1.5},
            {"url": "javascript:alert(1)"},
        ),
        {"url": "https://x/" + "y" * 500},
        {"url": 'https://x/"'},
        {"vip": "yes"},
        {"language": "x"},
    ],
)
def test_a_contact_of_wrong_types_is_none(given_object):
    with pytest.raises(InvalidReply):
        reply.contact(json.dumps(given_object).encode())


def test_what_is_shown_in_a_log_is_one_short_line_of_ascii():
    text = reply.shown("ä\n\x1b[31m" + "x" * 1000)
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= 80


# --- the breaker


@pytest.fixture(params=["memory", "file"])
def breaker(request, tmp_path):
    clock = [1000.0]

    def make():
        if request.param == "memory":
            return made
        return FileBreaker(str(tmp_path / "state"), 3, 10.0, lambda: clock[0])

    made = Breaker(3, 10.0, lambda: clock[0])
    return make, clock


def test_failures_in_a_row_open_it_and_an_answer_closes_it(breaker):
    make, clock = breaker
    assert [make().record(ok) for ok in (False, False, True, False, False)] == [""] * 5
    assert not make().is_open
    assert make().record(False) == "opened"
    assert make().is_open
    assert not make().due()
    clock[0] += 10
    assert make().due()
    assert not make().due(), "only one tries it"
    assert make().record(False) == ""
    assert make().is_open
    clock[0] += 10
    assert make().due()
    assert make().record(True) == "closed"
    assert not make().is_open
    assert not make().due()


def test_a_clock_that_is_set_back_does_not_keep_it_open(breaker):
    make, clock = breaker
    for _ in range(3):
        make().record(False)
    clock[0] -= 100_000
    assert make().due()


def test_who_reads_while_it_is_written_does_not_find_it_closed(tmp_path, monkeypatch):
    breaker = FileBreaker(str(tmp_path / "state"), 1, 10.0)
    breaker.record(False)
    seen = []

    def watched(real):
        def call(*arguments):
            real(*arguments)
            seen.append(breaker.is_open)

        return call

    for name in ("pwrite", "ftruncate"):
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    breaker.record(False)
    assert seen == [True, True]


def test_a_damaged_or_impossible_state_file_is_a_closed_breaker(tmp_path):
    path = tmp_path / "state"
    path.write_bytes(b"\xff garbage")
    assert not FileBreaker(str(path), 3, 10.0).is_open
    nowhere = FileBreaker(str(tmp_path / "no" / "state"), 1, 10.0)
    assert nowhere.record(False) == ""
    assert not nowhere.is_open
