"""One direction of a job: what was read at its origin, and the link that applies it at its target."""

import collections
from collections.abc import Mapping

import attrs

from bisync.core.link import Link
from bisync.core.moment import Moments
from bisync.core.operation import Understanding
from bisync.core.pending import PendingWrites
from bisync.core.position import START, Clock
from bisync.core.rules import Rules
from bisync.core.stream import Entry, StreamReader
from bisync.core.tag import Tag, tag_key


@attrs.define
class Counters:
    """What a channel has done in this life of the engine."""

    operations: int = 0  # client commands and copied keys applied
    bytes: int = 0  # of the source's stream or snapshot, applied
    lag_ms: int | None = None  # of the newest heartbeat when it was read; None: none was read yet


@attrs.define(eq=False)
class Channel:
    """The state of one direction. The origin's pending writes are here; what they meet is in the other channel."""

    name: str  # forward or reverse
    origin: str  # the site that it reads
    target: str  # the site where it writes
    link: Link  # one today: both sites are standalone
    understand: Understanding
    applied: Clock = START  # of the origin's writes, at the target
    resumed: Clock = START  # what is up to here was applied in an earlier life, and is read again only for detection
    told: Clock = START  # what the newest committed tag says is applied
    tag: bytes | None = None  # the newest committed one of this life; None: none yet
    told_ms: int | None = None  # when that tag was sent
    seen: Clock = START  # of the target's writes, at the origin: its half of the vector clock
    beat_due_ms: int = 0  # when the next heartbeat goes to the target
    reached_take: bool = False  # has the origin's stream shown the tag by which this life took the job?
    worth_telling: bool = False  # was more than lone tags read since the last tag?
    reader: StreamReader | None = None  # None: reading has not begun
    inbox: collections.deque[Entry] = attrs.field(factory=collections.deque)  # read, and waiting for a reply
    moments: Moments = attrs.field(factory=Moments)  # when the bytes of the origin's stream were written
    processed: int = 0  # offset in the origin's stream up to which everything was acted on
    pending: PendingWrites = attrs.field(factory=PendingWrites)
    # pending writes of which commands failed at the target, and which of their operations those were
    failed: dict[Clock, tuple[int, ...]] = attrs.field(factory=dict)
    missed: set[Clock] = attrs.field(factory=set)  # those that renewed a key which was not there, or had no expiry
    refused: str = ""  # why the target refuses at present
    refusals: int = 0  # in a row
    counters: Counters = attrs.field(factory=Counters)


def open_channel(rules: Rules, x: str, tags: Mapping[str, Tag], written: Mapping[str, bytes]) -> Channel:
    """The channel that reads `x`, where its newest tag left it. `written`: the tags by which this life took the job."""
    name = rules.channel(x)
    link = Link(
        tag_key(rules.job, name),
        batch_commands=rules.batch_commands,
        batch_bytes=rules.batch_bytes,
        databases=rules.database_counts.get(rules.other(x)),
        site=rules.other(x),
    )
    applied = tags[name].applied if name in tags else START
    channel = Channel(name, x, rules.other(x), link, Understanding(rules, x), applied, applied, applied)
    channel.tag = written.get(name)
    return channel
