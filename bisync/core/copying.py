"""The full copy as the core sees it: how far it is, and the clock of each copied key.

A copied key is a write at the snapshot's position, older than every write that is read. Until the copy is *finished*,
by a transaction of its own, a crash begins it again with a new snapshot and a higher copy number.
"""

from collections.abc import Sequence

import attrs

from bisync.core.link import Part
from bisync.core.position import Clock, copied_clock


@attrs.frozen(slots=True)
class CopiedKey:
    """A key of the snapshot: where it was, and the commands that put it at the target (none: it is not in scope)."""

    database: int  # as the source numbers it
    key: bytes | None  # None: a library of functions
    parts: Sequence[Part]
    stale: bool = False  # the target has it and the snapshot has not: `parts` remove it
    mortal: bool = False  # has it a time to live?
    refused: str = ""  # why it cannot be put there: then `parts` are none
    building: int = 0  # the number of the pieces that came before it; 0: it came whole
    length: int | None = None  # of one that came in pieces: what `parts` must reply first


@attrs.frozen(slots=True)
class KeyPiece:
    """A piece of a key of the snapshot. The key itself follows, or the copy breaks off."""

    parts: Sequence[Part]
    building: int  # a number that all pieces of the key have


@attrs.define
class Copying:
    """The state of the full copy."""

    copy: int = 0  # the number of this copy; each new snapshot has a higher one
    finished: bool = False  # committed at the target
    keys: int = 0  # handed in so far
    ended: bool = False  # was every key of the snapshot handed in?
    finishing: bool = False  # is the finishing transaction queued?
    again: bool = False  # did an earlier copy break off?
    stands: bool = True  # may a life go on with the newest snapshot? Not once writes of the target went to the source

    def begin(self, epoch: int) -> None:
        """A new snapshot was taken, in this epoch.

        Its number is higher than that of every copy before, also where a flush at the target took away the tag that
        told of one: epochs never come again.
        """
        self.copy = max(self.copy + 1, epoch)
        self.keys, self.ended, self.finishing, self.stands = 0, False, False, True

    @property
    def clock(self) -> Clock:
        """The clock of the newest copied key."""
        return copied_clock(self.copy, self.keys)

    def next_clock(self) -> Clock:
        """The clock of the next key."""
        self.keys += 1
        return self.clock

    @property
    def may_finish(self) -> bool:
        """Is there nothing to wait for but the copied keys' way back?"""
        return self.ended and not self.finished and not self.finishing
