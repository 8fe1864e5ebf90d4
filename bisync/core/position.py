"""Where something stands in a site's history: positions, which one can read from, and clocks, which one can compare."""

import attrs

from bisync.errors import BisyncError

Clock = tuple[int, int, int]
"""(copy, 0, n) is the nth key of a site's nth full copy; (copy, 1, offset) the end of a write in its stream after it.

Clocks of one site grow with each of its writes. Comparing two of them is all that "had seen" means. A site that is
only followed has copy 0 always.
"""

START: Clock = (0, 0, 0)
"""Before every write."""


def copied_clock(copy: int, n: int) -> Clock:
    """The clock of the `n`th key (from 1) of the copy."""
    return copy, 0, n


def stream_clock(copy: int, offset: int) -> Clock:
    """The clock of a write that ends at `offset` (bytes) of the stream that follows the copy."""
    return copy, 1, offset


@attrs.frozen(slots=True)
class Position:
    """A place in a shard's replication stream from which reading can begin."""

    replid: str  # 40 hex digits: the name of the history, as +FULLRESYNC or +CONTINUE gave it
    offset: int  # bytes of that history before this place, counted by the server
    database: int = 0  # the database that is selected here; a partial resync does not repeat the SELECT

    def to_json(self) -> list[str | int]:
        """A short list for the tag: database 0 is left out."""
        return [self.replid, self.offset, *([self.database] if self.database else [])]

    @classmethod
    def from_json(cls, value: object) -> "Position":
        """The reverse of `to_json`. Raises BisyncError where the value is no position."""
        match value:
            case [str(replid), int(offset), *rest] if offset >= 0 and len(rest) <= 1:
                database = rest[0] if rest else 0
                if isinstance(database, int) and database >= 0:
                    return cls(replid, offset, database)
        raise BisyncError(f"{value!r} is no position in a stream")
