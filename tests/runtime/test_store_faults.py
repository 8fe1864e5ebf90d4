"""The checkpoint store under kills, full disks and other processes: real ones, as far as the machine lets us."""

import concurrent.futures
import json
import pathlib
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from bisync.errors import StoreError
from bisync.runtime.store import Store
from tests.runtime.test_store import raw, refused

T = 1_700_000_000_000  # any time, in ms


WRITER = """
import pathlib, sys
from bisync.runtime.store import Store

path, n, fill = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
with Store.open(path) as store:
    while True:
        n += 1
        with store.transaction():
            store.save_checkpoint("orders", "forward", str(n), n)
            store.add_event("orders", n, "info", "write", "x" * fill)
            store.save_checkpoint("orders", "reverse", str(n), n)
        print(n, flush=True)
"""


def writer(path: pathlib.Path, first: int = 0, fill: int = 1000) -> "subprocess.Popen[str]":
    """A process that writes both checkpoints and an event in one transaction, again and again, and says what it did."""
    command = [sys.executable, "-c", WRITER, str(path), str(first), str(fill)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_writer_killed_at_any_moment_leaves_whole_transactions_and_none_is_lost(path: pathlib.Path) -> None:
    dice, last = random.Random(1), 0
    for _ in range(15):
        process = writer(path, last)
        assert process.stdout is not None
        for line in process.stdout:
            last = int(line)
            if dice.random() < 0.01:
                break
        process.kill()
        said = process.stdout.read().split()
        process.wait()
        process.stdout.close()
        last = int(said[-1]) if said else last
        with Store.open(path, create=False) as s:
            found = [
                s.checkpoint("orders", "forward"),
                s.checkpoint("orders", "reverse"),
                str(s.events("orders")[-1].at_ms),
            ]
        assert found in ([str(last)] * 3, [str(last + 1)] * 3)  # the very last may not have been said
        assert raw(path, "PRAGMA integrity_check") == [("ok",)]
        last = int(found[0] or 0)


def test_a_writer_killed_while_it_creates_the_file_does_no_harm(path: pathlib.Path) -> None:
    code = (
        "import pathlib, sqlite3, sys\n"
        "from bisync.runtime import store_file as m\n"
        "from bisync.runtime.store import Store\n"
        "steps = int(sys.argv[2])\n"
        "class Db(sqlite3.Connection):\n"
        "    def execute(self, *a):\n"
        "        global steps\n"
        "        steps -= 1\n"
        "        if steps < 0: import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
        "        return super().execute(*a)\n"
        "real = sqlite3.connect\n"
        "m.sqlite3.connect = lambda *a, **k: real(*a, factory=Db, **k)\n"
        "Store.open(pathlib.Path(sys.argv[1])).close()\n"
    )
    results = []
    for steps in range(0, 40, 3):
        file = path.with_name(f"{steps}.db")
        results.append(subprocess.run([sys.executable, "-c", code, str(file), str(steps)]).returncode)
        with Store.open(file) as s:
            s.save_checkpoint("orders", "forward", "f", T)
    assert results[0] == -9 and results[-1] == 0


def test_a_maker_killed_within_its_commit_does_no_harm(path: pathlib.Path) -> None:
    Store.open(path).close()
    raw(path, "PRAGMA journal_mode = delete")
    # The file is written, and the journal that takes it back to nothing is still there (Database File Format, 3).
    header = struct.pack(">8sIIIII", bytes.fromhex("d9d505f920a163d7"), 0, 1, 0, 512, 4096)
    path.with_name("orders.db-journal").write_bytes(header.ljust(512, b"\0"))
    with Store.open(path, create=False) as s:
        s.save_checkpoint("orders", "forward", "f", T)
    assert not path.with_name("orders.db-journal").exists()


def test_the_store_can_be_opened_at_any_moment_while_another_process_writes(path: pathlib.Path) -> None:
    with writer(path, fill=3_900) as process:
        assert process.stdout is not None and process.stdout.readline()
        for _ in range(300):
            process.stdout.readline()
            with Store.open(path, create=False) as s, s.transaction():
                assert s.checkpoint("orders", "forward") == s.checkpoint("orders", "reverse")
        process.kill()


def test_two_processes_write_at_once_and_nothing_is_lost(path: pathlib.Path) -> None:
    code = (
        "import pathlib, sys\nfrom bisync.runtime.store import Store\n"
        "with Store.open(pathlib.Path(sys.argv[1])) as s:\n"
        "    for n in range(200):\n"
        "        with s.transaction():\n"
        "            s.add_event('orders', n, 'info', sys.argv[2], 't')\n"
        "            s.save_checkpoint('orders', sys.argv[2], str(n), n)\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(path), c]) for c in ("forward", "reverse")]
    assert [p.wait(60) for p in both] == [0, 0]
    with Store.open(path) as s:
        events = s.events("orders", 1000)
        for channel in ("forward", "reverse"):
            assert [e.at_ms for e in events if e.kind == channel] == list(range(200))
            assert s.checkpoint("orders", channel) == "199"


def test_a_second_store_in_one_process_does_not_take_the_locks_of_the_first(path: pathlib.Path) -> None:
    code = "import pathlib, sys\nfrom bisync.runtime.store import Store\nStore.open(pathlib.Path(sys.argv[1])).close()"
    with Store.open(path) as one:
        one.save_checkpoint("orders", "forward", "f", T)
        Store.open(path).close()
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        # Another process that believes to be the last one removes the WAL file under our feet.
        assert path.with_name("orders.db-wal").exists()
        one.save_checkpoint("orders", "reverse", "r", T)
    with Store.open(path) as again:
        assert again.checkpoint("orders", "reverse") == "r"


def test_many_that_open_a_new_file_at_the_same_moment_all_get_it(tmp_path: pathlib.Path) -> None:
    for n in range(10):
        start = threading.Barrier(6)

        def work(name: int, file: pathlib.Path = tmp_path / f"{n}.db", start: threading.Barrier = start) -> None:
            start.wait()
            with Store.open(file) as s:
                s.save_checkpoint("orders", str(name), "f", T)

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            list(pool.map(work, range(6)))
        assert raw(tmp_path / f"{n}.db", "SELECT count(*) FROM checkpoints") == [(6,)]
        assert raw(tmp_path / f"{n}.db", "PRAGMA journal_mode") == [("wal",)]


FULL = """
import json, pathlib, resource, sys
from bisync.errors import StoreError
from bisync.runtime.store import Store

path = pathlib.Path(sys.argv[1])

def write(n, swallow=False):
    with store.transaction():
        store.save_checkpoint("orders", "forward", str(n), n)
        try:
            store.save_report("orders", {"fill": "x" * 200_000}, n)
        except StoreError:
            if not swallow:
                raise
        store.save_checkpoint("orders", "reverse", str(n), n)

def both():
    return [store.checkpoint("orders", c) for c in ("forward", "reverse")]

with Store.open(path) as store:
    store.save_checkpoint("orders", "forward", "0", 0)
    store.save_checkpoint("orders", "reverse", "0", 0)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    errors, after = [], []
    for swallow in (False, True):
        try:
            write(1, swallow)
        except StoreError as e:
            errors.append([e.what, e.why, e.hint])
        after.append(both())
    store.save_checkpoint("orders", "third", "small writes go on", 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    write(2)
    after.append(both())
print(json.dumps([errors, after]))
"""


def test_a_write_that_the_disk_refuses_changes_nothing_and_the_next_one_works(path: pathlib.Path) -> None:
    # A limit on the size of files gives a real error from write(2); Python ignores the signal that comes with it.
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    errors, after = json.loads(done.stdout)
    assert after == [["0", "0"], ["0", "0"], ["2", "2"]]
    assert len(errors) == 2 and errors[0][1] == "disk I/O error" and "look at the disk" in errors[0][2]
    assert raw(path, "PRAGMA integrity_check") == [("ok",)]


def test_an_error_that_the_caller_swallows_in_a_transaction_commits_no_half_of_it(store: Store) -> None:
    pages = store._run("PRAGMA page_count")[0][0]
    store._run(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError, match="given up after an earlier error"), store.transaction():
        store.save_checkpoint("orders", "forward", "f", T)
        with pytest.raises(StoreError, match="database or disk is full") as e:
            store.save_report("orders", {"fill": "x" * 200_000}, T)
        assert "make room on the disk" in e.value.hint
        store.save_checkpoint("orders", "reverse", "r", T)
    assert store.checkpoint("orders", "forward") is None and store.checkpoint("orders", "reverse") is None
    store._run("PRAGMA max_page_count = 100000")
    store.save_report("orders", {"fill": "x" * 200_000}, T)


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of 400 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no right to mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_an_error_with_a_next_step_and_heals(small_disk: pathlib.Path) -> None:
    ballast = small_disk / "ballast"
    with Store.open(small_disk / "orders.db") as s:
        s.save_checkpoint("orders", "forward", "f1", T)
        with open(ballast, "wb", buffering=0) as f, pytest.raises(OSError, match="No space left"):
            while True:
                f.write(bytes(4096))
        with pytest.raises(StoreError, match="database or disk is full") as e:
            s.save_report("orders", {"fill": "x" * 100_000}, T)
        assert "make room on the disk" in e.value.hint
        assert s.checkpoint("orders", "forward") == "f1", "it can still be read"
        ballast.unlink()
        s.save_report("orders", {"fill": "x" * 100_000}, T)
    assert raw(small_disk / "orders.db", "PRAGMA integrity_check") == [("ok",)]


def test_a_store_that_cannot_be_set_up_on_a_full_disk_can_be_later(small_disk: pathlib.Path) -> None:
    ballast, path = small_disk / "ballast", small_disk / "orders.db"
    with open(ballast, "wb", buffering=0) as f, pytest.raises(OSError, match="No space left"):
        while True:
            f.write(bytes(4096))
    refused(path)
    ballast.unlink()
    Store.open(path).close()
