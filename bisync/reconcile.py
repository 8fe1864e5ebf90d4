"""Comparing two sites that both hold data: the plan for people, and the comparison of a running engine.

What is done with a key that is not the same at both sites is decided in `bisync.core.reconciling`.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from typing import Protocol

import attrs

from bisync.comparison import Difference, Place, compare
from bisync.config import Job, Site
from bisync.conflict_options import core_policy
from bisync.core import pending
from bisync.core.commands import FUNCTIONS
from bisync.core.reconciling import Unequal, choose
from bisync.core.rules import Rules
from bisync.errors import BisyncError
from bisync.runtime.control import Control
from bisync.verify import BATCH, CANDIDATES, TIMEOUT_S, Progress, Scan, missing_of, verify

TOLERANCE_MS = 2_000  # expiries that are so close count as equal, as in `verify`
TRIES = 8  # a key that was written during each of so many looks is settled without knowing whether it was unequal
PAUSE_S = 0.2  # between two looks
AGAIN = 16  # keys in such a look: the fewer, the shorter it takes
REST_S = 0.25, 0.5  # a look has more keys than the last one after a shorter rest, fewer after a longer one
SAMPLES = 10  # keys of each kind in a plan

KINDS = ("only-source", "only-target", "different")
"""What a plan counts."""


# -- the plan
@attrs.frozen
class Planned:
    """A key that is not the same, and what would be done with it."""

    difference: Difference
    winner: str  # the site whose value would stand
    why: str


@attrs.frozen
class Plan:
    """What reconciling would do. `counts` and `samples` are by kind, one of `KINDS`."""

    compared: int  # keys that were looked at; one that is at both sites counts once
    counts: dict[str, int]
    samples: dict[str, tuple[Planned, ...]]
    winners: dict[str, int]  # of the keys that are different: by site, how many of its values would stand


def kind_of(difference: Difference) -> str:
    """One of `KINDS`."""
    return difference.kind if difference.kind in KINDS else "different"


def plan(job: Job, *, samples: int = SAMPLES, progress: Progress | None = None, rounds: int = 3) -> Plan:
    """Compare both sites, and say what reconciling would do. Changes nothing; waits: call it in a worker thread.

    Raises SiteError where a site cannot be read.
    """
    rules = Rules(
        *(job.name, job.source.name, job.target.name),
        policy=core_policy(job.conflicts.policy),
        policies=job.conflicts.policies,
    )
    counts, kept = dict.fromkeys(KINDS, 0), {kind: list[Planned]() for kind in KINDS}
    winners = {site.name: 0 for site in job.sites}

    def each(difference: Difference) -> None:
        kind, only_at = kind_of(difference), only_site(job, difference)
        choice = choose(rules, difference.key, only_at)
        counts[kind] += 1
        winners[choice.site] += kind == "different"
        if len(kept[kind]) < samples:
            kept[kind].append(Planned(difference, choice.site, choice.rule or f"only at {only_at}"))

    verdict = verify(job, tolerance_ms=TOLERANCE_MS, rounds=rounds, progress=progress, each=each)
    return Plan(verdict.compared, counts, {kind: tuple(some) for kind, some in kept.items()}, winners)


def only_site(job: Job, difference: Difference) -> str:
    """The only site that holds the key; empty where both do."""
    return {"only-source": job.source.name, "only-target": job.target.name}.get(difference.kind, "")


# -- the comparison of an engine
class Desk(Protocol):
    """What the comparison asks of the engine, from its own thread. Each call may wait."""

    def watch(self, places: Sequence[pending.Place]) -> None:
        """These keys are read next."""

    def judge(
        self, places: Sequence[pending.Place], unequal: Sequence[Unequal], ends: dict[str, int], *, last: bool
    ) -> Collection[pending.Place]:
        """They were read, and these differed; `ends`: where the sites' streams stood then, offsets in bytes.

        Settles what is unequal for certain. Returns the keys that were being written meanwhile, to be read again; or,
        where this is the `last` look, settles them too.
        """

    def read(self, site: str, commands: int, size: int) -> None:
        """A site was asked so many commands, and so many bytes went to and fro."""

    def rest(self) -> float:
        """Called before each look at some keys. How long it waited for the limits of the job, in s."""

    def progress(self, done: int, total: int) -> None:
        """So many keys were looked at, at both sites together."""


def compare_all(job: Job, desk: Desk, *, copies: bool) -> None:
    """Compare every key of both sites in the job's scope. `copies`: is the first site copied, whatever it holds?

    Raises SiteError where a site cannot be read, BisyncError where an empty site would be copied over one that is not.
    """

    def control(site: Site) -> Control:
        return Control(site, timeout_s=TIMEOUT_S, toll=lambda commands, size: desk.read(site.name, commands, size))

    with control(job.source) as source, control(job.target) as target:
        scan = Scan(source, target, job.objects, desk.progress)
        if copies:
            _refuse_empty(job, scan)
        _Comparing(job, scan, desk).run()


def empty_source(job: Job) -> BisyncError:
    """The error of a source without keys whose target holds some, where the job is to be copied again by itself."""
    return BisyncError(
        f"{job.source.name} holds no keys, and {job.target.name} holds some: they are not removed",
        why='on_gap = "full" would copy an empty site, and one that has lost its data looks just like that',
        hint=f"bring the data of {job.source.name} back; or if it is meant to be empty, empty {job.target.name} too. "
        "Then start bisync again",
    )


def _refuse_empty(job: Job, scan: Scan) -> None:
    held = [False, False]
    for places in scan.databases():
        for n, place in enumerate(places):
            held[n] = held[n] or any(scan.keys(place))
    scan.looked_at = 0
    if held == [False, True]:
        raise empty_source(job)


@attrs.define
class _Comparing:
    job: Job
    scan: Scan
    desk: Desk
    again: list[tuple[Place, Place, bytes]] = attrs.field(factory=list)  # keys that were being written
    at_once: int = AGAIN  # keys in the next look: as many as the limits of the job allow in a moment

    def run(self) -> None:
        """A key that is at both sites is compared when the target is scanned, after the source.

        So none is missed that comes to a site in between: SCAN gives every key that is there all the time.
        """
        databases = list(self.scan.databases())
        for a, b in databases:
            for keys in self.scan.keys(a):
                for some in self._looks(keys):
                    self._look(a, b, missing_of(some, b))
        for a, b in databases:
            for keys in self.scan.keys(b):
                for some in self._looks(keys):
                    self._look(a, b, some)
        self._look_again()
        if self.job.commands.function == "pass":
            self._functions()

    def _looks(self, keys: Sequence[bytes], most: int = BATCH) -> Iterator[Sequence[bytes]]:
        """Cut for looks, and wait before each until what was read before it is within the limits of the job.

        Within a look there is hardly a wait, because a write that comes between two readings makes it useless.
        """
        at = 0
        while at < len(keys):
            waited_s = self.desk.rest()
            if waited_s > REST_S[1]:
                self.at_once = max(1, self.at_once // 2)
            elif waited_s < REST_S[0]:
                self.at_once = max(self.at_once, min(most, self.at_once * 2))
            end = at + min(most, self.at_once)
            yield keys[at:end]
            at = end

    def _look(self, a: Place, b: Place, keys: Sequence[bytes]) -> None:
        if keys:
            touched = self._compared(a, b, keys)
            self.again += [(a, b, key) for key in keys if (a.database, key) in touched]
        if len(self.again) >= CANDIDATES:
            self._look_again()

    def _look_again(self) -> None:
        """Keys that were being written, a few at a time; at last they are settled whatever they hold."""
        again, self.again = self.again, []
        for n in range(1, TRIES + 1):
            if not again:
                return
            time.sleep(PAUSE_S)
            left = []
            for a, b in dict.fromkeys((a, b) for a, b, _ in again):
                keys = [key for x, _, key in again if x == a]
                for some in self._looks(keys, AGAIN):
                    touched = self._compared(a, b, some, last=n == TRIES)
                    left += [(a, b, key) for key in some if (a.database, key) in touched]
            again = left

    def _compared(self, a: Place, b: Place, keys: Sequence[bytes], *, last: bool = False) -> Collection[pending.Place]:
        places = [(a.database, key) for key in keys]
        self.desk.watch(places)
        found = [
            Unequal(d.database, d.key, only_site(self.job, d), d.size)
            for d in compare(a, b, keys, tolerance_ms=TOLERANCE_MS)
        ]
        return self.desk.judge(places, found, self._ends(), last=last)

    def _ends(self) -> dict[str, int]:
        return {control.site.name: stream_end(control) for control in (self.scan.source, self.scan.target)}

    def _functions(self) -> None:
        """All libraries of functions count as one key."""
        for n in range(1, TRIES + 1):
            self.desk.watch([FUNCTIONS])
            libraries = [c.ask("FUNCTION", "LIST", "WITHCODE", db=0) for c in (self.scan.source, self.scan.target)]
            if not all(isinstance(reply, list) for reply in libraries):
                return  # a server before 7.0 knows none; of an account that may not use them the precheck tells
            here, there = (sorted(map(repr, reply)) for reply in libraries if isinstance(reply, list))
            only_at = "" if here and there else self.job.source.name if here else self.job.target.name
            found = [Unequal(*FUNCTIONS, only_at)] if here != there else []
            if not self.desk.judge([FUNCTIONS], found, self._ends(), last=n == TRIES):
                return


def stream_end(control: Control) -> int:
    """Where a site's replication stream ends at this moment, in bytes."""
    lines = control.call("INFO", "replication", db=0).splitlines()
    return next((int(line[19:]) for line in lines if line.startswith(b"master_repl_offset:")), 0)
