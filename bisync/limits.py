"""The table `[limits]` of a job file, and what `bisync limits` has set beside it: how fast bisync may write.

The job file has the initial values. Those that were set since then, by name, are in the store and go before them, also
in an engine that is started later, until they are taken back.
"""

from collections.abc import Mapping
from typing import Any

import attrs

from bisync.options import flag, whole

NO_CAP = "no cap"
COMMANDS_MAX, BYTES_MIN, BYTES_MAX = 10**9, 1 << 10, 1 << 40  # of a second


@attrs.frozen
class Limits:
    """Caps on what a channel sends to its target, and whether the copy yields. Each channel has all of the cap."""

    # Commands per second that the full copy sends, or a comparison to each site, at most.
    copy_commands_per_s: int = attrs.field(default=0, metadata=whole(1, COMMANDS_MAX, "commands", zero=NO_CAP))
    # Bytes per second that the full copy sends, or a comparison exchanges with each site, at most.
    copy_bytes_per_s: int = attrs.field(default=0, metadata=whole(BYTES_MIN, BYTES_MAX, "bytes", zero=NO_CAP))
    # Commands per second that following sends, at most, on each channel.
    follow_commands_per_s: int = attrs.field(default=0, metadata=whole(1, COMMANDS_MAX, "commands", zero=NO_CAP))
    # Bytes per second that following sends, at most, on each channel.
    follow_bytes_per_s: int = attrs.field(default=0, metadata=whole(BYTES_MIN, BYTES_MAX, "bytes", zero=NO_CAP))
    # Does the copy slow down where the target answers more slowly because of it?
    copy_yields: bool = attrs.field(default=True, metadata=flag())

    def caps(self, *, copying: bool) -> "Caps":
        """Those of a channel that copies, or that follows."""
        if copying:
            return Caps(self.copy_commands_per_s, self.copy_bytes_per_s)
        return Caps(self.follow_commands_per_s, self.follow_bytes_per_s)


@attrs.frozen
class Caps:
    """What a channel may send in a second; 0: as much as it can."""

    commands: int = 0
    bytes: int = 0


NAMES = tuple(a.name for a in attrs.fields(Limits))


def checked(name: str, value: object) -> int | bool:
    """The value of a limit. Raises ValueError that says what would be right."""
    read: int | bool = attrs.fields_dict(Limits)[name].metadata["reads"](value)
    return read


def in_force(limits: Limits, changed: Mapping[str, int]) -> Limits:
    """The job file's limits with those that were changed since, as the store has them (a flag as 0 or 1).

    What this version does not know, or could not have written, is left out: another version may have.
    """
    usable: dict[str, Any] = {}
    for name, value in changed.items():
        if name in NAMES:
            try:
                usable[name] = checked(name, bool(value) if name == "copy_yields" else value)
            except ValueError:
                continue
    return attrs.evolve(limits, **usable)
