"""Commands on sets. Source: `t_set.c`, Redis 7.0."""

import random

from bisync.testing.dataset import SetValue
from bisync.testing.simulated.call import Call, Table
from bisync.testing.simulated.reply import EMPTY_ARRAY, NIL, bulk, bulks, integer, syntax_error

COMMANDS = Table()


@COMMANDS.write(b"SADD", -3)
def _sadd(call: Call) -> bytes:
    members = call.typed(call.args[1], SetValue) or SetValue()
    before = len(members)
    members.update(dict.fromkeys(call.args[2:]))
    if len(members) > before:
        call.update(call.args[1], members)
    return integer(len(members) - before)


@COMMANDS.write(b"SREM", -3)
def _srem(call: Call) -> bytes:
    members = call.typed(call.args[1], SetValue) or SetValue()
    before = len(members)
    for member in call.args[2:]:
        members.pop(member, None)
    if len(members) < before:
        call.update(call.args[1], members)
    return integer(before - len(members))


@COMMANDS.read(b"SCARD", 2)
def _scard(call: Call) -> bytes:
    return integer(len(call.typed(call.args[1], SetValue) or ()))


@COMMANDS.read(b"SISMEMBER", 3)
def _sismember(call: Call) -> bytes:
    return integer(call.args[2] in (call.typed(call.args[1], SetValue) or ()))


@COMMANDS.read(b"SMEMBERS", 2)
def _smembers(call: Call) -> bytes:
    return bulks(list(call.typed(call.args[1], SetValue) or ()))


@COMMANDS.write(b"SPOP", -2)
def _spop(call: Call) -> bytes:
    """Which members go depends on the set alone, so that a run can be repeated; a server draws lots."""
    if len(call.args) > 3:
        raise syntax_error()
    key, count = call.args[1], call.count(2) if len(call.args) == 3 else None
    members = call.typed(key, SetValue)
    if members is None or count == 0:
        return NIL if count is None else EMPTY_ARRAY
    if count is not None and count >= len(members):
        call.delete(key)
        call.rewrite(b"DEL", key)
        return bulks(list(members))
    drawn = random.Random(b"\0".join(members)).sample(list(members), count or 1)
    for member in drawn:
        del members[member]
        call.data.effects.append((call.database.number, (b"SREM", key, member)))
    call.update(key, members)
    call.dirty = False  # its effects stand for it
    return bulk(drawn[0]) if count is None else bulks(drawn)


@COMMANDS.write(b"SMOVE", 4)
def _smove(call: Call) -> bytes:
    source, target, member = call.args[1:]
    held = call.get(source)
    call.get(target)
    if held is None:
        return integer(0)
    members, others = call.typed(source, SetValue), call.typed(target, SetValue)
    assert members is not None
    if member not in members or members is others:
        return integer(member in members)
    del members[member]
    call.update(source, members)
    others = SetValue() if others is None else others
    others[member] = None
    call.update(target, others)
    return integer(1)


def _store(call: Call, members: SetValue) -> bytes:
    if members:
        call.put(call.args[1], members)
    else:
        call.delete(call.args[1])
    return integer(len(members))


def _operands(call: Call) -> list[SetValue]:
    return [call.typed(key, SetValue) or SetValue() for key in call.args[2:]]


@COMMANDS.write(b"SUNIONSTORE", -3)
def _sunionstore(call: Call) -> bytes:
    return _store(call, SetValue.of(m for operand in _operands(call) for m in operand))


@COMMANDS.write(b"SINTERSTORE", -3)
def _sinterstore(call: Call) -> bytes:
    first, *others = _operands(call)
    return _store(call, SetValue.of(m for m in first if all(m in o for o in others)))


@COMMANDS.write(b"SDIFFSTORE", -3)
def _sdiffstore(call: Call) -> bytes:
    first, *others = _operands(call)
    return _store(call, SetValue.of(m for m in first if not any(m in o for o in others)))
