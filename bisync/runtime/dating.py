"""When the bytes of one connection were written at the site, from what its reader knows.

- They were read: so they were written before.
- The socket was empty before: so they had not arrived, and were written later than that, less the time a message takes
  from the site to here. For that time stands the smallest recent round trip of a *sounding*: it holds the way there,
  the server's work and our own delay as well, so it is more than the way back, where the two connections go the same
  way.
- A sounding asks the site how far its stream reaches. What lies behind that offset was written after the question
  was sent, and what lies before it, before the answer came. This holds whatever the network does.

An empty socket says nothing while the server holds bytes back: before the first ACK after a snapshot, and while more
has piled up than a socket takes. Then only soundings count, until one shows that all there is has been read. Nor does
it while TCP holds them back: it sends a few segments (Linux: ten) and waits for an acknowledgement, which comes when
they are read. What was held back so comes within a round trip of that. (Measured: a reader that was kept from running
for 20 ms found the first writes of that time, and the others 100 µs after it had read those.)

What is left: a server that is taken off its processor after it has answered a client and before it has told its
replicas. (Redis 7.0 tells them first, but for clients whose commands it finds at the same moment.) With four programs
for each processor and four clients at each site, one write in a thousand was 0.1 to 2 ms older than its bracket.
"""

import collections
from collections.abc import Callable

import attrs

from bisync.core.moment import Moment
from bisync.runtime.arrivals import Received

UNKNOWN_US = 0  # the earliest of what may have been written at any time: 1970
PILE_BYTES = 32 << 10  # come at once: the server may hold more, because the buffers of the sockets were full (40 KB)
WINDOW_SEGMENTS = 10  # Linux's initial window; TCP sends so much before it waits
SMALL_BYTES = 64  # of a segment, where the system does not count them
ACKNOWLEDGED_US = 100  # by both systems, beyond the round trip
SERVER_US = 200  # between telling a client and telling us: a server on a busy processor does not do both at once
LATE_US = 1_000  # a sounding's answer and the stream go by two connections: so much later is still at the same time
SILENCE_US = 100_000  # without bytes, where soundings tell no offset: then nothing is held back any more
TRIPS = 16  # round trips, of which the smallest counts
SOUNDINGS_MAX = 1_024  # answered, with an offset that was not read yet


@attrs.frozen(slots=True)
class Sounding:
    """A question to the site how far its stream reaches. Times in µs."""

    sent_us: int
    answered_us: int
    offset: int  # in bytes of the stream


class Dating:
    """Gives the bytes of one connection their moments. `offset` is where they begin; nothing is trusted at first.

    `earliest_us`: what comes was not written before. `held`: the server sends nothing until it gets an ACK, though it
    may have much to send.
    """

    def __init__(self, offset: int, earliest_us: int = UNKNOWN_US, *, held: bool = False) -> None:
        self.end = offset  # what is before was read
        self._earliest_us, self._held = earliest_us, held
        self.trusted = False  # does an empty socket mean that the server has nothing?
        self._soundings: collections.deque[Sounding] = collections.deque()  # of what is not read yet
        self._trips: collections.deque[int] = collections.deque(maxlen=TRIPS)
        self._blind = True  # does no sounding tell an offset?
        self.hurry: Callable[[], None] = lambda: None  # called when another sounding would help
        self._read_us = 0
        self._unacknowledged = self._burst_bytes = 0  # segments at most, and bytes, since TCP had nothing on its way

    def __repr__(self) -> str:
        return f"<Dating at {self.end}, {'' if self.trusted else 'not '}trusted, way {self.way_us} µs>"

    @property
    def way_us(self) -> int | None:
        """How long a message takes from the site to here, at most; None: not known yet."""
        return min(self._trips) if self._trips else None

    @property
    def catching_up(self) -> bool:
        """Do only soundings tell how old the stream is?"""
        return not self._blind and (not self.trusted or self._unacknowledged >= WINDOW_SEGMENTS)

    def sounded(self, sent_us: int, answered_us: int, offset: int | None) -> None:
        """A sounding was answered; `offset` None: it did not tell how far the stream reaches."""
        self._trips.append(max(0, answered_us - sent_us))
        if offset is None:
            return
        self._blind = False
        if offset > self.end:
            self._soundings.append(Sounding(sent_us, answered_us, offset))
            if len(self._soundings) > SOUNDINGS_MAX:
                self._soundings = collections.deque(list(self._soundings)[1::2])  # the newest stays
        else:
            self._earliest_us = max(self._earliest_us, sent_us)
            self.trusted, self._burst_bytes = not self._held, 0

    def read(self, received: Received) -> list[tuple[int, Moment]]:
        """These bytes were read. Their marks, in order: offset up to which, and when they were written."""
        empty_us, came_us, size = received.empty_us, received.came_us, len(received.data)
        if self._blind and not self._held and 0 < self._read_us < empty_us - SILENCE_US:
            self.trusted = True
        flowing = self._flows(received)
        end, marks, shown = self.end + size, [], False
        while self._soundings and self._soundings[0].offset <= end:
            sounding = self._soundings.popleft()
            if sounding.answered_us + LATE_US < empty_us:
                self.trusted = False  # the server had bytes for us while the socket was empty
            if sounding.offset > self.end:
                then_empty_us = min(empty_us, sounding.answered_us) if flowing else None
                marks.append((sounding.offset, self._moment(then_empty_us, min(came_us, sounding.answered_us))))
                self.end = sounding.offset
            self._earliest_us = max(self._earliest_us, sounding.sent_us)
            shown = self.way_us is not None and received.read_us - sounding.sent_us <= self.way_us + LATE_US
        if self.end < end:
            marks.append((end, self._moment(empty_us if flowing else None, came_us)))
        self.end, self._read_us, self._held = end, received.read_us, False
        self.trusted = (self.trusted or shown) and self._burst_bytes < PILE_BYTES
        if self.catching_up:
            self.hurry()
        return marks

    def _flows(self, received: Received) -> bool:
        """Was all that the site had sent before these bytes acknowledged? Else TCP may have held them back."""
        trip_us = received.trip_us if received.trip_us is not None else self.way_us or 0
        if received.empty_us - self._read_us > trip_us + ACKNOWLEDGED_US:
            self._unacknowledged = self._burst_bytes = 0
        flows = self._unacknowledged < WINDOW_SEGMENTS
        size, segments = received.size, received.segments
        self._unacknowledged += size // SMALL_BYTES + 1 if segments is None else segments
        self._burst_bytes += size
        return flows

    def _moment(self, empty_us: int | None, latest_us: int) -> Moment:
        """`empty_us` None: nothing is known of that."""
        if self.trusted and empty_us is not None and self.way_us is not None:
            self._earliest_us = max(self._earliest_us, empty_us - self.way_us - SERVER_US)
        return Moment(min(self._earliest_us, latest_us), latest_us)
