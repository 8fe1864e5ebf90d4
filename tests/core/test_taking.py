"""Taking a job: epochs, and what may be believed."""

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.position import Position, stream_clock
from bisync.core.restore import note, note_name
from bisync.core.rules import Rules
from bisync.core.tag import Tag
from bisync.core.taking import Memory, Taking, read_notes
from bisync.core.unit import Unit
from bisync.errors import BisyncError, HistoryGap, Superseded

RULES = Rules("job", "east", "west")
UNIT = Unit(0, b"k")


def tag(epoch: int, applied: int = 0, engine: str = "e1", *rounds: int) -> Tag:
    return Tag("job", epoch, engine, stream_clock(0, applied), rounds=rounds)


def taking(forward: Tag | None, reverse: Tag | None, memory: Memory = Memory(), engine: str = "e2") -> Taking:
    return Taking(RULES, engine, memory, {"forward": forward, "reverse": reverse})


@given(
    st.none() | st.integers(1, 99), st.none() | st.integers(1, 99), st.integers(0, 99), st.none() | st.integers(1, 99)
)
def test_the_new_epoch_is_higher_than_all_that_is_known(
    forward: int | None, reverse: int | None, mine: int, stored: int | None
) -> None:
    held = [tag(n) if n else None for n in (forward, reverse)]
    memory = Memory(mine, "e2", {"forward": tag(stored)} if stored else {})
    assert taking(held[0], held[1], memory).epoch > max(forward or 0, reverse or 0, mine)


def test_the_first_engine_believes_nothing_and_has_epoch_1() -> None:
    subject = taking(None, None)
    assert subject.epoch == 1
    assert subject.tag("forward") == Tag("job", 1, "e2")
    believed = subject.believed({"east": {}, "west": {}})
    assert believed.tags == {}
    assert set(believed.written) == {"forward", "reverse"}


def test_what_was_applied_stays_and_the_rounds_of_another_life_do_not() -> None:
    subject = taking(tag(4, 100, "e1", 7, 8), tag(3, 50))
    assert subject.tag("forward") == tag(5, 100, "e2")
    assert subject.tag("reverse") == tag(5, 50, "e2")
    assert Tag.decode(subject.believed({}).written["forward"]) == tag(5, 100, "e2")


def test_the_tag_at_the_site_is_right_where_the_store_says_otherwise() -> None:
    assert taking(tag(4, 100), None, Memory(tags={"forward": tag(9, 900)})).tag("forward").applied[2] == 100


def test_the_store_helps_where_a_tag_is_lost() -> None:
    assert taking(None, tag(3), Memory(tags={"forward": tag(4, 100)})).tag("forward") == tag(5, 100, "e2")


def test_what_an_engine_remembers_of_its_own_is_newer_than_a_tag_that_was_put_back() -> None:
    memory = Memory(4, "e2", {"forward": tag(4, 100, "e2")})
    assert taking(tag(4, 60, "e2"), None, memory).tag("forward").applied[2] == 100
    assert taking(tag(4, 160, "e2"), None, memory).tag("forward").applied[2] == 160, "a reply was lost: it is newer"


def test_an_engine_does_not_take_back_a_job_that_another_one_has_taken() -> None:
    with pytest.raises(Superseded, match="e9"):
        taking(tag(5, 0, "e9"), tag(4, 0, "e2"), Memory(4, "e2")).check_owner()


@pytest.mark.parametrize("held", [tag(4, 0, "e2"), tag(3, 0, "e1"), None])
def test_an_engine_goes_on_with_a_job_that_is_still_its_own(held: Tag | None) -> None:
    taking(held, held, Memory(4, "e2")).check_owner()


def test_a_new_engine_may_take_the_job_from_any_other() -> None:
    taking(tag(5, 0, "e9"), tag(5, 0, "e9")).check_owner()


def test_notes_that_went_with_a_tag_are_remembered_and_others_are_read() -> None:
    remembered = {UNIT: ((1, 1), "east")}
    memory = Memory(4, "e2", {}, {"east": remembered, "west": remembered})
    subject = taking(None, tag(4, 0, "e2"), memory)  # west has lost its tag, which is that of the forward channel
    assert subject.believed({"east": {}, "west": {}}).notes == {"east": {}, "west": remembered}


def test_notes_are_read_from_the_reply_to_hgetall() -> None:
    reply = [note_name(UNIT), note(3, 2, "west")]
    assert read_notes(reply) == {UNIT: ((3, 2), "west")}
    assert read_notes([]) == {}
    with pytest.raises(BisyncError):
        read_notes([b"x", b"y"])


@pytest.mark.parametrize(
    ("forward", "reverse", "lost"),
    [(tag(3), tag(3), False), (None, tag(3), True), (tag(3), None, True), (None, None, False)],
)
def test_a_tag_that_is_gone_while_the_job_is_under_way_is_known_to_be_lost(
    forward: Tag | None, reverse: Tag | None, lost: bool
) -> None:
    """Then the streams must be read to their ends before anything is sent: they tell what it said."""
    assert taking(forward, reverse).believed({}).lost is lost


def test_what_the_tags_say_of_the_full_copy_goes_on_from_life_to_life() -> None:
    copied = attrs.evolve(tag(4, 100), copied=3)
    subject = taking(copied, None)
    assert subject.tag("forward").copied == 3
    assert subject.believed({}).tags == {"forward": attrs.evolve(copied, epoch=5, engine="e2")}


ONE_WAY = Rules("job", "east", "west", bidirectional=False)
HISTORY, OTHER = "a" * 40, "b" * 40


def one_way(held: Tag | None, remembered: Tag, history: str) -> Taking:
    """Of an engine that remembers a tag which west accepted in HISTORY, or of which it could not know the history."""
    return Taking(ONE_WAY, "e2", Memory(4, "e2", {"forward": remembered}), {"forward": held}, {"forward": history})


def placed(applied: int, history: str = HISTORY) -> Tag:
    return attrs.evolve(tag(4, applied, "e2"), floors={"west": Position(history, 0)} if history else {})


@pytest.mark.parametrize(
    ("remembered", "history", "applied"),
    [
        (placed(100), HISTORY, 100),  # only the tag was put back
        (placed(100), OTHER, 60),
        (placed(100), "", 60),  # nobody knows: then nothing may be left out
        (placed(100, ""), HISTORY, 60),
        (placed(100, ""), "", 60),
    ],
)
def test_an_older_tag_is_believed_where_a_site_that_is_not_read_may_have_lost_data(
    remembered: Tag, history: str, applied: int
) -> None:
    subject = one_way(placed(60), remembered, history)
    subject.check_data()
    assert subject.tag("forward").applied[2] == applied


@pytest.mark.parametrize(
    ("history", "said"), [(OTHER, "a new replication history"), ("", "the account may not use INFO"), (HISTORY, "")]
)
def test_a_tag_that_is_gone_from_a_site_that_is_not_read_may_be_gone_with_the_data(history: str, said: str) -> None:
    subject = one_way(None, placed(100), history)
    if said:
        with pytest.raises(HistoryGap, match=f"west: .*{said}"):
            subject.check_data()
    else:
        subject.check_data()
        assert subject.tag("forward").applied[2] == 100


class TestBeginningAnew:
    """After a gap: what was known says nothing any more, at both sites at once."""

    def test_all_is_forgotten_but_the_epoch(self) -> None:
        subject = taking(tag(4, 100), tag(3, 50), Memory(4, "e2", {"forward": tag(4, 100)}, anew="west"))
        assert subject.tag("forward") == Tag("job", 5, "e2", begun=5, reconciling="west")
        assert subject.forgets_notes("forward") and subject.forgets_notes("reverse")
        unit = {UNIT: ((4, 1), "east")}
        believed = subject.believed({"east": unit, "west": unit})
        assert believed.notes == {} and believed.tags["reverse"] == subject.tag("reverse")

    def test_a_tag_of_before_is_not_believed_beside_one_of_after(self) -> None:
        after = attrs.evolve(tag(5), begun=5, reconciling="west", applied=(0, 0, 0))
        subject = taking(tag(4, 100), after, Memory(tags={"forward": tag(4, 100)}))
        assert (subject.epoch, subject.begun) == (6, 5)
        assert subject.tag("forward") == Tag("job", 6, "e2", begun=5, reconciling="west")
        assert subject.forgets_notes("forward") and not subject.forgets_notes("reverse")

    def test_once_begun_it_goes_on(self) -> None:
        held = [attrs.evolve(tag(n, 70), begun=5) for n in (8, 7)]
        subject = taking(held[0], held[1])
        assert subject.tag("forward") == attrs.evolve(held[0], epoch=9, engine="e2")
        assert not subject.forgets_notes("forward") and subject.believed({}).tags.keys() == {"forward", "reverse"}

    def test_a_one_way_job_compares_nothing(self) -> None:
        rules = attrs.evolve(RULES, bidirectional=False)
        subject = Taking(rules, "e2", Memory(anew="east"), {"forward": tag(4, 100)})
        assert subject.tag("forward") == Tag("job", 5, "e2", begun=5)
