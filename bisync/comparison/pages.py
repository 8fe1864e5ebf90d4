"""Comparing one large value page by page, in constant memory.

Strings and lists are read at both sites in step. Sets, hashes and sorted sets have no order that both share: the
source is scanned, each page looked up at the target, and the numbers of elements must agree; SCAN may return an
element twice, which does no harm this way. Streams are read by id, and their groups one after the other.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import attrs

from bisync.comparison.elements import Details, compare_lists, compare_maps, pairs, scores, shown
from bisync.runtime.control import Control, Refusal, Reply, Word

CHUNK = 1 << 20  # bytes of a string that are read at a time
PAGE = 512  # elements that are read at a time
COUNT = {b"string": "STRLEN", b"list": "LLEN", b"set": "SCARD", b"hash": "HLEN", b"zset": "ZCARD", b"stream": "XLEN"}
"""By type: the command that tells the size, in bytes or elements."""


@attrs.frozen
class Place:
    """One database of one site."""

    control: Control
    database: int

    def batch(self, commands: Sequence[Sequence[Word]]) -> list[Reply]:
        """The replies; an error reply is a `Refusal`."""
        return self.control.batch(commands, db=self.database) if commands else []

    def ask(self, *command: Word) -> Any:
        """The reply; an error reply is a `Refusal`, which equals nothing that a healthy site says."""
        return self.control.ask(*command, db=self.database)


def compare_pages(source: Place, target: Place, key: bytes, kind: bytes) -> Details | None:
    """Where two values of type `kind` differ; None: they are equal.

    A type that is not Redis's own (a module's) is compared by its DUMP, but for vector sets: the graph in a DUMP of one
    is drawn at random, and differs between two servers that hold the same.
    """
    if kind == b"vectorset":
        return _vectors(source, target, key)
    if kind not in COUNT:
        a, b = source.ask("DUMP", key), target.ask("DUMP", key)
        same = isinstance(a, bytes) and isinstance(b, bytes) and payload(a) == payload(b)
        return None if same else ("another DUMP", "another DUMP")
    a, b = source.ask(COUNT[kind], key), target.ask(COUNT[kind], key)
    if a != b or not isinstance(a, int):
        unit = "bytes" if kind == b"string" else "elements"
        first, second = (f"{n} {unit}" if isinstance(n, int) else shown(n) for n in (a, b))
        return first, second
    if kind == b"string":
        return _strings(source, target, key, a)
    if kind == b"list":
        return _lists(source, target, key, a)
    if kind == b"stream":
        return _streams(source, target, key)
    return _scanned(source, target, key, kind)


def payload(dump: bytes) -> bytes:
    """A DUMP without its last 10 bytes, RDB version and checksum, which depend on the server's version."""
    return dump[:-10]


def _strings(source: Place, target: Place, key: bytes, length: int) -> Details | None:
    for at in range(0, length, CHUNK):
        a, b = (place.ask("GETRANGE", key, at, at + CHUNK - 1) for place in (source, target))
        if a != b or isinstance(a, Refusal):
            if not isinstance(a, bytes) or not isinstance(b, bytes):
                return shown(a), shown(b)
            first = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            return tuple(f"from byte {at + first}: {shown(x[first:])}" for x in (a, b))  # type: ignore[return-value]
    return None


def _lists(source: Place, target: Place, key: bytes, length: int) -> Details | None:
    for at in range(0, length, PAGE):
        a, b = (place.ask("LRANGE", key, at, at + PAGE - 1) for place in (source, target))
        if not isinstance(a, list) or not isinstance(b, list):
            return shown(a), shown(b)
        details = compare_lists(a, b, at)
        if details is not None:
            return details
    return None


def _vectors(source: Place, target: Place, key: bytes) -> Details | None:
    """Elements, their vectors and their attributes."""
    for command in ("VCARD", "VDIM"):
        a, b = source.ask(command, key), target.ask(command, key)
        if a != b or isinstance(a, Refusal):
            return f"{command} {shown(a)}", f"{command} {shown(b)}"
    names = source.ask("VRANDMEMBER", key, source.ask("VCARD", key))  # so many, and none twice: all
    if not isinstance(names, list):
        return shown(names), "another type"
    for at in range(0, len(names), PAGE):
        some = sorted(names[at : at + PAGE])
        reads = [(command, key, name) for name in some for command in ("VEMB", "VGETATTR")]
        a, b = source.batch(reads), target.batch(reads)
        wrong = next((n for n in range(len(reads)) if a[n] != b[n] or isinstance(a[n], Refusal)), None)
        if wrong is not None:
            command, _, name = reads[wrong]
            return f"{command} of {shown(name)}: {shown(a[wrong])}", f"{shown(b[wrong])}"
    return None


def _scanned(source: Place, target: Place, key: bytes, kind: bytes) -> Details | None:
    scan = {b"set": "SSCAN", b"hash": "HSCAN", b"zset": "ZSCAN"}[kind]
    cursor: Word = 0
    while True:
        reply = source.ask(scan, key, cursor, "COUNT", PAGE)
        if not isinstance(reply, list):
            return shown(reply), "another type"
        cursor, page = reply
        details = _page(target, key, kind, page)
        if details is not None or cursor == b"0":
            return details


def _page(target: Place, key: bytes, kind: bytes, page: list[bytes]) -> Details | None:
    """Compare a page of the source's elements with the same elements at the target."""
    here: dict[bytes, object]
    there: Sequence[object]
    if kind == b"set":
        here = dict.fromkeys(page, True)
        there = [True if n == 1 else None for n in _look_up(target, "SMISMEMBER", "SISMEMBER", key, list(here))]
    elif kind == b"hash":
        here = pairs(page)
        there = _look_up(target, "HMGET", "HGET", key, list(here))
    else:
        here = dict(scores(page))
        replies = _look_up(target, "ZMSCORE", "ZSCORE", key, list(here))
        there = [float(score) if isinstance(score, bytes) else None for score in replies]
    # The numbers of elements agree, so what is only at the target shows as something that is missing there.
    held = {name: value for name, value in zip(here, there) if value is not None}
    return compare_maps(here, held, "field" if kind == b"hash" else "member")


def _look_up(place: Place, many: str, single: str, key: bytes, names: Sequence[bytes]) -> Sequence[object]:
    """What a key holds under each name; by single commands where the server has none for many (before 6.2)."""
    if not names:
        return []
    reply = place.ask(many, key, *names)
    return reply if isinstance(reply, list) else place.batch([(single, key, name) for name in names])


STREAM_FIELDS = ("last-generated-id", "max-deleted-entry-id", "entries-added")
GROUP_FIELDS = ("name", "last-delivered-id", "pending")
"""What is compared of a stream and of a group besides entries and what is pending. Not `entries-read` and `lag`:
XREADGROUP does not carry them into the replication stream, so that a server's own replica differs there too. Nor how
long an entry or a consumer has been idle."""


def _streams(source: Place, target: Place, key: bytes) -> Details | None:
    heads = [_named(place.ask("XINFO", "STREAM", key)) for place in (source, target)]
    fields = [f for f in STREAM_FIELDS if all(f in h for h in heads)]  # the older one of two servers tells less
    for field in fields:
        if heads[0][field] != heads[1][field]:
            first, second = (f"{field} {shown(h[field])}" for h in heads)
            return first, second
    details = _in_step(_entries(source, key), _entries(target, key), "entry")
    if details is not None:
        return details
    groups = [[_named(g) for g in place.ask("XINFO", "GROUPS", key)] for place in (source, target)]
    known = [{g["name"]: tuple(g[f] for f in GROUP_FIELDS) for g in gs} for gs in groups]
    details = compare_maps(known[0], known[1], "group")
    # From 7.0 a new consumer travels by a command of its own; before, one with nothing pending is unknown elsewhere.
    complete = "entries-added" in fields
    for name in sorted(known[0]) if details is None else ():
        details = details or _groups(source, target, key, name, complete)
    return details


def _groups(source: Place, target: Place, key: bytes, group: bytes, complete: bool) -> Details | None:
    noun = f"group {shown(group)}, pending entry"
    details = _in_step(_pending(source, key, group), _pending(target, key, group), noun)
    if details is not None or not complete:
        return details
    names = [
        {_named(c)["name"]: True for c in place.ask("XINFO", "CONSUMERS", key, group)} for place in (source, target)
    ]
    return compare_maps(names[0], names[1], f"group {shown(group)}, consumer")


def _named(reply: Any) -> dict[str, Any]:
    """A flat reply of names and values; the names as text."""
    return {name.decode(): value for name, value in pairs(reply).items()} if isinstance(reply, list) else {}


def _in_step(a: Iterator[list[Any]], b: Iterator[list[Any]], noun: str) -> Details | None:
    """Compare two sequences of pages; each element begins with its id."""
    ended: list[Any] = []
    while True:
        here, there = next(a, ended), next(b, ended)
        if here != there:
            maps = [{item[0]: _text(item[1:]) for item in page} for page in (here, there)]
            return compare_maps(maps[0], maps[1], noun)
        if not here:
            return None


def _text(values: list[Any]) -> bytes:
    flat = [x for v in values for x in (v if isinstance(v, list) else [v])]
    return b" ".join(x if isinstance(x, bytes) else str(x).encode() for x in flat)


def _entries(place: Place, key: bytes) -> Iterator[list[Any]]:
    start: bytes | None = b"-"
    while start is not None:
        page = place.ask("XRANGE", key, start, "+", "COUNT", PAGE)
        if not isinstance(page, list) or not page:
            return
        yield page
        start = _after(page[-1][0])


def _pending(place: Place, key: bytes, group: bytes) -> Iterator[list[Any]]:
    start: bytes | None = b"-"
    while start is not None:
        page = place.ask("XPENDING", key, group, start, "+", PAGE)
        if not isinstance(page, list) or not page:
            return
        yield [[entry, consumer, deliveries] for entry, consumer, _idle, deliveries in page]
        start = _after(page[-1][0])


def _after(entry: bytes) -> bytes | None:
    """The next id; None after the greatest. (Ranges that leave out their start exist only from 6.2.)"""
    ms, seq = (int(n) for n in entry.split(b"-"))
    if seq < 2**64 - 1:
        return b"%d-%d" % (ms, seq + 1)
    return b"%d-0" % (ms + 1) if ms < 2**64 - 1 else None
