"""Streams on their way to the script that merges them. What the script does is shown on real servers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core import merge
from bisync.core.abilities import Abilities
from bisync.core.restore import Copy, Loser, NotNow, Unfit
from tests.testing.twins import parse

INFO = [
    *(b"length", 1, b"last-generated-id", b"5-0", b"max-deleted-entry-id", b"3-0", b"entries-added", 5),
    *(b"entries", [[b"4-0", [b"f", b"v"]]]),
    b"groups",
    [
        [
            *(b"name", b"g", b"last-delivered-id", b"4-0", b"entries-read", None, b"lag", 1, b"pel-count", 1),
            *(b"pending", [[b"4-0", b"c", 1700000000000, 2]]),
            *(b"consumers", [[b"name", b"c", b"pel-count", 1, b"pending", []]]),
        ]
    ],
]
WORDS = [
    *(b"", b"5-0", b"5", b"3-0"),
    *(b"1", b"g", b"4-0", b"", b"1", b"c", b"1", b"4-0", b"c", b"1700000000000", b"2"),
    *(b"1", b"4-0", b"2", b"f", b"v"),
]


def unpacked(pieces: list[bytes]) -> list[bytes]:
    words = []
    for piece in pieces:
        at = 0
        while at < len(piece):
            size = int.from_bytes(piece[at : at + 4], "big")
            words.append(piece[at + 4 : at + 4 + size])
            at += 4 + size
        assert at == len(piece), "no word is cut"
    return words


def read(info: object, expiry: int = -1) -> Copy:
    return merge.fence_stream(b"k", Abilities()).read([info, expiry])


def arguments(copy: Copy) -> list[bytes]:
    (evaluation,) = [c for c in copy.restore(Loser("west", Abilities())).commands if b"EVAL" in c[:20]]
    name, script, keys, key, *pieces = parse(evaluation)[0]  # type: ignore[misc]
    assert (name, keys, key) == (b"EVAL", b"1", b"k")
    return unpacked(pieces)


def test_a_stream_comes_to_the_script_in_the_order_in_which_it_reads() -> None:
    assert arguments(read(INFO)) == WORDS
    assert arguments(read(INFO, 77)) == [b"77", *WORDS[1:]]


def test_what_an_old_server_does_not_tell_comes_as_an_empty_word() -> None:
    old = [w for w in INFO if w not in (b"max-deleted-entry-id", b"3-0", b"entries-added", 5)]
    assert arguments(read(old)) == [b"", b"5-0", b"", b"", *WORDS[4:]]


def test_an_old_server_is_asked_by_a_script() -> None:
    asked = merge.fence_stream(b"k", Abilities(lacks={b"XINFO"})).commands
    assert parse(asked[0])[0][0] == b"EVAL"  # type: ignore[index]


@given(st.lists(st.binary(max_size=9), max_size=50), st.integers(1, 40))
def test_words_are_joined_to_pieces_of_a_bounded_size(words: list[bytes], bound: int) -> None:
    held, merge.PIECE_BYTES = merge.PIECE_BYTES, bound
    try:
        pieces = list(merge.pieces(words))
    finally:
        merge.PIECE_BYTES = held
    assert unpacked(pieces) == words
    assert all(len(piece) < bound + 13 for piece in pieces)


def test_an_entry_that_is_too_wide_is_said_to_be() -> None:
    with pytest.raises(Unfit, match="4-0 has 4000 fields"):
        read([*INFO[:8], b"entries", [[b"4-0", [b"x"] * 8_000]], b"groups", []])


def test_a_reply_of_another_kind_asks_again() -> None:
    with pytest.raises(NotNow):
        read(None)


BEFORE = [b"payload and 10 bytes", -1]


@pytest.mark.parametrize(("extra", "lost"), [(0, 0), (1, 0), (0, 1), (1, 1)])
def test_what_the_script_says_decides_whether_it_goes_the_other_way_and_what_is_kept(extra: int, lost: int) -> None:
    done = read(INFO).restore(Loser("west", Abilities())).read([*BEFORE, [extra, lost], b"now there", -1])
    assert done.turn == bool(extra)
    assert (done.replaced is not None) == bool(lost)
    assert done.replaced is None or done.replaced.value == BEFORE[0]


def test_of_a_big_one_only_the_size_is_kept() -> None:
    asked = read(INFO).restore(Loser("west", Abilities(), big=True))
    assert not any(b"DUMP" in c[:20] for c in asked.commands)
    done = asked.read([5_000, -1, [0, 1]])
    assert done.replaced is not None and (done.replaced.size, done.replaced.value) == (5_000, None)
