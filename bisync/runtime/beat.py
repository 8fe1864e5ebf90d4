"""The heartbeat at the source of a one-way job, where bisync writes nothing else.

It is guarded by a WATCH as the tags are, so that an engine that was overtaken writes nothing here either. Where the
account may only read there is no heartbeat, and the lag is not known in ms.
"""

from typing import TYPE_CHECKING

import trio

from bisync.core.resp import EXEC, MULTI, pack, select
from bisync.core.tag import beat_key
from bisync.errors import Superseded
from bisync.runtime.connection import Connection

if TYPE_CHECKING:
    from bisync.runtime.life import Life


async def beat_at_source(life: "Life") -> None:
    """Write the time and the epoch every `heartbeat_ms`, until the account is refused or a newer engine is found."""
    key = beat_key(life.rules.job)
    guard = select(0) + pack(b"WATCH", key) + pack(b"GET", key)
    async with Connection.open(
        life.job.site(life.rules.source), life.job.engine.connect_timeout_ms / 1000
    ) as connection:
        await connection.send(guard)
        held = (await connection.replies(3))[-1]
        beating = False  # what was there before may be of a target that is gone: the tag there has just been taken
        while True:
            if beating and _epoch(held) > life.epoch:
                raise Superseded(f"a newer engine has taken the job {life.rules.job}", hint="nothing: it goes on")
            value = b"%d %d" % (life.clock.now_ms(), life.epoch)
            await connection.send(MULTI + pack(b"SET", key, value) + EXEC + guard)
            replies = await connection.replies(6)
            error = next((r for r in replies if isinstance(r, Exception)), None)
            if error is not None:
                life.mirror.event("info", "no-heartbeat", f"no heartbeat at {life.rules.source}: {error}")
                return
            held, beating = replies[-1], True
            await trio.sleep(life.job.engine.heartbeat_ms / 1000)


def _epoch(held: object) -> int:
    try:
        return int(held.split()[1]) if isinstance(held, bytes) else 0
    except (ValueError, IndexError):
        return 0  # a client has the key in hand
