"""Caps on what bisync writes: with real servers, changed while the engine runs, and after a restart.

Only lower bounds of times are tested: they hold on the busiest machine.
"""

import pathlib
import random
import time
from typing import Any

import pytest

from bisync.testing.servers import LocalServer
from tests.system.world import FORWARD, WAIT_S, EngineProcess, World, assert_same, bisync, bisync_json, held, wait_until

pytestmark = pytest.mark.slow

KEYS = 6_000
CAPPED = "[limits]\ncopy_commands_per_s = {copy}\nfollow_commands_per_s = {follow}\n"
SLOW = 100  # commands per second
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
    """At the first cap it would take a minute, which is longer than anything here is waited for."""
    assert KEYS / SLOW - BURST_S > WAIT_S
    with World(tmp_path, tables=CAPPED.format(copy=SLOW, follow=0)) as world:
        fill(world)
        began_s = time.monotonic()
        engine = world.start_engine()
        first_at_west(world)
        for _ in range(3):
            count = copied(world)
            assert count <= SLOW * (time.monotonic() - began_s) + 1
        wait_until(lambda: world.status()["channels"][FORWARD]["limits"]["sent_commands_per_s"] > 0, "a measured rate")
        limits = world.status()["channels"][FORWARD]["limits"]
        assert limits["commands_per_s"] == SLOW and limits["sent_commands_per_s"] <= SLOW * (1 + BURST_S) + 1
        shown = bisync("limits", world.job_file, "--copy-commands", 3_000)
        assert "The engine takes this within a second." in shown.stdout, shown

        def taken() -> bool:
            document = world.status()
            over = document["state"] == "synchronizing"  # this test was kept from looking for a while
            return over or document["channels"][FORWARD]["limits"]["commands_per_s"] == 3_000

        wait_until(taken, "the new cap")
        changed_s = time.monotonic()
        left = KEYS - copied(world)  # all of them come after that moment
        world.wait_synchronizing(engine)
        assert time.monotonic() - changed_s >= left / 3_000 - BURST_S
        assert time.monotonic() - began_s < KEYS / SLOW - BURST_S, "at the first cap it would have taken longer"
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


def commands_of(server: LocalServer) -> int:
    """How many commands the server has executed, those within transactions too."""
    with server.client() as client:
        return sum(int(told["calls"]) for told in client.info("commandstats").values())


def test_the_scan_of_the_target_keeps_the_copys_cap_and_shows_how_far_it_is(tmp_path: pathlib.Path) -> None:
    tables = "[limits]\ncopy_bytes_per_s = 400_000\n[objects]\nexclude = ['other:*']\n"
    tables += "[full_copy]\ntarget_not_empty = 'overwrite'\n"
    with World(tmp_path, topology="one-way", tables=tables) as world:
        with world.east.client() as east, world.west.client() as west:
            east.mset({"copied": 1, "also": 2})
            west.mset({"stale": 1, "copied": 3, **{f"other:{'x' * 90}:{n}": "" for n in range(20_000)}})
            began_s = time.monotonic()
            engine = world.start_engine()
            copy: dict[str, Any] = {}

            def scans() -> bool:
                copy.update(world.status()["channels"][FORWARD]["full_copy"])
                engine.check()
                return copy["keys_done"] >= 2 and 2_000 < copy["target_keys_checked"] < 15_000

            wait_until(scans, "the scan for stale keys is under way")
            assert copy["target_keys_total"] in (20_002, 20_003), "those that are not in scope are looked at too"
            checked = copy["target_keys_checked"]
            assert checked * 90 <= 400_000 * (time.monotonic() - began_s), "its bytes are under the cap"
            assert bisync("limits", world.job_file, "--copy-bytes", 0).returncode == 0
            world.wait_synchronizing(engine)
            assert world.status()["channels"][FORWARD]["full_copy"]["target_keys_total"] is None, "it is over"
            assert west.mget("stale", "copied", "also") == [None, b"1", b"2"]
            assert west.dbsize() >= 20_002, "what is not in scope stays"


def test_a_comparison_keeps_the_copys_caps_at_both_sites_and_takes_a_change(tmp_path: pathlib.Path) -> None:
    tables = "[full_copy]\ntarget_not_empty = 'reconcile'\n[engine]\nheartbeat_ms = 0\n"
    with World(tmp_path, tables=tables + CAPPED.format(copy=500, follow=0)) as world:
        keys = {f"key:{n}": f"value {n}" for n in range(KEYS)}
        with world.east.client() as east, world.west.client() as west:
            east.mset({**keys, "of east": 1})
            west.mset({**keys, "of west": 1})
        engine = world.start_engine()
        done = wait_compared(world, engine, 100)
        began_s, began = time.monotonic(), {name: commands_of(server) for name, server in world.servers.items()}
        done = wait_compared(world, engine, done + 500)
        for name, server in world.servers.items():
            count, passed_s = commands_of(server) - began[name], time.monotonic() - began_s
            beside = 300 + 20 * passed_s  # of the engine and of this test
            assert count <= 500 * (passed_s + 2 * BURST_S) + beside, f"{name}: {count} commands in {passed_s:.1f} s"
        assert done < KEYS, "it is not over yet"
        assert bisync("limits", world.job_file, "--copy-commands", 0).returncode == 0
        world.wait_synchronizing(engine)
        world.assert_equal()
        with world.east.client() as east, world.west.client() as west:
            assert east.get("of west") == west.get("of east") == b"1"


def wait_compared(world: World, engine: EngineProcess, keys: int) -> int:
    """Wait until more than so many keys were looked at. How many."""
    found = [0]

    def enough() -> bool:
        engine.check()
        found[0] = world.status()["channels"][FORWARD]["full_copy"]["keys_done"]
        return found[0] > keys

    wait_until(enough, f"more than {keys} keys are compared")
    return found[0]


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
