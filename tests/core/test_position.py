"""Positions and clocks."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.position import START, Position, copied_clock, stream_clock
from bisync.errors import BisyncError

numbers = st.integers(0, 2**60)


@given(st.text("0123456789abcdef", min_size=40, max_size=40), numbers, st.integers(0, 15))
def test_a_position_survives_being_written_as_json(replid: str, offset: int, database: int) -> None:
    position = Position(replid, offset, database)
    assert Position.from_json(json.loads(json.dumps(position.to_json()))) == position


def test_database_0_is_left_out() -> None:
    assert Position("a", 5).to_json() == ["a", 5]
    assert Position("a", 5, 2).to_json() == ["a", 5, 2]


@pytest.mark.parametrize(
    "value", [None, [], ["a"], ["a", -1], ["a", "5"], [1, 5], ["a", 5, -1], ["a", 5, "0"], ["a", 5, 0, 0]]
)
def test_anything_else_is_no_position(value: object) -> None:
    with pytest.raises(BisyncError, match="no position"):
        Position.from_json(value)


@given(st.integers(1, 50), numbers, st.integers(1, 1000))
def test_a_copied_key_is_older_than_the_stream_after_it_and_newer_than_an_earlier_copy(
    copy: int, at: int, n: int
) -> None:
    assert (
        START < copied_clock(copy, n) < copied_clock(copy, n + 1) < stream_clock(copy, at) < copied_clock(copy + 1, 1)
    )
    assert stream_clock(copy, at) < stream_clock(copy, at + 1)
