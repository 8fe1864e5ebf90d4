"""A command cut down to the keys that a job copies, and its databases renumbered.

A command that moves values over the border of what is copied leaves at the target only what happened on this side of
it: a RENAME out of the scope is a deletion. Where a value comes in from a key that the target does not have, the
command cannot be copied at all, and the caller must say so.
"""

from collections.abc import Callable
from typing import Protocol

import attrs

from bisync.core.commands.footprint import copy_database_at, reads_patterns
from bisync.core.commands.keys import Args
from bisync.core.commands.normal import xadd_id_at
from bisync.core.commands.table import Row, known_row


class ScopeLike(Protocol):
    """What a channel copies; `bisync.core.patterns.Scope` is one."""

    @property
    def everything(self) -> bool:
        """Is no choice made: every database under its own number, every key but bisync's own?"""

    @property
    def include(self) -> tuple[bytes, ...]:
        """Glob patterns, one of which must match; none: every key."""

    @property
    def exclude(self) -> tuple[bytes, ...]:
        """Glob patterns, none of which may match."""

    def holds(self, database: int, key: bytes) -> bool:
        """Is this key copied?"""

    def target_database(self, database: int) -> int | None:
        """The number at the target; None where the database is not copied."""


@attrs.frozen
class Crossing:
    """A command that cannot be copied, because only some of its keys are."""

    reason: str
    keys: tuple[bytes, ...] = ()  # those of its keys that are copied and now differ at the target


Restricted = Args | None | Crossing
"""The command for the target; None where it has nothing to do there."""

_Rule = Callable[[Args, int, ScopeLike, Row], Restricted]


def restrict(args: Args, database: int, scope: ScopeLike) -> Restricted:
    """The part of a normalised command that concerns the keys in scope: the same object where that is all of it.

    `database` and the numbers in `args` are those of the source; in the result (MOVE, COPY, SWAPDB) they are those of
    the target. Raises KeyError where bisync does not know the command.
    """
    row = known_row(args[0])
    return _RULES.get(row.effect, _all_or_nothing)(args, database, scope, row)


def _all_or_nothing(args: Args, database: int, scope: ScopeLike, row: Row) -> Restricted:
    positions = row.key_positions(args)
    held = [args[n] for n in positions if scope.holds(database, args[n])]
    if len(held) == len(positions):
        return args
    return _crossing(row, held) if held else None


def _crossing(row: Row, held: list[bytes]) -> Crossing:
    name = row.name.decode()
    return Crossing(
        f"{name} computes a copied key from keys that the job does not copy",
        tuple(held),
    )


def _cut(args: Args, database: int, scope: ScopeLike, row: Row) -> Restricted:
    """DEL, MSET: without the keys (and their values) that are not copied."""
    positions = row.key_positions(args)
    if len(positions) == 1:
        return args if scope.holds(database, args[positions[0]]) else None
    held = [n for n in positions if scope.holds(database, args[n])]
    if len(held) == len(positions):
        return args
    if not held:
        return None
    width = positions[1] - positions[0]
    kept = [word for n in held for word in args[n : n + width]]
    if row.name == b"MSETEX":
        return (args[0], b"%d" % len(held), *kept, *args[positions[-1] + 2 :])
    return (args[0], *kept)


def _store(args: Args, database: int, scope: ScopeLike, row: Row) -> Restricted:
    """The first key is computed from the others, or the last from the first."""
    positions = row.key_positions(args)
    if row.effect == "stores last":
        positions = positions[::-1]
    if not scope.holds(database, args[positions[0]]):
        return None
    if not all(scope.holds(database, args[n]) for n in positions[1:]):
        return _crossing(row, [args[positions[0]]])
    if reads_patterns(args) and not scope.everything:
        return _crossing(row, [args[positions[0]]])
    return args


def _rename(args: Args, database: int, scope: ScopeLike, row: Row) -> Restricted:
    return _over_border(args, database, scope, row, (b"DEL", args[1]))


def _item(args: Args, database: int, scope: ScopeLike, row: Row) -> Restricted:
    """RPOPLPUSH source destination; LMOVE and LMOVEM source destination LEFT|RIGHT LEFT|RIGHT [COUNT|EXACTLY n ...]"""
    left = len(args) > 3 and args[3].upper() == b"LEFT"
    return _over_border(args, database, scope, row, (b"LPOP" if left else b"RPOP", args[1], *args[6:7]))


def _entry(args: Args, database: int, scope: ScopeLike, row: Row) -> Restricted:
    """XADD: servers send the id that they gave; one without was taken before (IDMP), and nothing was added."""
    if b"*" in args[min(xadd_id_at(args), len(args) - 1)]:
        return None
    return _all_or_nothing(args, database, scope, row)


def _over_border(args: Args, database: int, scope: ScopeLike, row: Row, outward: Args) -> Restricted:
    """From the first key to the second; `outward` is what is left of it where only the first is copied."""
    source, destination = scope.holds(database, args[1]), scope.holds(database, args[2])
    if source:
        return args if destination else outward
    return _crossing(row, [args[2]]) if destination else None


def _member(args: Args, database: int, scope: ScopeLike, row: Row) -> Restricted:
    """SMOVE source destination member: it did succeed, so the member is now in the destination."""
    source, destination = scope.holds(database, args[1]), scope.holds(database, args[2])
    if source:
        return args if destination else (b"SREM", args[1], args[3])
    return (b"SADD", args[2], args[3]) if destination else None


def _renumbered(args: Args, at: int, scope: ScopeLike) -> Args:
    number = scope.target_database(int(args[at]))
    if number is None or number == int(args[at]):
        return args
    return (*args[:at], b"%d" % number, *args[at + 1 :])


def _copy(args: Args, database: int, scope: ScopeLike, row: Row) -> Restricted:
    """COPY source destination [DB number] [REPLACE]"""
    at = copy_database_at(args)
    if not scope.holds(database if at is None else int(args[at]), args[2]):
        return None
    if not scope.holds(database, args[1]):
        return _crossing(row, [args[2]])
    return args if at is None else _renumbered(args, at, scope)


def _move(args: Args, database: int, scope: ScopeLike, row: Row) -> Restricted:
    """MOVE key database"""
    source, destination = scope.holds(database, args[1]), scope.holds(int(args[2]), args[1])
    if source:
        return _renumbered(args, 2, scope) if destination else (b"DEL", args[1])
    return _crossing(row, [args[1]]) if destination else None


def _flush_all(args: Args, database: int, scope: ScopeLike, row: Row) -> Restricted:
    if scope.everything:
        return args
    return Crossing("FLUSHALL would also delete keys of the target that the job does not copy")


def _flush_database(args: Args, database: int, scope: ScopeLike, row: Row) -> Restricted:
    if scope.target_database(database) is None:
        return None
    if scope.include or scope.exclude:
        return Crossing("FLUSHDB would also delete keys of the target that the job does not copy")
    return args


def _swap(args: Args, database: int, scope: ScopeLike, row: Row) -> Restricted:
    """SWAPDB first second"""
    numbers = [scope.target_database(int(args[n])) for n in (1, 2)]
    if numbers == [None, None]:
        return None
    if None in numbers or scope.include or scope.exclude:
        return Crossing("SWAPDB would exchange keys that the job copies with keys that it does not")
    return _renumbered(_renumbered(args, 1, scope), 2, scope)


_RULES: dict[str, _Rule] = {
    "removes": _cut,
    "replaces": _cut,
    "sets": _cut,
    "stores": _store,
    "stores last": _store,
    "adds entry": _entry,
    "renames": _rename,
    "moves item": _item,
    "moves member": _member,
    "copies": _copy,
    "moves key": _move,
    "empties all": _flush_all,
    "empties database": _flush_database,
    "swaps": _swap,
}
"""By effect; for all others every key must be copied, or none."""
