"""The RDB reader on snapshots of a real server: every type and encoding, restored into another server."""

import functools
import itertools
import pathlib
import random
from collections.abc import Iterator

import pytest
import redis

from bisync.core.rdb import Aux, DatabaseSize, End, Function, Item, RdbReader, String, Value, decode_payload
from bisync.testing.servers import LocalServer, local_servers

LIBRARY = "#!lua name=lib\nredis.register_function('twice', function(keys, args) return args[1] * 2 end)\n"
FAR = 4_000_000_000_000  # Unix time in milliseconds, in the year 2096
NOISE = random.Random(5).randbytes(3000)


def knows(c: redis.Redis, command: str) -> bool:
    """Does the server have the command?"""
    return bool(c.execute_command("COMMAND DOCS", command))


def version(c: redis.Redis) -> tuple[int, ...]:
    return tuple(int(n) for n in c.info("server")["redis_version"].split("."))


def write_strings(c: redis.Redis) -> None:
    for number in (0, -1, 127, -128, 128, 32767, -32769, 2**31 - 1, -(2**31), 2**31, 2**63 - 1):
        c.set(f"number:{number}", number)
        c.set(b"%d" % number, b"a key that is a number")
    texts = (b"", b"short", b"a" * 20_000, b"abcdefgh" * 9000, b"x" + bytes(300_000), NOISE, NOISE * 7, b"007", b"+5")
    for text in texts:
        c.set(b"text:%d" % len(text), text)
    c.set(b"compressed key " * 20, b"v")
    c.set("with expiry", "v", pxat=FAR + 1)
    c.setbit("bits", 70_001, 1)
    c.pfadd("loglog", *range(5000))


def write_collections(c: redis.Redis) -> None:
    c.rpush("list:small", "a", 1, -70000, b"\x00\xff")
    c.rpush("list:large", *range(5000))
    c.execute_command("DEBUG", "QUICKLIST-PACKED-THRESHOLD", "1000b")
    c.rpush("list:plain nodes", "a", NOISE, "b" * 9000, "c")  # more than one listpack may hold
    c.sadd("set:integers", *range(-200, 200))
    c.sadd("set:wide integers", 1, 2**40)
    c.sadd("set:table", *range(2000), "word", NOISE)
    c.zadd("sorted:listpack", {"a": 1, "b": -0.5, "c": float("inf"), "d": float("-inf")})
    c.zadd("sorted:skiplist", {f"member:{n}": n / 7 for n in range(1000)})
    c.zadd("sorted:long member", {NOISE: 3, "x": 1e300})
    c.hset("hash:listpack", mapping={"f": "v", "n": 12})
    c.hset("hash:repetitive listpack", mapping={f"field:{n}": "v" * 60 for n in range(100)})
    c.hset("hash:table", mapping={f"field:{n}": n for n in range(1000)} | {"big": "b" * 20_000})
    c.pexpireat("hash:table", FAR)
    c.pexpireat("hash:listpack", FAR)
    c.sadd("set:words", "a", "b", NOISE[:40])
    if knows(c, "HPEXPIREAT"):
        for n, key in enumerate(("hash:fields expire", "hash:table whose fields expire")):
            c.hset(key, mapping={f"field:{n}": n for n in range(5 + 1000 * n)})
            c.execute_command("HPEXPIREAT", key, FAR + 2, "FIELDS", 2, "field:1", "field:3")
    if knows(c, "VADD"):
        for n in range(50):
            c.execute_command("VADD", "vectors", "VALUES", 3, n, 7, -n, f"element:{n}", "SETATTR", n)


def write_streams(c: redis.Redis) -> None:
    for n in range(300):
        c.xadd("stream:large", {"field": n, "other": b"x" * n}, id=f"{1000 + n}-{n}")
    c.xadd("stream:emptied", {"f": "v"}, id="5-5")
    c.xtrim("stream:emptied", maxlen=0, approximate=False)
    c.xgroup_create("stream:never filled", "group", mkstream=True)
    c.xdel("stream:large", "1007-7", "1299-299")
    for group in ("workers", "auditors", b"\x00" * 70):
        c.xgroup_create("stream:large", group, id="1003-3")
    for n, name in enumerate(("alice", "bob", "carol" * 20)):
        c.xreadgroup("workers", name, {"stream:large": ">"}, count=40 + n)
    c.xack("stream:large", "workers", "1010-10")
    c.xgroup_createconsumer("stream:large", "auditors", "idle")
    c.pexpireat("stream:large", FAR)


def fill(server: LocalServer) -> None:
    for database in (0, 3, 15):
        with server.client(database) as c:
            write_strings(c)
            write_collections(c)
            write_streams(c)
    with server.client() as c:
        c.function_load(LIBRARY)


def snapshot(server: LocalServer) -> bytes:
    with server.client() as c:
        c.save()
    return (server.folder / "dump.rdb").read_bytes()


def read(data: bytes, pieces: Iterator[int]) -> list[Item]:
    reader, items, at = RdbReader(), [], 0
    while at < len(data):
        size = next(pieces)
        items += reader.feed(data[at : at + size])
        at += size
    reader.close()
    return items


def restore(items: list[Item], server: LocalServer) -> None:
    with server.client(single_connection_client=True) as c:
        for item in items:
            match item:
                case String(database, key, expires, value):
                    c.execute_command("SELECT", database)
                    c.set(key, value, pxat=expires)
                case Value(database, key, _, expires, payload):
                    c.execute_command("SELECT", database)
                    c.restore(key, expires or 0, payload, absttl=True)
                case Function(code):
                    c.function_load(code.decode(), replace=True)


def fields(c: redis.Redis, key: bytes) -> dict[bytes, tuple[bytes, int]]:
    """The fields of a hash with their values and expiries."""
    values = c.hgetall(key)
    if not knows(c, "HPEXPIRETIME"):
        return {field: (value, -1) for field, value in values.items()}
    expiries = c.execute_command("HPEXPIRETIME", key, "FIELDS", len(values), *values)
    return {field: (value, at_ms) for (field, value), at_ms in zip(values.items(), expiries, strict=True)}


def vectors(c: redis.Redis, key: bytes) -> dict[bytes, tuple[object, object]]:
    """The elements of a vector set with their vectors and attributes."""
    names = c.execute_command("VRANDMEMBER", key, c.execute_command("VCARD", key))
    return {name: (c.execute_command("VEMB", key, name), c.execute_command("VGETATTR", key, name)) for name in names}


def content(server: LocalServer) -> dict[tuple[int, bytes], tuple[object, int]]:
    """Every key with its value, in a form in which equal values are equal, and its expiry."""
    found: dict[tuple[int, bytes], tuple[object, int]] = {}
    for database in (0, 3, 15):
        with server.client(database) as c:
            for key in c.scan_iter(count=1000):
                kind = c.type(key)
                # The order of sets and hashes is by chance, the graph of a vector set too; all else has one form.
                forms = {b"set": c.smembers, b"hash": functools.partial(fields, c), b"string": c.get}
                forms[b"vectorset"] = functools.partial(vectors, c)
                found[database, key] = forms.get(kind, c.dump)(key), c.pexpiretime(key)
    return found


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with local_servers(tmp_path_factory.mktemp("rdb"), "source", options=("--enable-debug-command", "yes")) as [server]:
        fill(server)
        yield server


def test_a_snapshot_restored_elsewhere_is_the_same_data(filled: LocalServer, tmp_path: pathlib.Path) -> None:
    items = read(snapshot(filled), itertools.repeat(65_536))
    with local_servers(tmp_path, "target", options=("--enable-debug-command", "yes")) as [target]:
        restore(items, target)
        expected = content(filled)
        assert content(target) == expected
        assert len(expected) == sum(isinstance(i, (String, Value)) for i in items) >= 150
        with target.client() as c:
            assert c.fcall("twice", 0, 21) == 42


def test_a_payload_is_byte_for_byte_what_dump_replies(filled: LocalServer) -> None:
    types = set()
    items = read(snapshot(filled), itertools.repeat(65_536))
    [plain, *_] = [i.payload for i in items if isinstance(i, Value) and i.key == b"list:plain nodes"]
    assert b"\x01" + len(NOISE).to_bytes(2, "big").replace(b"\x0b", b"\x4b") + NOISE in plain
    for database in (0, 3, 15):
        with filled.client(database) as c:
            for item in items:
                if isinstance(item, Value) and item.database == database:
                    assert c.dump(item.key) == item.payload
                    assert item.expires_at_ms == (None if (at := c.pexpiretime(item.key)) == -1 else at)
                    types.add(item.type)
    with filled.client() as c:
        # All that Redis 7.0 writes: compressed string 0, set 2, hash 4, sorted set 5, intset 11, hash 16 and sorted set
        # 17 as listpack, quicklist 18, stream 19; from 7.2 on stream 21 in its place, and set 20 as listpack.
        written = {0, 2, 4, 5, 11, 16, 17, 18, *((19,) if version(c) < (7, 2) else (20, 21))}
        # From 7.4 on hash 24, and 25 as listpack, whose fields have expiries; from 8.0 on vector sets, of a module: 7.
        written |= {24, 25} if knows(c, "HPEXPIREAT") else set()
        written |= {7} if knows(c, "VADD") else set()
    assert types == written


def test_remarks_sizes_and_the_end_are_reported(filled: LocalServer) -> None:
    items = read(snapshot(filled), itertools.repeat(1 << 20))
    with filled.client() as c:
        assert Aux(b"redis-ver", c.info()["redis_version"].encode()) in items
    sizes = [i for i in items if isinstance(i, DatabaseSize)]
    assert [s.database for s in sizes] == [0, 3, 15]
    for size in sizes:
        keys = [i for i in items if isinstance(i, (String, Value)) and i.database == size.database]
        assert (size.keys, size.expires) == (len(keys), sum(k.expires_at_ms is not None for k in keys))
    assert items[-1] == End(checksum_verified=True)


@pytest.mark.parametrize("size", [1, 61, 4096])
def test_the_size_of_the_pieces_does_not_matter(filled: LocalServer, size: int) -> None:
    data = snapshot(filled)
    assert read(data, itertools.repeat(size)) == read(data, itertools.repeat(len(data)))


def test_random_pieces_do_not_matter(filled: LocalServer) -> None:
    data = snapshot(filled)
    whole, rng = read(data, itertools.repeat(len(data))), random.Random(11)
    for _ in range(5):
        assert read(data, iter(lambda: rng.choice((1, 2, 3, 10, 100, 1500, 20_000)), 0)) == whole


def strings(items: list[Item]) -> dict[tuple[int, bytes], tuple[bytes, int | None]]:
    """The strings, compressed or not, with their expiries."""
    found = {(i.database, i.key): (i.value, i.expires_at_ms) for i in items if isinstance(i, String)}
    for i in items:
        if isinstance(i, Value) and not i.type:
            found[i.database, i.key] = b"".join(decode_payload(i.payload).elements), i.expires_at_ms
    return found


@pytest.mark.parametrize(
    "options",
    [
        ("--rdbcompression", "no", "--rdbchecksum", "no"),
        ("--maxmemory-policy", "allkeys-lru"),
        ("--maxmemory-policy", "volatile-lfu"),
    ],
)
def test_other_settings_of_the_source_give_the_same_data(
    filled: LocalServer, tmp_path: pathlib.Path, options: tuple[str, ...]
) -> None:
    before = read(snapshot(filled), itertools.repeat(65_536))
    with local_servers(tmp_path, "other", options=("--enable-debug-command", "yes", *options)) as [other]:
        restore(before, other)
        after = read(snapshot(other), itertools.repeat(10_000))
        assert content(other).keys() == content(filled).keys()
    assert strings(after) == strings(before)
    values = {(i.database, i.key): (i.type, i.expires_at_ms) for i in before if isinstance(i, Value) and i.type}
    assert {(i.database, i.key): (i.type, i.expires_at_ms) for i in after if isinstance(i, Value) and i.type} == values
    assert after[-1] == End(checksum_verified="--rdbchecksum" not in options)
