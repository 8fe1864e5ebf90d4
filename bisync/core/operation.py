"""From a command of a stream to what must be done about it: copied, changed, left out, set aside, or refused."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import overload

import attrs

from bisync.core import commands
from bisync.core.actions import Notice
from bisync.core.commands import EVERY_KEY, Crossing, Footprint, Row, Write, may_expire
from bisync.core.dialect import spoken
from bisync.core.patterns import OWN_PREFIX, Scope
from bisync.core.resp import pack
from bisync.core.rules import Rules
from bisync.core.stream import Command
from bisync.errors import BisyncError

_SETTINGS = {
    b"FLUSHALL": "flush",
    b"FLUSHDB": "flush",
    b"SWAPDB": "swapdb",
    b"PUBLISH": "publish",
    b"SPUBLISH": "publish",
    b"FUNCTION": "function",
    b"SCRIPT": "script",
}
"""Commands about which a job file may choose: pass, drop or stop."""

WIPERS = frozenset((b"FLUSHALL", b"FLUSHDB", b"SWAPDB"))
"""Commands that may take the tag and the notes away."""


QUARANTINE = 'set on_refused = "quarantine" in [engine] to set such commands aside and go on'
"""What can be done about every command that stops a job."""


_PLAIN = frozenset(
    row.name
    for row in commands.ROWS
    if row.keys == "1" and row.handling == "copied" and row.name != b"MOVE" and not may_expire(row.name)
) | {b"SET"}
"""Commands with one key that are copied as they came (of SET the shortest form), where every key and database is."""


@attrs.define(slots=True, eq=False)
class Operation:
    """One client command, as it is applied at the other site and as it is compared with others.

    `args` and `database` are as the source numbers databases, whichever site it came from: only so two of them can be
    compared. `packed` and `target_database` are for the site where it is applied.
    """

    args: tuple[bytes, ...]
    database: int
    packed: bytes
    target_database: int
    row: Row | None = None  # None: a copied key
    wipes: bool = False
    stale: bool = False  # the removal of a key that a snapshot lacks: no write, so it never wins
    mortal: bool = False  # a copied key with a time to live
    overruled: frozenset[bytes] = frozenset()  # of a deletion, keys of which it lost to a renewal: they stay
    _footprint: Footprint | None = None

    @property
    def footprint(self) -> Footprint:
        """What it writes and reads. Made when it is asked for, as most operations never meet another one."""
        if self._footprint is None:
            if self.row is not None:
                self._footprint = self.row.footprint(self.args, self.database)
            else:  # a key as it stood
                self._footprint = Footprint((Write(self.database, self.args[1], None, True),), ())
        return self._footprint

    @property
    def left(self) -> "Operation | None":
        """What is applied of it: a deletion without the keys that stay; None where nothing is left."""
        if not self.overruled:
            return self
        keys = [key for key in self.args[1:] if key not in self.overruled]
        name = self.packed.split(b"\r\n", 3)[2]  # as the target's server knows it
        packed = pack(name, *keys)
        return attrs.evolve(self, args=(self.args[0], *keys), packed=packed, footprint=None) if keys else None

    @property
    def expires(self) -> bool:
        """Does it set or clear a time to live, and nothing else?"""
        return self.row is not None and self.row.effect == "expires"

    @property
    def written(self) -> Iterable[tuple[int, bytes]]:
        """The keys that it writes, each with its database."""
        places = ((w.database, w.key) for w in self.footprint.writes)
        return (place for place in places if place != EVERY_KEY)


def interchangeable(mine: Operation, theirs: Operation) -> bool:
    """Do two operations give the same result in either order?"""
    if mine.row is None or theirs.row is None:
        return False  # a copied key commutes with nothing
    return commands.commute(
        *(mine.args, mine.database, theirs.args, theirs.database), mine=mine.footprint, other=theirs.footprint
    )


def copied_operation(database: int, key: bytes, stale: bool, mortal: bool = False, home: int = 0) -> Operation:
    """A key of a full copy, or the removal of a stale one: it overwrites the whole key, and commutes with nothing."""
    return Operation((b"COPIED", key), database, b"", home, stale=stale, mortal=mortal)


class CopiedOperations(Sequence[Operation]):
    """Keys of a full copy, many at once. The operations are made when one is asked for: most never meet another one."""

    def __init__(self, keys: Sequence[tuple[int, bytes, bool]], homes: Mapping[int, int]) -> None:
        """`keys`: database at the source, key, has it a time to live? `homes`: the target's number of each database."""
        self._keys, self._homes = keys, homes
        self._made: list[Operation] | None = None

    def __len__(self) -> int:
        return len(self._keys)

    @overload
    def __getitem__(self, n: int) -> Operation: ...

    @overload
    def __getitem__(self, n: slice) -> Sequence[Operation]: ...

    def __getitem__(self, n: int | slice) -> Operation | Sequence[Operation]:
        return self._all[n]

    def __iter__(self) -> Iterator[Operation]:
        return iter(self._all)

    @property
    def _all(self) -> list[Operation]:
        if self._made is None:
            homes = self._homes
            self._made = [copied_operation(db, key, False, mortal, homes[db]) for db, key, mortal in self._keys]
        return self._made


def held_operation(database: int, key: bytes) -> Operation:
    """A key as a site held it before its stream was read: what stands for it in the log."""
    return Operation((b"HELD", key), database, b"", database)


class Understanding:
    """What a channel does with each command of its origin's stream."""

    def __init__(self, rules: Rules, origin: str) -> None:
        self._rules, self._origin = rules, origin
        scope = rules.scope
        forward = origin == rules.source
        # into the source's numbering first, where commands of both sites are compared; then to the target's
        self._inward = _unmapped(scope) if forward else scope.inverted()
        self._outward = scope if forward else _unmapped(scope)
        self._server = rules.server(rules.other(origin))
        self._maps = scope.databases is not None
        self._plain = scope.everything

    def __call__(self, command: Command, time_ms: int, now_ms: int) -> Operation | Notice | None:
        """The operation; None where nothing is to be done; a Notice where the command is set aside.

        `time_ms` is when it was written, for expiries that servers before 7.0 send as they were given; `now_ms` is the
        time. Raises BisyncError where the job must stop.
        """
        name = command.name
        row = commands.row(name)
        if self._plain and name in _PLAIN and (name != b"SET" or len(command.args) == 3):
            if command.args[1].startswith(OWN_PREFIX):
                return None
            return Operation(tuple(command.args), command.database, command.raw, command.database, row)
        if row is None:
            return self._refuse(command, "bisync does not know this command, nor which keys it writes")
        if row.handling == "control":
            return None
        if row.handling == "refused":
            return self._refuse(command, row.reason)
        setting = _SETTINGS.get(name)
        if setting is not None and (choice := self._rules.actions.get(setting, "pass")) != "pass":
            if choice == "drop":
                return None
            how = f'set {setting} = "pass" or "drop" under [commands], or quarantine it, and start again'
            return self._refuse(command, f'[commands] {setting} is "stop" for this job', how)
        args = row.normalise(commands.absolute_expiry(tuple(command.args), time_ms))
        if row.effect in ("functions", "nothing"):  # it belongs to no database, whichever was selected
            packed = command.raw if args == tuple(command.args) else pack(*args)
            return Operation(args, 0, packed, 0, row)
        return self._within_scope(command, args, now_ms)

    def _within_scope(self, command: Command, args: tuple[bytes, ...], now_ms: int) -> Operation | Notice | None:
        database = command.database
        inward = commands.restrict(args, database, self._inward)
        if isinstance(inward, Crossing):
            return self._refuse(command, inward.reason)
        if inward is None:
            return None
        home = self._inward.target_database(database)
        target = self._outward.target_database(home) if home is not None else None
        if home is None or target is None:
            return None
        outward = commands.restrict(inward, home, self._outward) if self._maps else inward
        if isinstance(outward, Crossing) or outward is None:
            return None
        outward = commands.put_off(outward, now_ms)
        words = spoken(outward, self._server)
        packed = command.raw if words == tuple(command.args) else pack(*words)
        return Operation(inward, home, packed, target, commands.row(inward[0].upper()), command.name in WIPERS)

    def _refuse(self, command: Command, reason: str, hint: str = QUARANTINE) -> Notice:
        text = b" ".join(command.args)[:200]
        what = f"{self._origin} sent a command that cannot be copied: {repr(text)[2:-1]} ({reason})"
        if self._rules.on_refused == "quarantine":
            return Notice("error", "quarantined", what)
        raise BisyncError(what, hint=hint)


def _unmapped(scope: Scope) -> Scope:
    """The same choice of databases and keys, without renumbering."""
    if scope.databases is None:
        return scope
    return Scope({n: n for n in scope.databases}, scope.include, scope.exclude)
