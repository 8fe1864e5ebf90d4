"""Commands as older servers know them: that each does the same there is seen on real servers in tests/versions."""

import pytest

from bisync.core.dialect import spoken
from bisync.core.server import Server

NEW = Server((7, 0, 15))
RESTORE = (b"RESTORE", b"k", b"5", b"payload", b"REPLACE", b"ABSTTL")
SET = (b"SET", b"k", b"v", b"PXAT", b"5")


@pytest.mark.parametrize("args", [RESTORE, SET, (b"SET", b"k", b"v"), (b"LMOVE", b"a", b"b", b"RIGHT", b"LEFT")])
def test_new_servers_get_the_words_as_they_are(args: tuple[bytes, ...]) -> None:
    assert spoken(args, NEW) is args
    assert spoken(args, Server()) is args


@pytest.mark.parametrize(
    ("version", "name"), [((2, 8), b"del"), ((3, 2), b"del"), ((4, 0), b"unlink"), ((), b"unlink")]
)
def test_deletions_are_in_small_letters_and_the_background_is_used_where_there_is_one(
    version: tuple[int, ...], name: bytes
) -> None:
    assert spoken((b"UNLINK", b"k"), Server(version)) == (name, b"k")
    assert spoken((b"DEL", b"k", b"l"), Server(version)) == (b"del", b"k", b"l")


def test_older_servers_get_a_script_with_the_same_words() -> None:
    assert spoken(SET, Server((6, 0)))[2:] == (1, b"k", b"v", b"5")
    assert spoken(SET, Server((6, 2))) is SET
    assert spoken(RESTORE, Server((4, 0)))[2:] == (1, b"k", b"payload", b"5")
    assert spoken(RESTORE, Server((5, 0))) is RESTORE


def test_what_a_script_deletes_is_not_taken_for_a_deletion_by_the_server() -> None:
    script = spoken(RESTORE, Server((2, 8)))[1]
    assert isinstance(script, bytes) and b"'del'" in script and b"DEL" not in script


def test_a_list_is_turned_by_the_old_command() -> None:
    args = (b"LMOVE", b"a", b"b", b"right", b"left")
    assert spoken(args, Server((6, 0))) == (b"RPOPLPUSH", b"a", b"b")
    assert spoken((b"LMOVE", b"a", b"b", b"LEFT", b"LEFT"), Server((6, 0)))[0] == b"LMOVE", "there is none for this"


@pytest.mark.parametrize(
    ("line", "version", "expected"),
    [
        ("HSETEX k KEEPTTL FIELDS 1 f v", (7, 0), "HMSET k f v"),
        ("HSETEX k KEEPTTL FIELDS 1 f v", (8, 0), "HSETEX k KEEPTTL FIELDS 1 f v"),
        ("XGROUP SETID s g 1-1 ENTRIESREAD 5", (6, 2), "XGROUP SETID s g 1-1"),
        ("XGROUP CREATE s g 1-1 MKSTREAM", (6, 2), "XGROUP CREATE s g 1-1 MKSTREAM"),
        ("XSETID s 1-1 ENTRIESADDED 5 MAXDELETEDID 0-1", (6, 2), "XSETID s 1-1"),
        ("XSETID s 1-1 ENTRIESADDED 5 MAXDELETEDID 0-1", (7, 0), "XSETID s 1-1 ENTRIESADDED 5 MAXDELETEDID 0-1"),
        ("SET k v KEEPTTL", (6, 0), "SET k v KEEPTTL"),
    ],
)
def test_options_that_an_older_server_lacks_are_said_otherwise_or_left_out(
    line: str, version: tuple[int, int], expected: str
) -> None:
    assert spoken(tuple(line.encode().split()), Server(version)) == tuple(expected.encode().split())


def test_a_value_that_keeps_its_time_to_live_is_set_by_a_script_before_6_0() -> None:
    words = spoken((b"SET", b"k", b"v", b"KEEPTTL"), Server((5, 0)))
    assert (words[0], words[2:]) == (b"EVAL", (1, b"k", b"v"))
