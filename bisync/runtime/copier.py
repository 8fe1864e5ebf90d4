"""The full copy of one life: a snapshot of the source, key by key through the core.

The snapshot stands on the shelf until the copy is finished: a life that begins after a broken connection, or an engine
that is started again, goes on with it if it can, and asks the source for no other.
"""

import contextlib
import pathlib
import secrets
from collections.abc import Awaitable, Callable, Iterable, Iterator

import attrs
import trio

from bisync.config import Job
from bisync.core.copying import CopiedKey, CopiedKeys, KeyPiece
from bisync.core.key_names import SECRET_BYTES, KeyNames
from bisync.core.pair import Pair
from bisync.core.position import Position
from bisync.core.snapshot import SnapshotKeys
from bisync.errors import HistoryGap, RdbError, SiteError
from bisync.reconcile import empty_source
from bisync.runtime.connection import Connection
from bisync.runtime.intake import Intake
from bisync.runtime.pacer import Pacer
from bisync.runtime.spool import Snapshot, Spool, forget, remove_all
from bisync.runtime.target import TargetScan
from bisync.runtime.wallclock import WallClock

Copied = CopiedKeys | CopiedKey | KeyPiece

HANDFUL_KEYS, HANDFUL_BYTES = 1_000, 1 << 20  # of a snapshot, handed to the core at once


@attrs.define
class Shelf:
    """Where the snapshot stands from one life to the next, and for the next engine."""

    folder: pathlib.Path
    limit_bytes: int = 0
    spool: Spool | None = None

    def take(self) -> Spool | None:
        """The snapshot that an earlier life or an earlier engine has left, if it can be used from its beginning."""
        if self.spool is None:
            self.spool = Spool.left(self.folder, limit_bytes=self.limit_bytes)
        return self.spool if self.spool is not None and self.spool.whole_so_far else None

    def begin(self) -> Spool:
        """Room for a new one. What was there is removed."""
        self.clear()
        self.spool = Spool(self.folder, limit_bytes=self.limit_bytes)
        return self.spool

    def sweep(self) -> None:
        """No copy is under way: remove also what an earlier engine left."""
        self.clear()
        remove_all(self.folder)

    def forget(self) -> None:
        """No later life may use what is there."""
        if self.spool is not None:
            self.spool.forget()
        else:
            forget(self.folder)

    def clear(self, *, keep: bool = False) -> None:
        """Be done with what is there. `keep`: a later engine may use it."""
        if self.spool is not None:
            self.spool.close(keep=keep)
        self.spool = None


@attrs.define
class Copier:
    """One full copy, from the snapshot on. `perform` carries out what the core wants, `answered` waits for replies."""

    job: Job
    pair: Pair
    source: Intake
    shelf: Shelf
    clock: WallClock
    pacer: Pacer
    perform: Callable[[], None]
    answered: Callable[[], Awaitable[None]]
    keys: SnapshotKeys | None = None
    keys_total: int | None = None  # that the source says it has; None: not known
    scan: TargetScan | None = None  # of the target, while it goes on: are there keys, and which of them are stale?
    _held_keys: bool = False  # has the snapshot a key that the job copies?

    @property
    def _timeout_s(self) -> float:
        return float(self.job.engine.connect_timeout_ms / 1000)

    async def take_snapshot(self) -> Position:
        """Let the source begin its snapshot, or take the one that is there. The core knows then where it stands."""
        self.keys_total = await self._count_keys()
        position = await self._old_snapshot()
        if position is None:
            await hold_reverse(self.pair, True, self.answered)
            position = await self._new_snapshot(await self._applied_at_source())
            await hold_reverse(self.pair, False, self.answered)
        return position

    async def _old_snapshot(self) -> Position | None:
        spool = self.shelf.take()
        snapshot = spool.snapshot if spool is not None else None
        if snapshot is None or self.source.error is not None:
            return None
        if self.pair.floors.now().get(self.pair.rules.source) != snapshot.position:
            return None  # it is of a copy before the newest one
        try:
            position = await self.source.resume(snapshot.position)
        except HistoryGap:
            return None  # what followed it is gone
        if not self.pair.copying.stands:
            return None  # writes of the target's clients went to the source
        self.pair.snapshot_taken(position, snapshot.seen)
        return position

    async def _new_snapshot(self, least: int) -> Position:
        spool = self.shelf.begin()
        position = await self.source.snapshot(spool)
        if position.offset < least and self.pair.rules.bidirectional:
            site = self.pair.rules.source
            raise SiteError(site, "the server is still sending an older snapshot to another replica")
        spool.keep(Snapshot(position, self.pair.snapshot_taken(position)))
        return position

    async def copy(self) -> None:
        """Hand in all keys of the snapshot, as fast as the target takes them."""
        spool = self.shelf.spool
        assert spool is not None
        self.scan = TargetScan(self.job, self.pair.rules, self.pacer)
        held = await self.scan.finds_any()  # long where the target has many keys that are not in scope
        self.scan = None
        names = KeyNames(secrets.token_bytes(SECRET_BYTES)) if held else None
        self.keys = SnapshotKeys(self.pair.rules, names)
        try:
            async with contextlib.aclosing(spool.pieces()) as pieces:
                async for data in pieces:
                    await self._hand_in(self.keys, data)
            self.keys.close()
        except RdbError:
            spool.forget()
            raise
        if held:
            if self.pair.copying.begun and not self._held_keys:
                raise empty_source(self.job)
            await self._remove_stale(self.keys)
        self.pair.snapshot_ended(self.clock.now_ms())
        self.perform()

    async def _hand_in(self, keys: SnapshotKeys, data: bytes) -> None:
        for some in _handfuls(keys.feed(data, self.clock.now_ms())):
            while self.pair.copy_waits():
                await self.answered()
            self._held_keys = self._held_keys or any(not isinstance(k, CopiedKey) or k.key is not None for k in some)
            self.pair.copied(some, self.clock.now_ms())
            self.perform()
        await trio.lowlevel.checkpoint()

    async def _remove_stale(self, keys: SnapshotKeys) -> None:
        """Keys that the target holds and the snapshot does not: left by a broken copy, or the target's own."""
        self.scan = TargetScan(self.job, self.pair.rules, self.pacer)
        async with contextlib.aclosing(self.scan.keys()) as found:
            async for database, key in found:
                stale = keys.stale(database, key)
                if stale is not None:
                    while self.pair.copy_waits():
                        await self.answered()
                    self.pair.found_at_target([stale], self.clock.now_ms())
                    self.perform()
        self.scan = None

    # -- what the source says
    async def _ask_source(self, section: bytes) -> list[bytes]:
        """The lines of a section of INFO; none where the account may not ask."""
        async with Connection.open(self.job.site(self.pair.rules.source), self._timeout_s) as connection:
            reply = await connection.request(b"INFO", section)
        return reply.split(b"\r\n") if isinstance(reply, bytes) else []

    async def _applied_at_source(self) -> int:
        """An offset of the source's stream that holds all that this job ever wrote there."""
        fields = dict(line.split(b":", 1) for line in await self._ask_source(b"replication") if b":" in line)
        if b"master_repl_offset" not in fields and self.pair.rules.bidirectional:
            what = "the server does not say how far its stream is, so its snapshot may be an older one"
            raise SiteError(self.pair.rules.source, what, hint="let the account run INFO (ACL SETUSER name +info)")
        return int(fields.get(b"master_repl_offset", 0))

    async def _count_keys(self) -> int | None:
        """How many keys the source says it has, for the progress."""
        lines = await self._ask_source(b"keyspace")
        scope = self.pair.rules.scope
        counts = [
            int(line.split(b"keys=", 1)[1].split(b",", 1)[0])
            for line in lines
            if line.startswith(b"db") and scope.target_database(int(line[2 : line.index(b":")])) is not None
        ]
        return sum(counts) if lines else None


async def hold_reverse(pair: Pair, held: bool, answered: Callable[[], Awaitable[None]]) -> None:
    """While the snapshot is taken nothing of ours may be on its way to the source: so its clock is known."""
    reverse = pair.channels.get(pair.rules.target)
    if reverse is None:
        return
    pair.hold(pair.rules.target, held)
    while held and reverse.link.in_flight:
        await answered()


def _handfuls(keys: Iterable[Copied]) -> Iterator[list[Copied]]:
    """Cut into lists of so many keys, or about so many bytes, that the next look at the bounds is not far."""
    some: list[Copied] = []
    count = size = 0
    for key in keys:
        some.append(key)
        count += len(key.parts)
        size += key.size if isinstance(key, CopiedKeys) else sum(len(command) for _, command in key.parts)
        if count >= HANDFUL_KEYS or size >= HANDFUL_BYTES:
            yield some
            some, count, size = [], 0, 0
    if some:
        yield some
