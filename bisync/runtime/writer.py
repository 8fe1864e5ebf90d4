"""The connection through which all that a channel writes goes, and the taking of a job through them."""

import re
from collections.abc import Sequence

from bisync.core.pair import Taken
from bisync.core.resp import EXEC, MULTI, pack, select
from bisync.core.restore import FOOTER_BYTES
from bisync.core.round import Notes
from bisync.core.rules import Rules
from bisync.core.server import Server
from bisync.core.tag import Tag, open_key, tag_key
from bisync.core.taking import Memory, Taking, read_notes
from bisync.errors import BisyncError, Superseded
from bisync.runtime.connection import Connection, refusal

DATABASES_MAX = 1 << 14  # looked for where the server does not tell; the stock setting is 16
_MEND = "Then take that field out there (HDEL), or delete the key; bisync verify shows what may differ then"
TRIES_MAX = 20  # engines that start at the same moment settle in two or three


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
        if tag.job != self._rules.job:
            what = f"{self.site.name}: the key {name} holds the tag of the job {tag.job}"
            raise BisyncError(what, hint=hint)
        return tag

    async def replace_tag(self, tag: Tag, *, forget_notes: bool = False) -> bool:
        """Set the tag if it is still the one that was watched; it is guarded again afterwards.

        `forget_notes`: take the notes of open arbitrations away with it.
        """
        forget = pack(b"DEL", open_key(self._rules.job)) if forget_notes else b""
        payload = MULTI + pack(b"SET", self._key, tag.encode()) + forget + EXEC
        payload += select(0) + pack(b"WATCH", self._key) + pack(b"GET", self._key)
        *queued, result, _, _, held = await self.send(payload, 6 + forget_notes)
        error = next((r for r in queued if isinstance(r, Exception)), None)
        if error is not None or isinstance(result, Exception):
            raise refusal(self.site, error or result)  # type: ignore[arg-type]
        return result is not None and held == tag.encode()

    async def read_history(self) -> str:
        """The name of the target's replication history; empty where the account may not ask."""
        reply = await self._connection.request(b"INFO", b"replication")
        lines = reply.decode(errors="replace").splitlines() if isinstance(reply, bytes) else []
        return next((line.partition(":")[2] for line in lines if line.startswith("master_replid:")), "")

    async def read_server(self) -> Server:
        """What the target's server is, as far as it tells. The tag must stand there: its DUMP says the RDB version."""
        reply = await self._connection.request(b"INFO", b"server")
        lines = reply.decode(errors="replace").splitlines() if isinstance(reply, bytes) else []
        fields = dict(line.partition(":")[::2] for line in lines)
        dump = await self._connection.request(b"DUMP", self._key)
        payload_version = int.from_bytes(dump[-FOOTER_BYTES:][:2], "little") if isinstance(dump, bytes) else None
        return Server(
            _numbers(fields.get("redis_version", "")), _numbers(fields.get("valkey_version", "")), payload_version
        )

    async def read_notes(self) -> Notes:
        """The notes of open arbitrations at this site."""
        reply = await self._connection.request(b"HGETALL", open_key(self._rules.job))
        if isinstance(reply, Exception) or not isinstance(reply, list):
            raise BisyncError(
                f"{self.site.name}: {open_key(self._rules.job).decode()} cannot be read",
                why=str(reply),
                hint="bisync keeps its open arbitrations there; let the account read it, or delete what is no hash",
            )
        try:
            return read_notes(reply)
        except BisyncError as e:
            hint = f"was {open_key(self._rules.job).decode()} (database 0) written by something else? {_MEND}"
            raise BisyncError(f"{self.site.name}: {e.what}", why=e.why, hint=hint) from None

    async def count_databases(self) -> int:
        """How many databases the target has. To be asked first: it leaves another database selected."""
        reply = await self._connection.request(b"CONFIG", b"GET", b"databases")
        if isinstance(reply, list) and len(reply) == 2:
            return int(reply[1])
        low, high = 1, DATABASES_MAX  # the account may not ask: then it is found out
        while low < high:
            middle = (low + high) // 2
            refused = isinstance(await self._connection.request(b"SELECT", middle), Exception)
            low, high = (low, middle) if refused else (middle + 1, high)
        return low


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


async def take(rules: Rules, writers: Sequence[Writer], engine: str, memory: Memory) -> tuple[int, Taken]:
    """Take the job. The epoch, and what the engine may believe from now on.

    Raises Superseded when another engine has it since this engine's last life, or gets it at the same moment.
    """
    for _ in range(TRIES_MAX):
        held = {w.channel: await w.watch_tag() for w in writers}
        histories = {} if rules.bidirectional else {w.channel: await w.read_history() for w in writers}
        taking = Taking(rules, engine, memory, held, histories)
        taking.check_owner()
        taking.check_data()
        taking.check_tags()
        if await _write_tags(taking, writers):
            return taking.epoch, taking.believed({w.site.name: await w.read_notes() for w in writers})
    raise Superseded(f"other engines keep taking the job {rules.job}", hint="start one engine only")


async def _write_tags(taking: Taking, writers: Sequence[Writer]) -> bool:
    """Write the tags, one site after the other. False: another engine was quicker, so try again with a higher epoch.

    Two engines may each have written one tag. If both gave up, none would be left: the lower epoch does. Raises
    Superseded where it is this one's.
    """
    for writer in writers:
        tag, forget = taking.tag(writer.channel), taking.forgets_notes(writer.channel)
        if not await writer.replace_tag(tag, forget_notes=forget):
            held = await writer.watch_tag()
            if held is not None and held.epoch > taking.epoch:
                raise Superseded(f"another engine takes the job {taking.rules.job} at the same moment")
            return False
    return True
