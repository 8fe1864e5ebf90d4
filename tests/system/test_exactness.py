"""The log of conflicts is exact: a record for every two writes that truly met, and none for any others.

Whether two writes meet is in the tests' hands. *Met*: both are made while the engine is frozen or away, so neither site
can have seen the other's. *Near miss*: the second one is made at once after the first was seen at its site, while the
engine is still busy with it. *Commuting*: they meet, and both can be kept.

Each pair of writes has a key of its own, so the number of records says whether one was missed or invented.
"""

import collections
import contextlib
import pathlib
import random
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
import redis

from tests.system.world import EngineProcess, World, bisync_json, wait_until

pytestmark = pytest.mark.slow

Command = tuple[object, ...]
LATER_MS = 4_000_000_000_000  # an expiry that no test lives to see: Unix time in ms


@attrs.frozen
class Pair:
    """Two writes to one key, which both sites held as `before` says."""

    name: str
    east: Command
    west: Command
    before: Command | None = None
    element: str = ""  # what the record must be about; empty: the whole key


def conflicting(k: str) -> list[Pair]:
    """Pairs whose outcome depends on their order."""
    return [
        Pair("set", ("SET", k, "e"), ("SET", k, "w")),
        Pair("set, delete", ("SET", k, "e"), ("DEL", k), ("SET", k, "old")),
        Pair("append", ("APPEND", k, "e"), ("APPEND", k, "w"), ("SET", k, "old")),
        Pair("count, set", ("INCR", k), ("SET", k, "7"), ("SET", k, "1")),
        Pair("one field", ("HSET", k, "f", "e"), ("HSET", k, "f", "w"), element="f"),
        Pair("field set, deleted", ("HSET", k, "f", "e"), ("HDEL", k, "f"), ("HSET", k, "f", "o", "g", "o"), "f"),
        Pair("one score", ("ZADD", k, "1", "m"), ("ZADD", k, "2", "m"), element="m"),
        Pair("member in, out", ("SADD", k, "m", "n"), ("SREM", k, "m"), ("SADD", k, "m", "o"), "m"),
        Pair("one end", ("RPUSH", k, "e"), ("RPUSH", k, "w"), ("RPUSH", k, "old")),
        Pair("push, pop", ("LPUSH", k, "e"), ("LPOP", k), ("RPUSH", k, "a", "b", "c")),
        Pair("unlike types", ("SADD", k, "m"), ("HSET", k, "f", "v")),
        Pair("expiries", ("PEXPIREAT", k, LATER_MS), ("PEXPIREAT", k, LATER_MS + 5), ("SET", k, "v")),
        Pair("one range", ("SETRANGE", k, "1", "ee"), ("SETRANGE", k, "2", "ww"), ("SET", k, "old value")),
    ]


def commuting(k: str) -> list[Pair]:
    """Pairs that can both be kept, in whichever order."""
    return [
        Pair("equal sets", ("SET", k, "v"), ("SET", k, "v")),
        Pair("counts", ("INCRBY", k, "3"), ("DECR", k), ("SET", k, "5")),
        Pair("field counts", ("HINCRBY", k, "f", "3"), ("HINCRBY", k, "f", "4")),
        Pair("other fields", ("HSET", k, "f", "e"), ("HSET", k, "g", "w")),
        Pair("other members", ("SADD", k, "e"), ("SADD", k, "w", "e")),
        Pair("other scores", ("ZADD", k, "1", "e"), ("ZADD", k, "2", "w")),
        Pair("both ends", ("LPUSH", k, "e"), ("RPUSH", k, "w")),
        Pair("other bits", ("SETBIT", k, "1", "1"), ("SETBIT", k, "9", "1"), ("SET", k, "ab")),
        Pair("both deleted", ("DEL", k), ("UNLINK", k), ("SET", k, "v")),
        Pair("both removed", ("SREM", k, "m"), ("SREM", k, "m", "n"), ("SADD", k, "m", "n", "o")),
    ]


class Judge:
    """Makes pairs of writes, and knows how many records there must be of which key."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clients = {name: server.client() for name, server in world.servers.items()}
        self.expected: dict[str, Pair] = {}
        self._round = 0

    def close(self) -> None:
        for client in self.clients.values():
            client.close()

    def fresh(self, make: Callable[[str], list[Pair]], engine: EngineProcess, kind: str) -> dict[str, Pair]:
        """Pairs on keys of their own, each key as its pair wants it at both sites."""
        self._round += 1
        found = {}
        for n in range(len(make(""))):
            key = f"{kind}:{self._round}:{n}"
            found[key] = make(key)[n]
            before = found[key].before
            if before is not None:
                self.clients["east"].execute_command(*before)
        self.world.wait_drained(engine)
        return found

    def meet(self, pairs: dict[str, Pair]) -> None:
        """Make both writes of each; the engine must not run meanwhile."""
        for pair in pairs.values():
            self.clients["east"].execute_command(*pair.east)
            self.clients["west"].execute_command(*pair.west)

    def near_misses(self, engine: EngineProcess, number: int) -> None:
        """A value goes to and fro: each site writes the next one as soon as it has seen the last one."""
        self._round += 1
        keys = {kind: f"near:{self._round}:{kind}" for kind in ("string", "hash", "zset", "set")}
        for n in range(number):
            here, there = ("east", "west") if n % 2 else ("west", "east")
            one, other = self.clients[here], self.clients[there]
            one.set(keys["string"], n)
            one.hset(keys["hash"], "f", str(n))
            one.zadd(keys["zset"], {"m": n})
            (one.sadd if n % 4 < 2 else one.srem)(keys["set"], "m")
            self._until_seen(engine, other, keys, n)

    @staticmethod
    def _until_seen(engine: EngineProcess, client: "redis.Redis", keys: dict[str, str], n: int) -> None:
        def seen() -> bool:
            engine.check()
            return (
                client.get(keys["string"]) == b"%d" % n
                and client.hget(keys["hash"], "f") == b"%d" % n
                and client.zscore(keys["zset"], "m") == n
                and bool(client.sismember(keys["set"], "m")) == (n % 4 < 2)
            )

        wait_until(seen, f"write {n} is seen at the other site")

    def assert_exact(self) -> None:
        """The log has one record for each pair that met, about the right place, and nothing else."""
        records = bisync_json("conflicts", self.world.job_file)
        by_key = collections.Counter(record["key"] for record in records)
        missed = {key: pair.name for key, pair in self.expected.items() if not by_key[key]}
        doubled = {key: (n, self.expected[key].name) for key, n in by_key.items() if key in self.expected and n > 1}
        invented = [record for record in records if record["key"] not in self.expected]
        assert not (missed or doubled or invented), f"missed {missed}; doubled {doubled}; invented {invented[:3]}"
        for record in records:
            assert_right(record, self.expected[record["key"]])
        assert_counted(self.world, len(self.expected))


def assert_counted(world: World, number: int) -> None:
    """`status` says so many."""
    conflicts = world.status()["conflicts"]
    assert (conflicts["total"], conflicts["open"]) == (number, 0), conflicts


def assert_right(record: dict[str, Any], pair: Pair) -> None:
    """The record names the place and both writes, and is settled."""
    element = record["element"]["name"] if record["element"] else ""
    assert element == pair.element or (not pair.element and record["element"]["type"] == "ttl"), (pair, record)
    assert record["counts"] == {"east": 1, "west": 1}, (pair, record)
    written = {write["site"]: write["command"].split()[0] for write in record["writes"]}
    assert set(written) == {"east", "west"}, (pair, record)
    assert record["winner"] in ("east", "west") and record["outcome"] == "settled", (pair, record)


@contextlib.contextmanager
def frozen(engine: EngineProcess) -> Iterator[None]:
    """The engine does not run for the block."""
    engine.send(signal.SIGSTOP)
    try:
        yield
    finally:
        engine.send(signal.SIGCONT)


@pytest.fixture
def judged(tmp_path: pathlib.Path) -> Iterator[tuple[World, Judge]]:
    with World(tmp_path) as world:
        judge = Judge(world)
        try:
            yield world, judge
        finally:
            judge.close()


def test_writes_that_met_are_on_record_and_no_others(judged: tuple[World, Judge]) -> None:
    world, judge = judged
    engine = world.synchronised_engine()
    for _ in range(3):
        met = judge.fresh(conflicting, engine, "met")
        kept = judge.fresh(commuting, engine, "kept")
        with frozen(engine):
            judge.meet({**met, **kept})
        judge.expected |= met
        judge.near_misses(engine, 20)
    world.wait_drained(engine)
    judge.assert_exact()
    world.assert_equal()


def test_it_is_so_when_the_engine_was_away(judged: tuple[World, Judge]) -> None:
    world, judge = judged
    engine = world.synchronised_engine()
    for _ in range(3):
        met = judge.fresh(conflicting, engine, "met")
        kept = judge.fresh(commuting, engine, "kept")
        engine.kill()
        judge.meet({**met, **kept})
        judge.expected |= met
        engine = world.synchronised_engine()
        judge.near_misses(engine, 8)
    world.wait_drained(engine)
    judge.assert_exact()
    world.assert_equal()


@pytest.mark.parametrize("seed", range(2))
def test_it_is_so_when_engines_are_killed_while_they_settle(judged: tuple[World, Judge], seed: int) -> None:
    """Killed within a few ms of waking up, in the midst of the arbitrations, and once more before they are done."""
    world, judge = judged
    chance = random.Random(seed)
    engine = world.synchronised_engine()
    for _ in range(4):
        met = judge.fresh(conflicting, engine, "met")
        kept = judge.fresh(commuting, engine, "kept")
        with frozen(engine):
            judge.meet({**met, **kept})
        judge.expected |= met
        time.sleep(chance.uniform(0, 0.015))  # anywhere in the settling, which takes some ms
        engine.kill()
        engine = world.start_engine()
        wait_until(lambda: engine.check() and world.status()["engine"]["pid"] == engine.process.pid, "it reports")
        time.sleep(chance.uniform(0, 0.05))
        engine.kill()
        engine = world.synchronised_engine()
        judge.near_misses(engine, 8)
    world.wait_drained(engine)
    judge.assert_exact()
    world.assert_equal()


def test_many_writes_to_one_place_are_one_record(judged: tuple[World, Judge]) -> None:
    world, judge = judged
    engine = world.synchronised_engine()
    with frozen(engine):
        for n in range(50):
            judge.clients["east"].set("k", f"e{n}")
            judge.clients["west"].set("k", f"w{n}")
    world.wait_drained(engine)
    (record,) = bisync_json("conflicts", world.job_file)
    assert record["counts"] == {"east": 50, "west": 50}
    assert {write["command"] for write in record["writes"]} >= {"SET k e0", "SET k w0", "SET k e49", "SET k w49"}
    assert_counted(world, 1)
    assert judge.clients["east"].get("k") == judge.clients["west"].get("k")
