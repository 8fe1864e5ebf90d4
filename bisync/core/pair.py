"""Both directions of a job in one place, because a conflict is a fact about both streams.

Bytes of the sites' streams, replies of their servers and the time come in; actions come out (`take_actions`). Nothing
here waits, and nothing looks at a clock. The shell keeps the order: bytes of one site in stream order, replies in the
order of the `Send` actions. A site is named as the user named it; "x" is the site at hand and "y" the one across.
"""

from collections.abc import Iterable, Mapping, Sequence

import attrs

from bisync.core import echo
from bisync.core.actions import Action, Notice
from bisync.core.arbitration import Arbiter
from bisync.core.channel import Channel, open_channel
from bisync.core.commands import FUNCTIONS
from bisync.core.copying import CopiedKey, CopiedKeys, Copying, KeyPiece
from bisync.core.delivery import Delivery
from bisync.core.detection import Detector
from bisync.core.failures import Failures
from bisync.core.floor import Floors
from bisync.core.link import Item
from bisync.core.moment import BEFORE_ALL, Moment
from bisync.core.operation import WIPERS, CopiedOperations, Operation, copied_operation
from bisync.core.pending import Pending
from bisync.core.position import START, Clock, Position, stream_clock
from bisync.core.putting import remove_half_built
from bisync.core.reconciling import Reconciling, Unequal
from bisync.core.round import Notes, Rounds
from bisync.core.rules import Rules
from bisync.core.stream import Command, Entry, StreamReader
from bisync.core.tag import Tag, beat_key, open_key, tag_key
from bisync.core.unit import Unit
from bisync.errors import TagLost

UNRECORDED_MAX = 10_000
"""So many conflicts may wait for the log; then reading waits too."""


@attrs.frozen
class Taken:
    """What an engine knows once it has taken a job: the newest tags, and the notes of open arbitrations."""

    tags: Mapping[str, Tag]  # by channel name
    notes: Mapping[str, Notes] = attrs.field(factory=dict)  # by the site that holds them
    written: Mapping[str, bytes] = attrs.field(factory=dict)  # the tags by which it took the job, by channel name
    places: Mapping[str, Position] = attrs.field(factory=dict)  # floors at sites whose stream is not read
    lost: bool = False  # was a tag gone, so that only the store or the stream tells what it said?


class Pair:
    """One life of the core: from taking the job to the next broken connection.

    `epoch` and `engine` are those of the tags that the take has just written.
    """

    def __init__(self, rules: Rules, epoch: int, engine: str, taken: Taken) -> None:
        self.rules = rules
        self._own = (epoch, engine)
        self._actions: list[Action] = []
        self.channels = {x: open_channel(rules, x, taken.tags, taken.written) for x in rules.origins}
        self._pending = {x: channel.pending for x, channel in self.channels.items()}
        self._positions = dict.fromkeys(rules.sites, 0)
        self.arbiter = Arbiter(rules, self._positions)
        self._detector = Detector(rules, self.arbiter)
        self._failures = Failures(self.arbiter, self._actions)
        self.floors = Floors(taken.tags.values())
        for site, place in taken.places.items():
            self.floors.begin(site, place)
        self.copying = Copying.resumed(rules, taken.tags)
        self.copying.stands = not taken.lost  # what took a tag away may have taken copied keys away
        self.rounds = Rounds(rules, epoch, self.arbiter, self.channels, taken.notes)
        self.reconciling = Reconciling(rules, self.copying, self.arbiter, self.rounds, self.channels)
        resuming = rules.bidirectional and self.copying.finished
        self._delivery = Delivery(
            *(rules, epoch, engine, self.channels, self.floors, self.copying, self.rounds, self._actions),
            *(resuming, resuming and taken.lost),
        )
        self._beat_key, self._open_key = beat_key(rules.job), open_key(rules.job)
        self.rounds.take_up_notes(self.floors)

    def __repr__(self) -> str:
        links = ", ".join(f"{c.name} {c.link}" for c in self.channels.values())
        return f"<Pair epoch {self._own[0]}: {links}, {self.arbiter}>"

    def take_actions(self) -> list[Action]:
        """The actions since the last call, in order."""
        actions = [*self._actions, *self.arbiter.take_told()]
        self._actions.clear()
        return actions

    def recorded(self, numbers: Iterable[int]) -> None:
        """The log of conflicts has what it was told of these: recovery need not find them again."""
        self.arbiter.recorded(numbers)

    # -- streams
    def attach(self, x: str, position: Position) -> None:
        """Reading of a site's stream begins here: at its floor, or anew where it has none."""
        y = self.rules.other(x)
        own = tag_key(self.rules.job, self.rules.channel(y)) if y in self.channels else None
        channel = self.channels[x]
        channel.reader = StreamReader(position, own, self._pending[y].awaited if own else None)
        self._processed(channel, position.offset)
        self.floors.begin(x, position)
        if channel.applied == START:  # all that came before the first attach counts as applied
            channel.applied = channel.resumed = channel.told = stream_clock(0, position.offset)
        self._begin_rounds()

    def renamed(self, x: str, replid: str) -> None:
        """The site's history goes on under another name (a failover); offsets stay."""
        self.floors.rename(x, replid)

    def wants(self, x: str) -> bool:
        """May more bytes of this site's stream be handed in? When not, the reader slows down; nothing is dropped."""
        channel = self.channels[x]
        if channel.reader is None or channel.inbox:
            return False
        if channel.link.queued_bytes >= self.rules.queue_bytes and not self._delivery.recovering_now:
            return False
        if self.arbiter.unrecorded >= UNRECORDED_MAX:
            return False  # no conflict goes off the record
        if x == self.rules.source and not self.copying.finished:
            return False  # what follows the snapshot waits until the copy is finished
        if not self.copying.finished or self._delivery.recovering_now:
            return True  # whatever is pending: echoes end the copy, and tell what a lost tag said
        mine, bound = channel.pending.bytes, self.rules.pending_bytes
        across = self.channels.get(self.rules.other(x))
        theirs = across.pending.bytes if across else 0
        return mine < bound or (theirs >= bound and mine <= theirs)  # else two full sides would wait for each other

    def receive(self, x: str, data: bytes, now_ms: int) -> None:
        """The next bytes of a site's stream. Raises StreamError for bytes that are none, TagLost as `answered` does."""
        channel = self.channels[x]
        assert channel.reader is not None
        channel.inbox.extend(channel.reader.feed(data))
        self._advance(channel, now_ms)
        self._delivery.pump(now_ms)

    def _advance(self, channel: Channel, now_ms: int) -> None:
        """Act on the entries read, up to one that must wait for a reply."""
        assert channel.reader is not None
        inbox = channel.inbox
        while inbox:
            entry = inbox[0]
            if entry.tag is not None and self._is_own(entry.tag) and self._waits_for_reply(channel, entry.tag):
                self._processed(channel, entry.start)
                self._begin_rounds()
                return
            inbox.popleft()
            self._processed(channel, entry.end)
            if entry.tag is not None:
                self._foreign(channel, entry, entry.tag, now_ms)
            else:
                self._client(channel, entry, now_ms)
        self._processed(channel, channel.reader.position.offset)
        self._begin_rounds()

    def _waits_for_reply(self, channel: Channel, tag: Tag) -> bool:
        """Is this the echo of a transaction whose replies are still on their way? They tell what failed."""
        flight = self.channels[channel.target].link.in_flight
        return self.rounds.waits_for_copy(tag.rounds) or (flight is not None and flight.tag == tag)

    def _processed(self, channel: Channel, offset: int) -> None:
        channel.processed = self._positions[channel.origin] = offset

    def _is_own(self, tag: Tag | None) -> bool:
        return tag is not None and (tag.epoch, tag.engine) == self._own

    # -- foreign writes: never forwarded; they say what their site has seen
    def _foreign(self, channel: Channel, entry: Entry, tag: Tag, now_ms: int) -> None:
        across = self.channels[channel.target]
        self.floors.tagged(channel.origin, entry.start, entry.database)
        self._check_epoch(channel, tag)
        self._expired(channel, entry, tag, now_ms)
        channel.seen = max(channel.seen, tag.applied)
        if tag.applied > across.resumed and not channel.reached_take:
            # of an earlier life, and newer than what the tag said: a client's flush took a newer tag away
            across.applied = across.resumed = across.told = tag.applied
            across.link.forget(tag.applied)
        self._seen_back(across, tag.applied)
        if entry.sent is not None and not entry.sent.names(self._beat_key, self._open_key):
            channel.worth_telling = channel.worth_telling or not entry.sent.bare
        else:
            self._read_foreign(channel, entry, tag, now_ms)
        if self._is_own(tag):
            channel.reached_take = True
            for number in tag.rounds:
                self.rounds.came_back(channel.origin, number)
        self._try_finish()

    def _read_foreign(self, channel: Channel, entry: Entry, tag: Tag, now_ms: int) -> None:
        """What a foreign write says beside its tag: a heartbeat, notes, or that there is something worth telling."""
        for command in entry.commands:
            key = command.args[1] if len(command.args) > 1 else b""
            if key == self._beat_key:
                self._beat_read(channel, command, now_ms)
            elif key != self._open_key:
                channel.worth_telling = True
            elif not channel.reached_take and not self._is_own(tag):
                self.rounds.note_read(channel.origin, command.args)

    def _seen_back(self, channel: Channel, clock: Clock) -> None:
        """The other site's stream has shown that it holds the writes of this channel's origin up to `clock`."""
        seen_back = channel.pending.seen_back(clock)
        for write in seen_back:
            self._failures.check(channel, write)
            self.reconciling.seen_back(write)
        self.arbiter.taint_since(channel.origin, seen_back)  # what was unequal there was found out just now

    def _check_epoch(self, channel: Channel, tag: Tag) -> None:
        """Raises TagLost where the stream shows a life before this one whose epoch was as high.

        Flushes may have taken both tags away before the store had a copy of the newest. Epochs must not come again, as
        full copies and conflicts are numbered by them.
        """
        if not channel.reached_take and not self._is_own(tag) and tag.epoch >= self._own[0]:
            raise TagLost(
                f"the stream of {channel.origin} holds a tag of epoch {tag.epoch}, and this engine has {self._own[0]}",
                why="flushes at both sites took the newest tags away; the next epoch is higher",
            )

    @staticmethod
    def _beat_read(channel: Channel, command: Command, now_ms: int) -> None:
        try:
            channel.counters.lag_ms = max(0, now_ms - int(command.args[2].split()[0]))
        except (ValueError, IndexError):
            pass  # no beat of ours: a client has the key in hand, and the lag is not known

    def _expired(self, channel: Channel, entry: Entry, tag: Tag, now_ms: int) -> None:
        """Keys that had reached their expiry at the target just when our transaction came to them.

        Where a write of the origin's was meant for such a key, it found none: the key is copied again from there. Else
        the deletion is the site's own, as one by its timer would be.
        """
        across = self.channels[channel.target]
        if entry.sent is not None and entry.sent.whole:
            return  # word for word what was sent: the server did nothing of its own
        deletions = echo.deleted_by_server(entry)
        if not deletions and not across.pending.holds_copied():
            return
        applied = list(across.pending.up_to(tag.applied))
        for copied, place in echo.not_copied(entry, applied):
            self.arbiter.arbitrate(Unit(*place), None, {across.origin: copied.start}, across.origin)
        if not deletions:
            return
        own, again, meant = [], echo.written_after(entry), echo.written_by(applied)
        for deletion in deletions:
            operation = channel.understand(deletion, now_ms, now_ms)
            if not isinstance(operation, Operation):
                continue
            (place,) = operation.written
            write = meant.get(place)
            if write is not None or again[id(deletion)]:
                low = {across.origin: write.start} if write is not None else {}
                self.arbiter.arbitrate(Unit(*place), None, low, across.origin)
            else:
                own.append(operation)
        if own:
            self._written(channel, entry, own, channel.moments.at(entry.start) or _moment(now_ms), now_ms)

    def _begin_rounds(self) -> None:
        """Not before both streams are read: the echo of a fence that is older than a snapshot would never be seen."""
        self.arbiter.taint_pending(self._pending)
        if all(channel.reader is not None for channel in self.channels.values()):
            self.rounds.begin()

    # -- client writes
    def _client(self, channel: Channel, entry: Entry, now_ms: int) -> None:
        when = channel.moments.at(entry.start) or _moment(now_ms)
        operations = self._understood(channel, entry.commands, when.latest_us // 1000, now_ms)
        if operations:
            self._written(channel, entry, operations, when, now_ms)
        if not channel.reached_take and any(command.name in WIPERS for command in entry.commands):
            self.rounds.wiped(channel.origin, self.floors)

    def _written(self, channel: Channel, entry: Entry, operations: list[Operation], when: Moment, now_ms: int) -> None:
        """Compare, remember and queue what was written at a site by its clients, or by its own expiry."""
        copy = self.copying.copy if channel.origin == self.rules.source else 0
        clock, size = stream_clock(copy, entry.end), entry.end - entry.start
        if self.rules.bidirectional:
            mine = Pending(clock, entry.start, operations, channel.seen, when, size)
            self._detect(channel, mine)
            channel.pending.add(mine)
        if clock > channel.resumed:  # else it was applied in an earlier life, and is read again for detection only
            operations = [left for o in operations if (left := o.left) is not None]
            parts = [(o.target_database, o.packed) for o in operations]
            item = Item("write", parts, size, clock, (entry.start, entry.database), now_ms, operations=len(parts))
            item.wipes = any(o.wipes for o in operations)
            item.renewals = tuple(n for n, o in enumerate(operations) if o.expires)
            channel.link.put(item)

    def _understood(self, channel: Channel, commands: Iterable[Command], time_ms: int, now_ms: int) -> list[Operation]:
        operations = []
        for command in commands:
            if command.args[1:2] == [self._beat_key]:
                self._beat_read(channel, command, now_ms)
                continue
            understood = channel.understand(command, time_ms, now_ms)
            if isinstance(understood, Notice):
                self._actions.append(understood)
            elif understood is not None:
                operations.append(understood)
        return operations

    def _detect(self, channel: Channel, mine: Pending) -> None:
        """Find what `mine` is concurrent with, before it is pending itself."""
        x, across = channel.origin, self.channels[channel.target].pending
        for operation in mine.operations:
            if len(across):
                self._detector.compare(x, mine, operation, across)
            self.arbiter.taint(x, mine.start, operation)
            self.arbiter.mark_dirty(x, mine.start, operation)
            self.reconciling.taint(x, mine.start, operation)
        for text in self._detector.unsettled:
            self._actions.append(Notice("error", "unequal", f"{text}. Run bisync verify"))
        self._detector.unsettled.clear()
        if self.copying.again and x == self.rules.target and not channel.reached_take and mine.clock > channel.resumed:
            # the copy that broke off may have overtaken it, and its snapshot cannot be asked any more
            self._failures.settle(mine, x, self.rules.source)

    # -- the full copy
    def hold(self, x: str, held: bool) -> None:
        """Hold back, or let go, what the channel that reads `x` would send. What is in flight stays in flight."""
        self.channels[x].link.held = held

    def snapshot_taken(self, position: Position, seen: Clock | None = None) -> Clock:
        """The source's snapshot stands at this position. What it had seen of the target's writes, to be kept with it.

        `seen`: of a snapshot that an earlier life took. Of a new one it is all that was applied at the source: the
        reverse channel was held, and had nothing in flight.
        """
        channel = self.channels[self.rules.source]
        reverse = self.channels.get(self.rules.target)
        self.copying.begin(self._own[0])
        channel.seen = seen if seen is not None else reverse.applied if reverse else START
        channel.applied = channel.resumed = channel.told = self.copying.clock
        remove = remove_half_built(self.rules)  # by a copy that broke off
        channel.link.put(Item("piece", remove, sum(len(command) for _, command in remove)))
        self.attach(self.rules.source, position)
        return channel.seen

    def copied(self, keys: Iterable[CopiedKeys | CopiedKey | KeyPiece], now_ms: int) -> None:
        """Keys of the snapshot, or pieces of them. Hand in no more while `copy_waits` says so."""
        channel = self.channels[self.rules.source]
        start = self.floors.offset(self.rules.source)
        for key in keys:
            if isinstance(key, CopiedKeys):
                self._copied_many(channel, key, start)
                continue
            size = sum(len(command) for _, command in key.parts)
            if isinstance(key, KeyPiece):
                channel.link.put(Item("piece", key.parts, size, building=key.building))
                continue
            if key.refused:
                self._delivery.refuse_copied(channel, key.key or b"", key.refused)
                continue
            clock = self.copying.next_clock()
            if self.rules.bidirectional:
                place = (key.database, key.key) if key.key is not None else FUNCTIONS
                home = self.rules.database_at(self.rules.target, key.database)
                operation = copied_operation(*place, key.stale, key.mortal, home)
                mine = Pending(clock, start, [operation], channel.seen, BEFORE_ALL, len(place[1]))
                self._detect(channel, mine)
                channel.pending.add(mine)
            item = Item("copied", key.parts, size, clock, operations=1, building=key.building)
            item.length = key.length
            channel.link.put(item)
        self._begin_rounds()
        self._delivery.pump(now_ms)

    def _copied_many(self, channel: Channel, keys: CopiedKeys, start: int) -> None:
        clock = self.copying.next_clock(len(keys.parts))
        if self.rules.bidirectional:
            numbers = {database for database, _, _ in keys.places}
            homes = {database: self.rules.database_at(self.rules.target, database) for database in numbers}
            operations = CopiedOperations(keys.places, homes)
            mine = Pending(clock, start, operations, channel.seen, BEFORE_ALL, keys.size)
            across = self._pending[channel.target]
            if len(self.arbiter) or across.touch((database, key) for database, key, _ in keys.places):
                self._detect(channel, mine)  # else they meet nothing, and no operation is made of them
            channel.pending.add(mine)
        channel.link.put(Item("copied", keys.parts, keys.size, clock, operations=len(keys.parts)))

    def found_at_target(self, keys: Iterable[CopiedKey], now_ms: int) -> None:
        """Keys that the target holds and the snapshot has not, with the commands that would remove them.

        A broken copy may have left them: then they go. Before the first copy has written anything they can only be
        writes of the target's clients; unless the job overwrites, they stay and are copied to the source.
        """
        if self.copying.again or self.rules.target_not_empty == "overwrite":
            self.copied(keys, now_ms)
        elif self.rules.bidirectional:
            for key in keys:
                if key.key is not None:
                    self.arbiter.arbitrate(Unit(key.database, key.key), None, {}, self.rules.target)
            self._begin_rounds()
            self._delivery.pump(now_ms)

    def copy_waits(self) -> bool:
        """Must the reader of the snapshot wait, because the target is slower?"""
        channel = self.channels[self.rules.source]
        return channel.link.queued_bytes >= self.rules.queue_bytes or channel.pending.bytes >= self.rules.pending_bytes

    def snapshot_ended(self, now_ms: int) -> None:
        """Every key of the snapshot was handed in."""
        self.copying.ended = True
        self._try_finish()
        self._delivery.pump(now_ms)

    def found_unequal(self, keys: Iterable[Unequal], now_ms: int) -> None:
        """Keys that are not the same at both sites. Hand in no more while `reconciling.waits` says so."""
        self.reconciling.found(keys)
        self.tick(now_ms)

    def all_compared(self, now_ms: int) -> None:
        """Every key was compared, and what was unequal was handed in."""
        self.reconciling.ended()
        self._delivery.pump(now_ms)

    def _try_finish(self) -> None:
        """Once every copied key was seen back: so every write that one of them overtook is known by now."""
        if not self.copying.may_finish:
            return
        channel = self.channels[self.rules.source]
        if channel.pending.holds_copied() or (not self.rules.bidirectional and not channel.link.idle):
            return
        self.copying.finishing = True
        parts = [*self.rounds.note_all_open(self.rules.target), *remove_half_built(self.rules)]
        channel.link.put(Item("finish", parts, sum(len(command) for _, command in parts)))

    # -- time and replies
    def tick(self, now_ms: int) -> None:
        """Time has passed: heartbeats, checkpoints of idle channels, retries."""
        self.arbiter.wake(now_ms)
        self._begin_rounds()
        self._delivery.pump(now_ms)

    def answered(self, x: str, replies: Sequence[object], now_ms: int) -> None:
        """The replies to the last Send of the channel that reads `x`, all of them.

        Raises Superseded when another engine has taken the job, TagLost when something else took the tag away,
        BisyncError when the target refuses for good.
        """
        channel = self.channels[x]
        self._delivery.answered(channel, replies, now_ms)
        for waiting in self.channels.values():  # an entry may have waited for a copy that is here now
            if waiting.inbox:
                self._advance(waiting, now_ms)
        self._try_finish()
        self._begin_rounds()
        self._delivery.pump(now_ms)

    def tag_read(self, x: str, held: object) -> None:
        """What the tag key of the channel that reads `x` holds, asked for while nothing was in flight.

        Raises as `answered` does: so an engine that has nothing to write notices too that it was superseded.
        """
        self._delivery.check_tag(self.channels[x], held)

    # -- for status
    def drained(self, x: str) -> int:
        """The offset of the site's stream up to which everything is applied at the other site."""
        channel = self.channels[x]
        if channel.reader is None or (x == self.rules.source and not self.copying.finished):
            return -1
        first = channel.link.first_write
        return first.resume[0] if first else channel.processed


def _moment(now_ms: int) -> Moment:
    """When a write was made of which nothing is known but that it was read now."""
    return Moment(now_ms * 1000, now_ms * 1000)
