"""Master.csv as the source of calls: quotes, newlines, encodings, wrong columns, rotation."""

from __future__ import annotations

import csv
import io
import logging
import time
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asterisk_exporter.journal import cdr_csv
from asterisk_exporter.journal.calls import Rules
from asterisk_exporter.journal.cdr import RECORDS, CdrCounter, Malformed, newest_record_age
from asterisk_exporter.journal.cdr_csv import CsvFile, CsvSource, parse, split
from asterisk_exporter.journal.ledger import CALLS, CallLedger
from asterisk_exporter.journal.record import CSV_COLUMNS, Record
from asterisk_exporter.journal.runner import SourceError
from asterisk_exporter.journal.store import JournalStore

UTC = timezone.utc


def line(
    uniqueid: str = "u", disposition: str = "BUSY", ended: float | None = None, **given
) -> bytes:
    moment = datetime.fromtimestamp(time.time() if ended is None else ended, UTC)
    values = {
        **dict.fromkeys(CSV_COLUMNS, ""),
        "src": "+49301234567",
        "dcontext": "from-external",
        "lastapp": "Dial",
        "dstchannel": "PJSIP/111-0a",
        "start": moment.strftime("%Y-%m-%d %H:%M:%S"),
        "end": moment.strftime("%Y-%m-%d %H:%M:%S"),
        "disposition": disposition,
        "uniqueid": uniqueid,
        "linkedid": uniqueid,
        **given,
    }
    return csv_line([values[name] for name in CSV_COLUMNS])


def csv_line(row: list[str], encoding: str = "utf-8") -> bytes:
    written = io.StringIO()
    csv.writer(written, quoting=csv.QUOTE_ALL, lineterminator="\n").writerow(row)
    return written.getvalue().encode(encoding, "surrogateescape")


@pytest.fixture
def file(tmp_path):
    made = CsvFile(tmp_path / "log" / "Master.csv", UTC)
    made.path.parent.mkdir()
    made.path.write_bytes(b"")
    return made


@pytest.fixture
def store(tmp_path):
    made = JournalStore(tmp_path / "state")
    yield made
    made.close()


def source_of(file: CsvFile, store: JournalStore, backfill: bool = False) -> CsvSource:
    ledger = CallLedger(store, Rules(settle_seconds=0))
    source = file.source(store, "", CdrCounter(store, ledger))
    source.open()
    source.begin(backfill)
    return source


def append(file: CsvFile, data: bytes) -> None:
    with file.path.open("ab") as stream:
        stream.write(data)


def read(source: CsvSource) -> None:
    while source.read():
        pass


def counts(store: JournalStore, name: str = RECORDS) -> dict[str, int]:
    return {labels[-1]: value for labels, value in store.values(name).items() if value}


def malformed(store: JournalStore) -> int:
    return store.values("asterisk_exporter_journal_malformed")["cdr",]


def test_records_are_counted_once_across_restarts(file, store):
    append(file, line("old"))
    source_of(file, store)
    for uniqueid, disposition in (("a", "ANSWERED"), ("b", "BUSY"), ("c", "CANCEL")):
        append(file, line(uniqueid, disposition))
        source = source_of(file, store)
        read(source)
        source.close()
    assert counts(store) == {"ANSWERED": 1, "BUSY": 1, "CANCEL": 1}
    read(source_of(file, store))
    assert counts(store, CALLS) == {"answered": 1, "missed": 2}
    assert abs(source.last_record - time.time()) < 5
    assert malformed(store) == 0


def test_backfill_reads_rotated_files_too(file, store):
    append(file, line("a", ended=1e9))
    file.path.rename(file.path.with_name("Master.csv.1"))
    append(file, line("b", ended=1e9 + 60) + line("c", ended=1e9 + 90))
    read(source_of(file, store, backfill=True))
    assert counts(store) == {"BUSY": 3}


def test_a_record_is_whole_when_its_quotes_balance(file, store):
    source = source_of(file, store)
    whole = line("a", clid='"Two\nlines, ""and"" quotes" <1>')
    cut = whole.index(b"\n") + 1
    append(file, whole[:cut])
    read(source)
    assert counts(store) == {}
    assert source.lag_seconds() == 0  # nothing was ever read
    append(file, whole[cut:] + line("b"))
    read(source_of(file, store))
    assert counts(store) == {"BUSY": 2}
    assert malformed(store) == 0


def test_a_lost_quote_costs_one_record(file, store):
    source = source_of(file, store)
    broken = line("broken").replace(b'"', b"", 1)
    many = b"".join(line(f"u{n}") for n in range(1000))
    append(file, broken + many)
    assert len(many) > cdr_csv.LONGEST_RECORD_BYTES
    read(source)
    assert malformed(store) == 1
    assert counts(store) == {"BUSY": 1000, "OTHER": 1}


def test_a_record_that_was_never_finished_before_rotation(file, store):
    source = source_of(file, store)
    append(file, line("a") + line("b", clid="two\nlines").partition(b"\n")[0] + b"\n")
    read(source)
    assert counts(store) == {"BUSY": 1}
    file.path.rename(file.path.with_name("Master.csv.1"))
    append(file, line("c"))
    read(source)
    assert counts(store) == {"BUSY": 2, "OTHER": 1}
    assert malformed(store) == 1


def test_a_file_without_its_last_columns_is_told_once(file, store, caplog):
    source = source_of(file, store)
    short = csv_line(next(csv.reader([line().decode()]))[:18])
    append(file, short * 3)
    with caplog.at_level(logging.WARNING):
        read(source)
    assert malformed(store) == 3
    # the raw count is right all the same
    assert counts(store) == {"BUSY": 3}
    assert counts(store, CALLS) == {}
    assert caplog.text.count("without peeraccount, linkedid, sequence") == 1
    assert "newcdrcolumns" in caplog.text


def test_other_encodings_do_not_stop_it(file, store):
    source = source_of(file, store)
    append(file, line("a", clid="Müller").decode().encode("latin-1"))
    append(file, line("b", clid="Name").replace(b"Name", b"\xff\xfe\x00"))
    read(source)
    assert counts(store) == {"BUSY": 2}
    assert malformed(store) == 0


def test_age_of_the_newest_record(file):
    assert newest_record_age(file, "", 5) is None
    append(file, line("a", ended=time.time() - 40) + b'half"')
    assert 40 <= newest_record_age(file, "", 5) < 45
    file.path.unlink()
    with pytest.raises(SourceError, match="No such file"):
        newest_record_age(file, "", 5)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=23), st.data())
def test_any_rows_in_any_pieces_are_split_where_they_were_joined(row, data):
    lines = [csv_line(row), line("u"), csv_line([*row, "\n"])]
    whole = b"".join(lines)
    assert list(split(whole)) == lines
    cut = data.draw(st.integers(0, len(whole)))
    complete = list(split(whole[:cut]))
    taken = sum(map(len, complete))
    # what was complete in the piece is never more than what came, and nothing is skipped
    assert b"".join(complete) == whole[:taken]
    assert isinstance(parse(lines[1], UTC), Record)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_record_or_malformed(data):
    for raw in split(data + b"\n"):
        assert isinstance(parse(raw, UTC), (Record, Malformed))
