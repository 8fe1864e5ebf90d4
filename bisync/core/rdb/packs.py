"""The packed forms of small collections: listpack, ziplist, zipmap and intset, each a string to an RDB.

A pack is opened with its bytes and hands out its elements with `take`, some at a time, each as the bytes that a
client would get. Whatever it claims about itself is checked against the bytes that are there; ValueError says what is
wrong. Sources: Redis `src/listpack.c`, `src/ziplist.c`, `src/zipmap.c` (2.8), `src/intset.c`.
"""

import abc
import struct
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias


class Pack(Protocol):
    """An open pack."""

    def take(self, most: int) -> list[bytes]:
        """The next elements, at most so many; none after the last. Raises ValueError where the pack is damaged."""


Opens: TypeAlias = Callable[[bytes], Pack]

_END: Final = 0xFF
_SMALL: Final = [b"%d" % n for n in range(128)]  # no new bytes for small numbers
_u16 = struct.Struct("<H").unpack_from
_u32 = struct.Struct("<I").unpack_from
_LISTPACK_INTEGERS: Final = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}  # first byte: bytes of the number
_ZIPLIST_INTEGERS: Final = {0xFE: 1, 0xC0: 2, 0xF0: 3, 0xD0: 4, 0xE0: 8}
_UNKNOWN_COUNT: Final = 0xFFFF  # there are more elements than the header can count


class _Chain(abc.ABC):
    """A pack whose elements stand one after the other up to an end mark."""

    header_bytes: int
    noun: str

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._end = data, self.header_bytes, len(data) - 1
        if self._end < self.header_bytes or data[self._end] != _END:
            raise ValueError(f"a {self.noun} without an end")
        claimed: int = _u32(data, 0)[0]
        if claimed != len(data):
            raise ValueError(f"a {self.noun} of {len(data)} bytes that says it has {claimed}")
        self._left: int = _u16(data, self.header_bytes - 2)[0]
        if self._left == _UNKNOWN_COUNT:
            self._left = -1
        elif self._left > self._end:
            raise ValueError(f"a {self.noun} of {len(data)} bytes with {self._left} elements")

    def take(self, most: int) -> list[bytes]:
        """The next elements, at most so many."""
        out: list[bytes] = []
        try:
            self._at = self._walk(self._at, most, out)
        except (IndexError, struct.error):
            raise ValueError(f"a {self.noun} with an element that reaches beyond its end") from None
        if self._at > self._end:
            raise ValueError(f"a {self.noun} with an element that reaches beyond its end")
        if self._left >= 0:
            self._left -= len(out)
            if self._left < 0 or self._at == self._end and self._left:
                raise ValueError(f"a {self.noun} with another number of elements than it says")
        return out

    @abc.abstractmethod
    def _walk(self, at: int, most: int, out: list[bytes]) -> int:
        """Append up to `most` elements from index `at` on; the index after them."""


class Listpack(_Chain):
    """A listpack, in every collection since Redis 7.0 and in streams since 5.0."""

    header_bytes, noun = 6, "listpack"

    def _walk(self, at: int, most: int, out: list[bytes]) -> int:
        data, end, append = self._data, self._end, out.append
        for _ in range(most):
            if at >= end:
                break
            first = data[at]
            if first < 0x80:
                append(_SMALL[first])
                at += 2
            elif first < 0xC0:
                start = at + 1
                at = start + (first & 0x3F)
                append(data[start:at])
                at += 1
            elif first < 0xE0:
                number = (first & 0x1F) << 8 | data[at + 1]
                append(b"%d" % (number - 8192 if number >= 4096 else number))
                at += 3
            elif first in _LISTPACK_INTEGERS:
                start = at + 1
                at = start + _LISTPACK_INTEGERS[first]
                append(b"%d" % int.from_bytes(data[start:at], "little", signed=True))
                at += 1
            else:
                if first < 0xF0:
                    start, size = at + 2, (first & 0x0F) << 8 | data[at + 1]
                elif first == 0xF0:
                    start, size = at + 5, _u32(data, at + 1)[0]
                else:
                    raise ValueError(f"a listpack with an element that starts with byte 0x{first:02x}")
                stop = start + size
                append(data[start:stop])
                at = stop + _back_bytes(stop - at)
        return at


def _back_bytes(size: int) -> int:
    """How many bytes a listpack adds to an element of `size` bytes, so that it can be walked backwards."""
    if size < 128:
        return 1
    return 2 if size < 16_384 else 3 if size < 2_097_152 else 4 if size < 268_435_456 else 5


class Ziplist(_Chain):
    """A ziplist, in every collection up to Redis 6.2."""

    header_bytes, noun = 10, "ziplist"

    def _walk(self, at: int, most: int, out: list[bytes]) -> int:
        data, end, append = self._data, self._end, out.append
        for _ in range(most):
            if at >= end:
                break
            at += 1 if data[at] < 0xFE else 5  # the size of the element before
            first = data[at]
            if first < 0xC0:
                if first < 0x40:
                    start, size = at + 1, first
                elif first < 0x80:
                    start, size = at + 2, (first & 0x3F) << 8 | data[at + 1]
                else:
                    start, size = at + 5, int.from_bytes(data[at + 1 : at + 5], "big")
                at = start + size
                append(data[start:at])
            elif 0xF1 <= first <= 0xFD:
                append(_SMALL[first - 0xF1])
                at += 1
            elif first in _ZIPLIST_INTEGERS:
                start = at + 1
                at = start + _ZIPLIST_INTEGERS[first]
                append(b"%d" % int.from_bytes(data[start:at], "little", signed=True))
            else:
                raise ValueError(f"a ziplist with an element that starts with byte 0x{first:02x}")
        return at


class Zipmap:
    """A zipmap, in small hashes up to Redis 2.4: fields and values by turns."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at, self._end = data, 1, len(data) - 1
        if self._end < 1 or data[self._end] != _END:
            raise ValueError("a zipmap without an end")

    def take(self, most: int) -> list[bytes]:
        """The next elements, at most so many (or one more, as a field and its value stay together)."""
        out: list[bytes] = []
        data, at = self._data, self._at
        try:
            while len(out) < most and at < self._end:
                size, at = self._length(at)
                out.append(data[at : at + size])
                size, at = self._length(at + size)
                free = data[at]
                at += 1
                out.append(data[at : at + size])
                at += size + free
        except (IndexError, struct.error):
            at = self._end + 1
        if at > self._end:
            raise ValueError("a zipmap with an element that reaches beyond its end")
        self._at = at
        return out

    def _length(self, at: int) -> tuple[int, int]:
        first = self._data[at]
        if first < 254:
            return first, at + 1
        if first == 254:
            return _u32(self._data, at + 1)[0], at + 5
        raise ValueError("a zipmap that ends before its end")


class Intset:
    """A sorted row of integers, in sets that hold nothing else."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 8:
            raise ValueError("an intset without a header")
        width, count = struct.unpack_from("<II", data)
        if width not in (2, 4, 8) or len(data) != 8 + width * count:
            raise ValueError(f"an intset of {len(data)} bytes that says it has {count} numbers of {width} bytes")
        self._numbers = memoryview(data)[8:]
        self._width, self._letter, self._at = width, {2: "h", 4: "i", 8: "q"}[width], 0

    def take(self, most: int) -> list[bytes]:
        """The next numbers, at most so many, as decimal text."""
        part = self._numbers[self._at : self._at + most * self._width]
        self._at += len(part)
        return [b"%d" % n for n in struct.unpack(f"<{len(part) // self._width}{self._letter}", part)]
