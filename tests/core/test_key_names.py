"""Names of keys, kept as digests."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core import key_names as module
from bisync.core.key_names import BUCKET_BITS, SECRET_BYTES, KeyNames

SECRET = bytes(range(SECRET_BYTES))
PLACES = st.sets(st.tuples(st.integers(0, 20), st.binary(max_size=12)))


@given(PLACES, PLACES, PLACES)
def test_it_holds_what_was_added_and_nothing_else(
    first: set[tuple[int, bytes]], second: set[tuple[int, bytes]], others: set[tuple[int, bytes]]
) -> None:
    names = KeyNames(SECRET)
    for added in (first, second):
        for database, key in added:
            names.add(database, key)
        assert all(names.holds(*place) for place in added)
    held = first | second
    assert all(names.holds(*place) == (place in held) for place in held | others)
    assert len(names) == len(first) + len(second)


def test_the_database_is_a_part_of_the_name() -> None:
    names = KeyNames(SECRET)
    names.add(1, b"2 k")
    assert names.holds(1, b"2 k")
    assert not any(names.holds(*place) for place in ((0, b"2 k"), (12, b"k"), (12, b" k"), (2, b"k"), (1, b" 2 k")))


def test_names_of_one_bucket_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MASK", 0)
    names = KeyNames(SECRET)
    for n in range(0, 2_000, 2):
        names.add(0, b"%d" % n)
        assert names.holds(0, b"%d" % n), "asking comes between two additions"
    assert [names.holds(0, b"%d" % n) for n in range(2_000)] == [n % 2 == 0 for n in range(2_000)]


def test_another_secret_makes_other_digests() -> None:
    """So who knows how digests are made, and not the secret, cannot choose two names with the same one."""
    a, b = (KeyNames(secret)._digest(0, b"key") for secret in (SECRET, SECRET[::-1]))
    assert a != b
    assert a == KeyNames(SECRET)._digest(0, b"key")


@pytest.mark.slow
def test_a_name_takes_few_bytes_however_long_it_is() -> None:
    count = 100_000
    tracemalloc.start()
    try:
        names = KeyNames(SECRET)
        empty = tracemalloc.get_traced_memory()[0]
        for n in range(count):
            names.add(0, b"a name that is fifty bytes long or so, and then %06d" % n)
        taken = tracemalloc.get_traced_memory()[0]
        assert names.holds(0, b"a name that is fifty bytes long or so, and then 000007")
        for n in range(count):
            names.holds(1, b"%d" % n)
        asked, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert empty < 200 << BUCKET_BITS
    assert taken - empty < 12 * count, "while names are added"
    assert asked - empty < 12 * count + (200 << BUCKET_BITS) and most < asked + 100_000, "when all of it is in order"
