"""What a DUMP payload holds, for people: the type and the first few elements.

Source of the format: Redis 7.0 `src/rdb.c`, `src/listpack.c` and `src/intset.c`. Values of other types than the ones
here, streams among them, are only named.
"""

import struct
from collections.abc import Iterator, Sequence

from bisync.core.rdb import layouts
from bisync.core.rdb.lzf import decompress
from bisync.errors import RdbError
from bisync.text import shown

ELEMENTS_SHOWN = 20

_FOOTER_BYTES = 10  # version and checksum
_INTEGERS = ("<b", "<h", "<i")  # of RDB strings
_SIZES = {0xF1: 2, 0xF2: 3, 0xF3: 4, 0xF4: 8}  # bytes of a listpack's integers
_STREAMS = (layouts.STREAM_LISTPACKS, layouts.STREAM_LISTPACKS_2, layouts.STREAM_LISTPACKS_3)


def contents(payload: bytes) -> str:
    """A DUMP payload in words. Never raises: one that cannot be read is described by its size."""
    try:
        if len(payload) <= 1 + _FOOTER_BYTES:
            raise ValueError
        return _described(payload[0], _Body(payload[1:-_FOOTER_BYTES]))
    except (IndexError, struct.error, RdbError, ValueError):
        return f"a value of {len(payload):,} bytes, as DUMP gives it"


def _described(kind: int, body: "_Body") -> str:
    match kind:
        case layouts.STRING:
            return shown(body.string())
        case layouts.LIST_QUICKLIST_2:
            return _listed("list", [shown(e) for e in body.quicklist()])
        case layouts.SET:
            return _listed("set", [shown(e) for e in body.strings(body.length())])
        case layouts.SET_INTSET:
            return _listed("set", [str(n) for n in _intset(body.string())])
        case layouts.SET_LISTPACK:
            return _listed("set", [shown(e) for e in _listpack(body.string())])
        case layouts.HASH:
            return _listed("hash", _paired(list(body.strings(2 * body.length()))))
        case layouts.HASH_LISTPACK:
            return _listed("hash", _paired(list(_listpack(body.string()))))
        case layouts.ZSET_2:
            return _listed("sorted set", [f"{shown(body.string())}: {body.double():g}" for _ in range(body.length())])
        case layouts.ZSET_LISTPACK:
            return _listed("sorted set", _paired(list(_listpack(body.string()))))
    name = "a stream" if kind in _STREAMS else f"a value of RDB type {kind}"
    return f"{name}, {len(body.data):,} bytes as DUMP gives it"


def _listed(kind: str, elements: Sequence[str]) -> str:
    some = ", ".join(elements[:ELEMENTS_SHOWN])
    more = f", and {len(elements) - ELEMENTS_SHOWN:,} more" if len(elements) > ELEMENTS_SHOWN else ""
    return f"{kind} of {len(elements):,}: {some}{more}"


def _paired(flat: Sequence[bytes]) -> list[str]:
    return [f"{shown(name)}: {shown(value)}" for name, value in zip(flat[::2], flat[1::2], strict=True)]


class _Body:
    """The bytes of a value, read from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self._at = data, 0

    def take(self, count: int) -> bytes:
        if self._at + count > len(self.data):
            raise IndexError
        self._at += count
        return self.data[self._at - count : self._at]

    def length(self) -> int:
        number, special = self._length()
        if special:
            raise ValueError
        return number

    def _length(self) -> tuple[int, bool]:
        """A length, or the kind of a string that is encoded in another way."""
        first = self.take(1)[0]
        if first >> 6 == 3:
            return first & 0x3F, True
        if first >> 6 == 0:
            return first, False
        if first >> 6 == 1:
            return (first & 0x3F) << 8 | self.take(1)[0], False
        return int.from_bytes(self.take(4 if first == 0x80 else 8), "big"), False

    def string(self) -> bytes:
        number, special = self._length()
        if not special:
            return self.take(number)
        if number < 3:
            layout = _INTEGERS[number]
            return b"%d" % int(struct.unpack(layout, self.take(struct.calcsize(layout)))[0])
        packed, size = self.length(), self.length()
        return decompress(self.take(packed), size)

    def strings(self, count: int) -> Iterator[bytes]:
        return (self.string() for _ in range(count))

    def double(self) -> float:
        number: float = struct.unpack("<d", self.take(8))[0]
        return number

    def quicklist(self) -> Iterator[bytes]:
        for _ in range(self.length()):
            packed = self.length() == 2
            node = self.string()
            if packed:
                yield from _listpack(node)
            else:
                yield node


def _intset(data: bytes) -> list[int]:
    width, count = struct.unpack("<II", data[:8])
    if len(data) != 8 + width * count:
        raise ValueError
    return [int.from_bytes(data[8 + n * width : 8 + (n + 1) * width], "little", signed=True) for n in range(count)]


def _listpack(data: bytes) -> Iterator[bytes]:
    at = 6  # after the number of bytes and of elements
    while data[at] != 0xFF:
        head, content = _entry(data, at)
        size = head + (len(content) if isinstance(content, bytes) else 0)
        yield content if isinstance(content, bytes) else b"%d" % content
        at += size + _back_bytes(size)


def _entry(data: bytes, at: int) -> tuple[int, bytes | int]:
    """How many bytes come before the content, or hold the number; and the content."""
    first = data[at]
    if first < 0x80:
        return 1, first
    if first < 0xC0:
        return 1, _part(data, at + 1, first & 0x3F)
    if first < 0xE0:
        number = (first & 0x1F) << 8 | data[at + 1]
        return 2, number - (1 << 13 if number >= 1 << 12 else 0)
    if first < 0xF0:
        return 2, _part(data, at + 2, (first & 0x0F) << 8 | data[at + 1])
    if first == 0xF0:
        return 5, _part(data, at + 5, int.from_bytes(data[at + 1 : at + 5], "little"))
    if first not in _SIZES:
        raise ValueError
    size = _SIZES[first]
    return 1 + size, int.from_bytes(_part(data, at + 1, size), "little", signed=True)


def _part(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise IndexError
    return data[at : at + size]


def _back_bytes(size: int) -> int:
    """How many bytes a listpack needs to tell the size of an entry."""
    return next((n for n, most in enumerate((127, 16_383, 2_097_151, 268_435_455), 1) if size <= most), 5)
