"""How the value of each RDB type is laid out, as far as it takes to find its end.

A layout is a generator that walks a `Window` over one value. Ziplists, listpacks, intsets and zipmaps are strings to
an RDB. Source: `rdbLoadObject` in Redis `src/rdb.c` (7.0; types 22 to 25: 7.4). Redis never gives a number a new
layout, but Valkey 9 uses 22 for another one: its files start with another word.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from bisync.core.rdb.window import Waits, Window

Layout: TypeAlias = Callable[[Window], Waits[None]]

STRING: Final = 0
LIST, SET, ZSET, HASH, ZSET_2 = range(1, 6)
MODULE_PRE_GA, MODULE_2 = 6, 7
HASH_ZIPMAP, LIST_ZIPLIST, SET_INTSET, ZSET_ZIPLIST, HASH_ZIPLIST = range(9, 14)
LIST_QUICKLIST, STREAM_LISTPACKS, HASH_LISTPACK, ZSET_LISTPACK, LIST_QUICKLIST_2 = range(14, 19)
STREAM_LISTPACKS_2, SET_LISTPACK, STREAM_LISTPACKS_3 = range(19, 22)
HASH_METADATA_PRE_GA, HASH_LISTPACK_EX_PRE_GA, HASH_METADATA, HASH_LISTPACK_EX = range(22, 26)

# Types that are one string and nothing else.
BLOBS: Final = frozenset(
    (HASH_ZIPMAP, LIST_ZIPLIST, SET_INTSET, ZSET_ZIPLIST, HASH_ZIPLIST)
    + (HASH_LISTPACK, ZSET_LISTPACK, SET_LISTPACK, HASH_LISTPACK_EX_PRE_GA)
)

_TIME_BYTES = 8  # Unix time in milliseconds
_STREAM_ID_BYTES = 16
_MODULE_END, _MODULE_SINT, _MODULE_UINT, _MODULE_FLOAT, _MODULE_DOUBLE, _MODULE_STRING = range(6)
_ASCII_NOT_A_NUMBER = 253  # with 254 and 255 for the infinities: a score without digits


def _blob(window: Window) -> Waits[None]:
    yield from window.strings(1)


def _elements(window: Window) -> Waits[None]:
    count = yield from window.count()
    yield from window.strings(count)


def _pairs(window: Window) -> Waits[None]:
    count = yield from window.count()
    yield from window.strings(2 * count)


def _binary_scores(window: Window) -> Waits[None]:
    count = yield from window.count()
    yield from window.strings(count, after=8)


def _ascii_scores(window: Window) -> Waits[None]:
    count = yield from window.count()
    for _ in range(count):
        yield from window.strings(1)
        digits = yield from window.byte()
        if digits < _ASCII_NOT_A_NUMBER:
            window.skip(digits)


def _quicklist_2(window: Window) -> Waits[None]:
    nodes = yield from window.count()
    for _ in range(nodes):
        yield from window.length()  # plain or packed: a string either way
        yield from window.strings(1)


def _fields_with_expiry(window: Window) -> Waits[None]:
    count = yield from window.count()
    for _ in range(count):
        yield from window.length()
        yield from window.strings(2)


def _after_least_expiry(layout: Layout) -> Layout:
    def walk(window: Window) -> Waits[None]:
        window.skip(_TIME_BYTES)
        yield from layout(window)

    return walk


def _stream(version: int) -> Layout:
    def walk(window: Window) -> Waits[None]:
        nodes = yield from window.count()
        yield from window.strings(2 * nodes)
        # Length and last id (two numbers); from 2 on also first id, greatest deleted id, entries added.
        yield from window.lengths(3 if version < 2 else 8)
        groups = yield from window.count()
        for _ in range(groups):
            yield from _consumer_group(window, version)

    return walk


def _consumer_group(window: Window, version: int) -> Waits[None]:
    yield from window.strings(1)
    yield from window.lengths(2 if version < 2 else 3)  # last id; from 2 on also entries read
    pending = yield from window.count()
    yield from window.lengths(pending, before=_STREAM_ID_BYTES + _TIME_BYTES)  # id, delivery time, delivery count
    consumers = yield from window.count()
    for _ in range(consumers):
        # Name, time seen; from 3 on also time active. Then the ids of its pending entries.
        yield from window.strings(1, after=_TIME_BYTES if version < 3 else 2 * _TIME_BYTES)
        entries = yield from window.count()
        window.skip(entries * _STREAM_ID_BYTES)


def module_parts(window: Window) -> Waits[None]:
    """Walk over what a module wrote: parts with their kind, up to the end mark. Raises RdbError for other kinds."""
    while True:
        kind = yield from window.length()
        if kind == _MODULE_END:
            return
        if kind in (_MODULE_SINT, _MODULE_UINT):
            yield from window.length()
        elif kind == _MODULE_FLOAT:
            window.skip(4)
        elif kind == _MODULE_DOUBLE:
            window.skip(8)
        elif kind == _MODULE_STRING:
            yield from window.strings(1)
        else:
            raise window.error(f"a part of unknown kind {kind} in a module's data")


def _module(window: Window) -> Waits[None]:
    yield from window.length()  # the module's name and version
    yield from module_parts(window)


LAYOUTS: Final[dict[int, Layout]] = {
    **dict.fromkeys(BLOBS, _blob),
    **dict.fromkeys((LIST, SET, LIST_QUICKLIST), _elements),
    HASH: _pairs,
    ZSET: _ascii_scores,
    ZSET_2: _binary_scores,
    MODULE_2: _module,
    LIST_QUICKLIST_2: _quicklist_2,
    STREAM_LISTPACKS: _stream(1),
    STREAM_LISTPACKS_2: _stream(2),
    STREAM_LISTPACKS_3: _stream(3),
    HASH_METADATA_PRE_GA: _fields_with_expiry,
    HASH_METADATA: _after_least_expiry(_fields_with_expiry),
    HASH_LISTPACK_EX: _after_least_expiry(_blob),
}
