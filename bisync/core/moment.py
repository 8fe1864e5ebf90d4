"""When a write was made, as well as can be told: a bracket of two times, not a single one.

A stream does not say when its commands were run. What is known is when their bytes were read, when the socket was last
seen empty before that, and how long a message takes between bisync and the site. A write was made between the two.
Two writes whose brackets overlap may have been made in either order.
"""

import bisect

import attrs

MARKS_MAX = 4_096
"""So many marks are kept for one stream; beyond that old ones are joined, which makes brackets wider, never wrong."""


NARROW_US = 50_000
"""A bracket that is wider comes of a pause of bisync itself."""


@attrs.frozen(slots=True)
class Moment:
    """Between these two times, in µs of the engine's clock (Unix time that never jumps)."""

    earliest_us: int
    latest_us: int

    def is_before(self, other: "Moment") -> bool:
        """Was it certainly made before the other?"""
        return self.latest_us < other.earliest_us

    def is_likely_before(self, other: "Moment") -> bool:
        """Does its middle come earlier? Where the two do not overlap, it was made before for certain.

        Of a wide bracket the ends only say when its stream was looked at, so it tells no order.
        """
        if max(self.latest_us - self.earliest_us, other.latest_us - other.earliest_us) > NARROW_US:
            return self.is_before(other)
        return self.earliest_us + self.latest_us < other.earliest_us + other.latest_us

    def overlaps(self, other: "Moment") -> bool:
        """May the two have been made in either order?"""
        return not self.is_before(other) and not other.is_before(self)


BEFORE_ALL = Moment(-(1 << 62), -(1 << 62))
"""The moment of a copied key: older than every write that is read."""


class Moments:
    """When the bytes of one stream were written: marks (offset in bytes, moment) in the order of the stream."""

    def __init__(self) -> None:
        self._ends: list[int] = []
        self._moments: list[Moment] = []
        self._last: Moment | None = None

    def __len__(self) -> int:
        return len(self._ends)

    def __repr__(self) -> str:
        return f"<Moments {len(self._ends)} marks>"

    @property
    def last(self) -> Moment | None:
        """The moment of the newest bytes, also where their mark is forgotten."""
        return self._last

    def add(self, end: int, moment: Moment) -> None:
        """The bytes from the mark before up to the offset `end` were written at this moment.

        A server writes its stream in order: so these bytes are no older than those before them, and those no newer.
        """
        if self._ends and end <= self._ends[-1]:
            return  # read again: the first reading knew better
        if self._last is not None:
            least_us = self._last.earliest_us
            if moment.earliest_us < least_us:
                moment = Moment(least_us, max(moment.latest_us, least_us))
            self._lower(moment.latest_us)
        self._last = moment
        self._ends.append(end)
        self._moments.append(moment)
        if len(self._ends) > MARKS_MAX:
            self._join()

    def at(self, start: int) -> Moment | None:
        """When the write was made whose bytes begin at this offset; None where that is not known.

        Its first byte counts, not its last: a server sends a write only once it is made, and a big one comes in many
        pieces.
        """
        n = bisect.bisect_right(self._ends, start)
        return self._moments[n] if n < len(self._ends) else None

    def between(self, start: int, end: int) -> list[tuple[int, Moment]]:
        """The marks of the bytes from `start` up to `end`; the last may reach further."""
        n = bisect.bisect_right(self._ends, start)
        m = bisect.bisect_left(self._ends, end) + 1
        return list(zip(self._ends[n:m], self._moments[n:m], strict=True))

    def forget(self, before: int) -> None:
        """Writes that begin before this offset will not be asked for any more."""
        n = bisect.bisect_right(self._ends, before)
        del self._ends[:n], self._moments[:n]

    def clear(self) -> None:
        """Forget all."""
        self._ends.clear()
        self._moments.clear()
        self._last = None

    def _lower(self, latest_us: int) -> None:
        """All that is here was written before this time."""
        n = len(self._moments)
        while n and self._moments[n - 1].latest_us > latest_us:
            n -= 1
            self._moments[n] = Moment(self._moments[n].earliest_us, latest_us)

    def _join(self) -> None:
        """Half as many marks for the older half of the stream, each over twice the bytes: new ones stay exact."""
        n = len(self._ends) // 4 * 2
        older = [Moment(a.earliest_us, b.latest_us) for a, b in zip(self._moments[:n:2], self._moments[1:n:2])]
        self._ends[:n] = self._ends[1:n:2]
        self._moments[:n] = older
