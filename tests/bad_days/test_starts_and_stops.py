"""Signals, second engines, and what changed between two starts."""

import pathlib
import signal

import pytest

from bisync.core.tag import Tag
from tests.bad_days.harness import QUICK, BadDay, listener, silent
from tests.system.world import FORWARD, REVERSE, wait_until

pytestmark = pytest.mark.slow
SIGNALS = [signal.SIGTERM, signal.SIGINT]


@pytest.mark.parametrize("how", SIGNALS)
def test_a_signal_in_the_copy_and_the_next_start_goes_on_exactly(tmp_path: pathlib.Path, how: signal.Signals) -> None:
    with BadDay(tmp_path, tables=QUICK + "batch_commands = 20\n") as day:
        with day.east.client() as client:
            client.mset({f"k{n}": "x" * 200 for n in range(30_000)})
        engine = day.start_engine()
        day.reaches("west", "bisync:orders:tag:forward")
        wait_until(lambda: day.west.do("DBSIZE") > 100, "the copy has begun")
        engine.send(how)
        assert engine.ends() == 0 and "Traceback" not in engine.text, engine.text
        tag = day.tag(FORWARD)
        assert tag is not None and not tag.copied, "the copy was over before the signal"
        assert day.status()["state"] == "suspended"
        day.east.do("DEL", "k1")
        day.finish(day.synchronised_engine())
        assert day.west.do("EXISTS", "k1") == 0


def test_signals_under_load_and_each_next_start_goes_on_exactly(tmp_path: pathlib.Path) -> None:
    with BadDay(tmp_path) as day:
        engine = day.synchronised_engine()
        day.start_writers(1)
        for until, how in (60, signal.SIGTERM), (120, signal.SIGINT):
            wait_until(lambda: engine.check() and all(w.rounds > until for w in day.writers), "clients write")
            engine.send(how)
            assert engine.ends() == 0, engine.text
            assert "stopped by a signal" in engine.text and "Traceback" not in engine.text
            engine = day.synchronised_engine()
        day.stop_writers()
        day.wait_drained(engine)
        day.assert_written()
        day.finish(engine)


def test_a_signal_while_a_site_says_nothing_does_not_wait_for_it(tmp_path: pathlib.Path) -> None:
    with BadDay(tmp_path) as day, listener(silent) as port:
        day.urls["west"] = f"redis://127.0.0.1:{port}"
        day.rewrite(tables="[engine]\nconnect_timeout_ms = 600000\n")
        engine = day.start_engine()
        wait_until(lambda: engine.check() and day.status()["state"] == "prechecking", "the precheck")
        engine.send(signal.SIGTERM)
        assert engine.ends(3) == 0
        assert "Traceback" not in engine.text


def test_a_signal_while_a_site_is_frozen(tmp_path: pathlib.Path) -> None:
    """It waits a while for the transaction under way, and then ends; the tag says whether it was applied."""
    with BadDay(tmp_path) as day:
        engine = day.synchronised_engine()
        day.west.pause()
        day.write("east", "meanwhile")
        engine.send(signal.SIGTERM)
        engine.send(signal.SIGTERM)
        assert engine.ends(20) == 0, engine.text
        day.west.resume()
        day.finish(day.synchronised_engine())


def test_a_second_engine_takes_over_and_the_first_ends_with_3(tmp_path: pathlib.Path) -> None:
    with BadDay(tmp_path) as day:
        first = day.synchronised_engine()
        day.start_writers(1)
        wait_until(lambda: all(w.rounds > 30 for w in day.writers), "clients write")
        second = day.start_engine()
        day.ended(first, "has taken the job orders", "epoch", status=3)
        day.wait_synchronizing(second)
        day.stop_writers()
        day.wait_drained(second)
        day.assert_written()
        day.finish(second)


class TestAJobFileThatWasChanged:
    def test_the_sites_are_swapped(self, tmp_path: pathlib.Path) -> None:
        with BadDay(tmp_path) as day:
            day.write("east", "before")
            day.synchronised_engine().stop()
            tags = day.tag(FORWARD), day.tag(REVERSE)
            day.urls = dict(reversed(day.urls.items()))
            day.write_job_file()
            day.refused("is recorded as bidirectional between east and west", "between west and east", "bisync reset")
            for path in tmp_path.glob("orders.db*"):
                path.unlink()
            day.refused("cannot begin", "the target is not empty")
            assert (day.tag(FORWARD), day.tag(REVERSE)) == tags
            day.urls = dict(reversed(day.urls.items()))
            day.write_job_file()
            day.write("west", "later")
            day.finish(day.synchronised_engine())

    def test_the_names_of_the_sites_are_swapped(self, tmp_path: pathlib.Path) -> None:
        with BadDay(tmp_path) as day:
            day.write("east", "before")
            day.synchronised_engine().stop()
            right = dict(day.urls)
            day.urls = {"east": right["west"], "west": right["east"]}
            day.write_job_file()
            day.refused("Next: ")
            day.urls = right
            day.write_job_file()
            day.write("west", "later")
            day.finish(day.synchronised_engine())

    def test_another_topology(self, tmp_path: pathlib.Path) -> None:
        with BadDay(tmp_path) as day:
            day.write("east", "before")
            day.synchronised_engine().stop()
            day.rewrite(topology="one-way")
            day.refused("is recorded as bidirectional", "says one-way", "bisync reset")
            day.rewrite(topology="bidirectional")
            day.finish(day.synchronised_engine())

    def test_another_server_under_the_same_name(self, tmp_path: pathlib.Path) -> None:
        with BadDay(tmp_path) as day:
            day.write("east", "before")
            day.synchronised_engine().stop()
            from tests.bad_days.harness import LockedServer

            third = LockedServer(tmp_path / "west" / "third").start()
            try:
                third.do("SET", "mine", 1)
                day.urls["west"] = third.account_url
                day.write_job_file()
                day.refused("Next: ")
                assert third.do("KEYS", "east*") == []
            finally:
                third.stop(signal.SIGKILL)


def remove_store(day: BadDay) -> None:
    for path in day.folder.glob("orders.db*"):
        path.unlink()


class TestWhatWasLostBetweenTwoStarts:
    @pytest.mark.parametrize("topology", ["one-way", "bidirectional"])
    def test_the_store_the_tags_go_on(self, tmp_path: pathlib.Path, topology: str) -> None:
        with BadDay(tmp_path, topology=topology) as day:
            day.write("east", "before")
            engine = day.synchronised_engine()
            day.write("east", "after")
            day.wait_drained(engine)
            epoch = Tag.decode(day.west.do("GET", "bisync:orders:tag:forward")).epoch
            engine.kill()
            remove_store(day)
            day.write("east", "meanwhile")
            engine = day.synchronised_engine()
            assert day.tag(FORWARD).epoch == epoch + 1  # type: ignore[union-attr]
            assert "full copy" not in engine.text
            day.finish(engine)

    @pytest.mark.parametrize("topology", ["one-way", "bidirectional"])
    def test_the_tags_the_store_goes_on(self, tmp_path: pathlib.Path, topology: str) -> None:
        with BadDay(tmp_path, topology=topology) as day:
            day.write("east", "before")
            engine = day.synchronised_engine()
            day.write("east", "after")
            day.wait_drained(engine)
            engine.stop()
            for server in day.servers.values():
                for key in server.do("KEYS", "bisync:*"):
                    server.do("DEL", key)
            day.write("east", "meanwhile")
            engine = day.synchronised_engine()
            assert "full copy" not in engine.text
            day.finish(engine)

    def test_both_and_it_begins_anew(self, tmp_path: pathlib.Path) -> None:
        with BadDay(tmp_path) as day:
            day.write("east", "before")
            day.synchronised_engine().stop()
            remove_store(day)
            for server in day.servers.values():
                for key in server.do("KEYS", "bisync:*"):
                    server.do("DEL", key)
            day.refused("the target is not empty")
            day.rewrite(tables=QUICK + '[full_copy]\ntarget_not_empty = "overwrite"\n')
            day.finish(day.synchronised_engine())
