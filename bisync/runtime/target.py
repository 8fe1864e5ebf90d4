"""What the target of the full copy holds: keys that a snapshot does not have are found by a scan."""

import contextlib
from collections.abc import AsyncGenerator

from bisync.config import Job
from bisync.core.rules import Rules
from bisync.errors import SiteError
from bisync.runtime.connection import Connection

SCAN_COUNT = 1000


async def scan_keys(job: Job, rules: Rules, timeout_s: float) -> AsyncGenerator[tuple[int, bytes], None]:
    """Every key of the target that is in scope: its database as the source numbers it, and its name.

    As with SCAN, a key may come twice, and one that comes and goes meanwhile may or may not be there.
    """
    inverted = rules.scope.inverted()
    async with Connection.open(job.site(rules.target), timeout_s) as connection:
        for database in await _databases(connection):
            if inverted.target_database(database) is None:
                continue
            await connection.request(b"SELECT", database)
            cursor = b"0"
            while True:
                reply = await connection.request(b"SCAN", cursor, b"COUNT", SCAN_COUNT)
                if not isinstance(reply, list):
                    raise SiteError(rules.target, "SCAN is refused", why=str(reply), hint="allow it to the account")
                cursor, keys = reply
                for key in keys:
                    if inverted.holds(database, key):
                        yield inverted.target_database(database) or 0, key
                if cursor == b"0":
                    break


async def holds_keys(job: Job, rules: Rules, timeout_s: float) -> bool:
    """Does the target hold any key in scope?"""
    async with contextlib.aclosing(scan_keys(job, rules, timeout_s)) as keys:
        async for _ in keys:
            return True
    return False


async def _databases(connection: Connection) -> list[int]:
    reply = await connection.request(b"INFO", b"keyspace")
    if not isinstance(reply, bytes):
        raise SiteError(connection.site.name, "INFO is refused", why=str(reply), hint="allow it to the account")
    return [int(line[2 : line.index(b":")]) for line in reply.split(b"\r\n") if line.startswith(b"db")]
