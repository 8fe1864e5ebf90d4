"""The spool: the snapshot of a full copy, taken as fast as the source sends it, and read from there.

A slow reader would make the source drop us (its output buffer grows with every write meanwhile), so the two ends are
apart. A small snapshot stays in memory. One that is larger goes to disk, in segments; a whole one is kept there until
the copy is finished, so that an engine which is started again needs no second snapshot. At its bound, what was read
already is removed first; then it is an error, before the disk is full.
"""

import contextlib
import json
import os
import pathlib
import secrets
from collections.abc import AsyncGenerator, Iterator

import attrs
import trio

from bisync.core.position import Clock, Position
from bisync.errors import BisyncError
from bisync.runtime.journal import boot_id

PIECE_BYTES = 1 << 18
SEGMENT_BYTES = 64 << 20
MEMORY_BYTES = 8 << 20
RESERVE_BYTES = 64 << 20
"""So much of the disk is left to others, of a small one its 20th part."""
RESERVE_PART = 20

SEGMENTS, MANIFEST = "snapshot-{}-{:06}.rdb", "snapshot.json"


@attrs.frozen
class Snapshot:
    """Where a snapshot stands in the source's stream."""

    position: Position
    seen: Clock  # the newest write of the target that is in it


@attrs.define
class Segment:
    """One file: the bytes of the snapshot from `start` on."""

    path: pathlib.Path
    start: int
    size: int = 0
    handle: int = -1

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.start + self.size


class Spool:
    """A snapshot that one task writes while another one reads it. Raises BisyncError where there is no room for it."""

    def __init__(
        self,
        folder: pathlib.Path,
        *,
        limit_bytes: int = 0,
        memory_bytes: int = MEMORY_BYTES,
        segment_bytes: int = SEGMENT_BYTES,
        reserve_bytes: int = RESERVE_BYTES,
    ) -> None:
        """`limit_bytes`: most bytes on disk at a time; 0: as many as the disk has, but for `reserve_bytes`."""
        self._folder, self._limit, self._reserve = folder, limit_bytes, reserve_bytes
        self._memory_bytes, self._segment_bytes = memory_bytes, segment_bytes
        self._memory: list[bytes] | None = []  # None: it has gone to disk
        self._segments: list[Segment] = []
        self._name = secrets.token_hex(4)  # an engine that was overtaken may still write its own
        self._size = self._done = 0  # bytes written and read
        self._complete = self._closed = False
        self._lacks = False  # were segments removed already?
        self._grown = trio.Event()
        self.snapshot: Snapshot | None = None  # where it stands, once that is known
        remove_all(folder)

    @property
    def whole_so_far(self) -> bool:
        """Can it be read from its first byte on, and is it known where it stands?"""
        return self.snapshot is not None and not self._lacks and not self._closed

    def __repr__(self) -> str:
        return f"<Spool {self._size} bytes, {self._done} read, {len(self._segments)} segments>"

    @classmethod
    def left(cls, folder: pathlib.Path, *, limit_bytes: int = 0) -> "Spool | None":
        """The whole snapshot that an earlier engine left; None where there is none that can be used."""
        try:
            kept = json.loads((folder / MANIFEST).read_text())
            if kept["bisync-snapshot"] != 1 or kept["boot"] != boot_id():
                return None
            segments = [Segment(folder / name, start, size) for name, start, size in kept["segments"]]
            if any(segment.path.stat().st_size != segment.size for segment in segments):
                return None
            spool = cls.__new__(cls)
            spool._folder, spool._limit, spool._reserve = folder, limit_bytes, 0
            spool._memory, spool._segments = None, segments
            for segment in segments:
                segment.handle = os.open(segment.path, os.O_RDONLY)
            spool._size, spool._done = segments[-1].end, 0
            spool._complete, spool._closed, spool._lacks, spool._grown = True, False, False, trio.Event()
            copy, phase, n = kept["seen"]
            spool.snapshot = Snapshot(Position.from_json(kept["position"]), (copy, phase, n))
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            return None
        return spool

    # -- writing
    def expect(self, size: int) -> None:
        """The source has announced so many bytes: is there room?"""
        if size > self._memory_bytes:
            self._check_room(size)

    def write(self, data: bytes) -> None:
        """Add bytes; none mark the end. After `close` they are dropped."""
        if self._closed:
            return  # the life that wanted them is over, and the reader of the stream is not told before the next one
        if not data:
            self._complete = True
            self._save()
        elif self._memory is not None and self._size + len(data) <= self._memory_bytes:
            self._memory.append(data)
        else:
            self._to_disk(data)
        self._size += len(data)
        self._wake()

    def _to_disk(self, data: bytes) -> None:
        held, self._memory = self._memory or [], None
        self._check_room(len(data))
        try:
            for some in (*held, data):
                self._append(some)
        except OSError as e:
            raise self._full(e.strerror or str(e)) from None

    def _append(self, data: bytes) -> None:
        if not self._segments:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self._segments or self._segments[-1].size >= self._segment_bytes:
            start = self._segments[-1].end if self._segments else 0
            path = self._folder / SEGMENTS.format(self._name, start // self._segment_bytes)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            self._segments.append(Segment(path, start, 0, handle))
        segment, view = self._segments[-1], memoryview(data)
        while view:
            written = os.write(segment.handle, view)
            segment.size += written
            view = view[written:]

    def _check_room(self, size: int) -> None:
        """Make room for so many bytes more, if need be by removing what was read. Raises where it is too little."""
        while size > self._room():
            first = self._segments[0] if len(self._segments) > 1 else None
            if first is None or first.end > self._done:
                raise self._full(f"it has {self._size} bytes so far, and there is room for {self._room()} more")
            self._lacks = True
            self._remove(self._segments.pop(0))

    def _room(self) -> int:
        held = sum(segment.size for segment in self._segments)
        room = self._limit - held if self._limit else 1 << 62
        folder = next(f for f in (self._folder, *self._folder.parents) if f.exists())
        try:
            disk = os.statvfs(folder)
        except OSError as e:
            raise self._full(e.strerror or str(e)) from None
        reserve = min(self._reserve, disk.f_blocks * disk.f_frsize // RESERVE_PART)
        return max(0, min(room, disk.f_bavail * disk.f_frsize - reserve))

    def _full(self, why: str) -> BisyncError:
        return BisyncError(
            f"the snapshot cannot be spooled to {self._folder}",
            why=why,
            hint="make room there (as much as the source's RDB needs), raise spool_bytes, or put the store on another "
            "disk (store = ...)",
        )

    # -- keeping
    def keep(self, snapshot: Snapshot) -> None:
        """Where it stands; with this a later engine can use it, once it is whole."""
        self.snapshot = snapshot
        self._save()

    def forget(self) -> None:
        """No later engine may use it."""
        self.snapshot = None
        forget(self._folder)

    def _save(self) -> None:
        if self.snapshot is None or not self._complete or self._lacks or not self._segments or self._closed:
            return
        segments = [(s.path.name, s.start, s.size) for s in self._segments]
        at, seen = self.snapshot.position.to_json(), self.snapshot.seen
        text = json.dumps({"bisync-snapshot": 1, "boot": boot_id(), "position": at, "seen": seen, "segments": segments})
        with contextlib.suppress(OSError):  # then another snapshot is taken, if it comes to that
            new = self._folder / f"{MANIFEST}.new"
            new.write_text(text)
            new.replace(self._folder / MANIFEST)

    # -- reading
    def _wake(self) -> None:
        self._grown.set()
        self._grown = trio.Event()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        """The bytes, from the first one, as they come. Raises BisyncError where the disk has them no more."""
        self._done = 0
        while self._done < self._size or not self._complete:
            data = self._read()
            if data:
                self._done += len(data)
                yield data
            else:
                await self._grown.wait()

    def _read(self) -> bytes:
        if self._memory is not None:
            return b"".join(_from(self._memory, self._done, PIECE_BYTES))
        segment = next((s for s in self._segments if s.start <= self._done < s.end), None)
        if segment is None:
            return b""
        # by its handle: another engine of the job may have removed the name
        size = min(PIECE_BYTES, segment.end - self._done)
        try:
            data, why = os.pread(segment.handle, size, self._done - segment.start), "something has cut the file"
        except OSError as e:
            data, why = b"", e.strerror or str(e)
        if not data:
            self.forget()
            what = f"the snapshot {segment.path} cannot be read"
            raise BisyncError(what, why=why, hint="start bisync again: it takes another snapshot")
        return data

    def close(self, *, keep: bool = False) -> None:
        """Be done with it. It is removed, unless it is to be kept for a later engine, and can be."""
        if self._closed:
            return
        keep = keep and self.snapshot is not None and self._complete and not self._lacks
        if not keep:
            self.forget()
        self._closed = True
        for segment in self._segments:
            if keep:
                os.close(segment.handle)
            else:
                self._remove(segment)
        self._segments, self._memory = [], None

    @staticmethod
    def _remove(segment: Segment) -> None:
        os.close(segment.handle)
        with contextlib.suppress(OSError):
            segment.path.unlink()


def forget(folder: pathlib.Path) -> None:
    """No engine may use the snapshot that is in this folder, if there is one."""
    with contextlib.suppress(OSError):
        (folder / MANIFEST).unlink(missing_ok=True)


def _from(pieces: list[bytes], at: int, size: int) -> Iterator[bytes]:
    """Some bytes from the offset `at` on; at least one, where there is one."""
    for piece in pieces:
        if at < len(piece) and size > 0:
            some = piece[at : at + size]
            size -= len(some)
            yield some
            at = 0
        else:
            at = max(0, at - len(piece))


def remove_all(folder: pathlib.Path) -> None:
    """Remove every snapshot that is in this folder."""
    for old in (*folder.glob("snapshot-*.rdb"), *folder.glob(f"{MANIFEST}*")):
        with contextlib.suppress(OSError):
            old.unlink()
