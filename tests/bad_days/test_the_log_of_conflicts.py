"""Bad days of the log of conflicts and of the notes: keys and files in other hands, undoing at the wrong servers."""

import contextlib
import pathlib
import random
import re
import sqlite3

import pytest

from bisync.core.tag import open_key
from bisync.runtime.mirror import WAITING_BYTES_MAX
from bisync.runtime.store import Event, Store
from bisync.undo import undo
from tests.bad_days.harness import QUICK, BadDay, running
from tests.bad_days.test_conflicts_go_bad import SITES, apart, conflicts, do, settled
from tests.system.world import EngineProcess, wait_until

pytestmark = pytest.mark.slow

OPEN = open_key("orders").decode()


def events(day: BadDay, kind: str) -> list[Event]:
    with Store.open(day.job.store, create=False) as store:
        return [event for event in store.events("orders", 1_000) if event.kind == kind]


def meet(day: BadDay, engine: EngineProcess, key: str) -> None:
    """Two writes that meet; that of west is the newer one."""
    with apart(engine):
        do(day, "east", ("SET", key, "of east"))
        do(day, "west", ("SET", key, "of west"))


class TestTheKeyOfTheNotes:
    def test_a_string_in_it_is_named_and_nothing_is_lost(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            for site in SITES:
                do(day, site, ("SET", OPEN, "mine"))
            meet(day, engine, "k")
            day.logs(engine, "'k' in database 0 cannot be settled at present")
            [told] = [line for line in engine.text.splitlines() if "cannot be settled" in line]
            assert f"the key {OPEN}, where bisync keeps its notes, takes none (WRONGTYPE" in told
            assert f"delete what a client has put there: DEL {OPEN} in database 0" in told
            wait_until(lambda: day.status()["conflicts"]["unsettled"], "status says it too")
            [unit] = day.status()["conflicts"]["unsettled"]
            assert unit["key"] == "k" and OPEN in unit["why"] and unit["why"] in told
            wait_until(lambda: [e.level for e in events(day, "unsettled")] == ["warning"], "an event")
            for site in SITES:
                do(day, site, ("DEL", OPEN))
            settled(day, engine)
            day.logs(engine, "'k' in database 0 is settled after all")
            wait_until(lambda: [e.level for e in events(day, "unsettled")] == ["warning", "info"], "an event")
            assert engine.text.count("cannot be settled") == 1, "tried again, and not said again"
            [record] = conflicts(day, b"k")
            assert record.replaced is not None and record.replaced.value is not None, "the first try had replaced it"
            day.finish(engine)

    def test_a_string_in_it_at_the_start(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            day.wait_drained(engine)
            engine.stop()
            do(day, "west", ("SET", OPEN, "mine"))
            day.refused(f"west: {OPEN} cannot be read", "WRONGTYPE", "delete what is no hash")

    @pytest.mark.parametrize("name", ["mine", '[0, "k", "", ""]'])
    def test_a_field_in_it_that_is_no_note(self, tmp_path: pathlib.Path, name: str) -> None:
        with running(tmp_path) as (day, engine):
            day.wait_drained(engine)
            engine.stop()
            do(day, "west", ("HSET", OPEN, name, "what is this"))
            day.refused("west: the note", name, "it holds 'what is this'", OPEN, "HDEL")


class TestTheStoreIsMovedAway:
    def test_a_new_one_begins_and_no_conflict_is_in_neither(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            meet(day, engine, "before")
            settled(day, engine)
            moved = tmp_path / "moved.db"
            day.job.store.rename(moved)
            meet(day, engine, "after")
            day.logs(engine, "was moved or removed while it was in use")
            day.logs(engine, "the store is written again")
            settled(day, engine)
            assert [r.key for r in conflicts(day)] == [b"after"]
            assert [e.level for e in events(day, "store")] == ["error"], "people find it in the new one"
            with Store.open(moved) as old:
                assert [r.key for r in old.conflicts.read("orders", old.conflicts.find("orders"))][:1] == [b"before"]
            with sqlite3.connect(moved) as db:
                assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            db.close()
            engine.kill()
            day.finish(day.synchronised_engine())  # the new one knows the job and its tags

    def test_one_that_is_put_back_goes_on(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            meet(day, engine, "before")
            settled(day, engine)
            moved = tmp_path / "moved.db"
            day.job.store.rename(moved)
            day.logs(engine, "was moved or removed while it was in use")
            if not day.job.store.exists():
                moved.rename(day.job.store)
            day.logs(engine, "the store is written again")
            meet(day, engine, "after")
            settled(day, engine)
            assert [r.key for r in conflicts(day)] == [b"before", b"after"]
            day.finish(engine)


class TestALogThatTakesNothing:
    def test_large_values_that_wait_for_it_hold_up_reading_before_memory_is_short(self, tmp_path: pathlib.Path) -> None:
        tables = QUICK + f"[conflicts]\nvalue_bytes = {2 * VALUE_BYTES}\n"
        with running(tmp_path, tables=tables) as (day, engine):
            refuse_conflicts(day, True)
            for at in range(0, 2 * WAITING_BYTES_MAX // VALUE_BYTES, 5):  # reading stops between two pieces of a stream
                names = [f"k{n}" for n in range(at, at + 5)]
                with apart(engine):
                    for name in names:
                        for site in SITES:  # DUMP would make a few bytes of a value that is not random
                            do(day, site, ("SET", name, random.Random(site + name).randbytes(VALUE_BYTES)))
                wait_until(
                    lambda: engine.check() and ("reading stops" in engine.text or equal_at_sites(day, names)), "read"
                )
                if "reading stops" in engine.text:
                    break
            day.logs(engine, "reading stops: ")
            said = next(line for line in engine.text.splitlines() if "reading stops" in line)
            assert re.search(r"reading stops: [0-9]{2} conflicts wait for the log [(][0-9]+ MB[)]", said), said
            day.write("east", "held")
            refuse_conflicts(day, False)
            day.logs(engine, "reading goes on")
            day.reaches("west", "east:held")
            settled(day, engine)
            assert all(r.replaced is not None and r.replaced.value is not None for r in conflicts(day))
            day.finish(engine)


VALUE_BYTES = 3_000_000


def refuse_conflicts(day: BadDay, refuse: bool) -> None:
    """Let every conflict that is written to the store fail, or no more."""
    with contextlib.closing(sqlite3.connect(day.job.store, isolation_level=None)) as db:
        trigger = "CREATE TRIGGER refuse BEFORE INSERT ON conflicts BEGIN SELECT RAISE(ABORT, 'no'); END"
        db.execute(trigger if refuse else "DROP TRIGGER refuse")


def equal_at_sites(day: BadDay, names: list[str]) -> bool:
    firsts = [[server.do("GETRANGE", name, 0, 9) for name in names] for server in day.servers.values()]
    return firsts[0] == firsts[1] and not any(server.do("EXISTS", OPEN) for server in day.servers.values())


class TestUndoAtOtherServers:
    def test_is_refused_wherever_the_job_file_leads(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path / "one") as (day, engine), running(tmp_path / "two") as (other, stranger):
            meet(day, engine, "k")
            settled(day, engine)
            [record] = conflicts(day, b"k")
            engine.stop()
            for server in other.servers.values():
                server.do("SET", "k", day.east.do("GET", "k"))  # the value that the conflict left
            urls = dict(day.urls)
            for site in SITES:
                day.urls[site] = other.urls[site]
            day.write_job_file()
            text = self.undone(day, record.id, 1)
            assert "is not undone, nothing was written" in text and "another server" in text and "Next: " in text
            assert text.count("bisync: ") == 1
            assert "another server" in self.undone(day, record.id, 1, "--force")
            day.urls.update(east=urls["west"], west=urls["east"])
            day.write_job_file()
            assert "another server" in self.undone(day, record.id, 1), "sites that have changed places"
            day.urls.update(urls)
            day.write_job_file()
            self.undone(day, record.id, 0)
            stranger.stop()

    def test_a_server_of_the_same_history_at_another_address_is_the_same(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            meet(day, engine, "k")
            settled(day, engine)
            [record] = conflicts(day, b"k")
            engine.stop()
            for site in SITES:
                day.urls[site] = day.urls[site].replace("127.0.0.1", "localhost")
            day.write_job_file()
            with Store.open(day.job.store) as store:
                assert undo(day.job, store, record.id).written

    @staticmethod
    def undone(day: BadDay, id: int, status: int, *options: str) -> str:
        return day.bisync("conflicts", "--undo", str(id), *options, status=status)
