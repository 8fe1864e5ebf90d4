"""Damage of every kind to real RDB files: nothing but RdbError comes of it, in bounded time and memory."""

import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bisync.core.rdb import RdbReader, Value, decode, decode_payload
from bisync.core.rdb.elements import Element
from bisync.core.rdb.encoding import length_of
from bisync.core.rdb.lzf import Unpacker, decompress
from bisync.core.rdb.packs import Intset, Listpack, Opens, Ziplist, Zipmap
from bisync.errors import RdbError
from tests.core.rdb.content import NAMES, keys, read, sample
from tests.core.rdb.made_by_hand import OLD_FORMS, listpack, rdb, string, ziplist

NAME = st.sampled_from(NAMES)
STEP = st.sampled_from([1 << 20, 1000, 37, 5])
OPTIONS: list[dict[str, Any]] = [
    {"max_value_bytes": 1 << 20},
    {"max_value_bytes": 1 << 20, "whole_bytes": 0, "piece_bytes": 200},
    {"max_value_bytes": 1 << 20, "payload_version": 6},
]


def survives(data: bytes, step: int, options: dict[str, Any]) -> None:
    """Read it to its end or to an RdbError that says where, and decode what comes out."""
    reader, handed_out = RdbReader(**options), 0
    try:
        for at in range(0, len(data), step):
            for item in reader.items(data[at : at + step]):
                handed_out += 1
                if isinstance(item, Value):
                    exhaust(item.payload)
        reader.close()
    except RdbError as e:
        assert 0 <= e.offset <= len(data) and str(e)
    assert handed_out <= len(data) * 100


def exhaust(payload: bytes) -> None:
    """Decode a payload to its end or to an RdbError."""
    try:
        for _ in decode_payload(payload).elements:
            pass
    except RdbError as e:
        assert 0 <= e.offset <= len(payload)


CHANGES = st.dictionaries(st.integers(9, 20_000), st.integers(0, 255), min_size=1, max_size=6)


@pytest.mark.slow
@settings(max_examples=150)
@given(NAME, CHANGES, st.integers(9, 20_000), st.integers(0, 20), STEP, st.sampled_from(OPTIONS))
def test_changed_and_missing_bytes(
    name: str, changes: dict[int, int], cut: int, missing: int, step: int, options: dict[str, Any]
) -> None:
    data = bytearray(sample(name))
    for at, byte in changes.items():
        data[at % len(data)] = byte
    cut %= len(data)
    del data[cut : cut + missing]
    survives(bytes(data), step, options)


@pytest.mark.slow
@given(NAME, st.data())
def test_changed_bytes_within_one_value(name: str, data: st.DataObject) -> None:
    values = [i for i in read(sample(name)) if isinstance(i, Value)]
    value = data.draw(st.sampled_from(values))
    payload = bytearray(value.payload)
    for _ in range(data.draw(st.integers(1, 4))):
        payload[data.draw(st.integers(0, len(payload) - 11))] = data.draw(st.integers(0, 255))
    exhaust(bytes(payload))


@given(st.binary(max_size=200), st.integers(0, 33), st.sampled_from([6, 10, 12, 15, 80]))
def test_random_bytes_as_a_value(body: bytes, kind: int, version: int) -> None:
    try:
        for _ in decode(kind, body, version, max_value_bytes=1 << 20).elements:
            pass
    except RdbError as e:
        assert 0 <= e.offset <= len(body)


@given(st.binary(max_size=300), st.sampled_from([b"REDIS0006", b"REDIS0015", b"VALKEY080"]), STEP)
def test_random_bytes_after_a_header(data: bytes, header: bytes, step: int) -> None:
    for options in OPTIONS:
        survives(header + data, step, options)


@pytest.mark.slow
def test_a_truncation_at_every_byte_is_found_on_close() -> None:
    """Of a file with every old form, and of short ones with each value of a real server's."""
    forms = rdb(*(bytes([f.type]) + string(name.encode()) + f.body for name, f in OLD_FORMS.items()))
    values = [i for i in read(sample("redis-8.10.2")) if isinstance(i, Value) and len(i.payload) < 300]
    short = [rdb(bytes([i.payload[0]]) + b"\x01k" + i.payload[1:-10], header=b"REDIS0015") for i in values]
    for data in (forms, *short):
        for options in OPTIONS[:2]:
            whole = read(data, **options)
            for end in range(len(data)):
                reader = RdbReader(**options)
                items = reader.feed(data[:end])
                assert items == whole[: len(items)] and not reader.finished
                with pytest.raises(RdbError, match="breaks off"):
                    reader.close()


@given(st.lists(st.integers(0, 3000), max_size=30), st.sampled_from(OPTIONS))
def test_cuts_of_all_sizes_give_the_same_items(cuts: list[int], options: dict[str, Any]) -> None:
    data = rdb(*(bytes([f.type]) + string(name.encode()) + f.body for name, f in OLD_FORMS.items()))
    reader, items = RdbReader(**options), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)]):
        items += reader.feed(data[start:end])
    if sorted(cuts)[-1:] <= [len(data)]:
        assert items == read(data, **options)


TERABYTE = length_of(1 << 40)


@pytest.mark.parametrize("kind", [*range(6), 7, *range(9, 33)])
@pytest.mark.parametrize(
    "claims",
    [
        TERABYTE,
        b"\x01" + TERABYTE,
        b"\x01\x01" + TERABYTE,
        bytes(8) + TERABYTE,
        b"\xc3" + TERABYTE + TERABYTE,
        b"\xc3\x05" + TERABYTE,
    ],
    ids=["at once", "second", "third", "after a time", "compressed", "decompressed"],
)
def test_a_claim_of_a_terabyte_is_refused_or_takes_no_memory(kind: int, claims: bytes) -> None:
    for options in OPTIONS:
        reader = RdbReader(**options)
        tracemalloc.start()
        try:
            for _ in reader.items(b"REDIS0015" + bytes([kind]) + b"\x01k" + claims + bytes(1000)):
                pass
        except RdbError:
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 4 << 20


@pytest.mark.slow
def test_compressed_bombs_are_bounded_by_what_may_be_kept() -> None:
    packed = b"\x00x" + b"\xe0\xff\x00" * 100_000  # stands for 26 MB
    bomb = b"\xc3" + length_of(len(packed)) + length_of(264 * 100_000 + 1) + packed
    tracemalloc.start()
    try:
        for data in (b"\x00" + bomb, b"\x01\x01k\x01" + bomb, b"\x12\x01k\x01\x02" + bomb, b"\x14\x01k" + bomb):
            for options in OPTIONS[1:2]:
                with pytest.raises(RdbError, match="limit|says it has"):
                    read(rdb(data), **options)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_a_bomb_whose_claim_is_small_stops_at_its_claim() -> None:
    packed = b"\x00x" + b"\xe0\xff\x00" * 100_000
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than 1000"):
        decompress(packed, 1000)
    with pytest.raises(ValueError, match="more than 1000"):
        Unpacker(1000).feed(packed)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


PACKS: dict[str, tuple[Opens, bytes]] = {
    "listpack": (Listpack, listpack(b"one", 2, b"x" * 70, -3, b"", b"y" * 300)),
    "ziplist": (Ziplist, ziplist(b"one", b"two", b"", b"x" * 60)),
    "zipmap": (Zipmap, b"\x02\x01a\x01\x001\x02bb\x03\x02two--\xff"),
    "intset": (Intset, b"\x02\x00\x00\x00\x03\x00\x00\x00\x01\x00\x02\x00\x03\x00"),
}


def unpacked(opens: Opens, data: bytes) -> list[bytes]:
    pack, found = opens(data), list[bytes]()
    while taken := pack.take(2):
        found += taken
    return found


@pytest.mark.parametrize("name", PACKS)
@given(st.data())
def test_packs_that_lie_raise_nothing_but_value_errors(name: str, data: st.DataObject) -> None:
    opens, content = PACKS[name]
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert sum(map(len, unpacked(opens, bytes(changed)))) <= 20 * len(changed)
    except ValueError as e:
        assert str(e)


@pytest.mark.parametrize("name", PACKS)
def test_packs_cut_off_anywhere_are_value_errors(name: str) -> None:
    opens, content = PACKS[name]
    assert unpacked(opens, content)
    for end in range(len(content)):
        with pytest.raises(ValueError):
            unpacked(opens, content[:end])


LITERAL = st.binary(min_size=1, max_size=32)
REPEAT = st.tuples(st.integers(1, 8192), st.integers(3, 264))  # distance back, length


@given(LITERAL, st.lists(LITERAL | REPEAT, max_size=30), st.integers(1, 50), st.integers(1, 5000))
def test_lzf_in_pieces_is_lzf_at_once(first: bytes, parts: list[bytes | tuple[int, int]], step: int, take: int) -> None:
    packed, plain = bytearray(), bytearray()
    for part in [first, *parts]:
        if isinstance(part, bytes):
            packed += bytes([len(part) - 1]) + part
            plain += part
            continue
        distance, length = min(part[0], len(plain)), part[1]
        high, low = divmod(distance - 1, 256)
        packed += bytes([length - 2 << 5 | high] if length < 9 else [0xE0 | high, length - 9]) + bytes([low])
        for _ in range(length):
            plain.append(plain[-distance])
    unpacker, found = Unpacker(len(plain)), b""
    for at in range(0, len(packed), step):
        unpacker.feed(bytes(packed[at : at + step]))
        while unpacker.waiting >= take:
            found += unpacker.take(take)
    unpacker.close()
    assert found + unpacker.take(unpacker.waiting) == plain


def test_values_within_values_are_plain_bytes() -> None:
    """There is no nesting to go deep into: a pack in a pack, a payload in a payload, is an element like any other."""
    inner: bytes = string(listpack(b"a"))
    for _ in range(200):
        inner = string(listpack(inner)) if len(inner) < 4000 else string(listpack(b"a"))
    data = rdb(b"\x14\x01k" + inner, b"\x07\x01m" + length_of(1) + b"\x05" + string(inner) + b"\x00")
    elements: list[Element] = next(keys(read(data))).elements
    assert len(elements) == 1
