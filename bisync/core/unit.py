"""What is settled: a key or one element of a key that two writes left in doubt, and how far its settling is."""

import attrs

from bisync.core.actions import Replaced
from bisync.core.commands import EVERY_KEY, Write, same_place
from bisync.core.commands.places import Element
from bisync.core.pending import Place
from bisync.core.policy import Contender
from bisync.core.record import Record


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


@attrs.define(slots=True, eq=False)
class Arbitration:
    """The settling of one unit."""

    unit: Unit
    authority: str
    winner: Contender | None  # None: no conflict began it, but a restart or an error reply
    low: dict[str, int]  # per site, an offset at or before every write concerned: recovery reads from there
    marked: dict[str, int] | None = (
        None  # what `low` becomes once a note says who is right: see `arbitration.Arbiter.mark`
    )
    mark: int = 0  # which note that is
    phase: str = "new"  # new -> fenced -> restoring; gone when done
    number: int = 0  # of its round; the newest is the one that counts
    fenced_at: str = ""
    overtook: bool = False  # a restore may have overtaken writes: then the authority alone has them all
    wiped: set[str] = attrs.field(factory=set)  # sites where what they had written was replaced by the other's write
    blocked: bool = False  # of a whole key: elements of it must be settled before
    dirty: bool = False  # a write was overtaken by the restore: another round is owed
    stuck: str = ""  # why the last round failed; it is tried again after a pause
    replaced: Replaced | None = None  # what the newest restore that changed something found at the loser's site
    kept: str = ""  # SHA-256 of what that restore put there, in hex
    failures: int = 0  # rounds that failed, in a row
    due_ms: int | None = None  # when a stuck one is tried again; None: not said yet
    record: Record | None = None  # for the log; None: no conflict was found over it
    absorbed: list["Absorbed"] = attrs.field(factory=list)  # of the elements that it took in


Absorbed = tuple[Record, Replaced | None, str]
"""The record of an arbitration that a whole key's took in, and what its restores had replaced and put there."""


def overwrites(winner: Contender, unit: Unit) -> bool:
    """Does the winning write make everything before it irrelevant for this unit?"""
    whole, footprint = unit.as_write(), winner.operation.footprint
    writes = footprint.writes if EVERY_KEY in footprint.written else footprint.alike(whole)
    return any(w.overwrites and w.element in (None, unit.element) and same_place(w, whole) for w in writes)


def is_wide(write: Write) -> bool:
    """Does it touch every key of a database?"""
    return (write.database, write.key) == EVERY_KEY
