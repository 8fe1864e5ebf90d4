"""`bisync run`: as a process, with real sites, and its log and progress bar on their own."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from bisync.cli import run as module
from bisync.cli.run import CopyBar, check_first, render_text
from bisync.cli.wait import wait_for_state
from bisync.config import load_job
from bisync.errors import BisyncError
from bisync.status import read_status
from bisync.testing.servers import LocalServer, local_servers
from tests.cli import jobs

WAIT_S = 30
SECRET = "open-sesame"

# Python runs it first: it signals its own process when this module is about to be loaded.
INTERRUPTER = """
import sys

class Interrupter:
    def find_spec(self, name, *_):
        if name == "{module}":
            sys.meta_path.remove(self)
            exec("import os, signal, sys; print('interrupted', file=sys.stderr); os.kill(os.getpid(), signal.{how})")

sys.meta_path.insert(0, Interrupter())
"""


@pytest.fixture
def sites(tmp_path: pathlib.Path) -> Iterator[list[LocalServer]]:
    with local_servers(tmp_path, "east", "west") as both:
        yield both


@contextlib.contextmanager
def running(file: pathlib.Path, *options: str, **process_options: Any) -> "Iterator[subprocess.Popen[str]]":
    """An engine that is killed at the end, if it still runs."""
    process = jobs.bisync("run", file, *options, **process_options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=WAIT_S)


def synchronises(file: pathlib.Path, process: "subprocess.Popen[str]") -> None:
    def alive() -> None:
        assert process.poll() is None, process.communicate()[1]

    assert wait_for_state(load_job(file), "synchronizing", WAIT_S, alive).reached


def opened_for_reading(fifo: pathlib.Path, process: "subprocess.Popen[str]") -> int:
    """The writing end, opened when the process has opened the other one."""
    while process.poll() is None:
        with contextlib.suppress(OSError):  # nobody reads yet
            return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.01)
    raise AssertionError(process.communicate()[1])


class TestProcess:
    @pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
    def test_copies_follows_and_ends_at_a_signal(
        self, sites: list[LocalServer], tmp_path: pathlib.Path, how: signal.Signals
    ) -> None:
        east, west = (s.client() for s in sites)
        east.set("before", 1)
        file = jobs.job_file(tmp_path, *(s.url for s in sites))
        with running(file) as process:
            synchronises(file, process)
            assert west.get("before") == b"1"
            process.send_signal(how)
            out, err = process.communicate(timeout=WAIT_S)
        assert (process.returncode, out) == (0, ""), err
        assert re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z info +\S.*  .*job=orders$", err.splitlines()[0]), err
        assert read_status(load_job(file), jobs.now_ms())["state"] == "suspended"

    def test_ends_well_also_when_it_is_told_before_it_has_begun(self, tmp_path: pathlib.Path) -> None:
        job = tmp_path / "orders.toml"
        os.mkfifo(job)  # reading the job file waits for its writer
        with running(job) as process:
            writer = opened_for_reading(job, process)
            process.terminate()
            _, err = process.communicate(timeout=WAIT_S)
            os.close(writer)
        assert (process.returncode, err) == (0, "")

    @pytest.mark.slow
    @pytest.mark.parametrize("how", ["SIGTERM", "SIGINT"])
    @pytest.mark.parametrize("module", ["bisync.config", "trio", "bisync.runtime.engine", "structlog"])
    def test_ends_well_also_when_it_is_told_while_a_module_is_loaded(
        self, tmp_path: pathlib.Path, module: str, how: str
    ) -> None:
        """In exec() of a text, as where a dataclass is made: after a KeyboardInterrupt there Python kills itself."""
        (tmp_path / "sitecustomize.py").write_text(INTERRUPTER.format(module=module, how=how))
        with running(jobs.job_file(tmp_path), env={**os.environ, "PYTHONPATH": str(tmp_path)}) as process:
            _, err = process.communicate(timeout=WAIT_S)
        assert (process.returncode, err) == (0, "interrupted\n")

    def test_names_all_failed_checks_with_what_to_do(self, sites: list[LocalServer], tmp_path: pathlib.Path) -> None:
        east, west = (s.client() for s in sites)
        east.config_set("maxmemory-policy", "allkeys-lru")
        west.set("not", "empty")
        west.config_set("requirepass", SECRET)
        file = jobs.job_file(tmp_path, sites[0].url, sites[1].url.replace("//", f"//:{SECRET}@"))
        with running(file) as process:
            out, err = process.communicate(timeout=WAIT_S)
        assert (process.returncode, out) == (1, "")
        for said in ("2 checks failed", "- east: eviction: ", "- target empty: ", "Next: "):
            assert said in err, err
        assert "Traceback" not in err and SECRET not in err
        assert read_status(load_job(file), jobs.now_ms())["state"] == "precheck-failed"

    def test_a_bad_job_file_is_wrong_use(self, tmp_path: pathlib.Path) -> None:
        file = jobs.job_file(tmp_path, topology="sideways")
        with running(file) as process:
            _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 2 and "topology" in err and "Traceback" not in err

    def test_an_engine_that_is_superseded_says_so(self, sites: list[LocalServer], tmp_path: pathlib.Path) -> None:
        file = jobs.job_file(tmp_path, *(s.url for s in sites))
        with running(file) as first:
            synchronises(file, first)
            with running(file) as second:
                _, err = first.communicate(timeout=WAIT_S)
                assert first.returncode == 3 and "taken" in err.splitlines()[-1] and "Traceback" not in err, err
                synchronises(file, second)

    def test_its_log_can_be_json(self, sites: list[LocalServer], tmp_path: pathlib.Path) -> None:
        file = jobs.job_file(tmp_path, *(s.url for s in sites))
        with running(file, "--log-format", "json") as process:
            synchronises(file, process)
            process.terminate()
            _, err = process.communicate(timeout=WAIT_S)
        entries = [json.loads(line) for line in err.splitlines()]
        assert entries and all({"time", "level", "event", "job"} <= set(e) for e in entries)


def test_warnings_of_the_precheck_do_not_stop_it(
    sites: list[LocalServer], tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sites[0].client().config_set("repl-backlog-size", "16kb")
    check_first(load_job(jobs.job_file(tmp_path, *(s.url for s in sites))))
    captured = capsys.readouterr()
    assert "backlog" in captured.out + captured.err


def test_two_sites_that_are_away_are_two_failures(tmp_path: pathlib.Path) -> None:
    with pytest.raises(BisyncError) as e:
        check_first(load_job(jobs.job_file(tmp_path)))
    lines = str(e.value).splitlines()
    assert lines[0] == "job 'orders' cannot begin: 2 checks failed:"
    assert [line.split(": ")[0].strip(" -") for line in lines[1:3]] == ["east", "west"]
    assert lines[3].startswith("Next: ")


class TestLog:
    def entry(self, **more: Any) -> str:
        return render_text(None, "info", {"time": "T", "level": "info", **more})

    def test_a_line_has_time_level_text_and_fields(self) -> None:
        assert self.entry(event="the copy is done", kind="copied", job="a b") == (
            "T info    the copy is done  kind=copied job='a b'"
        )

    def test_more_lines_are_indented_below_the_fields(self) -> None:
        assert self.entry(event="two:\n- a\n- b", kind="k") == "T info    two:  kind=k\n    - a\n    - b"

    def test_an_entry_without_a_text_is_still_a_line(self) -> None:
        assert self.entry(event="") == "T info    "


@attrs.define
class Copying:
    keys: int = 0
    finished: bool = False
    done: bool = False


@attrs.define
class Pair:
    copying: Copying = attrs.Factory(Copying)


@attrs.define
class Keys:
    bytes_done: int = 0


@attrs.define
class Copier:
    keys: Keys | None = None
    keys_total: int | None = None
    scan: "Scan | None" = None


@attrs.define
class Scan:
    looked_at: int = 0
    total: int = 0


@attrs.define
class Reconciler:
    done: int = 0
    total: int | None = None


@attrs.define
class Life:
    """As much of an engine's life as the bar looks at."""

    pair: Pair | None = None
    copier: Copier | None = None
    reconciler: Reconciler | None = None


class TestBar:
    @pytest.fixture
    def terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("COLUMNS", "160")

    def test_shows_keys_and_bytes_of_the_full_copy(self, terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
        life = Life()
        with CopyBar() as bar:
            bar(life)  # type: ignore[arg-type]
            assert capsys.readouterr().err == "", "nothing before the copy has begun"
            life = Life(Pair(Copying(250)), Copier(Keys(3_000_000), 1000))
            bar(life)  # type: ignore[arg-type]
            text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
            assert "full copy" in text and " 250/1000 keys 3.0 MB" in text, text
            life.pair = Pair(Copying(1000, finished=True))
            bar(life)  # type: ignore[arg-type]
            capsys.readouterr()
            bar(life)  # type: ignore[arg-type]
            assert capsys.readouterr().err == "", "nothing after it"

    def test_then_shows_how_many_keys_of_the_target_were_checked(
        self, terminal: None, capsys: pytest.CaptureFixture[str]
    ) -> None:
        life = Life(Pair(Copying(1000)), Copier(Keys(3_000_000), 1000))
        with CopyBar() as bar:
            bar(life)  # type: ignore[arg-type]
            assert life.copier is not None
            life.copier.scan = Scan(300, 2000)
            capsys.readouterr()
            bar(life)  # type: ignore[arg-type]
            text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
        assert "checking the target" in text and " 300/2000 keys" in text, text

    def test_shows_how_many_keys_were_compared(self, terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
        with CopyBar() as bar:
            bar(Life(Pair(Copying(finished=True)), None, Reconciler(30, 200)))  # type: ignore[arg-type]
        text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
        assert "reconciling" in text and " 30/200 keys" in text, text

    @pytest.mark.parametrize("on_a_terminal", [True, False])
    def test_is_for_terminals_only(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, on_a_terminal: bool
    ) -> None:
        given = []

        class Engine:
            def __init__(self, job: object, precheck: object, progress: object) -> None:
                given.append(progress)

            async def run(self) -> None:
                pass

        monkeypatch.setattr("bisync.runtime.engine.Engine", Engine)
        monkeypatch.setattr(sys.stderr, "isatty", lambda: on_a_terminal)
        module._run(load_job(jobs.job_file(tmp_path)))
        assert [isinstance(progress, CopyBar) for progress in given] == [on_a_terminal]

    @pytest.mark.parametrize("total", [None, 10])
    def test_bears_a_total_that_is_unknown_or_too_small(
        self, terminal: None, capsys: pytest.CaptureFixture[str], total: int | None
    ) -> None:
        with CopyBar() as bar:
            bar(Life(Pair(Copying(250)), Copier(Keys(), total)))  # type: ignore[arg-type]
        assert "250/" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err)
