"""The commands that put the keys of a snapshot at the target, whatever it holds and however old its server is.

A value that is whole goes by RESTORE, a string by SET. One that comes in pieces (because it is big, or of a type that
the target's RESTORE does not know) is built by the commands of its kind under a name of bisync's own, and takes its
place by RENAME when it is whole: so no reader sees half of it, and what breaks off leaves the old value.

What commands cannot make anew: pending entries of a stream that are deleted from it, the times when its consumers were
active, and what modules attached to a key.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import cast

import attrs

from bisync.core.commands import late, put_off
from bisync.core.dialect import Words, spoken
from bisync.core.link import Part
from bisync.core.rdb import (
    ArrayState,
    Element,
    Kind,
    StreamConsumer,
    StreamEntry,
    StreamGroup,
    StreamIdempotence,
    StreamPending,
    StreamRecord,
    StreamState,
    String,
    Value,
    ValueBegins,
)
from bisync.core.rdb.elements import HashField, ScoredMember
from bisync.core.rebuild import batches
from bisync.core.resp import pack, pack_words
from bisync.core.rules import Rules
from bisync.core.server import Server
from bisync.core.tag import building_key

_RENAME_WHAT_IS_LEFT = b"""
if redis.call('exists', KEYS[1]) == 1 then return redis.call('rename', KEYS[1], KEYS[2]) end
return redis.call('unlink', KEYS[2])
"""

_RESTORE = b"*6\r\n$7\r\nRESTORE\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$7\r\nREPLACE\r\n$6\r\nABSTTL\r\n"

DATABASES = 16
"""The stock number of databases, where a site has not told its own."""

STRING_PIECE_BYTES = 1 << 20
"""So many bytes of a string are written with one command."""


class Unknown(Exception):
    """The target's server has no command for this, and which version of Redis brought one."""


# -- whole values
def put(item: Value | String, database: int, now_ms: int, server: Server) -> Part:
    """The command that makes a key what it was in the snapshot. `database` as the target numbers it."""
    key, at_ms = item.key, item.expires_at_ms
    if isinstance(item, Value):
        if server.since(5, 0):  # as `spoken` and `put_off` would have it, in a tenth of the time
            expiry, payload = b"%d" % (late(at_ms, now_ms) if at_ms else 0), item.payload
            return database, _RESTORE % (len(key), key, len(expiry), expiry, len(payload), payload)
        args: tuple[bytes, ...] = (b"RESTORE", key, b"%d" % (at_ms or 0), item.payload, b"REPLACE", b"ABSTTL")
    elif at_ms is None:
        return database, pack_words((b"SET", key, item.value))
    else:
        args = (b"SET", key, item.value, b"PXAT", b"%d" % at_ms)
    return database, pack(*spoken(put_off(args, now_ms), server))


# -- values in pieces
def remove_half_built(rules: Rules) -> list[Part]:
    """The removal of what was built of a key in pieces and did not take its place, in every database."""
    remove = pack(*spoken((b"UNLINK", building_key(rules.job)), rules.server(rules.target)))
    return [(n, remove) for n in range(rules.database_counts.get(rules.target, DATABASES))]


@attrs.define
class Building:
    """A key that comes in pieces and is built under another name, `under`."""

    item: ValueBegins
    under: bytes
    server: Server
    begun: bool = False  # was anything made yet?
    length: int = 0  # of what is made: elements, bytes of a string
    mortal: bool = False  # may some elements be gone before all is made?
    _state: StreamState | None = None
    _group: bytes = b""
    _consumer: bytes = b""
    _seek: int | None = None

    def add(self, elements: Sequence[Element], now_ms: int) -> list[Words]:
        """The commands that add some elements. Raises Unknown."""
        words: list[Words] = [] if self.begun else [spoken((b"UNLINK", self.under), self.server)]
        match self.item.kind:
            case "string":
                words += self._string(cast(Sequence[bytes], elements))
            case "list" | "set" as kind:
                items = cast(Sequence[bytes], elements)
                self.length += len(items)
                words += self._batches(b"RPUSH" if kind == "list" else b"SADD", items, 1)
            case "hash":
                words += self._hash(cast(Sequence[HashField], elements), now_ms)
            case "zset":
                scored = cast(Sequence[ScoredMember], elements)
                self.length += len(scored)
                pairs = ((repr(score).encode(), member) for member, score in scored)
                words += self._batches(b"ZADD", list(itertools.chain.from_iterable(pairs)), 2)
            case "stream":
                words += itertools.chain.from_iterable(map(self._stream, elements))
            case "array":
                words += itertools.chain.from_iterable(map(self._array, elements))
            case kind:
                raise Unknown(f"no command makes a value of a {kind}")
        self.begun = True
        return words

    def end(self, now_ms: int) -> list[Words]:
        """The commands that put it in its place. The first replies `length`, if nothing else touched what was made."""
        words: list[Words] = [(_LENGTHS[self.item.kind], self.under)]
        if self.item.kind == "stream":
            words += self._end_stream()
        if self._seek is not None:
            words.append((b"ARSEEK", self.under, self._seek + 1))
        if self.mortal:  # nothing of it may be left
            words.append((b"EVAL", _RENAME_WHAT_IS_LEFT, 2, self.under, self.item.key))
        else:
            words.append((b"RENAME", self.under, self.item.key))
        if self.item.expires_at_ms is not None:
            words.append(put_off((b"PEXPIREAT", self.item.key, b"%d" % self.item.expires_at_ms), now_ms))
        return words

    def _needs(self, what: str, *version: int) -> None:
        if not self.server.since(*version):
            raise Unknown(f"{what} came with Redis {'.'.join(map(str, version))}")

    def _batches(self, command: bytes, words: Sequence[bytes], step: int) -> Iterator[Words]:
        return ((command, self.under, *some) for some in batches(words, step))

    def _string(self, pieces: Sequence[bytes]) -> Iterator[Words]:
        for piece in pieces:
            for at in range(0, len(piece), STRING_PIECE_BYTES) or (0,):
                some = piece[at : at + STRING_PIECE_BYTES]
                yield b"APPEND" if self.length else b"SET", self.under, some
                self.length += len(some)

    def _hash(self, fields: Sequence[HashField], now_ms: int) -> Iterator[Words]:
        self.length += len(fields)
        yield from self._batches(b"HMSET", [word for name, value, _ in fields for word in (name, value)], 2)
        mortal = sorted((ms, name) for name, _, ms in fields if ms is not None)
        if mortal:
            if not self.server.expires_fields:
                raise Unknown("a time to live of a field came with Redis 7.4 and Valkey 9.0")
            self.mortal = True
        for ms, group in itertools.groupby(mortal, key=lambda pair: pair[0]):
            for some in batches([name for _, name in group], 1):
                yield put_off((b"HPEXPIREAT", self.under, b"%d" % ms, b"FIELDS", b"%d" % len(some), *some), now_ms)

    # -- streams
    def _stream(self, element: Element) -> Iterator[Words]:
        self._needs("streams", 5, 0)
        match element:
            case StreamEntry():
                self.length += 1
                yield b"XADD", self.under, _id(element.id), *element.fields
            case StreamState():
                self._state = element
                if not self.length:
                    yield b"XGROUP", b"CREATE", self.under, b"bisync", b"0", b"MKSTREAM"
                    yield b"XGROUP", b"DESTROY", self.under, b"bisync"
            case StreamGroup():
                self._group = element.name
                read = element.entries_read is not None and self.server.since(7, 0)
                known: Words = (b"ENTRIESREAD", element.entries_read or 0) if read else ()
                yield b"XGROUP", b"CREATE", self.under, element.name, _id(element.last_id), *known
            case StreamConsumer():
                self._consumer = element.name
                if self.server.since(6, 2):
                    yield b"XGROUP", b"CREATECONSUMER", self.under, self._group, element.name
                else:  # reading what is pending for it, which is nothing yet, makes the consumer
                    yield b"XREADGROUP", b"GROUP", self._group, element.name, b"STREAMS", self.under, b"0"
            case StreamPending(owned=True):
                yield (
                    *(b"XCLAIM", self.under, self._group, self._consumer, 0, _id(element.id)),
                    *(b"TIME", element.delivered_ms, b"RETRYCOUNT", element.deliveries, b"FORCE", b"JUSTID"),
                )
            case StreamPending():
                self._needs("an entry that was given back", 8, 8)
                yield (
                    *(b"XNACK", self.under, self._group, b"SILENT", b"IDS", 1, _id(element.id)),
                    *(b"RETRYCOUNT", element.deliveries, b"FORCE"),
                )
            case StreamIdempotence():
                if not self.server.since(8, 6):
                    return  # every stream has the settings; it matters where there are records, too
                yield (
                    *(b"XCFGSET", self.under, b"IDMP-DURATION", element.duration_s),
                    *(b"IDMP-MAXSIZE", element.max_entries),
                )
            case StreamRecord():
                self._needs("the recognition of repetitions", 8, 6)
                yield b"XIDMPRECORD", self.under, element.producer, element.idempotence_id, _id(element.id)

    def _end_stream(self) -> Iterator[Words]:
        """The last id, which may be one that was deleted; from 7.0 on also what else was there."""
        state = self._state
        assert state is not None
        numbers: Words = ()
        if self.server.since(7, 0) and state.entries_added is not None:
            deleted = _id(state.max_deleted_id or (0, 0))
            numbers = b"ENTRIESADDED", state.entries_added, b"MAXDELETEDID", deleted
        yield b"XSETID", self.under, _id(state.last_id), *numbers

    # -- arrays
    def _array(self, element: Element) -> Iterator[Words]:
        self._needs("arrays", 8, 8)
        if isinstance(element, ArrayState):
            self._seek = element.last_insert
            return
        index, value = cast(tuple[int, bytes], element)
        self.length += 1
        yield b"ARSET", self.under, index, value


def _id(of: tuple[int, int]) -> bytes:
    return b"%d-%d" % of


_LENGTHS: dict[Kind, bytes] = {
    "string": b"STRLEN",
    "list": b"LLEN",
    "set": b"SCARD",
    "hash": b"HLEN",
    "zset": b"ZCARD",
    "stream": b"XLEN",
    "array": b"ARCOUNT",
}
"""By kind: the command that replies how long a value is."""
