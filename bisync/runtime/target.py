"""What the target of the full copy holds: keys that a snapshot does not have are found by a scan."""

import contextlib
from collections.abc import AsyncGenerator

import attrs

from bisync.config import Job
from bisync.core.rules import Rules
from bisync.errors import SiteError
from bisync.runtime.connection import Connection
from bisync.runtime.pacer import Pacer

SCAN_COUNT = 1000  # keys asked for at once, where the copy need not yield
NAME_BYTES = 8  # about so many bytes a reply has for each key besides its name


@attrs.define
class TargetScan:
    """A scan of the target's keys, beside or instead of the copy: it goes when the copy's pace lets it go."""

    job: Job
    rules: Rules
    pacer: Pacer
    looked_at: int = 0  # keys, of the databases in scope
    total: int = 0  # how many there are about; 0: not known yet

    async def keys(self) -> AsyncGenerator[tuple[int, bytes], None]:
        """Every key that is in scope: its database as the source numbers it, and its name.

        As with SCAN, a key may come twice, and one that comes and goes meanwhile may or may not be there.
        """
        timeout_s = self.job.engine.connect_timeout_ms / 1000
        inverted = self.rules.scope.inverted()
        async with Connection.open(self.job.site(self.rules.target), timeout_s) as connection:
            counts = await _databases(connection)
            images = {database: inverted.target_database(database) for database in counts}
            self.total = sum(count for database, count in counts.items() if images[database] is not None)
            for database, image in images.items():
                if image is None:
                    continue
                await connection.request(b"SELECT", database)
                cursor = b"0"
                while True:
                    cursor, keys = await self._page(connection, cursor)
                    self.looked_at += len(keys)
                    for key in keys:
                        if inverted.holds(database, key):
                            yield image, key
                    if cursor == b"0":
                        break

    async def _page(self, connection: Connection, cursor: bytes) -> tuple[bytes, list[bytes]]:
        async def ask(count: int) -> tuple[tuple[bytes, list[bytes]], int]:
            reply = await connection.request(b"SCAN", cursor, b"COUNT", count)
            if not isinstance(reply, list):
                raise SiteError(self.rules.target, "SCAN is refused", why=str(reply), hint="allow it to the account")
            after, keys = reply
            return (after, keys), sum(map(len, keys)) + NAME_BYTES * len(keys)

        return await self.pacer.page(SCAN_COUNT, ask)

    async def finds_any(self) -> bool:
        """Does the target hold any key in scope?"""
        async with contextlib.aclosing(self.keys()) as keys:
            async for _ in keys:
                return True
        return False


async def _databases(connection: Connection) -> dict[int, int]:
    """Those that hold keys, with the number of their keys."""
    reply = await connection.request(b"INFO", b"keyspace")
    if not isinstance(reply, bytes):
        raise SiteError(connection.site.name, "INFO is refused", why=str(reply), hint="allow it to the account")
    lines = [line.split(b":", 1) for line in reply.split(b"\r\n") if line.startswith(b"db")]
    return {int(name[2:]): int(fields.split(b"keys=", 1)[1].split(b",", 1)[0]) for name, fields in lines}
