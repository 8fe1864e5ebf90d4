"""An engine as a process: what it says of one that has ended otherwise than it should."""

import pathlib

import pytest

from bisync.errors import BisyncError
from bisync.testing.engines import EngineProcess
from tests.cli import jobs

pytestmark = pytest.mark.slow


@pytest.fixture
def ended(tmp_path: pathlib.Path) -> EngineProcess:
    """One whose sites are away: the precheck fails, and it ends by itself."""
    engine = EngineProcess(jobs.job_file(tmp_path), tmp_path / "engine.log")
    engine.ends(1)
    return engine


def test_one_that_ended_by_itself_is_an_error_with_its_log(ended: EngineProcess) -> None:
    for wants_it_to_run in (ended.check, ended.stop):
        with pytest.raises(BisyncError, match=r"(?s)the engine ended by itself with exit status 1 .*2 checks failed"):
            wants_it_to_run()
    ended.kill()
    assert not ended.running


def test_another_exit_status_is_an_error_with_its_log(ended: EngineProcess) -> None:
    with pytest.raises(BisyncError, match=r"(?s)the engine's exit status is 1, not 0 .*2 checks failed"):
        ended.ends(0)


def test_a_second_one_adds_to_the_log(ended: EngineProcess) -> None:
    before = ended.log.stat().st_size
    EngineProcess(ended.log.with_name("orders.toml"), ended.log).ends(1)
    assert ended.log.stat().st_size > before
