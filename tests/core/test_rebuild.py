"""Keys in parts: every word of them, in commands of a bounded size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core import rebuild
from bisync.core.abilities import Abilities
from bisync.core.rebuild import PIECE_BYTES, WORDS_BYTES, WORDS_MAX, Probe, batches, fence_parts, probe
from bisync.core.resp import pack
from bisync.core.restore import Copy, Loser, NotNow, digest
from bisync.testing.site import SimulatedSite
from bisync.testing.strategies import Command
from tests.testing.twins import parse

LATER = b"1900000000000"
OLD = Abilities(lacks={b"HPEXPIRETIME", b"HPEXPIREAT"})  # as the simulated site is
ABLE = Abilities()


def run(site: SimulatedSite, commands: list[bytes]) -> list[object]:
    return parse(site.connect().execute(b"".join(commands)))


def names(commands: list[bytes]) -> list[bytes]:
    return [parse(c)[0][0] for c in commands]  # type: ignore[index]


VALUES: list[list[Command]] = [
    [],
    [(b"SET", b"k", b"")],
    [(b"SET", b"k", b"v" * 5_000, b"PXAT", LATER)],
    [(b"RPUSH", b"k", *(b"%d" % (n % 9) for n in range(2_500)))],
    [(b"SADD", b"k", *(b"%d" % n for n in range(2_500)))],
    [(b"HSET", b"k", *(b"%d" % n for n in range(5_000))), (b"PEXPIREAT", b"k", LATER)],
    [(b"ZADD", b"k", *(b"%d" % n for n in range(5_000)))],
    [(b"ZADD", b"k", b"-inf", b"a", b"0.1", b"b")],
]


@pytest.mark.parametrize("there", VALUES[:4])
@pytest.mark.parametrize("here", VALUES)
@pytest.mark.parametrize("big", [False, True])
def test_a_key_becomes_what_the_fence_read_whatever_it_was(
    here: list[Command], there: list[Command], big: bool
) -> None:
    authority, other = SimulatedSite("a"), SimulatedSite("b")
    run(authority, [pack(*c) for c in here])
    run(other, [pack(*c) for c in there])
    found = probe(b"k", OLD).read(run(authority, probe(b"k", OLD).commands))
    asked = fence_parts(b"k", found if here else Probe(b"string", 0), OLD)
    restored = asked.read(run(authority, asked.commands)).restore(Loser("b", OLD, big=big))
    done = restored.read(run(other, restored.commands))
    assert other.dataset() == authority.dataset()
    assert (done.kept == "") == (not here)
    assert (done.replaced is not None) == (here != there or (big and bool(there)))
    assert names(restored.commands)[1:2] != [b"DUMP"] or not big


def test_a_probe_says_type_and_size_and_does_without_the_size() -> None:
    site = SimulatedSite()
    run(site, [pack(b"RPUSH", b"k", b"a")])
    found = probe(b"k", ABLE).read(run(site, probe(b"k", ABLE).commands))
    assert found.type == b"list" and 50 < found.size < 100
    assert probe(b"none", ABLE).read(run(site, probe(b"none", ABLE).commands)) == Probe(b"none", 0)
    without = probe(b"k", Abilities(lacks={b"MEMORY"}))
    assert without.read(run(site, without.commands)) == Probe(b"list", 0)


@pytest.mark.parametrize(
    ("found", "replies"),
    [
        (Probe(b"list", 9), [b"set", -1, []]),
        (Probe(b"string", 9), [b"string", -1, 9, b"fewer", b""]),
        (Probe(b"set", 9), [b"set", -1, b"no list"]),
    ],
)
def test_a_key_that_changed_since_the_probe_is_asked_for_again(found: Probe, replies: list[object]) -> None:
    with pytest.raises(NotNow):
        fence_parts(b"k", found, ABLE).read(replies)


def test_a_long_string_is_read_in_pieces_that_cover_it() -> None:
    asked = fence_parts(b"k", Probe(b"string", 3 * PIECE_BYTES + 50), ABLE).commands
    ranges = [parse(c)[0] for c in asked if b"GETRANGE" in c]
    at = 0
    for _, _, start, end in ranges:  # type: ignore[misc]
        assert int(start) == at
        at = int(end) + 1
    assert at > 3 * PIECE_BYTES + 50


@given(st.lists(st.binary(max_size=30), max_size=60), st.sampled_from([1, 2]))
def test_no_batch_cuts_an_element_or_loses_a_word(words: list[bytes], step: int) -> None:
    words = words[: len(words) // step * step]
    bounds = rebuild.WORDS_MAX, rebuild.WORDS_BYTES
    rebuild.WORDS_MAX, rebuild.WORDS_BYTES = 6, 50
    try:
        cut = list(batches(words, step))
    finally:
        rebuild.WORDS_MAX, rebuild.WORDS_BYTES = bounds
    assert [word for batch in cut for word in batch] == words
    for batch in cut:
        assert batch and len(batch) % step == 0 and len(batch) <= 6
        assert sum(map(len, batch)) <= 50 or len(batch) == step


def test_batches_are_bounded() -> None:
    assert max(map(len, batches([b"x"] * 5_000, 2))) == WORDS_MAX
    assert [len(b) for b in batches([b"x" * WORDS_BYTES] * 3, 1)] == [1, 1, 1]


def hash_copy() -> Copy:
    asked = fence_parts(b"k", Probe(b"hash", 9), ABLE)
    return asked.read(
        [b"hash", -1, [b"a", b"1", b"b", b"2", b"c", b"3"], [-2], [b"a", b"50", b"b", b"60", b"c", b"50"]]
    )


def test_expiries_of_fields_are_kept_where_they_can_be() -> None:
    written = [parse(c)[0] for c in hash_copy().restore(Loser("b", ABLE)).commands]
    assert [c for c in written if c[0] == b"HPEXPIREAT"] == [  # type: ignore[index]
        [b"HPEXPIREAT", b"k", b"50", b"FIELDS", b"2", b"a", b"c"],
        [b"HPEXPIREAT", b"k", b"60", b"FIELDS", b"1", b"b"],
    ]
    assert b"HPEXPIREAT" not in names(hash_copy().restore(Loser("b", OLD)).commands)


def test_the_digest_of_a_big_key_is_that_of_what_was_written() -> None:
    asked = hash_copy().restore(Loser("b", OLD, big=True))
    before, written = asked.commands[:2], asked.commands[2:]
    assert names(before) == [b"MEMORY", b"PEXPIRETIME"]
    done = asked.read([900, -1, *[1] * len(written)])
    assert done.kept == digest(b"".join(written))
    assert done.replaced is not None and (done.replaced.size, done.replaced.digest) == (900, "")
