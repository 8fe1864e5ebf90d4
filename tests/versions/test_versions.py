"""Servers of different versions as the two sites of a job: copied, followed, written at both, and an upgrade."""

import itertools
import pathlib
import signal
from typing import Any

import pytest

from bisync.testing.servers import LocalServer, program_version
from tests.system.world import wait_until
from tests.versions.contents import MANY, STYLES, build, follow, known_commands, raw_client
from tests.versions.harness import ALL, RELEASES, MixedWorld, chosen, options, program
from tests.versions.reading import differences, read_site

pytestmark = pytest.mark.slow

KEYS_MIN = MANY + 3 * 60  # so many keys there are at least
PAIRS = tuple(itertools.product(RELEASES, RELEASES))
QUICK = (("redis-7.0", "redis-7.0"), ("redis-5.0", "redis-7.0"), ("redis-7.0", "redis-8.0"))
TWO_WAY = (
    *(("redis-7.0", "redis-7.0"), ("redis-5.0", "redis-8.0"), ("redis-6.2", "redis-7.0"), ("redis-2.8", "redis-6.2")),
    *(("redis-6.2", "redis-8.10"), ("redis-3.2", "redis-5.0"), ("redis-7.0", "valkey-9"), ("valkey-8.1", "redis-8.0")),
    *(("valkey-8.1", "valkey-9"), ("redis-8.0", "redis-8.10"), ("redis-2.8", "redis-8.10")),
)
UPGRADES = (
    *(("redis-5.0", "redis-8.0"), ("redis-5.0", "redis-8.10"), ("redis-6.2", "valkey-9")),
    *(("redis-2.8", "redis-7.0"), ("redis-7.0", "redis-8.10")),
)
SERVERS = pytest.mark.parametrize("release", RELEASES if ALL else ("redis-7.0",))

LISTS = {(2, 8): {"ziplist", "linkedlist"}, (3, 2): {"quicklist"}, (7, 2): {"quicklist", "listpack"}}
SMALL = {(2, 8): {"ziplist"}, (7, 0): {"listpack"}}
ENCODINGS: dict[str, dict[tuple[int, int], set[str]]] = {
    "string": {(2, 8): {"int", "raw"}, (3, 2): {"int", "raw", "embstr"}},
    "list": LISTS,
    "set": {(2, 8): {"intset", "hashtable"}, (7, 2): {"intset", "hashtable", "listpack"}},
    "hash": {since: {*names, "hashtable"} for since, names in SMALL.items()},
    "zset": {since: {*names, "skiplist"} for since, names in SMALL.items()},
}
"""By type and since which release: what OBJECT ENCODING must have said of some key."""


def _encodings(server: LocalServer) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for db in STYLES:
        with raw_client(server, db) as client:
            for key in client.execute_command("KEYS", "*"):
                kind = client.execute_command("TYPE", key).decode()
                if kind != "none":
                    found.setdefault(kind, set()).add(client.execute_command("OBJECT", "ENCODING", key).decode())
    return found


@SERVERS
def test_the_data_has_every_encoding_of_the_server(tmp_path: pathlib.Path, release: str) -> None:
    path = program(release)
    server = LocalServer(tmp_path, *options(path), program=path).start()
    try:
        build(server, known_commands(server))
        found, version = _encodings(server), program_version(path)
        for kind, since in ENCODINGS.items():
            wanted = since[max(v for v in since if v <= version)]
            assert found[kind] >= wanted, f"{kind}: {found[kind]}"
        assert ("stream" in found, "vectorset" in found) == (version >= (5,), release.startswith("redis-8"))
        assert ("array" in found) == (release == "redis-8.10")
        before = read_site(server)
        assert len(before) > KEYS_MIN and not differences(before, read_site(server))
        follow(server, known_commands(server))
        changed = differences(before, read_site(server))
        assert len(changed) > 60, "the comparison does not see what clients change"
    finally:
        server.stop()


@SERVERS
def test_the_comparison_sees_each_aspect(tmp_path: pathlib.Path, release: str) -> None:
    """Of two sites with one difference, that one is told."""
    path = program(release)
    server = LocalServer(tmp_path, *options(path), program=path).start()
    try:
        known = known_commands(server)
        build(server, known)
        before = read_site(server)
        changes: list[tuple[Any, ...]] = [
            *(
                ("SET", "text:empty", " "),
                ("RPUSH", "list:wide", "x"),
                ("SADD", "set:large", "x"),
                ("PERSIST", "list:small"),
            ),
            *(("HSET", "hash:large", "field 1", "x"), ("ZADD", "zset:scores", "0.2", "m2"), ("DEL", "text:minus")),
        ]
        if "XADD" in known:
            changes += [("XDEL", "stream", "1001-1"), ("XGROUP", "SETID", "stream:emptied", "g", "1-1")]
        if "HPERSIST" in known:
            changes += [("HPERSIST", "hash:expiring small", "FIELDS", 1, "field:1")]
        with raw_client(server) as client:
            for words in changes:
                client.execute_command(*words)
        told = differences(before, read_site(server))
        assert len(told) == len(changes), told
    finally:
        server.stop()


def _copy_and_follow(world: MixedWorld) -> None:
    world.build()
    world.assert_precheck_passes()
    engine = world.synchronised_engine()
    for turn in (0, 1):
        follow(world.east, world.known, turn)
    world.wait_drained(engine)
    assert world.assert_sites_equal() > KEYS_MIN
    assert "unequal" not in engine.text and "quarantine" not in engine.text
    engine.stop()


@pytest.mark.parametrize("source, target", chosen(PAIRS, quick=QUICK))
def test_all_that_both_know_is_copied_and_followed(tmp_path: pathlib.Path, source: str, target: str) -> None:
    with MixedWorld(tmp_path, source, target, topology="one-way") as world:
        _copy_and_follow(world)


@SERVERS
def test_a_snapshot_that_is_not_compressed(tmp_path: pathlib.Path, release: str) -> None:
    diskless = () if program_version(program(release)) < (2, 8, 18) else ("--repl-diskless-sync", "no")
    plain = ("--rdbcompression", "no", *diskless)
    with MixedWorld(tmp_path, release, release, topology="one-way", east=plain) as world:
        _copy_and_follow(world)


def _write_same_keys(world: MixedWorld, turn: int) -> None:
    """Writes to the same keys at both sites at the same time: those that add up, and others that are in conflict."""
    for name, server in world.servers.items():
        with server.client() as client:
            pipe = client.pipeline(transaction=False)
            for n in range(40):
                pipe.incrby("both:count", 1).sadd("both:set", f"{name} {turn} {n}")
                pipe.hincrby("both:hash", "sum", 1).hset("both:hash", f"of {name}", n)
                pipe.set(f"both:text:{n % 4}", f"{name} {turn} {n}").rpush("both:list", f"{name} {turn} {n}")
            pipe.execute()


@pytest.mark.parametrize("first, second", chosen(TWO_WAY, quick=TWO_WAY[:1]))
def test_writes_at_both_sites(tmp_path: pathlib.Path, first: str, second: str) -> None:
    with MixedWorld(tmp_path, first, second) as world:
        world.build()
        world.assert_precheck_passes()
        engine = world.synchronised_engine()
        world.start_writers(3)
        for turn in range(3):
            engine.send(signal.SIGSTOP)  # so that neither site can have seen what the other one was written
            _write_same_keys(world, turn)
            engine.send(signal.SIGCONT)
        follow(world.west, world.known, 0)
        world.wait_drained(engine)
        follow(world.east, world.known, 1)
        world.stop_writers()
        world.wait_drained(engine)
        world.assert_written()
        with world.east.client() as client:
            assert client.get("both:count") == b"240" and client.scard("both:set") == 240
            assert client.hget("both:hash", "sum") == b"240"
        assert world.assert_sites_equal() > KEYS_MIN
        assert world.status()["conflicts"]["total"] > 0, "nothing was in conflict"
        engine.stop()


@pytest.mark.parametrize("old, new", chosen(UPGRADES, quick=UPGRADES[:1]))
def test_an_upgrade_while_clients_write(tmp_path: pathlib.Path, old: str, new: str) -> None:
    """Clients write to the old server; some go over to the new one, then all; the old one is switched off."""
    with MixedWorld(tmp_path, old, new) as world:
        world.build()
        at_old = world.start_writers(4, "east")[0]
        engine = world.synchronised_engine()
        wait_until(lambda: at_old.rounds > 100, "the clients write to the old server")
        at_new = world.start_writers(6, "west")[0]
        follow(world.east, world.known, 0)
        wait_until(lambda: at_new.rounds > 200, "some clients write to the new server")
        engine.kill()  # the machine of bisync fails in the middle, too
        engine = world.synchronised_engine()
        at_old.halt()
        follow(world.west, world.known, 1)
        world.stop_writers()  # for a moment, in which both sites hold the same
        world.wait_drained(engine)
        world.assert_written()
        world.assert_sites_equal()
        engine.stop()
        world.stop_site("east")
        [goes_on] = world.start_writers(7, "west", prefix="after")
        wait_until(lambda: goes_on.rounds > 50, "the clients go on at the new server")
        world.stop_writers()
        world.assert_written("west")
