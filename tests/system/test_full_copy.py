"""The full copy: every type, encoding and database, streams with groups, functions and expiries."""

import pathlib
import random

import pytest
import redis

from tests.system.world import World, assert_same, bisync, bisync_json, held, wait_until

pytestmark = pytest.mark.slow

FAR_MS = 4_102_444_800_000
STRINGS = 3_000
OWN_KEYS = 3  # of bisync, which the source counts too
LIBRARY = "#!lua name=tests\nredis.register_function('tests', function() return 1 end)"
ENCODINGS = {  # of the keys that `fill` makes, by OBJECT ENCODING
    **{"int": "int", "embstr": "embstr", "raw": "raw", "binary": "embstr", "empty": "embstr", "huge": "raw"},
    **{"list:small": "quicklist", "list:large": "quicklist", "list:big-items": "quicklist"},
    **{"set:ints": "intset", "set:small": "hashtable", "set:large": "hashtable"},
    **{"hash:small": "listpack", "hash:large": "hashtable", "zset:small": "listpack", "zset:large": "skiplist"},
    **{"stream": "stream", "stream:emptied": "stream", "hll:sparse": "raw", "hll:dense": "raw", "geo": "listpack"},
}
LISTPACKS_SINCE_7_2 = {"list:small": "listpack", "set:small": "listpack"}


def encodings(client: "redis.Redis") -> dict[str, str]:
    """What `ENCODINGS` are on this server."""
    version = tuple(int(part) for part in client.info("server")["redis_version"].split(".")[:2])
    return {**ENCODINGS, **(LISTPACKS_SINCE_7_2 if version >= (7, 2) else {})}


def fill(client: "redis.Redis") -> None:
    """Every type and encoding of Redis 7.0, in one database."""
    noise = random.Random(7)
    client.mset({"int": -(2**63), "embstr": "short", "raw": "x" * 100, "binary": bytes(range(256))[:40], "empty": ""})
    client.set("huge", noise.randbytes(3 << 20))
    client.rpush("list:small", "a", 1, -(2**40), "")
    client.rpush("list:large", *(f"item {n}" for n in range(5_000)))
    client.rpush("list:big-items", noise.randbytes(20_000), "small", noise.randbytes(9_000))
    client.sadd("set:ints", *range(0, 500, 3), 2**40)
    client.sadd("set:small", "a", "b", 1)
    client.sadd("set:large", *(f"member {n}" for n in range(3_000)))
    client.hset("hash:small", mapping={"f": 1, "g": "", "": "empty name"})
    client.hset("hash:large", mapping={f"field {n}": "v" * (n % 90) for n in range(2_000)})
    client.zadd("zset:small", {"a": 1, "b": -2.5, "c": 1e300, "d": float("inf"), "e": float("-inf")})
    client.zadd("zset:large", {f"member {n}": n / 7 for n in range(2_000)})
    client.pfadd("hll:sparse", "a", "b")
    client.pfadd("hll:dense", *range(20_000))
    client.geoadd("geo", (13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania"))
    fill_streams(client)
    client.pexpireat("list:large", FAR_MS)
    client.pexpireat("hash:small", FAR_MS + 1)
    client.set("with-expiry", "v", pxat=FAR_MS + 2)
    client.set("soon", "gone before the end", px=1)


def fill_streams(client: "redis.Redis") -> None:
    for n in range(1, 400):
        client.xadd("stream", {"n": n, "same": "field"} if n % 3 else {"other": n}, id=f"{n}-1")
    client.xdel("stream", "5-1", "6-1")
    client.xgroup_create("stream", "readers", "0")
    client.xgroup_create("stream", "idle", "$")
    client.xgroup_createconsumer("stream", "readers", "nobody")
    for consumer in ("ann", "bob"):
        client.xreadgroup("readers", consumer, {"stream": ">"}, count=20)
    client.xack("stream", "readers", "3-1", "30-1")
    client.xadd("stream:emptied", {"f": "v"}, id="9-9")
    client.xgroup_create("stream:emptied", "g", "0")
    client.xtrim("stream:emptied", maxlen=0)


@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_everything_is_copied(tmp_path: pathlib.Path, diskless: str) -> None:
    with World(tmp_path, options=("--repl-diskless-sync", diskless)) as world:
        for database in (0, 3, 15):
            with world.east.client(database) as client:
                fill(client)
        with world.east.client(1) as client:
            pipe = client.pipeline(transaction=False)
            for n in range(STRINGS):
                pipe.set(f"key:{n}", n)
            pipe.execute()
            client.function_load(LIBRARY)
            keys = sum(space["keys"] for space in client.info("keyspace").values())
        engine = world.synchronised_engine()
        world.wait_drained(engine)
        copied = held(world.east)
        assert len(copied) == 3 * (len(ENCODINGS) + 1) + STRINGS
        assert_same(copied, held(world.west))
        for database in (0, 3, 15):
            with world.east.client(database) as east, world.west.client(database) as west:
                expected = encodings(east)
                assert {k: east.object("encoding", k).decode() for k in ENCODINGS} == expected
                short = {
                    "hll:sparse": "embstr"
                }  # what is short and is set at once has another one; its bytes are equal
                assert {k: west.object("encoding", k).decode() for k in ENCODINGS} == {**expected, **short}
        assert world.west.client().fcall("tests", 0) == 1
        assert_status(world, keys)
        verdict = bisync_json("verify", world.job_file)
        assert (verdict["equal"], verdict["compared"], verdict["differences"]) == (True, len(copied), [])


def assert_status(world: World, keys: int) -> None:
    """The numbers of the copy, as `status --json` gives them."""
    document = bisync_json("status", world.job_file)
    assert document["state"] == "synchronizing" and document["topology"] == "bidirectional"
    copy = document["channels"]["forward"]["full_copy"]
    assert keys - 3 <= copy["keys_done"] <= keys + 1, (keys, copy)  # "soon" may have gone; the library is one more
    assert keys <= copy["keys_total"] <= keys + OWN_KEYS and copy["bytes_done"] > 9 << 20
    assert document["channels"]["reverse"]["full_copy"]["keys_done"] == 0


def test_progress_is_told_while_the_copy_goes_on(tmp_path: pathlib.Path) -> None:
    with World(tmp_path, tables="[engine]\nbatch_commands = 20\nqueue_bytes = 65536\n") as world:
        with world.east.client() as client:
            client.mset({f"key:{n}": "v" * 50 for n in range(20_000)})
        engine = world.start_engine()
        seen: set[int] = set()

        def over() -> bool:
            engine.check()
            document = world.status()
            copy = document["channels"]["forward"]["full_copy"]
            if document["state"] == "initializing" and copy["keys_done"]:
                assert (
                    20_000 <= copy["keys_total"] <= 20_000 + OWN_KEYS
                    and copy["keys_done"] <= 20_000
                    and copy["bytes_done"] > 0
                )
                seen.add(copy["keys_done"])
            return bool(document["state"] == "synchronizing")

        wait_until(over, "the copy is done")
        assert len(seen) >= 2, "no progress was seen"
        assert world.status()["channels"]["forward"]["full_copy"]["keys_done"] == 20_000
        assert bisync("wait", world.job_file, "--drained", "--timeout", 20).returncode == 0
        world.assert_equal()


def test_a_target_that_is_not_empty_is_refused_or_made_equal(tmp_path: pathlib.Path) -> None:
    with World(tmp_path) as world:
        with world.east.client() as east, world.west.client() as west:
            east.set("both", "of east")
            west.mset({"both": "of west", "stale": 1})
            west.rpush("list", 1, 2)
            east.rpush("list", 1, 2)
            engine = world.start_engine()
            assert engine.ends() == 1 and "target_not_empty" in engine.text
            assert sorted(west.keys()) == [b"both", b"list", b"stale"]
            world.job_file.write_text(world.job_file.read_text() + '[full_copy]\ntarget_not_empty = "overwrite"\n')
            engine = world.synchronised_engine()
            world.wait_drained(engine)
            assert (west.get("both"), west.exists("stale"), west.lrange("list", 0, -1)) == (b"of east", 0, [b"1", b"2"])
        world.assert_equal()


def test_an_echo_that_comes_after_all_replies_lets_the_copy_go_on(tmp_path: pathlib.Path) -> None:
    """Without heartbeats there is no other reply that would wake it."""
    options = ("--repl-disable-tcp-nodelay", "yes")  # so that the target sends its stream in few, late pieces
    with World(tmp_path, tables="[engine]\nheartbeat_ms = 0\npending_bytes = 65536\n", options=options) as world:
        with world.east.client() as client:
            client.mset({f"key:{n}": "v" * 100 for n in range(20_000)})
        world.synchronised_engine()
        world.assert_equal()
