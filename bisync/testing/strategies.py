"""Hypothesis strategies for what clients do: point them at your own servers too.

A command is a tuple of bytes, its name first, ready for `hiredis.pack_command` or for `execute_command` of redis-py.
Keys, elements and values are few on purpose: commands meet on the same places, and that is where mistakes show.

    @given(st.lists(client_commands(keys(3)), max_size=30))
    def test_sites_end_equal(commands): ...

Nothing drawn here is random when carried out: commands whose result is drawn by the server (SPOP) are left out unless
asked for, and expiries are absolute, far ahead or long past.
"""

from collections.abc import Sequence
from typing import TypeAlias

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

Command: TypeAlias = tuple[bytes, ...]
"""One command, its name first."""

FAR_AHEAD_MS: tuple[int, ...] = (4_000_000_000_000, 4_000_000_001_000)
"""Expiries that no test lives to see: Unix times in milliseconds, in the year 2096."""

LONG_PAST_MS = 1_000
"""An expiry that is over: a Unix time in milliseconds."""


def keys(n: int = 3, *, prefix: bytes = b"k") -> SearchStrategy[bytes]:
    """One of `n` keys: `k0`, `k1` and so on, or with your prefix in place of the `k`."""
    return st.sampled_from([b"%s%d" % (prefix, number) for number in range(n)])


def elements() -> SearchStrategy[bytes]:
    """A member of a set or a sorted set, a field of a hash, or an item of a list."""
    return st.sampled_from([b"x", b"y", b"z"])


def values() -> SearchStrategy[bytes]:
    """A string: a number now and then, so that counters find one; empty, binary or longer at times."""
    return st.sampled_from([b"a", b"b", b"5", b"-3", b"1.5", b"", b"\x00\r\n\xff", b"long" * 30])


def amounts() -> SearchStrategy[bytes]:
    """By how much a counter goes up or down: small, not zero."""
    return st.sampled_from([b"1", b"2", b"-2", b"10"])


def _command(*parts: bytes | SearchStrategy[bytes] | SearchStrategy[Command]) -> SearchStrategy[Command]:
    """A command of fixed words, drawn words, and drawn runs of words."""
    return st.tuples(*(st.just(part) if isinstance(part, bytes) else part for part in parts)).map(_flat)


def _flat(words: Sequence[bytes | Command]) -> Command:
    return tuple(w for word in words for w in ([word] if isinstance(word, bytes) else word))


def _some(word: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    return st.lists(word, min_size=1, max_size=3).map(tuple)


def _pairs(one: SearchStrategy[bytes], other: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    return st.lists(st.tuples(one, other), min_size=1, max_size=2).map(_flat)


def _options(*runs: Command) -> SearchStrategy[Command]:
    """One of these runs of words, or none."""
    return st.sampled_from([(), *runs])


def _words(*words: bytes) -> SearchStrategy[bytes]:
    return st.sampled_from(words)


def _times() -> SearchStrategy[bytes]:
    return st.sampled_from([b"%d" % ms for ms in (*FAR_AHEAD_MS, LONG_PAST_MS)])


# -- one kind of write each: the promises about them are simple
def counters(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """INCR, DECR, INCRBY, DECRBY: in the end a counter holds the sum. Keep other commands off these keys."""
    return st.one_of(_command(_words(b"INCR", b"DECR"), keys), _command(_words(b"INCRBY", b"DECRBY"), keys, amounts()))


def pushes(keys: SearchStrategy[bytes], items: SearchStrategy[bytes] | None = None) -> SearchStrategy[Command]:
    """LPUSH and RPUSH of one or more items: in the end a list holds every item as often as it was pushed.

    `items` draws the items; without it they are few and repeat.
    """
    return _command(_words(b"LPUSH", b"RPUSH"), keys, _some(elements() if items is None else items))


def adds(keys: SearchStrategy[bytes], members: SearchStrategy[bytes] | None = None) -> SearchStrategy[Command]:
    """SADD of one or more members: in the end a set is the union. Without `members` they are few and repeat."""
    return _command(b"SADD", keys, _some(elements() if members is None else members))


# -- the families
def string_commands(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Writes to strings, with and without conditions."""
    return st.one_of(
        _command(b"SET", keys, values(), _options((b"NX",), (b"XX",), (b"KEEPTTL",), (b"GET",), (b"XX", b"GET"))),
        _command(_words(b"SETNX", b"GETSET", b"APPEND"), keys, values()),
        _command(b"SETRANGE", keys, _words(b"0", b"1", b"6"), values()),
        _command(b"GETDEL", keys),
        _command(_words(b"MSET", b"MSETNX"), _pairs(keys, values())),
        _command(b"INCRBYFLOAT", keys, _words(b"0.5", b"-1.25", b"3e2", b"0.1")),
        counters(keys),
    )


def list_commands(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Writes to lists."""
    places = _words(b"0", b"1", b"-1", b"-2")
    ends = _words(b"LEFT", b"RIGHT")
    return st.one_of(
        pushes(keys),
        _command(_words(b"LPUSHX", b"RPUSHX"), keys, _some(elements())),
        _command(_words(b"LPOP", b"RPOP"), keys, _options((b"1",), (b"2",), (b"0",))),
        _command(b"LSET", keys, places, elements()),
        _command(b"LREM", keys, places, elements()),
        _command(b"LTRIM", keys, places, places),
        _command(b"LINSERT", keys, _words(b"BEFORE", b"AFTER"), elements(), elements()),
        _command(b"LMOVE", keys, keys, ends, ends),
        _command(b"RPOPLPUSH", keys, keys),
    )


def set_commands(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Writes to sets. SPOP is not among them: which members go is the server's choice."""
    return st.one_of(
        adds(keys),
        _command(b"SREM", keys, _some(elements())),
        _command(b"SMOVE", keys, keys, elements()),
        _command(_words(b"SUNIONSTORE", b"SINTERSTORE", b"SDIFFSTORE"), keys, _some(keys)),
    )


def hash_commands(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Writes to hashes."""
    return st.one_of(
        _command(b"HSET", keys, _pairs(elements(), values())),
        _command(b"HSETNX", keys, elements(), values()),
        _command(b"HDEL", keys, _some(elements())),
        _command(b"HINCRBY", keys, elements(), amounts()),
        _command(b"HINCRBYFLOAT", keys, elements(), _words(b"0.5", b"-1.25")),
    )


def sorted_set_commands(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Writes to sorted sets."""
    scores = _words(b"1", b"2", b"-0.5", b"2.5e1", b"0.1", b"+inf", b"-inf")
    conditions = _options((b"NX",), (b"XX",), (b"GT",), (b"LT",), (b"CH",), (b"XX", b"GT", b"CH"))
    return st.one_of(
        _command(b"ZADD", keys, conditions, _pairs(scores, elements())),
        _command(b"ZADD", keys, conditions, b"INCR", scores, elements()),
        _command(b"ZINCRBY", keys, scores, elements()),
        _command(b"ZREM", keys, _some(elements())),
        _command(_words(b"ZPOPMIN", b"ZPOPMAX"), keys, _options((b"1",), (b"2",))),
    )


def key_commands(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Writes to keys of any type: deleting, renaming, copying."""
    return st.one_of(
        _command(_words(b"DEL", b"UNLINK"), _some(keys)),
        _command(_words(b"RENAME", b"RENAMENX"), keys, keys),
        _command(b"COPY", keys, keys, _options((b"REPLACE",), (b"DB", b"1"), (b"DB", b"0", b"REPLACE"))),
    )


def expiries(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Writes to the time to live, all absolute: two carried out at different times have the same outcome.

    Some are long past: SET then leaves a key that has expired already, and the others delete theirs.
    """
    seconds = st.sampled_from([b"%d" % (ms // 1000) for ms in (*FAR_AHEAD_MS, LONG_PAST_MS)])
    conditions = _options((b"NX",), (b"XX",), (b"GT",), (b"LT",))
    return st.one_of(
        _command(b"PEXPIREAT", keys, _times(), conditions),
        _command(b"EXPIREAT", keys, seconds, conditions),
        _command(b"PERSIST", keys),
        _command(b"SET", keys, values(), b"PXAT", _times(), _options((b"NX",), (b"XX",), (b"GET",))),
        _command(b"SET", keys, values(), b"EXAT", seconds, _options((b"NX",), (b"GET",))),
    )


def random_pops(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """SPOP: which members go is the server's choice."""
    return _command(b"SPOP", keys, _options((b"1",), (b"2",), (b"9",)))


def server_commands() -> SearchStrategy[Command]:
    """What concerns whole databases: flushes and swaps of the databases 0 and 1."""
    return st.sampled_from([(b"FLUSHALL",), (b"FLUSHDB",), (b"SWAPDB", b"0", b"1")])


def client_commands(
    keys: SearchStrategy[bytes], *, expiring: bool = True, popping: bool = False, wiping: bool = False
) -> SearchStrategy[Command]:
    """One write of any family on these keys: strings, lists, sets, hashes, sorted sets, whole keys.

    Many fail, with WRONGTYPE say, or change nothing, as clients' commands do. `expiring` adds commands on the time to
    live, `popping` SPOP, and `wiping`, seldom, FLUSHALL, FLUSHDB and SWAPDB.
    """
    families = [string_commands, list_commands, set_commands, hash_commands, sorted_set_commands, key_commands]
    families += [expiries] * expiring + [random_pops] * popping
    # one_of makes one flat list of all branches, so each kind of command is about as likely as any other
    return st.one_of(*(family(keys) for family in families), *[server_commands()] * wiping)


def transactions(
    keys: SearchStrategy[bytes], *, max_size: int = 5, commands: SearchStrategy[Command] | None = None
) -> SearchStrategy[list[Command]]:
    """The commands of one MULTI/EXEC, without MULTI and EXEC: client writes on these keys, or the commands given.

    `max_size` is how many at most; there is at least one.
    """
    return st.lists(client_commands(keys) if commands is None else commands, min_size=1, max_size=max_size)
