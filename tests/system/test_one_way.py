"""One-way jobs with an account that may do hardly anything at the source; choices of databases and keys."""

import pathlib
import signal
from typing import Any

import pytest

from tests.system.world import World, assert_same, bisync, held, wait_until

pytestmark = pytest.mark.slow

LEAST = "resetkeys resetchannels -@all +psync +replconf"  # all that following a source takes
MORE = "+info"  # tells the progress of the copy, and lets `bisync wait --drained` ask how far the stream is
USER, PASSWORD = "copier", "open-sesame"
OBJECTS = """[objects]
databases = { 0 = 0, 3 = 5 }
include = ["order:*", "stock:*"]
exclude = ["order:tmp:*"]
"""
COPIED = {0: 0, 3: 5}
TOPOLOGIES = pytest.mark.parametrize("topology", ["one-way", "bidirectional"])


def let_in(world: World, rights: str = LEAST) -> None:
    """The account of the job at east."""
    world.east.client().execute_command("ACL", "SETUSER", USER, "reset", "on", f">{PASSWORD}", *rights.split())


def in_scope(key: bytes) -> bool:
    return key.startswith((b"order:", b"stock:")) and not key.startswith(b"order:tmp:")


def image(found: dict[tuple[int, bytes], Any]) -> dict[tuple[int, bytes], Any]:
    """What the target must hold of what the source holds."""
    return {(COPIED[db], key): value for (db, key), value in found.items() if db in COPIED and in_scope(key)}


def write(world: World, site: str, word: str) -> None:
    """Keys in and out of scope, at one site, in some databases, of which 3 at east is 5 at west."""
    for database in (0, 3, 5):
        with world.servers[site].client(database) as client:
            for n in range(30):
                client.set(f"order:{word}:{n}", f"{site} {database} {n}")
                client.rpush(f"stock:{word}", n)
                client.set(f"order:tmp:{word}:{n}", "not copied")
                client.set(f"other:{word}:{n}", "not copied")
            # only its first key is in scope, and the second goes for itself at this site
            client.delete(f"order:{word}:1", f"order:tmp:{word}:1")
            client.mset({f"order:{word}:2": "changed", f"other:{word}:2": "changed"})
            pipe = client.pipeline(transaction=True)
            pipe.incr(f"stock:{word}:count").incr(f"other:{word}:count").pexpireat(f"order:{word}:3", 4_102_444_800_000)
            pipe.execute()


def assert_copied(world: World) -> None:
    """What is in scope is equal, database by database; at each site the rest is as its clients left it."""
    east, west = held(world.east), held(world.west)
    assert_same(image(east), {place: v for place, v in west.items() if place[0] in (0, 5) and in_scope(place[1])})


@TOPOLOGIES
def test_chosen_databases_and_keys_are_copied_and_followed(tmp_path: pathlib.Path, topology: str) -> None:
    one_way = topology == "one-way"
    user = f"{USER}:{PASSWORD}" if one_way else ""
    with World(tmp_path, topology=topology, tables=OBJECTS, user=user) as world:
        let_in(world, f"{LEAST} {MORE}")
        write(world, "east", "copied")
        engine = world.synchronised_engine()
        world.wait_drained(engine)
        assert_copied(world)
        assert set(held(world.west)) == set(image(held(world.east)))
        write(world, "east", "followed")
        if not one_way:
            write(world, "west", "of-west")
        world.wait_drained(engine)
        assert_copied(world)
        assert world.east.client(3).exists("order:of-west:5") == (0 if one_way else 1)
        assert not [key for _, key in held(world.east) if b"of-west" in key and not in_scope(key)]
        engine.kill()
        write(world, "east", "while-away")
        engine = world.synchronised_engine()
        write(world, "east", "after")
        world.wait_drained(engine)
        assert_copied(world)
        engine.stop()
        assert (not world.east.client().exists("bisync:orders:tag:reverse")) == one_way


def test_following_takes_no_rights_but_those_of_a_replica(tmp_path: pathlib.Path) -> None:
    """Nothing is written at the source, nor is it read but as its stream."""
    with World(tmp_path, topology="one-way", user=f"{USER}:{PASSWORD}") as world:
        let_in(world)
        write(world, "east", "copied")
        engine = world.synchronised_engine()
        world.start_writers(1, "east")
        writer = world.writers[0]
        wait_until(lambda: writer.rounds > 50, "clients write")
        engine.kill()
        engine = world.synchronised_engine()
        before = writer.rounds
        wait_until(lambda: writer.rounds > before + 50, "clients write")
        world.stop_writers()
        with world.west.client() as client:
            wait_until(lambda: engine.check() and writer.wrong(client) == [], "it has arrived")
        assert_same(held(world.east), held(world.west))
        with world.east.client() as client:
            assert [key for key in client.scan_iter() if key.startswith(b"bisync:")] == []
            assert "acl" not in engine.text.lower()
        assert world.status()["channels"]["forward"]["lag_ms"] is None
        assert bisync("precheck", world.job_file).returncode == 0


@pytest.mark.parametrize("right", ["psync", "replconf"])
def test_each_of_these_rights_is_needed_and_named_where_it_is_missing(tmp_path: pathlib.Path, right: str) -> None:
    with World(tmp_path, topology="one-way", user=f"{USER}:{PASSWORD}") as world:
        let_in(world, LEAST.replace(f"+{right}", ""))
        engine = world.start_engine()
        assert engine.ends() == 1
        assert f"ACL SETUSER {USER} +{right}" in engine.text and PASSWORD not in engine.text
        assert held(world.west) == {}


def test_the_other_site_is_not_read_and_may_hold_other_things(tmp_path: pathlib.Path) -> None:
    with World(tmp_path, topology="one-way") as world:
        engine = world.synchronised_engine()
        with world.west.client() as west, world.east.client() as east:
            west.set("of-west", 1)
            east.set("of-east", 1)
            world.wait_drained(engine)
            assert (east.exists("of-west"), west.exists("of-west", "of-east")) == (0, 2)
            assert west.info("replication")["connected_slaves"] == 0


@pytest.mark.parametrize("comes_back", ["empty", "older"])
def test_a_target_that_lost_data_is_not_filled_from_the_middle(tmp_path: pathlib.Path, comes_back: str) -> None:
    """An empty one is an error. An older one holds an older tag, from which the job goes on."""
    with World(tmp_path, topology="one-way", tables="[engine]\nretry_pause_ms_max = 200\n") as world:
        engine = world.synchronised_engine()
        world.start_writers(1, "east")
        writer = world.writers[0]
        wait_until(lambda: writer.rounds > 50, "clients write")
        if comes_back == "older":
            world.west.client().save()
        wait_until(lambda: writer.rounds > 150, "clients write")
        world.west.stop(signal.SIGKILL)
        world.west.start()
        world.stop_writers()
        if comes_back == "older":
            world.wait_drained(engine)
            world.assert_written()
        else:
            assert engine.ends(10) == 1
            assert "west: " in engine.text.strip().splitlines()[-1]
            assert held(world.west) == {}


def test_drained_is_not_said_of_a_target_that_has_just_come_back_with_older_data(tmp_path: pathlib.Path) -> None:
    """An engine that has nothing to write does not notice at once: what it said before is not true any more."""
    with World(tmp_path, topology="one-way", tables="[engine]\nretry_pause_ms_max = 200\n") as world:
        engine = world.synchronised_engine()
        world.start_writers(1, "east")
        writer = world.writers[0]
        wait_until(lambda: writer.rounds > 50, "clients write")
        world.west.client().save()
        before = writer.rounds
        wait_until(lambda: writer.rounds > before, "clients write")
        world.stop_writers()
        world.wait_drained(engine)
        world.assert_written()
        world.west.stop(signal.SIGKILL)
        world.west.start()
        world.wait_drained(engine)
        world.assert_written()
