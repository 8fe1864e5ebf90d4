"""One life of an engine: from taking the job to the next broken connection. A life ends by an exception, always.

    reader of each site --bytes--> journal --> pump --> core --Send--> writer of each channel --replies--> core

The shell has no opinions: it reads, hands in, performs the actions, and repeats. All of it runs in one thread.
"""

import contextlib
from collections.abc import Mapping

import attrs
import trio

from bisync.config import Job
from bisync.core.actions import Checkpoint, Conflict, Notice, Send
from bisync.core.pair import UNRECORDED_MAX, Pair
from bisync.core.position import Position
from bisync.core.rules import Rules
from bisync.core.tag import Tag
from bisync.core.taking import Memory
from bisync.errors import StreamError
from bisync.runtime.beat import beat_at_source
from bisync.runtime.connection import Connection
from bisync.runtime.copier import Copier, Shelf
from bisync.runtime.intake import Intake
from bisync.runtime.mirror import Mirror
from bisync.runtime.pacer import Pacer
from bisync.runtime.reconciler import Reconciler
from bisync.runtime.wallclock import WallClock
from bisync.runtime.writer import Writer, take

PIECE_BYTES_MIN, PIECE_BYTES_MAX = 1 << 12, 1 << 18  # of a stream, handed to the core at once
PIECE_S_MIN, PIECE_S_MAX = 0.01, 0.05  # a piece that takes longer is followed by smaller ones: the loop must not stand
TICK_S = 0.1
TAG_CHECK_S = 2.0  # how soon an engine that has nothing to write notices that it was superseded


@attrs.define
class Life:
    """The state of one life. Read by whoever reports."""

    job: Job
    rules: Rules
    engine: str
    memory: Memory
    intakes: Mapping[str, Intake]
    mirror: Mirror
    clock: WallClock
    shelf: Shelf
    pacer: Pacer
    pair: Pair | None = None
    epoch: int = 0
    tags: dict[str, Tag] = attrs.field(factory=dict)  # newest committed, by channel
    replids: dict[str, str] = attrs.field(factory=dict)  # of the streams that are read, by site
    copier: Copier | None = None  # of the full copy under way
    reconciler: Reconciler | None = None  # where the sites are reconciled instead
    quarantined: int = 0  # commands set aside
    following: bool = False  # are all streams attached, and is the full copy done?
    _cursors: dict[str, int] = attrs.field(factory=dict)
    _sends: dict[str, trio.MemorySendChannel[Send]] = attrs.field(factory=dict)
    _wake: trio.Event = attrs.field(factory=trio.Event)
    _answered: trio.Event = attrs.field(factory=trio.Event)
    _ended: bool = False
    _waits: bool = False  # does reading stand still because conflicts wait for the log?

    # -- the course of a life
    async def run(self) -> None:
        """Take the job, attach, copy where needed, follow. Ends only by an exception."""
        try:
            await self._run()
        finally:
            self._ended = True
            self._answered.set()  # what is in flight will not be answered any more

    async def _run(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            writers = await self._open_writers(stack)
            counts = {writer.site.name: await writer.count_databases() for writer in writers.values()}
            self.epoch, taken = await take(self.rules, list(writers.values()), self.engine, self.memory)
            servers = {writer.site.name: await writer.read_server() for writer in writers.values()}
            rules = attrs.evolve(self.rules, database_counts=counts, servers=servers)
            self.pair = Pair(rules, self.epoch, self.engine, taken)
            self.tags = dict(taken.tags)
            self.pacer.begin_life(self.pair)
            self.mirror.begin_life(self.epoch, self._recorded, self.pair.copying.begun)
            async with trio.open_nursery() as nursery:
                for origin, writer in writers.items():
                    sends, receives = trio.open_memory_channel[Send](1)
                    self._sends[origin] = sends
                    nursery.start_soon(self._write, origin, writer, receives)
                nursery.start_soon(self._pump)
                nursery.start_soon(self._tick)
                await self._attach_all(nursery)

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
        return float(self.job.engine.connect_timeout_ms / 1000)

    async def _attach_all(self, nursery: trio.Nursery) -> None:
        """First the reverse channel, so that writes made during the copy are not missed."""
        assert self.pair is not None
        if not self.rules.bidirectional and self.job.engine.heartbeat_ms:
            nursery.start_soon(beat_at_source, self)
        if self.pair.copying.finished:
            # all stand before one is handed in: nothing may be applied at a site whose history is lost
            for x, position in [(x, await self._place(x)) for x in self.rules.origins]:
                self._begin(x, position)
            self.shelf.sweep()
            if self.pair.copying.reconciling:
                await self._reconcile()
            self._follow()
        elif self.pair.copying.compares:
            self._begin(self.rules.target, await self._place(self.rules.target))
            self.reconciler = self._new_reconciler()
            self._read_from(self.rules.source, await self.reconciler.attach(self.intakes[self.rules.source]))
            await self.reconciler.begin()
            await self._reconcile()
            self._follow()
        else:
            if self.rules.bidirectional:
                self._begin(self.rules.target, await self._place(self.rules.target))
            nursery.start_soon(self.pacer.feel)
            await self._copy()

    async def _copy(self) -> None:
        """The full copy, and then what follows it."""
        assert self.pair is not None
        source = self.intakes[self.rules.source]
        self.copier = Copier(
            *(self.job, self.pair, source, self.shelf, self.clock, self.pacer, self._perform, self._next_answer)
        )
        position = await self.copier.take_snapshot()
        self._read_from(self.rules.source, position)
        await self.copier.copy()
        while not self.pair.copying.finished:
            await self._answered.wait()
        self.shelf.clear()
        self._follow()
        await trio.sleep_forever()

    def _follow(self) -> None:
        self.following = True
        self._wake.set()

    def _new_reconciler(self) -> Reconciler:
        assert self.pair is not None
        return Reconciler(self.job, self.pair, self.clock, self.pacer, self._perform, self._next_answer)

    async def _reconcile(self) -> None:
        """Both streams are followed: compare the sites, and settle what is unequal."""
        self.reconciler = self.reconciler or self._new_reconciler()
        await self.reconciler.compare()

    async def _next_answer(self) -> None:
        await self._answered.wait()

    @property
    def refused(self) -> str:
        """Why a target refuses writes at present; empty: none does."""
        channels = self.pair.channels.values() if self.pair is not None else ()
        return next((f"{c.target} refuses writes: {c.refused}" for c in channels if c.refused), "")

    # -- reading
    async def _place(self, x: str) -> Position:
        """Where reading of a site's stream begins: at its floor, or anew where it has none. Its intake stands there."""
        assert self.pair is not None
        floor = self.pair.floors.now().get(x)
        intake = self.intakes[x]
        return await intake.begin() if floor is None else await intake.resume(floor)

    def _begin(self, x: str, position: Position) -> None:
        assert self.pair is not None
        self.pair.attach(x, position)
        self._read_from(x, position)

    def _read_from(self, x: str, position: Position) -> None:
        self.replids[x] = position.replid
        self._cursors[x] = position.offset
        self.mirror.reads(x, position.replid)
        self.intakes[x].grown = self._wake_pump
        self._wake_pump()

    def _wake_pump(self) -> None:
        self._wake.set()

    # -- the core
    async def _pump(self) -> None:
        """Hand in what was read, as far as the core wants it."""
        assert self.pair is not None
        size = PIECE_BYTES_MAX >> 2
        while True:
            self._wake = trio.Event()
            busy = False
            for x, cursor in list(self._cursors.items()):
                self._look_at(x, self.intakes[x])
                if not self.mirror.full and self.pair.wants(x) and (data := self.intakes[x].journal.read(cursor, size)):
                    began_s = trio.current_time()
                    self._cursors[x] = cursor + len(data)
                    self._tell_moments(x, cursor, cursor + len(data))
                    self._receive(x, data)
                    self._perform()
                    if not self.following:
                        self._go_on()  # a copy may wait for an echo
                    size = _next_size(size, len(data), trio.current_time() - began_s)
                    busy = True
            if busy:
                await trio.lowlevel.checkpoint()
            else:
                await self._wake.wait()

    def _look_at(self, x: str, intake: Intake) -> None:
        assert self.pair is not None
        if intake.error is not None:
            raise intake.error
        if intake.replid != self.replids[x]:
            self.replids[x] = intake.replid
            self.pair.renamed(x, intake.replid)
            self.mirror.reads(x, intake.replid)

    def _tell_moments(self, x: str, start: int, end: int) -> None:
        """When the bytes between two offsets were written, as the first reading found."""
        assert self.pair is not None
        for upto, moment in self.intakes[x].journal.moments.between(start, end):
            self.pair.channels[x].moments.add(upto, moment)

    def _receive(self, x: str, data: bytes) -> None:
        assert self.pair is not None
        try:
            self.pair.receive(x, data, self.clock.now_ms())
        except StreamError as e:
            e.site = x
            raise

    async def _tick(self) -> None:
        assert self.pair is not None
        while True:
            self.pair.tick(self.clock.now_ms())
            self._perform()
            self._tell_what_is_open()
            self._tell_what_is_unsettled()
            self._say_whether_it_waits()
            await trio.sleep(TICK_S)

    def _say_whether_it_waits(self) -> None:
        """Reading stops where too many conflicts wait for the log: that must be said where the log cannot say it."""
        assert self.pair is not None
        count, size = self.pair.arbiter.unrecorded, self.mirror.bytes_waiting / 1e6
        waits = (count >= UNRECORDED_MAX or self.mirror.full) and bool(self.mirror.failing)
        if waits and not self._waits:
            text = f"reading stops: {count:,} conflicts wait for the log ({size:,.0f} MB), which cannot be written"
            self.mirror.event("error", "store", f"{text} ({self.mirror.failing})")
        elif self._waits and not waits:
            self.mirror.event("info", "store", "reading goes on: the log of conflicts is written again")
        self._waits = waits

    def _recorded(self, numbers: list[int]) -> None:
        """These conflicts are on the disk."""
        assert self.pair is not None
        self.pair.recorded(numbers)
        self._wake_pump()  # it may have waited for this

    def _tell_what_is_open(self) -> None:
        """Conflicts that an earlier life left open in the store may be settled by now, and nobody has told."""
        assert self.pair is not None
        if self._caught_up and self.mirror.asks_what_is_open:
            units = (arbitration.unit for arbitration in self.pair.arbiter)
            self.mirror.still_open((u.database, u.key, u.element) for u in units)

    @property
    def _caught_up(self) -> bool:
        """Is everything open that earlier lives have left open?"""
        return self.following and self.pair is not None and all(c.reached_take for c in self.pair.channels.values())

    def _tell_what_is_unsettled(self) -> None:
        assert self.pair is not None
        if self._caught_up:
            self.mirror.tell_unsettled(self.pair.arbiter)

    def _perform(self) -> None:
        assert self.pair is not None
        for action in self.pair.take_actions():
            match action:
                case Send():
                    if not self.pair.copying.finished and not self.pair.copying.stands:
                        self.shelf.forget()  # before the target's writes reach the source
                    self._sends[action.origin].send_nowait(action)  # one is in flight at most, so there is room
                case Checkpoint():
                    self._committed(action)
                case Notice():
                    self.quarantined += action.kind == "quarantined"
                    self.mirror.event(action.level, action.kind, action.text)
                case Conflict():
                    self.mirror.conflict(action)

    def _committed(self, action: Checkpoint) -> None:
        assert self.pair is not None
        self.tags[action.channel] = Tag.decode(action.tag)
        self.mirror.checkpoint(action.channel, action.tag)
        for x, intake in self.intakes.items():
            told = self.pair.floors.told(x)
            if told is not None and x in self._cursors:
                intake.journal.trim(told.offset)
                self.pair.channels[x].moments.forget(told.offset)

    # -- writing
    async def _write(self, origin: str, writer: Writer, sends: trio.MemoryReceiveChannel[Send]) -> None:
        assert self.pair is not None
        while True:
            action = None
            with trio.move_on_after(TAG_CHECK_S):
                action = await sends.receive()
            if action is None:
                self.pair.tag_read(origin, await writer.read_tag())
                continue
            while not await self.pacer.admit(origin, TAG_CHECK_S):
                self.pair.tag_read(origin, await writer.read_tag())
            began_s = trio.current_time()
            replies = await writer.send(action.payload, action.replies)
            self.pacer.answered(origin, trio.current_time() - began_s)
            try:
                self.pair.answered(origin, replies, self.clock.now_ms())
            finally:
                self._perform()  # what was committed must be remembered, also where the life ends here
            self._go_on()
            self._wake.set()

    def _go_on(self) -> None:
        """Wake whoever waits for what a site answers."""
        self._answered.set()
        self._answered = trio.Event()

    async def quiesce(self) -> None:
        """Let what is in flight land, and send nothing more; what waits for its pace was not sent at all."""
        self.pacer.close()
        if self.pair is None:
            return
        for x in self.pair.channels:
            self.pair.hold(x, True)
        while not self._ended and any(
            c.link.in_flight and x not in self.pacer.waiting for x, c in self.pair.channels.items()
        ):
            with trio.move_on_after(TICK_S):
                await self._answered.wait()


def _next_size(size: int, done: int, took_s: float) -> int:
    """How many bytes to hand to the core next, after a piece of `size` (of which there were `done`) took so long."""
    if took_s > PIECE_S_MAX:
        return max(PIECE_BYTES_MIN, min(size, done) // 2)
    return min(PIECE_BYTES_MAX, size * 2) if took_s < PIECE_S_MIN and done == size else size
