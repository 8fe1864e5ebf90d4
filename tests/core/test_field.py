"""A field of a hash is settled together with its time to live."""

import pytest

from bisync.core.abilities import Abilities
from bisync.core.actions import Replaced
from bisync.core.field import FieldCopy, fence_field
from bisync.core.resp import pack
from bisync.core.restore import Loser, digest
from bisync.core.unit import Unit

UNIT = Unit(0, b"h", ("hash", b"f"))
OLD = Abilities()
OLD.lacks.update((b"HPEXPIRETIME", b"HPEXPIREAT"))
HGET, HPEXPIRETIME = pack(b"HGET", b"h", b"f"), pack(b"HPEXPIRETIME", b"h", b"FIELDS", 1, b"f")
HSET, HPEXPIREAT = pack(b"HSET", b"h", b"f", b"v"), pack(b"HPEXPIREAT", b"h", 5, b"FIELDS", 1, b"f")


@pytest.mark.parametrize(
    "able, replies, copy",
    [
        (Abilities(), [b"v", [5]], FieldCopy(b"h", b"f", b"v", 5)),
        (Abilities(), [b"v", [-1]], FieldCopy(b"h", b"f", b"v", None)),
        (Abilities(), [None, [-2]], FieldCopy(b"h", b"f", None, None)),
        (Abilities(), [None, []], FieldCopy(b"h", b"f", None, None)),
        (OLD, [b"v"], FieldCopy(b"h", b"f", b"v", None)),
    ],
)
def test_fence_reads_both(able: Abilities, replies: list[object], copy: FieldCopy) -> None:
    ask = fence_field(UNIT, able)
    assert ask.commands == [HGET, HPEXPIRETIME][: len(replies)]
    assert ask.read(replies) == copy


@pytest.mark.parametrize(
    "able, copy, commands",
    [
        (Abilities(), FieldCopy(b"h", b"f", b"v", 5), [HGET, HPEXPIRETIME, HSET, HPEXPIREAT]),
        (Abilities(), FieldCopy(b"h", b"f", b"v"), [HGET, HPEXPIRETIME, HSET]),
        (Abilities(), FieldCopy(b"h", b"f", None), [HGET, HPEXPIRETIME, pack(b"HDEL", b"h", b"f")]),
        (OLD, FieldCopy(b"h", b"f", b"v", 5), [HGET, HSET]),
    ],
)
def test_restore_writes_both_where_the_server_knows_them(
    able: Abilities, copy: FieldCopy, commands: list[bytes]
) -> None:
    assert copy.restore(Loser("west", able)).commands == commands


@pytest.mark.parametrize(
    "held, replaced",
    [
        ([b"v", [5]], None),
        ([b"v", [6]], Replaced("west", "value", b"v", 6, 1, digest(b"v"))),
        ([b"w", [-1]], Replaced("west", "value", b"w", None, 1, digest(b"w"))),
        ([b"long!", [5]], Replaced("west", "value", None, 5, 5, digest(b"long!"))),
        ([None, [-2]], Replaced("west", "absent", None, None, 0, "")),
    ],
)
def test_restore_tells_what_it_replaced(held: list[object], replaced: Replaced | None) -> None:
    ask = FieldCopy(b"h", b"f", b"v", 5).restore(Loser("west", Abilities(), keep_bytes=4))
    done = ask.read([*held, 0, [1]])
    assert done.replaced == replaced and done.kept == digest(b"v")
