"""The log of conflicts in the store: what is kept, found again, dropped, and read while it is written."""

import json
import pathlib
import sqlite3
import subprocess
import sys
import threading
import time

import attrs
import pytest

from bisync.errors import StoreError
from bisync.runtime import conflict_table
from bisync.runtime.conflict_record import ConflictRecord, Server
from bisync.runtime.conflict_table import Keep, Wanted
from bisync.runtime.store import Store
from bisync.runtime.store_file import VERSION
from tests.told import T, conflict, lost, sha, told

DAY_MS = 86_400_000
ROOT = pathlib.Path(__file__).parents[2]


def records(store: Store, wanted: Wanted = Wanted()) -> list[ConflictRecord]:
    return list(store.conflicts.read("orders", store.conflicts.find("orders", wanted)))


class TestKeeping:
    def test_a_record_comes_back_as_it_was(self, store: Store) -> None:
        odd = bytes(range(256))
        replaced = lost(odd, "dump", expires_at_ms=T + 5)
        one = told(
            3,
            "settled",
            **{"key": odd, "element": ("hash", odd), "database": 3, "certain": False, "rule": "order of the sites"},
            **{"replaced": replaced, "kept": sha(b"x"), "policy": "prefer:east"},
        )
        store.conflicts.save("orders", [one])
        [held] = records(store)
        assert held == attrs.evolve(ConflictRecord.of(one), id=held.id)
        assert (held.key, held.element, held.replaced) == (odd, ("hash", odd), replaced)
        assert store.conflicts.get("orders", held.id) == held
        assert store.conflicts.get("stock", held.id) is None

    def test_open_and_settled_are_one_record(self, store: Store) -> None:
        store.conflicts.save("orders", [told(1), told(2, key=b"other")])
        store.conflicts.save("orders", [told(1, "settled", replaced=lost(b"old"))])
        assert [(r.number, r.state) for r in records(store)] == [(1, "settled"), (2, "open")]
        [first, _] = records(store)
        assert first.replaced == lost(b"old")

    def test_a_conflict_that_grows_into_one_of_an_earlier_life_joins_it(self, store: Store) -> None:
        store.conflicts.save("orders", [told(2, "settled", east=657, west=966)])
        store.conflicts.save("orders", [told(1, epoch=2, east=300, west=927)])
        assert len(records(store)) == 2
        grown = {"offsets": {"east": (300, 657), "west": (927, 966)}, "replaced": lost(b"old")}
        store.conflicts.save("orders", [told(1, "settled", epoch=2, **grown)])
        [one] = records(store)
        assert (one.offsets, one.replaced) == (grown["offsets"], lost(b"old"))
        assert store.conflicts.totals("orders") == {"key": 1}

    def test_after_a_gap_other_writes_may_stand_at_the_same_offsets(self, store: Store) -> None:
        store.conflicts.save("orders", [told(2, "settled", epoch=3, east=657, west=966)])
        store.conflicts.forget_streams("orders", 4)
        store.conflicts.save("orders", [told(1, epoch=5, east=657, west=966)])
        store.conflicts.forget_streams("orders", 4)
        assert [(r.epoch, r.number) for r in records(store)] == [(0, 2), (5, 1)]

    def test_totals_count_each_conflict_once_and_those_that_have_left(self, store: Store) -> None:
        elements = [told(n, key=b"h", element=("hash", b"%d" % n), east=n, west=n) for n in range(3, 6)]
        store.conflicts.save("orders", [told(1, "settled"), *elements])
        store.conflicts.save("orders", [told(1, epoch=2), *[attrs.evolve(e, epoch=2) for e in elements]])
        assert store.conflicts.totals("orders") == {"hash": 3, "key": 1}
        store.conflicts.trim("orders", Keep(entries=0), T)
        assert store.conflicts.totals("orders") == {"hash": 3, "key": 1}
        store.conflicts.close_history("orders")
        assert store.conflicts.totals("orders") == {} == store.conflicts.totals("stock")

    def test_each_job_has_a_log_of_its_own(self, store: Store) -> None:
        store.conflicts.save("orders", [told(1)])
        store.conflicts.save("stock", [told(1)])
        assert len(records(store)) == 1 and len(store.conflicts.find("stock")) == 1

    def test_a_conflict_that_the_next_life_finds_again_is_no_second_record(self, store: Store) -> None:
        store.conflicts.save("orders", [told(1)])
        store.conflicts.save("orders", [told(5, epoch=2, east=100, west=200)])
        store.conflicts.save("orders", [told(5, "settled", epoch=2)])
        assert [(r.epoch, r.number, r.state) for r in records(store)] == [(2, 5, "settled")]

    @pytest.mark.parametrize(
        "other",
        [
            {"key": b"k2"},
            {"database": 1},
            {"element": ("hash", b"f")},
            {"element": ("set", b"f")},
            {"east": 101, "west": 201},
        ],
    )
    def test_another_unit_or_stretch_is_another_conflict(self, store: Store, other: dict[str, object]) -> None:
        store.conflicts.save("orders", [told(1, element=None)])
        store.conflicts.save("orders", [told(5, epoch=2, **other)])
        assert len(records(store)) == 2

    def test_the_same_element_by_another_type_is_another_conflict(self, store: Store) -> None:
        store.conflicts.save("orders", [told(1, element=("hash", b"f")), told(2, element=("hash", b"g"))])
        store.conflicts.save("orders", [told(5, epoch=2, element=("hash", b"f"))])
        assert len(records(store)) == 2

    def test_one_of_many_of_a_hot_key_is_found_again(self, store: Store) -> None:
        many = conflict_table.LOOK_BACK * 3
        store.conflicts.save("orders", [told(n, "settled", east=n * 10, west=n * 10) for n in range(1, many + 1)])
        store.conflicts.save("orders", [told(1, epoch=2, east=70, west=70, counts={"east": 4, "west": 1})])
        found = records(store)
        assert len(found) == many
        assert [r.number for r in found if r.counts["east"] == 4] == [1]
        assert [r.id for r in found if r.epoch == 2] == [found[6].id]

    def test_a_settled_key_settles_its_elements(self, store: Store) -> None:
        elements = [told(n, element=("hash", b"%d" % n), east=n) for n in (1, 2)]
        others = [told(3, key=b"k2", element=("hash", b"1")), told(4, database=1, element=("hash", b"1"))]
        store.conflicts.save("orders", [*elements, *others, told(5), told(5, "settled")])
        assert [r.state for r in records(store)] == ["settled", "settled", "open", "open", "settled"]

    def test_an_element_that_is_settled_settles_only_itself(self, store: Store) -> None:
        store.conflicts.save("orders", [told(1), told(2, element=("hash", b"f"))])
        store.conflicts.save("orders", [told(2, "settled", element=("hash", b"f"))])
        assert [r.state for r in records(store)] == ["open", "settled"]

    def test_what_earlier_lives_left_open_is_settled_once_its_unit_is_open_no_more(self, store: Store) -> None:
        before = [told(1, key=b"a"), told(2, key=b"b"), told(3, key=b"c", element=("hash", b"f"))]
        now = [told(1, key=b"d", epoch=2)]
        store.conflicts.save("orders", [*before, *now])
        still_open = {(0, b"b", None), (0, b"c", None)}
        assert store.conflicts.settle_closed("orders", 2, still_open, T + 7) == 2
        states = {r.key: (r.state, r.settled_ms) for r in records(store)}
        assert states == {b"a": ("settled", T + 7), b"b": ("open", None), b"c": ("open", None), b"d": ("open", None)}
        assert store.conflicts.settle_closed("orders", 2, set(), T + 8) == 0

    def test_after_a_reset_nothing_is_found_again_and_nothing_is_open(self, store: Store) -> None:
        store.conflicts.save("orders", [told(1, "settled"), told(2, key=b"k2")])
        store.conflicts.save("stock", [told(1)])
        store.forget_job("orders")
        assert [(r.state, r.epoch) for r in records(store)] == [("settled", 0), ("settled", 0)]
        store.conflicts.save("orders", [told(1)])  # the epochs and, with luck, the offsets begin anew
        assert len(records(store)) == 3
        assert store.conflicts.find("stock", Wanted(only_open=True))

    def test_numbers_are_never_given_twice(self, store: Store) -> None:
        store.conflicts.save("orders", [told(1, "settled")])
        [first] = store.conflicts.find("orders")
        store.conflicts.trim("orders", Keep(entries=0), T)
        store.conflicts.save("orders", [told(1, "settled")])
        assert store.conflicts.find("orders") == [first + 1]

    def test_undoing_is_noted(self, store: Store) -> None:
        store.conflicts.save("orders", [told(1, "settled")])
        [id] = store.conflicts.find("orders")
        store.conflicts.mark_undone("stock", id, T)
        assert records(store)[0].undone_ms is None
        store.conflicts.mark_undone("orders", id, T + 3)
        assert (records(store)[0].undone_ms, records(store)[0].outcome) == (T + 3, "undone")


class TestFinding:
    @pytest.fixture
    def filled(self, store: Store) -> Store:
        store.conflicts.save(
            "orders",
            [
                told(1, "settled", key=b"order:1", found_ms=T, replaced=lost(b"x", site="west")),
                told(2, "settled", key=b"order:2", found_ms=T + 10, winner="west", replaced=lost(b"x", site="east")),
                told(3, "open", key=b"cart", found_ms=T + 20, database=4, certain=False),
            ],
        )
        return store

    @pytest.mark.parametrize(
        ("wanted", "numbers"),
        [
            (Wanted(), [1, 2, 3]),
            (Wanted(since_ms=T + 10), [2, 3]),
            (Wanted(until_ms=T + 10), [1]),
            (Wanted(since_ms=T + 1, until_ms=T + 20), [2]),
            (Wanted(database=4), [3]),
            (Wanted(winner="west"), [2]),
            (Wanted(replaced_at="west"), [1]),
            (Wanted(only_open=True), [3]),
            (Wanted(only_uncertain=True), [3]),
            (Wanted(key=b"order:2"), [2]),
            (Wanted(matches=lambda key: key.startswith(b"order")), [1, 2]),
            (Wanted(matches=lambda key: key.startswith(b"order"), winner="east"), [1]),
            (Wanted(key=b"order:2", winner="east"), []),
        ],
    )
    def test_each_choice(self, filled: Store, wanted: Wanted, numbers: list[int]) -> None:
        assert [r.number for r in records(filled, wanted)] == numbers

    def test_many_are_read_page_by_page_in_order(self, store: Store) -> None:
        count = conflict_table.PAGE * 2 + 7
        store.conflicts.save("orders", [told(n, key=b"k%d" % n) for n in range(count)])
        assert [r.number for r in records(store)] == list(range(count))
        assert [r.number for r in records(store, Wanted(matches=lambda key: True))] == list(range(count))

    def test_what_is_dropped_while_it_is_read_is_left_out(self, store: Store) -> None:
        store.conflicts.save("orders", [told(n, "settled", key=b"k%d" % n) for n in range(5)])
        ids = store.conflicts.find("orders")
        store.conflicts.trim("orders", Keep(entries=2), T)
        assert [r.id for r in store.conflicts.read("orders", ids)] == ids[3:]


class TestTrimming:
    def test_by_number_the_oldest_leave(self, store: Store) -> None:
        store.conflicts.save("orders", [told(n, "settled", key=b"k%d" % n) for n in range(10)])
        assert store.conflicts.trim("orders", Keep(entries=4), T)
        assert [r.number for r in records(store)] == [6, 7, 8, 9]

    def test_by_age_by_the_time_when_they_were_found(self, store: Store) -> None:
        ages = (40, 31, 29, 0, 35)  # the machine's clock may have jumped
        store.conflicts.save(
            "orders", [told(n, "settled", key=b"k%d" % n, found_ms=T - age * DAY_MS) for n, age in enumerate(ages)]
        )
        store.conflicts.trim("orders", Keep(days=30), T)
        assert [r.number for r in records(store)] == [2, 3]

    def test_by_size_values_included(self, store: Store) -> None:
        value = b"x" * 50_000
        store.conflicts.save("orders", [told(n, "settled", key=b"k%d" % n, replaced=lost(value)) for n in range(10)])
        store.conflicts.trim("orders", Keep(bytes=3 * 55_000), T)
        assert [r.number for r in records(store)] == [7, 8, 9]

    def test_a_value_that_comes_with_the_settling_counts(self, store: Store) -> None:
        store.conflicts.save("orders", [told(n, key=b"k%d" % n) for n in range(2)])
        store.conflicts.save(
            "orders", [told(n, "settled", key=b"k%d" % n, replaced=lost(b"x" * 9_000)) for n in (0, 1)]
        )
        store.conflicts.trim("orders", Keep(bytes=12_000), T)
        assert [r.number for r in records(store)] == [1]

    def test_what_is_open_stays_whatever_the_bounds(self, store: Store) -> None:
        old = T - 400 * DAY_MS
        store.conflicts.save("orders", [told(n, "open", key=b"k%d" % n, found_ms=old) for n in range(3)])
        store.conflicts.save("orders", [told(n, "settled", key=b"k%d" % n, found_ms=old) for n in range(3, 6)])
        store.conflicts.trim("orders", Keep(1, 0, 0), T)
        assert [r.number for r in records(store)] == [0, 1, 2]

    def test_other_jobs_are_left_alone(self, store: Store) -> None:
        for job in ("orders", "stock"):
            store.conflicts.save(job, [told(n, "settled", key=b"k%d" % n) for n in range(3)])
        store.conflicts.trim("orders", Keep(entries=1), T)
        assert (len(store.conflicts.find("orders")), len(store.conflicts.find("stock"))) == (1, 3)

    def test_a_long_log_is_trimmed_in_pieces(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(conflict_table, "TRIMMED_MAX", 4)
        store.conflicts.save("orders", [told(n, "settled", key=b"k%d" % n) for n in range(10)])
        assert not store.conflicts.trim("orders", Keep(entries=1), T)
        assert len(records(store)) == 6
        for _ in range(3):
            store.conflicts.trim_when_due("orders", Keep(entries=1), T)
        assert len(records(store)) == 1

    def test_it_is_done_now_and_then(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(conflict_table, "TRIM_EVERY", 5)
        keep, lengths = Keep(entries=3), []
        for n in range(12):
            store.conflicts.save("orders", [told(n, "settled", key=b"k%d" % n)])
            store.conflicts.trim_when_due("orders", keep, T)
            lengths.append(len(records(store)))
        assert max(lengths) < keep.entries + 5 and lengths[-1] <= 5
        store.conflicts.trim_when_due("orders", Keep(days=1), T + 2 * DAY_MS)
        assert records(store) == [], "age needs no new records"

    def test_a_clock_that_went_back_does_not_stop_it(self, store: Store) -> None:
        store.conflicts.trim_when_due("orders", Keep(), T)
        store.conflicts.save("orders", [told(n, "settled", key=b"k%d" % n) for n in range(3)])
        store.conflicts.trim_when_due("orders", Keep(entries=1), T - 400 * DAY_MS)
        assert len(records(store)) == 1


class TestFaults:
    def test_a_batch_is_written_as_a_whole_or_not_at_all(self, store: Store) -> None:
        with pytest.raises(RuntimeError), store.transaction():
            store.conflicts.save("orders", [told(1), told(2, key=b"k2")])
            raise RuntimeError
        assert records(store) == []

    def test_a_full_disk_is_an_error_and_the_next_try_writes_it_all(self, store: Store) -> None:
        pages = store._run("PRAGMA page_count")[0][0]
        store._run(f"PRAGMA max_page_count = {pages + 2}")
        batch = [told(n, "settled", key=b"k%d" % n, replaced=lost(b"x" * 50_000)) for n in range(10)]
        with pytest.raises(StoreError, match="full") as e:
            store.conflicts.save("orders", batch)
        assert e.value.heals and records(store) == []
        store._run("PRAGMA max_page_count = 100000")
        store.conflicts.save("orders", batch)
        assert len(records(store)) == 10

    def test_durable_is_for_one_transaction(self, store: Store) -> None:
        def level() -> int:
            return int(store._run("PRAGMA synchronous")[0][0])

        with store.transaction(durable=True):
            assert level() == 2
        assert level() == 1
        with pytest.raises(RuntimeError), store.transaction(durable=True):
            raise RuntimeError
        assert level() == 1

    @pytest.mark.slow
    def test_reading_while_another_process_writes_sees_whole_batches(self, path: pathlib.Path) -> None:
        Store.open(path).close()
        code = (
            "import pathlib, sys\n"
            "from bisync.runtime.store import Store\n"
            "from tests.told import told\n"
            "with Store.open(pathlib.Path(sys.argv[1])) as s:\n"
            "    for n in range(100_000):\n"
            "        s.conflicts.save('orders', [told(n * 10 + i, key=b'%d' % (n * 10 + i)) for i in range(10)])\n"
            "        print(n, flush=True)\n"
        )
        words = [sys.executable, "-c", code, str(path)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            assert process.stdout is not None and process.stdout.readline()
            counts = []
            with Store.open(path, create=False) as s:
                for _ in range(50):
                    process.stdout.readline()
                    ids = s.conflicts.find("orders")
                    counts.append(len(ids))
                    assert sum(1 for _ in s.conflicts.read("orders", ids[-150:])) == min(150, len(ids))
            process.kill()
        assert all(count % 10 == 0 for count in counts) and counts[-1] > counts[0]

    def test_threads_may_read_and_write_one_store(self, store: Store) -> None:
        def write() -> None:
            for n in range(40):
                store.conflicts.save("orders", [told(n * 5 + i, key=b"%d" % (n * 5 + i)) for i in range(5)])

        thread = threading.Thread(target=write)
        thread.start()
        while thread.is_alive():
            assert len(store.conflicts.find("orders")) % 5 == 0
        thread.join()
        assert len(records(store)) == 200


@pytest.mark.slow
def test_a_thousand_conflicts_a_second_are_no_burden(store: Store) -> None:
    count, began_s = 3_000, time.monotonic()
    for at in range(0, count, 300):
        with store.transaction(durable=True):
            store.conflicts.save(
                "orders", [told(n, key=b"k%d" % (n % 500), east=n, west=n) for n in range(at, at + 300)]
            )
        with store.transaction(durable=True):
            some = [told(n, "settled", key=b"k%d" % (n % 500), east=n, west=n) for n in range(at, at + 300)]
            store.conflicts.save("orders", some)
    rate = count / (time.monotonic() - began_s)
    print(f"{rate:,.0f} conflicts/s, each found and settled")
    assert len(records(store)) == count and rate > 500


HERE = {"east": Server("e:1", "a" * 40), "west": Server("w:1", "b" * 40)}
MOVED = {"east": Server("e:2", "a" * 40), "west": Server("w:1", "c" * 40)}


class TestServers:
    """Which servers the sites were when a conflict was found."""

    def ids(self, store: Store) -> list[int]:
        return store.conflicts.find("orders")

    def test_are_known_of_each_conflict_as_they_were_seen_last(self, store: Store) -> None:
        store.conflicts.save("orders", [told(1)])
        [first] = self.ids(store)
        assert store.conflicts.servers("orders", first) == {}
        store.conflicts.save_servers("orders", HERE)
        store.conflicts.save("orders", [told(2, key=b"k2")])
        assert [store.conflicts.servers("orders", id) for id in self.ids(store)] == [HERE, HERE]
        store.conflicts.save_servers("orders", MOVED)
        assert [store.conflicts.servers("orders", id) for id in self.ids(store)] == [MOVED, MOVED]
        assert store.conflicts.servers("stock", first) == {}

    def test_of_before_a_reset_stay_as_they_were(self, store: Store) -> None:
        store.conflicts.save("orders", [told(1)])
        store.conflicts.save_servers("orders", HERE)
        store.forget_job("orders")
        store.conflicts.save("orders", [told(2, key=b"k2")])
        store.conflicts.save_servers("orders", MOVED)
        assert [store.conflicts.servers("orders", id) for id in self.ids(store)] == [HERE, MOVED]

    def test_that_no_conflict_names_leave_with_a_reset(self, store: Store) -> None:
        for _ in range(5):
            store.conflicts.save_servers("orders", HERE)
            store.forget_job("orders")
        assert store._run("SELECT count(*) FROM servers") == [(0,)]


class TestVersions:
    FIRST = pathlib.Path(__file__).with_name("store-version-1.sql")
    SECOND = pathlib.Path(__file__).with_name("store-version-2.sql")
    THIRD = pathlib.Path(__file__).with_name("store-version-3.sql")

    def test_a_store_of_version_3_learns_settings(self, path: pathlib.Path) -> None:
        db = sqlite3.connect(path, isolation_level=None)
        db.executescript(self.THIRD.read_text())
        with Store.open(path, create=False) as s:
            assert (s.checkpoint("orders", "forward"), s.settings("orders")) == ("f", {})
            s.save_settings("orders", {"copy_bytes_per_s": 5_000}, T)
            assert s.settings("orders") == {"copy_bytes_per_s": 5_000}
            db.execute("UPDATE checkpoints SET tag = 'g'")  # an engine of version 3 that has it open goes on
            assert s.checkpoint("orders", "forward") == "g"
        db.close()

    def test_a_store_of_version_2_keeps_its_conflicts_and_learns_where_their_sites_are(
        self, path: pathlib.Path
    ) -> None:
        db = sqlite3.connect(path, isolation_level=None)
        db.executescript(self.SECOND.read_text())
        db.close()
        with Store.open(path, create=False) as s:
            [old, before_a_reset] = records(s)
            assert (old.key, old.replaced, old.epoch) == (b"k", lost(b"old"), 4)
            assert s.conflicts.servers("orders", old.id) == {}
            s.conflicts.save_servers("orders", HERE)
            assert s.conflicts.servers("orders", old.id) == HERE, "the engine goes on with the same job"
            assert (before_a_reset.epoch, s.conflicts.servers("orders", before_a_reset.id)) == (0, {})
            s.conflicts.save("orders", [told(9, key=b"new")])
            assert s._run("PRAGMA user_version") == [(VERSION,)]

    def test_an_engine_of_version_2_that_has_it_open_goes_on(self, path: pathlib.Path) -> None:
        db = sqlite3.connect(path, isolation_level=None)
        db.executescript(self.SECOND.read_text())
        columns = [row[1] for row in db.execute("PRAGMA table_info (conflicts)") if row[1] != "id"]
        with Store.open(path) as s:
            s.conflicts.save_servers("orders", HERE)
            db.execute(f"INSERT INTO conflicts ({', '.join(columns)}) SELECT {', '.join(columns)} FROM conflicts")
            s.conflicts.save_servers("orders", HERE)
            assert [s.conflicts.servers("orders", r.id) for r in records(s) if r.epoch] == [HERE, HERE]
        db.close()

    @pytest.fixture
    def old(self, path: pathlib.Path) -> pathlib.Path:
        """A store as version 1 left it, with something in each table."""
        db = sqlite3.connect(path, isolation_level=None)
        db.executescript(self.FIRST.read_text())
        db.execute("PRAGMA journal_mode = WAL")
        db.close()
        return path

    @pytest.mark.parametrize("create", [True, False])
    def test_a_store_of_version_1_is_brought_up_to_date_with_all_it_holds(
        self, old: pathlib.Path, create: bool
    ) -> None:
        with Store.open(old, create=create) as s:
            assert s.checkpoint("orders", "forward") == "f1"
            assert [e.text for e in s.events("orders")] == ["the full copy is finished"]
            assert s.report("orders") == ({"a": 1}, T)
            state = s.state("orders")
            assert state is not None and state.state == "synchronizing"
            s.record_job("orders", "bidirectional", ["east", "west"], T)
            s.conflicts.save("orders", [told(1)])
            assert len(records(s)) == 1
            assert s._run("PRAGMA user_version") == [(VERSION,)]

    def test_an_engine_of_version_1_that_has_it_open_goes_on(self, old: pathlib.Path) -> None:
        db = sqlite3.connect(old, isolation_level=None)
        db.execute("SELECT * FROM checkpoints").fetchall()
        Store.open(old).close()
        db.execute("INSERT OR REPLACE INTO checkpoints VALUES ('orders', 'forward', 'f2', 1)")
        db.close()
        with Store.open(old) as s:
            assert s.checkpoint("orders", "forward") == "f2"

    def test_many_that_open_it_at_once_bring_it_up_to_date_once(self, old: pathlib.Path) -> None:
        start, errors = threading.Barrier(6), []

        def work() -> None:
            start.wait()
            try:
                with Store.open(old) as s:
                    s.conflicts.find("orders")
            except StoreError as e:
                errors.append(e)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []

    def test_one_killed_in_the_middle_leaves_version_1(self, old: pathlib.Path) -> None:
        code = (
            "import os, pathlib, signal, sqlite3, sys\n"
            "from bisync.runtime import store_file as m\n"
            "class Db(sqlite3.Connection):\n"
            "    def execute(self, sql, *a):\n"
            "        if 'INDEX conflicts_of_life' in sql: os.kill(os.getpid(), signal.SIGKILL)\n"
            "        return super().execute(sql, *a)\n"
            "real = sqlite3.connect\n"
            "m.sqlite3.connect = lambda *a, **k: real(*a, factory=Db, **k)\n"
            "m.open_database(pathlib.Path(sys.argv[1]), create=False)\n"
        )
        assert subprocess.run([sys.executable, "-c", code, str(old)]).returncode == -9
        db = sqlite3.connect(old)
        assert db.execute("PRAGMA user_version").fetchall() == [(1,)]
        assert db.execute("SELECT name FROM sqlite_master WHERE name LIKE 'conflicts%'").fetchall() == []
        db.close()
        with Store.open(old) as s:
            s.conflicts.save("orders", [told(1)])


def test_the_writes_are_json_that_others_can_read(store: Store, path: pathlib.Path) -> None:
    store.conflicts.save("orders", [told(1)])
    db = sqlite3.connect(path)
    [(writes, offsets)] = db.execute("SELECT writes, offsets FROM conflicts").fetchall()
    db.close()
    first = conflict().writes[0]
    assert json.loads(writes)[0] == ["east", "SET k v", 100, first.earliest_us, first.latest_us]
    assert json.loads(offsets) == {"east": [100, 100], "west": [200, 200]}
