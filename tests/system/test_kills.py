"""An engine that is killed again and again, with SIGKILL, at any moment: nothing is lost and nothing is doubled."""

import pathlib
import random

import pytest

from tests.system.world import FORWARD, EngineProcess, World, wait_until

pytestmark = pytest.mark.slow

KILLS_FOLLOWING, KILLS_COPYING = 34, 16  # 50 in all
COPY_JOBS = 4  # jobs, each with its share of the kills in its full copy
PRELOADED = 20_000


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
        for n in range(200):
            pipe.rpush(f"pre:list:{n}", *range(n + 1))
            pipe.zadd(f"pre:zset:{n}", {f"m{m}": m for m in range(n % 30 + 1)})
            pipe.incrby(f"pre:count:{n}", n)
        pipe.execute()
    return names


def has_copied(world: World, before: int, keys: int) -> bool:
    """Is the full copy finished, or has one that is newer than the `before`th committed so many keys?"""
    tag = world.tag(FORWARD)
    if tag is None:
        return False
    copy, phase, copied = tag.applied
    return tag.copied or (copy > before and "west" in tag.floors and (phase == 1 or copied >= keys))


@pytest.mark.parametrize("seed", range(COPY_JOBS))
def test_a_full_copy_that_is_killed_leaves_no_stale_and_no_doubled_data(tmp_path: pathlib.Path, seed: int) -> None:
    """Clients write at both sites meanwhile, and delete keys at the source that may have been copied already."""
    chance = random.Random(seed)
    # small transactions, so that the copy goes on for a while
    with World(tmp_path, tables="[engine]\nbatch_commands = 200\n") as world:
        names = preload(world)
        chance.shuffle(names)
        world.start_writers(seed, "east", victims=names[: PRELOADED // 4])
        in_copy = 0
        for kill in range(KILLS_COPYING // COPY_JOBS):
            tag = world.tag(FORWARD)
            before, until = tag.applied[0] if tag else 0, chance.randrange(PRELOADED)
            engine = world.start_engine()
            if kill == 0:  # the target must be empty when the job begins
                wait_until(lambda: engine.check() and has_copied(world, before, 1), "the copy begins")
                world.start_writers(seed, "west")
            wait_until(lambda: engine.check() and has_copied(world, before, until), "the copy goes on")
            engine.kill()
            tag = world.tag(FORWARD)
            in_copy += tag is not None and not tag.copied
        assert in_copy >= 2, "the kills came too late to fall into the copy"
        engine = world.synchronised_engine()
        world.stop_writers()
        world.wait_drained(engine)
        world.assert_written()
        world.assert_equal()
        with world.west.client() as client:
            assert [client.llen(f"pre:list:{n}") for n in range(200)] == list(range(1, 201))
