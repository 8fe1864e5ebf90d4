"""Connections that are cut and servers that freeze: bisync comes back by itself, and nothing is lost or doubled."""

import pathlib
import random
import time

import pytest

from tests.system.world import World, wait_until

pytestmark = pytest.mark.slow

CUTS = 20
FROZEN_S = 3.0
QUICK = "[engine]\nretry_pause_ms_max = 200\n"  # or the pauses would grow with so many cuts


def written(world: World) -> int:
    return sum(writer.rounds for writer in world.writers)


@pytest.mark.parametrize("seed", [1])
def test_sums_are_exact_when_connections_are_cut_at_random(tmp_path: pathlib.Path, seed: int) -> None:
    """`normal` cuts the connections on which bisync writes (and those of the clients), `replica` those it reads."""
    chance = random.Random(seed)
    with World(tmp_path, tables=QUICK) as world:
        engine = world.synchronised_engine()
        world.start_writers(seed)
        killed = {"normal": 0, "replica": 0}
        for _ in range(CUTS):
            until = written(world) + chance.randrange(600)
            wait_until(lambda: written(world) > until, "clients write")
            server, kind = chance.choice(list(world.servers.values())), chance.choice(list(killed))
            with server.client() as client:
                killed[kind] += client.execute_command("CLIENT", "KILL", "TYPE", kind)
            engine.check()
        assert killed["replica"] >= 5 and killed["normal"] >= 10, killed
        world.stop_writers()
        world.wait_drained(engine)
        world.assert_written()
        world.assert_equal()


@pytest.mark.parametrize("frozen", ["east", "west"])
def test_a_site_that_freezes_for_a_while_gets_all_it_missed(tmp_path: pathlib.Path, frozen: str) -> None:
    with World(tmp_path) as world:
        engine = world.synchronised_engine()
        world.start_writers(1)
        wait_until(lambda: all(writer.rounds for writer in world.writers), "clients write")
        awake = next(writer for writer in world.writers if writer.site != frozen)
        world.servers[frozen].pause()
        before, until_s = awake.rounds, time.monotonic() + FROZEN_S
        wait_until(lambda: time.monotonic() > until_s, "the freeze is over")
        assert awake.rounds > before, "the other site was held up too"
        world.servers[frozen].resume()
        engine.check()
        wait_until(lambda: all(writer.rounds > before for writer in world.writers), "clients write again")
        world.stop_writers()
        world.wait_drained(engine)
        world.assert_written()
        world.assert_equal()
