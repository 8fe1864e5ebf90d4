"""One life of an engine: from taking the job to the next broken connection. A life ends by an exception, always.

    reader of each site --bytes--> journal --> pump --> core --Send--> writer of each channel --replies--> core

The shell has no opinions: it reads, hands in, performs the actions, and repeats. All of it runs in one thread.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping

import attrs
import trio

from bisync.config import Job
from bisync.core.actions import Checkpoint, Conflict, Notice, Send
from bisync.core.pair import Pair, Taken
from bisync.core.position import Position
from bisync.core.rules import Rules
from bisync.core.tag import Tag
from bisync.errors import SiteError
from bisync.runtime.beat import beat_at_source
from bisync.runtime.connection import Connection
from bisync.runtime.journal import Journal
from bisync.runtime.mirror import Mirror
from bisync.runtime.replica import Replica, asks_for_ack
from bisync.runtime.snapshot import SnapshotKeys, Spool
from bisync.runtime.target import holds_keys, scan_keys
from bisync.runtime.wallclock import WallClock
from bisync.runtime.writer import Memory, Writer, take

PIECE_BYTES = 1 << 18  # of a stream, handed to the core at once
TICK_S = 0.1
ACK_S = 1.0  # a server drops a replica that has not acknowledged for `repl-timeout`; Redis's own replicas do it so often
TAG_CHECK_S = 2.0  # how soon an engine that has nothing to write notices that it was superseded


@attrs.define
class Life:
    """The state of one life. Read by whoever reports."""

    job: Job
    rules: Rules
    engine: str
    memory: Memory
    journals: Mapping[str, Journal]
    mirror: Mirror
    clock: WallClock
    pair: Pair | None = None
    epoch: int = 0
    tags: dict[str, Tag] = attrs.field(factory=dict)  # newest committed, by channel
    replids: dict[str, str] = attrs.field(factory=dict)  # of the streams that are read, by site
    keys: SnapshotKeys | None = None  # of the full copy under way
    keys_total: int | None = None
    conflicts: int = 0  # settled
    following: bool = False  # are all streams attached, and is the full copy done?
    _cursors: dict[str, int] = attrs.field(factory=dict)
    _sends: dict[str, trio.MemorySendChannel[Send]] = attrs.field(factory=dict)
    _replicas: dict[str, Replica] = attrs.field(factory=dict)
    _wake: trio.Event = attrs.field(factory=trio.Event)
    _answered: trio.Event = attrs.field(factory=trio.Event)

    # -- the course of a life
    async def run(self) -> None:
        """Take the job, attach, copy where needed, follow. Ends only by an exception."""
        async with contextlib.AsyncExitStack() as stack:
            writers = await self._open_writers(stack)
            self.epoch, taken = await take(self.rules, list(writers.values()), self.engine, self.memory)
            self.pair = Pair(self.rules, self.epoch, self.engine, taken)
            self.tags = dict(taken.tags)
            async with trio.open_nursery() as nursery:
                for origin, writer in writers.items():
                    sends, receives = trio.open_memory_channel[Send](1)
                    self._sends[origin] = sends
                    nursery.start_soon(self._write, origin, writer, receives)
                nursery.start_soon(self._pump)
                nursery.start_soon(self._tick)
                await self._attach_all(nursery, taken, writers)

    async def _open_writers(self, stack: contextlib.AsyncExitStack) -> dict[str, Writer]:
        """By origin: the writer of the channel that reads it."""
        writers = {}
        for origin in self.rules.origins:
            site = self.job.site(self.rules.other(origin))
            connection = await stack.enter_async_context(Connection.open(site, self._timeout_s))
            writers[origin] = Writer(connection, self.rules, self.rules.channel(origin))
        return writers

    @property
    def _timeout_s(self) -> float:
        return self.job.engine.connect_timeout_ms / 1000

    async def _attach_all(self, nursery: trio.Nursery, taken: Taken, writers: Mapping[str, Writer]) -> None:
        """First the reverse channel, so that writes made during the copy are not missed."""
        assert self.pair is not None
        if self.rules.bidirectional:
            await nursery.start(self._follow, self.rules.target)
        elif self.job.engine.heartbeat_ms:
            nursery.start_soon(beat_at_source, self)
        if self.pair.copying.finished:
            await nursery.start(self._follow, self.rules.source)
            self.following = True
        else:
            await self._copy(nursery, writers[self.rules.source])

    # -- reading
    async def _follow(self, x: str, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read a site's stream from its floor, or anew where it has none."""
        assert self.pair is not None
        floor = self.pair.floors.now().get(x)
        async with self._replica(x) as replica:
            if floor is not None:
                asked = self.journals[x].recover(floor)
                attached = await replica.attach(asked, stream_only=True)
                self.journals[x].go_on_as(attached.replid)
                self._begin(x, Position(attached.replid, floor.offset, floor.database))
            else:
                attached = await replica.attach(None, stream_only=True)
                async for _ in replica.transfer():
                    pass
                self.journals[x].begin(attached.replid, attached.offset)
                self._begin(x, Position(attached.replid, attached.offset))
            task_status.started()
            await self._read_stream(x, replica)

    def _begin(self, x: str, position: Position) -> None:
        assert self.pair is not None
        self.pair.attach(x, position)
        self.replids[x] = position.replid
        self._cursors[x] = position.offset
        self._wake.set()

    @contextlib.asynccontextmanager
    async def _replica(self, x: str) -> AsyncIterator[Replica]:
        async with Connection.open(self.job.site(x), self._timeout_s) as connection:
            replica = self._replicas[x] = Replica(connection)
            yield replica

    async def _read_stream(self, x: str, replica: Replica) -> None:
        journal = self.journals[x]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._acknowledge, replica, journal)
            while True:
                while journal.full:
                    await self._woken(TICK_S)
                data = await replica.receive()
                journal.append(data)
                self._wake.set()
                if asks_for_ack(data):
                    await replica.acknowledge(journal.end)

    @staticmethod
    async def _acknowledge(replica: Replica, journal: Journal) -> None:
        while True:
            await replica.acknowledge(journal.end)
            await trio.sleep(ACK_S)

    async def _woken(self, most_s: float) -> None:
        with trio.move_on_after(most_s):
            await self._wake.wait()

    # -- the core
    async def _pump(self) -> None:
        """Hand in what was read, as far as the core wants it."""
        assert self.pair is not None
        while True:
            self._wake = trio.Event()
            busy = False
            for x, cursor in list(self._cursors.items()):
                if self.pair.wants(x) and (data := self.journals[x].read(cursor, PIECE_BYTES)):
                    self._cursors[x] = cursor + len(data)
                    self.pair.receive(x, data, self.clock.now_ms())
                    await self._perform()
                    busy = True
            if busy:
                await trio.lowlevel.checkpoint()
            else:
                await self._wake.wait()

    async def _tick(self) -> None:
        assert self.pair is not None
        while True:
            self.pair.tick(self.clock.now_ms())
            await self._perform()
            await trio.sleep(TICK_S)

    async def _perform(self) -> None:
        assert self.pair is not None
        for action in self.pair.take_actions():
            match action:
                case Send():
                    self._sends[action.origin].send_nowait(action)  # one is in flight at most, so there is room
                case Checkpoint():
                    self._committed(action)
                case Notice():
                    self.mirror.event(self.clock.now_ms(), action.level, action.kind, action.text)
                case Conflict():
                    self.conflicts += 1

    def _committed(self, action: Checkpoint) -> None:
        assert self.pair is not None
        self.tags[action.channel] = Tag.decode(action.tag)
        self.mirror.checkpoint(action.channel, action.tag)
        for x, journal in self.journals.items():
            told = self.pair.floors.told(x)
            if told is not None and x in self._cursors:
                journal.trim(told.offset)

    # -- writing
    async def _write(self, origin: str, writer: Writer, sends: trio.MemoryReceiveChannel[Send]) -> None:
        assert self.pair is not None
        while True:
            action = None
            with trio.move_on_after(TAG_CHECK_S):
                action = await sends.receive()
            if action is None:
                held = await writer.read_tag()
                self.pair.tag_read(origin, held)
                continue
            replies = await writer.send(action.payload, action.replies)
            self.pair.answered(origin, replies, self.clock.now_ms())
            await self._perform()
            self._answered.set()
            self._answered = trio.Event()
            self._wake.set()

    async def quiesce(self) -> None:
        """Let what is in flight land, and send nothing more."""
        if self.pair is None:
            return
        for x, channel in self.pair.channels.items():
            self.pair.hold(x, True)
        while any(c.link.in_flight for c in self.pair.channels.values()):
            await self._answered.wait()

    # -- the full copy
    async def _copy(self, nursery: trio.Nursery, writer: Writer) -> None:
        """A snapshot of the source, key by key through the core, then what follows it."""
        assert self.pair is not None
        source, target = self.rules.sites
        self.keys_total = await self._count_keys()
        spool = Spool(self.job.journal_folder)
        try:
            await self._hold_reverse(True)
            await nursery.start(self._spool_snapshot, spool, await self._applied_at_source())
            await self._hold_reverse(False)
            held = await holds_keys(self.job, self.rules, self._timeout_s)
            self.keys = SnapshotKeys(self.rules, held, self.clock.now_ms())
            async for data in spool.pieces():
                await self._hand_in(data)
            self.keys.close()
            if held:
                await self._remove_stale()
        finally:
            spool.close()
        self.pair.snapshot_ended(self.clock.now_ms())
        await self._perform()
        while not self.pair.copying.finished:
            await self._answered.wait()
        self.following = True
        self._wake.set()
        await trio.sleep_forever()

    async def _hand_in(self, data: bytes) -> None:
        assert self.pair is not None and self.keys is not None
        copied = self.keys.feed(data)
        for at in range(0, len(copied), 1000):
            while self.pair.copy_waits():
                await self._answered.wait()
            self.pair.copied(copied[at : at + 1000], self.clock.now_ms())
            await self._perform()
        await trio.lowlevel.checkpoint()

    async def _remove_stale(self) -> None:
        """Keys that the target holds and the snapshot does not: left by a broken copy, or the target's own."""
        assert self.pair is not None and self.keys is not None
        async for database, key in scan_keys(self.job, self.rules, self._timeout_s):
            stale = self.keys.stale(database, key)
            if stale is not None:
                while self.pair.copy_waits():
                    await self._answered.wait()
                self.pair.copied([stale], self.clock.now_ms())
                await self._perform()

    async def _hold_reverse(self, held: bool) -> None:
        """While the snapshot is taken nothing of ours may be under way to the source: then its clock is known exactly."""
        assert self.pair is not None
        reverse = self.pair.channels.get(self.rules.target)
        if reverse is None:
            return
        self.pair.hold(self.rules.target, held)
        while held and reverse.link.in_flight:
            await self._answered.wait()

    async def _applied_at_source(self) -> int:
        """An offset of the source's stream that holds all that this job ever wrote there."""
        async with Connection.open(self.job.site(self.rules.source), self._timeout_s) as connection:
            reply = await connection.request(b"INFO", b"replication")
        fields = dict(line.split(b":", 1) for line in reply.split(b"\r\n") if b":" in line) if isinstance(reply, bytes) else {}
        return int(fields.get(b"master_repl_offset", 0))

    async def _spool_snapshot(
        self, spool: Spool, least: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Receive the RDB into the spool, then the stream into the journal."""
        assert self.pair is not None
        source = self.rules.source
        async with self._replica(source) as replica:
            attached = await replica.attach(None, stream_only=False)
            if attached.offset < least and self.rules.bidirectional:
                raise SiteError(source, "the server is still sending an older snapshot to another replica")
            self.journals[source].begin(attached.replid, attached.offset)
            self.replids[source] = attached.replid
            self.pair.snapshot_taken(Position(attached.replid, attached.offset))
            task_status.started()
            async for data in replica.transfer():
                spool.write(data)
                await trio.lowlevel.checkpoint()
            spool.complete()
            self._cursors[source] = attached.offset
            await self._read_stream(source, replica)

    async def _count_keys(self) -> int | None:
        """How many keys the source says it has, for the progress; None where the account may not ask."""
        async with Connection.open(self.job.site(self.rules.source), self._timeout_s) as connection:
            reply = await connection.request(b"INFO", b"keyspace")
        if not isinstance(reply, bytes):
            return None
        total = 0
        for line in reply.split(b"\r\n"):
            if line.startswith(b"db") and self.rules.scope.target_database(int(line[2 : line.index(b":")])) is not None:
                total += int(line.split(b"keys=", 1)[1].split(b",", 1)[0])
        return total

