"""The tag: the value bisync writes first in each of its transactions.

It marks the transaction as foreign and is the checkpoint, because it is committed together with the data. It is JSON
so that a person can read it with GET, and stays under 300 bytes, rounds apart.
"""

import json

import attrs

from bisync.core.position import START, Clock, Position
from bisync.errors import BisyncError

VERSION = 1


def tag_key(job: str, channel: str) -> bytes:
    """The key that holds the tag of a channel, at the channel's target, in database 0."""
    return f"bisync:{job}:tag:{channel}".encode()


def beat_key(job: str) -> bytes:
    """The key that holds the heartbeat, at each site, in database 0."""
    return f"bisync:{job}:beat".encode()


def open_key(job: str) -> bytes:
    """The hash that holds a note for each unit whose restore has begun at that site and is not done."""
    return f"bisync:{job}:open".encode()


def building_key(job: str) -> bytes:
    """The key under which a full copy builds a value that comes in pieces, in the database where it belongs."""
    return f"bisync:{job}:building".encode()


@attrs.frozen(slots=True)
class Tag:
    """What the tag says; its key says of which channel.

    `floors` are the places from which a starting engine reads each site's stream.
    """

    job: str
    epoch: int  # grows with each life of each engine; the highest one owns the job
    engine: str  # who wrote it: distinguishes engines that took the same epoch at the same time
    applied: Clock = START  # everything of the source up to here is applied at the site that holds the tag
    floors: dict[str, Position] = attrs.field(factory=dict)  # by site
    copied: int = 0  # the number of the full copy that was finished; 0: none was yet
    rounds: tuple[
        int, ...
    ] = ()  # numbers, within the epoch, of the rounds whose fence or restore is in this transaction
    begun: int = 0  # the epoch in which the job began anew after a gap: tags with a lower one say nothing; 0: never
    reconciling: str = ""  # the sites are being compared, and this one's values stand where nothing else decides

    def encode(self) -> bytes:
        """The value of the tag key."""
        fields = {
            "bisync": VERSION,
            "job": self.job,
            "epoch": self.epoch,
            "engine": self.engine,
            "applied": self.applied,
            "floors": {site: p.to_json() for site, p in self.floors.items()},
            "copied": int(self.copied),
        }
        if self.begun:
            fields["begun"] = self.begun
        if self.reconciling:
            fields["reconciling"] = self.reconciling
        if self.rounds:
            fields["rounds"] = self.rounds
        return json.dumps(fields, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, value: bytes) -> "Tag":
        """Read a tag. Raises BisyncError, with the value, where it is none or of a newer version."""
        shown = repr(value[:80])
        try:
            fields = json.loads(value)
            version = fields["bisync"]
            if version != VERSION:
                raise BisyncError(
                    f"the tag {shown} has version {version!r}, and this bisync knows version {VERSION}",
                    hint="run the bisync that wrote it, or a newer one",
                )
            copy, phase, n = fields["applied"]
            return cls(
                job=str(fields["job"]),
                epoch=int(fields["epoch"]),
                engine=str(fields["engine"]),
                applied=(int(copy), int(phase), int(n)),
                floors={site: Position.from_json(p) for site, p in fields["floors"].items()},
                copied=int(fields["copied"]),
                begun=int(fields.get("begun", 0)),
                reconciling=str(fields.get("reconciling", "")),
                rounds=tuple(int(n) for n in fields.get("rounds", ())),
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
            raise BisyncError(f"{shown} is not a bisync tag", why=f"{type(e).__name__} in its fields") from None
