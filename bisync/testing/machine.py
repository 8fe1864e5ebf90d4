"""Two sites, an engine and its faults as a Hypothesis state machine: it draws histories and shrinks those that fail.

    class TestMySites(TwoSites.TestCase):
        settings = settings(max_examples=50, stateful_step_count=60)

A subclass may have another `job`, rules or invariants of its own. In the end each history is drained, and then both
sites are equal, no arbitration is open, and every promise of `Clients` is kept: each line of a site's log was sent once
and in order, each counter is the sum, each item was pushed once.
"""

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from bisync.core.rules import LAST_WRITER, Rules
from bisync.core.tag import Tag
from bisync.testing.clients import Clients, tags_held
from bisync.testing.pair import SimulatedPair
from bisync.testing.strategies import Command, client_commands, keys, transactions

SITES = st.sampled_from(["east", "west"])
"""Where something happens; east is the source."""

_KEYS = keys(3)
_DATABASES = st.sampled_from([0, 0, 1])
_WRITES = client_commands(_KEYS, expiring=False)


class TwoSites(RuleBasedStateMachine):
    """A simulated pair to which anything may happen at any moment. Every step that cannot happen now does nothing."""

    job = Rules("job", "east", "west", heartbeat_ms=0, target_not_empty="overwrite")
    """The job; the policy and the size of a transaction are drawn."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = SimulatedPair(self.job)
        self.clients = Clients(self.pair)
        self._newest: dict[str, Tag] = {}  # by channel

    @initialize(
        policy=st.sampled_from([LAST_WRITER, "east", "west"]),
        batch=st.sampled_from([1, 3, 1000]),
        before=st.lists(st.tuples(SITES, _WRITES), max_size=5),
    )
    def begin(self, policy: str, batch: int, before: list[tuple[str, Command]]) -> None:
        """A job is chosen, and what the sites hold before it begins."""
        self.pair = SimulatedPair(attrs.evolve(self.job, policy=policy, batch_commands=batch))
        self.clients = Clients(self.pair)
        for site, command in before:
            self.pair.write(site, command)
        self.pair.start()

    # -- clients
    @rule(site=SITES, command=_WRITES, database=_DATABASES)
    def write(self, site: str, command: Command, database: int) -> None:
        """A client writes; not at a site that is only followed."""
        if site in self.pair.rules.origins:
            self.pair.write(site, command, database=database)

    @rule(site=SITES, commands=transactions(_KEYS, max_size=3, commands=_WRITES), database=_DATABASES)
    def write_logged(self, site: str, commands: list[Command], database: int) -> None:
        """A client's transaction, with a line of the site's log."""
        self.clients.log(site, *commands, database=database)

    @rule(site=SITES, amount=st.sampled_from([1, 5, -2]))
    def count(self, site: str, amount: int) -> None:
        """The counter of both sites goes up or down."""
        self.clients.count(site, amount)

    @rule(site=SITES, end=st.sampled_from([b"LPUSH", b"RPUSH"]))
    def push(self, site: str, end: bytes) -> None:
        """An item joins the list of both sites."""
        self.clients.push(site, end)

    @rule(site=SITES, member=st.sampled_from([b"a", b"b", b"c"]))
    def add(self, site: str, member: bytes) -> None:
        """A member joins the set of both sites."""
        self.clients.add(site, member)

    # -- the engine
    @rule(site=SITES, size=st.sampled_from([7, 60, 300, 5000]))
    def read(self, site: str, size: int) -> None:
        """The engine reads some bytes of a stream, or some of the snapshot."""
        self.pair.read(site, size)

    @rule(site=SITES)
    def deliver(self, site: str) -> None:
        """A server executes what the engine sent."""
        self.pair.deliver(site)

    @rule(site=SITES)
    def answer(self, site: str) -> None:
        """The engine reads the replies."""
        self.pair.answer(site)

    @rule(steps=st.sampled_from([1, 3, 10]))
    def go_on(self, steps: int) -> None:
        """All of it, a few times: so that histories come past the full copy."""
        for _ in range(steps):
            for site in self.pair.rules.origins:
                self.pair.read(site, 5000)
                self.pair.deliver(site)
                self.pair.answer(site)

    # -- faults
    @rule()
    def kill(self) -> None:
        """The engine is killed."""
        self.pair.kill()

    @rule()
    def start(self) -> None:
        """An engine takes the job, if none has it."""
        if self.pair.pair is None:
            self.pair.start()

    @rule()
    def start_and_die(self) -> None:
        """An engine is killed between its two tags."""
        self.pair.start_and_die()

    @rule()
    def reconnect(self) -> None:
        """The engine's connections break."""
        self.pair.reconnect()

    @rule(size=st.sampled_from([None, None, 100]))
    def orphan(self, size: int | None) -> None:
        """Bytes of a killed engine arrive, or only the first of them."""
        self.pair.orphan(size)

    @rule(ms=st.sampled_from([2, 50, 2000, 10_000]))
    def pass_time(self, ms: int) -> None:
        """Time passes."""
        self.pair.pass_time(ms)

    @rule(site=SITES, error=st.sampled_from([b"-OOM no memory", b"-MISCONF no disk", None]))
    def refuse(self, site: str, error: bytes | None) -> None:
        """A site begins to refuse writes, or takes them again."""
        self.pair.sites[site].refuse = error

    # -- what holds
    @invariant()
    def tags_never_go_back(self) -> None:
        """No tag is replaced by one of an older engine, by one that says less was applied, or of lower floors."""
        for name, tag in tags_held(self.pair).items():
            before = self._newest.get(name, tag)
            assert (tag.epoch, tag.applied) >= (before.epoch, before.applied) and tag.applied >= before.applied, name
            for site, floor in before.floors.items():
                assert floor.offset <= tag.floors[site].offset <= self.pair.sites[site].offset, (name, site)
            self._newest[name] = tag

    def teardown(self) -> None:
        """Everything is drained; then every promise is kept."""
        for site in self.pair.sites.values():
            site.refuse = None
        self.pair.drain()
        broken = self.clients.broken()
        assert not broken, "\n".join(broken)
