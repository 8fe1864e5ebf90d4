"""The effects that the table names: what each does to the keys of a command.

`overwrites` is claimed only where the outcome of the place is the same whatever was there before, provided that the
command succeeds. Whatever is subtle writes the whole key and overwrites nothing: a false alarm costs one round, a
missed conflict leaves the sites unequal. The time to live of a field (Redis 7.4, Valkey 9) is a part of that field.

Two traps, both about the time to live of hashes, sets and sorted sets:
- Removing the last element deletes the key, and its time to live with it. So each removal of elements writes the time
  to live as well, and meets a concurrent EXPIRE.
- An element that is added while another site removes the last one finds the key gone at one site and alive at the
  other; it ends without its time to live at one of them. Such a pair does not commute, but its footprints do not meet:
  element by element is what users expect, and nearly no such key has a time to live.
"""

from collections.abc import Callable

import attrs

from bisync.core.commands.keys import Args, Finder, only_first
from bisync.core.commands.normal import ZADD_CONDITIONS, named_fields, zadd_options_end
from bisync.core.commands.places import EVERY_KEY, FUNCTIONS, TTL, Footprint, Write

Maker = Callable[[Args, int], Footprint]
"""From a command and the database it ran in to its footprint."""

_DEPENDING = ZADD_CONDITIONS | {b"INCR"}
_NOWHERE = Footprint((), ())


@attrs.frozen
class Effect:
    """What a kind of command does to its keys."""

    text: str  # for people
    change: str  # which rule of `commuting` knows it
    make: Callable[[Finder], Maker]


def _whole(overwrites: bool) -> Callable[[Finder], Maker]:
    """Every key of the command is written, whole."""

    def make(find: Finder) -> Maker:
        if find is only_first:
            return lambda args, database: Footprint((Write(database, args[1], None, overwrites),), ())
        return lambda args, database: Footprint(
            tuple(Write(database, args[n], None, overwrites) for n in find(args)), ()
        )

    return make


def _set(find: Finder) -> Maker:
    """KEEPTTL leaves of what was there the time to live."""

    def footprint(args: Args, database: int) -> Footprint:
        if len(args) == 3:  # the most frequent command of all
            return Footprint((Write(database, args[1], None, True),), ())
        overwrites = not any(a.upper() == b"KEEPTTL" for a in args[3:])
        return Footprint(tuple(Write(database, args[n], None, overwrites) for n in find(args)), ())

    return footprint


def _elements(kind: str, first: int, step: int, overwrites: bool = True) -> Callable[[Finder], Maker]:
    def footprint(args: Args, database: int) -> Footprint:
        key = args[1]
        return Footprint(
            tuple(Write(database, key, (kind, e), overwrites) for e in args[first::step]),
            (),
        )

    return lambda find: footprint


def _element(kind: str, at: int) -> Callable[[Finder], Maker]:
    def footprint(args: Args, database: int) -> Footprint:
        return Footprint((Write(database, args[1], (kind, args[at]), False),), ())

    return lambda find: footprint


def _extended_fields(find: Finder) -> Maker:
    """HSETEX: a value and a time to live for each field; with KEEPTTL the old time to live stays."""

    def footprint(args: Args, database: int) -> Footprint:
        first, end = named_fields(args, 2, 2)
        overwrites = not any(a.upper() == b"KEEPTTL" for a in (*args[2:first], *args[end:]))
        return Footprint(
            tuple(Write(database, args[1], ("hash", f), overwrites) for f in args[first:end:2]),
            (),
        )

    return footprint


def _expiring_fields(find: Finder) -> Maker:
    """HPEXPIREAT key time ... FIELDS n field ..., HPERSIST key FIELDS n field ..., HGETEX key ... FIELDS n field ..."""

    def footprint(args: Args, database: int) -> Footprint:
        first, end = named_fields(args, 2, 1)
        return Footprint(tuple(Write(database, args[1], ("hash", f), False) for f in args[first:end]), ())

    return footprint


def _removed_elements(kind: str) -> Callable[[Finder], Maker]:
    def footprint(args: Args, database: int) -> Footprint:
        key = args[1]
        writes = tuple(Write(database, key, (kind, e), True) for e in args[2:])
        return Footprint((*writes, Write(database, key, TTL, False)), ())

    return lambda find: footprint


def _scored(width: int) -> Callable[[Finder], Maker]:
    """ZADD and GEOADD: with a condition it depends on what was there whether a member is written."""

    def footprint(args: Args, database: int) -> Footprint:
        key, at, overwrites = args[1], zadd_options_end(args), True
        if at > 2:
            overwrites = _DEPENDING.isdisjoint(a.upper() for a in args[2:at])
        members = args[at + width - 1 :: width]
        return Footprint(tuple(Write(database, key, ("zset", m), overwrites) for m in members), ())

    return lambda find: footprint


def _expires(find: Finder) -> Maker:
    return lambda args, database: Footprint((Write(database, args[1], TTL, True),), ())


def _first_from_rest(find: Finder) -> Maker:
    """*STORE and BITOP: the first key is computed from the others."""

    def footprint(args: Args, database: int) -> Footprint:
        written, *read = find(args)
        return Footprint(
            (Write(database, args[written], None, False),),
            tuple((database, args[n]) for n in read),
        )

    return footprint


def _first_to_last(find: Finder) -> Maker:
    """SORT, GEORADIUS: the last key is computed from the first. Without a destination nothing is written."""

    def footprint(args: Args, database: int) -> Footprint:
        positions = find(args)
        if len(positions) < 2:
            return _NOWHERE
        reads = [(database, args[1])]
        if reads_patterns(args):
            reads.append(EVERY_KEY)
        return Footprint((Write(database, args[positions[-1]], None, False),), tuple(reads))

    return footprint


def reads_patterns(args: Args) -> bool:
    """Does a SORT take values from keys that only a pattern names (BY weight_*, GET object_*)?"""
    if args[0].upper() != b"SORT":
        return False
    pairs = zip(args[2:], args[3:], strict=False)
    return any(option.upper() in (b"BY", b"GET") and b"*" in pattern for option, pattern in pairs)


def _both(find: Finder) -> Maker:
    """RENAME: both keys are written, from what the first one held."""

    def footprint(args: Args, database: int) -> Footprint:
        writes = Write(database, args[1], None, False), Write(database, args[2], None, False)
        return Footprint(writes, ((database, args[1]),))

    return footprint


def _item_to_other(find: Finder) -> Maker:
    """LMOVE source destination: nothing is moved where the destination is of another type, so it is read too."""

    def footprint(args: Args, database: int) -> Footprint:
        places = (database, args[1]), (database, args[2])
        return Footprint(tuple(Write(*place, None, False) for place in places), places)

    return footprint


def _member_to_other(find: Finder) -> Maker:
    """SMOVE source destination member: as with LMOVE, the destination is read too, for its type."""

    def footprint(args: Args, database: int) -> Footprint:
        element = ("set", args[3])
        writes = (
            Write(database, args[1], element, False),
            Write(database, args[1], TTL, False),
            Write(database, args[2], element, False),
        )
        return Footprint(writes, ((database, args[1]), (database, args[2])))

    return footprint


def copy_database_at(args: Args) -> int | None:
    """The index of the number in COPY source destination [DB number] [REPLACE]."""
    return next((n + 1 for n in range(3, len(args) - 1) if args[n].upper() == b"DB"), None)


def _copy(find: Finder) -> Maker:
    def footprint(args: Args, database: int) -> Footprint:
        at = copy_database_at(args)
        home = database if at is None else int(args[at])
        return Footprint((Write(home, args[2], None, False),), ((database, args[1]),))

    return footprint


def _across(find: Finder) -> Maker:
    """MOVE key database"""

    def footprint(args: Args, database: int) -> Footprint:
        writes = Write(database, args[1], None, False), Write(int(args[2]), args[1], None, False)
        return Footprint(writes, ((database, args[1]),))

    return footprint


def _script(find: Finder) -> Maker:
    """EVAL: any of the keys that it names, from any of them."""

    def footprint(args: Args, database: int) -> Footprint:
        keys = [args[n] for n in find(args)]
        return Footprint(
            tuple(Write(database, k, None, False) for k in keys),
            tuple((database, k) for k in keys),
        )

    return footprint


_EVERYTHING = Footprint((Write(*EVERY_KEY, None, True),), ())


def _flush_all(find: Finder) -> Maker:
    return lambda args, database: _EVERYTHING


def _flush_database(find: Finder) -> Maker:
    return lambda args, database: Footprint((Write(*EVERY_KEY, None, True, (database,)),), ())


def _swap(find: Finder) -> Maker:
    """SWAPDB first second"""
    return lambda args, database: Footprint((Write(*EVERY_KEY, None, False, (int(args[1]), int(args[2]))),), ())


def _functions(find: Finder) -> Maker:
    """FUNCTION LOAD|DELETE|RESTORE|FLUSH: all libraries are one place, as no two may define functions of one name."""

    def footprint(args: Args, database: int) -> Footprint:
        words = [a.upper() for a in args[1:]]
        overwrites = words[:1] == [b"FLUSH"] or (words[:1] == [b"RESTORE"] and words[2:3] == [b"FLUSH"])
        return Footprint((Write(*FUNCTIONS, None, overwrites),), ())

    return footprint


def _nothing(find: Finder) -> Maker:
    return lambda args, database: _NOWHERE


EFFECTS: dict[str, Effect] = {
    "nothing": Effect("no key is written", "nothing", _nothing),
    "replaces": Effect("each key has a new value, whatever it held", "assigns", _whole(True)),
    "sets": Effect("as `replaces`; with KEEPTTL the old time to live stays", "assigns", _set),
    "removes": Effect("each key is deleted", "assigns", _whole(True)),
    "updates": Effect("the key is changed in place; it keeps its time to live", "updates", _whole(False)),
    "counts": Effect("a number is added to the key's", "counts", _whole(False)),
    "adds entry": Effect("an entry is added to a stream; one that was taken already is left out", "updates",
                         _whole(False)),
    "pushes": Effect("items are added at one end of a list", "pushes", _whole(False)),
    "sets bit": Effect("one bit of the key is set", "sets bit", _whole(False)),
    "registers": Effect("elements are counted in a HyperLogLog", "registers", _whole(False)),
    "changes": Effect("each key is changed in place, and may be deleted when it is empty", "changes", _whole(False)),
    "sets fields": Effect("the fields named have new values", "adds", _elements("hash", 2, 2)),
    "sets fields, expiring": Effect("the fields named have new values and times to live", "adds", _extended_fields),
    "expires fields": Effect("the times to live of the fields named are set or taken away", "expires fields",
                             _expiring_fields),
    "counts field": Effect("a number is added to the field's", "adds", _element("hash", 2)),
    "updates field": Effect("the field is changed", "adds", _element("hash", 2)),
    "removes fields": Effect("the fields named are gone; a key without fields is deleted", "removes elements",
                             _removed_elements("hash")),
    "adds members": Effect("the members named are there", "adds", _elements("set", 2, 1)),
    "removes members": Effect("the members named are gone; a key without members is deleted", "removes elements",
                              _removed_elements("set")),
    "moves member": Effect("a member goes from the first key to the second, if it is in the first", "moves",
                           _member_to_other),
    "scores": Effect("the members named have new scores", "adds", _scored(2)),
    "places": Effect("the members named have new places", "adds", _scored(3)),
    "scores up": Effect("a number is added to the member's score", "adds", _element("zset", 3)),
    "removes scored": Effect("the members named are gone; a key without members is deleted", "removes elements",
                             _removed_elements("zset")),
    "expires": Effect("the time to live is set or taken away", "expires", _expires),
    "renames": Effect("the second key is what the first was; the first is gone", "moves", _both),
    "moves item": Effect("an item goes from the first list to the second", "moves", _item_to_other),
    "copies": Effect("the second key is what the first is", "moves", _copy),
    "moves key": Effect("the key goes to another database", "moves", _across),
    "stores": Effect("the first key is computed from the others", "moves", _first_from_rest),
    "stores last": Effect("the last key is computed from the first (and those that patterns name)", "moves",
                          _first_to_last),
    "runs": Effect("any of the keys may be changed, from any of them", "moves", _script),
    "empties all": Effect("every key of every database is deleted", "empties", _flush_all),
    "empties database": Effect("every key of the database is deleted", "empties", _flush_database),
    "functions": Effect("libraries of functions are loaded or deleted", "functions", _functions),
    "swaps": Effect("every key of two databases changes places", "swaps", _swap),
}  # fmt: skip
"""By the word that the table uses."""
