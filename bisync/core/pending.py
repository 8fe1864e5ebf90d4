"""Client writes that were read at one site and not yet seen back, tagged, in the other site's stream.

They are found again by key, so that a write is compared only with the pending ones that touch its keys. The index is
built when the other site writes for the first time; one that never does costs nothing.
"""

import collections
import itertools
from collections.abc import Iterable, Iterator, Sequence

import attrs

from bisync.core.awaited import AwaitedEchoes
from bisync.core.commands import EVERY_KEY
from bisync.core.moment import Moment
from bisync.core.near import Group, Held, Near
from bisync.core.operation import Operation
from bisync.core.position import Clock

Place = tuple[int, bytes]
"""A database, as the source numbers it, and a key."""

OPERATION_BYTES = 1_900
"""What a pending operation takes in memory beside its words (measured: 600, with its index 1,900, CPython 3.11)."""


@attrs.define(slots=True, eq=False)
class Pending:
    """What a site executed as one, on its way to the other site."""

    clock: Clock
    start: int  # offset in the stream where reading must begin to read it again
    operations: Sequence[Operation]
    seen: Clock  # the other site's last write that it had seen: its half of the vector clock
    when: Moment  # when it was made, as well as can be told
    size: int  # bytes of its commands in the stream
    contested: bool = False  # was a conflict found with it?

    @property
    def memory(self) -> int:
        """About how many bytes of memory it takes."""
        return self.size + OPERATION_BYTES * len(self.operations)

    def concurrent(self, other: "Pending") -> bool:
        """Had neither seen the other? (`other` is of the other site.)"""
        return other.clock > self.seen and self.clock > other.seen


class PendingWrites:
    """The pending writes of one site, oldest first."""

    def __init__(self) -> None:
        self._writes: collections.deque[Pending] = collections.deque()
        self._new: collections.deque[Pending] = collections.deque()  # the newest of them, not in the index yet
        self._by_place: dict[Place, Near] = {}
        self._wide = Group()
        self._bytes = 0
        self.awaited = AwaitedEchoes()  # of the transactions that apply them

    def __len__(self) -> int:
        return len(self._writes)

    def __repr__(self) -> str:
        return f"<PendingWrites {len(self._writes)}, {self.bytes} bytes>"

    @property
    def bytes(self) -> int:
        """About how many bytes of memory they take, with the echoes that will show them."""
        return self._bytes + self.awaited.bytes

    @property
    def oldest(self) -> Pending | None:
        """The one that has waited longest."""
        return self._writes[0] if self._writes else None

    def add(self, write: Pending) -> None:
        """Remember a write; each is newer than those before it."""
        self._writes.append(write)
        self._new.append(write)
        self._bytes += write.memory

    def seen_back(self, clock: Clock) -> list[Pending]:
        """Forget all writes up to `clock`, and return them: the other site's stream has shown that it holds them."""
        gone = []
        while self._writes and self._writes[0].clock <= clock:
            write = self._writes.popleft()
            self._bytes -= write.memory
            if self._new and self._new[0] is write:
                self._new.popleft()
            else:
                self._drop(write)
            gone.append(write)
        return gone

    def up_to(self, clock: Clock) -> Iterator[Pending]:
        """The writes that `seen_back` would forget."""
        return itertools.takewhile(lambda write: write.clock <= clock, self._writes)

    def holds_copied(self) -> bool:
        """Is a key of a full copy among them?"""
        return bool(self._writes) and self._writes[0].clock[1] == 0

    def near(self, place: Place) -> Near | None:
        """The pending operations that write or read a key, beside those that touch every key."""
        self._index_new()
        return self._by_place.get(place)

    def touch(self, places: Iterable[Place]) -> bool:
        """May a pending operation be about one of these keys?"""
        if not self._writes:
            return False
        self._index_new()
        return bool(self._wide.held) or not self._by_place.keys().isdisjoint(places)

    @property
    def wide(self) -> Group:
        """The pending operations that touch every key of a database."""
        self._index_new()
        return self._wide

    def concurrent(self, mine: Pending) -> Iterator[Held]:
        """The operations of the writes that are concurrent with `mine`, newest first."""
        for write in reversed(self._writes):
            if mine.concurrent(write):
                for operation in write.operations:
                    yield write, operation

    def all(self) -> Iterator[Held]:
        """Every pending operation, oldest first."""
        for write in self._writes:
            for operation in write.operations:
                yield write, operation

    def reading(self, place: Place) -> Iterator[Held]:
        """Each pending operation whose outcome was computed from this key."""
        near = self.near(place)
        for write, operation in (*(near.reading() if near is not None else ()), *self._wide.held):
            if place in operation.footprint.reads or EVERY_KEY in operation.footprint.reads:
                yield write, operation

    def _index_new(self) -> None:
        while self._new:
            self._index(self._new.popleft())

    def _index(self, write: Pending) -> None:
        for operation in write.operations:
            places = places_of(operation)
            if EVERY_KEY in places:
                self._wide.add((write, operation), (operation.database, operation.args))
                continue
            for place in places:
                near = self._by_place.get(place)
                if near is None:
                    self._by_place[place] = near = Near(place)
                near.add((write, operation))

    def _drop(self, write: Pending) -> None:
        for operation in write.operations:
            places = places_of(operation)
            if EVERY_KEY in places:
                self._wide.drop((operation.database, operation.args))
                continue
            for place in places:
                near = self._by_place[place]
                near.drop()
                if not near:
                    del self._by_place[place]


def places_of(operation: Operation) -> set[Place]:
    """The keys that the operation writes or reads; EVERY_KEY among them where it touches all."""
    footprint = operation.footprint
    places = {(w.database, w.key) for w in footprint.writes}
    places.update(footprint.reads)
    return places
