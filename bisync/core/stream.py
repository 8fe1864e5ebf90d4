"""The replication stream of a shard: bytes in, source transactions out.

An *entry* is what the server executed as one: a single command, or all between MULTI and EXEC. Where it starts and
ends is known to the byte. Commands that carry no data (PING, SELECT, REPLCONF GETACK) make no entry.

This is the plain version of the parser: hiredis makes an object of each argument. What follows depends only on
`StreamReader.feed`, which takes bytes and returns a batch, so that a faster scanner can take its place.

Source: `replication.c` (`replicationFeedSlaves`), Redis 7.0.
"""

import attrs
import hiredis
from hiredis import pack_command

from bisync.core.position import Position
from bisync.core.tag import Tag
from bisync.errors import BisyncError, StreamError

_NO_DATA = frozenset((b"PING", b"REPLCONF"))


@attrs.define(slots=True)
class Command:
    """One command of a stream."""

    name: bytes  # in capitals
    args: list[bytes]  # with the name first, as the server wrote it
    database: int  # selected when it ran
    raw: bytes  # its bytes in the stream


@attrs.define(slots=True)
class Entry:
    """What a server executed as one. `start` and `end` are offsets in bytes of the site's stream."""

    start: int
    end: int
    database: int  # selected at `start`
    commands: list[Command]  # without MULTI, EXEC, SELECT and the tag
    tag: Tag | None = None  # where this job's engine wrote it


def _packed_again(args: object) -> bytes:
    """The bytes that a command came as, if it was written in the shortest form; nothing where it is no command."""
    try:
        return pack_command(tuple(args))  # type: ignore[arg-type, no-any-return]
    except TypeError:
        return b""


class StreamReader:
    """Cuts a stream into entries, and knows which of them are this job's own.

    `own_tag_key` is the key of the tag that bisync writes at this site (None: it writes none here). Raises StreamError
    from `feed` for bytes that are no replication stream; after that the reader is of no use.
    """

    def __init__(self, position: Position, own_tag_key: bytes | None) -> None:
        self._replid = position.replid
        self._own_tag_key = own_tag_key
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
        return self._offset - self._settled.offset + sum(map(len, self._chunks))

    def feed(self, data: bytes) -> list[Entry]:
        """The entries that these bytes complete."""
        entries: list[Entry] = []
        gets = self._parser.gets
        self._parser.feed(data)
        self._chunks.append(data)
        try:
            args = gets()
            if args is None:
                self._check_head()
                return entries
            buffer = b"".join(self._chunks) if len(self._chunks) > 1 else data
            at = 0
            while args is not None:
                raw = _packed_again(args)
                if len(raw) < 5 or not buffer.startswith(raw, at):
                    raise self._error(f"{buffer[at : at + 40]!r} where a command in its shortest form should be")
                self._take(args, raw, entries)
                at += len(raw)
                args = gets()
        except hiredis.ProtocolError as e:
            raise self._error(str(e)) from None
        except RecursionError:
            raise self._error("arrays nested too deep") from None
        self._chunks = [buffer[at:]] if at < len(buffer) else []
        self._check_head()
        here = Position(self._replid, self._offset, self._database)
        self._settled = here if self._open is None else self._multi_start
        return entries

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
        elif name not in _NO_DATA:
            command = Command(name, args, self._database, raw)
            if self._open is None:
                self._close(start, self._database, [command], entries)
            else:
                self._open.append(command)

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
        entries.append(Entry(start, self._offset, database, commands[1:] if tag else commands, tag))
