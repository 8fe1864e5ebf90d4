"""The simulated site's own features: what a test can do with it that no server offers."""

import pytest
from hiredis import pack_command
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.rdb.items import String
from bisync.core.rdb.items import Value as Payload
from bisync.testing.simulated.payload import load
from bisync.testing.site import SimulatedConnection, SimulatedSite
from bisync.testing.strategies import client_commands, keys


def _write(connection: SimulatedConnection, *lines: str) -> bytes:
    return connection.execute(b"".join(pack_command(tuple(line.split(" "))) for line in lines))


def test_offsets_count_the_bytes_of_the_stream_from_its_start() -> None:
    site = SimulatedSite(stream_start=5000)
    assert (site.offset, len(site.stream)) == (5000, 0)
    _write(site.connect(), "SET k v", "GET k", "SET q v")
    second = pack_command(("SET", "q", "v"))
    assert site.stream == pack_command(("SELECT", "0")) + pack_command(("SET", "k", "v")) + second
    assert site.stream[site.offset - len(second) - site.stream_start :] == second


def test_a_backlog_that_is_too_small_forgets_the_oldest_bytes() -> None:
    site = SimulatedSite()
    _write(site.connect(), "SET k v")
    end = site.offset
    whole = bytes(site.stream)
    site.forget(10)
    assert (site.stream_start, site.offset, bytes(site.stream)) == (10, end, whole[10:])
    site.forget(3)
    site.forget(end + 100)
    assert (site.stream_start, site.offset, bytes(site.stream)) == (end, end, b"")


def test_sites_of_different_names_have_different_histories() -> None:
    east, west = SimulatedSite("east"), SimulatedSite("west")
    assert east.replid != west.replid and SimulatedSite("east").replid == east.replid
    assert len(east.replid) == 40 and set(east.replid) <= set("0123456789abcdef")


@given(data=st.data())
def test_commands_may_come_in_any_pieces(data: st.DataObject) -> None:
    lines = [b"SET k \x00\r\n*1", b"APPEND k w", b"GET k", b"NONSENSE"]
    packed = b"".join(pack_command(tuple(line.split(b" "))) for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(packed)), max_size=6)))
    pieces = [packed[i:j] for i, j in zip([0, *cuts], [*cuts, len(packed)], strict=True)]
    connection = SimulatedSite().connect()
    assert b"".join(map(connection.execute, pieces)) == SimulatedSite().connect().execute(packed)


def test_a_closed_connection_forgets_its_transaction_and_what_it_watched() -> None:
    site = SimulatedSite()
    connection, other = site.connect(), site.connect()
    _write(connection, "WATCH k", "MULTI", "SET k v")
    connection.close()
    with pytest.raises(ConnectionError, match="site is closed"):
        connection.execute(pack_command(("EXEC",)))
    assert _write(other, "SET k w", "EXISTS q") == b"+OK\r\n:0\r\n"
    site.drop_connections()
    assert other.closed
    assert site.data.databases[0].watches == {}


def test_keys_expire_by_the_clock_that_the_test_sets() -> None:
    site = SimulatedSite(now_ms=1_000_000)
    connection = site.connect()
    _write(connection, "SET k v PX 500", "SET q v")
    site.now_ms += 500
    assert site.dataset() == {(0, b"k"): ("string", b"v", 1_000_500), (0, b"q"): ("string", b"v", None)}
    site.now_ms += 1
    assert site.dataset() == {(0, b"q"): ("string", b"v", None)}
    assert b"DEL" not in site.stream
    assert _write(connection, "GET k") == b"$-1\r\n"
    assert bytes(site.stream).endswith(pack_command(("DEL", "k")))


def test_the_dataset_leaves_out_the_keys_of_bisync() -> None:
    site = SimulatedSite()
    _write(site.connect(), "SET bisync:orders:beat 1", "SET bisync v", "SELECT 3", "SADD u b a", "ZADD z 1 a")
    assert site.dataset() == {
        (0, b"bisync"): ("string", b"v", None),
        (3, b"u"): ("set", frozenset([b"a", b"b"]), None),
        (3, b"z"): ("zset", {b"a": 1.0}, None),
    }


def test_a_snapshot_has_every_key_as_the_rdb_reader_hands_it_out() -> None:
    site = SimulatedSite()
    _write(site.connect(), "SET bisync:x 1", "SET k v PXAT 4000000000000", "SELECT 1", "RPUSH l a b")
    first, second, third = site.snapshot()
    assert first == String(0, b"bisync:x", None, b"1")
    assert second == String(0, b"k", 4_000_000_000_000, b"v")
    assert isinstance(third, Payload) and (third.database, third.key) == (1, b"l")
    assert load(third.payload) == [b"a", b"b"]


def test_equal_sets_have_equal_payloads_whatever_came_first() -> None:
    connection = SimulatedSite().connect()
    _write(connection, "SADD u a b", "SADD w b a", "ZADD y 1 a 2 b", "ZADD z 2 b 1 a")
    assert _write(connection, "DUMP u") == _write(connection, "DUMP w")
    assert _write(connection, "DUMP y") == _write(connection, "DUMP z")


@given(commands=st.lists(client_commands(keys(3), popping=True, wiping=True), max_size=30))
def test_a_run_can_be_repeated_exactly(commands: list[tuple[bytes, ...]]) -> None:
    packed = b"".join(map(pack_command, commands))
    one, other = SimulatedSite(), SimulatedSite()
    assert one.connect().execute(packed) == other.connect().execute(packed)
    assert (one.stream, one.dataset(), one.rdb()) == (other.stream, other.dataset(), other.rdb())


@given(commands=st.lists(client_commands(keys(3), popping=True, wiping=True), max_size=30))
def test_the_stream_makes_another_site_equal(commands: list[tuple[bytes, ...]]) -> None:
    site, replica = SimulatedSite(), SimulatedSite()
    connection = site.connect()
    for command in commands:
        connection.execute(pack_command(command))
    replica.connect().execute(bytes(site.stream))
    assert replica.dataset() == site.dataset()


def test_reprs_say_what_one_wants_to_know() -> None:
    site = SimulatedSite("east")
    connection = site.connect()
    _write(connection, "SET k v", "SELECT 2", "MULTI", "GET k")
    site.refuse = b"-READONLY"
    assert repr(site) == f"<SimulatedSite east: 1 keys, offset {site.offset}, refusing writes>"
    assert repr(connection) == "<SimulatedConnection to east: database 2, 1 queued>"
    connection.close()
    assert repr(connection) == "<SimulatedConnection to east: closed>"
