"""What the strategies promise of the commands they draw, shown on a simulated site."""

import collections

from hiredis import pack_command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bisync.testing.site import COMMANDS, SimulatedSite
from bisync.testing.strategies import (
    Command,
    adds,
    client_commands,
    counters,
    keys,
    pushes,
    server_commands,
    transactions,
)

K = keys(1)


def _carry_out(commands: list[Command]) -> tuple[object, bytes]:
    """What the only key holds in the end, and the replies."""
    site = SimulatedSite()
    replies = site.connect().execute(b"".join(map(pack_command, commands)))
    return site.dataset().get((0, b"k0"), ("", None, None))[1], replies


@given(st.lists(counters(K), min_size=1))
def test_counters_add_up(commands: list[Command]) -> None:
    signs = {b"INCR": 1, b"INCRBY": 1, b"DECR": -1, b"DECRBY": -1}
    held, _ = _carry_out(commands)
    assert held == b"%d" % sum(signs[c[0]] * int((*c, b"1")[2]) for c in commands)


@given(st.lists(pushes(K), min_size=1))
def test_pushes_leave_every_item(commands: list[Command]) -> None:
    held, _ = _carry_out(commands)
    assert isinstance(held, tuple)
    assert collections.Counter(held) == collections.Counter(item for c in commands for item in c[2:])


@given(st.lists(adds(K), min_size=1))
def test_adds_leave_the_union(commands: list[Command]) -> None:
    held, _ = _carry_out(commands)
    assert held == {member for c in commands for member in c[2:]}


@given(st.lists(client_commands(keys(3), popping=True, wiping=True), max_size=30))
def test_client_commands_are_well_formed(commands: list[Command]) -> None:
    for command in commands:
        assert COMMANDS[command[0]].write and COMMANDS[command[0]].takes(len(command))
    _, replies = _carry_out(commands)
    for mistake in (b"syntax", b"unknown", b"arguments", b"options", b"valid"):
        assert mistake not in replies.replace(b"valid float", b"")


def test_client_commands_reach_every_write_that_is_simulated() -> None:
    drawn: set[bytes] = set()

    @settings(max_examples=300, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
    @given(st.lists(client_commands(K, popping=True, wiping=True), min_size=10))
    def draw(commands: list[Command]) -> None:
        drawn.update(c[0] for c in commands)

    draw()
    # Relative expiries have another outcome at another time, HMSET is HSET, and a payload is no client's business.
    left_out = {b"SETEX", b"PSETEX", b"EXPIRE", b"PEXPIRE", b"HMSET", b"RESTORE"}
    assert drawn == {name for name, command in COMMANDS.items() if command.write} - left_out


def test_what_the_server_draws_and_what_wipes_comes_only_when_asked_for() -> None:
    @settings(max_examples=100, derandomize=True, database=None, suppress_health_check=[*HealthCheck])
    @given(st.lists(client_commands(K, expiring=False), min_size=10))
    def draw(commands: list[Command]) -> None:
        names = {c[0] for c in commands}
        assert names.isdisjoint({b"SPOP", b"FLUSHALL", b"FLUSHDB", b"SWAPDB", b"PEXPIREAT", b"EXPIREAT", b"PERSIST"})
        assert not any(b"PXAT" in c or b"EXAT" in c for c in commands)

    draw()


@given(transactions(keys(2), max_size=4), transactions(keys(2), commands=server_commands()))
def test_transactions_are_what_goes_between_multi_and_exec(own: list[Command], given_: list[Command]) -> None:
    assert 1 <= len(own) <= 4
    assert all(c[0] in (b"FLUSHALL", b"FLUSHDB", b"SWAPDB") for c in given_)
    for commands in (own, given_):
        packed = b"".join(map(pack_command, [(b"MULTI",), *commands, (b"EXEC",)]))
        assert b"\r\n*%d\r\n" % len(commands) in SimulatedSite().connect().execute(packed)


@given(keys(2, prefix=b"user:"))
def test_keys_are_few_and_have_the_prefix(key: bytes) -> None:
    assert key in (b"user:0", b"user:1")
