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

from collections.abc import Iterable, Iterator, Sequence

import attrs
import hiredis

from bisync.core.actions import Notice, Send
from bisync.core.pair import Pair
from bisync.core.position import Position
from bisync.core.resp import EXEC, MULTI, pack, select
from bisync.core.rules import Rules
from bisync.core.snapshot import SnapshotKeys
from bisync.core.tag import Tag, open_key, tag_key
from bisync.core.taking import Memory, Taking, read_notes
from bisync.errors import BisyncError, Superseded, TagLost
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
    """Two sites and an engine. Methods named after what happens; a step that cannot happen now does nothing."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.sites = {name: SimulatedSite(name) for name in rules.sites}
        self.now_ms = self.sites[rules.source].now_ms
        self.pair: Pair | None = None  # None: no engine runs
        self.notices: list[Notice] = []
        self.engines = 0
        self._memory = Memory()
        self._clients = {name: site.connect() for name, site in self.sites.items()}
        self._sockets: dict[str, _Socket] = {}  # by origin
        self._orphans: list[_Socket] = []  # of killed engines, with bytes that may still arrive
        self._cursors: dict[str, int] = {}
        self._snapshot: Iterator[object] | None = None
        self._keys: SnapshotKeys | None = None

    def __repr__(self) -> str:
        return f"<SimulatedPair {self.sites} {self.pair}>"

    # -- clients
    def write(self, site: str, *commands: Sequence[bytes], database: int = 0) -> list[object]:
        """A client runs a command, or several in a MULTI. The replies, errors included (they are the client's)."""
        packed = [pack(*c) for c in commands]
        wrapped = packed if len(packed) == 1 else [MULTI, *packed, EXEC]
        parser = hiredis.Reader()
        parser.feed(self._clients[site].execute(select(database) + b"".join(wrapped)))
        return [parser.gets() for _ in range(len(wrapped) + 1)][1:]

    # -- the engine's life
    def start(self) -> None:
        """An engine takes the job. Without the memory of an earlier one, as after a kill."""
        self.kill()
        self.engines += 1
        engine = f"engine{self.engines}"
        self._memory = attrs.evolve(self._memory, epoch=0)  # what remains is the store's copy of the tags
        self._sockets = {x: _Socket(self.sites[self.rules.other(x)].connect()) for x in self.rules.origins}
        held = {self.rules.channel(x): self._watch(x) for x in self._sockets}
        taking = Taking(self.rules, engine, self._memory, held)
        for x in self._sockets:
            self._replace(x, taking.tag(self.rules.channel(x)))
        notes = {self.rules.other(x): self._read_notes(x) for x in self._sockets}
        self.pair = Pair(self.rules, taking.epoch, engine, taking.believed(notes))
        self._cursors, self._snapshot, self._keys = {}, None, None
        if self.rules.bidirectional:
            self._attach(self.rules.target)
        if self.pair.copying.finished:
            self._attach(self.rules.source)

    def _watch(self, x: str) -> Tag | None:
        key = tag_key(self.rules.job, self.rules.channel(x))
        *_, held = self._sockets[x].ask(select(0), pack(b"WATCH", key), pack(b"GET", key))
        return Tag.decode(held) if isinstance(held, bytes) else None

    def _replace(self, x: str, tag: Tag) -> None:
        key = tag_key(self.rules.job, self.rules.channel(x))
        asked = self._sockets[x].ask(
            MULTI, pack(b"SET", key, tag.encode()), EXEC, select(0), pack(b"WATCH", key), pack(b"GET", key)
        )
        assert asked[2] is not None, "nothing else runs while an engine takes the job"

    def _read_notes(self, x: str) -> "dict[object, object]":
        (reply,) = self._sockets[x].ask(pack(b"HGETALL", open_key(self.rules.job)))
        assert isinstance(reply, list)
        return read_notes(reply)  # type: ignore[return-value]

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

    def kill(self) -> None:
        """The engine is gone. What it had sent and no server has read yet may still arrive."""
        if self.pair is not None:
            self._orphans += [s for s in self._sockets.values() if s.sent]
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
        self._guarded(lambda pair: pair.receive(x, data, self.now_ms))
        return True

    def _copy(self, size: int) -> bool:
        """One step of the full copy: hold the reverse channel, take the snapshot, hand in some keys, end."""
        pair = self.pair
        assert pair is not None
        source, target = self.rules.sites
        if self._snapshot is None:
            if self.rules.bidirectional:
                pair.hold(target, True)
                if pair.channels[target].link.in_flight:
                    return False
            site = self.sites[source]
            self._snapshot = iter(site.snapshot())
            held = any(not k.startswith(b"bisync:") for _, k in self.sites[target].dataset())
            self._keys = SnapshotKeys(self.rules, remember=held)
            pair.snapshot_taken(Position(site.replid, site.offset))
            self._cursors[source] = site.offset
            if self.rules.bidirectional:
                pair.hold(target, False)
            self._guarded(lambda p: p.tick(self.now_ms))
            return True
        if pair.copying.ended:
            return False
        assert self._keys is not None
        items = [item for _, item in zip(range(max(1, size // 50)), self._snapshot)]
        if items:
            copied = [key for item in items for key in self._keys.copied(item)]  # type: ignore[arg-type]
            self._guarded(lambda p: p.copied(copied, self.now_ms))
        else:
            stale = [self._keys.stale(*place) for place in sorted(self.sites[target].dataset())]
            gone = [key for key in stale if key is not None] if self._keys.remember else []
            self._guarded(lambda p: p.copied(gone, self.now_ms))
            self._guarded(lambda p: p.snapshot_ended(self.now_ms))
        return True

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

    def orphan(self) -> bool:
        """A server reads what a killed engine left in a socket."""
        if not self._orphans:
            return False
        socket = self._orphans.pop(0)
        for data, _ in socket.sent:
            socket.connection.execute(data)
        return True

    def pass_time(self, ms: int) -> None:
        """Time passes, everywhere."""
        self.now_ms += ms
        for site in self.sites.values():
            site.now_ms += ms
        self._guarded(lambda pair: pair.tick(self.now_ms))

    def _guarded(self, step: "object") -> None:
        """Run a step of the core; a life that ends begins again, as an engine's does."""
        if self.pair is None:
            return
        try:
            step(self.pair)  # type: ignore[operator]
            self._collect()
        except TagLost:
            self._memory = attrs.evolve(self._memory, notes=dict(self.pair.rounds.notes))
            self.start()
        except Superseded:
            self.pair = None

    def _collect(self) -> None:
        assert self.pair is not None
        for action in self.pair.take_actions():
            if isinstance(action, Send):
                self._sockets[action.origin].sent.append((action.payload, action.replies))
            elif isinstance(action, Notice):
                self.notices.append(action)
            elif hasattr(action, "tag"):
                tags = {**self._memory.tags, action.channel: Tag.decode(action.tag)}
                self._memory = attrs.evolve(self._memory, tags=tags)

    # -- the end
    def drain(self) -> None:
        """Let everything run until nothing more happens. Raises BisyncError where that never comes."""
        if self.pair is None:
            self.start()
        while self.orphan():
            pass
        for _ in range(QUIET_STEPS_MAX):
            if not any([self.read(x, 1 << 16) | self.deliver(x) | self.answer(x) for x in self.rules.origins]):
                return
        raise BisyncError(f"{self!r} is never quiet")

    @property
    def equal(self) -> bool:
        """Do both sites hold the same?"""
        held = [site.dataset() for site in self.sites.values()]
        return held[0] == held[1]

    def differences(self) -> "Iterable[tuple[object, object, object]]":
        """The keys that are not equal, with what each site holds."""
        a, b = (site.dataset() for site in self.sites.values())
        return [(k, a.get(k), b.get(k)) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
