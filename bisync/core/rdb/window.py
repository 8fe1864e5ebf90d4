"""The part of an RDB that is in memory, and the primitives to walk through it.

The walk is written as generators that yield when they need more bytes. Only one rule matters: `pos` may run *ahead*
of the data. To skip a gigabyte is to add a gigabyte to `pos`; whoever next wants a byte there waits. So nothing is
read twice, whatever the size of the pieces, and a bare claim costs no memory.
"""

from collections.abc import Generator
from typing import Final, TypeAlias, TypeVar

from bisync.core.rdb.encoding import INTEGER_BYTES, LZF, RAW, SHORT, Short, length_at, string_at
from bisync.core.rdb.lzf import MAX_RATIO
from bisync.core.rdb.payload import crc64
from bisync.errors import RdbError

MAX_VALUE_BYTES: Final = 5 * 2**30  # default bound of what is kept as one, in bytes; a string has at most 512 MB
LEAST_MAX_VALUE_BYTES: Final = 64 * 1024  # below it the shortcuts of the reader would have to check, too

_KEY_SHOWN: Final = 60  # bytes of a key in an error

T = TypeVar("T")
Waits: TypeAlias = Generator[None, None, T]


class Window:
    """Bytes of an RDB from `base` on, the place `pos` in them, and the checksum of all that was passed.

    `max_value_bytes` bounds everything that is kept as one, and every length that the file claims.
    """

    def __init__(self, max_value_bytes: int, data: bytes = b"") -> None:
        if max_value_bytes < LEAST_MAX_VALUE_BYTES:
            raise ValueError(f"max_value_bytes must be at least {LEAST_MAX_VALUE_BYTES}, not {max_value_bytes}")
        self.max_value_bytes = max_value_bytes
        self.data = data
        self.pos = 0  # index into `data`; beyond its end: bytes to skip that have not come yet
        self.base = 0  # offset of data[0] in the RDB, in bytes
        self.subject: tuple[bytes, int] | None = None  # key and type of the value under way, for errors
        self.templates: dict[int, list[bytes]] = {}  # field names of the hash templates that came, by their number
        self._checksum, self._summed = 0, 0  # CRC-64 up to data[_summed]
        self._held, self._mark = bytearray(), -1  # what is kept: `_held`, then data[_mark:]
        self._coming: list[bytes] = []  # what came while `fill` waits for more
        self._lacking = 0  # bytes that `fill` still waits for

    @property
    def offset(self) -> int:
        """How many bytes of the RDB were passed."""
        return self.base + min(self.pos, len(self.data))

    @property
    def end(self) -> int:
        """How many bytes of the RDB have come."""
        return self.base + len(self.data) + sum(map(len, self._coming))

    def error(self, what: str, *, why: str = "", hint: str = "") -> RdbError:
        """An RdbError at this place, with the key it is about. The default hint is that of a damaged file."""
        if self.subject is not None:
            key, type = self.subject
            shown = repr(key[:_KEY_SHOWN]) + ("..." if len(key) > _KEY_SHOWN else "")
            what = f"{what}, in the value of key {shown} of RDB type {type},"
        return RdbError(what, offset=self.offset, why=why, hint=hint or "take a new snapshot; this one is damaged")

    def extend(self, more: bytes) -> None:
        """Let go of what was passed and append `more`.

        Raises RdbError where a value that is being kept grows over `max_value_bytes`.
        """
        if self._lacking > len(more):
            self._lacking -= len(more)
            self._coming.append(bytes(more))
            return
        if self._coming:
            more = b"".join((*self._coming, more))
            self._coming.clear()
        self._lacking = 0
        used = min(self.pos, len(self.data))
        self.checksum()
        self._summed = max(self._summed - used, 0)
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

    @property
    def kept_bytes(self) -> int:
        """How many bytes there are from `keep` to here, whether they have come or not."""
        return len(self._held) + self.pos - self._mark

    def kept(self) -> Waits[bytes]:
        """The bytes from `keep` to here, waiting for those that were skipped before they came."""
        while self.pos > len(self.data):
            yield
        self._claim(self.kept_bytes)
        content = self.data[self._mark : self.pos]
        self._mark = -1
        if self._held:
            self._held += content
            content, self._held = bytes(self._held), bytearray()
        return content

    def rewind(self) -> None:
        """Go back to `keep`, to read the same bytes in another way, and keep them no longer."""
        if self._held:
            self.data, self.pos = bytes(self._held) + self.data, 0
            self._summed += len(self._held)
            self.base -= len(self._held)
            self._held = bytearray()
        else:
            self.pos = self._mark
        self._mark = -1

    def fill(self, count: int) -> Waits[None]:
        """Wait until the next `count` bytes are in `data`, and pass nothing."""
        self._claim(count)
        while (lacking := self.pos + count - len(self.data)) > 0:
            if not self._coming:  # else `extend` counts already
                self._lacking = lacking
            yield

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
        while (found := self._length_at(self.pos)) is None:
            yield
        value, self.pos = found
        return value

    def count(self) -> Waits[int]:
        """A number of things of which each takes a byte or more, so that it cannot exceed `max_value_bytes`."""
        value = yield from self.length()
        self._claim(value)
        return value

    def string_header(self) -> Waits[tuple[int, int, int]]:
        """Pass over a string's header: its encoding, its bytes in the file, with LZF its bytes decompressed."""
        while (header := self._string_header()) is None:
            yield
        return header

    def string(self) -> Waits[bytes]:
        """A string, decoded: integers as decimal text, LZF decompressed."""
        while True:
            try:
                value, self.pos = string_at(self.data, self.pos, self.max_value_bytes)
                return value
            except Short as e:
                yield from self.fill(e.end - self.pos)
            except SHORT:
                yield
            except ValueError as e:
                raise self.error("a damaged string", why=str(e)) from None

    def strings(self, count: int, after: int = 0) -> Waits[None]:
        """Pass over `count` strings, with `after` more bytes after each."""
        while count := self._pass_strings(count, after):
            yield

    def lengths(self, count: int, before: int = 0) -> Waits[None]:
        """Pass over `count` lengths, with `before` more bytes before each."""
        while count:
            found = self._length_at(self.pos + before)
            if found is None:
                yield
            else:
                self.pos = found[1]
                count -= 1

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

    def _length_at(self, at: int) -> tuple[int, int] | None:
        """The length that starts at `at` and the place after it. None where it has not come yet."""
        try:
            return length_at(self.data, at)
        except SHORT:
            return None
        except ValueError as e:
            raise self.error("no length", why=str(e)) from None

    def _string_header(self) -> tuple[int, int, int] | None:
        """Pass over a string's header, as `string_header`. None, and nothing is passed, where it has not come whole."""
        if self.pos >= len(self.data):
            return None
        encoding = self.data[self.pos] - 0xC0
        if encoding in INTEGER_BYTES:
            self.pos += 1
            return encoding, INTEGER_BYTES[encoding], 0
        packed = encoding == LZF
        found = self._length_at(self.pos + packed)
        unpacked = 0
        if packed and found is not None:
            size, at = found
            found = self._length_at(at)
            if found is not None:
                unpacked, at = found
                found = size, at
        if found is None:
            return None
        self._claim(found[0])
        if unpacked > MAX_RATIO * found[0]:
            raise self.error("a damaged string", why=f"{found[0]} compressed bytes cannot stand for {unpacked}")
        self.pos = found[1]
        return (LZF if packed else RAW), found[0], unpacked
