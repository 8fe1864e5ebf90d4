"""Glob patterns and the scope of a channel."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bisync.core.patterns import OWN_PREFIX, Scope, compile_patterns

TABLE = [
    # pattern, keys that match, keys that do not
    (b"order:*", [b"order:", b"order:1", b"order:\n\xff"], [b"order", b"xorder:1", b""]),
    (b"*", [b"", b"a", b"\x00\n"], []),
    (b"**", [b"", b"a"], []),
    (b"", [b""], [b"a"]),
    (b"a?c", [b"abc", b"a\nc", b"a?c"], [b"ac", b"abbc"]),
    (b"??", ["é".encode()], [b"e"]),
    (b"h[ae]llo", [b"hello", b"hallo"], [b"hillo", b"hllo"]),
    (b"h[^e]llo", [b"hallo", b"h\nllo"], [b"hello", b"hllo"]),
    (b"[a-c]", [b"a", b"b", b"c"], [b"d", b"-"]),
    (b"[c-a]", [b"a", b"b", b"c"], [b"d"]),
    (b"[^a-c]", [b"d", b"-"], [b"b"]),
    (b"[a-]", [b"]", b"^", b"a"], [b"-", b"b"]),  # the bracket ends the range, so the class has none to close it
    (b"[a-", [b"a", b"-"], [b"b"]),
    (b"[\\]]", [b"]"], [b"\\"]),
    (b"[\\a-c]", [b"a", b"-", b"c"], [b"b"]),
    (b"[\\", [b"\\"], [b"["]),
    (b"[a^]", [b"a", b"^"], [b"b"]),
    (b"[]", [], [b"]", b"", b"[]"]),
    (b"[^]", [b"a", b"]"], [b""]),
    (b"[", [], [b"[", b""]),
    (b"[^", [b"a", b"["], [b""]),
    (b"[ab", [b"a", b"b"], [b"[ab"]),
    (b"a]", [b"a]"], [b"a"]),
    (b"\\*", [b"*"], [b"a", b"\\*"]),
    (b"\\?\\[", [b"?["], [b"a["]),
    (b"\\a", [b"a"], [b"\\a"]),
    (b"a\\", [b"a\\"], [b"a"]),
    (b"a.b+(c)|d$", [b"a.b+(c)|d$"], [b"axb+(c)|d$", b"d"]),
    (b"*a*b", [b"ab", b"xaxbxb", b"aab"], [b"ba", b"abx"]),
    (b"*ab*ab", [b"abab", b"aabxab"], [b"ab", b"aab"]),
    (b"a*?", [b"ab", b"abc"], [b"a"]),
    (b"a\n", [b"a\n"], [b"a"]),
    (b"a", [b"a"], [b"a\n"]),  # a `$` in place of the end would take the line feed
]


@pytest.mark.parametrize(("pattern", "matching", "others"), TABLE, ids=[repr(row[0]) for row in TABLE])
def test_pattern_matches_as_redis_does(pattern: bytes, matching: list[bytes], others: list[bytes]) -> None:
    compiled = compile_patterns(pattern)
    assert [k for k in matching if not compiled.fullmatch(k)] == []
    assert [k for k in others if compiled.fullmatch(k)] == []


@given(st.binary(max_size=12))
def test_every_escaped_key_is_a_pattern_that_matches_only_itself(key: bytes) -> None:
    pattern = b"".join(b"\\" + key[i : i + 1] for i in range(len(key)))
    compiled = compile_patterns(pattern)
    assert compiled.fullmatch(key)
    assert not compiled.fullmatch(key + b"\n")


@given(st.lists(st.binary(max_size=8), max_size=4), st.binary(max_size=16))
def test_any_bytes_are_a_pattern(patterns: list[bytes], key: bytes) -> None:
    one_by_one = [bool(compile_patterns(p).fullmatch(key)) for p in patterns]
    assert not patterns or bool(compile_patterns(*patterns).fullmatch(key)) == any(one_by_one)


def test_many_stars_on_a_long_key_take_no_long_time() -> None:
    compiled = compile_patterns(b"*a" * 30 + b"*b", b"*?a" * 30 + b"*b")
    started = time.perf_counter()
    assert not compiled.fullmatch(b"a" * 5_000)
    assert time.perf_counter() - started < 1  # ways to place 30 letters in 5,000: more than 10^78


def test_scope_without_choices_holds_everything_but_bisyncs_own_keys() -> None:
    scope = Scope()
    assert scope.everything
    assert scope.holds(0, b"k") and scope.holds(15, b"")
    assert not scope.holds(0, b"bisync:orders:tag:forward")
    assert scope.holds(0, b"bisync")
    assert scope.target_database(7) == 7
    assert scope.inverted() == scope


def test_own_keys_stay_out_even_where_a_pattern_asks_for_them() -> None:
    assert not Scope(include=(b"bisync:*", b"*")).holds(0, OWN_PREFIX + b"x")


def test_exclude_is_stronger_than_include() -> None:
    scope = Scope(include=(b"order:*", b"user:*"), exclude=(b"*:tmp", b"user:?"))
    assert not scope.everything
    assert scope.holds(3, b"order:1") and scope.holds(0, b"user:12")
    assert not scope.holds(0, b"order:tmp")
    assert not scope.holds(0, b"user:1")
    assert not scope.holds(0, b"other")


def test_exclude_alone_keeps_the_rest() -> None:
    scope = Scope(exclude=(b"tmp:*",))
    assert scope.holds(0, b"a") and not scope.holds(0, b"tmp:a")


def test_only_mapped_databases_are_held() -> None:
    scope = Scope(databases={0: 0, 3: 5})
    assert not scope.everything
    assert scope.holds(3, b"k") and not scope.holds(5, b"k")
    assert scope.target_database(3) == 5
    assert scope.target_database(5) is None


@given(st.dictionaries(st.integers(0, 20), st.integers(0, 20)), st.integers(0, 20), st.binary(max_size=4))
def test_the_reverse_scope_leads_back(databases: dict[int, int], database: int, key: bytes) -> None:
    databases = {source: target for target, source in {t: s for s, t in databases.items()}.items()}
    scope = Scope(databases=databases, include=(b"*a*",))
    target = scope.target_database(database)
    assert scope.inverted().inverted() == scope
    assert target is None or scope.inverted().target_database(target) == database
    assert target is None or scope.inverted().holds(target, key) == scope.holds(database, key)


def test_two_databases_into_one_are_refused() -> None:
    with pytest.raises(ValueError, match="into one"):
        Scope(databases={0: 1, 1: 1})
