"""Bytes of Redis as text for people and for JSON."""

SHOWN_MAX = 200
"""So many bytes of a key, a name or a value are shown to people; in JSON all of them are."""


def readable(data: bytes) -> str:
    r"""`data` as text: UTF-8 where it is, and \xNN for each byte that is not, or that a terminal would act on.

    A backslash is doubled, so that two different keys never look the same.
    """
    text = data.replace(b"\\", b"\\\\").decode("utf-8", errors="backslashreplace")
    return "".join(c if c.isprintable() else "".join(f"\\x{b:02x}" for b in c.encode()) for c in text)


def shown(data: bytes, most: int = SHOWN_MAX) -> str:
    """`data` for people, within a line: what is longer than `most` bytes is cut and its size is told, "" is nothing."""
    if not data:
        return '""'
    if len(data) <= most:
        return readable(data)
    end = next((n for n in range(most, max(most - 4, 0), -1) if data[n] & 0xC0 != 0x80), most)  # not within a letter
    return f"{readable(data[:end])}… ({len(data):,} bytes)"
