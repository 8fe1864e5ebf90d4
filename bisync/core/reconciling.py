"""Reconciling two sites that both hold data: which site's value of a key stands, and how it gets to the other one.

Both streams are followed meanwhile, so the comparison is about nothing but what was there before. The shell reads keys
at both sites; here it is known whether a write to a key was under way while it did so, because then what it read says
nothing. Each key that is not the same is arbitrated, with the site whose value stands as the authority.

A write that was computed from another key (RENAME, COPY, LMOVE ..) may have been computed from unequal values: until
all is compared, whatever such a write touches is arbitrated too, with its own site as the authority.
"""

from collections.abc import Collection, Iterable, Mapping

import attrs

from bisync.core.arbitration import Arbiter
from bisync.core.channel import Channel
from bisync.core.commands import EVERY_KEY
from bisync.core.copying import Copying
from bisync.core.link import Item
from bisync.core.moment import BEFORE_ALL
from bisync.core.operation import Operation, held_operation
from bisync.core.pending import Pending, Place
from bisync.core.policy import Contender, Verdict
from bisync.core.position import START
from bisync.core.round import Rounds
from bisync.core.rules import LAST_WRITER, Rules
from bisync.core.unit import Unit, is_wide

OPEN_MAX = 1_000
"""So many keys may be on their way at once: more would do no good."""

OPEN_BYTES_MAX = 64 << 20
"""And so many bytes of values, by the servers' estimates, because their copies are held in memory."""

STUCK_MAX = 10_000
"""So many keys may be left that cannot be settled at present; then the others wait for them."""


@attrs.frozen(slots=True)
class Choice:
    """Whose value of a key stands."""

    site: str
    rule: str  # one of actions.RULES; empty: no value is replaced
    certain: bool = True


@attrs.frozen(slots=True)
class Unequal:
    """A key that is not the same at both sites."""

    database: int  # as the source numbers it
    key: bytes
    only_at: str = ""  # the only site that holds it; empty: both do
    size: int = 0  # about how many bytes of memory it takes
    unsteady: bool = False  # it is written all the time, so nobody knows: to be settled, but it is no difference


def choose(rules: Rules, key: bytes, only_at: str = "", stands: str = "", *, copies: bool = False) -> Choice:
    """Whose value of a key stands. What only one site holds is kept.

    Of two values the policy decides; where that goes by times, which nobody knows here, the values of the site `stands`
    do (the source, unless it is known that it may have lost writes). `copies`: the source's value whatever it is, also
    none.
    """
    if copies:
        return Choice(rules.source, "" if only_at == rules.source else "order of the sites", False)
    if only_at:
        return Choice(only_at, "")
    policy = rules.policy_for(key)
    if policy != LAST_WRITER:
        return Choice(policy, "preferred site")
    stands = stands or rules.source
    return Choice(stands, "order of the sites" if stands == rules.source else "unbroken history", False)


@attrs.define(eq=False)
class Reconciling:
    """The comparison as the core sees it. One life of one engine."""

    _rules: Rules
    _copying: Copying
    _arbiter: Arbiter
    _rounds: Rounds
    _channels: Mapping[str, Channel]
    _watched: frozenset[Place] = frozenset()  # the keys that are being compared
    _touched: set[Place] = attrs.field(factory=set)  # those of them whose write was seen back since
    _open: dict[Unit, int] = attrs.field(factory=dict)  # handed in and perhaps not settled yet, with their sizes

    def __attrs_post_init__(self) -> None:
        self._arbiter.base = lambda key: self._choose(key).site if self.under_way else ""

    @property
    def under_way(self) -> bool:
        """Are the sites being reconciled?"""
        return bool(self._copying.reconciling)

    # -- what is compared
    def watch(self, places: Iterable[Place]) -> None:
        """These keys are going to be read at both sites."""
        self._watched, self._touched = frozenset(places), set()

    def seen_back(self, write: Pending) -> None:
        """A write is at both sites now. Until now it was not."""
        for operation in write.operations if self._watched else ():
            for written in operation.footprint.writes:
                place = (written.database, written.key)
                if place == EVERY_KEY:
                    self._touched |= self._watched
                elif place in self._watched:
                    self._touched.add(place)

    def touched(self) -> Collection[Place]:
        """The keys of which a write was under way at some time since `watch`: what was read of them says nothing.

        To be asked once both streams are read up to where the sites stood when the reading was done.
        """
        pending = [channel.pending for channel in self._channels.values()]
        if any(writes.wide.held for writes in pending):
            return self._watched
        return {p for p in self._watched if p in self._touched or any(w.near(p) is not None for w in pending)}

    # -- what is unequal
    def taint(self, site: str, start: int, operation: Operation) -> None:
        """A client's write at `site`, in the stream from `start` on: was it computed from a key not compared yet?"""
        if not self.under_way or not operation.footprint.reads:
            return
        for write in operation.footprint.writes:
            if not is_wide(write):
                choice = Choice(site, "order of the sites", False)
                self._settle(Unit(write.database, write.key), choice, {site: start})

    def found(self, keys: Iterable[Unequal]) -> None:
        """Keys that are not the same: they are settled from now on. Hand in no more while `waits` says so."""
        for key in keys:
            unit = Unit(key.database, key.key)
            if self._arbiter.covering(unit) is not None:
                continue  # it is being settled as a whole already
            choice = self._choose(key.key, key.only_at)
            self._open[unit] = key.size
            self._settle(unit, attrs.evolve(choice, rule="") if key.unsteady else choice, {})

    @property
    def copies(self) -> bool:
        """Is the source copied after a gap, whatever the target holds?"""
        return self._copying.begun > 0 and self._rules.on_gap == "full"

    def _choose(self, key: bytes, only_at: str = "") -> Choice:
        return choose(self._rules, key, only_at, self._copying.reconciling, copies=self.copies)

    def _settle(self, unit: Unit, choice: Choice, low: Mapping[str, int]) -> None:
        sides = [Contender(held_operation(unit.database, unit.key), START, BEFORE_ALL, x) for x in self._rules.sites]
        winner = next(side for side in sides if side.site == choice.site)
        verdict = Verdict(winner, choice.rule, choice.certain) if choice.rule else None
        self._arbiter.reconcile(unit, choice.site, low, verdict, sides)

    def waits(self) -> bool:
        """Must the comparison wait for what was handed in?"""
        self._forget_settled()
        arbiter, links = self._arbiter, [channel.link for channel in self._channels.values()]
        return (
            arbiter.busy >= OPEN_MAX
            or len(arbiter) >= STUCK_MAX
            or sum(self._open.values()) >= OPEN_BYTES_MAX
            or any(link.queued_bytes >= self._rules.queue_bytes for link in links)
        )

    @property
    def settling(self) -> int:
        """How many of the keys that were handed in are still being settled; those that cannot be now do not count."""
        self._forget_settled()
        return len(self._open)

    @property
    def blocked(self) -> bool:
        """Does a key wait for elements of it that are being settled? A note could not tell of both."""
        return any(arbitration.blocked for arbitration in self._arbiter)

    def _forget_settled(self) -> None:
        self._open = {
            unit: size
            for unit, size in self._open.items()
            if (held := self._arbiter.covering(unit)) is not None and not held.stuck
        }

    # -- the end
    def ended(self) -> None:
        """All is compared. That is told by a transaction of its own, with notes for all that is still open."""
        channel = self._channels[self._rules.source]
        parts = self._rounds.note_all_open(self._rules.target)
        channel.link.put(Item("reconciled", parts, sum(len(command) for _, command in parts)))
