"""The streaming RDB reader of the full copy: bytes of a snapshot in, in pieces of any size, items out.

A value is not decoded. The reader only walks it to find its end, and passes its bytes on as a RESTORE payload, the
way `DUMP` makes them. Strings are the exception: they come decoded, as SET is faster than RESTORE. Memory holds one
value at a time.

Source of the format: Redis 7.0 `src/rdb.c` and `src/rdb.h`; for the hashes with field expiry Redis 7.4's.
"""

from bisync.core.rdb.items import Aux, DatabaseSize, End, Function, Item, String, Value
from bisync.core.rdb.payload import dump_payload
from bisync.core.rdb.reader import NEWEST_VERSION, OLDEST_VERSION, RdbReader
from bisync.core.rdb.window import MAX_VALUE_BYTES

__all__ = [
    "MAX_VALUE_BYTES",
    "NEWEST_VERSION",
    "OLDEST_VERSION",
    "Aux",
    "DatabaseSize",
    "End",
    "Function",
    "Item",
    "RdbReader",
    "String",
    "Value",
    "dump_payload",
]
