"""A full copy that breaks off goes on with the same snapshot, where the target's clients have written nothing since."""

import pathlib
import random
from collections.abc import Iterator

import pytest

from bisync.testing.servers import LocalServer
from tests.system.test_full_copy import assert_same
from tests.system.world import World, held, wait_until

pytestmark = pytest.mark.slow

KEYS, VALUE = 30_000, random.Random(1).randbytes(1_000)  # 31 MB, more than stays in memory
SLOW = "[engine]\nbatch_commands = 20\nqueue_bytes = 65536\nretry_pause_ms_max = 200\n"


@pytest.fixture(params=["bidirectional", "one-way"])
def world(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Iterator[World]:
    with World(tmp_path, topology=request.param, tables=SLOW) as world:
        with world.east.client() as client, client.pipeline(transaction=False) as pipe:
            for n in range(KEYS):
                pipe.set(f"key:{n}", VALUE)
            pipe.rpush("list", *range(100))
            pipe.execute()
        yield world


def full_syncs(server: LocalServer) -> int:
    with server.client() as client:
        return int(client.info("stats")["sync_full"])


def part_of_the_copy(world: World) -> bool:
    """Is the snapshot here, and some of it applied?"""
    copy = world.status()["channels"]["forward"]["full_copy"]
    return copy["keys_done"] > 2_000 and (world.folder / "orders.journal" / "snapshot.json").exists()


def test_an_engine_that_is_started_again_needs_no_second_snapshot(world: World) -> None:
    engine = world.start_engine()
    wait_until(lambda: engine.check() and part_of_the_copy(world), "the copy is under way")
    engine.kill()
    with world.east.client() as client:
        client.set("key:1", "changed meanwhile")
        client.delete("key:2")
        client.rpush("list", "one more")
    taken = full_syncs(world.east)
    engine = world.synchronised_engine()
    world.wait_drained(engine)
    assert full_syncs(world.east) == taken
    assert_same(held(world.east), held(world.west))
    assert not list((world.folder / "orders.journal").glob("snapshot*")), "it is gone once the copy is finished"


def test_nor_does_a_connection_to_the_target_that_breaks(world: World) -> None:
    engine = world.start_engine()
    wait_until(lambda: engine.check() and part_of_the_copy(world), "the copy is under way")
    taken = full_syncs(world.east)
    with world.west.client() as client:
        for found in client.client_list(_type="normal"):
            if found["id"] != str(client.client_id()):
                client.client_kill_filter(_id=found["id"])
    world.wait_synchronizing(engine)
    world.wait_drained(engine)
    assert full_syncs(world.east) == taken
    assert_same(held(world.east), held(world.west))


def test_once_the_targets_clients_have_written_another_snapshot_is_taken(tmp_path: pathlib.Path) -> None:
    with World(tmp_path, tables=SLOW) as world:
        with world.east.client() as client, client.pipeline(transaction=False) as pipe:
            for n in range(KEYS):
                pipe.set(f"key:{n}", VALUE)
            pipe.execute()
        engine = world.start_engine()
        wait_until(lambda: engine.check() and part_of_the_copy(world), "the copy is under way")
        with world.west.client() as west, world.east.client() as east:
            west.rpush("of west", 1, 2, 3)
            wait_until(lambda: east.llen("of west") == 3, "what west's client wrote is at east")
        engine.kill()
        taken = full_syncs(world.east)
        engine = world.synchronised_engine()
        world.wait_drained(engine)
        assert full_syncs(world.east) == taken + 1
        assert_same(held(world.east), held(world.west))
