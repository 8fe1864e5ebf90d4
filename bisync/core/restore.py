"""What settles a unit: the fence that reads it, the restore that writes it, the note beside the data.

Elements go by the commands of their type, whole keys by DUMP and RESTORE, all libraries of functions together by
FUNCTION DUMP and FUNCTION RESTORE. `rebuild` has keys that are too big for that, `merge` has streams. Whatever way,
a restore first reads what it replaces, in its own transaction.
"""

import abc
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import attrs

from bisync.core.abilities import Abilities
from bisync.core.actions import Replaced
from bisync.core.commands.places import Element
from bisync.core.resp import pack
from bisync.core.unit import Unit
from bisync.errors import BisyncError

T = TypeVar("T")

FOOTER_BYTES = 10  # of a DUMP payload: the RDB version and a checksum, so they differ from server to server


class NotNow(Exception):
    """The replies fit no longer, as something changed meanwhile: ask again."""


class Unfit(Exception):
    """What was read cannot be copied, and why."""


@attrs.frozen
class Ask(Generic[T]):
    """Commands of one transaction, and what their replies mean.

    `read` raises NotNow and Unfit. Error replies are not put to it.
    """

    commands: list[bytes]
    read: Callable[[Sequence[object]], T]


@attrs.frozen
class Outcome:
    """What a restore has done."""

    replaced: Replaced | None  # None: nothing but what was restored had stood there
    kept: str  # SHA-256 of what stands there now, in hex; empty where nothing does
    turn: bool = False  # something was there that the authority lacks


@attrs.frozen
class Loser:
    """The site where a unit is restored, as far as a restore must know it."""

    site: str
    able: Abilities
    big: bool = False  # the key there is too big to be read whole
    keep_bytes: int = 1 << 16  # a longer value is not kept, only its digest


class Copy(abc.ABC):
    """What a fence has read."""

    @abc.abstractmethod
    def restore(self, loser: Loser) -> Ask[Outcome]:
        """The commands that put it at the other site."""


def digest(content: bytes | None) -> str:
    """SHA-256 in hex; of nothing the empty text."""
    return "" if content is None else hashlib.sha256(content).hexdigest()


# -- times to live
def expiry(key: bytes, able: Abilities, *, exact: bool = True) -> Ask[int | None]:
    """When a key expires, as a Unix time in ms; None: never, or there is no such key.

    Before Redis 7.0 only what is left of the time can be asked for. So the clock is read before it and after it; where
    it went on in between, NotNow is raised, or the moment may be 1 ms off if it need not be exact.
    """
    commands = [pack(*words) for words in expiry_words(key, able)]
    if len(commands) == 1:
        return Ask(commands, lambda replies: _time(replies[0]))

    def read(replies: Sequence[object]) -> int | None:
        before, left, after = replies
        if not isinstance(left, int) or left < 0:
            return None
        if exact and _clock_ms(before) != _clock_ms(after):
            raise NotNow("the clock went on between two reads")
        return _clock_ms(before) + left

    return Ask(commands, read)


def expiry_words(key: bytes, able: Abilities) -> list[tuple[bytes, ...]]:
    """The words of the commands of `expiry`."""
    if able.has(b"PEXPIRETIME"):
        return [(b"PEXPIRETIME", key)]
    return [(b"TIME",), (b"PTTL", key), (b"TIME",)]


def _time(reply: object) -> int | None:
    return reply if isinstance(reply, int) and reply > 0 else None


def _clock_ms(reply: object) -> int:
    assert isinstance(reply, list)
    seconds, micros = map(int, reply)
    return seconds * 1000 + micros // 1000


# -- elements
_READS = {"hash": b"HGET", "set": b"SISMEMBER", "zset": b"ZSCORE"}
_PUTS: dict[str, Callable[[bytes, bytes, bytes], tuple[bytes, ...]]] = {
    "hash": lambda key, name, value: (b"HSET", key, name, value),
    "set": lambda key, name, value: (b"SADD", key, name),
    "zset": lambda key, name, value: (b"ZADD", key, value, name),
    "ttl": lambda key, name, value: (b"PEXPIREAT", key, value),
}
_REMOVES: dict[str, Callable[[bytes, bytes], tuple[bytes, ...]]] = {
    "hash": lambda key, name: (b"HDEL", key, name),
    "set": lambda key, name: (b"SREM", key, name),
    "zset": lambda key, name: (b"ZREM", key, name),
    "ttl": lambda key, name: (b"PERSIST", key),
}


def read_words(key: bytes, element: Element) -> tuple[bytes, ...]:
    """The words of the command that reads an element. For a time to live `expiry_words` has them."""
    return _READS[element[0]], key, element[1]


def put_words(key: bytes, element: Element, value: bytes | None) -> tuple[bytes, ...]:
    """The words of the command that gives an element this value, or, with None, takes it away."""
    kind, name = element
    return _REMOVES[kind](key, name) if value is None else _PUTS[kind](key, name, value)


def _element(key: bytes, element: Element, able: Abilities, *, exact: bool = True) -> Ask[bytes | None]:
    """Reads one element: a field's value, a member's score, "1" for a member of a set, a time to live in ms as text."""
    if element[0] == "ttl":
        when = expiry(key, able, exact=exact)
        return Ask(when.commands, lambda replies: _number(when.read(replies)))
    return Ask([pack(*read_words(key, element))], lambda replies: present(replies[0]))


def _number(found: int | None) -> bytes | None:
    return None if found is None else b"%d" % found


def present(reply: object) -> bytes | None:
    """The reply to `read_words` as a value: a member of a set that is there is "1"."""
    if isinstance(reply, int):  # SISMEMBER
        return b"1" if reply else None
    assert reply is None or isinstance(reply, bytes)
    return reply


@attrs.frozen
class ElementCopy(Copy):
    """One element of a key; `value` as `_element` reads it."""

    key: bytes
    element: Element
    value: bytes | None

    def restore(self, loser: Loser) -> Ask[Outcome]:
        """Add it or take it away."""
        before = _element(self.key, self.element, loser.able, exact=False)
        put = pack(*put_words(self.key, self.element, self.value))

        def outcome(replies: Sequence[object]) -> Outcome:
            held = before.read(replies[: len(before.commands)])
            return Outcome(None if self._same(held) else self._replaced(loser, held), digest(self.value))

        return Ask([*before.commands, put], outcome)

    def _same(self, held: bytes | None) -> bool:
        if self.element[0] == "zset" and held is not None and self.value is not None:
            return float(held) == float(self.value)  # servers write one number in several ways
        return held == self.value

    def _replaced(self, loser: Loser, held: bytes | None) -> Replaced:
        if held is None:
            return Replaced(loser.site, "absent", None, None, 0, "")
        ttl = self.element[0] == "ttl"
        value = held if len(held) <= loser.keep_bytes else None
        when = int(held) if ttl else None
        return Replaced(loser.site, "ttl" if ttl else "value", value, when, len(held), digest(held))


# -- whole keys
@attrs.frozen
class Held:
    """A whole key as a restore found it."""

    payload: bytes | None  # of DUMP; None: there was no key, or it was too big to be read
    expires_at_ms: int | None
    size: int  # bytes; 0: there was no key

    def differs(self, other: "Held") -> bool:
        """Is it another value, or does it expire at another time?

        Payloads may differ though the values are equal, and what was not read counts as another value.
        """
        unread = self.size > 0 and self.payload is None
        return unread or (body(self.payload), self.expires_at_ms) != (body(other.payload), other.expires_at_ms)

    def replaced(self, loser: Loser) -> Replaced:
        """For the log."""
        if not self.size:
            return Replaced(loser.site, "absent", None, None, 0, "")
        value = self.payload if self.size <= loser.keep_bytes else None
        return Replaced(loser.site, "dump", value, self.expires_at_ms, self.size, digest(self.payload))


def body(payload: bytes | None) -> bytes | None:
    """A DUMP payload without its end, which tells of the server and not of the value."""
    return None if payload is None else payload[:-FOOTER_BYTES]


def held_key(key: bytes, loser: Loser) -> Ask[Held]:
    """Reads what a restore of a whole key replaces."""
    when = expiry(key, loser.able, exact=False)
    value = pack(b"MEMORY", b"USAGE", key) if loser.big else pack(b"DUMP", key)

    def read(replies: Sequence[object]) -> Held:
        found = replies[0]
        payload = found if isinstance(found, bytes) else None
        size = found if isinstance(found, int) else len(payload or b"")
        return Held(payload, when.read(replies[1 : 1 + len(when.commands)]), size)

    return Ask([value, *when.commands], read)


def remove(key: bytes, able: Abilities) -> bytes:
    """The command that deletes a key, in small letters: `echo` says why."""
    return pack(*_remove_words(key, able))


def _remove_words(key: bytes, able: Abilities) -> tuple[bytes, bytes]:
    return b"unlink" if able.has(b"UNLINK") else b"del", key


def key_words(
    key: bytes, payload: bytes | None, expires_at_ms: int | None, able: Abilities
) -> list[tuple[bytes | int, ...]]:
    """The words of the commands that put a whole key in its place, or, without a payload, remove it."""
    if payload is None:
        return [_remove_words(key, able)]
    when, after = expires_at_ms or 0, list[tuple[bytes | int, ...]]()
    if when and able.options < 2:
        when, after = 0, [(b"PEXPIREAT", key, when)]
    put = b"RESTORE", key, when, payload
    if not able.options:
        return [_remove_words(key, able), put, *after]
    return [(*put, b"REPLACE", *((b"ABSTTL",) if when else ())), *after]


@attrs.frozen
class DumpCopy(Copy):
    """A whole key in one piece."""

    key: bytes
    payload: bytes | None
    expires_at_ms: int | None

    def restore(self, loser: Loser) -> Ask[Outcome]:
        """Put it there by RESTORE, whatever stands there."""
        before = held_key(self.key, loser)

        def outcome(replies: Sequence[object]) -> Outcome:
            held = before.read(replies)
            copy = Held(self.payload, self.expires_at_ms, len(self.payload or b""))
            return Outcome(held.replaced(loser) if held.differs(copy) else None, digest(self.payload))

        writes = key_words(self.key, self.payload, self.expires_at_ms, loser.able)
        return Ask([*before.commands, *(pack(*words) for words in writes)], outcome)


# -- functions
@attrs.frozen
class FunctionsCopy(Copy):
    """All libraries of functions: a payload of FUNCTION DUMP, or, for a server that does not take it, their codes."""

    payload: bytes
    codes: tuple[bytes, ...] | None = None

    def restore(self, loser: Loser) -> Ask[Outcome]:
        """Replace all libraries by these."""
        read = pack(b"FUNCTION", b"DUMP")
        if self.codes is None:
            writes = [pack(b"FUNCTION", b"RESTORE", self.payload, b"FLUSH")]
        else:
            writes = [pack(b"FUNCTION", b"FLUSH"), *(pack(b"FUNCTION", b"LOAD", code) for code in self.codes)]

        def outcome(replies: Sequence[object]) -> Outcome:
            held, now = replies[0], replies[-1]
            assert isinstance(held, bytes) and isinstance(now, bytes)
            differs = body(held) != body(now)
            return Outcome(Held(held, None, len(held)).replaced(loser) if differs else None, digest(now))

        return Ask([read, *writes, read], outcome)


def fence_functions(loser: Abilities) -> Ask[Copy]:
    """Reads all libraries of functions in a form that the other site takes."""
    if loser.restores:
        return Ask([pack(b"FUNCTION", b"DUMP")], lambda replies: FunctionsCopy(_bulk(replies[0])))
    return Ask([pack(b"FUNCTION", b"LIST", b"WITHCODE")], lambda replies: FunctionsCopy(b"", tuple(_codes(replies[0]))))


def _codes(reply: object) -> list[bytes]:
    assert isinstance(reply, list)
    return [dict(zip(library[::2], library[1::2], strict=True))[b"library_code"] for library in reply]


def _bulk(value: object) -> bytes:
    assert isinstance(value, bytes)
    return value


# -- fences
def fence_element(unit: Unit, able: Abilities) -> Ask[Copy]:
    """Reads one element at a site."""
    assert unit.element is not None
    element, ask = unit.element, _element(unit.key, unit.element, able)
    return Ask(ask.commands, lambda replies: ElementCopy(unit.key, element, ask.read(replies)))


def fence_key(key: bytes, able: Abilities) -> Ask[Copy]:
    """Reads a whole key at a site, in one piece."""
    when = expiry(key, able)

    def read(replies: Sequence[object]) -> Copy:
        payload = replies[0]
        assert payload is None or isinstance(payload, bytes)
        return DumpCopy(key, payload, when.read(replies[1:]))

    return Ask([pack(b"DUMP", key), *when.commands], read)


# -- notes
def note_name(unit: Unit) -> bytes:
    """The field that names a unit in the hash of notes."""
    kind, name = unit.element or ("", b"")
    return json.dumps([unit.database, unit.key.decode("latin-1"), kind, name.decode("latin-1")]).encode()


def note(epoch: int, number: int, authority: str) -> bytes:
    """The value of a note: the round, and the site that alone has all writes of the unit."""
    return json.dumps([epoch, number, authority]).encode()


def read_note(name: bytes, value: bytes) -> tuple[Unit, tuple[int, int], str]:
    """The unit, the round (epoch, number) and the authority of a note. Raises BisyncError where it is none."""
    try:
        database, key, kind, element = json.loads(name)
        epoch, number, authority = json.loads(value)
        unit = Unit(int(database), key.encode("latin-1"), (kind, element.encode("latin-1")) if kind else None)
        return unit, (int(epoch), int(number)), str(authority)
    except (ValueError, TypeError, AttributeError) as e:
        raise BisyncError(
            f"the note {_cut(name)} of an open arbitration cannot be read: it holds {_cut(value)}",
            why=type(e).__name__,
            hint="was the key bisync:<job>:open written by something else? Then delete that field",
        ) from None


def _cut(text: bytes) -> str:
    return repr(text if len(text) <= 60 else text[:60] + b"...")[1:]
