"""When writes were made, as an intake finds out on a real server: a client's own times are always within the bracket.

A client looks at the clock before it sends a write and after it has the answer; the write was made between the two.
One write in a hundred may miss its bracket by a little, on a machine so busy that the server is interrupted between the
answer and what it tells its replicas.
"""

import contextlib
import pathlib
import random
import statistics
import time
from collections.abc import AsyncIterator, Iterator

import attrs
import pytest
import redis
import trio

from bisync.config import Endpoint, Site
from bisync.core.moment import Moment
from bisync.core.position import Position
from bisync.core.stream import StreamReader
from bisync.runtime import intake as module
from bisync.runtime.intake import Intake
from bisync.runtime.journal import Journal
from bisync.runtime.passes import Passes
from bisync.runtime.wallclock import WallClock
from bisync.testing.servers import LocalServer

pytestmark = pytest.mark.slow

WAIT_S = 40.0
MISSES = 0.01  # of the writes
MISS_US_MAX = 50_000


@pytest.fixture
def server(tmp_path: pathlib.Path) -> Iterator[LocalServer]:
    server = LocalServer(tmp_path / "server").start()
    yield server
    server.stop()


@attrs.define
class Written:
    """What clients wrote, with their times in µs of a clock: by key."""

    server: LocalServer
    clock: WallClock
    times: dict[bytes, tuple[int, int]] = attrs.field(factory=dict)

    def write(self, client: "redis.Redis", size: int = 20) -> None:
        key = b"key:%d" % len(self.times)
        before_us = self.clock.now_us()
        client.set(key, b"v" * size)
        self.times[key] = before_us, self.clock.now_us()

    def write_some(self, n: int, pause_s: float = 0.002, sizes: tuple[int, ...] = (20,)) -> None:
        chance = random.Random(n)
        with self.server.client() as client:
            for _ in range(n):
                self.write(client, chance.choice(sizes))
                time.sleep(chance.expovariate(1 / pause_s) if pause_s else 0)

    async def write_aside(self, n: int, pause_s: float = 0.002, sizes: tuple[int, ...] = (20,)) -> None:
        await trio.to_thread.run_sync(self.write_some, n, pause_s, sizes)


def site_of(server: LocalServer, user: str | None = None) -> Site:
    return Site("east", Endpoint("127.0.0.1", server.port, user, None))


@contextlib.asynccontextmanager
async def reading(
    server: LocalServer, journal: Journal, clock: WallClock, floor: Position | None = None, site: Site | None = None
) -> AsyncIterator[Intake]:
    """An intake that reads, from the floor on where there is one."""
    passes = Passes(clock)
    with passes.watching():
        async with trio.open_nursery() as nursery:
            intake = Intake(site or site_of(server), journal, nursery, 5.0, 0.1, passes)
            await (intake.begin() if floor is None else intake.resume(floor))
            yield intake
            nursery.cancel_scope.cancel()


async def read_to_the_end(server: LocalServer, journal: Journal) -> None:
    """Wait until all that the server wrote is in the journal."""
    with trio.fail_after(WAIT_S):
        while journal.end < await trio.to_thread.run_sync(lambda: server.replication_offset):
            await trio.sleep(0.005)


class Follower:
    """Reads a journal from an offset on, or from its end."""

    def __init__(self, journal: Journal, offset: int | None = None) -> None:
        self._journal, self.offset = journal, journal.end if offset is None else offset
        self._reader = StreamReader(Position("x" * 40, self.offset), None)

    def find(self) -> dict[bytes, Moment]:
        """The moments of the writes that are new since the last call, by key."""
        moments = {}
        while data := self._journal.read(self.offset, 1 << 20):
            self.offset += len(data)
            for entry in self._reader.feed(data):
                moment = self._journal.moments.at(entry.start)
                assert moment is not None, entry
                moments[entry.commands[0].args[1]] = moment
        return moments


def found_in(journal: Journal, start: int) -> dict[bytes, Moment]:
    """The moments of the writes in the journal from an offset on, by key."""
    return Follower(journal, start).find()


def assert_within(written: Written, found: dict[bytes, Moment], at_least: int = 1) -> list[int]:
    """Every write is within its bracket. The widths of the brackets, in µs."""
    assert found.keys() == written.times.keys() and len(found) >= at_least
    misses = {}
    for key, (before_us, after_us) in written.times.items():
        miss_us = max(found[key].earliest_us - after_us, before_us - found[key].latest_us)
        if miss_us > 0:
            misses[key] = miss_us
    assert len(misses) <= MISSES * len(found) and max(misses.values(), default=0) < MISS_US_MAX, misses
    return [moment.latest_us - moment.earliest_us for moment in found.values()]


async def test_brackets_hold_the_truth_and_are_narrow(tmp_path: pathlib.Path, server: LocalServer) -> None:
    clock = WallClock()
    journal, written = Journal("east", tmp_path / "j", 1 << 30, clock=clock), Written(server, clock)
    async with reading(server, journal, clock):
        start = journal.end
        await trio.sleep(0.3)  # a running engine, not one that has just begun
        await written.write_aside(400, sizes=(20, 20, 20, 3_000))
        await read_to_the_end(server, journal)
    widths = assert_within(written, found_in(journal, start), 400)
    assert statistics.median(widths) < 5_000, sorted(widths)[:: len(widths) // 10]


async def test_brackets_hold_the_truth_under_load(tmp_path: pathlib.Path, server: LocalServer) -> None:
    clock = WallClock()
    journal, written = Journal("east", tmp_path / "j", 1 << 30, clock=clock), Written(server, clock)
    async with reading(server, journal, clock):
        start = journal.end
        await written.write_aside(1500, pause_s=0, sizes=(20, 20, 20, 20, 20, 20, 20, 60_000))
        await read_to_the_end(server, journal)
    assert_within(written, found_in(journal, start), 1500)


async def test_a_stream_that_the_server_held_back_until_an_ack_is_not_new(
    tmp_path: pathlib.Path, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_ACK_S", 0.4)
    clock = WallClock()
    journal, written = Journal("east", tmp_path / "j", 1 << 30, clock=clock), Written(server, clock)
    async with reading(server, journal, clock):
        start = journal.end
        await written.write_aside(50)
        await read_to_the_end(server, journal)
        await written.write_aside(50)
        await read_to_the_end(server, journal)
    assert_within(written, found_in(journal, start), 100)


async def test_the_stream_comes_soon_after_the_snapshot(
    tmp_path: pathlib.Path, server: LocalServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ACK that comes before the server takes the transfer for ended is lost: so there must be more of them."""
    monkeypatch.setattr(module, "ACK_S", 1000.0)
    clock = WallClock()
    for n in range(5):
        journal, written = Journal("east", None, 1 << 20, clock=clock), Written(server, clock)
        async with reading(server, journal, clock):
            start = journal.end
            await written.write_aside(1)
            await read_to_the_end(server, journal)
        assert_within(written, found_in(journal, start))


async def test_what_was_written_during_a_cut_is_within(tmp_path: pathlib.Path, server: LocalServer) -> None:
    clock = WallClock()
    journal, written = Journal("east", tmp_path / "j", 1 << 30, clock=clock), Written(server, clock)
    async with reading(server, journal, clock) as intake:
        start = journal.end
        for _ in range(4):
            await written.write_aside(30)
            await read_to_the_end(server, journal)
            with server.client() as client:
                assert client.execute_command("CLIENT", "KILL", "TYPE", "replica") == 1
            written.write_some(30, pause_s=0.0005)  # the intake cannot run meanwhile
            await written.write_aside(30)
            await read_to_the_end(server, journal)
            assert intake.error is None
    assert_within(written, found_in(journal, start), 360)


async def test_what_waits_for_room_in_the_journal_is_within(tmp_path: pathlib.Path, server: LocalServer) -> None:
    clock = WallClock()
    journal, written = Journal("east", tmp_path / "j", 200_000, clock=clock), Written(server, clock)
    found: dict[bytes, Moment] = {}
    async with reading(server, journal, clock), trio.open_nursery() as nursery:
        follower = Follower(journal)
        nursery.start_soon(written.write_aside, 300, 0.002, (4_000,))
        with trio.fail_after(WAIT_S):
            for _ in range(4):
                while not journal.full:
                    await trio.sleep(0.01)
                await trio.sleep(0.1)  # meanwhile the stream piles up elsewhere
                found |= follower.find()
                journal.trim(follower.offset)
            while len(found) < 300:
                found |= follower.find()
                journal.trim(follower.offset)
                await trio.sleep(0.01)
    assert_within(written, found, 300)


async def test_another_engine_that_reads_the_journal_again_finds_the_same(
    tmp_path: pathlib.Path, server: LocalServer
) -> None:
    clock = WallClock()
    journal, written = Journal("east", tmp_path / "j", 1 << 30, clock=clock), Written(server, clock)
    async with reading(server, journal, clock):
        floor = journal.position
        await written.write_aside(100)
        await read_to_the_end(server, journal)
    before = found_in(journal, floor.offset)
    assert_within(written, before, 100)
    written.write_some(20)  # no engine runs
    again = Journal("east", tmp_path / "j", 1 << 30, clock=clock)
    async with reading(server, again, clock, floor):
        await written.write_aside(100)
        await read_to_the_end(server, again)
    after = found_in(again, floor.offset)
    assert {key: after[key] for key in before} == before
    assert_within(written, after, 220)


async def test_an_account_that_may_not_ask_how_far_the_stream_reaches(
    tmp_path: pathlib.Path, server: LocalServer
) -> None:
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "default", "-role", "-info")
    clock = WallClock()
    journal, written = Journal("east", tmp_path / "j", 1 << 30, clock=clock), Written(server, clock)
    async with reading(server, journal, clock):
        start = journal.end
        await written.write_aside(100, pause_s=0.001)
        await trio.sleep(0.3)
        await written.write_aside(100, pause_s=0.001)
        with trio.fail_after(WAIT_S):
            while len(found := found_in(journal, start)) < 200:
                await trio.sleep(0.01)
    widths = assert_within(written, found, 200)
    assert statistics.median(widths[100:]) < 5_000, "silence was no evidence"
