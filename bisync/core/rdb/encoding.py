"""Lengths and strings, of which an RDB is made, read from bytes that are in memory.

What these functions raise says what to do: one of `SHORT` that more bytes are needed (nothing was read then, read
again once they are there), ValueError that no more bytes can help. Source: `rdbLoadLenByRef` and
`rdbGenericLoadStringObject` in Redis `src/rdb.c`.
"""

import struct
from typing import Final

from bisync.core.rdb.lzf import decompress

RAW: Final = -1
INT8, INT16, INT32, LZF = range(4)  # what follows `11` in the first byte of a string, `RDB_ENC_*`
INTEGER_BYTES: Final = {INT8: 1, INT16: 2, INT32: 4}

_u32 = struct.Struct(">I").unpack_from
_u64 = struct.Struct(">Q").unpack_from


class Short(IndexError):
    """The bytes end too early. `end` is the index up to which they are needed, as far as it is known."""

    def __init__(self, end: int) -> None:
        self.end = end


SHORT: Final = (IndexError, struct.error)


def length_at(data: bytes, at: int) -> tuple[int, int]:
    """The number (up to 64 bits) whose encoding as a length starts at index `at`, and the index after it."""
    first = data[at]
    if first < 0x40:
        return first, at + 1
    if first < 0x80:
        return (first & 0x3F) << 8 | data[at + 1], at + 2
    if first == 0x80:
        return _u32(data, at + 1)[0], at + 5
    if first == 0x81:
        return _u64(data, at + 1)[0], at + 9
    raise ValueError(f"a length cannot start with byte 0x{first:02x}")


def length_of(number: int) -> bytes:
    """A number (up to 64 bits) encoded as a length."""
    if number < 0x40:
        return bytes((number,))
    if number < 0x4000:
        return (0x4000 | number).to_bytes(2, "big")
    return b"\x80" + number.to_bytes(4, "big") if number < 2**32 else b"\x81" + number.to_bytes(8, "big")


def string_at(data: bytes, at: int, most: int) -> tuple[bytes, int]:
    """The string at index `at`, decoded, and the index after it.

    Integers come as decimal text, LZF decompressed. One of more than `most` bytes is a ValueError at once.
    """
    first = data[at]
    if first < 0x40:
        start = at + 1
        end = start + first
    elif first < 0x80:
        start = at + 2
        end = start + ((first & 0x3F) << 8 | data[at + 1])
    elif first < 0x82:
        size, start = length_at(data, at)
        if size > most:
            raise ValueError(f"a length of {size}, and the limit is {most} bytes")
        end = start + size
    else:
        return _encoded_at(data, at, most)
    if end > len(data):
        raise Short(end)
    return data[start:end], end


def _encoded_at(data: bytes, at: int, most: int) -> tuple[bytes, int]:
    """A string that is stored as an integer or compressed."""
    encoding = data[at] - 0xC0
    if encoding == LZF:
        size, start = length_at(data, at + 1)
        unpacked, start = length_at(data, start)
        if size > most or unpacked > most:
            raise ValueError(f"a length of {max(size, unpacked)}, and the limit is {most} bytes")
        end = start + size
    elif encoding in INTEGER_BYTES:
        start = at + 1
        end = start + INTEGER_BYTES[encoding]
    else:
        raise ValueError(f"a string cannot start with byte 0x{data[at]:02x}")
    if end > len(data):
        raise Short(end)
    if encoding == LZF:
        return decompress(data[start:end], unpacked), end
    return b"%d" % int.from_bytes(data[start:end], "little", signed=True), end
