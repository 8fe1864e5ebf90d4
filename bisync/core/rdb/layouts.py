"""How the value of each RDB type is laid out, as far as it takes to find its end.

A layout is a generator that walks a `Window` over one value. Ziplists, listpacks, intsets and zipmaps are strings to
an RDB. Source: `rdbLoadObject` in `src/rdb.c` of Redis 7.0, 7.4 and 8.10 and of Valkey 9. Redis never gives a number a
new layout, but Valkey 9 uses 22 for another one: its files start with another word, and have versions from 80 on.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from bisync.core.rdb.elements import Kind
from bisync.core.rdb.window import Waits, Window

Layout: TypeAlias = Callable[[Window], Waits[None]]

STRING: Final = 0
LIST, SET, ZSET, HASH, ZSET_2 = range(1, 6)
MODULE_PRE_GA, MODULE_2 = 6, 7
HASH_ZIPMAP, LIST_ZIPLIST, SET_INTSET, ZSET_ZIPLIST, HASH_ZIPLIST = range(9, 14)
LIST_QUICKLIST, STREAM_LISTPACKS, HASH_LISTPACK, ZSET_LISTPACK, LIST_QUICKLIST_2 = range(14, 19)
STREAM_LISTPACKS_2, SET_LISTPACK, STREAM_LISTPACKS_3 = range(19, 22)
HASH_METADATA_PRE_GA, HASH_LISTPACK_EX_PRE_GA, HASH_METADATA, HASH_LISTPACK_EX = range(22, 26)
STREAM_LISTPACKS_4, STREAM_LISTPACKS_5, ARRAY = range(26, 29)
HASH_TEMPLATE_LISTPACK, HASH_TEMPLATE_LISTPACK_REF, HASH_TEMPLATE_ARRAY, HASH_TEMPLATE_ARRAY_REF = range(29, 33)
VALKEY_HASH_2: Final = 22

# Types that are one string and nothing else.
BLOBS: Final = frozenset(
    (HASH_ZIPMAP, LIST_ZIPLIST, SET_INTSET, ZSET_ZIPLIST, HASH_ZIPLIST) + (HASH_LISTPACK, ZSET_LISTPACK, SET_LISTPACK)
)

_TIME_BYTES = 8  # Unix time in milliseconds
_STREAM_ID_BYTES = 16
_MODULE_END, _MODULE_SINT, _MODULE_UINT, _MODULE_FLOAT, _MODULE_DOUBLE, _MODULE_STRING = range(6)
ARRAY_STRING, ARRAY_INTEGER, ARRAY_FLOAT, ARRAY_SMALL_STRING = range(4)  # tags of an array's elements
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


def _valkey_hash(window: Window) -> Waits[None]:
    count = yield from window.count()
    for _ in range(count):
        yield from window.strings(1)
        yield from window.strings(1, after=_TIME_BYTES)


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
        if version >= 4:
            yield from _idempotence(window)

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
        yield from _ids(window)
    if version >= 5:
        yield from _ids(window)  # entries given back


def _ids(window: Window) -> Waits[None]:
    entries = yield from window.count()
    window.skip(entries * _STREAM_ID_BYTES)


def _idempotence(window: Window) -> Waits[None]:
    yield from window.lengths(2)  # settings
    producers = yield from window.count()
    for _ in range(producers):
        yield from window.strings(1)
        entries = yield from window.count()
        for _ in range(entries):
            yield from window.strings(1)
            yield from window.lengths(2)  # id
    yield from window.lengths(2)  # counts


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


def key_metadata(window: Window) -> Waits[None]:
    """Walk over what modules attached to a key (`rdbSaveKeyMetadata` in `src/keymeta.c`; Redis 8.6 and newer)."""
    classes = yield from window.count()
    for _ in range(classes):
        window.skip(4)  # name and version
        yield from module_parts(window)


def _module(window: Window) -> Waits[None]:
    yield from window.length()  # the module's name and version
    yield from module_parts(window)


def _array(window: Window) -> Waits[None]:
    count = yield from window.count()
    yield from window.lengths((yield from window.length()) & 1)  # index of the last insertion, if there was one
    for _ in range(count):
        yield from window.length()  # index
        tag = yield from window.length()
        if tag in (ARRAY_INTEGER, ARRAY_FLOAT):
            window.skip(8)
        else:
            yield from window.strings(1)


def _template_values(window: Window) -> Waits[None]:
    number = yield from window.length()
    yield from window.strings(len(template(window, number)))


def template(window: Window, number: int) -> list[bytes]:
    """The field names of a hash template that came earlier in the RDB. Raises RdbError where there is none."""
    if number not in window.templates:
        raise window.error("a damaged hash", why=f"it refers to hash template {number}, which the RDB does not hold")
    return window.templates[number]


_COMMON: Final[dict[int, Layout]] = {
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
}

REDIS: Final[dict[int, Layout]] = {
    **_COMMON,
    HASH_METADATA_PRE_GA: _fields_with_expiry,
    HASH_LISTPACK_EX_PRE_GA: _blob,
    HASH_METADATA: _after_least_expiry(_fields_with_expiry),
    HASH_LISTPACK_EX: _after_least_expiry(_blob),
    STREAM_LISTPACKS_4: _stream(4),
    STREAM_LISTPACKS_5: _stream(5),
    ARRAY: _array,
    HASH_TEMPLATE_LISTPACK_REF: _blob,
    HASH_TEMPLATE_ARRAY_REF: _template_values,
}
"""Layouts of all types of Redis but strings. Hashes that bring their template along are found in DUMP only."""

VALKEY: Final[dict[int, Layout]] = {**_COMMON, VALKEY_HASH_2: _valkey_hash}

_KINDS: Final[dict[Kind, tuple[int, ...]]] = {
    "string": (STRING,),
    "list": (LIST, LIST_ZIPLIST, LIST_QUICKLIST, LIST_QUICKLIST_2),
    "set": (SET, SET_INTSET, SET_LISTPACK),
    "zset": (ZSET, ZSET_2, ZSET_ZIPLIST, ZSET_LISTPACK),
    "hash": (
        *(HASH, HASH_ZIPMAP, HASH_ZIPLIST, HASH_LISTPACK, HASH_METADATA_PRE_GA, HASH_LISTPACK_EX_PRE_GA),
        *(HASH_METADATA, HASH_LISTPACK_EX),
        *(HASH_TEMPLATE_LISTPACK, HASH_TEMPLATE_LISTPACK_REF, HASH_TEMPLATE_ARRAY, HASH_TEMPLATE_ARRAY_REF),
    ),
    "stream": (STREAM_LISTPACKS, STREAM_LISTPACKS_2, STREAM_LISTPACKS_3, STREAM_LISTPACKS_4, STREAM_LISTPACKS_5),
    "array": (ARRAY,),
    "module": (MODULE_2,),
}
KINDS: Final[dict[int, Kind]] = {type: kind for kind, types in _KINDS.items() for type in types}

_SINCE: Final[dict[int, int]] = {
    **dict.fromkeys(range(HASH_ZIPLIST + 1), 6),
    **dict.fromkeys((ZSET_2, MODULE_2), 8),
    LIST_QUICKLIST: 7,
    STREAM_LISTPACKS: 9,
    **dict.fromkeys((HASH_LISTPACK, ZSET_LISTPACK, LIST_QUICKLIST_2, STREAM_LISTPACKS_2), 10),
    **dict.fromkeys((SET_LISTPACK, STREAM_LISTPACKS_3), 11),
    **dict.fromkeys(range(HASH_METADATA_PRE_GA, HASH_LISTPACK_EX + 1), 12),
    STREAM_LISTPACKS_4: 13,
    **dict.fromkeys(range(STREAM_LISTPACKS_5, HASH_TEMPLATE_ARRAY_REF + 1), 15),
}
"""The RDB version that a server of at least must read to know a type. (28 may have come with 14 already.)"""

LAST_COMMON_VERSION: Final = 11  # of Redis 7.2 and Valkey 7.2 to 8; after it the two went apart
OLDEST_VALKEY_VERSION: Final = 80  # of Valkey's own versions; 12 to 79 are Redis's


def payload_version(type: int, written: int, target: int) -> int | None:
    """The RDB version to put under a payload so that a target takes it, or None where it does not know the type.

    `written` is the RDB version of the value, `target` the newest that the target's RESTORE knows. A server refuses
    payloads of newer versions than its own, and does not look at the version for anything else. So a value of a type
    that the target knows may be passed on under the target's version.
    """
    least = min(written, target)
    if least > LAST_COMMON_VERSION and (written < OLDEST_VALKEY_VERSION) != (target < OLDEST_VALKEY_VERSION):
        least = LAST_COMMON_VERSION
    elif written <= target:
        return written
    since = OLDEST_VALKEY_VERSION if written >= OLDEST_VALKEY_VERSION and type == VALKEY_HASH_2 else _SINCE[type]
    return least if since <= least else None
