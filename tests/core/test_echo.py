"""What a server did by itself within a transaction of ours is told from what was sent."""

from collections.abc import Iterator

import pytest

from bisync.core import echo
from bisync.core.moment import BEFORE_ALL
from bisync.core.operation import copied_operation
from bisync.core.pending import Pending
from bisync.core.position import START, Position
from bisync.core.resp import EXEC, MULTI, pack, select
from bisync.core.rules import Rules
from bisync.core.stream import Entry, StreamReader
from bisync.core.tag import Tag, tag_key
from bisync.testing.pair import SimulatedPair
from bisync.testing.site import SimulatedSite

KEY = tag_key("job", "forward")


def tagged(*commands: bytes) -> Entry:
    """A transaction of ours as a stream shows it."""
    tag = Tag("job", 1, "engine", floors={})
    data = select(0) + MULTI + pack(b"SET", KEY, tag.encode()) + b"".join(commands) + EXEC
    (entry,) = StreamReader(Position("a" * 40, 0), KEY).feed(data)
    assert entry.tag is not None
    return entry


def test_what_bisync_sends_is_in_small_letters_and_what_the_server_adds_in_capitals() -> None:
    entry = tagged(pack(b"del", b"a", b"b"), pack(b"unlink", b"c"), pack(b"DEL", b"d"), pack(b"UNLINK", b"e"))
    assert [c.args[1] for c in echo.deleted_by_server(entry)] == [b"d", b"e"]


def test_a_later_write_to_the_deleted_key_shows_that_ours_was_meant_for_it() -> None:
    entry = tagged(pack(b"SET", b"k", b"1"), pack(b"DEL", b"k"), pack(b"INCR", b"j"), select(1), pack(b"INCR", b"k"))
    assert list(echo.written_after(entry).values()) == [False]
    entry = tagged(pack(b"DEL", b"k"), pack(b"HSET", b"h", b"f", b"v"), pack(b"RENAME", b"j", b"k"))
    assert list(echo.written_after(entry).values()) == [True]


def copied(key: bytes, *, mortal: bool) -> Pending:
    operation = copied_operation(0, key, stale=False, mortal=mortal)
    return Pending((1, 0, 1), 0, [operation], START, BEFORE_ALL, 1)


def test_a_copied_key_with_a_time_to_live_must_be_seen_back() -> None:
    entry = tagged(pack(b"RESTORE", b"there", b"5", b"payload"), pack(b"DEL", b"gone"))
    there, gone, lasting = copied(b"there", mortal=True), copied(b"gone", mortal=True), copied(b"lasting", mortal=False)
    assert echo.not_copied(entry, [there, gone, lasting]) == [(gone, (0, b"gone"))]


@pytest.fixture
def pair() -> Iterator[SimulatedPair]:
    pair = SimulatedPair(Rules("job", "east", "west", heartbeat_ms=0))
    pair.start()
    pair.drain()
    yield pair


def pass_beyond(pair: SimulatedPair, site: str) -> None:
    """Time passes at one site: its clock is ahead of the other's."""
    pair.sites[site].now_ms += 10_000


def test_a_key_that_expires_under_a_read_of_ours_goes_at_the_other_site_too(pair: SimulatedPair) -> None:
    """COPY reads the source: it had expired at west, whose clock is ahead, and at east it lives on."""
    soon = b"%d" % (pair.now_ms + 5_000)
    pair.write("east", (b"SET", b"k", b"1", b"PXAT", soon))
    pair.drain()
    pass_beyond(pair, "west")
    pair.write("east", (b"COPY", b"k", b"other", b"REPLACE"))
    pair.read("east", 1 << 16)
    pair.deliver("east")
    assert any(echo.deleted_by_server(e) for e in pair.entries("west") if e.tag)
    pair.drain()
    assert pair.equal and (0, b"k") not in pair.dataset("east"), pair.differences()


def test_a_write_that_meets_an_expired_key_is_copied_again(pair: SimulatedPair) -> None:
    """At east the counter went from 5 to 6; at west there was nothing left to count from."""
    soon = b"%d" % (pair.now_ms + 5_000)
    pair.write("east", (b"SET", b"k", b"5", b"PXAT", soon))
    pair.drain()
    pass_beyond(pair, "west")
    pair.write("east", (b"INCR", b"k"), (b"PERSIST", b"k"))
    pair.read("east", 1 << 16)
    pair.deliver("east")
    pair.drain()
    assert pair.equal, pair.differences()
    assert pair.dataset("west")[0, b"k"][1] == b"6"
    assert pair.log == [], "no write of a client's met another"


def test_a_forwarded_deletion_is_never_taken_for_the_servers_own(pair: SimulatedPair) -> None:
    pair.write("east", (b"SET", b"k", b"1"))
    pair.drain()
    pair.write("east", (b"DEL", b"k"))
    pair.drain()
    before = len(pair.entries("east"))
    pair.start()
    pair.drain()
    assert [e for e in pair.entries("east")[before:] if not e.tag] == []
    assert all(not echo.deleted_by_server(e) for e in pair.entries("west") if e.tag)


def test_the_simulated_site_passes_names_on_as_they_were_written() -> None:
    site = SimulatedSite("east")
    connection = site.connect()
    connection.execute(pack(b"SET", b"k", b"1") + pack(b"del", b"k"))
    assert b"\r\ndel\r\n" in bytes(site.stream)
