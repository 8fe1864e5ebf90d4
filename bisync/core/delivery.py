"""Applying at a target: what goes into the next transaction, what its tag says, and what the replies mean."""

import bisect
from collections.abc import Mapping, Sequence

import attrs
from hiredis import ReplyError

from bisync.core.actions import Action, Checkpoint, Notice, Send
from bisync.core.channel import Channel
from bisync.core.copying import Copying
from bisync.core.floor import Floors
from bisync.core.link import Item, Transaction, summary
from bisync.core.position import Clock, stream_clock
from bisync.core.reply import Refusal, read_refusal
from bisync.core.resp import pack
from bisync.core.round import ROUND_KINDS, Rounds
from bisync.core.rules import Rules
from bisync.core.tag import Tag, beat_key, tag_key
from bisync.errors import BisyncError, SiteError, Superseded, TagLost

RETRY_MS_MIN, RETRY_MS_MAX = 100, 5_000
"""The pause after a refusal that may heal; it doubles with each in a row."""


_NOT_TAKEN = "is it a value of a module that the target has not loaded? Load it there"

FLOOR_BYTES = 1 << 20
"""A floor that stays so far behind, because no tag of ours stands in the site's stream, is moved by a lone tag."""


@attrs.define(eq=False)
class Delivery:
    """Makes tagged transactions of what is queued. One life of one engine."""

    rules: Rules
    epoch: int
    engine: str
    channels: Mapping[str, Channel]
    floors: Floors
    copying: Copying
    rounds: Rounds
    actions: list[Action]
    resuming: bool  # is this life still reading what an earlier one may have read?
    recovering: bool  # was a tag lost?
    spoilt: int = 0  # the number of the copied key in pieces of which one was refused: it is not put in its place

    # -- sending
    def pump(self, now_ms: int) -> None:
        """Send, on each channel, what can be sent now."""
        if self._catching_up():
            return
        for channel in self.channels.values():
            if channel.link.free(now_ms) and (
                len(channel.link) or self._beat_due(channel, now_ms) or self._lone_tag_due(channel, now_ms)
            ):
                self._send(channel, now_ms)

    def _catching_up(self) -> bool:
        """After a restart, read first and send then: what one stream does to a key may overrule what the other did.

        Each stream is read up to the tag by which this life took the job; a queue that is full ends the wait, but not
        where a tag was lost: then only the stream can tell what is applied.
        """
        if self.resuming:
            full = any(
                c.link.queued_bytes >= self.rules.queue_bytes or c.pending.bytes >= self.rules.pending_bytes
                for c in self.channels.values()
            )
            self.resuming = (self.recovering or not full) and not all(c.reached_take for c in self.channels.values())
        return self.resuming

    @property
    def recovering_now(self) -> bool:
        """Is the stream being read for what a lost tag said? Then a full queue must not end the reading."""
        return self.resuming and self.recovering

    def _beat_due(self, channel: Channel, now_ms: int) -> bool:
        beats = self.rules.heartbeat_ms > 0 and self.rules.bidirectional and channel.reader is not None
        return beats and now_ms >= channel.beat_due_ms

    def _lone_tag_due(self, channel: Channel, now_ms: int) -> bool:
        """Idle sites must not fall out of the backlog; but a lone tag is never the answer to a lone tag."""
        if channel.reader is None or not self.copying.finished:
            return False
        if channel.told_ms is None:
            channel.told_ms = now_ms
        if now_ms - channel.told_ms < self.rules.checkpoint_every_ms:
            return False
        across = self.channels.get(channel.target)
        if across is not None and across.processed - self.floors.offset(across.origin) >= FLOOR_BYTES:
            return True  # the floor over there waits for a tag of ours
        untold = self.clock_here(channel)[2] - channel.told[2]
        return (channel.worth_telling and untold > 0) or untold >= self.rules.checkpoint_bytes

    def clock_here(self, channel: Channel) -> Clock:
        """The clock of all that was read of the origin's stream, provided that all of it is applied."""
        return stream_clock(self.copying.copy if channel.origin == self.rules.source else 0, channel.processed)

    def _send(self, channel: Channel, now_ms: int) -> None:
        items = channel.link.take()
        self._leave_out_spoilt(items)
        if channel.origin == self.rules.target and any(item.kind in ("write", "restore") for item in items):
            self.copying.stands = False
        if self._beat_due(channel, now_ms):
            channel.beat_due_ms = now_ms + self.rules.heartbeat_ms
            items.append(Item("beat", [(0, pack(b"SET", beat_key(self.rules.job), now_ms))], 0))
        clock = max([channel.applied, *(i.clock for i in items if i.clock is not None)])
        following = channel.origin != self.rules.source or self.copying.finished
        if following and not len(channel.link) and channel.reader is not None:
            clock = max(clock, self.clock_here(channel))
        self._move_floors()
        tag = Tag(
            self.rules.job,
            self.epoch,
            self.engine,
            clock,
            self.floors.now(),
            self.copying.copy if self.copying.finished or any(i.kind == "finish" for i in items) else 0,
            tuple(i.number for i in items if i.number),
            begun=self.copying.begun,
            reconciling="" if any(i.kind == "reconciled" for i in items) else self.copying.reconciling,
        )
        channel.worth_telling, channel.told_ms = False, now_ms
        sent = channel.link.send(items, clock, tag, lambda: self.rounds.notes_again(channel.target))
        self._await_echo(channel, sent)
        self.actions.append(Send(channel.origin, sent.payload, sent.replies))

    def _await_echo(self, channel: Channel, sent: Transaction) -> None:
        """The target's stream will show it, if that is read. The source's stands still while the source is copied."""
        across = self.channels.get(channel.target)
        if across is None or across.reader is None:
            return
        if self.copying.finished or channel.target != self.rules.source:
            channel.pending.awaited.add(sent.echo(), self.rules.pending_bytes)

    def _move_floors(self) -> None:
        for channel in self.channels.values():
            if channel.reader is None:
                continue
            if self.rules.bidirectional:
                oldest = channel.pending.oldest
                low = min(channel.processed, oldest.start) if oldest else channel.processed
                self.floors.advance(channel.origin, self.rounds.lowest(channel.origin, low))
            elif self.copying.finished:
                first = channel.link.first_write
                here = channel.reader.position
                self.floors.move(channel.origin, *(first.resume if first else (here.offset, here.database)))

    # -- replies
    def answered(self, channel: Channel, replies: Sequence[object], now_ms: int) -> None:
        """The replies to the transaction in flight, all of them.

        Raises Superseded when another engine has taken the job, TagLost when something else took the tag away,
        BisyncError when the target refuses for good.
        """
        flight = channel.link.in_flight
        assert flight is not None
        results, held = replies[-4], replies[-1]
        if isinstance(results, list):
            channel.link.landed()
            self._landed(channel, flight, results)
            self.check_tag(channel, held)
        elif results is None:
            self._tag_lost(channel, held)
        else:
            self.check_tag(channel, held)  # the refusal took the guard away, and the new one may guard another's tag
            self._refused(channel, read_refusal(replies[:-3]), now_ms)

    def check_tag(self, channel: Channel, held: object) -> None:
        """Is the tag still the one that this engine wrote last? Raises as `answered` does where it is not."""
        if channel.tag is not None and held != channel.tag:
            self._tag_lost(channel, held)

    def _tag_lost(self, channel: Channel, held: object) -> None:
        """The guard says that the tag is not the one that this engine wrote last."""
        key = tag_key(self.rules.job, channel.name).decode()
        what = f"the tag of the {channel.name} channel at {channel.target}"
        if held is None:
            raise TagLost(f"{what} is gone", why="a flush or a SWAPDB at that site")
        if isinstance(held, Exception) and not str(held).startswith("WRONGTYPE"):
            refusal = read_refusal([held])
            text = f"{what} ({key}) cannot be read"
            raise SiteError(channel.target, text, why=refusal.text, hint=refusal.hint, heals=refusal.heals)
        hint = f"see what wrote it; then delete it ({key}, database 0) and start bisync again"
        if not isinstance(held, bytes):
            raise BisyncError(f"{what} ({key}) is no string any more", hint=hint)
        try:
            tag = Tag.decode(held)
        except BisyncError as e:
            raise BisyncError(f"{what} ({key}) was overwritten: {e.what}", hint=hint) from None
        if tag.job != self.rules.job:
            raise BisyncError(f"{what} ({key}) was overwritten by one of the job {tag.job}", hint=hint)
        if (tag.epoch, tag.engine) > (self.epoch, self.engine):
            raise Superseded(
                f"engine {tag.engine} has taken the job {self.rules.job} "
                f"(epoch {tag.epoch}, this one had {self.epoch})",
                hint="nothing: that engine goes on. Stop it first if this one should run",
            )
        raise TagLost(f"{what} is an older one", why="a SWAPDB or a RESTORE at that site")

    def _landed(self, channel: Channel, flight: Transaction, results: Sequence[object]) -> None:
        if channel.refusals:
            self.actions.append(Notice("info", "accepted", f"{channel.target} takes writes again"))
        channel.refused, channel.refusals = "", 0
        channel.applied = channel.told = flight.clock
        channel.tag = flight.tag.encode()
        if ReplyError in set(map(type, results)):
            self._failures(channel, flight, results)
        for n, item in enumerate(flight.items):
            channel.counters.operations += item.operations
            channel.counters.bytes += item.size if item.operations else 0
            if item.renewals:
                self._check_renewals(channel, item, flight.answers(n, results))
            if item.length is not None and item.parts:
                self._check_length(channel, item, flight.answers(n, results)[0])
            if item.kind == "probe":
                self.rounds.probe_answered(channel.target, item.probes, flight.answers(n, results))
            elif item.kind == "fence":
                self.rounds.fence_answered(item.number, flight.answers(n, results))
            elif item.kind == "restore":
                self.rounds.restore_answered(item.number, flight.answers(n, results))
            elif item.kind == "note":
                self.rounds.note_landed(item.mark, flight.answers(n, results))
            elif item.kind == "finish":
                self.copying.finished = True
                if not self.copying.compares:
                    self.actions.append(Notice("info", "copied", f"the full copy of {channel.origin} is finished"))
            elif item.kind == "reconciled":
                self.copying.reconciling = ""
                self.actions.append(Notice("info", "reconciled", "every key was compared: the sites are reconciled"))
        self.floors.commit(flight.tag.floors)
        self.actions.append(Checkpoint(channel.name, channel.tag))

    def _check_renewals(self, channel: Channel, item: Item, results: Sequence[object]) -> None:
        """A renewal that found no key: it had expired at the target before the renewal came."""
        if any(results[n] == 0 for n in item.renewals):
            text = f"a key expired at {channel.target} before its renewal came: {item.summary()}"
            if item.clock is not None and self.rules.bidirectional:
                channel.missed.add(item.clock)
            self._left_unequal(text)

    def _left_unequal(self, text: str) -> None:
        """A write did not take effect. A two-way job settles it once the write was seen back."""
        if not self.rules.bidirectional:
            self.actions.append(Notice("error", "unequal", f"{text}. Run bisync verify"))

    def _failures(self, channel: Channel, flight: Transaction, results: Sequence[object]) -> None:
        """Single commands that failed inside a transaction that was executed."""
        for n, item in enumerate(flight.items):
            error = next((r for r in flight.replies_of(n, results) if isinstance(r, Exception)), None)
            if error is None or (item.building and item.building == self.spoilt):
                continue  # of a key in pieces the first one that fails says why
            if item.kind in ("copied", "piece"):
                for part, reply in zip(item.parts, flight.answers(n, results)):
                    if isinstance(reply, Exception):
                        text = f"{channel.target} cannot take a key of the copy: {reply}: {summary([part])}"
                        self._refuse(text, _NOT_TAKEN)
                self._spoil(item.building, flight.items)
            elif item.kind == "write":
                text = f"{channel.target}: {error}; the key was changed there by something else"
                if item.clock is not None and self.rules.bidirectional:
                    replies = flight.answers(n, results)
                    failed = tuple(at for at, reply in enumerate(replies) if isinstance(reply, Exception))
                    channel.failed[item.clock] = failed
                self._left_unequal(text)

    # -- copied keys
    def refuse_copied(self, channel: Channel, key: bytes, reason: str) -> None:
        """A key of the snapshot cannot be made at the target. Raises BisyncError where the job must stop."""
        what = f"{channel.target} cannot take the key {repr(key[:60])[1:]} of the copy: {reason}"
        self._refuse(what, "use a target of the source's version or newer")

    def _spoil(self, building: int, items: Sequence[Item]) -> None:
        """One of a key's pieces, among these items, was refused. Only of the newest such key more is still to come."""
        self.spoilt = building or self.spoilt
        self._leave_out_spoilt(items)

    def _leave_out_spoilt(self, items: Sequence[Item]) -> None:
        """Of a key in pieces of which one was refused nothing more is made, and it does not take its place."""
        for item in items:
            if item.building and item.building == self.spoilt:
                item.parts, item.length = (), None

    def _check_length(self, channel: Channel, item: Item, length: object) -> None:
        """A key that was built in pieces is as long as it must be, or something took a part of it away meanwhile."""
        if isinstance(length, int) and length != item.length:
            raise SiteError(
                channel.target,
                f"a key of the copy came out with a length of {length}: {item.summary()}",
                why=f"it should be {item.length}; a flush there, or an eviction, took away what was built before",
                hint="the copy begins again",
                heals=True,
            )

    def _refuse(self, what: str, hint: str) -> None:
        if self.rules.on_refused != "quarantine":
            raise BisyncError(what, hint=f'{hint}; or set on_refused = "quarantine" to set such commands aside')
        self.actions.append(Notice("error", "quarantined", what))

    def _refused(self, channel: Channel, refusal: Refusal, now_ms: int) -> None:
        """Nothing was applied: wait and try again if it can heal, else stop or set the commands aside."""
        flight = channel.link.in_flight
        assert flight is not None
        if not refusal.heals:
            self._set_aside(channel, flight, refusal)
        elif refusal.text.split(" ", 1)[0] != channel.refused.split(" ", 1)[0]:
            text = f"{channel.target} refuses writes: {refusal.text}. {refusal.hint}; bisync tries again"
            self.actions.append(Notice("warning", "refused", text))
        if refusal.heals:
            channel.refused = f"{refusal.text} ({refusal.hint})"
            pause_ms = min(RETRY_MS_MAX, RETRY_MS_MIN << min(channel.refusals, 10))
            channel.refusals += 1
            channel.link.paused_until_ms = now_ms + pause_ms
        channel.pending.awaited.take_back(flight.tag)
        channel.link.unsend()

    def _set_aside(self, channel: Channel, flight: Transaction, refusal: Refusal) -> None:
        """Take the refused commands out of the items in flight."""
        guilty = sorted({bisect.bisect_right(flight.begins, r) - 1 for r in refusal.refused})  # of a command, its item
        what = f"{channel.target} refuses a transaction of the {channel.name} channel: {refusal.text}"
        kinds = {flight.items[n].kind for n in guilty if 0 <= n < len(flight.items)}
        if not kinds or not kinds <= {"write", "copied", "piece", *ROUND_KINDS}:
            raise BisyncError(what, hint=refusal.hint)
        word = "set aside" if self.rules.on_refused == "quarantine" else "refused"
        for n in guilty:
            item = flight.items[n]
            apart = [at for at, place in enumerate(flight.places(n)) if place in refusal.refused]
            if item.kind in ROUND_KINDS:
                self.rounds.refused(item, channel.target, refusal.text)
                item.kind, item.number = "refused", 0
            elif item.kind == "copied" and not item.building and apart:  # of many keys these
                for at in apart:
                    self._refuse(f"{what}; {word}: {summary([item.parts[at]])}", refusal.hint)
                item.parts = [part for at, part in enumerate(item.parts) if at not in apart]
                continue
            else:
                self._refuse(f"{what}; {word}: {item.summary()}", refusal.hint)
                self._spoil(item.building, flight.items)
            item.parts, item.renewals, item.length = (), (), None
