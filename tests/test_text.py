"""Bytes of Redis as text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.text import SHOWN_MAX, readable, shown


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"order:1", "order:1"),
        (b"", '""'),
        (b"\xff\x1b[31m\\", "\\xff\\x1b[31m\\\\"),
        (b"k" * SHOWN_MAX, "k" * SHOWN_MAX),
        (b"k" * 10_000, "k" * SHOWN_MAX + "… (10,000 bytes)"),
        (b"k" * (SHOWN_MAX - 1) + "ü".encode() * 5, "k" * (SHOWN_MAX - 1) + f"… ({SHOWN_MAX + 9} bytes)"),
        (b"\x80" * 201, "\\x80" * SHOWN_MAX + "… (201 bytes)"),
    ],
)
def test_what_is_shown_is_within_a_line_and_never_nothing(data: bytes, text: str) -> None:
    assert shown(data) == text


@given(st.binary(max_size=30), st.integers(1, 40))
def test_what_is_shown_is_the_text_or_its_beginning_and_the_size(data: bytes, most: int) -> None:
    text = shown(data, most)
    assert text.isprintable() and text
    if 0 < len(data) <= most:
        assert text == readable(data)
    elif data:
        assert text.endswith(f"… ({len(data)} bytes)")
        assert len(text) < 4 * most + 20


@given(st.text("aü€😀", min_size=1, max_size=60), st.integers(4, 40))
def test_a_letter_is_never_cut_in_two(text: str, most: int) -> None:
    assert text.startswith(shown(text.encode(), most).partition("…")[0])
