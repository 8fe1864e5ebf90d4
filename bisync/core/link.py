"""From one source shard to one target shard, the unit of order: a queue of items, one tagged transaction in flight.

    MULTI ; SET tag ; SELECT n ; command ; command ; ... EXEC ; SELECT 0 ; WATCH tag ; GET tag

The WATCH and GET at the end are sent along with each transaction and guard the next one, so no round trip is spent on
them (WATCH is per database, hence the SELECT 0). While a transaction is under way the next batch grows.
"""

import array
import collections
import itertools
from collections.abc import Callable, Collection, Iterable, Sequence

import attrs

from bisync.core.awaited import AwaitedEcho
from bisync.core.position import Clock
from bisync.core.resp import EXEC, MULTI, pack, select
from bisync.core.tag import Tag
from bisync.errors import BisyncError

ITEM_BYTES = 400
"""What an item takes in memory beside its commands (measured: 320 for a SET, CPython 3.11)."""

PART_BYTES = 100
"""The same of each further command of one item (measured: 90 for a SET)."""

Part = tuple[int, bytes]
"""A database of the target, and a packed command to run there."""


@attrs.define(slots=True, eq=False)
class Item:
    """What must be applied in one transaction, whole: a source transaction, a copied key, a fence, a restore..."""

    kind: str  # write, copied, piece, probe, fence, restore, note, close, finish, reconciled, beat
    parts: Sequence[Part]
    size: int  # bytes
    clock: Clock | None = None  # of the write or copied key that it applies
    resume: tuple[int, int] = (0, 0)  # of a write: offset and database of its start in the source's stream
    read_ms: int = 0  # when it was read
    number: int = 0  # of a fence or a restore: its round
    mark: int = 0  # of a note: which one
    probes: int = 0  # of a probe: the round that waits for it
    operations: int = 0  # client commands in it, for the counters
    renewals: tuple[int, ...] = ()  # which of the parts set a time to live: they find no key where it has expired
    building: int = 0  # of a copied key that came in pieces, and of its pieces: a number of their own
    length: int | None = None  # of a key that came in pieces: what its first command must reply
    wipes: bool = False  # it may take the tag and the notes away: they are written again after it

    @property
    def memory(self) -> int:
        """About how many bytes of memory it takes."""
        parts = len(self.parts)
        return self.size + ITEM_BYTES + (PART_BYTES * (parts - 1) if parts > 1 else 0)

    def summary(self) -> str:
        """Its commands, short, for a person."""
        return summary(self.parts)


def summary(parts: Iterable[Part]) -> str:
    """Packed commands, short, for a person."""
    text = b"; ".join(b" ".join(command.split(b"\r\n")[2::2]) for _, command in parts)
    return repr(text[:200])[2:-1]


@attrs.define(slots=True, eq=False)
class Transaction:
    """A batch on its way. `replies` is how many the target will send for it."""

    items: list[Item]
    payload: bytes
    replies: int
    tag: Tag
    clock: Clock  # what the tag says is applied once this is
    begins: list[int]  # for each item, the index of its first reply in EXEC's array; and the end
    selects: Collection[int]  # the items that begin with a SELECT
    marker: bytes  # the SET of the tag, packed
    size: int  # of the payload, up to the end of its EXEC
    sizes: Sequence[int]  # of each command after the tag, EXEC included
    database: int  # selected at its end

    def echo(self) -> AwaitedEcho:
        """What the target's stream will show of it, unless the target does something of its own."""
        copied = (item for item in self.items if item.kind == "copied")
        whole = all(len(item.parts) == item.operations or (item.parts and item.operations == 1) for item in copied)
        bare = self.begins[-1] == 1
        return AwaitedEcho(self.payload, self.size, self.marker, self.tag, self.database, self.sizes, bare, whole)

    def replies_of(self, n: int, results: Sequence[object]) -> Sequence[object]:
        """Of EXEC's array, the replies to the `n`th item, those of a SELECT before it included."""
        return results[self.begins[n] : self.begins[n + 1]]

    def answers(self, n: int, results: Sequence[object]) -> list[object]:
        """Of EXEC's array, the replies to the parts of the `n`th item, to no SELECT and to nothing that was added."""
        return [results[at] for at in self.places(n)]

    def places(self, n: int) -> list[int]:
        """Where in EXEC's array the replies to the parts of the `n`th item stand."""
        databases = [database for database, _ in self.items[n].parts]
        turns = (a != b for a, b in itertools.pairwise(databases))
        first = self.begins[n] + (n in self.selects)
        return list(itertools.accumulate(turns, lambda at, turn: at + 1 + turn, initial=first)) if databases else []


class Link:
    """The queue towards one shard, and what is under way to it."""

    def __init__(
        self, tag_key: bytes, *, batch_commands: int, batch_bytes: int, databases: int | None = None, site: str = ""
    ) -> None:
        """`databases`: how many the target, called `site`, has; None: not known."""
        self._tag_key, self._databases, self._site = tag_key, databases, site
        self.batch_commands, self.batch_bytes = batch_commands, batch_bytes  # its owner may change them at any time
        self._guard = select(0) + pack(b"WATCH", tag_key) + pack(b"GET", tag_key)
        self._queue: collections.deque[Item] = collections.deque()
        self.queued_bytes = 0  # of memory, about
        self.in_flight: Transaction | None = None
        self.held = False  # nothing may be sent until the core's owner lets go
        self.paused_until_ms = 0  # nothing may be sent before, because the target has just refused

    def __repr__(self) -> str:
        flight = f"{len(self.in_flight.items)} items in flight" if self.in_flight else "idle"
        return f"<Link {len(self._queue)} queued ({self.queued_bytes} bytes), {flight}>"

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Is there nothing queued and nothing in flight?"""
        return not self._queue and self.in_flight is None

    def free(self, now_ms: int) -> bool:
        """May a transaction be sent now, if there is one?"""
        return self.in_flight is None and not self.held and now_ms >= self.paused_until_ms

    @property
    def first_write(self) -> Item | None:
        """The oldest write that is not known to be applied."""
        under_way = self.in_flight.items if self.in_flight else ()
        return next((i for i in itertools.chain(under_way, self._queue) if i.clock is not None), None)

    def put(self, item: Item) -> None:
        """Queue an item, after all that is queued."""
        self._queue.append(item)
        self.queued_bytes += item.memory

    def forget(self, applied: Clock) -> None:
        """No write up to this clock need be sent: the target's stream has shown that it was applied."""
        kept = []
        while self._queue and ((clock := self._queue[0].clock) is None or clock <= applied):
            item = self._queue.popleft()
            if clock is None:
                kept.append(item)  # a round's
            else:
                self.queued_bytes -= item.memory
        self._queue.extendleft(reversed(kept))

    def take(self) -> list[Item]:
        """The items of the next transaction: as many as its bounds allow, one at least (or none where none is)."""
        items: list[Item] = []
        commands = size = 0
        while self._queue and commands < self.batch_commands and (not items or size < self.batch_bytes):
            item = self._queue.popleft()
            items.append(item)
            commands += len(item.parts)
            size += item.size
            self.queued_bytes -= item.memory
        return items

    def send(self, items: list[Item], clock: Clock, tag: Tag, notes_again: Callable[[], Sequence[Part]]) -> Transaction:
        """Make a transaction of items and put it in flight. `notes_again` gives what a wiping item takes away."""
        marker = pack(b"SET", self._tag_key, tag.encode())
        pieces, begins, selects = [MULTI, marker], [], set()
        database, replies = 0, 1
        for item in items:
            begins.append(replies)
            parts: Sequence[Part] = item.parts
            if item.wipes:
                parts = [*parts, (0, marker), *notes_again()]
            for wanted, command in parts:
                if wanted != database:
                    self._check_database(wanted)
                    if replies == begins[-1]:
                        selects.add(len(begins) - 1)
                    database = wanted
                    pieces.append(select(database))
                    replies += 1
                pieces.append(command)
                replies += 1
        begins.append(replies)
        pieces += (EXEC, self._guard)
        payload = b"".join(pieces)
        # MULTI and EXEC, one QUEUED for each command, then SELECT, WATCH and GET
        self.in_flight = Transaction(
            *(items, payload, 2 + replies + 3, tag, clock, begins, selects, marker),
            *(len(payload) - len(self._guard), array.array("q", map(len, pieces[2:-1])), database),
        )
        return self.in_flight

    def _check_database(self, wanted: int) -> None:
        """A SELECT that fails within EXEC does not stop it: what follows would be done in another database."""
        if self._databases is not None and wanted >= self._databases:
            raise BisyncError(
                f"{self._site} has no database {wanted}, to which a write must go",
                why=f"it has {self._databases}",
                hint=f"set databases {wanted + 1} or more on that server, or choose databases under [objects]",
            )

    def landed(self) -> Transaction:
        """The transaction in flight was executed: forget and return it."""
        done = self.in_flight
        assert done is not None
        self.in_flight = None
        return done

    def unsend(self) -> list[Item]:
        """The transaction in flight was refused as a whole: its items are the first in the queue again."""
        items = [item for item in self.landed().items if item.kind != "beat"]  # a late heartbeat says nothing
        self._queue.extendleft(reversed(items))
        self.queued_bytes += sum(i.memory for i in items)
        return items
