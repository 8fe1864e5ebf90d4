"""DUMP payloads and RDB files of the simulated server, in the oldest form of each type that real servers still read.

What it writes, a real server can RESTORE or load. It reads only what it wrote itself: a real server's DUMP uses
compact encodings that are not known here. Source: `rdb.c`, Redis 7.0.
"""

import struct
from collections.abc import Iterable, Sequence

from bisync.core.rdb.payload import crc64, dump_payload
from bisync.testing.dataset import Dataset, HashValue, SetValue, SortedSetValue, Value
from bisync.testing.simulated.reply import CommandError

RDB_VERSION = 10
"""That of Redis 7.0."""

STRING, LIST, SET, HASH, ZSET = 0, 1, 2, 4, 5
"""RDB types of values."""

_EXPIRES_AT_MS, _SELECT, _END = b"\xfc", b"\xfe", b"\xff"
_FOOTER_BYTES = 10  # version and checksum


def rdb_type(value: Value) -> int:
    """The RDB type byte of a value."""
    if isinstance(value, bytes):
        return STRING
    if isinstance(value, list):
        return LIST
    return SET if isinstance(value, SetValue) else HASH if isinstance(value, HashValue) else ZSET


def dump(value: Value) -> bytes:
    """What DUMP answers. Equal values have equal payloads, except for the order of a hash's fields."""
    return dump_payload(rdb_type(value), _body(value), RDB_VERSION)


def load(payload: bytes) -> Value:
    """The value in a payload. Raises CommandError as RESTORE does."""
    end = len(payload) - _FOOTER_BYTES
    if (
        end < 1
        or int.from_bytes(payload[end : end + 2], "little") > RDB_VERSION
        or crc64(payload[: end + 2]).to_bytes(8, "little") != payload[end + 2 :]
    ):
        raise CommandError(b"ERR DUMP payload version or checksum are wrong")
    try:
        return _Reader(payload[1:end]).value(payload[0])
    except (IndexError, struct.error, ValueError):
        raise CommandError(b"ERR Bad data format") from None


def rdb(data: Dataset) -> bytes:
    """All that a server holds, as an RDB file; keys that have expired but were not deleted are in it too."""
    parts, database = [b"REDIS%04d" % RDB_VERSION], -1
    for held, key, value in data:
        if held.number != database:
            database = held.number
            parts.append(_SELECT + _length(database))
        if key in held.expires:
            parts.append(_EXPIRES_AT_MS + held.expires[key].to_bytes(8, "little"))
        parts += [bytes((rdb_type(value),)), _string(key), _body(value)]
    content = b"".join([*parts, _END])
    return content + int(crc64(content)).to_bytes(8, "little")


def _length(number: int) -> bytes:
    if number < 1 << 6:
        return bytes((number,))
    if number < 1 << 14:
        return (0x4000 | number).to_bytes(2, "big")
    return b"\x80" + number.to_bytes(4, "big") if number < 1 << 32 else b"\x81" + number.to_bytes(8, "big")


def _string(content: bytes) -> bytes:
    return _length(len(content)) + content


def _counted(strings: Sequence[bytes], count: int) -> bytes:
    return _length(count) + b"".join(map(_string, strings))


def _body(value: Value) -> bytes:
    if isinstance(value, bytes):
        return _string(value)
    if isinstance(value, HashValue):
        return _counted([word for field in value.items() for word in field], len(value))
    if isinstance(value, SortedSetValue):
        pairs: Iterable[bytes] = (_string(m) + struct.pack("<d", value[m]) for m in value.ordered())
        return _length(len(value)) + b"".join(pairs)
    return _counted(value if isinstance(value, list) else sorted(value), len(value))


class _Reader:
    """Reads a value's body. Raises IndexError, struct.error or ValueError for one that is damaged."""

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def value(self, kind: int) -> Value:
        """The whole body as a value of this RDB type."""
        value = self._value(kind)
        if self._at != len(self._body):
            raise ValueError("bytes after the value")
        return value

    def _value(self, kind: int) -> Value:
        if kind == STRING:
            return self._string()
        count = self._length()
        if count == 0:
            raise ValueError("an empty collection")
        if kind == LIST:
            return [self._string() for _ in range(count)]
        if kind == SET:
            return SetValue.of(self._string() for _ in range(count))
        if kind == HASH:
            return HashValue((self._string(), self._string()) for _ in range(count))
        if kind == ZSET:
            return SortedSetValue((self._string(), struct.unpack("<d", self._take(8))[0]) for _ in range(count))
        raise ValueError("a type or an encoding that is not simulated")

    def _take(self, size: int) -> bytes:
        if size > len(self._body) - self._at:
            raise IndexError(size)
        self._at += size
        return self._body[self._at - size : self._at]

    def _length(self) -> int:
        first = self._take(1)[0]
        if first < 0x40:
            return first
        if first < 0x80:
            return (first & 0x3F) << 8 | self._take(1)[0]
        if first > 0x81:
            raise ValueError("a string that is not plain")
        return int.from_bytes(self._take(4 if first == 0x80 else 8), "big")

    def _string(self) -> bytes:
        return self._take(self._length())
