"""The connection through which all that a channel writes goes, and the taking of a job.

An engine takes a job by compare-and-set: WATCH and GET, then MULTI, SET of the same tag under a higher epoch, EXEC, on
every site where it writes; only then it believes what it read. Bytes that a killed engine left in a socket are thus
refused, and an older engine gets nil from EXEC and stops.
"""

from collections.abc import Iterable, Mapping, Sequence

import attrs

from bisync.core.pair import Taken
from bisync.core.resp import EXEC, MULTI, pack, select
from bisync.core.restore import read_note
from bisync.core.round import Notes
from bisync.core.rules import Rules
from bisync.core.tag import Tag, open_key, tag_key
from bisync.errors import BisyncError, Superseded
from bisync.runtime.connection import Connection, refusal

TRIES_MAX = 20  # engines that start at the same moment settle in two or three


@attrs.frozen
class Memory:
    """What this process knows from its earlier lives, or what the store knows; used where a site has lost its tag."""

    epoch: int = 0  # of this process's last life; 0: it had none
    engine: str = ""
    tags: Mapping[str, Tag] = attrs.field(factory=dict)  # by channel
    notes: Mapping[str, Notes] = attrs.field(factory=dict)  # by site


class Writer:
    """One channel's connection to its target."""

    def __init__(self, connection: Connection, rules: Rules, channel: str) -> None:
        self._connection, self._rules, self.channel = connection, rules, channel
        self._key = tag_key(rules.job, channel)
        self.site = connection.site

    async def send(self, payload: bytes, replies: int) -> list[object]:
        """Send what the core made; its replies."""
        await self._connection.send(payload)
        return await self._connection.replies(replies)

    async def read_tag(self) -> object:
        """What the tag key holds now. The WATCH of the last transaction stays."""
        return await self._connection.request(b"GET", self._key)

    async def watch_tag(self) -> Tag | None:
        """Guard and read the tag. Raises BisyncError where the key holds something else."""
        await self._connection.send(select(0) + pack(b"WATCH", self._key) + pack(b"GET", self._key))
        replies = await self._connection.replies(3)
        error = next((r for r in replies if isinstance(r, Exception)), None)
        if error is not None and not str(error).startswith("WRONGTYPE"):
            raise refusal(self.site, error)
        if error is None and replies[2] is None:
            return None
        name = self._key.decode()
        hint = f"is another program using this key? Delete it ({name}, database 0), or give the job another name"
        if error is not None or not isinstance(replies[2], bytes):
            raise BisyncError(f"{self.site.name}: the key {name} is no string, so no tag", hint=hint)
        try:
            tag = Tag.decode(replies[2])
        except BisyncError as e:
            raise BisyncError(f"{self.site.name}: the key {name} holds no tag of bisync: {e.what}", hint=hint) from None
        if (tag.job, tag.channel) != (self._rules.job, self.channel):
            what = f"{self.site.name}: the key {name} holds the tag of {tag.job}, {tag.channel}"
            raise BisyncError(what, hint=hint)
        return tag

    async def replace_tag(self, tag: Tag) -> bool:
        """Set the tag if it is still the one that was watched; it is guarded again afterwards."""
        payload = MULTI + pack(b"SET", self._key, tag.encode()) + EXEC
        payload += select(0) + pack(b"WATCH", self._key) + pack(b"GET", self._key)
        *queued, result, _, _, held = await self.send(payload, 6)
        error = next((r for r in queued if isinstance(r, Exception)), None)
        if error is not None or isinstance(result, Exception):
            raise refusal(self.site, error or result)  # type: ignore[arg-type]
        return result is not None and held == tag.encode()

    async def read_notes(self) -> Notes:
        """The notes of open arbitrations at this site."""
        reply = await self._connection.request(b"HGETALL", open_key(self._rules.job))
        if isinstance(reply, Exception) or not isinstance(reply, list):
            raise BisyncError(
                f"{self.site.name}: {open_key(self._rules.job).decode()} cannot be read",
                why=str(reply),
                hint="bisync keeps its open arbitrations there; let the account read it, or delete what is no hash",
            )
        notes: Notes = {}
        for name, value in zip(reply[::2], reply[1::2]):
            unit, number, authority = read_note(name, value)
            notes[unit] = number, authority
        return notes

    async def request(self, *args: bytes | int) -> object:
        """One command outside of the transactions: a read."""
        return await self._connection.request(*args)


async def take(rules: Rules, writers: Sequence[Writer], engine: str, memory: Memory) -> tuple[int, Taken]:
    """Take the job. The epoch, and what the engine may believe from now on.

    Raises Superseded when another engine has it since this process's last life, or gets it at the same moment.
    """
    for _ in range(TRIES_MAX):
        held = {w.channel: await w.watch_tag() for w in writers}
        _check_owner(rules, held.values(), engine, memory)
        known = {channel: tag or memory.tags.get(channel) for channel, tag in held.items()}
        if (
            memory.epoch
        ):  # of this process: what it remembers of its own transactions is newer than a tag that came back
            known.update({c: t for c, t in memory.tags.items() if _is_newer(t, known.get(c))})
        epoch = 1 + max([memory.epoch, *(t.epoch for t in known.values() if t)])
        tags = {channel: _initial(rules, channel, epoch, engine, tag) for channel, tag in known.items()}
        if not await writers[0].replace_tag(tags[writers[0].channel]):
            continue  # another engine was quicker and nothing of ours is written: try again with a higher epoch
        for writer in writers[1:]:
            if not await writer.replace_tag(tags[writer.channel]):
                raise Superseded(f"another engine takes the job {rules.job} at the same moment")
        notes = {w.site.name: await w.read_notes() for w in writers}
        for site, remembered in memory.notes.items():
            if site in notes and any(held[w.channel] is None for w in writers if w.site.name == site):
                notes[site] = {**remembered, **notes[site]}
        written = {channel: tag.encode() for channel, tag in tags.items()}
        return epoch, Taken({c: t for c, t in tags.items() if known[c] is not None}, notes, written)
    raise Superseded(f"other engines keep taking the job {rules.job}", hint="start one engine only")


def _initial(rules: Rules, channel: str, epoch: int, engine: str, known: Tag | None) -> Tag:
    if known is None:
        return Tag(rules.job, channel, epoch, engine)
    return attrs.evolve(known, epoch=epoch, engine=engine, rounds=())


def _is_newer(mine: Tag, held: Tag | None) -> bool:
    return held is None or (mine.epoch, mine.applied) > (held.epoch, held.applied)


def _check_owner(rules: Rules, held: Iterable[Tag | None], engine: str, memory: Memory) -> None:
    if not memory.epoch:
        return
    for tag in held:
        if tag is not None and tag.engine != engine and tag.epoch > memory.epoch:
            raise Superseded(
                f"engine {tag.engine} has taken the job {rules.job} (epoch {tag.epoch}, this one had {memory.epoch})",
                hint="nothing: that engine goes on. Stop it first if this one should run",
            )
