"""Fields of hashes with a time to live of their own: HSETEX, HPEXPIREAT, HPERSIST and those that become them."""

import pytest

from bisync.core.commands import Args, Write, commute, footprint, normalise, put_off


def words(text: str) -> Args:
    return tuple(text.encode().split())


def field(name: str, overwrites: bool) -> Write:
    return Write(0, b"h", ("hash", name.encode()), overwrites)


@pytest.mark.parametrize(
    "call, becomes",
    [
        ("HSETEX h NX FXX KEEPTTL FIELDS 1 FNX v", "HSETEX h KEEPTTL FIELDS 1 FNX v"),
        ("HSETEX h FIELDS 1 PXAT NX PXAT 5 FNX", "HSETEX h FIELDS 1 PXAT NX PXAT 5"),
        ("HPEXPIREAT h 5 GT FIELDS 1 f", "HPEXPIREAT h 5 FIELDS 1 f"),
        ("HPEXPIREAT h 5 FIELDS 1 GT LT", "HPEXPIREAT h 5 FIELDS 1 GT"),
        ("HGETEX h PXAT 5 FIELDS 2 f g", "HPEXPIREAT h 5 FIELDS 2 f g"),
        ("HGETEX h FIELDS 1 f PERSIST", "HPERSIST h FIELDS 1 f"),
    ],
)
def test_condition_that_held_is_not_asked_again(call: str, becomes: str) -> None:
    once = normalise(words(call))
    assert once == words(becomes)
    assert normalise(once) is once


@pytest.mark.parametrize(
    "call", ["HPEXPIREAT h 5 GT FIELDS 2 f g", "HPEXPIREAT h 5 FIELDS 1 NX", "HGETEX h EX 5 FIELDS 1 f", "HGETEX h f"]
)
def test_what_decides_between_fields_is_left_alone(call: str) -> None:
    args = words(call)
    assert normalise(args) is args


@pytest.mark.parametrize(
    "call, writes",
    [
        ("HSETEX h FIELDS 2 f v g w", [field("f", True), field("g", True)]),
        ("HSETEX h PXAT 5 FIELDS 1 KEEPTTL v", [field("KEEPTTL", True)]),
        ("HSETEX h KEEPTTL FIELDS 1 f v", [field("f", False)]),
        ("HSETEX h FIELDS 1 f v KEEPTTL", [field("f", False)]),
        ("HPEXPIREAT h 5 FIELDS 2 f g", [field("f", False), field("g", False)]),
        ("HPERSIST h FIELDS 1 FIELDS", [field("FIELDS", False)]),
        ("HGETEX h PXAT 5 FIELDS 1 f", [field("f", False)]),
    ],
)
def test_time_to_live_is_a_part_of_its_field(call: str, writes: list[Write]) -> None:
    assert footprint(words(call), 0).writes == tuple(writes)


@pytest.mark.parametrize(
    "p, q, said",
    [
        ("HSETEX h PXAT 5 FIELDS 1 f v", "HSETEX h PXAT 6 FIELDS 1 g v", True),
        ("HSETEX h PXAT 5 FIELDS 1 f v", "HSETEX h PXAT 5 FIELDS 2 f v g w", True),
        ("HSETEX h PXAT 5 FIELDS 1 f v", "HSETEX h PXAT 6 FIELDS 1 f v", False),
        ("HSETEX h FIELDS 1 f v", "HSET h f v", True),
        ("HSETEX h KEEPTTL FIELDS 1 f v", "HSETEX h KEEPTTL FIELDS 1 f v", False),
        ("HSETEX h KEEPTTL FIELDS 1 f v", "HINCRBY h g 1", True),
        ("HSETEX h KEEPTTL FIELDS 1 f v", "HDEL h g", False),
        ("HPEXPIREAT h 5 FIELDS 1 f", "HPEXPIREAT h 5 FIELDS 2 f g", True),
        ("HPEXPIREAT h 5 FIELDS 1 f", "HPEXPIREAT h 6 FIELDS 1 f", False),
        ("HPEXPIREAT h 5 GT FIELDS 2 f g", "HPEXPIREAT h 5 FIELDS 1 f", False),
        ("HPERSIST h FIELDS 1 f", "HPERSIST h FIELDS 1 f", True),
        ("HPERSIST h FIELDS 1 f", "HPEXPIREAT h 5 FIELDS 1 f", False),
        ("HPEXPIREAT h 5 FIELDS 1 f", "HDEL h g", True),
        ("HPEXPIREAT h 5 FIELDS 1 f", "HDEL h f", False),
        ("HPEXPIREAT h 5 FIELDS 1 f", "HINCRBY h f 1", False),
        ("HPEXPIREAT h 5 FIELDS 1 f", "HSET h g 1", True),
        ("HPEXPIREAT h 5 FIELDS 1 f", "SADD h f", False),
        ("HPEXPIREAT h 5 FIELDS 1 f", "PEXPIREAT h 5", True),
        ("HPEXPIREAT h 5 FIELDS 1 f", "DEL h", False),
    ],
)
def test_which_commute(p: str, q: str, said: bool) -> None:
    assert commute(words(p), 0, words(q), 0) == commute(words(q), 0, words(p), 0) == said


@pytest.mark.parametrize(
    "call, becomes",
    [
        ("HPEXPIREAT h 5 FIELDS 1 f", "HPEXPIREAT h 160000 FIELDS 1 f"),
        ("HSETEX h PXAT 5 FIELDS 1 PXAT 7", "HSETEX h PXAT 160000 FIELDS 1 PXAT 7"),
        ("HSETEX h FIELDS 1 PXAT 7 PXAT 5", "HSETEX h FIELDS 1 PXAT 7 PXAT 160000"),
        ("HSETEX h FIELDS 1 PXAT 7", "HSETEX h FIELDS 1 PXAT 7"),
        ("MSETEX 1 PXAT 5 PXAT 6", "MSETEX 1 PXAT 5 PXAT 160000"),
        ("HPEXPIREAT h 900000 FIELDS 1 f", "HPEXPIREAT h 900000 FIELDS 1 f"),
    ],
)
def test_one_that_is_over_on_arrival_is_put_off(call: str, becomes: str) -> None:
    """The source says with an HDEL that the field is gone; until then it may have renewed it."""
    assert put_off(words(call), 100_000) == words(becomes)
