"""Keys that are copied in parts: read by the commands of their type, and made anew from commands at the other site.

This is the way for keys too big for one DUMP, and for servers whose RESTORE does not take what the other dumps. All of
a key is read in one transaction and written in one, so no client ever sees half of it; but no single word is huge.

What is not kept: a hash's fields lose their expiries where the other site knows none (before Redis 7.4). How a server
stores a value (its encoding) is its own business.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence

import attrs

from bisync.core.abilities import Abilities
from bisync.core.resp import pack
from bisync.core.restore import Ask, Copy, Loser, NotNow, Outcome, digest, expiry, held_key, remove

PIECE_BYTES = 8 << 20
"""So much of a string is read, and written, with one command."""

WORDS_MAX, WORDS_BYTES = 1_000, 1 << 20
"""So many words, and about so many bytes, are written with one command."""

TYPES = frozenset((b"string", b"list", b"set", b"hash", b"zset"))
"""What can be copied in parts; the names are those that TYPE replies."""

# The fields of a hash that expire, each with its Unix time in ms.
_FIELD_EXPIRIES = b"""
local found, names = {}, redis.call('HKEYS', KEYS[1])
for at = 1, #names, 500 do
  local some = {unpack(names, at, math.min(at + 499, #names))}
  for n, ms in ipairs(redis.call('HPEXPIRETIME', KEYS[1], 'FIELDS', #some, unpack(some))) do
    if ms > 0 then
      found[#found + 1] = some[n]
      found[#found + 1] = string.format('%.0f', ms)
    end
  end
end
return found
"""


@attrs.frozen
class Probe:
    """What kind of key a site holds, so that a way can be chosen to copy it."""

    type: bytes  # as TYPE replies: none where there is no key
    size: int  # bytes of memory; 0: there is no key, or the server cannot tell


def probe(key: bytes, able: Abilities) -> Ask[Probe]:
    """Asks a site what it holds."""
    commands = [pack(b"TYPE", key)]
    if able.has(b"MEMORY"):
        commands.append(pack(b"MEMORY", b"USAGE", key))

    def read(replies: Sequence[object]) -> Probe:
        kind, size = replies[0], replies[-1]
        return Probe(kind if isinstance(kind, bytes) else b"", size if isinstance(size, int) else 0)

    return Ask(commands, read)


# -- reading
def fence_parts(key: bytes, found: Probe, able: Abilities) -> Ask[Copy]:
    """Reads a whole key of this type. NotNow where it has another type by now, or has grown a lot."""
    when = expiry(key, able)
    reads = _reads(key, found, able)
    values_at = 1 + len(when.commands)

    def read(replies: Sequence[object]) -> Copy:
        expires_at_ms = when.read(replies[1:values_at])
        if replies[0] == b"none":
            return PartsCopy(key, None, expires_at_ms, (), ())
        if replies[0] != found.type:
            raise NotNow("the key has another type by now")
        return _copy(key, found.type, expires_at_ms, replies[values_at:])

    return Ask([pack(b"TYPE", key), *when.commands, *reads], read)


def _reads(key: bytes, found: Probe, able: Abilities) -> list[bytes]:
    match found.type:
        case b"string":
            ends = range(0, found.size + PIECE_BYTES, PIECE_BYTES)
            return [pack(b"STRLEN", key), *(pack(b"GETRANGE", key, at, at + PIECE_BYTES - 1) for at in ends)]
        case b"list":
            return [pack(b"LRANGE", key, 0, -1)]
        case b"set":
            return [pack(b"SMEMBERS", key)]
        case b"zset":
            return [pack(b"ZRANGE", key, 0, -1, b"WITHSCORES")]
    assert found.type == b"hash"
    expiries = [pack(b"HPEXPIRETIME", key, b"FIELDS", 1, b""), pack(b"EVAL", _FIELD_EXPIRIES, 1, key)]
    return [pack(b"HGETALL", key), *(expiries if able.has(b"HPEXPIRETIME") else ())]


def _copy(key: bytes, kind: bytes, expires_at_ms: int | None, replies: Sequence[object]) -> Copy:
    if kind == b"string":
        pieces = _words(replies[1:])
        if sum(map(len, pieces)) != replies[0]:
            raise NotNow("the string has grown since its length was asked for")
        return PartsCopy(key, kind, expires_at_ms, pieces, ())
    words = _words(replies[0])
    if kind == b"zset":
        words = tuple(itertools.chain.from_iterable((score, name) for name, score in _pairs(words)))
    return PartsCopy(key, kind, expires_at_ms, words, _words(replies[-1]) if len(replies) > 1 else ())


def _words(reply: object) -> tuple[bytes, ...]:
    if not isinstance(reply, Sequence) or isinstance(reply, bytes):
        raise NotNow("the reply is no list of words")
    return tuple(reply)


def _pairs(words: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(words[::2], words[1::2], strict=True)


# -- writing
@attrs.frozen
class PartsCopy(Copy):
    """A whole key in parts."""

    key: bytes
    type: bytes | None  # None: there was no key
    expires_at_ms: int | None
    words: tuple[bytes, ...]  # pieces of a string; items, members, fields with values, scores with members
    expiries: tuple[bytes, ...]  # of a hash: fields with Unix times in ms

    def restore(self, loser: Loser) -> Ask[Outcome]:
        """Delete the key and make it from commands. Its digest is that of DUMP, if it is not too big for that."""
        before = held_key(self.key, loser)
        writes = list(self._writes(loser.able))
        after = [] if loser.big else held_key(self.key, loser).commands

        def outcome(replies: Sequence[object]) -> Outcome:
            held = before.read(replies[: len(before.commands)])
            if loser.big:
                differs, kept = held.size > 0 or self.type is not None, digest(b"".join(writes)) if self.type else ""
            else:
                now = before.read(replies[-len(after) :])
                differs, kept = held.differs(now), digest(now.payload)
            return Outcome(held.replaced(loser) if differs else None, kept)

        return Ask([*before.commands, *writes, *after], outcome)

    def _writes(self, able: Abilities) -> Iterator[bytes]:
        yield remove(self.key, able)
        if self.type == b"string":
            yield pack(b"SET", self.key, self.words[0])
            yield from (pack(b"APPEND", self.key, piece) for piece in self.words[1:] if piece)
        elif self.type is not None:
            command, step = _MAKERS[self.type]
            yield from (pack(command, self.key, *some) for some in batches(self.words, step))
        if self.expiries and able.has(b"HPEXPIREAT"):
            yield from self._field_expiries()
        if self.type is not None and self.expires_at_ms is not None:
            yield pack(b"PEXPIREAT", self.key, self.expires_at_ms)

    def _field_expiries(self) -> Iterator[bytes]:
        moment: Callable[[tuple[bytes, bytes]], bytes] = lambda pair: pair[1]
        for ms, pairs in itertools.groupby(sorted(_pairs(self.expiries), key=moment), key=moment):
            for some in batches([name for name, _ in pairs], 1):
                yield pack(b"HPEXPIREAT", self.key, ms, b"FIELDS", len(some), *some)


_MAKERS = {b"list": (b"RPUSH", 1), b"set": (b"SADD", 1), b"hash": (b"HMSET", 2), b"zset": (b"ZADD", 2)}
"""By type: the command that adds elements, and how many words one of them has."""


def batches(words: Sequence[bytes], step: int) -> Iterator[Sequence[bytes]]:
    """Cut words into runs within the bounds of one command, none of them through an element of `step` words."""
    start = size = 0
    for at in range(0, len(words), step):
        wide = sum(map(len, words[at : at + step]))
        if at > start and (at + step - start > WORDS_MAX or size + wide > WORDS_BYTES):
            yield words[start:at]
            start, size = at, 0
        size += wide
    if start < len(words):
        yield words[start:]
