"""`bisync limits`: what it shows, what it changes, what it refuses."""

import json
import pathlib
from typing import Any

import attrs
import pytest
from click.testing import CliRunner, Result

from bisync.cli import main
from bisync.config import load_job
from bisync.errors import BisyncError
from bisync.runtime.store import Store
from bisync.status import LimitsReport
from tests.cli import jobs


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    file = jobs.job_file(tmp_path)
    file.write_text(file.read_text() + "[limits]\ncopy_commands_per_s = 500\n")
    return file


def limits(file: pathlib.Path, *words: object) -> Result:
    return CliRunner().invoke(main, ["limits", str(file), *map(str, words)])


def values(file: pathlib.Path, *words: object) -> dict[str, Any]:
    """What the document says of each limit: (value, from)."""
    result = limits(file, *words, "--json")
    assert result.exit_code == 0, result.output
    return {name: (limit["value"], limit["from"]) for name, limit in json.loads(result.output)["limits"].items()}


def test_shows_the_job_file_where_nothing_was_changed_and_makes_no_store(file: pathlib.Path) -> None:
    found = values(file)
    assert found.pop("copy_commands_per_s") == (500, "job file")
    assert found.pop("copy_yields") == (True, "job file")
    assert set(found.values()) == {(0, "job file")} and len(found) == 3
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_changes_what_is_named_and_resets_all_else(file: pathlib.Path) -> None:
    changed = values(file, "--copy-commands", 0, "--follow-bytes", 2_048, "--no-copy-yields")
    assert (changed["copy_commands_per_s"], changed["follow_bytes_per_s"]) == ((0, "store"), (2_048, "store"))
    assert changed["copy_yields"] == (False, "store")
    assert values(file, "--copy-bytes", 5_000) == {**changed, "copy_bytes_per_s": (5_000, "store")}
    after = values(file, "--reset", "--follow-commands", 9)
    assert (after["copy_commands_per_s"], after["follow_commands_per_s"]) == ((500, "job file"), (9, "store"))
    with Store.open(load_job(file).store) as store:
        assert store.settings("orders") == {"follow_commands_per_s": 9}
    assert values(file, "--reset")["follow_commands_per_s"] == (0, "job file")


def test_people_see_each_limit_and_whether_an_engine_takes_it(file: pathlib.Path) -> None:
    shown = limits(file, "--copy-bytes", 20_000_000).output
    for line in ("full copy, commands/s:  500", "full copy, bytes/s:     20,000,000  (set by bisync limits)"):
        assert line in shown
    assert "following, bytes/s:     no cap" in shown and "the copy yields:        yes" in shown
    assert shown.endswith("No engine is running; the next one has this.\n")


def test_what_an_engine_sends_is_shown(file: pathlib.Path) -> None:
    report = jobs.report()
    told = LimitsReport(500, 0, 498.4, 51_000.0, 0.25)
    channels = {**report.channels, "forward": attrs.evolve(report.channels["forward"], limits=told)}
    jobs.save(file, attrs.evolve(report, channels=channels))
    shown = limits(file, "--copy-bytes", 0).output
    assert "forward: sends 498 commands/s, 51,000 bytes/s; at most 500 commands/s; it yields: 25% of its usual" in shown
    assert "reverse: sends 0 commands/s, 0 bytes/s; at most what it can\n" in shown
    assert shown.endswith("The engine takes this within a second.\n")
    document = json.loads(limits(file, "--json").output)
    assert document["engine_runs"] and document["channels"]["forward"]["sent_commands_per_s"] == 498.4
    status = CliRunner().invoke(main, ["status", str(file)]).output
    assert "forward: capped at 500 commands/s (bisync limits)" in status
    assert "forward: the copy yields to the target's clients: 25% of its usual pace" in status


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            ("--copy-commands", -1),
            "--copy-commands -1: expected a whole number of commands from 1 to 1,000,000,000, or 0",
        ),
        (("--follow-bytes", 1_000), "--follow-bytes 1000: expected a whole number of bytes from 1,024 to"),
        (("--copy-bytes", "fast"), "'fast' is not a valid integer"),
        (("--follow-commands", "1.5"), "'1.5' is not a valid integer"),
    ],
)
def test_a_wrong_value_is_one_clear_error_and_changes_nothing(
    file: pathlib.Path, words: tuple[object, ...], text: str
) -> None:
    result = CliRunner().invoke(main, ["limits", str(file), *map(str, words), "--copy-bytes=0"][:4])
    assert (result.exit_code, isinstance(result.exception, SystemExit)) == (2, True)
    assert text in result.output and "Traceback" not in result.output
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_all_wrong_values_are_told_at_once(file: pathlib.Path) -> None:
    shown = limits(file, "--copy-commands", -1, "--copy-bytes", 2).output
    assert "--copy-commands -1: " in shown and "--copy-bytes 2: " in shown


def test_a_store_that_cannot_be_used_is_an_error(file: pathlib.Path) -> None:
    load_job(file).store.write_text("no database")
    for words in ((), ("--copy-bytes", 0)):
        result = CliRunner().invoke(main, ["limits", str(file), *map(str, words)], standalone_mode=False)
        assert isinstance(result.exception, BisyncError) and "is not a store of bisync" in str(result.exception)
