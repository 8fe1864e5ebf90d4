"""Two engines of one job: one goes on, the other says that it was superseded, exits 3, and writes nothing more."""

import contextlib
import pathlib
import signal

import pytest

from tests.system.watch import Watch
from tests.system.world import TAGS, EngineProcess, World, wait_until

pytestmark = pytest.mark.slow

TIMES = 4  # that two are started at the same moment
NO_BEAT = "[engine]\nheartbeat_ms = 0\n"
KINDS = [  # topology, tables of the job file, are clients writing?
    pytest.param("bidirectional", "", True, id="two-way-busy"),
    pytest.param("bidirectional", "", False, id="two-way-idle"),
    pytest.param("bidirectional", NO_BEAT, False, id="two-way-idle-no-heartbeat"),
    pytest.param("one-way", "", True, id="one-way-busy"),
    pytest.param("one-way", NO_BEAT, False, id="one-way-idle-no-heartbeat"),
]


def assert_superseded(engine: EngineProcess) -> None:
    assert engine.ends() == 3, engine.text
    last = engine.text.strip().splitlines()[-1]
    assert last.startswith("bisync: ") and ("taken" in last or "taking" in last or "takes" in last), engine.text
    assert "Traceback" not in engine.text


@pytest.mark.parametrize("topology", ["bidirectional", "one-way"])
def test_of_two_engines_started_at_once_exactly_one_goes_on(tmp_path: pathlib.Path, topology: str) -> None:
    with World(tmp_path, topology=topology) as world:
        with world.east.client() as client:  # so that the first two meet in a full copy
            client.mset({f"pre:{n}": n for n in range(5_000)})
        for n in range(TIMES):
            both = world.start_engine(), world.start_engine()
            wait_until(lambda: not all(engine.running for engine in both), "one of them ends")
            superseded, winner = sorted(both, key=lambda engine: engine.running)
            assert_superseded(superseded)
            world.wait_synchronizing(winner)
            world.start_writers(n, "east", prefix=f"east{n}")
            wait_until(lambda: world.writers[-1].rounds > 10, "clients write")
            world.stop_writers()
            world.wait_drained(winner)
            winner.kill()
        world.assert_written()
        world.assert_equal()


@pytest.mark.parametrize("topology, tables, busy", KINDS)
def test_an_engine_that_was_frozen_and_overtaken_writes_nothing(
    tmp_path: pathlib.Path, topology: str, tables: str, busy: bool
) -> None:
    with World(tmp_path, topology=topology, tables=tables) as world, contextlib.ExitStack() as stack:
        watches = {name: stack.enter_context(Watch(server)) for name, server in world.servers.items()}
        sites = ("east",) if topology == "one-way" else ("east", "west")
        old = world.synchronised_engine()
        old_epoch = epoch_of(world)
        if busy:
            world.start_writers(1, *sites)
            wait_until(lambda: all(writer.rounds > 50 for writer in world.writers), "clients write")
        old.send(signal.SIGSTOP)
        new = world.synchronised_engine()
        assert epoch_of(world) > old_epoch
        old.send(signal.SIGCONT)
        assert_superseded(old)
        world.stop_writers()
        for site in sites:
            world.start_writers(2, site, prefix=f"later-{site}")  # so there is something to write in any case
        wait_until(lambda: all(writer.rounds > 20 for writer in world.writers), "clients write")
        world.stop_writers()
        world.wait_drained(new)
        assert_one_after_the_other(watches, topology)
        assert world.status()["engine"]["pid"] == new.process.pid
        world.assert_written()
        world.assert_equal()


def epoch_of(world: World) -> int:
    tag = world.tag()
    assert tag is not None
    return tag.epoch


def assert_one_after_the_other(watches: dict[str, Watch], topology: str) -> None:
    """No engine has written anywhere once another one had."""
    for channel, site in TAGS.items():
        written = [(tag.epoch, tag.engine) for tag in watches[site].tags()]
        if topology == "one-way" and channel == "reverse":
            assert not written
            epochs = list(watches[site].beat_epochs())
            assert epochs == sorted(epochs)
            continue
        assert len({engine for _, engine in written}) == 2
        assert written == sorted(written, key=lambda w: w[0])
