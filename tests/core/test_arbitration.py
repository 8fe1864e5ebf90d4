"""Which site holds the right value of a unit, and when it has been copied."""

from collections.abc import Iterator

import attrs
import pytest

from bisync.core import commands
from bisync.core.arbitration import Arbiter, Arbitration, Unit
from bisync.core.operation import Operation
from bisync.core.pending import Pending
from bisync.core.position import START, stream_clock
from bisync.core.resp import pack
from bisync.core.rules import Rules

RULES = Rules("job", "east", "west")
K = Unit(0, b"k")


def operation(line: str) -> Operation:
    args = tuple(line.encode().split(b" "))
    return Operation(args, 0, pack(*args), 0, commands.row(args[0]))


def write(line: str, time_ms: int = 0, at: int = 10) -> Pending:
    return Pending(stream_clock(0, at), at, [operation(line)], START, time_ms, 1)


def arbiter(policy: str = "last-writer") -> Arbiter:
    return Arbiter(attrs.evolve(RULES, policy=policy), {"east": 100, "west": 200})


def meet(subject: Arbiter, mine: Pending, theirs: Pending, site: str = "east") -> list[Arbitration]:
    """`mine` is read at `site` while `theirs` is pending across; what is open after that."""
    held: Iterator[tuple[Pending, Operation]] = iter([(theirs, theirs.operations[0])])
    mine.contested |= subject.compare(site, mine, held, mine.operations[0])
    return list(subject)


def units(*opened: Arbitration) -> set[Unit]:
    return {a.unit for a in opened}


def element(kind: str, name: str) -> Unit:
    return Unit(0, b"k", (kind, name.encode()))


COMMUTING = [
    ("INCRBY k 2", "DECRBY k 3"),
    ("SADD k a", "SADD k a b"),
    ("HSET k a 1", "HSET k b 1"),
    ("SET k v", "SET k v"),
    ("SET k v", "SET other w"),
    ("ZADD k 1 a", "ZADD k 2 b"),
]
NOT_COMMUTING = [
    ("SET k v", "SET k w", {K}),
    ("RPUSH k a", "RPUSH k b", {K}),
    ("SET k v", "DEL k", {K}),
    ("HSET k a 1", "HSET k a 2", {element("hash", "a")}),
    ("SADD k a b", "SREM k b c", {element("set", "b")}),
    ("ZADD k 1 a", "ZADD k 2 a", {element("zset", "a")}),
    ("HSET k a 1", "DEL k", {K}),
    ("RENAME k to", "SET k v", {K, Unit(0, b"to")}),
    ("SUNIONSTORE to k", "SADD k a", {Unit(0, b"to")}),
]


@pytest.mark.parametrize(("mine", "theirs"), COMMUTING + [(b, a) for a, b in COMMUTING])
def test_writes_whose_order_does_not_matter_are_no_conflict(mine: str, theirs: str) -> None:
    subject, ours = arbiter(), write(mine)
    assert meet(subject, ours, write(theirs)) == []
    assert not ours.contested


@pytest.mark.parametrize(("mine", "theirs", "expected"), NOT_COMMUTING + [(b, a, u) for a, b, u in NOT_COMMUTING])
def test_just_the_units_whose_value_depends_on_the_order_are_arbitrated(
    mine: str, theirs: str, expected: set[Unit]
) -> None:
    ours, across = write(mine), write(theirs)
    assert units(*meet(arbiter(), ours, across)) == expected
    assert ours.contested
    assert across.contested


def test_writes_of_which_one_had_seen_the_other_are_no_conflict() -> None:
    mine = attrs.evolve(write("SET k v"), seen=stream_clock(0, 10))
    assert meet(arbiter(), mine, write("SET k w", at=10)) == []


@pytest.mark.parametrize(
    ("mine", "theirs", "policy", "winner"),
    [
        (("SET k a", 5), ("SET k b", 4), "last-writer", "east"),
        (("SET k a", 4), ("SET k b", 5), "last-writer", "west"),
        (("SET k a", 5), ("SET k b", 5), "last-writer", "west"),
        (("DEL k", 9), ("SET k b", 5), "last-writer", "west"),
        (("SET k a", 1), ("DEL k", 5), "last-writer", "east"),
        (("SET k a", 1), ("SET k b", 5), "east", "east"),
        (("SET k a", 9), ("SET k b", 5), "west", "west"),
    ],
)
def test_the_policy_chooses_the_winner_and_the_other_site_has_its_write_last(
    mine: tuple[str, int], theirs: tuple[str, int], policy: str, winner: str
) -> None:
    for a, b, site in ((mine, theirs, "east"), (theirs, mine, "west")):  # whichever is read first
        (found,) = meet(arbiter(policy), write(*a), write(*b), site)
        assert found.winner is not None
        assert found.winner.site == winner
        assert found.authority == RULES.other(winner)


def test_recovery_must_read_every_write_of_it_again() -> None:
    subject = arbiter()
    assert subject.lowest("east", 90) == 90
    meet(subject, write("SET k a", at=30), write("SET k b", at=70))
    assert (subject.lowest("east", 90), subject.lowest("west", 90)) == (30, 70)
    meet(subject, write("SET k c", at=50), write("SET k d", at=20))
    assert (subject.lowest("east", 90), subject.lowest("west", 90)) == (30, 20)


def round_of(subject: Arbiter) -> int:
    (begun,) = subject.begin_rounds()
    return begun.number


def opened(subject: Arbiter, line: str = "SET k a", other: str = "SET k b") -> Arbitration:
    """An arbitration whose authority is west, as east has won."""
    (found,) = meet(subject, write(line, 5), write(other, 1))
    assert found.authority == "west"
    return found


def test_a_round_fences_restores_and_is_done() -> None:
    subject = arbiter()
    found = opened(subject)
    number = round_of(subject)
    assert subject.begin_rounds() == []
    assert subject.fence_came_back(number) is found
    assert subject.restore_came_back(number) is found
    assert len(subject) == 0
    assert subject.restore_came_back(number) is None


def test_a_write_that_the_restore_may_overtake_makes_another_round() -> None:
    subject = arbiter()
    found = opened(subject)
    number = round_of(subject)
    subject.mark_dirty("west", 150, operation("APPEND k x"))
    assert not found.dirty, "the authority's own writes are in the copy or behind it"
    subject.mark_dirty("east", 5, operation("SET other x"))
    assert not found.dirty
    subject.mark_dirty("east", 5, operation("APPEND k x"))
    assert found.dirty
    assert found.low["east"] == 5
    subject.fence_came_back(number)
    assert subject.restore_came_back(number) is None
    again = round_of(subject)
    assert again > number
    subject.fence_came_back(again)
    assert subject.restore_came_back(again) is found


def test_a_fence_at_a_site_that_is_the_authority_no_more_is_asked_again() -> None:
    subject = arbiter()
    opened(subject)
    number = round_of(subject)
    meet(subject, write("SET k c", 6), write("SET k d", 9))
    (found,) = subject
    assert found.authority == "east"
    assert subject.fence_came_back(number) is None
    assert round_of(subject) > number
    assert found.fenced_at == "east"


def test_the_authority_moves_only_for_a_winner_that_overwrites_the_unit() -> None:
    subject = arbiter()
    found = opened(subject)
    meet(subject, write("APPEND k c", 6), write("APPEND k d", 9))
    assert found.authority == "west"
    meet(subject, write("SET k c", 6), write("SET k d", 9))
    assert found.authority == "east"
    meet(subject, write("SET k c", 7), write("SET k d", 8))
    assert found.authority == "east"


def test_a_whole_key_takes_in_its_elements() -> None:
    subject = arbiter()
    opened(subject, "HSET k a 1", "HSET k a 2")
    assert units(*meet(subject, write("HSET k b 1"), write("HSET k b 2"))) == {
        element("hash", "a"),
        element("hash", "b"),
    }
    number = subject.begin_rounds()[0].number
    assert units(*meet(subject, write("DEL k"), write("HSET k c 2", 9))) == {K}
    assert units(*meet(subject, write("HSET k d 1"), write("HSET k d 2"))) == {K}
    assert subject.fence_came_back(number) is None, "the rounds of its elements count no more"


def test_an_element_of_a_key_of_another_type_is_settled_with_its_whole_key() -> None:
    subject = arbiter()
    opened(subject, "HSET k a 1", "HSET k a 2")
    assert subject.begin_again(round_of(subject))
    assert units(*subject) == {K}
    assert not subject.begin_again(round_of(subject)), "there is nothing larger"


def test_a_write_computed_from_an_unequal_key_is_arbitrated_too() -> None:
    subject = arbiter()
    opened(subject)
    copying = write("COPY k to", at=77)
    subject.taint("east", copying, copying.operations[0])
    assert units(*subject) == {K, Unit(0, b"to")}
    assert {a.authority for a in subject} == {"west"}
    plain = write("SET elsewhere v")
    subject.taint("east", plain, plain.operations[0])
    assert len(subject) == 2


def test_a_flush_that_meets_a_swap_cannot_be_settled_key_by_key_and_that_is_said() -> None:
    subject = arbiter()
    meet(subject, write("FLUSHDB"), write("SWAPDB 0 1"))
    assert len(subject.unsettled) == 1
    assert "crossed" in subject.unsettled[0]


def test_conflicts_are_counted_and_repairs_are_not() -> None:
    subject = arbiter()
    opened(subject)
    subject.arbitrate(Unit(0, b"repaired"), None, {}, "east")
    assert (subject.found, len(subject)) == (1, 2)
    repaired = [a for a in subject if a.winner is None]
    assert repaired[0].low == {"east": 100, "west": 200}
