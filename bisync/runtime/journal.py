"""The journal: the bytes of one site's stream from its floor on, in memory and in segments on disk.

Everything that a server sends is written here before anything else is done with it, and read from here. That makes a
reconnect cheap, and it is what makes a server's restart survivable at all: measured, Redis 7.0, 8.0 and Valkey 8.1 keep
their replication history over a clean restart only for a reader that stands exactly at its end. The segments are plain
bytes behind a short header, so that an offset of the stream is a place in a file. They are not forced to the disk: a
killed engine loses none of them, and those of another boot of the machine are not trusted.

Beside each segment stand the times of its bytes (`times.py`): an engine that reads them again knows as much about
when they were written as the one that read them first.
"""

import collections
import contextlib
import json
import os
import pathlib
import re
import time
from collections.abc import Callable, Sequence

import attrs

from bisync.core.moment import Moment, Moments
from bisync.core.position import Position
from bisync.errors import StreamError
from bisync.runtime.dating import UNKNOWN_US
from bisync.runtime.times import TimesFile, read_times, times_path
from bisync.runtime.wallclock import WallClock

HEADER_BYTES = 1024  # room for eight earlier names of the history
SEGMENT_BYTES = 16 << 20
MEMORY_BYTES = 4 << 20  # the newest part is also kept in memory, where the engine usually reads
MEMORY_ONLY_BYTES = 64 << 20  # the bound where there is no disk to write to
DISK_AGAIN_S = 10.0  # after a failed write, the disk is tried again


@attrs.define
class Segment:
    """One file: the bytes from `start` on of the history `replid`."""

    path: pathlib.Path
    replid: str
    follows: tuple[str, ...]  # names that the history had before (failovers keep the offsets)
    start: int  # offset of its first byte in the stream
    size: int = 0  # bytes of stream in it

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.start + self.size


class Journal:
    """The journal of one site. `folder` None: in memory only. Reading raises StreamError where a segment is gone.

    `warn` is called with a text when the disk fails and when it is back; the journal goes on in memory meanwhile.
    `clock` is that of the moments which come with the bytes.
    """

    def __init__(
        self,
        site: str,
        folder: pathlib.Path | None,
        limit_bytes: int,
        warn: Callable[[str], None] = lambda text: None,
        clock: WallClock | None = None,
    ) -> None:
        self._site, self._folder, self._warn = site, folder, warn
        self._limit = limit_bytes if folder else min(limit_bytes, MEMORY_ONLY_BYTES)
        self._segments: list[Segment] = []
        self._clock = clock or WallClock()
        self.moments = Moments()  # when the bytes were written, from the floor on
        self._times: TimesFile | None = None  # beside the segment that is being written
        self._file: int | None = None
        self._failed, self._disk_due_s = False, 0.0
        self._memory: collections.deque[bytes] = collections.deque()
        self._memory_start = 0
        self._replid = ""
        self._follows: tuple[str, ...] = ()
        self._kept_from = 0
        self._hole: int | None = None  # where the disk failed: what follows is in memory only
        self.end = 0  # the offset behind the newest byte

    def __repr__(self) -> str:
        return f"<Journal {self._site} {self._kept_from}..{self.end}, {len(self._segments)} segments>"

    @property
    def full(self) -> bool:
        """Is the bound reached? Then the reader of the stream waits; the server's backlog holds the rest."""
        on_disk = self._folder is not None and not self._failed
        limit = self._limit if on_disk else min(self._limit, MEMORY_ONLY_BYTES)
        return self.end - self._kept_from >= limit

    @property
    def position(self) -> Position:
        """What the server must be asked for next."""
        return Position(self._replid, self.end)

    # -- beginning
    def covers(self, floor: Position) -> bool:
        """Is everything from the floor on here, up to the end?"""
        known = floor.replid in (self._replid, *self._follows)
        return known and self._kept_from <= floor.offset <= self.end

    def recover(self, floor: Position) -> Position:
        """Take up what is here from the floor on. The position that the server must be asked for next."""
        if self.covers(floor):
            return Position(self._replid, self.end)  # of this very process: nothing was lost
        self._forget()
        chain = self._chain(floor)
        self._segments = chain
        end = chain[-1].end if chain else floor.offset
        self._start(chain[-1].replid if chain else floor.replid, end)
        self._follows = chain[-1].follows if chain else ()
        self._kept_from = floor.offset
        self._recall(chain, floor.offset)
        return Position(self._replid, end)

    def _recall(self, chain: Sequence[Segment], floor: int) -> None:
        """Take up the moments of what is here. What no mark tells was written after the mark before, and before now."""
        now_us = self._clock.now_us()
        for segment in chain:
            for end, moment in read_times(segment.path, self._clock):
                if floor < end <= segment.end:
                    self.moments.add(end, moment)
            self.moments.add(segment.end, Moment(UNKNOWN_US, now_us))  # `add` knows the mark before it

    def begin(self, replid: str, offset: int) -> None:
        """Start anew at this place; what was here is thrown away."""
        self._forget()
        self._clear()
        self._start(replid, offset)

    def discard(self) -> None:
        """What is here is damaged: the next `recover` finds nothing and the server is asked for all of it."""
        self._forget()
        self._clear()
        self._start("", 0)

    def _clear(self) -> None:
        """Remove all segments but those of another engine that is alive: it may be the one that has the job."""
        for segment in self._on_disk():
            if not _is_in_use(segment.path):
                _remove(segment.path)

    def go_on_as(self, replid: str) -> None:
        """The server calls the history by this name from here on."""
        if replid != self._replid:
            self._follows = (*self._follows, self._replid)[-8:]
            self._replid = replid
            self._close()
            self._write(b"")  # the link between the two names is on disk before a tag knows only the new one

    def _start(self, replid: str, offset: int) -> None:
        self._hole = None
        self._replid, self._follows = replid, ()
        self.end = self._memory_start = self._kept_from = offset

    def _forget(self) -> None:
        self._close()
        self.moments.clear()
        self._segments = []
        self._memory.clear()

    def _chain(self, floor: Position) -> list[Segment]:
        """The segments that hold the stream from the floor on, without a hole."""
        chain: list[Segment] = []
        at, segments = floor.offset, self._on_disk()
        names, known = {floor.replid}, 0
        while known < len(names):
            known = len(names)
            names.update(*({s.replid, *s.follows} for s in segments if names & {s.replid, *s.follows}))
        while True:
            fitting = [s for s in segments if s.start <= at < s.end and names & {s.replid, *s.follows}]
            if not fitting:
                return chain
            best = max(fitting, key=lambda s: s.end)
            chain.append(best)
            at = best.end

    def _on_disk(self) -> list[Segment]:
        if self._folder is None:
            return []
        found = []
        for path in self._folder.glob(f"{self._site}.*.journal"):
            segment = _read_header(path)
            if segment is not None:
                found.append(segment)
        return found

    # -- writing
    def append(self, data: bytes, marks: Sequence[tuple[int, Moment]] = ()) -> None:
        """The next bytes of the stream, with their marks: offset up to which, and when they were written."""
        self._write(data)
        self._memory.append(data)
        self.end += len(data)
        for end, moment in marks:
            self.moments.add(end, moment)
        if self._times is not None and marks:
            if self._times.full:
                self._times.write_anew(self.moments.between(self._segments[-1].start, self.end))
            else:
                self._times.add(marks)
        floor = self.end - MEMORY_BYTES if self._hole is None and self._file is not None else self._kept_from
        while self._memory and self._memory_start + len(self._memory[0]) <= floor:
            self._memory_start += len(self._memory.popleft())

    def _write(self, data: bytes) -> None:
        if self._folder is None or (self._file is None and time.monotonic() < self._disk_due_s):
            return
        try:
            if self._file is None or self._segments[-1].size >= SEGMENT_BYTES:
                self._open_segment(self.end if self._hole is None else self._hole)
            if self._hole is not None:
                data = self._read_memory(self._hole, self.end - self._hole) + data
            assert self._file is not None
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
            self._segments[-1].size += len(data)
            if self._hole is not None:
                self._hole, self._failed = None, False
                self._warn(f"the journal of {self._site} is on disk again")
        except OSError as e:
            self._close()
            self._hole = self.end if self._hole is None else self._hole
            if not self._failed:
                self._warn(f"the journal of {self._site} cannot be written and goes on in memory ({e.strerror})")
            self._failed, self._disk_due_s = True, time.monotonic() + DISK_AGAIN_S

    def _open_segment(self, start: int) -> None:
        self._close()
        assert self._folder is not None
        self._folder.mkdir(mode=0o700, exist_ok=True)
        path = self._folder / f"{self._site}.{start:020}.{os.getpid()}.{time.monotonic_ns()}.journal"
        header = {"site": self._site, "replid": self._replid, "follows": self._follows, "start": start}
        text = json.dumps({"bisync-journal": 1, **header, "boot": boot_id()}).encode()
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            assert len(text) < HEADER_BYTES
            os.write(file, text.ljust(HEADER_BYTES - 1) + b"\n")
        except OSError:
            os.close(file)
            _remove(path)
            raise
        self._file = file
        self._segments.append(Segment(path, self._replid, self._follows, start))
        self._times = TimesFile(path, self._clock)
        self._times.write_anew(self.moments.between(start, self.end))

    def _close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None
        if self._times is not None:
            self._times.close()
            self._times = None

    def close(self) -> None:
        """Close the file; what is on disk stays for the next engine."""
        self._close()

    # -- reading
    def read(self, offset: int, most: int) -> bytes:
        """Bytes from `offset` on: some, at most `most`; none at the end."""
        if offset >= self.end:
            return b""
        if offset >= self._memory_start:
            return self._read_memory(offset, most)
        for segment in self._segments:
            if segment.start <= offset < segment.end:
                return self._read_disk(segment, offset, most)
        raise self._broken(offset, "no segment has it")

    def _read_disk(self, segment: Segment, offset: int, most: int) -> bytes:
        try:
            with open(segment.path, "rb") as file:
                file.seek(HEADER_BYTES + offset - segment.start)
                data = file.read(min(most, segment.end - offset))
        except OSError as e:
            raise self._broken(offset, e.strerror or str(e)) from None
        if not data:
            raise self._broken(offset, "the segment is shorter than it was")
        return data

    def _broken(self, offset: int, why: str) -> StreamError:
        what = f"the journal of {self._site} does not hold the offset {offset} any more"
        return StreamError(what, why=why, hint="bisync reads that part from the server again")

    def _read_memory(self, offset: int, most: int) -> bytes:
        at = self.end
        pieces: list[bytes] = []
        for data in reversed(self._memory):  # the reader is nearly always at the newest chunk
            at -= len(data)
            pieces.append(data)
            if at <= offset:
                break
        return b"".join(reversed(pieces))[offset - at :][:most]

    def trim(self, offset: int) -> None:
        """What is before the offset will never be read again."""
        self._kept_from = max(self._kept_from, offset)
        self.moments.forget(offset)
        while self._segments and self._segments[0].end <= offset and len(self._segments) > 1:
            _remove(self._segments.pop(0).path)
        if self._hole is not None:
            self._hole = max(self._hole, offset)
        if self._file is None:
            while self._memory and self._memory_start + len(self._memory[0]) <= offset:
                self._memory_start += len(self._memory.popleft())

    def sweep(self) -> None:
        """Remove segments that other engines left and that hold nothing from the floor on."""
        mine = {s.path for s in self._segments}
        for segment in self._on_disk():
            if (
                segment.path not in mine
                and not _is_in_use(segment.path)
                and (segment.end <= self._kept_from or segment.replid != self._replid)
            ):
                _remove(segment.path)
        if self._folder is not None:
            for path in self._folder.glob(f"{self._site}.*.times*"):
                if not path.with_suffix(".journal").exists():
                    _remove(path)


_NAME = re.compile(r".+\.\d{20}\.\d+\.\d+\.journal")


def _read_header(path: pathlib.Path) -> Segment | None:
    """The segment in a file; None where the file is none, or of another boot of the machine."""
    if not _NAME.fullmatch(path.name):
        return None
    try:
        with open(path, "rb") as file:
            fields = json.loads(file.read(HEADER_BYTES))
            size = os.fstat(file.fileno()).st_size - HEADER_BYTES
        if fields["bisync-journal"] != 1 or fields["boot"] != boot_id():
            return None
        return Segment(path, fields["replid"], tuple(fields["follows"]), int(fields["start"]), max(0, size))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _is_in_use(path: pathlib.Path) -> bool:
    """Is it the segment of another process that is alive? (Names hold the process id.)"""
    pid = int(path.name.split(".")[-3])
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _remove(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
    with contextlib.suppress(OSError):
        times_path(path).unlink()


def boot_id() -> str:
    """Something that is the same until the machine starts again: files of another boot may have lost their end."""
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return str(round((time.time() - time.monotonic()) / 60))
