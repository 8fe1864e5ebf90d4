"""A field of a hash with its time to live, where servers know one (Redis 7.4, Valkey 9): both are settled together."""

from collections.abc import Sequence

import attrs

from bisync.core.abilities import Abilities
from bisync.core.actions import Replaced
from bisync.core.resp import pack
from bisync.core.restore import Ask, Copy, Loser, Outcome, digest
from bisync.core.unit import Unit


@attrs.frozen
class FieldCopy(Copy):
    """One field as a site holds it."""

    key: bytes
    name: bytes
    value: bytes | None  # None: there is no such field
    expires_at_ms: int | None = None  # Unix time; None: never, or the server knows no such thing

    def restore(self, loser: Loser) -> Ask[Outcome]:
        """Set the field, which takes its time to live away, and give it its own; or take the field away."""
        before = _read(self.key, self.name, loser.able)
        if self.value is None:
            puts = [pack(b"HDEL", self.key, self.name)]
        else:
            puts = [pack(b"HSET", self.key, self.name, self.value)]
        if self.expires_at_ms is not None and loser.able.has(b"HPEXPIREAT"):
            puts.append(pack(b"HPEXPIREAT", self.key, self.expires_at_ms, b"FIELDS", 1, self.name))

        def outcome(replies: Sequence[object]) -> Outcome:
            held = before.read(replies[: len(before.commands)])
            return Outcome(None if held == self else held._replaced(loser), digest(self.value))

        return Ask([*before.commands, *puts], outcome)

    def _replaced(self, loser: Loser) -> Replaced:
        if self.value is None:
            return Replaced(loser.site, "absent", None, None, 0, "")
        value = self.value if len(self.value) <= loser.keep_bytes else None
        return Replaced(loser.site, "value", value, self.expires_at_ms, len(self.value), digest(self.value))


def fence_field(unit: Unit, able: Abilities) -> Ask[Copy]:
    """Reads one field of a hash at a site."""
    assert unit.element is not None
    ask = _read(unit.key, unit.element[1], able)
    return Ask(ask.commands, ask.read)


def _read(key: bytes, name: bytes, able: Abilities) -> Ask[FieldCopy]:
    commands = [pack(b"HGET", key, name)]
    if able.has(b"HPEXPIRETIME"):
        commands.append(pack(b"HPEXPIRETIME", key, b"FIELDS", 1, name))

    def read(replies: Sequence[object]) -> FieldCopy:
        value, times = replies[0], replies[1] if len(replies) > 1 else None
        assert value is None or isinstance(value, bytes)
        at_ms = times[0] if isinstance(times, list) and times else None  # of no field, and of no time, it is negative
        return FieldCopy(key, name, value, at_ms if isinstance(at_ms, int) and at_ms > 0 else None)

    return Ask(commands, read)
