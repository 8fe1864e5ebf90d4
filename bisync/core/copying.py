"""The full copy as the core sees it: how far it is, and the clock of each copied key.

A copied key is a write at the snapshot's position, older than every write that is read. Until the copy is *finished*,
by a transaction of its own, a crash begins it again with a new snapshot and a higher copy number.
"""

from collections.abc import Mapping, Sequence

import attrs

from bisync.core.link import Part
from bisync.core.position import Clock, copied_clock
from bisync.core.rules import FORWARD, Rules
from bisync.core.tag import Tag


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


@attrs.define(slots=True)
class CopiedKeys:
    """Whole keys of the snapshot, many at once: one command each."""

    parts: list[Part] = attrs.field(factory=list)
    places: list[tuple[int, bytes, bool]] = attrs.field(factory=list)  # database at the source, key, has it an expiry?
    size: int = 0  # bytes of the commands

    def add(self, database: int, key: bytes, mortal: bool, part: Part) -> None:
        """One more."""
        self.parts.append(part)
        self.places.append((database, key, mortal))
        self.size += len(part[1])


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
    compares: bool = False  # is no snapshot taken, because the sites are reconciled instead?
    reconciling: str = ""  # the site whose values stand while they are; empty: they are not, or not any more
    begun: int = 0  # the epoch in which the job began anew after a gap; 0: it never did

    @classmethod
    def resumed(cls, rules: Rules, tags: Mapping[str, Tag]) -> "Copying":
        """How far the copy was, by the newest tags of the channels.

        While the sites are being reconciled both tags say so; that they are done is told by the forward channel's.
        """
        forward = tags.get(FORWARD)
        finished = max((tag.copied for tag in tags.values()), default=0)
        begun = max((tag.begun for tag in tags.values()), default=0)
        copies = max(finished, forward.applied[0] if forward else 0)
        compares = rules.bidirectional and (rules.target_not_empty == "reconcile" or begun > 0)
        broken_off = not finished and (copies > 0 or begun > 0 or (forward is None and bool(tags)))
        told = [forward.reconciling] if forward else [tag.reconciling for tag in tags.values()]
        reconciling = next(filter(None, told), rules.source if compares and not finished else "")
        return cls(
            copies,
            bool(finished),
            again=broken_off and not compares,
            compares=compares,
            reconciling=reconciling if rules.bidirectional else "",
            begun=begun,
        )

    @property
    def done(self) -> bool:
        """Is it finished, and are the sites reconciled where they have to be?"""
        return self.finished and not self.reconciling

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

    def next_clock(self, keys: int = 1) -> Clock:
        """The clock of the next key, or of the next few, which are put as one."""
        self.keys += keys
        return self.clock

    @property
    def may_finish(self) -> bool:
        """Is there nothing to wait for but the copied keys' way back?"""
        return self.ended and not self.finished and not self.finishing
