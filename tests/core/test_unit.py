"""What is settled: units of whole keys and of elements, and which winner makes all before it irrelevant."""

import pytest

from bisync.core import commands
from bisync.core.commands import EVERY_KEY, Write
from bisync.core.moment import Moment
from bisync.core.operation import Operation
from bisync.core.policy import Contender
from bisync.core.unit import Unit, is_wide, overwrites

KEY = Unit(0, b"k")
FIELD = Unit(0, b"k", ("hash", b"a"))


def winner(line: str) -> Contender:
    args = tuple(line.encode().split())
    operation = Operation(args, 0, b"", 0, commands.row(args[0]))
    return Contender(operation, (0, 1, 1), Moment(1, 2), "east")


def test_an_element_belongs_to_its_key() -> None:
    assert (KEY.whole, FIELD.whole) == (KEY, KEY)
    assert KEY.place == FIELD.place == (0, b"k")
    assert FIELD.as_write() == Write(0, b"k", ("hash", b"a"), True)


@pytest.mark.parametrize(
    ("line", "unit", "expected"),
    [
        ("SET k x", KEY, True),
        ("SET k x", FIELD, True),
        ("SET other x", KEY, False),
        ("DEL k", FIELD, True),
        ("APPEND k x", KEY, False),
        ("HSET k a 1", FIELD, True),
        ("HSET k b 1", FIELD, False),
        ("HSET k a 1", KEY, False),
        ("HINCRBY k a 1", FIELD, False),
    ],
)
def test_what_makes_all_before_it_irrelevant(line: str, unit: Unit, expected: bool) -> None:
    assert overwrites(winner(line), unit) is expected


def test_a_wide_write_touches_every_key() -> None:
    assert is_wide(Write(*EVERY_KEY, None, True))
    assert not is_wide(KEY.as_write())
