"""What a target's refusal means: does it heal by itself, and what can the user do?

Source: the error prefixes of Redis 7.0 (`server.c`, `createSharedObjects`) and of its ACL.
"""

from collections.abc import Sequence

import attrs

_REMEDIES = {
    "OOM": "raise maxmemory at the site, or free memory there",
    "LOADING": "the server is loading its data; bisync waits for it",
    "MISCONF": "the server cannot save its RDB; see its log (a full disk?)",
    "NOREPLICAS": "the server wants more replicas (min-replicas-to-write)",
    "READONLY": "the server is a replica now; point the job at the master",
    "BUSY": "a script keeps the server busy; SCRIPT KILL or FUNCTION KILL ends it",
    "MASTERDOWN": "the server is a replica that has lost its master",
    "CLUSTERDOWN": "the cluster is down",
    "TRYAGAIN": "the cluster is moving slots",
}
"""Refusals that may end without anybody changing the job, by the first word of the error."""

_DISCARDED = "EXECABORT Transaction discarded because of: "
"""What stands before the reason where EXEC alone is refused: all commands were queued before the site turned bad."""


@attrs.frozen
class Refusal:
    """Why a target did not execute a transaction."""

    text: str  # the server's words
    heals: bool  # may it succeed later, unchanged?
    hint: str
    refused: tuple[int, ...]  # which of the queued commands, counted from the tag's SET as 0


def read_refusal(replies: Sequence[object]) -> Refusal:
    """The refusal in the replies from MULTI to EXEC.

    The reason stands where a command was queued; EXEC itself says only that there was one.
    """
    refused = tuple(n for n, reply in enumerate(replies[1:-1]) if isinstance(reply, Exception))
    error = next((r for r in replies if isinstance(r, Exception)), None)
    text = str(error) if error is not None else "no reason given"
    text = text.removeprefix(_DISCARDED)
    word = text.split(" ", 1)[0]
    if word in _REMEDIES:
        return Refusal(text, True, _REMEDIES[word], refused)
    hint = "let the account run the command (ACL SETUSER), or use a server that knows it"
    return Refusal(text, False, hint, refused)
