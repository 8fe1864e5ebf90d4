"""Records of the conflict log, and when two of them are about the same conflict.

A life that was cut short is followed by one that reads the streams again from the floors. It finds the same conflict
again, under another number, perhaps with a write more; and what stood at the loser's site may be gone by then. So a
conflict of the same unit whose writes stand in the same stretch of a stream is taken to be the same one.
"""

from collections.abc import Iterable, Mapping

import attrs

from bisync.core.actions import WRITES_KEPT, Conflict, ConflictingWrite, Replaced
from bisync.core.commands import FUNCTIONS
from bisync.core.commands.places import Element

Offsets = Mapping[str, tuple[int, int]]
"""By site: where the first and the last write end in its stream, in bytes."""


@attrs.frozen
class Server:
    """Which server a site was while its conflicts were found."""

    address: str  # host:port, as the job file had it
    history: str  # its replication id then, 40 hex digits


Servers = Mapping[str, Server]
"""By the name of the site."""

TOLD_BYTES = 2_000  # what a conflict takes in memory besides its data, about
OPEN, SETTLED = "open", "settled"


@attrs.frozen
class Told:
    """What an engine said of a conflict. Times in ms since 1970, by the machine's clock."""

    epoch: int  # of the life that said it
    conflict: Conflict
    found_ms: int
    settled_ms: int | None = None  # None: it is open

    @property
    def size(self) -> int:
        """Bytes of data in it, and something for the rest of it."""
        c = self.conflict
        words = len(c.key) + sum(len(w.command) for w in c.writes) + (len(c.element[1]) if c.element is not None else 0)
        return TOLD_BYTES + words + len(c.replaced.value or b"" if c.replaced is not None else b"")

    def followed_by(self, newer: "Told") -> "Told":
        """The same conflict of the same life, told again before this was written."""
        return attrs.evolve(newer, found_ms=self.found_ms)


@attrs.frozen
class ConflictRecord:
    """A conflict as the log has it. Times in ms since 1970, by the machine's clock."""

    id: int  # grows; never given twice
    epoch: int  # of the life that told of it last; 0: its streams are not read any more
    number: int  # within that life
    found_ms: int
    settled_ms: int | None  # None where it is open, or where nobody knows when it was settled
    undone_ms: int | None  # when a person last put the loser's value back
    state: str  # open, settled
    database: int  # as the source numbers it
    key: bytes
    element: Element | None  # (type, name); None: the whole key
    policy: str  # last-writer, or prefer:<site>
    winner: str  # a site
    rule: str  # why it won: one of bisync.core.actions.RULES
    certain: bool  # False: the times could not tell
    counts: dict[str, int]  # by site: how many writes met
    offsets: dict[str, tuple[int, int]]  # by site: where the first and the last of them end in its stream, in bytes
    writes: tuple[ConflictingWrite, ...]  # the first and the last few of each site, oldest first
    replaced: Replaced | None  # what stood at the loser's site; None: nothing was replaced, or nobody knows
    kept: str  # SHA-256 of what was put in its place, in hex; empty: the unit was removed there

    @classmethod
    def of(cls, told: Told) -> "ConflictRecord":
        """The record of a conflict that is told for the first time; its id is 0."""
        c = told.conflict
        return cls(
            id=0,
            epoch=told.epoch,
            number=c.number,
            found_ms=told.found_ms,
            settled_ms=told.settled_ms,
            undone_ms=None,
            state=c.state,
            database=c.database,
            key=c.key,
            element=c.element,
            policy=c.policy,
            winner=c.winner,
            rule=c.rule,
            certain=c.certain,
            counts=dict(c.counts),
            offsets=dict(c.offsets),
            writes=c.writes,
            replaced=c.replaced,
            kept=c.kept,
        )

    @property
    def about_functions(self) -> bool:
        """Is it about all libraries of functions together? They belong to no database."""
        return (self.database, self.key) == FUNCTIONS

    @property
    def outcome(self) -> str:
        """One word for what became of it: open, settled, or undone (by a person)."""
        return "undone" if self.undone_ms is not None and self.state == SETTLED else self.state

    def updated(self, told: Told) -> "ConflictRecord":
        """The record after the same conflict was told again, by the same life, a later one, or a late earlier one."""
        newer = ConflictRecord.of(told)
        late = told.epoch < self.epoch
        first, second = (newer, self) if late else (self, newer)
        source, kept = _lost(first, second)
        # Who won goes with the value that lost; where none is known, the later life has decided.
        verdict = source if source.replaced is not None else second
        counts = {s: max(self.counts.get(s, 0), newer.counts.get(s, 0)) for s in {**self.counts, **newer.counts}}
        return attrs.evolve(
            self,
            epoch=second.epoch,
            number=second.number,
            state=second.state,
            settled_ms=second.settled_ms,
            policy=verdict.policy,
            winner=verdict.winner,
            rule=verdict.rule,
            certain=verdict.certain,
            counts=counts,
            offsets=_union(self.offsets, newer.offsets),
            writes=_writes(self.writes, newer.writes),
            replaced=source.replaced,
            kept=kept,
        )


def _lost(first: ConflictRecord, second: ConflictRecord) -> tuple[ConflictRecord, str]:
    """Which of two tellings, in the order of their lives, knows the value that lost; and what stands there now."""
    if second.replaced is None:
        return first, first.kept if first.replaced is not None else second.kept
    if first.replaced is None or first.replaced.site != second.replaced.site:
        return second, second.kept
    # A later restore that replaced what the first one had put there has replaced the winner's value: no loss.
    ours = second.replaced.digest == first.kept and bool(first.kept or second.replaced.kind == "absent")
    return (first if ours else second), second.kept


def overlap(a: Offsets, b: Offsets) -> bool:
    """Do the writes of two conflicts stand in the same stretch of a site's stream?"""
    return any(s in b and _meet(_stretch(a[s]), _stretch(b[s])) for s in a)


def lies_before(a: Offsets, b: Offsets) -> bool:
    """Do all writes of `a` stand before those of `b`, at each site that both name?"""
    shared = [s for s in a if s in b]
    return bool(shared) and all(_stretch(a[s])[1] < _stretch(b[s])[0] for s in shared)


def _stretch(offsets: tuple[int, int]) -> tuple[int, int]:
    """Without the copied key, which has no place in the stream; an empty stretch where there is nothing else."""
    first, last = offsets
    return (first or last or 1, last)


def _meet(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return max(a[0], b[0]) <= min(a[1], b[1])


def _union(a: Offsets, b: Offsets) -> dict[str, tuple[int, int]]:
    joined = dict(a)
    for site, (first, last) in b.items():
        held = joined.get(site, (first, last))
        joined[site] = min(held[0], first), max(held[1], last)
    return joined


def _writes(old: Iterable[ConflictingWrite], new: Iterable[ConflictingWrite]) -> tuple[ConflictingWrite, ...]:
    """The first and the last few of each site. The first reading knew their times better."""
    known = {(w.site, w.offset, w.command): w for w in [*new, *old]}
    kept: list[ConflictingWrite] = []
    for site in {w.site: None for w in known.values()}:
        mine = sorted((w for w in known.values() if w.site == site), key=lambda w: w.offset)
        kept += mine if len(mine) <= 2 * WRITES_KEPT else mine[:WRITES_KEPT] + mine[-WRITES_KEPT:]
    return tuple(sorted(kept, key=lambda w: (w.latest_us, w.earliest_us, w.offset)))
