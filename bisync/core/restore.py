"""The commands that settle a unit: the fence that reads it, the restore that writes it, the note beside the data.

Whole keys go by DUMP and RESTORE with their time to live, elements by the commands of their type.
"""

import json
from collections.abc import Callable, Sequence

from bisync.core.arbitration import Unit
from bisync.core.link import Part
from bisync.core.resp import pack
from bisync.errors import BisyncError

Copy = Sequence[object]
"""What a fence's commands replied, in their order."""

_READS: dict[str, Callable[[bytes, bytes], bytes]] = {
    "hash": lambda key, name: pack(b"HGET", key, name),
    "set": lambda key, name: pack(b"SISMEMBER", key, name),
    "zset": lambda key, name: pack(b"ZSCORE", key, name),
    "ttl": lambda key, name: pack(b"PEXPIRETIME", key),
}


def fence(unit: Unit, database: int) -> list[Part]:
    """The reads that take a copy of a unit, at a site where its database has this number."""
    if unit.element is None:
        return [(database, pack(b"DUMP", unit.key)), (database, pack(b"PEXPIRETIME", unit.key))]
    kind, name = unit.element
    return [(database, _READS[kind](unit.key, name))]


def restore(unit: Unit, database: int, copy: Copy) -> list[Part]:
    """The write that makes a unit what the fence read."""
    return [(database, _restore(unit, copy))]


def _restore(unit: Unit, copy: Copy) -> bytes:
    value = copy[0]
    if unit.element is None:
        if value is None:
            return pack(b"UNLINK", unit.key)
        assert isinstance(value, bytes)
        expires_at_ms = copy[1] if isinstance(copy[1], int) and copy[1] > 0 else 0
        return pack(b"RESTORE", unit.key, expires_at_ms, value, b"REPLACE", b"ABSTTL")
    kind, name = unit.element
    if kind == "ttl":
        assert isinstance(value, int)
        return pack(b"PEXPIREAT", unit.key, value) if value > 0 else pack(b"PERSIST", unit.key)
    if kind == "set":
        return pack(b"SADD" if value else b"SREM", unit.key, name)
    if kind == "hash":
        return pack(b"HDEL", unit.key, name) if value is None else pack(b"HSET", unit.key, name, _bulk(value))
    return pack(b"ZREM", unit.key, name) if value is None else pack(b"ZADD", unit.key, _bulk(value), name)


def _bulk(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


def note_name(unit: Unit) -> bytes:
    """The field that names a unit in the hash of notes."""
    kind, name = unit.element or ("", b"")
    return json.dumps([unit.database, unit.key.decode("latin-1"), kind, name.decode("latin-1")]).encode()


def note(epoch: int, number: int, authority: str) -> bytes:
    """The value of a note: the round, and the site that alone has all writes of the unit."""
    return json.dumps([epoch, number, authority]).encode()


def read_note(name: bytes, value: bytes) -> tuple[Unit, tuple[int, int], str]:
    """The unit, the round (epoch, number) and the authority of a note. Raises BisyncError where it is none."""
    try:
        database, key, kind, element = json.loads(name)
        epoch, number, authority = json.loads(value)
        unit = Unit(int(database), key.encode("latin-1"), (kind, element.encode("latin-1")) if kind else None)
        return unit, (int(epoch), int(number)), str(authority)
    except (ValueError, TypeError, AttributeError) as e:
        raise BisyncError(
            f"the note {name[:60]!r} of an open arbitration cannot be read",
            why=type(e).__name__,
            hint="was the key bisync:<job>:open written by something else? Then delete that field",
        ) from None
