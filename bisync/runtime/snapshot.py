"""The full copy: the RDB goes to a spool file as fast as the source sends, and from there to the target.

A slow reader would make the source drop us (its output buffer grows with every write meanwhile), so the two ends are
apart. The spool file is removed as soon as it is read, or left for the next engine to remove.
"""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import AsyncIterator, Iterator

import attrs
import trio

from bisync.core.link import Part
from bisync.core.pair import CopiedKey
from bisync.core.rdb import DatabaseSize, Function, Item, RdbReader, String, Value
from bisync.core.resp import pack
from bisync.core.rules import Rules
from bisync.errors import BisyncError

PIECE_BYTES = 1 << 18


class Spool:
    """A file that one task writes while another one reads it."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._size, self._complete = 0, False
        self._grown = trio.Event()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for old in folder.glob("snapshot-*.rdb"):
                with contextlib.suppress(OSError):
                    old.unlink()
            handle, name = tempfile.mkstemp(prefix="snapshot-", suffix=".rdb", dir=folder)
        except OSError as e:
            raise _full(folder, e) from None
        self._path, self._file = pathlib.Path(name), open(handle, "wb", buffering=0)

    def write(self, data: bytes) -> None:
        """Add bytes; none mark the end. Raises BisyncError when the disk is full."""
        if not data:
            self._complete = True
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._file.fileno(), view) :]
        except OSError as e:
            raise _full(self._path.parent, e) from None
        self._size += len(data)
        self._wake()

    def _wake(self) -> None:
        self._grown.set()
        self._grown = trio.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The bytes, as they come."""
        with open(self._path, "rb") as file:
            done = 0
            while done < self._size or not self._complete:
                data = file.read(min(PIECE_BYTES, self._size - done))
                if data:
                    done += len(data)
                    yield data
                else:
                    await self._grown.wait()

    def close(self) -> None:
        """Remove the file."""
        self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink()


def _full(folder: pathlib.Path, error: OSError) -> BisyncError:
    return BisyncError(
        f"the snapshot cannot be spooled to {folder}",
        why=error.strerror or str(error),
        hint="make room there (as much as the source's RDB needs), or put the store on another disk (store = ...)",
    )


@attrs.define
class SnapshotKeys:
    """Makes the copied keys of RDB bytes, and remembers which keys there were if asked to."""

    rules: Rules
    remember: bool  # needed only where the target held keys before: those the snapshot lacks are stale
    now_ms: int
    bytes_done: int = 0
    keys_total: int = 0
    seen: set[tuple[int, bytes]] = attrs.field(factory=set)
    _reader: RdbReader = attrs.field(factory=RdbReader)

    def feed(self, data: bytes) -> list[CopiedKey]:
        """The keys that these bytes complete and that are in scope. Raises RdbError."""
        self.bytes_done += len(data)
        return [key for item in self._reader.feed(data) for key in self._copied(item)]

    def close(self) -> None:
        """All bytes were fed. Raises RdbError where the RDB is not whole."""
        self._reader.close()

    def _copied(self, item: Item) -> Iterator[CopiedKey]:
        match item:
            case DatabaseSize():
                self.keys_total += item.keys
            case Function():
                if self.rules.actions.get("function", "pass") == "pass":
                    yield CopiedKey(0, None, [(0, pack(b"FUNCTION", b"LOAD", b"REPLACE", item.payload))])
            case Value() | String():
                if self.rules.scope.holds(item.database, item.key):
                    if self.remember:
                        self.seen.add((item.database, item.key))
                    database = self.rules.database_at(self.rules.target, item.database)
                    yield CopiedKey(item.database, item.key, [put(item, database)])

    def stale(self, database: int, key: bytes) -> CopiedKey | None:
        """The removal of a key that the target has (database as the source numbers it) and the snapshot has not."""
        if (database, key) in self.seen or not self.rules.scope.holds(database, key):
            return None
        return CopiedKey(database, key, [(self.rules.database_at(self.rules.target, database), pack(b"UNLINK", key))])


def put(item: Value | String, database: int) -> Part:
    """The command that makes a key what it was in the snapshot, whatever the target holds."""
    expires_at_ms = item.expires_at_ms
    if isinstance(item, String):
        if expires_at_ms is None:
            return database, pack(b"SET", item.key, item.value)
        return database, pack(b"SET", item.key, item.value, b"PXAT", expires_at_ms)
    return database, pack(b"RESTORE", item.key, expires_at_ms or 0, item.payload, b"REPLACE", b"ABSTTL")
