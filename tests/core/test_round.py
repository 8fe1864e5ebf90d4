"""Fences, restores and notes on their way."""

import hiredis
import pytest

from bisync.core.actions import Action, Conflict
from bisync.core.arbitration import Arbiter, Unit
from bisync.core.channel import Channel
from bisync.core.floor import Floors
from bisync.core.link import Item, Link
from bisync.core.operation import Understanding
from bisync.core.patterns import Scope
from bisync.core.restore import note, note_name
from bisync.core.round import Notes, Rounds
from bisync.core.rules import Rules
from bisync.errors import BisyncError

RULES = Rules("job", "east", "west", scope=Scope(databases={0: 0, 1: 3}))
K = Unit(1, b"k")
FIELD = Unit(1, b"k", ("hash", b"f"))


class World:
    """Rounds with the links that they use."""

    def __init__(self, notes: dict[str, Notes] | None = None) -> None:
        self.arbiter = Arbiter(RULES, {"east": 10, "west": 20})
        self.channels = {
            x: Channel(
                RULES.channel(x),
                x,
                RULES.other(x),
                Link(b"tag", batch_commands=9, batch_bytes=999),
                Understanding(RULES, x),
            )
            for x in RULES.sites
        }
        self.actions: list[Action] = []
        self.rounds = Rounds(RULES, 7, self.arbiter, self.channels, notes or {}, self.actions)

    def towards(self, site: str) -> list[Item]:
        """What is queued towards a site, taken from there."""
        return self.channels[RULES.other(site)].link.take()

    def begin(self, unit: Unit = K, authority: str = "west") -> Item:
        """Arbitrate a unit; its fence."""
        self.arbitrate(unit, authority)
        self.rounds.begin()
        (fence,) = self.towards(authority)
        return fence

    def arbitrate(self, unit: Unit, authority: str) -> None:
        self.arbiter.arbitrate(unit, None, {}, authority)


def commands(item: Item) -> list[tuple[int, bytes]]:
    """Databases and names of an item's commands."""
    found = []
    for database, command in item.parts:
        reader = hiredis.Reader()
        reader.feed(command)
        found.append((database, reader.gets()[0]))
    return found


def test_the_fence_goes_to_the_authority_in_its_own_numbering() -> None:
    assert commands(World().begin(K, "west")) == [(3, b"DUMP"), (3, b"PEXPIRETIME")]
    assert commands(World().begin(K, "east")) == [(1, b"DUMP"), (1, b"PEXPIRETIME")]


def test_the_restore_goes_to_the_other_site_with_its_note_and_the_note_goes_in_the_end() -> None:
    world = World()
    fence = world.begin()
    assert world.rounds.waits_for_copy([fence.number])
    world.rounds.fence_answered(fence.number, [b"dump", -1])
    assert not world.rounds.waits_for_copy([fence.number])
    assert world.towards("east") == [], "not before the echo says where the copy stands"
    world.rounds.came_back("west", fence.number)
    (restore,) = world.towards("east")
    assert commands(restore) == [(0, b"HSET"), (1, b"RESTORE")]
    assert world.rounds.notes["east"] == {K: ((7, fence.number), "west")}
    world.rounds.restore_answered(restore.number, [1, b"OK"])
    world.rounds.came_back("east", restore.number)
    (close,) = world.towards("east")
    assert commands(close) == [(0, b"HDEL")]
    assert world.rounds.notes == {"east": {}, "west": {}}
    assert world.actions == [Conflict(1, b"k", None, "east")]


def test_closing_a_whole_key_takes_the_notes_of_its_elements_away_at_both_sites() -> None:
    world = World({"east": {FIELD: ((1, 1), "west")}, "west": {K: ((1, 2), "east")}})
    fence = world.begin()
    world.rounds.fence_answered(fence.number, [None, -2])
    world.rounds.came_back("west", fence.number)
    (restore,) = world.towards("east")
    assert commands(restore)[-1] == (1, b"UNLINK")
    world.rounds.came_back("east", restore.number)
    assert [len(world.towards(site)) for site in RULES.sites] == [2, 1]
    assert world.rounds.notes == {"east": {}, "west": {}}


def test_a_starting_engine_takes_up_the_newest_note_of_each_unit() -> None:
    other = Unit(0, b"other")
    world = World(
        {
            "east": {K: ((3, 1), "west"), FIELD: ((3, 9), "east"), other: ((2, 8), "west")},
            "west": {K: ((2, 7), "east"), other: ((3, 1), "east")},
        }
    )
    world.rounds.take_up_notes(Floors([]))
    assert {a.unit: a.authority for a in world.arbiter} == {K: "west", other: "east"}


def test_an_element_that_cannot_be_read_is_settled_with_its_key() -> None:
    world = World()
    fence = world.begin(FIELD)
    world.rounds.fence_answered(fence.number, [hiredis.ReplyError("WRONGTYPE")])
    world.rounds.begin()
    (again,) = world.towards("west")
    assert commands(again)[0] == (3, b"DUMP")
    world.rounds.came_back("west", fence.number)
    assert world.towards("east") == []


def test_a_whole_key_that_cannot_be_restored_stops_the_job() -> None:
    world = World()
    fence = world.begin()
    world.rounds.fence_answered(fence.number, [b"dump", -1])
    world.rounds.came_back("west", fence.number)
    with pytest.raises(BisyncError, match="same version"):
        world.rounds.restore_answered(fence.number, [1, hiredis.ReplyError("ERR DUMP payload version or checksum")])


def test_every_open_unit_gets_a_note_when_the_copy_is_finished_and_all_are_written_again_after_a_flush() -> None:
    world = World()
    for unit in (K, Unit(0, b"other")):
        world.arbitrate(unit, "east")
    assert len(world.rounds.note_all_open("west")) == 2
    again = world.rounds.notes_again("west")
    assert [note_name(u) in command for u, (_, command) in zip((K, Unit(0, b"other")), again, strict=True)] == [
        True
    ] * 2
    assert note(7, 0, "east") in again[0][1]
    assert world.rounds.notes_again("east") == []
