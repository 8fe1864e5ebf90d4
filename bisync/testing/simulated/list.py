"""Commands on lists. Source: `t_list.c`, Redis 7.0."""

from bisync.testing.simulated.call import Call, Table
from bisync.testing.simulated.reply import (
    EMPTY_ARRAY,
    NIL,
    NIL_ARRAY,
    OK,
    CommandError,
    bulk,
    bulks,
    integer,
    no_such_key,
    syntax_error,
    wrong_arity,
)

COMMANDS = Table()

_ENDS = {b"LEFT": 0, b"RIGHT": -1}


def _insert(items: list[bytes], end: int, item: bytes) -> None:
    """Put an item at an end: 0 is the left one, -1 the right one."""
    items.insert(len(items) if end else 0, item)


def _push(call: Call, end: int, *, create: bool) -> bytes:
    items = call.typed(call.args[1], list)
    if items is None:
        if not create:
            return integer(0)
        items = []
    for item in call.args[2:]:
        _insert(items, end, item)
    call.update(call.args[1], items)
    return integer(len(items))


@COMMANDS.write(b"LPUSH", -3)
def _lpush(call: Call) -> bytes:
    return _push(call, 0, create=True)


@COMMANDS.write(b"RPUSH", -3)
def _rpush(call: Call) -> bytes:
    return _push(call, -1, create=True)


@COMMANDS.write(b"LPUSHX", -3)
def _lpushx(call: Call) -> bytes:
    return _push(call, 0, create=False)


@COMMANDS.write(b"RPUSHX", -3)
def _rpushx(call: Call) -> bytes:
    return _push(call, -1, create=False)


def _pop(call: Call, end: int) -> bytes:
    if len(call.args) > 3:
        raise wrong_arity(call.args[0])
    count = call.count(2) if len(call.args) == 3 else None
    items = call.typed(call.args[1], list)
    if items is None:
        return NIL if count is None else NIL_ARRAY
    if count == 0:
        return EMPTY_ARRAY
    popped = [items.pop(end) for _ in range(min(len(items), 1 if count is None else count))]
    call.update(call.args[1], items)
    return bulk(popped[0]) if count is None else bulks(popped)


@COMMANDS.write(b"LPOP", -2)
def _lpop(call: Call) -> bytes:
    return _pop(call, 0)


@COMMANDS.write(b"RPOP", -2)
def _rpop(call: Call) -> bytes:
    return _pop(call, -1)


@COMMANDS.read(b"LLEN", 2)
def _llen(call: Call) -> bytes:
    return integer(len(call.typed(call.args[1], list) or ()))


def _range(call: Call, length: int) -> slice:
    """The places that the third and fourth word name, negative ones counted from the end."""
    first, last = (n + length if n < 0 else n for n in (call.integer(2), call.integer(3)))
    return slice(max(0, first), max(0, last + 1))


@COMMANDS.read(b"LRANGE", 4)
def _lrange(call: Call) -> bytes:
    _range(call, 0)
    items = call.typed(call.args[1], list) or []
    return bulks(items[_range(call, len(items))])


@COMMANDS.write(b"LTRIM", 4)
def _ltrim(call: Call) -> bytes:
    _range(call, 0)
    items = call.typed(call.args[1], list)
    if items is not None:
        before = len(items)
        items[:] = items[_range(call, before)]
        call.update(call.args[1], items)
        call.dirty = len(items) != before  # those who watch are told in any case
    return OK


@COMMANDS.write(b"LSET", 4)
def _lset(call: Call) -> bytes:
    items = call.typed(call.args[1], list)
    if items is None:
        raise no_such_key()
    at = call.integer(2)
    if not -len(items) <= at < len(items):
        raise CommandError(b"ERR index out of range")
    items[at] = call.args[3]
    call.update(call.args[1], items)
    return OK


@COMMANDS.write(b"LREM", 4)
def _lrem(call: Call) -> bytes:
    count = call.integer(2)
    items = call.typed(call.args[1], list) or []
    places = [n for n, item in enumerate(items) if item == call.args[3]]
    if count:
        places = places[:count] if count > 0 else places[count:]
    for place in reversed(places):
        del items[place]
    if places:
        call.update(call.args[1], items)
    return integer(len(places))


@COMMANDS.write(b"LINSERT", 5)
def _linsert(call: Call) -> bytes:
    where, pivot = call.args[2].upper(), call.args[3]
    if where not in (b"BEFORE", b"AFTER"):
        raise syntax_error()
    items = call.typed(call.args[1], list)
    if items is None:
        return integer(0)
    if pivot not in items:
        return integer(-1)
    items.insert(items.index(pivot) + (where == b"AFTER"), call.args[4])
    call.update(call.args[1], items)
    return integer(len(items))


def _move(call: Call, off: int, on: int) -> bytes:
    source, target = call.args[1:3]
    items = call.typed(source, list)
    if items is None:
        return NIL
    others = call.typed(target, list)
    item = items.pop(off)
    others = [] if others is None else others
    _insert(others, on, item)
    call.update(target, others)
    call.update(source, items)
    return bulk(item)


@COMMANDS.write(b"LMOVE", 5)
def _lmove(call: Call) -> bytes:
    off, on = (_ENDS.get(word.upper()) for word in call.args[3:])
    if off is None or on is None:
        raise syntax_error()
    return _move(call, off, on)


@COMMANDS.write(b"RPOPLPUSH", 3)
def _rpoplpush(call: Call) -> bytes:
    return _move(call, -1, 0)
