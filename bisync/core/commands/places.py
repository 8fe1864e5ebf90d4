"""What a command touches: writes to places, and the keys that its outcome is computed from.

A *place* is a key or one element of a key. Elements are `("hash", field)`, `("set", member)`, `("zset", member)` and
`("ttl", b"")`, the time to live.
"""

import collections
import functools
from collections.abc import Mapping, Sequence

import attrs

EVERY_KEY: tuple[int, bytes] = (-1, b"")
"""Database and key of a write, or of a read, that touches every key. No key is like it: databases count from 0."""

FUNCTIONS: tuple[int, bytes] = (1 << 31, b"functions")
"""The place of all function libraries together. No key is like it: no server has so many databases."""

Element = tuple[str, bytes]

TTL: Element = ("ttl", b"")


@attrs.frozen(slots=True)
class Write:
    """A place that a command writes."""

    database: int  # number at the site whose stream it came from; that of EVERY_KEY where it touches every key
    key: bytes
    element: Element | None = None  # (type, name); None: the whole key, its time to live with it
    overwrites: bool = False  # the outcome does not depend on what was there before
    databases: tuple[int, ...] = ()  # with EVERY_KEY: only the keys of these databases; none given: of all


@attrs.frozen(slots=True)
class Footprint:
    """All that a command touches."""

    writes: tuple[Write, ...]
    reads: tuple[tuple[int, bytes], ...]  # database and key: the outcome depends on them, beyond the keys written

    @functools.cached_property
    def written(self) -> frozenset[tuple[int, bytes]]:
        """The keys that it writes, each with its database; EVERY_KEY among them where it touches all."""
        return frozenset((w.database, w.key) for w in self.writes)

    @functools.cached_property
    def by_key(self) -> Mapping[tuple[int, bytes], Sequence[Write]]:
        """The writes, by database and key."""
        found = collections.defaultdict(list)
        for write in self.writes:
            found[write.database, write.key].append(write)
        return dict(found)

    @functools.cached_property
    def _by_element(self) -> Mapping[tuple[int, bytes, Element | None], Sequence[Write]]:
        found = collections.defaultdict(list)
        for write in self.writes:
            found[write.database, write.key, write.element].append(write)
        return dict(found)

    @functools.cached_property
    def _types(self) -> frozenset[str]:
        return frozenset(w.element[0] for w in self.writes if w.element is not None) - {TTL[0]}

    def alike(self, write: Write) -> Sequence[Write]:
        """Those of its writes that may touch the place of this one, which touches one key: of many elements, few."""
        place, element = (write.database, write.key), write.element
        if element is None or not (element == TTL or self._types <= {element[0]}):
            return self.by_key.get(place, ())
        return *self._by_element.get((*place, None), ()), *self._by_element.get((*place, element), ())


def same_place(a: Write, b: Write) -> bool:
    """Do two writes touch the same place?

    Elements of one type are places of their own. Elements of different types clash over the whole key, as a key has one
    type; but a time to live goes with every type, and clashes with itself and with writes of the whole key only.
    Libraries of functions belong to no database: no flush touches them.
    """
    if a.database < 0 or b.database < 0:
        return FUNCTIONS[0] not in (a.database, b.database) and _databases_meet(a, b)
    if a.database != b.database or a.key != b.key:
        return False
    if a.element is None or b.element is None or a.element == b.element:
        return True
    return a.element[0] != b.element[0] and a.element != TTL and b.element != TTL


def _databases_meet(a: Write, b: Write) -> bool:
    ours, theirs = _databases(a), _databases(b)
    return not ours or not theirs or not set(ours).isdisjoint(theirs)


def _databases(write: Write) -> tuple[int, ...]:
    """The databases that a write touches; none: all of them."""
    return write.databases if write.database < 0 else (write.database,)
