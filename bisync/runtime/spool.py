"""The full copy: the RDB goes to a spool file as fast as the source sends, and from there to the target.

A slow reader would make the source drop us (its output buffer grows with every write meanwhile), so the two ends are
apart. The spool file is removed as soon as it is read, or left for the next engine to remove.
"""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import AsyncGenerator

import trio

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
        self._path, self._file = pathlib.Path(name), open(handle, "r+b", buffering=0)

    def write(self, data: bytes) -> None:
        """Add bytes; none mark the end. After `close` they are dropped. Raises BisyncError when the disk is full."""
        if self._file.closed:
            return  # the life that wanted them is over, and the reader of the stream is not told before the next one
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

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes, as they come."""
        done = 0  # read by the same handle: another engine of the job may have removed the name
        while done < self._size or not self._complete:
            data = os.pread(self._file.fileno(), min(PIECE_BYTES, self._size - done), done)
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
