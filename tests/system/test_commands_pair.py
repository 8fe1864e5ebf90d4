"""Every command of the server's own list that writes, run at each site of a pair: both are equal after it."""

import itertools
import pathlib
from collections.abc import Iterator

import attrs
import pytest
import redis

from bisync.core.commands import known_row
from bisync.testing.samples import SAMPLES, Sample, unknown_to
from tests.system.world import EngineProcess, Held, World, assert_same, held, new_server, wait_until

pytestmark = pytest.mark.slow

MARK_DATABASE = 9  # no sample touches it
SITES = ("east", "west")
NO_EFFECT = {"PFCOUNT", "PFDEBUG", "PUBLISH", "SPUBLISH"}  # on the values that a client sees
QUICK = "[engine]\nretry_pause_ms_max = 50\nheartbeat_ms = 0\n"  # FLUSHALL and SWAPDB take the tags away, on purpose


def name_of(sample: Sample) -> str:
    return b" ".join(sample.call)[:40].decode("latin-1") or sample.name


@attrs.define
class Pair:
    """A synchronised pair, and raw clients of both sites."""

    world: World
    engine: EngineProcess
    clients: dict[str, "redis.Redis"]
    marks: Iterator[int] = attrs.field(factory=lambda: itertools.count(1))

    def other(self, site: str) -> str:
        return SITES[1 - SITES.index(site)]

    def run(self, site: str, *commands: tuple[bytes | str, ...]) -> None:
        for command in commands:
            self.clients[site].execute_command(*command)

    def settle(self, site: str) -> None:
        """Wait until all that was written at the site has arrived at the other one: a mark comes after it."""
        mark = b"%d" % next(self.marks)
        there = self.other(site)
        with (
            self.world.servers[site].client(MARK_DATABASE) as here,
            self.world.servers[there].client(MARK_DATABASE) as across,
        ):
            here.set(f"mark:{site}", mark)
            wait_until(lambda: self.engine.check() and across.get(f"mark:{site}") == mark, f"it arrives at {there}")

    def data(self, site: str) -> tuple[Held, bytes]:
        """All keys but the marks, and the functions."""
        found = {place: value for place, value in held(self.world.servers[site]).items() if place[0] != MARK_DATABASE}
        return found, self.clients[site].execute_command("FUNCTION", "DUMP")

    def assert_equal(self) -> None:
        (a, functions), (b, others) = self.data("east"), self.data("west")
        assert_same(a, b)
        assert functions == others

    def clear(self, site: str) -> None:
        """Empty the site as a client does that knows nothing of bisync, but leave it its keys."""
        for database, key in self.data(site)[0]:
            self.run(site, ("SELECT", str(database)), ("DEL", key))
        self.run(site, ("SELECT", "0"), ("FUNCTION", "FLUSH"))
        self.settle(site)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder: pathlib.Path = tmp_path_factory.mktemp("pair")
    with World(folder, tables=f'{QUICK}\n[commands]\nswapdb = "pass"\n') as world:
        yield world


@pytest.fixture
def pair(world: World) -> Iterator[Pair]:
    if not world.engines or not world.engines[-1].running:
        world.synchronised_engine()
    clients = {
        name: redis.Redis(port=world.servers[name].port, protocol=2, single_connection_client=True) for name in SITES
    }
    for client in clients.values():
        client.response_callbacks.clear()
    yield Pair(world, world.engines[-1], clients)
    for client in clients.values():
        client.close()


@pytest.fixture
def sample(request: pytest.FixtureRequest, pair: Pair) -> Sample:
    """The sample, where the servers have its commands; else the test is skipped, and says so."""
    chosen: Sample = request.param
    known = {name.lower() for name in pair.clients["east"].execute_command("COMMAND", "LIST")}
    if unknown_to(known, chosen):
        pytest.skip(f"this server does not know {', '.join(unknown_to(known, *SAMPLES))}")
    return chosen


def commands_that_write(client: "redis.Redis") -> Iterator[str]:
    """From the server's own list, subcommands too."""
    for entry in client.execute_command("COMMAND"):
        for name, flags in [(entry[0], entry[2]), *((sub[0], sub[2]) for sub in entry[9])]:
            if b"write" in flags or b"may_replicate" in flags:
                yield name.decode().upper().replace("|", " ")


def test_every_command_that_writes_has_a_sample_or_a_reason(pair: Pair) -> None:
    names = set(commands_that_write(pair.clients["east"]))
    assert len(names) > 100
    assert names - {sample.name for sample in SAMPLES} == set()
    for sample in SAMPLES:
        row = known_row(sample.name.split()[0].encode())
        assert sample.call or (sample.reason and row.handling == "refused" and row.reason), sample
        assert row.handling in ("copied", "changed") or row.reason, sample


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("sample", [s for s in SAMPLES if s.call], ids=name_of, indirect=True)
def test_both_sites_are_equal_after_it(pair: Pair, sample: Sample, site: str) -> None:
    pair.clear(site)
    pair.run(site, *sample.setup)
    pair.settle(site)
    pair.assert_equal()
    before = pair.data(pair.other(site))
    pair.run(site, sample.call)
    pair.settle(site)
    pair.assert_equal()
    assert pair.data(pair.other(site)) != before or sample.name in NO_EFFECT, "it had no effect"


@pytest.mark.parametrize("site", SITES)
def test_a_key_that_migrates_away_goes_at_both(pair: Pair, site: str, tmp_path: pathlib.Path) -> None:
    third = new_server(tmp_path / "third")
    try:
        pair.clear(site)
        pair.run(site, (b"SET", b"s", b"v"))
        pair.settle(site)
        pair.run(site, ("MIGRATE", "127.0.0.1", str(third.port), "s", "0", "5000"))
        pair.settle(site)
        assert pair.data("east") == pair.data("west")
        assert pair.data(site)[0] == {} and third.client().get("s") == b"v"
    finally:
        third.stop()


def test_the_two_sites_are_equal_after_all_of_them(pair: Pair) -> None:
    pair.world.wait_drained(pair.engine)
    pair.world.assert_equal()
    assert len(pair.world.engines) == 1, "the engine had to be started again"
    conflicts = pair.world.status()["conflicts"]
    assert (conflicts["total"], conflicts["open"], conflicts["unsettled"]) == (0, 0, [])
