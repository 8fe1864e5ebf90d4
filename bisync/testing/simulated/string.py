"""Commands on strings. Source: `t_string.c`, Redis 7.0."""

from fractions import Fraction

from bisync.testing.simulated.call import Call, Table
from bisync.testing.simulated.number import INT_MAX, INT_MIN, format_long, parse_int, parse_long, round_long
from bisync.testing.simulated.reply import (
    NIL,
    OK,
    CommandError,
    bulk,
    bulks,
    integer,
    not_a_float,
    not_an_integer,
    syntax_error,
    wrong_arity,
)

COMMANDS = Table()

_UNITS_MS = {b"EX": 1000, b"PX": 1, b"EXAT": 1000, b"PXAT": 1}
_RELATIVE = (b"EX", b"PX")
_STRING_BYTES_MAX = 512 << 20  # proto-max-bulk-len


def expiry_ms(call: Call, at: int, unit_ms: int, *, relative: bool) -> int:
    """The argument at this place as a Unix time in milliseconds. Raises CommandError where it cannot be one."""
    number = call.integer(at)
    if number <= 0 or number * unit_ms + call.data.now_ms * relative > INT_MAX:
        raise CommandError(b"ERR invalid expire time in '%s' command" % call.args[0].lower())
    return number * unit_ms + call.data.now_ms * relative


@COMMANDS.read(b"GET", 2)
def _get(call: Call) -> bytes:
    return bulk(call.typed(call.args[1], bytes))


@COMMANDS.read(b"MGET", -2)
def _mget(call: Call) -> bytes:
    values = [call.get(key) for key in call.args[1:]]
    return bulks([value if isinstance(value, bytes) else None for value in values])


@COMMANDS.read(b"STRLEN", 2)
def _strlen(call: Call) -> bytes:
    return integer(len(call.typed(call.args[1], bytes) or b""))


@COMMANDS.read(b"GETRANGE", 4)
def _getrange(call: Call) -> bytes:
    start, end = call.integer(2), call.integer(3)
    value = call.typed(call.args[1], bytes) or b""
    if start < 0 and end < 0 and start > end:
        return bulk(b"")
    first, last = (max(0, at + len(value) if at < 0 else at) for at in (start, end))
    return bulk(value[first : last + 1])


@COMMANDS.write(b"SET", -3)
def _set(call: Call) -> bytes:
    options, expiry = _set_options(call)
    key, value = call.args[1], call.args[2]
    expires_at_ms = None
    if expiry:
        name, at = expiry
        expires_at_ms = expiry_ms(call, at, _UNITS_MS[name], relative=name in _RELATIVE)
    old = call.typed(key, bytes) if b"GET" in options else None
    found = call.get(key) is not None
    refused = (b"NX" in options and found) or (b"XX" in options and not found)
    if not refused:
        call.put(key, value, keep_expiry=b"KEEPTTL" in options)
        if expires_at_ms is not None:
            call.database.expires[key] = expires_at_ms
            call.rewrite(b"SET", key, value, b"PXAT", expires_at_ms)
        elif b"GET" in options:
            call.rewrite(*call.args[:3], *(a for a in call.args[3:] if a.upper() != b"GET"))
    if b"GET" in options:
        return bulk(old)
    return NIL if refused else OK


def _set_options(call: Call) -> tuple[set[bytes], tuple[bytes, int] | None]:
    """The plain options of a SET, and the one for the expiry with the place of its argument."""
    options: set[bytes] = set()
    expiry: tuple[bytes, int] | None = None
    at = 3
    while at < len(call.args):
        name = call.args[at].upper()
        if name in _UNITS_MS and at + 1 < len(call.args) and (expiry is None or expiry[0] == name):
            expiry = name, at + 1
            at += 1
        elif name in (b"NX", b"XX", b"GET", b"KEEPTTL"):
            options.add(name)
        else:
            raise syntax_error()
        at += 1
    if options >= {b"NX", b"XX"} or (expiry and b"KEEPTTL" in options):
        raise syntax_error()
    return options, expiry


def _set_with_expiry(call: Call, unit_ms: int) -> bytes:
    key, value = call.args[1], call.args[3]
    expires_at_ms = expiry_ms(call, 2, unit_ms, relative=True)
    call.put(key, value)
    call.database.expires[key] = expires_at_ms
    call.rewrite(b"SET", key, value, b"PXAT", expires_at_ms)
    return OK


@COMMANDS.write(b"SETEX", 4)
def _setex(call: Call) -> bytes:
    return _set_with_expiry(call, 1000)


@COMMANDS.write(b"PSETEX", 4)
def _psetex(call: Call) -> bytes:
    return _set_with_expiry(call, 1)


@COMMANDS.write(b"SETNX", 3)
def _setnx(call: Call) -> bytes:
    if call.get(call.args[1]) is not None:
        return integer(0)
    call.put(call.args[1], call.args[2])
    return integer(1)


@COMMANDS.write(b"GETSET", 3)
def _getset(call: Call) -> bytes:
    old = call.typed(call.args[1], bytes)
    call.put(call.args[1], call.args[2])
    call.rewrite(b"SET", *call.args[1:])
    return bulk(old)


@COMMANDS.write(b"GETDEL", 2)
def _getdel(call: Call) -> bytes:
    old = call.typed(call.args[1], bytes)
    if call.delete(call.args[1]):
        call.rewrite(b"DEL", call.args[1])
    return bulk(old)


@COMMANDS.write(b"APPEND", 3)
def _append(call: Call) -> bytes:
    value = (call.typed(call.args[1], bytes) or b"") + call.args[2]
    call.update(call.args[1], value)
    return integer(len(value))


@COMMANDS.write(b"SETRANGE", 4)
def _setrange(call: Call) -> bytes:
    offset, piece = call.integer(2), call.args[3]
    if offset < 0:
        raise CommandError(b"ERR offset is out of range")
    old = call.typed(call.args[1], bytes) or b""
    if not piece:
        return integer(len(old))
    if offset + len(piece) > _STRING_BYTES_MAX:
        raise CommandError(b"ERR string exceeds maximum allowed size (proto-max-bulk-len)")
    value = old[:offset].ljust(offset, b"\0") + piece + old[offset + len(piece) :]
    call.update(call.args[1], value)
    return integer(len(value))


def _count_up(call: Call, by: int) -> bytes:
    value = call.typed(call.args[1], bytes)
    old = parse_int(b"0" if value is None else value)
    if old is None:
        raise not_an_integer()
    if not INT_MIN <= old + by <= INT_MAX:
        raise CommandError(b"ERR increment or decrement would overflow")
    call.update(call.args[1], b"%d" % (old + by))
    return integer(old + by)


@COMMANDS.write(b"INCR", 2)
def _incr(call: Call) -> bytes:
    return _count_up(call, 1)


@COMMANDS.write(b"DECR", 2)
def _decr(call: Call) -> bytes:
    return _count_up(call, -1)


@COMMANDS.write(b"INCRBY", 3)
def _incrby(call: Call) -> bytes:
    return _count_up(call, call.integer(2))


@COMMANDS.write(b"DECRBY", 3)
def _decrby(call: Call) -> bytes:
    by = call.integer(2)
    if by == INT_MIN:
        raise CommandError(b"ERR decrement would overflow")
    return _count_up(call, -by)


@COMMANDS.write(b"INCRBYFLOAT", 3)
def _incrbyfloat(call: Call) -> bytes:
    value = call.typed(call.args[1], bytes)
    old, by = parse_long(b"0" if value is None else value), parse_long(call.args[2])
    if old is None or by is None:
        raise not_a_float()
    if not isinstance(old, Fraction) or not isinstance(by, Fraction):
        raise CommandError(b"ERR increment would produce NaN or Infinity")
    text = format_long(round_long(old + by))
    call.update(call.args[1], text)
    call.rewrite(b"SET", call.args[1], text, b"KEEPTTL")
    return bulk(text)


def _pairs(call: Call) -> list[tuple[bytes, bytes]]:
    if len(call.args) % 2 == 0:
        raise wrong_arity(call.args[0])
    return list(zip(call.args[1::2], call.args[2::2], strict=True))


@COMMANDS.write(b"MSET", -3)
def _mset(call: Call) -> bytes:
    for key, value in _pairs(call):
        call.put(key, value)
    return OK


@COMMANDS.write(b"MSETNX", -3)
def _msetnx(call: Call) -> bytes:
    pairs = _pairs(call)
    if any(call.get(key) is not None for key, _ in pairs):
        return integer(0)
    for key, value in pairs:
        call.put(key, value)
    return integer(1)
