"""LZF, the compression of strings in an RDB (`rdbcompression yes`, for strings over 20 bytes).

Source: LibLZF, `lzf_d.c`, as Redis carries it. The stream is a row of two kinds of parts: `000LLLLL` and L + 1 bytes
as they are; or `LLLooooo oooooooo`, a repetition of L + 2 bytes that were written o + 1 bytes ago (with L = 7, one
more byte that adds to L stands in between).
"""

MAX_RATIO = 88  # the densest part: 3 bytes that stand for 264


def decompress(packed: bytes, size: int) -> bytes:
    """The `size` bytes that `packed` stands for.

    Raises ValueError where `packed` is no LZF, or stands for more or fewer bytes. `size` may be a lie: memory grows
    with what is really there, never by the claim.
    """
    if size > len(packed) * MAX_RATIO:
        raise ValueError(f"{len(packed)} bytes cannot stand for {size}")
    out = bytearray()
    at, end = 0, len(packed)
    try:
        while at < end:
            control = packed[at]
            at += 1
            if control < 32:
                out += packed[at : at + control + 1]
                at += control + 1
            else:
                length = control >> 5
                if length == 7:
                    length += packed[at]
                    at += 1
                _repeat(out, distance=((control & 31) << 8 | packed[at]) + 1, length=length + 2)
                at += 1
            if len(out) > size:
                break
    except IndexError:
        raise ValueError("it ends within a repetition") from None
    if at > end or len(out) != size:
        raise ValueError(f"it stands for other than {size} bytes")
    return bytes(out)


def _repeat(out: bytearray, distance: int, length: int) -> None:
    start = len(out) - distance
    if start < 0:
        raise ValueError("it repeats what is before its start")
    if distance >= length:
        out += out[start : start + length]
    else:  # the repetition runs into itself: a pattern
        out += (out[start:] * (length // distance + 1))[:length]
