"""Clients that touch what is bisync's, make keys unequal, or flush and swap databases while the engine runs."""

import pathlib

import pytest

from tests.bad_days.harness import QUICK, running
from tests.bad_days.test_refused_at_start import REVERSE_TAG, TAG, TAG_OF_ANOTHER
from tests.system.world import wait_until

pytestmark = pytest.mark.slow


class TestTheTag:
    @pytest.mark.parametrize("site, tag", [("west", TAG), ("east", REVERSE_TAG)])
    def test_a_client_deletes_it(self, tmp_path: pathlib.Path, site: str, tag: str) -> None:
        with running(tmp_path) as (day, engine):
            day.servers[site].do("DEL", tag)
            day.write("east", "after")
            day.write("west", "after")
            day.reaches(site, tag)
            day.finish(engine)

    @pytest.mark.parametrize("value", ["mine", TAG_OF_ANOTHER, "[]"])
    def test_a_client_puts_something_else_there(self, tmp_path: pathlib.Path, value: str) -> None:
        with running(tmp_path) as (day, engine):
            day.west.do("SET", TAG, value)
            day.write("east", "meanwhile")
            day.ended(engine, "west", TAG, "elete")
            assert day.west.do("GET", TAG) == value.encode(), "a foreign value was overwritten"
            day.refused("west", TAG, "elete")
            day.west.do("DEL", TAG)
            day.finish(day.synchronised_engine())

    def test_a_client_makes_a_hash_of_it(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path) as (day, engine):
            with day.west.client() as client:
                client.pipeline().delete(TAG).hset(TAG, "a", "b").execute()
            day.write("east", "meanwhile")
            day.ended(engine, "west", TAG, "elete")
            day.west.do("DEL", TAG)
            day.finish(day.synchronised_engine())


class TestUnequalKeys:
    def test_another_type_at_the_target_one_way(self, tmp_path: pathlib.Path) -> None:
        with running(tmp_path, topology="one-way") as (day, engine):
            day.west.do("SET", "list", "mine")
            day.east.do("RPUSH", "list", 1)
            day.logs(engine, "WRONGTYPE")
            assert "Run bisync verify" in engine.text
            day.write("east", "after")
            day.wait_drained(engine)
            assert day.west.do("GET", "list") == b"mine"
            assert "list" in day.bisync("verify", status=1)
            engine.stop()

    def test_another_type_at_the_target_two_ways(self, tmp_path: pathlib.Path) -> None:
        """A key that both sites would not have in the same type: the site whose write failed across is right."""
        with running(tmp_path, tables=QUICK + '[commands]\nflush = "drop"\n') as (day, engine):
            day.east.do("RPUSH", "list", 1)
            day.wait_drained(engine)
            day.wanted["east"].clear()
            day.west.do("FLUSHDB")  # dropped: the sites are unequal now
            day.reaches("west", TAG)
            day.west.do("APPEND", "list", "text")  # a new string there, and no command for the list at east
            wait_until(lambda: day.east.do("TYPE", "list") == b"string", "the list at east has become a string")
            day.wait_drained(engine)
            assert day.east.do("GET", "list") == b"text"
            engine.stop()


class TestCommandsAboutMoreThanKeys:
    @pytest.mark.parametrize("site, word", [("east", "FLUSHALL"), ("west", "FLUSHALL"), ("west", "FLUSHDB")])
    def test_a_flush_is_passed_on(self, tmp_path: pathlib.Path, site: str, word: str) -> None:
        with running(tmp_path) as (day, engine):
            day.write("west", "before")
            day.wait_drained(engine)
            day.servers[site].do(word)
            day.wanted = {"east": set(), "west": set()}
            day.write("east", "after", 7)
            day.write("west", "after", 6)
            day.finish(engine)
            assert day.east.do("EXISTS", "east:before", "west:before") == 0

    @pytest.mark.parametrize("site", ["east", "west"])
    def test_a_flush_is_dropped(self, tmp_path: pathlib.Path, site: str) -> None:
        other = "west" if site == "east" else "east"
        with running(tmp_path, tables=QUICK + '[commands]\nflush = "drop"\n') as (day, engine):
            day.wait_drained(engine)
            day.servers[site].do("FLUSHALL")
            day.wanted = {"east": set(), "west": set()}
            day.write("east", "after", 7)
            day.write("west", "after", 6)
            day.wait_drained(engine)
            day.assert_all_there()
            assert day.servers[other].do("LLEN", "east:before") == 5
            engine.stop()

    @pytest.mark.parametrize("site", ["east", "west"])
    def test_a_flush_stops_the_job(self, tmp_path: pathlib.Path, site: str) -> None:
        other = "west" if site == "east" else "east"
        with running(tmp_path, tables=QUICK + '[commands]\nflush = "stop"\n') as (day, engine):
            day.servers[site].do("FLUSHALL")
            day.ended(engine, "FLUSHALL", site)
            assert day.servers[other].do("LLEN", "east:before") == 5

    @pytest.mark.parametrize("site", ["east", "west"])
    def test_a_swap_of_databases(self, tmp_path: pathlib.Path, site: str) -> None:
        tables = f'{QUICK}\n[commands]\nswapdb = "pass"\n'  # a two-way job stops without it
        with running(tmp_path, tables=tables) as (day, engine):
            day.east.do("SET", "one", "1", db=1)
            day.wait_drained(engine)
            day.servers[site].do("SWAPDB", 0, 1)
            day.wanted = {"east": set(), "west": set()}
            day.write("east", "after")
            day.write("west", "after")
            day.wait_drained(engine)
            day.assert_all_there()
            for server in day.servers.values():
                assert server.do("GET", "one") == b"1" and server.do("LLEN", "east:before", db=1) == 5
            day.finish(engine)
