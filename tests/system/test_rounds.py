"""Every way to carry an arbitration out, on real servers: afterwards both hold the same."""

import contextlib
import hashlib
import signal
from collections.abc import Callable, Iterator

import pytest

from bisync.core.actions import Replaced
from bisync.core.commands.places import FUNCTIONS
from bisync.core.unit import Arbitration, Unit
from bisync.testing.servers import LocalServer
from tests.system.rounds import Carrier, Words, carrier, pair_of_servers
from tests.system.world import World, held

LATER_MS = 4_000_000_000_000
Servers = dict[str, LocalServer]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    started = pair_of_servers(tmp_path_factory.mktemp("rounds"))
    yield started
    for server in started.values():
        server.stop()


@pytest.fixture
def sites(servers: Servers) -> Iterator[Carrier]:
    with carrier(servers) as made:
        yield made


@pytest.fixture
def parts(servers: Servers) -> Iterator[Carrier]:
    """Every key is too big for a DUMP."""
    with carrier(servers, rebuild_bytes=1) as made:
        yield made


LONG = bytes(range(256)) * 40
VALUES: dict[str, list[Words]] = {
    "nothing": [],
    "number": [("SET", "k", "17")],
    "short": [("SET", "k", b"\x00\xff\r\n")],
    "empty": [("SETRANGE", "k", 0, ""), ("SET", "k", "")],
    "long": [("SET", "k", LONG)],
    "small list": [("RPUSH", "k", "a", "", "a", b"\xff")],
    "list": [("RPUSH", "k", *(b"%d" % n for n in range(3_000)), LONG)],
    "numbers": [("SADD", "k", *range(50))],
    "small set": [("SADD", "k", "a", "", b"\xff")],
    "set": [("SADD", "k", *(b"member %d" % n for n in range(3_000)))],
    "small hash": [("HSET", "k", "f", "1", "", b"\xff")],
    "hash": [("HSET", "k", *(b"%d" % n for n in range(3_000)))],
    "small sorted set": [("ZADD", "k", "0.1", "a", "-inf", "b", "1e300", "c", "-0", "d")],
    "sorted set": [("ZADD", "k", *(b"%d" % n for n in range(3_000)), "inf", LONG)],
    "expiring": [("SET", "k", "v", "PXAT", LATER_MS)],
    "expiring hash": [("HSET", "k", "f", "1"), ("PEXPIREAT", "k", LATER_MS)],
    "bits": [("SETBIT", "k", 99_999, 1)],
    "registers": [("PFADD", "k", *range(500))],
    "stream": [("XADD", "k", "1-1", "f", "v"), ("XGROUP", "CREATE", "k", "g", "0")],
}


@pytest.mark.slow
@pytest.mark.parametrize("there", ["nothing", "small list", "expiring", "hash", "stream"])
@pytest.mark.parametrize("here", VALUES)
@pytest.mark.parametrize("way", ["sites", "parts"])
def test_a_whole_key_becomes_what_the_authority_holds(
    request: pytest.FixtureRequest, way: str, here: str, there: str
) -> None:
    carried: Carrier = request.getfixturevalue(way)
    carried.run("east", *VALUES[here])
    carried.run("west", *VALUES[there])
    before = held(carried.servers["east"])
    found = carried.settle()
    if (here, there) != ("stream", "stream"):
        assert held(carried.servers["east"]) == before
    unread = way == "parts" and there not in ("nothing", "stream")
    unread |= there == "hash"  # its fields come in any order
    assert (found.replaced is not None) == (here != there or unread)
    assert (found.kept == "") == (here == "nothing")


def test_what_was_replaced_is_kept_to_be_put_back(sites: Carrier) -> None:
    sites.run("east", ("SET", "k", "new"))
    sites.run("west", ("RPUSH", "k", "a", "b"), ("PEXPIREAT", "k", LATER_MS))
    (payload,) = sites.run("west", ("DUMP", "k"))
    assert isinstance(payload, bytes)
    found = sites.settle()
    (kept,) = sites.run("west", ("DUMP", "k"))
    assert isinstance(kept, bytes)
    digest = hashlib.sha256(payload).hexdigest()
    assert found.replaced == Replaced("west", "dump", payload, LATER_MS, len(payload), digest)
    assert found.kept == hashlib.sha256(kept).hexdigest()


def test_of_a_long_value_only_size_and_digest_are_kept(servers: Servers) -> None:
    with carrier(servers, conflict_value_bytes=100) as sites:
        sites.run("west", ("SET", "k", LONG))
        (payload,) = sites.run("west", ("DUMP", "k"))
        assert isinstance(payload, bytes)
        digest = hashlib.sha256(payload).hexdigest()
        assert sites.settle().replaced == Replaced("west", "dump", None, None, len(payload), digest)


def test_of_a_value_too_big_to_be_read_only_the_size_is_kept(parts: Carrier) -> None:
    parts.run("east", ("SET", "k", "v"))
    parts.run("west", ("SET", "k", LONG))
    (size,) = parts.run("west", ("MEMORY", "USAGE", "k"))
    assert isinstance(size, int)
    assert parts.settle().replaced == Replaced("west", "dump", None, None, size, "")


def test_what_was_equal_is_not_replaced(sites: Carrier) -> None:
    for site in ("east", "west"):
        sites.run(site, ("SET", "k", "v", "PXAT", LATER_MS))
    assert sites.settle().replaced is None
    sites.run("west", ("PERSIST", "k"))
    found = sites.settle().replaced
    assert found is not None and found.expires_at_ms is None


def test_a_key_that_expired_meanwhile_is_gone_at_both(sites: Carrier) -> None:
    sites.run("east", ("SET", "k", "v", "PX", 1))
    sites.run("west", ("SET", "k", "v", "PX", 100_000))
    while sites.run("east", ("EXISTS", "k")) == [1]:
        pass
    sites.settle()
    assert held(sites.servers["west"]) == {}


ELEMENTS: list[tuple[str, str, list[Words], list[Words], Replaced]] = [
    ("hash", "f", [("HSET", "k", "f", "1")], [("HSET", "k", "f", "2")], Replaced("west", "value", b"2", None, 1, "")),
    ("hash", "f", [("HSET", "k", "f", "1")], [], Replaced("west", "absent", None, None, 0, "")),
    (
        "hash",
        "f",
        [("HSET", "k", "x", "1")],
        [("HSET", "k", "f", "2", "x", "1")],
        Replaced("west", "value", b"2", None, 1, ""),
    ),
    ("set", "f", [("SADD", "k", "f")], [], Replaced("west", "absent", None, None, 0, "")),
    ("set", "f", [("SADD", "k", "x")], [("SADD", "k", "f", "x")], Replaced("west", "value", b"1", None, 1, "")),
    ("zset", "f", [("ZADD", "k", "1.5", "f")], [("ZADD", "k", "2", "f")], Replaced("west", "value", b"2", None, 1, "")),
    (
        "zset",
        "f",
        [("ZADD", "k", "1", "x")],
        [("ZADD", "k", "2", "f", "1", "x")],
        Replaced("west", "value", b"2", None, 1, ""),
    ),
    (
        "ttl",
        "",
        [("SET", "k", "v", "PXAT", LATER_MS)],
        [("SET", "k", "v")],
        Replaced("west", "absent", None, None, 0, ""),
    ),
    (
        "ttl",
        "",
        [("SET", "k", "v")],
        [("SET", "k", "v", "PXAT", LATER_MS)],
        Replaced("west", "ttl", b"%d" % LATER_MS, LATER_MS, 13, ""),
    ),
]


@pytest.mark.parametrize(("kind", "name", "here", "there", "replaced"), ELEMENTS)
def test_an_element_becomes_what_the_authority_holds(
    sites: Carrier, kind: str, name: str, here: list[Words], there: list[Words], replaced: Replaced
) -> None:
    sites.run("east", *here)
    sites.run("west", *there)
    found = sites.settle(Unit(0, b"k", (kind, name.encode())))
    assert found.replaced is not None
    digest = "" if replaced.value is None else hashlib.sha256(replaced.value).hexdigest()
    assert found.replaced == Replaced(*(*_fields(replaced)[:-1], digest))
    assert set(sites.kinds()) == {"fence east", "restore west", "close west"}, "an element needs no probe"


def _fields(r: Replaced) -> tuple[object, ...]:
    return r.site, r.kind, r.value, r.expires_at_ms, r.size, r.digest


def test_an_element_of_a_key_of_another_type_is_settled_with_its_key(sites: Carrier) -> None:
    sites.run("east", ("HSET", "k", "f", "1"))
    sites.run("west", ("SET", "k", "v"))
    sites.arbitrate(Unit(0, b"k", ("hash", b"f")))
    sites.drain()
    sites.assert_equal()
    assert not len(sites.arbiter)


# -- big keys, and keys that change
def test_a_big_key_is_never_dumped(parts: Carrier) -> None:
    parts.run("east", *VALUES["hash"])
    parts.run("west", *VALUES["list"])
    parts.settle()
    assert not parts.names("fence") & {b"DUMP"}
    assert not parts.names("restore") & {b"DUMP", b"RESTORE"}


@pytest.mark.slow
def test_a_string_of_many_pieces_comes_whole(servers: Servers) -> None:
    value = LONG * 2_000  # 20 MB
    with carrier(servers, rebuild_bytes=1 << 20) as sites:
        sites.run("east", ("SET", "k", value))
        sites.settle()
        assert sites.run("west", ("GET", "k")) == [value]
        assert max(len(c) for _, item in sites.sent for _, c in item.parts) < 9 << 20


def after_the_probes(sites: Carrier, *commands: Words) -> None:
    """Settle K, with a client's commands at the authority between the probes and the fence."""
    found = sites.arbitrate()
    sites.step()
    assert sites.kinds() == ["probe east", "probe west"]
    sites.run("east", *commands)
    sites.drain()
    assert not len(sites.arbiter), found.stuck
    sites.assert_equal()


@pytest.mark.parametrize(
    "change",
    [
        [("DEL", "k"), ("SADD", "k", "a")],
        [("APPEND", "k", LONG * 2_000)],
        [("DEL", "k")],
        [("DEL", "k"), ("XADD", "k", "1-1", "f", "v")],
    ],
)
def test_a_key_that_changes_between_probe_and_fence_is_probed_anew(parts: Carrier, change: list[Words]) -> None:
    parts.run("east", *VALUES["long"])
    after_the_probes(parts, *change)


def test_a_stream_that_is_none_any_more_at_the_fence_is_probed_anew(sites: Carrier) -> None:
    sites.run("east", *VALUES["stream"])
    sites.run("west", *VALUES["stream"])
    after_the_probes(sites, ("SET", "k", "v"))
    assert sites.kinds().count("probe east") == 2


def test_what_is_written_between_probe_and_fence_makes_no_round_dirty(sites: Carrier) -> None:
    sites.run("east", ("SET", "k", "v"))
    found = sites.arbitrate()
    sites.rounds.begin()
    found.dirty = True  # a write at west: it goes to east before the fence
    sites.drain()
    assert sites.kinds().count("fence east") == 1


# -- servers that cannot
@pytest.mark.parametrize("here", [h for h in VALUES if h not in ("nothing", "stream")])
def test_a_payload_that_the_server_does_not_take_is_rebuilt_from_commands(sites: Carrier, here: str) -> None:
    sites.run("east", *VALUES[here])
    spoil(sites)
    sites.settle()
    assert sites.names("restore") >= {b"RESTORE", b"unlink"}
    restores = [item for _, item in sites.sent if item.kind == "restore"]
    assert len(restores) == 2
    sites.run("east", ("SET", "other", "v"))
    sites.sent.clear()
    sites.settle(Unit(0, b"other"))
    assert b"RESTORE" not in sites.names("restore"), "it is remembered"


def spoil(sites: Carrier) -> None:
    """Let the payloads of east say that they are of a newer version."""
    answered = sites.rounds.fence_answered

    def newer(number: int, replies: list[object]) -> None:
        if isinstance(replies[0], bytes) and len(replies) == 2:
            replies[0] = replies[0][:-10] + b"\xff\xff" + replies[0][-8:]
        answered(number, replies)

    sites.rounds.fence_answered = newer  # type: ignore[method-assign,assignment]


def test_functions_that_the_server_does_not_take_are_loaded_one_by_one(sites: Carrier) -> None:
    sites.run("east", library("one"), library("two"))
    spoil_functions(sites)
    assert functions_settled(sites).kept
    assert sites.names("restore") >= {b"FUNCTION"}
    assert len([item for _, item in sites.sent if item.kind == "restore"]) == 2


def spoil_functions(sites: Carrier) -> None:
    answered = sites.rounds.fence_answered

    def newer(number: int, replies: list[object]) -> None:
        if isinstance(replies[0], bytes):
            replies[0] = replies[0][:-10] + b"\xff\xff" + replies[0][-8:]
        answered(number, replies)

    sites.rounds.fence_answered = newer  # type: ignore[method-assign,assignment]


# -- functions
def library(name: str, value: int = 1) -> Words:
    return "FUNCTION", "LOAD", f"#!lua name={name}\nredis.register_function('{name}', function() return {value} end)"


def functions_settled(sites: Carrier) -> Arbitration:
    found = sites.settle(Unit(*FUNCTIONS))
    lists = [sites.run(site, ("FUNCTION", "LIST", "WITHCODE"))[0] for site in sites.servers]
    assert sorted(lists[0]) == sorted(lists[1])  # type: ignore[call-overload]
    return found


def test_all_functions_become_those_of_the_authority(sites: Carrier) -> None:
    sites.run("east", library("one"))
    sites.run("west", library("one", 2), library("two"))
    (payload,) = sites.run("west", ("FUNCTION", "DUMP"))
    found = functions_settled(sites)
    assert found.replaced is not None and found.replaced.value == payload
    assert sites.kinds()[:2] == ["fence east", "restore west"]


# -- accounts and old servers
Deny = Callable[[str], None]


@pytest.fixture
def deny(sites: Carrier) -> Iterator[Deny]:
    """Takes commands away from the account at both sites, until the test ends."""

    def denied(*rules: str) -> None:
        for site in sites.servers:
            with sites.servers[site].client() as client:
                client.execute_command("ACL", "SETUSER", "default", *rules)

    yield denied  # type: ignore[misc]
    denied("+@all")


@pytest.mark.parametrize("command", ["memory", "pexpiretime", "unlink"])
@pytest.mark.parametrize("here", ["nothing", "expiring", "list", "expiring hash"])
def test_a_round_does_without_the_commands_of_newer_servers(
    sites: Carrier, deny: Deny, command: str, here: str
) -> None:
    sites.run("east", *VALUES[here])
    sites.run("west", ("SET", "k", "other"))
    deny(f"-{command}")
    found = sites.arbitrate()
    sites.drain()
    deny("+@all")
    assert not len(sites.arbiter), found.stuck
    sites.assert_equal()


def test_a_round_that_is_not_permitted_is_put_off_and_tried_again(sites: Carrier, deny: Deny) -> None:
    sites.run("east", *VALUES["stream"])
    sites.run("west", ("XADD", "k", "1-2", "f", "w"))
    deny("-eval")
    found = sites.arbitrate()
    sites.drain()
    assert len(sites.arbiter) == 1
    assert found.stuck.startswith("west: NOPERM") and "eval" in found.stuck
    deny("+eval")
    for now_ms in (0, 100_000):
        sites.arbiter.wake(now_ms)
    sites.drain()
    assert not len(sites.arbiter)
    sites.assert_equal()


def test_a_restore_too_big_for_one_transaction_is_put_off(sites: Carrier, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bisync.core.round.RESTORE_BYTES_MAX", 1_000)
    sites.run("east", *VALUES["list"])
    found = sites.arbitrate()
    sites.drain()
    assert "one transaction" in found.stuck
    assert "restore west" not in sites.kinds()


# -- with an engine
@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with World(tmp_path_factory.mktemp("engine"), tables="[conflicts]\nrebuild_bytes = 65536\n") as world:
        world.synchronised_engine()
        yield world


@contextlib.contextmanager
def away(world: World) -> Iterator[None]:
    """The engine sleeps meanwhile, so that what is written at both sites is concurrent."""
    (engine,) = world.engines
    engine.send(signal.SIGSTOP)
    try:
        yield
    finally:
        engine.send(signal.SIGCONT)


def write(world: World, site: str, *commands: Words) -> None:
    with world.servers[site].client() as client:
        for words in commands:
            client.execute_command(*words)


def found(world: World) -> int:
    """How many conflicts there were."""
    total: int = world.status()["conflicts"]["total"]
    return total


def settled(world: World, before: int) -> None:
    """Wait until all is applied: both are equal then, and there were more conflicts than before."""
    (engine,) = world.engines
    world.wait_drained(engine)
    world.assert_equal()
    assert world.status()["conflicts"]["open"] == 0
    assert found(world) > before


def restored(world: World) -> int:
    """How often a key was restored in one piece."""
    stats = [server.client().info("commandstats") for server in world.servers.values()]
    return sum(found.get("cmdstat_restore", {"calls": 0})["calls"] for found in stats)


@pytest.mark.slow
@pytest.mark.parametrize("here", ["hash", "list", "set", "sorted set", "long"])
def test_an_engine_copies_a_big_key_in_parts(world: World, here: str) -> None:
    key = f"big {here}".encode()
    shared = [tuple(key if w == "k" else w for w in words) for words in VALUES[here]]
    more = {"list": ("RPUSH", key, *[LONG] * 10), "long": ("APPEND", key, LONG * 10)}
    write(world, "east", *shared, *([more[here]] if here in more else []))
    world.wait_drained(world.engines[0])
    before, pieces = found(world), restored(world)
    with away(world):
        for site in ("east", "west"):
            write(world, site, ("RENAME", key, key + b" new"), ("COPY", key + b" new", key), ("EXPIRE", key, 100_000))
    settled(world, before)
    assert restored(world) == pieces


@pytest.mark.slow
def test_an_engine_merges_what_was_added_to_a_stream_at_both_sites(world: World) -> None:
    write(world, "east", ("XADD", "s", "1-1", "f", "v"), ("XGROUP", "CREATE", "s", "g", "0"))
    world.wait_drained(world.engines[0])
    before = found(world)
    for n in range(5):
        with away(world):
            for at in range(20):
                for site, other in (("east", 0), ("west", 1)):
                    write(world, site, ("XADD", "s", f"{n + 2}-{2 * at + other}", "from", site))
            write(world, "east", ("XREADGROUP", "GROUP", "g", "c", "COUNT", 3, "STREAMS", "s", ">"))
            write(world, "west", ("XDEL", "s", f"{n + 2}-1"))
    settled(world, before)
    with world.east.client() as client:
        names = [name for name, _ in client.xrange("s")]
    expected = {f"{n + 2}-{at}".encode() for n in range(5) for at in range(40)} | {b"1-1"}
    gone = {f"{n + 2}-1".encode() for n in range(5)}
    assert expected - gone <= set(names) <= expected and len(set(names)) == len(names)


@pytest.mark.slow
def test_an_engine_settles_functions(world: World) -> None:
    write(world, "east", library("shared"))
    world.wait_drained(world.engines[0])
    before = found(world)
    with away(world):
        write(world, "east", library("one", 1)[:2] + ("REPLACE",) + library("one", 1)[2:])
        write(world, "west", library("one", 2)[:2] + ("REPLACE",) + library("one", 2)[2:], library("two"))
    settled(world, before)
    lists = []
    for site in ("east", "west"):
        with world.servers[site].client() as client:
            client.response_callbacks.clear()
            lists.append(sorted(client.execute_command("FUNCTION", "LIST", "WITHCODE")))
    assert lists[0] == lists[1] and len(lists[0]) == 3
