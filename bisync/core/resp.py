"""RESP, the wire format of commands: packing them, and knowing how long a packed one is.

Source: Redis documentation, "Redis serialization protocol specification". A replication stream holds only arrays of
bulk strings, always written in the shortest form (`replication.c`, `replicationFeedSlaves`).
"""

from collections.abc import Sequence

from hiredis import pack_command

_FRAMED_MAX = 1024
_FRAMED = [len(b"$%d\r\n" % n) + n + 2 for n in range(_FRAMED_MAX)]  # a table, as this is done for each argument


def pack(*args: bytes | int) -> bytes:
    """One command as an array of bulk strings."""
    return bytes(pack_command(args))  # type: ignore[arg-type]  # its stub says a tuple of one word


def packed_length(args: Sequence[bytes]) -> int:
    """How many bytes `pack(*args)` has, without packing."""
    length = len(b"*%d\r\n" % len(args))
    for arg in args:
        n = len(arg)
        length += _FRAMED[n] if n < _FRAMED_MAX else len(b"$%d\r\n" % n) + n + 2
    return length


MULTI = pack(b"MULTI")
EXEC = pack(b"EXEC")


def select(database: int) -> bytes:
    """`SELECT database`, packed."""
    return pack(b"SELECT", database)
