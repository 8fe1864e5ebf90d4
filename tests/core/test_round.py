"""Probes, fences, restores and notes on their way."""

import hiredis
import pytest

from bisync.core.arbitration import Arbiter
from bisync.core.channel import Channel
from bisync.core.commands.places import FUNCTIONS
from bisync.core.floor import Floors
from bisync.core.link import Item, Link
from bisync.core.operation import Understanding
from bisync.core.patterns import Scope
from bisync.core.restore import digest, note, note_name
from bisync.core.round import Notes, Rounds
from bisync.core.rules import Rules
from bisync.core.unit import Arbitration, Unit
from bisync.testing.pair import SimulatedPair

RULES = Rules("job", "east", "west", scope=Scope(databases={0: 0, 1: 3}))
K = Unit(1, b"k")
FIELD = Unit(1, b"k", ("hash", b"f"))
PAYLOAD = b"a value and its end"
OTHERS = b"another, and its end"
WRONG_TYPE = hiredis.ReplyError("WRONGTYPE Operation against a key holding the wrong kind of value")
WRONG_VERSION = hiredis.ReplyError("ERR DUMP payload version or checksum are wrong")


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
        self.rounds = Rounds(RULES, 7, self.arbiter, self.channels, notes or {})

    def towards(self, site: str) -> list[Item]:
        """What is queued towards a site, taken from there."""
        return self.channels[RULES.other(site)].link.take()

    def begin(self, unit: Unit = K, authority: str = "west", probes: tuple[bytes, int] = (b"string", 50)) -> Item:
        """Arbitrate a unit; its fence. Both sites answer the probe alike."""
        self.arbitrate(unit, authority)
        return self.fence(authority, probes)

    def fence(self, authority: str = "west", probes: tuple[bytes, int] = (b"string", 50)) -> Item:
        """The fence of the round that is due."""
        self.rounds.begin()
        asked = [(site, item) for site in RULES.sites for item in self.towards(site)]
        for site, item in asked:
            if item.kind == "probe":
                self.rounds.probe_answered(site, item.probes, list(probes))
        fences = [item for _, item in asked if item.kind == "fence"] or self.towards(authority)
        (fence,) = fences
        return fence

    def restore(self, fence: Item, *replies: object, authority: str = "west") -> Item:
        """The fence is answered and comes back; its restore."""
        self.rounds.fence_answered(fence.number, list(replies))
        self.rounds.came_back(authority, fence.number)
        (restore,) = self.towards(RULES.other(authority))
        return restore

    def arbitrate(self, unit: Unit, authority: str) -> Arbitration:
        self.arbiter.arbitrate(unit, None, {}, authority)
        return next(a for a in self.arbiter if a.unit == unit)

    @property
    def stuck(self) -> list[str]:
        return [a.stuck for a in self.arbiter]


def commands(item: Item) -> list[tuple[int, bytes]]:
    """Databases and names of an item's commands."""
    found = []
    for database, command in item.parts:
        reader = hiredis.Reader()
        reader.feed(command)
        found.append((database, reader.gets()[0]))
    return found


def names(item: Item) -> list[bytes]:
    return [name for _, name in commands(item)]


def test_a_whole_key_is_probed_at_both_sites_before_its_fence() -> None:
    world = World()
    world.arbitrate(K, "west")
    world.rounds.begin()
    (east,), (west,) = world.towards("east"), world.towards("west")
    assert commands(east) == [(1, b"TYPE"), (1, b"MEMORY")]
    assert commands(west) == [(3, b"TYPE"), (3, b"MEMORY")], "each site has its own numbers of databases"
    assert (west.kind, west.number) == ("probe", 0), "a probe is no round's mark in the tag"
    world.rounds.probe_answered("east", east.probes, [b"none", None])
    assert world.towards("west") == []
    world.rounds.probe_answered("west", west.probes, [b"string", 50])
    (fence,) = world.towards("west")
    assert commands(fence) == [(3, b"DUMP"), (3, b"PEXPIRETIME")]
    assert world.towards("east") == []


def test_elements_and_functions_need_no_probe() -> None:
    assert commands(World().begin(FIELD)) == [(3, b"HGET"), (3, b"HPEXPIRETIME")]
    assert commands(World().begin(Unit(*FUNCTIONS), "east")) == [(0, b"FUNCTION")]


def test_the_restore_goes_to_the_other_site_with_its_note_and_the_note_goes_in_the_end() -> None:
    world = World()
    fence = world.begin()
    assert world.rounds.waits_for_copy([fence.number])
    world.rounds.fence_answered(fence.number, [PAYLOAD, -1])
    assert not world.rounds.waits_for_copy([fence.number])
    assert world.towards("east") == [], "not before the echo says where the copy stands"
    world.rounds.came_back("west", fence.number)
    (restore,) = world.towards("east")
    assert commands(restore) == [(0, b"HSET"), (1, b"DUMP"), (1, b"PEXPIRETIME"), (1, b"RESTORE")]
    assert world.rounds.notes["east"] == {K: ((7, fence.number), "west")}
    world.rounds.restore_answered(restore.number, [1, OTHERS, 77, b"OK"])
    (found,) = world.arbiter
    world.rounds.came_back("east", restore.number)
    (close,) = world.towards("east")
    assert commands(close) == [(0, b"HDEL")]
    assert world.rounds.notes == {"east": {}, "west": {}}
    assert not len(world.arbiter)
    assert found.kept == digest(PAYLOAD)
    assert found.replaced is not None
    assert (found.replaced.site, found.replaced.value, found.replaced.expires_at_ms) == ("east", OTHERS, 77)


def test_what_a_later_round_replaces_takes_the_place_of_what_an_earlier_one_did() -> None:
    world = World()
    found = world.arbitrate(K, "west")
    for there, kept in ((OTHERS, OTHERS), (PAYLOAD, OTHERS), (b"a third one, its end", b"a third one, its end")):
        restore = world.restore(world.fence(), PAYLOAD, -1)
        world.rounds.restore_answered(restore.number, [1, there, -1, b"OK"])
        assert found.replaced is not None and found.replaced.value == kept
        found.dirty = True
        world.rounds.came_back("east", restore.number)


def test_closing_a_whole_key_takes_the_notes_of_its_elements_away_at_both_sites() -> None:
    world = World({"east": {FIELD: ((1, 1), "west")}, "west": {K: ((1, 2), "east")}})
    restore = world.restore(world.begin(), None, -2)
    assert commands(restore)[-1] == (1, b"unlink")
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


# -- the way that is chosen
@pytest.mark.parametrize(
    ("found", "reads"),
    [
        ((b"none", 0), b"DUMP"),
        ((b"hash", 50), b"DUMP"),
        ((b"hash", 1 << 40), b"HGETALL"),
        ((b"string", 1 << 27), b"GETRANGE"),
        ((b"stream", 50), b"XINFO"),
        ((b"stream", 1 << 40), b"XINFO"),
        ((b"a module's", 1 << 40), b"DUMP"),
    ],
)
def test_type_and_size_decide_how_a_key_is_read(found: tuple[bytes, int], reads: bytes) -> None:
    world = World()
    fence = world.begin(probes=found)
    assert reads in names(fence)
    assert (b"DUMP" in names(fence)) == (reads == b"DUMP")


def test_of_a_big_key_at_the_other_site_only_the_size_is_read() -> None:
    world = World()
    world.arbitrate(K, "west")
    world.rounds.begin()
    for site, size in (("east", 1 << 40), ("west", 50)):
        (probe,) = world.towards(site)
        world.rounds.probe_answered(site, probe.probes, [b"string", size])
    (fence,) = world.towards("west")
    assert names(fence)[0] == b"DUMP"
    assert names(world.restore(fence, PAYLOAD, -1)) == [b"HSET", b"MEMORY", b"PEXPIRETIME", b"RESTORE"]


def test_the_fence_goes_to_the_authority_of_the_moment_and_makes_the_round_clean() -> None:
    world = World()
    found = world.arbitrate(K, "west")
    world.rounds.begin()
    found.authority, found.dirty = "east", True  # a new winner, while the probes are on their way
    for site in RULES.sites:
        (probe,) = world.towards(site)
        world.rounds.probe_answered(site, probe.probes, [b"string", 50])
    assert world.towards("west") == []
    (fence,) = world.towards("east")
    assert (found.fenced_at, found.dirty) == ("east", False)
    restore = world.restore(fence, PAYLOAD, -1, authority="east")
    assert commands(restore)[-1] == (3, b"RESTORE")


def test_probes_of_a_round_that_counts_no_more_are_ignored() -> None:
    world = World()
    world.arbitrate(FIELD, "west")
    world.rounds.begin()
    world.towards("west")
    world.arbitrate(K, "east")  # takes the field in
    fence = world.fence()
    assert names(fence)[0] == b"DUMP"
    world.rounds.probe_answered("west", 1, [b"string", 50])
    world.rounds.fence_answered(1, [b"value"])
    world.rounds.came_back("west", 1)
    assert world.towards("east") == world.towards("west") == []


# -- streams
INFO = [b"last-generated-id", b"5-0", b"entries", [], b"groups", []]


@pytest.mark.parametrize(("extra", "next_fence"), [(0, None), (1, "east")])
def test_a_stream_with_something_that_the_authority_lacks_goes_the_other_way(
    extra: int, next_fence: str | None
) -> None:
    world = World()
    restore = world.restore(world.begin(probes=(b"stream", 50)), INFO, -1)
    assert names(restore) == [b"HSET", b"DUMP", b"PEXPIRETIME", b"EVAL", b"DUMP", b"PEXPIRETIME"]
    world.rounds.restore_answered(restore.number, [1, OTHERS, -1, [extra, 0], PAYLOAD, -1])
    world.rounds.came_back("east", restore.number)
    assert len(world.arbiter) == extra
    if next_fence:
        assert names(world.fence(next_fence, (b"stream", 50)))[0] == b"XINFO"


# -- what does not succeed
def test_an_element_that_cannot_be_read_is_settled_with_its_key() -> None:
    world = World()
    fence = world.begin(FIELD)
    world.rounds.fence_answered(fence.number, [WRONG_TYPE])
    again = world.fence()
    assert commands(again)[0] == (3, b"DUMP")
    world.rounds.came_back("west", fence.number)
    assert world.towards("east") == []


def test_an_element_that_cannot_be_restored_is_settled_with_its_key() -> None:
    world = World()
    restore = world.restore(world.begin(FIELD), b"1")
    world.rounds.restore_answered(restore.number, [1, WRONG_TYPE, WRONG_TYPE])
    assert commands(world.fence())[0] == (3, b"DUMP")
    world.rounds.came_back("east", restore.number)
    assert len(world.arbiter) == 1


@pytest.mark.parametrize("error", [WRONG_TYPE, hiredis.ReplyError("ERR no such key")])
def test_a_key_that_is_not_what_it_was_is_probed_anew(error: Exception) -> None:
    world = World()
    fence = world.begin(probes=(b"stream", 50))
    world.rounds.fence_answered(fence.number, [error, -1])
    assert names(world.fence(probes=(b"string", 50)))[0] == b"DUMP"
    world.rounds.came_back("west", fence.number)
    assert len(world.arbiter) == 1 and world.towards("east") == []


def test_a_payload_that_is_not_taken_is_made_anew_from_commands_and_that_is_remembered() -> None:
    world = World()
    restore = world.restore(world.begin(), PAYLOAD, -1)
    world.rounds.restore_answered(restore.number, [1, OTHERS, -1, WRONG_VERSION])
    fence = world.fence()
    assert b"GETRANGE" in names(fence)
    world.rounds.came_back("east", restore.number)
    assert len(world.arbiter) == 1, "the echo of what was not done settles nothing"
    assert b"SET" in names(world.restore(fence, b"string", -1, 1, b"v", b"", b""))
    assert b"LRANGE" in names(world.begin(Unit(0, b"other"), probes=(b"list", 50)))
    assert names(world.begin(Unit(0, b"back"), "east", probes=(b"list", 50)))[0] == b"DUMP", "that way it works"


def test_a_module_that_the_other_site_does_not_know_is_put_off() -> None:
    world = World()
    for _ in range(2):
        restore = world.restore(
            world.fence(probes=(b"module", 9)) if len(world.arbiter) else world.begin(probes=(b"module", 9)),
            PAYLOAD,
            -1,
        )
        world.rounds.restore_answered(restore.number, [1, OTHERS, -1, hiredis.ReplyError("ERR Bad data format")])
    assert world.stuck == ["east: ERR Bad data format"]
    assert world.rounds.notes["east"] == {K: ((7, restore.number), "west")}, "the note stands beside the data"


@pytest.mark.parametrize("answered", ["fence", "restore"])
def test_another_failure_puts_the_unit_off_and_the_job_goes_on(answered: str) -> None:
    world = World()
    item = fence = world.begin()
    error = hiredis.ReplyError("ERR something else")
    if answered == "fence":
        world.rounds.fence_answered(fence.number, [error, -1])
        world.rounds.came_back("west", fence.number)
    else:
        item = world.restore(fence, PAYLOAD, -1)
        world.rounds.restore_answered(item.number, [1, OTHERS, -1, error])
        world.rounds.came_back("east", item.number)
    assert world.stuck == [f"{'west' if answered == 'fence' else 'east'}: ERR something else"]
    world.rounds.begin()
    assert world.towards("west") == world.towards("east") == [], "not before a pause"
    for now_ms in (0, 60_000):
        world.arbiter.wake(now_ms)
    assert world.fence().number > item.number


@pytest.mark.parametrize(
    ("kind", "text", "again"),
    [
        ("probe", "ERR unknown command 'MEMORY'", True),
        ("fence", "ERR unknown command `PEXPIRETIME`, with args", True),
        ("restore", "ERR unknown command 'PEXPIRETIME'", True),
        ("probe", "NOPERM this user has no permissions to run the 'type' command", False),
        ("fence", "NOPERM this user has no permissions to run the 'dump' command", False),
        ("restore", "NOPERM this user has no permissions to run the 'restore' command", False),
    ],
)
def test_what_a_site_refuses_is_done_in_another_way_or_put_off(kind: str, text: str, again: bool) -> None:
    world = World()
    if kind == "probe":
        world.arbitrate(K, "west")
        world.rounds.begin()
        (item,), site = world.towards("west"), "west"
        world.towards("east")
    elif kind == "fence":
        item, site = world.begin(), "west"
    else:
        item, site = world.restore(world.begin(), PAYLOAD, -1), "east"
    world.rounds.refused(item, site, text)
    assert world.rounds.notes == {"east": {}, "west": {}}, "a refused note was not written"
    if again:
        assert world.stuck == [""] and names(world.fence())[0] == b"DUMP"
    else:
        assert world.stuck == [f"{site}: {text}"]
    assert not world.rounds.waits_for_copy([item.number])


def test_two_rounds_that_a_site_refuses_for_one_reason_are_both_done_in_another_way() -> None:
    world = World()
    other = Unit(0, b"other")
    fences = [world.begin(unit) for unit in (K, other)]
    for fence in fences:
        world.rounds.refused(fence, "west", "ERR unknown command 'PEXPIRETIME'")
    assert world.stuck == ["", ""]
    world.rounds.begin()
    assert [item.kind for item in world.towards("west")] == ["probe", "probe"]


def test_a_refused_restore_leaves_the_note_of_an_earlier_round() -> None:
    earlier = (3, 9), "west"
    world = World({"east": {K: earlier}})
    restore = world.restore(world.begin(), PAYLOAD, -1)
    assert world.rounds.notes["east"] != {K: earlier}
    world.rounds.refused(restore, "east", "NOPERM")
    assert world.rounds.notes["east"] == {K: earlier}


def test_a_note_whose_key_a_client_has_in_hand_puts_the_unit_off_and_the_reason_names_that_key() -> None:
    world = World()
    restore = world.restore(world.begin(), PAYLOAD, -1)
    (found,) = world.arbiter
    world.rounds.restore_answered(restore.number, [WRONG_TYPE, OTHERS, 77, b"OK"])
    assert found.phase == "new" and "east: the key bisync:job:open," in found.stuck
    assert "(WRONGTYPE" in found.stuck and "DEL bisync:job:open" in found.stuck
    assert found.replaced is not None and found.replaced.value == OTHERS, "the restore itself was done"
    world.rounds.came_back("east", restore.number)
    assert len(world.arbiter) == 1, "without the note it is not done"
    world.arbiter.wake(0)
    world.arbiter.wake(60_000)
    again = world.restore(world.fence(), PAYLOAD, -1)
    world.rounds.restore_answered(again.number, [1, PAYLOAD, -1, b"OK"])
    world.rounds.came_back("east", again.number)
    assert not len(world.arbiter) and found.replaced.value == OTHERS


@pytest.mark.parametrize("reply", [1, WRONG_TYPE])
def test_a_note_of_its_own_counts_only_where_it_was_taken(reply: object, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    fence = world.begin()
    world.rounds.fence_answered(fence.number, [PAYLOAD, -1])
    (found,) = world.arbiter
    found.authority = "east"  # it moved while the fence was under way
    world.rounds.came_back("west", fence.number)
    (sent,) = [item for item in world.towards("west") if item.kind == "note"]
    advanced = list[int]()
    monkeypatch.setattr(world.arbiter, "advance", lambda arbitration, mark: advanced.append(mark))
    world.rounds.note_landed(sent.mark, [reply])
    assert advanced == ([sent.mark] if reply == 1 else [])


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


def test_notes_that_a_client_wiped_are_taken_up_from_the_stream_but_for_those_that_were_done() -> None:
    world = World()
    done, open_one, changed = Unit(1, b"done"), Unit(1, b"open"), Unit(1, b"changed", ("hash", b"f"))
    for unit, number, authority in (
        (done, 1, "west"),
        (open_one, 2, "west"),
        (changed, 3, "west"),
        (changed, 4, "east"),
    ):
        world.rounds.note_read("east", (b"HSET", b"notes", note_name(unit), note(6, number, authority)))
    world.rounds.note_read("east", (b"HDEL", b"notes", note_name(done)))
    floors = Floors([])
    world.rounds.wiped("west", floors)
    assert len(world.arbiter) == 0, "nothing was wiped there"
    world.rounds.wiped("east", floors)
    assert {a.unit: a.authority for a in world.arbiter} == {open_one: "west", changed: "east"}


def test_notes_that_stand_are_not_taken_up_twice() -> None:
    world = World({"east": {K: ((6, 1), "east")}})
    world.rounds.note_read("east", (b"HSET", b"notes", note_name(K), note(6, 0, "west")))
    world.rounds.wiped("east", Floors([]))
    assert [a.authority for a in world.arbiter] == []


def test_no_round_begins_before_both_streams_are_read() -> None:
    """What the target's clients wrote while a copy broke off is settled anew. That must wait for the next snapshot.

    The echo of a fence that is older than the snapshot would never be seen.
    """
    pair = SimulatedPair(Rules("job", "east", "west", heartbeat_ms=0, target_not_empty="overwrite"))
    for n in range(20):
        pair.write("east", (b"SET", b"k%02d" % n, b"v"))
    pair.start()
    while not pair.dataset("west"):
        for x in pair.rules.sites:
            pair.read(x, 1)
            pair.deliver(x)
            pair.answer(x)
    pair.write("west", (b"RPUSH", b"w", b"1"))
    pair.start()
    for _ in range(20):  # all but the next snapshot
        pair.read("west", 1_000)
        for x in pair.rules.sites:
            pair.deliver(x)
            pair.answer(x)
    assert pair.pair is not None and not pair.pair.copying.finished and len(pair.pair.arbiter) == 1
    pair.drain()
    assert pair.equal, pair.differences()
    assert not len(pair.pair.arbiter)
