"""Which site holds the right value of a unit, and when it has been copied."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.actions import Replaced
from bisync.core.arbitration import STUCK_MS_MAX, STUCK_MS_MIN, Arbiter
from bisync.core.commands import TTL, same_place
from bisync.core.policy import judge
from bisync.core.position import stream_clock
from bisync.core.unit import Arbitration, Unit
from tests.core.writes import RULES, K, Meeting, contender, operation, write


def element(kind: str, name: str) -> Unit:
    return Unit(0, b"k", (kind, name.encode()))


def units(*opened: Arbitration) -> set[Unit]:
    return {a.unit for a in opened}


def meet(
    subject: Arbiter,
    mine: str,
    theirs: str,
    at: tuple[int, int] = (5, 1),
    unit: Unit = K,
    starts: tuple[int, int] = (10, 10),
) -> Arbitration:
    """A write of east and one of west, made at these times (us), leave a unit in doubt; its arbitration."""
    ours = contender(mine, "east", at[0], at[0])
    across = contender(theirs, "west", at[1], at[1])
    subject.conflict(unit, judge(RULES, unit.key, ours, across), (ours, across), dict(zip(RULES.sites, starts)))
    found = subject.covering(unit)
    assert found is not None
    return found


def arbiter() -> Arbiter:
    return Arbiter(RULES, {"east": 100, "west": 200})


def opened(subject: Arbiter, mine: str = "SET k a", theirs: str = "SET k b", unit: Unit = K) -> Arbitration:
    """An arbitration whose authority is west, as east has won."""
    found = meet(subject, mine, theirs, unit=unit)
    assert found.authority == "west"
    return found


def test_recovery_must_read_every_write_of_it_again() -> None:
    subject = arbiter()
    assert subject.lowest("east", 90) == 90
    meet(subject, "SET k a", "SET k b", starts=(30, 70))
    assert (subject.lowest("east", 90), subject.lowest("west", 90)) == (30, 70)
    meet(subject, "SET k c", "SET k d", starts=(50, 20))
    assert (subject.lowest("east", 90), subject.lowest("west", 90)) == (30, 20)


def test_a_write_without_a_start_is_read_again_from_where_its_site_has_been_read_to() -> None:
    subject = arbiter()
    subject.arbitrate(K, None, {"east": 30}, "east")
    assert (subject.lowest("east", 500), subject.lowest("west", 500)) == (30, 200)


def round_of(subject: Arbiter) -> int:
    (begun,) = subject.begin_rounds()
    return begun.number


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


OPEN = st.lists(
    st.sampled_from(
        [K, element("hash", "a"), element("hash", "b"), element("set", "a"), Unit(0, b"k", TTL), Unit(0, b"other")]
    ),
    unique=True,
)
LINES = ["SET k v", "HSET k a 1", "HSET k b 1 c 2", "SADD k a", "SREM k a", "PERSIST k", "ZADD k 1 a", "DEL other"]


@given(OPEN, OPEN, st.sampled_from([*LINES, "FLUSHALL"]))
def test_just_the_units_that_a_write_touches_become_dirty(settled: list[Unit], open_: list[Unit], line: str) -> None:
    subject = arbiter()
    for unit in settled:  # what is over leaves nothing behind
        subject.arbitrate(unit, None, {}, "west")
    for begun in subject.begin_rounds():
        settle(subject, begun)
    for unit in open_:
        subject.arbitrate(unit, None, {}, "west")
    subject.begin_rounds()
    write = operation(line)
    subject.mark_dirty("east", 5, write)
    touched = {a.unit for a in subject for w in write.footprint.writes if same_place(w, a.unit.as_write())}
    assert {a.unit for a in subject if a.dirty} == touched


def test_a_conflict_that_is_found_during_a_round_makes_another_round() -> None:
    subject = arbiter()
    found = opened(subject)
    number = round_of(subject)
    meet(subject, "APPEND k c", "APPEND k d")
    assert found.dirty
    subject.fence_came_back(number)
    assert subject.restore_came_back(number) is None
    assert round_of(subject) > number
    assert not found.dirty


def test_a_fence_at_a_site_that_is_the_authority_no_more_is_asked_again() -> None:
    subject = arbiter()
    opened(subject)
    number = round_of(subject)
    found = meet(subject, "SET k c", "SET k d", (6, 9))
    assert found.authority == "east"
    assert subject.fence_came_back(number) is None
    assert round_of(subject) > number
    assert found.fenced_at == "east"


def restoring(subject: Arbiter) -> int:
    """A round whose restore is on its way: it may overtake writes."""
    number = round_of(subject)
    subject.fence_came_back(number)
    return number


def test_as_long_as_nothing_is_restored_the_authority_moves_for_every_winner() -> None:
    subject = arbiter()
    found = opened(subject)
    meet(subject, "APPEND k c", "APPEND k d", (6, 9))
    assert found.authority == "east"
    meet(subject, "APPEND k c", "APPEND k d", (7, 8))
    assert found.authority == "east", "it was no newer"


def test_once_a_restore_may_have_overtaken_writes_it_moves_only_for_a_winner_that_overwrites_the_unit() -> None:
    subject = arbiter()
    found = opened(subject)
    restoring(subject)
    meet(subject, "APPEND k c", "APPEND k d", (6, 9))
    assert found.authority == "west", "it alone has all writes"
    meet(subject, "SET k c", "SET k d", (6, 9))
    assert found.authority == "east"
    meet(subject, "SET k c", "SET k d", (7, 8))
    assert found.authority == "east"


def test_a_whole_key_takes_in_its_elements() -> None:
    subject = arbiter()
    a, b = element("hash", "a"), element("hash", "b")
    opened(subject, "HSET k a 1", "HSET k a 2", a)
    meet(subject, "HSET k b 1", "HSET k b 2", unit=b, starts=(3, 4))
    assert units(*subject) == {a, b}
    number = subject.begin_rounds()[0].number
    whole = meet(subject, "DEL k", "HSET k c 2", (1, 9))
    assert units(*subject) == {K}
    assert whole.low == {"east": 3, "west": 4}, "a restart must find theirs again too"
    assert meet(subject, "HSET k d 1", "HSET k d 2", unit=element("hash", "d")) is whole
    assert subject.fence_came_back(number) is None, "the rounds of its elements count no more"
    assert subject.restore_came_back(number) is None


@pytest.mark.parametrize(
    ("mine", "theirs", "authority"),
    [("APPEND k x", "SET k b", "east"), ("SET k b", "APPEND k x", "west")],
    ids=["overwritten", "not overwritten"],
)
def test_a_whole_key_heeds_what_was_restored_of_an_element_unless_the_winner_overwrites_it(
    mine: str, theirs: str, authority: str
) -> None:
    subject = arbiter()
    opened(subject, "HSET k a 1", "HSET k a 2", element("hash", "a"))
    restoring(subject)
    assert meet(subject, mine, theirs, (1, 9)).authority == authority
    subject = arbiter()
    opened(subject, "HSET k a 1", "HSET k a 2", element("hash", "a"))
    assert meet(subject, mine, theirs, (1, 9)).authority == "east", "nothing was restored: the newest write decides"


def test_a_whole_key_waits_for_elements_that_were_restored_from_both_sites() -> None:
    subject = arbiter()
    a, b = element("hash", "a"), element("hash", "b")
    meet(subject, "HSET k a 1", "HSET k a 2", (5, 1), a)
    meet(subject, "HSET k b 1", "HSET k b 2", (1, 5), b)
    begun = subject.begin_rounds()
    for arbitration in begun:
        subject.fence_came_back(arbitration.number)
    whole = meet(subject, "APPEND k x", "APPEND k y", (1, 9))
    assert units(*subject) == {a, b, K}
    assert subject.begin_rounds() == [], "no site is right about the whole key"
    for arbitration in begun:
        subject.restore_came_back(arbitration.number)
    assert subject.begin_rounds() == [whole]


def test_an_element_of_a_key_of_another_type_is_settled_with_its_whole_key() -> None:
    subject = arbiter()
    opened(subject, "HSET k a 1", "HSET k a 2", element("hash", "a"))
    assert subject.begin_again(round_of(subject))
    assert units(*subject) == {K}
    assert not subject.begin_again(round_of(subject)), "there is nothing larger"
    assert subject.begin_again(99), "a round that does not count any more"


def test_a_write_computed_from_an_unequal_key_is_arbitrated_too() -> None:
    subject = arbiter()
    opened(subject)
    subject.taint("east", 77, operation("COPY k to"))
    assert units(*subject) == {K, Unit(0, b"to")}
    assert {a.authority for a in subject} == {"west"}
    subject.taint("east", 78, operation("SET elsewhere v"))
    assert len(subject) == 2
    tainted = subject.covering(Unit(0, b"to"))
    assert tainted is not None
    assert tainted.low == {"east": 77, "west": 200}


def test_what_was_computed_before_the_key_was_known_to_be_unequal_is_tainted_too() -> None:
    meeting = Meeting()
    meeting.read("east", write("COPY k to", at=10))
    meeting.read("east", write("SET k a", at=20))
    meeting.read("west", write("SET other b", at=10))
    assert meeting.units == set()
    meeting.arbiter.arbitrate(K, None, {}, "east")
    meeting.arbiter.taint_pending(meeting.pending)
    assert meeting.units == {K, Unit(0, b"to")}


def test_a_taint_goes_on_to_what_was_computed_from_what_was_computed() -> None:
    meeting = Meeting()
    meeting.read("east", write("COPY k two", at=10))
    meeting.read("east", write("COPY two three", at=20))
    meeting.arbiter.arbitrate(K, None, {}, "east")
    meeting.arbiter.taint_pending(meeting.pending)
    assert meeting.units == {K, Unit(0, b"two"), Unit(0, b"three")}


def test_conflicts_are_counted_and_repairs_are_not() -> None:
    subject = arbiter()
    opened(subject)
    meet(subject, "HSET h a 1", "HSET h a 2", unit=Unit(0, b"h", ("hash", b"a")))
    opened(subject, "SET k c", "SET k d")
    subject.arbitrate(Unit(0, b"repaired"), None, {}, "east")
    assert (subject.unrecorded, len(subject)) == (2, 3)
    repaired = [a for a in subject if a.winner is None]
    assert repaired[0].low == {"east": 100, "west": 200}


def test_the_rule_says_why_the_winner_beat_the_other_sites_write_and_not_an_older_one_of_its_own() -> None:
    subject = arbiter()
    meet(subject, "SET k a", "SET k b", (5, 1))
    meet(subject, "SET k c", "SET k d", (6, 6))
    (told,) = subject.take_told()
    assert (told.winner, told.rule) == ("east", "order of the sites")


# -- writes that fail at the other site
def test_where_the_winner_failed_at_the_other_site_its_own_site_becomes_the_authority() -> None:
    subject = arbiter()
    found = opened(subject)
    assert found.winner is not None
    subject.failed("west", found.winner.clock, K.place)
    subject.failed("east", stream_clock(0, 999), K.place)
    subject.failed("east", found.winner.clock, (1, b"k"))
    assert found.authority == "west", "that was another write"
    subject.failed("east", found.winner.clock, K.place)
    assert found.authority == "east"


def test_a_winner_that_failed_at_the_other_site_does_not_stand_in_the_log_where_another_write_did_not_fail() -> None:
    subject = arbiter()
    found = opened(subject)
    assert found.winner is not None
    subject.failed("east", found.winner.clock, K.place)
    settle(subject, found)
    assert [(t.state, t.winner, t.rule) for t in subject.take_told()][-1] == ("settled", "west", "the other one failed")


# -- rounds that fail
def test_a_round_that_came_to_nothing_is_repeated_at_once() -> None:
    subject = arbiter()
    found = opened(subject)
    number = round_of(subject)
    subject.repeat(number)
    assert round_of(subject) > number
    assert subject.under_way(number) is None
    assert subject.under_way(found.number) is found


def test_the_other_site_may_become_the_authority_in_the_middle() -> None:
    subject = arbiter()
    found = opened(subject)
    number = round_of(subject)
    subject.fence_came_back(number)
    subject.turn(number)
    assert found.authority == "east"
    subject.turn(number)  # that round counts no more
    assert round_of(subject) > number


def test_what_cannot_be_settled_at_present_stays_open_and_is_tried_again_after_pauses_that_grow_to_a_bound() -> None:
    subject, now_ms, pauses = arbiter(), 0, []
    found = opened(subject)
    for _ in range(9):
        subject.put_off(round_of(subject), "the site refuses it")
        assert (found.phase, found.stuck) == ("new", "the site refuses it")
        subject.wake(now_ms)
        assert subject.begin_rounds() == []
        assert found.due_ms is not None
        subject.wake(found.due_ms - 1)
        assert subject.begin_rounds() == []
        pauses.append(found.due_ms - now_ms)
        now_ms = found.due_ms
        subject.wake(now_ms)
    assert pauses[0] == STUCK_MS_MIN
    assert pauses == sorted(pauses)
    assert pauses[-1] == STUCK_MS_MAX
    number = round_of(subject)
    subject.fence_came_back(number)
    assert subject.restore_came_back(number) is found


def test_an_element_that_was_put_off_is_not_tried_again_once_its_key_has_taken_it_in() -> None:
    subject = arbiter()
    opened(subject, "HSET k a 1", "HSET k a 2", element("hash", "a"))
    subject.put_off(round_of(subject), "why")
    whole = meet(subject, "SET k a", "SET k b")
    subject.wake(0)
    subject.wake(STUCK_MS_MAX)
    assert subject.begin_rounds() == [whole]


# -- the log
def settle(subject: Arbiter, arbitration: Arbitration) -> None:
    """Its round comes to its end."""
    subject.begin_rounds()
    subject.fence_came_back(arbitration.number)
    assert subject.restore_came_back(arbitration.number) is arbitration


def test_a_conflict_is_told_when_it_is_found_and_again_when_it_is_settled() -> None:
    subject = arbiter()
    found = opened(subject)
    (told,) = subject.take_told()
    assert (told.number, told.state, told.winner, told.counts) == (1, "open", "east", {"east": 1, "west": 1})
    meet(subject, "SET k c", "SET k d", (6, 9))
    assert subject.take_told() == [], "it has one record for as long as it is open"
    found.replaced, found.kept = Replaced("west", "absent", None, None, 0, ""), "digest"
    settle(subject, found)
    (told,) = subject.take_told()
    assert (told.number, told.state, told.winner, told.counts) == (1, "settled", "west", {"east": 2, "west": 2})
    assert (told.replaced, told.kept) == (found.replaced, "digest")
    opened(subject, "SET k e", "SET k f")
    assert [t.number for t in subject.take_told()] == [2]


def test_what_is_told_counts_what_has_met_when_it_is_taken() -> None:
    subject = arbiter()
    opened(subject)
    meet(subject, "SET k c", "SET k d", (6, 9))
    assert [t.counts for t in subject.take_told()] == [{"east": 2, "west": 2}]


def test_a_repair_is_no_conflict_and_is_not_told() -> None:
    subject = arbiter()
    subject.arbitrate(K, None, {}, "west")
    (found,) = subject
    settle(subject, found)
    assert subject.take_told() == []
    assert subject.unrecorded == 0


def test_a_conflict_that_joins_a_repair_is_told() -> None:
    subject = arbiter()
    subject.arbitrate(K, None, {}, "west")
    opened(subject)
    assert [t.state for t in subject.take_told()] == ["open"]


def test_conflicts_over_elements_that_their_key_took_in_are_settled_with_it() -> None:
    subject = arbiter()
    opened(subject, "HSET k a 1", "HSET k a 2", element("hash", "a"))
    whole = meet(subject, "SET k a", "SET k b")
    assert [(t.number, t.element) for t in subject.take_told()] == [(1, ("hash", b"a")), (2, None)]
    settle(subject, whole)
    assert [(t.number, t.state) for t in subject.take_told()] == [(2, "settled"), (1, "settled")]


def test_until_the_log_has_a_conflict_recovery_reads_it_again_though_it_is_settled() -> None:
    subject = arbiter()
    found = meet(subject, "SET k a", "SET k b", starts=(30, 40))
    subject.recorded([t.number for t in subject.take_told()])
    assert subject.unrecorded == 0
    assert subject.lowest("east", 90) == 30, "it is open"
    settle(subject, found)
    assert (subject.lowest("east", 90), subject.lowest("west", 90), subject.unrecorded) == (30, 40, 1)
    subject.recorded([t.number for t in subject.take_told()])
    subject.recorded([99])
    assert (subject.lowest("east", 90), subject.lowest("west", 90), subject.unrecorded) == (90, 90, 0)


def test_a_choice_that_was_not_certain_once_is_not_certain() -> None:
    subject = arbiter()
    meet(subject, "SET k a", "SET k b", (5, 5))
    meet(subject, "SET k c", "SET k d", (6, 9))
    (told,) = subject.take_told()
    assert (told.winner, told.rule, told.certain) == ("west", "newest write", False)


@pytest.mark.parametrize(("policy", "name"), [("last-writer", "last-writer"), ("west", "prefer:west")])
def test_the_record_names_the_policy_of_its_key(policy: str, name: str) -> None:
    rules = attrs.evolve(RULES, policies=(((b"k*",), policy),), policy="east")
    meeting = Meeting(rules)
    meeting.read("east", write("SET k a"))
    meeting.read("west", write("SET k b"))
    assert [t.policy for t in meeting.arbiter.take_told()] == [name]


def test_floors_move_once_a_note_says_who_is_right() -> None:
    """A key that both sites write all the time is never settled: its first write must not be read again for ever."""
    positions = {"east": 100, "west": 200}
    subject = Arbiter(RULES, positions)
    found = opened(subject)
    subject.recorded([t.number for t in subject.take_told()])
    positions.update(east=500, west=600)
    mark = subject.mark(found)
    meet(subject, "SET k c", "SET k d", starts=(450, 650))
    assert (subject.lowest("east", 900), subject.lowest("west", 900)) == (10, 10)
    subject.advance(found, mark - 1)
    assert subject.lowest("east", 900) == 10, "it is an older note's"
    subject.advance(found, mark)
    assert (subject.lowest("east", 900), subject.lowest("west", 900)) == (450, 600)


def test_elements_that_a_waiting_key_takes_in_later_are_settled_with_it_in_the_log() -> None:
    """They were restored from both sites, so the whole key waits; then a write replaces it all."""
    subject = arbiter()
    a, b = element("hash", "a"), element("hash", "b")
    meet(subject, "HSET k a 1", "HSET k a 2", (5, 1), a)
    meet(subject, "HSET k b 1", "HSET k b 2", (1, 5), b)
    for arbitration in subject.begin_rounds():
        subject.fence_came_back(arbitration.number)
    whole = meet(subject, "APPEND k x", "APPEND k y", (1, 6))
    meet(subject, "SET k x", "SET k y", (9, 8), starts=(3, 4))
    assert units(*subject) == {K}
    subject.take_told()
    settle(subject, whole)
    assert sorted(t.element or () for t in subject.take_told()) == [(), ("hash", b"a"), ("hash", b"b")]
