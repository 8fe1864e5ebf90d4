"""When nobody writes: bisync adds next to nothing to the streams, and sends nothing back."""

import contextlib
import pathlib
import time

import pytest

from tests.system.watch import Watch
from tests.system.world import EngineProcess, World, wait_until

pytestmark = pytest.mark.slow

SETTLE_S, WINDOW_S = 8.0, 58.0  # together what a user calls a minute of quiet
QUIET_BYTES_PER_MIN = 2_048
BEAT_BYTES = 600  # one transaction with a tag and a heartbeat
INCREMENTS = 500
NO_BEAT = "[engine]\nheartbeat_ms = 0\n"


def load(world: World) -> EngineProcess:
    """An engine, and some writes on both sites that it has carried over."""
    engine = world.synchronised_engine()
    world.start_writers(1)
    wait_until(lambda: all(writer.rounds > 50 for writer in world.writers), "clients write")
    world.stop_writers()
    world.wait_drained(engine)
    return engine


def offsets(world: World) -> dict[str, int]:
    return {name: server.replication_offset for name, server in world.servers.items()}


def test_quiet_sites_stay_quiet(tmp_path: pathlib.Path) -> None:
    with (
        World(tmp_path / "silent", tables=NO_BEAT) as silent,
        World(tmp_path / "beating") as beating,
    ):
        engines = load(silent), load(beating)
        began_s = time.monotonic()
        wait_until(lambda: time.monotonic() > began_s + SETTLE_S, "the settling time is over", 2 * SETTLE_S)
        before = offsets(silent), offsets(beating)
        wait_until(lambda: time.monotonic() > began_s + SETTLE_S + WINDOW_S, "the window is over", 2 * WINDOW_S)
        after = offsets(silent), offsets(beating)
        minutes = WINDOW_S / 60
        for name in silent.servers:
            assert (after[0][name] - before[0][name]) / minutes < QUIET_BYTES_PER_MIN, name
            grown = (after[1][name] - before[1][name]) / minutes
            assert 60 * 100 < grown < 60 * BEAT_BYTES + QUIET_BYTES_PER_MIN, name
        for engine in engines:
            engine.stop()


def calls(world: World, command: str) -> dict[str, int]:
    """By site: how often a command was run there, by anybody."""
    return {
        name: server.client().info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"]
        for name, server in world.servers.items()
    }


@pytest.mark.parametrize("tables", ["", NO_BEAT], ids=["heartbeat", "no-heartbeat"])
def test_every_write_is_applied_once_across_and_never_sent_back(tmp_path: pathlib.Path, tables: str) -> None:
    with World(tmp_path, tables=tables) as world, contextlib.ExitStack() as stack:
        watches = {name: stack.enter_context(Watch(server)) for name, server in world.servers.items()}
        engine = world.synchronised_engine()
        for name, server in world.servers.items():
            with server.client() as client:
                for n in range(INCREMENTS):
                    client.execute_command("INCR", f"{name}:{n % 7}")
        world.wait_drained(engine)
        world.wait_drained(engine)  # the second time also all that the first one found under way
        engine.stop()
        assert calls(world, "incr") == dict.fromkeys(world.servers, 2 * INCREMENTS)
        for watch in watches.values():
            increments = [command for command in watch.read() if command[0].upper() == b"INCR"]
            assert len(increments) == 2 * INCREMENTS
        world.assert_equal()
