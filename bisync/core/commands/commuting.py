"""Which pairs of commands give the same result in either order.

The claim is: from every state in which each of the two would take effect alone, both orders end in the same data, times
to live included, and neither fails in one order only. (A command that has no effect does not reach the stream.) One
exception, which the counters' owners accept: two increments that fit alone but not together overflow at the site where
they meet, and an error there is settled as unequal values are.

What is not certain is False. Tests prove every claim on a real server.
"""

from collections.abc import Callable

from bisync.core.commands.keys import Args
from bisync.core.commands.normal import zadd_options_end
from bisync.core.commands.places import EVERY_KEY, Footprint
from bisync.core.commands.table import Row, row

_Place = tuple[int, bytes]

_KEEPS_EXPIRY = frozenset(("updates", "counts", "pushes", "sets bit", "registers", "adds"))
"""Changes that neither delete a key nor touch the time to live of one that exists: they do not care about EXPIRE."""

_DELETES = frozenset((b"DEL", b"UNLINK", b"GETDEL", b"DELEX", b"DELIFEQ", b"FLUSHDB", b"FLUSHALL"))

_ABSOLUTE_EXPIRY = frozenset((b"PEXPIREAT", b"EXPIREAT", b"PERSIST"))
_WHOLE_ASSIGNMENTS = frozenset((b"DEL", b"UNLINK", b"SET", b"MSET", b"RESTORE"))
_MESSAGES = frozenset((b"PUBLISH", b"SPUBLISH"))
_COUNTED = b"HINCRBY"  # stands for the value of a field: that of an HSET is a pair


def deletes(args: Args) -> bool:
    """Does the command do nothing but delete whole keys?"""
    return args[0].upper() in _DELETES


def commute(p: Args, p_database: int, q: Args, q_database: int) -> bool:
    """Do two commands, each in its database, give the same result in either order? False where it is not certain."""
    ours, theirs = row(p[0]), row(q[0])
    if ours is None or theirs is None or "refused" in (ours.handling, theirs.handling):
        return False
    if "nothing" in (ours.change, theirs.change):
        return ours is not theirs or ours.name in _MESSAGES or p[1:] == q[1:]
    mine, other = ours.footprint(p, p_database), theirs.footprint(q, q_database)
    a, b = {(w.database, w.key) for w in mine.writes}, {(w.database, w.key) for w in other.writes}
    if EVERY_KEY in a or EVERY_KEY in b:
        return _commute_wide(ours, mine, theirs, other)
    if not (_untouched(mine.reads, b) and _untouched(other.reads, a)):
        return False
    shared = a & b
    if not shared:
        return True
    return _commute_on_shared_keys(ours, p, theirs, q, p_database)


def _untouched(reads: tuple[_Place, ...], written: set[_Place]) -> bool:
    return EVERY_KEY not in reads and written.isdisjoint(reads)


def _commute_wide(ours: Row, mine: Footprint, theirs: Row, other: Footprint) -> bool:
    """At least one of the two touches every key of a database."""
    names = {ours.name, theirs.name}
    if names <= _DELETES or names == {b"SWAPDB", b"FLUSHALL"}:
        return True
    a, b = _databases(mine), _databases(other)
    if names == {b"SWAPDB"} and a == b:
        return True
    return a is not None and b is not None and a.isdisjoint(b)


def _databases(footprint: Footprint) -> set[int] | None:
    """The databases whose keys it writes or reads; None: all."""
    if EVERY_KEY in footprint.reads:
        return None
    found = {database for database, _ in footprint.reads}
    for write in footprint.writes:
        if write.database >= 0:
            found.add(write.database)
        elif write.databases:
            found.update(write.databases)
        else:
            return None
    return found


def _commute_on_shared_keys(ours: Row, p: Args, theirs: Row, q: Args, database: int) -> bool:
    """Both write a key, and neither reads what the other writes."""
    kinds = {ours.change, theirs.change}
    if "expires" in kinds:
        if len(kinds) == 2:
            return kinds - {"expires"} <= _KEEPS_EXPIRY
        return ours.name == theirs.name and ours.name in _ABSOLUTE_EXPIRY and p[1:] == q[1:]
    if len(kinds) > 1:
        return False
    rule = _RULES.get(ours.change)
    return rule is not None and rule(ours, p, theirs, q)


def _always(ours: Row, p: Args, theirs: Row, q: Args) -> bool:
    return True


# A PFADD ends in the same registers in any order, but not in the same bytes: runs of equal registers are cut elsewhere.
def _equal(ours: Row, p: Args, theirs: Row, q: Args) -> bool:
    return ours is theirs and p[1:] == q[1:]


def _updates(ours: Row, p: Args, theirs: Row, q: Args) -> bool:
    """Equal ones; but an entry of a stream is refused the second time."""
    return ours.family != "stream" and _equal(ours, p, theirs, q)


def _pushes(ours: Row, p: Args, theirs: Row, q: Args) -> bool:
    """At the two ends of a list, or the same items at one end."""
    return ours.name[:1] != theirs.name[:1] or p[2:] == q[2:]


def _bits(ours: Row, p: Args, theirs: Row, q: Args) -> bool:
    return p[2] != q[2] or p[3] == q[3]


def _same_type(ours: Row, p: Args, theirs: Row, q: Args) -> bool:
    return ours.family == theirs.family


def _adds(ours: Row, p: Args, theirs: Row, q: Args) -> bool:
    """Elements of one type: those that both name must become the same."""
    if ours.family != theirs.family:
        return False
    mine, other = _elements(ours.name, p), _elements(theirs.name, q)
    return all(mine[e] is not None and mine[e] == other[e] for e in mine.keys() & other.keys())


def _elements(name: bytes, args: Args) -> dict[bytes, object]:
    """What each element becomes; None where that depends on what it was."""
    if name in (b"HSET", b"HMSET", b"HSETNX"):
        return {field: (value,) for field, value in zip(args[2::2], args[3::2], strict=True)}
    if name == b"SADD":
        return dict.fromkeys(args[2:], True)
    if name == b"ZADD":
        at = zadd_options_end(args)
        scores = dict(zip(args[at + 1 :: 2], args[at::2], strict=True))
        return dict(scores) if at == 2 and 2 * len(scores) == len(args) - 2 else dict.fromkeys(scores)
    if name == b"GEOADD":
        return dict.fromkeys(args[zadd_options_end(args) + 2 :: 3])
    if name == b"HINCRBY":
        return {args[2]: _COUNTED}
    return {args[3] if name == b"ZINCRBY" else args[2]: None}


def _assigns(ours: Row, p: Args, theirs: Row, q: Args) -> bool:
    mine, other = _values(ours.name, p), _values(theirs.name, q)
    if mine is None or other is None:
        return False
    return all(mine[key] == other[key] for key in mine.keys() & other.keys())


def _values(name: bytes, args: Args) -> dict[bytes, Args] | None:
    """What each key becomes; None where that depends on the moment or on what it was."""
    if name not in _WHOLE_ASSIGNMENTS:
        return None
    if name in (b"DEL", b"UNLINK"):
        return dict.fromkeys(args[1:], ())
    if name == b"MSET":
        return {key: (b"SET", value) for key, value in zip(args[1::2], args[2::2], strict=True)}
    options = [a.upper() for a in args[3:]]
    if name == b"RESTORE":
        absolute = b"ABSTTL" in options or args[2] == b"0"
        return {args[1]: (name, *args[2:])} if absolute and b"REPLACE" in options else None
    if not _plain(options):
        return None
    return {args[1]: (name, args[2], *options)}


def _plain(options: list[bytes]) -> bool:
    """Options of a SET that say everything: an absolute expiry, or none."""
    return not options or (len(options) == 2 and options[0] in (b"PXAT", b"EXAT"))


_RULES: dict[str, Callable[[Row, Args, Row, Args], bool]] = {
    "counts": _always,
    "pushes": _pushes,
    "sets bit": _bits,
    "updates": _updates,
    "registers": _equal,
    "adds": _adds,
    "removes elements": _same_type,
    "assigns": _assigns,
}
"""For two changes of one kind to one key; kinds that are not here do not commute."""
