"""The times beside a segment of the journal: when its bytes were written at the site, for the next engine.

One file for each segment. It begins with `_MAGIC`; then come records of 28 bytes, little-endian: the offset in the
stream up to which the record reaches (8), earliest and latest (8 each, signed), CRC-32 of these 24 (4). The times are
µs of the machine's own count since it booted, which a step of its clock does not change; segments of another boot are
not used anyway. What is damaged or missing is not known: reading ends at the first record that cannot be right.
"""

import contextlib
import os
import pathlib
import struct
import zlib
from collections.abc import Iterable

from bisync.core.moment import MARKS_MAX, Moment
from bisync.runtime.wallclock import WallClock

_MAGIC = b"bisync-times 1\n".ljust(28)
_RECORD = struct.Struct("<Qqq")
_CHECK = struct.Struct("<I")
_RECORD_BYTES = _RECORD.size + _CHECK.size
RECORDS_MAX = 4 * MARKS_MAX  # in a file: beyond that it is written anew with the marks that still matter


def times_path(segment: pathlib.Path) -> pathlib.Path:
    """The file with the times of a segment of the journal."""
    return segment.with_suffix(".times")


class TimesFile:
    """The times of the segment that is being written. After a failed write it holds no more; nothing is raised."""

    def __init__(self, segment: pathlib.Path, clock: WallClock) -> None:
        self._path, self._clock = times_path(segment), clock
        self._file: int | None = None
        self._records = 0

    def add(self, marks: Iterable[tuple[int, Moment]]) -> None:
        """Marks that follow those before."""
        if self._file is not None:
            self._write([self._record(end, moment) for end, moment in marks])

    @property
    def full(self) -> bool:
        """Must it be written anew?"""
        return self._records >= RECORDS_MAX

    def write_anew(self, marks: Iterable[tuple[int, Moment]]) -> None:
        """Only these marks, whatever it held."""
        self.close()
        fresh, self._records = self._path.with_suffix(".times-new"), 0
        try:
            self._file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            self._write([_MAGIC, *(self._record(end, moment) for end, moment in marks)])
            os.replace(fresh, self._path)
        except OSError:
            self.close()
            _remove(fresh, self._path)

    def _record(self, end: int, moment: Moment) -> bytes:
        to_uptime = self._clock.to_uptime
        fields = _RECORD.pack(end, to_uptime(moment.earliest_us), to_uptime(moment.latest_us))
        return fields + _CHECK.pack(zlib.crc32(fields))

    def _write(self, records: list[bytes]) -> None:
        assert self._file is not None
        data = b"".join(records)
        try:
            if os.write(self._file, data) == len(data):
                self._records += len(records)
                return
        except OSError:
            pass
        self.close()  # the next engine finds what was written so far, and takes the rest for unknown

    def close(self) -> None:
        """Close the file; it stays for the next engine."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def read_times(segment: pathlib.Path, clock: WallClock) -> list[tuple[int, Moment]]:
    """The marks of a segment's bytes, in times of `clock`; those before the first damage."""
    try:
        data = times_path(segment).read_bytes()
    except OSError:
        return []
    if not data.startswith(_MAGIC):
        return []
    marks: list[tuple[int, Moment]] = []
    last, now_us = 0, clock.now_us()
    for at in range(len(_MAGIC), len(data) - _RECORD_BYTES + 1, _RECORD_BYTES):
        fields = data[at : at + _RECORD.size]
        end, earliest, latest = _RECORD.unpack(fields)
        moment = Moment(clock.from_uptime(earliest), clock.from_uptime(latest))
        sound = _CHECK.unpack_from(data, at + _RECORD.size) == (zlib.crc32(fields),)
        if not sound or end <= last or not moment.earliest_us <= moment.latest_us <= now_us:
            break
        marks.append((end, moment))
        last = end
    return marks


def _remove(*paths: pathlib.Path) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            path.unlink()
