"""Calls of every write command of Redis 7.0 to 8.10 and Valkey 8.1 to 9.1, each with what must be there before it.

Tests run them on real servers, alone and against a synchronised pair. Each call takes effect after its setup, does not
block and always has the same outcome, so that two servers can be compared afterwards. Not every server knows every
command: see `unknown_to`.
"""

from collections.abc import Container

import attrs

Words = tuple[bytes, ...]

MOMENT_MS = 4_102_444_800_000
"""An expiry far away: the first of January 2100, as a Unix time in ms."""

_SPECIAL = {
    b"$moment": b"%d" % MOMENT_MS,
    b"$moment_s": b"%d" % (MOMENT_MS // 1000),
    # replies of DUMP and FUNCTION DUMP of Redis 7.0, for the string "1" and for the library below
    b"$dump": b"\x00\xc0\x01\n\x00&x\xe7\xb6\xd1\x01\x11\xfc",
    b"$functions": b"\xf5\xc3@G@M\x1f#!lua name=samples\nredis.registe\x0br_function('\x80 \x02', \xe0\x00\x12\x0e)"
    b" return 1 end)\n\x00\xb3\xaa\x07\xa2X\xe8\xa2\x0b",
    b"$library": b"#!lua name=samples\nredis.register_function('samples', function() return 1 end)",
    b"$script": b"redis.call('SET', KEYS[1], ARGV[1])",
}


@attrs.frozen
class Sample:
    """A call of a command."""

    name: str  # of the command, in capitals; of a subcommand with its container: "XGROUP CREATE"
    call: Words  # empty: it cannot be called, for the reason given
    setup: tuple[Words, ...] = ()  # run before it, in this order, on empty databases
    reason: str = ""
    needs: str = ""  # a command that every server with this form of the call knows


def _words(text: str) -> Words:
    return tuple(_SPECIAL.get(word, word) for word in text.encode().split())


# command | the call | the setup, commands parted by ";" | what it needs
_SAMPLES = """
APPEND | APPEND s tail | SET s head PXAT $moment
APPEND | APPEND s tail |
BITFIELD | BITFIELD s SET u8 0 255 INCRBY u8 8 3 | SET s ab
BITOP | BITOP AND d s t | SET s abc ; SET t ab
BITOP | BITOP NOT d s | SET s abc
BITOP | BITOP DIFF d s t | SET s abc ; SET t ab | XACKDEL
DECR | DECR n | SET n 5
DECRBY | DECRBY n 3 |
DELEX | DELEX s IFEQ v | SET s v
DELIFEQ | DELIFEQ s v | SET s v
GETDEL | GETDEL s | SET s v
GETEX | GETEX s PXAT $moment | SET s v
GETEX | GETEX s EXAT $moment_s | SET s v
GETEX | GETEX s PERSIST | SET s v PXAT $moment
GETSET | GETSET s new | SET s old PXAT $moment
INCR | INCR n | SET n 5 PXAT $moment
INCRBY | INCRBY n -2 | SET n 5
INCRBYFLOAT | INCRBYFLOAT n 0.5 | SET n 5 PXAT $moment
INCREX | INCREX n BYINT 3 PXAT $moment | SET n 5
INCREX | INCREX n BYFLOAT 0.5 UBOUND 9 | SET n 5 PXAT $moment
MSET | MSET a 1 b 2 a 3 | SET a old PXAT $moment
MSETEX | MSETEX 2 a 1 b 2 NX PXAT $moment |
MSETEX | MSETEX 1 a 1 KEEPTTL | SET a old PXAT $moment
MSETEX | MSETEX 1 a 1 EX 100000 |
MSETNX | MSETNX a 1 b 2 |
PSETEX | PSETEX s 100000000 v |
SET | SET s v | RPUSH s a
SET | SET s v NX |
SET | SET s v XX GET KEEPTTL | SET s old PXAT $moment
SET | SET s v GET PXAT $moment | SET s old
SET | set s v exat $moment_s nx |
SET | SET s new IFEQ old GET | SET s old PXAT $moment | MSETEX
SETBIT | SETBIT s 9 1 | SET s a
SETEX | SETEX s 100000 v |
SETNX | SETNX s v |
SETRANGE | SETRANGE s 3 xyz | SET s abcd
PFADD | PFADD p a b c | PFADD p x
PFADD | PFADD p |
PFCOUNT | PFCOUNT p | PFADD p a b
PFDEBUG | PFDEBUG TODENSE p | PFADD p a b
PFMERGE | PFMERGE d p q | PFADD p a ; PFADD q b ; PFADD d c
HDEL | HDEL h f g nothing | HSET h f 1 g 2 i 3
HDEL | HDEL h f | HSET h f 1
HINCRBY | HINCRBY h f 5 | HSET h f 1
HINCRBYFLOAT | HINCRBYFLOAT h f 0.25 | HSET h f 1
HINCRBYFLOAT | HINCRBYFLOAT h f 0.25 | HSET h f 1 ; HPEXPIREAT h $moment FIELDS 1 f | XACKDEL
HMSET | HMSET h f 1 g 2 | HSET h f 0
HSET | HSET h f 1 g 2 | HSET h f 0 ; PEXPIREAT h $moment
HSETNX | HSETNX h f 1 | HSET h g 0
HEXPIRE | HEXPIRE h 100000 FIELDS 1 f | HSET h f 1 g 2
HEXPIRE | HEXPIRE h 0 FIELDS 2 f x | HSET h f 1 g 2
HEXPIREAT | HEXPIREAT h $moment_s NX FIELDS 1 f | HSET h f 1 g 2
HPEXPIRE | HPEXPIRE h 100000000 FIELDS 2 f g | HSET h f 1 g 2
HPEXPIREAT | HPEXPIREAT h $moment GT FIELDS 2 f g | HSET h f 1 g 2 ; HPEXPIREAT h 4000000000000 FIELDS 1 f
HPEXPIREAT | HPEXPIREAT h $moment NX FIELDS 3 f g x | HSET h f 1 g 2 ; HPEXPIREAT h 4000000000000 FIELDS 1 f
HPEXPIREAT | HPEXPIREAT h $moment FIELDS 1 f LT | HSET h f 1 ; HPEXPIREAT h 4200000000000 FIELDS 1 f | XIDMPRECORD
HPERSIST | HPERSIST h FIELDS 2 f g | HSET h f 1 g 2 ; HPEXPIREAT h $moment FIELDS 1 f
HGETDEL | HGETDEL h FIELDS 2 f x | HSET h f 1 g 2
HGETDEL | HGETDEL h FIELDS 1 f | HSET h f 1
HGETEX | HGETEX h PXAT $moment FIELDS 1 f | HSET h f 1 g 2
HGETEX | HGETEX h PERSIST FIELDS 1 f | HSET h f 1 g 2 ; HPEXPIREAT h $moment FIELDS 1 f
HGETEX | HGETEX h EX 100000 FIELDS 2 f x | HSET h f 1 g 2
HSETEX | HSETEX h FNX PXAT $moment FIELDS 1 f v | HSET h g 2
HSETEX | HSETEX h FXX KEEPTTL FIELDS 1 f v | HSET h f 1 g 2 ; HPEXPIREAT h $moment FIELDS 1 f
HSETEX | HSETEX h FIELDS 2 f v g w | HSET h f 1 ; HPEXPIREAT h $moment FIELDS 1 f
HSETEX | HSETEX h EX 100000 FIELDS 1 f v | HSET h f 1
HSETEX | HSETEX h FIELDS 1 f v PXAT $moment FNX | HSET h g 1 | XIDMPRECORD
HSETEX | HSETEX h XX FIELDS 1 f v | HSET h g 1 | DELIFEQ
HIMPORT SET | HIMPORT SET h fields 1 2 | HIMPORT PREPARE fields f g
BLMOVE | BLMOVE l m LEFT RIGHT 1 | RPUSH l a b
BLMOVEM | BLMOVEM l m LEFT RIGHT 1 COUNT 5 OBO | RPUSH l a b
BLMPOP | BLMPOP 1 1 l RIGHT COUNT 2 | RPUSH l a b c
BLMPOP | BLMPOP 1 2 k l LEFT | RPUSH l a b c
BLPOP | BLPOP l 1 | RPUSH l a b
BLPOP | BLPOP k l 1 | RPUSH l a b
BRPOP | BRPOP l 1 | RPUSH l a b
BRPOPLPUSH | BRPOPLPUSH l m 1 | RPUSH l a b ; RPUSH m c
LINSERT | LINSERT l BEFORE b x | RPUSH l a b
LMOVE | LMOVE l m RIGHT LEFT | RPUSH l a b
LMOVE | LMOVE l l RIGHT LEFT | RPUSH l a b
LMOVEM | LMOVEM l m RIGHT LEFT COUNT 2 BULK | RPUSH l a b c ; RPUSH m x
LMOVEM | LMOVEM l m LEFT RIGHT EXACTLY 2 OBO | RPUSH l a b
LMPOP | LMPOP 1 l LEFT | RPUSH l a b
LMPOP | LMPOP 2 k l RIGHT COUNT 5 | RPUSH l a b
LPOP | LPOP l | RPUSH l a b
LPOP | LPOP l 2 | RPUSH l a b
LPUSH | LPUSH l a b | RPUSH l x
LPUSHX | LPUSHX l a b | RPUSH l x
LREM | LREM l 1 a | RPUSH l a b a
LSET | LSET l 1 x | RPUSH l a b
LTRIM | LTRIM l 1 1 | RPUSH l a b c
RPOP | RPOP l | RPUSH l a
RPOPLPUSH | RPOPLPUSH l m | RPUSH l a b
RPUSH | RPUSH l a b | RPUSH l x
RPUSHX | RPUSHX l a b | RPUSH l x
SADD | SADD z a b | SADD z b c
SDIFFSTORE | SDIFFSTORE d z y | SADD z a b ; SADD y b
SDIFFSTORE | SDIFFSTORE d z y | SADD z a ; SADD y a ; SET d old
SINTERSTORE | SINTERSTORE d z y | SADD z a b ; SADD y b
SMOVE | SMOVE z y a | SADD z a b
SMOVE | SMOVE z y a | SADD z a ; SADD y a b
SPOP | SPOP z | SADD z a
SPOP | SPOP z 5 | SADD z a b
SREM | SREM z a b | SADD z a c
SUNIONSTORE | SUNIONSTORE d z y d | SADD z a b ; SADD y b ; SADD d x
BZMPOP | BZMPOP 1 1 z MIN COUNT 2 | ZADD z 1 a 2 b 3 c
BZMPOP | BZMPOP 1 2 y z MAX | ZADD z 1 a 2 b 3 c
BZPOPMAX | BZPOPMAX z 1 | ZADD z 1 a 2 b
BZPOPMIN | BZPOPMIN z 1 | ZADD z 1 a 2 b
GEOADD | GEOADD g NX CH 13.361389 38.115556 a | GEOADD g 15 37 b
GEOADD | GEOADD g CH 13.361389 38.115556 a 15.5 37.5 b | GEOADD g 15 37 b
GEORADIUS | GEORADIUS g 15 37 500 km STORE d | GEOADD g 15 37 a 14 38 b
GEORADIUS | GEORADIUS g 15 37 500 km ASC STOREDIST d | GEOADD g 15 37 a 14 38 b
GEORADIUSBYMEMBER | GEORADIUSBYMEMBER g a 500 km STORE d | GEOADD g 15 37 a 14 38 b
GEOSEARCHSTORE | GEOSEARCHSTORE d g FROMMEMBER a BYRADIUS 500 km | GEOADD g 15 37 a 14 38 b
ZADD | ZADD z 1 a 2 b | ZADD z 5 b
ZADD | ZADD z NX 1 a | ZADD z 5 b
ZADD | ZADD z XX GT CH 9 b | ZADD z 5 b
ZADD | ZADD z GT CH 1 a 2 b | ZADD z 5 b
ZADD | ZADD z XX INCR 2.5 b | ZADD z 5 b
ZDIFFSTORE | ZDIFFSTORE d 2 z y | ZADD z 1 a 2 b ; ZADD y 1 a
ZINCRBY | ZINCRBY z 1.5 a | ZADD z 1 a
ZINTERSTORE | ZINTERSTORE d 2 z y WEIGHTS 2 3 AGGREGATE MAX | ZADD z 1 a 2 b ; SADD y a
ZMPOP | ZMPOP 1 z MAX | ZADD z 1 a 2 b
ZMPOP | ZMPOP 2 y z MIN COUNT 9 | ZADD z 1 a 2 b
ZPOPMAX | ZPOPMAX z | ZADD z 1 a 2 b
ZPOPMIN | ZPOPMIN z 2 | ZADD z 1 a 2 b
ZRANGESTORE | ZRANGESTORE d z 0 0 | ZADD z 1 a 2 b
ZREM | ZREM z a b | ZADD z 1 a 2 c
ZREMRANGEBYLEX | ZREMRANGEBYLEX z [a [b | ZADD z 0 a 0 b 0 c
ZREMRANGEBYRANK | ZREMRANGEBYRANK z 0 0 | ZADD z 0 a 0 b 0 c
ZREMRANGEBYSCORE | ZREMRANGEBYSCORE z 1 2 | ZADD z 0 a 1 b 2 c
ZUNIONSTORE | ZUNIONSTORE d 2 z y | ZADD z 1 a 2 b ; ZADD y 1 a
XACK | XACK x g 1-1 | XADD x 1-1 f v ; XGROUP CREATE x g 0 ; XREADGROUP GROUP g c STREAMS x >
XACKDEL | XACKDEL x g DELREF IDS 1 1-1 | XADD x 1-1 f v ; XGROUP CREATE x g 0 ; XREADGROUP GROUP g c STREAMS x >
XADD | XADD x 2-1 f v | XADD x 1-1 f v
XADD | XADD x NOMKSTREAM MAXLEN = 1 2-1 f v g w | XADD x 1-1 f v
XADD | XADD x MAXLEN ~ 1 2-1 f v | XADD x 1-1 f v
XAUTOCLAIM | XAUTOCLAIM x g d 0 0 JUSTID | XADD x 1-1 f v ; XGROUP CREATE x g 0 ; XREADGROUP GROUP g c STREAMS x >
XCLAIM | XCLAIM x g d 0 1-1 TIME 1700000000000 | XADD x 1-1 f v ; XGROUP CREATE x g 0 ; XREADGROUP GROUP g c STREAMS x >
XCFGSET | XCFGSET x IDMP-DURATION 7 IDMP-MAXSIZE 5 | XADD x 1-1 f v
XDEL | XDEL x 1-1 | XADD x 1-1 f v ; XADD x 2-1 f v
XDELEX | XDELEX x KEEPREF IDS 1 1-1 | XADD x 1-1 f v ; XADD x 2-1 f v
XGROUP CREATE | XGROUP CREATE x g $ MKSTREAM |
XGROUP CREATE | XGROUP CREATE x g 0 | XADD x 1-1 f v
XGROUP CREATECONSUMER | XGROUP CREATECONSUMER x g c | XADD x 1-1 f v ; XGROUP CREATE x g 0
XGROUP DELCONSUMER | XGROUP DELCONSUMER x g c | XADD x 1-1 f v ; XGROUP CREATE x g 0 ; XGROUP CREATECONSUMER x g c
XGROUP DESTROY | XGROUP DESTROY x g | XADD x 1-1 f v ; XGROUP CREATE x g 0
XGROUP SETID | XGROUP SETID x g 1-1 | XADD x 1-1 f v ; XGROUP CREATE x g 0
XIDMPRECORD | XIDMPRECORD x p 1 1-1 | XADD x 1-1 f v
XREADGROUP | XREADGROUP GROUP g c COUNT 1 STREAMS x > | XADD x 1-1 f v ; XADD x 2-1 f v ; XGROUP CREATE x g 0
XREADGROUP | XREADGROUP GROUP g c NOACK STREAMS x > | XADD x 1-1 f v ; XGROUP CREATE x g 0
XNACK | XNACK x g FAIL IDS 1 1-1 | XADD x 1-1 f v ; XGROUP CREATE x g 0 ; XREADGROUP GROUP g c STREAMS x >
XSETID | XSETID x 5-1 | XADD x 1-1 f v
XTRIM | XTRIM x MINID = 2-1 | XADD x 1-1 f v ; XADD x 2-1 f v
XTRIM | XTRIM x MAXLEN 1 | XADD x 1-1 f v ; XADD x 2-1 f v
VADD | VADD v VALUES 2 1 0 a |
VADD | VADD v VALUES 2 0 1 b SETATTR {"n":1} | VADD v VALUES 2 1 0 a
VREM | VREM v b | VADD v VALUES 2 1 0 a ; VADD v VALUES 2 0 1 b
VREM | VREM v a | VADD v VALUES 2 1 0 a
VSETATTR | VSETATTR v a {"n":1} | VADD v VALUES 2 1 0 a
ARSET | ARSET a 3 v w | ARSET a 0 x
ARMSET | ARMSET a 3 v 9 w | ARSET a 3 x ; PEXPIREAT a $moment
ARINSERT | ARINSERT a v w | ARSET a 0 x
ARRING | ARRING a 2 v w y | ARRING a 3 x
ARSEEK | ARSEEK a 7 | ARINSERT a x
ARDEL | ARDEL a 1 0 | ARSET a 0 x y z
ARDEL | ARDEL a 0 | ARSET a 0 x
ARDELRANGE | ARDELRANGE a 0 1 | ARSET a 0 x y z
COPY | COPY s d | SET s v PXAT $moment
COPY | COPY s d DB 3 REPLACE | SADD s a
DEL | DEL a b nothing | SET a 1 ; SET b 2
EXPIRE | EXPIRE s 100000 | SET s v
EXPIRE | EXPIRE s -1 | SET s v
EXPIREAT | EXPIREAT s $moment_s NX | SET s v
MOVE | MOVE s 3 | SET s v PXAT $moment
PERSIST | PERSIST s | SET s v PXAT $moment
PEXPIRE | PEXPIRE s 100000000 LT | SET s v
PEXPIREAT | PEXPIREAT s $moment GT | SET s v PXAT 4000000000000
RENAME | RENAME s d | SET s v PXAT $moment ; SET d old
RENAMENX | RENAMENX s d | RPUSH s v
RESTORE | RESTORE s 0 $dump |
RESTORE | RESTORE s $moment $dump ABSTTL REPLACE | SADD s a
RESTORE-ASKING | RESTORE-ASKING s 0 $dump |
SORT | SORT l DESC STORE d | RPUSH l 2 3 1
SORT | SORT l BY w_* GET # GET o_*->f LIMIT 0 2 STORE d | RPUSH l 2 1 3 ; MSET w_1 9 w_2 8 w_3 7 ; HSET o_1 f x
UNLINK | UNLINK a b | SET a 1 ; RPUSH b 2
FLUSHALL | FLUSHALL | SET a 1
FLUSHDB | FLUSHDB ASYNC | SET a 1
SWAPDB | SWAPDB 0 3 | SET a 1
FUNCTION LOAD | FUNCTION LOAD REPLACE $library |
FUNCTION LOAD | FUNCTION LOAD $library |
FUNCTION DELETE | FUNCTION DELETE samples | FUNCTION LOAD $library
FUNCTION FLUSH | FUNCTION FLUSH | FUNCTION LOAD $library
FUNCTION RESTORE | FUNCTION RESTORE $functions FLUSH |
FUNCTION RESTORE | FUNCTION RESTORE $functions |
FUNCTION RESTORE | FUNCTION RESTORE $functions REPLACE | FUNCTION LOAD $library
EVAL | EVAL $script 1 s v |
PUBLISH | PUBLISH news hello |
SPUBLISH | SPUBLISH news hello |
"""

_UNCALLABLE = {
    "MIGRATE": "it needs another server",
    "TRIMSLOTS": "it needs a cluster",
    "CLUSTER FLUSHSLOT": "it needs a cluster",
}


def _read() -> tuple[Sample, ...]:
    samples = []
    for line in _SAMPLES.strip().splitlines():
        name, call, setup, *needs = (part.strip() for part in line.split(" |"))
        before = tuple(_words(command) for command in setup.split(";") if command.strip())
        samples.append(Sample(name, _words(call), before, needs=" ".join(needs)))
    samples += [Sample(name, (), reason=reason) for name, reason in _UNCALLABLE.items()]
    return tuple(samples)


SAMPLES: tuple[Sample, ...] = _read()
"""All samples, in the order of the command table."""


def unknown_to(known: Container[bytes], *samples: Sample) -> list[str]:
    """The commands of these samples that a server does not know.

    `known` is its reply to COMMAND LIST, in small letters (the names of its modules' commands come in capitals).
    """
    calls = [call for sample in samples for call in (*sample.setup, sample.call, _words(sample.needs)) if call]
    return sorted({call[0].decode().upper() for call in calls if call[0].lower() not in known})
