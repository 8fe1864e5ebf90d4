"""What a simulated server holds: databases of typed values with expiries, and who watches them.

Everything keeps the order in which it was put in, so that a run can be repeated exactly (Python's own `set` of bytes
has another order in each process). Source: `db.c` and `multi.c`, Redis 7.0.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

DATABASES = 16
"""How many databases a server has by default."""


class HashValue(dict[bytes, bytes]):
    """A hash: its fields and their values."""


class SetValue(dict[bytes, None]):
    """A set: its members are the keys."""

    @classmethod
    def of(cls, members: Iterable[bytes]) -> "SetValue":
        """A set of these members."""
        return cls((member, None) for member in members)


class SortedSetValue(dict[bytes, float]):
    """A sorted set: its members and their scores."""

    def ordered(self) -> list[bytes]:
        """The members by score, and by name where scores are equal."""
        return sorted(self, key=lambda member: (self[member], member))


Value: TypeAlias = bytes | list[bytes] | SetValue | HashValue | SortedSetValue
"""A string, a list, a set, a hash or a sorted set."""

TYPE_NAMES: dict[type, str] = {
    bytes: "string",
    list: "list",
    SetValue: "set",
    HashValue: "hash",
    SortedSetValue: "zset",
}
"""What TYPE answers."""


def canonical(value: Value) -> object:
    """A value to compare with: bytes, tuple, frozenset, dict of bytes, dict of floats."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        return tuple(value)
    return frozenset(value) if isinstance(value, SetValue) else dict(value)


class Watcher:
    """A connection that may watch keys. `touched`: one of them has changed, so its EXEC must do nothing."""

    def __init__(self) -> None:
        self.touched = False
        self._watched: dict[tuple[int, bytes], "_Watch"] = {}

    def watch(self, data: "Dataset", database: "Database", key: bytes) -> None:
        """From now on, a change of this key touches the watcher."""
        if (database.number, key) not in self._watched:
            watch = _Watch(self, data.is_expired(database, key))
            self._watched[database.number, key] = watch
            database.watches.setdefault(key, []).append(watch)

    def unwatch(self, data: "Dataset") -> None:
        """Watch nothing any more, and forget what was touched."""
        for (number, key), watch in self._watched.items():
            watches = data.databases[number].watches
            watches[key].remove(watch)
            if not watches[key]:
                del watches[key]
        self._watched.clear()
        self.touched = False

    def saw_expiry(self, data: "Dataset") -> bool:
        """Has a watched key, present when the watch began, reached its expiry since, though it is still there?"""
        return any(
            not watch.expired and data.is_expired(data.databases[number], key)
            for (number, key), watch in self._watched.items()
        )


class _Watch:
    """One key watched by one connection. `expired`: it had expired when the watch began, but was still there."""

    __slots__ = ("expired", "owner")

    def __init__(self, owner: Watcher, expired: bool) -> None:
        self.owner, self.expired = owner, expired


class Database:
    """One numbered database. `expires` holds Unix times in milliseconds."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.values: dict[bytes, Value] = {}
        self.expires: dict[bytes, int] = {}
        self.watches: dict[bytes, list[_Watch]] = {}

    def remove(self, key: bytes) -> bool:
        """Take a key out with its expiry. Was it there?"""
        self.expires.pop(key, None)
        return self.values.pop(key, None) is not None


class Dataset:
    """The databases of a server, its clock, and the effects that are not in the replication stream yet."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms  # Unix time
        self.databases = [Database(n) for n in range(DATABASES)]
        self.effects: list[tuple[int, Sequence[bytes]]] = []  # (database, command), to be propagated as one

    def __iter__(self) -> Iterator[tuple[Database, bytes, Value]]:
        """Every key, expired ones included, by database and in order of insertion."""
        for database in self.databases:
            for key, value in database.values.items():
                yield database, key, value

    def is_expired(self, database: Database, key: bytes) -> bool:
        """Has the key reached its expiry? A server keeps such a key until somebody asks for it."""
        expires_at_ms = database.expires.get(key)
        return expires_at_ms is not None and self.now_ms > expires_at_ms

    def get(self, database: Database, key: bytes) -> Value | None:
        """The value of a key; one that has expired is deleted now, and that is propagated."""
        if key in database.expires and self.is_expired(database, key):
            self.expire(database, key)
            return None
        return database.values.get(key)

    def expire(self, database: Database, key: bytes) -> None:
        """Delete a key whose time has come, and propagate that."""
        database.remove(key)
        self.touch(database, key)
        self.effects.append((database.number, (b"DEL", key)))

    def touch(self, database: Database, key: bytes) -> None:
        """Tell those who watch the key that it has changed (`touchWatchedKey`)."""
        for watch in database.watches.get(key, ()):
            if watch.expired and key not in database.values:
                watch.expired = False  # it counted as absent before, and is absent now: no change
            else:
                watch.owner.touched = True

    def flush(self, databases: Sequence[Database]) -> None:
        """Empty these databases."""
        for database in databases:
            self._touch_all(database, None)
            database.values.clear()
            database.expires.clear()

    def swap(self, one: Database, other: Database) -> None:
        """Exchange the contents of two databases. Watches stay with the numbers."""
        if one is other:
            return
        self._touch_all(one, other)
        self._touch_all(other, one)
        one.values, other.values = other.values, one.values
        one.expires, other.expires = other.expires, one.expires

    def _touch_all(self, emptied: Database, replacing: Database | None) -> None:
        """Touch what a flush or a swap changes (`touchAllWatchedKeysInDb`)."""
        for key, watches in emptied.watches.items():
            held, comes = (key in emptied.values, replacing is not None and key in replacing.values)
            if not held and not comes:
                continue
            expired = replacing is not None and self.is_expired(replacing, key)
            for watch in watches:
                if watch.expired and not comes:
                    watch.expired = False
                elif not watch.expired and not held and expired:
                    watch.expired = True
                elif not (watch.expired and expired):
                    watch.owner.touched = True

    def copy_of(self, value: Value) -> Value:
        """A value that shares nothing with this one."""
        return copy.copy(value)
