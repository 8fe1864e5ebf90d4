"""Keys of which a full copy cannot tell any more whether they will be equal, in constant memory.

While the source is copied, its stream is not acted on, so nothing shows which of the target's writes it has seen. They
stay pending, and in a long copy there may be millions of them. Beyond the bound the oldest ones that are applied at
the source are *forgotten*: all that is kept of them is their keys, in a filter. The key of a forgotten write is
*doubtful* once it is copied, or once the source shows a write to it that had not seen the forgotten one. Doubtful keys
are compared when the copy is finished; the source's value of them is right, as every write of the target went there.
"""

import hashlib
from collections.abc import Iterable

from bisync.core.actions import Notice
from bisync.core.channel import Channel
from bisync.core.commands import EVERY_KEY
from bisync.core.copying import Copying
from bisync.core.operation import Operation
from bisync.core.pending import Pending, PendingWrites, Place, places_of
from bisync.core.position import START, Clock
from bisync.core.rules import Rules
from bisync.core.unit import is_wide

FILTER_BYTES = 8 << 20
"""Of a filter. With 5 million keys in it, one key in 200 counts as held that is not: it is compared for nothing."""

_INDEXES = 4  # bits that stand for a key


class KeyFilter:
    """A set of keys that may hold more than was put in, but never less (a Bloom filter)."""

    def __init__(self, size: int = FILTER_BYTES) -> None:
        """`size` in bytes, a power of 2; they are taken when the first key is put in."""
        self._size = size
        self._bits: bytearray | None = None

    def __bool__(self) -> bool:
        return self._bits is not None

    def __contains__(self, place: Place) -> bool:
        bits = self._bits
        return bits is not None and all(bits[at >> 3] >> (at & 7) & 1 for at in self._indexes(place))

    def add(self, place: Place) -> None:
        """Put a key in."""
        if self._bits is None:
            self._bits = bytearray(self._size)
        for at in self._indexes(place):
            self._bits[at >> 3] |= 1 << (at & 7)

    def _indexes(self, place: Place) -> Iterable[int]:
        digest = hashlib.blake2b(b"%d:%b" % place, digest_size=16, usedforsecurity=False).digest()
        first, step = int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:], "big")
        mask = self._size * 8 - 1
        return [(first + n * step) & mask for n in range(_INDEXES)]


class Doubts:
    """The forgotten writes of the target, and the doubtful keys. One life of one engine."""

    def __init__(self, rules: Rules, copying: Copying) -> None:
        self._rules, self._copying = rules, copying
        self.clear()

    def clear(self) -> None:
        """All is compared."""
        self._forgotten, self._doubtful = KeyFilter(), KeyFilter()
        self.forgotten = 0  # how many writes were
        self.upto: Clock = START  # the newest of them
        self.everything = False  # are all keys doubtful?

    def __bool__(self) -> bool:
        """Is there anything to be compared, or may there be?"""
        return self.forgotten > 0 or bool(self._doubtful) or self.everything

    def __repr__(self) -> str:
        return f"<Doubts {self.forgotten} forgotten, up to {self.upto}>"

    def concern(self, place: Place) -> bool:
        """Must this key be compared?"""
        return self.everything or place in self._doubtful

    @property
    def may_arise(self) -> bool:
        """Is the source being copied, and may the transaction that ends this still say that keys are in doubt?"""
        return not (self._copying.finished or self._copying.finishing or self._copying.compares)

    def forget_applied(self, channel: Channel) -> list[Notice]:
        """Beyond the bound, keep of the target's writes only the keys. What must be said of it."""
        pending, bound, said = channel.pending, self._rules.pending_bytes, []
        if pending.bytes < bound or not self.may_arise:
            return []
        if not self.forgotten:
            text = f"{channel.origin} writes faster than it is copied to: some of its keys are compared after the copy"
            said.append(Notice("warning", "doubtful", text))
            for _, operation in pending.all():
                self._look_at_targets(operation)
        while pending.bytes > bound // 2:
            oldest = pending.oldest
            if oldest is None or oldest.clock > channel.applied:
                break  # the bound of the queue to the source holds it
            for write in pending.seen_back(oldest.clock):
                if channel.failed.pop(write.clock, ()) or write.clock in channel.missed:
                    channel.missed.discard(write.clock)
                    for operation in write.operations:
                        self.doubt(operation)
                self._forget(write)
        return said

    def _forget(self, write: Pending) -> None:
        """This write of the target, which is applied at the source, is not pending any more."""
        self.forgotten += 1
        self.upto = max(self.upto, write.clock)
        for operation in write.operations:
            if operation.footprint.reads:
                self.doubt(operation)  # what it was computed from may be copied later
            for written in operation.footprint.writes:
                if is_wide(written):
                    self.everything = True
                else:
                    self._forgotten.add((written.database, written.key))

    def doubt(self, operation: Operation) -> None:
        """What the operation writes is doubtful."""
        for written in operation.footprint.writes:
            if is_wide(written):
                self.everything = True
            else:
                self._doubtful.add((written.database, written.key))

    def met(self, operation: Operation, across: PendingWrites) -> None:
        """Instead of a comparison, where too much is unsettled already: all that could be in conflict is doubtful."""
        places = places_of(operation)
        if EVERY_KEY in places or across.wide.held:
            self.everything = True
            return
        for place in places:
            near = across.near(place)
            for _, other in near.all if near is not None else ():
                self.doubt(operation)
                self.doubt(other)

    def look(self, site: str, operation: Operation, seen: Clock) -> None:
        """Something written at a site, or copied from there, that had seen the other one's writes up to `seen`."""
        if site == self._rules.target:
            self._look_at_targets(operation)
        elif seen < self.upto:  # a forgotten write may have escaped it
            places = places_of(operation)
            if EVERY_KEY in places or any(place in self._forgotten for place in places):
                self.doubt(operation)

    def _look_at_targets(self, operation: Operation) -> None:
        if self.may_arise and operation.footprint.reads:
            self.doubt(operation)  # it may have been computed from a doubtful key
