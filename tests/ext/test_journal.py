"""The journal: lines that outlive their writer, one reading of them, and room that is kept."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw._ext import lines
from fastgw._ext.lines import Damaged
from fastgw.domain import UsageRecord

SIZE = 1 << 16
TEXTS = ("key_1", None, "team", None, '{"a":"b"}', "chat", "smart", "openai", "gpt-5")
ID = "fgw_0123456789ABCDEFGHIJKL"
NUMBERS = (10, 20, 3, 4, 5, 600)


@dataclass
class Folder:
    """Segments of one journal, as files."""

    journal: object
    files: list[int] = field(default_factory=list)

    def provide(self, size: int = SIZE) -> None:
        """Give the journal a fresh file."""
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)
            self.files.append(os.dup(file.fileno()))
        self.journal.provide(self.files[-1], size, len(self.files))

    def data(self, number: int = 0) -> bytes:
        """Give what a segment holds."""
        return os.pread(self.files[number], os.fstat(self.files[number]).st_size, 0)


@pytest.fixture
def folder(build):
    folder = Folder(build.journal.Journal())
    yield folder
    for file in folder.files:
        os.close(file)


def write_open(journal, who, id_=ID, label=None, nano=7, tokens=8, prompt=9):
    return journal.open(who, id_, label, 1000, True, nano, tokens, prompt)


def write_close(journal, who, kept, id_=ID, label=None, code=None, ttft=12):
    return journal.close(
        kept, who, id_, label, 1000, True, 200, 1, *NUMBERS, "reported", 11, ttft, 13, code
    )


def test_lines_are_read_as_usage_records(build, folder):
    """A row has the fields of a usage record in their order."""
    folder.provide()
    who = build.journal.Who(TEXTS)
    kept = write_open(folder.journal, who, label="mine")
    assert write_close(folder.journal, who, kept, label="mine", code="upstream_error", ttft=-1)
    closed, opened, end = build.journal.read(folder.data(), 0, {})
    record = UsageRecord(*closed[0])
    assert record.id == ID
    assert record.request_id == "mine"
    assert (record.key_id, record.user_id, record.team_id) == ("key_1", None, "team")
    assert (record.tags, record.endpoint, record.requested_model) == ('{"a":"b"}', "chat", "smart")
    assert (record.provider, record.upstream_model) == ("openai", "gpt-5")
    assert (record.status, record.attempts, record.stream) == (200, 1, 1)
    assert (record.input_tokens, record.output_tokens, record.cost_nano) == (10, 20, 600)
    assert (record.usage_source, record.duration_ms, record.ttft_ms) == ("reported", 11, None)
    assert (record.overhead_us, record.error_code) == (13, "upstream_error")
    ((row, tokens, prompt),) = opened
    held = UsageRecord(*row)
    assert (held.id, held.usage_source, held.cost_nano, held.input_tokens) == (ID, "held", 7, 9)
    assert (tokens, prompt, end) == (8, 9, folder.journal.end)
    assert folder.journal.owed == 0


def test_reading_goes_on_where_it_stopped(build, folder):
    """What is read once is not read again; a limit stops between two lines."""
    folder.provide()
    who = build.journal.Who(TEXTS)
    names: dict = {}
    assert build.journal.read(folder.data(), 0, names)[2] == lines.HEADER
    for number in range(5):
        write_close(folder.journal, who, 0, id_=f"id-{number}")
    closed, _, end = build.journal.read(folder.data(), 0, names, 2)
    assert [row[0] for row in closed] == ["id-0", "id-1"]
    closed, _, end = build.journal.read(folder.data(), end, names)
    assert [row[0] for row in closed] == ["id-2", "id-3", "id-4"]
    assert build.journal.read(folder.data(), end, names) == ([], [], end)


def test_what_is_open_can_always_be_closed(build, folder):
    """Without a new segment an open line is refused in time; every close still finds room."""
    folder.provide()
    whos = [build.journal.Who((f"key_{n}", *TEXTS[1:])) for n in range(50)]
    open_ = []
    while True:
        who = whos[len(open_) % 50]
        kept = write_open(folder.journal, who, id_=f"id-{len(open_)}", label="l" * 240)
        if not kept:
            break
        open_.append((who, kept))
    assert len(open_) > 30
    while write_close(folder.journal, whos[0], 0, id_="unkept"):
        pass  # what is kept is not for these
    for number, (who, kept) in enumerate(open_):
        label, code = "l" * 240, "c" * 64
        assert write_close(folder.journal, who, kept, f"id-{number}", label, code)
    closed, opened, _ = build.journal.read(folder.data(), 0, {})
    assert len([row for row in closed if row[0] != "unkept"]) == len(opened) == len(open_)
    assert folder.journal.owed == 0


def test_a_full_segment_is_followed_by_the_next(build, folder):
    """Each segment can be read alone, and none of the lines is lost or double."""
    folder.provide()
    who = build.journal.Who(TEXTS)
    ids = [f"id-{number}" for number in range(1000)]
    for id_ in ids:
        if folder.journal.wants_segment:
            folder.provide()
        kept = write_open(folder.journal, who, id_)
        assert kept
        assert write_close(folder.journal, who, kept, id_)
    assert folder.journal.take_left() == list(range(1, folder.journal.serial))
    assert folder.journal.take_left() == []
    found = []
    for number in range(len(folder.files)):
        found += [row[0] for row in build.journal.read(folder.data(number), 0, {})[0]]
    assert found == ids
    assert len(folder.files) > 3


def test_nothing_is_written_without_a_segment(build, folder):
    """It says so."""
    who = build.journal.Who(TEXTS)
    assert write_open(folder.journal, who) == 0
    assert not write_close(folder.journal, who, 0)
    assert folder.journal.wants_segment
    assert not folder.journal.turn_over()


def test_lines_outlive_a_killed_writer(build, folder):
    """Kill -9 at any time: all lines whose writing was told of are there, and no half of one."""
    reader, writer = os.pipe()
    with tempfile.TemporaryFile() as file:
        size = 1 << 22
        os.posix_fallocate(file.fileno(), 0, size)
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                journal = build.journal.Journal()
                journal.provide(file.fileno(), size, 1)
                who = build.journal.Who(TEXTS)
                for number in range(1 << 30):
                    write_close(journal, who, 0, f"id-{number}")
                    if number % 100 == 0:
                        os.write(writer, b".")
            os._exit(1)
        os.close(writer)
        told = 0
        while told < 30:
            told += len(os.read(reader, 30))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        closed, _, end = build.journal.read(os.pread(file.fileno(), size, 0), 0, {})
        assert [row[0] for row in closed] == [f"id-{number}" for number in range(len(closed))]
        assert len(closed) > (told - 1) * 100
        assert end < size


texts = st.one_of(st.none(), st.text(max_size=300))
number = st.integers(-(2**62), 2**62)


@settings(max_examples=60, deadline=None)
@given(
    who=st.tuples(*[texts] * 9),
    label=st.one_of(st.none(), st.text("abc é", max_size=100)),
    code=st.one_of(st.none(), st.text("ab_", max_size=64)),
    numbers=st.lists(number, min_size=9, max_size=9),
    stream=st.booleans(),
    source=st.sampled_from(lines.SOURCES),
)
def test_both_builds_write_and_read_the_same(twins, who, label, code, numbers, stream, source):
    """Byte for byte, whatever is written; numbers are brought into what a store can sum."""
    data = []
    for build in twins:
        folder = Folder(build.journal.Journal())
        folder.provide(1 << 20)
        made = build.journal.Who(who)
        kept = folder.journal.open(made, ID, label, 5, stream, *numbers[:3])
        *counts, nano, duration, ttft, overhead = numbers
        assert folder.journal.close(
            kept, made, ID, label, 5, stream, 200, 3, *counts, nano, source, duration, ttft,
            overhead, code,
        )  # fmt: skip
        data.append(folder.data())
        os.close(folder.files[0])
    assert data[0] == data[1]
    read = [build.journal.read(data[0], 0, {}) for build in twins]
    assert read[0] == read[1]
    (row,) = read[0][0]
    assert all(0 <= value <= lines.MOST for value in row[15:21])


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, 700), byte=st.integers(0, 255), cut=st.integers(0, 1000))
def test_damaged_lines_are_told_of(twins, at, byte, cut):
    """Whatever is broken in a segment, both builds say the same, and neither reads beyond it."""
    folder = Folder(twins[1].journal.Journal())
    folder.provide(4096)
    who = twins[1].journal.Who(TEXTS)
    kept = write_open(folder.journal, who, label="mine")
    write_close(folder.journal, who, kept, label="mine", code="c")
    data = bytearray(folder.data())
    os.close(folder.files[0])
    data[at] = byte
    data = data[: len(data) - cut]
    told = []
    for build in twins:
        try:
            told.append(build.journal.read(bytes(data), 0, {}))
        except Damaged as exc:
            told.append(exc.offset)
    assert told[0] == told[1]


def test_texts_that_no_store_takes_are_made_fit(build, folder):
    """A lone surrogate, a NUL, a name without end."""
    folder.provide()
    who = build.journal.Who(("\ud800", "a\0b", *TEXTS[2:6], "m" * 1000, *TEXTS[7:]))
    write_close(folder.journal, who, 0)
    (row,), _, _ = build.journal.read(folder.data(), 0, {})
    assert row[3] == "?"
    assert row[4] == "a\N{REPLACEMENT CHARACTER}b"
    assert row[9] == "m" * 240


def test_too_long_an_id_is_refused(build, folder):
    """The fields of a line have fixed room."""
    folder.provide()
    who = build.journal.Who(TEXTS)
    with pytest.raises(ValueError, match="too long"):
        write_open(folder.journal, who, id_="i" * 33)
    with pytest.raises(ValueError, match="too long"):
        write_close(folder.journal, who, 0, label="l" * 241)
    with pytest.raises(ValueError, match="texts"):
        build.journal.Who(TEXTS[:3])
