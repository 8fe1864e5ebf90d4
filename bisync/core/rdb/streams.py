"""Decoders of streams: their entries, groups, consumers and what is pending.

Source: `rdbLoadObject` and `rdbSaveStreamPEL` in Redis `src/rdb.c`, and `streamAppendItem` in `src/t_stream.c` for the
layout of a node's listpack.
"""

import bisect
import struct
from array import array
from collections.abc import Callable, Iterator
from typing import Final

from bisync.core.rdb.elements import (
    Decodes,
    Piece,
    StreamConsumer,
    StreamEntry,
    StreamGroup,
    StreamId,
    StreamIdempotence,
    StreamPending,
    StreamRecord,
    StreamState,
)
from bisync.core.rdb.packs import Listpack
from bisync.core.rdb.window import Waits, Window

ID_BYTES: Final = 16
_TIME_BYTES: Final = 8
_IDS_AT_ONCE: Final = 512
_DELETED, _SAME_FIELDS = 1, 2  # flags of an entry
_MASK = 2**64 - 1

_id = struct.Struct(">QQ").unpack_from
_signed = struct.Struct("<q").unpack_from


def stream(version: int) -> Callable[[Window, Piece], Decodes]:
    """The decoder of a stream's layout: 1 to 3, 4 with idempotence (Redis 8.6), 5 with entries given back (8.8)."""

    def walk(window: Window, piece: Piece) -> Decodes:
        nodes = yield from window.length()
        for _ in range(nodes):
            yield from _node(window, piece)
        piece.add((yield from _state(window, version)), 64)
        groups = yield from window.length()
        for _ in range(groups):
            yield from _group(window, piece, version)
        if version >= 4:
            yield from _idempotence(window, piece)

    return walk


def _node(window: Window, piece: Piece) -> Decodes:
    master = yield from window.string()
    packed = yield from window.string()
    try:
        if len(master) != ID_BYTES:
            raise ValueError(f"the id of a node has {len(master)} bytes")
        for entry in _entries(_id(master), Listpack(packed).take(len(packed))):
            piece.add(entry, sum(map(len, entry.fields)))
            if piece.size >= piece.limit:
                yield piece.cut()
    except IndexError:
        raise window.error("a damaged stream", why="a node ends within an entry") from None
    except ValueError as e:
        raise window.error("a damaged stream", why=str(e)) from None


def _entries(master: StreamId, elements: list[bytes]) -> Iterator[StreamEntry]:
    """The entries of a node that are not deleted, from the elements of its listpack.

    It begins with the number of entries, of deleted ones, and the field names that most entries share. An entry is
    its flags, its id less the node's, its fields unless they are the shared ones, its values, and a count.
    """
    shared = int(elements[2])
    if shared < 0 or 4 + shared > len(elements):
        raise ValueError(f"a node with {shared} shared fields")
    names = elements[3 : 3 + shared]
    at = 4 + shared  # after a zero
    while at < len(elements):
        flags = int(elements[at])
        id = (master[0] + int(elements[at + 1])) & _MASK, (master[1] + int(elements[at + 2])) & _MASK
        at += 3
        if flags & _SAME_FIELDS:
            count = shared
            end = at + count
            fields = tuple(x for pair in zip(names, elements[at:end]) for x in pair)
        else:
            count = int(elements[at])
            at += 1
            end = at + 2 * count
            fields = tuple(elements[at:end])
        if count < 0 or end >= len(elements):
            raise ValueError(f"an entry with {count} fields reaches beyond the end of its node")
        at = end + 1
        if not flags & _DELETED:
            yield StreamEntry(id, fields)


def _id_of_lengths(window: Window) -> Waits[StreamId]:
    ms = yield from window.length()
    return ms, (yield from window.length())


def _state(window: Window, version: int) -> Waits[StreamState]:
    entries = yield from window.length()
    last = yield from _id_of_lengths(window)
    if version < 2:
        return StreamState(entries, last, None, None, None)
    first = yield from _id_of_lengths(window)
    deleted = yield from _id_of_lengths(window)
    return StreamState(entries, last, first, deleted, (yield from window.length()))


def _time(window: Window) -> Waits[int]:
    [ms] = _signed((yield from window.take(_TIME_BYTES)))
    return int(ms)


class _Pending:
    """All that is pending in a group, in the order of ids: 32 bytes for each, as there may be millions."""

    def __init__(self) -> None:
        self.ids = bytearray()
        self.delivered, self.deliveries = array("q"), array("Q")

    def read(self, window: Window) -> Waits[None]:
        """Read it from the group. Raises RdbError where the ids do not ascend."""
        count = yield from window.length()
        last = b""
        for _ in range(count):
            id = yield from window.take(ID_BYTES)
            if id <= last:
                raise window.error("a damaged stream", why="the ids of pending entries do not ascend")
            last = id
            self.ids += id
            self.delivered.append((yield from _time(window)))
            self.deliveries.append((yield from window.length()))

    def entry(self, id: bytes, owned: bool) -> StreamPending:
        """One of them. Raises ValueError where there is none of this id."""
        ids = self.ids
        at = bisect.bisect_left(
            range(len(self.delivered)), id, key=lambda n: bytes(ids[n * ID_BYTES : (n + 1) * ID_BYTES])
        )
        if ids[at * ID_BYTES : (at + 1) * ID_BYTES] != id:
            raise ValueError("an entry is pending for a consumer and not for its group")
        return StreamPending(_id(id), self.delivered[at], self.deliveries[at], owned)


def _group(window: Window, piece: Piece, version: int) -> Decodes:
    name = yield from window.string()
    last = yield from _id_of_lengths(window)
    read = (yield from window.length()) if version >= 2 else _MASK
    piece.add(StreamGroup(name, last, None if read == _MASK else read), len(name))
    pending = _Pending()
    yield from pending.read(window)
    consumers = yield from window.length()
    for _ in range(consumers):
        name = yield from window.string()
        seen = yield from _time(window)
        active = (yield from _time(window)) if version >= 3 else None
        piece.add(StreamConsumer(name, seen, active), len(name))
        yield from _owned(window, piece, pending, owned=True)
    if version >= 5:
        yield from _owned(window, piece, pending, owned=False)


def _owned(window: Window, piece: Piece, pending: _Pending, owned: bool) -> Decodes:
    """The entries whose ids come next."""
    left = yield from window.length()
    while left:
        count = min(left, _IDS_AT_ONCE)
        ids = yield from window.take(count * ID_BYTES)
        left -= count
        try:
            for at in range(0, len(ids), ID_BYTES):
                piece.add(pending.entry(ids[at : at + ID_BYTES], owned), 32)
        except ValueError as e:
            raise window.error("a damaged stream", why=str(e)) from None
        if piece.size >= piece.limit:
            yield piece.cut()


def _idempotence(window: Window, piece: Piece) -> Decodes:
    duration = yield from window.length()
    piece.add(StreamIdempotence(duration, (yield from window.length())), 16)
    producers = yield from window.length()
    for _ in range(producers):
        producer = yield from window.string()
        count = yield from window.length()
        for _ in range(count):
            id = yield from window.string()
            piece.add(StreamRecord(producer, id, (yield from _id_of_lengths(window))), len(id))
            if piece.size >= piece.limit:
                yield piece.cut()
    yield from window.lengths(2)  # how many ids and repetitions there ever were: no command can set them
