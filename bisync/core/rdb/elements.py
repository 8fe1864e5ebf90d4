"""What a value consists of, decoded: the elements of each kind of value, and how they are handed out in pieces.

| kind | elements |
|---|---|
| string | its bytes, cut anywhere: joined they are the value |
| list | items, from head to tail |
| set | members |
| hash | (field, value, Unix time in ms at which the field expires, or None) |
| zset | (member, score) |
| stream | see below |
| array | `ArrayState`, then (index, value) |
| module | none: only RESTORE can write it |

A stream has its entries, then its `StreamState`, then for each group `StreamGroup` and its `StreamConsumer`s, each
followed by the `StreamPending`s that it owns; after the last consumer come those that nobody owns. At last, from Redis
8.6 on, `StreamIdempotence` and its `StreamRecord`s.
"""

from collections.abc import Generator
from typing import Final, Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["string", "list", "set", "hash", "zset", "stream", "array", "module"]

StreamId: TypeAlias = tuple[int, int]  # Unix time in ms, sequence number
HashField: TypeAlias = tuple[bytes, bytes, int | None]
ScoredMember: TypeAlias = tuple[bytes, float]

ELEMENT_BYTES: Final = 64  # what an element costs besides its bytes, roughly, here and at the target


class StreamEntry(NamedTuple):
    """An entry that is not deleted."""

    id: StreamId
    fields: tuple[bytes, ...]  # fields and values by turns


class StreamState(NamedTuple):
    """What a stream knows about itself. None: the server was too old to write it (before 7.0)."""

    entries: int  # number of entries that are not deleted
    last_id: StreamId  # the greatest ever added
    first_id: StreamId | None  # 0-0 where it is empty
    max_deleted_id: StreamId | None
    entries_added: int | None  # ever


class StreamGroup(NamedTuple):
    """A consumer group. What follows belongs to it, up to the next group."""

    name: bytes
    last_id: StreamId  # the last one delivered
    entries_read: int | None  # None: not known


class StreamConsumer(NamedTuple):
    """A consumer of the group before. The entries that follow are pending for it, up to the next consumer."""

    name: bytes
    seen_ms: int  # Unix time of its last attempt to read
    active_ms: int | None  # Unix time of its last success, -1 for never; None: not written (before 7.2)


class StreamPending(NamedTuple):
    """An entry that was delivered and not acknowledged."""

    id: StreamId
    delivered_ms: int  # Unix time of the last delivery
    deliveries: int
    owned: bool  # by the consumer before; False: given back by XNACK, so that it waits for the next one (Redis 8.8)


class StreamIdempotence(NamedTuple):
    """How XADD recognises repetitions (Redis 8.6 and newer), as XCFGSET takes it. `StreamRecord`s follow."""

    duration_s: int
    max_entries: int  # of a producer


class StreamRecord(NamedTuple):
    """What a producer has added under an idempotence id, as XIDMPRECORD takes it."""

    producer: bytes
    idempotence_id: bytes
    id: StreamId


class ArrayState(NamedTuple):
    """What an array knows about itself (Redis 8.8 and newer)."""

    elements: int
    last_insert: int | None  # the index of the last insertion; ARSEEK takes the one after it


Element: TypeAlias = (
    bytes
    | HashField
    | ScoredMember
    | tuple[int, bytes]
    | StreamEntry
    | StreamState
    | StreamGroup
    | StreamConsumer
    | StreamPending
    | StreamIdempotence
    | StreamRecord
    | ArrayState
)

Decodes: TypeAlias = Generator[list[Element] | None, None, None]
"""A walk through a value: yields a list of elements when there is one, None when it needs more bytes."""


class Piece:
    """Elements that are decoded and not handed out yet, up to about `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0  # bytes of the elements, with what each costs besides
        self.elements: list[Element] = []

    def add(self, element: Element, size: int) -> None:
        """Add an element that holds `size` bytes."""
        self.elements.append(element)
        self.size += size + ELEMENT_BYTES

    def cut(self) -> list[Element]:
        """Take out what there is."""
        elements, self.elements, self.size = self.elements, [], 0
        return elements
