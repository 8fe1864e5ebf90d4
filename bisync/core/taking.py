"""Taking a job: what a starting engine writes as its tags, and what it may believe.

An engine takes a job by compare-and-set on every site where it writes: it reads the tags under a WATCH, and sets them
again under a higher epoch. Only then it believes what it read. Bytes that a killed engine left in a socket are thus
refused, and an older engine is refused and stops.
"""

from collections.abc import Mapping

import attrs

from bisync.core.pair import Taken
from bisync.core.position import Position
from bisync.core.restore import read_note
from bisync.core.round import Notes
from bisync.core.rules import Rules
from bisync.core.tag import Tag
from bisync.errors import BisyncError, HistoryGap, Superseded


@attrs.frozen
class Memory:
    """What this engine knows from its earlier lives, or what the store knows; used where a site has lost its tag."""

    epoch: int = 0  # of this engine's last life; 0: it had none
    engine: str = ""
    tags: Mapping[str, Tag] = attrs.field(factory=dict)  # by channel
    notes: Mapping[str, Notes] = attrs.field(factory=dict)  # by the site that holds them
    anew: str = ""  # the job must begin anew, as a stream has a gap: the site whose values stand; empty: it goes on


@attrs.frozen
class Taking:
    """One attempt to take a job. Made from the tags that are held, by channel (None: there is none)."""

    rules: Rules
    engine: str
    memory: Memory
    held: Mapping[str, Tag | None]
    # By channel, where it was asked for: the replication id of the site of the tag; empty: the account may not know it.
    histories: Mapping[str, str] = attrs.field(factory=dict)
    known: Mapping[str, Tag] = attrs.field(init=False)  # the newest that is known of each channel
    epoch: int = attrs.field(init=False)
    begun: int = attrs.field(init=False)  # the epoch in which the job began anew; what is older says nothing

    def __attrs_post_init__(self) -> None:
        remembered = {c: t for c, t in self.memory.tags.items() if not self._may_have_lost(c, t)}
        known = {c: t for c, t in {**remembered, **_without_none(self.held)}.items() if c in self.held}
        if self.memory.epoch:  # what it remembers of its own transactions is newer than a tag that came back
            known.update({c: t for c, t in remembered.items() if c in known and _is_newer(t, known[c])})
        epoch = 1 + max([self.memory.epoch, *(t.epoch for t in known.values())])
        begun = epoch if self.memory.anew else max((t.begun for t in known.values()), default=0)
        object.__setattr__(self, "known", {c: t for c, t in known.items() if t.begun == begun})
        object.__setattr__(self, "epoch", epoch)
        object.__setattr__(self, "begun", begun)

    def _may_have_lost(self, channel: str, tag: Tag) -> bool:
        """Has the site another history than when it accepted this tag? Then its data may be older than the tag.

        So it may where the account may not ask for the history. What a client takes away leaves the history as it is.
        Asked of one-way jobs only: of a site that is read, the stream tells.
        """
        if channel not in self.histories:
            return False
        position, history = tag.floors.get(self.rules.target), self.histories[channel]
        return position is None or not history or position.replid != history

    def check_data(self) -> None:
        """Raises HistoryGap where a site has lost its tag together with its data, or may have and nobody can know."""
        for channel, tag in () if self.memory.anew else self.memory.tags.items():
            if channel in self.held and self.held[channel] is None and self._may_have_lost(channel, tag):
                what = "the site has begun a new replication history and holds no tag: what was copied there is lost"
                why = "it was restarted without its data, or another server has its place"
                if not self.histories[channel]:
                    what = "the site holds no tag any more, and what was copied there may be lost with it"
                    why = "the account may not use INFO, which would tell whether it was restarted without its data"
                hint = "bisync reset, then begin with a new full copy"
                raise HistoryGap(self.rules.target, what, why=why, hint=hint)

    def check_owner(self) -> None:
        """Raises Superseded where another engine has taken the job since this one's last life."""
        for tag in self.held.values() if self.memory.epoch else ():
            if tag is not None and tag.engine != self.engine and tag.epoch > self.memory.epoch:
                raise Superseded(
                    f"engine {tag.engine} has taken the job {self.rules.job}",
                    why=f"its epoch is {tag.epoch}, and this one had {self.memory.epoch}",
                    hint="nothing: that engine goes on. Stop it first if this one should run",
                )

    def tag(self, channel: str) -> Tag:
        """What must be written, if the held tag is still the same."""
        known = self.known.get(channel)
        if known is None:
            fresh = Tag(self.rules.job, self.epoch, self.engine, floors=self.place(channel), begun=self.begun)
            return attrs.evolve(fresh, reconciling=self._stands) if self.begun else fresh
        floors = {**known.floors, **self.place(channel)}
        return attrs.evolve(known, epoch=self.epoch, engine=self.engine, floors=floors, rounds=())

    @property
    def _stands(self) -> str:
        """Of a job that begins anew: the site whose values stand. A one-way job copies, and compares nothing."""
        told = next((tag.reconciling for tag in self.known.values() if tag.reconciling), "")
        return (self.memory.anew or told) if self.rules.bidirectional else ""

    def forgets_notes(self, channel: str) -> bool:
        """Do the notes beside this channel's tag belong to what was before the job began anew?"""
        held = self.held[channel]
        return self.begun > 0 and (held is None or held.begun < self.begun)

    def check_tags(self) -> None:
        """Raises BisyncError where one tag of a job that is under way is gone and nothing can tell what it said.

        The stream of a site that is read holds every tag that was written there since its floor.
        """
        gone = [channel for channel in self.held if channel not in self.known]
        if self.rules.bidirectional and all(self._floor_where(channel) for channel in gone):
            return
        if gone and any(tag.copied for tag in self.known.values()):
            raise BisyncError(
                f"the tag of the {gone[0]} channel is gone, and the store has no copy of it",
                why="how far that channel was applied is not known any more",
                hint="run bisync verify to see the differences, then bisync reset and begin with a new full copy",
            )

    def _floor_where(self, channel: str) -> bool:
        """Does another tag say from where to read the site that held this channel's?"""
        site = self.rules.target if channel == self.rules.channel(self.rules.source) else self.rules.source
        return any(site in tag.floors for tag in self.known.values())

    def place(self, channel: str) -> dict[str, Position]:
        """The history of the site that holds the tag, as a floor there: only its name counts, as it is not read."""
        history = self.histories.get(channel, "")
        return {self.rules.target: Position(history, 0)} if history else {}

    def believed(self, notes: Mapping[str, Notes]) -> Taken:
        """What the engine may believe once all its tags are written; `notes` are what the sites held after that."""
        tags = {channel: self.tag(channel) for channel in self.held}
        merged = {}
        for site, held in notes.items() if not self.memory.anew else ():
            lost = self.held[self.rules.channel(self.rules.other(site))] is None  # the notes are gone with the tag
            merged[site] = {**self.memory.notes.get(site, {}), **held} if lost else dict(held)
        written = {channel: tag.encode() for channel, tag in tags.items()}
        places = {site: p for channel in self.held for site, p in self.place(channel).items()}
        lost = bool(self.known) and None in self.held.values()
        told = {c: t for c, t in tags.items() if c in self.known or self.begun}
        return Taken(told, merged, written, places, lost)


def read_notes(reply: list[bytes]) -> Notes:
    """The notes in what HGETALL replied. Raises BisyncError where one cannot be read."""
    notes: Notes = {}
    for name, value in zip(reply[::2], reply[1::2], strict=True):
        unit, number, authority = read_note(name, value)
        notes[unit] = number, authority
    return notes


def _without_none(tags: Mapping[str, Tag | None]) -> dict[str, Tag]:
    return {channel: tag for channel, tag in tags.items() if tag is not None}


def _is_newer(mine: Tag, held: Tag) -> bool:
    return (mine.epoch, mine.applied) > (held.epoch, held.applied)
