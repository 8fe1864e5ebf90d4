"""The checkpoint store: what it keeps, what it refuses, and what it survives."""

import concurrent.futures
import contextlib
import os
import pathlib
import random
import sqlite3
import stat
import tempfile
from collections.abc import Iterator

import pytest

from bisync.errors import StoreError
from bisync.runtime import store as store_module
from bisync.runtime import store_file
from bisync.runtime.store import Event, StateChange, Store

T = 1_700_000_000_000  # any time, in ms


def raw(path: pathlib.Path, sql: str) -> list[tuple[object, ...]]:
    """What another program sees in the file."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


def refused(path: pathlib.Path, create: bool = True) -> str:
    """The text of the error that opening gives; it must come with a next step."""
    with pytest.raises(StoreError) as e:
        Store.open(path, create=create)
    assert e.value.hint
    return str(e.value)


class TestKeeping:
    def test_checkpoints_are_kept_by_job_and_channel(self, store: Store) -> None:
        store.save_checkpoint("orders", "forward", "f1", T)
        store.save_checkpoint("orders", "reverse", "r1", T)
        store.save_checkpoint("stock", "forward", "s1", T)
        store.save_checkpoint("orders", "forward", "f2", T + 1)
        found = [
            store.checkpoint(j, c) for j, c in (("orders", "forward"), ("orders", "reverse"), ("stock", "forward"))
        ]
        assert found == ["f2", "r1", "s1"]
        assert store.checkpoint("stock", "reverse") is None

    def test_forgetting_a_job_touches_no_other(self, store: Store) -> None:
        for job in ("orders", "stock"):
            store.save_checkpoint(job, "forward", "f", T)
        store.forget_job("orders")
        assert (store.checkpoint("orders", "forward"), store.checkpoint("stock", "forward")) == (None, "f")

    def test_settings_are_kept_by_job_and_name_and_can_be_taken_back(self, store: Store) -> None:
        store.save_settings("orders", {"a": 1, "b": 0}, T)
        store.save_settings("stock", {"a": 5}, T)
        store.save_settings("orders", {"a": 2, "c": 3, "d": None}, T)
        assert store.settings("orders") == {"a": 2, "b": 0, "c": 3}
        store.save_settings("orders", {"a": None, "c": None}, T)
        store.forget_job("orders")
        assert (store.settings("orders"), store.settings("stock")) == ({"b": 0}, {"a": 5})

    def test_everything_is_there_after_opening_again(self, path: pathlib.Path) -> None:
        with Store.open(path) as s:
            s.record_job("orders", "bidirectional", ["east", "west"], T)
            s.save_checkpoint("orders", "forward", "f", T)
            s.enter_state("orders", "failed", "because", T)
            s.add_event("orders", T, "error", "gap", "lost")
            s.save_report("orders", {"a": [1, "x"]}, T)
        with Store.open(path, create=False) as s:
            s.record_job("orders", "bidirectional", ("east", "west"), T + 5)
            assert s.checkpoint("orders", "forward") == "f"
            assert s.state("orders") == StateChange("failed", "because", T)
            assert s.events("orders") == [Event(T, "error", "gap", "lost")]
            assert s.report("orders") == ({"a": [1, "x"]}, T)

    @pytest.mark.parametrize("other", [("one-way", ["east", "west"]), ("bidirectional", ["west", "east"])])
    def test_a_job_recorded_with_other_sites_or_topology_is_refused(
        self, store: Store, other: tuple[str, list[str]]
    ) -> None:
        store.record_job("orders", "bidirectional", ["east", "west"], T)
        with pytest.raises(StoreError) as e:
            store.record_job("orders", *other, T)
        text = str(e.value)
        assert "bidirectional between east and west" in text and f"{other[0]} between {' and '.join(other[1])}" in text
        assert "bisync reset" in e.value.hint
        store.record_job("orders", "bidirectional", ["east", "west"], T)

    def test_the_same_state_and_reason_again_makes_no_row(self, store: Store) -> None:
        for at, reason in enumerate(["", "", "site east is away", "site east is away", ""]):
            store.enter_state("orders", "synchronizing", reason, at)
        assert [(s.reason, s.at_ms) for s in store.states("orders")] == [("", 0), ("site east is away", 2), ("", 4)]
        assert store.state("stock") is None and store.states("stock") == []

    def test_a_state_that_is_none_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="'paused' is no state"):
            store.enter_state("orders", "paused", "", T)
        assert store.state("orders") is None

    def test_lists_give_the_newest_with_the_newest_last(self, store: Store) -> None:
        for n in range(5):
            store.add_event("orders", n, "info", "k", f"text {n}")
            store.enter_state("orders", "suspended", f"reason {n}", n)
        assert [e.at_ms for e in store.events("orders", 2)] == [3, 4]
        assert [s.at_ms for s in store.states("orders", 3)] == [2, 3, 4]
        assert store.events("orders", 0) == store.events("orders", -1) == []

    def test_history_is_bounded_for_each_job(self, store: Store, path: pathlib.Path) -> None:
        with store.transaction():
            for n in range(store_module.EVENTS_KEPT + 250):
                store.add_event("orders", n, "info", "k", "t")
            for n in range(store_module.STATES_KEPT + 250):
                store.enter_state("orders", "suspended", str(n), n)
            store.add_event("stock", 0, "info", "k", "t")
        for table, kept in (("events", store_module.EVENTS_KEPT), ("states", store_module.STATES_KEPT)):
            count, newest = raw(path, f"SELECT count(*), max(at_ms) FROM {table} WHERE job = 'orders'")[0]
            assert kept <= int(str(count)) <= kept + store_module.TRIM_EVERY and newest == kept + 249
        assert len(store.events("orders", 10**6)) == store_module.EVENTS_KEPT
        assert len(store.events("stock")) == 1

    def test_history_is_bounded_when_every_engine_adds_only_a_little(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(store_module._KEPT, "events", 5)
        for n in range(12):
            with Store.open(path) as s:
                s.add_event("orders", n, "info", "k", "t")
        assert raw(path, "SELECT min(at_ms), max(at_ms) FROM events") == [(7, 11)]

    def test_long_texts_are_cut_and_odd_ones_kept_readable(self, store: Store) -> None:
        store.add_event("orders", T, "info", "k", "x" * 100_000)
        store.add_event("orders", T, "info", "k", "key \udcff\x00 ü")
        long, odd = (e.text for e in store.events("orders"))
        assert len(long) == store_module.TEXT_MAX and long.endswith("x…")
        assert odd == "key \\udcff\x00 ü"

    def test_a_tag_is_never_cut(self, store: Store) -> None:
        store.save_checkpoint("orders", "forward", "t" * 100_000, T)
        assert store.checkpoint("orders", "forward") == "t" * 100_000

    @pytest.mark.parametrize("value", [float("nan"), object(), {1, 2}])
    def test_a_report_that_is_not_json_is_an_error_and_keeps_the_last_one(self, store: Store, value: object) -> None:
        store.save_report("orders", {"a": 1}, T)
        with pytest.raises(StoreError, match="the report of job 'orders' is not JSON"):
            store.save_report("orders", {"a": value}, T)
        assert store.report("orders") == ({"a": 1}, T)
        assert store.report("stock") is None

    def test_a_damaged_report_is_an_error(self, store: Store, path: pathlib.Path) -> None:
        store.save_report("orders", {"a": 1}, T)
        raw(path, "UPDATE reports SET report = '{'")
        with pytest.raises(StoreError, match="is damaged"):
            store.report("orders")

    def test_the_file_is_in_wal_mode_marked_as_ours_and_private(self, store: Store, path: pathlib.Path) -> None:
        assert raw(path, "PRAGMA journal_mode") == [("wal",)]
        assert raw(path, "PRAGMA application_id") == [(store_file.APPLICATION_ID,)]
        assert raw(path, "PRAGMA user_version") == [(store_file.VERSION,)]
        assert [stat.S_IMODE(f.stat().st_mode) for f in path.parent.iterdir()] == [0o600] * len(
            list(path.parent.iterdir())
        )

    def test_repr_says_which_file(self, store: Store, path: pathlib.Path) -> None:
        assert repr(store) == f"<Store {path}>"

    def test_a_name_that_means_something_else_to_sqlite_is_a_plain_file(
        self, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in (":memory:", "a b%20?#ü.db", "file:x"):
            with Store.open(pathlib.Path(name)) as s:
                s.save_checkpoint("orders", "forward", "f", T)
            with Store.open(tmp_path / name, create=False) as s:
                assert s.checkpoint("orders", "forward") == "f"


class TestTransactions:
    def test_an_exception_undoes_the_whole_block(self, store: Store) -> None:
        store.save_checkpoint("orders", "forward", "f1", T)
        with pytest.raises(RuntimeError), store.transaction():
            store.save_checkpoint("orders", "forward", "f2", T)
            with store.transaction():
                store.save_checkpoint("orders", "reverse", "r2", T)
            raise RuntimeError
        assert (store.checkpoint("orders", "forward"), store.checkpoint("orders", "reverse")) == ("f1", None)

    def test_others_see_nothing_before_the_commit(self, store: Store, path: pathlib.Path) -> None:
        with Store.open(path) as reader:
            with store.transaction():
                store.save_checkpoint("orders", "forward", "f1", T)
                assert reader.checkpoint("orders", "forward") is None
            assert reader.checkpoint("orders", "forward") == "f1"

    def test_threads_may_share_one_store(self, store: Store) -> None:
        def work(channel: str) -> None:
            for n in range(100):
                with store.transaction():
                    store.save_checkpoint("orders", channel, str(n), T)
                    store.add_event("orders", n, "info", channel, "t")

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(work, "abcd"))
        assert len(store.events("orders", 1000)) == 400
        assert {store.checkpoint("orders", c) for c in "abcd"} == {"99"}

    def test_a_writer_that_waits_too_long_gets_an_error_and_may_try_again(
        self, path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(store_file, "BUSY_TIMEOUT_S", 0.05)
        with Store.open(path) as one, Store.open(path) as two:
            with one.transaction():
                with pytest.raises(StoreError, match="database is locked") as e:
                    two.save_checkpoint("orders", "forward", "f", T)
                assert "keeps the file locked" in e.value.hint
                assert two.checkpoint("orders", "forward") is None, "reading does not wait"
            two.save_checkpoint("orders", "forward", "f", T)

    def test_a_closed_store_says_so_and_may_be_closed_again(self, path: pathlib.Path) -> None:
        store = Store.open(path)
        store.close()
        store.close()
        with pytest.raises(StoreError, match="closed database"):
            store.save_checkpoint("orders", "forward", "f", T)
        with pytest.raises(StoreError, match="closed database"):
            store.state("orders")


class TestRefusing:
    """Each with a clear text and a next step, and the file left as it was."""

    def test_a_missing_file_where_none_may_be_made(self, path: pathlib.Path) -> None:
        assert "there is no store file" in refused(path, create=False)
        assert list(path.parent.iterdir()) == []

    def test_a_missing_folder(self, path: pathlib.Path) -> None:
        for create in (True, False):
            text = refused(path.parent / "nowhere" / "orders.db", create)
            assert f"there is no folder {path.parent / 'nowhere'}" in text and "create the folder" in text

    def test_a_folder_that_is_a_file(self, path: pathlib.Path) -> None:
        path.touch()
        assert "Not a directory" in refused(path / "orders.db")

    def test_a_folder(self, path: pathlib.Path) -> None:
        path.mkdir()
        assert "is a folder" in refused(path)

    def test_a_fifo_does_not_block(self, path: pathlib.Path) -> None:
        os.mkfifo(path)
        assert "no plain file" in refused(path)

    @pytest.mark.parametrize("content", [b"x", b"name = 'orders'\n" * 400, b"SQLite format 3\0", b"\0" * 5000])
    def test_a_file_that_is_no_database(self, path: pathlib.Path, content: bytes) -> None:
        path.write_bytes(content)
        assert "is not a store of bisync" in refused(path)
        assert path.read_bytes() == content and len(list(path.parent.iterdir())) == 1

    @pytest.mark.parametrize("mode", ["wal", "delete"])
    @pytest.mark.parametrize("mark", ["", "PRAGMA application_id = 7"])
    def test_another_programs_database(self, path: pathlib.Path, mode: str, mark: str) -> None:
        for sql in (f"PRAGMA journal_mode = {mode}", "CREATE TABLE mine (x)", mark):
            raw(path, sql)
        content = path.read_bytes()
        assert "another program's SQLite database" in refused(path)
        assert path.read_bytes() == content and len(list(path.parent.iterdir())) == 1

    def test_a_newer_version(self, path: pathlib.Path) -> None:
        Store.open(path).close()
        raw(path, f"PRAGMA user_version = {store_file.VERSION + 1}")
        content = path.read_bytes()
        text = refused(path)
        assert "a newer version of bisync" in text and "this bisync knows version" in text
        assert path.read_bytes() == content and len(list(path.parent.iterdir())) == 1

    def test_a_newer_version_that_is_still_in_the_wal_file(self, path: pathlib.Path) -> None:
        Store.open(path).close()
        db = sqlite3.connect(path, isolation_level=None)
        db.execute(f"PRAGMA user_version = {store_file.VERSION + 1}")
        assert "a newer version of bisync" in refused(path)
        db.close()

    def test_a_damaged_store(self, path: pathlib.Path) -> None:
        Store.open(path).close()
        content = path.read_bytes()
        path.write_bytes(content[:200] + random.Random(1).randbytes(len(content) - 200))
        with pytest.raises(StoreError, match="malformed") as e, Store.open(path) as s:
            s.save_checkpoint("orders", "forward", "f", T)
        assert "the tags in the sites have all" in e.value.hint

    def test_an_empty_file_is_ours_to_set_up(self, path: pathlib.Path) -> None:
        path.touch()
        assert "is empty" in refused(path, create=False)
        with Store.open(path) as s:
            s.save_checkpoint("orders", "forward", "f", T)

    @pytest.mark.parametrize("locked", ["the file", "its folder", "its folder, and it is missing"])
    def test_no_right_to_read_or_write(self, locked: str) -> None:
        with tempfile.TemporaryDirectory() as name, ordinary_user(pathlib.Path(name)) as folder:
            path = folder / "orders.db"
            if "missing" not in locked:
                Store.open(path).close()
            (path if locked == "the file" else folder).chmod(0o555)
            text = refused(path)
            folder.chmod(0o755)
        why = "no right to read and write it" if locked == "the file" else "no right to write in"
        assert ("Permission denied" if "missing" in locked else why) in text and "give this user the right" in text

    def test_a_link_to_a_store_is_followed(self, path: pathlib.Path) -> None:
        path.symlink_to(path.parent / "real.db")
        Store.open(path).close()
        Store.open(path.parent / "real.db", create=False).close()


@contextlib.contextmanager
def ordinary_user(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Give the folder to a user who is not root (root has every right) and be that user for the block."""
    if os.getuid() != 0:
        yield folder
        return
    os.chown(folder, 65534, 65534)
    os.setresuid(65534, 65534, 0)
    try:
        yield folder
    finally:
        os.setresuid(0, 0, 0)
