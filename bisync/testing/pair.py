"""A simulated pair: two simulated sites, one engine of the real core between them, and every fault at any moment.

Each step is one thing that may happen: a client writes, the engine reads some bytes of a stream, a server executes what
was sent to it, the engine reads the replies, time passes, the engine is killed (what it had in its sockets may still
arrive, much later), another one takes the job. Nothing happens by itself, so a history can be repeated exactly.

    pair = SimulatedPair(Rules("job", "east", "west"))
    pair.start()
    pair.write("east", [b"INCR", b"n"])
    pair.drain()
    assert pair.equal
"""

from collections.abc import Callable, Iterator, Sequence

import attrs
import hiredis

from bisync.core.actions import Checkpoint, Conflict, Notice, Send
from bisync.core.delivery import RETRY_MS_MAX
from bisync.core.key_names import KeyNames
from bisync.core.moment import Moment
from bisync.core.pair import Pair
from bisync.core.position import Clock, Position
from bisync.core.rdb import String, Value
from bisync.core.resp import EXEC, MULTI, pack, select
from bisync.core.round import Notes
from bisync.core.rules import Rules
from bisync.core.snapshot import SnapshotKeys
from bisync.core.stream import Entry, StreamReader
from bisync.core.tag import Tag, open_key, tag_key
from bisync.core.taking import Memory, Taking, read_notes
from bisync.errors import BisyncError, Superseded, TagLost
from bisync.testing.comparison import Held, SimulatedComparison
from bisync.testing.site import SimulatedConnection, SimulatedSite

QUIET_STEPS_MAX = 20_000
"""A pair that is not drained after so many rounds never will be."""


@attrs.define(eq=False)
class _Socket:
    """A connection of the engine to a site: what was sent and not executed, and the replies not read."""

    connection: SimulatedConnection
    sent: list[tuple[bytes, int]] = attrs.field(factory=list)
    replies: list[object] = attrs.field(factory=list)
    awaited: int = 0

    def ask(self, *commands: bytes) -> list[object]:
        """Send, execute, read: the replies of all commands."""
        parser = hiredis.Reader()
        parser.feed(self.connection.execute(b"".join(commands)))
        return [parser.gets() for _ in commands]


class SimulatedPair:
    """Two sites and an engine. Methods named after what happens; a step that cannot happen now does nothing.

    `sites` gives sites that exist already, so that a second engine can be set upon those of another pair; `engine` is
    then what tells the engines apart.
    """

    def __init__(self, rules: Rules, *, sites: dict[str, SimulatedSite] | None = None, engine: str = "engine") -> None:
        self.rules = rules
        self.sites = sites or {name: SimulatedSite(name) for name in rules.sites}
        self.now_ms = self.sites[rules.source].now_ms
        self.pair: Pair | None = None  # None: no engine runs
        self.notices: list[Notice] = []
        self.log: list[Conflict] = []  # of conflicts, as a store keeps it: one record each, however often it was found
        self.flushing = True  # is what the engine tells the log written at once? Else when `flush` is called
        self.moment: Callable[[int], Moment] = lambda us: Moment(us, us)  # what the engine knows of a write's time
        self.engines = 0
        self.lives = 0
        self.superseded: Superseded | None = None  # why no engine runs
        self._name, self._epoch = engine, 0
        self._memory = Memory()
        self._clients = {name: site.connect() for name, site in self.sites.items()}
        self._sockets: dict[str, _Socket] = {}  # by origin
        self._logged: dict[tuple[int, bytes, object], list[int]] = {}  # by unit: places in the log
        self._unwritten: list[Conflict] = []  # told to the log, and lost if the engine is killed now
        self._written: dict[str, list[tuple[int, int]]] = {name: [] for name in self.sites}  # offset, time in µs
        self._marked: dict[str, int] = {}  # of these, how many the engine of this life was told
        self._now_us = 0  # beyond `now_ms`: no two writes are made at the same time
        self._orphans: list[_Socket] = []  # of killed engines, with bytes that may still arrive
        self._cursors: dict[str, int] = {}
        self._snapshot: Iterator[String | Value] | None = None
        self._keys: SnapshotKeys | None = None
        self._holding = False  # is the reverse channel held for the snapshot?
        self._taken: tuple[list[String | Value], Position] | None = None  # a snapshot the engine has not heard of
        self._spooled: tuple[list[String | Value], Position, Clock] | None = (
            None  # the newest one, with what it had seen
        )
        self.spools = False  # does a life go on with the snapshot of an earlier one?
        self._comparison: SimulatedComparison | None = None  # of this life, where the sites are being reconciled

    def __repr__(self) -> str:
        return f"<SimulatedPair {self.sites} {self.pair}>"

    # -- clients
    def write(self, site: str, *commands: Sequence[bytes], database: int = 0) -> list[object]:
        """A client runs a command, or several in a MULTI. The replies, errors included (they are the client's)."""
        packed = [pack(*c) for c in commands]
        wrapped = packed if len(packed) == 1 else [MULTI, *packed, EXEC]
        parser = hiredis.Reader()
        parser.feed(self._clients[site].execute(select(database) + b"".join(wrapped)))
        self._now_us += 1
        self._written[site].append((self.sites[site].offset, self.now_ms * 1000 + self._now_us))
        return [parser.gets() for _ in range(len(wrapped) + 1)][1:]

    # -- the engine's life
    def start(self) -> bool:
        """Another engine takes the job, knowing only what the store holds. False where a site refuses its tag."""
        self.kill()
        self.engines += 1
        self._memory = Memory(tags=self._memory.tags)
        return self._live()

    def start_and_die(self) -> None:
        """An engine is killed while it takes the job: it has written its tag at one site, and not at the other."""
        self.kill()
        self.engines += 1
        self._memory = Memory(tags=self._memory.tags)
        self._connect()
        taking = self._taking()
        x = self.rules.origins[0]
        self._replace(x, taking)
        self._sockets = {}

    def reconnect(self) -> bool:
        """The engine's connections break: its next life remembers this one. False where a site refuses its tag."""
        if self.pair is None:
            return False
        self._remember(self.pair)
        self.kill()
        return self._live()

    def begin_anew(self, stands: str) -> bool:
        """A stream has a gap: the job begins anew, and what was not read yet of either stream is lost to the engine.

        `stands`: the site whose values stand where nothing else decides. False where a site refuses its tag.
        """
        if self.pair is not None:
            self._remember(self.pair)
        self.kill()
        self._spooled = None
        self._memory = attrs.evolve(self._memory, anew=stands)
        return self._live()

    def _live(self) -> bool:
        """Take the job, and read on from the floors."""
        self.lives += 1
        self._connect()
        try:
            taking = self._taking()
            taking.check_owner()
        except Superseded as e:
            self.superseded = e
            return False
        if not all([self._replace(x, taking) for x in self._sockets]):
            self._sockets = {}
            return False
        notes = {self.rules.other(x): self._read_notes(x) for x in self._sockets}
        self._epoch, self._memory = taking.epoch, attrs.evolve(self._memory, anew="")
        self.pair = Pair(self.rules, taking.epoch, self._engine, taking.believed(notes))
        self.superseded = None
        if self.rules.bidirectional:
            self._attach(self.rules.target)
        if self.pair.copying.finished:
            self._attach(self.rules.source)
        return True

    @property
    def _engine(self) -> str:
        return f"{self._name}{self.engines}"

    def _connect(self) -> None:
        self._sockets = {x: _Socket(self.sites[self.rules.other(x)].connect()) for x in self.rules.origins}
        self._cursors, self._snapshot, self._keys = {}, None, None
        self._marked, self._unwritten = dict.fromkeys(self.sites, 0), []
        self._holding, self._taken, self._comparison = False, None, None

    def _taking(self) -> Taking:
        held = {self.rules.channel(x): self._watch(x) for x in self._sockets}
        return Taking(self.rules, self._engine, self._memory, held)

    def _watch(self, x: str) -> Tag | None:
        key = tag_key(self.rules.job, self.rules.channel(x))
        *_, held = self._sockets[x].ask(select(0), pack(b"WATCH", key), pack(b"GET", key))
        return Tag.decode(held) if isinstance(held, bytes) else None

    def _replace(self, x: str, taking: Taking) -> bool:
        name = self.rules.channel(x)
        tag, forget_notes = taking.tag(name), taking.forgets_notes(name)
        key = tag_key(self.rules.job, self.rules.channel(x))
        forget = [pack(b"DEL", open_key(self.rules.job))] if forget_notes else []
        asked = self._sockets[x].ask(
            *(MULTI, pack(b"SET", key, tag.encode()), *forget, EXEC, select(0), pack(b"WATCH", key), pack(b"GET", key))
        )
        assert asked[-4] is not None, "nothing else runs while an engine takes the job"
        return isinstance(asked[-4], list)

    def _read_notes(self, x: str) -> Notes:
        (reply,) = self._sockets[x].ask(pack(b"HGETALL", open_key(self.rules.job)))
        assert isinstance(reply, list)
        return read_notes(reply)

    def _attach(self, x: str) -> None:
        assert self.pair is not None
        floor = self.pair.floors.now().get(x)
        site = self.sites[x]
        if floor is None:
            floor = Position(site.replid, site.offset)
            site.snapshot()  # a full sync: the stream selects its database anew
        self.pair.attach(x, floor)
        self._cursors[x] = floor.offset
        self._collect()

    def _remember(self, pair: Pair) -> None:
        notes = {site: dict(notes) for site, notes in pair.rounds.notes.items()}
        self._memory = Memory(self._epoch, self._engine, self._memory.tags, notes)

    def kill(self) -> None:
        """The engine is gone. What it had sent and no server has read yet may still arrive."""
        for socket in self._sockets.values():
            if socket.sent:
                self._orphans.append(socket)
            else:
                socket.connection.close()
        self.pair, self._sockets = None, {}

    # -- steps
    def read(self, x: str, size: int) -> bool:
        """The engine reads up to `size` bytes of a stream, or a piece of the snapshot while the source is copied."""
        if self.pair is None:
            return False
        if x == self.rules.source and not self.pair.copying.finished:
            return self._copy(size)
        if x not in self._cursors or not self.pair.wants(x):
            return False
        site = self.sites[x]
        at = self._cursors[x] - site.stream_start
        data = bytes(site.stream[at : at + size])
        if not data:
            return False
        self._cursors[x] += len(data)
        self._tell_moments(x)
        self._guarded(lambda pair: pair.receive(x, data, self.now_ms))
        return True

    def _tell_moments(self, x: str) -> None:
        assert self.pair is not None
        for offset, us in self._written[x][self._marked[x] :]:
            self.pair.channels[x].moments.add(offset, self.moment(us))
        self._marked[x] = len(self._written[x])

    def flush(self) -> None:
        """The log of conflicts is written."""
        for told in self._unwritten:
            near = self._logged.setdefault((told.database, told.key, told.element), [])
            same = next((n for n in near if _same_conflict(self.log[n], told)), None)
            if same is None:
                near.append(len(self.log))
                self.log.append(told)
            else:
                self.log[same] = told
        if self.pair is not None:
            self.pair.recorded([told.number for told in self._unwritten])
        self._unwritten = []

    def _copy(self, size: int) -> bool:
        """One step of the full copy: take the snapshot, hand in some keys, end."""
        pair = self.pair
        assert pair is not None
        if self._snapshot is None:
            return self._take_snapshot(pair)
        if pair.copying.compares:
            return False  # it waits for the transaction that says that both streams are followed
        if pair.copying.ended or pair.copy_waits():
            return False
        assert self._keys is not None
        items = [item for _, item in zip(range(max(1, size // 50)), self._snapshot)]
        if items:
            copied = [key for item in items for key in self._keys.copied(item, self.now_ms)]
            self._guarded(lambda p: p.copied(copied, self.now_ms))
            return True
        if self._keys.names is not None:
            places = sorted(self.dataset(self.rules.target))
            gone = [key for place in places if (key := self._keys.stale(*place)) is not None]
            self._guarded(lambda p: p.found_at_target(gone, self.now_ms))
        self._guarded(lambda p: p.snapshot_ended(self.now_ms))
        return True

    def _take_snapshot(self, pair: Pair) -> bool:
        """In three steps: hold the reverse channel, let the source take its snapshot, hear of it and let go.

        While the snapshot is taken nothing may be under way to the source.
        """
        source, target = self.rules.sites
        reverse = pair.channels.get(target)
        spooled = self._spooled if self.spools and pair.copying.stands and not pair.copying.compares else None
        if spooled is not None and pair.floors.now().get(source) == spooled[1]:
            self._use_snapshot(pair, *spooled)
            self._guarded(lambda p: p.tick(self.now_ms))
        elif reverse is not None and not self._holding:
            self._holding = True
            pair.hold(target, True)
        elif self._taken is None:
            if reverse is not None and reverse.link.held and reverse.link.in_flight:
                return False
            site = self.sites[source]
            self._taken = site.snapshot(), Position(site.replid, site.offset)
        else:
            items, position = self._taken
            self._use_snapshot(pair, items, position, None)
            if reverse is not None:
                pair.hold(target, False)
            self._guarded(lambda p: p.tick(self.now_ms))
        return True

    def _use_snapshot(self, pair: Pair, items: list[String | Value], position: Position, seen: Clock | None) -> None:
        source, target = self.rules.sites
        self._snapshot = iter(items)
        if pair.copying.compares:
            pair.snapshot_taken(position)
            self._cursors[source] = position.offset
            self._guarded(lambda p: p.snapshot_ended(self.now_ms))
            return
        self._keys = SnapshotKeys(self.rules, KeyNames(b"") if self.dataset(target) else None)
        self._spooled = items, position, pair.snapshot_taken(position, seen)
        self._cursors[source] = position.offset

    def compare(self, size: int) -> bool:
        """One step of the comparison of both sites, of `size` keys at a time. False: there is nothing to be done."""
        if self.pair is None or not self.pair.copying.finished or self.pair.copying.done:
            return False
        if self._comparison is None:
            self._comparison = SimulatedComparison(self.rules.sites, self.dataset, lambda x: self.sites[x].offset)
        comparison = self._comparison
        done = False

        def step(pair: Pair) -> None:
            nonlocal done
            done = comparison.step(pair, size, self.now_ms)

        self._guarded(step)
        return done

    def deliver(self, x: str) -> bool:
        """The target of the channel that reads `x` executes what was sent to it."""
        socket = self._sockets.get(x)
        if socket is None or not socket.sent:
            return False
        data, replies = socket.sent.pop(0)
        parser = hiredis.Reader()
        parser.feed(socket.connection.execute(data))
        socket.replies += [parser.gets() for _ in range(replies)]
        socket.awaited = replies
        return True

    def answer(self, x: str) -> bool:
        """The engine reads the replies."""
        socket = self._sockets.get(x)
        if socket is None or not socket.replies:
            return False
        replies, socket.replies = socket.replies, []
        self._guarded(lambda pair: pair.answered(x, replies, self.now_ms))
        return True

    def orphan(self, size: int | None = None) -> bool:
        """A server reads what a killed engine left in a socket: all of it, or its first bytes only."""
        if not self._orphans:
            return False
        socket = self._orphans.pop(0)
        socket.connection.execute(b"".join(data for data, _ in socket.sent)[:size])
        socket.connection.close()
        return True

    def pass_time(self, ms: int) -> None:
        """Time passes, everywhere."""
        self.now_ms += ms
        for site in self.sites.values():
            site.now_ms += ms
        self._guarded(lambda pair: pair.tick(self.now_ms))

    def expire(self, x: str) -> None:
        """A site deletes the keys that have reached their expiry, as a server's timer does now and then."""
        self.sites[x].expire_keys()

    def _guarded(self, step: Callable[[Pair], None]) -> None:
        """Run a step of the core; a life that ends begins again, as an engine's does."""
        if self.pair is None:
            return
        try:
            try:
                step(self.pair)
            finally:
                self._collect()  # what was committed must be remembered, also where the life ends here
        except TagLost:
            self._spooled = None  # what took the tag away may have taken copied keys away
            self.reconnect()
        except Superseded as e:
            self.pair, self.superseded = None, e

    def _collect(self) -> None:
        assert self.pair is not None
        for action in self.pair.take_actions():
            match action:
                case Send():
                    if not self.pair.copying.stands:
                        self._spooled = None
                    self._sockets[action.origin].sent.append((action.payload, action.replies))
                case Notice():
                    self.notices.append(action)
                case Conflict():
                    self._unwritten.append(action)
                case Checkpoint():
                    tags = {**self._memory.tags, action.channel: Tag.decode(action.tag)}
                    self._memory = attrs.evolve(self._memory, tags=tags)
        if self.flushing:
            self.flush()

    # -- the end
    def drain(self) -> None:
        """Let everything run until nothing more happens. The sites must take writes.

        Raises BisyncError where that never comes, Superseded where another engine has taken the job.
        """
        while self.orphan():
            pass
        if self.pair is None and not self.start():
            raise self.superseded or BisyncError(f"{self!r}: a site refuses the tag")
        self.flushing = True
        self.flush()  # reading may wait for it
        for _ in range(QUIET_STEPS_MAX):
            for x in self.sites:
                self.expire(x)
            if any([self.read(x, 1 << 16) | self.deliver(x) | self.answer(x) for x in self.rules.origins]):
                continue
            if self.compare(1 << 16):
                continue
            if self.pair is None:
                raise self.superseded or BisyncError(f"{self!r} could not go on")
            if all(c.link.idle for c in self.pair.channels.values()):
                if self.pair.copying.done:
                    return
                raise BisyncError(f"{self!r}: the full copy is never finished")
            self.pass_time(RETRY_MS_MAX)  # a refused transaction waits for its time
        raise BisyncError(f"{self!r} is never quiet")

    @property
    def equal(self) -> bool:
        """Do both sites hold the same, as far as the job copies it?"""
        source, target = self.rules.sites
        return self.dataset(source) == self.dataset(target)

    def dataset(self, site: str) -> dict[tuple[int, bytes], Held]:
        """What clients see of the keys that the job copies; databases as the source numbers them."""
        scope = self.rules.scope
        home = scope.inverted() if site == self.rules.target else scope
        found = {}
        for (database, key), held in self.sites[site].dataset().items():
            number = database if site == self.rules.source else home.target_database(database)
            if number is not None and scope.holds(number, key):
                found[number, key] = held
        return found

    def differences(self) -> list[tuple[tuple[int, bytes], Held | None, Held | None]]:
        """The keys that are not equal, with what each site holds."""
        a, b = (self.dataset(site) for site in self.rules.sites)
        return [(k, a.get(k), b.get(k)) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]

    def entries(self, site: str) -> list[Entry]:
        """Everything in a site's stream, cut into what was executed as one; what the engine wrote has its tag."""
        held = self.sites[site]
        own = tag_key(self.rules.job, self.rules.channel(self.rules.other(site)))
        return StreamReader(Position(held.replid, held.stream_start), own).feed(bytes(held.stream))


def _same_conflict(a: Conflict, b: Conflict) -> bool:
    """Of one unit: is it the same one, found again by a later life? Then some write of a site is in both."""
    shared = a.offsets.keys() & b.offsets.keys()
    return any(a.offsets[x][0] <= b.offsets[x][1] and b.offsets[x][0] <= a.offsets[x][1] for x in shared)
