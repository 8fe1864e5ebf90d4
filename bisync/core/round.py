"""The rounds under way: probes, fences and restores on their way through the links, and the notes that outlive a crash.

A whole key is probed at both sites first: its type and size say how it can be copied. A restore overtakes client
writes: from then on its authority is the only site that has them all, and that must survive a crash. So each restore
leaves a note beside the data, in its own transaction, until its arbitration is done.

A round that fails is no reason to stop the job: the unit stays open, the arbiter keeps the reason and tries again.
"""

from collections.abc import Mapping, Sequence

import attrs

from bisync.core import field, merge, rebuild, restore
from bisync.core.abilities import Abilities
from bisync.core.actions import Replaced
from bisync.core.arbitration import Arbiter
from bisync.core.channel import Channel
from bisync.core.commands.places import FUNCTIONS
from bisync.core.floor import Floors
from bisync.core.link import Item, Part
from bisync.core.pending import Place
from bisync.core.rebuild import Probe
from bisync.core.resp import pack
from bisync.core.restore import Ask, Copy, Loser, NotNow, Outcome, Unfit
from bisync.core.rules import Rules
from bisync.core.tag import open_key
from bisync.core.unit import Arbitration, Unit

Notes = dict[Unit, tuple[tuple[int, int], str]]
"""Per unit: the round (epoch, number) whose restore was begun, and the authority."""

RESTORE_BYTES_MAX = 900 << 20
"""A server takes no more in one transaction than its `client-query-buffer-limit`, 1 GiB unless it was changed."""

ROUND_KINDS = ("probe", "fence", "restore")
"""Items whose refusal concerns one unit, and not the job."""

_CHANGED = ("WRONGTYPE", "ERR no such key")  # the key is not what it was when it was probed


@attrs.define(eq=False)
class _Round:
    """What is on its way for one round."""

    arbitration: Arbitration
    probes: dict[str, tuple[Ask[Probe], Probe | None]] = attrs.field(factory=dict)  # by site
    fence: Ask[Copy] | None = None  # asked, and its reply is not here yet
    loser: Loser | None = None  # where it will be restored
    copy: Copy | None = None  # what the fence read, until its echo is read
    restore: Ask[Outcome] | None = None  # asked
    noted: tuple[tuple[int, int], str] | None = None  # the note that the restore's replaces
    lessons: dict[str, int] = attrs.field(factory=dict)  # by site: how much was known of it when the way was chosen


class Rounds:
    """Carries out what the arbiter decides."""

    def __init__(
        self,
        rules: Rules,
        epoch: int,
        arbiter: Arbiter,
        channels: Mapping[str, Channel],
        notes: Mapping[str, Notes],
    ) -> None:
        self._rules, self._epoch, self._arbiter, self._channels = rules, epoch, arbiter, channels
        self._notes: dict[str, Notes] = {x: {} for x in rules.sites}
        self._noted: dict[tuple[str, Place], dict[Unit, None]] = {}  # by site and key: the units with a note
        for x in rules.sites:
            for unit, noted in notes.get(x, {}).items():
                self._put_note(x, unit, noted)
        self._able = {x: Abilities() for x in rules.sites}
        self._rounds: dict[int, _Round] = {}  # by number
        self._open_key = open_key(rules.job)
        self._marked: dict[int, Arbitration] = {}  # by mark: whose note is on its way
        self._read: dict[str, Notes] = {x: {} for x in rules.sites}  # that earlier lives wrote, as the streams show

    def take_up_notes(self, floors: Floors) -> None:
        """A starting engine settles the noted units first: where both sites have a note, the newer round decides.

        A one-way job settles nothing: what is noted was left by a two-way job of the same name.
        """
        if not self._rules.bidirectional:
            return
        newest: Notes = {}
        for notes in self._notes.values():
            for unit, (number, authority) in notes.items():
                if unit not in newest or newest[unit][0] < number:
                    newest[unit] = number, authority
        low = {site: floors.offset(site) for site in self._rules.sites}
        for unit, (_, authority) in sorted(newest.items(), key=lambda n: n[1][0]):
            if unit.element is None or unit.whole not in newest:
                self._arbiter.arbitrate(unit, None, low, authority)

    def note_read(self, x: str, args: Sequence[bytes]) -> None:
        """The stream of `x` shows that an earlier life changed its notes there with this command: HSET or HDEL."""
        read = self._read[x]
        if args[0] == b"HSET":
            unit, number, authority = restore.read_note(args[2], args[3])
            read[unit] = number, authority
        else:
            for unit in [unit for unit in read if restore.note_name(unit) in args[2:]]:
                del read[unit]

    def wiped(self, x: str, floors: Floors) -> None:
        """A client has taken the notes of `x` away, and the life that saw it may have ended before it wrote them again.

        Floors stay before the notes of open arbitrations, so the stream has shown all that stood there.
        """
        low = {site: floors.offset(site) for site in self._rules.sites}
        for unit, (_, authority) in self._read[x].items():
            if unit not in self._notes[x]:
                self._arbiter.arbitrate(unit, None, low, authority)
        self._read[x].clear()

    # -- probes
    def begin(self) -> None:
        """Begin the rounds that are due: probe whole keys at both sites, send the fences of all else."""
        for arbitration in self._arbiter.begin_rounds():
            self._rounds[arbitration.number] = held = _Round(arbitration, lessons=self._lessons())
            if arbitration.unit.element is None and arbitration.unit.place != FUNCTIONS:
                for site in self._rules.sites:
                    ask = rebuild.probe(arbitration.unit.key, self._able[site])
                    held.probes[site] = ask, None
                    item = self._item("probe", site, arbitration.unit, ask.commands)
                    item.probes = arbitration.number
                    self._put_towards(site, item)
            else:
                self._send_fence(held)

    def probe_answered(self, site: str, number: int, replies: Sequence[object]) -> None:
        """The replies to a probe. With those of both sites the fence can be sent."""
        held = self._under_way(number)
        if held is None:
            return
        error = _error(replies)
        if error is not None:
            self._failed(number, site, str(error))
            return
        ask = held.probes[site][0]
        held.probes[site] = ask, ask.read(replies)
        if all(probe for _, probe in held.probes.values()):
            self._send_fence(held)

    # -- fences
    def _send_fence(self, held: _Round) -> None:
        """Through the link towards the authority: after all that was read at the other site until now.

        So none of that can be overtaken by the restore, and if the authority has moved, the new one is asked.
        """
        arbitration = held.arbitration
        arbitration.dirty, arbitration.fenced_at = False, arbitration.authority
        unit, authority = arbitration.unit, arbitration.authority
        y = self._rules.other(authority)
        held.loser = Loser(y, self._able[y], self._is_big(held, y), self._rules.conflict_value_bytes)
        held.lessons, held.fence = self._lessons(), self._fence(held, authority, held.loser)
        item = self._item("fence", authority, unit, held.fence.commands)
        item.number = arbitration.number
        self._put_towards(authority, item)

    def _fence(self, held: _Round, authority: str, loser: Loser) -> Ask[Copy]:
        """The way in which this unit can be copied."""
        unit, able = held.arbitration.unit, self._able[authority]
        if unit.element is not None:
            expiring = unit.element[0] == "hash" and able.has(b"HPEXPIRETIME")
            return field.fence_field(unit, able) if expiring else restore.fence_element(unit, able)
        if unit.place == FUNCTIONS:
            return restore.fence_functions(loser.able)
        found = held.probes[authority][1]
        assert found is not None
        if found.type == b"stream":
            return merge.fence_stream(unit.key, able)
        if found.type in rebuild.TYPES and (self._is_big(held, authority) or not loser.able.restores):
            return rebuild.fence_parts(unit.key, found, able)
        return restore.fence_key(unit.key, able)

    def _is_big(self, held: _Round, site: str) -> bool:
        found = held.probes[site][1] if held.probes else None
        return found is not None and found.size > self._rules.rebuild_bytes

    def waits_for_copy(self, numbers: Sequence[int]) -> bool:
        """Is the reply to one of these fences not here yet? Its echo may be read before."""
        return any(n in self._rounds and self._rounds[n].fence is not None for n in numbers)

    def fence_answered(self, number: int, replies: Sequence[object]) -> None:
        """The replies to a fence."""
        held = self._rounds.get(number)
        if held is None or held.fence is None:
            return
        ask, held.fence = held.fence, None
        error = _error(replies)
        if error is not None:
            self._failed(number, held.arbitration.fenced_at, str(error))
            return
        try:
            held.copy = ask.read(replies)
        except NotNow:
            self._repeat(number)
        except Unfit as e:
            self._put_off(number, str(e))

    # -- restores
    def _restore(self, held: _Round, copy: Copy) -> None:
        assert held.loser is not None
        unit, number, authority = held.arbitration.unit, held.arbitration.number, held.arbitration.authority
        y = held.loser.site
        held.restore = copy.restore(held.loser)
        item = self._item("restore", y, unit, held.restore.commands)
        if item.size > RESTORE_BYTES_MAX:
            self._put_off(number, f"its {item.size} bytes are more than fit into one transaction")
            return
        held.noted = self._notes[y].get(unit)
        item.number, item.parts = number, [self._note(y, unit, number, authority), *item.parts]
        self._arbiter.mark(held.arbitration)
        self._put_towards(y, item)

    def restore_answered(self, number: int, replies: Sequence[object]) -> None:
        """The replies to a restore, first that to its note."""
        held = self._rounds.get(number)
        if held is None or held.restore is None:
            return
        assert held.loser is not None
        ask, held.restore = held.restore, None
        error = _error(replies[1:])
        if error is not None:
            self._failed(number, held.loser.site, str(error))
            return
        outcome = ask.read(replies[1:])
        if self._under_way(number) is not None:
            if outcome.replaced is not None and not _is_ours(outcome.replaced, held.arbitration):
                held.arbitration.replaced = outcome.replaced
            held.arbitration.kept = outcome.kept
            if isinstance(replies[0], Exception):  # the unit is restored, but without its note a crash would lose that
                self._put_off(number, self._without_note(held.loser.site, replies[0]))
            elif outcome.turn:
                self._arbiter.turn(number)

    def _without_note(self, site: str, error: Exception) -> str:
        key = self._open_key.decode()
        step = f"delete what a client has put there: DEL {key} in database 0"
        return f"{site}: the key {key}, where bisync keeps its notes, takes none ({error}); {step}"

    def came_back(self, x: str, number: int) -> None:
        """The echo of a fence or a restore was read in the stream of `x`."""
        held = self._rounds.get(number)
        if held is not None and held.copy is not None:
            copy, held.copy = held.copy, None
            if self._arbiter.fence_came_back(number) is not None:
                self._restore(held, copy)
            else:
                del self._rounds[number]
                self._note_authority(held.arbitration, number)
            return
        self._rounds.pop(number, None)
        arbitration = self._arbiter.restore_came_back(number)
        if arbitration is not None:
            self._close(arbitration)

    def _note_authority(self, arbitration: Arbitration, number: int) -> None:
        """The authority has moved while a fence was under way: another round follows, and a note says who is right."""
        if self._arbiter.covering(arbitration.unit) is not arbitration or arbitration.marked is not None:
            return
        y = self._rules.other(arbitration.authority)
        note = self._note(y, arbitration.unit, number, arbitration.authority)
        item = Item("note", [note], len(note[1]), mark=self._arbiter.mark(arbitration))
        self._marked[item.mark] = arbitration
        self._put_towards(y, item)

    def note_landed(self, mark: int, replies: Sequence[object]) -> None:
        """The replies to a note of its own: now it stands beside the data, unless something else has its key."""
        arbitration = self._marked.pop(mark)
        if _error(replies) is None:
            self._arbiter.advance(arbitration, mark)

    # -- what does not succeed
    def refused(self, item: Item, site: str, text: str) -> None:
        """The site has refused this probe, fence or restore before it did anything: it is not sent again."""
        number = item.number or item.probes
        held = self._rounds.get(number)
        if held is not None and item.kind == "restore":
            unit = held.arbitration.unit
            if held.noted is not None:  # the note was not written either
                self._put_note(site, unit, held.noted)
            else:
                self._drop_note(site, unit)
        if held is not None:
            self._failed(number, site, text)

    def _failed(self, number: int, site: str, text: str) -> None:
        """A round has failed: try a better way at once, if there is one, else later."""
        held = self._under_way(number)
        if held is None:
            return
        self._able[site].learn(text)
        if self._able[site].lessons > held.lessons[site]:  # of this failure, or of another one since the way was chosen
            self._repeat(number)
        elif held.arbitration.unit.element is not None and self._arbiter.begin_again(number):
            self._rounds.pop(number, None)
        elif text.startswith(_CHANGED) and site == held.arbitration.fenced_at:
            self._repeat(number)
        else:
            self._put_off(number, f"{site}: {text}")

    def _lessons(self) -> dict[str, int]:
        return {site: able.lessons for site, able in self._able.items()}

    def _repeat(self, number: int) -> None:
        self._rounds.pop(number, None)
        self._arbiter.repeat(number)

    def _put_off(self, number: int, reason: str) -> None:
        self._rounds.pop(number, None)
        self._arbiter.put_off(number, reason)

    def _under_way(self, number: int) -> _Round | None:
        """The round, if it still counts; else it is forgotten."""
        if self._arbiter.under_way(number) is None:
            self._rounds.pop(number, None)
        return self._rounds.get(number)

    # -- items
    def _item(self, kind: str, site: str, unit: Unit, commands: Sequence[bytes]) -> Item:
        database = 0 if unit.place == FUNCTIONS else self._rules.database_at(site, unit.database)
        return Item(kind, [(database, command) for command in commands], sum(map(len, commands)))

    def _put_towards(self, site: str, item: Item) -> None:
        self._channels[self._rules.other(site)].link.put(item)

    # -- notes
    def _note(self, site: str, unit: Unit, number: int, authority: str) -> Part:
        self._put_note(site, unit, ((self._epoch, number), authority))
        return 0, pack(b"HSET", self._open_key, restore.note_name(unit), restore.note(self._epoch, number, authority))

    def _put_note(self, site: str, unit: Unit, note: tuple[tuple[int, int], str]) -> None:
        self._notes[site][unit] = note
        self._noted.setdefault((site, unit.place), {})[unit] = None

    def _drop_note(self, site: str, unit: Unit) -> None:
        if self._notes[site].pop(unit, None) is not None:
            near = self._noted[site, unit.place]
            del near[unit]
            if not near:
                del self._noted[site, unit.place]

    def _close(self, arbitration: Arbitration) -> None:
        """The unit is equal again: take its notes away, and those of its elements."""
        unit = arbitration.unit
        for site in self._notes:
            near = self._noted.get((site, unit.place), {})
            for noted in [u for u in (near if unit.element is None else (unit,)) if u in near]:
                self._drop_note(site, noted)
                command = pack(b"HDEL", self._open_key, restore.note_name(noted))
                self._put_towards(site, Item("close", [(0, command)], len(command)))

    def note_all_open(self, site: str) -> list[Part]:
        """Notes for every unit still open: a snapshot cannot be read again as a stream can."""
        return [self._note(site, a.unit, a.number, a.authority) for a in self._arbiter]

    def notes_again(self, site: str) -> list[Part]:
        """All notes of a site, after something has wiped them there."""
        return [
            (0, pack(b"HSET", self._open_key, restore.note_name(unit), restore.note(*number, authority)))
            for unit, (number, authority) in self._notes[site].items()
        ]

    def lowest(self, site: str, position: int) -> int:
        """The offset at or before every write of an open arbitration, `position` where there is none."""
        return self._arbiter.lowest(site, position)

    @property
    def notes(self) -> dict[str, Notes]:
        """By site: what its hash of notes holds, or will once the links are idle."""
        return self._notes


def _error(replies: Sequence[object]) -> Exception | None:
    """The first error reply."""
    return next((r for r in replies if isinstance(r, Exception)), None)


def _is_ours(found: Replaced, arbitration: Arbitration) -> bool:
    """Is what a later restore has replaced no loser's value, but what an earlier one had put there?"""
    if arbitration.replaced is None or arbitration.replaced.site != found.site:
        return False
    return found.digest == arbitration.kept and bool(arbitration.kept or found.kind == "absent")
