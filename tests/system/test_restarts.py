"""Servers that restart: cleanly, and bisync goes on; or with another history, and it says so and stops."""

import pathlib
import signal

import pytest

from bisync.testing.servers import LocalServer
from tests.system.world import World, assert_same, held, wait_until

pytestmark = pytest.mark.slow

SAVES = ("--save", "3600 1")  # so a server that is told to end saves its data
NO_BEAT = "[engine]\nheartbeat_ms = 0\n"


def restart(server: LocalServer) -> None:
    server.stop(signal.SIGTERM)
    server.start()


def test_sums_are_exact_when_each_server_restarts_under_load(tmp_path: pathlib.Path) -> None:
    with World(tmp_path, options=SAVES, tables="[engine]\nretry_pause_ms_max = 500\n") as world:
        engine = world.synchronised_engine()
        world.start_writers(1)
        for name in ("east", "west", "west", "east"):
            before = [writer.rounds for writer in world.writers]
            wait_until(lambda: all(w.rounds > b + 60 for w, b in zip(world.writers, before)), "clients write")
            restart(world.servers[name])
            engine.check()
        before = [writer.rounds for writer in world.writers]
        wait_until(lambda: all(w.rounds > b + 60 for w, b in zip(world.writers, before)), "clients write")
        world.stop_writers()
        world.wait_drained(engine)
        world.assert_written()
        world.assert_equal()


@pytest.mark.parametrize("restarted, frozen", [("east", "west"), ("west", "east")])
def test_an_engine_that_was_away_goes_on_from_the_journal(tmp_path: pathlib.Path, restarted: str, frozen: str) -> None:
    """What was read of the server's stream, and could not be applied before the engine died, is only in the journal."""
    with World(tmp_path, options=SAVES, tables=NO_BEAT) as world:
        server, other = world.servers[restarted], world.servers[frozen]
        engine = world.synchronised_engine()
        world.start_writers(1, frozen)
        wait_until(lambda: world.writers[0].rounds > 20, "clients write")
        world.stop_writers()
        world.wait_drained(engine)
        other.pause()
        (writer,) = world.start_writers(2, restarted)
        wait_until(lambda: writer.rounds > 300, "clients write")
        world.stop_writers()
        wait_until(lambda: has_been_read(server), "the engine has read it all")
        engine.kill()
        end = server.replication_offset
        other.resume()
        with other.client() as client:
            assert writer.wrong(client), "it was applied before: this test shows nothing"
        restart(server)
        assert server.replication_offset == end
        engine = world.synchronised_engine()
        world.wait_drained(engine)
        world.assert_written()
        world.assert_equal()


def has_been_read(server: LocalServer) -> bool:
    with server.client() as client:
        info = client.info("replication")
    return bool(info["connected_slaves"] == 1 and info["slave0"]["offset"] == info["master_repl_offset"])


@pytest.mark.parametrize("engine_is", ["running", "away"])
@pytest.mark.parametrize("comes_back", ["empty", "older"])
@pytest.mark.parametrize("lost", ["east", "west"])
def test_a_lost_history_is_one_clear_error_and_nothing_is_applied_over_it(
    tmp_path: pathlib.Path, lost: str, comes_back: str, engine_is: str
) -> None:
    with World(tmp_path, tables="[engine]\nretry_pause_ms_max = 200\n") as world:
        server = world.servers[lost]
        kept = next(name for name in world.servers if name != lost)
        engine = world.synchronised_engine()
        world.start_writers(1)
        wait_until(lambda: all(writer.rounds > 50 for writer in world.writers), "clients write")
        world.stop_writers()
        world.wait_drained(engine)
        if comes_back == "older":
            server.client().save()
        found = held(server) if comes_back == "older" else {}
        # from here on clients write at the site that stays, so there is something to apply over the lost one
        (writer,) = world.start_writers(2, kept, prefix="later")
        wait_until(lambda: writer.rounds > 50, "clients write")
        if engine_is == "away":
            engine.kill()
        server.stop(signal.SIGKILL)
        if engine_is == "running":
            wait_until(lambda: engine.check() and engine.text.count("suspended") >= 3, "the engine tries to come back")
        server.start()
        if engine_is == "away":
            engine = world.start_engine()
        assert engine.ends() == 1
        world.stop_writers()
        assert_gap_is_told(world, engine.text, lost)
        assert_same(held(server), found)
        with world.servers[kept].client() as client:
            assert [wrong for w in world.writers for wrong in w.wrong(client)] == []


def assert_gap_is_told(world: World, log: str, lost: str) -> None:
    status = world.status()
    assert status["state"] == "failed", status
    assert status["reason"].startswith(f"{lost}: the stream after offset "), status["reason"]
    assert "it has a new replication history" in status["reason"] and "Next: " in status["reason"]
    assert "Traceback" not in log
    last = log.strip().splitlines()[-1]
    assert f"{lost}: the stream after offset " in last, log


def test_a_backlog_that_is_too_small_is_the_same_error(tmp_path: pathlib.Path) -> None:
    with World(tmp_path, options=("--repl-backlog-size", "16kb"), tables=NO_BEAT) as world:
        world.synchronised_engine().stop()
        with world.east.client() as client:
            for n in range(100):
                client.set(f"k{n}", b"x" * 1_000)
        before = held(world.west)
        engine = world.start_engine()
        assert engine.ends() == 1
        assert world.status()["state"] == "failed"
        reason = world.status()["reason"]
        assert reason.startswith("east: the stream after offset ") and "its backlog no longer holds the " in reason
        assert_same(held(world.west), before)
