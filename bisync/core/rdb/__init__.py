"""The streaming RDB reader of the full copy: bytes of a snapshot in, in pieces of any size, items out.

A value is passed on undecoded where that is possible. The reader only walks it to find its end, and makes a RESTORE
payload of its bytes, the way `DUMP` does. Plain strings come as they are, as SET is faster than RESTORE. Values that
are too big to be kept, or of a type that the target does not know, come decoded and in pieces, so that they can be
written by many commands. Memory holds one value, or one piece of one, at a time.

Where to look: `reader` goes through the file, `small` is its short way for small keys, `layouts` finds the end of a
value, `values` and `streams` decode, `packs` opens ziplists and their like, `window` and `encoding` are the bytes.

Source of the format: `src/rdb.c` and `src/rdb.h` of Redis 2.8 to 8.10 and Valkey 9.
"""

from bisync.core.rdb.decode import Decoded, decode, decode_payload
from bisync.core.rdb.elements import (
    ArrayState,
    Element,
    Kind,
    StreamConsumer,
    StreamEntry,
    StreamGroup,
    StreamIdempotence,
    StreamPending,
    StreamRecord,
    StreamState,
)
from bisync.core.rdb.items import (
    Aux,
    DatabaseSize,
    End,
    Function,
    Item,
    String,
    Value,
    ValueBegins,
    ValueEnds,
    ValuePiece,
)
from bisync.core.rdb.payload import dump_payload
from bisync.core.rdb.reader import NEWEST_VALKEY_VERSION, NEWEST_VERSION, OLDEST_VERSION, RdbReader
from bisync.core.rdb.window import MAX_VALUE_BYTES

__all__ = [
    "MAX_VALUE_BYTES",
    "NEWEST_VALKEY_VERSION",
    "NEWEST_VERSION",
    "OLDEST_VERSION",
    "ArrayState",
    "Aux",
    "DatabaseSize",
    "Decoded",
    "Element",
    "End",
    "Function",
    "Item",
    "Kind",
    "RdbReader",
    "StreamConsumer",
    "StreamEntry",
    "StreamGroup",
    "StreamIdempotence",
    "StreamPending",
    "StreamRecord",
    "StreamState",
    "String",
    "Value",
    "ValueBegins",
    "ValueEnds",
    "ValuePiece",
    "decode",
    "decode_payload",
    "dump_payload",
]
