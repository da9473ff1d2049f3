from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asterisk_exporter.ami import protocol
from asterisk_exporter.ami.errors import MalformedStreamError, UnsafeActionError
from asterisk_exporter.ami.protocol import (
    MAX_HEADERS,
    MAX_MESSAGE_BYTES,
    Message,
    Splitter,
    encode_action,
    parse_banner,
    parse_message,
)

from .conftest import captured

STREAM = captured("busy", "QueueStatus") + captured("busy", "CoreShowChannels")


def blocks_of(pieces) -> list[bytes]:
    splitter = Splitter()
    return [block for piece in pieces for block in splitter.feed(piece)]


WHOLE = blocks_of([STREAM])


def test_a_captured_stream_has_all_its_messages():
    assert len(WHOLE) == 1 + 15 + 1 + 1 + 15 + 1
    member = parse_message(WHOLE[6])
    assert member.get("Name") == "Alice Example"
    assert member.get("PausedReason", "none") == ""
    assert member.get("Wrapuptime") == "15"


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_any_chunking_gives_the_same_messages(cuts):
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[a:b] for a, b in zip(edges, edges[1:])]
    assert blocks_of(pieces) == WHOLE


def test_byte_by_byte_gives_the_same_messages():
    assert blocks_of(bytes([byte]) for byte in STREAM) == WHOLE


@given(st.lists(st.sampled_from([b"A: 1", b"\r\n", b"\n", b"\r", b"B:"]), max_size=20), st.data())
def test_stray_newlines_are_chunked_alike_too(tokens, data):
    stream = b"".join(tokens)
    cut = data.draw(st.integers(0, len(stream)))
    assert blocks_of([stream[:cut], stream[cut:]]) == blocks_of([stream])


def cut(stream: bytes, cuts) -> list[bytes]:
    edges = [0, *sorted(min(place, len(stream)) for place in cuts), len(stream)]
    return [stream[a:b] for a, b in zip(edges, edges[1:])]


#: Bytes that look like messages more often than bytes at random do.
NEARLY_AMI = st.lists(
    st.one_of(
        st.sampled_from([b"\r\n\r\n", b"\r\n", b"\n", b"\r", b": ", b":", b"Event", b"\0"]),
        st.binary(max_size=6),
    ),
    max_size=30,
).map(b"".join)
CUTS = st.lists(st.integers(0, 200), max_size=12)


@given(NEARLY_AMI, CUTS)
def test_any_bytes_in_any_chunks_give_the_same_messages(stream, cuts):
    whole = blocks_of([stream])
    assert blocks_of(cut(stream, cuts)) == whole
    # nothing but the ends of messages and stray newlines is left out
    left = stream.rpartition(b"\r\n\r\n")[2] if b"\r\n\r\n" in stream else stream
    kept = b"".join(whole) + left
    assert kept.translate(None, b"\r\n") == stream.translate(None, b"\r\n")


@given(NEARLY_AMI, CUTS)
def test_no_bytes_raise_anything_but_a_malformed_stream(stream, cuts):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(protocol, "MAX_MESSAGE_BYTES", 40)
        try:
            blocks = blocks_of(cut(stream, cuts))
        except MalformedStreamError:
            assert len(stream) > 40
            return
    for message in map(parse_message, blocks):
        repr(message)
        for name, _ in message.headers:
            assert message.get(name) in message.all(name)


def _plain(text: str) -> bool:
    return not set(text) & set("\r\n:") and text == text.strip()


NAMES = st.text(min_size=1, max_size=8).filter(_plain)


@given(st.lists(st.tuples(NAMES, st.text(max_size=12)), min_size=1, max_size=12))
def test_every_header_reads_back(pairs):
    pairs = [(name, value.replace("\r\n", "").strip()) for name, value in pairs]
    data = "\r\n".join(f"{name}: {value}" for name, value in pairs)
    message = parse_message(data.encode("utf-8", "surrogateescape"))
    assert message.headers == tuple(pairs)
    for name, _ in pairs:
        assert message.get(name) == next(value for key, value in pairs if key == name)


def test_a_value_that_looks_like_a_header_is_not_found():
    message = parse_message(b"Event: E\r\nText: a\nQueue: b\r\nMyQueue: c\r\nQueueSize: 4")
    assert message.get("Queue", "none") == "none"
    assert message.get("Text") == "a\nQueue: b"


def test_a_stray_newline_in_a_text_is_no_message():
    # astman_send_error(s, m, "No endpoints found\n") of Asterisk 18
    stream = (
        b"Response: Error\r\nMessage: No endpoints found\n\r\n\r\n\r\nResponse: Success\r\n\r\n"
    )
    first, second = blocks_of([stream])
    assert parse_message(first).get("Message") == "No endpoints found"
    assert second == b"Response: Success"


def test_repeated_headers_are_all_kept_and_the_first_is_found():
    message = parse_message(b"Event: E\r\nVariable: a=1\r\nVariable: b=2\r\nvariable: c=3")
    assert message.all("Variable") == ("a=1", "b=2", "c=3")
    assert message.get("Variable") == "a=1"
    assert message.get("VARIABLE") == "a=1"
    assert message.get("Missing", "default") == "default"


def test_a_message_of_pairs():
    message = Message.of([("Event", "E"), ("Name", "a: b"), ("Empty", "")])
    assert message.headers == (("Event", "E"), ("Name", "a: b"), ("Empty", ""))
    assert message.get("Name") == "a: b"


def test_a_line_without_a_space_or_colon_spoils_no_other():
    message = parse_message(b"Event:E\r\nName: a: b: c\r\nJunk\r\nQueue: q\r\nQueue: r")
    assert message.headers == (
        *(("Event", "E"), ("Name", "a: b: c"), ("Junk", "")),
        *(("Queue", "q"), ("Queue", "r")),
    )
    assert [message.get(name) for name in ("event", "Name", "Queue")] == ["E", "a: b: c", "q"]


def test_values_keep_colons_and_any_bytes():
    message = parse_message(b"Queue: a: b\r\nName: caf\xe9\r\nNoColon")
    assert message.get("Queue") == "a: b"
    assert message.get("Name").encode("utf-8", "surrogateescape") == b"caf\xe9"
    assert message.headers[2] == ("NoColon", "")


def test_a_message_does_not_show_its_values():
    message = parse_message(b"Event: AuthDetail\r\nPassword: hunter2")
    assert "hunter2" not in repr(message)
    assert repr(message) == "<Message Event: AuthDetail, 2 headers>"
    assert repr(Message("")) == "<Message empty: , 0 headers>"


def test_an_endless_message_is_given_up():
    splitter = Splitter()
    splitter.feed(b"x" * MAX_MESSAGE_BYTES)
    with pytest.raises(MalformedStreamError, match="without the end of a message"):
        splitter.feed(b"x")


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (b"Asterisk Call Manager/11.0.0", "11.0.0"),
        (b"Asterisk Call Manager/5.0.1 ", "5.0.1"),
        (b"Asterisk Call Manager", None),
        (b"SSH-2.0-OpenSSH_9.2", None),
        (b"x Asterisk Call Manager/11.0.0", None),
        (b"", None),
    ],
)
def test_banner(line, version):
    assert parse_banner(line) == version


def test_encode_action():
    assert encode_action([("Action", "Ping"), ("ActionID", "1")]) == (
        b"Action: Ping\r\nActionID: 1\r\n\r\n"
    )
    assert encode_action([("A", "Zoë")]) == "A: Zoë\r\n\r\n".encode()


def test_a_received_name_of_any_encoding_can_be_sent_back():
    name = parse_message(b"Name: caf\xe9").get("Name")
    assert encode_action([("Queue", name)]) == b"Queue: caf\xe9\r\n\r\n"


@given(st.text(), st.sampled_from("\r\n\0"), st.text(), st.booleans())
def test_a_line_end_in_a_key_or_value_is_always_refused(before, bad, after, in_key):
    text = before + bad + after
    header = (text, "value") if in_key else ("Reason", text)
    with pytest.raises(UnsafeActionError) as refused:
        encode_action([("Action", "QueuePause"), header])
    if not in_key:
        assert text not in str(refused.value)


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=300)), max_size=8))
def test_what_is_encoded_reads_back_as_the_same_single_action(headers):
    try:
        data = encode_action(headers)
    except UnsafeActionError:
        return
    assert data.count(b"\r\n\r\n") == 1
    lines = data[:-4].decode("utf-8", "surrogateescape").split("\r\n")
    assert [tuple(line.split(": ", 1)) for line in lines] == headers
    assert b"\0" not in data
    assert data.replace(b"\r\n", b"").find(b"\n") < 0


@pytest.mark.parametrize("key", ["", " Key", "Key:", "Key Name", "Ключ", "1st"])
def test_a_key_that_is_no_name_is_refused(key):
    with pytest.raises(UnsafeActionError, match="header name"):
        encode_action([(key, "value")])


def test_a_line_of_1023_bytes_passes_and_1024_is_refused():
    room = 1023 - len("Reason: \r\n")
    assert len(encode_action([("Reason", "x" * room)])) == 1023 + 2
    with pytest.raises(UnsafeActionError, match="has 1024 bytes"):
        encode_action([("Reason", "x" * (room + 1))])


def test_bytes_count_and_not_characters():
    with pytest.raises(UnsafeActionError, match="bytes"):
        encode_action([("Reason", "ë" * 600)])


def test_headers_are_1_to_128():
    encode_action([("Variable", "x")] * MAX_HEADERS)
    for number in (0, MAX_HEADERS + 1):
        with pytest.raises(UnsafeActionError, match=f"not {number}"):
            encode_action([("Variable", "x")] * number)


def test_a_lone_surrogate_is_refused():
    with pytest.raises(UnsafeActionError, match="not text"):
        encode_action([("Reason", "\ud800")])
