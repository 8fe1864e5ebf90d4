"""The full copy as the core sees it: how far it is, and the clock of each copied key.

A copied key is a write at the snapshot's position, older than every write that is read. Until the copy is *finished*,
by a transaction of its own, a crash begins it again with a new snapshot and a higher copy number.
"""

import attrs

from bisync.core.position import Clock, copied_clock


@attrs.define
class Copying:
    """The state of the full copy."""

    copy: int = 0  # the number of this copy; each new snapshot has a higher one
    finished: bool = False  # committed at the target
    keys: int = 0  # handed in so far
    ended: bool = False  # was every key of the snapshot handed in?
    finishing: bool = False  # is the finishing transaction queued?
    again: bool = False  # did an earlier copy break off?

    def begin(self, epoch: int) -> None:
        """A new snapshot was taken, in this epoch.

        Its number is higher than that of every copy before, also where a flush at the target took away the tag that
        told of one: epochs never come again.
        """
        self.copy = max(self.copy + 1, epoch)
        self.keys, self.ended, self.finishing = 0, False, False

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
