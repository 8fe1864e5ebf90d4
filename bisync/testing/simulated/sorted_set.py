"""Commands on sorted sets. Source: `t_zset.c`, Redis 7.0."""

import math

from bisync.testing.dataset import SortedSetValue
from bisync.testing.simulated.call import Call, Table
from bisync.testing.simulated.number import format_float
from bisync.testing.simulated.reply import EMPTY_ARRAY, NIL, CommandError, bulk, bulks, integer, syntax_error

COMMANDS = Table()

_FLAGS = frozenset((b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"))


@COMMANDS.write(b"ZADD", -4)
def _zadd(call: Call) -> bytes:
    flags, at = set(), 2
    while at < len(call.args) and call.args[at].upper() in _FLAGS:
        flags.add(call.args[at].upper())
        at += 1
    return _add(call, flags, at)


@COMMANDS.write(b"ZINCRBY", 4)
def _zincrby(call: Call) -> bytes:
    return _add(call, {b"INCR"}, 2)


def _check_flags(flags: set[bytes], words: int) -> None:
    """`words`: of scores and members."""
    if words % 2 or not words:
        raise syntax_error()
    if flags >= {b"NX", b"XX"}:
        raise CommandError(b"ERR XX and NX options at the same time are not compatible")
    if len(flags & {b"GT", b"LT", b"NX"}) > 1:
        raise CommandError(b"ERR GT, LT, and/or NX options at the same time are not compatible")
    if b"INCR" in flags and words > 2:
        raise CommandError(b"ERR INCR option supports a single increment-element pair")


def _add(call: Call, flags: set[bytes], at: int) -> bytes:
    """Scores and members begin at this place."""
    _check_flags(flags, len(call.args) - at)
    scores = [call.float(n) for n in range(at, len(call.args), 2)]
    held = call.typed(call.args[1], SortedSetValue)
    members = SortedSetValue() if held is None else held
    added = updated = 0
    now: float | None = None
    for score, member in zip(scores, call.args[at + 1 :: 2], strict=True):
        old = members.get(member)
        now = _new_score(old, score, flags)
        if now is not None and now != old:
            members[member] = now
            added, updated = added + (old is None), updated + (old is not None)
    if added or updated:
        call.update(call.args[1], members)
    if b"INCR" in flags:
        return NIL if now is None else bulk(format_float(now))
    return integer(added + updated if b"CH" in flags else added)


def _new_score(old: float | None, score: float, flags: set[bytes]) -> float | None:
    """The score that a member gets; None where the flags forbid it."""
    if old is None:
        return None if b"XX" in flags else score
    if b"NX" in flags:
        return None
    if b"INCR" in flags:
        score += old
        if math.isnan(score):
            raise CommandError(b"ERR resulting score is not a number (NaN)")
    if (b"GT" in flags and score <= old) or (b"LT" in flags and score >= old):
        return None
    return score


@COMMANDS.write(b"ZREM", -3)
def _zrem(call: Call) -> bytes:
    members = call.typed(call.args[1], SortedSetValue) or SortedSetValue()
    removed = sum(members.pop(member, None) is not None for member in call.args[2:])
    if removed:
        call.update(call.args[1], members)
    return integer(removed)


def _pop(call: Call, *, highest: bool) -> bytes:
    if len(call.args) > 3:
        raise syntax_error()
    count = call.count(2) if len(call.args) == 3 else 1
    members = call.typed(call.args[1], SortedSetValue)
    if members is None or count == 0:
        return EMPTY_ARRAY
    ordered = members.ordered()
    popped = (ordered[::-1] if highest else ordered)[:count]
    reply = bulks([word for member in popped for word in (member, format_float(members.pop(member)))])
    call.update(call.args[1], members)
    return reply


@COMMANDS.write(b"ZPOPMIN", -2)
def _zpopmin(call: Call) -> bytes:
    return _pop(call, highest=False)


@COMMANDS.write(b"ZPOPMAX", -2)
def _zpopmax(call: Call) -> bytes:
    return _pop(call, highest=True)


@COMMANDS.read(b"ZCARD", 2)
def _zcard(call: Call) -> bytes:
    return integer(len(call.typed(call.args[1], SortedSetValue) or ()))


@COMMANDS.read(b"ZSCORE", 3)
def _zscore(call: Call) -> bytes:
    score = (call.typed(call.args[1], SortedSetValue) or SortedSetValue()).get(call.args[2])
    return bulk(None if score is None else format_float(score))


@COMMANDS.read(b"ZRANGE", -4)
def _zrange(call: Call) -> bytes:
    """By rank only."""
    first, last = call.integer(2), call.integer(3)
    options = [a.upper() for a in call.args[4:]]
    if options not in ([], [b"WITHSCORES"]):
        raise syntax_error()
    members = call.typed(call.args[1], SortedSetValue) or SortedSetValue()
    first, last = (n + len(members) if n < 0 else n for n in (first, last))
    chosen = members.ordered()[max(0, first) : max(0, last + 1)]
    if not options:
        return bulks(chosen)
    return bulks([word for member in chosen for word in (member, format_float(members[member]))])
