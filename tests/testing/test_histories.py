"""A few thousand random histories of the simulated pair, of every kind; `make histories` runs a hundred thousand."""

import os

import pytest
from click.testing import CliRunner

from bisync.testing import histories
from bisync.testing.history import broken, course

DEEP = os.environ.get("BISYNC_HYPOTHESIS_PROFILE") == "deep"
HISTORIES = int(os.environ.get("BISYNC_SIMULATED_HISTORIES", "100000" if DEEP else "3000"))
PARTS = 12


@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_history_keeps_every_promise(part: int) -> None:
    """Equal sites, nothing lost or doubled, the newest write, each conflict in the log and no other: as the kind is."""
    failed = {seed: wrong for seed in range(part, HISTORIES, PARTS) if (wrong := broken(seed))}
    assert not failed


WENT_WRONG = {
    419381: "a flush took notes away, and the life that saw it ended before it wrote them again",
    54837: "a key had expired, and what the same transaction computed from it was not tainted",
    80824: "a command failed, and what the same transaction computed from its key was not tainted",
    83964: "a rename of a key that differed, and writes after it in the same transaction",
    65985: "a flush took a newer tag away while items of rounds stood first in the queue",
    52321: "a flush took copied keys away, and the copy went on with the same snapshot",
    70927: "a server deleted an expired key just where an engine began to read",
}
"""Seeds, and what went wrong with each. A seed that is drawn otherwise by now says nothing, and does no harm."""


@pytest.mark.parametrize("seed", WENT_WRONG)
def test_histories_that_went_wrong_once(seed: int) -> None:
    assert broken(seed) == []


def test_the_histories_are_of_every_kind() -> None:
    kinds = [course(seed) for seed in range(200)]
    assert {kind.writes for kind in kinds} == {"any", "expiring", "wiping"}
    assert {kind.exact for kind in kinds} == {kind.lazy for kind in kinds} == {True, False}
    assert {bool(kind.blur_us) for kind in kinds} == {bool(kind.rules.policies) for kind in kinds} == {True, False}
    assert {kind.rules.rebuild_bytes for kind in kinds} == {1, 64 << 20}


def test_the_program_names_the_seeds_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "broken", lambda seed: ["unequal: k"] if seed == 5 else [])
    done = histories.run_chunk(range(3, 9))
    assert done.failures == [(5, "unequal: k")]
    assert sum(done.kinds[kind] for kind in ("any", "expiring", "wiping") if kind in done.kinds) == 6


@pytest.mark.slow
def test_the_program_runs_histories_on_several_processes() -> None:
    done = CliRunner().invoke(histories.main, ["--histories", "120", "--processes", "2"])
    assert done.exit_code == 0, done.output
    assert "seeds 0 to 119: 120 histories" in done.output and "0 broke a promise" in done.output
