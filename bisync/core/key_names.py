"""Which keys there were, in about 11 bytes for each, whatever their names are.

A name is kept as a digest of 76 bits: 12 say in which of the buckets it is, 64 are kept there. So another name may look
as if it were there. For one key that chance is the number of names / 2**76, which is 1.3e-16 among ten million names:
if ten million names are asked for that are not there, it happens to one of them in one of 750 million such cases. That
is rarer than faults of the memory itself, and an exact answer takes fifteen times as much of it. The digest is keyed
with a secret, so nobody who chooses the names of keys can make it happen.
"""

import bisect
import hashlib
from array import array

SECRET_BYTES = 32
BUCKET_BITS = 12
_MASK = (1 << BUCKET_BITS) - 1


class KeyNames:
    """A set of keys by (database, name). A name that was added is always there; see above for the others."""

    def __init__(self, secret: bytes) -> None:
        """`secret`: `SECRET_BYTES` random bytes that nobody knows, drawn for this set."""
        self._begun = hashlib.blake2b(key=secret, digest_size=8 + 2)
        self._buckets = [array("Q") for _ in range(1 << BUCKET_BITS)]
        self._sorted: set[int] = set()  # the buckets that are in order: each is put in order when it is asked
        self._count = 0

    def __len__(self) -> int:
        """How many were added."""
        return self._count

    def add(self, database: int, key: bytes) -> None:
        """It is there from now on. One that is added twice takes room twice."""
        number, digest = self._digest(database, key)
        self._buckets[number].append(digest)
        self._sorted.discard(number)
        self._count += 1

    def holds(self, database: int, key: bytes) -> bool:
        """Was it added?"""
        number, digest = self._digest(database, key)
        if number not in self._sorted:
            self._buckets[number] = array("Q", sorted(self._buckets[number]))
            self._sorted.add(number)
        bucket = self._buckets[number]
        at = bisect.bisect_left(bucket, digest)
        return at < len(bucket) and bucket[at] == digest

    def _digest(self, database: int, key: bytes) -> tuple[int, int]:
        """The number of the bucket, and what is kept there."""
        name = self._begun.copy()
        name.update(b"%d %b" % (database, key))
        digest = int.from_bytes(name.digest(), "little")
        return digest & _MASK, digest >> 16
