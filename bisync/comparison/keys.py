"""Comparing many keys at once: their existence, type, value and expiry, in bounded memory.

Small values are read whole, many keys in one round trip: strings with GET, all others first with DUMP, whose payload
is a good fingerprint where it is equal. Where it is not (the order of a set depends on the server's random seed, and
one value has several encodings) the elements decide. Large values are compared page by page. So memory is bounded by
some MiB and the largest single element, however long a list is.

The two sites are read one after the other while clients write: a difference found here may be a write under way. Ask
again before believing it.
"""

import time
from collections.abc import Iterator, Sequence
from typing import Literal

import attrs

from bisync.comparison.elements import Details, compare_elements, shown
from bisync.comparison.pages import COUNT, Place, compare_pages, payload
from bisync.runtime.control import Refusal, Reply, Word, refused

Kind = Literal["only-source", "only-target", "type", "value", "expiry"]

SMALL = 64 << 10  # bytes by MEMORY USAGE; a larger value is read in pages
TOGETHER = 4 << 20  # bytes of values that are read in one round trip
ELEMENT = 256  # bytes that an element is taken to have where the server does not know MEMORY USAGE (before 4.0)
WHOLE: dict[bytes, tuple[Word, ...]] = {
    b"list": ("LRANGE", "{key}", 0, -1),
    b"set": ("SMEMBERS", "{key}"),
    b"hash": ("HGETALL", "{key}"),
    b"zset": ("ZRANGE", "{key}", 0, -1, "WITHSCORES"),
}
"""By type: the command that reads all elements of a small value."""


@attrs.frozen
class Difference:
    """One key that is not the same at both sites."""

    database: int  # its number at the source
    key: bytes
    kind: Kind
    source: str  # what the source holds, for people
    target: str  # what the target holds
    size: int = 0  # bytes of memory that the larger value takes, by the servers' estimates; 0: they did not say


@attrs.frozen
class _Head:
    """What one site says of a key before its value is read."""

    type: bytes  # b"none": there is no such key
    expires_ms: int | None  # by the server's clock, since 1970; None: never
    size: int | None  # bytes of memory, by the server's estimate; None: it did not say
    now_ms: int  # the server's clock when it was asked

    @property
    def missing(self) -> bool:
        return self.type == b"none"

    def describe(self) -> str:
        if self.missing:
            return "missing"
        left = "no expiry" if self.expires_ms is None else f"expires in {self.expires_ms - self.now_ms} ms"
        return f"{self.type.decode(errors='replace')}, {left}"


_Pair = tuple[bytes, _Head, _Head]


def compare(source: Place, target: Place, keys: Sequence[bytes], *, tolerance_ms: int) -> list[Difference]:
    """The keys that differ, at most one difference for each: its existence, type, value or else expiry.

    Expiries may be `tolerance_ms` apart; and a key that is missing at one site is no difference where it is about to
    expire, or should have expired, at the other. Raises SiteError where a site cannot be asked.
    """
    found: list[Difference] = []
    same_type: list[_Pair] = []
    for key, a, b in zip(keys, _heads(source, keys), _heads(target, keys)):
        if a.type == b.type:
            if not a.missing:
                same_type.append((key, a, b))
        elif not _about_to_go(a, b, tolerance_ms):
            kind: Kind = "only-target" if a.missing else "only-source" if b.missing else "type"
            found.append(Difference(source.database, key, kind, a.describe(), b.describe(), _size(a, b)))
    unequal = _values(source, target, same_type)
    for key, a, b in same_type:
        if key in unequal:
            found.append(Difference(source.database, key, "value", *unequal[key], _size(a, b)))
        elif not _same_expiry(a.expires_ms, b.expires_ms, tolerance_ms):
            found.append(Difference(source.database, key, "expiry", a.describe(), b.describe(), _size(a, b)))
    return found


def _size(a: _Head, b: _Head) -> int:
    return max(a.size or 0, b.size or 0)


def _about_to_go(a: _Head, b: _Head, tolerance_ms: int) -> bool:
    """Is the key missing at one site, and at the other only for a moment more? Each site expires by its own clock."""
    if not (a.missing or b.missing):
        return False
    expires = b.expires_ms if a.missing else a.expires_ms
    return expires is not None and expires <= max(a.now_ms, b.now_ms) + tolerance_ms


def _same_expiry(a: int | None, b: int | None, tolerance_ms: int) -> bool:
    return a == b if a is None or b is None else abs(a - b) <= tolerance_ms


def _heads(place: Place, keys: Sequence[bytes]) -> Iterator[_Head]:
    commands: list[tuple[Word, ...]] = [("TIME",)]
    for key in keys:
        commands += [("TYPE", key), ("PTTL", key), ("MEMORY", "USAGE", key)]
    clock, *replies = place.batch(commands)
    # Where the account may not use TIME, our own clock has to do.
    now = int(clock[0]) * 1000 + int(clock[1]) // 1000 if isinstance(clock, list) else int(time.time() * 1000)
    for at in range(0, len(replies), 3):
        kind, left, used = replies[at : at + 3]
        for command, reply in zip(commands[at + 1 :], (kind, left)):
            if isinstance(reply, Refusal):
                raise refused(place.control.site, command, reply)
        assert isinstance(kind, bytes) and isinstance(left, int)
        # -2: the key went between the two commands. -1: it has no expiry.
        expires = now + left if left >= 0 else None
        yield _Head(b"none" if left == -2 else kind, expires, used if isinstance(used, int) else None, now)


def _values(source: Place, target: Place, pairs: Sequence[_Pair]) -> dict[bytes, Details]:
    """The keys whose values differ, with the difference."""
    unequal: dict[bytes, Details] = {}
    small: list[tuple[bytes, bytes]] = []
    held = 0
    sizes = _sizes(source, target, pairs)
    for key, a, _ in pairs:
        if sizes[key] > SMALL:
            _note(unequal, key, compare_pages(source, target, key, a.type))
            continue
        small.append((key, a.type))
        held += sizes[key]
        if held > TOGETHER:
            unequal |= _small_values(source, target, small)
            small, held = [], 0
    return unequal | _small_values(source, target, small)


def _sizes(source: Place, target: Place, pairs: Sequence[_Pair]) -> dict[bytes, int]:
    """About how many bytes the larger of the two values has."""
    sizes = {key: max(a.size or 0, b.size or 0) for key, a, b in pairs}
    for place, side in ((source, 1), (target, 2)):
        unknown = [(pair[0], pair[1].type) for pair in pairs if pair[side].size is None]  # type: ignore[union-attr]
        counts = place.batch([(COUNT.get(kind, "EXISTS"), key) for key, kind in unknown])
        for (key, kind), n in zip(unknown, counts):
            if isinstance(n, int):
                sizes[key] = max(sizes[key], n if kind == b"string" else n * ELEMENT)
    return sizes


def _small_values(source: Place, target: Place, keys: Sequence[tuple[bytes, bytes]]) -> dict[bytes, Details]:
    unequal: dict[bytes, Details] = {}
    again: list[tuple[bytes, bytes]] = []
    reads: list[tuple[Word, ...]] = [("GET" if kind == b"string" else "DUMP", key) for key, kind in keys]
    for (key, kind), a, b in zip(keys, source.batch(reads), target.batch(reads)):
        if kind == b"string":
            if a != b:
                unequal[key] = shown(a), shown(b)
        elif not _same_payload(a, b):
            if kind in WHOLE:
                again.append((key, kind))
            else:
                _note(unequal, key, compare_pages(source, target, key, kind))
    reads = [tuple(key if word == "{key}" else word for word in WHOLE[kind]) for key, kind in again]
    for (key, kind), a, b in zip(again, source.batch(reads), target.batch(reads)):
        _note(unequal, key, compare_elements(kind, a, b))
    return unequal


def _same_payload(a: Reply, b: Reply) -> bool:
    return isinstance(a, bytes) and isinstance(b, bytes) and payload(a) == payload(b)


def _note(unequal: dict[bytes, Details], key: bytes, details: Details | None) -> None:
    if details is not None:
        unequal[key] = details
