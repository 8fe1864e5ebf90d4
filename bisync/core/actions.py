"""What the core asks of the shell, as values, so that a test can compare them."""

import attrs


@attrs.frozen(slots=True)
class Send:
    """Send these bytes to the target of the channel that reads `origin`, and hand back that many replies."""

    origin: str
    payload: bytes = attrs.field(repr=lambda b: f"<{len(b)} bytes>")
    replies: int


@attrs.frozen(slots=True)
class Checkpoint:
    """This tag is committed at the target: mirror it in the store."""

    channel: str
    tag: bytes


@attrs.frozen(slots=True)
class Notice:
    """Something a person may want to know: for the log and the list of events."""

    level: str  # info, warning, error
    kind: str  # one word for programs
    text: str


@attrs.frozen(slots=True)
class ConflictingWrite:
    """One of the writes that met over a unit."""

    site: str  # where a client made it
    command: bytes  # its words with spaces between, as that site wrote it; cut at COMMAND_BYTES_MAX
    offset: int  # in bytes: where it ends in the stream of its site; 0: a key of the full copy
    earliest_us: int  # when it was made: between these two, Unix times in µs
    latest_us: int


@attrs.frozen(slots=True)
class Replaced:
    """What stood at the loser's site before the restore: enough to put it back."""

    site: str
    kind: str  # absent, dump (a DUMP payload), value (of an element), ttl
    value: bytes | None  # None: there was nothing, or it was too big to keep
    expires_at_ms: int | None  # of a whole key: Unix time, None where it had no time to live
    size: int  # bytes of the value; 0 where there was none
    digest: str  # SHA-256 of the value in hex; empty where there was none, or where it was too big to be read


@attrs.frozen(slots=True)
class Conflict:
    """A unit about which two writes met: told when the conflict is found (open) and again when it is settled."""

    number: int  # within this life of the engine
    state: str  # open, settled
    database: int  # as the source numbers it
    key: bytes
    element: tuple[str, bytes] | None  # (type, name); None: the whole key
    policy: str  # last-writer, or prefer:<site>
    winner: str  # a site
    rule: str  # why it won: one of RULES
    certain: bool  # False: the times of the writes overlap, so it is not certain which was newer
    counts: dict[str, int]  # by site: how many writes met
    offsets: dict[str, tuple[int, int]]  # by site: where the first and the last of them end in its stream, in bytes
    writes: tuple[ConflictingWrite, ...]  # the first and the last few of them, oldest first
    replaced: Replaced | None = None  # once settled, where something was replaced
    kept: str = ""  # SHA-256 of what was restored in its place, in hex; empty: nothing was


RULES = (
    *("newest write", "update over delete", "longest time to live", "preferred site", "order of the sites"),
    "the other one failed",  # of two writes of different types, say, only this one could be applied at both sites
    "unbroken history",  # the other site has begun a new replication history, and may have lost writes
)
"""Why a write can win."""

COMMAND_BYTES_MAX = 400
"""Of a command in the log."""

WRITES_KEPT = 3
"""So many of the first writes and of the last ones, of each site, are kept with a conflict."""


Action = Send | Checkpoint | Notice | Conflict
