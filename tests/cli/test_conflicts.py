"""`bisync conflicts`: the log for people and for scripts."""

import fcntl
import json
import os
import pathlib
import pty
import re
import sqlite3
import struct
import subprocess
import sys
import termios

import pytest
import redis
from click.testing import CliRunner, Result

from bisync.cli.conflicts import SHOWN, command
from bisync.config import Job, load_job
from bisync.core.actions import Replaced
from bisync.core.commands import FUNCTIONS
from bisync.errors import BisyncError, StoreError
from bisync.runtime.conflict_record import Server, Told
from bisync.runtime.store import Store
from bisync.testing.servers import local_servers
from tests.cli import jobs
from tests.told import T, lost, sha, told

ODD = b"odd\x1b[31m\xff[bold]"
SAMPLES = (
    told(1, "settled", key=b"order:1", replaced=lost(b"a", "dump")),
    told(2, "settled", key=ODD, element=("hash", b"f"), winner="west", replaced=lost(b"v", site="east")),
    told(3, "settled", key=b"order:2", found_ms=T + 60_000, certain=False, rule="order of the sites"),
    told(4, "open", key=b"order:3", found_ms=T + 61_000, database=3),
)


@pytest.fixture
def file(tmp_path: pathlib.Path) -> pathlib.Path:
    """A job file whose store has the samples."""
    return filled(tmp_path, *SAMPLES)


def filled(folder: pathlib.Path, *samples: Told) -> pathlib.Path:
    file = jobs.job_file(folder)
    with Store.open(load_job(file).store) as store:
        store.conflicts.save("orders", samples)
    return file


def call(file: pathlib.Path, *options: object) -> Result:
    return CliRunner().invoke(command, [str(file), *map(str, options)], catch_exceptions=False)


def shown(file: pathlib.Path, *options: object) -> str:
    done = call(file, *options)
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout


def numbers(file: pathlib.Path, *options: object) -> list[int]:
    return [record["id"] for record in json.loads(shown(file, *options, "--json"))]


class TestTable:
    def test_has_a_line_for_each_the_newest_last(self, file: pathlib.Path) -> None:
        lines = [" ".join(line.split()) for line in shown(file).splitlines()]
        assert lines == [
            "id found (UTC) database key element writes winner why outcome",
            "1 2023-11-14 22:13:20.000 0 order:1 east 1, west 1 east newest write settled",
            r"2 2023-11-14 22:13:20.000 0 odd\x1b[31m\xff[bold] field f east 1, west 1 west newest write settled",
            "3 2023-11-14 22:14:20.000 0 order:2 east 1, west 1 east order of the sites? settled",
            "4 2023-11-14 22:14:21.000 3 order:3 east 1, west 1 east newest write open",
            "?: the times overlap: which one was newer is not certain",
        ]

    def test_says_nothing_of_doubts_where_there_are_none(self, file: pathlib.Path) -> None:
        assert "?" not in shown(file, "--key", "order:1")
        assert "order of the sites?" in shown(file, "--uncertain")

    @pytest.mark.slow
    @pytest.mark.parametrize(("width", "word"), [(80, "east?"), (60, "east?"), (100, "order of the sites?")])
    def test_doubts_are_seen_on_narrow_terminals_too(self, file: pathlib.Path, width: int, word: str) -> None:
        text = on_terminal(width, "conflicts", file)
        assert word in text and "?: the times" in text

    @pytest.mark.slow
    @pytest.mark.parametrize("width", [10, 20, 30, 40, 50])
    def test_an_id_is_never_cut(self, tmp_path: pathlib.Path, width: int) -> None:
        """One has to type it."""
        file = filled(tmp_path, told(1, key=b"session:" + b"a" * 300, element=("zset", b"m" * 50), database=3))
        with sqlite3.connect(load_job(file).store) as db:
            db.execute("UPDATE conflicts SET id = 1234567")
        db.close()
        lines = on_terminal(width, "conflicts", file).splitlines()
        assert lines[1].split()[0] == "1234567" and all(len(line.rstrip()) <= width for line in lines)
        assert width < 20 or "sess" in lines[1]

    def test_an_empty_key_is_seen_and_found(self, tmp_path: pathlib.Path) -> None:
        file = filled(tmp_path, told(1, key=b"", element=("hash", b"")), told(2, key=b"other"))
        assert '""' in shown(file).splitlines()[1] and 'field ""' in shown(file).splitlines()[1]
        assert numbers(file, "--key", '""') == numbers(file, "--key", "") == [1]
        assert json.loads(shown(file, 1, "--json"))["key"] == "", "programs get what it is"

    def test_leaves_out_columns_that_would_be_empty(self, tmp_path: pathlib.Path) -> None:
        text = shown(filled(tmp_path, told(1)))
        assert "database" not in text and "element" not in text

    def test_names_functions(self, tmp_path: pathlib.Path) -> None:
        text = shown(filled(tmp_path, told(1, database=FUNCTIONS[0], key=FUNCTIONS[1])))
        assert "(all functions)" in text and str(FUNCTIONS[0]) not in text

    def test_cuts_long_keys(self, tmp_path: pathlib.Path) -> None:
        text = shown(filled(tmp_path, told(1, key=b"k" * 10_000)))
        assert "k" * 150 in text and "k" * 201 not in text and "…" in text

    def test_is_limited_and_says_so(self, tmp_path: pathlib.Path) -> None:
        file = filled(tmp_path, *(told(n, key=b"k%d" % n) for n in range(SHOWN + 50)))
        lines = shown(file).splitlines()
        assert len(lines) == SHOWN + 2
        assert lines[-1] == "The newest 100 of 150. For more: --limit, --json or --export."
        assert lines[1].split()[0] == "51" and lines[-2].split()[0] == "150"
        assert len(shown(file, "--limit", 0).splitlines()) == 151
        assert [line.split()[0] for line in shown(file, "--limit", 2).splitlines()[1:3]] == ["149", "150"]

    def test_of_an_empty_log_is_a_sentence(self, tmp_path: pathlib.Path, file: pathlib.Path) -> None:
        folder = tmp_path / "empty"
        folder.mkdir()
        assert shown(filled(folder)) == "No conflicts in the log of job 'orders'.\n"
        assert shown(file, "--key", "nothing") == "No conflicts like that.\n"

    @pytest.mark.slow
    @pytest.mark.parametrize("width", [60, 80, 96, 110, 120, 200])
    def test_fits_the_terminal(self, tmp_path: pathlib.Path, width: int) -> None:
        wide = told(5, key=b"session:" + b"a" * 300, element=("zset", b"member" * 20), database=3)
        text = on_terminal(width, "conflicts", filled(tmp_path, *SAMPLES, wide))
        lines = [line.rstrip() for line in text.splitlines()]
        assert lines.pop().startswith("?: ") and len(lines) == 6, "one line for each"
        assert all(len(line) <= width for line in lines), lines
        assert lines[0].startswith("id  found") and lines[-1].startswith("5 ")
        if width >= 80:
            assert lines[0].endswith("outcome") and lines[-1].endswith("open")
        assert ("writes" in lines[0]) == (width >= 200) and ("why" in lines[0]) == (width >= 96)
        assert "order:1" in text

    @pytest.mark.slow
    def test_brings_no_terminal_out_of_order(self, file: pathlib.Path) -> None:
        for words in (("conflicts", file), ("conflicts", file, 2)):
            assert "\x1b[31m" not in on_terminal(100, *words, raw=True)


def on_terminal(width: int, *words: object, raw: bool = False) -> str:
    """What the program prints on a terminal of that width."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "bisync", *map(str, words)],
        **{"stdin": theirs, "stdout": theirs, "stderr": theirs},
        env={**environment, "TERM": "xterm-256color"},
    )
    os.close(theirs)
    data = b""
    while True:
        try:
            piece = os.read(ours, 65_536)
        except OSError:  # Linux: the other end is closed
            break
        if not piece:
            break
        data += piece
    os.close(ours)
    assert process.wait(30) == 0, data
    text = data.decode()
    return text if raw else re.sub(r"\x1b\[[0-9;]*m", "", text)


class TestChoosing:
    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ((), [1, 2, 3, 4]),
            (("--key", "order:1"), [1]),
            (("--key", "order:*"), [1, 3, 4]),
            (("--key", r"odd\x1b[31m\xff[bold]"), [2]),
            (("--since", "2023-11-14T22:14:00Z"), [3, 4]),
            (("--until", "2023-11-14T22:14:00"), [1, 2]),
            (("--since", "1d"), []),
            (("--until", "1d"), [1, 2, 3, 4]),
            (("--database", 3), [4]),
            (("--site", "east"), [2]),
            (("--winner", "west"), [2]),
            (("--open",), [4]),
            (("--uncertain",), [3]),
            (("--limit", 2), [3, 4]),
            (("--limit", 0), [1, 2, 3, 4]),
            (("--key", "order:*", "--limit", 1, "--until", "2023-11-14T22:14:00"), [1]),
        ],
    )
    def test_each_option(self, file: pathlib.Path, options: tuple[object, ...], expected: list[int]) -> None:
        assert numbers(file, *options) == expected

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (("--since", "tomorrow"), "'tomorrow' is no time: expected an age such as 15m"),
            (("--winner", "north"), "'north' is no site of this job: east or west"),
            (("--site", "north"), "'north' is no site of this job"),
            (("--limit", -1), "--limit"),
            (("--database", 1 << 40), "--database"),
            (("--undo", 0), "'--undo': '0' is no conflict: expected its number, which `bisync conflicts` shows first"),
            (("--undo", "x"), "'--undo': 'x' is no conflict: expected its number"),
            (("--undo", "12345678901234567890"), "is no conflict: expected its number"),
            (("nine",), "'[ID]': 'nine' is no conflict: expected its number"),
            (("--export", ""), "--export needs the name of a file, or - for standard output; it is empty"),
            ((3, "--undo", 4), "do not go together"),
            (("--undo", 4, "--export", "x"), "do not go together"),
            ((3, "--open"), "--open does not go with it"),
            (("--undo", 3, "--key", "k"), "--key does not go with it"),
            (("--force",), "--force goes with --undo or --export"),
            (("--export", "x", "--json"), "--json does not go with it"),
        ],
    )
    def test_wrong_use_is_explained(self, file: pathlib.Path, options: tuple[object, ...], text: str) -> None:
        done = call(file, *options)
        assert (done.exit_code, done.stdout) == (2, "") and text in done.stderr

    def test_without_a_store_it_says_what_to_do(self, tmp_path: pathlib.Path) -> None:
        with pytest.raises(StoreError, match="there is no store file .*Next: start it with `bisync run`"):
            call(jobs.job_file(tmp_path))
        assert not (tmp_path / "orders.db").exists()


class TestDocuments:
    def test_json_is_a_list(self, file: pathlib.Path, tmp_path: pathlib.Path) -> None:
        documents = json.loads(shown(file, "--json"))
        assert [d["key"] for d in documents] == ["order:1", r"odd\x1b[31m\xff[bold]", "order:2", "order:3"]
        assert {"id", "time", "database", "key", "element", "writes", "policy", "winner", "rule"} <= set(documents[0])
        assert {"certain", "counts", "outcome", "settled", "replaced"} <= set(documents[0])
        folder = tmp_path / "empty"
        folder.mkdir()
        assert shown(filled(folder), "--json") == "[]\n"

    def test_json_has_all_of_them(self, tmp_path: pathlib.Path) -> None:
        assert len(numbers(filled(tmp_path, *(told(n, key=b"k%d" % n) for n in range(SHOWN + 50))))) == SHOWN + 50

    def test_export_writes_a_line_for_each(self, file: pathlib.Path, tmp_path: pathlib.Path) -> None:
        to = tmp_path / "all.jsonl"
        done = call(file, "--export", to, "--key", "order:*")
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", "3 conflicts exported.\n")
        assert [json.loads(line)["id"] for line in to.read_text().splitlines()] == [1, 3, 4]
        assert to.stat().st_mode & 0o777 == 0o600, "values of clients are in it"

    def test_export_to_standard_output(self, file: pathlib.Path) -> None:
        done = call(file, "--export", "-", "--limit", 2)
        assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [3, 4]
        assert done.stderr == "2 conflicts exported.\n"

    def test_export_writes_over_a_file_only_by_force(self, file: pathlib.Path, tmp_path: pathlib.Path) -> None:
        to = tmp_path / "all.jsonl"
        to.write_text("mine")
        with pytest.raises(BisyncError, match="all.jsonl exists already.*say --force"):
            call(file, "--export", to)
        assert to.read_text() == "mine"
        assert call(file, "--export", to, "--force").exit_code == 0
        assert len(to.read_text().splitlines()) == 4

    def test_export_to_a_device(self, file: pathlib.Path) -> None:
        assert call(file, "--export", "/dev/null").exit_code == 0

    @pytest.mark.slow
    @pytest.mark.parametrize("options", [("--export", "-"), ("--json",), (), (1,)])
    def test_a_full_disk_under_the_output_is_one_clear_error(self, file: pathlib.Path, options: tuple[str]) -> None:
        with open("/dev/full", "wb") as full:
            process = jobs.bisync("conflicts", file, *options, stdout=full)
            _, err = process.communicate(timeout=60)
        assert (process.returncode, len(err.splitlines())) == (1, 1)
        assert err.startswith("bisync: standard output cannot be written (No space left on device)")

    @pytest.mark.slow
    def test_a_closed_output_is_one_clear_error_of_an_export(self, file: pathlib.Path) -> None:
        words = f"{sys.executable} -m bisync conflicts {file} --export - >&-"
        done = subprocess.run(["sh", "-c", words], stderr=subprocess.PIPE, text=True, timeout=60)
        assert (done.returncode, done.stderr.partition(".")[0]) == (1, "bisync: standard output is closed")

    def test_an_export_that_fails_leaves_nothing(self, file: pathlib.Path, tmp_path: pathlib.Path) -> None:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(BisyncError, match="cannot be written .No such file or directory"):
            call(file, "--export", tmp_path / "nowhere" / "x")
        with pytest.raises(BisyncError, match="cannot be written .No space left on device"):
            call(file, "--export", "/dev/full")
        assert sorted(tmp_path.iterdir()) == before

    @pytest.mark.slow
    def test_what_is_long_is_streamed(self, tmp_path: pathlib.Path) -> None:
        file = filled(tmp_path, *(told(n, "settled", key=b"%d" % n, replaced=lost(b"x" * 60_000)) for n in range(400)))
        code = (
            "import resource, sys\n"
            "from bisync.cli import main\n"
            "status = 0\n"
            "try: main(sys.argv[1:])\n"
            "except SystemExit as e: status = e.code\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
            "sys.exit(status)\n"
        )
        used = []
        for limit in (1, 400):
            words = [sys.executable, "-c", code, "conflicts", str(file), "--json", "--limit", str(limit)]
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0 and len(json.loads(done.stdout)) == limit
            used.append(int(done.stderr))
        assert used[1] - used[0] < 20_000, "24 MB of values, a page of 100 at a time"


class TestOne:
    def test_in_full(self, file: pathlib.Path) -> None:
        lines = [" ".join(line.split()) for line in shown(file, 2).splitlines()]
        assert r"key odd\x1b[31m\xff[bold]" in lines and "element field f" in lines
        assert "winner west (newest write)" in lines and "writes met 1 of east, 1 of west" in lines
        assert "replaced at east: v" in lines and "writes, oldest first (all):" in lines
        assert "east: SET k v" in lines
        assert "at 100 of its stream, made between 2023-11-14T22:13:19.999500Z and 2023-11-14T22:13:20.000000Z" in lines

    def test_says_when_the_times_could_not_tell(self, file: pathlib.Path) -> None:
        assert "(order of the sites; the times could not tell)" in shown(file, 3)

    def test_of_many_writes_says_that_some_are_left_out(self, tmp_path: pathlib.Path) -> None:
        text = shown(filled(tmp_path, told(1, counts={"east": 900, "west": 1})), 1)
        assert "(the first and the last of 901)" in text

    def test_json_is_one_object(self, file: pathlib.Path) -> None:
        assert json.loads(shown(file, 3, "--json"))["id"] == 3

    def test_that_is_none(self, file: pathlib.Path) -> None:
        with pytest.raises(BisyncError, match="has no conflict 9"):
            call(file, 9)


def history(port: int) -> str:
    with redis.Redis(port=port, protocol=2) as client:
        return str(client.info("replication")["master_replid"])


class TestUndo:
    """More is in tests/test_undo.py."""

    @pytest.mark.slow
    def test_puts_back_says_so_and_notes_it(self, tmp_path: pathlib.Path) -> None:
        with local_servers(tmp_path, "east", "west") as (east, west):
            job, id = self.settled(tmp_path, east.url, west.url)
            with west.client() as client:
                client.hset("k", "f", "new")
                done = jobs.bisync("conflicts", job.path, "--undo", id)
                out, err = done.communicate(timeout=30)
                assert (done.returncode, err) == (0, "")
                assert out.splitlines() == [
                    f"Conflict {id} is undone: at west, field f of k holds again what lost there.",
                    "No engine is running: the next `bisync run` carries this to east.",
                ]
                assert client.hgetall("k") == {b"f": b"old"}
                refused = jobs.bisync("conflicts", job.path, "--undo", id)
                out, err = refused.communicate(timeout=30)
                assert (refused.returncode, out) == (1, "") and "it was undone before" in err
                client.hset("k", "f", "new")
                document = json.loads(shown(job.path, "--undo", id, "--force", "--json"))
                assert document == {"id": id, "site": "west", "written": True, "without_expiry": False}
        assert json.loads(shown(job.path, id, "--json"))["outcome"] == "undone"

    @pytest.mark.slow
    def test_knows_of_a_running_engine(self, tmp_path: pathlib.Path) -> None:
        with local_servers(tmp_path, "east", "west") as (east, west):
            job, id = self.settled(tmp_path, east.url, west.url)
            jobs.save(job.path, jobs.report())
            west.client().hset("k", "f", "new")
            assert "The sync carries this to east." in shown(job.path, "--undo", id)

    @staticmethod
    def settled(folder: pathlib.Path, east: str, west: str) -> tuple[Job, int]:
        """A conflict over a field that held "old" at west and is "new" since then."""
        job = load_job(jobs.job_file(folder, east, west))
        replaced = Replaced("west", "value", b"old", None, 3, sha(b"old"))
        with Store.open(job.store) as store:
            one = told(1, "settled", element=("hash", b"f"), replaced=replaced, kept=sha(b"new"))
            places = {site.name: Server(site.endpoint.address, history(site.endpoint.port)) for site in job.sites}
            store.conflicts.save_servers("orders", places)
            store.conflicts.save("orders", [one])
            return job, store.conflicts.find("orders")[0]
