"""Values that a full copy takes in pieces: what comes out is what was there, and readers see nothing in between."""

import pathlib
import random
import threading

import pytest

from bisync.testing.servers import LocalServer
from tests.system.test_full_copy import assert_same
from tests.system.world import World, held, wait_until

pytestmark = pytest.mark.slow

PIECES = "[full_copy]\nwhole_bytes = 200\npiece_bytes = 1000\n"
SOON_MS = 4_000_000_000_000


def fill(server: LocalServer) -> None:
    """A key of every kind that takes several pieces, and one that takes a single one."""
    with server.client(3) as client:
        for n in (3, 400):
            client.rpush(f"list:{n}", *(f"item {i}" * (i % 7) for i in range(n)))
            client.sadd(f"set:{n}", *(f"member {i}" for i in range(n)))
            client.sadd(f"intset:{n}", *range(n))
            client.hset(f"hash:{n}", mapping={f"field {i}": f"value {i}" for i in range(n)})
            client.zadd(f"zset:{n}", {f"member {i}": i / 3 for i in range(n)})
            client.zadd(f"extremes:{n}", {"inf": "inf", "-inf": "-inf", "tenth": 0.1, "big": 2**53 + 2, "-0": -0.0})
            client.set(f"string:{n}", "x" * 50 * n)
            for i in range(n):
                client.xadd(f"stream:{n}", {"a": i, "b": "x" * (i % 5)}, id=f"{1000 + i}-{i}")
            client.xdel(f"stream:{n}", f"{1000 + n - 1}-{n - 1}", "1001-1")
            client.xgroup_create(f"stream:{n}", "group", f"{1000}-0")
            client.xreadgroup("group", "alice", {f"stream:{n}": ">"}, count=2)
            client.xgroup_createconsumer(f"stream:{n}", "group", "idle")
            client.pexpireat(f"hash:{n}", SOON_MS)
            client.pexpireat(f"string:{n}", SOON_MS)
        some = [random.Random(n).randbytes(100) for n in range(5)]  # too big to go whole, and one piece is enough
        client.rpush("list:one", *some)
        client.sadd("set:one", *some)
        client.hset("hash:one", mapping=dict(zip(some, some)))
        client.zadd("zset:one", {member: n for n, member in enumerate(some)})
        client.set("string:one", b"".join(some))
        client.xadd("stream:one", {"a": b"".join(some)}, id="1-1")
        client.xgroup_create("empty stream", "group", "5-5", mkstream=True)
        client.execute_command("XADD", "emptied", "7-7", "f", "v")
        client.xdel("emptied", "7-7")
        client.set("incompressible", bytes(range(256)) * 20)


def test_every_kind_comes_out_as_it_was(tmp_path: pathlib.Path) -> None:
    with World(tmp_path, tables=PIECES) as world:
        fill(world.east)
        expected = held(world.east)
        with world.west.client(3) as client:
            client.rpush("bisync:orders:building", "left by a copy that broke off")
        world.synchronised_engine()
        assert_same(expected, held(world.west))
        with world.west.client(3) as client:
            assert [key for key in client.scan_iter() if key.startswith(b"bisync:")] == []
        world.assert_equal()


def test_a_reader_sees_the_old_value_or_the_new_one_whole(tmp_path: pathlib.Path) -> None:
    tables = (
        PIECES.replace("[full_copy]", '[full_copy]\ntarget_not_empty = "overwrite"') + "[engine]\nbatch_commands = 1\n"
    )
    with World(tmp_path, tables=tables) as world:
        with world.east.client() as east, world.west.client() as west:
            east.rpush("list", *range(20_000))
            west.rpush("list", "old")
        seen, ended = set[int](), threading.Event()

        def read() -> None:
            with world.west.client() as west:
                while not ended.is_set():
                    seen.add(west.llen("list"))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            world.synchronised_engine()
        finally:
            ended.set()
            reader.join()
        assert seen <= {1, 20_000}
        assert 1 in seen


@pytest.mark.parametrize("after_pieces", [1, 3, 7])
def test_an_engine_that_is_killed_in_the_middle_of_a_value_leaves_no_half_of_it(
    after_pieces: int, tmp_path: pathlib.Path
) -> None:
    tables = PIECES + "[engine]\nbatch_commands = 1\n"
    with World(tmp_path, tables=tables) as world:
        with world.east.client() as east, world.west.client() as west:
            east.rpush("list", *range(20_000))
            engine = world.start_engine()
            wait_until(lambda: west.llen("bisync:orders:building") > 60 * after_pieces, "the list is being built")
            engine.kill()
            assert west.llen("list") == 0
        world.synchronised_engine()
        with world.west.client() as west:
            assert west.llen("list") == 20_000
            assert not west.exists("bisync:orders:building")
        world.assert_equal()
