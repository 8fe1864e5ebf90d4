"""RESP, the wire format of commands.

Source: Redis documentation, "Redis serialization protocol specification". A replication stream holds only arrays of
bulk strings, always written in the shortest form (`replication.c`, `replicationFeedSlaves`).
"""

from hiredis import pack_command


def pack(*args: bytes | int) -> bytes:
    """One command as an array of bulk strings."""
    return bytes(pack_command(args))  # type: ignore[arg-type]  # its stub says a tuple of one word


MULTI = pack(b"MULTI")
EXEC = pack(b"EXEC")


def select(database: int) -> bytes:
    """`SELECT database`, packed."""
    return pack(b"SELECT", database)
