"""The part of an RDB that is in memory, and the primitives to walk through it.

The walk is written as generators that yield when they need more bytes. Only one rule matters: `pos` may run *ahead*
of the data. To skip a gigabyte is to add a gigabyte to `pos`; whoever next wants a byte there waits. So nothing is
read twice, whatever the size of the pieces, and a bare claim costs no memory.
"""

from collections.abc import Generator
from typing import Final, TypeAlias, TypeVar

from bisync.core.rdb.lzf import decompress
from bisync.core.rdb.payload import crc64
from bisync.errors import RdbError

MAX_VALUE_BYTES: Final = 5 * 2**30  # default bound of one value, in bytes; a string has at most 512 MB
LEAST_MAX_VALUE_BYTES: Final = 64 * 1024  # below it the shortcuts of the reader would have to check, too

RAW: Final = -1
INT8, INT16, INT32, LZF = range(4)  # what follows `11` in the first byte of a string, `RDB_ENC_*`
_INTEGER_BYTES = {INT8: 1, INT16: 2, INT32: 4}

T = TypeVar("T")
Waits: TypeAlias = Generator[None, None, T]


class Window:
    """Bytes of an RDB from `base` on, the place `pos` in them, and the checksum of all that was passed.

    `max_value_bytes` bounds a single value and every length that the file claims.
    """

    def __init__(self, max_value_bytes: int) -> None:
        if max_value_bytes < LEAST_MAX_VALUE_BYTES:
            raise ValueError(f"max_value_bytes must be at least {LEAST_MAX_VALUE_BYTES}, not {max_value_bytes}")
        self.max_value_bytes = max_value_bytes
        self.data = b""
        self.pos = 0  # index into `data`; beyond its end: bytes to skip that have not come yet
        self.base = 0  # offset of data[0] in the RDB, in bytes
        self._checksum, self._summed = 0, 0  # CRC-64 up to data[_summed]
        self._held, self._mark = bytearray(), -1  # what is kept: `_held`, then data[_mark:]

    @property
    def offset(self) -> int:
        """How many bytes of the RDB were passed."""
        return self.base + min(self.pos, len(self.data))

    def error(self, what: str, *, why: str = "", hint: str = "") -> RdbError:
        """An RdbError at this place. The default hint is that of a damaged file."""
        return RdbError(what, offset=self.offset, why=why, hint=hint or "take a new snapshot; this one is damaged")

    def extend(self, more: bytes) -> None:
        """Let go of what was passed and append `more`.

        Raises RdbError where a value that is being kept grows over `max_value_bytes`.
        """
        used = min(self.pos, len(self.data))
        self.checksum()
        self._summed = 0
        if self._mark >= 0:
            self._held += memoryview(self.data)[self._mark : used]
            self._mark = 0
            self._claim(len(self._held) + self.pos - used)
        self.data = self.data[used:] + more if used < len(self.data) else bytes(more)
        self.base += used
        self.pos -= used

    def checksum(self) -> int:
        """CRC-64 of all bytes from the start of the RDB to here."""
        used = min(self.pos, len(self.data))
        if used > self._summed:
            self._checksum = crc64(memoryview(self.data)[self._summed : used], self._checksum)
            self._summed = used
        return self._checksum

    def keep(self) -> None:
        """Keep all bytes from here on until `kept`. Not to be nested: no `take` and no `string` in between."""
        assert self._mark < 0, "nested keep"
        self._mark = self.pos

    def kept(self) -> Waits[bytes]:
        """The bytes from `keep` to here, waiting for those that were skipped before they came."""
        while self.pos > len(self.data):
            yield
        self._claim(len(self._held) + self.pos - self._mark)
        content = self.data[self._mark : self.pos]
        self._mark = -1
        if self._held:
            self._held += content
            content, self._held = bytes(self._held), bytearray()
        return content

    def take(self, count: int) -> Waits[bytes]:
        """The next `count` bytes."""
        self.keep()
        self.skip(count)
        return (yield from self.kept())

    def byte(self) -> Waits[int]:
        """The next byte."""
        while self.pos >= len(self.data):
            yield
        self.pos += 1
        return self.data[self.pos - 1]

    def skip(self, count: int) -> None:
        """Pass over `count` bytes, whether they have come or not."""
        self._claim(count)
        self.pos += count

    def length(self) -> Waits[int]:
        """A number in the variable encoding of lengths: up to 64 bits, unchecked."""
        while True:
            value, after = self._length_at(self.pos)
            if value >= 0:
                self.pos = after
                return value
            yield

    def count(self) -> Waits[int]:
        """A number of things of which each takes a byte or more, so that it cannot exceed `max_value_bytes`."""
        value = yield from self.length()
        self._claim(value)
        return value

    def string(self) -> Waits[bytes]:
        """A string, decoded: integers as decimal text, LZF decompressed."""
        while (header := self._string_header()) is None:
            yield
        encoding, size, unpacked = header
        body = yield from self.take(size)
        if encoding == RAW:
            return body
        if encoding != LZF:
            return b"%d" % int.from_bytes(body, "little", signed=True)
        self._claim(unpacked)
        try:
            return decompress(body, unpacked)
        except ValueError as e:
            raise self.error("a compressed string is damaged", why=str(e)) from None

    def strings(self, count: int, after: int = 0) -> Waits[None]:
        """Pass over `count` strings, with `after` more bytes after each."""
        while count := self._pass_strings(count, after):
            yield

    def lengths(self, count: int, before: int = 0) -> Waits[None]:
        """Pass over `count` lengths, with `before` more bytes before each."""
        pos = self.pos
        while count:
            value, end = self._length_at(pos + before)
            if value >= 0:
                self.pos = pos = end
                count -= 1
            else:
                yield
                pos = self.pos

    def _claim(self, count: int) -> None:
        if count > self.max_value_bytes:
            raise self.error(f"a length of {count}", why=f"the limit of a value is {self.max_value_bytes} bytes")

    def _pass_strings(self, count: int, after: int) -> int:
        """As far as the data goes; how many are left."""
        data, pos = self.data, self.pos
        end = len(data)
        while count and pos < end:
            first = data[pos]
            if first < 0x40:
                pos += first + 1 + after
            elif first < 0x80 and pos + 1 < end:
                pos += ((first & 0x3F) << 8 | data[pos + 1]) + 2 + after
            else:
                self.pos = pos
                header = self._string_header()
                if header is None:
                    return count
                pos = self.pos + header[1] + after
            count -= 1
        self.pos = pos
        return count

    def _length_at(self, pos: int) -> tuple[int, int]:
        """The length that starts at `pos` and the place after it. -1 where it has not come yet."""
        data = self.data
        if pos >= len(data):
            return -1, pos
        first = data[pos]
        if first < 0x40:
            return first, pos + 1
        size = 1 if first < 0x80 else 4 if first == 0x80 else 8
        end = pos + 1 + size
        if first > 0x81:
            raise self.error("no length", why=f"it starts with byte 0x{first:02x}")
        if end > len(data):
            return -1, pos
        value = int.from_bytes(data[pos + 1 : end], "big")
        return ((first & 0x3F) << 8 | value if first < 0x80 else value), end

    def _string_header(self) -> tuple[int, int, int] | None:
        """Pass over a string's header: its encoding, its bytes in the file, with LZF its bytes decompressed.

        None, and nothing is passed, where it has not come whole.
        """
        if self.pos >= len(self.data):
            return None
        encoding = self.data[self.pos] - 0xC0
        if encoding in _INTEGER_BYTES:
            self.pos += 1
            return encoding, _INTEGER_BYTES[encoding], 0
        packed = encoding == LZF
        size, end = self._length_at(self.pos + packed)
        unpacked = 0
        if packed and size >= 0:
            unpacked, end = self._length_at(end)
        if size < 0 or unpacked < 0:
            return None
        self._claim(size)
        self.pos = end
        return (LZF if packed else RAW), size, unpacked
