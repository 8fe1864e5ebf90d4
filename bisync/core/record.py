"""What the log keeps of a conflict: which writes met, which of them won, and why.

One record for each unit and arbitration: of a thousand writes that meet while a key is being settled, the first and the
last few of each site are kept, and all are counted.
"""

from collections.abc import Callable

import attrs

from bisync.core.actions import COMMAND_BYTES_MAX, WRITES_KEPT, Conflict, ConflictingWrite, Replaced
from bisync.core.policy import Contender, Verdict
from bisync.core.position import Clock
from bisync.core.rules import LAST_WRITER

TOLD_APART_MAX = 10_000
"""So many writes of a site are told apart in one record; beyond, only newer ones are counted."""


@attrs.define(slots=True, eq=False)
class Side:
    """What one site wrote, as far as it met the other's writes. They come in any order, and some more than once."""

    count: int = 0
    first: list[Contender] = attrs.field(factory=list)
    last: list[Contender] = attrs.field(factory=list)
    _counted: set[Clock] = attrs.field(factory=set)

    def add(self, contender: Contender) -> None:
        """A write that met one of the other site."""
        clock = contender.clock
        if clock in self._counted:
            return
        if len(self._counted) < TOLD_APART_MAX:
            self._counted.add(clock)
        elif clock <= self.last[-1].clock:
            return
        self.count += 1
        if len(self.first) < WRITES_KEPT or clock < self.first[-1].clock:
            self.first = sorted([*self.first, contender], key=_clock)[:WRITES_KEPT]
        if not self.last or len(self.last) < WRITES_KEPT or clock > self.last[0].clock:
            self.last = sorted([*self.last, contender], key=_clock)[-WRITES_KEPT:]

    @property
    def kept(self) -> list[Contender]:
        """The first and the last few, oldest first."""
        newest = self.first[-1].clock
        return self.first + [c for c in self.last if c.clock > newest]


def _clock(contender: Contender) -> Clock:
    return contender.clock


@attrs.define(slots=True, eq=False)
class Record:
    """A conflict as it grows while its unit is being settled."""

    number: int  # within this life
    database: int
    key: bytes
    element: tuple[str, bytes] | None
    policy: str  # last-writer, or a site
    verdict: Verdict
    low: dict[str, int]  # per site: until the log has this record, recovery reads from here
    certain: bool = True  # False: somewhere the times could not tell
    sides: dict[str, Side] = attrs.field(factory=dict)
    failed: set[tuple[str, Clock]] = attrs.field(factory=set)  # site and clock of writes that failed across
    quiet: bool = False  # of values that were unequal, and no writes met: told only where one is replaced

    def met(self, contender: Contender) -> None:
        """A write took part."""
        self.sides.setdefault(contender.site, Side()).add(contender)

    def conclude(self, other: Callable[[str], str]) -> None:
        """Settled. A winner that failed at the other site does not stand, if some write of that site did not fail."""
        winner = self.verdict.winner
        renewed = winner.operation.expires and any(site == winner.site for site, _ in self.failed)  # of another type
        if (winner.site, winner.clock) not in self.failed and not renewed:
            return
        held = [c for c in self.sides.get(other(winner.site), Side()).kept if (c.site, c.clock) not in self.failed]
        if held:
            self.verdict = Verdict(held[-1], "the other one failed", self.certain)

    def told(self, state: str, replaced: Replaced | None = None, kept: str = "") -> Conflict:
        """The record as the shell keeps it. `state`: open or settled."""
        writes = [c for side in self.sides.values() for c in side.kept]
        return Conflict(
            number=self.number,
            state=state,
            database=self.database,
            key=self.key,
            element=self.element,
            policy=self.policy if self.policy == LAST_WRITER else f"prefer:{self.policy}",
            winner=self.verdict.winner.site,
            rule=self.verdict.rule,
            certain=self.certain,
            counts={site: side.count for site, side in self.sides.items()},
            offsets={site: (_offset(s.kept[0]), _offset(s.kept[-1])) for site, s in self.sides.items()},
            writes=tuple(_write(c) for c in sorted(writes, key=lambda c: (c.when.latest_us, c.when.earliest_us))),
            replaced=replaced,
            kept=kept,
        )


def _offset(contender: Contender) -> int:
    """Where a write ends in its stream; 0 for a copied key, which stands in none."""
    _, phase, offset = contender.clock
    return offset if phase else 0


def _write(contender: Contender) -> ConflictingWrite:
    operation, when = contender.operation, contender.when
    command = b" ".join(operation.args[:COMMAND_BYTES_MAX])[:COMMAND_BYTES_MAX]
    return ConflictingWrite(contender.site, command, _offset(contender), when.earliest_us, when.latest_us)
