"""From a snapshot to the commands that copy its keys."""

import pytest

from bisync.core.copying import CopiedKey, KeyPiece
from bisync.core.key_names import KeyNames
from bisync.core.patterns import Scope
from bisync.core.rdb import Function, Item, String, ValueBegins, ValueEnds, ValuePiece
from bisync.core.resp import pack
from bisync.core.rules import Rules
from bisync.core.snapshot import SnapshotKeys
from bisync.errors import RdbError
from bisync.testing.site import SimulatedSite

RULES = Rules("job", "east", "west", scope=Scope(databases={0: 0, 1: 3}, exclude=(b"tmp:*",)))
LATER = 1_900_000_000_000
NOW_MS = 1_700_000_000_000


def keys(rules: Rules = RULES, *, remember: bool = True) -> SnapshotKeys:
    return SnapshotKeys(rules, KeyNames(b"secret") if remember else None)


def filled_site() -> SimulatedSite:
    site = SimulatedSite()
    commands = [
        (b"SET", b"s", b"v"),
        (b"SET", b"t", b"v", b"PXAT", b"%d" % LATER),
        (b"RPUSH", b"l", b"1", b"2"),
        (b"HSET", b"h", b"f", b"v"),
        (b"PEXPIREAT", b"h", b"%d" % LATER),
        (b"SET", b"tmp:x", b"v"),
        (b"SET", b"bisync:job:tag:reverse", b"v"),
        (b"SELECT", b"1"),
        (b"SADD", b"m", b"a"),
        (b"SELECT", b"2"),
        (b"SET", b"out", b"v"),
    ]
    site.connect().execute(b"".join(pack(*c) for c in commands))
    return site


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_the_commands_of_a_snapshot_put_its_keys_at_the_target_however_it_is_cut(size: int) -> None:
    source, target, subject = filled_site(), SimulatedSite("target"), keys()
    data = source.rdb()
    connection = target.connect()
    for at in range(0, len(data), size):
        for key in subject.feed(data[at : at + size], NOW_MS):
            for database, command in key.parts:
                connection.execute(pack(b"SELECT", database) + command)
    subject.close()
    assert subject.bytes_done == len(data)
    expected = {({0: 0, 1: 3}[db], k): v for (db, k), v in source.dataset().items() if db < 2 and k != b"tmp:x"}
    assert target.dataset() == expected
    assert not any(key.startswith(b"bisync:") for _, key, _ in target.data), "what is bisync's own stays behind"


def test_a_copied_key_replaces_whatever_is_there() -> None:
    target = SimulatedSite("target")
    connection = target.connect()
    for kind in (b"HSET k f v", b"SET k v"):
        connection.execute(pack(b"DEL", b"k") + pack(*kind.split()))
        for item in filled_site().snapshot():
            for copied in keys(Rules("job", "east", "west")).copied(item, NOW_MS):
                for _, command in copied.parts:
                    assert not connection.execute(command).startswith(b"-")


def in_pieces(*pieces: list[bytes]) -> list[CopiedKey | KeyPiece]:
    """What is made of a list that comes so."""
    items: list[Item] = [ValueBegins(0, b"k", 1, None, "list"), *(ValuePiece("list", list(p)) for p in pieces)]
    subject = keys()
    return [key for item in (*items, ValueEnds(0, b"k")) for key in subject.copied(item, NOW_MS)]


def test_a_key_that_takes_a_single_piece_is_made_with_one_transaction_and_its_length_is_not_in_doubt() -> None:
    (key,) = in_pieces([b"a", b"b"])
    assert isinstance(key, CopiedKey)
    assert [command.split(b"\r\n")[2] for _, command in key.parts] == [b"unlink", b"RPUSH", b"LLEN", b"RENAME"]
    assert (key.building, key.length) == (1, None)


def test_a_key_in_more_pieces_replies_first_how_long_it_is() -> None:
    *pieces, key = in_pieces([b"a", b"b"], [b"c"])
    assert [type(piece) for piece in pieces] == [KeyPiece, KeyPiece]
    assert isinstance(key, CopiedKey)
    assert [command.split(b"\r\n")[2] for _, command in key.parts] == [b"LLEN", b"RENAME"]
    assert (key.building, key.length) == (1, 3)


def test_only_keys_in_scope_that_the_snapshot_lacks_are_stale() -> None:
    subject = keys()
    list(subject.copied(String(0, b"there", None, b"v"), NOW_MS))
    assert subject.stale(0, b"there") is None
    assert subject.stale(0, b"tmp:1") is None
    assert subject.stale(0, b"bisync:job:tag:forward") is None
    assert subject.stale(2, b"gone") is None
    assert subject.stale(1, b"gone") == CopiedKey(1, b"gone", [(3, pack(b"unlink", b"gone"))], stale=True)


def test_keys_are_remembered_only_where_that_is_needed() -> None:
    subject = keys(remember=False)
    assert list(subject.copied(String(0, b"k", None, b"v"), NOW_MS))
    assert subject.names is None
    subject = keys()
    assert list(subject.copied(String(0, b"k", None, b"v"), NOW_MS))
    assert subject.names is not None and len(subject.names) == 1


def test_functions_are_copied_unless_the_job_says_otherwise() -> None:
    library = Function(b"#!lua name=x")
    (copied,) = keys().copied(library, NOW_MS)
    assert copied.key is None
    assert copied.parts == [(0, pack(b"FUNCTION", b"LOAD", b"REPLACE", b"#!lua name=x"))]
    dropping = Rules("job", "east", "west", actions={"function": "drop"})
    assert list(keys(dropping).copied(library, NOW_MS)) == []


def test_half_a_snapshot_is_an_error() -> None:
    subject = keys()
    list(subject.feed(filled_site().rdb()[:-20], NOW_MS))
    with pytest.raises(RdbError):
        subject.close()
