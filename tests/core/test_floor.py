"""Floors: they stand at tagged transactions, and only move forward."""

from hypothesis import given
from hypothesis import strategies as st

from bisync.core.floor import Floors, Lows
from bisync.core.position import Position
from bisync.core.tag import Tag


def at(offset: int, database: int = 0) -> Position:
    return Position("r", offset, database)


def tag(**floors: int) -> Tag:
    return Tag("job", 1, "e", floors={site: at(offset) for site, offset in floors.items()})


def test_of_several_tags_the_newest_floor_of_each_site_counts() -> None:
    floors = Floors([tag(east=10, west=70), tag(east=30, west=20)])
    assert floors.now() == {"east": at(30), "west": at(70)}
    assert floors.told("west") == at(70)
    assert floors.offset("north") == 0
    assert floors.told("north") is None


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.lists(st.integers(0, 1000), max_size=10))
def test_a_floor_is_the_last_tagged_transaction_at_or_before_every_low_so_far(gaps: list[int], lows: list[int]) -> None:
    floors = Floors([])
    floors.begin("east", at(0))
    starts = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    for start in starts:
        floors.tagged("east", start, start % 3)
    highest = 0
    for low in lows:
        highest = max(highest, low)
        floors.advance("east", low)
        expected = max([s for s in starts if s <= highest], default=0)
        assert floors.now()["east"] == at(expected, expected % 3 if expected else 0)


def test_a_floor_never_moves_back() -> None:
    floors = Floors([])
    floors.begin("east", at(100, 2))
    floors.move("east", 90, 1)
    assert floors.now() == {"east": at(100, 2)}
    floors.move("east", 110, 1)
    assert floors.now() == {"east": at(110, 1)}


def test_only_a_committed_tag_says_what_will_never_be_read_again() -> None:
    floors = Floors([tag(east=10)])
    floors.begin("east", at(10))
    floors.move("east", 50, 0)
    assert floors.told("east") == at(10)
    floors.commit(floors.now())
    assert floors.told("east") == at(50)


def test_a_history_that_goes_on_under_another_name_keeps_its_offsets() -> None:
    floors = Floors([tag(east=10)])
    floors.rename("east", "s")
    floors.begin("west", at(1))
    assert floors.now()["east"] == Position("s", 10)


def test_what_now_gives_is_a_copy() -> None:
    floors = Floors([tag(east=10)])
    told = floors.now()
    floors.begin("east", at(99))
    assert told == {"east": at(10)}


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1000)), max_size=60), st.integers(1, 30))
def test_the_lowest_offset_is_that_of_the_owners_that_live(steps: list[tuple[int, int]], sweep_at: int) -> None:
    """Owners get lower offsets and go; asked at any time, the answer is that of looking at all."""
    alive: dict[int, int] = {}
    gone: set[int] = set()
    lows: Lows[int] = Lows(lambda owner, site, offset: owner in alive)
    lows._sweep_at = sweep_at
    for owner, offset in steps:
        if owner in alive and offset % 3 == 0:
            del alive[owner]
            gone.add(owner)
        if owner not in gone and offset <= alive.get(owner, offset):
            alive[owner] = offset
            lows.note(owner, {"east": offset})
        assert lows.lowest("east", 500) == min([500, *alive.values()])
    assert lows.lowest("west", 7) == 7


def test_offsets_of_owners_that_have_gone_do_not_pile_up_behind_an_old_one() -> None:
    alive = {0}
    lows: Lows[int] = Lows(lambda owner, site, offset: owner in alive)
    lows.note(0, {"east": 1})
    for owner in range(1, 10_000):
        alive.add(owner)
        lows.note(owner, {"east": 10 + owner})
        alive.discard(owner)
        assert lows.lowest("east", 1 << 40) == 1
    assert len(lows._heaps["east"]) <= 1001
