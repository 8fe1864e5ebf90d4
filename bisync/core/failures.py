"""Writes that failed at the other site, or found nothing there: the keys were unequal before."""

from collections.abc import Sequence

import attrs

from bisync.core.actions import Action, Notice
from bisync.core.arbitration import Arbiter
from bisync.core.channel import Channel
from bisync.core.operation import Operation
from bisync.core.pending import Pending, Place
from bisync.core.unit import Unit

FAILURES_SAID = 1_000
"""Of so many keys, in one life, it is an event that a write to them failed at the other site."""


@attrs.define(eq=False)
class Failures:
    """What follows from them. One life of one engine; what is to be told goes to `actions`."""

    _arbiter: Arbiter
    _actions: list[Action]
    _said: set[Place] = attrs.field(factory=set)  # keys of which it was said

    def check(self, channel: Channel, write: Pending) -> None:
        """A write was seen back. Where a command of it had failed across, its origin holds the right values."""
        if write.clock not in channel.failed and write.clock not in channel.missed:
            return
        loud = write.clock in channel.failed and not write.contested
        applied = [o for o in write.operations if o.left is not None]
        failed = [applied[at] for at in channel.failed.pop(write.clock, ()) if at < len(applied)]
        if write.clock in channel.missed:
            channel.missed.discard(write.clock)
            failed += [o for o in applied if o.expires]
        elif write.contested:
            self._tell(channel, failed)
        for operation in failed:
            for place in operation.written:
                self._arbiter.failed(channel.origin, write.clock, place)
        self.settle(write, channel.origin, channel.origin, anew=write.contested)
        if loud:
            names = ", ".join(sorted({repr(key)[2:-1] for o in write.operations for _, key in o.written})[:5])
            text = f"a command of {channel.origin} failed at {channel.target}: {names} differed. It is copied anew"
            self._actions.append(Notice("warning", "unequal", text))

    def _tell(self, channel: Channel, failed: Sequence[Operation]) -> None:
        """A write that met another one could not be applied across: said of some keys, in the log for all."""
        for operation in failed:
            places = set(operation.written) - self._said
            if places and len(self._said) < FAILURES_SAID:
                self._said |= places
                command = repr(b" ".join(operation.args)[:200])[2:-1]
                text = f"a write of {channel.origin} met another one and failed at {channel.target}: {command}"
                self._actions.append(Notice("warning", "failed", text))

    def settle(self, write: Pending, site: str, authority: str, *, anew: bool = False) -> None:
        """Settle every key of a write of `site`, or with `anew` those that are not being settled already."""
        for operation in write.operations:
            for place in operation.written:
                if not (anew and self._arbiter.covering(Unit(*place))):
                    self._arbiter.arbitrate(Unit(*place), None, {site: write.start}, authority)
