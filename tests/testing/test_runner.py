"""The runner on real servers: it says so when sites differ, and leaves nothing behind."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from bisync.errors import BisyncError
from bisync.testing.faults import FaultPlan
from bisync.testing.real_sites import RealSite
from bisync.testing.runner import Runner, Trial
from bisync.testing.servers import LocalServer, local_servers
from bisync.testing.workloads import Pushes, RandomWrites

pytestmark = pytest.mark.slow


@pytest.fixture
def servers(tmp_path: pathlib.Path) -> Iterator[list[LocalServer]]:
    with local_servers(tmp_path, "east", "west", options=("--save", "3600 1")) as servers:
        yield servers


class Saboteur(Pushes):
    """Before the comparison somebody writes to one site alone."""

    def __init__(self, victim: LocalServer) -> None:
        super().__init__(1, 2)
        self._victim = victim

    def broken(self, client: Any) -> list[str]:
        found = super().broken(client)
        with self._victim.client() as c:
            c.rpush("k0", "sabotage")
        return found


def test_a_history_with_every_kind_of_fault_ends_equal(servers: list[LocalServer], tmp_path: pathlib.Path) -> None:
    plan = "100 kill 20; 200 cut east; 300 cut west; 400 freeze 50; 500 pause west 60; 600 stop 10; 650 second; "
    plan += "700 freeze-server east 100; 800 restart-server west"
    trial = Trial(seed=1, workload="random", seconds=1.5, faults=FaultPlan.parse(plan))
    result = Runner(*servers, tmp_path / "trials").run(trial)
    assert result.ok, result.describe()
    assert result.faults == 9 and min(result.commands.values()) > 10
    assert result.folder is None and not list((tmp_path / "trials").iterdir())


def test_a_broken_promise_is_told_with_all_that_was_written(servers: list[LocalServer], tmp_path: pathlib.Path) -> None:
    runner = Runner(*servers, tmp_path / "trials")
    trial = Trial(seed=1, workload="pushes", seconds=0.3, clients=1)
    result = runner.run(trial, Saboteur(servers[1]))
    assert not result.ok and result.equal  # the comparison came first; the promise is looked at site by site
    assert any("too many" in text and "sabotage" in text for text in result.broken), result.describe()
    assert result.folder is not None and "RPUSH" in (result.folder / "commands.log").read_text()
    assert "sabotage" in (result.folder / "result.txt").read_text()
    assert json.loads(json.dumps(result.as_document()))["ok"] is False


def test_sites_that_differ_are_told(
    servers: list[LocalServer], tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that is outside of what the engine sees: written behind its back, after it was stopped."""
    from bisync.testing import runner as module

    def sabotaged(*words: Any, **options: Any) -> Any:
        with servers[0].client() as client:
            client.set("only-here", 1)
        return verify(*words, **options)

    verify = module.verify
    monkeypatch.setattr(module, "verify", sabotaged)
    result = Runner(*servers, tmp_path / "trials").run(Trial(seed=1, seconds=0.2), RandomWrites(1, 3))
    assert not result.ok and not result.equal
    assert "only-here" in result.describe() and "only-source" in result.describe()


def test_an_engine_that_ends_by_itself_is_told(servers: list[LocalServer], tmp_path: pathlib.Path) -> None:
    trial = Trial(seed=1, workload="counters", seconds=0.2, engine="no_such_option = 1")
    with pytest.raises(BisyncError, match="no_such_option"):
        Runner(*servers, tmp_path / "trials").run(trial)
    with servers[1].client() as client:
        client.config_set("maxmemory", 1)
        result = Runner(*servers, tmp_path / "trials", wipe=True).run(Trial(seed=1, workload="counters", seconds=0.2))
        client.config_set("maxmemory", 0)
    assert not result.ok and result.problems, result.describe()


def test_servers_that_hold_keys_are_left_alone(servers: list[LocalServer], tmp_path: pathlib.Path) -> None:
    with servers[1].client(3) as client:
        client.set("precious", 1)
        with pytest.raises(BisyncError, match=r"holds 1 keys.*--wipe"):
            Runner(*servers, tmp_path)
        assert client.get("precious") == b"1"
        Runner(*servers, tmp_path, wipe=True).run(Trial(seconds=0.1))
        assert client.get("precious") is None
    with pytest.raises(BisyncError, match="both URLs lead to the same server"):
        Runner(servers[0], servers[0].url.replace("127.0.0.1", "localhost"), tmp_path)


def test_urls_are_enough_and_local_faults_are_refused_then(servers: list[LocalServer], tmp_path: pathlib.Path) -> None:
    runner = Runner(servers[0].url, servers[1].url, tmp_path / "trials")
    assert runner.run(Trial(seed=2, workload="adds", seconds=0.3, faults=FaultPlan.parse("50 cut west"))).ok
    with pytest.raises(BisyncError, match="need the servers' processes"):
        runner.run(Trial(faults=FaultPlan.parse("50 freeze-server west 10")))


def test_a_cut_closes_the_connections_of_others_only(servers: list[LocalServer]) -> None:
    site = RealSite.of("east", servers[0])
    with site.client() as ours, servers[0].client() as theirs:
        number, other = ours.client_id(), theirs.client_id()
        assert site.cut() == 1
        assert ours.client_id() == number and theirs.client_id() != other


def run_program(*words: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bisync.testing", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)


def test_the_program_says_what_came_of_it(servers: list[LocalServer], tmp_path: pathlib.Path) -> None:
    urls = [server.url for server in servers]
    done = run_program(*urls, "--histories", 2, "--seconds", 0.3, "--seed", 4, "--kills", 1, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["ok"] and [r["trial"]["seed"] for r in document["results"]] == [4, 5]
    assert all("kill" in r["trial"]["faults"] for r in document["results"])
    assert "All 2 histories ended equal" in done.stderr
    done = run_program(*urls)  # they hold what the last history left
    assert done.returncode == 2 and "--wipe" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words, told",
    [
        (["redis://127.0.0.1:1", "redis://127.0.0.1:2"], "cannot be asked"),
        (["redis://a:secret@127.0.0.1:x", "redis://127.0.0.1:2"], "expected a port"),
        (["redis://127.0.0.1:1", "redis://127.0.0.1:2", "--kills", "1", "--faults", "1"], "give one of them"),
        (["redis://127.0.0.1:1", "redis://127.0.0.1:2", "--plan", "boom"], "is no fault"),
        (["redis://127.0.0.1:1"], "Missing argument"),
    ],
)
def test_wrong_use_is_told(words: list[str], told: str) -> None:
    done = run_program(*words)
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert "secret" not in done.stderr and "Traceback" not in done.stderr
