"""The commands that make a key of a snapshot at the target. Tests with real servers see what they make."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.commands import put_off
from bisync.core.dialect import spoken
from bisync.core.putting import STRING_PIECE_BYTES, Building, Unknown, put
from bisync.core.rdb import (
    ArrayState,
    Element,
    Kind,
    StreamConsumer,
    StreamEntry,
    StreamGroup,
    StreamIdempotence,
    StreamPending,
    StreamRecord,
    StreamState,
    String,
    Value,
    ValueBegins,
)
from bisync.core.resp import pack
from bisync.core.server import Server

NOW_MS, LATER_MS = 1_700_000_000_000, 1_900_000_000_000
OLD = Server((5, 0, 6))


def building(kind: Kind, expires_at_ms: int | None = None, server: Server = Server()) -> Building:
    return Building(ValueBegins(0, b"k", 0, expires_at_ms, kind), b"tmp", server)


def lines(made: list[object]) -> list[str]:
    """Commands as text."""
    return [" ".join(w.decode() if isinstance(w, bytes) else str(w) for w in words) for words in made]  # type: ignore


def made(kind: Kind, *pieces: list[Element], server: Server = Server()) -> list[str]:
    subject = building(kind, server=server)
    words = [words for piece in pieces for words in subject.add(piece, NOW_MS)]
    return lines([*words, *subject.end(NOW_MS)])


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (String(0, b"k", None, b"v"), (b"SET", b"k", b"v")),
        (String(0, b"k", LATER_MS, b"v"), (b"SET", b"k", b"v", b"PXAT", b"%d" % LATER_MS)),
        (Value(0, b"k", 1, None, b"payload"), (b"RESTORE", b"k", b"0", b"payload", b"REPLACE", b"ABSTTL")),
        (Value(0, b"k", 1, LATER_MS, b"p"), (b"RESTORE", b"k", b"%d" % LATER_MS, b"p", b"REPLACE", b"ABSTTL")),
        (String(0, b"k", 1, b"v"), (b"SET", b"k", b"v", b"PXAT", b"%d" % (NOW_MS + 60_000))),
    ],
)
def test_what_is_whole_takes_one_command(item: String | Value, expected: tuple[bytes, ...]) -> None:
    assert put(item, 3, NOW_MS, Server()) == (3, pack(*expected))


@given(
    st.one_of(st.none(), st.integers(-5, 5), st.integers(99_000, 200_000)),
    st.sampled_from([Server(), Server((4, 0)), Server((5, 0)), Server((6, 0)), Server((7, 2, 4), (9,))]),
    st.booleans(),
)
def test_the_fast_way_makes_the_same_command(at_ms: int | None, server: Server, is_string: bool) -> None:
    item = String(0, b"k", at_ms, b"v") if is_string else Value(0, b"k", 4, at_ms, b"payload")
    expiry = b"%d" % (at_ms or 0)
    if is_string:
        args = (b"SET", b"k", b"v", *((b"PXAT", expiry) if at_ms is not None else ()))
    else:
        args = (b"RESTORE", b"k", expiry, b"payload", b"REPLACE", b"ABSTTL")
    assert put(item, 3, 100_000, server) == (3, pack(*spoken(put_off(args, 100_000), server)))


def test_pieces_are_made_under_another_name_and_put_in_their_place_at_the_end() -> None:
    assert made("list", [b"a", b"b"], [b"c"]) == [
        *("unlink tmp", "RPUSH tmp a b"),
        *("RPUSH tmp c", "LLEN tmp", "RENAME tmp k"),
    ]
    assert made("set", [b"a"]) == ["unlink tmp", "SADD tmp a", "SCARD tmp", "RENAME tmp k"]
    assert made("zset", [(b"a", 0.1), (b"b", float("-inf"))])[1] == "ZADD tmp 0.1 a -inf b"
    assert made("string", [b"ab", b"c"]) == [
        *("unlink tmp", "SET tmp ab"),
        *("APPEND tmp c", "STRLEN tmp", "RENAME tmp k"),
    ]


def test_a_time_to_live_comes_after_the_name() -> None:
    subject = building("list", LATER_MS)
    subject.add([b"a"], NOW_MS)
    assert lines(list(subject.end(NOW_MS)))[-2:] == ["RENAME tmp k", f"PEXPIREAT k {LATER_MS}"]


@pytest.mark.parametrize(
    ("kind", "pieces", "length"),
    [
        ("list", [[b"a", b"b"], [b"c"]], 3),
        ("string", [[b"abc", b"d"], [b"e"]], 5),
        ("hash", [[(b"f", b"v", None)]], 1),
        ("zset", [[(b"m", 1.0)], [(b"n", 1.0)]], 2),
        ("stream", [[StreamEntry((1, 1), (b"f", b"v")), StreamState(1, (9, 9), (1, 1), (2, 2), 5)]], 1),
        ("array", [[ArrayState(2, 7), (0, b"v"), (9, b"w")]], 2),
    ],
)
def test_how_long_it_must_be_is_known(kind: Kind, pieces: list[list[Element]], length: int) -> None:
    subject = building(kind)
    for piece in pieces:
        subject.add(piece, NOW_MS)
    assert (subject.length, subject.mortal) == (length, False)


def test_fields_that_expire_are_put_off_like_keys_and_may_be_gone() -> None:
    subject = building("hash")
    words = lines(list(subject.add([(b"f", b"v", LATER_MS), (b"g", b"w", None), (b"h", b"x", 5)], NOW_MS)))
    assert words[1] == "HMSET tmp f v g w h x"
    assert set(words[2:]) == {
        f"HPEXPIREAT tmp {LATER_MS} FIELDS 1 f",
        f"HPEXPIREAT tmp {NOW_MS + 60_000} FIELDS 1 h",
    }
    assert subject.mortal


STREAM: list[Element] = [
    StreamEntry((1, 1), (b"f", b"v")),
    StreamState(1, (9, 9), (1, 1), (2, 2), 5),
    StreamGroup(b"g", (1, 1), 1),
    StreamConsumer(b"alice", 7, 7),
    StreamPending((1, 1), 70, 3, True),
]


def test_a_stream_has_its_groups_its_pending_entries_and_its_numbers() -> None:
    assert made("stream", STREAM)[1:] == [
        "XADD tmp 1-1 f v",
        "XGROUP CREATE tmp g 1-1 ENTRIESREAD 1",
        "XGROUP CREATECONSUMER tmp g alice",
        "XCLAIM tmp g alice 0 1-1 TIME 70 RETRYCOUNT 3 FORCE JUSTID",
        "XLEN tmp",
        "XSETID tmp 9-9 ENTRIESADDED 5 MAXDELETEDID 2-2",
        "RENAME tmp k",
    ]


def test_an_older_server_gets_of_a_stream_what_it_knows() -> None:
    assert made("stream", STREAM, server=OLD)[2:] == [
        "XGROUP CREATE tmp g 1-1",
        "XREADGROUP GROUP g alice STREAMS tmp 0",
        "XCLAIM tmp g alice 0 1-1 TIME 70 RETRYCOUNT 3 FORCE JUSTID",
        "XLEN tmp",
        "XSETID tmp 9-9",
        "RENAME tmp k",
    ]


def test_an_empty_stream_is_made_too() -> None:
    words = made("stream", [StreamState(0, (0, 0), (0, 0), (0, 0), 0)])
    assert words[1:3] == ["XGROUP CREATE tmp bisync 0 MKSTREAM", "XGROUP DESTROY tmp bisync"]


def test_what_the_newest_streams_know_besides() -> None:
    elements: list[Element] = [
        *STREAM[:3],
        StreamPending((1, 1), 70, 3, False),
        StreamIdempotence(7, 5),
        StreamRecord(b"p", b"i", (1, 1)),
    ]
    assert made("stream", elements)[3:6] == [
        "XNACK tmp g SILENT IDS 1 1-1 RETRYCOUNT 3 FORCE",
        "XCFGSET tmp IDMP-DURATION 7 IDMP-MAXSIZE 5",
        "XIDMPRECORD tmp p i 1-1",
    ]


def test_settings_that_an_older_server_lacks_are_left_out_where_nothing_was_recorded() -> None:
    words = building("stream", server=Server((8, 2))).add([*STREAM, StreamIdempotence(7, 5)], NOW_MS)
    assert not any(some[0] == b"XCFGSET" for some in words)


def test_valkey_9_knows_fields_that_expire_though_it_says_that_it_is_redis_7_2() -> None:
    valkey = Server((7, 2, 4), (9, 1, 2))
    assert building("hash", server=valkey).add([(b"f", b"v", LATER_MS)], NOW_MS)
    with pytest.raises(Unknown):
        building("hash", server=Server((7, 2, 4), (8, 1, 1))).add([(b"f", b"v", LATER_MS)], NOW_MS)


def test_an_array_goes_on_where_it_was() -> None:
    assert made("array", [ArrayState(1, 6), (3, b"v")])[1:] == [
        *("ARSET tmp 3 v", "ARCOUNT tmp"),
        *("ARSEEK tmp 7", "RENAME tmp k"),
    ]


@pytest.mark.parametrize(
    ("kind", "element", "version", "text"),
    [
        ("stream", STREAM[0], (4, 0), "streams came with Redis 5.0"),
        ("hash", (b"f", b"v", LATER_MS), (7, 0), "a time to live of a field came with Redis 7.4 and Valkey 9.0"),
        ("array", (0, b"v"), (8, 6), "arrays came with Redis 8.8"),
        ("stream", StreamRecord(b"p", b"i", (1, 1)), (8, 2), "the recognition of repetitions came with Redis 8.6"),
        ("stream", StreamPending((1, 1), 1, 1, False), (8, 6), "an entry that was given back came with Redis 8.8"),
        ("module", b"x", (7, 0), "no command makes a value of a module"),
    ],
)
def test_what_the_server_has_no_command_for_is_said(
    kind: Kind, element: Element, version: tuple[int, int], text: str
) -> None:
    with pytest.raises(Unknown, match=text):
        building(kind, server=Server(version)).add([element], NOW_MS)


def test_no_command_is_longer_than_its_bounds() -> None:
    words = building("list").add([b"x" * 400_000] * 7, NOW_MS)
    assert [len(some) - 2 for some in words[1:]] == [2, 2, 2, 1]
    words = building("string").add([b"x" * (2 * STRING_PIECE_BYTES + 1)], NOW_MS)
    assert [len(some[2]) for some in words[1:]] == [STRING_PIECE_BYTES, STRING_PIECE_BYTES, 1]  # type: ignore
