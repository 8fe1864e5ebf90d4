"""The pending operations that touch one key, arranged so that a new one is compared with few of them.

On a hot key thousands of writes wait on each side. Comparing each with each would cost their product, so the operations
are grouped by what they do to the key. Of those that commute whatever their arguments nothing is asked; of those that
do the same, only the newest; and where a conflict is found, each other operation is met once for as long as the same
arbitration is open. N writes against M pending ones thus cost N + M.
"""

import bisect
import collections
from collections.abc import Hashable, Iterable, Iterator
from typing import TYPE_CHECKING

from bisync.core.commands import TTL, Row
from bisync.core.commands.effect import effect_on
from bisync.core.commands.kinship import ALWAYS, relation
from bisync.core.commands.places import Element
from bisync.core.operation import Operation, interchangeable

if TYPE_CHECKING:
    from bisync.core.pending import Pending

Held = tuple["Pending", Operation]
Line = collections.deque[Held]
"""Operations, oldest first: also their clocks grow, and what they had seen."""

FEW = 16
"""Up to so many operations on a key are compared one by one; grouping pays beyond."""


class _Kind:
    """The operations of one command in a group."""

    __slots__ = ("held", "last", "alike")

    def __init__(self) -> None:
        self.held: Line = collections.deque()
        self.last = 0  # how many the group had been given when the newest of these came
        self.alike: dict[Hashable, Line] = {}  # by effect: what has the same one is alike for any other operation


class Group:
    """Operations that do a like thing to a key, oldest first. `element`: what of it; None: the whole key."""

    __slots__ = ("element", "held", "_given", "_kinds", "_met_by", "_unmet")

    def __init__(self, element: Element | None = None) -> None:
        self.element = element
        self.held: Line = collections.deque()
        self._given = 0
        self._kinds: dict[Row | None, _Kind] = {}
        self._met_by: object = None  # the arbitration during which all but `_unmet` were met
        self._unmet: Line = collections.deque()

    def add(self, held: Held, effect: Hashable) -> None:
        """The newest one."""
        self.held.append(held)
        self._unmet.append(held)
        kind = self._kinds.get(held[1].row)
        if kind is None:
            self._kinds[held[1].row] = kind = _Kind()
        self._given += 1
        kind.last = self._given
        kind.held.append(held)
        kind.alike.setdefault(effect, collections.deque()).append(held)

    def drop(self, effect: Hashable) -> None:
        """The oldest one, which has this effect, is gone."""
        held = self.held.popleft()
        if self._unmet and self._unmet[0] is held:
            self._unmet.popleft()
        kind = self._kinds[held[1].row]
        kind.held.popleft()
        if not kind.held:
            del self._kinds[held[1].row]
            return
        kind.alike[effect].popleft()
        if not kind.alike[effect]:
            del kind.alike[effect]

    def conflicts(self, mine: "Pending", op: Operation) -> Iterator[Held]:
        """Those that are concurrent and do not commute with `op`: of all that are alike, the newest.

        What comes first is the newest of all, but where the newest operation of its command commutes with `op`.
        """
        newest: list[tuple[Held, _Kind]] = []
        for row, kind in self._kinds.items():
            if row is None or op.row is None or relation(op.row, row) != ALWAYS:
                held = _newest_concurrent(kind.held, mine)
                if held is not None:
                    newest.append((held, kind))
        if len(newest) > 1:
            newest.sort(key=lambda found: (found[0][0].clock, found[1].last), reverse=True)
        for first, kind in newest:
            if _conflict(op, first):
                yield first
            for line in _others(kind, op):
                held = _newest_concurrent(line, mine)
                if held is not None and held is not first and _conflict(op, held):
                    yield held

    def unmet(self, mine: "Pending", arbitration: object) -> Iterator[Held]:
        """The operations that had not seen `mine`, oldest first; each only once while this arbitration is open."""
        if self._met_by is not arbitration:
            self._met_by, self._unmet = arbitration, self.held.copy()
        while self._unmet and self._unmet[0][0].seen < mine.clock:
            yield self._unmet.popleft()


def _conflict(op: Operation, held: Held) -> bool:
    return not interchangeable(op, held[1])


def _others(kind: _Kind, op: Operation) -> Iterable[Line]:
    """The lines of one command, of which one may conflict though the newest operation does not."""
    theirs = kind.held[0][1]
    if op.row is not None and theirs.row is not None and op.row.change == theirs.row.change == "sets bit":
        other = kind.alike.get((op.args[2], b"0" if op.args[3] == b"1" else b"1"))  # all else commutes
        return (other,) if other is not None else ()
    return reversed(kind.alike.values())


def _newest_concurrent(line: Line, mine: "Pending") -> Held | None:
    """The newest ones may have seen `mine`, where that is read again; and the oldest may be seen by it."""
    held = line[-1]
    if held[0].seen >= mine.clock:
        n = bisect.bisect_left(line, mine.clock, key=lambda held: held[0].seen)
        if n == 0:
            return None
        held = line[n - 1]
    return held if held[0].clock > mine.seen else None


class Near:
    """The pending operations of one site that touch one key."""

    __slots__ = (
        *("place", "all", "_grouped", "_everything", "_wholes", "_adders", "_renewals", "_readers", "_computed"),
        *("_elements", "_families"),
    )

    def __init__(self, place: tuple[int, bytes]) -> None:
        self.place = place
        self.all: Line = collections.deque()
        self._grouped = False

    def __len__(self) -> int:
        return len(self.all)

    def add(self, held: Held) -> None:
        """The newest one."""
        self.all.append(held)
        if self._grouped:
            self._put(held)

    def drop(self) -> None:
        """The oldest one is gone."""
        held = self.all.popleft()
        if not self._grouped:
            return
        if self.place in held[1].footprint.reads:
            self._computed.popleft()
        for group, effect in self._groups_of(held[1]):
            group.drop(effect)
        for element in self._elements_of(held[1]):
            if not self._elements[element].held:
                del self._elements[element]
            self._families[element[0]] -= 1

    def writes(self, op: Operation) -> bool:
        """Does it write this key? Else it reads it."""
        return any((w.database, w.key) == self.place for w in op.footprint.writes)

    def groups(self, op: Operation) -> list[Group]:
        """Where operations that write the key may be that do not commute with `op`."""
        self._group()
        elements = self._elements_of(op)
        if not elements:
            return [self._everything]
        families = {element[0] for element in elements} | {TTL[0]}
        if families != {TTL[0]} and any(n and family not in families for family, n in self._families.items()):
            return [self._everything]  # elements of different types clash over the whole key
        found = [self._elements[e] for e in dict.fromkeys((*elements, TTL)) if e in self._elements]
        if TTL in elements:
            found.append(self._adders)  # of them the key may have been emptied, and its time to live lost
        return [*found, self._wholes]

    def readers(self) -> Group:
        """The operations that compute another key from this one."""
        self._group()
        return self._readers

    def renewals(self) -> Group:
        """The operations that set or clear the time to live, and nothing else."""
        self._group()
        return self._renewals

    def reading(self) -> Iterator[Held]:
        """The operations that compute something from this key, or all of them where they are few."""
        if len(self.all) > FEW:
            self._group()
        return iter(self._computed if self._grouped else self.all)

    def _group(self) -> None:
        if self._grouped:
            return
        self._grouped = True
        self._everything, self._wholes, self._adders = Group(), Group(), Group(TTL)
        self._renewals, self._readers = Group(TTL), Group()
        self._computed: Line = collections.deque()  # all that read the key; the readers are those that only read it
        self._elements: dict[Element, Group] = {}
        self._families: collections.Counter[str] = collections.Counter()
        for held in self.all:
            self._put(held)

    def _put(self, held: Held) -> None:
        if self.place in held[1].footprint.reads:
            self._computed.append(held)
        for element in self._elements_of(held[1]):
            if element not in self._elements:
                self._elements[element] = Group(element)
            self._families[element[0]] += 1
        for group, effect in self._groups_of(held[1]):
            group.add(held, effect)

    def _groups_of(self, op: Operation) -> Iterator[tuple[Group, Hashable]]:
        """Each group that an operation belongs to, and what it does there."""
        if not self.writes(op):
            yield self._readers, op.args
            return
        whole = effect_on(op.row, op.args, self.place[1], None)
        yield self._everything, whole
        if op.expires:
            yield self._renewals, whole
        elements = self._elements_of(op)
        if not elements:
            yield self._wholes, whole
        elif TTL not in elements:
            yield self._adders, whole
        for element in elements:
            yield self._elements[element], effect_on(op.row, op.args, self.place[1], element)

    def _elements_of(self, op: Operation) -> list[Element]:
        """The elements of this key that it writes, if it writes nothing else of it and reads nothing of it."""
        elements = [w.element for w in op.footprint.writes if (w.database, w.key) == self.place]
        if None in elements or self.place in op.footprint.reads:
            return []
        return list(dict.fromkeys(e for e in elements if e is not None))
