"""Values in pieces, of files made by hand: bounds, rare opcodes, errors that name their place, and memory."""

import struct
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from bisync.core.rdb import (
    End,
    Item,
    RdbReader,
    StreamPending,
    String,
    Value,
    ValueBegins,
    ValueEnds,
    ValuePiece,
    decode,
    decode_payload,
    dump_payload,
)
from bisync.core.rdb.encoding import length_of
from bisync.core.rdb.layouts import payload_version
from bisync.core.rdb.payload import crc64
from bisync.errors import RdbError
from tests.core.rdb.content import keys, read
from tests.core.rdb.made_by_hand import AT, OLD_FORMS, listpack, rdb, string, ziplist

NEVER = None
TIME = struct.pack("<q", AT)


def elements(kind: int, body: bytes, version: int = 12) -> list[Any]:
    """The elements of a value, decoded at once."""
    return list(decode(kind, body, version).elements)


def test_old_forms_are_decoded() -> None:
    found = {name: elements(form.type, form.body) for name, form in OLD_FORMS.items()}
    assert found == {
        "zipmap": [(b"a", b"1", None), (b"bb", b"two", None), (b"key", b"", None)],
        "long zipmap": [(b"f" * 300, b"vv", None)],
        "list of ziplist": [b"one", b"two", b"x" * 60],
        "zset with text scores": [(b"a", 3.14), (b"b", float("inf")), (b"c", float("-inf")), (b"d", -1e99)],
        "hash of early 7.4": [(b"field", b"v" * 70, AT), (b"g", b"w", None)],
        "listpack of early 7.4": [(b"f", b"v", AT), (b"g", b"w", None)],
    }


def test_a_string_is_cut_into_pieces_of_the_size_asked_for() -> None:
    content = bytes(range(256)) * 10
    data = rdb(b"\x00\x01k" + string(content), b"\x00\x01l" + string(b"short"))
    for step in (1, 100, 10**6):
        begin, *middle, end, after, last = read(data, step, whole_bytes=1000, piece_bytes=1000)
        assert begin == ValueBegins(0, b"k", 0, NEVER, "string") and end == ValueEnds(0, b"k")
        assert middle == [ValuePiece("string", [content[at : at + 1000]]) for at in (0, 1000, 2000)]
        assert after == String(0, b"l", NEVER, b"short") and last == End(True)


def lzf_run(size: int) -> bytes:
    """`size` (a multiple of 264, plus 1) times the byte x, compressed as far as it goes."""
    return b"\x00x" + b"\xe0\xff\x00" * (size // 264)


def test_a_compressed_string_is_decompressed_piece_by_piece() -> None:
    size = 264 * 1000 + 1
    packed = lzf_run(size)
    data = rdb(b"\x00\x01k\xc3" + length_of(len(packed)) + length_of(size) + packed)
    for step in (1, 999, 10**6):
        begin, *middle, end, _ = read(data, step, whole_bytes=len(packed) - 1, piece_bytes=10_000)
        assert [len(p.elements[0]) for p in middle] == [10_000] * 26 + [size - 260_000]  # type: ignore[union-attr]
        assert b"".join(p.elements[0] for p in middle) == b"x" * size  # type: ignore[union-attr,misc]
    [whole, _] = read(data, whole_bytes=len(packed))
    [key] = keys([whole])
    assert isinstance(whole, Value) and b"".join(key.elements) == b"x" * size  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("packed", "size"),
    [(lzf_run(265), 264), (lzf_run(265), 266), (lzf_run(265) + b"\x05a", 265), (b"\x00x\xe0\xff\x01", 265)],
)
def test_a_compressed_string_that_lies_is_refused_while_it_is_read(packed: bytes, size: int) -> None:
    data = rdb(b"\x00\x01k\xc3" + length_of(len(packed)) + length_of(size) + packed)
    for step in (1, 10**6):
        with pytest.raises(RdbError, match="compressed string is damaged"):
            read(data, step, whole_bytes=1)


def test_whole_or_in_pieces_goes_by_the_bytes_in_the_file() -> None:
    for name, body in (("table", length_of(3) + string(b"x" * 100) * 3), ("blob", string(listpack(b"x" * 100)))):
        kind = {"table": 2, "blob": 20}[name]
        data = rdb(bytes([kind]) + b"\x01k" + body)
        for step in (1, 50, 1000):
            whole = read(data, step, whole_bytes=len(body))
            assert [type(i) for i in whole] == [Value, End]
            cut = read(data, step, whole_bytes=len(body) - 1)
            assert [type(i) for i in cut] == [ValueBegins, ValuePiece, ValueEnds, End]


def test_a_value_that_is_read_again_from_its_start_counts_once_in_the_checksum() -> None:
    members = [bytes([n]) * 3000 for n in range(5)]
    table = rdb(b"\x02\x01k" + length_of(5) + b"".join(map(string, members)))
    # The field has been passed when the value turns out to be too big, and is not taken again before that is there.
    pair = rdb(b"\x04\x01k" + length_of(1) + string(b"f" * 500) + string(b"v" * 3000))
    for step in (100, 1500, 2900, 3100):
        [key] = keys(read(table, step, whole_bytes=1000))  # `read` wants a right checksum and the right offset
        assert key.elements == members
        [key] = keys(read(pair, step, whole_bytes=1000))
        assert key.elements == [(b"f" * 500, b"v" * 3000, None)]


def test_an_expiry_and_a_database_belong_to_the_next_key_only() -> None:
    big = b"\x02" + string(b"big") + length_of(1) + string(b"x" * 50)
    data = rdb(b"\xfe\x05\xfc" + TIME + b"\xf8\x05" + big, big, b"\xfd" + struct.pack("<i", 1_900_000_000) + big)
    begun = [i for i in read(data, whole_bytes=10) if isinstance(i, ValueBegins)]
    assert [(b.database, b.expires_at_ms) for b in begun] == [(5, AT), (5, None), (5, 1_900_000_000_000)]


METADATA = b"\xf3\x02" + b"ABCD\x02\x05\x00" + b"EFGH\x05" + string(b"kept") + b"\x00"


def test_what_modules_attached_to_a_key_stays_in_its_payload() -> None:
    table = b"\x02\x01s" + length_of(1) + string(b"m")
    data = rdb(METADATA + b"\x00\x01k" + string(b"v"), METADATA + table, table, header=b"REDIS0013")
    for step in (1, 10**6):
        a, b, c, _ = read(data, step)
        assert a == Value(0, b"k", 0, NEVER, dump_payload(0, string(b"v"), 13, METADATA))
        assert b == Value(0, b"s", 2, NEVER, dump_payload(2, table[3:], 13, METADATA))
        assert c == Value(0, b"s", 2, NEVER, dump_payload(2, table[3:], 13))
        assert isinstance(b, Value) and b.payload.startswith(METADATA + b"\x02")
        assert b.payload[-8:] == crc64(b.payload[:-8]).to_bytes(8, "little")
        assert list(decode_payload(b.payload).elements) == [b"m"]
    # A target of an older version cannot be told; whoever writes the value sees that there was something.
    begun = [i for i in read(data, payload_version=12) if isinstance(i, ValueBegins)]
    assert [(i.key, i.metadata) for i in begun] == [(b"k", METADATA), (b"s", METADATA)]


def test_slots_that_are_moved_by_valkey_are_passed_over() -> None:
    moved = (
        b"\xf3" + string(b"j" * 40) + length_of(2) + length_of(5) + length_of(900) + length_of(1000) + length_of(16383)
    )
    for step in (1, 10**6):
        assert read(rdb(moved, b"\x00\x01k\x01v", header=b"VALKEY080"), step) == [
            String(0, b"k", NEVER, b"v"),
            End(True),
        ]
    with pytest.raises(RdbError):
        read(rdb(b"\xf2\x01\x01" + string(b"f"), header=b"VALKEY080"))


TEMPLATE = b"\xf2" + length_of(300) + length_of(2) + string(b"name") + string(b"year")


def test_a_hash_gets_the_field_names_of_its_template() -> None:
    packed = b"\x1e\x01p" + string(listpack(300, b"Ann", 1950))
    row = b"\x20\x01r" + length_of(300) + string(b"Bob") + string(b"1951")
    data = rdb(TEMPLATE, packed, row, header=b"REDIS0015")
    for options in ({}, {"whole_bytes": 0}, {"payload_version": 10}):
        for step in (1, 10**6):
            a, b = keys(read(data, step, **options))
            assert a.elements == [(b"name", b"Ann", None), (b"year", b"1950", None)]
            assert b.elements == [(b"name", b"Bob", None), (b"year", b"1951", None)]
    assert [i.type for i in read(data) if isinstance(i, Value)] == [29, 31]
    for damaged in (rdb(packed, header=b"REDIS0015"), rdb(row, header=b"REDIS0015")):
        for options in ({}, {"whole_bytes": 0}):
            with pytest.raises(RdbError, match="hash template 300"):
                read(damaged, **options)


def test_hashes_that_bring_their_template_along_are_decoded_from_a_dump() -> None:
    fields, names = listpack(b"a", b"b"), b"\x01" + length_of(2) + string(b"a") + string(b"b")
    expected = [(b"a", b"1", None), (b"b", b"2", None)]
    for head in (b"\x00" + string(fields), names):
        assert elements(29, head + string(listpack(7, 1, 2)), 15) == expected
        assert elements(31, head + string(b"1") + string(b"2"), 15) == expected
        with pytest.raises(RdbError, match="1 values for 2 fields"):
            elements(29, head + string(listpack(7, 1)), 15)
        assert [k.elements for k in keys(read(rdb(b"\x1f\x01k" + head + b"\x011\x012", header=b"REDIS0015")))] == [
            expected
        ]


def test_a_template_that_is_too_big_to_keep_is_refused() -> None:
    field = string(b"f" * 10_000)
    with pytest.raises(RdbError, match="too many hash templates"):
        read(rdb(*(b"\xf2" + length_of(n) + length_of(1) + field for n in range(9))), max_value_bytes=70_000)


def stream_with(pending: bytes, owned: bytes, nacked: bytes | None = None) -> bytes:
    """An empty stream with a group that has what is pending, of which a consumer owns some."""
    group = string(b"g") + bytes(3) + pending + length_of(1) + string(b"c") + TIME * 2 + owned
    tail = nacked if nacked is not None else b""
    return bytes(9) + length_of(1) + group + tail


def ids(*numbers: int) -> bytes:
    return length_of(len(numbers)) + b"".join(struct.pack(">QQ", AT, n) for n in numbers)


def all_pending(*numbers: int) -> bytes:
    return length_of(len(numbers)) + b"".join(struct.pack(">QQ", AT, n) + TIME + length_of(n) for n in numbers)


def test_what_is_pending_comes_with_its_owner() -> None:
    body = stream_with(all_pending(1, 3, 900), ids(3, 900), ids(1)) + length_of(100) + length_of(9) + bytes(3)
    found = [e for e in elements(27, body, 15) if isinstance(e, StreamPending)]
    assert found == [
        StreamPending((AT, 3), AT, 3, True),
        StreamPending((AT, 900), AT, 900, True),
        StreamPending((AT, 1), AT, 1, False),
    ]
    with pytest.raises(RdbError, match="pending for a consumer and not for its group"):
        elements(21, stream_with(all_pending(1, 3), ids(2)))
    with pytest.raises(RdbError, match="do not ascend"):
        elements(21, stream_with(all_pending(3, 1), ids(1)))


@pytest.mark.parametrize(
    ("kind", "body", "why"),
    [
        (16, string(listpack(b"f")), "a field without a value"),
        (17, string(listpack(b"m")), "a member without a score"),
        (17, string(listpack(b"m", b"much")), "could not convert"),
        (17, string(listpack(b"m", b"1_0")), "the score"),
        (23, string(listpack(b"f", b"v")), "without a value or an expiry"),
        (23, string(listpack(b"f", b"v", b"soon")), "invalid literal"),
        (20, string(listpack(b"a", b"b", count=3)), "another number of elements"),
        (20, string(listpack(b"a", b"b", count=1)), "another number of elements"),
        (20, string(b"\x09" + listpack(b"a")[1:]), "says it has 9"),
        (20, string(listpack(b"a")[:-1] + b"\xfe"), "without an end"),
        (20, string(b"\x09\x00\x00\x00\x01\x00\xbf\x01\xff"), "beyond its end"),
        (20, string(b"\x09\x00\x00\x00\x01\x00\xf5\x01\xff"), "starts with byte 0xf5"),
        (20, string(b"\x0c\x00\x00\x00\x01\x00\xf0\xff\xff\xff\xff\xff"), "beyond its end"),
        (10, string(ziplist(b"a")[:-3] + b"\x3f" + b"a\xff"), "beyond its end"),
        (10, string(ziplist(b"a")[:-3] + b"\xcf" + b"a\xff"), "starts with byte 0xcf"),
        (9, string(b"\x01\x05a\xff"), "beyond its end"),
        (9, string(b"\x01\xff\xff"), "ends before its end"),
        (11, string(struct.pack("<II", 2, 9) + bytes(4)), "9 numbers of 2 bytes"),
        (11, string(struct.pack("<II", 3, 0)), "numbers of 3 bytes"),
        (18, length_of(1) + length_of(3) + string(b"x"), "container 3"),
        (21, length_of(1) + string(b"id") + string(listpack(0)), "has 2 bytes"),
        (21, length_of(1) + string(bytes(16)) + string(listpack(1, 0, 99, b"f")), "99 shared fields"),
        (21, length_of(1) + string(bytes(16)) + string(listpack(1, 0, 0, 0, 0, 1, 1, 50, b"f")), "50 fields"),
        (21, length_of(1) + string(bytes(16)) + string(listpack(1, 0, 0, 0, 2, 1)), "within an entry"),
        (28, length_of(1) + length_of(2), "last insertion is 2"),
        (28, length_of(1) + b"\x00\x05\x07", "unknown tag 7"),
        (3, length_of(1) + string(b"m") + b"\x03abc", "could not convert"),
        (1, length_of(1) + b"\xc4", "cannot start with byte 0xc4"),
    ],
)
def test_a_damaged_value_is_an_error_that_says_where_and_why(kind: int, body: bytes, why: str) -> None:
    with pytest.raises(RdbError, match=why):
        elements(kind, body, 15)
    data = rdb(b"\x00\x01a\x01b", bytes([kind]) + string(b"the key") + body + bytes(50), header=b"REDIS0015")
    for step in (1, 10**6):
        with pytest.raises(RdbError, match=why) as caught:
            read(data, step, whole_bytes=0)
        assert f"in the value of key b'the key' of RDB type {kind}, at byte" in str(caught.value)
        assert 14 < caught.value.offset <= len(data)


def test_a_value_that_ends_early_or_late_is_an_error() -> None:
    body = length_of(2) + string(b"a") + string(b"b")
    assert elements(2, body) == [b"a", b"b"]
    for end in range(len(body)):
        with pytest.raises(RdbError, match="breaks off"):
            elements(2, body[:end])
    with pytest.raises(RdbError, match="bytes after its end"):
        elements(2, body + b"x")
    with pytest.raises(RdbError, match="unknown type 33"):
        decode(33, b"", 15)
    with pytest.raises(RdbError, match="unknown type 24"):
        decode(24, b"", 80)
    with pytest.raises(RdbError, match="no payload"):
        decode_payload(bytes(10))
    assert decode(7, b"anything", 12).kind == "module"


def test_items_before_damage_are_handed_out_one_by_one() -> None:
    reader, found = RdbReader(), list[Item]()
    with pytest.raises(RdbError):
        for item in reader.items(rdb(b"\x00\x01a\x01b", b"\x20")):
            found.append(item)
    assert found == [String(0, b"a", NEVER, b"b")]


@pytest.mark.parametrize(
    ("kind", "written", "target", "version"),
    [
        (4, 10, 10, 10),
        (4, 10, 12, 10),
        (4, 15, 6, 6),
        (16, 15, 10, 10),
        (16, 10, 9, None),
        (5, 9, 7, None),
        (24, 15, 12, 12),
        (24, 12, 80, None),
        (16, 12, 80, 11),
        (16, 80, 12, 11),
        (22, 80, 12, None),
        (22, 80, 80, 80),
        (22, 80, 11, None),
        (21, 80, 11, 11),
        (21, 80, 10, None),
        (16, 10, 80, 10),
        (28, 15, 15, 15),
        (28, 14, 14, 14),
        (28, 15, 13, None),
    ],
)
def test_a_payload_goes_under_the_targets_version_if_it_knows_the_type(
    kind: int, written: int, target: int, version: int | None
) -> None:
    assert payload_version(kind, written, target) == version


def large_hash(fields: int, value: bytes) -> Iterator[bytes]:
    yield b"REDIS0010\x04\x01h" + length_of(fields)
    for n in range(0, fields, 100):
        yield b"".join(string(b"field:%08d" % i) + string(value) for i in range(n, n + 100))
    yield b"\xff" + bytes(8)


def large_list(nodes: int, node: bytes) -> Iterator[bytes]:
    yield b"REDIS0010\x12\x01l" + length_of(nodes)
    for _ in range(0, nodes, 10):
        yield (b"\x02" + node) * 10
    yield b"\xff" + bytes(8)


def large_string(count: int, part: bytes) -> Iterator[bytes]:
    yield b"REDIS0010\x00\x01s" + length_of(count * len(part))
    for _ in range(count):
        yield part
    yield b"\xff" + bytes(8)


def bomb(parts: int) -> Iterator[bytes]:
    """A list of which each compressed node stands for 88 times its bytes, of tiny elements."""
    content = listpack(*[b"ab"] * 10_000, count=10_000)
    packed = bytearray(b"\x1f" + content[:32])
    left = len(content) - 32 - 8
    while left >= 9:
        count = min(left, 264)
        packed += bytes([0xE0, count - 9, 3])
        left -= count
    tail = content[len(content) - 8 - left :]
    packed += bytes([len(tail) - 1]) + tail
    node = b"\xc3" + length_of(len(packed)) + length_of(len(content)) + bytes(packed)
    yield b"REDIS0010\x12\x01l" + length_of(parts)
    yield (b"\x02" + node) * parts
    yield b"\xff" + bytes(8)


@pytest.mark.slow
@pytest.mark.parametrize(
    "source",
    [
        large_hash(50_000, b"v" * 150),
        large_list(1000, string(listpack(*[b"x" * 70] * 110))),
        large_string(150, b"s" * 100_000),
        bomb(100),
    ],
    ids=["hash", "list", "string", "bomb"],
)
def test_memory_is_bounded_whatever_the_size_of_the_value(source: Iterator[bytes]) -> None:
    reader, size, handed_out = RdbReader(whole_bytes=1 << 15, piece_bytes=1 << 18), 0, 0
    tracemalloc.start()
    try:
        for data in source:
            size += len(data)
            for item in reader.items(data):
                handed_out += isinstance(item, ValuePiece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    reader.close()
    assert handed_out > 30 and size > 40_000
    assert peak < 6 << 20
