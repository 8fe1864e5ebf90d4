"""LZF: what a compressor may write comes back; anything else is a ValueError."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.rdb.lzf import decompress

LITERAL = st.binary(min_size=1, max_size=32)
REPEAT = st.tuples(st.integers(1, 8192), st.integers(3, 264))  # distance back, length


@given(LITERAL, st.lists(LITERAL | REPEAT, max_size=30))
def test_whatever_is_packed_comes_back(first: bytes, parts: list[bytes | tuple[int, int]]) -> None:
    packed, plain = bytearray(), bytearray()
    for part in [first, *parts]:
        if isinstance(part, bytes):
            packed += bytes([len(part) - 1]) + part
            plain += part
            continue
        distance, length = min(part[0], len(plain)), part[1]
        high, low = divmod(distance - 1, 256)
        packed += bytes([length - 2 << 5 | high] if length < 9 else [0xE0 | high, length - 9]) + bytes([low])
        for _ in range(length):
            plain.append(plain[-distance])
    assert decompress(bytes(packed), len(plain)) == plain
    for wrong in (len(plain) - 1, len(plain) + 1, 2**63):
        with pytest.raises(ValueError):
            decompress(bytes(packed), wrong)


@given(st.binary(max_size=60), st.integers(0, 6000))
def test_anything_else_is_a_value_error(packed: bytes, size: int) -> None:
    try:
        assert len(decompress(packed, size)) == size
    except ValueError as e:
        assert str(e)


@pytest.mark.parametrize(
    "packed", [b"\x05abc", b"\x00a\x20", b"\x00a\xe0", b"\x00a\xe0\x01", b"\x20\x00", b"\x00a\x20\x01"]
)
def test_a_part_that_is_cut_off_or_reaches_too_far_back_is_refused(packed: bytes) -> None:
    for size in range(1, 20):
        with pytest.raises(ValueError):
            decompress(packed, size)
