"""RESP, the wire format of commands.

Source: Redis documentation, "Redis serialization protocol specification". A replication stream holds only arrays of
bulk strings, always written in the shortest form (`replication.c`, `replicationFeedSlaves`).
"""

from collections.abc import Sequence

from hiredis import pack_command

_FORMS = [b"*%d\r\n" % n + b"$%d\r\n%b\r\n" * n for n in range(5)]
"""By the number of words: the form of a command. Filled in it is made twice as fast as by `pack_command`."""


def pack(*args: bytes | int) -> bytes:
    """One command as an array of bulk strings."""
    return bytes(pack_command(args))  # type: ignore[arg-type]  # its stub says a tuple of one word


def pack_words(words: Sequence[bytes]) -> bytes:
    """The same of words that are all bytes, and fast where they are few. Raises TypeError where they are no words."""
    match words:
        case (a, b):
            return _FORMS[2] % (len(a), a, len(b), b)
        case (a, b, c):
            return _FORMS[3] % (len(a), a, len(b), b, len(c), c)
        case (a, b, c, d):
            return _FORMS[4] % (len(a), a, len(b), b, len(c), c, len(d), d)
    return pack(*words)


MULTI = pack(b"MULTI")
EXEC = pack(b"EXEC")


def select(database: int) -> bytes:
    """`SELECT database`, packed."""
    return pack(b"SELECT", database)
