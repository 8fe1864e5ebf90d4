"""Which pairs of commands give the same result in either order.

The claim is: from every state in which each of the two would take effect alone, both orders end in the same data, times
to live included, and neither fails in one order only. (A command that has no effect does not reach the stream.) One
exception, which the counters' owners accept: two increments that fit alone but not together overflow at the site where
they meet, and an error there is settled as unequal values are. Another one: of two equal FUNCTION DELETE the second
fails, at both sites.

What is not certain is False. Tests prove every claim on a real server.
"""

import functools
from collections.abc import Callable, Mapping
from typing import TypeVar

from bisync.core.commands.keys import Args
from bisync.core.commands.normal import named_fields, zadd_options_end
from bisync.core.commands.places import EVERY_KEY, Footprint
from bisync.core.commands.table import Row, row

_Place = tuple[int, bytes]
_T = TypeVar("_T")

KEEPS_EXPIRY = frozenset(("updates", "counts", "pushes", "sets bit", "registers", "adds", "expires fields"))
"""Changes that neither delete a key nor touch the time to live of one that exists: they do not care about EXPIRE."""

_DELETES = frozenset((b"DEL", b"UNLINK", b"GETDEL", b"DELEX", b"DELIFEQ", b"FLUSHDB", b"FLUSHALL"))

_ABSOLUTE_EXPIRY = frozenset((b"PEXPIREAT", b"EXPIREAT", b"PERSIST"))
_WHOLE_ASSIGNMENTS = frozenset((b"DEL", b"UNLINK", b"SET", b"MSET", b"MSETEX", b"RESTORE"))
_COUNTED = b"HINCRBY"  # stands for the value of a field: that of an HSET is a pair


def deletes(args: Args) -> bool:
    """Does the command do nothing but delete whole keys?"""
    return args[0].upper() in _DELETES


def commute(
    p: Args,
    p_database: int,
    q: Args,
    q_database: int,
    *,
    mine: Footprint | None = None,
    other: Footprint | None = None,
) -> bool:
    """Do two commands, each in its database, give the same result in either order? False where it is not certain.

    `mine` and `other` are their footprints, where they are known: those of commands with thousands of keys are dear.
    """
    ours, theirs = row(p[0]), row(q[0])
    if ours is None or theirs is None or "refused" in (ours.handling, theirs.handling):
        return False
    if "nothing" in (ours.change, theirs.change):
        return True  # a message, a script: no data
    if "functions" in (ours.change, theirs.change):
        return ours is not theirs or _functions(p, q)
    mine = mine or ours.footprint(p, p_database)
    other = other or theirs.footprint(q, q_database)
    a, b = mine.written, other.written
    if EVERY_KEY in a or EVERY_KEY in b:
        return _commute_wide(ours, mine, theirs, other)
    if not (_untouched(mine.reads, b) and _untouched(other.reads, a)):
        return False
    shared = a & b
    if not shared:
        return True
    return _commute_on_shared_keys(ours, p, theirs, q, p_database)


def _untouched(reads: tuple[_Place, ...], written: frozenset[_Place]) -> bool:
    return EVERY_KEY not in reads and written.isdisjoint(reads)


def _functions(p: Args, q: Args) -> bool:
    """Equal ones; one library loaded and another deleted, or two deleted.

    Two libraries that are loaded may define a function of one name, and then the second is refused.
    """
    ours, theirs = p[1].upper(), q[1].upper()
    if ours == theirs and (p[2:] == q[2:] or ours == b"FLUSH"):
        return True
    if b"DELETE" not in (ours, theirs) or not {ours, theirs} <= {b"LOAD", b"DELETE"}:
        return False
    mine, other = _library(p), _library(q)
    return mine is not None and other is not None and mine != other


def _library(args: Args) -> bytes | None:
    """Which library FUNCTION LOAD and FUNCTION DELETE are about; None where the code does not say it plainly."""
    if args[1].upper() == b"DELETE":
        return args[2]
    words = args[-1].split(b"\n", 1)[0].split()
    names = [word[5:] for word in words if word[:5].lower() == b"name="]
    return names[0] if len(names) == 1 and names[0].replace(b"_", b"").isalnum() else None


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
            return kinds - {"expires"} <= KEEPS_EXPIRY
        return ours.name == theirs.name and ours.name in _ABSOLUTE_EXPIRY and p[1:] == q[1:]
    if "expires fields" in kinds:
        return ours.family == theirs.family and kinds <= _OF_FIELDS and _fields(ours, p, theirs, q)
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
    mine, other = elements_after(ours.name, p), elements_after(theirs.name, q)
    return all(mine[e] is not None and mine[e] == other[e] for e in mine.keys() & other.keys())


_OF_FIELDS = frozenset(("expires fields", "adds", "removes elements"))


def _fields(ours: Row, p: Args, theirs: Row, q: Args) -> bool:
    """At least one of the two gives times to live to fields that exist: they must be others, or get the same one."""
    mine, other = _field_outcomes(ours, p), _field_outcomes(theirs, q)
    return all(mine[f] is not None and mine[f] == other[f] for f in mine.keys() & other.keys())


def _field_outcomes(row: Row, args: Args) -> dict[bytes, object]:
    """The time to live that each field gets; None where it depends on what was there, or gets more than that."""
    if row.change == "adds":
        return dict.fromkeys(elements_after(row.name, args))
    if row.change == "removes elements":
        return dict.fromkeys(args[2:])
    first, end = named_fields(args, 2, 1)
    plain = args[2] if row.name == b"HPEXPIREAT" and first == 5 and end == len(args) else None
    return dict.fromkeys(args[first:end], b"persist" if row.name == b"HPERSIST" else plain)


LONG = 32
"""What a command of more words makes of its keys or elements is kept, for the next comparison with the same command."""


def _keeps_of_long_ones(make: Callable[[bytes, Args], _T]) -> Callable[[bytes, Args], _T]:
    """A command with thousands of keys may meet thousands of others: what it does is not worked out for each anew."""
    kept = functools.lru_cache(maxsize=2)(make)

    @functools.wraps(make)
    def made(name: bytes, args: Args) -> _T:
        return kept(name, args) if len(args) > LONG else make(name, args)

    return made


@_keeps_of_long_ones
def elements_after(name: bytes, args: Args) -> Mapping[bytes, object]:
    """What each element becomes; None where that depends on what it was."""
    if name in (b"HSET", b"HMSET", b"HSETNX"):
        return {field: (value,) for field, value in zip(args[2::2], args[3::2], strict=True)}
    if name == b"HSETEX":
        return _extended_fields(args)
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


def _extended_fields(args: Args) -> Mapping[bytes, object]:
    """HSETEX key [PXAT ms|KEEPTTL|...] FIELDS n field value ...: without an option it does what HSET does"""
    first, end = named_fields(args, 2, 2)
    options = [a.upper() for a in (*args[2 : first - 2], *args[end:])]
    fields = dict(zip(args[first:end:2], args[first + 1 : end : 2], strict=True))
    if not options or (len(options) == 2 and options[0] == b"PXAT"):
        return {field: (value, *options) for field, value in fields.items()}
    return dict.fromkeys(fields)


def _assigns(ours: Row, p: Args, theirs: Row, q: Args) -> bool:
    mine, other = values_after(ours.name, p), values_after(theirs.name, q)
    if mine is None or other is None:
        return False
    return all(mine[key] == other[key] for key in mine.keys() & other.keys())


@_keeps_of_long_ones
def values_after(name: bytes, args: Args) -> Mapping[bytes, Args] | None:
    """What each key becomes; None where that depends on the moment or on what it was."""
    if name not in _WHOLE_ASSIGNMENTS:
        return None
    if name in (b"DEL", b"UNLINK"):
        return dict.fromkeys(args[1:], ())
    if name == b"MSET":
        return {key: (b"SET", value) for key, value in zip(args[1::2], args[2::2], strict=True)}
    if name == b"MSETEX":
        end = 2 + 2 * int(args[1])
        options = [a.upper() for a in args[end:]]
        if not _plain(options):
            return None
        return {key: (b"SET", value, *options) for key, value in zip(args[2:end:2], args[3:end:2], strict=True)}
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
