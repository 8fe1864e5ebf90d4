"""The store and the journal on bad days: the sync does not depend on the store, and says when it cannot be written."""

import pathlib
import random
import sqlite3

import pytest

from tests.bad_days.harness import QUICK, BadDay, SmallDisk, is_root
from tests.system.world import wait_until

pytestmark = pytest.mark.slow


class TestAStoreThatIsNotOurs:
    def test_another_programs_database(self, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "orders.db"
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE t (x)")
        db.close()
        before = path.read_bytes()
        with BadDay(tmp_path) as day:
            day.write("east", "kept")
            text = day.refused("orders.db is not a store of bisync", "another program's", "name another file")
            assert path.read_bytes() == before, text
            assert day.west.do("DBSIZE") == 0
            day.bisync("status", status=1)

    def test_a_text_file(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "orders.db").write_text("my notes\n" * 1000)
        with BadDay(tmp_path) as day:
            day.refused("orders.db is not a store of bisync", "name another file")
            assert (tmp_path / "orders.db").read_text() == "my notes\n" * 1000

    def test_a_newer_version(self, tmp_path: pathlib.Path) -> None:
        with BadDay(tmp_path) as day:
            day.synchronised_engine().stop()
            with sqlite3.connect(tmp_path / "orders.db") as db:
                db.execute("PRAGMA user_version = 9")
            db.close()
            day.refused("written by a newer version", "version 9", "use that version of bisync")

    def test_a_folder(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "orders.db").mkdir()
        with BadDay(tmp_path) as day:
            day.refused("orders.db is a folder", "name another file")

    def test_a_folder_that_is_missing(self, tmp_path: pathlib.Path) -> None:
        with BadDay(tmp_path, store="no/such/orders.db") as day:
            day.refused("no/such/orders.db", "create the folder")

    def test_a_damaged_store(self, tmp_path: pathlib.Path) -> None:
        with BadDay(tmp_path) as day:
            day.write("east", "kept")
            day.synchronised_engine().stop()
            path = tmp_path / "orders.db"
            content = path.read_bytes()
            path.write_bytes(content[:4096] + b"\xa5" * (len(content) - 4096))
            day.refused("orders.db", "move the file away")
            path.unlink()
            day.write("west", "later")
            day.finish(day.synchronised_engine())

    def test_a_store_that_may_not_be_read(self, tmp_path: pathlib.Path) -> None:
        if is_root():
            pytest.skip("root may read everything")
        with BadDay(tmp_path) as day:
            (tmp_path / "orders.db").touch(0)
            day.refused("orders.db cannot be opened", "give this user the right")

    def test_a_store_that_is_removed_under_the_engine(self, tmp_path: pathlib.Path) -> None:
        with BadDay(tmp_path) as day:
            engine = day.synchronised_engine()
            for path in tmp_path.glob("orders.db*"):
                path.unlink()
            day.write("east", "after")
            day.reaches("west", "east:after")
            engine.stop()
            day.write("west", "later")
            day.finish(day.synchronised_engine())


SAYS_SO = "The sync goes on: the tags at the sites are what counts"


class TestAFullDisk:
    def test_from_the_start_of_a_job_that_is_under_way(self, tmp_path: pathlib.Path, small_disk: SmallDisk) -> None:
        with BadDay(tmp_path, store="disk/orders.db") as day:
            day.write("east", "before")
            day.synchronised_engine().stop()
            small_disk.fill()
            day.write("east", "meanwhile")
            engine = day.start_engine()
            day.reaches("west", "east:meanwhile")
            day.logs(engine, SAYS_SO)
            day.logs(engine, "goes on in memory")
            small_disk.make_room()
            day.logs(engine, "the store is written again")
            day.wait_synchronizing(engine)
            day.finish(engine)

    def test_from_the_start_of_a_new_job(self, tmp_path: pathlib.Path, small_disk: SmallDisk) -> None:
        """A small snapshot needs no disk."""
        with BadDay(tmp_path, store="disk/orders.db") as day:
            day.write("east", "before")
            small_disk.fill()
            engine = day.start_engine()
            day.reaches("west", "east:before")
            day.logs(engine, SAYS_SO)
            small_disk.make_room()
            day.logs(engine, "the store is written again")
            day.finish(engine)

    def test_a_snapshot_for_which_there_is_no_room(self, tmp_path: pathlib.Path, small_disk: SmallDisk) -> None:
        """That is an error, and nothing was changed."""
        with BadDay(tmp_path, store="disk/orders.db") as day:
            day.east.do("SET", "large", random.Random(1).randbytes(12 << 20))
            day.refused("the snapshot cannot be spooled", "there is room for", "make room")
            assert day.west.do("EXISTS", "large") == 0

    def test_a_new_job_beside_another_in_a_full_store(self, tmp_path: pathlib.Path, small_disk: SmallDisk) -> None:
        with BadDay(tmp_path, store="disk/orders.db", tables=QUICK + 'journal = "memory"\n') as day:
            day.synchronised_engine().stop()
            with sqlite3.connect(tmp_path / "disk" / "orders.db") as db:
                db.execute("DELETE FROM jobs")
            db.close()
            small_disk.fill()
            day.write("east", "meanwhile")
            engine = day.start_engine()
            day.reaches("west", "east:meanwhile")
            small_disk.make_room()
            day.logs(engine, "the store is written again")
            day.finish(engine)

    def test_in_the_middle(self, tmp_path: pathlib.Path, small_disk: SmallDisk) -> None:
        with BadDay(tmp_path, store="disk/orders.db") as day:
            engine = day.synchronised_engine()
            small_disk.fill()
            # A journal that has room left in its last page goes on until that is used up.
            with day.east.client() as client:
                for n in range(20):
                    client.set(f"big:{n}", "x" * 10_000)
            day.write("east", "meanwhile")
            day.write("west", "meanwhile")
            day.reaches("west", "east:meanwhile")
            day.reaches("east", "west:meanwhile")
            day.logs(engine, "the journal of east cannot be written and goes on in memory (No space left on device)")
            day.logs(engine, SAYS_SO)
            small_disk.make_room()
            day.logs(engine, "the store is written again")
            day.logs(engine, "the journal of east is on disk again")
            day.finish(engine)

    def test_an_engine_that_is_killed_then_goes_on_exactly(self, tmp_path: pathlib.Path, small_disk: SmallDisk) -> None:
        with BadDay(tmp_path, store="disk/orders.db") as day:
            engine = day.synchronised_engine()
            small_disk.fill()
            day.start_writers(1)
            day.logs(engine, SAYS_SO)
            wait_until(lambda: all(w.rounds > 50 for w in day.writers), "clients write")
            engine.kill()
            engine = day.start_engine()
            day.logs(engine, SAYS_SO)
            rounds = [w.rounds for w in day.writers]
            wait_until(lambda: all(w.rounds > n + 50 for w, n in zip(day.writers, rounds)), "clients write")
            small_disk.make_room()
            day.wait_synchronizing(engine)
            day.stop_writers()
            day.wait_drained(engine)
            day.assert_written()
            day.finish(engine)


class TestTheJournal:
    def test_its_folder_is_a_file(self, tmp_path: pathlib.Path) -> None:
        (tmp_path / "orders.journal").write_text("mine")
        with BadDay(tmp_path) as day:
            day.refused("orders.journal", "is not a folder")
            assert (tmp_path / "orders.journal").read_text() == "mine"

    def test_it_is_damaged_between_two_starts(self, tmp_path: pathlib.Path) -> None:
        """The floors may lie in it: what was read there is no stream, so the server is asked for all of it."""
        with BadDay(tmp_path) as day:
            engine = day.synchronised_engine()
            day.write("east", "before")
            day.write("west", "before")
            day.wait_drained(engine)
            engine.kill()
            for path in day.job.journal_folder.glob("*.journal"):
                content = path.read_bytes()
                path.write_bytes(content[:512] + b"\xa5" * (len(content) - 512))
            day.write("east", "after")
            day.finish(day.synchronised_engine())

    def test_files_of_another_job_in_its_folder_are_left_alone(self, tmp_path: pathlib.Path) -> None:
        """Two jobs may share a store, and name their sites alike."""
        with BadDay(tmp_path, store="shared.db") as day:
            engine = day.synchronised_engine()
            mine = day.job.journal_folder
            other = day.job_file.with_name("other.toml")
            other.write_text(day.job_file.read_text().replace('"orders"', '"invoices"'))
            from bisync.config import load_job

            other_job = load_job(other)
            other.unlink()
            assert other_job.store == day.job.store and other_job.journal_folder != mine
            day.finish(engine)
