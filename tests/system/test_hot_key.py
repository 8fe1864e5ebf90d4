"""One key that both sites write thousands of times while neither sees the other: the cost of a write stays flat.

Every write of one site is concurrent with every one of the other, so comparing all pairs would cost 25 million
comparisons. Time is measured within one run only, between a small burst and a large one.
"""

import pathlib
import signal
import time

import pytest

from bisync.testing.servers import LocalServer
from tests.system.test_exactness import assert_counted
from tests.system.world import EngineProcess, World, bisync_json

pytestmark = pytest.mark.slow

FEW, MANY = 1_000, 5_000  # writes at each site
RATIO_MAX = 3.0  # of the cost of a write, many to few; all pairs would cost five times as much
GROWTH_BYTES_MAX = 96 << 20  # of the engine's memory
SETTLED_S = 60.0

WRITES = {
    "set": lambda site, n: ("SET", "hot", f"{site}{n}"),
    "field": lambda site, n: ("HSET", "hot", "f", f"{site}{n}"),
    "count": lambda site, n: ("INCR", "hot"),
    "push": lambda site, n: ("LPUSH", "hot", f"{site}{n}"),
    "append": lambda site, n: ("APPEND", "hot", site),
}
RECORDS = {"set": 1, "field": 1, "count": 0, "push": 1, "append": 1}


def write(server: LocalServer, site: str, kind: str, number: int) -> None:
    with server.client() as client:
        pipe = client.pipeline(transaction=False)
        for n in range(number):
            pipe.execute_command(*WRITES[kind](site, n))
        pipe.execute()


def resident_bytes(engine: EngineProcess) -> int:
    status = pathlib.Path(f"/proc/{engine.process.pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:"))


def burst(world: World, engine: EngineProcess, kind: str, number: int) -> float:
    """Both sites write so often while the engine is frozen. Seconds from its waking until all is settled."""
    engine.send(signal.SIGSTOP)
    try:
        for site, server in world.servers.items():
            write(server, site, kind, number)
    finally:
        engine.send(signal.SIGCONT)
    began_s = time.monotonic()
    world.wait_drained(engine, SETTLED_S)
    return time.monotonic() - began_s


@pytest.mark.parametrize("kind", RECORDS)
def test_the_cost_of_a_write_stays_flat(tmp_path: pathlib.Path, kind: str) -> None:
    if not pathlib.Path("/proc/self/status").exists():
        pytest.skip("this system has no /proc to read the engine's memory from")
    with World(tmp_path) as world:
        engine = world.synchronised_engine()
        burst(world, engine, kind, FEW)  # what is only loaded and built once
        few_s, before = burst(world, engine, kind, FEW), resident_bytes(engine)
        many_s = burst(world, engine, kind, MANY)
        grown = resident_bytes(engine) - before
        print(f"{kind}: {FEW} in {few_s:.2f} s, {MANY} in {many_s:.2f} s, {grown >> 20} MiB more")
        assert many_s / MANY < RATIO_MAX * few_s / FEW, (few_s, many_s)
        assert grown < GROWTH_BYTES_MAX
        assert len(bisync_json("conflicts", world.job_file)) == 3 * RECORDS[kind]
        assert_counted(world, 3 * RECORDS[kind])
        world.assert_equal()
        if kind == "count":
            with world.west.client() as client:
                assert int(client.get("hot") or 0) == 2 * (2 * FEW + MANY)


@pytest.mark.parametrize("kind", ["set", "push", "count"])
def test_it_is_so_for_what_a_starting_engine_finds(tmp_path: pathlib.Path, kind: str) -> None:
    with World(tmp_path) as world:
        took_s = []
        world.synchronised_engine().kill()
        for number in (FEW, MANY):
            for site, server in world.servers.items():
                write(server, site, kind, number)
            began_s = time.monotonic()
            engine = world.synchronised_engine()
            world.wait_drained(engine, SETTLED_S)
            took_s.append(time.monotonic() - began_s)
            engine.kill()
        print(f"{kind}: {FEW} in {took_s[0]:.2f} s, {MANY} in {took_s[1]:.2f} s, starting included")
        # the start itself is in both, so the ratio is no more than that of a running engine
        assert took_s[1] / MANY < RATIO_MAX * took_s[0] / FEW, took_s
        assert_all_on_record(world, kind, FEW + MANY)
        world.assert_equal()


def assert_all_on_record(world: World, kind: str, number: int) -> None:
    """Every write is counted once. (Where the second engine reads the first burst again, one record has both.)"""
    records = bisync_json("conflicts", world.job_file)
    assert len(records) <= 2
    for site in world.servers:
        assert sum(record["counts"][site] for record in records) == number * RECORDS[kind], records
