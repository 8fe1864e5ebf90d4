"""The further strategies: every command that they draw is known to a real server and to bisync."""

import random
from collections.abc import Iterator

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from bisync.core import commands
from bisync.testing import families
from bisync.testing.servers import local_servers
from bisync.testing.strategies import Command, keys
from bisync.testing.workloads import draw_commands

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator["redis.Redis"]:
    with local_servers(tmp_path_factory.mktemp("site"), "east") as (server,), server.client() as client:
        yield client


def test_each_kind_of_command_succeeds_at_times(client: "redis.Redis") -> None:
    """On keys that each family has for itself; what never succeeds would test nothing."""
    for make in (
        families.stream_commands,
        families.bit_commands,
        families.count_commands,
        families.place_commands,
        families.computed_commands,
        families.soon_over,
    ):
        client.flushall()
        client.zadd("k0", {"x": 1})
        if make is families.computed_commands:
            client.rpush("k1", "x", "y")
        done, tried = set(), set()
        for command in draw_commands(make(keys(2)), 400, random.Random(1)):
            tried.add(command[0])
            try:
                client.execute_command(*command)
                done.add(command[0])
            except redis.ResponseError as e:
                assert (
                    "unknown command" not in str(e) and "wrong number" not in str(e) and "syntax" not in str(e)
                ), command
        assert tried == done, (make, tried - done)


@given(st.lists(families.all_commands(keys(3)), max_size=20))
def test_bisync_knows_each_command(drawn: list[Command]) -> None:
    for command in drawn:
        assert commands.row(command[0]) is not None, command


def test_a_script_runs_its_commands_and_leaves_out_what_fails(client: "redis.Redis") -> None:
    client.flushall()
    words: list[Command] = [(b"SET", b"a", b""), (b"LPUSH", b"a", b"x"), (b"RPUSH", b"b", b"\x00\r\n", b"y")]
    assert client.execute_command(*families.script(words)) == 3
    assert client.get("a") == b"" and client.lrange("b", 0, -1) == [b"\x00\r\n", b"y"]
