"""The oracle finds the conflicts that there truly were, and what a log has too much or too little."""

import attrs
import pytest

from bisync.core.rules import Rules
from bisync.core.unit import Unit
from bisync.testing import oracle
from bisync.testing.pair import SimulatedPair

RULES = Rules("job", "east", "west", heartbeat_ms=0, target_not_empty="overwrite")
K, FIELD = Unit(0, b"k"), Unit(0, b"h", ("hash", b"f"))


@pytest.fixture
def pair() -> SimulatedPair:
    """A pair whose full copy, of one key, is finished."""
    made = SimulatedPair(RULES)
    made.write("east", (b"SET", b"copied", b"v"))
    made.start()
    made.drain()
    return made


def copied(pair: SimulatedPair) -> dict[str, int]:
    """Where both streams are now."""
    return {name: site.offset for name, site in pair.sites.items()}


def test_writes_that_crossed_and_do_not_commute_are_conflicts_and_no_others(pair: SimulatedPair) -> None:
    after = copied(pair)
    for site in pair.sites:
        pair.write(site, (b"SET", b"k", site.encode()))
        pair.write(site, (b"HSET", b"h", b"f", site.encode(), b"of " + site.encode(), b"v"))
        pair.write(site, (b"INCR", b"n"))
    pair.drain()
    true, possible = oracle.true_conflicts(pair, after)
    assert (true, possible) == ({K, FIELD}, set())
    assert oracle.differences(pair, after) == []


def test_writes_that_had_seen_each_other_are_none(pair: SimulatedPair) -> None:
    after = copied(pair)
    for n in range(4):
        pair.write(("east", "west")[n % 2], (b"SET", b"k", b"%d" % n))
        pair.drain()
    assert oracle.true_conflicts(pair, after) == (set(), set())


def test_what_was_written_before_does_not_count(pair: SimulatedPair) -> None:
    for site in pair.sites:
        pair.write(site, (b"SET", b"k", site.encode()))
    pair.drain()
    assert oracle.true_conflicts(pair, copied(pair)) == (set(), set())


def test_a_write_knows_what_its_site_had_seen_when_it_was_made(pair: SimulatedPair) -> None:
    after = copied(pair)
    pair.write("east", (b"SET", b"k", b"1"))
    pair.drain()
    pair.write("west", (b"SET", b"k", b"2"))
    (of_east,) = oracle.writes_made(pair, "east", after=after["east"])
    (of_west,) = oracle.writes_made(pair, "west", after=after["west"])
    assert of_west.seen >= of_east.clock
    assert of_east.seen < of_west.clock
    assert [o.args for o in of_west.operations] == [(b"SET", b"k", b"2")]


def test_the_restores_of_the_engine_are_no_writes(pair: SimulatedPair) -> None:
    after = copied(pair)
    for site in pair.sites:
        pair.write(site, (b"SET", b"k", site.encode()))
    pair.drain()
    made = [len(oracle.writes_made(pair, site, after=after[site])) for site in pair.sites]
    assert made == [1, 1]


def test_a_key_that_had_expired_when_the_engine_came_to_it_is_only_a_possible_conflict(pair: SimulatedPair) -> None:
    after = copied(pair)
    pair.write("west", (b"SET", b"k", b"v", b"PXAT", b"%d" % (pair.now_ms + 10)))
    pair.drain()
    pair.pass_time(5)
    pair.write("east", (b"APPEND", b"k", b"x"))
    pair.write("west", (b"APPEND", b"k", b"y"))
    pair.pass_time(10)
    pair.drain()
    true, possible = oracle.true_conflicts(pair, after)
    assert true == {K}
    assert all(unit.key == b"k" for unit in possible)
    assert oracle.differences(pair, after) == []


def test_what_a_log_lacks_and_what_it_has_too_much_is_named(pair: SimulatedPair) -> None:
    after = copied(pair)
    for site in pair.sites:
        pair.write(site, (b"SET", b"k", site.encode()))
        pair.write(site, (b"HSET", b"h", b"f", site.encode()))
    pair.drain()
    first, second = sorted(pair.log, key=lambda told: told.key, reverse=True)
    assert (first.key, second.key) == (b"k", b"h")
    pair.log = [second]
    assert oracle.differences(pair, after) == [f"not in the log: {K}"]
    pair.log = [first, second, attrs.evolve(first, key=b"other")]
    assert oracle.differences(pair, after) == [f"no conflict: {Unit(0, b'other')}"]
    pair.log = [first, second, attrs.evolve(second, element=("hash", b"g"))]
    assert oracle.differences(pair, after) == [f"no conflict: {Unit(0, b'h', ('hash', b'g'))}"]


def test_a_conflict_over_an_element_may_be_told_of_the_whole_key(pair: SimulatedPair) -> None:
    after = copied(pair)
    for site in pair.sites:
        pair.write(site, (b"HSET", b"h", b"f", site.encode()))
    pair.drain()
    pair.log = [attrs.evolve(told, element=None) for told in pair.log]
    assert oracle.differences(pair, after) == []


@pytest.mark.parametrize("lazy", [True, False])
def test_a_log_that_was_lost_with_its_engine_is_whole_again_in_the_end(pair: SimulatedPair, lazy: bool) -> None:
    after = copied(pair)
    pair.flushing = not lazy
    for site in pair.sites:
        pair.write(site, (b"SET", b"k", site.encode()))
    for _ in range(20):
        for site in pair.sites:
            pair.read(site, 5000)
            pair.deliver(site)
            pair.answer(site)
    assert bool(pair.log) is not lazy
    pair.kill()
    pair.drain()
    assert oracle.differences(pair, after) == []
    assert [told.state for told in pair.log] == ["settled"]
