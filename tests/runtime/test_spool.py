"""The spool: in memory while that is enough, then on disk in segments; kept for the next engine; bounded."""

import os
import pathlib

import pytest
import trio

from bisync.core.position import Position, stream_clock
from bisync.errors import BisyncError
from bisync.runtime import spool as spool_module
from bisync.runtime.spool import MANIFEST, Snapshot, Spool

WHERE = Snapshot(Position("a" * 40, 77, 3), stream_clock(2, 5))
DATA = [bytes((n,)) * 700 for n in range(40)]
WHOLE = b"".join(DATA)


def spool(folder: pathlib.Path, *, limit_bytes: int = 0, reserve_bytes: int = 0) -> Spool:
    return Spool(folder, limit_bytes=limit_bytes, memory_bytes=5_000, segment_bytes=4_096, reserve_bytes=reserve_bytes)


def filled(folder: pathlib.Path) -> Spool:
    subject = spool(folder)
    for data in DATA:
        subject.write(data)
    subject.write(b"")
    return subject


def read(subject: Spool) -> bytes:
    """All of it; it must be whole."""

    async def main() -> bytes:
        return b"".join([data async for data in subject.pieces()])

    return trio.run(main)


def files(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def segment(folder: pathlib.Path, number: int) -> pathlib.Path:
    (found,) = folder.glob(f"snapshot-*-{number:06}.rdb")
    return found


def test_what_is_small_never_comes_to_the_disk(tmp_path: pathlib.Path) -> None:
    subject = spool(tmp_path / "j")
    for data in DATA[:7]:
        subject.write(data)
    subject.write(b"")
    assert read(subject) == b"".join(DATA[:7])
    subject.keep(WHERE)
    subject.close(keep=True)
    assert files(tmp_path / "j") == [], "taking a small snapshot again costs nothing"


def test_what_is_large_is_read_from_segments_and_gone_at_the_end(tmp_path: pathlib.Path) -> None:
    subject = filled(tmp_path)
    assert len(files(tmp_path)) == 7
    assert read(subject) == WHOLE
    assert read(subject) == WHOLE, "a later life reads it again"
    subject.close()
    subject.close()
    assert files(tmp_path) == []


def test_one_task_reads_while_another_one_writes(tmp_path: pathlib.Path) -> None:
    async def main() -> bytes:
        subject, found = spool(tmp_path), bytearray()

        async def collect() -> None:
            async for data in subject.pieces():
                found.extend(data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(collect)
            for n, data in enumerate(DATA):
                subject.write(data)
                if n % 3 == 0:
                    await trio.testing.wait_all_tasks_blocked()
                    assert bytes(found) == b"".join(DATA[: n + 1])
            subject.write(b"")
        return bytes(found)

    assert trio.run(main) == WHOLE


def test_a_later_engine_finds_it_whole_and_where_it_stands(tmp_path: pathlib.Path) -> None:
    first = filled(tmp_path)
    first.keep(WHERE)
    first.close(keep=True)
    second = Spool.left(tmp_path)
    assert second is not None and second.snapshot == WHERE and second.whole_so_far
    assert read(second) == WHOLE
    second.close()
    assert files(tmp_path) == []


def test_so_does_one_after_a_kill(tmp_path: pathlib.Path) -> None:
    first = spool(tmp_path)
    first.keep(WHERE)
    for data in DATA:
        first.write(data)
    assert Spool.left(tmp_path) is None, "it is not whole yet"
    first.write(b"")
    second = Spool.left(tmp_path)
    assert second is not None and read(second) == WHOLE


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: segment(folder, 3).unlink(),
        lambda folder: segment(folder, 3).write_bytes(b"short"),
        lambda folder: (folder / MANIFEST).write_text("{"),
        lambda folder: (folder / MANIFEST).write_text("[]"),
        lambda folder: (folder / MANIFEST).write_text(
            (folder / MANIFEST).read_text().replace('"boot": "', '"boot": "x')
        ),
        lambda folder: (folder / MANIFEST).write_text(
            (folder / MANIFEST).read_text().replace('"segments": [[', '"s": [[')
        ),
    ],
    ids=["gone", "short", "no JSON", "no manifest", "another boot", "no segments"],
)
def test_what_is_damaged_is_not_used(damage: object, tmp_path: pathlib.Path) -> None:
    subject = filled(tmp_path)
    subject.keep(WHERE)
    subject.close(keep=True)
    damage(tmp_path)  # type: ignore[operator]
    assert Spool.left(tmp_path) is None


def test_what_was_forgotten_is_not_used(tmp_path: pathlib.Path) -> None:
    subject = filled(tmp_path)
    subject.keep(WHERE)
    subject.forget()
    assert not subject.whole_so_far
    subject.close(keep=True)
    assert Spool.left(tmp_path) is None and files(tmp_path) == []


def test_a_new_one_removes_what_an_old_one_left(tmp_path: pathlib.Path) -> None:
    subject = filled(tmp_path)
    subject.keep(WHERE)
    subject.close(keep=True)
    spool(tmp_path)
    assert files(tmp_path) == []


def test_an_engine_that_was_overtaken_cannot_write_into_the_snapshot_of_the_one_that_overtook_it(
    tmp_path: pathlib.Path,
) -> None:
    overtaken = spool(tmp_path)
    for data in DATA[:10]:
        overtaken.write(data)
    subject = filled(tmp_path)
    for data in DATA[10:]:
        overtaken.write(b"?" * len(data))
    subject.keep(WHERE)
    assert read(subject) == WHOLE
    overtaken.close()
    later = Spool.left(tmp_path)
    assert later is None or read(later) == WHOLE


def test_a_snapshot_that_something_has_cut_is_an_error_and_not_used_again(tmp_path: pathlib.Path) -> None:
    subject = filled(tmp_path)
    subject.keep(WHERE)
    os.truncate(segment(tmp_path, 3), 100)
    with pytest.raises(BisyncError, match="snapshot-.*-000003.rdb cannot be read"):
        read(subject)
    assert not subject.whole_so_far


def test_at_its_bound_what_was_read_goes_first_and_then_it_is_an_error(tmp_path: pathlib.Path) -> None:
    async def main() -> None:
        subject = spool(tmp_path, limit_bytes=14_000)
        pieces = subject.pieces()
        for data in DATA[:20]:  # 14,000 bytes
            subject.write(data)
        subject.keep(WHERE)
        for _ in range(2):
            await anext(pieces)
        subject.write(DATA[20])
        assert not subject.whole_so_far, "its beginning is gone"
        assert not list(tmp_path.glob("snapshot-*-000000.rdb"))
        with pytest.raises(BisyncError, match="cannot be spooled") as caught:
            for data in DATA[21:]:
                subject.write(data)
        assert "room for" in caught.value.why and "spool_bytes" in caught.value.hint
        subject.close(keep=True)
        assert files(tmp_path) == []

    trio.run(main)


def test_what_is_announced_and_does_not_fit_is_refused_at_once(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = spool(tmp_path, limit_bytes=14_000)
    subject.expect(14_000)
    with pytest.raises(BisyncError, match="cannot be spooled"):
        subject.expect(14_001)
    spool(tmp_path).expect(1 << 30)
    monkeypatch.setattr(spool_module, "RESERVE_PART", 1)  # all of the disk is left to others
    with pytest.raises(BisyncError, match="cannot be spooled"):
        spool(tmp_path, reserve_bytes=1 << 60).expect(1 << 30)


def test_the_disk_is_never_filled(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "RESERVE_PART", 1)
    subject = spool(tmp_path, reserve_bytes=1 << 60)
    for data in DATA[:7]:
        subject.write(data)
    with pytest.raises(BisyncError, match="room for 0 more"):
        subject.write(DATA[7])


def test_what_comes_after_the_end_is_dropped(tmp_path: pathlib.Path) -> None:
    subject = filled(tmp_path)
    subject.close()
    subject.write(b"late")
    assert files(tmp_path) == []
