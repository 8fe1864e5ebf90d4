"""Two writes that do not commute and of which neither had seen the other: which units they leave in doubt."""

from collections.abc import Iterator

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bisync.core import detection
from bisync.core.commands import TTL, Footprint
from bisync.core.moment import BEFORE_ALL
from bisync.core.operation import copied_operation
from bisync.core.pending import Pending
from bisync.core.position import START, copied_clock, stream_clock
from bisync.core.rules import Rules
from bisync.core.unit import Arbitration, Unit
from bisync.testing.strategies import Command, client_commands, expiries, key_commands, keys, string_commands
from tests.core.writes import RULES, K, Meeting, at_us, operation, write

BOTH_WAYS = pytest.mark.usefixtures("few")

TO = Unit(0, b"to")
LONG = "PEXPIREAT k 2900000000000"


@pytest.fixture(params=[0, 10**9], ids=["in groups", "one by one"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations on a hot key are compared in groups; what comes of it must be the same."""
    monkeypatch.setattr(detection, "FEW", request.param)


def element(kind: str, name: str) -> Unit:
    return Unit(0, b"k", (kind, name.encode()))


def meet(mine: Pending, theirs: Pending, site: str = "east", rules: Rules = RULES) -> Meeting:
    """`mine` is read at `site` while `theirs` is pending across."""
    meeting = Meeting(rules)
    meeting.read(rules.other(site), theirs)
    meeting.read(site, mine)
    return meeting


def only(meeting: Meeting) -> Arbitration:
    (found,) = meeting.arbiter
    return found


# -- two writes
COMMUTING = [
    ("INCRBY k 2", "DECRBY k 3"),
    ("SADD k a", "SADD k a b"),
    ("HSET k a 1", "HSET k b 1"),
    ("HSET k a 1", "HSET k a 1"),
    ("SET k v", "SET k v"),
    ("SET k v", "SET other w"),
    ("ZADD k 1 a", "ZADD k 2 b"),
    ("LPUSH k a", "RPUSH k b"),
    ("SETBIT k 1 1", "SETBIT k 2 0"),
    ("DEL k", "DEL k other"),
    ("COPY k to REPLACE", "COPY k other REPLACE"),
    ("PEXPIREAT k 2900000000000", "INCR k"),
]
NOT_COMMUTING = [
    ("SET k v", "SET k w", {K}),
    ("RPUSH k a", "RPUSH k b", {K}),
    ("SET k v", "DEL k", {K}),
    ("APPEND k a", "INCR k", {K}),
    ("SETBIT k 1 1", "SETBIT k 1 0", {K}),
    ("HSET k a 1", "HSET k a 2", {element("hash", "a")}),
    ("HSET k a 1 b 2 c 3", "HSET k a 1 b 3 c 4", {element("hash", "b"), element("hash", "c")}),
    ("SADD k a b", "SREM k b c", {element("set", "b")}),
    ("ZADD k 1 a", "ZADD k 2 a", {element("zset", "a")}),
    ("HSET k a 1", "SADD k a", {K}),
    ("HSET k a 1", "DEL k", {K}),
    ("MSET k 1 to 2", "MSET k 1 to 3", {TO}),
    ("RENAME k to", "SET k v", {K, TO}),
    ("SUNIONSTORE to k", "SADD k a", {TO}),
    ("COPY k to REPLACE", "DEL k", {TO}),
    ("LMOVE k to LEFT RIGHT", "RPUSH to a", {K, TO}),
    ("SMOVE to k a", "SADD k b", {K, TO}),
    (LONG, "PERSIST k", {Unit(0, b"k", TTL)}),
    (LONG, "SET k v", {K}),
    ("FLUSHALL", "SET k v", {K}),
    ("FLUSHDB", "HSET k f v", {K}),
    ("SWAPDB 0 1", "SET k v", {K, Unit(1, b"k")}),
]


@BOTH_WAYS
@pytest.mark.parametrize(("mine", "theirs"), COMMUTING + [(b, a) for a, b in COMMUTING])
def test_writes_whose_order_does_not_matter_are_no_conflict(mine: str, theirs: str) -> None:
    ours, across = write(mine), write(theirs)
    meeting = meet(ours, across)
    assert meeting.units == set()
    assert not ours.contested
    assert not across.contested


@BOTH_WAYS
@pytest.mark.parametrize(("mine", "theirs", "expected"), NOT_COMMUTING + [(b, a, u) for a, b, u in NOT_COMMUTING])
def test_just_the_units_whose_value_depends_on_the_order_are_arbitrated(
    mine: str, theirs: str, expected: set[Unit]
) -> None:
    ours, across = write(mine), write(theirs)
    meeting = meet(ours, across)
    assert meeting.units == expected
    assert ours.contested
    assert across.contested


@BOTH_WAYS
def test_writes_of_which_one_had_seen_the_other_are_no_conflict() -> None:
    assert meet(write("SET k v", seen=stream_clock(0, 10)), write("SET k w", at=10)).units == set()
    assert meet(write("SET k v", at=10), write("SET k w", seen=stream_clock(0, 10))).units == set()
    assert meet(write("SET k v", at=11), write("SET k w", seen=stream_clock(0, 10))).units == {K}


@BOTH_WAYS
@pytest.mark.parametrize(("mine", "theirs"), [("HSET k a 1", "HDEL k b"), ("SADD k a", "SREM k b")])
def test_an_element_that_is_added_while_another_is_removed_settles_the_time_to_live_and_is_no_conflict(
    mine: str, theirs: str
) -> None:
    for a, b in ((mine, theirs), (theirs, mine)):
        meeting = meet(write(a), write(b))
        assert meeting.units == {Unit(0, b"k", TTL)}
        assert meeting.arbiter.unrecorded == 0


def test_a_flush_that_meets_a_swap_cannot_be_settled_key_by_key_and_that_is_said() -> None:
    meeting = meet(write("FLUSHDB"), write("SWAPDB 0 1"))
    assert meeting.units == set()
    (said,) = meeting.detector.unsettled
    assert "FLUSHDB at east and SWAPDB at west crossed" in said


# -- the winner
@BOTH_WAYS
@pytest.mark.parametrize(
    ("mine", "theirs", "policy", "winner"),
    [
        (("SET k a", 5), ("SET k b", 4), "last-writer", "east"),
        (("SET k a", 4), ("SET k b", 5), "last-writer", "west"),
        (("SET k a", 5), ("SET k b", 5), "last-writer", "east"),
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
        found = only(meet(write(*a), write(*b), site, attrs.evolve(RULES, policy=policy)))
        assert found.winner is not None
        assert found.winner.site == winner
        assert found.authority == RULES.other(winner)


@BOTH_WAYS
def test_a_renewal_that_wins_over_a_deletion_has_its_own_site_as_authority_and_overrules_it() -> None:
    """A PEXPIREAT makes no key where the deletion was: there it comes to nothing."""
    deletion, renewal = write("DEL k", 9), write(LONG, 5)
    assert only(meet(deletion, renewal)).authority == "west"
    assert deletion.operations[0].overruled == {b"k"}, "west must not delete what it keeps"
    deletion, renewal = write("DEL k", 9), write(LONG, 5)
    assert only(meet(renewal, deletion)).authority == "east"
    assert not deletion.operations[0].overruled, "it was sent already"


@BOTH_WAYS
def test_a_deletion_is_overruled_whatever_else_the_renewed_key_got_and_each_time() -> None:
    meeting = Meeting()
    meeting.read_all("west", [write(line, at=10 * n) for n, line in enumerate(["SET k a", LONG, "APPEND k b"], 1)])
    deletions = [write("DEL k", 9, at=10 * n) for n in range(1, 4)]
    meeting.read_all("east", deletions)
    assert [d.operations[0].overruled for d in deletions] == [{b"k"}] * 3


@BOTH_WAYS
def test_a_write_that_equals_the_newest_does_not_hide_that_an_older_one_lost() -> None:
    meeting = Meeting()
    meeting.read("east", write("SET k a", 1, at=10))
    meeting.read("east", write("SET k b", 9, at=20))
    meeting.read("west", write("SET k b", 5, at=10))
    found = only(meeting)
    assert found.winner is not None
    assert (found.winner.site, found.winner.operation.args[2]) == ("west", b"b")
    meeting.read("west", write("SET k c", 7, at=20))
    assert found.winner is not None
    assert (found.winner.site, found.winner.clock) == ("east", stream_clock(0, 20))


def settled_of(first: str, second: str, *east: tuple[str, int]) -> Arbitration:
    """West's two writes, of 0 and 5 µs, meet those of east at the times given; what is being settled then."""
    meeting = Meeting()
    meeting.read_all("east", [write(line, us, at=10 * n) for n, (line, us) in enumerate(east, 1)])
    meeting.read_all("west", [write(first, 0, at=10), write(second, 5, at=20)])
    return only(meeting)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("first", "second", "east", "clock"),
    [
        ("SET k a", "SET k b", [("DEL k", 1), ("SET k a", 9)], 20),
        ("SET k a", "SET k b", [("SET k c", 1), ("DEL k", 2), ("SET k a", 9), ("DEL other", 9)], 30),
    ],
)
def test_the_newest_wins_also_where_it_was_met_by_a_write_that_equals_it(
    first: str, second: str, east: list[tuple[str, int]], clock: int
) -> None:
    winner = settled_of(first, second, *east).winner
    assert winner is not None
    assert (winner.site, winner.clock) == ("east", stream_clock(0, clock))


@BOTH_WAYS
def test_a_write_that_had_seen_the_first_one_meets_the_next() -> None:
    """One stream is read far ahead of the other, as after a restart."""
    meeting = Meeting()
    meeting.read_all("east", [write("SET k a", 1, 10), write("SET k b", 9, 20, stream_clock(0, 10))])
    meeting.read_all("west", [write("SET k c", 0, 10), write("SET k d", 5, 20)])
    (told,) = meeting.arbiter.take_told()
    assert (told.winner, told.counts) == ("east", {"east": 2, "west": 2})


@BOTH_WAYS
def test_everything_that_was_computed_from_a_key_is_in_doubt_with_it() -> None:
    meeting = Meeting()
    meeting.read_all("east", [write(f"COPY k c{n} REPLACE", at=10 * n) for n in range(1, 4)])
    meeting.read("west", write("SET k v"))
    assert meeting.units == {Unit(0, b"c%d" % n) for n in range(1, 4)}


@BOTH_WAYS
def test_a_field_that_is_settled_is_arbitrated_again_though_another_one_is_still_open() -> None:
    meeting = Meeting()
    a, b = element("hash", "a"), element("hash", "b")
    meeting.read_all("east", [write("HSET k a 9", at=10), write("HSET k a 1 b 3", at=20)])
    meeting.read("west", write("HSET k a 1 b 2", at=10))
    (number,) = [r.number for r in meeting.arbiter.begin_rounds() if r.unit == a]
    meeting.arbiter.fence_came_back(number)
    meeting.arbiter.restore_came_back(number)
    assert meeting.units == {b}
    meeting.read("west", write("HSET k a 1 b 4", at=20))
    assert meeting.units == {a, b}


@BOTH_WAYS
def test_a_write_that_is_equal_at_one_key_and_not_at_another_hides_no_conflict_behind_it() -> None:
    meeting = Meeting()
    meeting.read("east", write("MSET k 1 to 3", at=10))
    meeting.read("east", write("SET k 9", at=20))
    meeting.read("east", write("MSET k 1 to 3", at=30))
    meeting.read("west", write("MSET k 1 to 2", at=10))
    assert meeting.units == {K, TO}


@BOTH_WAYS
def test_a_field_that_is_equal_hides_no_conflict_over_another_one() -> None:
    meeting = Meeting()
    meeting.read_all("east", [write("HSET k a 9", at=10), write("HSET k a 1 b 3", at=20)])
    meeting.read("west", write("HSET k a 1 b 2"))
    assert meeting.units == {element("hash", "a"), element("hash", "b")}


# -- copied keys
def test_a_copied_key_meets_writes_to_it_and_loses() -> None:
    copied = Pending(copied_clock(1, 1), 0, [copied_operation(0, b"k", stale=False)], START, BEFORE_ALL, 1)
    meeting = Meeting()
    meeting.read_all("west", [write("HSET other f v", at=10), write("HSET k f v", at=20)])
    meeting.read("east", copied)
    found = only(meeting)
    assert found.unit == K
    assert found.winner is not None
    assert (found.winner.site, found.authority) == ("west", "east")


# -- the log
@BOTH_WAYS
def test_there_is_one_record_for_a_unit_and_each_write_is_counted_once() -> None:
    meeting = Meeting()
    for n in range(1, 51):
        meeting.read("east", write(f"SET k a{n}", 2 * n, at=10 * n))
        meeting.read("west", write(f"SET k b{n}", 2 * n + 1, at=10 * n))
    (told,) = meeting.arbiter.take_told()
    assert told.counts == {"east": 50, "west": 50}
    assert told.offsets == {"east": (10, 500), "west": (10, 500)}
    assert (told.winner, told.certain) == ("west", True)
    assert [w.command for w in told.writes if w.site == "west"][-1] == b"SET k b50"


@BOTH_WAYS
@pytest.mark.parametrize(
    ("mine", "theirs"),
    [("COPY k to REPLACE", "SET k {}"), ("SET k x", "COPY k to REPLACE"), ("SET k x", "RENAME k to")],
)
def test_the_record_of_what_was_computed_has_writes_of_both_sites(mine: str, theirs: str) -> None:
    meeting = Meeting()
    meeting.read_all("west", [write(theirs.format(n), at=10 * n) for n in range(1, 21)])
    meeting.read("east", write(mine))
    (told,) = [t for t in meeting.arbiter.take_told() if t.key == b"to"]
    assert set(told.counts) == {"east", "west"}


def test_times_that_overlap_are_on_record_as_not_certain() -> None:
    meeting = meet(write("SET k a", attrs.evolve(at_us(0), latest_us=9)), write("SET k b", 5))
    (told,) = meeting.arbiter.take_told()
    assert (told.certain, told.rule, told.winner) == (False, "newest write", "west")


# -- in groups as one by one
Written = tuple[int, list[Command], int, int]  # where it ends, its commands, what it has seen, when it was made

KEYS, ONE = keys(2), keys(1)
COMMANDS = st.one_of(
    client_commands(ONE), client_commands(KEYS), expiries(ONE), key_commands(KEYS), string_commands(KEYS)
)
FIELDS, VALUES = st.sampled_from([b"x", b"y"]), st.sampled_from([b"a", b"b"])
OVERWRITING = st.one_of(
    st.tuples(st.just(b"SET"), KEYS, VALUES),
    st.tuples(st.just(b"MSET"), st.just(b"k0"), VALUES, st.just(b"k1"), VALUES),
    st.tuples(st.just(b"HSET"), st.just(b"h"), FIELDS, VALUES),
    st.tuples(st.just(b"HSET"), st.just(b"h"), st.just(b"x"), VALUES, st.just(b"y"), VALUES),
    st.tuples(st.just(b"HDEL"), st.just(b"h"), FIELDS),
    st.tuples(st.sampled_from([b"SADD", b"SREM"]), st.just(b"s"), FIELDS),
)


@st.composite
def both_streams(draw: st.DrawFn, commands: st.SearchStrategy[Command]) -> dict[str, list[Written]]:
    """What was written at both sites, with what each write had seen of the other site's."""
    ends, seen = dict.fromkeys(RULES.sites, 0), dict.fromkeys(RULES.sites, 0)
    streams: dict[str, list[Written]] = {site: [] for site in RULES.sites}
    for n in range(draw(st.integers(0, 20))):
        site = draw(st.sampled_from(RULES.sites))
        ends[site] += 10
        seen[site] = min(ends[RULES.other(site)], seen[site] + 10 * draw(st.sampled_from([0, 0, 1, 2])))
        made = draw(st.lists(commands, min_size=1, max_size=2))
        streams[site].append((ends[site], made, seen[site], 10 * n))
    return streams


def read_both(streams: dict[str, list[Written]], order: list[str], rules: Rules) -> tuple[Meeting, list[Pending]]:
    """Read both streams, in turn as `order` says; echoes drop what is pending.

    One may be read far ahead of the other, as after a restart: then a write had seen writes that are read after it.
    """
    meeting, read = Meeting(rules), []
    left = {site: list(stream) for site, stream in streams.items()}
    for site in (*order, *["east"] * 20, *["west"] * 20):
        if left[site]:
            end, made, seen, us = left[site].pop(0)
            meeting.pending[rules.other(site)].seen_back(stream_clock(0, seen))
            operations = [operation(c) for c in made]
            read.append(Pending(stream_clock(0, end), end - 10, operations, stream_clock(0, seen), at_us(us), 1))
            meeting.read(site, read[-1])
    return meeting, read


def read_in_both_ways(
    streams: dict[str, list[Written]], order: list[str], policy: str
) -> Iterator[tuple[Meeting, list[Pending]]]:
    """What `read_both` finds with the operations in groups, and with each compared with each."""
    for few in (0, 10**9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(detection, "FEW", few)
            yield read_both(streams, order, attrs.evolve(RULES, policy=policy))


orders = st.lists(st.sampled_from(RULES.sites), max_size=24)
policies = st.sampled_from(["last-writer", "east", "west"])


@given(both_streams(COMMANDS), orders, policies)
@example({"east": [(10, [(b"HDEL", b"k0", b"y"), (b"HDEL", b"k0", b"x")], 0, 0)],
          "west": [(10, [(b"HSET", b"k0", b"x", b"a")], 0, 10)]}, [], "last-writer")  # fmt: skip
@example({"east": [(10, [(b"SET", b"k0", b"a"), (b"GETDEL", b"k0")], 0, 10)],
          "west": [(10, [(b"SET", b"k0", b"a"), (b"PEXPIREAT", b"k0", b"4000000000000")], 0, 0)]},
         ["west"], "last-writer")  # fmt: skip
def test_the_groups_find_the_units_that_comparing_all_with_all_finds(
    streams: dict[str, list[Written]], order: list[str], policy: str
) -> None:
    grouped, all_compared = (
        (meeting.units, [o.overruled for write in read for o in write.operations])
        for meeting, read in read_in_both_ways(streams, order, policy)
    )
    assert grouped == all_compared


@given(both_streams(OVERWRITING), orders, policies)
@example({"east": [(10, [(b"HDEL", b"h", b"x")], 0, 0), (20, [(b"SET", b"k0", b"b")], 0, 20)],
          "west": [(10, [(b"MSET", b"k0", b"b", b"k1", b"a"), (b"SET", b"k0", b"a")], 0, 10)]},
         [], "last-writer")  # fmt: skip
def test_the_groups_find_the_winners_that_comparing_all_with_all_finds(
    streams: dict[str, list[Written]], order: list[str], policy: str
) -> None:
    """Of writes that overwrite: where the winner does not, the first pair decides which site is the authority."""
    grouped, all_compared = (
        {(a.unit, a.authority, a.winner.site if a.winner else None) for a in meeting.arbiter}
        for meeting, _ in read_in_both_ways(streams, order, policy)
    )
    assert grouped == all_compared


@given(
    st.lists(client_commands(keys(2)), min_size=2, max_size=2),
    st.lists(client_commands(keys(2)), min_size=1, max_size=1),
)
def test_of_writes_to_one_place_none_is_left_out_however_many_there_are(
    ours: list[Command], theirs: list[Command]
) -> None:
    """Thousands are not compared each with each."""
    mine, other = (_footprint(commands) for commands in (ours, theirs))
    each = {(a, b) for a in mine.writes for b in other.writes if detection.same_place(a, b)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(detection, "FEW", 1)
        few = list(detection._near(mine, other))
    assert {(a, b) for a, b in few if detection.same_place(a, b)} == each


def _footprint(commands: list[Command]) -> Footprint:
    found = [operation(command).footprint for command in commands]
    return Footprint(tuple(w for f in found for w in f.writes), tuple(r for f in found for r in f.reads))


def test_what_was_computed_from_every_key_meets_the_newest_write_of_data_and_no_message_hides_it() -> None:
    meeting = Meeting()
    meeting.read("west", write("SET w_1 2", at=10))
    meeting.read("west", write("PUBLISH channel message", at=20))
    meeting.read("east", write("SORT k BY w_* STORE to"))
    assert only(meeting).unit == TO
