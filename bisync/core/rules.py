"""What the core must know of a job: who the sites are, what is copied, and every bound."""

from collections.abc import Mapping

import attrs

from bisync.core.patterns import Scope, compile_patterns
from bisync.core.server import Server

FORWARD, REVERSE = "forward", "reverse"
LAST_WRITER = "last-writer"


@attrs.frozen
class Rules:
    """A job as the core sees it. Sizes are in bytes, times in ms."""

    job: str
    source: str  # the site that the forward channel reads
    target: str
    bidirectional: bool = True
    scope: Scope = attrs.field(factory=Scope)  # of the forward channel: databases as the source numbers them
    policy: str = LAST_WRITER  # or the name of the site whose writes win
    policies: tuple[
        tuple[tuple[bytes, ...], str], ...
    ] = ()  # for keys that match one of the patterns; the first counts
    actions: dict[str, str] = attrs.field(factory=dict)  # "flush", "swapdb", "publish", "function" -> pass, drop, stop
    # or "overwrite": may keys that only the target has be removed by the first copy? Or "reconcile": neither's are
    target_not_empty: str = "refuse"
    on_gap: str = "stop"  # or "full", "reconcile": how the job begins anew once a stream has a gap
    on_refused: str = "stop"  # or "quarantine": what to do with a command that cannot be applied
    heartbeat_ms: int = 1000  # 0: none
    checkpoint_every_ms: int = 10_000  # how long an idle channel waits before it moves its checkpoint
    checkpoint_bytes: int = 16_384  # so much reading moves it even when all of it was our own lone tags
    batch_commands: int = 4096
    batch_bytes: int = 1 << 20
    queue_bytes: int = 16 << 20  # of memory, about: read and not applied, per channel
    database_counts: dict[str, int] = attrs.field(factory=dict)  # by target: how many databases it has, where known
    pending_bytes: int = 32 << 20  # of memory, about: applied and not seen back, per site
    conflict_value_bytes: int = 1 << 16  # of a loser's value, in the log of conflicts; of a longer one only a digest
    rebuild_bytes: int = 64 << 20  # a key that takes more memory is copied in parts rather than by DUMP
    whole_bytes: int = 4 << 20  # of a snapshot: a value that takes more is copied in pieces
    piece_bytes: int = 256 << 10  # of such a value, with one transaction
    servers: Mapping[str, Server] = attrs.field(factory=dict)  # by site; one that is not there counts as new enough

    @property
    def sites(self) -> tuple[str, str]:
        """Source and target."""
        return self.source, self.target

    def other(self, site: str) -> str:
        """The site across."""
        return self.target if site == self.source else self.source

    def server(self, site: str) -> Server:
        """What is known of a site's server."""
        return self.servers.get(site, Server())

    def channel(self, site: str) -> str:
        """The name of the channel that reads `site`."""
        return FORWARD if site == self.source else REVERSE

    def policy_for(self, key: bytes) -> str:
        """The policy for a key: that of the first patterns that it matches, else the job's."""
        for patterns, policy in self.policies:
            if compile_patterns(*patterns).fullmatch(key):
                return policy
        return self.policy

    @property
    def origins(self) -> tuple[str, ...]:
        """The sites that a channel reads."""
        return self.sites if self.bidirectional else (self.source,)

    def database_at(self, site: str, database: int) -> int:
        """How `site` numbers a database that the source numbers so."""
        mapped = database if site == self.source else self.scope.target_database(database)
        return database if mapped is None else mapped
