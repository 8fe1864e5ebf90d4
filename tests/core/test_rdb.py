"""The RDB reader on files made by hand: every layout, every cut, every kind of damage. No server."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bisync.core.rdb import Aux, DatabaseSize, End, Function, Item, RdbReader, String, Value, dump_payload
from bisync.core.rdb.payload import crc64
from bisync.errors import RdbError

NEVER = None
AT = 1_700_000_000_123


def length(n: int) -> bytes:
    if n < 0x40:
        return bytes([n])
    if n < 0x4000:
        return struct.pack(">H", 0x4000 | n)
    return b"\x80" + struct.pack(">I", n) if n < 2**32 else b"\x81" + struct.pack(">Q", n)


def string(content: bytes) -> bytes:
    return length(len(content)) + content


def lzf_of_a_run(byte: bytes, size: int) -> bytes:
    """The bytes `byte * size` (10 to 265), compressed."""
    packed = b"\x00" + byte + b"\xe0" + bytes([size - 1 - 9]) + b"\x00"
    return b"\xc3" + length(len(packed)) + length(size) + packed


def rdb(*parts: bytes, version: int = 10, checksum: bool = True) -> bytes:
    body = b"REDIS%04d" % version + b"".join(parts) + b"\xff"
    return body + (crc64(body) if checksum else 0).to_bytes(8, "little")


def read(data: bytes, *cuts: int, **options: int) -> list[Item]:
    """Everything in a whole file, fed in pieces that end at `cuts`."""
    reader, items = RdbReader(**options), []
    for start, end in zip([0, *cuts], [*cuts, len(data)]):
        items += reader.feed(data[start:end])
    reader.close()
    assert (reader.finished, reader.leftover, reader.offset) == (True, b"", len(data))
    return items


TIME = struct.pack("<q", AT)
STREAM_ID = struct.pack(">QQ", AT, 7)
NUMBERS = b"".join(length(n) for n in (AT, 0, 2**64 - 1, 300, 5))
PENDING = length(2) + (STREAM_ID + TIME + length(1)) * 2


def stream_body(version: int) -> bytes:
    listpacks = length(2) + (string(STREAM_ID) + string(b"listpack" * 30)) * 2
    consumer = string(b"alice") + TIME * (1 if version < 3 else 2) + length(2) + STREAM_ID * 2
    group = string(b"workers") + NUMBERS[:10] + (b"" if version < 2 else length(9)) + PENDING + length(1) + consumer
    assert NUMBERS[:10] == length(AT) + length(0)
    known = length(2) + length(AT) + length(0) + (b"" if version < 2 else NUMBERS)
    return listpacks + known + length(2) + group + string(b"idle") + group[8:]


MODULE_PARTS = (
    b"\x01\x05" + b"\x02" + length(2**40) + b"\x03abcd" + b"\x04abcdefgh" + b"\x05" + string(b"x" * 99) + b"\0"
)
PAIR = string(b"field") + string(b"v" * 70)

# Type byte and body of a value in each layout.
BODIES: dict[str, tuple[int, bytes]] = {
    "list": (1, length(3) + string(b"a") + b"\xc1\x39\x30" + lzf_of_a_run(b"z", 200)),
    "set": (2, length(300) + b"".join(string(b"%d" % n * 9) for n in range(300))),
    "sorted set with text scores": (
        3,
        length(4) + string(b"m") + b"\x043.14" + (b"\x01m\xfd" b"\x01n\xfe" b"\x01o\xff"),
    ),
    "hash": (4, length(2) + PAIR * 2),
    "sorted set": (5, length(2) + (string(b"member" * 20) + struct.pack("<d", 0.5)) * 2),
    "module": (7, length(2**63 + 5) + MODULE_PARTS),
    "hash as zipmap": (9, string(b"zipmap")),
    "list as ziplist": (10, string(b"ziplist" * 10)),
    "set of integers": (11, string(b"intset" * 2)),
    "sorted set as ziplist": (12, lzf_of_a_run(b"s", 40)),
    "hash as ziplist": (13, string(b"")),
    "quicklist of ziplists": (14, length(2) + string(b"ziplist" * 20) + lzf_of_a_run(b"q", 99)),
    "stream, version 1": (15, stream_body(1)),
    "hash as listpack": (16, string(b"listpack" * 100)),
    "sorted set as listpack": (17, string(b"listpack")),
    "quicklist of listpacks": (18, length(2) + b"\x01" + string(b"plain" * 50) + b"\x02" + string(b"packed")),
    "stream, version 2": (19, stream_body(2)),
    "set as listpack": (20, string(b"listpack")),
    "stream, version 3": (21, stream_body(3)),
    "hash with expiries, before release": (22, length(2) + (length(AT) + PAIR) + (length(0) + PAIR)),
    "hash listpack with expiries, before release": (23, string(b"listpack")),
    "hash with expiries": (24, TIME + length(2) + (length(1) + PAIR) + (length(0) + PAIR)),
    "hash listpack with expiries": (25, TIME + string(b"listpack")),
    "empty stream": (19, length(0) + b"\0" * 8 + length(0)),
}

EVERYTHING = rdb(
    b"\xfa" + string(b"redis-ver") + string(b"7.0.15"),
    b"\xfa" + string(b"redis-bits") + b"\xc0\x40",
    b"\xf7" + length(2**62) + b"\x02\x02" + MODULE_PARTS,
    b"\xf5" + string(b"#!lua name=lib\n"),
    b"\xfe\x00\xfb" + length(70) + length(3),
    b"\xf4" + length(16000) + length(1) + length(0),
    b"\x00" + string(b"greeting") + string(b"hello"),
    b"\xfc" + TIME + b"\x00" + string(b"with-expiry") + string(b"w" * 70),
    b"\xfd" + struct.pack("<i", 1_700_000_000) + b"\x00" + string(b"old expiry") + string(b""),
    b"\x00" + b"\xc0\x05" + b"\xc0\xff",
    b"\x00" + b"\xc1\x39\x30" + b"\xc1\x00\x80",
    b"\x00" + string(b"") + b"\xc2\xff\xff\xff\x7f",
    b"\x00" + lzf_of_a_run(b"k", 200) + lzf_of_a_run(b"a", 265),
    b"\x00" + string(b"k" * 400) + string(b"long" * 200),
    b"\xf8" + length(77777) + b"\x00" + string(b"idle") + string(b"1"),
    b"\xfc" + TIME + b"\xf9\x05" + b"\x00" + string(b"frequent") + b"\xc2\x00\x00\x01\x00",
    *(bytes([kind]) + string(name.encode()) + body for name, (kind, body) in BODIES.items()),
    b"\xfe" + length(300) + b"\xfc" + TIME + b"\x10" + string(b"elsewhere") + string(b"listpack"),
    b"\x10" + string(b"no expiry after one") + string(b"listpack"),
)

EVERYTHING_READ: list[Item] = [
    Aux(b"redis-ver", b"7.0.15"),
    Aux(b"redis-bits", b"64"),
    Function(b"#!lua name=lib\n"),
    DatabaseSize(0, 70, 3),
    String(0, b"greeting", NEVER, b"hello"),
    String(0, b"with-expiry", AT, b"w" * 70),
    String(0, b"old expiry", 1_700_000_000_000, b""),
    String(0, b"5", NEVER, b"-1"),
    String(0, b"12345", NEVER, b"-32768"),
    String(0, b"", NEVER, b"2147483647"),
    Value(0, b"k" * 200, 0, NEVER, dump_payload(0, lzf_of_a_run(b"a", 265), 10)),  # compressed, so not for SET
    String(0, b"k" * 400, NEVER, b"long" * 200),
    String(0, b"idle", NEVER, b"1"),
    String(0, b"frequent", AT, b"65536"),
    *(Value(0, name.encode(), kind, NEVER, dump_payload(kind, body, 10)) for name, (kind, body) in BODIES.items()),
    Value(300, b"elsewhere", 16, AT, dump_payload(16, string(b"listpack"), 10)),
    Value(300, b"no expiry after one", 16, NEVER, dump_payload(16, string(b"listpack"), 10)),
    End(checksum_verified=True),
]


def test_a_payload_is_what_dump_replies() -> None:
    # Redis 7.0: SADD s 1 2 3, DUMP s
    body = b"\x0e\x02\x00\x00\x00\x03\x00\x00\x00\x01\x00\x02\x00\x03\x00"
    assert dump_payload(11, body, 10) == b"\x0b" + body + b"\n\x00\xa5\x02\\\xe2mnM\x1b"


def test_every_layout_comes_out_whole() -> None:
    assert read(EVERYTHING) == EVERYTHING_READ


def test_byte_by_byte_gives_the_same_items() -> None:
    assert read(EVERYTHING, *range(1, len(EVERYTHING))) == EVERYTHING_READ


@pytest.mark.parametrize("step", [2, 3, 7, 64, 1000])
def test_equal_pieces_give_the_same_items(step: int) -> None:
    assert read(EVERYTHING, *range(step, len(EVERYTHING), step)) == EVERYTHING_READ


@settings(deadline=None)
@given(st.lists(st.integers(0, len(EVERYTHING)), max_size=40))
def test_any_cuts_give_the_same_items(cuts: list[int]) -> None:
    assert read(EVERYTHING, *sorted(cuts)) == EVERYTHING_READ


def test_every_item_comes_with_the_byte_that_completes_it() -> None:
    data = rdb(b"\x00" + string(b"a") + string(b"1"), b"\x10" + string(b"b") + string(b"listpack"))
    reader = RdbReader()
    assert reader.feed(data[:13]) == [] and reader.feed(data[13:14]) == [String(0, b"a", NEVER, b"1")]
    assert reader.feed(data[14:25]) == [] and len(reader.feed(data[25:26])) == 1
    assert reader.feed(data[26:-1]) == [] and reader.feed(data[-1:]) == [End(True)]


def test_what_follows_the_end_is_left_over() -> None:
    reader = RdbReader()
    items = reader.feed(EVERYTHING + b"*1\r\n")
    assert items == EVERYTHING_READ and reader.leftover == b"*1\r\n"
    assert reader.feed(b"$4\r\n") == [] and reader.leftover == b"*1\r\n$4\r\n"
    assert (reader.finished, reader.offset, reader.version) == (True, len(EVERYTHING), 10)
    reader.close()


def test_an_rdb_without_checksum_is_read_but_not_called_verified() -> None:
    assert read(rdb(checksum=False)) == [End(checksum_verified=False)]


@pytest.mark.parametrize("at", [11, 20, 300, -8, -1])
def test_a_changed_byte_is_found_by_the_checksum(at: int) -> None:
    data = bytearray(rdb(b"\x00" + string(b"key") + string(b"v" * 500)))
    data[at] ^= 0x04
    with pytest.raises(RdbError, match="checksum"):
        read(bytes(data), 100, 200)


@pytest.mark.parametrize("size", [0, 5, 9, 100, len(EVERYTHING) - 1])
def test_an_rdb_that_breaks_off_is_an_error_on_close(size: int) -> None:
    reader = RdbReader()
    reader.feed(EVERYTHING[:size])
    with pytest.raises(RdbError, match="breaks off") as caught:
        reader.close()
    assert caught.value.offset == size and not reader.finished


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"VALKEY081", "version 81 of Valkey"),
        (b"VALKEY011", "version 11 of Valkey"),
        (b"VALKEYx80", "no RDB"),
        (b"REDIS0005", "version 5"),
        (b"REDIS0016", "version 16"),
        (b"REDIS0080", "version 80"),
        (b"REDIS00x1", "no RDB"),
        (b"-ERR nope\r\n", "no RDB"),
        (rdb(b"\x06"), "before its release"),
        (rdb(b"\xf6"), "before its release"),
        (rdb(b"\x08"), "unknown type or opcode 8"),
        (rdb(b"\x21"), "unknown type or opcode 33"),
        (rdb(b"\xf1"), "unknown type or opcode 241"),
        (rdb(b"\x00\xc4"), "damaged string"),
        (rdb(b"\x00\x01k\x82"), "no length"),
        (rdb(b"\x07\x01k\x01\x06"), "unknown kind 6"),
        (rdb(b"\x00\xc3\x03\x20abc"), "damaged string"),
        (rdb(b"\x00\x01k\xc3\x01\x81" + b"\x7f" * 8 + b"a"), "cannot stand for"),
    ],
)
def test_what_cannot_be_read_is_a_typed_error(data: bytes, reason: str) -> None:
    reader = RdbReader()
    with pytest.raises(RdbError, match=reason) as first:
        reader.feed(data)
    for again in (lambda: reader.feed(b"more"), reader.close):
        with pytest.raises(RdbError) as second:
            again()
        assert second.value is first.value


def test_an_error_names_its_place() -> None:
    for cuts in ([], [9], [11], [10, 14, 15]):
        with pytest.raises(RdbError) as caught:
            read(rdb(b"\x00\x01k\x82"), *cuts)
        assert caught.value.offset == 12


@pytest.mark.parametrize("claim", [2**40 + 1, 2**63, 2**64 - 1])
@pytest.mark.parametrize("before", [b"\x00", b"\x00\x01k", b"\x01\x01k", b"\x01\x01k\x01", b"\x12\x01k", b"\x10\x01k"])
def test_a_claim_beyond_reason_is_refused_at_once(before: bytes, claim: int) -> None:
    with pytest.raises(RdbError, match="limit"):
        RdbReader().feed(b"REDIS0010" + before + length(claim))


def test_a_claim_alone_takes_no_memory() -> None:
    reader = RdbReader()
    assert reader.feed(b"REDIS0010\x01\x01k" + length(2**32) + length(2**32 - 1)) == []
    assert reader.feed(b"x" * 1000) == [] and reader.offset == 9 + 3 + 9 + 5 + 1000


def module(*parts: bytes) -> bytes:
    """A value that can only be handed out whole."""
    return length(2**63 + 5) + b"".join(b"\x05" + string(part) for part in parts) + b"\0"


def test_a_value_is_bounded_as_a_whole_and_not_only_by_its_parts() -> None:
    body = module(*[b"x" * 1000] * 70)
    data = rdb(b"\x07\x01k" + body)
    assert len(read(data, max_value_bytes=len(body))) == 2
    for cuts in (range(0), range(1, len(data), 100)):
        with pytest.raises(RdbError, match="limit"):
            read(data, *cuts, max_value_bytes=len(body) - 1)
    with pytest.raises(ValueError, match="65536"):
        RdbReader(max_value_bytes=1)


def test_a_value_that_grows_without_end_is_refused_at_the_limit() -> None:
    reader, fed = RdbReader(max_value_bytes=100_000), 0
    reader.feed(b"REDIS0010\x07\x01k" + length(2**63 + 5))
    with pytest.raises(RdbError, match="limit"):
        while fed < 10**6:
            reader.feed(b"\x05" + string(b"x" * 997))
            fed += 1000
    assert fed <= 101_000


def test_reprs_are_short_enough_for_a_log() -> None:
    assert len(repr(String(0, b"k", NEVER, bytes(10**6)))) < 300
    assert repr(RdbReader()) == "<RdbReader version 0, reading at byte 0>"


def ends_or_raises(data: bytes, step: int) -> None:
    reader = RdbReader(max_value_bytes=2**20)
    try:
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
        reader.close()
    except RdbError as e:
        assert 0 <= e.offset <= len(data) and str(e)


@settings(deadline=None)
@given(st.binary(max_size=300), st.integers(1, 50))
def test_random_bytes_raise_nothing_but_rdb_errors(data: bytes, step: int) -> None:
    ends_or_raises(data, step)
    ends_or_raises(b"REDIS0010" + data, step)


@settings(deadline=None, max_examples=300)
@given(
    st.dictionaries(st.integers(9, len(EVERYTHING) - 1), st.integers(0, 255), min_size=1, max_size=8),
    st.integers(0, len(EVERYTHING)),
    st.integers(20, 10_000),
)
def test_a_mutated_rdb_raises_nothing_but_rdb_errors(changes: dict[int, int], cut_out: int, step: int) -> None:
    data = bytearray(EVERYTHING)
    for at, byte in changes.items():
        data[at] = byte
    ends_or_raises(bytes(data), step)
    del data[cut_out : cut_out + 3]
    ends_or_raises(bytes(data), step)
