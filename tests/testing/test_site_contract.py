"""The simulated site is a look-alike of a real server: the same tests run on both, and both run the same commands."""

import itertools
import pathlib
from collections.abc import Iterator

import pytest
from hiredis import ReplyError, pack_command
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bisync.testing.dataset import HashValue, SetValue, SortedSetValue, Value
from bisync.testing.simulated.payload import dump
from bisync.testing.site import COMMANDS
from bisync.testing.strategies import (
    Command,
    client_commands,
    elements,
    expiries,
    hash_commands,
    key_commands,
    keys,
    list_commands,
    set_commands,
    sorted_set_commands,
    string_commands,
    transactions,
)
from tests.testing import twins
from tests.testing.twins import READS_QUEUE, SPOP_IN_ONE, Real, RealConnection, Simulated, comparable, pack_line, parse

Step = tuple[int, Command]  # which of the two connections, and what it sends
# Some keys for each type, so that many commands succeed; any command may meet any key.
STRINGS, LISTS, SETS, HASHES, ZSETS = (keys(2, prefix=p) for p in (b"s", b"l", b"u", b"h", b"z"))
KEYS = st.one_of(STRINGS, LISTS, SETS, HASHES, ZSETS)
FAR = "4000000000000"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    real = Real(tmp_path_factory.mktemp("real"))
    yield real
    real.close()


@pytest.fixture(params=["simulated", "real"])
def site(request: pytest.FixtureRequest) -> Iterator[Simulated | Real]:
    """Each kind of site in turn, empty, with database 9 selected in its stream."""
    if request.param == "simulated":
        simulated = Simulated()
        _empty(simulated)
        yield simulated
        return
    real: Real = request.getfixturevalue("server")
    _empty(real)
    yield real
    real.drop_connections()


def _empty(site: Simulated | Real) -> None:
    """Flush from database 9, so that what comes next in the stream begins with a SELECT."""
    connection = site.connect()
    connection.execute(pack_line("SELECT 9") + pack_line("FLUSHALL"))
    connection.close()
    site.new_stream()


class Talk:
    """A connection for tests that read like a session."""

    def __init__(self, site: Simulated | Real) -> None:
        self._connection = site.connect()

    def __call__(self, *lines: str) -> object:
        """Send commands one by one; the reply to the last. Errors come as their first word."""
        for line in lines:
            reply = parse(self._connection.execute(pack_line(line)))[0]
        return _plain(reply)


def _plain(reply: object) -> object:
    if isinstance(reply, list):
        return [_plain(r) for r in reply]
    return str(reply).split(" ")[0] if isinstance(reply, ReplyError) else reply


def _stream(site: Simulated | Real) -> list[str]:
    return [b" ".join(c).decode() for c in parse(site.new_stream())]


# -- the same commands on both, side by side
def _reads() -> st.SearchStrategy[Command]:
    """Reads whose replies have one order only."""
    names = [b"GET", b"STRLEN", b"TYPE", b"LLEN", b"SCARD", b"HLEN", b"ZCARD", b"PEXPIRETIME"]
    return st.one_of(
        st.tuples(st.sampled_from(names), KEYS),
        st.tuples(st.just(b"EXISTS"), KEYS, KEYS),
        st.tuples(st.just(b"MGET"), KEYS, KEYS),
        st.tuples(st.sampled_from([b"SISMEMBER", b"HGET", b"ZSCORE"]), KEYS, elements()),
        st.tuples(st.just(b"LRANGE"), KEYS, st.just(b"-2"), st.just(b"5")),
        st.tuples(st.just(b"ZRANGE"), KEYS, st.just(b"0"), st.just(b"-1"), st.just(b"WITHSCORES")),
    )


def _restores() -> st.SearchStrategy[Command]:
    """RESTORE of payloads that the simulated site made: a real server takes them too."""
    names = st.lists(elements(), min_size=1, max_size=3)
    held: st.SearchStrategy[Value] = st.one_of(
        st.sampled_from([b"", b"7", b"v" * 70]),
        names,
        names.map(SetValue.of),
        names.map(lambda n: HashValue(dict.fromkeys(n, b"w"))),
        names.map(lambda n: SortedSetValue(dict.fromkeys(n, 0.1))),
    )
    times = st.sampled_from([b"0", FAR.encode(), b"5"])
    options = st.sampled_from([(), (b"REPLACE",)])
    return st.tuples(KEYS, times, held.map(dump), options).map(
        lambda r: (b"RESTORE", r[0], r[1], r[2], b"ABSTTL", *r[3])
    )


def _writes() -> st.SearchStrategy[Command]:
    return st.one_of(
        *(string_commands(STRINGS), list_commands(LISTS), set_commands(SETS)),
        *(hash_commands(HASHES), sorted_set_commands(ZSETS), key_commands(KEYS), expiries(KEYS)),
        client_commands(KEYS, wiping=True),
    )


def _mistakes() -> st.SearchStrategy[Command]:
    lines = "GET|FOO bar baz|HSET h0 a|SET s0 a EX|SET s0 a PX 0|EXPIREAT s0 a|LSET l0 z a|ZADD z0 NX XX 1 x|SELECT 16"
    more = (
        "INCRBY s0 9223372036854775807|DECRBY s0 -9223372036854775808|SETRANGE s0 -1 a|COPY s0 s0|LPOP l0 -1|SWAPDB 0 z"
    )
    return st.sampled_from([tuple(line.encode().split(b" ")) for line in f"{lines}|{more}".split("|")])


def _blocks() -> st.SearchStrategy[list[Step]]:
    """One command, or a transaction with what belongs to it; a write of the other connection may come between."""
    writes = _writes()
    controls = [
        (b"SELECT", b"0"),
        (b"SELECT", b"1"),
        (b"UNWATCH",),
        (b"DISCARD",),
        (b"PUBLISH", b"c", b"m"),
        (b"MULTI",),
    ]
    rare = [_reads(), *[_restores()] * 5]
    single = st.one_of(writes, *rare, *[st.sampled_from(controls)] * 5, *[_mistakes()] * 5)
    inside = st.one_of(writes, *rare, *[st.sampled_from(controls[:2])] * 8, _mistakes())
    other = st.lists(writes, max_size=1)
    whole = st.tuples(st.lists(KEYS, max_size=2), other, transactions(KEYS, commands=inside), other)

    def steps(
        block: tuple[int, Command | tuple[list[bytes], list[Command], list[Command], list[Command]]],
    ) -> list[Step]:
        who, what = block
        if not isinstance(what[0], list):
            return [(who, what)]
        watched, before, queued, between = what
        mine: list[Command] = [(b"WATCH", *watched)] if watched else []
        return [
            *((who, command) for command in mine),
            *((1 - who, command) for command in before),
            *((who, command) for command in [(b"MULTI",), *queued]),
            *((1 - who, command) for command in between),
            (who, (b"EXEC",)),
        ]

    return st.tuples(st.integers(0, 1), st.one_of(single, *[whole] * 25)).map(steps)


def _sequences() -> st.SearchStrategy[list[Step]]:
    return st.lists(_blocks(), min_size=15, max_size=60).map(lambda blocks: list(itertools.chain.from_iterable(blocks)))


@pytest.mark.slow
@settings(max_examples=3 * settings().max_examples)
@given(steps=_sequences())
@example(steps=[(0, (b"MULTI",)), (0, (b"SELECT", b"1")), (0, (b"SET", b"s0", b"a")), (0, (b"EXEC",))])
def test_a_real_server_gives_the_same_replies_the_same_stream_and_the_same_data(
    server: Real, steps: list[Step]
) -> None:
    real, simulated = server, Simulated(now_ms=server.now_ms())
    _empty(real)
    _empty(simulated)
    theirs, ours = [real.connect(), real.connect()], [simulated.connect(), simulated.connect()]
    try:
        for who, command in steps:
            packed = pack_command(command)
            got, wanted = (comparable(side[who].execute(packed), server.version) for side in (ours, theirs))
            assert got == wanted, command
        stream, expected = simulated.new_stream(), real.new_stream()
        assert parse(stream) == parse(expected)  # says more than the bytes do, when it fails
        assert stream == expected
        assert simulated.site.dataset() == real.dataset()
    finally:
        real.drop_connections()


# -- one rule each, on both kinds of site
@pytest.mark.parametrize(
    ("line", "effect"),
    [
        ("EXPIRE s 100", "PEXPIREAT s"),
        ("EXPIRE s 100 NX", "PEXPIREAT s NX"),
        ("PEXPIRE s 100000", "PEXPIREAT s"),
        ("SET s v EX 100", "SET s v PXAT"),
        ("set s v xx px 100000", "SET s v PXAT"),
        ("SET s v PX 100000 GET", "SET s v PXAT"),
        ("SETEX s 100 v", "SET s v PXAT"),
        ("PSETEX s 100000 v", "SET s v PXAT"),
    ],
)
def test_expiries_reach_the_stream_as_absolute_times(site: Simulated | Real, line: str, effect: str) -> None:
    ask, before = Talk(site), site.now_ms()
    ask("SET s v", line)
    words = _stream(site)[-1].split(" ")
    times = [int(word) for word in words if word.isdigit()]
    assert " ".join(word for word in words if not word.isdigit()) == effect
    assert len(times) == 1 and before + 100_000 <= times[0] <= site.now_ms() + 100_000


@pytest.mark.parametrize("line", ["EXPIRE s -1", "PEXPIREAT s 5", "EXPIREAT s 1", "RESTORE s 5 {dump} ABSTTL REPLACE"])
def test_an_expiry_in_the_past_deletes(site: Simulated | Real, line: str) -> None:
    connection, ask = site.connect(), Talk(site)
    ask("SET s v")
    words = [dump(b"v") if word == "{dump}" else word.encode() for word in line.split(" ")]
    assert not connection.execute(pack_command(tuple(words))).startswith(b"-")
    assert ask("EXISTS s") == 0
    assert _stream(site)[1:] == ["SET s v", "DEL s"]


@pytest.mark.parametrize("write", ["SET k v", "RPUSH k a", "SADD k a", "HSET k f v", "ZADD k 1 a"])
@pytest.mark.parametrize(
    ("use", "reply", "effects"),
    [
        ("TYPE k", b"none", ["DEL k"]),
        ("SET k w", b"OK", ["MULTI", "DEL k", "SET k w", "EXEC"]),
        ("DEL k", 0, ["DEL k"]),
        ("RENAME k q", "ERR", ["DEL k"]),
        ("COPY q k", 1, ["MULTI", "DEL k", "COPY q k", "EXEC"]),
        ("RENAME q k", b"OK", ["MULTI", "DEL k", "RENAME q k", "EXEC"]),
        ("PERSIST k", 0, ["DEL k"]),
        ("SUNIONSTORE k none", 0, ["SUNIONSTORE k none"]),
        ("FLUSHDB", b"OK", ["FLUSHDB"]),
    ],
)
def test_a_key_that_expired_is_deleted_when_it_is_asked_for(
    site: Simulated | Real, write: str, use: str, reply: object, effects: list[str]
) -> None:
    ask = Talk(site)
    ask("SET q v")
    twins.write_expired(site, write)
    assert ask(use) == reply
    assert _stream(site) == effects


def test_a_key_may_expire_inside_a_transaction(site: Simulated | Real) -> None:
    ask = Talk(site)
    ask("SET k v PXAT 5", "SELECT 1", "SET q v")
    site.new_stream()
    assert ask("MULTI", "SELECT 0", "SET q v", "GET k", "SELECT 2", "SET q w", "GET q", "EXEC")
    assert _stream(site) == ["SELECT 0", "MULTI", "SET q v", "DEL k", "SELECT 2", "SET q w", "EXEC"]


def test_the_timer_deletes_expired_keys_one_by_one(site: Simulated | Real) -> None:
    Talk(site)("SET k v PXAT 5", "SET q v PXAT 5")
    site.new_stream()
    site.expire_keys()
    assert sorted(_stream(site)) == ["DEL k", "DEL q"]


# k is there, e has expired but is there, n is not there, and all in database 0; o is in database 1
WATCHES = [
    ("k", "SET k v", True),
    ("k", "GET k", False),
    ("k", "DEL k", True),
    ("n", "DEL n", False),
    ("n", "SET n v", True),
    ("n", "RESTORE n 0 {dump}", True),
    ("k", "RESTORE k 0 {dump} REPLACE", True),
    ("k", "PERSIST k", False),
    ("k", "PEXPIREAT k " + FAR, True),
    ("k", "PEXPIREAT k 5", True),
    ("k", "LTRIM l 0 -1", False),
    ("l", "LTRIM l 0 -1", True),  # though nothing changes
    ("l", "LREM l 0 none", False),
    ("k", "RENAME k q", True),
    ("n", "RENAME k n", True),
    ("n", "COPY k n DB 1", False),
    ("k", "FLUSHALL", True),
    ("k", "FLUSHDB", True),
    ("n", "FLUSHALL", False),
    ("k", "SWAPDB 0 1", True),
    ("o", "SWAPDB 0 1", True),
    ("n", "SWAPDB 0 1", False),
    ("k", "SWAPDB 0 0", False),
    ("e", "GET e", False),
    ("e", "DEL e", False),
    ("e", "FLUSHALL", False),
    ("e", "SET e v", True),
    ("e", "SWAPDB 0 1", False),
]


@pytest.mark.parametrize(("watched", "line", "touched"), WATCHES)
def test_exec_does_nothing_when_a_watched_key_was_touched(
    site: Simulated | Real, watched: str, line: str, touched: bool
) -> None:
    ask, other = Talk(site), site.connect()
    ask("SELECT 1", "SET o v", "SELECT 0", "SET k v", "SET e v PXAT 5", "RPUSH l a")
    ask(f"WATCH {watched}", "MULTI", "SET x 1")
    words = [dump(b"v") if word == "{dump}" else word.encode() for word in line.split(" ")]
    assert not other.execute(pack_command(tuple(words))).startswith(b"-")
    assert ask("EXEC") == (None if touched else [b"OK"])
    assert ask("MULTI", "SET x 2", "EXEC") == [b"OK"]  # the watch is over


def test_exec_does_nothing_when_a_watched_key_has_reached_its_expiry(site: Simulated | Real) -> None:
    ask = Talk(site)
    while ask("UNWATCH", "SET k v PX 20", "WATCH k", "PTTL k") == -2:
        pass  # the server was interrupted for so long
    ask("MULTI", "SET x 1")
    site.pass_ms(21)
    assert ask("EXEC") is None
    assert ask("EXISTS k", "WATCH k", "MULTI", "SET x 1", "EXEC") == [b"OK"]


def test_a_connections_own_write_touches_what_it_watches_and_unwatch_ends_that(site: Simulated | Real) -> None:
    ask = Talk(site)
    assert ask("WATCH k", "SET k v", "MULTI", "EXEC") is None
    assert ask("WATCH k", "SET k v", "UNWATCH", "MULTI", "EXEC") == []
    assert ask("WATCH k", "MULTI", "DISCARD", "SET k v", "MULTI", "EXEC") == []
    assert ask("SELECT 1", "WATCH k", "SELECT 0", "SET k v", "MULTI", "EXEC") == []  # another database's


def test_a_swap_touches_watches_in_both_databases(site: Simulated | Real) -> None:
    ask, other = Talk(site), Talk(site)
    ask("SET k v", "SET e v PXAT 5", "SELECT 1", "WATCH k")
    other("SWAPDB 0 1")
    assert ask("MULTI", "EXEC") is None
    ask("SELECT 0", "WATCH e", "SELECT 1")  # e is in database 1 now: it was absent, and an expired key is absent too
    other("SWAPDB 1 0", "GET e")
    assert ask("MULTI", "EXEC") == []


def test_a_mistake_while_queueing_discards_the_transaction(site: Simulated | Real) -> None:
    ask = Talk(site)
    assert ask("MULTI", "SET k v", "GET", "EXEC") == "EXECABORT"
    assert ask("MULTI", "SET k v", "NONSENSE", "EXEC") == "EXECABORT"
    assert ask("MULTI", "SET k v", "MULTI", "WATCH q", "EXEC") == [b"OK"]  # these two are refused without harm
    assert ask("MULTI", "SET k v", "LPUSH k a", "INCR k", "SET k w", "EXEC") == [b"OK", "WRONGTYPE", "ERR", b"OK"]
    assert _stream(site)[1:] == ["SET k v", "MULTI", "SET k v", "SET k w", "EXEC"]


def test_refused_writes_are_refused_while_queueing_and_at_exec(site: Simulated | Real) -> None:
    ask, late = Talk(site), Talk(site)
    late("MULTI", "SET k v")
    site.refuse_writes(True)
    try:
        assert [ask("SET k v"), ask("GET k"), ask("MULTI"), ask("SET k v")] == ["OOM", None, b"OK", "OOM"]
        queued = "OOM" if site.version < READS_QUEUE else b"QUEUED"
        assert [ask("GET k"), ask("EXEC"), ask("GET k")] == [queued, "EXECABORT", None]
        assert [late("EXEC"), late("GET k")] == ["EXECABORT", None]
        assert ask("MULTI", "EXEC") == []
    finally:
        site.refuse_writes(False)
    assert _stream(site) == []
    assert ask("SET k v") == b"OK"


def test_what_a_server_pops_at_random_reaches_the_stream_by_name(site: Simulated | Real) -> None:
    ask = Talk(site)
    ask("SADD u a b c d e")
    one = ask("SPOP u")
    assert _stream(site)[2:] == [f"SREM u {one.decode()}"]
    two = ask("SPOP u 2")
    each = ["MULTI", *(f"SREM u {m.decode()}" for m in two), "EXEC"]
    assert _stream(site) == (each if site.version < SPOP_IN_ONE else [f"SREM u {b' '.join(two).decode()}"])
    rest = ask("SPOP u 9")
    assert sorted([one, *two, *rest]) == [b"a", b"b", b"c", b"d", b"e"]
    assert _stream(site) == ["DEL u"]
    assert [ask("SPOP u"), ask("SPOP u 2"), ask("SPOP u -1"), ask("SADD u a", "SPOP u 0")] == [None, [], "ERR", []]
    assert ask("SPOP u", "EXISTS u") == 0


FILL = {
    "k": "SET k value",
    "l": "RPUSH l a b a",
    "u": "SADD u a b 7",
    "h": "HSET h f v g w",
    "z": "ZADD z 1 a 0.1 b -inf c",
}
READ = {"k": "GET k", "l": "LRANGE l 0 -1", "u": "SMEMBERS u", "h": "HGETALL h", "z": "ZRANGE z 0 -1 WITHSCORES"}


@pytest.mark.parametrize("key", FILL)
def test_a_dumped_value_can_be_restored(site: Simulated | Real, key: str) -> None:
    ask, connection = Talk(site), site.connect()
    ask(FILL[key])
    held = ask(READ[key])
    payload = ask(f"DUMP {key}")
    site.new_stream()

    def restore(*options: bytes | str) -> object:
        return _plain(parse(connection.execute(pack_command(("RESTORE", key, *options))))[0])

    assert restore("0", payload) == "BUSYKEY"
    ask(f"SET {key} other")
    assert restore(FAR, payload, "REPLACE", "ABSTTL") == b"OK"
    assert sorted(held) == sorted(ask(READ[key]))
    assert ask(f"PEXPIRETIME {key}") == int(FAR)
    assert ask(f"DEL {key}", f"DUMP {key}") is None
    assert restore("0", payload[:-1] + b"\x00") == "ERR"
    assert restore("0", b"short") == "ERR"
    assert restore("-1", payload) == "ERR"
    assert restore("100000", payload) == b"OK"
    assert b"ABSTTL" in site.new_stream().split(b"\r\n")
    assert 0 < ask(f"PTTL {key}") <= 100_000


def test_an_own_payload_that_is_damaged_is_refused(site: Simulated | Real) -> None:
    payload = dump([b"a", b"b"])
    for damaged in (b"", payload[:-1], payload[:-1] + b"\x00", b"\x00" + payload[1:]):
        reply = site.connect().execute(pack_command(("RESTORE", "k", "0", damaged)))
        assert reply == b"-ERR DUMP payload version or checksum are wrong\r\n"


def test_the_stream_selects_its_database_anew_after_a_full_sync(site: Simulated | Real) -> None:
    ask = Talk(site)
    ask("SET k v", "SET k w")
    site.full_sync()
    ask("SET k x", "SET k y")
    assert _stream(site) == ["SELECT 0", "SET k v", "SET k w", "SELECT 0", "SET k x", "SET k y"]


def test_names_of_commands_keep_the_letters_the_client_wrote(site: Simulated | Real) -> None:
    assert Talk(site)("sEt k v", "set k v get keepttl", "incrbyfloat n 1.5", "multi", "exec") == []
    assert _stream(site)[1:] == ["sEt k v", "set k v keepttl", "SET n 1.5 KEEPTTL"]


def test_bytes_that_are_no_commands_end_the_connection(site: Simulated | Real) -> None:
    connection = site.connect()
    if isinstance(connection, RealConnection):
        connection.send(b"*1\r\n:5\r\n")
        assert connection.receive(1).startswith(b"-ERR Protocol error")
        assert connection.is_closed()
    else:
        assert connection.execute(b"*1\r\n:5\r\n").startswith(b"-ERR Protocol error")
        assert connection.closed


@pytest.mark.parametrize(
    "by", ["0.1", "1e20", "-3", "2.5e-5", "1e-18", "123456789.123456789", "inf", "nan", "x", "1e5000", " 1"]
)
@pytest.mark.parametrize("held", ["0", "3.1", "-0.1", "1e300", "0.30000000000000004", "inf", ""])
def test_counting_by_fractions_has_the_servers_digits(server: Real, held: str, by: str) -> None:
    connections = server.connect(), Simulated().connect()
    lines = [
        ("DEL", "k", "h"),
        ("SET", "k", held),
        ("INCRBYFLOAT", "k", by),
        ("HSET", "h", "f", held),
        ("HINCRBYFLOAT", "h", "f", by),
    ]
    lines += [("DEL", "h", "k"), ("ZADD", "h", held, "m"), ("ZINCRBY", "h", by, "m"), ("DEL", "h")]
    for line in lines:
        real, simulated = (c.execute(pack_command(line)) for c in connections)
        if line[0] == "ZINCRBY":
            real, simulated = (comparable(reply, server.version) for reply in (real, simulated))
        assert simulated == real, line
    server.drop_connections()


def test_every_simulated_command_has_the_servers_arity_and_is_a_write_where_the_servers_is(server: Real) -> None:
    for name, command in COMMANDS.items():
        ((_, arity, flags, *_),) = server.ask(f"COMMAND INFO {name.decode()}")
        assert (name, command.arity, command.write) == (name, arity, b"write" in flags or "write" in map(str, flags))


@pytest.mark.slow
def test_a_real_server_loads_the_simulated_rdb(tmp_path: pathlib.Path) -> None:
    simulated = Simulated()
    ask = Talk(simulated)
    ask(*FILL.values(), "SELECT 1", f"SET s v PXAT {FAR}", "RPUSH l " + "x" * 70, "SET long " + "y" * 20_000)
    (tmp_path / "dump.rdb").write_bytes(simulated.site.rdb())
    real = Real(tmp_path)
    try:
        assert real.dataset() == simulated.site.dataset()
    finally:
        real.close()
