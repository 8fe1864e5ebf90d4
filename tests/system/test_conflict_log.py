"""The log of conflicts of a running engine: what is in it, also after kills, and undoing one for both sites."""

import json
import pathlib
import random
from typing import Any

import pytest

from tests.system.world import World, bisync, bisync_json, wait_until

pytestmark = pytest.mark.slow

KILLS = 8
KEYS = 40


def log(world: World, *words: object) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = bisync_json("conflicts", world.job_file, *words)
    return documents


def provoke(world: World, *commands: tuple[tuple[object, ...], tuple[object, ...]]) -> None:
    """Write at both sites while no engine runs: first at east, then at west."""
    with world.east.client() as east, world.west.client() as west:
        for at_east, at_west in commands:
            east.execute_command(*at_east)
            west.execute_command(*at_west)


def undo(world: World, id: int, *options: str) -> None:
    done = bisync("conflicts", world.job_file, "--undo", id, *options)
    assert done.returncode == 0, done.stderr


def test_a_conflict_is_on_record_and_undoing_it_brings_the_loser_back_at_both_sites(tmp_path: pathlib.Path) -> None:
    with World(tmp_path) as world:
        engine = world.synchronised_engine()
        provoke(world, (("HSET", "h", "other", "1"), ("PING",)))
        world.wait_drained(engine)
        engine.stop()
        provoke(
            world,
            (("SET", "k", "of east"), ("SET", "k", "of west", "PX", 3_600_000)),
            (("HSET", "h", "f", "of east"), ("HSET", "h", "f", "of west")),
            (("ZADD", "z", "1.5", "m"), ("ZADD", "z", "2", "m")),
        )
        engine = world.synchronised_engine()
        world.wait_drained(engine)
        wait_until(lambda: not log(world, "--open"), "the log says that all is settled")
        world.assert_equal()
        records = {(r["key"], (r["element"] or {}).get("name")): r for r in log(world)}
        assert ("k", None) in records and ("h", "f") in records and ("z", "m") in records, list(records)

        record = records["k", None]
        assert {w["site"]: w["command"].split()[2:4] for w in record["writes"]} == {
            "east": ["of", "east"],
            "west": ["of", "west"],
        }
        assert record["counts"] == {"east": 1, "west": 1} and record["outcome"] == "settled"
        for record in records.values():
            undo(world, record["id"])
        world.wait_drained(engine)
        world.assert_equal()
        lost = {place: "east" if record["winner"] == "west" else "west" for place, record in records.items()}
        for server in (world.east, world.west):
            with server.client() as client:
                assert client.get("k") == f"of {lost['k', None]}".encode()
                assert (client.pttl("k") == -1) == (lost["k", None] == "east")
                assert client.hgetall("h") == {b"other": b"1", b"f": f"of {lost['h', 'f']}".encode()}
                assert client.zscore("z", "m") == (1.5 if lost["z", "m"] == "east" else 2)
        assert {r["outcome"] for r in log(world)} == {"undone"}
        assert "it was undone before" in bisync("conflicts", world.job_file, "--undo", record["id"]).stderr
        engine.stop()


def test_a_conflict_is_one_record_however_often_the_engine_is_killed_over_it(tmp_path: pathlib.Path) -> None:
    chance = random.Random(1)
    with World(tmp_path) as world:
        world.synchronised_engine().stop()
        provoke(world, *((("SET", f"k{n}", "of east"), ("SET", f"k{n}", "of west")) for n in range(KEYS)))
        for _ in range(KILLS):
            engine = world.start_engine()
            seconds = chance.uniform(0.4, 1.4)
            wait_until(lambda: not engine.running or engine.seconds >= seconds, "the moment of the kill")
            engine.check()
            engine.kill()
        engine = world.synchronised_engine()
        world.wait_drained(engine)
        wait_until(lambda: not log(world, "--open"), "the log says that all is settled")
        records = log(world)
        keys = sorted(r["key"] for r in records)
        assert keys == sorted(f"k{n}" for n in range(KEYS)), "each once"
        for record in records:
            assert {w["site"] for w in record["writes"]} == {"east", "west"}
            assert record["counts"] == {"east": 1, "west": 1}
            assert record["replaced"] is None or record["replaced"]["site"] == record["winner"], record
        engine.stop()
        world.assert_equal()


def test_the_log_is_read_while_the_engine_writes_it(tmp_path: pathlib.Path) -> None:
    with World(tmp_path) as world:
        engine = world.synchronised_engine()
        world.start_writers(1)
        for _ in range(10):
            exported = bisync("conflicts", world.job_file, "--export", "-")
            assert exported.returncode == 0, exported.stderr
            for line in exported.stdout.splitlines():
                json.loads(line)
        world.stop_writers()
        world.wait_drained(engine)
        world.assert_equal()
        total = world.status()["conflicts"]["total"]
        wait_until(lambda: len(log(world)) == total, f"the log has the {total} conflicts of the status")
        engine.stop()
