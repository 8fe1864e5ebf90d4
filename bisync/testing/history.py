"""Random histories of a simulated pair, each the same for the same seed: thousands a minute, without a server.

    for seed in range(1000):
        pair, clients = run_history(seed)
        assert clients.broken() == [], seed

A history that fails is repeated by its seed alone. The Hypothesis state machine of `machine` finds smaller examples;
these are faster.
"""

import random
from collections.abc import Callable

import attrs

from bisync.core.moment import Moment
from bisync.core.patterns import Scope
from bisync.core.rules import LAST_WRITER, Rules
from bisync.testing import oracle
from bisync.testing.clients import Clients
from bisync.testing.pair import SimulatedPair
from bisync.testing.strategies import Command

SCOPES = (
    Scope(),
    Scope(),
    Scope(exclude=(b"tmp:*",)),
    Scope(databases={0: 0, 1: 3}, include=(b"k?", b"log:*", b"sum", b"pushed", b"added", b"last", b"fields")),
)
"""What the jobs of `course` copy, one in turn."""

OUTSIDE = b"tmp:"
"""What the names of the keys begin with that the clients write beside those of the job."""

SOON_MS = 10_000
"""After so long every key has expired whose expiry was to come soon."""


@attrs.frozen
class Course:
    """What kind of history it is."""

    rules: Rules
    steps: int = 100
    crash: float = 0.01  # of the steps, how many kill the engine
    refusals: float = 0.0  # of the steps, how many let a site begin to refuse writes
    blur_us: int = 0  # by how much the engine's estimate of a write's time may be off
    lazy: bool = False  # is the log of conflicts written now and then only?
    apart: bool = False  # does each site write to keys of its own?
    databases: tuple[int, ...] = (0, 0, 0, 1)  # as the source numbers them, one in turn
    writes: str = "any"  # a name in WRITES: what the clients write
    spools: bool = False  # does a full copy that broke off go on with the same snapshot?
    exact: bool = False  # does it begin with a finished copy, and is its log of conflicts held against the oracle?


def course(seed: int) -> Course:
    """The course of a seed: all kinds of jobs, crash rates and sizes of transactions, in turn."""
    draw = random.Random(-1 - seed)
    rules = Rules(
        "job",
        "east",
        "west",
        target_not_empty="overwrite",
        bidirectional=draw.random() > 0.1,
        scope=draw.choice(SCOPES),
        policy=draw.choice([LAST_WRITER, LAST_WRITER, "east", "west"]),
        heartbeat_ms=draw.choice([0, 0, 0, 1000]),
        batch_commands=draw.choice([1, 3, 1000]),
        queue_bytes=draw.choice([2_000, 1 << 20]),
    )
    steps, crash = draw.choice([40, 120, 300]), draw.choice([0, 0.01, 0.05])
    refusals, apart = draw.choice([0, 0, 0.02]), draw.random() < 0.3
    kind = Course(rules, steps, crash, refusals, draw.choice([0, 0, 50_000]), draw.random() < 0.3, apart)
    writes, exact = draw.choice(["any", "any", "any", "expiring", "wiping"]), draw.random() < 0.2
    if writes == "wiping":  # a flush is not copied where it would delete keys that the job leaves alone
        rules = attrs.evolve(rules, scope=Scope())
    elif exact:
        rules = attrs.evolve(rules, bidirectional=True)
    if draw.random() < 0.2:
        rules = attrs.evolve(rules, policies=(((b"?f", b"?x"), draw.choice([LAST_WRITER, "east", "west"])),))
    if draw.random() < 0.2:
        rules = attrs.evolve(rules, rebuild_bytes=1)
    exact = exact and writes != "wiping"
    spools = draw.random() < 0.5
    if draw.random() < 0.25 and rules.bidirectional:
        rules = attrs.evolve(rules, target_not_empty="reconcile")
    return attrs.evolve(kind, rules=rules, writes=writes, exact=exact, spools=spools)


def expiring(draw: random.Random, key: bytes, now_ms: int) -> Command:
    """A client's write to a key that expires while the history lasts; odd times, as the steps of the clock are even."""
    v, time = b"%d" % draw.randrange(9), b"%d" % (now_ms + draw.choice([1501, 4999]))
    return draw.choice([(b"SET", key, v, b"PXAT", time), (b"SET", key, v), (b"DEL", key), (b"APPEND", key, v)])


def command(draw: random.Random, keys: list[bytes], now_ms: int) -> Command:
    """A client's write to one or two of the keys. Their expiries come long after the history."""
    k, other, v = draw.choice(keys), draw.choice(keys), b"%d" % draw.randrange(9)
    time = b"%d" % (now_ms + draw.choice([10**11, 2 * 10**11]))
    table: list[Command] = [
        (b"SET", k, v),
        (b"SET", k, v, b"PXAT", time),
        (b"SET", k, v, b"NX"),
        (b"MSET", k, v, other, v),
        (b"APPEND", k, v),
        (b"INCR", k),
        (b"INCRBYFLOAT", k, b"0.5"),
        (b"GETDEL", k),
        (b"DEL", k),
        (b"DEL", k, other),
        (b"PEXPIREAT", k, time),
        (b"PERSIST", k),
        (b"RENAME", k, other),
        (b"COPY", k, other, b"REPLACE"),
        (b"LPUSH", k, v),
        (b"RPUSH", k, v),
        (b"LPOP", k),
        (b"LMOVE", k, other, b"LEFT", b"RIGHT"),
        (b"LSET", k, b"0", v),
        (b"LTRIM", k, b"0", b"2"),
        (b"SADD", k, v),
        (b"SREM", k, v),
        (b"SMOVE", k, other, v),
        (b"SUNIONSTORE", k, other, k),
        (b"HSET", k, v, v),
        (b"HDEL", k, v),
        (b"HINCRBY", k, v, b"1"),
        (b"ZADD", k, v, v),
        (b"ZREM", k, v),
        (b"ZINCRBY", k, b"1", v),
        (b"ZPOPMIN", k),
    ]
    return draw.choice(table)


def mortal(draw: random.Random, keys: list[bytes], now_ms: int) -> Command:
    """A client's write to one or two keys, of which most expire while the history lasts."""
    k, other, v = draw.choice(keys), draw.choice(keys), b"%d" % draw.randrange(9)
    time = b"%d" % (now_ms + draw.choice([1501, 2999, 4999, 9001]))
    table: list[Command] = [
        (b"SET", k, v, b"PXAT", time),
        (b"SET", k, v),
        (b"SET", k, v, b"KEEPTTL"),
        (b"DEL", k),
        (b"APPEND", k, v),
        (b"INCR", k),
        (b"PEXPIREAT", k, time),
        (b"PEXPIREAT", k, time),
        (b"PERSIST", k),
        (b"SADD", k, v),
        (b"SREM", k, v),
        (b"HSET", k, v, v),
        (b"HDEL", k, v),
        (b"LPUSH", k, v),
        (b"LPOP", k),
        (b"RENAME", k, other),
        (b"COPY", k, other, b"REPLACE"),
        (b"SUNIONSTORE", k, other, k),
    ]
    return draw.choice(table)


def wiping(draw: random.Random, keys: list[bytes], now_ms: int) -> Command:
    """A client's write as `command` draws it, and now and then a flush."""
    return draw.choice([(b"FLUSHALL",), (b"FLUSHDB",)]) if draw.random() < 0.05 else command(draw, keys, now_ms)


WRITES: dict[str, Callable[[random.Random, list[bytes], int], Command]] = {
    "any": command,
    "expiring": mortal,
    "wiping": wiping,
}
"""What clients write in a history. After a flush no promise can be kept but that of equal sites."""


def broken(seed: int, kind: Course | None = None) -> list[str]:
    """Run the history of a seed; what it ended in but what was promised."""
    history = _History(seed, kind or course(seed))
    history.run()
    found = history.clients.broken()
    kind, said = history.kind, any(notice.kind == "unequal" for notice in history.pair.notices)
    if not kind.rules.bidirectional and (said or (kind.writes == "expiring" and kind.crash)):
        # a key expired before its renewal came; that is said, if the engine lives to read the reply
        found = [wrong for wrong in found if not wrong.startswith("unequal:")]
    return found + oracle.differences(history.pair, history.copied) if kind.exact else found


def run_history(seed: int, kind: Course | None = None) -> tuple[SimulatedPair, Clients]:
    """Run the history of a seed (of the kind that goes with the seed) until it is quiet."""
    history = _History(seed, kind or course(seed))
    history.run()
    return history.pair, history.clients


class _History:
    def __init__(self, seed: int, kind: Course) -> None:
        self.draw, self.kind = random.Random(seed), kind
        self.copied: dict[str, int] = {}  # of an exact history, by site: offset at which the full copy was finished
        self.pair = SimulatedPair(kind.rules)
        self.clients = Clients(self.pair)
        self.clients.certain = not kind.blur_us
        self.pair.flushing, self.pair.spools = not kind.lazy, kind.spools
        if kind.blur_us:
            self.pair.moment = self.blurred
        names = (b"ke", b"kf", b"kg"), (b"kw", b"kx", b"ky")
        self.keys = {x: list(names[n if kind.apart else 0]) for n, x in enumerate(kind.rules.sites)}

    def blurred(self, us: int) -> Moment:
        """A bracket around the true time of a write, another one each time it is read."""
        early, late = self.draw.randrange(self.kind.blur_us), self.draw.randrange(self.kind.blur_us)
        return Moment(us - early, us + late)

    def run(self) -> None:
        if self.kind.exact:
            self.pair.start()
            self.pair.drain()
            self.pair.flushing = not self.kind.lazy
            self.copied = {x: site.offset for x, site in self.pair.sites.items()}
        for x in self.kind.rules.sites:
            for _ in range(self.draw.randrange(6)):
                self.write(x)
        self.pair.start()
        for _ in range(self.kind.steps):
            self.step(self.draw.choice(self.kind.rules.sites))
        for site in self.pair.sites.values():
            site.refuse = None
        self.pair.pass_time(SOON_MS)  # until then a key may live on where its expiry was put off
        self.pair.drain()

    def step(self, x: str) -> None:
        draw, pair, crash = self.draw, self.pair, self.kind.crash
        roll = draw.random()
        if roll < 0.3:
            if x == self.kind.rules.source or self.kind.rules.bidirectional:
                self.write(x)
        elif roll < 0.3 + crash:
            draw.choice([pair.kill, pair.kill, pair.reconnect, pair.start_and_die])()
        elif roll < 0.6:
            pair.read(x, draw.choice([7, 60, 300, 5000]))
            if self.kind.rules.target_not_empty == "reconcile":
                pair.compare(draw.choice([1, 2, 50]))
        elif roll < 0.75:
            pair.deliver(x)
        elif roll < 0.9:
            pair.answer(x)
        elif roll < 0.92:
            pair.orphan(draw.choice([None, None, 100]))
        elif roll < 0.95:
            pair.pass_time(draw.choice([2, 50, 2000]))
            if draw.random() < 0.5:
                pair.expire(x)
        elif roll < 0.96:
            pair.flush()
        elif roll < 0.96 + self.kind.refusals:
            site = pair.sites[x]
            site.refuse = None if site.refuse else draw.choice([b"-OOM no", b"-MISCONF no"])
        elif pair.pair is None:
            pair.start()

    def write(self, x: str) -> None:
        draw, kind = self.draw, self.kind
        home = draw.choice(kind.databases)
        database = kind.rules.database_at(x, home)
        drawn = WRITES[kind.writes]
        commands = [drawn(draw, self.keys[x], self.pair.now_ms) for _ in range(1 + (draw.random() < 0.2))]
        roll = draw.random()
        if roll < 0.5 or kind.writes == "wiping":
            self.pair.write(x, *commands, database=database)
        elif roll < 0.6:
            self.pair.write(x, expiring(draw, self.keys[x][0][:1] + b"z", self.pair.now_ms), database=database)
        elif roll < 0.75:
            self.clients.log(x, *commands, database=database)
        elif roll < 0.82:
            self.clients.count(x, draw.randrange(-2, 5))
        elif roll < 0.9:
            self.clients.push(x, draw.choice([b"LPUSH", b"RPUSH"]))
        elif roll < 0.95:
            self.clients.add(x, b"%d" % draw.randrange(9))
        elif roll < 0.985:
            self.clients.assign(x)
        elif roll < 0.99:
            self.clients.assign_field(x, draw.choice([b"f", b"g"]))
        elif kind.rules.scope.exclude:
            self.pair.write(x, (b"SET", OUTSIDE + x.encode(), b"1"), *commands)
        elif kind.rules.scope.databases:
            self.pair.write(x, *commands, database=7)
