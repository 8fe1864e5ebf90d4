"""Reconciling, of one life: both streams are followed, and a worker thread compares the sites key by key."""

from collections.abc import Awaitable, Callable, Collection, Sequence

import attrs
import trio

from bisync import reconcile
from bisync.config import Job
from bisync.core.pair import Pair
from bisync.core.pending import Place
from bisync.core.position import Position
from bisync.core.reconciling import Unequal
from bisync.runtime.copier import hold_reverse
from bisync.runtime.intake import Intake
from bisync.runtime.pacer import Pacer
from bisync.runtime.wallclock import WallClock

POLL_S = 0.002  # how often a comparison looks whether what it waits for has come
FEW = 32  # keys that are handed to the core at once: values of so many may come on top of its bound
SETTLE_S = 30.0  # how long the last keys may take; those that clients write all the time are never done


@attrs.define
class Reconciler:
    """`perform` carries out what the core wants, `answered` waits for replies. The thread's desk is this object."""

    job: Job
    pair: Pair
    clock: WallClock
    pacer: Pacer
    perform: Callable[[], None]
    answered: Callable[[], Awaitable[None]]
    done: int = 0  # keys looked at, at both sites together
    total: int | None = None  # how many there are about; None: not known yet

    async def attach(self, source: Intake) -> Position:
        """Follow the source's stream from now on. As with a snapshot, nothing may be on its way there meanwhile."""
        await hold_reverse(self.pair, True, self.answered)
        position = await source.begin()
        self.pair.snapshot_taken(position)
        await hold_reverse(self.pair, False, self.answered)
        return position

    async def begin(self) -> None:
        """Both streams are attached: say so at the target. Then there is no going back to the beginning."""
        self.pair.snapshot_ended(self.clock.now_ms())
        self.perform()
        while not self.pair.copying.finished:
            await self.answered()

    async def compare(self) -> None:
        """Compare all, settle what is unequal, and say at the target that it was done."""
        copies = self.pair.reconciling.copies
        await trio.to_thread.run_sync(
            lambda: reconcile.compare_all(self.job, self, copies=copies), abandon_on_cancel=True
        )
        with trio.move_on_after(SETTLE_S):
            while self.pair.reconciling.settling:
                await trio.sleep(POLL_S)
        while self.pair.reconciling.blocked:
            await trio.sleep(POLL_S)
        self.pair.all_compared(self.clock.now_ms())
        self.perform()
        while not self.pair.copying.done:
            await self.answered()

    # -- what the thread calls
    def watch(self, places: Sequence[Place]) -> None:
        """See `reconcile.Desk`."""
        trio.from_thread.run_sync(self.pair.reconciling.watch, places)

    def judge(
        self, places: Sequence[Place], unequal: Sequence[Unequal], ends: dict[str, int], *, last: bool
    ) -> Collection[Place]:
        """See `reconcile.Desk`."""
        return trio.from_thread.run(self._judge, places, unequal, ends, last)

    def read(self, site: str, commands: int, size: int) -> None:
        """See `reconcile.Desk`."""
        if self.pacer.caps_reading:
            trio.from_thread.run(self.pacer.compared, site, commands, size)

    def rest(self) -> float:
        """See `reconcile.Desk`."""
        return trio.from_thread.run(self.pacer.rest) if self.pacer.caps_reading else 0.0

    def progress(self, done: int, total: int) -> None:
        """See `reconcile.Desk`."""
        self.done, self.total = done, total

    async def _judge(
        self, places: Sequence[Place], unequal: Sequence[Unequal], ends: dict[str, int], last: bool
    ) -> Collection[Place]:
        reconciling = self.pair.reconciling
        while any(self.pair.channels[x].processed < end for x, end in ends.items()):
            await trio.sleep(POLL_S)
        touched = reconciling.touched()
        found = [u for u in unequal if (u.database, u.key) not in touched]
        if last:
            known = {(u.database, u.key): u for u in unequal}
            found += [attrs.evolve(known.get(p, Unequal(*p)), unsteady=True) for p in places if p in touched]
        for n in range(0, len(found), FEW):
            while reconciling.waits():
                await trio.sleep(POLL_S)
            self.pair.found_unequal(found[n : n + FEW], self.clock.now_ms())
            self.perform()
        return () if last else touched
