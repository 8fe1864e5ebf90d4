"""When two tellings are about one conflict, and what is known then."""

import attrs
import pytest

from bisync.core.actions import WRITES_KEPT, Replaced
from bisync.core.commands import FUNCTIONS
from bisync.runtime.conflict_record import ConflictRecord, Told, lies_before, overlap
from tests.told import T, lost, sha, told, write


def record(*tellings: Told) -> ConflictRecord:
    held = ConflictRecord.of(tellings[0])
    for one in tellings[1:]:
        held = held.updated(one)
    return held


WON = b"new"
LOST = lost(b"old")


def test_settling_keeps_what_was_found_and_adds_what_was_replaced() -> None:
    held = record(told(), told(state="settled", found_ms=T + 9, replaced=LOST, kept=sha(WON)))
    assert (held.state, held.found_ms, held.settled_ms) == ("settled", T, T + 50)
    assert (held.replaced, held.kept, held.outcome) == (LOST, sha(WON), "settled")


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((100, 100), (100, 100), True),
        ((100, 200), (150, 300), True),
        ((100, 200), (200, 300), True),
        ((100, 200), (201, 300), False),
        ((0, 0), (0, 0), False),  # copied keys have no place in the stream
        ((0, 500), (100, 400), False),
        ((0, 500), (500, 700), True),
    ],
)
def test_conflicts_are_one_where_their_writes_share_a_stretch_of_a_stream(
    a: tuple[int, int], b: tuple[int, int], expected: bool
) -> None:
    assert overlap({"east": a, "west": (1, 1)}, {"east": b, "west": (9, 9)}) is expected
    assert overlap({"east": b}, {"east": a}) is expected
    assert overlap({"east": a}, {"west": a}) is False


def test_a_conflict_lies_before_another_only_if_it_does_at_each_site() -> None:
    assert lies_before({"east": (1, 5), "west": (1, 5)}, {"east": (6, 6), "west": (6, 6)})
    assert not lies_before({"east": (1, 5), "west": (1, 6)}, {"east": (6, 6), "west": (6, 6)})
    assert not lies_before({"east": (1, 5)}, {"west": (6, 6)}), "nobody knows"


def test_found_again_it_grows_and_is_open_again_but_stays_the_same() -> None:
    again = told(7, epoch=2, east=150, counts={"east": 3}, found_ms=T + 99, writes=(write("east", 150),))
    held = record(told(state="settled", replaced=LOST, kept=sha(WON)), again)
    assert held.offsets == {"east": (100, 150), "west": (200, 200)}
    assert held.counts == {"east": 3, "west": 1}
    assert [(w.site, w.offset) for w in held.writes] == [("east", 100), ("east", 150), ("west", 200)]
    assert (held.epoch, held.number, held.state, held.settled_ms, held.found_ms) == (2, 7, "open", None, T)
    assert (held.replaced, held.kept) == (LOST, sha(WON)), "the value that lost is never lost"


def test_a_later_life_that_replaced_nothing_takes_nothing_away() -> None:
    later = told(7, "settled", epoch=2, winner="west", rule="order of the sites", certain=False, kept=sha(WON))
    held = record(told(state="settled", replaced=LOST, kept=sha(WON)), later)
    assert (held.replaced, held.winner, held.rule, held.certain) == (LOST, "east", "newest write", True)


def test_a_later_life_decides_where_no_value_is_known_to_have_lost() -> None:
    held = record(told(), told(7, "settled", epoch=2, winner="west", rule="order of the sites", certain=False))
    assert (held.winner, held.rule, held.certain, held.replaced) == ("west", "order of the sites", False, None)


def test_a_later_life_that_replaced_another_value_knows_better() -> None:
    newer = lost(b"newer")
    held = record(
        told(state="settled", replaced=LOST, kept=sha(WON)),
        told(7, "settled", epoch=2, winner="west", replaced=newer, kept=sha(b"x")),
    )
    assert (held.replaced, held.kept, held.winner) == (newer, sha(b"x"), "west")


@pytest.mark.parametrize("won", [WON, None])
def test_replacing_what_was_put_there_before_is_no_loss(won: bytes | None) -> None:
    held = record(
        told(state="settled", replaced=LOST, kept=sha(won)),
        told(7, "settled", epoch=2, winner="west", replaced=lost(won), kept=sha(b"x")),
    )
    assert (held.replaced, held.kept, held.winner) == (LOST, sha(b"x"), "east")


def test_a_value_too_big_to_be_read_is_not_taken_for_the_one_put_there() -> None:
    big = Replaced("west", "dump", None, None, 1 << 30, "")
    held = record(
        told(state="settled", replaced=LOST, kept=""), told(7, "settled", epoch=2, replaced=big, kept=sha(b"x"))
    )
    assert held.replaced == big


def test_replacing_at_the_other_site_is_another_loss() -> None:
    there = lost(WON, site="east")
    held = record(
        told(state="settled", replaced=LOST, kept=sha(WON)),
        told(7, "settled", epoch=2, replaced=there, kept=sha(b"x")),
    )
    assert held.replaced == there


def test_an_overtaken_engine_that_tells_late_does_not_open_it_again() -> None:
    settled = told(7, "settled", epoch=2, winner="west", counts={"east": 5, "west": 1})
    held = record(settled, told(counts={"east": 9, "west": 1}))
    assert (held.state, held.epoch, held.number, held.winner) == ("settled", 2, 7, "west")
    assert held.counts == {"east": 9, "west": 1}
    late = record(settled, told(state="settled", replaced=LOST, kept=sha(WON)))
    assert (late.replaced, late.winner) == (LOST, "east")


def test_of_many_writes_the_first_and_the_last_few_of_each_site_stay() -> None:
    held = record(told(writes=tuple(write("east", n) for n in range(1, 7))))
    held = held.updated(told(7, epoch=2, writes=tuple(write("east", n, at_us=n) for n in range(5, 13))))
    kept = sorted(w.offset for w in held.writes)
    assert kept == [1, 2, 3, 10, 11, 12] and len(kept) == 2 * WRITES_KEPT
    first = next(w for w in held.writes if w.offset == 1)
    assert first.latest_us == T * 1000


def test_the_first_reading_knew_the_times_better() -> None:
    held = record(told(writes=(write("east", 1, at_us=500),)), told(7, epoch=2, writes=(write("east", 1, at_us=900),)))
    assert [w.latest_us for w in held.writes] == [500]


def test_the_outcome_is_undone_only_while_it_is_settled() -> None:
    held = attrs.evolve(record(told(state="settled")), undone_ms=T)
    assert held.outcome == "undone"
    assert held.updated(told(7, epoch=2)).outcome == "open"


def test_functions_are_known_by_their_place() -> None:
    assert record(told(database=FUNCTIONS[0], key=FUNCTIONS[1])).about_functions
    assert not record(told(key=FUNCTIONS[1])).about_functions
