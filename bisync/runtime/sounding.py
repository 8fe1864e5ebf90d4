"""Soundings: asking a site again and again how far its stream reaches, which tells how old the stream is that is read.

ROLE does it: it is a fast command, and its answer begins with the role and the offset. Where the account may not use it
the refusal still tells the round trip. Source: Redis documentation, "ROLE", since 2.8.12.
"""

import trio

from bisync.config import Site
from bisync.errors import SiteError
from bisync.runtime.connection import Connection
from bisync.runtime.dating import Dating
from bisync.runtime.passes import Passes

CATCHING_UP_S = 0.02  # between two soundings, while nothing else tells how old the stream is
MOVING_S = 0.1  # while it moves
STILL_S = 1.0
STILL_WAITS = round(STILL_S / MOVING_S)


async def keep_sounding(site: Site, replid: str, dating: Dating, passes: Passes, timeout_s: float) -> None:
    """Take soundings on a connection of its own, until cancelled. Without an answer nothing is lost but certainty.

    `replid`: the history that is read. What answers with another one is another server, and its offsets mean nothing.
    """
    while True:
        try:
            async with Connection.open(site, timeout_s) as connection:
                same = await _is_at(connection, replid)
                while True:
                    await _sound(connection, dating, passes, same)
                    await _wait(dating)
        except SiteError:
            await trio.sleep(STILL_S)


async def _wait(dating: Dating) -> None:
    """Until the next sounding is worth its while."""
    hurried, end = trio.Event(), dating.end
    dating.hurry = hurried.set
    await trio.sleep(CATCHING_UP_S)
    for _ in range(STILL_WAITS):
        if dating.catching_up:
            return
        with trio.move_on_after(MOVING_S):
            await hurried.wait()
        if dating.end != end:
            return


async def _is_at(connection: Connection, replid: str) -> bool:
    reply = await connection.request(b"INFO", b"replication")
    return isinstance(reply, bytes) and b"master_replid:" + replid.encode() in reply


async def _sound(connection: Connection, dating: Dating, passes: Passes, same: bool) -> None:
    sent_us = passes.clock.now_us()
    reply = await connection.request(b"ROLE")
    answered_us = passes.clock.now_us()
    match reply:
        case [_, int(offset), *_] if same:
            dating.sounded(sent_us, answered_us, offset)
        case _:
            dating.sounded(sent_us, answered_us, None)
