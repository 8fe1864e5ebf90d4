"""Histories on real servers: clients write to both, faults happen, and in the end both must hold the same.

    runner = Runner("redis://127.0.0.1:7001", "redis://127.0.0.1:7002", folder)
    result = runner.run(Trial.draw(seed=1))
    assert result.ok, result.describe()

The two servers belong to the runner while it works: it refuses servers that hold keys, unless it may wipe them, and
empties both before each history. `python -m bisync.testing` does the same from the command line.
"""

import pathlib
import random
import shutil
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from bisync.cli.wait import wait_drained, wait_for_state
from bisync.config import Job, load_job
from bisync.core.rules import LAST_WRITER
from bisync.core.states import SYNCHRONIZING
from bisync.errors import BisyncError
from bisync.status import read_status
from bisync.testing.engines import EngineProcess
from bisync.testing.families import SOON_MS
from bisync.testing.faults import ANYWHERE, Fault, FaultPlan
from bisync.testing.real_sites import NAMES, Client, RealSite, Writing
from bisync.testing.servers import LocalServer
from bisync.testing.workloads import Newest, Workload, make_workload
from bisync.verify import verify

POLICIES = (LAST_WRITER, f"prefer:{NAMES[0]}", f"prefer:{NAMES[1]}")
"""What a job file can say about conflicts, for sites of these names."""

START_S, DRAIN_S = 40.0, 60.0  # how long an engine may take to come up, and the sites to be drained
APART_S = 0.5  # before the finale of a workload: more than the times of two writes can be uncertain by
JOB_FILE = """\
name     = "trial"
topology = "bidirectional"

[sites.{names[0]}]
url = "{east}"
[sites.{names[1]}]
url = "{west}"

[full_copy]
target_not_empty = "overwrite"

[conflicts]
policy = "{policy}"

[engine]
retry_pause_ms_max = 200
{engine}
"""


@attrs.frozen
class Trial:
    """One history: who writes what, for how long, and what goes wrong."""

    seed: int = 0
    workload: str = "random"
    policy: str = LAST_WRITER
    seconds: float = 1.0
    clients: int = 2  # at each site
    keys: int = 5
    faults: FaultPlan = FaultPlan()
    early: bool = False  # do the clients begin with the engine, in the midst of its full copy?
    finale: bool = False  # does the workload end with lone writes, when the engine is up again?
    engine: str = ""  # lines for the table [engine] of the job file

    def __str__(self) -> str:
        sizes = f"{self.clients}+{self.clients} clients, {self.keys} keys, {self.seconds:g} s"
        begin = " from the engine's start on" if self.early else ""
        return f"seed {self.seed}: {self.workload}, {self.policy}, {sizes}{begin}; {self.faults}"

    @classmethod
    def draw(
        cls,
        seed: int,
        *,
        workload: str = "random",
        policy: str | None = None,
        seconds: float = 1.0,
        faults: int | None = None,
        kinds: Iterable[str] = ANYWHERE,
    ) -> "Trial":
        """The trial of a seed. Without a policy they take turns; without a number there are up to three faults."""
        chance = random.Random(f"trial {seed}")
        drawn = chance.choice((0, 1, 1, 2, 3))
        number = drawn if faults is None else faults
        return cls(
            seed=seed,
            workload=workload,
            policy=policy or POLICIES[seed % len(POLICIES)],
            seconds=seconds,
            clients=chance.choice((2, 2, 3)),
            keys=chance.choice((2, 3, 5, 8, 20)),
            faults=FaultPlan.draw(seed, seconds=seconds, number=number, kinds=kinds, sites=NAMES),
            early=chance.random() < 0.3 and workload == "random",
        )


@attrs.frozen
class Result:
    """What came of a trial."""

    trial: Trial
    equal: bool  # did both sites hold the same?
    problems: tuple[str, ...]  # what went wrong: an engine that ended, sites that did not drain
    differences: tuple[str, ...]  # keys that are not the same at both sites
    broken: tuple[str, ...]  # promises of the workload that are not kept
    commands: dict[str, int]  # by site: commands that its clients sent
    conflicts: int  # what the engine counted
    faults: int  # those that happened
    seconds: float
    folder: pathlib.Path | None  # with logs and a list of all commands; None: all was well, and it is gone

    @property
    def ok(self) -> bool:
        """Equal, every promise kept, and nothing else went wrong."""
        return self.equal and not self.problems and not self.broken

    def describe(self) -> str:
        """Some lines for people."""
        verdict = "equal" if self.equal else "NOT EQUAL"
        lines = [f"{self.trial}", f"{verdict}; {self.conflicts} conflicts; commands {self.commands}"]
        lines += [*self.problems, *self.differences[:10], *self.broken[:10]]
        return "\n  ".join([*lines, f"see {self.folder}"] if self.folder else lines)

    def as_document(self) -> dict[str, Any]:
        """A dict for JSON."""
        document = {**attrs.asdict(self, recurse=False), "ok": self.ok, "trial": attrs.asdict(self.trial)}
        document["trial"]["faults"] = str(self.trial.faults)
        document["folder"] = str(self.folder) if self.folder else None
        return document


class Runner:
    """Runs histories on two servers, one after the other."""

    def __init__(
        self, east: str | LocalServer, west: str | LocalServer, folder: pathlib.Path, *, wipe: bool = False
    ) -> None:
        """The sites by their URLs, or as servers that this machine runs, which can have more kinds of faults.

        `folder` is for job files, stores and logs. `wipe` allows that the servers hold keys, which are deleted.
        Raises BisyncError where they hold keys and may not be wiped, are one and the same, or cannot be used.
        """
        self.sites = {name: RealSite.of(name, where) for name, where in zip(NAMES, (east, west), strict=True)}
        self.folder = folder
        _check(list(self.sites.values()), wipe)

    def __repr__(self) -> str:
        return f"<Runner {self.sites}>"

    def run(self, trial: Trial, workload: Workload | None = None) -> Result:
        """Run a history; the sites hold afterwards what came of it. Never raises for what goes wrong in it.

        Without a `workload` of your own, it is that of the trial's name. Raises BisyncError where the trial cannot be
        run on these servers.
        """
        if trial.faults.is_local and not all(site.server for site in self.sites.values()):
            raise BisyncError(
                f"the faults {trial.faults} need the servers' processes, which are not this runner's",
                hint=f"use only these kinds: {', '.join(ANYWHERE)}",
            )
        workload = workload or _workload_of(trial)
        began_s = time.monotonic()
        for site in self.sites.values():
            site.wipe()
        folder = self.folder / f"{trial.workload}-{trial.seed}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run = _Run(trial, workload, self.sites, folder)
        try:
            run.go()
        except BisyncError as e:
            run.problems.append(str(e))
        finally:
            run.clean_up()
        return run.result(time.monotonic() - began_s)


def _workload_of(trial: Trial) -> Workload:
    workload = make_workload(trial.workload, trial.seed, trial.keys)
    if isinstance(workload, Newest) and (trial.faults.faults or trial.policy != LAST_WRITER):
        workload.margin_ms = None  # nobody knows when a write was made that nobody read then; or nobody asks
    return workload


def _check(sites: Sequence[RealSite], wipe: bool) -> None:
    names = [site.identity() for site in sites]
    if names[0] == names[1]:
        raise BisyncError("both URLs lead to the same server", hint="name two servers")
    for site in sites:
        held = site.count_keys()
        if held and not wipe:
            hint = "name an empty server, or give --wipe to delete all that it holds"
            raise BisyncError(f"{site.shown} holds {held} keys, and a test would delete them", hint=hint)


class _Run:
    """One trial under way. It is the stage of its fault plan."""

    def __init__(self, trial: Trial, workload: Workload, sites: dict[str, RealSite], folder: pathlib.Path) -> None:
        self.trial, self.workload, self.sites, self.folder = trial, workload, sites, folder
        self.problems: list[str] = []
        self.differences: tuple[str, ...] = ()
        self.broken: list[str] = []
        self.equal = False
        self.faults = self.conflicts = 0
        self._halted = threading.Event()
        self.writing = Writing(workload)
        self._clients = [
            Client(site, self.writing, f"{trial.seed} {n}", self._halted)
            for site in sites.values()
            for n in range(trial.clients)
        ]
        self.engines: list[EngineProcess] = []
        self.job = self._write_job()

    def _write_job(self) -> Job:
        path, urls = self.folder / "trial.toml", {name: site.url for name, site in self.sites.items()}
        path.touch(0o600)  # the urls may hold passwords
        path.write_text(JOB_FILE.format(names=NAMES, **urls, policy=self.trial.policy, engine=self.trial.engine))
        return load_job(path)

    @property
    def engine(self) -> EngineProcess:
        """The newest."""
        return self.engines[-1]

    def start_engine(self) -> EngineProcess:
        """Start one; does not wait for anything."""
        self.engines.append(EngineProcess(self.job.path, self.folder / f"engine-{len(self.engines)}.log"))
        return self.engine

    def go(self) -> None:
        """From the first engine to the comparison."""
        source = self.sites[NAMES[0]]
        with source.client() as client:
            for command in self.workload.before():
                source.send(client, [command], "single")
        self.start_engine()
        if self.trial.early:
            self._reads(*self.sites.values())
        else:
            self._synchronised()
        self.writing.begin(self.trial.seconds)
        for thread in self._clients:
            thread.start()
        self.faults = len(self.trial.faults.carry_out(self, self._halted))
        self._halted.wait(self.writing.left_s)
        self._halt()
        self._synchronised()
        if self.trial.finale:
            self._finale()
        self._let_expire()
        self._drain()
        self.conflicts = read_status(self.job, int(time.time() * 1000))["conflicts"]["total"]
        self.engine.stop()
        self._compare()

    def _halt(self) -> None:
        """Let the clients end. What went wrong with them is a problem of the trial."""
        self._halted.set()
        while self._clients:
            thread = self._clients.pop()
            if thread.ident is not None:
                thread.join(START_S)
            if thread.error is not None or thread.is_alive():
                self.problems.append(f"the {thread.name} failed: {thread.error!r}")

    def _synchronised(self) -> None:
        self._must(wait_for_state(self.job, SYNCHRONIZING, START_S, self._alive), "is not synchronizing")

    def _reads(self, *sites: RealSite) -> None:
        """Wait until the engine has begun to read the stream of one of these sites."""
        deadline_s = time.monotonic() + START_S
        while not any(site.count_replicas() for site in sites):
            self._alive()
            if time.monotonic() > deadline_s:
                raise BisyncError(f"no engine reads the sites after {START_S:g} s", why=self.engine.log_end)
            time.sleep(0.005)

    def _alive(self) -> None:
        self.engine.check()

    def _drain(self) -> None:
        self._must(wait_drained(self.job, DRAIN_S, self._alive), "is not drained")

    def _must(self, outcome: Any, what: str) -> None:
        if not outcome.reached:
            why = f"{'; '.join(outcome.missing)}. Its log ends: {self.engine.log_end}"
            raise BisyncError(f"the job {what} after {outcome.waited_s:.0f} s", why=why)

    def _finale(self) -> None:
        """Lone writes, which stand: they are the newest, or (where a site is preferred) have seen all others."""
        if self.trial.policy != LAST_WRITER:
            self._drain()
        time.sleep(APART_S)
        clients = {name: site.client() for name, site in self.sites.items()}
        for name, command in self.workload.finale(NAMES):
            self.writing.send(self.sites[name], clients[name], [command], "single")
        for client in clients.values():
            client.close()

    def _let_expire(self) -> None:
        """Let what expires soon expire now: a site tells of an expiry only when somebody looks at the key."""
        time.sleep((max(SOON_MS) + 10) / 1000)
        for site in self.sites.values():
            site.look_at_all()

    def _compare(self) -> None:
        verdict = verify(self.job, rounds=1, tolerance_ms=0)
        self.equal = verdict.equal
        self.differences = tuple(
            f"database {d.database} {d.key!r}: {d.kind}: {d.source} / {d.target}" for d in verdict.differences
        )
        for name, site in self.sites.items():
            with site.client() as client:
                self.broken += [f"{name}: {text}" for text in self.workload.broken(client)]

    def clean_up(self) -> None:
        """End all that it has started."""
        self._halted.set()
        for engine in self.engines:
            engine.kill()
        self._halt()

    # -- faults
    def strike(self, fault: Fault, halted: threading.Event) -> None:
        """Let a fault happen, and undo it when its time is over."""
        lasts_s, site = fault.lasts_ms / 1000, self.sites.get(fault.site)
        if fault.kind in ("kill", "stop"):
            self.engine.check()
            self.engine.kill() if fault.kind == "kill" else self.engine.stop()
            halted.wait(lasts_s)
            self.start_engine()
        elif fault.kind == "freeze":
            self.engine.check()
            self.engine.freeze(lasts_s, halted)
        elif fault.kind == "second":
            self._synchronised()  # else both are starting, and either may win
            first, _ = self.engine, self.start_engine()
            first.ends(3)
        else:
            assert site is not None, fault
            if fault.kind == "restart-server":  # it keeps its history only for an engine that reads it
                self._synchronised()
                self._reads(site)
            site.strike(fault.kind, lasts_s, halted)

    # -- what came of it
    def result(self, seconds: float) -> Result:
        """The result; the folder goes where all was well."""
        result = Result(
            trial=self.trial,
            equal=self.equal,
            problems=tuple(self.problems),
            differences=self.differences,
            broken=tuple(self.broken),
            commands=self.writing.count(NAMES),
            conflicts=self.conflicts,
            faults=self.faults,
            seconds=round(seconds, 2),
            folder=self.folder,
        )
        if result.ok:
            shutil.rmtree(self.folder, ignore_errors=True)
            return attrs.evolve(result, folder=None)
        with open(self.folder / "commands.log", "w") as out:
            self.writing.print(out)
        (self.folder / "result.txt").write_text(result.describe() + "\n")
        return result
