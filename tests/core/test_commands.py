"""The command table: what commands write, how they are brought into an unconditional form, what commutes."""

import itertools
import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.commands import (
    EVERY_KEY,
    ROWS,
    Args,
    Crossing,
    Write,
    absolute_expiry,
    commute,
    deletes,
    document,
    footprint,
    key_positions,
    known,
    normalise,
    restrict,
    row,
    same_place,
)
from bisync.core.patterns import Scope
from bisync.testing.samples import SAMPLES

CALLS = sorted({s.call for s in SAMPLES if s.call} | {normalise(s.call) for s in SAMPLES if s.call})
PAGE = pathlib.Path(__file__).parents[2] / "docs" / "commands.md"
WRITERS = (pathlib.Path(__file__).parent / "write-commands.txt").read_text().splitlines()


def words(text: str) -> Args:
    return tuple(text.encode().split())


# -- the table
def test_documentation_page_is_current() -> None:
    assert PAGE.read_text() == document(), "the page says how to make it again"


def test_each_command_has_one_row_and_its_name_may_be_in_any_case() -> None:
    assert len({r.name for r in ROWS}) == len(ROWS)
    for name in (b"SET", b"set", b"SeT"):
        found = row(name)
        assert found is not None and found.name == b"SET"
    assert row(b"NOSUCH") is None and not known((b"JSON.SET", b"k"))


@pytest.mark.parametrize("line", [line for line in WRITERS if not line.startswith("#")])
def test_every_command_of_every_server_has_a_row_and_its_keys(line: str) -> None:
    *name, first, last, step = line.split()
    found = row(name[0].encode())
    assert found is not None
    said = {
        **{"1": (1, 1, 1), "2": (2, 2, 1), "1 2": (1, 2, 1), "2..": (2, -1, 1), "1..": (1, -1, 1)},
        **{"1..-1": (1, -2, 1), "1../2": (1, -1, 2)},
    }.get(found.keys)
    if said is not None:
        assert said == (int(first), int(last), int(step))
    elif found.handling != "refused":  # a server says of these only where the first key is, or nothing
        assert "#" in found.keys or found.keys in ("-", "SORT", "GEORADIUS", "XREADGROUP")


def test_unknown_command_is_an_error_that_names_it() -> None:
    for ask in (key_positions, normalise, lambda args: footprint(args, 0), lambda args: restrict(args, 0, Scope())):
        with pytest.raises(KeyError, match="NOSUCH"):
            ask((b"NOSUCH", b"k"))
    assert not commute((b"COPIED", b"k"), 0, (b"DEL", b"k"), 0)


def test_what_is_refused_says_why() -> None:
    assert {r.handling for r in ROWS} == {"copied", "changed", "refused", "control"}
    assert all(r.reason for r in ROWS if r.handling in ("refused", "control"))
    assert all((r.handling == "changed") == bool(r.becomes) for r in ROWS)


@pytest.mark.parametrize(
    "call, positions",
    [
        ("SET k v", [1]),
        ("DEL a b c", [1, 2, 3]),
        ("MSET a 1 b 2", [1, 3]),
        ("MSETEX 2 a 1 b 2 EX 9", [2, 4]),
        ("BLPOP a b 0", [1, 2]),
        ("BITOP NOT d s", [2, 3]),
        ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", [1, 3, 4]),
        ("LMPOP 2 a b LEFT", [2, 3]),
        ("BLMPOP 0 1 a LEFT", [3]),
        ("EVAL script 0 a", []),
        ("SORT k BY w GET STORE LIMIT 0 1 STORE a STORE b", [1, 12]),
        ("GEORADIUS g 1 2 3 km STORE a STOREDIST b", [1, 9]),
        ("GEORADIUSBYMEMBER g store 3 km", [1]),
        ("MIGRATE h 1 k 0 9", [3]),
        ("XREADGROUP GROUP g c COUNT 1 STREAMS x y > >", [7, 8]),
        ("XGROUP CREATE x g 0", [2]),
        ("FLUSHALL", []),
    ],
)
def test_key_positions(call: str, positions: list[int]) -> None:
    assert key_positions(words(call)) == positions


def test_keys_of_a_migration_may_be_at_its_end() -> None:
    assert key_positions((b"MIGRATE", b"h", b"1", b"", b"0", b"9", b"COPY", b"KEYS", b"a", b"b")) == [8, 9]


# -- unconditional forms
@pytest.mark.parametrize(
    "call, becomes",
    [
        ("SETNX k v", "SET k v"),
        ("set k v nx px 5 get", "set k v px 5"),
        ("SET k NX XX", "SET k NX"),
        ("SET k v IFEQ NX PXAT 5", "SET k v PXAT 5"),
        ("SET k v KEEPTTL XX", "SET k v KEEPTTL"),
        ("GETSET k v", "SET k v"),
        ("GETDEL k", "DEL k"),
        ("DELEX k IFEQ v", "DEL k"),
        ("DELIFEQ k v", "DEL k"),
        ("GETEX k PXAT 5", "PEXPIREAT k 5"),
        ("GETEX k EXAT 5", "EXPIREAT k 5"),
        ("GETEX k PERSIST", "PERSIST k"),
        ("MSETNX a 1 b 2", "MSET a 1 b 2"),
        ("MSETEX 1 NX XX NX PXAT 5", "MSETEX 1 NX XX PXAT 5"),
        ("HSETNX h f v", "HSET h f v"),
        ("HSETEX h FNX PXAT 5 FIELDS 1 FXX v", "HSETEX h PXAT 5 FIELDS 1 FXX v"),
        ("HGETDEL h FIELDS 2 f g", "HDEL h f g"),
        ("LPUSHX l a b", "LPUSH l a b"),
        ("RPUSHX l a", "RPUSH l a"),
        ("RENAMENX a b", "RENAME a b"),
        ("PEXPIREAT k 5 GT", "PEXPIREAT k 5"),
        ("COPY a b", "COPY a b REPLACE"),
        ("COPY a b DB 2", "COPY a b DB 2 REPLACE"),
        ("RESTORE k 0 payload", "RESTORE k 0 payload REPLACE"),
        ("RESTORE-ASKING k 0 payload replace", "RESTORE k 0 payload replace"),
        ("BLMOVE a b LEFT RIGHT 0", "LMOVE a b LEFT RIGHT"),
        ("BRPOPLPUSH a b 0", "RPOPLPUSH a b"),
        ("BLPOP a 0", "LPOP a"),
        ("BZPOPMAX a 0", "ZPOPMAX a"),
        ("LMPOP 1 a right COUNT 3", "RPOP a 3"),
        ("BZMPOP 0 1 a MIN", "ZPOPMIN a"),
        ("ZADD z NX CH 1 a", "ZADD z 1 a"),
        ("ZADD z GT CH 1 a 2 b", "ZADD z GT 1 a 2 b"),
        ("ZADD z XX INCR 1 a", "ZINCRBY z 1 a"),
        ("GEOADD g XX 1 2 a", "GEOADD g 1 2 a"),
        ("XADD x NOMKSTREAM MAXLEN = 5 1-1 f v", "XADD x MAXLEN = 5 1-1 f v"),
        ("XADD x DELREF IDMP p 1 MINID 5 1-1 IDMP v", "XADD x DELREF MINID 5 1-1 IDMP v"),
        ("XADD x idmpauto NOMKSTREAM 1-1 f v", "XADD x 1-1 f v"),
        ("BLMOVEM a b LEFT RIGHT 0 COUNT 5 OBO", "LMOVEM a b LEFT RIGHT COUNT 5 OBO"),
        ("XADD x MAXLEN ~ 5 LIMIT 9 NOMKSTREAM 1-1 NOMKSTREAM v", "XADD x MAXLEN ~ 5 LIMIT 9 1-1 NOMKSTREAM v"),
    ],
)
def test_condition_that_held_is_not_asked_again(call: str, becomes: str) -> None:
    assert normalise(words(call)) == words(becomes)


@pytest.mark.parametrize(
    "call",
    [
        "SET k v", "SET k v PXAT 5", "ZADD z 1 NX", "ZADD z XX 1 a 2 b", "GEOADD g 1 2 a 3 4 b", "BLPOP a b 0",
        "LMPOP 2 a b LEFT", "COPY a b REPLACE", "COPY a b replace DB 2", "RESTORE k 0 REPLACE REPLACE", "GETEX k",
        "XADD x 1-1 NOMKSTREAM v", "HSETEX h FIELDS 1 FNX v", "INCR k", "PEXPIREAT k 5", "FLUSHALL",
    ],
)  # fmt: skip
def test_unconditional_command_is_left_alone(call: str) -> None:
    args = words(call)
    assert normalise(args) is args


@pytest.mark.parametrize("call", CALLS, ids=lambda c: b" ".join(c)[:40].decode("latin-1"))
def test_unconditional_form_stays_as_it_is(call: Args) -> None:
    once = normalise(call)
    assert normalise(once) is once


OPTIONS = {
    "SET": (["k", "v"], ["NX", "XX", "GET", "KEEPTTL", "EX 5", "PXAT 5", "IFEQ GET", "IFNE x"], []),
    "ZADD": (["z"], ["NX", "XX", "GT", "LT", "CH", "INCR"], ["1", "a"]),
    "XADD": (["x"], ["NOMKSTREAM", "MAXLEN ~ 5", "MINID 5", "LIMIT 3", "KEEPREF"], ["1-1", "f", "NOMKSTREAM"]),
}


@given(name=st.sampled_from(sorted(OPTIONS)), data=st.data())
def test_any_mixture_of_options_leaves_the_keys_and_settles_at_once(name: str, data: st.DataObject) -> None:
    before, options, after = OPTIONS[name]
    drawn = data.draw(st.lists(st.sampled_from(options), unique=True, max_size=4))
    call = words(" ".join([name, *before, *drawn, *after]))
    once = normalise(call)
    assert normalise(once) is once
    assert [once[n] for n in key_positions(once)] == [call[n] for n in key_positions(call)]
    assert not {b"NX", b"XX", b"INCR", b"CH"} & set(once)


@pytest.mark.parametrize(
    "call, becomes",
    [
        ("EXPIRE k 10 NX", "PEXPIREAT k 11000 NX"),
        ("pexpire k 10", "PEXPIREAT k 1010"),
        ("EXPIREAT k 10", "PEXPIREAT k 10000"),
        ("SETEX k 10 v", "SET k v PXAT 11000"),
        ("PSETEX k 10 v", "SET k v PXAT 1010"),
        ("SET k v NX EX 10", "SET k v NX PXAT 11000"),
        ("SET k EX px 10 GET", "SET k EX PXAT 1010 GET"),
        ("SET k v IFEQ EX EXAT 10", "SET k v IFEQ EX PXAT 10000"),
        ("GETEX k EX 10", "GETEX k PXAT 11000"),
        ("MSETEX 1 EX PX PX 10", "MSETEX 1 EX PX PXAT 1010"),
        ("HPEXPIRE h 10 FIELDS 1 f", "HPEXPIREAT h 1010 FIELDS 1 f"),
        ("HSETEX h EX 10 FIELDS 1 EX 5", "HSETEX h PXAT 11000 FIELDS 1 EX 5"),
        ("HGETEX h FIELDS 1 EX", "HGETEX h FIELDS 1 EX"),
        ("RESTORE k 10 payload REPLACE", "RESTORE k 1010 payload REPLACE ABSTTL"),
    ],
)
def test_expiry_becomes_a_moment(call: str, becomes: str) -> None:
    assert absolute_expiry(words(call), 1000) == words(becomes)


@pytest.mark.parametrize(
    "call",
    ["PEXPIREAT k 5", "SET k v PXAT 5", "SET EX EX", "RESTORE k 0 p", "RESTORE k 5 p absttl", "EXPIRE k x", "INCR k"],
)
def test_expiry_that_is_a_moment_is_left_alone(call: str) -> None:
    args = words(call)
    assert absolute_expiry(args, 1000) is args


# -- footprints
def whole(key: str, overwrites: bool = False, database: int = 2) -> Write:
    return Write(database, key.encode(), None, overwrites)


def part(key: str, kind: str, name: str, overwrites: bool = True) -> Write:
    return Write(2, key.encode(), (kind, name.encode()), overwrites)


@pytest.mark.parametrize(
    "call, writes, reads",
    [
        ("SET k v", [whole("k", True)], []),
        ("SET k v KEEPTTL", [whole("k")], []),
        ("MSET a 1 b 2", [whole("a", True), whole("b", True)], []),
        ("INCR k", [whole("k")], []),
        ("DEL a b", [whole("a", True), whole("b", True)], []),
        ("HSET h f 1 g 2", [part("h", "hash", "f"), part("h", "hash", "g")], []),
        ("HINCRBY h f 1", [part("h", "hash", "f", False)], []),
        ("SADD s a", [part("s", "set", "a")], []),
        ("SREM s a", [part("s", "set", "a"), part("s", "ttl", "", False)], []),
        ("ZADD z 1 a 2 b", [part("z", "zset", "a"), part("z", "zset", "b")], []),
        ("ZADD z LT 1 a 2 b", [part("z", "zset", "a", False), part("z", "zset", "b", False)], []),
        ("ZADD z INCR 1 a", [part("z", "zset", "a", False)], []),
        ("ZINCRBY z 1 a", [part("z", "zset", "a", False)], []),
        ("GEOADD g 1 2 a", [part("g", "zset", "a")], []),
        ("PEXPIREAT k 5", [part("k", "ttl", "")], []),
        ("RENAME a b", [whole("a"), whole("b")], ["a"]),
        ("SUNIONSTORE d a b", [whole("d")], ["a", "b"]),
        ("ZUNIONSTORE d 2 a b", [whole("d")], ["a", "b"]),
        ("BITOP AND d a b", [whole("d")], ["a", "b"]),
        ("LMOVE a b LEFT LEFT", [whole("a"), whole("b")], ["a", "b"]),
        ("COPY a b DB 5", [whole("b", database=5)], ["a"]),
        ("MOVE a 5", [whole("a"), whole("a", database=5)], ["a"]),
        ("SORT a", [], []),
        ("SORT a STORE b", [whole("b")], ["a"]),
        ("PUBLISH c m", [], []),
    ],
)
def test_footprint(call: str, writes: list[Write], reads: list[str]) -> None:
    found = footprint(words(call), 2)
    assert found.writes == tuple(writes)
    assert found.reads == tuple((2, key.encode()) for key in reads)


def test_sort_by_a_pattern_reads_every_key() -> None:
    assert EVERY_KEY in footprint(words("SORT a BY w_* STORE b"), 0).reads
    assert EVERY_KEY not in footprint(words("SORT a BY nosort GET # STORE b"), 0).reads


@pytest.mark.parametrize("call", CALLS, ids=lambda c: b" ".join(c)[:40].decode("latin-1"))
def test_every_key_of_a_command_is_in_its_footprint(call: Args) -> None:
    found = footprint(call, 0)
    if call[0] == b"SORT" or found.writes:
        touched = {w.key for w in found.writes} | {key for _, key in found.reads}
        assert touched >= {call[n] for n in key_positions(call)}


PLACES = st.builds(
    Write,
    st.integers(0, 1),
    st.sampled_from([b"", b"k"]),
    st.sampled_from([None, ("hash", b"f"), ("hash", b"g"), ("set", b"f"), ("ttl", b"")]),
) | st.builds(Write, st.just(-1), st.just(b""), databases=st.sampled_from([(), (0,), (0, 1)]))


@given(a=PLACES, b=PLACES)
def test_same_place_is_a_mutual_matter(a: Write, b: Write) -> None:
    assert same_place(a, a)
    assert same_place(a, b) == same_place(b, a)


def test_elements_are_places_of_their_own() -> None:
    f, g, member, ttl, key = (
        *(Write(0, b"k", ("hash", b"f")), Write(0, b"k", ("hash", b"g")), Write(0, b"k", ("set", b"f"))),
        *(Write(0, b"k", ("ttl", b"")), Write(0, b"k")),
    )
    apart = {frozenset(pair) for pair in itertools.combinations((f, g, member, ttl, key), 2) if not same_place(*pair)}
    assert apart == {frozenset(pair) for pair in ((f, g), (f, ttl), (g, ttl), (member, ttl))}


def test_flush_touches_its_own_database_only() -> None:
    (flush,) = footprint((b"FLUSHDB",), 1).writes
    assert same_place(flush, whole("k", database=1)) and not same_place(flush, whole("k", database=0))
    (flush,) = footprint((b"FLUSHALL",), 1).writes
    assert same_place(flush, whole("k", database=0))
    (swap,) = footprint(words("SWAPDB 1 3"), 0).writes
    assert [n for n in range(5) if same_place(swap, whole("k", database=n))] == [1, 3]
    assert {(w.database, w.key) for w in (flush, swap)} == {EVERY_KEY}


# -- commuting
@pytest.mark.parametrize(
    "p, q",
    [
        ("SET k v", "SET k v"), ("SET k v", "MSET k v j w"), ("SET k v", "SET j w"), ("DEL k", "UNLINK k j"),
        ("INCR k", "DECRBY k 3"), ("HINCRBY h f 1", "HINCRBY h f 2"), ("HSET h f 1", "HSET h g 1"),
        ("HSET h f 1 g 2", "HSET h f 1 i 3"), ("SADD s a b", "SADD s b c"), ("SREM s a", "SREM s b"),
        ("ZADD z 1 a", "ZADD z 1 a 2 b"), ("LPUSH l a", "RPUSH l b"), ("SETBIT k 1 1", "SETBIT k 2 0"),
        ("INCR k", "PEXPIREAT k 5"), ("HSET h f 1", "PERSIST h"), ("PEXPIREAT k 5", "PEXPIREAT k 5"),
        ("FLUSHALL", "FLUSHDB"), ("FLUSHALL", "DEL k"), ("SWAPDB 0 1", "FLUSHALL"), ("SWAPDB 0 1", "SWAPDB 1 0"),
        ("SWAPDB 1 2", "SET k v"), ("PUBLISH c m", "FLUSHALL"), ("PUBLISH c m", "PUBLISH c n"),
        ("FUNCTION FLUSH", "FUNCTION FLUSH"),
    ],
)  # fmt: skip
def test_commands_that_commute(p: str, q: str) -> None:
    assert commute(words(p), 0, words(q), 0) and commute(words(q), 0, words(p), 0)


@pytest.mark.parametrize(
    "p, q",
    [
        ("SET k v", "SET k w"), ("SET k v", "DEL k"), ("SET k v EX 5", "SET k v EX 5"), ("SETEX k 5 v", "SETEX k 5 v"),
        ("SET k v", "SET k v PXAT 5"), ("APPEND k a", "APPEND k b"), ("INCR k", "SET k 1"), ("INCR k", "DEL k"),
        ("INCRBYFLOAT k 1", "INCRBYFLOAT k 2"), ("HSET h f 1", "HSET h f 2"), ("HSET h f 1", "HINCRBY h f 1"),
        ("HSET h f 1", "HDEL h f"), ("HSET h f 1", "HDEL h g"), ("SADD s a", "SREM s b"), ("HSET k f 1", "SADD k f"),
        ("ZADD z 1 a", "ZADD z 2 a"), ("ZADD z GT 1 a 2 b", "ZADD z GT 3 a 2 c"), ("ZINCRBY z 1 a", "ZINCRBY z 2 a"),
        ("LPUSH l a", "LPUSH l b"), ("LPUSH l a", "LPOP l"), ("LPOP l", "LPOP l"), ("PFADD p a", "PFADD p b"),
        ("SETBIT k 1 1", "SETBIT k 1 0"), ("XADD x 1-1 f v", "XADD x 1-1 f v"), ("SREM s a", "PEXPIREAT s 5"),
        ("PEXPIREAT k 5", "PEXPIREAT k 6"), ("PEXPIREAT k 5", "SET k v"), ("RENAME a b", "SET a v"),
        ("SUNIONSTORE d a b", "SADD b x"), ("COPY a b REPLACE", "PERSIST a"), ("FLUSHDB", "SET k v"),
        ("SWAPDB 0 1", "SWAPDB 1 2"), ("SWAPDB 0 1", "FLUSHDB"), ("SORT k BY w_* STORE d", "SET w_1 5"),
        ("FUNCTION FLUSH", "FUNCTION DELETE a"), ("DEBUG RELOAD", "SET k v"),
    ],
)  # fmt: skip
def test_commands_that_do_not_commute(p: str, q: str) -> None:
    assert not commute(words(p), 0, words(q), 0) and not commute(words(q), 0, words(p), 0)


def test_databases_keep_commands_apart() -> None:
    assert commute(words("SET k v"), 0, words("SET k w"), 1)
    assert commute(words("FLUSHDB"), 0, words("SET k w"), 1)
    assert not commute(words("MOVE k 1"), 0, words("SET k w"), 1)
    assert not commute(words("FLUSHDB"), 1, words("COPY k j DB 1 REPLACE"), 0)


@given(p=st.sampled_from(CALLS), q=st.sampled_from(CALLS), other=st.integers(0, 1))
def test_commuting_is_a_mutual_matter(p: Args, q: Args, other: int) -> None:
    assert commute(p, 0, q, other) == commute(q, other, p, 0)


def test_only_deletions_of_whole_keys_delete() -> None:
    assert all(deletes(words(c)) for c in ("DEL k", "unlink k", "GETDEL k", "FLUSHDB", "FLUSHALL ASYNC"))
    assert not any(deletes(words(c)) for c in ("HDEL h f", "SREM s a", "SET k v", "LPOP l", "RENAME a b"))


# -- the scope of a job
IN_A = Scope(include=(b"a*",))
RENUMBERED = Scope(databases={0: 4, 1: 5})


@pytest.mark.parametrize(
    "call, becomes",
    [
        ("SET a v", "SET a v"),
        ("SET b v", None),
        ("SET bisync:job:beat v", None),
        ("MSET a1 1 b 2 a2 3", "MSET a1 1 a2 3"),
        ("MSETEX 2 b 1 a 2 PXAT 5", "MSETEX 1 a 2 PXAT 5"),
        ("DEL b a1 c a2", "DEL a1 a2"),
        ("UNLINK b c", None),
        ("RENAME a1 a2", "RENAME a1 a2"),
        ("RENAME a b", "DEL a"),
        ("RENAME b c", None),
        ("COPY a b REPLACE", None),
        ("LMOVE a b LEFT RIGHT", "LPOP a"),
        ("LMOVE a b RIGHT RIGHT", "RPOP a"),
        ("RPOPLPUSH a b", "RPOP a"),
        ("LMOVEM a b LEFT RIGHT EXACTLY 2 OBO", "LPOP a 2"),
        ("XADD a 1-1 f v", "XADD a 1-1 f v"),
        ("XADD a 1-1 * v", "XADD a 1-1 * v"),
        ("XADD a MAXLEN = 5 * f v", None),
        ("SMOVE a b m", "SREM a m"),
        ("SMOVE b a m", "SADD a m"),
        ("SUNIONSTORE a1 a2 a3", "SUNIONSTORE a1 a2 a3"),
        ("SUNIONSTORE b a1 a2", None),
        ("BITOP AND b a1 a2", None),
        ("SORT a STORE b", None),
        ("SORT a1 STORE a2", "SORT a1 STORE a2"),
        ("PUBLISH c m", "PUBLISH c m"),
        ("FUNCTION FLUSH", "FUNCTION FLUSH"),
    ],
)
def test_command_is_cut_down_to_the_scope(call: str, becomes: str | None) -> None:
    assert restrict(words(call), 0, IN_A) == (words(becomes) if becomes else None)


@pytest.mark.parametrize(
    "call, keys",
    [
        ("RENAME b a", ["a"]),
        ("COPY b a REPLACE", ["a"]),
        ("LMOVE b a LEFT LEFT", ["a"]),
        ("SUNIONSTORE a a1 b", ["a"]),
        ("PFMERGE a b", ["a"]),
        ("SORT b STORE a", ["a"]),
        ("SORT a1 BY w_* STORE a2", ["a2"]),
        ("EVAL script 2 a b", ["a"]),
        ("FLUSHALL", []),
        ("FLUSHDB", []),
        ("SWAPDB 0 1", []),
    ],
)
def test_value_from_outside_of_the_scope_is_reported(call: str, keys: list[str]) -> None:
    found = restrict(words(call), 0, IN_A)
    assert isinstance(found, Crossing)
    assert found.reason and found.keys == tuple(k.encode() for k in keys)


@pytest.mark.parametrize(
    "call, database, becomes",
    [
        ("SET k v", 0, "SET k v"),
        ("SET k v", 2, None),
        ("MOVE k 1", 0, "MOVE k 5"),
        ("MOVE k 2", 0, "DEL k"),
        ("COPY k j DB 1 REPLACE", 0, "COPY k j DB 5 REPLACE"),
        ("COPY k j DB 2 REPLACE", 0, None),
        ("SWAPDB 0 1", 7, "SWAPDB 4 5"),
        ("SWAPDB 2 3", 0, None),
        ("FLUSHDB", 1, "FLUSHDB"),
        ("FLUSHDB", 2, None),
    ],
)
def test_databases_are_renumbered(call: str, database: int, becomes: str | None) -> None:
    assert restrict(words(call), database, RENUMBERED) == (words(becomes) if becomes else None)


@pytest.mark.parametrize("call, database", [("MOVE k 0", 2), ("COPY k j DB 0 REPLACE", 2), ("SWAPDB 0 2", 0)])
def test_value_from_a_database_outside_is_reported(call: str, database: int) -> None:
    assert isinstance(restrict(words(call), database, RENUMBERED), Crossing)


@pytest.mark.parametrize("call", CALLS, ids=lambda c: b" ".join(c)[:40].decode("latin-1"))
def test_a_job_without_a_choice_leaves_every_command_alone(call: Args) -> None:
    assert restrict(call, 0, Scope()) is call
