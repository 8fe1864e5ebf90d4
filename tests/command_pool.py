"""Commands over two keys, with little choice for each argument, so that two of them often meet at one place."""

import itertools

from hypothesis import strategies as st

from bisync.core.commands import Args, normalise, row
from bisync.testing.samples import MOMENT_MS

# {k}: the key on which commands meet; {o}: this one or another. The rest: see CHOICES.
_TEMPLATES = """
SET {k} {v}; SET {k} {v} PXAT {t}; SET {k} {v} KEEPTTL; SET {o} {v}; MSET {k} {v} {o} {v}; MSET {k} {v}
MSETEX 1 {k} {v} PXAT {t}; MSETEX 2 {k} {v} j {v}; DEL {k}; DEL {k} j; UNLINK {k}; APPEND {k} {i}; SETRANGE {k} {i} x
SETBIT {k} {i} {b}; INCR {k}; DECR {k}; INCRBY {k} {i}; DECRBY {k} {i}; INCRBYFLOAT {k} 0.5; INCREX {k} BYINT {i}
BITFIELD {k} SET u8 0 {i}; PFADD {k} {m}; PFADD {k} {m} {m} {m}; PFADD {k}; PFCOUNT {k}; PFDEBUG TODENSE {k}
RESTORE {k} {t} {d} REPLACE ABSTTL; RESTORE {k} 0 {d} REPLACE; PEXPIREAT {k} {t}; EXPIREAT {k} 4102444801; PERSIST {k}

HSET {k} {f} {v}; HSET {k} {f} {v} {f} {v}; HMSET {k} {f} {v}; HDEL {k} {f}; HDEL {k} {f} {f} {f}; HINCRBY {k} {f} {i}
HINCRBYFLOAT {k} {f} 0.5; HSETEX {k} FIELDS 1 {f} {v}; HSETEX {k} PXAT {t} FIELDS 1 {f} {v}
HSETEX {k} PXAT {t} FIELDS 2 {f} {v} {f} {v}; HSETEX {k} KEEPTTL FIELDS 1 {f} {v}; HPEXPIREAT {k} {t} FIELDS 1 {f}
HPEXPIREAT {k} {t} FIELDS 2 {f} {f}; HPEXPIREAT {k} {t} GT FIELDS 2 {f} {f}; HPERSIST {k} FIELDS 1 {f}
HPERSIST {k} FIELDS 2 {f} {f}

SADD {k} {m}; SADD {k} {m} {m}; SREM {k} {m}; SREM {k} {m} {m} {m}; SPOP {k} 9; SMOVE {k} j {m}; SMOVE j {k} {m}
ZADD {k} {i} {m}; ZADD {k} {i} {m} {i} {m}; ZADD {k} GT {i} {m} {i} {m}; ZINCRBY {k} {i} {m}; ZREM {k} {m}
ZREM {k} {m} {m} {m}; ZREMRANGEBYRANK {k} 0 0; ZREMRANGEBYSCORE {k} 0 1; ZREMRANGEBYLEX {k} [a [b; ZPOPMIN {k}
ZPOPMAX {k}; GEOADD {k} 13 {i} {m}; LPUSH {k} {m}; LPUSH {k} {m} {m}; RPUSH {k} {m}; RPUSH {k} {m} {m}; LPOP {k}
RPOP {k}; LSET {k} 0 {m}; LREM {k} 0 {m}; LINSERT {k} BEFORE a {m}; LTRIM {k} 0 0; LMOVE {k} {o} LEFT RIGHT
LMPOP 2 {k} j LEFT; BLMPOP 1 2 j {k} LEFT; BLPOP {k} j 1; BRPOP {k} j 1; ZMPOP 2 {k} j MIN; BZMPOP 1 2 {k} j MIN
BZPOPMIN {k} j 1; BZPOPMAX {k} j 1; RPOPLPUSH j {k}; LMOVEM {k} j LEFT RIGHT COUNT 2 OBO

XADD {k} 5-{i} f v; XADD {k} MAXLEN = 1 6-{i} f v; XDEL {k} 1-{i}; XTRIM {k} MAXLEN 0; XTRIM {k} MINID = 1-2
XGROUP CREATE {k} {m} 0; XGROUP DESTROY {k} g; XGROUP SETID {k} g 1-{i}; XGROUP CREATECONSUMER {k} g {m}; XACK {k} g 1-1
XCLAIM {k} g {m} 0 1-1 TIME 1700000000000; XSETID {k} 7-1; XDELEX {k} KEEPREF IDS 1 1-{i}
XACKDEL {k} g DELREF IDS 1 1-1
XNACK {k} g FAIL IDS 1 1-1; XCFGSET {k} IDMP-DURATION {i}; XIDMPRECORD {k} p {i} 1-1; XAUTOCLAIM {k} g {m} 0 0 JUSTID
XREADGROUP GROUP g {m} STREAMS {k} >

ARSET {k} {i} {v}; ARMSET {k} {i} {v}; ARINSERT {k} {v}; ARRING {k} 2 {v}; ARSEEK {k} {i}; ARDEL {k} {i}
ARDELRANGE {k} 0 {i}; VADD {k} VALUES 2 1 {i} {m}; VREM {k} {m}; VSETATTR {k} {m} {{"n":1}}

RENAME {k} {o}; RENAME j {k}; COPY {k} j REPLACE; COPY j {k} REPLACE; COPY {k} {k} DB 3 REPLACE; MOVE {k} 3
SUNIONSTORE j {k} j; SUNIONSTORE {k} {k} j; SDIFFSTORE {k} j {k}; SINTERSTORE {k} {k} j; ZUNIONSTORE {k} 1 j
ZUNIONSTORE j 2 {k} j; ZINTERSTORE {k} 2 {k} j; ZDIFFSTORE {k} 2 {k} j; ZRANGESTORE j {k} 0 0; BITOP NOT {o} j
GEOSEARCHSTORE j {k} FROMLONLAT 13 1 BYRADIUS 900 km; GEORADIUS {k} 13 1 900 km STORE j
GEORADIUSBYMEMBER {k} a 900 km STORE j; PFMERGE {k} j
BITOP NOT j {k}; PFMERGE j {k}; SORT {k} BY nosort STORE j; SORT j BY w_* STORE {k}
FLUSHDB; FLUSHALL; SWAPDB 0 3; SWAPDB 3 4; PUBLISH c m; SPUBLISH c m
"""
_DUMP = b"\x00\xc0\x01\n\x00&x\xe7\xb6\xd1\x01\x11\xfc"  # DUMP of the string "1" by Redis 7.0: later ones take it too
CHOICES: dict[str, tuple[bytes, ...]] = {
    "k": (b"k",),
    "o": (b"k", b"j"),
    "v": (b"5", b"v", b"w"),
    "i": (b"1", b"2", b"7"),
    "b": (b"0", b"1"),
    "f": (b"f", b"g", b"h"),
    "m": (b"a", b"b", b"1"),
    "t": (b"%d" % MOMENT_MS, b"%d" % (MOMENT_MS + 5)),
    "d": (_DUMP,),
}
TEMPLATES: tuple[tuple[bytes, ...], ...] = tuple(
    tuple(template.encode().split())
    for line in _TEMPLATES.splitlines()
    for template in line.split(";")
    if template.strip()
)


def _choices(word: bytes) -> tuple[bytes, ...]:
    """What a word of a template can stand for."""
    text = word.decode()
    for name, values in CHOICES.items():
        if f"{{{name}}}" in text:
            return tuple(word.replace(b"{%s}" % name.encode(), value) for value in values)
    return (word.replace(b"{{", b"{").replace(b"}}", b"}"),)


def expand(template: tuple[bytes, ...], most: int) -> list[Args]:
    """Some commands of a template: the first choices of each argument, in all their combinations."""
    several = itertools.product(*(_choices(word)[:2] for word in template))
    return list(itertools.islice(several, most))


def calls(known: set[bytes], most: int = 6) -> list[Args]:
    """Commands of all templates that a server knows (names in small letters), in their unconditional form."""
    found = [call for template in TEMPLATES if template[0].lower() in known for call in expand(template, most)]
    return list(dict.fromkeys(normalise(call) for call in found))


def any_call(known: set[bytes]) -> st.SearchStrategy[Args]:
    """Any command of any template that a server knows, in its unconditional form."""
    usable = [template for template in TEMPLATES if template[0].lower() in known]
    return st.sampled_from(usable).flatmap(
        lambda t: st.tuples(*(st.sampled_from(_choices(w)) for w in t)).map(normalise)
    )


def lines(text: str) -> list[Args]:
    """Commands that are parted by semicolons."""
    return [tuple(line.strip().encode().split()) for line in text.split(";") if line.strip()]


_LATER, _SOON = MOMENT_MS + 9, MOMENT_MS - 9
STATES: list[list[Args]] = [
    lines(text)
    for text in (
        "",
        "SET k 5",
        f"SET k 5 PXAT {_SOON}",
        "SET k 7; SET j x",
        "SET k text; SET j x",
        f"SET k text PXAT {_LATER}",
        "HSET k f 1",
        f"HSET k f 1; PEXPIREAT k {_SOON}",
        f"HSET k f 1 g 2 h 7; PEXPIREAT k {_SOON}; SADD j a",
        f"HSET k f 1 g 2 h 7; HPEXPIREAT k {_SOON} FIELDS 2 f g; PEXPIREAT k {_LATER}",
        f"HSET k f 1 g 2 h 7; HPEXPIREAT k {_LATER} FIELDS 3 f g h",
        f"SADD k a; PEXPIREAT k {_SOON}",
        f"SADD k a b; SADD j z; PEXPIREAT k {_SOON}",
        "SADD k a b 1 2 c; SADD j a",
        "SADD k z; SADD j a b 1",
        f"ZADD k 1 a; PEXPIREAT k {_SOON}",
        "ZADD k 1 a 2 b 9 z; ZADD j 4 a",
        "ZADD k 0 a 0 b 0 1 9 z; ZADD j 4 a 5 b",
        "GEOADD k 13 1 a 13 2 z",
        "RPUSH k a",
        f"RPUSH k a b a; PEXPIREAT k {_SOON}; RPUSH j 3 1",
        "RPUSH k 3 1 2",
        "PFADD k a b x y z; PFADD j q",
        f"PFADD k x; PFCOUNT k; PFADD k y; PEXPIREAT k {_SOON}",
        "XADD k 1-1 f v",
        "XADD k 1-1 f v; XADD k 1-2 f v; XGROUP CREATE k g 0; XREADGROUP GROUP g c COUNT 1 STREAMS k >; "
        f"PEXPIREAT k {_SOON}",
        f"ARSET k 0 x y z; PEXPIREAT k {_SOON}",
        "ARINSERT k x",
        f"VADD k VALUES 2 1 0 a; VADD k VALUES 2 0 1 b; PEXPIREAT k {_SOON}",
        "SET j 5; SELECT 3; SET k other; SELECT 0",
    )
]
"""What is there before: every type, with a time to live and without, and nothing at all."""


def states(known: set[bytes]) -> list[list[Args]]:
    """Those of STATES whose commands a server knows."""
    return [state for state in STATES if all(call[0].lower() in known for call in state)]


def pooled_rows(known: set[bytes]) -> set[bytes]:
    """The names of the commands that the pool has for a server."""
    return {found.name for call in calls(known) if (found := row(call[0])) is not None}
