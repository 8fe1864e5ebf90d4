"""A field of a hash carried from one real server to another, with its time to live where the servers know one."""

import itertools

import pytest
import redis

from bisync.core.abilities import Abilities
from bisync.core.commands import Args
from bisync.core.field import fence_field
from bisync.core.restore import Loser
from bisync.core.unit import Unit
from bisync.testing.samples import MOMENT_MS
from tests.runtime.command_servers import Server

UNIT = Unit(0, b"h", ("hash", b"f"))
HELD: list[list[Args]] = [
    [],
    [(b"HSET", b"h", b"f", b"1", b"g", b"2")],
    [(b"HSET", b"h", b"f", b"2")],
    [(b"HSET", b"h", b"f", b"1"), (b"HPEXPIREAT", b"h", b"%d" % MOMENT_MS, b"FIELDS", b"1", b"f")],
    [(b"HSET", b"h", b"f", b"1"), (b"HPEXPIREAT", b"h", b"%d" % (MOMENT_MS + 5), b"FIELDS", b"1", b"f")],
]


def run(server: Server, commands: list[bytes]) -> list[object]:
    """Packed commands, in one transaction as they are sent."""
    connection = server.client.connection
    assert connection is not None
    connection.send_packed_command([b"MULTI\r\n", *commands, b"EXEC\r\n"])
    replies: list[object] = []
    for _ in range(len(commands) + 2):
        try:
            replies.append(connection.read_response())
        except redis.ResponseError as e:
            replies.append(e)
    done = replies[-1]
    return done if isinstance(done, list) else replies[1:]


def field(server: Server) -> object:
    held = server.dataset()[0].get((0, b"h"))
    return held[1].get(b"f") if held else None


def test_field_becomes_what_the_fence_read_whatever_it_was(servers: tuple[Server, Server]) -> None:
    one, two = servers
    known = [held for held in HELD if all(call[0].lower() in one.known for call in held)]
    able = Abilities()
    if b"hpexpiretime" not in one.known:
        able.lacks.update((b"HPEXPIRETIME", b"HPEXPIREAT"))
    for here, there in itertools.product(known, known):
        one.begin(here)
        two.begin(there)
        fence = fence_field(UNIT, able)
        restore = fence.read(run(one, fence.commands)).restore(Loser("two", able))
        done = restore.read(run(two, restore.commands))
        assert field(one) == field(two), (here, there)
        assert (done.replaced is not None) == (here != there)


def test_server_that_knows_no_such_time_is_asked_once(servers: tuple[Server, Server]) -> None:
    server, able = servers[0], Abilities()
    if b"hpexpiretime" in server.known:
        pytest.skip("this server knows the time to live of a field")
    error = next(r for r in run(server, fence_field(UNIT, able).commands) if isinstance(r, Exception))
    able.learn(str(error))
    assert len(fence_field(UNIT, able).commands) == 1
