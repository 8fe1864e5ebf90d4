"""Each simulated command on keys in every state, beside a real server: replies, stream and data must be the same.

The contract test draws whole histories; this one leaves nothing about a single command to chance.
"""

import itertools
from collections.abc import Iterator

import pytest

from bisync.testing.site import COMMANDS
from tests.testing.twins import RESTORE_LOOKS_FIRST, Real, Simulated, comparable, pack_line, parse

FAR = "4000000000000"
FARTHER = "4000000001000"

STATES = {
    "missing": "",
    "number": "SET # 5",
    "text": f"SET # text PXAT {FAR}",
    "empty": "APPEND # ''",
    "expired": "SET # 5 PXAT 5",
    "list": f"RPUSH # a b a c a b|PEXPIREAT # {FAR}",
    "set": "SADD # a b c",
    "hash": f"HSET # a 5 b text|PEXPIREAT # {FAR}",
    "sorted set": "ZADD # 1 a 1 c 1 b 0.1 d -inf e",
}
"""Commands that make a key, written as #."""


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.split(";")]


ONE_KEY = _lines(f"""
    GET k; STRLEN k; GETRANGE k 0 2; GETRANGE k -3 -2; GETRANGE k 2 1; GETRANGE k -1 -3; GETRANGE k -9 9;
    GETRANGE k 3 -9; GETRANGE k 9 12; GETRANGE k x 1; GETRANGE k 0 x; GETDEL k; GETSET k v; SETNX k v; APPEND k w;
    APPEND k ''; EXISTS k k; TYPE k; SET k v; SET k v NX; SET k v XX; SET k v KEEPTTL; SET k v GET; SET k v NX GET;
    SET k v XX GET KEEPTTL; SET k v PXAT {FAR}; SET k v GET PXAT {FAR}; SET k v NX EXAT 4000000000; SET k v PXAT 5 NX;
    SET k v XX EXAT 1; SET k v EX 5 KEEPTTL; SET k v PX x; SET k v EX -5; SET k v NX XX; SET k v EX 1 PX 1; SETEX k 0 v;
    SETRANGE k 0 w; SETRANGE k 8 w; SETRANGE k 0 ''; SETRANGE k 600000000 w; INCR k; DECR k; INCRBY k 7; INCRBY k x;
    DECRBY k 7; INCRBY k 9223372036854775807; INCRBYFLOAT k 0.1; INCRBYFLOAT k -inf; MSET k v; MSET k v k w; MSETNX k v;
    MSETNX k v k w; MSET k v k; MGET k none; PERSIST k; PEXPIRETIME k; PEXPIREAT k {FAR}; PEXPIREAT k {FARTHER} NX;
    PEXPIREAT k {FARTHER} XX; PEXPIREAT k {FAR} GT; PEXPIREAT k {FARTHER} GT; PEXPIREAT k {FAR} LT; PEXPIREAT k 4 LT;
    EXPIREAT k 1; EXPIREAT k 4000000000; EXPIRE k -1; PEXPIRE k -1 GT; EXPIRE k 5 NX GT; EXPIRE k 5 GT LT; EXPIRE k 5 Q;
    EXPIREAT k 9999999999999999999; EXPIREAT k 9223372036854775; EXPIREAT k 9223372036854776; PTTL none; LPUSH k x y;
    RPUSH k x y; LPUSHX k x; RPUSHX k x y; LPOP k; RPOP k; LPOP k 2; RPOP k 9; LPOP k 0; LLEN k; LRANGE k 1 -2;
    LRANGE k -9 9; LRANGE k 3 1; LSET k 1 x; LSET k -6 x; LSET k 6 x; LSET k z x; LREM k 0 a; LREM k 2 a; LREM k -1 a;
    LREM k -2 b; LREM k 0 x; LTRIM k 1 2; LTRIM k -2 -1; LTRIM k 0 -1; LTRIM k 4 2; LTRIM k -99 99; LTRIM k z 1;
    LRANGE k 0 z; LPOP k -1; RPOP k 1 1; LINSERT k BEFORE a x; LINSERT k AFTER b x; LINSERT k AFTER none x;
    LINSERT k NEXT a x; SADD k a x; SADD k a; SREM k a x; SREM k x; SREM k a b c; SCARD k; SISMEMBER k a; SPOP k 9;
    SPOP k 0; SPOP k -1; HSET k a 6 c 7; HSET k a 5; HSET k a; HMSET k a 6; HSETNX k a 9; HSETNX k z 9; HDEL k a z;
    HDEL k z; HDEL k a b; HINCRBY k a 2; HINCRBY k b 2; HINCRBY k z 2; HINCRBY k a 9223372036854775807;
    HINCRBYFLOAT k a 0.5; HINCRBYFLOAT k b 0.5; HINCRBYFLOAT k z x; HGET k a; HGET k z; HLEN k; HGETALL k;
    ZADD k 2 a 3 z; ZADD k 1 a; ZADD k NX 9 a 9 z; ZADD k XX 9 a 9 z; ZADD k GT 0 a 9 b; ZADD k LT CH 0 a 9 b;
    ZADD k GT CH 9 z; ZADD k INCR 2 a; ZADD k NX INCR 2 a; ZADD k XX INCR 2 z; ZADD k GT INCR -1 a; ZADD k x a;
    ZADD k NX XX 1 a; ZADD k NX LT 1 a; ZADD k GT LT 1 a; ZADD k INCR 1 a 1 b; ZADD k 1; ZADD k NX 1; ZADD k nan a;
    ZADD k -0 a -0 z; ZADD k CH XX 1 a; ZINCRBY k 0 a; ZINCRBY k +inf e; ZINCRBY k 1.5 z; ZADD k 5 z 6 z;
    ZADD k NX 5 z 6 z; ZREM k a z; ZREM k z; ZREM k a b c d e; ZCARD k; ZSCORE k a; ZSCORE k z; ZRANGE k 0 -1;
    ZRANGE k 1 2 WITHSCORES; ZRANGE k 3 1; ZRANGE k z 1; ZPOPMIN k; ZPOPMAX k 2; ZPOPMIN k 0; ZPOPMAX k 9; ZPOPMIN k -1;
    DEL k; UNLINK k none k; RENAME k k; RENAMENX k k; COPY k k; COPY k k DB 1; COPY k q DB 16; COPY k q DB x;
    COPY k q SOON; DUMP none; FLUSHDB; FLUSHALL ASYNC; FLUSHALL SOON; SWAPDB 0 1; SWAPDB 1 1; SWAPDB 0 16; SWAPDB x 0;
    SWAPDB 0 x; DBSIZE; SELECT 1; SELECT -1; SELECT x; PUBLISH k v; PING; PING k; PING k v; RESTORE k x y;
    RESTORE k -1 y; RESTORE k 0 y REPLACE; GETDEL; NONSENSE k v; nonsense; RESTORE k 0 y Q; SMEMBERS none;
    MEMORY USAGE k; MEMORY USAGE none; MEMORY USAGE none SAMPLES 5; MEMORY USAGE k SAMPLES;
    MEMORY USAGE none SAMPLES -1; MEMORY USAGE none SAMPLES x; MEMORY USAGE none MANY 5; MEMORY USAGE; MEMORY;
    MEMORY MORE; UNWATCH; DISCARD; EXEC; EXEC k; WATCH
""")

TWO_KEYS = _lines("""
    MSET k v q w; MSETNX k v q w; DEL k q; EXISTS k q; MGET k q; RENAME k q; RENAMENX k q; COPY k q;
    COPY k q REPLACE; COPY k q DB 1; LMOVE k q LEFT RIGHT; LMOVE k q RIGHT LEFT; RPOPLPUSH k q; LMOVE k k LEFT RIGHT;
    RPOPLPUSH k k; LMOVE k q UP LEFT; SMOVE k q a; SMOVE k q x; SMOVE k k a; SUNIONSTORE k q; SUNIONSTORE k k q;
    SUNIONSTORE x k q; SINTERSTORE k q; SINTERSTORE x k q; SINTERSTORE k k none q; SDIFFSTORE k q; SDIFFSTORE x k q;
    SDIFFSTORE x none k q
""")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    real = Real(tmp_path_factory.mktemp("real"))
    yield real
    real.close()


def _made(key: str, state: str) -> list[str]:
    return [line.replace("#", key) for line in STATES[state].split("|") if line]


def _sorted_where_the_server_has_no_order(line: str, reply: bytes) -> object:
    """The members of a set come in the order of the server's hash table. How much memory a key takes is a guess."""
    members = parse(reply)[0]
    if line == "MEMORY USAGE k":
        return type(members)
    return sorted(members) if line == "SPOP k 9" and isinstance(members, list) else reply


def _compare(server: Real, made: list[str], line: str, also: tuple[str, ...] = ()) -> None:
    """`also` is in the server's stream but not in that of 7.0."""
    simulated = Simulated(now_ms=server.now_ms())
    ours, theirs = simulated.connect(), server.connect()
    packed = b"".join(map(pack_line, ["SELECT 9", "FLUSHALL", "SELECT 0", *made]))
    assert ours.execute(packed) == theirs.execute(packed)
    simulated.new_stream(), server.new_stream()
    got, expected = (comparable(side.execute(pack_line(line)), server.version) for side in (ours, theirs))
    assert _sorted_where_the_server_has_no_order(line, got) == _sorted_where_the_server_has_no_order(line, expected)
    assert simulated.new_stream() + b"".join(map(pack_line, also)) == server.new_stream()
    assert simulated.site.dataset() == server.dataset()
    server.drop_connections()


@pytest.mark.parametrize("line", ONE_KEY)
def test_a_command_does_what_a_server_does(server: Real, line: str) -> None:
    for state in STATES:
        first = server.version >= RESTORE_LOOKS_FIRST and (line, state) == ("RESTORE k 0 y REPLACE", "expired")
        _compare(server, _made("k", state), line, ("DEL k",) if first else ())


@pytest.mark.slow
@pytest.mark.parametrize("line", TWO_KEYS)
def test_a_command_on_two_keys_does_what_a_server_does(server: Real, line: str) -> None:
    for k, q in itertools.product(STATES, STATES):
        _compare(server, _made("k", k) + _made("q", q), line)


def test_every_command_is_tried() -> None:
    elsewhere = {b"PSETEX", b"RESTORE"}  # test_site_contract
    assert {line.split()[0].upper().encode() for line in ONE_KEY + TWO_KEYS} | elsewhere >= set(COMMANDS)
