"""The engine's time: ms since 1970 that never jump, because only the first reading is the machine's clock.

Heartbeats are compared with one another and writes with writes, so a step of the machine's clock must not show.
"""

import time

COMPARISON_US = 20  # so exactly are two clocks compared
COMPARISONS_MAX = 3


def machine_ms() -> int:
    """The machine's clock, in ms since 1970, for what other programs compare with it. It may jump."""
    return int(time.time() * 1000)


class WallClock:
    """The time since 1970, growing evenly from the moment it was made."""

    def __init__(self) -> None:
        self._offset_us = time.time_ns() // 1000 - time.monotonic_ns() // 1000

    def now_ms(self) -> int:
        """The time in ms."""
        return self.now_us() // 1000

    def now_us(self) -> int:
        """The time in µs."""
        return self._offset_us + time.monotonic_ns() // 1000

    def of_machine(self, us: int) -> int | None:
        """A time of the machine's clock not long ago, in µs since 1970, as a time of this one, not earlier than it was.

        None where the two cannot be compared just now, because the thread is not let run.
        """
        for _ in range(COMPARISONS_MAX):
            machine_us, now_us = time.time_ns() // 1000, self.now_us()
            if time.time_ns() // 1000 - machine_us <= COMPARISON_US:
                return us + now_us - machine_us + 1
        return None

    def to_uptime(self, us: int) -> int:
        """A time of this clock, in µs, as µs of the machine's own count, which all its processes share until it boots.

        It is what may be kept for another engine: that one's clock may differ, because the machine's was set meanwhile.
        """
        return us - self._offset_us

    def from_uptime(self, uptime_us: int) -> int:
        """A time of the machine's own count, in µs, as a time of this clock."""
        return uptime_us + self._offset_us
