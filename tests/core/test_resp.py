"""The wire format of commands."""

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.resp import EXEC, MULTI, pack, packed_length, select


@given(st.lists(st.binary(max_size=1100), min_size=1, max_size=12))
def test_what_is_packed_is_read_again_and_its_length_is_known_before(args: list[bytes]) -> None:
    packed = pack(*args)
    reader = hiredis.Reader()
    reader.feed(packed)
    assert reader.gets() == args
    assert packed_length(args) == len(packed)


@pytest.mark.parametrize("size", [0, 9, 10, 99, 100, 999, 1000, 1023, 1024, 9999, 10_000, 123_456])
def test_lengths_are_right_where_the_number_of_digits_changes(size: int) -> None:
    args = [b"SET", b"x" * size]
    assert packed_length(args) == len(pack(*args))
    assert packed_length([b"k"] * (size % 1200 + 1)) == len(pack(*[b"k"] * (size % 1200 + 1)))


def test_fixed_commands() -> None:
    assert (MULTI, EXEC) == (b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n")
    assert select(12) == b"*2\r\n$6\r\nSELECT\r\n$2\r\n12\r\n"
