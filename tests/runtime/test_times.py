"""The times beside the journal: another engine that reads the bytes again knows as much of them as the first."""

import os
import pathlib
import time

import pytest

from bisync.core.moment import Moment
from bisync.core.position import Position
from bisync.runtime import journal as journals
from bisync.runtime import times as module
from bisync.runtime.dating import UNKNOWN_US
from bisync.runtime.journal import Journal
from bisync.runtime.times import times_path
from bisync.runtime.wallclock import WallClock

A, B = "a" * 40, "b" * 40
STEP = 90  # bytes in a mark


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 1000)
    monkeypatch.setattr(journals, "MEMORY_BYTES", 300)


def new(folder: pathlib.Path | None, clock: WallClock | None = None) -> Journal:
    return Journal("east", folder, 1 << 30, clock=clock or WallClock())


def fill(journal: Journal, clock: WallClock, steps: int, began_us: int) -> None:
    """Append so many pieces, each with a mark of its own, in the past."""
    for n in range(steps):
        us = began_us + 1000 * n
        journal.append(b"x" * STEP, [(journal.end + STEP, Moment(us, us + 300))])


def known(journal: Journal) -> list[tuple[int, Moment]]:
    return journal.moments.between(0, journal.end)


def killed(folder: pathlib.Path, steps: int = 30) -> tuple[list[tuple[int, Moment]], WallClock]:
    """What an engine that was killed knew, and its clock."""
    clock = WallClock()
    journal = new(folder, clock)
    journal.begin(A, 0)
    fill(journal, clock, steps, clock.now_us() - 5_000_000)
    return known(journal), clock


def segment_of(folder: pathlib.Path, offset: int) -> pathlib.Path:
    return max(p for p in folder.glob("*.journal") if int(p.name.split(".")[1]) <= offset)


def shifted(marks: list[tuple[int, Moment]], us: int) -> list[tuple[int, Moment]]:
    return [(end, Moment(m.earliest_us + us, m.latest_us + us)) for end, m in marks]


def apart_us(a: WallClock, b: WallClock) -> int:
    """How much the first clock is ahead of the second."""
    return a.from_uptime(0) - b.from_uptime(0)


def test_another_engine_knows_the_same(tmp_path: pathlib.Path) -> None:
    before, clock = killed(tmp_path)
    journal = new(tmp_path, again := WallClock())
    journal.recover(Position(A, 0))
    assert known(journal) == shifted(before, apart_us(again, clock)) and len(before) == 30


def test_a_third_engine_still_knows_what_the_first_has_read(tmp_path: pathlib.Path) -> None:
    before, clock = killed(tmp_path)
    second = new(tmp_path, clock)
    second.recover(Position(A, 0))
    fill(second, clock, 20, clock.now_us() - 1_000_000)
    third = new(tmp_path, clock)
    third.recover(Position(A, 0))
    assert known(third) == known(second) and known(third)[:30] == before


@pytest.mark.parametrize("step_s", [3600, -3600])
def test_a_clock_that_was_set_in_between_does_not_matter(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    before, clock = killed(tmp_path)
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + step_s)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + step_s * 1_000_000_000)
    journal = new(tmp_path, again := WallClock())
    journal.recover(Position(A, 0))
    assert abs(apart_us(again, clock) - step_s * 1_000_000) < 1_000_000
    assert known(journal) == shifted(before, apart_us(again, clock))
    assert all(moment.latest_us < again.now_us() for _, moment in known(journal))


def test_times_that_lie_in_the_future_are_not_believed(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(tmp_path, 5)
    real_ns = time.monotonic_ns
    monkeypatch.setattr(time, "monotonic_ns", lambda: real_ns() - 3600 * 1_000_000_000)
    journal = new(tmp_path, again := WallClock())
    journal.recover(Position(A, 0))
    ((end, moment),) = known(journal)
    assert end == 5 * STEP and moment.earliest_us == UNKNOWN_US and moment.latest_us <= again.now_us()


@pytest.mark.parametrize("damage", ["missing", "empty", "other", "byte", "cut", "short"])
def test_what_is_damaged_is_unknown_and_the_rest_is_believed(tmp_path: pathlib.Path, damage: str) -> None:
    before, clock = killed(tmp_path)
    path = times_path(segment_of(tmp_path, 1500))
    data = path.read_bytes()
    damaged = {
        "empty": b"",
        "other": b"bisync-times 9\n".ljust(28) + data[28:],
        "byte": data[:64] + bytes([data[64] ^ 1]) + data[65:],
        "cut": data[:100],
        "short": data[:20],
    }
    path.unlink() if damage == "missing" else path.write_bytes(damaged[damage])
    journal = new(tmp_path, clock)
    journal.recover(Position(A, 0))
    after = known(journal)
    assert after[-5:] == before[-5:] and after[:10] == before[:10], "other segments are not concerned"
    for end, moment in before:
        found = journal.moments.at(end - STEP)
        assert found is not None
        assert found.earliest_us <= moment.earliest_us and moment.latest_us <= found.latest_us, (end, moment, found)
    assert 8 <= len(before) - len(after) <= 11, "damage was not noticed, or more than one segment is unknown"


def test_bytes_whose_times_were_not_written_any_more_came_before_the_next_engine(tmp_path: pathlib.Path) -> None:
    before, clock = killed(tmp_path, 3)
    with open(segment_of(tmp_path, 0), "ab") as file:
        file.write(b"y" * 40)
    journal = new(tmp_path, clock)
    journal.recover(Position(A, 0))
    end, moment = known(journal)[-1]
    assert end == 3 * STEP + 40
    assert moment.earliest_us == before[-1][1].earliest_us and moment.latest_us <= clock.now_us()


def test_the_same_engine_keeps_what_it_knows_and_forgets_what_is_trimmed(tmp_path: pathlib.Path) -> None:
    clock = WallClock()
    journal = new(tmp_path, clock)
    journal.begin(A, 0)
    fill(journal, clock, 30, clock.now_us() - 5_000_000)
    before = known(journal)
    journal.recover(Position(A, 10 * STEP))
    assert known(journal) == before
    journal.trim(20 * STEP)
    assert known(journal) == before[20:]
    journal.begin(A, 0)
    assert known(journal) == []


def test_a_file_of_times_is_bounded_and_keeps_those_that_matter(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journals, "SEGMENT_BYTES", 1 << 20)
    monkeypatch.setattr(module, "RECORDS_MAX", 50)
    clock = WallClock()
    journal = new(tmp_path, clock)
    journal.begin(A, 0)
    for _ in range(40):
        fill(journal, clock, 20, clock.now_us() - 1_000_000)
        journal.trim(journal.end - 30 * STEP)
    (path,) = tmp_path.glob("*.times")
    assert path.stat().st_size <= 28 * 52
    again = new(tmp_path, clock)
    again.recover(Position(A, journal.end - 20 * STEP))
    assert known(again) == journal.moments.between(journal.end - 20 * STEP, journal.end)


def test_times_go_with_their_segments(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(tmp_path)
    stems = {path.stem for path in tmp_path.glob("*.journal")}
    assert {path.stem for path in tmp_path.glob("*.times")} == stems and len(stems) > 1
    (tmp_path / f"east.{7:020}.9.9.times").write_bytes(b"left alone by its segment")
    (tmp_path / f"east.{7:020}.9.9.times-new").write_bytes(b"")
    journal = new(tmp_path)
    journal.recover(Position(B, 0))
    journal.sweep()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_costs_only_the_times(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, real = WallClock(), os.write
    journal = new(tmp_path, clock)
    journal.begin(A, 0)
    fill(journal, clock, 3, clock.now_us() - 5_000_000)

    def full(file: int, data: bytes) -> int:
        return real(file, data) if len(data) == STEP else real(file, bytes(data)[: len(data) // 2])

    monkeypatch.setattr(os, "write", full)
    fill(journal, clock, 3, clock.now_us() - 4_000_000)
    monkeypatch.setattr(os, "write", real)
    again = new(tmp_path, clock)
    assert again.recover(Position(A, 0)).offset == 6 * STEP
    assert known(again)[:3] == known(journal)[:3]
    assert known(again)[3][0] == 6 * STEP, "half a record was believed"


def test_a_journal_that_was_in_memory_has_its_times_on_disk_once_there_is_room(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, real = WallClock(), os.write
    journal = new(tmp_path, clock)
    journal.begin(A, 0)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    fill(journal, clock, 3, clock.now_us() - 5_000_000)
    monkeypatch.setattr(os, "write", real)
    monkeypatch.setattr(journal, "_disk_due_s", 0.001)
    fill(journal, clock, 3, clock.now_us() - 4_000_000)
    again = new(tmp_path, clock)
    again.recover(Position(A, 0))
    assert known(again) == known(journal) and len(known(again)) == 6
