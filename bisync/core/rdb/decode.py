"""Decoding: which decoder a type has, and the elements of a value that is whole in memory."""

from collections.abc import Iterator
from typing import Final

import attrs

from bisync.core.rdb import layouts
from bisync.core.rdb.elements import Decodes, Element, Kind, Piece
from bisync.core.rdb.streams import stream
from bisync.core.rdb.values import HASH_2, VALUES, Decoder
from bisync.core.rdb.window import MAX_VALUE_BYTES, Window
from bisync.errors import RdbError

_FOOTER_BYTES = 10  # of a payload: version and checksum
_AT_ONCE = 64 * 1024  # bytes of elements
_KEY_META = 243  # in place of the type: what modules attached to the key comes first

_REDIS: Final[dict[int, Decoder]] = {
    **VALUES,
    layouts.STREAM_LISTPACKS: stream(1),
    layouts.STREAM_LISTPACKS_2: stream(2),
    layouts.STREAM_LISTPACKS_3: stream(3),
    layouts.STREAM_LISTPACKS_4: stream(4),
    layouts.STREAM_LISTPACKS_5: stream(5),
}
_VALKEY: Final = {type: decoder for type, decoder in _REDIS.items() if type in layouts.VALKEY or not type}
_VALKEY[layouts.VALKEY_HASH_2] = HASH_2


def decoders(version: int) -> dict[int, Decoder]:
    """The decoders of all types of an RDB version. Values of modules have none."""
    return _VALKEY if version >= layouts.OLDEST_VALKEY_VERSION else _REDIS


def pieces(window: Window, type: int, version: int, piece_bytes: int) -> Decodes:
    """Decode the value at the window's place, in lists of elements of about `piece_bytes` each.

    Yields None where it needs more bytes. Raises RdbError. The type must have a decoder.
    """
    piece = Piece(piece_bytes)
    yield from decoders(version)[type](window, piece)
    if piece.elements:
        yield piece.cut()


@attrs.frozen
class Decoded:
    """A value: its kind, and its elements, which are decoded as they are taken (see `elements`)."""

    kind: Kind
    elements: Iterator[Element]


def decode(type: int, body: bytes, version: int, *, max_value_bytes: int = MAX_VALUE_BYTES) -> Decoded:
    """The elements of a value.

    `type` is the RDB type byte, `body` the value's bytes as in an RDB, `version` the RDB version they were written for
    (80 and more is Valkey's). A module's value has no elements. Raises RdbError for an unknown type; the iterator
    raises it where the bytes are damaged, with the offset within `body`.
    """
    window = Window(max_value_bytes, body)
    if type == layouts.MODULE_2:
        return Decoded("module", iter(()))
    if type not in decoders(version):
        raise window.error(f"an unknown type {type}", why=f"it is none of RDB version {version}")
    return Decoded(layouts.KINDS[type], _elements(window, type, version))


def decode_payload(payload: bytes) -> Decoded:
    """The elements of what DUMP replied. The checksum is not looked at. Raises RdbError."""
    window = Window(MAX_VALUE_BYTES, payload)
    if len(payload) <= _FOOTER_BYTES:
        raise window.error("no payload", why=f"it has {len(payload)} bytes")
    version = int.from_bytes(payload[-_FOOTER_BYTES : 2 - _FOOTER_BYTES], "little")
    start = 0
    if payload[0] == _KEY_META:
        window.pos = 1
        for _ in layouts.key_metadata(window):
            raise window.error("a payload that breaks off")
        start = window.pos
    return decode(payload[start], payload[start + 1 : -_FOOTER_BYTES], version)


def _elements(window: Window, type: int, version: int) -> Iterator[Element]:
    for elements in pieces(window, type, version, _AT_ONCE):
        if elements is None:
            raise _ends_early(window)
        yield from elements
    if window.pos != len(window.data):
        raise _ends_early(window) if window.pos > len(window.data) else window.error("a value with bytes after its end")


def _ends_early(window: Window) -> RdbError:
    return window.error("a value that breaks off", why=f"it has {len(window.data)} bytes")
