"""Commands on keys of any type, on databases, and the few that are about neither.

Source: `db.c`, `expire.c`, `cluster.c` (DUMP, RESTORE), Redis 7.0.
"""

from bisync.testing.dataset import TYPE_NAMES, Database
from bisync.testing.simulated.call import Call, Table
from bisync.testing.simulated.number import INT_MAX, INT_MIN
from bisync.testing.simulated.payload import dump, load
from bisync.testing.simulated.reply import (
    NIL,
    OK,
    PONG,
    CommandError,
    bulk,
    integer,
    no_such_key,
    syntax_error,
    wrong_arity,
)

COMMANDS = Table()

_KEY_BYTES = 48  # what a key takes besides its name and its value, about


# -- connection and server
@COMMANDS.read(b"PING", -1)
def _ping(call: Call) -> bytes:
    if len(call.args) > 2:
        raise wrong_arity(call.args[0])
    return bulk(call.args[1]) if len(call.args) == 2 else PONG


@COMMANDS.read(b"SELECT", 2)
def _select(call: Call) -> bytes:
    call.database = call.another_database(call.integer(1))
    return OK


@COMMANDS.read(b"PUBLISH", 3)
def _publish(call: Call) -> bytes:
    call.dirty = True  # it goes to the replicas' subscribers, though it changes nothing
    return integer(0)


# -- databases
def _flush(call: Call, databases: list[Database]) -> bytes:
    if len(call.args) > 2 or (len(call.args) == 2 and call.args[1].upper() not in (b"SYNC", b"ASYNC")):
        raise syntax_error()
    call.data.flush(databases)
    call.dirty = True
    return OK


@COMMANDS.write(b"FLUSHDB", -1)
def _flushdb(call: Call) -> bytes:
    return _flush(call, [call.database])


@COMMANDS.write(b"FLUSHALL", -1)
def _flushall(call: Call) -> bytes:
    return _flush(call, call.data.databases)


@COMMANDS.write(b"SWAPDB", 3)
def _swapdb(call: Call) -> bytes:
    one = call.integer(1, CommandError(b"ERR invalid first DB index"))
    other = call.integer(2, CommandError(b"ERR invalid second DB index"))
    call.data.swap(call.another_database(one), call.another_database(other))
    call.dirty = True
    return OK


@COMMANDS.read(b"DBSIZE", 1)
def _dbsize(call: Call) -> bytes:
    return integer(len(call.database.values))


# -- keys
@COMMANDS.read(b"EXISTS", -2)
def _exists(call: Call) -> bytes:
    return integer(sum(call.get(key) is not None for key in call.args[1:]))


@COMMANDS.read(b"TYPE", 2)
def _type(call: Call) -> bytes:
    value = call.get(call.args[1])
    return b"+%s\r\n" % ("none" if value is None else TYPE_NAMES[type(value)]).encode()


@COMMANDS.read(b"MEMORY", -2)
def _memory(call: Call) -> bytes:
    """Only USAGE is simulated. How much a value takes is a guess: that depends on a server's build."""
    if call.args[1].upper() != b"USAGE":
        raise CommandError(b"ERR unknown subcommand '%s'. Try MEMORY HELP." % call.args[1])
    if len(call.args) < 3:
        raise wrong_arity(b"memory|usage")
    for at in range(3, len(call.args), 2):
        if call.args[at].upper() != b"SAMPLES" or at + 1 == len(call.args) or call.integer(at + 1) < 0:
            raise syntax_error()
    value = call.database.values.get(call.args[2])  # nobody asks whether it has expired
    return NIL if value is None else integer(_KEY_BYTES + len(call.args[2]) + len(dump(value)))


@COMMANDS.write(b"DEL", -2)
@COMMANDS.write(b"UNLINK", -2)
def _del(call: Call) -> bytes:
    return integer(sum(call.get(key) is not None and call.delete(key) for key in call.args[1:]))


def _rename(call: Call, *, overwrite: bool) -> bool:
    source, target = call.args[1:]
    value = call.get(source)
    if value is None:
        raise no_such_key()
    if source == target or (call.get(target) is not None and not overwrite):
        return False
    expires_at_ms = call.database.expires.get(source)
    call.database.remove(target)
    call.database.remove(source)
    call.database.values[target] = value
    if expires_at_ms is not None:
        call.database.expires[target] = expires_at_ms
    call.changed(source)
    call.changed(target)
    return True


@COMMANDS.write(b"RENAME", 3)
def _rename_always(call: Call) -> bytes:
    _rename(call, overwrite=True)
    return OK


@COMMANDS.write(b"RENAMENX", 3)
def _renamenx(call: Call) -> bytes:
    return integer(_rename(call, overwrite=False))


@COMMANDS.write(b"COPY", -3)
def _copy(call: Call) -> bytes:
    source, target = call.args[1:3]
    database, replace = _copy_options(call)
    if database is call.database and source == target:
        raise CommandError(b"ERR source and destination objects are the same")
    value = call.get(source)
    if value is None or (call.data.get(database, target) is not None and not replace):
        return integer(0)
    database.remove(target)
    database.values[target] = call.data.copy_of(value)
    expires_at_ms = call.database.expires.get(source)
    if expires_at_ms is not None:
        database.expires[target] = expires_at_ms
    call.changed(target, database)
    return integer(1)


def _copy_options(call: Call) -> tuple[Database, bool]:
    database, replace, at = call.database, False, 3
    while at < len(call.args):
        name = call.args[at].upper()
        if name == b"REPLACE":
            replace = True
        elif name == b"DB" and at + 1 < len(call.args):
            database = call.another_database(call.integer(at + 1))
            at += 1
        else:
            raise syntax_error()
        at += 1
    return database, replace


# -- expiry
@COMMANDS.write(b"PERSIST", 2)
def _persist(call: Call) -> bytes:
    if call.get(call.args[1]) is None or call.database.expires.pop(call.args[1], None) is None:
        return integer(0)
    call.changed(call.args[1])
    return integer(1)


def _expire(call: Call, unit_ms: int, *, relative: bool) -> bytes:
    key, flags = call.args[1], _expire_flags(call)
    when = call.integer(2) * unit_ms
    if not INT_MIN <= when <= INT_MAX - call.data.now_ms * relative:
        raise CommandError(b"ERR invalid expire time in '%s' command" % call.args[0].lower())
    when += call.data.now_ms * relative
    if call.get(key) is None:
        return integer(0)
    now = call.database.expires.get(key)
    if (
        (b"NX" in flags and now is not None)
        or (b"XX" in flags and now is None)
        or (b"GT" in flags and (now is None or when <= now))
        or (b"LT" in flags and now is not None and when >= now)
    ):
        return integer(0)
    if when <= call.data.now_ms:
        call.delete(key)
        call.rewrite(b"DEL", key)
    else:
        call.database.expires[key] = when
        call.changed(key)
        if relative or unit_ms != 1:
            call.rewrite(b"PEXPIREAT", key, when, *call.args[3:])
    return integer(1)


def _expire_flags(call: Call) -> set[bytes]:
    flags = set()
    for flag in call.args[3:]:
        if flag.upper() not in (b"NX", b"XX", b"GT", b"LT"):
            raise CommandError(b"ERR Unsupported option %s" % flag)
        flags.add(flag.upper())
    if b"NX" in flags and len(flags) > 1:
        raise CommandError(b"ERR NX and XX, GT or LT options at the same time are not compatible")
    if flags >= {b"GT", b"LT"}:
        raise CommandError(b"ERR GT and LT options at the same time are not compatible")
    return flags


@COMMANDS.write(b"EXPIRE", -3)
def _expire_in_seconds(call: Call) -> bytes:
    return _expire(call, 1000, relative=True)


@COMMANDS.write(b"PEXPIRE", -3)
def _pexpire(call: Call) -> bytes:
    return _expire(call, 1, relative=True)


@COMMANDS.write(b"EXPIREAT", -3)
def _expireat(call: Call) -> bytes:
    return _expire(call, 1000, relative=False)


@COMMANDS.write(b"PEXPIREAT", -3)
def _pexpireat(call: Call) -> bytes:
    return _expire(call, 1, relative=False)


def _expires_at_ms(call: Call) -> int:
    """Of the key, or what stands for "no key" and "no expiry"."""
    return -2 if call.get(call.args[1]) is None else call.database.expires.get(call.args[1], -1)


@COMMANDS.read(b"PEXPIRETIME", 2)
def _pexpiretime(call: Call) -> bytes:
    return integer(_expires_at_ms(call))


@COMMANDS.read(b"PTTL", 2)
def _pttl(call: Call) -> bytes:
    when = _expires_at_ms(call)
    return integer(when if when < 0 else max(0, when - call.data.now_ms))


# -- DUMP and RESTORE
@COMMANDS.read(b"DUMP", 2)
def _dump(call: Call) -> bytes:
    value = call.get(call.args[1])
    return bulk(None if value is None else dump(value))


@COMMANDS.write(b"RESTORE", -4)
def _restore(call: Call) -> bytes:
    key, options = call.args[1], [a.upper() for a in call.args[4:]]
    if not set(options) <= {b"REPLACE", b"ABSTTL"}:
        raise syntax_error()  # IDLETIME and FREQ are not simulated
    if b"REPLACE" not in options and call.get(key) is not None:
        raise CommandError(b"BUSYKEY Target key name already exists.")
    when = call.integer(2)
    if when < 0:
        raise CommandError(b"ERR Invalid TTL value, must be >= 0")
    value = load(call.args[3])
    deleted = call.database.remove(key)
    if when and b"ABSTTL" not in options:
        when += call.data.now_ms
        call.rewrite(*call.args[:2], when, *call.args[3:], b"ABSTTL")
    if when and when <= call.data.now_ms:
        if deleted:
            call.changed(key)
            call.rewrite(b"DEL", key)
        return OK
    call.database.values[key] = value
    if when:
        call.database.expires[key] = when
    call.changed(key)
    return OK
