"""Which of two concurrent writes wins: one table, and what must hold for any two writes."""

import itertools

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core import actions
from bisync.core.moment import BEFORE_ALL, Moment
from bisync.core.operation import copied_operation
from bisync.core.policy import Contender, judge
from bisync.core.position import copied_clock
from bisync.core.rules import Rules
from bisync.testing.strategies import client_commands, keys
from tests.core.writes import RULES, at_us, contender

EAST, WEST = attrs.evolve(RULES, policy="east"), attrs.evolve(RULES, policy="west")
BY_PATTERN = attrs.evolve(
    RULES, policies=(((b"e:*", b"shared"), "east"), ((b"?:*",), "west"), ((b"*",), "last-writer"))
)
SOON, LATE = "PEXPIREAT k 1900000000000", "PEXPIREAT k 2900000000000"

NEWEST, LIKELY, OVER_DELETE = ("newest write", True), ("newest write", False), ("update over delete", True)
LONGEST, PREFERRED, ORDER = ("longest time to live", True), ("preferred site", True), ("order of the sites", False)

Made = tuple[str, int | tuple[int, int]]

TABLE: list[tuple[str, Rules, Made, Made, str, tuple[str, bool]]] = [
    # east's write and west's, each with its time or its bracket (µs), who wins, why, and is that certain?
    ("the newer of two", RULES, ("SET k a", 5), ("SET k b", 4), "east", NEWEST),
    ("the newer of two, the other way", RULES, ("SET k a", 4), ("SET k b", 5), "west", NEWEST),
    ("brackets apart", RULES, ("SET k a", (1, 4)), ("SET k b", (5, 9)), "west", NEWEST),
    ("the same time", RULES, ("SET k a", 5), ("SET k b", 5), "east", ORDER),
    ("brackets that touch", RULES, ("SET k a", (1, 5)), ("SET k b", (5, 9)), "west", LIKELY),
    ("brackets that begin together", RULES, ("SET k a", (1, 5)), ("SET k b", (1, 9)), "west", LIKELY),
    ("brackets that end together", RULES, ("SET k a", (1, 9)), ("SET k b", (4, 9)), "west", LIKELY),
    ("one bracket within the other, late", RULES, ("SET k a", (1, 9)), ("SET k b", (6, 8)), "west", LIKELY),
    ("one bracket within the other, early", RULES, ("SET k a", (2, 4)), ("SET k b", (1, 9)), "west", LIKELY),
    ("one bracket in the middle of the other", RULES, ("SET k a", (1, 9)), ("SET k b", (4, 6)), "east", ORDER),
    ("brackets that overlap, the other way", RULES, ("SET k a", (4, 9)), ("SET k b", (1, 5)), "east", LIKELY),
    ("a newer delete", RULES, ("DEL k", 9), ("SET k b", 5), "west", OVER_DELETE),
    ("a newer delete, the other way", RULES, ("SET k a", 1), ("UNLINK k", 5), "east", OVER_DELETE),
    ("a delete and a renewal", RULES, ("DEL k", 9), (SOON, 5), "west", OVER_DELETE),
    ("a flush is a delete", RULES, ("FLUSHALL", 9), ("APPEND k b", 5), "west", OVER_DELETE),
    ("a delete and a removed field", RULES, ("DEL k", 9), ("HDEL k f", 5), "west", OVER_DELETE),
    ("a removed field is an update of the hash", RULES, ("HDEL k f", 9), ("HSET k f v", 5), "east", NEWEST),
    ("two deletes", RULES, ("DEL k", 9), ("FLUSHDB", 5), "east", NEWEST),
    ("the longest time to live", RULES, (LATE, 1), (SOON, 9), "east", LONGEST),
    ("the longest time to live, in seconds", RULES, (LATE, 1), ("EXPIREAT k 2800000000", 9), "east", LONGEST),
    ("for ever is longest", RULES, (LATE, 9), ("PERSIST k", 1), "west", LONGEST),
    ("equal times to live", RULES, (SOON, 1), (SOON, 9), "west", NEWEST),
    ("a time to live and a write that clears it", RULES, (LATE, 1), ("SET k v", 9), "west", NEWEST),
    ("the preferred site", EAST, ("SET k a", 1), ("SET k b", 5), "east", PREFERRED),
    ("the other preferred site", WEST, ("SET k a", 9), ("SET k b", 5), "west", PREFERRED),
    ("a delete of the preferred site", EAST, ("DEL k", 1), ("SET k b", 5), "east", PREFERRED),
    ("a shorter time to live of the preferred site", WEST, (LATE, 9), (SOON, 1), "west", PREFERRED),
    ("the preferred site, whatever the brackets", WEST, ("SET k a", (1, 9)), ("SET k b", (1, 9)), "west", PREFERRED),
]


def made(write: Made, site: str) -> Contender:
    line, time = write
    return contender(line, site, time if isinstance(time, int) else Moment(*time))


@pytest.mark.parametrize(("rules", "east", "west", "winner", "why"), [t[1:] for t in TABLE], ids=[t[0] for t in TABLE])
def test_who_wins_and_why(rules: Rules, east: Made, west: Made, winner: str, why: tuple[str, bool]) -> None:
    a, b = made(east, "east"), made(west, "west")
    for one, other in ((a, b), (b, a)):
        verdict = judge(rules, b"k", one, other)
        assert (verdict.winner.site, (verdict.rule, verdict.certain)) == (winner, why)
        assert verdict.rule in actions.RULES


@pytest.mark.parametrize(
    ("key", "winner", "rule"),
    [
        (b"e:1", "east", "preferred site"),
        (b"shared", "east", "preferred site"),
        (b"x:1", "west", "preferred site"),
        (b"other", "west", "newest write"),
    ],
)
def test_the_first_pattern_that_the_key_matches_has_the_policy(key: bytes, winner: str, rule: str) -> None:
    verdict = judge(BY_PATTERN, key, contender("SET k a", "east", 1), contender("SET k b", "west", 2))
    assert (verdict.winner.site, verdict.rule) == (winner, rule)


@pytest.mark.parametrize("policy", ["last-writer", "east", "west"])
def test_of_two_writes_of_one_site_the_later_one_stands_whatever_the_brackets_say(policy: str) -> None:
    older, newer = (contender("SET k v", "west", Moment(1, 9), at) for at in (10, 20))
    for one, other in ((older, newer), (newer, older)):
        verdict = judge(attrs.evolve(RULES, policy=policy), b"k", one, other)
        assert verdict.winner is newer
        assert verdict.certain


def test_a_copied_key_is_older_than_every_write_and_may_be_preferred() -> None:
    copied = Contender(copied_operation(0, b"k", stale=False), copied_clock(1, 1), BEFORE_ALL, "east")
    ours = contender("SET k b", "west", at_us(-(10**15)))
    assert judge(RULES, b"k", copied, ours).winner is ours
    assert judge(EAST, b"k", copied, ours).winner is copied


@pytest.mark.parametrize("policy", ["last-writer", "east", "west"])
@pytest.mark.parametrize("line", ["SET k b", "DEL k", SOON])
def test_the_removal_of_a_key_that_a_snapshot_lacks_never_wins(policy: str, line: str) -> None:
    gone = Contender(copied_operation(0, b"k", stale=True), copied_clock(1, 1), BEFORE_ALL, "east")
    ours = contender(line, "west", 1)
    for one, other in ((gone, ours), (ours, gone)):
        assert judge(attrs.evolve(RULES, policy=policy), b"k", one, other).winner is ours


brackets = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda t: Moment(min(t), max(t)))
rules = st.sampled_from([RULES, EAST, WEST, attrs.evolve(RULES, policies=(((b"k0",), "west"),))])
writes = st.builds(
    contender, client_commands(keys(1), wiping=True), st.sampled_from(RULES.sites), brackets, st.integers(1, 9)
)


@given(rules, writes, writes)
def test_which_of_the_two_is_read_first_does_not_matter(rules: Rules, a: Contender, b: Contender) -> None:
    if (a.site, a.clock) == (b.site, b.clock):
        return  # one write
    here, there = judge(rules, b"k0", a, b), judge(rules, b"k0", b, a)
    assert here.winner is there.winner
    assert (here.rule, here.certain) == (there.rule, there.certain)


@given(st.sampled_from(["SET k v", "APPEND k v", "HSET k f v"]), st.lists(brackets, min_size=3, max_size=6), st.data())
def test_newest_is_one_order_however_wide_the_brackets_are(line: str, drawn: list[Moment], data: st.DataObject) -> None:
    """No three writes beat each other in turn, as long as neither bound of a site's brackets goes back."""
    clocks = dict.fromkeys(RULES.sites, 0)
    bounds = {site: Moment(0, 0) for site in RULES.sites}
    found = []
    for when in drawn:
        site = data.draw(st.sampled_from(RULES.sites))
        clocks[site] += 10
        last = bounds[site]
        bounds[site] = Moment(max(when.earliest_us, last.earliest_us), max(when.latest_us, last.latest_us))
        found.append(contender(line, site, bounds[site], clocks[site]))
    for a, b, c in itertools.permutations(found, 3):
        if judge(RULES, b"k", a, b).winner is a and judge(RULES, b"k", b, c).winner is b:
            assert judge(RULES, b"k", a, c).winner is a
