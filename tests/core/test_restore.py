"""Fences, restores and notes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.abilities import Abilities
from bisync.core.actions import Replaced
from bisync.core.resp import pack
from bisync.core.restore import (
    DumpCopy,
    Loser,
    NotNow,
    Outcome,
    digest,
    expiry,
    fence_element,
    fence_functions,
    fence_key,
    note,
    note_name,
    read_note,
)
from bisync.core.unit import Unit
from bisync.errors import BisyncError
from bisync.testing.site import SimulatedSite
from bisync.testing.strategies import Command
from tests.testing.twins import parse

LATER = b"1900000000000"
ABLE = Abilities()
units = st.builds(
    Unit,
    st.integers(0, 15),
    st.binary(max_size=20),
    st.none() | st.tuples(st.sampled_from(["hash", "set", "zset", "ttl"]), st.binary(max_size=10)),
)


def run(site: SimulatedSite, commands: list[bytes]) -> list[object]:
    return parse(site.connect().execute(b"".join(commands)))


def carried(here: list[Command], there: list[Command], unit: Unit) -> Outcome:
    """Settle a unit: both are equal then."""
    authority, other = SimulatedSite("a"), SimulatedSite("b")
    run(authority, [pack(*c) for c in here])
    run(other, [pack(*c) for c in there])
    fence = fence_key(unit.key, ABLE) if unit.element is None else fence_element(unit, ABLE)
    restore = fence.read(run(authority, fence.commands)).restore(Loser("b", ABLE))
    done = restore.read(run(other, restore.commands))
    assert other.dataset() == authority.dataset()
    return done


VALUES: list[list[Command]] = [
    [],
    [(b"SET", b"k", b"v")],
    [(b"SET", b"k", b"v", b"PXAT", LATER)],
    [(b"RPUSH", b"k", b"1", b"2", b"1")],
    [(b"SADD", b"k", b"e", b"f")],
    [(b"HSET", b"k", b"e", b"1"), (b"PEXPIREAT", b"k", LATER)],
    [(b"ZADD", b"k", b"1.5", b"e")],
]


@pytest.mark.parametrize("there", VALUES)
@pytest.mark.parametrize("here", VALUES)
def test_a_whole_key_becomes_what_the_fence_read_whatever_it_was(here: list[Command], there: list[Command]) -> None:
    done = carried(here, there, Unit(0, b"k"))
    assert (done.replaced is not None) == (here != there)
    assert (done.kept == "") == (not here)


ELEMENTS: list[tuple[str, list[Command], list[Command], str, bytes | None]] = [
    ("hash", [(b"HSET", b"k", b"e", b"1", b"x", b"9")], [(b"HSET", b"k", b"e", b"2", b"x", b"9")], "value", b"2"),
    ("hash", [(b"HSET", b"k", b"x", b"9")], [(b"HSET", b"k", b"e", b"", b"x", b"9")], "value", b""),
    ("hash", [(b"HSET", b"k", b"e", b"1", b"x", b"9")], [(b"HSET", b"k", b"x", b"9")], "absent", None),
    ("set", [(b"SADD", b"k", b"e", b"x")], [(b"SADD", b"k", b"x")], "absent", None),
    ("set", [(b"SADD", b"k", b"x")], [(b"SADD", b"k", b"x", b"e")], "value", b"1"),
    ("zset", [(b"ZADD", b"k", b"1.25", b"e", b"1", b"x")], [(b"ZADD", b"k", b"7", b"e", b"1", b"x")], "value", b"7"),
    ("zset", [(b"ZADD", b"k", b"1", b"x")], [(b"ZADD", b"k", b"7", b"e", b"1", b"x")], "value", b"7"),
    ("ttl", [(b"SET", b"k", b"v", b"PXAT", LATER)], [(b"SET", b"k", b"v")], "absent", None),
    ("ttl", [(b"SET", b"k", b"v")], [(b"SET", b"k", b"v", b"PXAT", LATER)], "ttl", LATER),
]


@pytest.mark.parametrize(("kind", "here", "there", "was", "value"), ELEMENTS)
def test_one_element_becomes_what_the_fence_read(
    kind: str, here: list[Command], there: list[Command], was: str, value: bytes | None
) -> None:
    unit = Unit(0, b"k", (kind, b"" if kind == "ttl" else b"e"))
    when = int(LATER) if was == "ttl" else None
    expected = Replaced("b", was, value, when, len(value or b""), digest(value))
    assert carried(here, there, unit).replaced == expected
    assert carried(here, here, unit).replaced is None


def test_scores_are_compared_as_numbers() -> None:
    fence = fence_element(Unit(0, b"k", ("zset", b"e")), ABLE)
    restore = fence.read([b"0.10000000000000001"]).restore(Loser("b", ABLE))
    assert restore.read([b"0.1", 0]).replaced is None
    assert restore.read([b"0.2", 0]).replaced is not None


@pytest.mark.parametrize(("size", "kept"), [(89, True), (90, False)])
def test_of_a_long_value_only_size_and_digest_are_kept(size: int, kept: bool) -> None:
    held = b"x" * size
    done = DumpCopy(b"k", None, None).restore(Loser("b", ABLE, keep_bytes=89)).read([held, 77, 1])
    assert done.replaced == Replaced("b", "dump", held if kept else None, 77, size, digest(held))


def test_payloads_of_servers_of_other_versions_are_compared_without_their_ends() -> None:
    restore = DumpCopy(b"k", b"value" + b"\x0a\x00checksum", None).restore(Loser("b", ABLE))
    assert restore.read([b"value" + b"\x0b\x00CHECKSUM", -1, b"OK"]).replaced is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (2, [[b"RESTORE", b"k", b"77", b"p", b"REPLACE", b"ABSTTL"]]),
        (1, [[b"RESTORE", b"k", b"0", b"p", b"REPLACE"], [b"PEXPIREAT", b"k", b"77"]]),
        (0, [[b"unlink", b"k"], [b"RESTORE", b"k", b"0", b"p"], [b"PEXPIREAT", b"k", b"77"]]),
    ],
)
def test_old_servers_get_a_restore_that_they_know(options: int, words: list[list[bytes]]) -> None:
    commands = DumpCopy(b"k", b"p", 77).restore(Loser("b", Abilities(options=options))).commands
    assert [parse(c)[0] for c in commands][2:] == words
    plain = DumpCopy(b"k", b"p", None).restore(Loser("b", ABLE)).commands
    assert parse(plain[2])[0] == [b"RESTORE", b"k", b"0", b"p", b"REPLACE"]
    gone = DumpCopy(b"k", None, None).restore(Loser("b", Abilities(lacks={b"UNLINK"}))).commands
    assert parse(gone[2])[0] == [b"del", b"k"]


def test_before_7_0_the_clock_is_asked_for_a_time_to_live() -> None:
    old = Abilities(lacks={b"PEXPIRETIME"})
    asked = expiry(b"k", old)
    assert [parse(c)[0][0] for c in asked.commands] == [b"TIME", b"PTTL", b"TIME"]  # type: ignore[index]
    assert asked.read([[b"1700000000", b"123456"], 877, [b"1700000000", b"123999"]]) == 1_700_000_001_000
    assert asked.read([[b"1700000000", b"0"], -1, [b"1700000001", b"0"]]) is None
    ticked = [[b"1700000000", b"123999"], 877, [b"1700000000", b"124000"]]
    with pytest.raises(NotNow):
        asked.read(ticked)
    assert expiry(b"k", old, exact=False).read(ticked) == 1_700_000_001_000


def test_libraries_go_by_dump_or_one_by_one() -> None:
    restore = fence_functions(ABLE).read([b"the libraries and their end"]).restore(Loser("b", ABLE))
    assert [parse(c)[0] for c in restore.commands] == [
        [b"FUNCTION", b"DUMP"],
        [b"FUNCTION", b"RESTORE", b"the libraries and their end", b"FLUSH"],
        [b"FUNCTION", b"DUMP"],
    ]
    assert restore.read([b"others, and their endings", b"OK", b"the libraries and their end"]).replaced is not None
    assert restore.read([b"the libraries and their END", b"OK", b"the libraries and their end"]).replaced is None
    listed = [[b"library_name", b"l", b"engine", b"LUA", b"functions", [], b"library_code", b"#!lua name=l"]]
    restore = fence_functions(Abilities(restores=False)).read([listed]).restore(Loser("b", ABLE))
    loads = [parse(c)[0][1:] for c in restore.commands][1:3]  # type: ignore[index]
    assert loads == [[b"FLUSH"], [b"LOAD", b"#!lua name=l"]]


@given(units, st.integers(0, 9), st.integers(0, 9), st.text(max_size=9))
def test_a_note_says_what_was_put_in(unit: Unit, epoch: int, number: int, authority: str) -> None:
    assert read_note(note_name(unit), note(epoch, number, authority)) == (unit, (epoch, number), authority)


@given(units, units)
def test_two_units_have_two_names(one: Unit, other: Unit) -> None:
    assert (note_name(one) == note_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"", b"[1,2,3]"),
        (b'[0,"k","",""]', b"x"),
        (b'[0,"k"]', b"[1,2,3]"),
        (b"7", b"[1,2,3]"),
        (b'[0,7,"",""]', b"[1,2,3]"),
    ],
)
def test_what_is_no_note_is_an_error_that_says_what_to_do(name: bytes, value: bytes) -> None:
    with pytest.raises(BisyncError, match="delete that field"):
        read_note(name, value)
