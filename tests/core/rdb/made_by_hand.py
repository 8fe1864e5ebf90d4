"""RDB files and values made by hand, for what no server at hand writes, and for what none would."""

import struct

import attrs

from bisync.core.rdb.encoding import length_of
from bisync.core.rdb.payload import crc64

AT = 4_000_000_000_123  # Unix time in ms


def string(content: bytes) -> bytes:
    """A string as an RDB has it, neither compressed nor an integer."""
    return length_of(len(content)) + content


def rdb(*parts: bytes, header: bytes = b"REDIS0012") -> bytes:
    """A file with a right checksum."""
    body = header + b"".join(parts) + b"\xff"
    return body + crc64(body).to_bytes(8, "little")


def listpack(*elements: bytes | int, count: int | None = None) -> bytes:
    """A listpack of strings of less than 4096 bytes and of numbers, all in 64 bits."""
    entries = b""
    for e in elements:
        if isinstance(e, int):
            entries += b"\xf4" + struct.pack("<q", e) + b"\x09"
            continue
        entry = (bytes([0x80 | len(e)]) if len(e) < 64 else struct.pack(">H", 0xE000 | len(e))) + e
        size = len(entry)
        entries += entry + (bytes([size]) if size < 128 else bytes([size >> 7, size & 127 | 128]))
    number = len(elements) if count is None else count
    return struct.pack("<IH", len(entries) + 7, number) + entries + b"\xff"


def ziplist(*elements: bytes) -> bytes:
    """A ziplist with nothing but strings of less than 64 bytes in it."""
    entries, before = b"", 0
    last = 10
    for e in elements:
        last = 10 + len(entries)
        entry = bytes([before, len(e)]) + e
        entries += entry
        before = len(entry)
    return struct.pack("<IIH", len(entries) + 11, last, len(elements)) + entries + b"\xff"


@attrs.frozen
class Form:
    """A value in an old form, and the RDB versions of the servers that read it."""

    type: int
    body: bytes
    oldest: int
    newest: int


PAIR = string(b"field") + string(b"v" * 70)
OLD_FORMS: dict[str, Form] = {
    # As Redis 2.4 wrote a small hash: fields and values by turns, a value with unused bytes after it.
    "zipmap": Form(9, string(b"\x03\x01a\x01\x001\x02bb\x03\x02two--\x03key\x00\x00\xff"), 6, 15),
    "long zipmap": Form(9, string(b"\x01\xfe" + struct.pack("<I", 300) + b"f" * 300 + b"\x02\x00vv\xff"), 6, 15),
    "list of ziplist": Form(10, string(ziplist(b"one", b"two", b"x" * 60)), 6, 15),
    "zset with text scores": Form(
        3, length_of(4) + string(b"a") + b"\x043.14" + b"\x01b\xfe" + b"\x01c\xff" + string(b"d") + b"\x05-1e99", 6, 15
    ),
    "hash of early 7.4": Form(22, length_of(2) + length_of(AT) + PAIR + b"\x00" + string(b"g") + string(b"w"), 12, 15),
    "listpack of early 7.4": Form(23, string(listpack(b"f", b"v", AT, b"g", b"w", 0)), 12, 15),
}
