"""How two commands stand to each other before their arguments are known: it may never say more than `commute`."""

import itertools

import pytest
from hypothesis import given

from bisync.core.commands import ROWS, Args, Row, commute, footprint, row
from bisync.core.commands.kinship import ALWAYS, BY_ELEMENT, LOOK, relation
from tests.command_pool import any_call, calls

EVERY_COMMAND = {r.name.lower() for r in ROWS}
POOL = calls(EVERY_COMMAND)


def row_of(call: Args) -> Row:
    found = row(call[0])
    assert found is not None
    return found


def reads_the_other(p: Args, q: Args) -> bool:
    """Does one read a key that the other writes?"""
    mine, other = footprint(p, 0), footprint(q, 0)
    return any(
        (w.database, w.key) in a.reads or (a.reads and w.database < 0)
        for a, b in ((mine, other), (other, mine))
        for w in b.writes
    )


def elements(call: Args) -> set[object]:
    return {(w.database, w.key, w.element) for w in footprint(call, 0).writes}


def check(p: Args, q: Args) -> str:
    """What the kinship says of the two; it must hold."""
    said = relation(row_of(p), row_of(q))
    assert said == relation(row_of(q), row_of(p))
    if said == ALWAYS and not reads_the_other(p, q):
        assert commute(p, 0, q, 0), (p, q)
    if said == BY_ELEMENT:
        assert all(w.element for call in (p, q) for w in footprint(call, 0).writes), "they have elements only"
        if elements(p).isdisjoint(elements(q)):
            assert commute(p, 0, q, 0), (p, q)
    return said


@pytest.mark.slow
def test_it_holds_for_every_pair_of_the_pool() -> None:
    said = {check(p, q) for p, q in itertools.combinations_with_replacement(POOL, 2)}
    assert said == {ALWAYS, BY_ELEMENT, LOOK}


@given(p=any_call(EVERY_COMMAND), q=any_call(EVERY_COMMAND))
def test_it_holds_for_random_pairs(p: Args, q: Args) -> None:
    check(p, q)


@pytest.mark.parametrize(
    "p, q, said",
    [
        ("INCR", "DECRBY", ALWAYS), ("SREM", "SREM", ALWAYS), ("LPUSH", "RPUSH", ALWAYS), ("PERSIST", "HSET", ALWAYS),
        ("PEXPIREAT", "HPEXPIREAT", ALWAYS), ("PUBLISH", "SET", ALWAYS), ("FUNCTION", "FLUSHALL", ALWAYS),
        ("HSET", "HSET", BY_ELEMENT), ("HSETEX", "HINCRBY", BY_ELEMENT), ("HPEXPIREAT", "HDEL", BY_ELEMENT),
        ("ZADD", "ZINCRBY", BY_ELEMENT), ("SADD", "SREM", LOOK), ("HSET", "SADD", LOOK), ("SET", "SET", LOOK),
        ("LPUSH", "LPUSH", LOOK), ("SETBIT", "SETBIT", LOOK), ("PEXPIREAT", "PEXPIREAT", LOOK), ("SREM", "HDEL", LOOK),
        ("FUNCTION", "FUNCTION", LOOK), ("DEBUG", "PUBLISH", LOOK), ("RENAME", "INCR", LOOK),
    ],
)  # fmt: skip
def test_what_it_says(p: str, q: str, said: str) -> None:
    assert relation(row_of((p.encode(),)), row_of((q.encode(),))) == said
