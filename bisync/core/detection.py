"""Finding the writes that are concurrent and do not commute, and the units that they leave in doubt.

A client write read at one site is compared with the writes of the other site that are pending. That is exact: neither
had seen the other. What it costs on a hot key is the business of `near`.
"""

import itertools
from collections.abc import Iterable, Iterator

from bisync.core.arbitration import Arbiter
from bisync.core.commands import EVERY_KEY, TTL, Footprint, Write, deletes, same_place
from bisync.core.commands.effect import same_outcome
from bisync.core.near import FEW, Group, Held, Near
from bisync.core.operation import Operation, interchangeable
from bisync.core.pending import Pending, PendingWrites, Place, places_of
from bisync.core.policy import Contender, judge
from bisync.core.rules import Rules
from bisync.core.unit import Unit, is_wide, overwrites


class Detector:
    """Compares writes of one site with the pending ones of the other, and begins the arbitrations."""

    def __init__(self, rules: Rules, arbiter: Arbiter) -> None:
        self._rules, self._arbiter = rules, arbiter
        self.unsettled: list[str] = []  # conflicts about all keys at once, which cannot be settled key by key
        self._met: dict[int, list[Unit]] = {}  # by `id` of what the operation has met: the units left in doubt

    def compare(self, site: str, mine: Pending, op: Operation, across: PendingWrites) -> None:
        """Arbitrate every unit whose value depends on the order of `op`, read at `site`, and pending ones across."""
        self._met.clear()
        places = places_of(op)
        if any(is_wide(w) for w in op.footprint.writes):
            for held in list(across.all()):
                self._meet(site, mine, op, held)
            return
        if EVERY_KEY in places:  # it reads every key: what it computed is in doubt, whichever of them was written
            places.discard(EVERY_KEY)
            newest = (held for held in across.concurrent(mine) if not interchangeable(op, held[1]))
            for held in itertools.islice(newest, 1):
                self._conflict(site, mine, op, held)
        for place in places:
            near = across.near(place)
            if near is None:
                continue
            if len(near) > FEW:
                self._meet_groups(site, mine, op, near)
                continue
            for held in near.all:
                self._meet(site, mine, op, held)
        for held in across.wide.conflicts(mine, op):
            self._conflict(site, mine, op, held)

    def _meet_groups(self, site: str, mine: Pending, op: Operation, near: Near) -> None:
        if not near.writes(op):  # what it computes is in doubt from the first conflict on until all of them are over
            for held in itertools.islice(near.groups(op)[0].conflicts(mine, op), 1):
                self._conflict(site, mine, op, held)
            return
        if deletes(op.args):
            for held in itertools.islice(near.renewals().conflicts(mine, op), 1):
                self._conflict(site, mine, op, held)
        for group in near.groups(op):
            self._meet_group(site, mine, op, near.place, group)
        readers = near.readers()
        for held in itertools.chain(readers.unmet(mine, near), itertools.islice(readers.conflicts(mine, op), 1)):
            self._meet(site, mine, op, held)

    def _meet_group(self, site: str, mine: Pending, op: Operation, place: Place, group: Group) -> None:
        """One that conflicts over what the group is about stands for all; but each must be met once."""
        for held in group.conflicts(mine, op):
            units = self._conflict(site, mine, op, held)
            unit = next((u for u in units if u.place == place and _is_about(group, u)), None)
            if unit is not None:
                for other in group.unmet(mine, self._arbiter.covering(unit)):
                    self._meet(site, mine, op, other)
                return

    def _meet(self, site: str, mine: Pending, op: Operation, held: Held) -> None:
        pending, theirs = held
        if id(theirs) in self._met:
            return  # over another key
        if op.row is not None and op.row.change == "counts" and theirs.row is op.row:
            return  # increments: the most common of hot keys
        if mine.concurrent(pending) and not interchangeable(op, theirs):
            self._conflict(site, mine, op, held)
        else:
            self._met[id(theirs)] = []

    def _conflict(self, site: str, mine: Pending, op: Operation, held: Held) -> list[Unit]:
        """Two concurrent operations that do not commute. The units that they leave in doubt."""
        units = self._met.get(id(held[1]))
        if units is None:
            self._met[id(held[1])] = units = self._settle(site, mine, op, held)
        return units

    def _settle(self, site: str, mine: Pending, op: Operation, held: Held) -> list[Unit]:
        pending, theirs = held
        other = self._rules.other(site)
        low = {site: mine.start, other: pending.start}
        units = units_in_doubt(op, theirs)
        if not units and (op.row is None or theirs.row is None):
            return []  # a copied key touches its own key only
        if not units:
            return self._settle_elsewhere(site, op, theirs, low)
        mine.contested = pending.contested = True
        ours = Contender(op, mine.clock, mine.when, site)
        across = Contender(theirs, pending.clock, pending.when, other)
        for unit in units:
            verdict = judge(self._rules, unit.key, ours, across)
            winner, loser = verdict.winner, across if verdict.winner is ours else ours
            authority = ""
            if winner.operation.expires and deletes(loser.operation.args):
                # a renewal makes no key anew where it lands: the right place is where it was made, if it lives there
                authority = winner.site
                if winner is across and op.args[0].upper() in (b"DEL", b"UNLINK"):
                    op.overruled |= {unit.key}
            wiped = {self._rules.other(c.site) for c in (ours, across) if overwrites(c, unit)}
            self._arbiter.conflict(unit, verdict, (ours, across), low, authority, wiped)
            if unit.key in op.overruled:
                self._arbiter.failed(site, mine.clock, unit.place)
        return units

    def _settle_elsewhere(self, site: str, op: Operation, theirs: Operation, low: dict[str, int]) -> list[Unit]:
        """Two operations that do not commute, though they touch no place in common.

        One may have removed the last element of a key: then the key's time to live went with it at one site only. No
        write of a client's is lost by that, so it counts as no conflict.
        """
        shared = sorted(set(op.written) & set(theirs.written))
        units = [Unit(database, key, TTL) for database, key in shared]
        for unit in units:
            self._arbiter.arbitrate(unit, None, low, self._rules.source)
        if not shared:
            other = self._rules.other(site)
            names = f"{op.args[0].decode()} at {site} and {theirs.args[0].decode()} at {other}"
            self.unsettled.append(f"{names} crossed, and which keys they left unequal cannot be told")
        return units


def _is_about(group: Group, unit: Unit) -> bool:
    return group.element is None or unit.element in (None, group.element)


def units_in_doubt(mine: Operation, theirs: Operation) -> list[Unit]:
    """The units whose value now depends on the order of two operations that do not commute."""
    units: dict[Unit, None] = {}
    for a, b in _near(mine.footprint, theirs.footprint):
        if same_place(a, b) and not _equal_outcome(mine, a, theirs, b):
            units.update(dict.fromkeys(_units_of(a, b)))
    for p, q in ((mine.footprint, theirs.footprint), (theirs.footprint, mine.footprint)):
        if any(_is_written(place, q) for place in p.reads):
            units.update((Unit(w.database, w.key), None) for w in p.writes if not is_wide(w))
    return list(units)


def _is_written(place: Place, footprint: Footprint) -> bool:
    if place == EVERY_KEY or EVERY_KEY in footprint.written:
        return any(same_place(w, Write(*place, None, False)) for w in footprint.writes)
    return place in footprint.written


def _near(mine: Footprint, theirs: Footprint) -> Iterable[tuple[Write, Write]]:
    """Pairs of writes among which are all that touch the same place: of thousands, not each with each."""
    if EVERY_KEY in mine.written or EVERY_KEY in theirs.written:
        yield from itertools.product(mine.writes, theirs.writes)
        return
    for place in sorted(mine.written & theirs.written):
        ours, across = mine.by_key[place], theirs.by_key[place]
        if min(len(ours), len(across)) <= FEW < max(len(ours), len(across)):
            few, many = (ours, theirs) if len(ours) <= FEW else (across, mine)
            for write in few:
                for other in many.alike(write):
                    yield (write, other) if few is ours else (other, write)
        else:
            yield from itertools.product(ours, across)


def _equal_outcome(mine: Operation, a: Write, theirs: Operation, b: Write) -> bool:
    """Of several places that both write: do both make the same of this one?"""
    if a.element != b.element or is_wide(a) or is_wide(b):
        return False
    return same_outcome(mine.row, mine.args, theirs.row, theirs.args, a.key, a.element)


def _units_of(a: Write, b: Write) -> Iterator[Unit]:
    """Of two writes to one place. A key that meets a SWAPDB is in doubt in both databases."""
    if is_wide(a):
        a, b = b, a
    if is_wide(a):
        return  # two wide ones: see `Detector.unsettled`
    if is_wide(b):
        for database in dict.fromkeys((a.database, *(b.databases if len(b.databases) > 1 else ()))):
            yield Unit(database, a.key)
    else:
        yield Unit(a.database, a.key, a.element if a.element == b.element else None)
