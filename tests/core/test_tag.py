"""The tag: what it says survives being written and read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.position import Position
from bisync.core.tag import Tag
from bisync.errors import BisyncError

numbers = st.integers(0, 2**53)
positions = st.builds(Position, st.text("0123456789abcdef", min_size=40, max_size=40), numbers, st.integers(0, 15))
tags = st.builds(
    Tag,
    job=st.text(min_size=1, max_size=20),
    epoch=numbers,
    engine=st.text("0123456789abcdef", min_size=8, max_size=8),
    applied=st.tuples(st.integers(0, 9), st.integers(0, 1), numbers),
    floors=st.dictionaries(st.sampled_from(["east", "west"]), positions),
    copied=numbers,
    begun=numbers,
    reconciling=st.sampled_from(["", "east", "west"]),
    rounds=st.lists(numbers, max_size=5).map(tuple),
)


@given(tags)
def test_a_tag_says_what_was_put_in(tag: Tag) -> None:
    assert Tag.decode(tag.encode()) == tag


def test_a_tag_is_small_and_readable() -> None:
    floors = {site: Position("0123456789" * 4, 123_456_789_012, 0) for site in ("east", "west")}
    text = Tag("orders", 12, "9f3ab2c1", (1, 1, 123_456_789_012), floors, 12).encode()
    assert len(text) < 280
    assert b'"epoch":12' in text


@given(st.binary(max_size=60))
def test_anything_else_is_no_tag(value: bytes) -> None:
    with pytest.raises(BisyncError, match="tag"):
        Tag.decode(value)


@pytest.mark.parametrize(
    "value",
    [b"{}", b"[]", b"null", b'{"bisync":1}', b'{"bisync":1,"job":"x","applied":[1]}', b"[" * 100_000, b"\xff"],
)
def test_half_a_tag_is_no_tag(value: bytes) -> None:
    with pytest.raises(BisyncError, match="not a bisync tag"):
        Tag.decode(value)


def test_a_tag_of_a_newer_version_says_so() -> None:
    with pytest.raises(BisyncError, match="version 2"):
        Tag.decode(Tag("j", 1, "e").encode().replace(b'"bisync":1', b'"bisync":2'))


def test_the_tag_tells_which_copy_was_finished() -> None:
    assert Tag.decode(Tag("j", 9, "e", copied=7).encode()).copied == 7
    assert Tag.decode(Tag("j", 9, "e").encode()).copied == 0
