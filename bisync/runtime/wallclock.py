"""The engine's time: ms since 1970 that never jump, because only the first reading is the machine's clock.

Heartbeats are compared with one another and writes with writes, so a step of the machine's clock must not show.
"""

import time


def machine_ms() -> int:
    """The machine's clock, in ms since 1970, for what other programs compare with it. It may jump."""
    return int(time.time() * 1000)


class WallClock:
    """Milliseconds since 1970, growing evenly from the moment it was made."""

    def __init__(self) -> None:
        self._began_s, self._mark_s = time.time(), time.monotonic()

    def now_ms(self) -> int:
        """The time."""
        return int((self._began_s + time.monotonic() - self._mark_s) * 1000)
