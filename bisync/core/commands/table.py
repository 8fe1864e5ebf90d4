"""Every command that can stand in a replication stream: the one place that knows them.

A command without a row is not known, and it must not be copied: nobody could say which keys it writes.
Sources: the `COMMAND` replies and the replication streams of Redis 7.0 to 8.10 and Valkey 8.1 to 9.1. Tests compare
both with the table, on whichever server they find. The commands of modules are not in it.
"""

from collections.abc import Iterator

import attrs

from bisync.core.commands.footprint import EFFECTS, Maker
from bisync.core.commands.keys import Finder, finder
from bisync.core.commands.normal import NORMALISERS, Normaliser

# keys: see `keys`. effect: see EFFECTS in `footprint`. becomes: see NORMALISERS in `normal`.
# handling: copied as it is; changed into an unconditional form first; refused; control: belongs to the stream itself.
# note: why it is refused; or what a server sends in its place, where it never sends this.
_TABLE = """
command              | family  | keys      | effect           | becomes       | handling | note

APPEND               | string  | 1         | updates          |               | copied   |
BITFIELD             | string  | 1         | updates          |               | copied   |
BITOP                | string  | 2..       | stores           |               | copied   |
DECR                 | string  | 1         | counts           |               | copied   |
DECRBY               | string  | 1         | counts           |               | copied   |
DELEX                | string  | 1         | removes          | DEL           | changed  |
DELIFEQ              | string  | 1         | removes          | DEL           | changed  |
GETDEL               | string  | 1         | removes          | DEL           | changed  |
GETEX                | string  | 1         | expires          | GETEX         | changed  |
GETSET               | string  | 1         | replaces         | SET           | changed  |
INCR                 | string  | 1         | counts           |               | copied   |
INCRBY               | string  | 1         | counts           |               | copied   |
INCRBYFLOAT          | string  | 1         | updates          |               | copied   | sent as SET KEEPTTL
INCREX               | string  | 1         | changes          |               | copied   | sent as SET
MSET                 | string  | 1../2     | replaces         |               | copied   |
MSETEX               | string  | #1/2      | sets             | plain MSETEX  | changed  |
MSETNX               | string  | 1../2     | replaces         | MSET          | changed  |
PSETEX               | string  | 1         | replaces         |               | copied   |
SET                  | string  | 1         | sets             | plain SET     | changed  |
SETBIT               | string  | 1         | sets bit         |               | copied   |
SETEX                | string  | 1         | replaces         |               | copied   |
SETNX                | string  | 1         | replaces         | SET           | changed  |
SETRANGE             | string  | 1         | updates          |               | copied   |
PFADD                | string  | 1         | registers        |               | copied   |
PFCOUNT              | string  | 1..       | updates          |               | copied   |
PFDEBUG              | string  | 2         | updates          |               | copied   |
PFMERGE              | string  | 1..       | stores           |               | copied   |

HDEL                 | hash    | 1         | removes fields   |               | copied   |
HEXPIRE              | hash    | 1         | expires fields   | plain HPEXPIREAT | changed  |
HEXPIREAT            | hash    | 1         | expires fields   | plain HPEXPIREAT | changed  |
HGETDEL              | hash    | 1         | changes          | HDEL          | changed  |
HGETEX               | hash    | 1         | expires fields   | HPEXPIREAT    | changed  | sent as HPEXPIREAT or HPERSIST
HIMPORT              | hash    | 2         | changes          |               | refused  | the names of its fields were given to another connection; sent as RESTORE
HINCRBY              | hash    | 1         | counts field     |               | copied   |
HINCRBYFLOAT         | hash    | 1         | updates field    |               | copied   | sent as HSET or HSETEX KEEPTTL
HMSET                | hash    | 1         | sets fields      |               | copied   |
HPERSIST             | hash    | 1         | expires fields   |               | copied   |
HPEXPIRE             | hash    | 1         | expires fields   | plain HPEXPIREAT | changed  |
HPEXPIREAT           | hash    | 1         | expires fields   | plain HPEXPIREAT | changed  |
HSET                 | hash    | 1         | sets fields      |               | copied   |
HSETEX               | hash    | 1         | sets fields, expiring | plain HSETEX  | changed  |
HSETNX               | hash    | 1         | sets fields      | HSET          | changed  |

BLMOVE               | list    | 1 2       | moves item       | LMOVE         | changed  |
BLMOVEM              | list    | 1 2       | moves item       | LMOVEM        | changed  | sent as LMOVEM
BLMPOP               | list    | #2        | changes          | BLMPOP        | changed  |
BLPOP                | list    | 1..-1     | changes          | LPOP          | changed  |
BRPOP                | list    | 1..-1     | changes          | RPOP          | changed  |
BRPOPLPUSH           | list    | 1 2       | moves item       | RPOPLPUSH     | changed  |
LINSERT              | list    | 1         | updates          |               | copied   |
LMOVE                | list    | 1 2       | moves item       |               | copied   |
LMOVEM               | list    | 1 2       | moves item       |               | copied   |
LMPOP                | list    | #1        | changes          | LMPOP         | changed  |
LPOP                 | list    | 1         | changes          |               | copied   |
LPUSH                | list    | 1         | pushes           |               | copied   |
LPUSHX               | list    | 1         | pushes           | LPUSH         | changed  |
LREM                 | list    | 1         | changes          |               | copied   |
LSET                 | list    | 1         | updates          |               | copied   |
LTRIM                | list    | 1         | changes          |               | copied   |
RPOP                 | list    | 1         | changes          |               | copied   |
RPOPLPUSH            | list    | 1 2       | moves item       |               | copied   |
RPUSH                | list    | 1         | pushes           |               | copied   |
RPUSHX               | list    | 1         | pushes           | RPUSH         | changed  |

SADD                 | set     | 1         | adds members     |               | copied   |
SDIFFSTORE           | set     | 1..       | stores           |               | copied   |
SINTERSTORE          | set     | 1..       | stores           |               | copied   |
SMOVE                | set     | 1 2       | moves member     |               | copied   |
SPOP                 | set     | 1         | changes          |               | copied   | sent as SREM or DEL
SREM                 | set     | 1         | removes members  |               | copied   |
SUNIONSTORE          | set     | 1..       | stores           |               | copied   |

BZMPOP               | zset    | #2        | changes          | BZMPOP        | changed  |
BZPOPMAX             | zset    | 1..-1     | changes          | ZPOPMAX       | changed  |
BZPOPMIN             | zset    | 1..-1     | changes          | ZPOPMIN       | changed  |
GEOADD               | zset    | 1         | places           | plain GEOADD  | changed  | sent as ZADD
GEORADIUS            | zset    | GEORADIUS | stores last      |               | copied   |
GEORADIUSBYMEMBER    | zset    | GEORADIUS | stores last      |               | copied   |
GEOSEARCHSTORE       | zset    | 1 2       | stores           |               | copied   |
ZADD                 | zset    | 1         | scores           | plain ZADD    | changed  |
ZDIFFSTORE           | zset    | 1 #2      | stores           |               | copied   |
ZINCRBY              | zset    | 1         | scores up        |               | copied   |
ZINTERSTORE          | zset    | 1 #2      | stores           |               | copied   |
ZMPOP                | zset    | #1        | changes          | ZMPOP         | changed  |
ZPOPMAX              | zset    | 1         | changes          |               | copied   |
ZPOPMIN              | zset    | 1         | changes          |               | copied   |
ZRANGESTORE          | zset    | 1 2       | stores           |               | copied   |
ZREM                 | zset    | 1         | removes scored   |               | copied   |
ZREMRANGEBYLEX       | zset    | 1         | changes          |               | copied   |
ZREMRANGEBYRANK      | zset    | 1         | changes          |               | copied   |
ZREMRANGEBYSCORE     | zset    | 1         | changes          |               | copied   |
ZUNIONSTORE          | zset    | 1 #2      | stores           |               | copied   |

XACK                 | stream  | 1         | updates          |               | copied   |
XACKDEL              | stream  | 1         | updates          |               | copied   |
XADD                 | stream  | 1         | adds entry       | plain XADD    | changed  |
XAUTOCLAIM           | stream  | 1         | updates          |               | copied   | sent as XCLAIM
XCFGSET              | stream  | 1         | updates          |               | copied   |
XCLAIM               | stream  | 1         | updates          |               | copied   |
XDEL                 | stream  | 1         | updates          |               | copied   |
XDELEX               | stream  | 1         | updates          |               | copied   |
XGROUP               | stream  | 2         | updates          |               | copied   |
XIDMPRECORD          | stream  | 1         | updates          |               | copied   |
XNACK                | stream  | 1         | updates          |               | copied   |
XREADGROUP           | stream  | XREADGROUP| updates          |               | copied   | sent as XCLAIM and XGROUP
XSETID               | stream  | 1         | updates          |               | copied   |
XTRIM                | stream  | 1         | updates          |               | copied   |

ARDEL                | array   | 1         | changes          |               | copied   |
ARDELRANGE           | array   | 1         | changes          |               | copied   |
ARINSERT             | array   | 1         | updates          |               | copied   |
ARMSET               | array   | 1         | updates          |               | copied   |
ARRING               | array   | 1         | updates          |               | copied   |
ARSEEK               | array   | 1         | updates          |               | copied   |
ARSET                | array   | 1         | updates          |               | copied   |

VADD                 | vector  | 1         | updates          |               | copied   |
VREM                 | vector  | 1         | changes          |               | copied   |
VSETATTR             | vector  | 1         | updates          |               | copied   |

COPY                 | keys    | 1 2       | copies           | COPY          | changed  |
DEL                  | keys    | 1..       | removes          |               | copied   |
EXPIRE               | keys    | 1         | expires          | no flags      | changed  |
EXPIREAT             | keys    | 1         | expires          | no flags      | changed  |
MIGRATE              | keys    | MIGRATE   | changes          |               | refused  | it would send keys of the target to a third server; sent as DEL
MOVE                 | keys    | 1         | moves key        |               | copied   |
PERSIST              | keys    | 1         | expires          |               | copied   |
PEXPIRE              | keys    | 1         | expires          | no flags      | changed  |
PEXPIREAT            | keys    | 1         | expires          | no flags      | changed  |
RENAME               | keys    | 1 2       | renames          |               | copied   |
RENAMENX             | keys    | 1 2       | renames          | RENAME        | changed  |
RESTORE              | keys    | 1         | replaces         | RESTORE       | changed  |
RESTORE-ASKING       | keys    | 1         | replaces         | RESTORE       | changed  |
SORT                 | keys    | SORT      | stores last      |               | copied   |
UNLINK               | keys    | 1..       | removes          |               | copied   |

FLUSHALL             | server  | -         | empties all      |               | copied   |
FLUSHDB              | server  | -         | empties database |               | copied   |
SWAPDB               | server  | -         | swaps            |               | copied   |
FUNCTION             | server  | -         | functions        | with REPLACE  | changed  |
SCRIPT               | server  | -         | nothing          |               | copied   | sent by servers before 7.0 only
EVAL                 | server  | #2        | runs             |               | copied   | sent by servers before 7.0 only
EVALSHA              | server  | #2        | runs             |               | copied   | sent by servers before 7.0 only
PUBLISH              | server  | -         | nothing          |               | copied   |
SPUBLISH             | server  | -         | nothing          |               | copied   |

CLUSTER              | server  | -         | nothing          |               | refused  | it changes the slots of the source's cluster, which are not the target's
DEBUG                | server  | -         | nothing          |               | refused  | it can stop or empty a server, and bypasses what bisync can compare
TRIMSLOTS            | server  | -         | nothing          |               | refused  | it deletes the keys of slots that left the source's cluster, not the data

EXEC                 | control | -         | nothing          |               | control  | ends a transaction
MULTI                | control | -         | nothing          |               | control  | begins a transaction
PING                 | control | -         | nothing          |               | control  | says that the connection is alive
REPLCONF             | control | -         | nothing          |               | control  | asks for an acknowledgement
SELECT               | control | -         | nothing          |               | control  | names the database of what follows
"""  # noqa: E501


@attrs.frozen(eq=False)
class Row:
    """What is known of one command."""

    name: bytes  # in capitals
    family: str  # the type of value, or what else it is about
    keys: str  # where its keys are, in the notation of `keys`
    effect: str  # a name in EFFECTS
    becomes: str  # a name in NORMALISERS; empty: it has no condition
    handling: str  # copied, changed, refused, control
    reason: str  # why it is refused, or a note
    change: str  # which rule of `commuting` knows it
    key_positions: Finder = attrs.field(repr=False)
    normalise: Normaliser = attrs.field(repr=False)
    footprint: Maker = attrs.field(repr=False)


def _read_table() -> Iterator[Row]:
    for line in _TABLE.strip().splitlines()[1:]:
        if not line:
            continue
        name, family, keys, effect, becomes, handling, reason = (cell.strip() for cell in line.split("|"))
        find, what = finder(keys), EFFECTS[effect]
        yield Row(
            *(
                name.encode(),
                family,
                keys,
                effect,
                becomes,
                handling,
                reason,
                what.change,
            ),
            *(find, NORMALISERS[becomes][0], what.make(find)),
        )


ROWS: tuple[Row, ...] = tuple(_read_table())
"""The table, family by family."""

_BY_NAME = {name: row for row in ROWS for name in (row.name, row.name.lower())}


def row(name: bytes) -> Row | None:
    """The row of a command, its name in any case; None where bisync does not know it."""
    return _BY_NAME.get(name) or _BY_NAME.get(name.upper())


def known_row(name: bytes) -> Row:
    """As `row`. Raises KeyError where bisync does not know the command."""
    found = row(name)
    if found is None:
        raise KeyError(f"no row for the command {name[:40]!r}")
    return found
