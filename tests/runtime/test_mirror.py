"""The mirror: conflicts are written in batches, none is dropped, and the core is told when they are on the disk."""

import pathlib
import sqlite3
import threading
from collections.abc import Iterator

import pytest
import trio

from bisync.config import Job, load_job
from bisync.core.actions import Conflict
from bisync.runtime import mirror as module
from bisync.runtime.conflict_record import ConflictRecord, Server
from bisync.runtime.mirror import Mirror
from bisync.runtime.store import Store
from tests.cli import jobs
from tests.told import conflict, lost


class Life:
    """A life, as far as the mirror talks to it."""

    def __init__(self, mirror: Mirror, epoch: int) -> None:
        self.mirror, self.recorded = mirror, list[int]()
        mirror.begin_life(epoch, self.recorded.extend)

    def tell(self, *conflicts: Conflict) -> None:
        for one in conflicts:
            self.mirror.conflict(one)


@pytest.fixture
def job(tmp_path: pathlib.Path) -> Job:
    return load_job(jobs.job_file(tmp_path))


@pytest.fixture
def mirror(job: Job) -> Iterator[Mirror]:
    mirror = Mirror(job, Store.open(job.store))
    yield mirror
    mirror.close()


def waiting(mirror: Mirror) -> int:
    """How many conflicts are not on the disk yet."""
    return sum(len(batch.conflicts) for batch in (mirror._waiting, mirror._writing) if batch is not None)


def records(job: Job) -> list[ConflictRecord]:
    with Store.open(job.store) as store:
        return list(store.conflicts.read(job.name, store.conflicts.find(job.name)))


def break_store(job: Job, broken: bool) -> None:
    """Let every conflict that is written fail, or no more."""
    db = sqlite3.connect(job.store, isolation_level=None)
    trigger = "CREATE TRIGGER refuse BEFORE INSERT ON conflicts BEGIN SELECT RAISE(ABORT, 'no'); END"
    db.execute(trigger if broken else "DROP TRIGGER refuse")
    db.close()


async def test_what_is_written_is_recorded_and_not_before(mirror: Mirror, job: Job) -> None:
    life = Life(mirror, 1)
    life.tell(conflict(1), conflict(2, key=b"k2"))
    assert (life.recorded, waiting(mirror)) == ([], 2)
    await mirror.flush()
    assert (life.recorded, waiting(mirror)) == ([1, 2], 0)
    assert [(r.number, r.epoch, r.state) for r in records(job)] == [(1, 1, "open"), (2, 1, "open")]


async def test_found_and_settled_within_one_batch_are_one_write(mirror: Mirror, job: Job) -> None:
    life = Life(mirror, 1)
    life.tell(conflict(1), conflict(2, key=b"k2"), conflict(1, "settled", replaced=lost(b"old")))
    assert waiting(mirror) == 2
    await mirror.flush()
    first, second = records(job)
    assert (first.number, first.state, first.replaced) == (1, "settled", lost(b"old"))
    assert first.settled_ms is not None and first.found_ms <= first.settled_ms
    assert second.number == 2 and life.recorded == [1, 2]


async def test_one_that_is_settled_while_it_is_written_is_recorded_by_the_next_write(
    mirror: Mirror, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    life = Life(mirror, 1)
    life.tell(conflict(1), conflict(2, key=b"k2"))
    may_write, writing = threading.Event(), trio.Event()
    token, write = trio.lowlevel.current_trio_token(), Mirror._write

    def slow(self: Mirror, batch: module._Batch) -> tuple[int | None, dict[str, int]]:
        token.run_sync_soon(writing.set)
        assert may_write.wait(20)
        return write(self, batch)

    monkeypatch.setattr(Mirror, "_write", slow)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mirror.flush)
        await writing.wait()
        assert waiting(mirror) == 2
        life.tell(conflict(1, "settled", replaced=lost(b"old")))
        may_write.set()
    assert life.recorded == [2], "of the first one only the half is on the disk"
    await mirror.flush()
    assert life.recorded == [2, 1]
    assert [r.state for r in records(job)] == ["settled", "open"]


@pytest.mark.slow
async def test_none_is_dropped_while_the_store_cannot_be_written(
    mirror: Mirror, job: Job, autojump_clock: object
) -> None:
    life = Life(mirror, 1)
    break_store(job, True)
    life.tell(conflict(1), conflict(2, key=b"k2"))
    await mirror.flush()
    life.tell(conflict(1, "settled"), *(conflict(n, key=b"%d" % n) for n in range(3, 5_000)))
    await trio.sleep(module.AGAIN_S)
    await mirror.flush()
    assert (life.recorded, waiting(mirror)) == ([], 4_999) and "no" in mirror.failing
    break_store(job, False)
    await trio.sleep(module.AGAIN_S)
    await mirror.flush()
    assert life.recorded == list(range(1, 5_000)) and waiting(mirror) == 0
    assert [r.number for r in records(job)] == list(range(1, 5_000)), "in the order in which they were found"
    assert records(job)[0].state == "settled"


async def test_a_stop_at_the_wrong_moment_loses_nothing(mirror: Mirror, job: Job) -> None:
    life = Life(mirror, 1)
    life.tell(conflict(1))
    with trio.CancelScope() as scope:
        scope.cancel()
        await mirror.flush()
    assert waiting(mirror) == 1
    await mirror.flush(last=True)
    assert life.recorded == [1] and len(records(job)) == 1


async def test_a_value_that_lost_is_not_kept_waiting(mirror: Mirror, autojump_clock: object) -> None:
    life = Life(mirror, 1)

    async def waited() -> float:
        began_s = trio.current_time()
        await mirror.pause(1.0)
        return trio.current_time() - began_s

    life.tell(conflict(1))
    assert await waited() == pytest.approx(1.0)
    life.tell(conflict(1, "settled", replaced=lost(b"old")))
    assert await waited() == pytest.approx(module.SOON_S)
    await mirror.flush()
    assert await waited() == pytest.approx(1.0)


class TestBytes:
    """Values of conflicts that wait for the log are bounded in bytes, not only in number."""

    async def test_reading_waits_while_they_are_too_many_and_goes_on_once_they_are_written(
        self, mirror: Mirror, job: Job, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
    ) -> None:
        monkeypatch.setattr(module, "WAITING_BYTES_MAX", 100_000)
        life = Life(mirror, 1)
        break_store(job, True)
        life.tell(conflict(1, "settled", replaced=lost(b"x" * 60_000)))
        assert not mirror.full
        await mirror.flush(last=True)
        assert not mirror.full and 60_000 < mirror.bytes_waiting < 70_000
        life.tell(conflict(1, "settled", replaced=lost(b"x" * 60_000)))
        assert mirror.bytes_waiting < 70_000, "the same one, told again"
        life.tell(conflict(2, "settled", key=b"k2", replaced=lost(b"x" * 60_000)))
        assert mirror.full
        await mirror.flush(last=True)
        assert mirror.full
        break_store(job, False)
        await mirror.flush(last=True)
        assert not mirror.full and mirror.bytes_waiting == 0 and life.recorded == [1, 2]

    async def test_those_of_earlier_lives_count_and_the_life_is_woken_when_they_are_written(
        self, mirror: Mirror, job: Job, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(module, "WAITING_BYTES_MAX", 100_000)
        Life(mirror, 1).tell(conflict(1, "settled", replaced=lost(b"x" * 120_000)), conflict(2, key=b"k2"))
        woken: list[list[int]] = []
        mirror.begin_life(2, woken.append)
        assert mirror.full
        await mirror.flush()
        assert not mirror.full and woken == [[]]

    async def test_those_under_way_count(self, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "WAITING_BYTES_MAX", 100_000)
        Life(mirror, 1).tell(conflict(1, "settled", replaced=lost(b"x" * 120_000)))
        write, seen = Mirror._write, list[bool]()

        def watched(self: Mirror, batch: module._Batch) -> tuple[int | None, dict[str, int]]:
            seen.append(self.full)
            return write(self, batch)

        monkeypatch.setattr(Mirror, "_write", watched)
        await mirror.flush()
        assert seen == [True] and not mirror.full


class TestAStoreThatIsMoved:
    async def test_while_a_batch_is_written_it_is_written_again(
        self, mirror: Mirror, job: Job, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
    ) -> None:
        life, moved = Life(mirror, 1), job.store.with_name("moved.db")
        write = Mirror._write_to

        def moving(self: Mirror, store: Store, batch: module._Batch) -> tuple[int | None, dict[str, int]]:
            done = write(self, store, batch)
            if not moved.exists():
                job.store.rename(moved)
            return done

        monkeypatch.setattr(Mirror, "_write_to", moving)
        life.tell(conflict(1, "settled", replaced=lost(b"old")))
        await mirror.flush()
        assert life.recorded == [] and "was moved or removed" in mirror.failing and not job.store.exists()
        await trio.sleep(module.AGAIN_S)
        await mirror.flush()
        assert life.recorded == [1] and [r.replaced for r in records(job)] == [lost(b"old")]

    async def test_at_the_end_what_waits_is_not_lost_and_the_new_one_knows_the_job(
        self, mirror: Mirror, job: Job
    ) -> None:
        life = Life(mirror, 1)
        mirror.checkpoint("forward", b"tag 1")
        mirror.reads("east", "a" * 40)
        await mirror.flush()
        job.store.unlink()
        life.tell(conflict(1, "settled", replaced=lost(b"old")))
        await mirror.flush(last=True)
        assert life.recorded == [1] and len(records(job)) == 1
        with Store.open(job.store) as store:
            assert store.checkpoint("orders", "forward") == "tag 1"
            assert store.conflicts.servers("orders", 1) == {"east": Server("127.0.0.1:1", "a" * 40)}
            assert ["was moved or removed" in e.text for e in store.events("orders")] == [True]


async def test_what_is_dropped_of_earlier_lives_is_said(
    mirror: Mirror, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAITING_EARLIER_MAX", 2)
    Life(mirror, 1).tell(*(conflict(n, "settled", replaced=lost(b"x")) for n in range(5)))
    Life(mirror, 2)
    await mirror.flush()
    with Store.open(job.store) as store:
        [event] = store.events("orders")
    assert (event.level, event.text.partition(" ")[2][:11]) == ("error", "3 conflicts")


class TestLives:
    async def test_each_life_has_its_own_numbers(self, mirror: Mirror, job: Job) -> None:
        first = Life(mirror, 1)
        first.tell(conflict(1, "settled", replaced=lost(b"old")))
        second = Life(mirror, 2)
        second.tell(conflict(1, key=b"another"))
        await mirror.flush()
        assert (first.recorded, second.recorded) == ([], [1])
        assert [(r.key, r.epoch, r.state) for r in records(job)] == [(b"k", 1, "settled"), (b"another", 2, "open")]

    async def test_what_was_not_written_and_will_be_found_again_is_not_kept(self, mirror: Mirror, job: Job) -> None:
        Life(mirror, 1).tell(conflict(1), conflict(2, key=b"k2"))
        second = Life(mirror, 2)
        assert waiting(mirror) == 0
        second.tell(conflict(7))
        await mirror.flush()
        assert [(r.epoch, r.number) for r in records(job)] == [(2, 7)]

    async def test_lost_values_are_kept_as_they_cannot_be_found_again(self, mirror: Mirror, job: Job) -> None:
        Life(mirror, 1).tell(conflict(1, "settled", replaced=lost(b"old")))
        second = Life(mirror, 2)
        second.tell(conflict(7), conflict(7, "settled"))
        await mirror.flush()
        [record] = records(job)
        assert (record.epoch, record.number, record.state, record.replaced) == (2, 7, "settled", lost(b"old"))

    async def test_but_not_without_end(
        self, mirror: Mirror, job: Job, monkeypatch: pytest.MonkeyPatch, autojump_clock: object
    ) -> None:
        monkeypatch.setattr(module, "WAITING_EARLIER_MAX", 5)
        break_store(job, True)
        for epoch in range(1, 6):
            Life(mirror, epoch).tell(*(conflict(n, "settled", replaced=lost(b"%d" % epoch)) for n in range(4)))
            await mirror.flush(last=True)
        Life(mirror, 9)
        assert waiting(mirror) == 5
        break_store(job, False)
        await mirror.flush(last=True)
        assert {r.epoch for r in records(job)} <= {4, 5}

    async def test_a_write_that_ends_after_its_life_tells_the_new_one_nothing(
        self, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = Life(mirror, 1)
        first.tell(conflict(1))
        write, later = Mirror._write, list[Life]()

        def slow(self: Mirror, batch: module._Batch) -> tuple[int | None, dict[str, int]]:
            trio.from_thread.run_sync(lambda: later.append(Life(mirror, 2)))
            return write(self, batch)

        monkeypatch.setattr(Mirror, "_write", slow)
        await mirror.flush()
        assert (first.recorded, later[0].recorded) == ([], [])


class TestWhatIsOpen:
    async def test_conflicts_that_an_earlier_life_left_open_are_settled_when_nothing_is_open(
        self, mirror: Mirror, job: Job, autojump_clock: object
    ) -> None:
        Life(mirror, 1).tell(conflict(1, key=b"a"), conflict(2, key=b"b"))
        await mirror.flush()
        Life(mirror, 2)
        assert mirror.asks_what_is_open
        mirror.still_open([(0, b"b", None)])
        await mirror.flush()
        assert {r.key: r.state for r in records(job)} == {b"a": "settled", b"b": "open"}
        assert not mirror.asks_what_is_open, "not at once again"
        await trio.sleep(module.OPEN_AGAIN_S)
        assert mirror.asks_what_is_open
        mirror.still_open([])
        await mirror.flush()
        assert {r.state for r in records(job)} == {"settled"}
        await trio.sleep(10 * module.OPEN_AGAIN_S)
        assert not mirror.asks_what_is_open, "nothing of before is open, so nothing is asked for any more"

    async def test_what_this_life_has_found_is_left_to_it(self, mirror: Mirror, job: Job) -> None:
        life = Life(mirror, 2)
        life.tell(conflict(1))
        mirror.still_open([])
        await mirror.flush()
        assert [r.state for r in records(job)] == ["open"]

    async def test_a_failed_write_is_asked_for_again(self, mirror: Mirror, job: Job, autojump_clock: object) -> None:
        Life(mirror, 1).tell(conflict(1, key=b"a"))
        await mirror.flush()
        life = Life(mirror, 2)
        break_store(job, True)
        life.tell(conflict(1))
        mirror.still_open([])
        await mirror.flush()
        break_store(job, False)
        await trio.sleep(module.OPEN_AGAIN_S)
        assert mirror.asks_what_is_open


async def test_the_bounds_of_the_job_file_hold(tmp_path: pathlib.Path) -> None:
    file = jobs.job_file(tmp_path)
    file.write_text(file.read_text() + "[conflicts]\nkeep_entries = 3\n")
    job = load_job(file)
    mirror = Mirror(job, Store.open(job.store))
    try:
        Life(mirror, 1).tell(*(conflict(n, "settled", key=b"%d" % n) for n in range(10)))
        await mirror.flush()
        assert [r.number for r in records(job)] == [7, 8, 9]
    finally:
        mirror.close()


async def test_settings_that_change_are_told_and_go_along_to_a_new_store(mirror: Mirror, job: Job) -> None:
    told: list[dict[str, int]] = []
    mirror.tell_settings = told.append
    await mirror.flush()
    with Store.open(job.store) as other:  # as another process does
        other.save_settings(job.name, {"copy_bytes_per_s": 5_000}, 1)
        await mirror.flush()
        await mirror.flush()
        assert told == [{"copy_bytes_per_s": 5_000}] == [mirror.settings]
    job.store.rename(job.store.with_name("moved.db"))
    await mirror.flush(last=True)
    with Store.open(job.store, create=False) as new:
        assert new.settings(job.name) == {"copy_bytes_per_s": 5_000}
        new.save_settings(job.name, {"copy_bytes_per_s": None}, 2)
    await mirror.flush(last=True)
    assert told[1:] == [{}]


def test_settings_are_there_before_the_first_flush(job: Job) -> None:
    with Store.open(job.store) as store:
        store.save_settings(job.name, {"copy_bytes_per_s": 5_000}, 1)
        assert Mirror(job, store).settings == {"copy_bytes_per_s": 5_000}
    assert Mirror(job, None).settings == {}
