"""Decoders of all values but streams: from the bytes of each RDB type to elements.

Each is a generator that walks a `Window` over one value, yields lists of elements, and None where it needs more
bytes. It holds one element, or one packed node, at a time. Source: `rdbLoadObject` in Redis `src/rdb.c`.
"""

import struct
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from bisync.core.rdb import layouts
from bisync.core.rdb.elements import ELEMENT_BYTES, ArrayState, Decodes, Element, Piece
from bisync.core.rdb.encoding import LZF, RAW, SHORT, Short, length_at, string_at
from bisync.core.rdb.lzf import Unpacker
from bisync.core.rdb.packs import Intset, Listpack, Opens, Pack, Ziplist, Zipmap
from bisync.core.rdb.window import Waits, Window

Row: TypeAlias = Callable[[bytes, int, int], tuple[Element, int, int]]
"""Decodes one element of a table: (data, index, limit of a string) to (element, its bytes, index after it).

Raises what `encoding` raises."""
Decoder: TypeAlias = Callable[[Window, Piece], Decodes]

_AT_ONCE: Final = 120  # elements taken from a pack at a time; divisible by 2 and 3, for fields, values and times
_LZF_AT_ONCE: Final = 16 * 1024  # bytes of a compressed string decompressed at a time
_NOT_A_NUMBER, _INFINITE, _MINUS_INFINITE = 253, 254, 255  # sizes of a score without digits
_QUICKLIST_PLAIN, _QUICKLIST_PACKED = 1, 2

_double = struct.Struct("<d").unpack_from
_signed = struct.Struct("<q").unpack_from


def rows(window: Window, piece: Piece, row: Row, count: int) -> Decodes:
    """Decode `count` elements that `row` reads."""
    most = window.max_value_bytes
    while count:
        data, pos, size = window.data, window.pos, piece.size
        append, limit, lacking = piece.elements.append, piece.limit, 0
        try:
            while count and size < limit:
                element, weight, pos = row(data, pos, most)
                append(element)
                size += weight + ELEMENT_BYTES
                count -= 1
        except Short as e:
            lacking = e.end - pos
        except SHORT:
            lacking = len(data) - pos + 1
        except ValueError as e:
            window.pos = pos
            raise window.error("a damaged element", why=str(e)) from None
        window.pos, piece.size = pos, size
        if lacking:
            yield from window.fill(lacking)
        elif size >= limit:
            yield piece.cut()


def _item(data: bytes, at: int, most: int) -> tuple[Element, int, int]:
    value, at = string_at(data, at, most)
    return value, len(value), at


def _pair(data: bytes, at: int, most: int) -> tuple[Element, int, int]:
    field, at = string_at(data, at, most)
    value, at = string_at(data, at, most)
    return (field, value, None), len(field) + len(value), at


def _scored(data: bytes, at: int, most: int) -> tuple[Element, int, int]:
    member, at = string_at(data, at, most)
    return (member, _double(data, at)[0]), len(member), at + 8


def _scored_in_text(data: bytes, at: int, most: int) -> tuple[Element, int, int]:
    member, at = string_at(data, at, most)
    size = data[at]
    at += 1
    if size == _NOT_A_NUMBER:
        return (member, float("nan")), len(member), at
    if size >= _INFINITE:
        return (member, float("inf" if size == _INFINITE else "-inf")), len(member), at
    end = at + size
    if end > len(data):
        raise Short(end)
    return (member, _score(data[at:end])), len(member), end


def _score(text: bytes) -> float:
    if b"_" in text:  # Python takes it for a separator of digits
        raise ValueError(f"the score {text[:40]!r}")
    return float(text)


def _field_with_expiry(least_ms: int) -> Row:
    """A field of a hash whose expiries are told by what they are after `least_ms`, plus one. 0 stands for none."""

    def row(data: bytes, at: int, most: int) -> tuple[Element, int, int]:
        after, at = length_at(data, at)
        field, at = string_at(data, at, most)
        value, at = string_at(data, at, most)
        return (field, value, after + least_ms - 1 if after else None), len(field) + len(value), at

    return row


def _field_of_valkey(data: bytes, at: int, most: int) -> tuple[Element, int, int]:
    field, at = string_at(data, at, most)
    value, at = string_at(data, at, most)
    expires_at_ms: int = _signed(data, at)[0]
    return (field, value, None if expires_at_ms == -1 else expires_at_ms), len(field) + len(value), at + 8


def _table(row: Row) -> Decoder:
    def walk(window: Window, piece: Piece) -> Decodes:
        count = yield from window.length()
        yield from rows(window, piece, row, count)

    return walk


def _hash_with_expiries(window: Window, piece: Piece) -> Decodes:
    least_ms = int.from_bytes((yield from window.take(8)), "little")
    count = yield from window.length()
    yield from rows(window, piece, _field_with_expiry(least_ms), count)


def string(window: Window, piece: Piece) -> Decodes:
    """A string, in pieces of exactly the piece's limit but for the last."""
    encoding, left, unpacked = yield from window.string_header()
    if encoding == RAW:
        while left:
            size = min(left, piece.limit)
            yield from window.fill(size)
            yield [window.data[window.pos : window.pos + size]]
            window.pos += size
            left -= size
    elif encoding == LZF:
        unpacker = Unpacker(unpacked)
        try:
            while left:
                size = min(left, _LZF_AT_ONCE)
                unpacker.feed((yield from window.take(size)))
                left -= size
                while unpacker.waiting >= piece.limit:
                    yield [unpacker.take(piece.limit)]
            unpacker.close()
        except ValueError as e:
            raise window.error("a compressed string is damaged", why=str(e)) from None
        if unpacker.waiting:
            yield [unpacker.take(unpacker.waiting)]
    else:
        yield [b"%d" % int.from_bytes((yield from window.take(left)), "little", signed=True)]


def _single(elements: list[bytes]) -> Iterable[Element]:
    return elements


def _paired(elements: list[bytes]) -> Iterable[Element]:
    if len(elements) % 2:
        raise ValueError("a field without a value")
    return [(field, value, None) for field, value in zip(elements[::2], elements[1::2])]


def _tripled(elements: list[bytes]) -> Iterable[Element]:
    if len(elements) % 3:
        raise ValueError("a field without a value or an expiry")
    parts = zip(elements[::3], elements[1::3], elements[2::3])
    return [(field, value, int(at) or None) for field, value, at in parts]


def _scores(elements: list[bytes]) -> Iterable[Element]:
    if len(elements) % 2:
        raise ValueError("a member without a score")
    return [(member, _score(score)) for member, score in zip(elements[::2], elements[1::2])]


def unpack(window: Window, piece: Piece, opens: Opens, formed: Callable[[list[bytes]], Iterable[Element]]) -> Decodes:
    """The elements of the pack that is the next string."""
    packed = yield from window.string()
    try:
        pack: Pack = opens(packed)
        while taken := pack.take(_AT_ONCE):
            piece.elements += formed(taken)
            piece.size += sum(map(len, taken)) + ELEMENT_BYTES * len(taken)
            if piece.size >= piece.limit:
                yield piece.cut()
    except ValueError as e:
        raise window.error("a damaged pack of elements", why=str(e)) from None


def _packed(opens: Opens, formed: Callable[[list[bytes]], Iterable[Element]], before: int = 0) -> Decoder:
    def walk(window: Window, piece: Piece) -> Decodes:
        window.skip(before)
        yield from unpack(window, piece, opens, formed)

    return walk


def _quicklist(window: Window, piece: Piece) -> Decodes:
    nodes = yield from window.length()
    for _ in range(nodes):
        yield from unpack(window, piece, Ziplist, _single)


def _quicklist_2(window: Window, piece: Piece) -> Decodes:
    nodes = yield from window.length()
    for _ in range(nodes):
        container = yield from window.length()
        if container == _QUICKLIST_PACKED:
            yield from unpack(window, piece, Listpack, _single)
        elif container == _QUICKLIST_PLAIN:
            yield from rows(window, piece, _item, 1)
        else:
            raise window.error("a damaged list", why=f"a node is kept in container {container}")


def _indexed(data: bytes, at: int, most: int) -> tuple[Element, int, int]:
    index, at = length_at(data, at)
    tag, at = length_at(data, at)
    if tag == layouts.ARRAY_INTEGER:
        return (index, b"%d" % _signed(data, at)[0]), 8, at + 8
    if tag == layouts.ARRAY_FLOAT:
        # The shortest digits that read as the same number, as the server's reply has them.
        return (index, repr(_double(data, at)[0]).encode()), 8, at + 8
    if tag not in (layouts.ARRAY_STRING, layouts.ARRAY_SMALL_STRING):
        raise ValueError(f"an element of an array with the unknown tag {tag}")
    value, at = string_at(data, at, most)
    return (index, value), len(value), at


def _array(window: Window, piece: Piece) -> Decodes:
    count = yield from window.length()
    known = yield from window.length()
    if known > 1:
        raise window.error("a damaged array", why=f"its mark of a last insertion is {known}")
    last = (yield from window.length()) if known else None
    piece.add(ArrayState(count, last), 16)
    yield from rows(window, piece, _indexed, count)


def _template_fields(window: Window) -> Waits[list[bytes]]:
    """The field names that the DUMP of a hash with a template brings along: a listpack, or one by one."""
    if (yield from window.length()) == 0:
        content = yield from window.string()
        try:
            return Listpack(content).take(len(content))
        except ValueError as e:
            raise window.error("a damaged hash template", why=str(e)) from None
    return (yield from string_list(window))


def string_list(window: Window) -> Waits[list[bytes]]:
    """Strings with their number before them."""
    count = yield from window.count()
    found = []
    for _ in range(count):
        found.append((yield from window.string()))
    return found


def template_number(window: Window, packed: bytes) -> int:
    """The number of the template of a packed hash: the first element of its listpack."""
    try:
        [number] = Listpack(packed).take(1)
        return int(number)
    except ValueError as e:
        raise window.error("a damaged hash", why=str(e)) from None


def _packed_values(inline: bool) -> Decoder:
    def walk(window: Window, piece: Piece) -> Decodes:
        fields = (yield from _template_fields(window)) if inline else []
        packed = yield from window.string()
        if not inline:
            fields = layouts.template(window, template_number(window, packed))
        try:
            values = Listpack(packed).take(len(packed))[1:]  # the first is the number of the template
        except ValueError as e:
            raise window.error("a damaged hash", why=str(e)) from None
        if len(values) != len(fields):
            raise window.error("a damaged hash", why=f"{len(values)} values for {len(fields)} fields")
        for field, value in zip(fields, values):
            piece.add((field, value, None), len(field) + len(value))
            if piece.size >= piece.limit:
                yield piece.cut()

    return walk


def _row_of_values(inline: bool) -> Decoder:
    def walk(window: Window, piece: Piece) -> Decodes:
        if inline:
            fields = yield from _template_fields(window)
        else:
            fields = layouts.template(window, (yield from window.length()))
        for field in fields:
            value = yield from window.string()
            piece.add((field, value, None), len(field) + len(value))
            if piece.size >= piece.limit:
                yield piece.cut()

    return walk


VALUES: Final[dict[int, Decoder]] = {
    layouts.STRING: string,
    layouts.LIST: _table(_item),
    layouts.LIST_ZIPLIST: _packed(Ziplist, _single),
    layouts.LIST_QUICKLIST: _quicklist,
    layouts.LIST_QUICKLIST_2: _quicklist_2,
    layouts.SET: _table(_item),
    layouts.SET_INTSET: _packed(Intset, _single),
    layouts.SET_LISTPACK: _packed(Listpack, _single),
    layouts.ZSET: _table(_scored_in_text),
    layouts.ZSET_2: _table(_scored),
    layouts.ZSET_ZIPLIST: _packed(Ziplist, _scores),
    layouts.ZSET_LISTPACK: _packed(Listpack, _scores),
    layouts.HASH: _table(_pair),
    layouts.HASH_ZIPMAP: _packed(Zipmap, _paired),
    layouts.HASH_ZIPLIST: _packed(Ziplist, _paired),
    layouts.HASH_LISTPACK: _packed(Listpack, _paired),
    layouts.HASH_METADATA_PRE_GA: _table(_field_with_expiry(1)),
    layouts.HASH_LISTPACK_EX_PRE_GA: _packed(Listpack, _tripled),
    layouts.HASH_METADATA: _hash_with_expiries,
    layouts.HASH_LISTPACK_EX: _packed(Listpack, _tripled, before=8),  # the least of the expiries
    layouts.ARRAY: _array,
    layouts.HASH_TEMPLATE_LISTPACK: _packed_values(inline=True),
    layouts.HASH_TEMPLATE_LISTPACK_REF: _packed_values(inline=False),
    layouts.HASH_TEMPLATE_ARRAY: _row_of_values(inline=True),
    layouts.HASH_TEMPLATE_ARRAY_REF: _row_of_values(inline=False),
}
"""Redis's types; `HASH_2` is Valkey's."""

HASH_2: Final = _table(_field_of_valkey)
