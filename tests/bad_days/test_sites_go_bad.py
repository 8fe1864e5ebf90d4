"""A site that goes bad while the engine runs: it waits where that can heal and stops with a reason where not."""

import contextlib
import pathlib
import signal
import threading
from typing import Any

import pytest
import redis

from bisync.core.reply import read_refusal
from bisync.testing.servers import free_port
from tests.bad_days.harness import NEW_SECRET, QUICK, SECRET, BadDay, Meddler, running
from tests.bad_days.test_refused_at_start import TAG

pytestmark = pytest.mark.slow


class TestARefusalThatHeals:
    @pytest.mark.parametrize("topology", ["one-way", "bidirectional"])
    def test_no_memory_left(self, tmp_path: pathlib.Path, topology: str) -> None:
        with running(tmp_path, topology=topology) as (day, engine):
            day.west.do("CONFIG", "SET", "maxmemory", 1)
            day.write("east", "meanwhile")
            day.logs(engine, "west refuses writes: OOM")
            assert "raise maxmemory" in engine.text
            day.write("west", "deleted", 0)
            day.west.do("CONFIG", "SET", "maxmemory", 0)
            day.logs(engine, "west takes writes again")
            day.finish(engine)

    def test_no_memory_left_when_the_engine_starts(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            engine.kill()
            day.write("east", "meanwhile")
            day.west.do("CONFIG", "SET", "maxmemory", 1)
            engine = day.start_engine()
            day.logs(engine, "OOM")
            assert "raise maxmemory" in engine.text
            day.west.do("CONFIG", "SET", "maxmemory", 0)
            day.wait_synchronizing(engine)
            day.finish(engine)

    def test_no_memory_left_in_the_copy(self, tmp_path: pathlib.Path) -> None:
        with BadDay(tmp_path, tables=QUICK + "batch_commands = 100\n", west=("--maxmemory", "3mb")) as day:
            with day.east.client() as client:
                client.mset({f"k{n}": "x" * 500 for n in range(8000)})
            day.west.do("CONFIG", "SET", "maxmemory", "40mb")  # so the precheck sees room
            engine = day.start_engine()
            day.reaches("west", TAG)
            day.west.do("CONFIG", "SET", "maxmemory", "2mb")
            day.logs(engine, "west refuses writes: OOM")
            day.in_state(engine, "initializing")
            day.west.do("CONFIG", "SET", "maxmemory", 0)
            day.wait_synchronizing(engine)
            day.finish(engine)

    def test_too_few_replicas(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            day.west.do("CONFIG", "SET", "min-replicas-to-write", 2)
            day.write("east", "meanwhile")
            day.logs(engine, "west refuses writes: NOREPLICAS")
            assert "min-replicas-to-write" in engine.text
            day.west.do("CONFIG", "SET", "min-replicas-to-write", 0)
            day.finish(engine)

    @pytest.mark.parametrize("topology", ["one-way", "bidirectional"])
    def test_a_target_that_is_a_replica_for_a_while(self, tmp_path: pathlib.Path, topology: str) -> None:
        with running(tmp_path, topology=topology) as (day, engine):
            day.west.do("REPLICAOF", "127.0.0.1", free_port())
            day.write("east", "meanwhile")
            day.logs(engine, "READONLY")
            day.in_state(engine, "suspended")
            day.west.do("REPLICAOF", "NO", "ONE")
            day.in_state(engine, "synchronizing")
            day.finish(engine)

    @pytest.mark.parametrize("site", ["east", "west"])
    def test_a_busy_script(self, tmp_path: pathlib.Path, site: str) -> None:
        with running(tmp_path) as (day, engine):
            server = day.servers[site]
            server.do("CONFIG", "SET", "busy-reply-threshold", 10)
            script = threading.Thread(target=_loop, args=(server,))
            script.start()
            day.logs(engine, "BUSY")
            with server.client() as client, contextlib.suppress(redis.ResponseError):
                client.script_kill()
            script.join()
            day.write("east", "after")
            day.finish(engine)

    def test_a_server_that_loads_after_a_restart(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            day.write("east", "meanwhile")
            day.wait_drained(engine)
            day.west.do("CONFIG", "SET", "save", "3600 1")
            with day.west.client() as client:
                client.mset({f"bulk:{n}": "x" * 100 for n in range(2000)})
            day.wait_drained(engine)
            day.west.stop(signal.SIGTERM)
            day.west.options += ("--key-load-delay", "3000", "--loading-process-events-interval-bytes", "1024")
            day.west.answers = lambda: True  # type: ignore[method-assign]
            day.west.start()
            day.logs(engine, "LOADING")
            day.in_state(engine, "suspended")
            day.west.do("CONFIG", "SET", "key-load-delay", 0)
            day.in_state(engine, "synchronizing")
            day.write("west", "after")
            day.finish(engine)


def _loop(server: Any) -> None:
    with contextlib.suppress(Exception):
        server.do("EVAL", "while true do end", 0)


def test_a_site_that_turns_bad_between_queueing_and_exec(tmp_path: pathlib.Path) -> None:
    """Then only EXEC is refused, and the reason stands in its answer."""
    with BadDay(tmp_path) as day, day.west.client() as client:
        connection = client.connection_pool.get_connection()
        connection.send_command("MULTI")
        connection.send_command("SET", "a", "b")
        assert [connection.read_response(), connection.read_response()] == [b"OK", b"QUEUED"]
        day.west.do("CONFIG", "SET", "maxmemory", 1)
        connection.send_command("EXEC")
        with pytest.raises(redis.exceptions.ExecAbortError) as e:
            connection.read_response()
        client.connection_pool.release(connection)
    refusal = read_refusal([b"OK", b"QUEUED", Exception(f"EXECABORT {e.value}")])
    assert refusal.heals and refusal.text.startswith("OOM ") and "raise maxmemory" in refusal.hint


class TestARefusalThatDoesNotHeal:
    def test_a_server_that_repeats_the_password_it_does_not_understand(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            day.west.stop(signal.SIGTERM)
            day.west.options = ("--rename-command", "AUTH", "LOGIN")
            day.west.answers = lambda: True  # type: ignore[method-assign]
            day.west.start()
            day.ended(engine, "west: ", "unknown command 'AUTH'")
            day.refused("west: ", "unknown command 'AUTH'")

    def test_a_password_that_is_changed(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            day.west.do("CONFIG", "SET", "requirepass", NEW_SECRET)
            day.west.password = NEW_SECRET
            day.write("east", "meanwhile")
            day.reaches("west", "east:meanwhile")
            day.west.do("CLIENT", "KILL", "TYPE", "normal")
            day.ended(engine, "west: ", "WRONGPASS", "password in the job file")
            assert day.status()["state"] == "failed"
            day.refused("west: ", "WRONGPASS", "password in the job file")
            day.west.do("CONFIG", "SET", "requirepass", SECRET)
            day.west.password = SECRET
            day.write("west", "later")
            day.finish(day.synchronised_engine())

    def test_an_account_that_loses_a_right_stops_the_job_and_it_goes_on_later(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            day.west.do("ACL", "SETUSER", "default", "-@dangerous", "+psync", "+replconf", "+info", "+acl", "-lpush")
            day.east.do("LPUSH", "left", 1)
            day.write("east", "meanwhile")
            day.ended(engine, "west refuses a transaction of the forward channel: NOPERM", "'lpush'", "ACL SETUSER")
            assert day.status()["state"] == "failed" and "NOPERM" in day.status()["reason"]
            day.refused("'lpush'", "on_refused")
            day.west.do("ACL", "SETUSER", "default", "+@all")
            day.finish(day.synchronised_engine())

    def test_quarantine_sets_it_aside_and_says_so(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path, tables=QUICK + 'on_refused = "quarantine"\n') as (day, engine):
            day.west.do("ACL", "SETUSER", "default", "-lpush")
            day.east.do("LPUSH", "left", "the value")
            day.write("east", "meanwhile")
            day.wait_drained(engine)
            day.assert_all_there()
            assert "LPUSH left the value" in engine.text
            text = day.bisync("status", status=0)
            assert "quarantined" in text and "LPUSH left the value" in text
            assert day.status()["state"] == "synchronizing"
            engine.stop()

    def test_the_tag_may_not_be_read_any_more(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            day.west.do("ACL", "SETUSER", "default", "-get")
            day.write("east", "meanwhile")
            day.ended(engine, "west", "NOPERM", "ACL SETUSER")
            day.west.do("ACL", "SETUSER", "default", "+get")
            day.finish(day.synchronised_engine())

    def test_a_database_that_the_target_does_not_have(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path, east=("--databases", "32")) as (day, engine):
            day.east.do("SET", "far", "1", db=20)
            day.write("east", "meanwhile")
            day.ended(engine, "west", "database 20", "databases")
            assert day.west.do("KEYS", "far*") == [], "the write went to another database"

    @pytest.mark.parametrize("removed", [False, True])
    def test_a_source_whose_backlog_no_longer_holds_the_position(self, tmp_path: pathlib.Path, removed: bool) -> None:
        with running(tmp_path, east=("--repl-backlog-size", "16kb")) as (day, engine):
            engine.stop()
            if removed:
                for path in day.job.journal_folder.iterdir():
                    path.unlink()
            with day.east.client() as client:
                for n in range(200):
                    client.set(f"lost:{n}", "x" * 1000)
            text = day.refused("east: the stream after offset", "backlog no longer holds", "repl-backlog-size", "reset")
            assert "verify" in text and day.status()["state"] == "failed"
            day.refused("east: the stream after offset", process=True)
            day.west.do("FLUSHALL")
            day.bisync("reset", "--yes", status=0)
            day.finish(day.synchronised_engine())

    def test_a_server_that_begins_a_new_history(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            day.east.stop(signal.SIGKILL)
            day.east.start()
            day.ended(engine, "east: the stream after offset", "a new replication history", "bisync reset")
            assert day.west.do("LLEN", "east:before") == 5

    def test_a_stream_of_garbage(self, tmp_path: pathlib.Path) -> None:
        with BadDay(tmp_path) as day, Meddler(day.east, lambda data: data) as meddler:
            day.urls["east"] = f"redis://:{SECRET}@127.0.0.1:{meddler.port}"
            day.write_job_file()
            day.write("east", "before")
            engine = day.synchronised_engine()
            meddler.change = lambda data: (data if data.startswith(b"+CONTINUE") else b"\x15\x03garbage\r\n" * 10)
            day.write("east", "meanwhile")
            day.ended(engine, "after offset", "replication stream holds", "the connection or the journal is damaged")
            meddler.change = lambda data: data
            day.finish(day.synchronised_engine())

    def test_a_port_that_is_taken_by_something_else(self, tmp_path: pathlib.Path) -> None:
        with BadDay(tmp_path) as day, Meddler(day.west, lambda data: data) as meddler:
            day.urls["west"] = f"redis://:{SECRET}@127.0.0.1:{meddler.port}"
            day.write_job_file()
            day.write("east", "before")
            engine = day.synchronised_engine()
            meddler.impostor = b"HTTP/1.1 400 Bad Request\r\n\r\n"
            day.west.do("CLIENT", "KILL", "TYPE", "normal")
            day.ended(engine, "west: ", "not as Redis does", "check host and port")
            meddler.impostor = b""
            day.finish(day.synchronised_engine())


class TestATargetThatLosesItsData:
    """Of a one-way job: its stream is not read, so that only the tag and the name of its history can tell."""

    def test_all_of_it(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path, topology="one-way") as (day, engine):
            day.west.stop(signal.SIGKILL)
            day.west.start()
            day.write("east", "meanwhile")
            day.ended(engine, "west", "lost", "bisync reset")
            day.refused("west", "lost", "bisync reset", process=True)
            day.bisync("reset", "--yes", status=0)
            day.west.do("FLUSHALL")
            day.finish(day.synchronised_engine())

    def test_all_of_it_while_no_engine_runs(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path, topology="one-way") as (day, engine):
            engine.stop()
            day.west.stop(signal.SIGKILL)
            day.west.start()
            day.write("east", "meanwhile")
            day.refused("west", "lost", "bisync reset")

    def test_the_newest_of_it(self, tmp_path: pathlib.Path) -> None:
        """It comes back as it was when it was saved, with the tag of that time: bisync applies the rest again."""
        with running(tmp_path, topology="one-way") as (day, engine):
            day.write("east", "saved")
            day.wait_drained(engine)
            day.west.do("SAVE")
            day.write("east", "lost")
            day.wait_drained(engine)
            day.west.stop(signal.SIGKILL)
            day.west.start()
            day.write("east", "meanwhile")
            day.reaches("west", "east:meanwhile")
            day.finish(engine)
