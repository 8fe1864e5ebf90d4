"""Which site holds the right value of a unit, and how far it has been copied to the other.

A *unit* is a key or one element of a key that two concurrent writes have left in doubt. Both writes are forwarded as
usual, so each site ends with the other's write last; the site where the winner landed last holds the right value and
becomes the *authority*. Then one *round*: a fence (a read of the unit) goes to the authority through the normal queue
towards it; where its echo shows up in the authority's stream, what it read joins the queue to the other site as a
restore. Client writes that the restore overtakes make the round *dirty*, and another one follows.

Nothing here sends: the rounds to begin are handed to the pair, which owns the queues.
"""

import collections
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from bisync.core.actions import Conflict, Replaced
from bisync.core.commands import EVERY_KEY, TTL, Write, same_place
from bisync.core.floor import Lows
from bisync.core.operation import Operation
from bisync.core.pending import Pending, PendingWrites, Place
from bisync.core.policy import Contender, Verdict, judge
from bisync.core.position import Clock
from bisync.core.record import Record
from bisync.core.rules import Rules
from bisync.core.unit import Absorbed, Arbitration, Unit, is_wide, overwrites

STUCK_MS_MIN, STUCK_MS_MAX = 1_000, 60_000
"""The pause before a round that failed is tried again; it doubles with each in a row."""


class Arbiter:
    """All open arbitrations of a job."""

    def __init__(self, rules: Rules, positions: Mapping[str, int]) -> None:
        """`positions` says, now and later, how far each site's stream has been read (offsets in bytes)."""
        self._rules, self._positions = rules, positions
        # While the sites are being reconciled, whose value of a key stands of what was there before: writes that only
        # add to it must not bring the other's. Empty: the sites were equal.
        self.base: Callable[[bytes], str] = lambda key: ""
        self._open: dict[Unit, Arbitration] = {}
        self._by_place: dict[Place, dict[Unit, Arbitration]] = {}
        self._types: collections.Counter[tuple[Place, str]] = collections.Counter()  # of the elements among them
        self._waiting: list[Arbitration] = []  # those whose round must begin
        self._opened: list[Arbitration] = []  # since the last `taint_pending`
        self._rounds: dict[int, Arbitration] = {}  # under way, by number
        self._stuck: list[Arbitration] = []  # to be tried again
        self._numbers = self._marks = 0
        self._records = itertools.count(1)
        self._unrecorded: dict[int, Record] = {}  # those that the log does not have yet, by number
        self._lows: Lows[Arbitration | Record] = Lows(self._lives)
        self._new: list[tuple[Record, str, Replaced | None, str]] = []  # since the last `take_told`

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Arbitration]:
        return iter(self._open.values())

    def __repr__(self) -> str:
        return f"<Arbiter {len(self._open)} open, {len(self._rounds)} rounds under way>"

    def lowest(self, site: str, position: int) -> int:
        """The offset at or before every write of an arbitration that is open or not in the log yet, else `position`."""
        return self._lows.lowest(site, position)

    def _lives(self, owner: "Arbitration | Record", site: str, offset: int) -> bool:
        if isinstance(owner, Arbitration):
            return self._open.get(owner.unit) is owner and owner.low[site] <= offset
        return owner.number in self._unrecorded

    def covering(self, unit: Unit) -> Arbitration | None:
        """The open arbitration of this unit, or of the whole key that it belongs to."""
        return self._open.get(unit.whole) or self._open.get(unit)

    # -- conflicts
    def conflict(
        self,
        unit: Unit,
        verdict: Verdict,
        met: Iterable[Contender],
        low: Mapping[str, int],
        authority: str = "",
        wiped: Collection[str] = (),
    ) -> None:
        """Two concurrent writes left a unit in doubt: settle it. `met` are the two.

        `wiped`: the sites where one of them replaces what the other one has made there.
        """
        if not authority and not wiped and not overwrites(verdict.winner, unit):
            authority = self.base(unit.key)
        self.arbitrate(unit, verdict.winner, low, authority, verdict, wiped)
        held = self.covering(unit)
        assert held is not None
        if held.record is None:
            number, policy = next(self._records), self._rules.policy_for(unit.key)
            held.record = Record(number, *unit.place, held.unit.element, policy, verdict, dict(held.low))
            self._tell(held.record, "open")
        elif held.record.quiet:
            held.record.quiet = False
            self._tell(held.record, "open")
        if not verdict.certain:
            held.record.certain = False
        for contender in met:
            held.record.met(contender)

    def reconcile(
        self,
        unit: Unit,
        authority: str,
        low: Mapping[str, int],
        verdict: Verdict | None,
        sides: Iterable[Contender],
    ) -> None:
        """The sites may hold different values of a key, and no writes say why: settle it with this authority.

        `verdict`: why it is right; the log is told, with what the sites held (`sides`), if a value is replaced. None:
        nothing can be lost by it, so it is not told.
        """
        self.arbitrate(unit, None, low, authority, absorbs=False)
        held = self.covering(unit)
        assert held is not None
        if verdict is not None and held.record is None:
            number, policy = next(self._records), self._rules.policy_for(unit.key)
            held.record = Record(number, *unit.place, None, policy, verdict, dict(held.low), verdict.certain)
            held.record.quiet = True
            for contender in sides:
                held.record.met(contender)

    @property
    def busy(self) -> int:
        """How many rounds are under way or due."""
        return len(self._rounds) + len(self._waiting)

    def failed(self, site: str, clock: Clock, place: Place) -> None:
        """A write of this site, which may have met another one over the key, failed at the other site.

        Where it is the winner, the other site does not hold the right value: its own site may.
        """
        for arbitration in self._by_place.get(place, {}).values():
            if arbitration.record is not None:
                arbitration.record.failed.add((site, clock))
            winner = arbitration.winner
            if winner is not None and not arbitration.overtook and (winner.site, winner.clock) == (site, clock):
                arbitration.dirty = arbitration.dirty or arbitration.phase != "new"
                arbitration.authority = site

    def _tell(self, record: Record, state: str, replaced: Replaced | None = None, kept: str = "") -> None:
        if record.number not in self._unrecorded:
            self._unrecorded[record.number] = record
            self._lows.note(record, record.low)
        self._new.append((record, state, replaced, kept))

    def take_told(self) -> list[Conflict]:
        """What the log must be told: conflicts that were found or settled since the last call."""
        told = [record.told(state, replaced, kept) for record, state, replaced, kept in self._new]
        self._new.clear()
        return told

    def recorded(self, numbers: Iterable[int]) -> None:
        """The log has what it was told of these conflicts: a crash does not lose them any more."""
        for number in numbers:
            self._unrecorded.pop(number, None)

    @property
    def unrecorded(self) -> int:
        """How many conflicts the log has not confirmed yet."""
        return len(self._unrecorded)

    def taint(self, site: str, start: int, op: Operation) -> None:
        """A write computed from a key that is still unequal is itself unequal: arbitrate what it writes too."""
        if not self._open:
            return
        for place in op.footprint.reads:
            near = self._open.values() if place == EVERY_KEY else self._by_place.get(place, {}).values()
            for arbitration in list(near):
                for write in op.footprint.writes:
                    if not is_wide(write):
                        unit = Unit(write.database, write.key)
                        self.arbitrate(unit, None, {site: start}, arbitration.authority)

    def taint_since(self, site: str, writes: Iterable[Pending]) -> None:
        """Taint what these writes, which are pending no more, computed from keys that have just turned out unequal."""
        if self._opened:
            for write in writes:
                for op in write.operations:
                    if op.row is not None:
                        self.taint(site, write.start, op)

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
                    self._lower(arbitration, {site: start})

    def _near(self, write: Write) -> Iterable[Arbitration]:
        """Those that a write may touch: of thousands of elements of one key, not all."""
        place = (write.database, write.key)
        if place == EVERY_KEY:
            return self._open.values()
        near = self._by_place.get(place, {})
        if write.element is None or not near:
            return near.values()
        alike = self._types[place, TTL[0]] + self._types[place, write.element[0]] + (Unit(*place) in near)
        if write.element != TTL and alike < len(near):
            return near.values()  # elements of another type
        return [near[unit] for unit in (Unit(*place), Unit(*place, write.element)) if unit in near]

    # -- opening
    def arbitrate(
        self,
        unit: Unit,
        winner: Contender | None,
        low: Mapping[str, int],
        authority: str = "",
        verdict: Verdict | None = None,
        wiped: Collection[str] = (),
        absorbs: bool = True,
    ) -> None:
        """Settle a unit: with the winner of a conflict, or for another reason with an authority.

        The winner's write lands last at the *other* site: that site holds the right value. Without `absorbs` a whole
        key waits until its elements are settled each for itself.
        """
        if winner is not None and not authority:
            authority = self._rules.other(winner.site)
        lows = {site: low.get(site, self._positions.get(site, 0)) for site in self._rules.sites}
        absorbed: list[Absorbed] = []
        overtook = verdict is None
        near: list[Arbitration] = []
        if unit.whole in self._open:
            unit = unit.whole
        elif absorbs and unit.element is None and unit.place in self._by_place:
            near = list(self._by_place[unit.place].values())
            overtook = overtook or any(a.overtook for a in near)
            over_delete = verdict is not None and verdict.rule == "update over delete"
            authority, absorbed = self._absorb(unit, winner, lows, authority, over_delete=over_delete)
        held = self._open.get(unit)
        if held is None:
            held = Arbitration(unit, authority, winner, lows, overtook=overtook, absorbed=absorbed)
            held.wiped = {*wiped, *(site for element in near for site in element.wiped)}
            held.blocked = unit.element is None and unit.place in self._by_place
            self._add(held)
            return
        self._lower(held, lows)
        held.dirty = held.dirty or held.phase != "new"
        held.wiped.update(wiped)
        free = not held.overtook and authority not in held.wiped
        if winner and (free or overwrites(winner, unit)):
            against = judge(self._rules, unit.key, winner, held.winner) if held.winner is not None else verdict
            if held.winner is None or (against is not None and against.winner is winner):
                if held.winner is not None and held.winner.site == winner.site:
                    against = verdict  # what it is newer than is its own site's: why it beat the other site's counts
                held.winner, held.authority = winner, authority
                if held.record is not None and against is not None:
                    held.record.verdict = against
                if held.blocked and overwrites(winner, unit):
                    # what its elements held does not matter any more
                    _, absorbed = self._absorb(unit, winner, held.low, authority)
                    held.absorbed += absorbed
                    self._lows.note(held, held.low)
        # otherwise the authority stays: it already holds both sites' writes, the other may not

    def _absorb(
        self, unit: Unit, winner: Contender | None, lows: dict[str, int], authority: str, *, over_delete: bool = False
    ) -> tuple[str, list[Absorbed]]:
        """An arbitration of a whole key takes in those of its elements. The authority that it must have.

        Of an element that a restore has overtaken writes of, its authority alone holds them all. Where such elements
        have different authorities, no site is right about the whole key: they stay, and the whole key waits for them.
        An update that stands `over_delete` stands whatever was decided of elements.
        """
        near = [a for a in self._by_place[unit.place].values() if a.unit.element is not None]
        bound = {a.authority for a in near if a.overtook}
        if not bound and not over_delete and any(authority in a.wiped for a in near):
            bound = {a.authority for a in near[-1:]}
        if winner is not None and overwrites(winner, unit):
            bound = set()
        elif len(bound) > 1:
            near = [a for a in near if not a.overtook]
        absorbed: list[Absorbed] = []
        for element in near:
            self._remove(element)
            absorbed += [(element.record, element.replaced, element.kept)] if element.record is not None else []
            for site in lows:
                lows[site] = min(lows[site], element.low[site])
        return (bound.pop() if len(bound) == 1 else authority), absorbed

    def _lower(self, arbitration: Arbitration, lows: Mapping[str, int]) -> None:
        """Recovery must read from these offsets, where they are lower."""
        for site, offset in lows.items():
            if arbitration.marked is not None:
                arbitration.marked[site] = min(offset, arbitration.marked[site])
            if offset < arbitration.low[site]:
                arbitration.low[site] = offset
                self._lows.note(arbitration, {site: offset})
                if arbitration.record is not None and offset < arbitration.record.low[site]:
                    arbitration.record.low[site] = offset
                    self._lows.note(arbitration.record, {site: offset})

    def _add(self, arbitration: Arbitration) -> None:
        self._open[arbitration.unit] = arbitration
        self._lows.note(arbitration, arbitration.low)
        unit = arbitration.unit
        self._by_place.setdefault(unit.place, {})[unit] = arbitration
        if unit.element is not None:
            self._types[unit.place, unit.element[0]] += 1
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
                        if not is_wide(w):
                            unit = Unit(w.database, w.key)
                            self.arbitrate(unit, None, {site: write.start}, arbitration.authority)

    def _remove(self, arbitration: Arbitration) -> None:
        unit = arbitration.unit
        del self._open[unit]
        near = self._by_place[unit.place]
        del near[unit]
        if not near:
            del self._by_place[unit.place]
        if unit.element is not None:
            kind = unit.place, unit.element[0]
            self._types[kind] -= 1
            if not self._types[kind]:
                del self._types[kind]
            self._unblock(unit)
        self._rounds.pop(arbitration.number, None)

    def _unblock(self, unit: Unit) -> None:
        """An element is done: the whole key may have waited for it."""
        whole = self._open.get(unit.whole)
        if whole is not None and whole.blocked and len(self._by_place[unit.place]) == 1:
            whole.blocked = False
            self._waiting.append(whole)

    # -- rounds
    def begin_rounds(self) -> list[Arbitration]:
        """The arbitrations whose fence must be sent now, towards their authority."""
        begun = []
        for arbitration in self._waiting:
            if (
                self._open.get(arbitration.unit) is arbitration
                and arbitration.phase == "new"
                and not arbitration.blocked
            ):
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
        arbitration.phase, arbitration.overtook = "restoring", True
        return arbitration

    def restore_came_back(self, number: int) -> Arbitration | None:
        """The echo of a restore was read. The arbitration, if with this it is done."""
        arbitration = self._rounds.get(number)
        if arbitration is None:
            return None
        if arbitration.dirty:
            self.advance(arbitration, arbitration.mark)
            self._again(arbitration)
            return None
        self._remove(arbitration)
        if arbitration.record is not None:
            arbitration.record.conclude(self._rules.other)
            if not arbitration.record.quiet or (arbitration.replaced and arbitration.replaced.kind != "absent"):
                self._tell(arbitration.record, "settled", arbitration.replaced, arbitration.kept)
        for record, replaced, kept in arbitration.absorbed:
            self._tell(record, "settled", replaced, kept)
        return arbitration

    def mark(self, arbitration: Arbitration) -> int:
        """A note is on its way that says who is right by now. Which one it is, for `advance`.

        A key that both sites write all the time is never settled; without this the floors would never move again.
        """
        self._marks += 1
        arbitration.mark = self._marks
        arbitration.marked = {site: self._positions.get(site, low) for site, low in arbitration.low.items()}
        return arbitration.mark

    def advance(self, arbitration: Arbitration, mark: int) -> None:
        """That note stands beside the data: what was read before it was sent need not be read again."""
        if (
            arbitration.marked is not None
            and arbitration.mark == mark
            and self.covering(arbitration.unit) is arbitration
        ):
            arbitration.low, arbitration.marked = arbitration.marked, None
            self._lows.note(arbitration, arbitration.low)

    def begin_again(self, number: int) -> bool:
        """An element could not be read or restored, as its key is of another type: settle the whole key.

        False where the round was about a whole key already.
        """
        arbitration = self._rounds.get(number)
        if arbitration is None:
            return True  # it does not count any more
        if arbitration.unit.element is None:
            return False
        self._remove(arbitration)
        self.arbitrate(arbitration.unit.whole, None, arbitration.low, arbitration.authority)
        whole = self._open[arbitration.unit.whole]
        if arbitration.record is not None:
            whole.absorbed.append((arbitration.record, arbitration.replaced, arbitration.kept))
        return True

    def turn(self, number: int) -> None:
        """The restore found something that the authority lacks (entries of a stream): now the other way round."""
        arbitration = self._rounds.get(number)
        if arbitration is not None:
            arbitration.authority = self._rules.other(arbitration.authority)
            self._again(arbitration)

    def under_way(self, number: int) -> Arbitration | None:
        """The arbitration whose round has this number, if it still counts."""
        return self._rounds.get(number)

    def repeat(self, number: int) -> None:
        """The round came to nothing, and there is another way: a new one begins."""
        arbitration = self._rounds.get(number)
        if arbitration is not None:
            self._again(arbitration)

    def put_off(self, number: int, reason: str) -> None:
        """The unit cannot be settled at present, and why: it stays open, and a later tick begins another round."""
        arbitration = self._rounds.get(number)
        if arbitration is not None:
            del self._rounds[number]
            arbitration.phase, arbitration.stuck, arbitration.due_ms = "new", reason, None
            arbitration.failures += 1
            self._stuck.append(arbitration)

    def wake(self, now_ms: int) -> None:
        """Time has passed: rounds that failed are tried again after their pause."""
        for arbitration in list(self._stuck):
            if arbitration.due_ms is None:
                arbitration.due_ms = now_ms + min(STUCK_MS_MAX, STUCK_MS_MIN << min(arbitration.failures - 1, 10))
            if now_ms >= arbitration.due_ms:
                self._stuck.remove(arbitration)
                self._waiting.append(arbitration)

    def _again(self, arbitration: Arbitration) -> None:
        del self._rounds[arbitration.number]
        arbitration.phase = "new"
        self._waiting.append(arbitration)
