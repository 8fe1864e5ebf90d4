"""Real RDB files of real servers, small enough to keep, each with what its server replied about the same data.

    python -m tests.core.rdb.making .servers      writes samples/<server>.rdb and .json, one of each for every server

A file is what SAVE wrote after the commands of `fill` (and `DEBUG SET-ACTIVE-EXPIRE` and the like play no part). The
settings make small values take the encodings of big ones. The second file is what `replies` read from the server.
"""

import hashlib
import json
import pathlib
import sys
import tempfile
from collections.abc import Callable
from typing import Any

import redis

from bisync.testing.servers import LocalServer, kept_servers, program_version

SAMPLES = pathlib.Path(__file__).parent / "samples"
FAR = 4_000_000_000_000  # Unix time in milliseconds, in the year 2096
TEXT = b"to be or not to be, that is the question; " * 3  # compresses
WILD = bytes(range(128, 256))  # does not
NUMBERS = (0, 12, 13, -1, 127, 128, -128, 4095, -4096, 4096, 32767, -32769, 2**23, -(2**23) - 1, 2**31, 2**62, -(2**63))
SCORES = ("0", "-0.5", "3.14159265358979312", "1e300", "1e-300", "inf", "-inf", "9007199254740993", "0.1", "17")
LIBRARY = b"#!lua name=lib\nredis.register_function('twice', function(keys, args) return args[1] * 2 end)\n"

Told = dict[str, Any]
"""By database and key: kind, expiry in ms or None, and the content as JSON has it. Bytes are Latin-1 text."""


class Making:
    """One server under way. Commands that it does not know are left out."""

    def __init__(self, server: LocalServer) -> None:
        self.server, self.c = server, server.client(single_connection_client=True)
        self.c.ping()
        self.known = {entry[0].decode().upper() for entry in self.raw("COMMAND")}

    def raw(self, *words: object) -> Any:
        """The reply as it comes, without what the client library makes of it."""
        connection = self.c.connection
        assert connection is not None
        connection.send_command(*words)
        return connection.read_response()

    def do(self, text: str, *more: object) -> None:
        """Run a command if the server knows it: its words, and more of them."""
        words = text.split()
        if words[0].upper() in self.known:
            self.raw(*words, *more)

    def config(self, text: str) -> None:
        """Settings, by name and value; those that the server does not have are left out."""
        words = text.split()
        for name, value in zip(words[::2], words[1::2], strict=True):
            try:
                self.raw("CONFIG", "SET", name, value)
            except redis.ResponseError:
                pass


SMALL_PACKS = (
    "hash-max-ziplist-entries 8 hash-max-ziplist-value 600 zset-max-ziplist-entries 12 zset-max-ziplist-value 600 "
    "list-max-ziplist-entries 24 list-max-ziplist-value 600 set-max-intset-entries 24 set-max-listpack-entries 8 "
    "set-max-listpack-value 600 list-max-ziplist-size 8 stream-node-max-entries 5"
)
"""Settings under which a value of 25 elements is a table or has many nodes."""


def fill(making: Making) -> None:
    """All kinds of values in all encodings that this server has."""
    making.config(SMALL_PACKS)
    for database in (0, 7):
        making.raw("SELECT", database)
        _strings(making)
        if database == 0:
            _collections(making, "small", 6)
            _collections(making, "large", 30)
            _numbers(making)
            _expiring_fields(making)
            _streams(making)
            _of_newer_servers(making)
    if "FUNCTION" in making.known:
        making.raw("FUNCTION", "LOAD", LIBRARY)


def _strings(making: Making) -> None:
    for number in (0, -128, 128, 32767, -32769, 2**31 - 1, -(2**31), 2**31, 2**63 - 1):
        making.do("SET", f"number:{number}", number)
    for text in (b"", b"short", TEXT, WILD, b"007", b"a" * 20_000, WILD * 70):
        making.do("SET", b"text:%d" % len(text), text)
    making.do("SET", b"compressed key " * 8, b"v")
    making.do("SET", "12345", "a key that is a number")
    making.do("SET expires v")
    making.do("PEXPIREAT", "expires", FAR + 1)


def _collections(making: Making, size: str, count: int) -> None:
    words = [b"%s:%d" % (name, n) for n, name in zip(range(count), (b"word", TEXT, b"n" * 63, WILD, b"w") * 9)]
    making.do("RPUSH", f"list:{size}", *words)
    making.do("SADD", f"set:{size}", *words)
    making.do("HMSET", f"hash:{size}", *(part for n, w in enumerate(words) for part in (w, n)))
    making.do("ZADD", f"zset:{size}", *(part for n, w in enumerate(words) for part in (n * 1.5, w)))
    making.do("PEXPIREAT", f"hash:{size}", FAR)
    making.do("RPUSH", f"list:long items:{size}", *(WILD * n for n in range(1, 4)), *([b"x" * 5000] * (count // 6)))


def _numbers(making: Making) -> None:
    for cut, name in ((8, "few"), (len(NUMBERS), "many")):
        numbers = NUMBERS[:cut]
        making.do("RPUSH", f"list:numbers:{name}", *numbers)
        making.do("SADD", f"set:numbers:{name}", *numbers)
        making.do("SADD", f"set:numbers and a word:{name}", *numbers, "word")
        making.do("HMSET", f"hash:numbers:{name}", *(part for n in numbers for part in (n, -n)))
    making.do("SADD set:16 bits", *range(-3, 3))
    making.do("SADD set:32 bits", *range(-3, 3), 70_000)
    making.do("SADD set:64 bits", *range(-3, 3), 2**40)
    for cut, name in ((6, "few"), (len(SCORES), "many")):
        making.do("ZADD", f"zset:scores:{name}", *(part for s in SCORES[:cut] for part in (s, f"member:{s}")))
    making.do("ZADD zset:scores:table", *(part for s in SCORES for part in (s, f"member:{s}")), 5, WILD * 4)
    making.do("GEOADD places 13.361389 38.115556 Palermo 15.087269 37.502669 Catania")
    making.do("PFADD", "loglog", *range(300))


def _expiring_fields(making: Making) -> None:
    for size, count in (("small", 5), ("large", 40)):
        key = f"hash:fields expire:{size}"
        making.do("HMSET", key, *(part for n in range(count) for part in (f"field:{n}", n)))
        making.do("HPEXPIREAT", key, FAR + 5, "FIELDS", 2, "field:1", "field:3")
        making.do("HPEXPIREAT", key, FAR, "FIELDS", 1, "field:2")


def _streams(making: Making) -> None:
    if "XADD" not in making.known:
        return
    for n in range(23):
        fields = ("field", n, "other", TEXT) if n % 4 else ("odd", -n, "one", "", "more", WILD)
        making.do("XADD", "stream", f"{1000 + n}-{n}", *fields)
    making.do("XADD", "stream", f"{2**63}-{2**64 - 5}", "f", "v")
    making.do("XDEL stream 1003-3 1007-7")
    for group in (b"workers", b"auditors", WILD):
        making.do("XGROUP CREATE", "stream", group, "1002-2")
    for count, name in ((4, b"alice"), (3, b"bob"), (2, WILD)):
        making.do("XREADGROUP GROUP workers", name, "COUNT", count, "STREAMS", "stream", ">")
    making.do("XREADGROUP GROUP workers alice COUNT 2 STREAMS stream 0")
    making.do("XACK stream workers 1005-5")
    making.do("XREADGROUP GROUP auditors nobody COUNT 1 STREAMS stream 9999999999999999999")
    making.do("XDEL stream 1006-6")  # it stays pending
    making.do("XADD", "stream:emptied", "5-5", "f", "v")
    making.do("XDEL stream:emptied 5-5")
    making.do("XGROUP CREATE stream:never-filled group 0 MKSTREAM")
    making.do("XNACK stream workers FAIL IDS 2 1008-8 1009-9")
    if "XCFGSET" in making.known:
        for producer, id in (("one", "first"), ("one", "second"), ("two", "first"), ("two", "first")):
            making.do("XADD stream:idempotent IDMP", producer, id, "*", "f", "v")
        making.do("XCFGSET stream:idempotent IDMP-DURATION 86400 IDMP-MAXSIZE 50")
        making.do("XADD stream:idempotent IDMP three third * f v")


def _of_newer_servers(making: Making) -> None:
    for n in range(12):
        making.do("VADD", "vectors", "VALUES", 3, n, 7, -n, f"element:{n}", "SETATTR", f'{{"n": {n}}}')
    making.do("ARSET array 0", "text", WILD, TEXT, "small", -5, "3.25", "1e300")
    making.do("ARSET array 100000000000 far")
    making.do("ARINSERT array:inserted a b c 12")
    making.config("hash-min-template-entries 2 hash-max-listpack-entries 6 hash-max-listpack-value 64")
    for n in range(3):
        making.do("HMSET", f"template:listpack:{n}", "name", f"name:{n}", "year", 1900 + n, "text", b"x" * 40)
        making.do("HMSET", f"template:array:{n}", "name", f"name:{n}", "year", 1900 + n, "text", TEXT)
        making.do("HMSET", f"template:long fields:{n}", b"n" * 100, n, b"m" * 20_000, n)


def text(data: Any) -> Any:
    """A reply, or what was decoded, in a form that JSON has and that is short: long strings by their digest."""
    if isinstance(data, bytes):
        if len(data) <= 48:
            return data.decode("latin-1")
        return f"{data[:8].decode('latin-1')}... {len(data)} bytes, {hashlib.sha256(data).hexdigest()[:16]}"
    if isinstance(data, dict):
        return {name: text(part) for name, part in data.items()}
    return [text(part) for part in data] if isinstance(data, (list, tuple)) else data


def replies(making: Making) -> Told:
    """What the server says about each key."""
    told: Told = {}
    for database in (0, 7):
        making.raw("SELECT", database)
        for key in sorted(making.raw("KEYS", "*")):
            kind = making.raw("TYPE", key).decode()
            read = READERS.get(kind, lambda *_: None)
            expires = making.raw("PTTL", key)
            if expires >= 0 and "PEXPIRETIME" in making.known:
                expires = making.raw("PEXPIRETIME", key)
            elif expires >= 0:
                expires = FAR + (key == b"expires")  # older servers tell only how long it is from now
            content = text(read(making, key))
            told[f"{database} {text(key)}"] = [kind, expires if expires >= 0 else None, content]
    return told


def _hash(making: Making, key: bytes) -> Any:
    flat = making.raw("HGETALL", key)
    fields, values = flat[::2], flat[1::2]
    expiries = [-1] * len(fields)
    if "HPEXPIRETIME" in making.known:
        expiries = making.raw("HPEXPIRETIME", key, "FIELDS", len(fields), *fields)
    return sorted([f, v, None if e < 0 else e] for f, v, e in zip(fields, values, expiries, strict=True))


def _array(making: Making, key: bytes) -> Any:
    scanned = making.raw("ARSCAN", key, 0, 2**63)
    pairs = (
        scanned if scanned and isinstance(scanned[0], list) else [scanned[n : n + 2] for n in range(0, len(scanned), 2)]
    )
    return [making.raw("ARNEXT", key), [[int(index), value] for index, value in pairs]]


def _pairs(flat: list[Any]) -> dict[str, Any]:
    return {k.decode(): v for k, v in zip(flat[::2], flat[1::2], strict=True)}


def _stream(making: Making, key: bytes) -> Any:
    """Entries; last id and what newer servers tell besides; groups with what is pending and their consumers."""
    info = _pairs(making.raw("XINFO", "STREAM", key))
    state = {name: info[name] for name in STREAM_FACTS if name in info}
    groups = []
    if program_version(making.server.program) >= (6,):
        full = _pairs(making.raw("XINFO", "STREAM", key, "FULL", "COUNT", 0))
        for flat in full["groups"]:
            group = _pairs(flat)
            consumers = [_pairs(c) for c in group["consumers"]]
            owned = [[p[0], c["name"], p[1], p[2]] for c in consumers for p in c.get("pel", c.get("pending", []))]
            known = {n: group[n] for n in ("name", "last-delivered-id", "entries-read") if n in group}
            people = sorted([c["name"], c["seen-time"], c.get("active-time")] for c in consumers)
            pending = group.get("pel", group.get("pending"))
            groups.append([known, people, sorted(owned), sorted(pending)])
    else:
        for flat in making.raw("XINFO", "GROUPS", key):
            group = _pairs(flat)
            names = [_pairs(c)["name"] for c in making.raw("XINFO", "CONSUMERS", key, group["name"])]
            pending = making.raw("XPENDING", key, group["name"], "-", "+", 1000)
            known = {n: group[n] for n in ("name", "last-delivered-id") if n in group}
            groups.append(
                [known, sorted([n, None, None] for n in names), sorted([p[0], p[1], None, p[3]] for p in pending), None]
            )
    return [making.raw("XRANGE", key, "-", "+"), state, groups]


STREAM_FACTS = ("length", "last-generated-id", "max-deleted-entry-id", "entries-added", "recorded-first-entry-id") + (
    *("idmp-duration", "idmp-maxsize"),
)
READERS: dict[str, Callable[[Making, bytes], Any]] = {
    "string": lambda m, key: m.raw("GET", key),
    "list": lambda m, key: m.raw("LRANGE", key, 0, -1),
    "set": lambda m, key: sorted(m.raw("SMEMBERS", key)),
    "zset": lambda m, key: m.raw("ZRANGE", key, 0, -1, "WITHSCORES"),
    "hash": _hash,
    "stream": _stream,
    "array": _array,
}


def snapshot(making: Making) -> bytes:
    """What SAVE writes."""
    making.raw("SAVE")
    return (making.server.folder / "dump.rdb").read_bytes()


def make(folder: pathlib.Path) -> None:
    """Write the samples of all servers in `folder`."""
    for name, program in kept_servers(folder).items():
        with tempfile.TemporaryDirectory() as scratch:
            server = LocalServer(pathlib.Path(scratch), program=program).start()
            try:
                making = Making(server)
                fill(making)
                told = replies(making)
                data = snapshot(making)
            finally:
                server.stop()
        (SAMPLES / f"{name}.rdb").write_bytes(data)
        (SAMPLES / f"{name}.json").write_text(json.dumps(told, ensure_ascii=True, sort_keys=True, indent=None) + "\n")
        print(name, data[:9], len(data), len(told))


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]))
