"""Client writes that were read at one site and not yet seen back, tagged, in the other site's stream.

They are found again by key, so that a write is compared only with the pending ones that touch its keys. The index is
built when the other site writes for the first time; one that never does costs nothing.
"""

import collections
import itertools
from collections.abc import Callable, Iterable, Iterator

import attrs

from bisync.core.commands import EVERY_KEY
from bisync.core.operation import Operation
from bisync.core.position import Clock

Place = tuple[int, bytes]
"""A database, as the source numbers it, and a key."""


NEWEST = 16
"""How many pending writes a new one is compared with where its key is being settled already."""


@attrs.define(slots=True, eq=False)
class Pending:
    """What a site executed as one, on its way to the other site."""

    clock: Clock
    start: int  # offset in the stream where reading must begin to read it again
    operations: list[Operation]
    seen: Clock  # the other site's last write that it had seen: its half of the vector clock
    time_ms: int  # when it was written, as well as can be told
    size: int  # bytes
    contested: bool = False  # was a conflict found with it?

    def concurrent(self, other: "Pending") -> bool:
        """Had neither seen the other? (`other` is of the other site.)"""
        return other.clock > self.seen and self.clock > other.seen


class PendingWrites:
    """The pending writes of one site, oldest first."""

    def __init__(self) -> None:
        self._writes: collections.deque[Pending] = collections.deque()
        self._new: collections.deque[Pending] = collections.deque()  # the newest of them, not in the index yet
        self._by_place: dict[Place, collections.deque[tuple[Pending, Operation]]] = {}
        self._wide: collections.deque[tuple[Pending, Operation]] = collections.deque()
        self.size = 0  # bytes

    def __len__(self) -> int:
        return len(self._writes)

    def __repr__(self) -> str:
        return f"<PendingWrites {len(self._writes)}, {self.size} bytes>"

    @property
    def oldest(self) -> Pending | None:
        """The one that has waited longest."""
        return self._writes[0] if self._writes else None

    def add(self, write: Pending) -> None:
        """Remember a write; each is newer than those before it."""
        self._writes.append(write)
        self._new.append(write)
        self.size += write.size

    def seen_back(self, clock: Clock) -> list[Pending]:
        """Forget all writes up to `clock`, and return them: the other site's stream has shown that it holds them."""
        gone = []
        while self._writes and self._writes[0].clock <= clock:
            write = self._writes.popleft()
            self.size -= write.size
            if self._new and self._new[0] is write:
                self._new.popleft()
            else:
                self._drop(write)
            gone.append(write)
        return gone

    def holds_copied(self) -> bool:
        """Is a key of a full copy among them?"""
        return bool(self._writes) and self._writes[0].clock[1] == 0

    def touching(
        self, operation: Operation, newest_only: Callable[[Place], bool]
    ) -> Iterator[tuple[Pending, Operation]]:
        """Each pending operation that writes or reads a key which `operation` writes or reads.

        Of a key for which `newest_only` says so, the newest few: it is being settled as a whole already, so that more
        would change nothing but cost a comparison each.
        """
        while self._new:
            self._index(self._new.popleft())
        places = _places(operation)
        if EVERY_KEY in places:
            for write in self._writes:
                for held in write.operations:
                    yield write, held
            return
        met: set[int] = set()
        for place in places:
            near: Iterable[tuple[Pending, Operation]] = self._by_place.get(place, ())
            if newest_only(place):
                near = itertools.islice(reversed(self._by_place.get(place, collections.deque())), NEWEST)
            for write, held in near:
                if id(held) not in met:
                    met.add(id(held))
                    yield write, held
        yield from self._wide

    def reading(self, place: Place) -> Iterator[tuple[Pending, Operation]]:
        """Each pending operation whose outcome was computed from this key."""
        while self._new:
            self._index(self._new.popleft())
        for write, operation in (*self._by_place.get(place, ()), *self._wide):
            if place in operation.footprint.reads or EVERY_KEY in operation.footprint.reads:
                yield write, operation

    def _index(self, write: Pending) -> None:
        for operation in write.operations:
            places = _places(operation)
            if EVERY_KEY in places:
                self._wide.append((write, operation))
                continue
            for place in places:
                held = self._by_place.get(place)
                if held is None:
                    self._by_place[place] = held = collections.deque()
                held.append((write, operation))

    def _drop(self, write: Pending) -> None:
        for operation in write.operations:
            places = _places(operation)
            if EVERY_KEY in places:
                self._wide.popleft()
                continue
            for place in places:
                held = self._by_place[place]
                held.popleft()
                if not held:
                    del self._by_place[place]


def _places(operation: Operation) -> set[Place]:
    """The keys that the operation writes or reads; EVERY_KEY among them where it touches all."""
    footprint = operation.footprint
    places = {(w.database, w.key) for w in footprint.writes}
    places.update(footprint.reads)
    return places
