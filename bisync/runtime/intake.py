"""The intake of one site: a replica connection that fills the site's journal, whatever becomes of the rest.

It outlives the lives of an engine and connects again by itself, at the very end of its journal, because a server that
restarts keeps its history only for a reader that stands there. What a life needs of the stream it reads from the
journal, and does not notice a connection that was lost in between.

It also finds out when the bytes were written at the site, and the journal keeps that beside them.
"""

import contextlib
from collections.abc import Callable
from typing import Protocol

import trio

from bisync.config import Site
from bisync.core.position import Position
from bisync.errors import SiteError
from bisync.runtime import sounding
from bisync.runtime.connection import Connection
from bisync.runtime.dating import UNKNOWN_US, Dating
from bisync.runtime.failure import single_error
from bisync.runtime.journal import Journal
from bisync.runtime.passes import Passes
from bisync.runtime.replica import Attached, Replica, asks_for_ack

ACK_S = (
    1.0  # a server drops a replica that has not acknowledged for `repl-timeout`; Redis's own replicas do it so often
)
FIRST_ACK_S = 0.01  # after a snapshot the server sends nothing before an ACK, and ignores those that come too early
FIRST_ACKS = 200
FULL_S = 0.05  # how often a reader that waits for room in the journal looks again
PAUSE_S_MIN = 0.05


class Sink(Protocol):
    """What takes a snapshot."""

    def expect(self, size: int) -> None:
        """So many bytes were announced."""

    def write(self, data: bytes) -> None:
        """The next bytes; none mark the end."""


class Nowhere:
    """What lets a snapshot go."""

    def expect(self, size: int) -> None:
        """There is room."""

    def write(self, data: bytes) -> None:
        """They are gone."""


class Intake:
    """Reads one site's stream. Its reader runs in the engine's nursery; it calls `grown` when there is more to read."""

    def __init__(
        self,
        site: Site,
        journal: Journal,
        nursery: trio.Nursery,
        timeout_s: float,
        pause_s_max: float,
        passes: Passes,
        *,
        dated: bool = True,
    ) -> None:
        """`dated`: does it matter when the bytes were written?"""
        self.site, self.journal = site, journal
        self._passes, self._dated = passes, dated
        self._nursery, self._timeout_s, self._pause_s_max = nursery, timeout_s, pause_s_max
        self._scope: trio.CancelScope | None = None
        self.grown: Callable[[], None] = lambda: None
        self.replid = ""  # of the history that is read
        self.away = ""  # why it is not reading at present; empty: it is
        self.error: SiteError | None = None  # what waiting cannot heal; the reader has ended

    def __repr__(self) -> str:
        return f"<Intake {self.site.name} {self.away or 'reading'} {self.journal}>"

    # -- what a life asks for; each returns when the reader stands, and raises SiteError or HistoryGap where it cannot
    async def resume(self, floor: Position) -> Position:
        """Make sure that the stream can be read from the floor on. The floor, under its history's present name.

        A reader that is away connects anew: only then it is known that the site still has its history.
        """
        if self._scope is None or self.away or self.error is not None or not self.journal.covers(floor):
            self._stop()
            self.journal.recover(floor)
            self.journal.sweep()
            await self._nursery.start(self._keep_reading, None)
        return Position(self.replid, floor.offset, floor.database)

    async def begin(self) -> Position:
        """Read from now on, from wherever the stream stands."""
        self._stop()
        return await self._nursery.start(self._keep_reading, Nowhere(), True)  # type: ignore[no-any-return]

    async def snapshot(self, spool: Sink) -> Position:
        """Take a snapshot, whose bytes go to `spool`, and read what follows. Returns its position."""
        self._stop()
        return await self._nursery.start(self._keep_reading, spool, False)  # type: ignore[no-any-return]

    def discard(self) -> None:
        """What the journal holds is damaged: stop reading, and forget it."""
        self._stop()
        self.journal.discard()

    def _stop(self) -> None:
        if self._scope is not None:
            self._scope.cancel()
        self._scope, self.error, self.away = None, None, ""

    # -- the reader
    async def _keep_reading(
        self,
        spool: Sink | None,
        stream_only: bool = True,
        *,
        task_status: trio.TaskStatus[Position | None],
    ) -> None:
        """Read until stopped; `spool` takes the snapshot of a reader that begins anew."""
        pause_s, standing = PAUSE_S_MIN, False
        with trio.CancelScope() as scope:
            self._scope = scope
            while True:
                try:
                    with single_error():
                        async with Connection.open(self.site, self._timeout_s) as connection:
                            replica = Replica(connection)
                            attached = await self._attach(replica, spool is not None and not standing, stream_only)
                            if not standing:
                                standing = True
                                task_status.started(Position(attached.replid, attached.offset))
                            pause_s = PAUSE_S_MIN
                            await self._follow(replica, attached, spool, scope)
                except SiteError as e:
                    if not standing:
                        raise
                    if not e.heals or (spool is not None and self._in_transfer):
                        self.error = e
                        self.grown()
                        return
                    self.away = str(e)
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, self._pause_s_max)

    async def _attach(self, replica: Replica, anew: bool, stream_only: bool) -> Attached:
        journal = self.journal
        attached = await replica.attach(None if anew else journal.position, stream_only=stream_only)
        if attached.full:
            journal.begin(attached.replid, attached.offset)
        else:
            journal.go_on_as(attached.replid)
        self.replid = attached.replid
        self._in_transfer = attached.full
        return attached

    async def _transfer(self, replica: Replica, spool: Sink | None) -> None:
        assert spool is not None
        async with contextlib.aclosing(replica.transfer()) as pieces:
            async for data in pieces:
                if replica.announced:
                    spool.expect(replica.announced)
                    replica.announced = 0
                spool.write(data)
                await trio.lowlevel.checkpoint()
        spool.write(b"")
        self._in_transfer = False

    async def _follow(self, replica: Replica, attached: Attached, spool: Sink | None, scope: trio.CancelScope) -> None:
        """The snapshot, where there is one, and then the stream."""
        known = self.journal.moments.last  # what follows is no older
        earliest_us = UNKNOWN_US if known is None else known.earliest_us
        dating = Dating(self.journal.end, earliest_us, held=attached.full)
        async with trio.open_nursery() as nursery:
            if self._dated:
                nursery.start_soon(
                    sounding.keep_sounding, self.site, self.replid, dating, self._passes, self._timeout_s
                )
            if attached.full:
                await self._transfer(replica, spool)
            self.away = ""
            nursery.start_soon(self._acknowledge, replica, attached.full)
            await self._read(replica, dating, scope)

    async def _read(self, replica: Replica, dating: Dating, scope: trio.CancelScope) -> None:
        journal = self.journal
        while True:
            while journal.full:
                await trio.sleep(FULL_S)
            received = await replica.receive(self._passes)
            if scope.cancel_called:
                return  # stopped when the bytes were here already: the journal is another reader's now
            data, marks = received.data, dating.read(received)
            journal.append(data, marks if self._dated else ())
            self.grown()
            if asks_for_ack(data):
                await replica.acknowledge(journal.end)

    async def _acknowledge(self, replica: Replica, hurried: bool) -> None:
        began, early = self.journal.end, FIRST_ACKS if hurried else 0
        while True:
            await replica.acknowledge(self.journal.end)
            early -= 1
            await trio.sleep(FIRST_ACK_S if early > 0 and self.journal.end == began else ACK_S)
