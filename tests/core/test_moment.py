"""When a write was made: brackets, and the marks of a stream, which may be joined but always hold the truth."""

import bisect
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core import moment as module
from bisync.core.moment import BEFORE_ALL, Moment, Moments

# Writes of a stream: how long after the one before, how many bytes, and how much too early and too late its mark is.
WRITES = st.lists(
    st.tuples(st.integers(0, 50), st.integers(1, 30), st.integers(0, 200), st.integers(0, 200)),
    min_size=1,
    max_size=60,
)


def marked(writes: list[tuple[int, int, int, int]]) -> tuple[Moments, list[tuple[int, int, int]]]:
    """The marks, and of each write its start, its end and its time."""
    moments, truth, us, end = Moments(), [], 1_000, 500
    for pause, size, early, late in writes:
        us += pause
        truth.append((end, end + size, us))
        end += size
        moments.add(end, Moment(us - early, us + late))
    return moments, truth


@pytest.fixture(autouse=True)
def _few_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MARKS_MAX", 8)


def test_disjoint_brackets_have_an_order_and_others_have_none() -> None:
    assert Moment(1, 2).is_before(Moment(3, 4)) and not Moment(3, 4).is_before(Moment(1, 2))
    assert Moment(1, 3).overlaps(Moment(3, 4)) and Moment(3, 4).overlaps(Moment(1, 3))
    assert not Moment(1, 2).overlaps(Moment(3, 4)) and not Moment(3, 4).overlaps(Moment(1, 2))
    assert BEFORE_ALL.is_before(Moment(0, 0))


@given(WRITES)
def test_every_write_is_within_its_mark_however_many_were_joined(writes: list[tuple[int, int, int, int]]) -> None:
    moments, truth = marked(writes)
    assert len(moments) <= module.MARKS_MAX
    for start, _, us in truth:
        found = moments.at(start)
        assert found is not None and found.earliest_us <= us <= found.latest_us, (start, us, found)


@given(WRITES)
def test_brackets_grow_along_the_stream(writes: list[tuple[int, int, int, int]]) -> None:
    moments, truth = marked(writes)
    found = [moment for _, moment in moments.between(0, truth[-1][1])]
    assert all(m.earliest_us <= m.latest_us for m in found)
    for a, b in itertools.pairwise(found):
        assert a.earliest_us <= b.earliest_us and a.latest_us <= b.latest_us


@given(WRITES, st.lists(st.integers(0, 2_500), max_size=6))
def test_marks_handed_on_piece_by_piece_tell_the_same(writes: list[tuple[int, int, int, int]], cuts: list[int]) -> None:
    moments, truth = marked(writes)
    copy, at, end = Moments(), 0, truth[-1][1]
    for cut in [*sorted(c for c in cuts if c < end), end]:
        for upto, moment in moments.between(at, cut):
            copy.add(upto, moment)
        at = cut
    for start, _, _ in truth:
        assert copy.at(start) == moments.at(start)


@given(WRITES, st.data())
def test_what_is_forgotten_is_unknown_and_the_rest_is_as_before(
    writes: list[tuple[int, int, int, int]], data: st.DataObject
) -> None:
    moments, truth = marked(writes)
    before = data.draw(st.integers(0, truth[-1][1] + 5))
    kept = {start: moments.at(start) for start, _, _ in truth if start >= before}
    moments.forget(before)
    assert {start: moments.at(start) for start in kept} == kept
    assert bisect.bisect_right(moments._ends, before) == 0
    assert (moments.last is not None) and moments.last.earliest_us <= truth[-1][2] <= moments.last.latest_us


def test_what_was_not_read_yet_is_not_known() -> None:
    moments = Moments()
    assert moments.at(0) is None and moments.last is None and moments.between(0, 100) == []
    moments.add(100, Moment(1, 2))
    assert moments.at(99) == Moment(1, 2) and moments.at(100) is None


def test_the_first_reading_of_a_byte_counts() -> None:
    moments = Moments()
    moments.add(100, Moment(1, 2))
    moments.add(100, Moment(1, 90))
    moments.add(60, Moment(1, 90))
    assert moments.at(0) == Moment(1, 2) and len(moments) == 1


def test_a_big_write_was_made_when_its_first_byte_came() -> None:
    moments = Moments()
    moments.add(100, Moment(10, 20))
    moments.add(200, Moment(30, 40))  # the rest of a write that began at 90
    assert moments.at(90) == Moment(10, 20)


def test_a_stream_is_written_in_order_so_neighbours_tighten_each_other() -> None:
    moments = Moments()
    moments.add(10, Moment(100, 900))
    moments.add(20, Moment(0, 300))  # it was read late and dated by what is known of it: not before its forerunner
    assert moments.at(0) == Moment(100, 300) and moments.at(10) == Moment(100, 300)


def test_joining_leaves_the_newer_half_exact() -> None:
    moments = Moments()
    for n in range(1, 10):
        moments.add(10 * n, Moment(n, n))
    assert [moments.at(10 * n - 1) for n in range(5, 10)] == [Moment(n, n) for n in range(5, 10)]
    assert moments.at(0) == Moment(1, 2) and moments.at(39) == Moment(3, 4)


def test_cleared_marks_leave_nothing_behind() -> None:
    moments = Moments()
    moments.add(100, Moment(5, 6))
    moments.clear()
    moments.add(10, Moment(1, 2))
    assert moments.at(0) == Moment(1, 2)
