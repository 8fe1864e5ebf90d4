"""Fences, restores and notes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.arbitration import Unit
from bisync.core.resp import pack
from bisync.core.restore import fence, note, note_name, read_note, restore
from bisync.errors import BisyncError
from bisync.testing.site import SimulatedSite
from bisync.testing.strategies import Command

LATER = b"1900000000000"
units = st.builds(
    Unit,
    st.integers(0, 15),
    st.binary(max_size=20),
    st.none() | st.tuples(st.sampled_from(["hash", "set", "zset", "ttl"]), st.binary(max_size=10)),
)


def run(site: SimulatedSite, *commands: bytes) -> list[object]:
    import hiredis

    reader = hiredis.Reader(notEnoughData=Ellipsis)
    reader.feed(site.connect().execute(b"".join(commands)))
    return [reader.gets() for _ in commands]


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
    authority, other = SimulatedSite("a"), SimulatedSite("b")
    run(authority, *(pack(*c) for c in here))
    run(other, *(pack(*c) for c in there))
    unit = Unit(0, b"k")
    copy = run(authority, *(command for _, command in fence(unit, 0)))
    run(other, *(command for _, command in restore(unit, 0, copy)))
    assert other.dataset() == authority.dataset()


ELEMENTS: list[tuple[str, list[Command], list[Command]]] = [
    ("hash", [(b"HSET", b"k", b"e", b"1", b"x", b"9")], [(b"HSET", b"k", b"e", b"2", b"x", b"9")]),
    ("hash", [(b"HSET", b"k", b"x", b"9")], [(b"HSET", b"k", b"e", b"2", b"x", b"9")]),
    ("set", [(b"SADD", b"k", b"e", b"x")], [(b"SADD", b"k", b"x")]),
    ("set", [(b"SADD", b"k", b"x")], [(b"SADD", b"k", b"x", b"e")]),
    ("zset", [(b"ZADD", b"k", b"1.25", b"e", b"1", b"x")], [(b"ZADD", b"k", b"7", b"e", b"1", b"x")]),
    ("zset", [(b"ZADD", b"k", b"1", b"x")], [(b"ZADD", b"k", b"7", b"e", b"1", b"x")]),
    ("ttl", [(b"SET", b"k", b"v", b"PXAT", LATER)], [(b"SET", b"k", b"v")]),
    ("ttl", [(b"SET", b"k", b"v")], [(b"SET", b"k", b"v", b"PXAT", LATER)]),
]


@pytest.mark.parametrize(("kind", "here", "there"), ELEMENTS)
def test_one_element_becomes_what_the_fence_read(kind: str, here: list[Command], there: list[Command]) -> None:
    authority, other = SimulatedSite("a"), SimulatedSite("b")
    run(authority, *(pack(*c) for c in here))
    run(other, *(pack(*c) for c in there))
    unit = Unit(0, b"k", (kind, b"" if kind == "ttl" else b"e"))
    copy = run(authority, *(command for _, command in fence(unit, 0)))
    run(other, *(command for _, command in restore(unit, 0, copy)))
    assert other.dataset() == authority.dataset()


def test_fences_and_restores_go_to_the_database_that_they_are_told() -> None:
    unit = Unit(1, b"k")
    assert {database for database, _ in fence(unit, 5) + restore(unit, 5, [None, -2])} == {5}


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
