"""Promises about single kinds of writes to keys that clients of both sites share, kept whatever happens to the engine.

Sums, pushes, unions and entries are exact, with and without kills.

"Newest" is about the time at which a write was made, and that is known only within bounds. What is claimed:

- While one engine runs: the value that stands is not older than another one by more than the margin of the workload.
- With kills: writes made while no engine ran have times that are not known at all, so nothing is claimed of them but
  that the value was written. But a lone write to each key, made half a second after all others and while an engine
  runs, is the newest beyond doubt, and stands.
"""

import pathlib

import attrs
import pytest

from bisync.testing.faults import FaultPlan
from bisync.testing.runner import POLICIES, Result, Runner, Trial
from bisync.testing.servers import local_servers
from bisync.testing.workloads import Fields, Newest, Workload

pytestmark = pytest.mark.slow

EXACT = ("counters", "pushes", "adds", "entries")
SECONDS, KILLS = 2.0, 3
WITHOUT, WITH = ("without kills", "with kills")


def trial_of(seed: int, workload: str, kills: str, policy: str = POLICIES[0], kinds: tuple[str, ...] = ()) -> Trial:
    number = KILLS if kills == WITH else 0
    plan = FaultPlan.draw(f"{workload} {seed}", seconds=SECONDS, number=number, kinds=kinds or ("kill",))
    return Trial(seed=seed, workload=workload, policy=policy, seconds=SECONDS, keys=3, faults=plan)


def run(folder: pathlib.Path, trial: Trial, workload: Workload | None = None) -> Result:
    with local_servers(folder, "east", "west") as (east, west):
        result = Runner(east, west, folder / "trials").run(trial, workload)
    assert result.ok, result.describe()
    assert min(result.commands.values()) > 100, result.describe()
    assert result.faults == len(trial.faults)
    return result


@pytest.mark.parametrize("kills", [WITHOUT, WITH])
@pytest.mark.parametrize("workload", EXACT)
def test_what_is_added_at_either_site_is_there_exactly_once(tmp_path: pathlib.Path, workload: str, kills: str) -> None:
    run(tmp_path, trial_of(1, workload, kills))


@pytest.mark.parametrize("policy", POLICIES[1:])
@pytest.mark.parametrize("workload", ["counters", "pushes", "adds"])
def test_it_is_so_where_one_site_is_preferred_too(tmp_path: pathlib.Path, workload: str, policy: str) -> None:
    run(tmp_path, trial_of(2, workload, WITH, policy, kinds=("kill", "cut", "second")))


@pytest.mark.parametrize("kind", [Newest, Fields])
def test_the_newest_value_stands(tmp_path: pathlib.Path, kind: type[Newest]) -> None:
    result = run(tmp_path, trial_of(3, kind.name, WITHOUT))
    assert result.conflicts > 0, "no two writes met: this test shows nothing"


@pytest.mark.parametrize("kind", [Newest, Fields])
def test_a_lone_last_value_stands_after_kills(tmp_path: pathlib.Path, kind: type[Newest]) -> None:
    trial = attrs.evolve(trial_of(4, kind.name, WITH), finale=True)
    run(tmp_path, trial)


@pytest.mark.parametrize("policy", POLICIES[1:])
def test_a_preferred_site_does_not_keep_a_later_value_away(tmp_path: pathlib.Path, policy: str) -> None:
    """Half of the lone last writes are made at the site that is not preferred: they had seen the others."""
    trial = attrs.evolve(trial_of(5, Newest.name, WITH, policy), finale=True, keys=6)
    run(tmp_path, trial)
