"""The wire format of commands."""

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.resp import EXEC, MULTI, pack, pack_words, select


@given(st.lists(st.binary(max_size=1100), min_size=1, max_size=12))
def test_what_is_packed_is_read_again(args: list[bytes]) -> None:
    reader = hiredis.Reader()
    reader.feed(pack(*args))
    assert reader.gets() == args
    assert not reader.has_data()


@given(st.lists(st.binary(max_size=1100), min_size=1, max_size=7))
def test_words_that_are_bytes_are_packed_the_same_the_fast_way(words: list[bytes]) -> None:
    assert pack_words(words) == pack_words(tuple(words)) == pack(*words)


@pytest.mark.parametrize("words", [[b"a", None], [b"a", b"b", 1], [b"a", b"b", b"c", [b"d"]], [[], b"a"]])
def test_what_is_no_word_is_refused(words: list[bytes]) -> None:
    with pytest.raises(TypeError):
        pack_words(words)


@pytest.mark.parametrize("size", [0, 9, 10, 99, 100, 999, 1000, 9999, 10_000, 123_456])
def test_a_command_is_written_in_the_shortest_form_as_a_stream_has_it(size: int) -> None:
    assert pack(b"SET", b"x" * size) == b"*2\r\n$3\r\nSET\r\n$%d\r\n%s\r\n" % (size, b"x" * size)
    count = size % 1200 + 1
    assert pack(*[b"k"] * count) == b"*%d\r\n" % count + b"$1\r\nk\r\n" * count


def test_numbers_are_written_in_full() -> None:
    assert pack(b"EXPIRE", -12) == b"*2\r\n$6\r\nEXPIRE\r\n$3\r\n-12\r\n"


def test_fixed_commands() -> None:
    assert (MULTI, EXEC) == (b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n")
    assert select(12) == b"*2\r\n$6\r\nSELECT\r\n$2\r\n12\r\n"
