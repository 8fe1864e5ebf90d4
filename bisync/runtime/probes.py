"""What the precheck tries in order to learn what an account may do: one harmless line for each command.

All are queued in a MULTI that is discarded, so none is executed. `{key}` stands for a key that the job copies, `{own}`
for one of bisync's own; `-` for any word. The number of words must be one that the server takes for the command,
because it looks at that before it looks at the rights.

Source: the `COMMAND` replies of Redis 7.0 to 8.10; a test compares them with the table of commands and with servers.
"""

from collections.abc import Iterable, Sequence

from bisync.core.tag import open_key
from bisync.runtime.control import Word

Words = tuple[Word, ...]

_APPLIED = """
APPEND {key} -; BITFIELD {key}; BITOP AND {key} {key}; DECR {key}; DECRBY {key} 1; DELEX {key}; DELIFEQ {key} -
GETDEL {key}; GETEX {key}; GETSET {key} -; INCR {key}; INCRBY {key} 1; INCRBYFLOAT {key} 1; INCREX {key}; MSET {key} -
MSETEX 1 {key} -; MSETNX {key} -; PSETEX {key} 1 -; SET {key} -; SETBIT {key} 0 1; SETEX {key} 1 -; SETNX {key} -
SETRANGE {key} 0 -; PFADD {key}; PFCOUNT {key}; PFDEBUG - {key}; PFMERGE {key}

HDEL {key} -; HEXPIRE {key} 1 FIELDS 1 -; HEXPIREAT {key} 1 FIELDS 1 -; HGETDEL {key} FIELDS 1 -
HGETEX {key} FIELDS 1 -; HINCRBY {key} - 1; HINCRBYFLOAT {key} - 1; HMSET {key} - -; HPERSIST {key} FIELDS 1 -
HPEXPIRE {key} 1 FIELDS 1 -; HPEXPIREAT {key} 1 FIELDS 1 -; HSET {key} - -; HSETEX {key} FIELDS 1 - -; HSETNX {key} - -

BLMOVE {key} {key} LEFT LEFT 1; BLMOVEM {key} {key} LEFT LEFT 1; BLMPOP 1 1 {key} LEFT; BLPOP {key} 1; BRPOP {key} 1
BRPOPLPUSH {key} {key} 1; LINSERT {key} BEFORE - -; LMOVE {key} {key} LEFT LEFT; LMOVEM {key} {key} LEFT LEFT
LMPOP 1 {key} LEFT; LPOP {key}; LPUSH {key} -; LPUSHX {key} -; LREM {key} 0 -; LSET {key} 0 -; LTRIM {key} 0 -1
RPOP {key}; RPOPLPUSH {key} {key}; RPUSH {key} -; RPUSHX {key} -

SADD {key} -; SDIFFSTORE {key} {key}; SINTERSTORE {key} {key}; SMOVE {key} {key} -; SPOP {key}; SREM {key} -
SUNIONSTORE {key} {key}

BZMPOP 1 1 {key} MIN; BZPOPMAX {key} 1; BZPOPMIN {key} 1; GEOADD {key} 1 1 -; GEORADIUS {key} 1 1 1 m
GEORADIUSBYMEMBER {key} - 1 m; GEOSEARCHSTORE {key} {key} FROMMEMBER - BYRADIUS 1 m; ZADD {key} 1 -
ZDIFFSTORE {key} 1 {key}; ZINCRBY {key} 1 -; ZINTERSTORE {key} 1 {key}; ZMPOP 1 {key} MIN; ZPOPMAX {key}; ZPOPMIN {key}
ZRANGESTORE {key} {key} 0 -1; ZREM {key} -; ZREMRANGEBYLEX {key} - +; ZREMRANGEBYRANK {key} 0 0
ZREMRANGEBYSCORE {key} 0 0; ZUNIONSTORE {key} 1 {key}

XACK {key} - 1-1; XACKDEL {key} - KEEPREF IDS 1 1-1; XADD {key} * - -; XAUTOCLAIM {key} - - 0 0; XCFGSET {key} - -
XCLAIM {key} - - 0 1-1; XDEL {key} 1-1; XDELEX {key} IDS 1 1-1; XGROUP CREATE {key} - 0; XGROUP SETID {key} - 0
XGROUP DESTROY {key} -; XGROUP CREATECONSUMER {key} - -; XGROUP DELCONSUMER {key} - -; XIDMPRECORD {key} - - 1-1
XNACK {key} - FAIL IDS 1 1-1; XREADGROUP GROUP - - STREAMS {key} >; XSETID {key} 1-1; XTRIM {key} MAXLEN 0

ARDEL {key} 0; ARDELRANGE {key} 0 0; ARINSERT {key} -; ARMSET {key} 0 -; ARRING {key} 1 -; ARSEEK {key} 0
ARSET {key} 0 -; VADD {key} VALUES 1 1 -; VREM {key} -; VSETATTR {key} - -

COPY {key} {key}; DEL {key}; EXPIRE {key} 1; EXPIREAT {key} 1; MOVE {key} 0; PERSIST {key}; PEXPIRE {key} 1
PEXPIREAT {key} 1; RENAME {key} {key}; RENAMENX {key} {key}; RESTORE {key} 0 -; SORT {key}; UNLINK {key}
"""

_WHOLE = """
FLUSHALL -; FLUSHDB -; SWAPDB - -; PUBLISH - -; SPUBLISH - -; FUNCTION LOAD -; FUNCTION DELETE -; FUNCTION FLUSH -
FUNCTION RESTORE -
"""

_READ = """
DUMP {key}; EXISTS {key}; GET {key}; GETRANGE {key} 0 0; HGET {key} -; HGETALL {key}; HLEN {key}; HMGET {key} -
HSCAN {key} 0; LLEN {key}; LRANGE {key} 0 0; MEMORY USAGE {key}; PTTL {key}; SCAN 0; SCARD {key}; SISMEMBER {key} -
SMEMBERS {key}; SMISMEMBER {key} -; SSCAN {key} 0; STRLEN {key}; TYPE {key}; XINFO CONSUMERS {key} -; XINFO GROUPS {key}
XINFO STREAM {key}; XLEN {key}; XPENDING {key} -; XRANGE {key} - +; ZCARD {key}; ZMSCORE {key} -; ZRANGE {key} 0 0
ZSCAN {key} 0; ZSCORE {key} -; VCARD {key}; VDIM {key}; VEMB {key} -; VGETATTR {key} -; VRANDMEMBER {key}
"""

_SETTLING = """
DUMP {key}; PEXPIRETIME {key}; HGET {key} -; SISMEMBER {key} -; ZSCORE {key} -; TYPE {key}; UNLINK {key}; PERSIST {key}
HDEL {key} -; SREM {key} -; ZREM {key} -; HSET {own} - -; HDEL {own} -; EVAL return 1 {key}; MEMORY USAGE {key}
XINFO STREAM {key}; FUNCTION DUMP; FUNCTION LIST; FUNCTION RESTORE -; ROLE; UNWATCH
"""

_COPYING = "SCAN 0; INFO keyspace; HGETALL {own}"

_BEATING = "SET {own} -; GET {own}; DEL {own}; SELECT 0"

_SUBCOMMANDS = frozenset(("FUNCTION", "MEMORY", "XGROUP", "XINFO"))
_POLICIES = {"flush": ("FLUSHALL", "FLUSHDB"), "swapdb": ("SWAPDB",), "publish": ("PUBLISH", "SPUBLISH")}
_POLICIES |= {"function": ("FUNCTION LOAD", "FUNCTION DELETE", "FUNCTION FLUSH", "FUNCTION RESTORE")}


def _read(text: str) -> dict[str, Words]:
    """By name: the words of a sample, and what of it is the name."""
    samples: dict[str, Words] = {}
    for line in text.replace("\n", ";").split(";"):
        if words := tuple(line.split()):
            samples.setdefault(_name(words), words)
    return samples


def _name(words: Sequence[str]) -> str:
    """As ACL knows it: a command, or a command and its subcommand."""
    return " ".join(words[:2]) if words[0] in _SUBCOMMANDS else words[0]


APPLIED = _read(_APPLIED)
"""What clients of the other site may write, each a command on keys."""

WHOLE = _read(_WHOLE)
"""What they may do besides, where the job passes it on."""

READ = _read(_READ)
"""What `bisync verify` reads."""

SETTLING = _read(_SETTLING)
"""What settles a conflict, or undoes that."""

COPYING = _read(_COPYING)
"""What a target is asked before the full copy, and by every engine that begins."""

BEATING = _read(_BEATING)
"""What the heartbeat at the source of a one-way job does, and `bisync reset` undoes, besides MULTI, EXEC and WATCH."""

VECTORS = frozenset(name for name in (*APPLIED, *READ) if name.startswith("V"))
"""Those of vector sets. They came as a module's, and ACL has them in no category."""

WRITES = frozenset(APPLIED) - VECTORS - {"PFCOUNT"} | {"FLUSHALL", "FLUSHDB", "SWAPDB"}
"""Of APPLIED and WHOLE, those that ACL's category @write has."""

READS = frozenset(READ) - VECTORS
"""Of READ, those that ACL's category @read has."""


def applied(passed: Iterable[str]) -> dict[str, Words]:
    """What may have to be applied, where the job passes on what these options under [commands] are about."""
    whole = {name for policy in passed for name in _POLICIES.get(policy, ())}
    return {**APPLIED, **{name: words for name, words in WHOLE.items() if name in whole}}


def about(words: Words, key: bytes, job: str) -> Words:
    """A sample with its keys put in."""
    kept: dict[Word, Word] = {"{key}": key, "{own}": open_key(job)}
    return tuple(kept.get(word, word) for word in words)
