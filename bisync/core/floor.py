"""Floors: per site, the place from which a starting engine must read the stream to know all that this one knows.

In a two-way job a floor is the start of a tagged transaction at or before every pending write and every write of an
open arbitration: the first thing read there says what the site had seen. In a one-way job it is the end of what is
applied.
"""

import collections
import heapq
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

import attrs

from bisync.core.position import Position
from bisync.core.tag import Tag

Owner = TypeVar("Owner")


class Floors:
    """The floors of both sites, as they move and as the committed tags tell them."""

    def __init__(self, tags: Iterable[Tag]) -> None:
        self._now: dict[str, Position] = {}
        for tag in tags:
            for site, position in tag.floors.items():
                held = self._now.get(site)
                if held is None or held.offset < position.offset:
                    self._now[site] = position
        self._told = dict(self._now)
        self._tags: dict[str, collections.deque[tuple[int, int]]] = (
            {}
        )  # starts of tagged transactions: offset, database

    def now(self) -> dict[str, Position]:
        """The floors as the next tag will tell them."""
        return dict(self._now)

    def told(self, site: str) -> Position | None:
        """The floor that a committed tag tells: what is before it will never be read again."""
        return self._told.get(site)

    def commit(self, told: Mapping[str, Position]) -> None:
        """A tag with these floors was committed."""
        self._told.update(told)

    def offset(self, site: str) -> int:
        """The floor of a site as an offset; 0 where there is none yet."""
        held = self._now.get(site)
        return held.offset if held else 0

    def begin(self, site: str, position: Position) -> None:
        """Reading of a site begins here."""
        self._now[site] = position
        self._tags[site] = collections.deque()

    def rename(self, site: str, replid: str) -> None:
        """The site's history goes on under another name; offsets stay."""
        self._now[site] = attrs.evolve(self._now[site], replid=replid)

    def tagged(self, site: str, offset: int, database: int) -> None:
        """A tagged transaction starts here in the site's stream."""
        self._tags[site].append((offset, database))

    def advance(self, site: str, low: int) -> None:
        """Move the floor to the last tagged transaction that starts at or before `low`."""
        starts = self._tags[site]
        newest = None
        while starts and starts[0][0] <= low:
            newest = starts.popleft()
        if newest is not None:
            self.move(site, *newest)
            starts.appendleft(newest)

    def move(self, site: str, offset: int, database: int) -> None:
        """Move the floor of a site forward."""
        held = self._now[site]
        if offset > held.offset:
            self._now[site] = Position(held.replid, offset, database)


class Lows(Generic[Owner]):
    """The lowest of many offsets whose owners come and go: a heap whose dead entries are dropped late."""

    def __init__(self, lives: Callable[[Owner, str, int], bool]) -> None:
        """`lives` says of an owner whether this offset at a site still counts."""
        self._lives = lives
        self._heaps: dict[str, list[tuple[int, int, Owner]]] = {}
        self._serial = itertools.count()  # so that owners are never compared
        self._sweep_at = 1000

    def note(self, owner: Owner, low: Mapping[str, int]) -> None:
        """An owner has these offsets, by site; a lower one counts beside an earlier one."""
        for site, offset in low.items():
            heapq.heappush(self._heaps.setdefault(site, []), (offset, next(self._serial), owner))

    def lowest(self, site: str, position: int) -> int:
        """The lowest offset at a site of all that live, `position` where there is none below it."""
        heap = self._heaps.get(site, [])
        if len(heap) > self._sweep_at:
            heap[:] = [entry for entry in heap if self._lives(entry[2], site, entry[0])]
            heapq.heapify(heap)
            self._sweep_at = 1000 + 2 * len(heap)
        while heap and not self._lives(heap[0][2], site, heap[0][0]):
            heapq.heappop(heap)
        return min(position, heap[0][0]) if heap else position
