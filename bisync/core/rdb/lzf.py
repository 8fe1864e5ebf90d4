"""LZF, the compression of strings in an RDB (`rdbcompression yes`, for strings over 20 bytes).

Source: LibLZF, `lzf_d.c`, as Redis carries it. The stream is a row of two kinds of parts: `000LLLLL` and L + 1 bytes
as they are; or `LLLooooo oooooooo`, a repetition of L + 2 bytes that were written o + 1 bytes ago (with L = 7, one
more byte that adds to L stands in between).
"""

from typing import Final

MAX_RATIO: Final = 88  # the densest part: 3 bytes that stand for 264
REACH: Final = 1 << 13  # how far back a repetition goes, in bytes


def decompress(packed: bytes, size: int) -> bytes:
    """The `size` bytes that `packed` stands for.

    Raises ValueError where `packed` is no LZF, or stands for more or fewer bytes. `size` may be a lie: memory grows
    with what is really there, never by the claim.
    """
    if size > len(packed) * MAX_RATIO:
        raise ValueError(f"{len(packed)} bytes cannot stand for {size}")
    out = bytearray()
    if _unpack(packed, out, size) != len(packed):
        raise ValueError("it ends within a part")
    if len(out) != size:
        raise ValueError(f"it stands for other than {size} bytes")
    return bytes(out)


class Unpacker:
    """Decompresses a string of any size in pieces: memory holds 8 KiB of what came out, and what is not taken yet."""

    def __init__(self, size: int) -> None:
        self.left = size  # bytes that are still to come out
        self._out = bytearray()
        self._taken = 0  # bytes of `_out` that were handed out
        self._rest = b""  # the start of a part that is not whole

    @property
    def waiting(self) -> int:
        """How many bytes can be taken."""
        return len(self._out) - self._taken

    def feed(self, packed: bytes) -> None:
        """Decompress more. Raises ValueError where it is no LZF or stands for more than `size` bytes."""
        packed = self._rest + packed
        before = len(self._out)
        done = _unpack(packed, self._out, before + self.left)
        self.left -= len(self._out) - before
        if self.left < 0:
            raise ValueError("it stands for more bytes than it says")
        self._rest = packed[done:]

    def take(self, count: int) -> bytes:
        """The next `count` bytes, or as many as there are."""
        start = self._taken
        self._taken = min(start + count, len(self._out))
        taken = bytes(memoryview(self._out)[start : self._taken])
        past = self._taken - REACH
        if past > REACH:
            del self._out[:past]
            self._taken -= past
        return taken

    def close(self) -> None:
        """No more comes. Raises ValueError where something is missing."""
        if self._rest or self.left:
            raise ValueError(f"it ends {self.left} bytes too early")


def _unpack(packed: bytes, out: bytearray, most: int) -> int:
    """Append what the whole parts in `packed` stand for, and return where the first stands that is not whole.

    Stops after the part that makes `out` longer than `most`. Raises ValueError for a repetition of what never was.
    """
    at, end = 0, len(packed)
    try:
        while at < end:
            control = packed[at]
            if control < 32:
                stop = at + control + 2
                if stop > end:
                    break
                out += packed[at + 1 : stop]
                at = stop
                continue
            count = (control >> 5) + 2
            next_at = at + 2
            if count == 9:
                count += packed[at + 1]
                next_at += 1
            distance = ((control & 31) << 8 | packed[next_at - 1]) + 1
            have = len(out)
            start = have - distance
            if start < 0:
                raise ValueError("it repeats what is before its start")
            if distance >= count:
                out += out[start : start + count]
            else:  # the repetition runs into itself: a pattern
                out += (out[start:] * (count // distance + 1))[:count]
            at = next_at
            if have > most:
                break
    except IndexError:
        pass  # the part at `at` is not whole
    if len(out) > most:
        raise ValueError(f"it stands for more than {most} bytes")
    return at
