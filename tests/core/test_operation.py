"""What is done about a command of a stream."""

import pytest

from bisync.core.actions import Notice
from bisync.core.commands import EVERY_KEY
from bisync.core.operation import CopiedOperations, Operation, Understanding, copied_operation
from bisync.core.patterns import Scope
from bisync.core.resp import pack
from bisync.core.rules import Rules
from bisync.core.stream import Command
from bisync.errors import BisyncError

RULES = Rules("job", "east", "west")
MAPPED = Rules("job", "east", "west", scope=Scope(databases={0: 0, 1: 3}, exclude=(b"tmp:*",)), on_refused="quarantine")
NOW_MS = 1_700_000_000_000


def understand(line: str, rules: Rules = RULES, origin: str = "east", database: int = 0) -> Operation | Notice | None:
    args = line.encode().split(b" ")
    return Understanding(rules, origin)(Command(args[0].upper(), args, database, pack(*args)), NOW_MS, NOW_MS)


def operation(line: str, rules: Rules = RULES, origin: str = "east", database: int = 0) -> Operation:
    found = understand(line, rules, origin, database)
    assert isinstance(found, Operation)
    return found


@pytest.mark.parametrize("line", ["SET k v", "HSET h f v", "RENAME a b", "PEXPIREAT k 1900000000000"])
def test_a_plain_write_goes_on_as_the_bytes_it_came_as(line: str) -> None:
    assert operation(line, database=2).packed == pack(*line.encode().split(b" "))
    assert operation(line, database=2).target_database == 2


def test_what_succeeded_goes_on_without_its_condition() -> None:
    assert operation("SETNX k v").packed == pack(b"SET", b"k", b"v")
    assert operation("SET k v NX").packed == pack(b"SET", b"k", b"v")


def test_relative_expiries_of_old_servers_become_absolute() -> None:
    assert operation("PEXPIRE k 500000").packed == pack(b"PEXPIREAT", b"k", b"%d" % (NOW_MS + 500_000))


@pytest.mark.parametrize("line", ["SET bisync:job:tag:forward v", "HSET bisync:other:open f v", "DEL bisync:x"])
def test_bisyncs_own_keys_are_never_copied(line: str) -> None:
    assert understand(line) is None
    assert understand(line, MAPPED) is None


def test_databases_are_renumbered_each_way_and_compared_as_the_source_has_them() -> None:
    forward, reverse = operation("SET k v", MAPPED, "east", 1), operation("SET k v", MAPPED, "west", 3)
    assert (forward.database, forward.target_database) == (1, 3)
    assert (reverse.database, reverse.target_database) == (1, 1)


@pytest.mark.parametrize(("origin", "database"), [("east", 3), ("west", 1), ("east", 2), ("west", 2)])
def test_databases_outside_the_scope_are_left_out(origin: str, database: int) -> None:
    assert understand("SET k v", MAPPED, origin, database) is None


def test_keys_outside_the_scope_are_left_out_of_a_command() -> None:
    assert understand("SET tmp:1 v", MAPPED) is None
    assert operation("MSET tmp:1 v k w", MAPPED).packed == pack(b"MSET", b"k", b"w")


def test_a_command_across_the_edge_of_the_scope_is_refused_or_set_aside() -> None:
    found = understand("RENAME tmp:1 k", MAPPED)
    assert isinstance(found, Notice)
    assert (found.level, found.kind) == ("error", "quarantined")
    with pytest.raises(BisyncError, match="cannot be copied"):
        understand("RENAME tmp:1 k", Rules("job", "east", "west", scope=MAPPED.scope))


def test_an_unknown_command_stops_the_job_or_is_set_aside() -> None:
    with pytest.raises(BisyncError, match="does not know this command") as caught:
        understand("FROBNICATE k")
    assert "quarantine" in caught.value.hint
    assert isinstance(understand("FROBNICATE k", MAPPED), Notice)


@pytest.mark.parametrize(("setting", "line"), [("flush", "FLUSHALL"), ("flush", "FLUSHDB"), ("swapdb", "SWAPDB 0 1")])
def test_the_job_file_chooses_what_becomes_of_commands_on_all_keys(setting: str, line: str) -> None:
    passed = operation(line)
    assert passed.wipes
    assert EVERY_KEY in [(w.database, w.key) for w in passed.footprint.writes]
    assert list(passed.written) == []
    assert understand(line, Rules("job", "east", "west", actions={setting: "drop"})) is None
    with pytest.raises(BisyncError, match=f'{setting} is "stop"'):
        understand(line, Rules("job", "east", "west", actions={setting: "stop"}))


def test_a_copied_key_overwrites_its_whole_key() -> None:
    copied = copied_operation(1, b"k", stale=False)
    assert list(copied.written) == [(1, b"k")]
    assert all(w.overwrites and w.element is None for w in copied.footprint.writes)
    assert not copied.footprint.reads
    assert not copied.expires


def test_the_operations_of_copied_keys_are_made_once_and_when_they_are_asked_for() -> None:
    subject = CopiedOperations([(0, b"a", False), (2, b"b", True)], {0: 0, 2: 5})
    assert len(subject) == 2 and subject._made is None
    assert [(list(o.written), o.mortal, o.target_database) for o in subject] == [
        ([(0, b"a")], False, 0),
        ([(2, b"b")], True, 5),
    ]
    assert list(subject)[1] is subject[1] and subject[:1] == [subject[0]]


def test_only_what_sets_a_time_to_live_and_nothing_else_expires() -> None:
    assert operation("PEXPIREAT k 1900000000000").expires
    assert operation("PERSIST k").expires
    assert not operation("SET k v PXAT 1900000000000").expires
    assert not operation("DEL k").expires


@pytest.mark.parametrize("line", ["DEL a b", "UNLINK a", "del a", "GETDEL a"])
def test_deletions_are_sent_in_small_letters(line: str) -> None:
    """So a deletion in capitals within our echo is the server's own."""
    name, *keys = line.lower().replace("getdel", "del").encode().split()
    assert operation(line).packed == pack(name, *keys)


def test_of_a_deletion_that_lost_some_keys_to_renewals_the_others_are_left() -> None:
    deletion = operation("DEL a b c")
    assert deletion.left is deletion
    deletion.overruled |= {b"b"}
    left = deletion.left
    assert left is not None and (left.args, left.packed) == ((b"DEL", b"a", b"c"), pack(b"del", b"a", b"c"))
    assert [place for place in left.written] == [(0, b"a"), (0, b"c")]
    deletion.overruled |= {b"a", b"c"}
    assert deletion.left is None


def test_functions_and_messages_are_copied_whichever_database_was_selected() -> None:
    mapped = Rules("job", "east", "west", scope=Scope(databases={0: 3}))
    for line in ("FUNCTION FLUSH", "PUBLISH channel message"):
        found = understand(line, mapped, "east", 5)
        assert isinstance(found, Operation) and found.target_database == 0
