"""The core alone: prepared streams of both sites are fed to `Pair`, and a target that answers at once takes all.

No socket, no file, no journal: what is left is understanding, comparing, queueing, making transactions, and reading
their echoes. The echo of a transaction is made of its own bytes, as a server would send it to its replicas.
"""

import functools
import random
import time
from collections.abc import Callable, Iterator

import attrs

from benchmarks.measure import Sample, Variants
from bisync.core.actions import Conflict, Send
from bisync.core.moment import Moment
from bisync.core.pair import Pair, Taken
from bisync.core.position import Position
from bisync.core.resp import pack, select
from bisync.core.rules import Rules
from bisync.core.tag import tag_key

SITES = ("east", "west")
KEYS = 10_000  # of each site and type
PIECE_BYTES = 1 << 18  # of a stream, handed in at once: as the engine does
REPLID = {"east": "e" * 40, "west": "w" * 40}
ANSWERS = b"QUEUED"
NOW_MS = 1_700_000_000_000


def mixed(site: str, commands: int, seed: int = 1) -> Iterator[list[bytes]]:
    """A third each: SET of 64 bytes, INCR, HSET of one field of 16, on keys that only this site has."""
    chance, name = random.Random(f"{seed} {site}"), site.encode()
    value = b"v" * 64
    for n in range(commands):
        k = chance.randrange(KEYS)
        if n % 3 == 0:
            yield [b"SET", b"%b:text:%d" % (name, k), value]
        elif n % 3 == 1:
            yield [b"INCR", b"%b:count:%d" % (name, k)]
        else:
            yield [b"HSET", b"%b:hash:%d" % (name, k // 16), b"field:%d" % (k % 16), value]


def stream(commands: Iterator[list[bytes]]) -> bytes:
    """As a server sends it."""
    return select(0) + b"".join(pack(*words) for words in commands)


class Bench:
    """A pair whose full copy, of nothing, is finished."""

    def __init__(self, rules: Rules) -> None:
        self.rules, self.now_ms, self.conflicts = rules, NOW_MS, 0
        self.pair = Pair(rules, 1, "bench", Taken({}))
        self.held = {x: b"" for x in SITES}  # echoes that were not handed in yet, by the site where they stand
        self.ends = {x: 0 for x in SITES}
        self.sent: list[Send] = []
        if rules.bidirectional:
            self.pair.attach("west", Position(REPLID["west"], 0))
        self.pair.snapshot_taken(Position(REPLID["east"], 0))
        self.pair.snapshot_ended(self.now_ms)
        self.collect()
        self.settle()
        assert self.pair.copying.finished, self.pair

    def feed(self, x: str, data: bytes) -> None:
        """Bytes of a site's stream."""
        if not data:
            return
        self.ends[x] += len(data)
        us = self.now_ms * 1000
        channel = self.pair.channels[x]
        channel.moments.add(self.ends[x], Moment(us, us))
        self.pair.receive(x, data, self.now_ms)
        self.collect()

    def collect(self) -> None:
        """What the core wants."""
        for action in self.pair.take_actions():
            if isinstance(action, Send):
                self.sent.append(action)
            elif isinstance(action, Conflict):
                self.conflicts += 1

    def answer(self) -> bool:
        """The target answers what was sent, and its stream has it. False: nothing was sent."""
        if not self.sent:
            return False
        sent, self.sent = self.sent, []
        for action in sent:
            channel = self.pair.channels[action.origin]
            flight = channel.link.in_flight
            assert flight is not None
            answers = flight.replies - 5
            replies: list[object] = [b"OK", *[ANSWERS] * answers, [b"OK"] * answers, b"OK", b"OK", flight.tag.encode()]
            if self.rules.bidirectional:
                guard = len(pack(b"WATCH", self._key(action)) + pack(b"GET", self._key(action)))
                # a server says which database the next command is in; the SELECT 0 of the guard stands for that
                self.held[channel.target] += action.payload[:-guard]
            self.pair.answered(action.origin, replies, self.now_ms)
        self.collect()
        return True

    def _key(self, action: Send) -> bytes:
        return tag_key(self.rules.job, self.rules.channel(action.origin))

    def echo(self) -> bool:
        """What was applied at each site comes back in its stream. False: nothing was."""
        came = False
        for x, data in self.held.items():
            if data:
                self.held[x], came = b"", True
                self.feed(x, data)
        return came

    def settle(self) -> None:
        """Until nothing is under way."""
        while self.answer() or self.echo():
            pass


def steady(rules: Rules, streams: dict[str, bytes], commands: int, change: Callable[[Pair], None]) -> Sample:
    """Both sites write at the same time: a piece of each stream, then the answers, then the echoes, and so on."""
    bench = Bench(rules)
    change(bench.pair)
    pieces = {x: _pieces(data, PIECE_BYTES) for x, data in streams.items()}
    pending = 0
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for n in range(max(map(len, pieces.values()))):
        for x, cut in pieces.items():
            if n < len(cut):
                bench.feed(x, cut[n])
        if rules.bidirectional:
            pending = max(pending, *(len(c.pending) for c in bench.pair.channels.values()))
        bench.settle()
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    done = sum(c.counters.operations for c in bench.pair.channels.values())
    assert done == commands, f"{done} of {commands} commands were applied"
    assert not bench.conflicts and not len(bench.pair.arbiter), bench.pair
    return Sample(commands, wall_s, cpu_s, {"pending at most": pending})


def _pieces(data: bytes, size: int) -> list[bytes]:
    """Pieces of about that size that end between commands, so that echoes can stand there."""
    found, at = [], 0
    while at < len(data):
        end = data.find(b"\r\n*", at + size)
        end = len(data) if end < 0 else end + 2
        found.append(data[at:end])
        at = end
    return found


def without_detection(pair: Pair) -> None:
    """For reference only: nothing is compared, so the pending writes are never arranged by key either."""
    pair._detector.compare = lambda *_: None  # type: ignore[method-assign]


RULES = Rules("bench", *SITES, heartbeat_ms=0, queue_bytes=1 << 30, pending_bytes=1 << 30)
ONE_WAY, ONE_SITE, BOTH, BLIND = "one-way", "two-way, one site writes", "two-way, both write", "the same, not compared"
BASES = {ONE_SITE: ONE_WAY, BOTH: ONE_SITE, BLIND: BOTH}


def variants(commands: int) -> Variants:
    """The same number of commands in each, of one site or half of each."""
    east, half = stream(mixed("east", commands)), commands // 2
    halves = {x: stream(mixed(x, half)) for x in SITES}
    one_way = attrs.evolve(RULES, bidirectional=False)
    nothing: Callable[[Pair], None] = lambda pair: None
    return {
        ONE_WAY: lambda: steady(one_way, {"east": east}, commands, nothing),
        ONE_SITE: lambda: steady(RULES, {"east": east}, commands, nothing),
        BOTH: lambda: steady(RULES, halves, 2 * half, nothing),
        BLIND: lambda: steady(RULES, halves, 2 * half, without_detection),
    }


# -- a hot key
KINDS: dict[str, Callable[[str, int], list[bytes]]] = {
    "disjoint keys": lambda x, n: [b"SET", b"%b:%d" % (x.encode(), n), b"%d" % n],
    "INCR": lambda x, n: [b"INCR", b"hot"],
    "INCRBY, many amounts": lambda x, n: [b"INCRBY", b"hot", b"%d" % (n * 7 + 1)],
    "SADD": lambda x, n: [b"SADD", b"hot", b"%b:%d" % (x.encode(), n)],
    "HSET, own fields": lambda x, n: [b"HSET", b"hot", b"%b:%d" % (x.encode(), n), b"1"],
    "HSET, one field": lambda x, n: [b"HSET", b"hot", b"field", b"%b:%d" % (x.encode(), n)],
    "SET": lambda x, n: [b"SET", b"hot", b"%b:%d" % (x.encode(), n)],
    "RPUSH": lambda x, n: [b"RPUSH", b"hot", b"%b:%d" % (x.encode(), n)],
    "all of them, in turn": lambda x, n: list(KINDS.values())[n % 8](x, n),
}
"""What both sites write to one key; the first is for comparison. By site and number: the words of the nth command."""


def hot(kind: Callable[[str, int], list[bytes]], writes: int) -> Sample:
    """So many pending writes of each site: east's are read first, then west's are compared with them. Nothing lands."""
    bench = Bench(RULES)
    data = {x: stream(iter([kind(x, n) for n in range(writes)])) for x in SITES}
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    for x in SITES:
        for piece in _pieces(data[x], 1 << 14):
            bench.feed(x, piece)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    return Sample(2 * writes, wall_s, cpu_s, {"conflicts": bench.conflicts})


def hot_variants(writes: int) -> Variants:
    """Each kind with a quarter of the writes, and with all: where the cost of one write is the same, it is N + M."""
    found: dict[str, Callable[[], Sample]] = {}
    for name, kind in KINDS.items():
        for n in (writes // 4, writes):
            found[f"{name}, {n:,}+{n:,}"] = functools.partial(hot, kind, n)
    return found


def hot_bases(writes: int) -> dict[str, str]:
    """More writes are compared with fewer of the same kind."""
    return {f"{name}, {writes:,}+{writes:,}": f"{name}, {writes // 4:,}+{writes // 4:,}" for name in KINDS}
