"""Clients of both sites write every kind of command to the same few keys: when all is drained, both sites are equal.

The engine is killed, frozen, stopped and overtaken meanwhile, its connections are cut, a site is paused. The histories
are those of `bisync.testing.runner`; BISYNC_HISTORIES says how many there are (200), BISYNC_HISTORY_SECONDS how long
clients write in each (0.5). A failure names its seed and the command that repeats it, and shows all that was written to
the keys that differ.
"""

import os
import pathlib

import pytest

from bisync.testing.runner import Result, Runner, Trial
from bisync.testing.servers import LocalServer, local_servers
from tests.system.world import Held, held

pytestmark = pytest.mark.slow

HISTORIES = int(os.environ.get("BISYNC_HISTORIES", "200"))
SECONDS = float(os.environ.get("BISYNC_HISTORY_SECONDS", "0.5"))
TOGETHER = 10  # histories that share two servers
SHOWN = 60  # commands of a key that differs


@pytest.mark.parametrize("first", range(0, HISTORIES, TOGETHER))
def test_both_sites_end_equal_whatever_their_clients_write(tmp_path: pathlib.Path, first: int) -> None:
    with local_servers(tmp_path, "east", "west") as (east, west):
        runner = Runner(east, west, tmp_path / "trials")
        for seed in range(first, min(first + TOGETHER, HISTORIES)):
            assert_equal(runner.run(Trial.draw(seed, seconds=SECONDS)), east, west)


@pytest.mark.parametrize("seed", [1, 2])
def test_both_sites_end_equal_when_servers_freeze_and_restart_too(tmp_path: pathlib.Path, seed: int) -> None:
    kinds = ("kill", "cut", "freeze-server", "restart-server")
    with local_servers(tmp_path, "east", "west", options=("--save", "3600 1")) as (east, west):
        runner = Runner(east, west, tmp_path / "trials")
        assert_equal(runner.run(Trial.draw(seed, seconds=3, faults=5, kinds=kinds)), east, west)


def assert_equal(result: Result, east: LocalServer, west: LocalServer) -> None:
    """The verdict of the runner, which is the program's own, and a comparison that knows nothing of the program."""
    a, b = held(east), held(west)
    different = sorted(place for place in a.keys() | b.keys() if a.get(place) != b.get(place))
    assert result.ok and not different, explain(result, different, a, b)


def explain(result: Result, different: list[tuple[int, bytes]], a: Held, b: Held) -> str:
    """What is needed to find out why."""
    lines = [result.describe(), f"to repeat: Trial.draw({result.trial.seed}, seconds={result.trial.seconds:g})"]
    log = result.folder / "commands.log" if result.folder else None
    written = log.read_text().splitlines() if log else []
    for place in different[:3]:
        lines += [f"{place}: east {str(a.get(place))[:300]}", f"{place}: west {str(b.get(place))[:300]}"]
        about = [line for line in written if place[1].decode() in line.split()]
        lines += [f"the last {SHOWN} of {len(about)} commands on it:", *about[-SHOWN:]]
    return "\n".join(lines)
