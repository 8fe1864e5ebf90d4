"""Commands on hashes. Source: `t_hash.c`, Redis 7.0."""

from fractions import Fraction

from bisync.testing.dataset import HashValue
from bisync.testing.simulated.call import Call, Table
from bisync.testing.simulated.number import INT_MAX, INT_MIN, format_long, parse_int, parse_long, round_long
from bisync.testing.simulated.reply import OK, CommandError, bulk, bulks, integer, not_a_float, wrong_arity

COMMANDS = Table()


def _fields(call: Call) -> HashValue:
    """Those of the key, or of a new hash."""
    return call.typed(call.args[1], HashValue) or HashValue()


def _set_fields(call: Call) -> int:
    """Returns how many fields are new."""
    if len(call.args) % 2:
        raise wrong_arity(call.args[0])
    fields = _fields(call)
    before = len(fields)
    fields.update(zip(call.args[2::2], call.args[3::2], strict=True))
    call.update(call.args[1], fields)
    return len(fields) - before


@COMMANDS.write(b"HSET", -4)
def _hset(call: Call) -> bytes:
    return integer(_set_fields(call))


@COMMANDS.write(b"HMSET", -4)
def _hmset(call: Call) -> bytes:
    _set_fields(call)
    return OK


@COMMANDS.write(b"HSETNX", 4)
def _hsetnx(call: Call) -> bytes:
    fields = _fields(call)
    if call.args[2] in fields:
        return integer(0)
    fields[call.args[2]] = call.args[3]
    call.update(call.args[1], fields)
    return integer(1)


@COMMANDS.write(b"HDEL", -3)
def _hdel(call: Call) -> bytes:
    fields = _fields(call)
    deleted = sum(fields.pop(field, None) is not None for field in call.args[2:])
    if deleted:
        call.update(call.args[1], fields)
    return integer(deleted)


@COMMANDS.write(b"HINCRBY", 4)
def _hincrby(call: Call) -> bytes:
    by, fields = call.integer(3), _fields(call)
    old = parse_int(fields.get(call.args[2], b"0"))
    if old is None:
        raise CommandError(b"ERR hash value is not an integer")
    if not INT_MIN <= old + by <= INT_MAX:
        raise CommandError(b"ERR increment or decrement would overflow")
    fields[call.args[2]] = b"%d" % (old + by)
    call.update(call.args[1], fields)
    return integer(old + by)


@COMMANDS.write(b"HINCRBYFLOAT", 4)
def _hincrbyfloat(call: Call) -> bytes:
    by = parse_long(call.args[3])
    if by is None:
        raise not_a_float()
    if not isinstance(by, Fraction):
        raise CommandError(b"ERR value is NaN or Infinity")
    fields = _fields(call)
    old = parse_long(fields.get(call.args[2], b"0"))
    if old is None:
        raise CommandError(b"ERR hash value is not a float")
    if not isinstance(old, Fraction):
        raise CommandError(b"ERR increment would produce NaN or Infinity")
    text = format_long(round_long(old + by))
    fields[call.args[2]] = text
    call.update(call.args[1], fields)
    call.rewrite(b"HSET", *call.args[1:3], text)
    return bulk(text)


@COMMANDS.read(b"HGET", 3)
def _hget(call: Call) -> bytes:
    return bulk(_fields(call).get(call.args[2]))


@COMMANDS.read(b"HLEN", 2)
def _hlen(call: Call) -> bytes:
    return integer(len(_fields(call)))


@COMMANDS.read(b"HGETALL", 2)
def _hgetall(call: Call) -> bytes:
    return bulks([word for field in _fields(call).items() for word in field])
