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


@pytest.mark.parametrize(
    "seed",
    [pytest.param(419381, id="a flush took notes away, and the life that saw it ended before it wrote them again")],
)
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
