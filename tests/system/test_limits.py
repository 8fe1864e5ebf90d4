"""Caps on what bisync writes: with real servers, changed while the engine runs, and after a restart.

Only lower bounds of times are tested: they hold on the busiest machine.
"""

import pathlib
import random
import time

import pytest

from tests.system.world import FORWARD, WAIT_S, World, assert_same, bisync, bisync_json, held, wait_until

pytestmark = pytest.mark.slow

KEYS = 6_000
CAPPED = "[limits]\ncopy_commands_per_s = {copy}\nfollow_commands_per_s = {follow}\n"
BURST_S = 0.5  # a bucket that was full holds so much of its rate


def fill(world: World, keys: int = KEYS, prefix: str = "key") -> None:
    with world.east.client() as client:
        client.mset({f"{prefix}:{n}": f"value {n}" for n in range(keys)})


def copied(world: World, prefix: str = "key") -> int:
    """How many of the keys are at west."""
    with world.west.client() as client:
        return sum(1 for _ in client.scan_iter(f"{prefix}:*", count=5_000))


def first_at_west(world: World) -> None:
    """Wait until the copy writes."""
    wait_until(lambda: copied(world) > 0, "the first copied key")


def test_a_copy_keeps_its_cap_and_goes_faster_when_it_is_raised(tmp_path: pathlib.Path) -> None:
    with World(tmp_path, tables=CAPPED.format(copy=500, follow=0)) as world:
        fill(world)
        began_s = time.monotonic()
        engine = world.start_engine()
        first_at_west(world)
        for _ in range(3):
            count = copied(world)
            assert count <= 500 * (time.monotonic() - began_s) + 1
        wait_until(lambda: world.status()["channels"][FORWARD]["limits"]["sent_commands_per_s"] > 0, "a measured rate")
        limits = world.status()["channels"][FORWARD]["limits"]
        assert limits["commands_per_s"] == 500 and limits["sent_commands_per_s"] <= 500 * 1.5 + 1
        shown = bisync("limits", world.job_file, "--copy-commands", 3_000)
        assert "The engine takes this within a second." in shown.stdout, shown
        changed_s, count = time.monotonic(), copied(world)
        assert count < KEYS / 2, "it is not over yet"
        wait_until(lambda: world.status()["channels"][FORWARD]["limits"]["commands_per_s"] == 3_000, "the new cap", 5.0)
        world.wait_synchronizing(engine)
        took_s = time.monotonic() - began_s
        assert took_s >= (changed_s - began_s) + (KEYS - 500 * (changed_s + 5 - began_s)) / 3_000
        assert took_s < KEYS / 500, "at the first cap it would have taken longer"
        assert_same(held(world.east), held(world.west))
        events = [e["text"] for e in world.status()["events"]]
        assert any("the full copy at most 3,000 commands/s" in text for text in events), events


def test_following_keeps_its_cap_on_each_channel_and_loses_nothing(tmp_path: pathlib.Path) -> None:
    with World(tmp_path, tables=CAPPED.format(copy=0, follow=400)) as world:
        engine = world.synchronised_engine()
        began_s = time.monotonic()
        for site, server in world.servers.items():
            with server.client() as client, client.pipeline(transaction=False) as pipe:
                for n in range(2_000):
                    pipe.incr(f"{site}:{n % 50}")
                pipe.execute()
        wait_until(lambda: (world.status()["channels"][FORWARD]["lag_ms"] or 0) > 1_000, "the lag shows")
        assert world.status()["channels"][FORWARD]["lag_bytes"] > 0
        world.wait_drained(engine)
        assert time.monotonic() - began_s >= 2_000 / 400 - BURST_S
        world.assert_equal()
        with world.west.client() as client:
            assert sum(int(value) for value in client.mget([f"east:{n}" for n in range(50)])) == 2_000
        engine.stop()


def test_bytes_are_capped_too(tmp_path: pathlib.Path) -> None:
    with World(tmp_path, topology="one-way", tables="[limits]\ncopy_bytes_per_s = 1_000_000\n") as world:
        noise = random.Random(4)  # nothing that a snapshot would compress
        with world.east.client() as client:
            for n in range(30):
                client.set(f"key:{n}", noise.randbytes(100_000))
        began_s = time.monotonic()
        engine = world.start_engine()
        world.wait_synchronizing(engine)
        assert time.monotonic() - began_s >= 3.0
        assert_same(held(world.east), held(world.west))


def test_caps_that_were_set_survive_a_kill_and_a_stop_is_quick_though_much_waits(tmp_path: pathlib.Path) -> None:
    with World(tmp_path) as world:
        fill(world, 3_000)
        assert bisync("limits", world.job_file, "--copy-commands", 200).returncode == 0  # before the first start
        engine = world.start_engine()
        first_at_west(world)
        engine.kill()
        engine, began_s = world.start_engine(), time.monotonic()
        there = copied(world)
        wait_until(
            lambda: copied(world) > there or world.status()["channels"][FORWARD]["limits"]["sent_commands_per_s"],
            "the second engine copies",
        )
        assert world.status()["channels"][FORWARD]["limits"]["commands_per_s"] == 200
        began_s = time.monotonic()
        engine.stop()
        assert time.monotonic() - began_s < 8.0, "it does not wait for its pace"
        document = bisync_json("limits", world.job_file, "--reset")
        assert document["limits"]["copy_commands_per_s"] == {"value": 0, "from": "job file"}
        world.synchronised_engine()
        assert_same(held(world.east), held(world.west))


def test_one_transaction_larger_than_the_cap_goes_whole_and_the_channel_lives_on(tmp_path: pathlib.Path) -> None:
    with World(tmp_path, tables=CAPPED.format(copy=0, follow=100)) as world:
        engine = world.synchronised_engine()
        with world.east.client() as client:
            with client.pipeline(transaction=True) as pipe:
                for n in range(1_000):
                    pipe.set(f"key:{n}", n)
                pipe.execute()
            client.set("after", 1)
        counts = [0]
        while counts[-1] != 1_000:
            engine.check()
            counts.append(copied(world))
            assert counts[-1] in (0, 1_000), "it is applied as one"
        with world.west.client() as client:
            assert client.get("after") is None, "the debt is paid first"
            wait_until(lambda: world.status()["channels"][FORWARD]["lag_ms"] > 2_500, "what waits shows as lag")
            assert client.get("after") is None
            engine.check()
            assert bisync("limits", world.job_file, "--follow-commands", 0).returncode == 0
            wait_until(lambda: client.get("after") == b"1", "the rest, once there is no cap")
        world.wait_drained(engine)


def test_an_idle_capped_channel_beats_on(tmp_path: pathlib.Path) -> None:
    tables = "[engine]\nheartbeat_ms = 50\n" + CAPPED.format(copy=0, follow=1)
    with World(tmp_path, tables=tables) as world:
        world.synchronised_engine()
        with world.west.client() as client:
            beats, began_s = set(), time.monotonic()
            while len(beats) <= 10 and time.monotonic() - began_s < WAIT_S:
                beats.add(client.get("bisync:orders:beat"))
            assert time.monotonic() - began_s < 10, "a cap of one command a second would need more"
