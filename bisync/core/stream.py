"""The replication stream of a shard: bytes in, source transactions out.

An *entry* is what the server executed as one: a single command, or all between MULTI and EXEC. Where it starts and
ends is known to the byte. Commands that carry no data (PING, SELECT, REPLCONF GETACK) make no entry.

hiredis makes an object of each argument. An echo that is word for word as it was sent is not parsed at all: it is
compared (`awaited`), and its commands are read where somebody asks for them. What follows depends only on
`StreamReader.feed`, which takes bytes and returns a batch.

Source: `replication.c` (`replicationFeedSlaves`), Redis 7.0.
"""

import attrs
import hiredis

from bisync.core.awaited import AwaitedEcho, AwaitedEchoes, Comparison
from bisync.core.position import Position
from bisync.core.resp import pack_words
from bisync.core.tag import Tag
from bisync.errors import BisyncError, StreamError

_CONTROL = frozenset((b"SELECT", b"MULTI", b"EXEC", b"PING", b"REPLCONF"))
"""Commands that carry no data."""


@attrs.define(slots=True)
class Command:
    """One command of a stream."""

    name: bytes  # in capitals
    args: list[bytes]  # with the name first, as the server wrote it
    database: int  # selected when it ran
    raw: bytes  # its bytes in the stream


@attrs.define(slots=True, eq=False)
class Entry:
    """What a server executed as one. `start` and `end` are offsets in bytes of the site's stream."""

    start: int
    end: int
    database: int  # selected at `start`
    _commands: list[Command] | None
    tag: Tag | None = None  # where this job's engine wrote it
    sent: AwaitedEcho | None = None  # where it is word for word what was sent, but for what had no effect: that

    @property
    def commands(self) -> list[Command]:
        """Its commands without MULTI, EXEC, SELECT and the tag."""
        if self._commands is None:
            assert self.sent is not None
            (entry,) = StreamReader(Position("", 0), None).feed(self.sent.payload[: self.sent.size])
            self._commands = entry.commands[1:]
        return self._commands

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entry):
            return NotImplemented
        mine, theirs = (self.start, self.end, self.database, self.tag), (
            other.start,
            other.end,
            other.database,
            other.tag,
        )
        return mine == theirs and self.commands == other.commands


def _packed_again(args: object) -> bytes:
    """The bytes that a command came as, if it was written in the shortest form; nothing where it is no command."""
    try:
        return pack_words(args)  # type: ignore[arg-type]
    except TypeError:
        return b""


class StreamReader:
    """Cuts a stream into entries, and knows which of them are this job's own.

    `own_tag_key` is the key of the tag that bisync writes at this site (None: it writes none here), and `awaited` what
    it has sent there. Raises StreamError from `feed` for bytes that are no replication stream; after that the reader is
    of no use.
    """

    def __init__(self, position: Position, own_tag_key: bytes | None, awaited: AwaitedEchoes | None = None) -> None:
        self._replid = position.replid
        self._own_tag_key = own_tag_key
        self._awaited = AwaitedEchoes() if awaited is None else awaited
        self._comparison: Comparison | None = None  # the echo that is being read, if it is as awaited so far
        self.compared = 0  # echoes that were word for word what was sent, but for commands without effect
        self._parser = hiredis.Reader(notEnoughData=None)
        self._chunks: list[bytes] = []  # bytes that are not a whole command yet
        self._offset = position.offset  # the end of the last whole command
        self._database = position.database
        self._open: list[Command] | None = None  # the commands since MULTI
        self._settled = position  # the end of the last whole entry
        self._multi_start = position

    def __repr__(self) -> str:
        return f"<StreamReader at {self._settled.offset} of {self._replid[:8]}, {self.buffered} bytes not whole>"

    @property
    def position(self) -> Position:
        """The end of what is whole: reading may begin again here."""
        return self._settled

    @property
    def buffered(self) -> int:
        """Bytes held back because they are not a whole entry yet."""
        compared = self._comparison.length if self._comparison is not None else 0
        return self._offset - self._settled.offset + sum(map(len, self._chunks)) + compared

    def feed(self, data: bytes) -> list[Entry]:
        """The entries that these bytes complete."""
        entries: list[Entry] = []
        at = self._compare(data, 0, entries)
        while at < len(data):
            begin, known = self._awaited.find(data, at)
            if begin > at:
                self._parse(data, at, begin, entries)
                at = begin
            first = self._awaited.first
            if first is not None and known > begin and not self._chunks and self._open is None:
                self._comparison = Comparison(first, self._database)
                at = self._compare(data, at, entries)
            if known > at:  # it only looked like an echo
                self._parse(data, at, known, entries)
                at = known
        return entries

    def _compare(self, data: bytes, at: int, entries: list[Entry]) -> int:
        """Go on with the echo that is being read, if there is one, in `data` from `at` on. The end of what was read."""
        comparison = self._comparison
        if comparison is None:
            return at
        at = comparison.go_on(data, at)
        if comparison.failed:
            self._comparison = None
            if comparison.recognised:
                self._awaited.seen(comparison.echo.marker)
            read = comparison.read
            self._parse(read, 0, len(read), entries)
        elif comparison.done:
            self._comparison = None
            echo, start = comparison.shown, self._offset
            self._awaited.seen(echo.marker)
            self._offset += comparison.length
            entries.append(Entry(start, self._offset, self._database, [] if echo.bare else None, echo.tag, echo))
            self._database = echo.database
            self._settled = Position(self._replid, self._offset, self._database)
            self.compared += 1
        return at

    def _parse(self, data: bytes, at: int, end: int, entries: list[Entry]) -> None:
        """Read the commands of `data` from `at` to `end`; the last may not be whole."""
        if at == end:
            return
        gets = self._parser.gets
        self._parser.feed(data, at, end - at)
        try:
            args = gets()
            if args is None or self._chunks:
                self._chunks.append(data[at:end])
            if args is None:
                self._check_head()
                return
            if self._chunks:
                data = b"".join(self._chunks)
                at, end = 0, len(data)
            while args is not None:
                raw = _packed_again(args)
                if len(raw) < 5 or not data.startswith(raw, at, end):
                    raise self._error(
                        f"{data[at : min(at + 40, end)]!r} where a command in its shortest form should be"
                    )
                self._take(args, raw, entries)
                at += len(raw)
                args = gets()
        except hiredis.ProtocolError as e:
            raise self._error(str(e)) from None
        except RecursionError:
            raise self._error("arrays nested too deep") from None
        self._chunks = [data[at:end]] if at < end else []
        self._check_head()
        here = Position(self._replid, self._offset, self._database)
        self._settled = here if self._open is None else self._multi_start

    def _check_head(self) -> None:
        if self._chunks and self._chunks[0][:1] != b"*":
            raise self._error(f"{self._chunks[0][:20]!r} where a command should begin")

    def _error(self, what: str) -> StreamError:
        return StreamError(
            f"after offset {self._offset} the replication stream holds {what}",
            hint="the connection or the journal is damaged; bisync reads that part again. If it repeats, report it",
        )

    def _take(self, args: list[bytes], raw: bytes, entries: list[Entry]) -> None:
        start, self._offset = self._offset, self._offset + len(raw)
        name = args[0].upper()
        if name in _CONTROL:
            self._control(name, args, start, entries)
            return
        command = Command(name, args, self._database, raw)
        if self._open is not None:
            self._open.append(command)
        elif name == b"SET" and args[1:2] == [self._own_tag_key]:
            self._close(start, self._database, [command], entries)
        else:
            entries.append(Entry(start, self._offset, self._database, [command]))

    def _control(self, name: bytes, args: list[bytes], start: int, entries: list[Entry]) -> None:
        if name == b"SELECT":
            self._select(args)
        elif name == b"MULTI":
            self._multi_start = Position(self._replid, start, self._database)
            self._open = []
        elif name == b"EXEC":
            if self._open is None:
                raise self._error("an EXEC without its MULTI")
            commands, self._open = self._open, None
            self._close(self._multi_start.offset, self._multi_start.database, commands, entries)

    def _select(self, args: list[bytes]) -> None:
        try:
            self._database = int(args[1])
        except (IndexError, ValueError):
            raise self._error(f"{args!r}, a SELECT of no database") from None

    def _close(self, start: int, database: int, commands: list[Command], entries: list[Entry]) -> None:
        if not commands:
            return
        tag = None
        first = commands[0]
        if first.database == 0 and first.name == b"SET" and len(first.args) > 2 and first.args[1] == self._own_tag_key:
            try:
                tag = Tag.decode(first.args[2])
            except BisyncError:
                pass  # a client's write to our key: the writer's WATCH notices it
            else:
                self._awaited.seen(first.raw)
        entries.append(Entry(start, self._offset, database, commands[1:] if tag else commands, tag))
