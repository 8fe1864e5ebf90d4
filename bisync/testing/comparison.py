"""The comparison of a simulated pair that reconciles its sites: a step at a time, so that all else may come between."""

import collections
from collections.abc import Callable, Mapping

from bisync.core.pair import Pair
from bisync.core.pending import Place
from bisync.core.reconciling import Unequal

Held = tuple[str, object, int | None]
"""A key's type, value, and Unix time of expiry in ms or None."""

TRIES_MAX = 5
"""A key that was being written at so many looks is settled without knowing whether it was unequal."""


class SimulatedComparison:
    """Of one life. As a real one does, it reads some keys at one site, later at the other, and then asks the core."""

    def __init__(
        self,
        sites: tuple[str, str],
        dataset: Callable[[str], Mapping[Place, Held]],
        offset: Callable[[str], int],
    ) -> None:
        """`dataset` is what a site holds at this moment, `offset` where its stream ends."""
        self._sites, self._dataset, self._offset = sites, dataset, offset
        self._places = collections.deque(sorted({place for site in sites for place in dataset(site)}))
        self._tries: collections.Counter[Place] = collections.Counter()
        self._looked_at: list[Place] = []
        self._read: dict[str, Mapping[Place, Held]] = {}
        self._offsets: dict[str, int] = {}
        self._ended = False

    def step(self, pair: Pair, size: int, now_ms: int) -> bool:
        """One step, with up to `size` keys. False: it must wait, or there is nothing left to be done."""
        if self._offsets:
            if any(pair.channels[x].processed < end for x, end in self._offsets.items()) or pair.reconciling.waits():
                return False
            self._judge(pair, now_ms)
        elif self._read:
            self._read[self._sites[1]] = self._dataset(self._sites[1])
            self._offsets = {site: self._offset(site) for site in self._sites}
        elif self._places:
            self._looked_at = [self._places.popleft() for _ in range(min(size, len(self._places)))]
            pair.reconciling.watch(self._looked_at)
            self._read = {self._sites[0]: self._dataset(self._sites[0])}
        elif not self._ended and not pair.reconciling.settling and not pair.reconciling.blocked:
            self._ended = True
            pair.all_compared(now_ms)
        else:
            return False
        return True

    def _judge(self, pair: Pair, now_ms: int) -> None:
        here, there = (self._read[site] for site in self._sites)
        touched = pair.reconciling.touched()
        found = []
        for place in self._looked_at:
            a, b = here.get(place), there.get(place)
            unsteady = place in touched
            if unsteady and self._tries[place] < TRIES_MAX:
                self._tries[place] += 1
                self._places.append(place)
            elif unsteady or a != b:
                only_at = self._sites[0] if b is None else self._sites[1] if a is None else ""
                found.append(Unequal(*place, "" if a == b else only_at, unsteady=unsteady))
        self._read, self._offsets = {}, {}
        if found:
            pair.found_unequal(found, now_ms)
