"""One record, from the values of a row or from a line of Master.csv."""

from __future__ import annotations

import contextlib
import csv
import io
from datetime import timezone
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asterisk_exporter.journal.record import (
    CSV_COLUMNS,
    MissingColumnsError,
    Record,
    channel_endpoint,
    dial_endpoint,
    other_half,
)

UTC = timezone.utc
#: As cdr_csv of Asterisk 22.10 writes it.
LINE = (
    '"provider","+4915500000001","+493055513","from-external","""Name"" <+4915500000001>",'
    '"PJSIP/provider-00000009","PJSIP/112-00000023","Queue","agent-ends,iktx,,,300",'
    '"2026-11-24 07:29:33","2026-11-24 07:29:33","2026-11-24 07:29:37",3,3,"ANSWERED",'
    '"DOCUMENTATION","pbx1-1795505373.9","queue:agent-ends","112","pbx1-1795505373.9","9"\n'
)
ROW = next(csv.reader([LINE]))
LEAST = {"uniqueid": "u", "start": 100.0, "disposition": "BUSY"}


def test_a_line_of_master_csv():
    record = Record.from_csv(ROW, UTC)
    assert (record.src, record.clid) == ("+4915500000001", '"Name" <+4915500000001>')
    assert (record.start, record.end, record.billsec) == (1795505373.0, 1795505377.0, 3)
    assert (record.uniqueid, record.linkedid, record.sequence) == (
        *("pbx1-1795505373.9", "pbx1-1795505373.9"),
        9,
    )
    assert Record.from_csv(ROW, ZoneInfo("Europe/Berlin")).end == record.end - 3600


def test_what_is_empty_is_fine():
    record = Record.from_values({**LEAST, "answer": 0, "channel": None, "sequence": ""})
    assert (record.answer, record.channel, record.sequence) == (None, "", None)
    assert (record.end, record.linkedid, record.duration) == (100.0, "u", 0)


def test_what_is_missing_is_computed():
    record = Record.from_values({**LEAST, "answer": Decimal(105), "end": 112})
    assert (record.duration, record.billsec) == (12, 7)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"uniqueid": None}, "it has no uniqueid"),
        ({"start": None}, "it has no start"),
        ({"start": "yesterday"}, "its start is 'yesterday'"),
        ({"end": float("inf")}, "its end is inf"),
        ({"billsec": "many"}, "its billsec is 'many'"),
        ({"disposition": " "}, "it has no disposition"),
    ],
)
def test_what_makes_a_record_malformed(changed, reason):
    with pytest.raises(ValueError, match=reason):
        Record.from_values({**LEAST, **changed})


@pytest.mark.parametrize("columns", [16, 17, 18, 20])
def test_a_file_without_the_last_columns_says_which_and_why(columns):
    with pytest.raises(MissingColumnsError) as told:
        Record.from_csv(ROW[:columns], UTC)
    said = str(told.value)
    assert ", ".join(CSV_COLUMNS[columns:]) in said
    assert "newcdrcolumns = yes" in said
    assert "cdr.conf" in said


@pytest.mark.parametrize("columns", [0, 1, 15, 22, 40])
def test_no_record_has_so_many_columns(columns):
    with pytest.raises(ValueError, match=f"it has {columns} columns"):
        Record.from_csv((ROW * 2)[:columns], UTC)


@pytest.mark.parametrize("text", ["2026-11-24", "24.11.2026 07:29:33", "x", "2026-02-30 00:00:00"])
def test_a_time_that_is_none(text):
    with pytest.raises(ValueError, match="its end is"):
        Record.from_csv([*ROW[:11], text, *ROW[12:]], UTC)


@given(st.lists(st.text(), max_size=25))
def test_any_row_is_a_record_or_malformed(row):
    with contextlib.suppress(ValueError):
        Record.from_csv(row, UTC)


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=5))
def test_texts_come_back_as_they_were_written(texts):
    row = [*texts[:5], *ROW[5:]]
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL).writerow(row)
    read = next(csv.reader(io.StringIO(written.getvalue(), newline="")))
    assert Record.from_csv(read, UTC).clid == texts[4].strip()


@pytest.mark.parametrize(
    ("channel", "endpoint"),
    [
        ("PJSIP/provider-0000000a", "provider"),
        ("PJSIP/north-east-0000000A", "north-east"),
        ("SIP/1.2.3.4-0000beef", "1.2.3.4"),
        ("Local/112@phones-00000000;2", "112@phones"),
        ("Local/1-2@a-b-0000001f;1", "1-2@a-b"),
        ("IAX2/trunk-a-1234", "trunk-a"),
        ("DAHDI/i1/0123-1a", "i1/0123"),
        ("PJSIP/anonymous", "anonymous"),
        ("", ""),
    ],
)
def test_the_endpoint_of_a_channel(channel, endpoint):
    assert channel_endpoint(channel) == endpoint


@pytest.mark.parametrize(
    ("target", "endpoint"),
    [
        ("PJSIP/004930@provider", "provider"),
        ("PJSIP/111/sip:111@127.0.0.1:5111", "111"),
        ("PJSIP/provider", "provider"),
        ("IAX2/user:secret@provider/0049", "provider"),
        ("nonsense", ""),
    ],
)
def test_the_endpoint_of_what_dial_was_told(target, endpoint):
    assert dial_endpoint(target) == endpoint


def test_whom_a_record_dialled():
    def dialled(**given):
        return Record.from_values({**LEAST, **given}).dialled_endpoints

    assert dialled(dstchannel="PJSIP/111-0a", lastapp="Queue") == ["111"]
    assert dialled(lastapp="Dial", lastdata="PJSIP/1&PJSIP/0@t,60,g") == ["1", "t"]
    assert dialled(lastapp="VoiceMail", lastdata="100@default") == []


def test_halves_of_a_local_channel():
    assert other_half("Local/1@a-0;1") == "Local/1@a-0;2"
    assert other_half("Local/1@a-0;2") == "Local/1@a-0;1"
    assert other_half("PJSIP/1-0") is None
    assert other_half("") is None
