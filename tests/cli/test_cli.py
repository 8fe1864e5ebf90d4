"""What all commands share: lazy loading, texts and exit statuses."""

import functools
import importlib.machinery
import importlib.util
import io
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable

import click
import pytest
from click.testing import CliRunner, Result

from bisync import __version__, cli
from bisync.cli import COMMANDS, main
from bisync.errors import BisyncError, JobFileError, Superseded
from tests.cli import jobs

HEAVY = {"trio", "redis", "hiredis", "cattrs", "rich", "structlog", "sqlite3"}


def python(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)


def ends(monkeypatch: pytest.MonkeyPatch, does: Callable[[], object]) -> Result:
    """The end of a program whose command `demo` does that."""
    module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("bisync.cli.demo", None))
    module.__dict__["command"] = click.Command("demo", callback=does)
    monkeypatch.setitem(sys.modules, "bisync.cli.demo", module)
    return CliRunner().invoke(main, ["demo"])


def raises(error: BaseException) -> Callable[[], None]:
    def does() -> None:
        raise error

    return does


def test_version() -> None:
    done = CliRunner().invoke(main, ["--version"])
    assert (done.exit_code, done.output) == (0, f"bisync, version {__version__}\n")


def test_help_lists_each_command_that_exists() -> None:
    done = CliRunner().invoke(main, ["--help"])
    assert done.exit_code == 0
    there = [name for name in COMMANDS if (pathlib.Path(cli.__file__).parent / f"{name}.py").exists()]
    listed = [line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line]
    assert listed == there


def test_command_whose_module_is_missing_is_not_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "COMMANDS", ("run", "soon"))
    assert "soon" not in CliRunner().invoke(main, ["--help"]).output
    done = CliRunner().invoke(main, ["soon"])
    assert done.exit_code == 2 and "No such command 'soon'" in done.stderr


@pytest.mark.parametrize("arguments", [["nope"], ["--nope"], [], ["run"], ["run", "a", "b"]])
def test_wrong_use_ends_with_2(arguments: list[str]) -> None:
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert done.stdout == "" and done.stderr.startswith("Usage: bisync")


def test_a_command_is_imported_only_when_it_is_asked_for() -> None:
    code = "import sys, bisync.cli; bisync.cli.main(['--version'], standalone_mode=False); "
    shown = python(f"{code} print(*sorted(m.partition('.')[0] if '.cli.' not in m else m for m in sys.modules))")
    assert shown.returncode == 0, shown.stderr
    loaded = set(shown.stdout.split())
    assert "bisync" in loaded and "click" in loaded
    assert not loaded & (HEAVY | {f"bisync.cli.{name}" for name in COMMANDS})


def test_only_the_command_that_is_asked_for_is_imported() -> None:
    shown = python(
        "import sys; from bisync.cli import main; main(['precheck', '--help'], standalone_mode=False);"
        "print([m for m in sys.modules if m.startswith('bisync.cli.')])"
    )
    assert shown.stdout.endswith("['bisync.cli.precheck']\n"), shown.stderr


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (BisyncError("a is b", why="c", hint="do d"), 1, "bisync: a is b (c). Next: do d\n"),
        (Superseded("another engine has taken the job"), 3, "bisync: another engine has taken the job.\n"),
        (
            JobFileError("x.toml", ["name: missing"]),
            2,
            "bisync: x.toml: 1 mistake in the job file:\n  - name: missing\n",
        ),
        (ExceptionGroup("", [Superseded("x"), ExceptionGroup("", [BisyncError("y")])]), 3, "bisync: x.\nbisync: y.\n"),
        (ExceptionGroup("", [BisyncError("x"), BisyncError("x")]), 1, "bisync: x.\n"),
        (click.UsageError("so not"), 2, "Error: so not\n"),
        (click.Abort(), 1, "Aborted.\n"),
    ],
)
def test_known_error_is_a_text_and_a_status(
    monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, text: str
) -> None:
    done = ends(monkeypatch, raises(error))
    assert done.exit_code == status
    assert done.stderr.startswith(text) or done.stderr.endswith(text)
    assert "Traceback" not in done.output and done.stdout == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseExceptionGroup("", [KeyboardInterrupt(), ValueError()])])
def test_interrupt_ends_with_130_and_no_traceback(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    done = ends(monkeypatch, raises(error))
    assert (done.exit_code, done.stderr.strip()) == (130, "")


def test_interrupt_at_a_prompt_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> str:
        raise KeyboardInterrupt

    def asks() -> None:
        monkeypatch.setattr("click.termui.visible_prompt_func", interrupted)
        click.confirm("sure?")

    assert ends(monkeypatch, asks).exit_code == 130


def test_bug_ends_with_70_and_a_traceback_without_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    def does() -> None:
        password = "hush"
        assert password
        raise ValueError("cannot use redis://ann:h@u sh@host:1 and :hush@x")

    done = ends(monkeypatch, does)
    assert done.exit_code == 70
    assert f"this is a bug in bisync {__version__}" in done.stderr.splitlines()[0]
    assert "ValueError: cannot use redis://***@x" in done.stderr
    assert "Traceback" in done.stderr and "ush" not in done.stderr
    assert done.stdout == ""


def test_a_bug_among_known_errors_is_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    done = ends(monkeypatch, raises(ExceptionGroup("", [BisyncError("x"), KeyError("y")])))
    assert done.exit_code == 70 and "KeyError: 'y'" in done.stderr


@pytest.mark.parametrize("status", [0, 1, 3])
def test_command_chooses_its_status(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    assert ends(monkeypatch, lambda: click.get_current_context().exit(status)).exit_code == status
    assert ends(monkeypatch, raises(SystemExit(status))).exit_code == status


def test_command_that_returns_ends_with_0(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ends(monkeypatch, lambda: "done").exit_code == 0


@pytest.mark.parametrize("lines", [1, 100_000])
@pytest.mark.parametrize("unbuffered", ["", "1"])  # where it breaks: at the end, at a full buffer or in the command
def test_a_reader_that_goes_away_is_no_error(lines: int, unbuffered: str) -> None:
    code = f"""
import importlib.machinery, importlib.util, sys, click
module = importlib.util.module_from_spec(importlib.machinery.ModuleSpec("bisync.cli.demo", None))
module.command = click.Command("demo", callback=lambda: [print("x") for _ in range({lines})])
sys.modules["bisync.cli.demo"] = module
from bisync.cli import main
main(["demo"])
"""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as broken:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdout=broken,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.slow
@pytest.mark.skipif(not pathlib.Path("/dev/full").exists(), reason="there is no /dev/full on this system")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--help"], ["--version"], ["status", "{job}"], ["status", "{job}", "--json"]])
def test_output_that_cannot_be_written_is_one_clear_error(
    tmp_path: pathlib.Path, words: list[str], unbuffered: str
) -> None:
    command = [sys.executable, "-m", "bisync", *(w.format(job=jobs.job_file(tmp_path)) for w in words)]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, env=environment)
        assert done.returncode == 1
        assert done.stderr == (
            "bisync: standard output cannot be written (No space left on device)."
            " Next: see where the output is sent, and make room there\n"
        )
        done = subprocess.run(command, stdout=full, stderr=full, timeout=60, env=environment)
        assert done.returncode == 1, "and where nothing can be said, the exit status says it"


@pytest.mark.slow
def test_output_that_was_closed_is_no_error(tmp_path: pathlib.Path) -> None:
    words = f"{sys.executable} -m bisync status {jobs.job_file(tmp_path)} >&-"
    done = subprocess.run(["sh", "-c", words], stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_errors_that_cannot_be_said_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk under the log must not end an engine."""

    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    seen = []
    run = functools.partial(lambda: [print("lost", file=sys.stderr), seen.append("went on")])
    assert cli._status_of(run) == 0 and seen == ["went on"]


def test_python_m_bisync_is_the_same_program(tmp_path: pathlib.Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bisync", "run", str(tmp_path / "no.toml")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "there is no such file" in done.stderr and "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", [n for n in COMMANDS if (pathlib.Path(cli.__file__).parent / f"{n}.py").exists()])
def test_every_command_has_a_help(name: str) -> None:
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0
    assert done.stdout.startswith(f"Usage: bisync {name} ")
    assert len(done.stdout.splitlines()[2].strip()) > 20
