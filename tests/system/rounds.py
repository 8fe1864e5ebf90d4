"""Rounds of the real core between two real servers, without an engine: its items are run here, one transaction each."""

import contextlib
import pathlib
from collections.abc import Iterator

import attrs
import hiredis

from bisync.core.arbitration import Arbiter
from bisync.core.channel import Channel
from bisync.core.link import Item, Link
from bisync.core.operation import Understanding
from bisync.core.resp import EXEC, MULTI, pack, select
from bisync.core.round import Rounds
from bisync.core.rules import Rules
from bisync.core.tag import open_key
from bisync.core.unit import Arbitration, Unit
from bisync.testing.servers import LocalServer
from tests.system.world import assert_same, held
from tests.testing.twins import RealConnection, parse

RULES = Rules("job", "east", "west")
TIMES = 30  # so many rounds must be enough for anything
K = Unit(0, b"k")
Words = tuple[bytes | str | int, ...]


class Carrier:
    """Two servers, and the rounds between them."""

    def __init__(self, servers: dict[str, LocalServer], rules: Rules = RULES) -> None:
        self.rules, self.servers = rules, servers
        self.connections = {name: RealConnection(server.port) for name, server in servers.items()}
        for name in servers:
            self.run(name, ("FLUSHALL",), ("FUNCTION", "FLUSH"))
        self.restart()

    def restart(self) -> None:
        """An engine that knows nothing."""
        self.arbiter = Arbiter(self.rules, {"east": 0, "west": 0})
        self.channels = {x: self._channel(x) for x in self.rules.sites}
        self.rounds = Rounds(self.rules, 7, self.arbiter, self.channels, {})
        self.sent: list[tuple[str, Item]] = []  # all items, each with the site where it was run

    def _channel(self, x: str) -> Channel:
        link = Link(b"tag", batch_commands=1, batch_bytes=1)
        return Channel(self.rules.channel(x), x, self.rules.other(x), link, Understanding(self.rules, x))

    def close(self) -> None:
        for connection in self.connections.values():
            connection.close()

    def run(self, site: str, *commands: Words, database: int = 0) -> list[object]:
        """A client's commands; their replies."""
        packed = [pack(*(w.encode() if isinstance(w, str) else w for w in words)) for words in commands]
        return parse(self.connections[site].execute(select(database) + b"".join(packed)))[1:]

    def arbitrate(self, unit: Unit = K, authority: str = "east") -> Arbitration:
        """Open an arbitration."""
        self.arbiter.arbitrate(unit, None, {}, authority)
        (found,) = [a for a in self.arbiter if a.unit == unit]
        return found

    def step(self) -> bool:
        """Run one item of each link, and show its echo. False where there is none."""
        self.rounds.begin()
        items = [(site, item) for site in self.rules.sites for item in self._towards(site).take()]
        for site, item in items:
            self._transaction(site, item)
            if item.number:
                self.rounds.came_back(site, item.number)
        return bool(items)

    def _towards(self, site: str) -> Link:
        return self.channels[self.rules.other(site)].link

    def _transaction(self, site: str, item: Item) -> None:
        self.sent.append((site, item))
        commands = b"".join(select(database) + command for database, command in item.parts)
        replies = parse(self.connections[site].execute(select(0) + MULTI + commands + EXEC))[1:]
        refused = [r for r in replies[1:-1] if isinstance(r, Exception)]
        if refused:
            self.rounds.refused(item, site, str(refused[0]))
            item.number = 0
            return
        results = replies[-1]
        assert isinstance(results, list)
        match item.kind:
            case "probe":
                self.rounds.probe_answered(site, item.probes, results[1::2])
            case "fence":
                self.rounds.fence_answered(item.number, results[1::2])
            case "restore":
                self.rounds.restore_answered(item.number, results[1::2])

    def drain(self) -> None:
        """Go on until nothing is left to do."""
        for _ in range(TIMES):
            if not self.step():
                return
        raise AssertionError(f"it never ends: {self.arbiter}, {[(site, item.kind) for site, item in self.sent[-9:]]}")

    def settle(self, unit: Unit = K, authority: str = "east") -> Arbitration:
        """Settle a unit; both sites are equal then, and no note is left."""
        found = self.arbitrate(unit, authority)
        self.drain()
        assert not len(self.arbiter), found.stuck
        self.assert_equal()
        for site in self.servers:
            assert self.run(site, ("EXISTS", open_key("job"))) == [0]
        return found

    def assert_equal(self) -> None:
        """Both sites hold the same: values, groups, expiries."""
        east, west = (held(self.servers[name]) for name in self.rules.sites)
        assert_same(east, west)

    def kinds(self) -> list[str]:
        """What was run, in order."""
        return [f"{item.kind} {site}" for site, item in self.sent]

    def names(self, kind: str) -> set[bytes]:
        """The names of the commands in all items of a kind."""
        return {name_of(command) for _, item in self.sent if item.kind == kind for _, command in item.parts}


def name_of(command: bytes) -> bytes:
    """The first word of a packed command."""
    reader = hiredis.Reader()
    reader.feed(command)
    words = reader.gets()
    assert isinstance(words, list)
    return bytes(words[0])


@contextlib.contextmanager
def carrier(servers: dict[str, LocalServer], **rules: object) -> Iterator[Carrier]:
    """A carrier for the block, between servers that are emptied for it."""
    made = Carrier(servers, attrs.evolve(RULES, **rules))
    try:
        yield made
    finally:
        made.close()


def pair_of_servers(folder: pathlib.Path, programs: dict[str, str | None] | None = None) -> dict[str, LocalServer]:
    """Two servers, started; `programs` gives other ones than that on PATH."""
    chosen = programs or {}
    return {name: LocalServer(folder / name, program=chosen.get(name)).start() for name in RULES.sites}
