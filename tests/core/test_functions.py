"""Libraries of functions: one place that no key has, touched by FUNCTION commands only."""

import pytest

from bisync.core.commands import (
    EVERY_KEY,
    FUNCTIONS,
    ROWS,
    Args,
    Write,
    commute,
    footprint,
    normalise,
    restrict,
    same_place,
)
from bisync.core.patterns import Scope
from tests.command_pool import calls

LIBRARY = b"#!lua name=one\nredis.register_function('f', function() return 1 end)"
OTHER = LIBRARY.replace(b"one", b"two")


def function(*words: bytes) -> Args:
    return (b"FUNCTION", *words)


CALLS = [
    function(b"LOAD", b"REPLACE", LIBRARY),
    function(b"DELETE", b"one"),
    function(b"FLUSH"),
    function(b"FLUSH", b"ASYNC"),
    function(b"RESTORE", b"payload", b"REPLACE"),
    function(b"RESTORE", b"payload", b"FLUSH"),
]


@pytest.mark.parametrize("call", CALLS)
def test_all_libraries_are_one_place(call: Args) -> None:
    overwrites = b"FLUSH" in call
    assert footprint(call, 3).writes == (Write(*FUNCTIONS, None, overwrites),)
    assert footprint(call, 3).reads == ()
    assert restrict(call, 3, Scope(include=(b"a*",))) is call


@pytest.mark.parametrize("call", CALLS)
def test_nothing_else_touches_them(call: Args) -> None:
    (write,) = footprint(call, 0).writes
    for wide in (Write(*EVERY_KEY), Write(*EVERY_KEY, None, True, (0, 1)), Write(0, b"functions")):
        assert not same_place(write, wide) and not same_place(wide, write)
    assert same_place(write, Write(*FUNCTIONS))
    for other in calls({r.name.lower() for r in ROWS}):
        assert commute(call, 0, other, 0) and commute(other, 0, call, 0)


@pytest.mark.parametrize(
    "call, becomes",
    [
        (function(b"LOAD", LIBRARY), function(b"LOAD", b"REPLACE", LIBRARY)),
        (function(b"load", b"replace", LIBRARY), function(b"load", b"replace", LIBRARY)),
        (function(b"RESTORE", b"p"), function(b"RESTORE", b"p", b"REPLACE")),
        (function(b"RESTORE", b"p", b"append"), function(b"RESTORE", b"p", b"REPLACE")),
        (function(b"RESTORE", b"p", b"FLUSH"), function(b"RESTORE", b"p", b"FLUSH")),
        (function(b"DELETE", b"one"), function(b"DELETE", b"one")),
    ],
)
def test_library_that_was_loaded_may_be_there(call: Args, becomes: Args) -> None:
    assert normalise(call) == becomes
    assert normalise(becomes) is becomes


LOAD, LOAD_OTHER = function(b"LOAD", b"REPLACE", LIBRARY), function(b"LOAD", b"REPLACE", OTHER)


@pytest.mark.parametrize(
    "p, q, said",
    [
        (LOAD, LOAD, True),
        (LOAD, LOAD_OTHER, False),
        (LOAD, function(b"DELETE", b"one"), False),
        (LOAD_OTHER, function(b"DELETE", b"one"), True),
        (function(b"LOAD", b"REPLACE", b"#!lua\nreturn"), function(b"DELETE", b"one"), False),
        (function(b"DELETE", b"one"), function(b"DELETE", b"two"), True),
        (function(b"DELETE", b"one"), function(b"delete", b"one"), True),
        (function(b"FLUSH"), function(b"FLUSH", b"ASYNC"), True),
        (function(b"FLUSH"), LOAD, False),
        (function(b"RESTORE", b"p", b"REPLACE"), function(b"RESTORE", b"q", b"REPLACE"), False),
    ],
)
def test_which_commute(p: Args, q: Args, said: bool) -> None:
    assert commute(p, 0, q, 0) == commute(q, 0, p, 0) == said


@pytest.mark.parametrize("call", [(b"PUBLISH", b"c", b"m"), (b"SPUBLISH", b"c", b"m"), (b"SCRIPT", b"FLUSH")])
def test_messages_and_scripts_are_never_in_doubt(call: Args) -> None:
    for other in (*calls({r.name.lower() for r in ROWS}), *CALLS, (b"SCRIPT", b"LOAD", b"return 1")):
        assert commute(call, 0, other, 0) and commute(other, 0, call, 0)
