"""From the bytes of a snapshot to the commands that put its keys at the target.

Keys are put so that a repetition does no harm: whatever the target holds is replaced.
"""

from collections.abc import Iterator

import attrs

from bisync.core.commands import put_off
from bisync.core.link import Part
from bisync.core.pair import CopiedKey
from bisync.core.rdb import Function, Item, RdbReader, String, Value
from bisync.core.resp import pack
from bisync.core.rules import Rules


@attrs.define
class SnapshotKeys:
    """Makes the copied keys of RDB bytes, and remembers which keys there were if asked to."""

    rules: Rules
    remember: bool  # needed only where the target held keys before: those the snapshot lacks are stale
    bytes_done: int = 0
    seen: set[tuple[int, bytes]] = attrs.field(factory=set)
    _reader: RdbReader = attrs.field(factory=RdbReader)

    def feed(self, data: bytes, now_ms: int) -> list[CopiedKey]:
        """The keys that these bytes complete and that are in scope. Raises RdbError."""
        self.bytes_done += len(data)
        return [key for item in self._reader.feed(data) for key in self.copied(item, now_ms)]

    def close(self) -> None:
        """All bytes were fed. Raises RdbError where the RDB is not whole."""
        self._reader.close()

    def copied(self, item: Item, now_ms: int) -> Iterator[CopiedKey]:
        """The key that an item of a snapshot is, if it is one and in scope."""
        match item:
            case Function():
                if self.rules.actions.get("function", "pass") == "pass":
                    yield CopiedKey(0, None, [(0, pack(b"FUNCTION", b"LOAD", b"REPLACE", item.payload))])
            case Value() | String():
                if self.rules.scope.holds(item.database, item.key):
                    if self.remember:
                        self.seen.add((item.database, item.key))
                    database = self.rules.database_at(self.rules.target, item.database)
                    mortal = item.expires_at_ms is not None
                    yield CopiedKey(item.database, item.key, [put(item, database, now_ms)], mortal=mortal)

    def stale(self, database: int, key: bytes) -> CopiedKey | None:
        """The removal of a key that the target has (database as the source numbers it) and the snapshot has not."""
        if (database, key) in self.seen or not self.rules.scope.holds(database, key):
            return None
        parts = [(self.rules.database_at(self.rules.target, database), pack(b"unlink", key))]
        return CopiedKey(database, key, parts, stale=True)


def put(item: Value | String, database: int, now_ms: int) -> Part:
    """The command that makes a key what it was in the snapshot, whatever the target holds."""
    args: tuple[bytes, ...]
    expiry = b"%d" % (item.expires_at_ms or 0)
    if isinstance(item, Value):
        args = (b"RESTORE", item.key, expiry, item.payload, b"REPLACE", b"ABSTTL")
    elif item.expires_at_ms is None:
        args = (b"SET", item.key, item.value)
    else:
        args = (b"SET", item.key, item.value, b"PXAT", expiry)
    return database, pack(*put_off(args, now_ms))
