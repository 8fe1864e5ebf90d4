"""When writes were made that an engine reads late, because it was frozen while clients wrote.

A frozen engine looks like one that slept: what came meanwhile must not count as new when it goes on.
"""

import pathlib
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from bisync.core.stream import StreamReader
from bisync.runtime.conflict_record import ConflictRecord
from bisync.runtime.conflict_table import Wanted
from bisync.runtime.journal import Journal
from bisync.runtime.store import Store
from bisync.runtime.wallclock import WallClock
from tests.runtime.test_intake_times import Written, assert_within
from tests.system.world import FORWARD, World, wait_until

pytestmark = pytest.mark.slow

PAUSES = 6
PAUSE_S = 0.3
APART_S = 0.2  # between two writes
QUIET = ("--repl-ping-replica-period", "3600")  # so that nothing but clients' writes is in the streams
SITES = ("east", "west")


@pytest.fixture
def world(tmp_path: pathlib.Path) -> Iterator[World]:
    with World(tmp_path, options=QUIET) as world:
        world.synchronised_engine()
        yield world


def freeze(world: World) -> None:
    """The engine stands still until `thaw`."""
    (engine,) = world.engines
    engine.send(signal.SIGSTOP)
    path = pathlib.Path(f"/proc/{engine.process.pid}/stat")
    wait_until(lambda: path.read_text().rpartition(")")[2].split()[0] == "T", "the engine is frozen")


def thaw(world: World) -> None:
    world.engines[0].send(signal.SIGCONT)


def settled(world: World, key: bytes) -> ConflictRecord:
    """The conflict over a key, once it is in the log."""
    (engine,) = world.engines
    world.wait_drained(engine)
    found: list[ConflictRecord] = []

    def look() -> bool:
        with Store.open(world.job.store, create=False) as store:
            numbers = store.conflicts.find(world.job.name, Wanted(key=key))
            found[:] = store.conflicts.read(world.job.name, numbers)
        return engine.check() and [record.state for record in found] == ["settled"]

    wait_until(look, f"one conflict over {key!r}, settled")
    return found[0]


@pytest.mark.parametrize("first", SITES)
def test_of_two_lone_writes_the_newest_wins_for_certain(world: World, first: str) -> None:
    second = next(site for site in SITES if site != first)
    with world.servers[first].client() as one, world.servers[second].client() as other:
        freeze(world)
        one.set("k", "older")
        time.sleep(APART_S)
        other.set("k", "newer")
        thaw(world)
        record = settled(world, b"k")
        assert (record.winner, record.rule, record.certain) == (second, "newest write", True), record
        assert one.get("k") == other.get("k") == b"newer"


@pytest.mark.parametrize("first", SITES)
def test_where_other_writes_hide_them_the_order_of_the_sites_decides(world: World, first: str) -> None:
    """Of what waits together the system tells when the newest came: the others may be as old as the pause."""
    second = next(site for site in SITES if site != first)
    with world.servers[first].client() as one, world.servers[second].client() as other:
        freeze(world)
        one.set("k", "older")
        one.set("of one site", "later")
        time.sleep(APART_S)
        other.set("k", "newer")
        other.set("of the other", "later")
        thaw(world)
        record = settled(world, b"k")
        assert (record.winner, record.rule, record.certain) == ("east", "order of the sites", False), record
        for write in record.writes:
            assert write.latest_us - write.earliest_us >= APART_S * 1_000_000 * (write.site == second), record


def test_what_clients_wrote_meanwhile_is_as_old_as_it_is_though_they_go_on(world: World) -> None:
    (engine,) = world.engines
    tag = world.tag(FORWARD)
    assert tag is not None
    floor, clock = tag.floors["east"], WallClock()
    written = Written(world.east, clock)
    halted = threading.Event()

    def write() -> None:
        with world.east.client() as client:
            while not halted.wait(0.0005):
                written.write(client)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(PAUSES):
            time.sleep(PAUSE_S)
            freeze(world)
            time.sleep(PAUSE_S)
            thaw(world)  # soon enough something comes before what waits is read
        time.sleep(PAUSE_S)
    finally:
        halted.set()
        writer.join()
    world.wait_drained(engine)
    engine.stop()
    journal = Journal("east", world.folder / "orders.journal", 1 << 30, clock=clock)
    journal.recover(floor)
    reader, found, end = StreamReader(floor, None), {}, floor.offset
    while data := journal.read(end, 1 << 20):
        end += len(data)
        for entry in reader.feed(data):
            for command in entry.commands:
                if command.args[0] == b"SET" and command.args[1] in written.times:
                    moment = journal.moments.at(entry.start)
                    assert moment is not None, entry
                    found[command.args[1]] = moment
    assert_within(written, found, 1_000)
