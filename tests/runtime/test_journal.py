"""The journal: what was read of a stream is there again, after a lost connection and after a killed engine."""

import os
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bisync.core.position import Position
from bisync.runtime import journal as module
from bisync.runtime.journal import Journal

A, B = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 1000)
    monkeypatch.setattr(module, "MEMORY_BYTES", 300)


def new(folder: pathlib.Path | None, limit: int = 1 << 30) -> Journal:
    return Journal("east", folder, limit)


def stream(start: int, end: int) -> bytes:
    """The bytes of a stream whose every byte tells its place."""
    return bytes((i * 7 + i // 256) % 256 for i in range(start, end))


def read_all(journal: Journal, offset: int) -> bytes:
    got = b""
    while piece := journal.read(offset + len(got), 77):
        got += piece
    return got


def fill(journal: Journal, start: int, end: int, step: int = 90) -> None:
    for at in range(start, end, step):
        journal.append(stream(at, min(end, at + step)))


@pytest.mark.parametrize("on_disk", [True, False])
def test_everything_from_the_floor_on_can_be_read(tmp_path: pathlib.Path, on_disk: bool) -> None:
    journal = new(tmp_path / "j" if on_disk else None)
    journal.begin(A, 500)
    fill(journal, 500, 5500)
    assert read_all(journal, 500) == stream(500, 5500)
    assert read_all(journal, 4321) == stream(4321, 5500)
    assert journal.read(5500, 10) == b""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=12), st.data())
def test_any_part_is_read_back_as_it_came(tmp_path: pathlib.Path, sizes: list[int], data: st.DataObject) -> None:
    journal = new(tmp_path / "j")
    journal.begin(A, 0)
    for size in sizes:
        journal.append(stream(journal.end, journal.end + size))
    offset = data.draw(st.integers(0, journal.end))
    trimmed = data.draw(st.integers(0, offset))
    journal.trim(trimmed)
    assert read_all(journal, offset) == stream(offset, journal.end)
    journal.discard()


def test_a_new_engine_finds_what_a_killed_one_left(tmp_path: pathlib.Path) -> None:
    killed = new(tmp_path)
    killed.begin(A, 0)
    fill(killed, 0, 3000)  # never closed: a killed engine does not close
    journal = new(tmp_path)
    assert journal.recover(Position(A, 1234)) == Position(A, 3000)
    assert read_all(journal, 1234) == stream(1234, 3000)
    fill(journal, 3000, 4000)
    assert new(tmp_path).recover(Position(A, 1234)) == Position(A, 4000)


def test_a_lost_connection_loses_nothing_of_the_same_process(tmp_path: pathlib.Path) -> None:
    journal = new(tmp_path)
    journal.begin(A, 0)
    fill(journal, 0, 2500)
    assert journal.recover(Position(A, 100)) == Position(A, 2500)
    assert read_all(journal, 100) == stream(100, 2500)


def test_a_history_that_got_another_name_goes_on(tmp_path: pathlib.Path) -> None:
    journal = new(tmp_path)
    journal.begin(A, 0)
    fill(journal, 0, 1500)
    journal.go_on_as(B)
    fill(journal, 1500, 2600)
    assert journal.covers(Position(A, 700)) and journal.covers(Position(B, 700))
    assert journal.recover(Position(A, 700)) == Position(B, 2600)
    again = new(tmp_path)
    assert again.recover(Position(A, 700)) == Position(B, 2600)
    assert read_all(again, 700) == stream(700, 2600)


def test_another_history_is_not_used(tmp_path: pathlib.Path) -> None:
    old = new(tmp_path)
    old.begin(A, 0)
    fill(old, 0, 1500)
    journal = new(tmp_path)
    assert journal.recover(Position(B, 700)) == Position(B, 700)
    journal.sweep()
    assert not list(tmp_path.glob("*.journal"))


def test_segments_of_another_boot_are_not_trusted(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = new(tmp_path)
    old.begin(A, 0)
    fill(old, 0, 1500)
    monkeypatch.setattr(module, "boot_id", lambda: "another boot")
    assert new(tmp_path).recover(Position(A, 700)) == Position(A, 700)


def test_files_that_are_no_segments_are_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "east.notes.journal").write_text("mine")
    (tmp_path / f"east.{0:020}.1.1.journal").write_bytes(b"\0" * 600)
    journal = new(tmp_path)
    assert journal.recover(Position(A, 0)) == Position(A, 0)
    journal.begin(A, 0)
    assert (tmp_path / "east.notes.journal").read_text() == "mine"


def test_what_is_before_the_floor_is_removed_from_disk(tmp_path: pathlib.Path) -> None:
    journal = new(tmp_path)
    journal.begin(A, 0)
    fill(journal, 0, 5000)
    before = len(list(tmp_path.iterdir()))
    journal.trim(4500)
    assert len(list(tmp_path.iterdir())) < before
    assert read_all(journal, 4500) == stream(4500, 5000)


def test_the_bound_makes_the_reader_wait_until_the_floor_moves(tmp_path: pathlib.Path) -> None:
    journal = new(tmp_path, limit=2000)
    journal.begin(A, 0)
    fill(journal, 0, 1900)
    assert not journal.full
    fill(journal, 1900, 2000)
    assert journal.full
    journal.trim(1500)
    assert not journal.full


def test_a_full_disk_is_said_and_the_journal_goes_on_in_memory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    journal = Journal("east", tmp_path, 1 << 30, said.append)
    journal.begin(A, 0)
    fill(journal, 0, 1500)
    real = os.write

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    fill(journal, 1500, 2500)
    assert "No space left" in said[0] and len(said) == 1
    assert read_all(journal, 0) == stream(0, 2500)
    monkeypatch.setattr(os, "write", real)
    monkeypatch.setattr(journal, "_disk_due_s", 0.001)
    fill(journal, 2500, 4200)
    assert "on disk again" in said[1]
    assert read_all(journal, 0) == stream(0, 4200)


def test_a_floor_under_the_new_name_is_found_though_the_old_segments_bear_the_old_one(tmp_path: pathlib.Path) -> None:
    killed = new(tmp_path)
    killed.begin(A, 0)
    fill(killed, 0, 1500)
    killed.go_on_as(B)  # nothing has come under the new name yet
    journal = new(tmp_path)
    assert journal.recover(Position(B, 700)).offset == 1500
    assert read_all(journal, 700) == stream(700, 1500)


def test_a_history_of_many_names_is_found(tmp_path: pathlib.Path) -> None:
    killed = new(tmp_path)
    killed.begin(A, 0)
    names = [f"{n:040x}" for n in range(12)]
    for n, name in enumerate(names):
        killed.go_on_as(name)
        fill(killed, n * 100, n * 100 + 100)
    journal = new(tmp_path)
    assert journal.recover(Position(names[-1], 0)) == Position(names[-1], 1200)
    assert read_all(journal, 0) == stream(0, 1200)


def test_a_journal_on_disk_may_fill_the_disks_bound_before_a_file_is_open(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MEMORY_ONLY_BYTES", 500)
    killed = new(tmp_path)
    killed.begin(A, 0)
    fill(killed, 0, 1500)
    journal = new(tmp_path)
    journal.recover(Position(A, 0))
    assert not journal.full


def test_what_another_living_engine_has_written_is_left_to_it(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = new(tmp_path)
    other.begin(A, 0)
    fill(other, 0, 1500)
    monkeypatch.setattr(os, "getpid", lambda: 1)  # to this one the files bear another process's number
    journal = new(tmp_path)
    journal.begin(B, 0)
    assert read_all(other, 0) == stream(0, 1500)
