"""Attaching to a server as a replica: the handshake, the transfer of the RDB, and then its stream.

Source: Redis documentation, "Replication", and `replication.c` (`syncCommand`, `replicationSetupSlaveForFullResync`) of
Redis 7.0. Measured: a diskless transfer (`$EOF:`) is followed by no stream until an ACK was sent after its end.
"""

import contextlib
from collections.abc import AsyncGenerator

import attrs
import trio

from bisync.config import Site
from bisync.core.position import Position
from bisync.core.resp import pack
from bisync.errors import HistoryGap, SiteError
from bisync.runtime.arrivals import Received
from bisync.runtime.connection import Connection
from bisync.runtime.passes import Passes

VALKEY_VERSION = b"9.0.0"
"""What we tell of ourselves: a replica of Valkey of this version reads the same formats of snapshots as we do."""

_LINE_BYTES_MAX = 1 << 16  # of an answer to PSYNC; a real one has less than a hundred
_MARK_BYTES = 40  # of the mark that ends a diskless transfer


@attrs.frozen
class Attached:
    """What the server answered to PSYNC."""

    full: bool  # an RDB follows; else the stream goes on at the position that was asked for
    replid: str
    offset: int  # of the snapshot, where full


class Replica:
    """A replica's side of a connection. Use it in order: `attach`, `transfer` where it was full, then `receive`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._buffer = b""
        self.announced = 0  # bytes of the RDB, where the server tells them before it sends it
        self._sending = trio.Lock()  # an ACK that is due and one that was asked for may meet

    @property
    def site(self) -> Site:
        """The site at the other end."""
        return self._connection.site

    async def attach(self, position: Position | None, *, stream_only: bool) -> Attached:
        """PSYNC at a position, or anew where there is none.

        `stream_only` asks for an RDB without keys (Redis 7.0 and newer; older servers send all, which is discarded).
        Raises HistoryGap where the server does not have the stream from the position on.
        """
        await self._connection.request(b"REPLCONF", b"capa", b"eof", b"capa", b"psync2")  # 2.8 answers with an error
        # For a replica that tells no version Valkey 9 writes an RDB of version 11, and fails where a field expires.
        await self._connection.request(b"REPLCONF", b"version", VALKEY_VERSION)  # unknown to others
        if stream_only:
            await self._connection.request(b"REPLCONF", b"rdb-filter-only", b"")
        if position is None:
            await self._connection.send(pack(b"PSYNC", b"?", -1))
        else:
            await self._connection.send(pack(b"PSYNC", position.replid.encode(), position.offset + 1))
        line = await self._line()
        while not line:  # newlines keep the connection alive while the server prepares its snapshot
            line = await self._line()
        return self._read_answer(line, position)

    def _read_answer(self, line: bytes, position: Position | None) -> Attached:
        match line.split():
            case [b"+FULLRESYNC", replid, offset]:
                if position is not None:
                    raise HistoryGap(
                        self.site.name,
                        f"the stream after offset {position.offset} is gone; the server is at {int(offset)}",
                        why=(
                            "it has a new replication history"
                            if replid.decode() != position.replid
                            else f"its backlog no longer holds the {int(offset) - position.offset} bytes in between"
                        ),
                        new_history=replid.decode() != position.replid,
                        hint="what was written there in between is not known at the other site. Raise "
                        "repl-backlog-size, run bisync verify to see the differences, then bisync reset and begin "
                        "with a new full copy; or let on_gap in [full_copy] say what to do",
                    )
                return Attached(True, replid.decode(), int(offset))
            case [b"+CONTINUE", *replid] if position is not None:
                return Attached(False, replid[0].decode() if replid else position.replid, position.offset)
        text = line.decode(errors="replace")
        word = text.lstrip("-").split(" ", 1)[0]
        if word in ("LOADING", "NOMASTERLINK", "BUSY", "MASTERDOWN"):
            raise SiteError(self.site.name, "the server cannot serve a replica yet", why=text)
        if not line.startswith(b"-"):
            what = f"{self.site.endpoint.address} answers PSYNC, but not as Redis does"
            raise SiteError(
                self.site.name, what, why=repr(line[:40]), hint="check host and port in the job file", heals=False
            )
        if word != "NOPERM" and "unknown command" not in text:
            raise SiteError(self.site.name, "the server cannot serve a replica now", why=text, hint="see its log")
        hint = "let the account run PSYNC and REPLCONF (ACL SETUSER name +psync +replconf)"
        raise SiteError(self.site.name, "the server refuses PSYNC", why=text, hint=hint, heals=False)

    async def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            if len(self._buffer) > _LINE_BYTES_MAX:
                what = f"{self.site.endpoint.address} answers PSYNC with no end of the line"
                raise SiteError(self.site.name, what, hint="check host and port in the job file", heals=False)
            self._buffer += await self._connection.receive()
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line.strip()

    async def transfer(self) -> AsyncGenerator[bytes, None]:
        """The bytes of the RDB. The stream follows, once an ACK was sent after its end."""
        line = await self._line()
        while not line:
            line = await self._line()
        if line.startswith(b"$EOF:"):
            pieces = self._until_mark(line[5:])
        elif line.startswith(b"$") and line[1:].isdigit():
            self.announced = int(line[1:])
            pieces = self._exactly(self.announced)
        else:
            text = line[:80].decode(errors="replace")
            raise SiteError(self.site.name, "the server broke off before the RDB", why=text)
        async with contextlib.aclosing(pieces):
            async for data in pieces:
                yield data

    async def _exactly(self, left: int) -> AsyncGenerator[bytes, None]:
        while left:
            data, self._buffer = self._buffer or await self._connection.receive(), b""
            data, self._buffer = data[:left], data[left:]
            left -= len(data)
            yield data

    async def _until_mark(self, mark: bytes) -> AsyncGenerator[bytes, None]:
        """Diskless: all up to the mark, which is the last that comes before our ACK."""
        held, self._buffer = self._buffer, b""
        while not held.endswith(mark):
            if len(held) > _MARK_BYTES:
                yield held[:-_MARK_BYTES]
                held = held[-_MARK_BYTES:]
            held += await self._connection.receive()
        if held[:-_MARK_BYTES]:
            yield held[:-_MARK_BYTES]

    async def receive(self, passes: Passes) -> Received:
        """Some bytes of the stream, at least one, and between which times they came."""
        if self._buffer:
            data, self._buffer = self._buffer, b""
            now_us = passes.clock.now_us()
            return Received(data, 0, now_us, now_us)
        return await self._connection.receive_dated(passes)

    async def acknowledge(self, offset: int) -> None:
        """Tell the server how far its stream has been received."""
        async with self._sending:
            await self._connection.send(pack(b"REPLCONF", b"ACK", offset))


def asks_for_ack(data: bytes) -> bool:
    """May these bytes hold REPLCONF GETACK? An answer too many does no harm."""
    return b"GETACK" in data or b"getack" in data
