"""`bisync reset`: forgets a job and nothing else."""

import json
import pathlib
from collections.abc import Iterator

import attrs
import pytest
from click.testing import CliRunner, Result

from bisync.cli import reset as module
from bisync.cli.reset import command
from bisync.config import Job
from bisync.core.tag import beat_key, open_key, tag_key
from bisync.errors import BisyncError, SiteError
from bisync.runtime.store import Store
from bisync.status import read_status
from bisync.testing.servers import LocalServer, local_servers
from tests.cli import jobs

OURS = [tag_key("orders", "forward"), tag_key("orders", "reverse"), beat_key("orders"), open_key("orders")]
OTHERS = [b"order:1", tag_key("stock", "forward"), b"bisync:orders:mine"]


@attrs.frozen
class Began:
    """A job that an engine, now dead, had begun."""

    file: pathlib.Path
    job: Job
    east: LocalServer
    west: LocalServer

    def keys(self) -> list[set[bytes]]:
        return [set(s.client().keys("*")) for s in (self.east, self.west)]

    def checkpoint(self, job: str = "orders") -> str | None:
        with Store.open(self.job.store) as store:
            return store.checkpoint(job, "forward")


@pytest.fixture
def began(tmp_path: pathlib.Path) -> Iterator[Began]:
    with local_servers(tmp_path, "east", "west") as (east, west):
        for server in (east, west):
            server.client().mset({key: "x" for key in OTHERS + OURS[:3]})
            server.client().hset(OURS[3].decode(), "unit", "1")
        file = jobs.job_file(tmp_path, east.url, west.url)
        job = jobs.save(file, jobs.report(pid=jobs.dead_pid()))
        with Store.open(job.store) as store:
            for name in ("orders", "stock"):
                store.save_checkpoint(name, "forward", "{}", jobs.now_ms())
        job.journal_folder.mkdir()
        for name in ("east.00000000000000000009.1.2.journal", "snapshot-abc.rdb", "snapshot.json", "notes.txt"):
            (job.journal_folder / name).write_text("x")
        yield Began(file, job, east, west)


def reset(began: Began, *options: str, **more: str) -> Result:
    words = [str(began.file), *options]
    return CliRunner().invoke(command, words, catch_exceptions=False, **more)  # type: ignore[arg-type]


def is_untouched(began: Began) -> bool:
    held = set(OURS + OTHERS)
    return began.keys() == [held, held] and began.checkpoint() == "{}" and len(journal(began)) == 4


def journal(began: Began) -> list[str]:
    return sorted(p.name for p in began.job.journal_folder.iterdir())


def test_deletes_what_bisync_knows_of_the_job_and_nothing_else(began: Began) -> None:
    done = reset(began, "--yes")
    assert done.exit_code == 0
    assert "east: 4 of bisync's own keys deleted" in done.stdout and "3 journal files removed" in done.stdout
    assert began.keys() == [set(OTHERS), set(OTHERS)]
    assert (began.checkpoint(), began.checkpoint("stock")) == (None, "{}")
    assert journal(began) == ["notes.txt"]


def test_is_seen_in_the_status(began: Began) -> None:
    reset(began, "--yes")
    document = read_status(began.job, jobs.now_ms())
    assert (document["state"], document["reason"]) == ("not-started", "the job was reset")
    assert document["events"][-1]["kind"] == "reset"


def test_removes_a_journal_folder_that_is_empty_then(began: Began) -> None:
    (began.job.journal_folder / "notes.txt").unlink()
    reset(began, "--yes")
    assert not began.job.journal_folder.exists()


def test_of_a_job_that_was_never_begun_changes_nothing(began: Began, tmp_path: pathlib.Path) -> None:
    reset(began, "--yes")
    done = reset(began, "--yes", "--json")
    expected = {"job": "orders", "keys_deleted": {"east": 0, "west": 0}, "journal_files": 0}
    assert (done.exit_code, json.loads(done.stdout)) == (0, expected)


def test_refuses_while_an_engine_is_running(began: Began) -> None:
    jobs.save(began.file, jobs.report())
    with pytest.raises(BisyncError, match="an engine is running it .*Next: stop it first"):
        reset(began, "--yes")
    assert is_untouched(began)


def test_changes_nothing_where_a_site_is_away(began: Began) -> None:
    began.west.stop()
    with pytest.raises(SiteError, match="west: .* refused the connection"):
        reset(began, "--yes")
    assert set(began.east.client().keys("*")) == set(OURS + OTHERS)
    assert began.checkpoint() == "{}" and len(journal(began)) == 4


def test_keeps_the_checkpoints_where_a_site_refuses_the_deletion(began: Began) -> None:
    began.west.client().execute_command("ACL", "SETUSER", "default", "-del")
    with pytest.raises(SiteError, match="west: .* may not use DEL"):
        reset(began, "--yes")
    assert began.checkpoint() == "{}" and len(journal(began)) == 4


def test_a_one_way_job_needs_no_rights_on_its_source(began: Began) -> None:
    jobs.job_file(began.file.parent, began.east.url, began.west.url, topology="one-way")
    began.east.client().execute_command("ACL", "SETUSER", "default", "resetkeys", "%R~order:*")
    done = reset(began, "--yes")
    assert done.exit_code == 0 and "west: 4 of" in done.stdout and "east: 0 of" in done.stdout


class TestConfirmation:
    def test_without_a_terminal_it_wants_yes(self, began: Began) -> None:
        done = reset(began)
        assert done.exit_code == 2 and "say --yes" in done.stderr
        assert is_untouched(began)

    @pytest.mark.parametrize("answer", ["n", "y"])
    def test_on_a_terminal_it_asks(self, began: Began, answer: str, monkeypatch: pytest.MonkeyPatch) -> None:
        class Terminal:
            @staticmethod
            def isatty() -> bool:
                return True

        class System:
            stdin = Terminal

        monkeypatch.setattr(module, "sys", System)
        done = reset(began, "--json", input=f"{answer}\n")
        assert "No data of yours is touched" in done.stderr and "Go on?" in done.stderr
        assert (done.exit_code, is_untouched(began)) == ((1, True) if answer == "n" else (0, False))
        assert (done.stdout == "") == (answer == "n")
