"""Which keys a job copies: Redis glob patterns, and the scope of a channel.

The patterns mean what they mean to `KEYS` and `SCAN MATCH` (`stringmatchlen` in Redis's util.c, 7.0): `*` is any bytes,
`?` one byte, `[abc]`, `[^a]` and `[a-z]` one byte of a class, and a backslash takes away the next byte's meaning. They
work on bytes, so a letter outside ASCII is several `?`. Two things differ from the server on purpose: every run of
stars matches the empty key (there only a lone `*` does), and bytes in a range are compared unsigned (there it depends
on the machine; it matters only for a range with one end in ASCII and one beyond).
"""

import functools
import re

import attrs

OWN_PREFIX = b"bisync:"  # tags, heartbeats and notes of every job: never copied


@functools.lru_cache(maxsize=256)
def compile_patterns(*patterns: bytes) -> re.Pattern[bytes]:
    """A regular expression whose `fullmatch` says whether a key matches one of the glob patterns.

    Its time grows with the key's length times the pattern's, never faster: keys are chosen by the sites' clients.
    """
    return re.compile(b"|".join(b"(?:%b)" % _translate(p) for p in patterns), re.DOTALL)


def _translate(pattern: bytes) -> bytes:
    """One glob as a regular expression.

    What stands between two stars may stop at its leftmost match, because the second star takes any rest. So each is an
    atomic group: without it `*a*a*a*a*b` tries every way to place the letters, which grows with a power of the length.
    """
    parts = _parts(pattern)
    if len(parts) == 1:
        return parts[0]
    first, *middle, last = parts
    return b"".join([first, *(b"(?>.*?%b)" % p for p in middle if p), b".*", last])


def _parts(pattern: bytes) -> list[bytes]:
    """Regular expressions of fixed length, one for each stretch of the glob between its stars."""
    parts, at = [b""], 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        at += 1
        if char == b"*":
            parts.append(b"")
        elif char == b"?":
            parts[-1] += b"."
        elif char == b"[":
            members, at = _class(pattern, at)
            parts[-1] += _any_of(members)
        else:
            if char == b"\\" and at < len(pattern):
                char = pattern[at : at + 1]
                at += 1
            parts[-1] += re.escape(char)
    return parts


def _class(pattern: bytes, at: int) -> tuple[set[int], int]:
    """The bytes that a class allows, and where the pattern goes on; `at` is just after its bracket.

    The server's ways are kept: a class may lack its closing bracket, `[]` allows nothing and `[^]` all, the ends of a
    range may be swapped, a bracket may be the end of a range, and an escaped byte is never the start of one.
    """
    negated = pattern[at : at + 1] == b"^"
    at += negated
    members: set[int] = set()
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        left = len(pattern) - at
        if left >= 2 and pattern[at : at + 1] == b"\\":
            members.add(pattern[at + 1])
            at += 2
        elif left >= 3 and pattern[at + 1 : at + 2] == b"-":
            low, high = sorted((pattern[at], pattern[at + 2]))
            members.update(range(low, high + 1))
            at += 3
        else:
            members.add(pattern[at])
            at += 1
    return (set(range(256)) - members if negated else members), at + 1


def _any_of(members: set[int]) -> bytes:
    """A regular expression for one byte out of `members`."""
    return b"[" + b"".join(b"\\x%02x" % m for m in sorted(members)) + b"]" if members else b"(?!)"


def _pattern_matcher(patterns: tuple[bytes, ...]) -> re.Pattern[bytes] | None:
    return compile_patterns(*patterns) if patterns else None


@attrs.frozen
class Scope:
    """What a channel copies: databases and keys, both as the site that it reads has them.

    Raises ValueError for two databases that would be copied into one, because the way back would be unknown.
    """

    databases: dict[int, int] | None = None  # number at the channel's source -> at its target; None: all, same number
    include: tuple[bytes, ...] = ()  # glob patterns, one of which must match; none: every key
    exclude: tuple[bytes, ...] = ()  # glob patterns, none of which may match; stronger than `include`
    everything: bool = attrs.field(init=False, eq=False, repr=False)  # no choice made: every key but bisync's own
    _included: re.Pattern[bytes] | None = attrs.field(init=False, eq=False, repr=False)
    _excluded: re.Pattern[bytes] | None = attrs.field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.databases is not None and len(set(self.databases.values())) < len(self.databases):
            raise ValueError(f"two databases are copied into one: {self.databases}")
        choice = self.databases is not None or self.include or self.exclude
        # A frozen class may set its own derived fields only this way.
        object.__setattr__(self, "everything", not choice)
        object.__setattr__(self, "_included", _pattern_matcher(self.include))
        object.__setattr__(self, "_excluded", _pattern_matcher(self.exclude))

    def holds(self, database: int, key: bytes) -> bool:
        """Is this key copied? `database` is its number at the channel's source."""
        if key.startswith(OWN_PREFIX):
            return False
        if self.everything:
            return True
        if self.databases is not None and database not in self.databases:
            return False
        if self._included is not None and self._included.fullmatch(key) is None:
            return False
        return self._excluded is None or self._excluded.fullmatch(key) is None

    def target_database(self, database: int) -> int | None:
        """The number at the channel's target for one at its source; None where it is not copied."""
        return database if self.databases is None else self.databases.get(database)

    def inverted(self) -> "Scope":
        """The scope of the channel that goes the other way."""
        if self.databases is None:
            return self
        return attrs.evolve(self, databases={target: source for source, target in self.databases.items()})
