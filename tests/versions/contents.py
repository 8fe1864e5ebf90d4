"""What the sites of a pair hold: every type and encoding that both servers know, built by commands; and writes upon it.

The same seed gives the same commands on each server. Each type is written to three databases, each under another
extreme of the settings that decide about encodings. What only newer servers know is left out where one of the pair does
not know it: `known` names the commands that all of them have.
"""

import contextlib
import random
from collections.abc import Iterator, Set
from typing import Any

import redis

FAR_MS = 4_102_444_800_000
"""The first of January 2100, as a Unix time in ms: expiries that tests may compare exactly."""

LIBRARY = "#!lua name=versions\nredis.register_function('versions', function(keys, args) return 'told ' .. args[1] end)"

# As servers before 7.0 call them; newer ones know these names too. A server leaves out what it does not know.
COMPACT: dict[str, int] = {
    **{"hash-max-ziplist-entries": 100_000, "hash-max-ziplist-value": 100_000},
    **{"zset-max-ziplist-entries": 100_000, "zset-max-ziplist-value": 100_000},
    **{"list-max-ziplist-entries": 100_000, "list-max-ziplist-value": 100_000},  # before 3.2
    **{"list-max-ziplist-size": -5, "list-compress-depth": 1},
    **{"set-max-intset-entries": 100_000, "set-max-listpack-entries": 100_000, "set-max-listpack-value": 100_000},
    **{"stream-node-max-entries": 0, "stream-node-max-bytes": 0, "hll-sparse-max-bytes": 16_000},
}
SPREAD: dict[str, int] = {
    **{"hash-max-ziplist-entries": 0, "hash-max-ziplist-value": 0},
    **{"zset-max-ziplist-entries": 0, "zset-max-ziplist-value": 0},
    **{"list-max-ziplist-entries": 0, "list-max-ziplist-value": 0, "list-max-ziplist-size": 1},
    **{"set-max-intset-entries": 0, "set-max-listpack-entries": 0, "set-max-listpack-value": 0},
    **{"stream-node-max-entries": 2, "hll-sparse-max-bytes": 0},
}
STYLES: dict[int, dict[str, int]] = {0: {}, 1: COMPACT, 2: SPREAD}
"""By database: the settings under which its keys are written; {}: the server's own."""

MANY_DATABASE, MANY = 15, 1_000
"""A database of many small strings, and their number."""


def raw_client(server: Any, db: int = 0) -> "redis.Redis":
    """A client of a LocalServer that returns replies as the server sends them."""
    client: redis.Redis = server.client(db)
    client.response_callbacks.clear()
    return client


def known_commands(server: Any) -> frozenset[str]:
    """The names of all commands of a server, in capitals."""
    with raw_client(server) as client:
        return frozenset(row[0].decode().upper() for row in client.execute_command("COMMAND"))


class Hand:
    """Writes to one database of one server."""

    def __init__(self, server: Any, db: int, known: Set[str], seed: object, *, whole: bool = True) -> None:
        self.client, self.db, self.known, self.whole = raw_client(server, db), db, known, whole
        self.random = random.Random(f"{seed} {db}")

    def __enter__(self) -> "Hand":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def __call__(self, *words: Any) -> Any:
        """One command."""
        return self.client.execute_command(*words)

    def knows(self, *commands: str) -> bool:
        """Do all servers of the pair know them?"""
        return self.known.issuperset(commands)

    def noise(self, size: int) -> bytes:
        """Bytes that cannot be compressed."""
        return self.random.randbytes(size)

    @contextlib.contextmanager
    def settings(self, wanted: dict[str, int]) -> Iterator[None]:
        """The server's settings for the block. Those that it does not know are left out."""
        before = {}
        for name, value in wanted.items():
            held = self("CONFIG", "GET", name)
            if held:
                before[name] = held[1]
                self("CONFIG", "SET", name, value)
        assert len(before) >= 6, f"the server knows only {sorted(before)}"
        yield
        for name, value in before.items():
            self("CONFIG", "SET", name, value)


def build(server: Any, known: Set[str], seed: object = 1, *, whole: bool = True) -> None:
    """Write all. `known`: the commands that every server of the pair has.

    Not `whole`: without what no command can make anew, for a target that does not know the source's format.
    """
    for db, style in STYLES.items():
        with (
            Hand(server, db, known, seed, whole=whole) as hand,
            hand.settings(style) if style else contextlib.nullcontext(),
        ):
            for part in (_strings, _lists, _sets, _hashes, _sorted_sets, _sketches, _streams, _streams_of_7, _modules):
                part(hand)
            _expiries(hand)
    with Hand(server, MANY_DATABASE, known, seed) as hand:
        pipe = hand.client.pipeline(transaction=False)
        for n in range(MANY):
            pipe.execute_command("SET", f"many:{n}", hand.noise(n % 40))
            if n % 5 == 0:
                pipe.execute_command("PEXPIREAT", f"many:{n}", FAR_MS + n)
        pipe.execute()
        if hand.knows("FUNCTION"):
            hand("FUNCTION", "LOAD", LIBRARY)


def _strings(hand: Hand) -> None:
    numbers = (0, -1, 127, -128, 128, 32_767, -32_769, 2**31 - 1, -(2**31), 2**31, 2**63 - 1, -(2**63))
    for number in (*numbers, 9_999, 10_000):
        hand("SET", f"number:{number}", number)
        hand("SET", b"%d" % number, b"a key that is a number")
    for name, text in {
        **{"empty": b"", "embstr": b"short", "zeros": b"007", "plus": b"+5", "minus": b"-0", "raw": hand.noise(100)},
        **{"all bytes": bytes(range(256)), "crlf": b"\r\n*1\r\n$4\r\nPING\r\n", "utf-8": "grün ☃".encode()},
        **{"compressible": b"abcdefgh" * 900, "runs": b"a" * 20_000, "zero bytes": bytes(300_000)},
        **{"large": hand.noise(1_500_000), "20 digits": b"1" * 20, "44 bytes": b"x" * 44, "45 bytes": b"x" * 45},
    }.items():
        hand("SET", f"text:{name}", text)
    for key in (b"", b"\x00", b"\xff\xfe\r\n\x00 {}*?[", b"long key " * 60, hand.noise(90)):
        hand("SET", key, b"of a key that is hard to write")
    hand("SETBIT", "bits", 70_001, 1)
    hand("SETRANGE", "hole", 40, "after it")
    hand("APPEND", "appended", "grown ")
    hand("APPEND", "appended", "twice")


def _lists(hand: Hand) -> None:
    hand("RPUSH", "list:one", "a")
    hand("RPUSH", "list:small", "a", 1, -(2**40), "", b"\x00\xff", 2**63 - 1, "12345678901234567890")
    for start in range(0, 3_000, 500):
        hand("RPUSH", "list:large", *(f"item {n}" if n % 3 else n for n in range(start, start + 500)))
    hand("RPUSH", "list:wide", *(hand.noise(300) if n % 7 else b"y" * 4_000 for n in range(150)))
    if hand.db == 2 and hand.knows("FUNCTION"):
        hand("DEBUG", "QUICKLIST-PACKED-THRESHOLD", "1000b")  # items of their own, as those over 1 GiB would be
        hand("RPUSH", "list:plain", "a", hand.noise(9_000), "b" * 9_000, "c")
        hand("DEBUG", "QUICKLIST-PACKED-THRESHOLD", "0")


def _sets(hand: Hand) -> None:
    hand("SADD", "set:16 bits", *range(-200, 200, 7))
    hand("SADD", "set:32 bits", *range(0, 500, 3), 2**20)
    hand("SADD", "set:64 bits", 1, -1, 2**40, -(2**63), 2**63 - 1)
    hand("SADD", "set:small", "a", "b", 1, "", b"\x00\xff", hand.noise(40))
    hand("SADD", "set:large", *(f"member {n}" for n in range(1_500)))
    hand("SADD", "set:large ints", *range(0, 3_000, 2))
    hand("SADD", "set:was ints", *range(100))
    hand("SADD", "set:was ints", "a word")


def _hashes(hand: Hand) -> None:
    hand("HMSET", "hash:small", "f", 1, "g", "", "", "empty name", "n", -(2**40), b"\x00\xff", hand.noise(60))
    hand("HMSET", "hash:repetitive", *(word for n in range(100) for word in (f"field:{n}", "v" * 60)))
    hand("HMSET", "hash:large", *(word for n in range(1_500) for word in (f"field {n}", "v" * (n % 90))))
    hand("HMSET", "hash:wide", "big", "b" * 20_000, "noise", hand.noise(5_000), hand.noise(200), "v")
    hand("HINCRBYFLOAT", "hash:small", "float", "3.0e3")
    if hand.knows("HPEXPIREAT"):
        for name, fields in (("small", 6), ("large", 900)):
            words = [word for n in range(fields) for word in (f"field:{n}", n)]
            hand("HMSET", f"hash:expiring {name}", *words)
            hand("HPEXPIREAT", f"hash:expiring {name}", FAR_MS + 7, "FIELDS", 3, "field:1", "field:3", "field:4")
            hand("HPEXPIREAT", f"hash:expiring {name}", FAR_MS - 9, "FIELDS", 1, "field:3")
        hand("HSET", "hash:all expire", "a", 1, "b", 2)
        hand("HPEXPIREAT", "hash:all expire", FAR_MS, "FIELDS", 2, "a", "b")
        hand("PEXPIREAT", "hash:all expire", FAR_MS + 1)


def _sorted_sets(hand: Hand) -> None:
    scores = ("inf", "-inf", "0.1", "-0.0", "0", "1e300", "5e-324", "1.7976931348623157e308", "3.0000000000000004")
    hand("ZADD", "zset:scores", *(word for n, score in enumerate(scores) for word in (score, f"m{n}")))
    hand("ZADD", "zset:small", 1, "a", 1, "b", -2.5, "c", 17, "", 2**53, b"\x00\xff", 3, 42)
    for start in range(0, 1_500, 500):
        words = [word for n in range(start, start + 500) for word in (repr(n / 7), f"member {n}")]
        hand("ZADD", "zset:large", *words)
    hand("ZADD", "zset:same scores", *(word for n in range(200) for word in (7, f"lex {n:04}")))
    hand("ZADD", "zset:wide", 3, hand.noise(3_000), 1, "x" * 200, 2, "short")
    if hand.knows("GEOADD"):
        hand("GEOADD", "geo", 13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania")


def _sketches(hand: Hand) -> None:
    hand("PFADD", "hll:few", "a", "b", "c")
    hand("PFADD", "hll:many", *range(6_000))
    hand("PFADD", "hll:empty")
    hand("PFMERGE", "hll:merged", "hll:few", "hll:many")


def _streams(hand: Hand) -> None:
    if not hand.knows("XADD"):
        return
    for n in range(1, 300):
        fields = ("n", n, "same", b"f" * (n % 50)) if n % 3 else ("other", n, b"\x00", hand.noise(9))
        hand("XADD", "stream", f"{1000 + n}-{n % 7}", *fields)
    hand("XDEL", "stream", "1005-5", "1006-6", "1299-5")  # the last one too
    for group, start in (("workers", "0"), ("auditors", "1003-3"), ("idle", "$"), (b"\x00" * 70, "0")):
        hand("XGROUP", "CREATE", "stream", group, start)
    for count, name in enumerate(("alice", "bob", "carol" * 20)):
        hand("XREADGROUP", "GROUP", "workers", name, "COUNT", 40 + count, "STREAMS", "stream", ">")
    hand("XREADGROUP", "GROUP", "auditors", "carl", "NOACK", "COUNT", 3, "STREAMS", "stream", ">")
    hand("XACK", "stream", "workers", "1010-3", "1003-3")
    if hand.whole:
        hand("XDEL", "stream", "1020-6", "1021-0")  # entries that are still pending
    hand("XCLAIM", "stream", "workers", "bob", 0, "1001-1", "RETRYCOUNT", 9, "TIME", 1_700_000_000_000)
    hand("XADD", "stream:emptied", "9-9", "f", "v")
    hand("XGROUP", "CREATE", "stream:emptied", "g", "0")
    hand("XTRIM", "stream:emptied", "MAXLEN", 0)
    hand("XGROUP", "CREATE", "stream:never filled", "g", "$", "MKSTREAM")
    hand("XADD", "stream:last id", "18446744073709551614-18446744073709551615", "f", "v")
    hand("XADD", "stream:set on", "5-1", "f", "v")
    hand("XSETID", "stream:set on", "77-7")


def _streams_of_7(hand: Hand) -> None:
    """What later versions gave to streams."""
    if hand.knows("XAUTOCLAIM"):  # 6.2
        hand("XGROUP", "CREATECONSUMER", "stream", "auditors", "nobody")
    if hand.knows("FUNCTION"):  # 7.0
        hand("XSETID", "stream:set on", "78-0", "ENTRIESADDED", 900, "MAXDELETEDID", "70-1")
        hand("XGROUP", "CREATE", "stream", "counted", "1100-1", "ENTRIESREAD", 99)
    if hand.knows("XNACK"):
        hand("XNACK", "stream", "workers", "FAIL", "IDS", 1, "1030-2")
    if hand.knows("XCFGSET"):
        hand("XADD", "stream:idempotent", "1-1", "f", "v")
        hand("XCFGSET", "stream:idempotent", "IDMP-DURATION", 3_600, "IDMP-MAXSIZE", 50)


def _modules(hand: Hand) -> None:
    """Vector sets (8.0) and arrays (8.10): types of the server's own that not every server has."""
    if hand.knows("VADD"):
        for name, options in (("int8", ()), ("float", ("NOQUANT",)), ("bits", ("BIN",))):
            for n in range(40):
                vector = (n - 20, hand.random.randrange(-9, 9), 7)
                hand("VADD", f"vectors:{name}", "VALUES", 3, *vector, f"element {n}", *options)
        hand("VSETATTR", "vectors:float", "element 3", '{"year": 1984}')
    if hand.knows("ARSET"):
        hand("ARSET", "array:dense", 0, *(f"item {n}" for n in range(300)))
        hand("ARMSET", "array:sparse", 3, "three", 70_000, "far", 2**40, 17)
        hand("ARINSERT", "array:inserted", "a", "b", -5)


def _expiries(hand: Hand) -> None:
    keys = ["number:128", "list:small", "list:large", "set:64 bits", "set:large", "hash:small", "zset:small", "hll:few"]
    for n, key in enumerate([*keys, *(["stream"] if hand.knows("XADD") else [])]):
        assert hand("PEXPIREAT", key, FAR_MS + n), key
    hand("SET", "expires in an hour", "v", "PX", 3_600_000)
    hand("SET", "soon", "gone before the end", "PX", 50)


def follow(server: Any, known: Set[str], turn: int = 0) -> None:
    """Client writes of every kind upon what `build` wrote; with another `turn`, others. `known` as there."""
    for db in STYLES:
        with Hand(server, db, known, f"follow {turn}") as hand:
            _change(hand, turn)
            _change_more(hand, turn)


def _change(hand: Hand, turn: int) -> None:
    hand("INCRBY", "number:9999", 5 + turn)
    hand("INCRBYFLOAT", "number:10000", "0.25")
    hand("APPEND", "text:compressible", hand.noise(50))
    hand("SETRANGE", "text:large", 700_000, f"turn {turn}")
    hand("SETEX", f"new:seconds {turn}", 5_000, "v")
    hand("SET", f"new:ms {turn}", hand.noise(200), "PX", 5_000_000)
    hand("GETSET", "text:raw", f"turn {turn}")
    hand("MSET", f"new:a {turn}", 1, f"new:b {turn}", "")
    hand("BITOP", "NOT", f"new:bits {turn}", "bits")
    hand("RPUSH", "list:small", turn)
    hand("LPUSH", "list:large", f"turn {turn}", "again")
    hand("LTRIM", "list:large", 3, -5)
    hand("LINSERT", "list:large", "BEFORE", "item 100", "inserted")
    hand("LSET", "list:wide", 10, "set")
    hand("RPOPLPUSH", "list:large", f"new:list {turn}")
    hand("SADD", "set:64 bits", f"word {turn}")
    hand("SREM", "set:large", f"member {turn}")
    hand("SPOP", "set:large ints")
    hand("SUNIONSTORE", f"new:set {turn}", "set:small", "set:16 bits")
    hand("HSET", "hash:large", f"turn {turn}", hand.noise(30))
    hand("HINCRBY", "hash:small", "f", 3)
    hand("HINCRBYFLOAT", "hash:small", "float", "0.5")
    hand("HDEL", "hash:large", f"field {turn}", "field 77")
    hand("ZADD", "zset:large", "0.30000000000000004", f"turn {turn}")
    hand("ZINCRBY", "zset:scores", "2.5", "m8")
    hand("ZREMRANGEBYRANK", "zset:same scores", 0, 3)
    hand("ZUNIONSTORE", f"new:zset {turn}", 2, "zset:small", "set:small", "WEIGHTS", 2, "0.1")
    hand("PFADD", "hll:few", f"turn {turn}")
    hand("PEXPIREAT", "zset:wide", FAR_MS + turn)
    hand("EXPIRE", "hash:wide", 9_000)
    hand("PERSIST", "list:small")
    hand("SORT", "set:16 bits", "STORE", f"new:sorted {turn}")


def _change_more(hand: Hand, turn: int) -> None:
    """Deletions, renamed and moved keys, transactions, scripts, and the writes of newer servers."""
    hand("SET", f"new:gone {turn}", 1)
    hand("DEL", f"new:gone {turn}", "text:45 bytes")
    hand("SET", f"new:old name {turn}", 1)
    hand("RENAME", f"new:old name {turn}", f"new:name {turn}")
    hand("SET", f"new:moved {turn}", hand.db)
    if hand.db:
        hand("MOVE", f"new:moved {turn}", 9)
    pipe = hand.client.pipeline(transaction=True)
    pipe.execute_command("INCR", "counted")
    pipe.execute_command("RPUSH", "list:one", turn)
    pipe.execute_command("HSET", "hash:small", "in a transaction", turn)
    pipe.execute()
    hand(
        "EVAL", "redis.call('INCR', KEYS[1]) return redis.call('RPUSH', KEYS[2], ARGV[1])", 2, "counted", "list:one", 7
    )
    if hand.knows("UNLINK"):
        hand("SADD", f"new:unlinked {turn}", 1)
        hand("UNLINK", f"new:unlinked {turn}", "set:was ints")
    if hand.knows("XADD"):
        hand("XADD", "stream", f"{2_000 + turn}-1", "turn", turn)
        hand("XREADGROUP", "GROUP", "idle", "late", "COUNT", 1, "STREAMS", "stream", ">")
        hand("XACK", "stream", "workers", "1012-5")
        hand("XDEL", "stream", "1040-5")
        hand("XTRIM", "stream", "MAXLEN", 200 - turn)
    if hand.knows("HPEXPIREAT"):
        hand("HPEXPIREAT", "hash:small", FAR_MS + turn, "FIELDS", 1, "g")
        hand("HPERSIST", "hash:all expire", "FIELDS", 1, "b")
    if hand.knows("VADD"):
        hand("VREM", "vectors:float", f"element {turn}")
    if hand.knows("ARSET"):
        hand("ARSET", "array:dense", 5, f"turn {turn}")
