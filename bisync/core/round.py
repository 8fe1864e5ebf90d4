"""The rounds under way: fences and restores on their way through the links, and the notes that outlive a crash.

A restore overtakes client writes: from then on its authority is the only site that has them all, and that must survive
a crash. So each restore leaves a note beside the data, in its own transaction, until its arbitration is done.
"""

from collections.abc import Mapping, Sequence

from bisync.core import restore
from bisync.core.actions import Action, Conflict
from bisync.core.arbitration import Arbiter, Arbitration, Unit
from bisync.core.channel import Channel
from bisync.core.floor import Floors
from bisync.core.link import Item, Part
from bisync.core.resp import pack
from bisync.core.rules import Rules
from bisync.core.tag import open_key
from bisync.errors import BisyncError

Notes = dict[Unit, tuple[tuple[int, int], str]]
"""Per unit: the round (epoch, number) whose restore was begun, and the authority."""


class Rounds:
    """Carries out what the arbiter decides."""

    def __init__(
        self,
        rules: Rules,
        epoch: int,
        arbiter: Arbiter,
        channels: Mapping[str, Channel],
        notes: Mapping[str, Notes],
        actions: list[Action],
    ) -> None:
        self._rules, self._epoch, self._arbiter, self._channels = rules, epoch, arbiter, channels
        self._notes: dict[str, Notes] = {x: dict(notes.get(x, {})) for x in rules.sites}
        self._copies: dict[int, restore.Copy] = {}  # what fences read, until their echo is read
        self._asked: set[int] = set()  # fences whose reply is not here yet
        self._open_key = open_key(rules.job)
        self._actions = actions

    def take_up_notes(self, floors: Floors) -> None:
        """A starting engine settles the noted units first: where both sites have a note, the newer round decides."""
        newest: Notes = {}
        for notes in self._notes.values():
            for unit, (number, authority) in notes.items():
                if unit not in newest or newest[unit][0] < number:
                    newest[unit] = number, authority
        low = {site: floors.offset(site) for site in self._rules.sites}
        for unit, (_, authority) in sorted(newest.items(), key=lambda n: n[1][0]):
            if unit.element is None or unit.whole not in newest:
                self._arbiter.arbitrate(unit, None, low, authority)

    def begin(self) -> None:
        """Send the fences of all rounds that must begin, each through the link towards its authority."""
        for arbitration in self._arbiter.begin_rounds():
            unit, authority = arbitration.unit, arbitration.authority
            parts = restore.fence(unit, self._rules.database_at(authority, unit.database))
            self._asked.add(arbitration.number)
            self._put_towards(authority, "fence", parts, arbitration.number)

    def _put_towards(self, site: str, kind: str, parts: list[Part], number: int = 0) -> None:
        size = sum(len(command) for _, command in parts)
        self._channels[self._rules.other(site)].link.put(Item(kind, parts, size, number=number))

    def waits_for_copy(self, numbers: Sequence[int]) -> bool:
        """Is the reply to one of these fences not here yet? Its echo may be read before."""
        return any(n in self._asked for n in numbers)

    def fence_answered(self, number: int, copy: Sequence[object]) -> None:
        """The reply to a fence."""
        self._asked.discard(number)
        if any(isinstance(value, Exception) for value in copy):  # an element asked of a key of another type
            if not self._arbiter.begin_again(number):
                raise BisyncError(
                    "a key that both sites wrote cannot be read", why=str(copy), hint="see the server's log"
                )
        else:
            self._copies[number] = copy

    def restore_answered(self, number: int, results: Sequence[object]) -> None:
        """The replies to a restore: one that failed is tried again for the whole key."""
        error = next((r for r in results if isinstance(r, Exception)), None)
        if error is not None and not self._arbiter.begin_again(number):
            raise BisyncError(
                "a key that both sites wrote cannot be restored at the other site",
                why=str(error),
                hint="do both servers have the same version? RESTORE needs a target that knows the RDB version",
            )

    def came_back(self, x: str, number: int) -> None:
        """The echo of a fence or a restore was read in the stream of `x`."""
        copy = self._copies.pop(number, None)
        if copy is not None:
            arbitration = self._arbiter.fence_came_back(number)
            if arbitration is not None:
                self._restore(arbitration, copy)
            return
        arbitration = self._arbiter.restore_came_back(number)
        if arbitration is not None:
            self._close(arbitration)

    def _restore(self, arbitration: Arbitration, copy: restore.Copy) -> None:
        unit, number, authority = arbitration.unit, arbitration.number, arbitration.authority
        y = self._rules.other(authority)
        parts = [self._note(y, unit, number, authority)]
        parts += restore.restore(unit, self._rules.database_at(y, unit.database), copy)
        self._put_towards(y, "restore", parts, number)

    def _note(self, site: str, unit: Unit, number: int, authority: str) -> Part:
        self._notes[site][unit] = (self._epoch, number), authority
        return 0, pack(b"HSET", self._open_key, restore.note_name(unit), restore.note(self._epoch, number, authority))

    def _close(self, arbitration: Arbitration) -> None:
        """The unit is equal again: take its notes away, and those of its elements."""
        unit = arbitration.unit
        for site, notes in self._notes.items():
            for noted in [u for u in notes if u == unit or (unit.element is None and u.whole == unit)]:
                del notes[noted]
                self._put_towards(site, "close", [(0, pack(b"HDEL", self._open_key, restore.note_name(noted)))])
        winner = self._rules.other(arbitration.authority)
        self._actions.append(Conflict(unit.database, unit.key, unit.element, winner))

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
