"""Hypothesis strategies for what the simulated site does not know, and real servers do.

Streams with their groups, bits, HyperLogLogs, places on a map, times to live that end soon, keys computed from others,
scripts. As with `bisync.testing.strategies`, keys and elements are few on purpose.
"""

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from bisync.testing.strategies import Command, client_commands, elements, values

SOON_MS: tuple[int, ...] = (1, 30, 120)
"""Times to live that end while a history lasts, in ms."""

SCRIPT = b"""
local results, at = {}, 1
while at <= #ARGV do
  local length = tonumber(ARGV[at])
  results[#results + 1] = redis.pcall(unpack(ARGV, at + 1, at + length)) and 1
  at = at + length + 1
end
return #results
"""
"""A script that runs commands: each as the number of its words, and the words. What fails is left out."""


def script(commands: list[Command]) -> Command:
    """One EVAL that runs these commands as a whole."""
    words = [word for command in commands for word in (b"%d" % len(command), *command)]
    return (b"EVAL", SCRIPT, b"0", *words)


def _run(*words: bytes | SearchStrategy[bytes]) -> SearchStrategy[Command]:
    return st.tuples(*(st.just(word) if isinstance(word, bytes) else word for word in words))


def _words(*words: bytes) -> SearchStrategy[bytes]:
    return st.sampled_from(words)


def stream_commands(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Writes to streams: entries with the server's ids and with given ones, deletions, trims, groups, acknowledgements.

    Given ids are few, so they meet; some are lower than the last one, and refused, as clients' are.
    """
    ids = _words(b"1-1", b"2-0", b"2-1", b"7-7", b"9999999999999-1")
    groups, consumers = _words(b"g", b"h"), _words(b"ann", b"bob")
    return st.one_of(
        _run(b"XADD", keys, b"*", elements(), values()),
        _run(b"XADD", keys, b"*", elements(), values(), b"field", values()),
        _run(b"XADD", keys, b"MAXLEN", b"4", b"*", elements(), values()),
        _run(b"XADD", keys, ids, elements(), values()),
        _run(b"XADD", keys, b"NOMKSTREAM", b"*", elements(), values()),
        _run(b"XDEL", keys, ids),
        _run(b"XTRIM", keys, b"MAXLEN", _words(b"0", b"2", b"5")),
        _run(b"XTRIM", keys, b"MINID", ids),
        _run(b"XSETID", keys, ids),
        _run(b"XGROUP", b"CREATE", keys, groups, _words(b"0", b"$"), b"MKSTREAM"),
        _run(b"XGROUP", b"DESTROY", keys, groups),
        _run(b"XGROUP", b"SETID", keys, groups, _words(b"0", b"$")),
        _run(b"XGROUP", b"CREATECONSUMER", keys, groups, consumers),
        _run(b"XGROUP", b"DELCONSUMER", keys, groups, consumers),
        _run(b"XREADGROUP", b"GROUP", groups, consumers, b"COUNT", b"2", b"STREAMS", keys, b">"),
        _run(b"XACK", keys, groups, ids),
        _run(b"XAUTOCLAIM", keys, groups, consumers, b"0", b"0"),
    )


def bit_commands(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Writes to single bits, to fields of bits, and BITOP."""
    places, bits = _words(b"0", b"1", b"7", b"100"), _words(b"0", b"1")
    return st.one_of(
        _run(b"SETBIT", keys, places, bits),
        _run(b"BITFIELD", keys, b"SET", b"u8", _words(b"0", b"#1"), _words(b"0", b"255", b"7")),
        _run(b"BITFIELD", keys, b"OVERFLOW", b"SAT", b"INCRBY", b"i5", _words(b"0", b"8"), _words(b"1", b"-3")),
        _run(b"BITOP", _words(b"AND", b"OR", b"XOR"), keys, keys, keys),
        _run(b"BITOP", b"NOT", keys, keys),
    )


def count_commands(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Writes to HyperLogLogs. PFCOUNT is one: it may write a sum that it keeps in the key."""
    return st.one_of(
        _run(b"PFADD", keys, elements(), values()),
        _run(b"PFADD", keys, values()),
        _run(b"PFMERGE", keys, keys, keys),
        _run(b"PFCOUNT", keys),
    )


def place_commands(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Writes to places on a map, and sets of those near a place."""
    degrees = _words(b"7.09", b"13.36", b"-0.1")
    return st.one_of(
        _run(b"GEOADD", keys, degrees, degrees, elements()),
        _run(b"GEOADD", keys, b"NX", degrees, degrees, elements()),
        _run(b"GEOADD", keys, b"XX", b"CH", degrees, degrees, elements()),
        _run(b"GEOSEARCHSTORE", keys, keys, b"FROMLONLAT", b"7", b"7", b"BYRADIUS", _words(b"1", b"2000"), b"km"),
        _run(b"GEORADIUS", keys, b"7", b"7", b"2000", b"km", b"STORE", keys),
    )


def computed_commands(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Writes computed from other keys of a type, and those that take ranges out."""
    ends = _words(b"0", b"1", b"-1")
    return st.one_of(
        _run(_words(b"ZUNIONSTORE", b"ZINTERSTORE", b"ZDIFFSTORE"), keys, b"2", keys, keys),
        _run(b"ZRANGESTORE", keys, keys, ends, ends),
        _run(b"ZREMRANGEBYRANK", keys, ends, ends),
        _run(b"ZREMRANGEBYSCORE", keys, b"-inf", _words(b"0", b"1", b"+inf")),
        _run(b"ZMPOP", b"2", keys, keys, _words(b"MIN", b"MAX")),
        _run(b"LMPOP", b"2", keys, keys, _words(b"LEFT", b"RIGHT")),
        _run(b"SORT", keys, b"ALPHA", b"STORE", keys),
    )


def wide_commands(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Writes computed from keys that patterns name: they may have read every key."""
    return _run(b"SORT", keys, b"BY", b"nosort", b"GET", _words(b"k*", b"s*", b"#"), b"STORE", keys)


def soon_over(keys: SearchStrategy[bytes]) -> SearchStrategy[Command]:
    """Times to live that end while the history lasts, and what renews them."""
    soon = st.sampled_from([b"%d" % ms for ms in SOON_MS])
    return st.one_of(
        _run(b"SET", keys, values(), b"PX", soon),
        _run(b"PSETEX", keys, soon, values()),
        _run(b"PEXPIRE", keys, soon),
        _run(b"GETEX", keys, b"PX", soon),
        _run(b"GETEX", keys, b"PERSIST"),
        _run(b"PEXPIRE", keys, b"100000000", _words(b"NX", b"XX", b"GT", b"LT")),
        _run(b"PERSIST", keys),
    )


def all_commands(keys: SearchStrategy[bytes], *, soon: bool = True, wide: bool = False) -> SearchStrategy[Command]:
    """One write of any family that a server of version 7.0 knows.

    `soon` adds times to live that end meanwhile, and `wide` writes that may have read every key.
    """
    families = [stream_commands, bit_commands, count_commands, place_commands, computed_commands]
    families += [soon_over] * soon + [wide_commands] * wide
    return st.one_of(client_commands(keys, popping=True), *(family(keys) for family in families))
