"""Workloads: what they write is the seed's choice, and a broken promise does not pass."""

import random
from collections.abc import Iterator

import pytest
import redis

from bisync.errors import BisyncError
from bisync.testing.real_sites import RealSite, Writing
from bisync.testing.servers import local_servers
from bisync.testing.workloads import FORMS, WORKLOADS, Newest, Sent, Step, Workload, make_workload

pytestmark = pytest.mark.slow
PROMISES = sorted(set(WORKLOADS) - {"random"})
DAMAGE = {  # by workload: what a sync that goes wrong could leave behind
    "newest": [("SET", "k0", "nobody's"), ("DEL", "k0")],
    "fields": [("HSET", "k0", "f", "nobody's"), ("HDEL", "k0", "f")],
    "counters": [("INCR", "nk0"), ("HINCRBY", "hk0", "f", "-1"), ("DEL", "zk0")],
    "pushes": [("RPOP", "k0"), ("RPUSH", "k0", "nobody's"), ("RPOPLPUSH", "k1", "k0")],
    "adds": [("SPOP", "k0"), ("SADD", "k0", "nobody's")],
    "entries": [("XTRIM", "k0", "MAXLEN", "1"), ("XADD", "k0", "*", "v", "nobody's")],
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealSite]:
    with local_servers(tmp_path_factory.mktemp("site"), "east") as (server,):
        yield RealSite.of("east", server)


def written(site: RealSite, name: str) -> tuple[Workload, "redis.Redis"]:
    """A workload after some hundred steps at one site."""
    site.wipe()
    workload = make_workload(name, 1, 2)
    writing, draw = Writing(workload), random.Random(5)
    client = site.client()
    for _ in range(150):
        step = workload.step(draw, "east")
        writing.send(site, client, step.commands, step.form)
    assert len(writing.list) == 150
    return workload, client


@pytest.mark.parametrize("name", PROMISES)
def test_what_one_site_has_accepted_is_what_the_ledger_says(site: RealSite, name: str) -> None:
    workload, client = written(site, name)
    with client:
        assert client.dbsize() >= 2 and workload.promise
        assert workload.broken(client) == []


@pytest.mark.parametrize("name", PROMISES)
def test_a_write_that_is_lost_doubled_or_invented_is_found(site: RealSite, name: str) -> None:
    for damage in DAMAGE[name]:
        workload, client = written(site, name)
        with client:
            client.execute_command(*damage)
            assert workload.broken(client), damage


def sent(command: tuple[bytes, ...], at_ms: float, reply: object = b"OK", *, answered: bool = True) -> Sent:
    return Sent("east", Step([command]), at_ms, at_ms + 1, [reply] if answered else None)


def test_a_value_that_is_older_than_the_margin_is_found(site: RealSite) -> None:
    site.wipe()
    workload = Newest(1, 1)
    with site.client() as client:
        for value, at_ms in ((b"old", 0.0), (b"newer", 500.0), (b"newest", 520.0)):
            workload.sent(sent((b"SET", b"k0", value), at_ms))
        for value, fine in ((b"newest", True), (b"newer", True), (b"old", False)):
            client.set("k0", value)
            assert (workload.broken(client) == []) == fine, value
        workload.margin_ms = None
        assert workload.broken(client) == []


def test_of_a_write_without_an_answer_both_outcomes_are_right(site: RealSite) -> None:
    site.wipe()
    counters, pushes = make_workload("counters", 1, 1), make_workload("pushes", 1, 1)
    for amount in (b"5", b"7"):
        counters.sent(sent((b"INCRBY", b"nk0", amount), 0, answered=False))
    pushes.sent(sent((b"LPUSH", b"k0", b"a"), 0, answered=False))
    with site.client() as client:
        assert counters.broken(client) == pushes.broken(client) == []
        for value, fine in ((5, True), (7, True), (12, True), (6, False)):
            client.set("nk0", value)
            assert (counters.broken(client) == []) == fine, value
        client.rpush("k0", "a")
        assert pushes.broken(client) == []
        client.rpush("k0", "a")
        assert pushes.broken(client)


def test_of_two_entries_with_one_id_either_is_right(site: RealSite) -> None:
    site.wipe()
    entries = make_workload("entries", 1, 1)
    for value in (b"e", b"w"):
        entries.sent(sent((b"XADD", b"k0", b"*", b"v", value), 0, b"5-0"))
    with site.client() as client:
        assert entries.broken(client) == ["k0: both sites gave the id 5-0; it holds []"]
        client.xadd("k0", {"v": "w"}, "5-0")
        assert entries.broken(client) == []


def test_refused_writes_are_not_in_the_ledger() -> None:
    pushes = make_workload("pushes", 1, 1)
    pushes.sent(sent((b"LPUSH", b"k0", b"a"), 0, redis.ResponseError("WRONGTYPE")))
    assert not pushes.wanted and not pushes.perhaps  # type: ignore[attr-defined]


def test_a_seed_has_one_pool_and_the_pools_hold_every_family() -> None:
    assert make_workload("random", 3, 5).pool == make_workload("random", 3, 5).pool  # type: ignore[attr-defined]
    names = {command[0] for seed in range(12) for command in make_workload("random", seed, 5).pool}  # type: ignore
    for family in "SET APPEND LPUSH SADD SPOP HSET ZADD XADD XREADGROUP PFADD SETBIT BITOP GEOADD COPY SORT".split():
        assert family.encode() in names
    assert len(names) > 75


def test_every_form_of_a_step_has_a_reply_for_each_command(site: RealSite) -> None:
    with site.client() as client:
        for form in FORMS:
            replies = site.send(
                client, [(b"DEL", b"k"), (b"INCR", b"k"), (b"LPUSH", b"k", b"x"), (b"INCR", b"k")], form
            )
            assert len(replies) == 4 and client.get("k") == b"2", form


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(BisyncError, match="no workload 'x'.*random, newest"):
        make_workload("x", 1, 1)
