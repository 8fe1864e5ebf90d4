"""Which site holds the right value of a unit, and how far it has been copied to the other.

A *unit* is a key or one element of a key that two concurrent writes have left in doubt. Both writes are forwarded as
usual, so each site ends with the other's write last; the site where the winner landed last holds the right value and
becomes the *authority*. Then one *round*: a fence (a read of the unit) goes to the authority through the normal queue
towards it; where its echo shows up in the authority's stream, what it read joins the queue to the other site as a
restore. Client writes that the restore overtakes make the round *dirty*, and another one follows.

Nothing here sends: the rounds to begin are handed to the pair, which owns the queues.
"""

from collections.abc import Iterable, Iterator, Mapping

import attrs

from bisync.core.commands import EVERY_KEY, TTL, Write, commute, deletes, same_place
from bisync.core.operation import Operation
from bisync.core.pending import Pending, PendingWrites, Place
from bisync.core.rules import LAST_WRITER, Rules

Element = tuple[str, bytes]


@attrs.frozen(slots=True)
class Unit:
    """What one arbitration is about. Databases as the source numbers them."""

    database: int
    key: bytes
    element: Element | None = None  # (type, name); None: the whole key

    @property
    def place(self) -> Place:
        """Its key."""
        return self.database, self.key

    @property
    def whole(self) -> "Unit":
        """The unit of its whole key."""
        return self if self.element is None else Unit(self.database, self.key)

    def as_write(self) -> Write:
        """A write of just this unit, to compare footprints with."""
        return Write(self.database, self.key, self.element, True)


@attrs.frozen(slots=True)
class Winner:
    """The write that the policy prefers, of those that met over a unit."""

    operation: Operation
    time_ms: int
    site: str


@attrs.define(slots=True, eq=False)
class Arbitration:
    """The settling of one unit."""

    unit: Unit
    authority: str
    winner: Winner | None  # None: no conflict began it, but a restart or an error reply
    low: dict[str, int]  # per site, an offset at or before every write concerned: recovery reads from there
    phase: str = "new"  # new -> fenced -> restoring; gone when done
    number: int = 0  # of its round; the newest is the one that counts
    fenced_at: str = ""
    dirty: bool = False  # a write was overtaken by the restore: another round is owed


class Arbiter:
    """All open arbitrations of a job."""

    def __init__(self, rules: Rules, positions: Mapping[str, int]) -> None:
        """`positions` says, now and later, how far each site's stream has been read (offsets in bytes)."""
        self._rules, self._positions = rules, positions
        self._open: dict[Unit, Arbitration] = {}
        self._by_place: dict[Place, dict[Unit, Arbitration]] = {}
        self._waiting: list[Arbitration] = []  # those whose round must begin
        self._opened: list[Arbitration] = []  # since the last `taint_pending`
        self._rounds: dict[int, Arbitration] = {}  # under way, by number
        self._numbers = 0
        self.found = 0  # arbitrations that a conflict began
        self.unsettled: list[str] = []  # conflicts about all keys at once, which cannot be settled key by key

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Arbitration]:
        return iter(self._open.values())

    def __repr__(self) -> str:
        return f"<Arbiter {len(self._open)} open, {len(self._rounds)} rounds under way>"

    def lowest(self, site: str, position: int) -> int:
        """The offset at or before every write of an open arbitration, `position` where there is none."""
        return min([position, *(a.low[site] for a in self._open.values())])

    def settles(self, place: Place) -> bool:
        """Is this whole key being settled?"""
        return Unit(*place) in self._open

    # -- detection
    def compare(self, site: str, mine: Pending, theirs: Iterator[tuple[Pending, Operation]], op: Operation) -> bool:
        """Arbitrate every unit whose value depends on the order of `op`, read at `site`, and pending ones across.

        Says whether there was one.
        """
        contested = False
        for pending, held in theirs:
            if op.row is not None and op.row.change == "counts" and held.row is op.row:
                continue  # increments: the most common of hot keys
            if mine.concurrent(pending) and not commute(op.args, op.database, held.args, held.database):
                units = _units_in_doubt(op, held)
                if units:
                    contested = pending.contested = True
                    self._settle(site, mine, op, pending, held, units)
                else:
                    self._settle_elsewhere(site, mine, op, pending, held)
        return contested

    def _settle(
        self, site: str, mine: Pending, op: Operation, pending: Pending, held: Operation, units: Iterable[Unit]
    ) -> None:
        other = self._rules.other(site)
        ours, across = Winner(op, mine.time_ms, site), Winner(held, pending.time_ms, other)
        winner, loser = (ours, across) if self._beats(ours, across) else (across, ours)
        authority = ""
        if winner.operation.expires and deletes(loser.operation.args):
            # a renewal makes no key anew where it lands: the right place is where it was made, if the key lives there
            authority = winner.site
            op.overruled = winner is across and len(op.args) == 2
        for unit in units:
            self.arbitrate(unit, winner, {site: mine.start, other: pending.start}, authority)

    def _settle_elsewhere(self, site: str, mine: Pending, op: Operation, pending: Pending, held: Operation) -> None:
        """Two operations that do not commute, though they touch no place in common.

        One may have removed the last element of a key: then the key's time to live went with it at one site only. No
        write of a client's is lost by that, so it counts as no conflict.
        """
        other = self._rules.other(site)
        low = {site: mine.start, other: pending.start}
        shared = set(op.written) & set(held.written)
        for database, key in shared:
            self.arbitrate(Unit(database, key, TTL), None, low, self._rules.source)
        if not shared:
            names = f"{op.args[0].decode()} at {site} and {held.args[0].decode()} at {other}"
            self.unsettled.append(f"{names} crossed, and which keys they left unequal cannot be told")

    def taint(self, site: str, mine: Pending, op: Operation) -> None:
        """A write computed from a key that is still unequal is itself unequal: arbitrate what it writes too."""
        if not self._open:
            return
        for place in op.footprint.reads:
            near = self._open.values() if place == EVERY_KEY else self._by_place.get(place, {}).values()
            for arbitration in list(near):
                for write in op.footprint.writes:
                    if not _is_wide(write):
                        unit = Unit(write.database, write.key)
                        self.arbitrate(unit, None, {site: mine.start}, arbitration.authority)

    def mark_dirty(self, site: str, start: int, op: Operation) -> None:
        """A write at the site that will be restored, after the fence was asked for, is in danger of being overtaken."""
        if not self._rounds:
            return
        for write in op.footprint.writes:
            for arbitration in self._near(write):
                if (
                    arbitration.phase != "new"
                    and site != arbitration.authority
                    and same_place(write, arbitration.unit.as_write())
                ):
                    arbitration.dirty = True
                    arbitration.low[site] = min(arbitration.low[site], start)

    def _near(self, write: Write) -> Iterable[Arbitration]:
        place = (write.database, write.key)
        if place == EVERY_KEY:
            return self._open.values()
        return self._by_place.get(place, {}).values()

    # -- the policy
    def _beats(self, a: Winner, b: Winner) -> bool:
        """The policy's total order on writes. A delete loses to a concurrent update."""
        if a.operation.stale != b.operation.stale:
            return b.operation.stale
        if self._rules.policy != LAST_WRITER:
            return a.site == self._rules.policy
        a_deletes, b_deletes = deletes(a.operation.args), deletes(b.operation.args)
        if a_deletes != b_deletes:
            return b_deletes
        return (a.time_ms, a.site) > (b.time_ms, b.site)

    def arbitrate(self, unit: Unit, winner: Winner | None, low: Mapping[str, int], authority: str = "") -> None:
        """Settle a unit: with the winner of a conflict, or for another reason with an authority.

        The winner's write lands last at the *other* site: that site holds the right value.
        """
        if winner is not None and not authority:
            authority = self._rules.other(winner.site)
        lows = {site: low.get(site, self._positions.get(site, 0)) for site in self._rules.sites}
        if unit.whole in self._open:
            unit = unit.whole
        elif unit.element is None and unit.place in self._by_place:
            authority, winner = self._absorb(unit, winner, lows, authority)
        held = self._open.get(unit)
        if held is None:
            self.found += winner is not None
            self._add(Arbitration(unit, authority, winner, lows))
            return
        for site, offset in lows.items():
            held.low[site] = min(held.low[site], offset)
        held.dirty = held.dirty or held.phase != "new"
        if winner and _overwrites(winner, unit) and (held.winner is None or self._beats(winner, held.winner)):
            held.winner, held.authority = winner, authority
        # otherwise the authority stays: it already holds both sites' writes, the other may not

    def _absorb(
        self, unit: Unit, winner: Winner | None, lows: dict[str, int], authority: str
    ) -> tuple[str, Winner | None]:
        """An arbitration of a whole key takes in those of its elements."""
        last = None
        for last in list(self._by_place[unit.place].values()):
            self._remove(last)
            for site in lows:
                lows[site] = min(lows[site], last.low[site])
        assert last is not None
        if winner is None or not _overwrites(winner, unit):
            return last.authority, last.winner
        return authority, winner

    def _add(self, arbitration: Arbitration) -> None:
        self._open[arbitration.unit] = arbitration
        self._by_place.setdefault(arbitration.unit.place, {})[arbitration.unit] = arbitration
        self._waiting.append(arbitration)
        self._opened.append(arbitration)

    def taint_pending(self, pending: Mapping[str, PendingWrites]) -> None:
        """Taint what was computed from a key before it was known to be unequal.

        After a restart one stream may be read far ahead of the other, so a write that read the key may be pending
        before the conflict over the key is found.
        """
        while self._opened:
            arbitration = self._opened.pop()
            for site, writes in pending.items():
                for write, operation in list(writes.reading(arbitration.unit.place)):
                    for w in operation.footprint.writes:
                        if not _is_wide(w):
                            unit = Unit(w.database, w.key)
                            self.arbitrate(unit, None, {site: write.start}, arbitration.authority)

    def _remove(self, arbitration: Arbitration) -> None:
        del self._open[arbitration.unit]
        near = self._by_place[arbitration.unit.place]
        del near[arbitration.unit]
        if not near:
            del self._by_place[arbitration.unit.place]
        self._rounds.pop(arbitration.number, None)

    # -- rounds
    def begin_rounds(self) -> list[Arbitration]:
        """The arbitrations whose fence must be sent now, towards their authority."""
        begun = []
        for arbitration in self._waiting:
            if self._open.get(arbitration.unit) is arbitration and arbitration.phase == "new":
                self._numbers += 1
                arbitration.phase, arbitration.dirty = "fenced", False
                arbitration.number, arbitration.fenced_at = self._numbers, arbitration.authority
                self._rounds[arbitration.number] = arbitration
                begun.append(arbitration)
        self._waiting.clear()
        return begun

    def fence_came_back(self, number: int) -> Arbitration | None:
        """The echo of a fence was read. The arbitration whose restore must be sent now, if it still counts."""
        arbitration = self._rounds.get(number)
        if arbitration is None:
            return None
        if arbitration.authority != arbitration.fenced_at:
            self._again(arbitration)
            return None
        arbitration.phase = "restoring"
        return arbitration

    def restore_came_back(self, number: int) -> Arbitration | None:
        """The echo of a restore was read. The arbitration, if with this it is done."""
        arbitration = self._rounds.get(number)
        if arbitration is None:
            return None
        if arbitration.dirty:
            self._again(arbitration)
            return None
        self._remove(arbitration)
        return arbitration

    def begin_again(self, number: int) -> bool:
        """An element could not be read or restored, as its key is of another type: settle the whole key.

        False where the round was about a whole key already.
        """
        arbitration = self._rounds.get(number)
        if arbitration is None:
            return True  # it does not count any more
        if arbitration.unit.element is None:
            return False
        self.arbitrate(arbitration.unit.whole, None, arbitration.low, arbitration.authority)
        return True

    def _again(self, arbitration: Arbitration) -> None:
        del self._rounds[arbitration.number]
        arbitration.phase = "new"
        self._waiting.append(arbitration)


def _overwrites(winner: Winner, unit: Unit) -> bool:
    """Does the winning write make everything before it irrelevant for this unit?"""
    whole = unit.as_write()
    writes = winner.operation.footprint.writes
    return any(w.overwrites and w.element in (None, unit.element) and same_place(w, whole) for w in writes)


def _units_in_doubt(mine: Operation, theirs: Operation) -> set[Unit]:
    """The units whose value now depends on the order of two operations that do not commute."""
    units: set[Unit] = set()
    for a in mine.footprint.writes:
        for b in theirs.footprint.writes:
            if same_place(a, b):
                units.update(_units_of(a, b))
    for p, q in ((mine, theirs), (theirs, mine)):
        for database, key in p.footprint.reads:
            if any(same_place(w, Write(database, key, None, False)) for w in q.footprint.writes):
                units.update(Unit(w.database, w.key) for w in p.footprint.writes if not _is_wide(w))
    return units


def _units_of(a: Write, b: Write) -> Iterator[Unit]:
    """Of two writes to one place. A key that meets a SWAPDB is in doubt in both databases."""
    if _is_wide(a):
        a, b = b, a
    if _is_wide(a):
        return  # two wide ones: see `Arbiter.unsettled`
    if _is_wide(b):
        for database in {a.database, *(b.databases if len(b.databases) > 1 else ())}:
            yield Unit(database, a.key)
    else:
        yield Unit(a.database, a.key, a.element if a.element == b.element else None)


def _is_wide(write: Write) -> bool:
    return (write.database, write.key) == EVERY_KEY
