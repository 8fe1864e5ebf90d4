"""`bisync demo`: ends well, finds a difference, leaves nothing behind."""

import json
import os
import pathlib
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import attrs
import pytest

from bisync.cli.demo import _interruptible
from bisync.demo import Writer
from bisync.errors import BisyncError
from bisync.testing.servers import LocalServer, local_servers
from tests.cli import jobs

DEMO_S_MAX = 40  # promised; it takes about 7 s


@attrs.frozen
class Shown:
    """A demonstration that has ended."""

    code: int
    document: dict[str, Any]
    text: str
    left: list[pathlib.Path]


def start(folder: pathlib.Path, *options: str) -> "subprocess.Popen[str]":
    """A demonstration whose temporary files are in this folder, in a process group of its own."""
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder)}
    return jobs.bisync("demo", *options, env=environment, start_new_session=True)


def processes_of(folder: pathlib.Path) -> list[str]:
    """The command lines of the processes that use the folder."""
    found = subprocess.run(["ps", "-A", "-o", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in found.splitlines() if str(folder) in line]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Shown]:
    """One as it is and one sabotaged, at the same time."""
    base = tmp_path_factory.mktemp("demo")
    started = {name: start(base / name, "--json", *words) for name, words in (("plain", []), ("bad", ["--sabotage"]))}
    shown = {}
    for name, process in started.items():
        out, err = process.communicate(timeout=2 * DEMO_S_MAX)
        left = list((base / name).iterdir())
        assert out, err
        shown[name] = Shown(process.returncode, json.loads(out), err, left)
        assert processes_of(base / name) == []
    return shown


class TestWhole:
    def test_ends_with_equal_sites(self, both: dict[str, Shown]) -> None:
        plain = both["plain"]
        assert plain.code == 0, plain.text
        assert plain.document["equal"] and not plain.document["differences"] and not plain.document["wrong_totals"]
        assert plain.document["seconds"] < DEMO_S_MAX

    def test_has_written_at_both_sites_also_without_an_engine(self, both: dict[str, Shown]) -> None:
        document = both["plain"].document
        missed = document["crash"]["writes_without_engine"]
        assert all(0 < missed[site] < document["writes"][site] for site in ("east", "west"))
        assert document["compared"] > document["copied_keys"] == 7000

    def test_has_seen_and_settled_a_conflict(self, both: dict[str, Shown]) -> None:
        conflict = both["plain"].document["conflict"]
        assert conflict["total"] >= 1 and conflict["value"] == f"set at {conflict['winner']}"

    def test_tells_its_steps_in_order(self, both: dict[str, Shown]) -> None:
        text = both["plain"].text
        places = [text.index(f"\n{n}. ") for n in range(1, 8)]
        assert places == sorted(places)
        assert "nothing lost, nothing doubled" in text and text.rstrip().splitlines()[-1].startswith("The two sites")

    def test_a_difference_is_found_and_named(self, both: dict[str, Shown]) -> None:
        bad = both["bad"]
        assert (bad.code, bad.document["equal"]) == (1, False)
        assert [d["key"] for d in bad.document["differences"]] == ["sabotage"]
        assert "DIFFERENT: sabotage" in bad.text and "NOT equal" in bad.text

    def test_leaves_nothing_behind(self, both: dict[str, Shown]) -> None:
        assert (both["plain"].left, both["bad"].left) == ([], [])


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_cleans_up_when_it_is_broken_off(tmp_path: pathlib.Path, how: signal.Signals) -> None:
    process = start(tmp_path / "t")
    assert process.stdout is not None
    for line in process.stdout:  # writers and an engine are at work from step 3 on
        if line.startswith("3. "):
            break
    os.killpg(process.pid, how)  # as a terminal does: to its children too
    process.send_signal(how)  # and once more, in the middle of the cleaning up
    _, err = process.communicate(timeout=DEMO_S_MAX)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert list((tmp_path / "t").iterdir()) == []
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_does_not_break_off_the_cleaning_up(how: signal.Signals) -> None:
    cleaned = False
    with pytest.raises(KeyboardInterrupt):
        with _interruptible():
            try:
                signal.raise_signal(how)
            finally:
                signal.raise_signal(how)
                cleaned = True
    assert cleaned and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_keep_leaves_the_folder_and_says_where(tmp_path: pathlib.Path) -> None:
    process = start(tmp_path / "t", "--keep")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("3. "):
            break
    process.terminate()
    out, _ = process.communicate(timeout=DEMO_S_MAX)
    (folder,) = (tmp_path / "t").iterdir()
    assert (folder / "demo.toml").exists() and (folder / "engine.log").exists() and str(folder) in " ".join(out.split())
    assert processes_of(tmp_path) == []


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with local_servers(tmp_path_factory.mktemp("site"), "east") as (one,):
        yield one


class TestWriter:
    def test_knows_what_it_has_written(self, server: LocalServer) -> None:
        writer = Writer("east", server)
        writer.start()
        while writer.rounds < 600 and writer.is_alive():
            writer.join(0.01)
        writer.halt()
        assert writer.wrong_totals("east", server) == [] and writer.writes == 3 * writer.rounds

    @pytest.mark.parametrize(
        ("damage", "said"),
        [
            (("DECR", "visits:east"), "counter visits:east"),
            (("RPOP", "orders:east"), "length of list orders:east"),
            (("HDEL", "stock:east", "item-1"), "fields of hash stock:east"),
        ],
    )
    def test_notices_one_missing_write(self, server: LocalServer, damage: tuple[str, ...], said: str) -> None:
        server.client().flushall()
        writer = Writer("east", server)
        writer._burst(server.client())
        server.client().execute_command(*damage)
        assert writer.wrong_totals("west", server) == [f"{said} is 4 at west and should be 5"]

    def test_a_failure_is_told_when_it_is_halted(self, server: LocalServer) -> None:
        server.client().set("visits:wrong", "no number")
        writer = Writer("wrong", server)
        writer.start()
        writer.join(10)
        with pytest.raises(BisyncError, match="writer at wrong failed .*not an integer"):
            writer.halt()
