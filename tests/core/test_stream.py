"""Cutting a replication stream into entries."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bisync.core.position import Position
from bisync.core.resp import EXEC, MULTI, pack, select
from bisync.core.stream import StreamReader
from bisync.core.tag import Tag, tag_key
from bisync.errors import StreamError

REPLID = "a" * 40
KEY = tag_key("orders", "reverse")
TAG = Tag("orders", 3, "e1")

arguments = st.lists(st.binary(max_size=40), min_size=1, max_size=4)
commands = arguments.filter(lambda a: a[0].upper() not in (b"MULTI", b"EXEC", b"SELECT", b"PING", b"REPLCONF"))


def reader(offset: int = 100, database: int = 0) -> StreamReader:
    return StreamReader(Position(REPLID, offset, database), KEY)


def read(data: bytes, pieces: list[int]) -> list[object]:
    """The entries of `data`, fed in pieces that end at the given places."""
    subject, entries, at = reader(), [], 0
    for cut in [*sorted(pieces), len(data)]:
        entries += subject.feed(data[at:cut]) if cut > at else []
        at = max(at, cut)
    assert subject.position.offset <= 100 + len(data)
    return entries


@given(st.lists(commands, max_size=8), st.lists(st.integers(0, 400), max_size=6))
def test_any_cut_of_the_stream_gives_the_same_entries(drawn: list[list[bytes]], cuts: list[int]) -> None:
    data = select(0) + b"".join(pack(*c) for c in drawn)
    data += MULTI + b"".join(pack(*c) for c in drawn) + EXEC
    whole = read(data, [])
    assert read(data, [c for c in cuts if c < len(data)]) == whole
    assert len(whole) == len(drawn) + bool(drawn)


def test_every_single_cut_gives_the_same_entries() -> None:
    data = select(3) + pack(b"SET", b"k", b"v" * 1030) + MULTI + pack(b"INCR", b"n") + pack(b"", b"") + EXEC
    whole = read(data, [])
    for cut in range(len(data)):
        assert read(data, [cut]) == whole
    assert read(data, list(range(len(data)))) == whole


@given(st.binary(max_size=200))
@example(b"*1\r\n:1\r\n")
@example(b"*1\r\n$-1\r\n")
@example(b"*-1\r\n*0\r\n")
@example(b"*1\r\n*1\r\n$4\r\nPING\r\n")
@example(b"*2\r\n$03\r\nSET\r\n$1\r\nk\r\n*1\r\n")
@example(b"$3\r\nfoo\r\n")
@example(b"*2\r\n$6\r\nSELECT\r\n$1\r\nx\r\n")
@example(b"*1\r\n$4\r\nEXEC\r\n")
@example(b"*1\r\n+OK\r\n")
@example(b"*1\r\n" * 30)
def test_random_bytes_give_nothing_or_a_stream_error(data: bytes) -> None:
    try:
        reader().feed(data)
    except StreamError as e:
        assert "offset" in str(e)


@given(st.lists(commands, min_size=1, max_size=5), st.data())
def test_a_damaged_byte_gives_other_entries_or_a_stream_error(drawn: list[list[bytes]], data: st.DataObject) -> None:
    good = b"".join(pack(*c) for c in drawn)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    try:
        entries = reader().feed(bytes(bad))
    except StreamError:
        return
    assert all(e.start < e.end for e in entries)


def test_offsets_are_to_the_byte() -> None:
    first, second = pack(b"SET", b"k", b"v"), MULTI + pack(b"INCR", b"a") + pack(b"INCR", b"b") + EXEC
    entries = reader(1000).feed(select(2) + first + second + pack(b"PING"))
    at = 1000 + len(select(2))
    assert [(e.start, e.end, e.database) for e in entries] == [
        (at, at + len(first), 2),
        (at + len(first), at + len(first + second), 2),
    ]
    assert entries[0].commands[0].raw == first
    assert [c.args for c in entries[1].commands] == [[b"INCR", b"a"], [b"INCR", b"b"]]


def test_the_position_never_stands_inside_a_transaction() -> None:
    subject = reader(0, database=5)
    subject.feed(select(1) + MULTI + select(2) + pack(b"INCR", b"a"))
    assert subject.position == Position(REPLID, len(select(1)), 1)
    subject.feed(EXEC)
    assert subject.position.database == 2
    assert subject.buffered == 0


def test_a_partial_resync_goes_on_in_the_database_of_its_position() -> None:
    (entry,) = reader(0, database=7).feed(pack(b"SET", b"k", b"v"))
    assert entry.commands[0].database == 7


@pytest.mark.parametrize("wrapped", [True, False], ids=["in a MULTI", "alone"])
def test_own_tag_makes_an_entry_foreign(wrapped: bool) -> None:
    marker = pack(b"SET", KEY, TAG.encode())
    data = MULTI + marker + pack(b"INCR", b"n") + EXEC if wrapped else marker
    (entry,) = reader().feed(data)
    assert entry.tag == TAG
    assert [c.name for c in entry.commands] == ([b"INCR"] if wrapped else [])


@pytest.mark.parametrize(
    "data",
    [
        pack(b"SET", tag_key("other", "reverse"), TAG.encode()),
        pack(b"SET", KEY, b"a client's value"),
        select(1) + pack(b"SET", KEY, TAG.encode()),
        MULTI + pack(b"INCR", b"n") + pack(b"SET", KEY, TAG.encode()) + EXEC,
    ],
    ids=["another job's", "no tag", "another database", "not first"],
)
def test_what_is_not_our_tag_is_a_client_write(data: bytes) -> None:
    (entry,) = reader().feed(data)
    assert entry.tag is None


def test_a_big_value_in_many_pieces_costs_no_quadratic_time() -> None:
    data, subject = pack(b"SET", b"k", b"x" * 8_000_000), reader()
    entries = []
    for at in range(0, len(data), 4096):
        entries += subject.feed(data[at : at + 4096])
    assert len(entries) == 1
