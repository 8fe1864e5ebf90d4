"""An engine that is killed again and again, with SIGKILL, at any moment: nothing is lost and nothing is doubled."""

import pathlib
import random
import time
from collections.abc import Callable

import pytest

from tests.system.world import FORWARD, EngineProcess, World, wait_until

pytestmark = pytest.mark.slow

KILLS_FOLLOWING = 34
COPY_JOBS = 4  # jobs, in the full copy of each of which there is a kill in every phase: 20
PRELOADED, OTHERS = 24_000, 600  # strings, and keys of other types
BIG = 100_000  # items of a list that is copied in pieces
DOOMED = 6_000  # keys that are deleted at the source once they were copied
SAVE_DELAY_US = 20  # for each key of a snapshot that is to be slow: it takes a second at least
COPY = (
    "[engine]\nbatch_commands = 100\n[full_copy]\nwhole_bytes = 2_000\npiece_bytes = 250\n"
    "[limits]\ncopy_commands_per_s = 12_000\ncopy_yields = false\n"
)
"""A copy that takes some seconds, and the big list a part of one: so each phase lasts until the engine is killed."""


def epoch_of(world: World) -> int:
    """The epoch that the job is in: each engine that takes it makes it higher."""
    tag = world.tag(FORWARD)
    return tag.epoch if tag else 0


def kill_within(engine: EngineProcess, seconds: float) -> None:
    """Kill it that long after its start, be it wherever it is."""
    wait_until(lambda: not engine.running or engine.seconds >= seconds, "the moment of the kill")
    engine.check()
    engine.kill()


@pytest.mark.parametrize("seed", [1])
def test_sums_and_lengths_are_exact_when_the_engine_is_killed_at_any_moment(tmp_path: pathlib.Path, seed: int) -> None:
    chance = random.Random(seed)
    with World(tmp_path) as world:
        engine, epoch = world.synchronised_engine(), 0
        world.start_writers(seed)
        for _ in range(KILLS_FOLLOWING):
            wait_s = chance.uniform(0.1, 0.9)
            if chance.random() < 0.5:  # surely while it is at work, however slow the machine is
                took, wait_s = epoch, wait_s / 3
                wait_until(lambda: engine.check() and epoch_of(world) > took, "the engine takes the job")
                wait_s += engine.seconds
            kill_within(engine, wait_s)
            epoch = epoch_of(world)
            engine = world.start_engine()
        world.wait_synchronizing(engine)
        world.stop_writers()
        world.wait_drained(engine)
        world.assert_written()
        world.assert_equal()


def preload(world: World) -> list[str]:
    """Many keys at east, of several types. The names of the strings, which clients may delete."""
    names = [f"pre:{n}" for n in range(PRELOADED)]
    with world.east.client() as client:
        pipe = client.pipeline(transaction=False)
        for n, name in enumerate(names):
            pipe.set(name, f"value {n}", pxat=4_102_444_800_000 if n % 3 else None)
        for n in range(OTHERS // 3):
            pipe.rpush(f"pre:list:{n}", *range(n + 1))
            pipe.zadd(f"pre:zset:{n}", {f"m{m}": m for m in range(n % 30 + 1)})
            pipe.incrby(f"pre:count:{n}", n)
        pipe.rpush("pre:big", *range(BIG))
        pipe.execute()
    return names


class CopyKills:
    """Full copies of one job that are killed, each in another phase, at a random point of it."""

    def __init__(self, world: World, seed: int, names: list[str]) -> None:
        self.world, self.seed, self.chance, self.names = world, seed, random.Random(seed), names
        self.east, self.west = world.east.client(), world.west.client()
        self.doomed: list[str] = []
        self.kills = 0

    def kill_when(self, there: Callable[[], object], what: str, *, writers: bool = False) -> None:
        """Start an engine and kill it as soon as its copy is `there`. The target's writers begin with the copy."""
        before = self._copy
        engine = self.world.start_engine()
        if writers:  # the target must be empty when the job begins
            wait_until(lambda: engine.check() and self._copy > before and self._copied > 0, "the copy begins")
            self.world.start_writers(self.seed, "west")
        wait_until(lambda: engine.check() and there(), what)
        assert engine.running
        engine.kill()
        self.kills += 1

    @property
    def _copy(self) -> int:
        """The number of the newest copy of which keys were committed."""
        tag = self.world.tag(FORWARD)
        return tag.applied[0] if tag is not None and "west" in tag.floors else 0

    @property
    def _copied(self) -> int:
        """How many keys of it were committed."""
        tag = self.world.tag(FORWARD)
        return tag.applied[2] if tag is not None and tag.applied[1] == 0 else 0

    @property
    def finished(self) -> bool:
        tag = self.world.tag(FORWARD)
        return tag is not None and bool(tag.copied)

    def while_the_snapshot_is_taken(self) -> None:
        until_s, seen_s = self.chance.uniform(0, 0.9), list[float]()
        self.east.config_set("rdb-key-save-delay", SAVE_DELAY_US)

        def spooled() -> bool:
            if not self.east.info("persistence")["rdb_bgsave_in_progress"]:
                return False
            seen_s.append(time.monotonic())
            return seen_s[-1] - seen_s[0] >= until_s

        self.kill_when(spooled, f"{until_s:.1f} s of the snapshot")
        self.east.config_set("rdb-key-save-delay", 0)
        assert not self.finished
        wait_until(lambda: not self.east.info("persistence")["rdb_bgsave_in_progress"], "the snapshot is given up")

    def among_small_keys(self) -> None:
        until = self.chance.randrange(2 * DOOMED, PRELOADED * 2 // 3)
        self.kill_when(lambda: self._copied >= until, f"{until} keys are copied", writers=True)
        assert not self.finished

    def within_a_big_value(self) -> None:
        until = self.chance.randrange(BIG // 4)
        self.kill_when(lambda: self._built > until, f"{until} items of the list are there")
        assert not self.finished
        assert 0 < self._built < BIG and self.west.llen("pre:big") in (0, BIG)

    @property
    def _built(self) -> int:
        """How many items of the big list are there; keys of other types, of the writers, are built now and then."""
        building = "bisync:orders:building"
        return self.west.llen(building) if self.west.type(building) == b"list" else 0

    def while_stale_keys_are_removed(self) -> None:
        """Keys that were copied, and are deleted at the source while no engine runs."""
        there = [name for name in self.names[PRELOADED // 4 :] if self.west.exists(name)]
        self.doomed = there[:DOOMED]
        assert len(self.doomed) == DOOMED
        self.east.delete(*self.doomed)
        left = self.chance.randrange(DOOMED // 2, DOOMED)
        self.kill_when(lambda: self.west.exists(*self.doomed) <= left, f"only {left} stale keys are left")
        assert not self.finished and self.west.exists(*self.doomed)

    def about_the_end(self) -> None:
        """Just before the finishing transaction, or just after it."""
        if self.seed % 2:
            self.kill_when(lambda: self.finished, "the copy is finished")
            return
        before, count = self._copy, sum(1 for _ in self.east.scan_iter("pre:*", count=5_000))
        until = count - self.chance.randrange(100)
        self.kill_when(lambda: self._copy > before and self._copied >= until or self.finished, "nearly all is copied")


@pytest.mark.parametrize("seed", range(COPY_JOBS))
def test_a_full_copy_that_is_killed_leaves_no_stale_and_no_doubled_data(tmp_path: pathlib.Path, seed: int) -> None:
    """Clients write at both sites meanwhile, and delete keys at the source that may have been copied already."""
    with World(tmp_path, tables=COPY) as world:
        names = preload(world)
        random.Random(seed).shuffle(names)
        world.start_writers(seed, "east", victims=names[: PRELOADED // 4])
        copies = CopyKills(world, seed, names)
        copies.while_the_snapshot_is_taken()
        copies.among_small_keys()
        copies.within_a_big_value()
        copies.while_stale_keys_are_removed()
        copies.about_the_end()
        assert copies.kills * COPY_JOBS == 20
        engine = world.synchronised_engine()
        world.stop_writers()
        world.wait_drained(engine)
        world.assert_written()
        world.assert_equal()
        with world.west.client() as client:
            assert [client.llen(f"pre:list:{n}") for n in range(OTHERS // 3)] == list(range(1, OTHERS // 3 + 1))
            assert client.lrange("pre:big", 0, -1) == [b"%d" % n for n in range(BIG)]
            assert not client.exists(*copies.doomed)
            assert not client.exists("bisync:orders:building")
