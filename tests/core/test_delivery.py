"""What goes into the next transaction, and what its replies mean."""

import attrs
import hiredis
import pytest

from bisync.core.actions import Action, Checkpoint, Notice, Send
from bisync.core.copying import CopiedKey
from bisync.core.delivery import RETRY_MS_MAX, RETRY_MS_MIN
from bisync.core.link import Item
from bisync.core.pair import Pair
from bisync.core.position import Position, stream_clock
from bisync.core.resp import pack, select
from bisync.core.rules import Rules
from bisync.core.tag import Tag
from bisync.core.taking import Memory, Taking
from bisync.errors import BisyncError, SiteError, Superseded, TagLost

RULES = Rules("job", "east", "west", heartbeat_ms=0)
REPLID = "a" * 40


class World:
    """A core that follows both sites from offset 0 on; the target's replies are made here."""

    def __init__(self, rules: Rules = RULES) -> None:
        floors = {site: Position(REPLID, 0) for site in rules.sites}
        held = {rules.channel(x): Tag("job", 1, "e1", stream_clock(0, 0), floors, 1) for x in rules.origins}
        taking = Taking(rules, "e2", Memory(), held)
        self.pair = Pair(rules, taking.epoch, "e2", taking.believed({}))
        for x in rules.origins:
            self.pair.attach(x, floors[x])
        for x in rules.origins:  # the take is seen, so that the core may send
            self.read(rules.other(x), select(0) + self.set_tag(x, taking.tag(rules.channel(x))))
        self.actions()

    @staticmethod
    def set_tag(x: str, tag: Tag) -> bytes:
        channel = RULES.channel(x)
        return pack(b"SET", f"bisync:job:tag:{channel}".encode(), tag.encode())

    def read(self, x: str, data: bytes, now_ms: int = 0) -> None:
        if x in self.pair.channels:
            self.pair.receive(x, data, now_ms)

    def actions(self) -> list[Action]:
        return self.pair.take_actions()

    def write(self, n: int = 1) -> Send:
        """East's client writes; what is sent for it."""
        self.read("east", b"".join(pack(b"SET", b"k%d" % i, b"v") for i in range(n)))
        (sent,) = [a for a in self.actions() if isinstance(a, Send)]
        return sent

    def tag(self) -> bytes:
        flight = self.pair.channels["east"].link.in_flight
        assert flight is not None
        return flight.tag.encode()

    def answer(self, results: object, held: object, now_ms: int = 0, queued: int = 2) -> list[Action]:
        replies = [b"OK", *[b"QUEUED"] * queued, results, b"OK", b"OK", held]
        self.pair.answered("east", replies, now_ms)
        return self.actions()

    def refuse(self, text: str, now_ms: int = 0) -> list[Action]:
        exec_ = hiredis.ReplyError("EXECABORT Transaction discarded because of previous errors.")
        replies = [b"OK", b"QUEUED", hiredis.ReplyError(text), exec_, b"OK", b"OK", self.pair.channels["east"].tag]
        self.pair.answered("east", replies, now_ms)
        return self.actions()


def test_what_landed_is_a_checkpoint() -> None:
    world = World()
    sent = world.write()
    tag = world.tag()
    assert sent.origin == "east"
    assert tag in sent.payload
    assert world.answer([b"OK", b"OK"], tag) == [Checkpoint("forward", tag)]
    assert world.pair.channels["east"].link.idle


def test_an_idle_channel_sends_at_once_and_a_busy_one_gathers() -> None:
    world = World()
    world.write()
    for n in range(5):
        world.read("east", pack(b"SET", b"n%d" % n, b"v"))
    assert world.actions() == []
    later = [a for a in world.answer([b"OK", b"OK"], world.tag()) if isinstance(a, Send)]
    assert len(later) == 1
    assert later[0].payload.count(b"$1\r\nv\r\n") == 5


def test_a_higher_tag_means_that_another_engine_has_the_job() -> None:
    world = World()
    world.write()
    other = Tag("job", 99, "e9").encode()
    with pytest.raises(Superseded, match="e9"):
        world.answer(None, other)


@pytest.mark.parametrize("held", [None, Tag("job", 1, "e1").encode()])
def test_a_tag_that_is_gone_or_old_is_lost(held: bytes | None) -> None:
    world = World()
    world.write()
    with pytest.raises(TagLost):
        world.answer(None, held)


@pytest.mark.parametrize("held", [b"nonsense", Tag("another", 99, "e9").encode(), 7])
def test_a_tag_that_something_else_overwrote_stops_the_job(held: object) -> None:
    world = World()
    world.write()
    with pytest.raises(BisyncError) as caught:
        world.answer(None, held)
    assert not isinstance(caught.value, (TagLost, Superseded))
    assert "bisync:job:tag:forward" in caught.value.what


def test_a_tag_that_changed_right_after_the_transaction_is_noticed_before_the_next() -> None:
    world = World()
    world.write()
    with pytest.raises(TagLost):
        world.answer([b"OK", b"OK"], None)


def test_a_refusal_that_heals_is_tried_again_after_pauses_that_grow_to_a_bound() -> None:
    world, now_ms, pauses = World(), 0, []
    sent = world.write()
    for _ in range(9):
        said = world.refuse("OOM command not allowed", now_ms)
        assert [a.kind for a in said if isinstance(a, Notice)] == (["refused"] if not pauses else [])
        until = world.pair.channels["east"].link.paused_until_ms
        world.pair.tick(until - 1)
        assert world.actions() == []
        world.pair.tick(until)
        (again,) = world.actions()
        assert isinstance(again, Send)
        assert again.payload.endswith(sent.payload[-60:])
        pauses.append(until - now_ms)
        now_ms = until
    assert pauses[0] == RETRY_MS_MIN
    assert pauses == sorted(pauses)
    assert pauses[-1] == RETRY_MS_MAX
    done = world.answer([b"OK", b"OK"], world.tag(), now_ms)
    assert Notice("info", "accepted", "west takes writes again") in done
    assert world.pair.channels["east"].refused == ""


def test_another_reason_to_refuse_is_said_too() -> None:
    world = World()
    world.write()
    world.refuse("OOM no memory")
    world.pair.tick(RETRY_MS_MAX)
    world.actions()
    assert [a.text for a in world.refuse("MISCONF no disk") if isinstance(a, Notice)] != []


def test_what_is_refused_for_good_stops_the_job_unless_it_may_be_set_aside() -> None:
    world = World()
    world.write()
    with pytest.raises(BisyncError, match="NOPERM no") as caught:
        world.refuse("NOPERM no")
    assert "quarantine" in caught.value.hint
    assert "; refused: SET k0 v" in caught.value.what and "set aside" not in caught.value.what
    world = World(attrs.evolve(RULES, on_refused="quarantine"))
    world.write()
    said = world.refuse("NOPERM no")
    assert [(a.level, a.kind) for a in said if isinstance(a, Notice)] == [("error", "quarantined")]
    assert "set aside: SET k0 v" in next(a.text for a in said if isinstance(a, Notice))
    (again,) = [a for a in said if isinstance(a, Send)]
    assert b"k0" not in again.payload
    world.answer([b"OK"], world.tag(), queued=1)
    assert world.pair.channels["east"].link.idle


def test_a_refused_tag_cannot_be_set_aside() -> None:
    world = World(attrs.evolve(RULES, on_refused="quarantine"))
    world.write()
    held = world.pair.channels["east"].tag
    replies = [b"OK", hiredis.ReplyError("NOPERM key"), b"QUEUED", hiredis.ReplyError("EXECABORT"), b"OK", b"OK", held]
    with pytest.raises(BisyncError, match="NOPERM key"):
        world.pair.answered("east", replies, 0)


def test_a_heartbeat_goes_when_it_is_due_and_not_before() -> None:
    world = World(attrs.evolve(RULES, heartbeat_ms=1000))  # the first ones went at 0 ms
    world.answer([b"OK", b"OK"], world.tag())
    world.pair.tick(999)
    assert world.actions() == []
    world.pair.tick(1000)
    (sent,) = world.actions()
    assert isinstance(sent, Send)
    assert pack(b"SET", b"bisync:job:beat", b"1000") in sent.payload


def test_an_idle_channel_moves_its_checkpoint_seldom_and_only_where_there_is_something_to_tell() -> None:
    world = World()
    world.pair.tick(0)
    for _ in range(3):
        world.pair.tick(RULES.checkpoint_every_ms * 10)
    assert [a for a in world.actions() if isinstance(a, Send) and a.origin == "east"] == []
    world.read("east", pack(b"PING") * 2000, RULES.checkpoint_every_ms * 11)
    world.pair.tick(RULES.checkpoint_every_ms * 22)
    told = [a for a in world.actions() if isinstance(a, Send) and a.origin == "east"]
    assert len(told) == 1, "so many bytes were read that the checkpoint must follow"


def test_a_refusal_that_hides_another_engines_tag_is_no_reason_to_try_again() -> None:
    world = World()
    world.write()
    theirs = Tag("job", 99, "e9").encode()
    exec_ = hiredis.ReplyError("EXECABORT Transaction discarded because of previous errors.")
    oom = hiredis.ReplyError("OOM command not allowed when used memory > 'maxmemory'.")
    with pytest.raises(Superseded):
        world.pair.answered("east", [b"OK", b"QUEUED", oom, exec_, b"OK", b"OK", theirs], 0)


@pytest.mark.parametrize("refused", [0, 3, 9])
def test_of_many_commands_just_the_refused_one_is_set_aside(refused: int) -> None:
    world = World(attrs.evolve(RULES, on_refused="quarantine"))
    world.write()
    for n in range(10):
        world.read("east", pack(b"SET", b"n%d" % n, b"v"))
    world.answer([b"OK", b"OK"], world.tag())
    error = hiredis.ReplyError("NOPERM no")
    exec_ = hiredis.ReplyError("EXECABORT Transaction discarded because of previous errors.")
    queued = [error if n == refused else b"QUEUED" for n in range(10)]
    held = world.pair.channels["east"].tag
    world.pair.answered("east", [b"OK", b"QUEUED", *queued, exec_, b"OK", b"OK", held], 0)
    (again,) = [a for a in world.actions() if isinstance(a, Send)]
    left = {n for n in range(10) if pack(b"SET", b"n%d" % n, b"v") in again.payload}
    assert left == set(range(10)) - {refused}


def test_the_tag_tells_the_number_of_the_finished_copy() -> None:
    world = World()
    world.write()
    assert Tag.decode(world.tag()).copied == world.pair.copying.copy == 1


# -- keys in pieces
PIECE = (0, pack(b"RPUSH", b"tmp", b"a"))
PLACE = [(0, pack(b"LLEN", b"tmp")), (0, pack(b"RENAME", b"tmp", b"k"))]


def put_pieces(world: World, pieces: int, number: int = 1) -> Send:
    """Queue a key in pieces, with the last piece and the key's own commands; what is sent of it."""
    link = world.pair.channels["east"].link
    for _ in range(pieces):
        link.put(Item("piece", [PIECE], 1, building=number))
    link.put(Item("copied", PLACE, 1, operations=1, building=number, length=pieces))
    world.pair.tick(0)
    (sent,) = [a for a in world.actions() if isinstance(a, Send)]
    return sent


def test_a_key_in_pieces_is_as_long_as_it_must_be_or_the_copy_begins_again() -> None:
    world = World()
    put_pieces(world, 2)
    assert not [a for a in world.answer([b"OK", 1, 2, 2, b"OK"], world.tag(), queued=5) if isinstance(a, Notice)]
    put_pieces(world, 2)
    with pytest.raises(SiteError, match="came out with a length of 1") as caught:
        world.answer([b"OK", 1, 1, 1, b"OK"], world.tag(), queued=5)
    assert caught.value.heals and "it should be 2" in caught.value.why


def test_of_a_key_in_pieces_of_which_one_was_refused_nothing_takes_its_place() -> None:
    world = World(attrs.evolve(RULES, on_refused="quarantine", batch_commands=2))
    link = world.pair.channels["east"].link
    sent = put_pieces(world, 3)
    assert sent.payload.count(b"RPUSH") == 2, "the other one and the key are in the queue"
    world.refuse("NOPERM no")
    while not link.idle:
        world.answer([b"OK"], world.tag(), queued=1)
    assert b"RPUSH" in put_pieces(world, 1, number=2).payload, "the next key goes as ever"


def test_a_piece_that_fails_keeps_its_key_out_of_its_place() -> None:
    world = World(attrs.evolve(RULES, on_refused="quarantine", batch_commands=1))
    put_pieces(world, 1)
    said = world.answer([b"OK", hiredis.ReplyError("WRONGTYPE no list")], world.tag())
    assert [a.kind for a in said if isinstance(a, Notice)] == ["quarantined"]
    assert not [a for a in said if isinstance(a, Send) and b"RENAME" in a.payload]


def test_what_a_piece_that_fails_says_comes_before_the_length_that_came_of_it() -> None:
    error, results = "ERR string exceeds maximum allowed size", [b"OK", 1, 0, 1, b"OK"]
    results[2] = hiredis.ReplyError(error)
    world = World()
    put_pieces(world, 2)
    with pytest.raises(BisyncError, match=error):
        world.answer(results, world.tag(), queued=5)
    world = World(attrs.evolve(RULES, on_refused="quarantine"))
    put_pieces(world, 2)
    said = world.answer(results, world.tag(), queued=5)
    assert [a.kind for a in said if isinstance(a, Notice)] == ["quarantined"]


def test_of_two_keys_whose_pieces_are_refused_together_neither_takes_its_place() -> None:
    world = World(attrs.evolve(RULES, on_refused="quarantine"))
    link = world.pair.channels["east"].link
    for number in (1, 2):
        link.put(Item("piece", [PIECE], 1, building=number))
        link.put(Item("copied", PLACE, 1, operations=1, building=number, length=1))
    world.pair.tick(0)
    refused = hiredis.ReplyError("NOPERM no")
    exec_ = hiredis.ReplyError("EXECABORT Transaction discarded because of previous errors.")
    queued = [b"QUEUED", refused, b"QUEUED", b"QUEUED", refused, b"QUEUED", b"QUEUED"]
    held = world.pair.channels["east"].tag
    world.actions()
    world.pair.answered("east", [b"OK", *queued, exec_, b"OK", b"OK", held], 0)
    (again,) = [a for a in world.actions() if isinstance(a, Send)]
    assert b"RENAME" not in again.payload
    world.answer([b"OK"], world.tag(), queued=1)
    assert link.idle


def test_a_key_that_is_built_with_one_transaction_is_set_aside_whole() -> None:
    world = World(attrs.evolve(RULES, on_refused="quarantine"))
    link = world.pair.channels["east"].link
    link.put(Item("copied", [PIECE, PIECE, *PLACE], 1, operations=1, building=1))
    world.pair.tick(0)
    world.actions()
    replies = [b"QUEUED", b"QUEUED", hiredis.ReplyError("NOPERM no"), b"QUEUED", b"QUEUED"]
    exec_ = hiredis.ReplyError("EXECABORT Transaction discarded because of previous errors.")
    world.pair.answered("east", [b"OK", *replies, exec_, b"OK", b"OK", world.pair.channels["east"].tag], 0)
    (again,) = [a for a in world.actions() if isinstance(a, Send)]
    assert b"RPUSH" not in again.payload and b"RENAME" not in again.payload


def test_a_key_that_cannot_be_made_at_the_target_stops_the_job_or_is_said() -> None:
    keys = [CopiedKey(0, b"k", [], refused="streams came with Redis 5.0")]
    with pytest.raises(BisyncError, match="west cannot take the key 'k' of the copy: streams came"):
        World().pair.copied(keys, 0)
    world = World(attrs.evolve(RULES, on_refused="quarantine"))
    world.pair.copied(keys, 0)
    assert [a.kind for a in world.actions() if isinstance(a, Notice)] == ["quarantined"]
