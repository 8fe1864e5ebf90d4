"""The demonstration: two local sites, a two-way job, writers on both, a conflict, a crash of the engine, a verdict.

It uses the program as a user would: a job file, `bisync run` as a process of its own, and the store for the rest. Every
wait has a bound, and whatever happens its processes are ended (by their ids) and its folder is removed.
"""

import contextlib
import pathlib
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import redis

from bisync.cli.wait import Outcome, wait_drained, wait_for_state
from bisync.config import Job, load_job
from bisync.core.states import SYNCHRONIZING
from bisync.errors import BisyncError
from bisync.status import read_status
from bisync.testing.engines import EngineProcess
from bisync.testing.servers import LocalServer, local_servers
from bisync.verify import Verdict, verify

KEYS_BEFORE = 4_000  # strings that east holds before bisync comes; hashes, lists and sets a quarter each beside them
BURST = 5  # rounds that a writer sends at once; a round is three commands
PAUSE_S = 0.005  # between two bursts
WRITING_S = 1.5  # how long the writers write before the crash, and how long again while no engine runs
TIMED = 20  # writes whose way to the other site is measured, in each direction
ARRIVAL_S_MAX = 5.0  # for a write to arrive
CONFLICT_TRIES = 12
FREEZE_FROM = 4  # from this try on the engine is frozen meanwhile: a fast one sees too many writes in time
FREEZE_S = 0.1
CONFLICT_S = 0.7  # for the engine to report it
START_S = 20.0  # until the full copy is done
DRAIN_S = 20.0  # until all writes have arrived

JOB_FILE = """\
name     = "demo"
topology = "bidirectional"

[sites.east]
url = "{east}"
[sites.west]
url = "{west}"
"""

Tell = Callable[[str], None]


@attrs.define
class Findings:
    """What the demonstration saw; the document of --json."""

    equal: bool = False
    copied_keys: int = 0  # by the full copy
    copied_s: float = 0.0  # from the engine's start until each site followed the other
    writes: dict[str, int] = attrs.field(factory=dict)  # by site: commands that its writer sent
    lag_ms: dict[str, float] = attrs.field(factory=dict)  # from a write until it could be read at the other site
    conflict: dict[str, Any] = attrs.field(factory=dict)  # the provoked one: key, tries, values, winner
    crash: dict[str, Any] = attrs.field(factory=dict)  # writes_without_engine, recovered_s
    compared: int = 0  # keys
    differences: list[dict[str, Any]] = attrs.field(factory=list)
    wrong_totals: list[str] = attrs.field(factory=list)  # sums and lengths that are not what was written
    seconds: float = 0.0


class Writer(threading.Thread):
    """Writes to one site until it is stopped: a counter, a list and a hash of its own."""

    def __init__(self, site: str, server: LocalServer) -> None:
        super().__init__(name=f"writer at {site}", daemon=True)
        self.site, self._server = site, server
        self.rounds = 0  # that the server has acknowledged
        self._halted = threading.Event()
        self._error: Exception | None = None

    @property
    def writes(self) -> int:
        """Commands that the server has acknowledged."""
        return self.rounds * 3

    def run(self) -> None:
        """Write; an error ends it and is raised by `halt`."""
        try:
            with self._server.client() as client:
                while not self._halted.is_set():
                    self._burst(client)
                    self._halted.wait(PAUSE_S)
        except Exception as e:
            self._error = e

    def _burst(self, client: "redis.Redis") -> None:
        pipe = client.pipeline(transaction=False)
        for n in range(self.rounds, self.rounds + BURST):
            pipe.incr(f"visits:{self.site}")
            pipe.rpush(f"orders:{self.site}", n)
            pipe.hset(f"stock:{self.site}", f"item-{n % 500}", n)
        pipe.execute()
        self.rounds += BURST

    def halt(self) -> None:
        """Stop writing. Raises BisyncError where it has failed."""
        self._halted.set()
        self.join(10)
        if self._error is not None or self.is_alive():
            why = str(self._error or "its site does not answer")
            raise BisyncError(f"the {self.name} failed", why=why)

    def wrong_totals(self, where: str, server: LocalServer) -> list[str]:
        """What a site does not hold of all that this writer wrote, in words."""
        with server.client() as client:
            pipe = client.pipeline(transaction=False)
            pipe.get(f"visits:{self.site}").llen(f"orders:{self.site}").hlen(f"stock:{self.site}")
            visits, orders, items = pipe.execute()
        found = (
            (f"counter visits:{self.site}", int(visits or 0), self.rounds),
            (f"length of list orders:{self.site}", orders, self.rounds),
            (f"fields of hash stock:{self.site}", items, min(self.rounds, 500)),
        )
        return [
            f"{what} is {held:,} at {where} and should be {right:,}" for what, held, right in found if held != right
        ]


@attrs.define
class Demo:
    """One demonstration. `step` is told what comes next, `result` what came out of it."""

    step: Tell
    result: Tell
    east: LocalServer
    west: LocalServer
    job_file: pathlib.Path
    sabotage: bool = False
    findings: Findings = attrs.Factory(Findings)
    job: Job = attrs.field(init=False)
    engines: list[EngineProcess] = attrs.Factory(list)
    writers: list[Writer] = attrs.Factory(list)

    def __attrs_post_init__(self) -> None:
        self.job_file.write_text(JOB_FILE.format(east=self.east.url, west=self.west.url))
        self.job_file.chmod(0o600)
        self.job = load_job(self.job_file)

    @property
    def engine(self) -> EngineProcess:
        """The newest one."""
        return self.engines[-1]

    def run(self) -> Findings:
        """All steps. Raises BisyncError where one cannot be done; ends its engine and its writers in any case."""
        began_s = time.monotonic()
        try:
            self._fill()
            self._copy()
            self._write_on_both()
            self._conflict()
            self._crash()
            self._drain()
            self._compare()
        finally:
            for engine in self.engines:
                engine.kill()
            for writer in self.writers:
                with contextlib.suppress(BisyncError):  # if it matters it was raised before
                    writer.halt()
        self.findings.seconds = round(time.monotonic() - began_s, 1)
        return self.findings

    # -- the steps
    def _fill(self) -> None:
        self.step("Two stock Redis servers, started for this demo only: they play two sites in two places.")
        with self.east.client() as client:
            pipe = client.pipeline(transaction=False)
            for n in range(KEYS_BEFORE):
                pipe.set(f"session:{n}", f"user-{n}", ex=3600 if n % 2 else None)
            for n in range(KEYS_BEFORE // 4):
                pipe.hset(f"customer:{n}", mapping={"name": f"Ann {n}", "city": "Bonn", "orders": n})
                pipe.rpush(f"basket:{n}", *range(n % 20 + 1))
                pipe.zadd(f"ranking:{n}", {f"item-{m}": m for m in range(n % 20 + 1)})
            pipe.execute()
            keys = client.dbsize()
        self.result(f"east listens on port {self.east.port} and holds {keys:,} keys.")
        self.result(f"west listens on port {self.west.port} and is empty.")

    def _copy(self) -> None:
        self.step(f"`bisync run {self.job_file.name}`: copy everything from east to west, then keep both equal.")
        self.result("The whole job file:")
        for line in self.job_file.read_text().splitlines():
            self.result(f"    {line}")
        began_s = time.monotonic()
        self._start_engine()
        self._must(wait_for_state(self.job, SYNCHRONIZING, START_S, self.engine.check), "the full copy is not done")
        found = self.findings
        found.copied_s = round(time.monotonic() - began_s, 2)
        found.copied_keys = self._status()["channels"]["forward"]["full_copy"]["keys_done"]
        self.result(
            f"{found.copied_keys:,} keys copied; {found.copied_s:.1f} s after its start both sites are in step."
        )

    def _write_on_both(self) -> None:
        self.step("Clients write at both sites at once: a counter, a list and a hash at each.")
        for site, server in (("east", self.east), ("west", self.west)):
            writer = Writer(site, server)
            writer.start()
            self.writers.append(writer)
        took = [*self._time_writes("east", self.east, self.west), *self._time_writes("west", self.west, self.east)]
        time.sleep(WRITING_S)
        median, most = round(statistics.median(took), 1), round(max(took), 1)
        self.findings.lag_ms = {"median": median, "max": most}
        for writer in self.writers:
            self.result(f"{writer.writes:,} writes at {writer.site} so far.")
        self.result(
            f"Meanwhile {len(took)} writes were timed on their way: readable at the other site after {median} ms"
            f" (half of them), {most} ms (the slowest)."
        )

    def _time_writes(self, site: str, here: LocalServer, there: LocalServer) -> Iterator[float]:
        """Write at one site and look at the other until it is there: how long it took, in ms."""
        with here.client() as writer, there.client() as reader:
            for n in range(TIMED):
                key = f"timed:{site}:{n}"
                began_s = time.monotonic()
                writer.set(key, n)
                while reader.get(key) is None:
                    self.engine.check()
                    if time.monotonic() - began_s > ARRIVAL_S_MAX:
                        raise BisyncError(f"{key}, written at {site}, did not arrive within {ARRIVAL_S_MAX:g} s")
                    time.sleep(0.0002)
                yield (time.monotonic() - began_s) * 1000

    def _conflict(self) -> None:
        self.step("A conflict: the same key is set at both sites in the same moment, to different values.")
        total = self._status()["conflicts"]["total"]
        for n in range(CONFLICT_TRIES):
            key = f"price:{n}"
            with self.engine.frozen() if n >= FREEZE_FROM else contextlib.nullcontext():
                self._set_at_both(key)
                if n >= FREEZE_FROM:
                    time.sleep(FREEZE_S)
            if self._seen_within(CONFLICT_S, lambda: self._status()["conflicts"]["total"] > total):
                self._settled(key, n + 1)
                return
        raise BisyncError(f"{CONFLICT_TRIES} keys were set at both sites at once, and no conflict was reported")

    def _set_at_both(self, key: str) -> None:
        together = threading.Barrier(2, timeout=5)

        def write(site: str, server: LocalServer) -> None:
            with server.client() as client:
                client.ping()  # connected before the start
                together.wait()
                client.set(key, f"set at {site}")

        threads = [threading.Thread(target=write, args=a) for a in (("east", self.east), ("west", self.west))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)

    def _settled(self, key: str, tries: int) -> None:
        """Wait until both sites hold the same value, and say which."""
        with self.east.client(decode_responses=True) as east, self.west.client(decode_responses=True) as west:
            if not self._seen_within(ARRIVAL_S_MAX, lambda: east.get(key) == west.get(key) and not self._open()):
                raise BisyncError(f"{key} is still {east.get(key)!r} at east and {west.get(key)!r} at west")
            value = str(east.get(key))
        winner = value.removeprefix("set at ")
        total = self._status()["conflicts"]["total"]
        self.findings.conflict = {"key": key, "tries": tries, "value": value, "winner": winner, "total": total}
        again = "" if tries == 1 else f" (try {tries}: before, one write was always seen in time by the other site)"
        self.result(f"{key} was {'set at east'!r} at east and {'set at west'!r} at west{again}.")
        self.result(f"bisync noticed and settled it: the newer write stands. Both sites now hold {value!r}.")

    def _open(self) -> int:
        return int(self._status()["conflicts"]["open"])

    def _crash(self) -> None:
        self.step("A crash: the engine is killed (SIGKILL) in the middle of all this. The writers go on.")
        before = {w.site: w.writes for w in self.writers}
        self.engine.kill()
        time.sleep(WRITING_S)
        missed = {w.site: w.writes - before[w.site] for w in self.writers}
        words = " and ".join(f"{number:,} writes at {site}" for site, number in missed.items())
        self.result(f"{words} while no engine was running.")
        began_s = time.monotonic()
        self._start_engine()
        self._must(wait_for_state(self.job, SYNCHRONIZING, START_S, self.engine.check), "the engine does not go on")
        took_s = round(time.monotonic() - began_s, 2)
        self.findings.crash = {"writes_without_engine": missed, "recovered_s": took_s}
        self.result(f"Started again with the same command, it goes on where it stopped, after {took_s:.1f} s.")
        time.sleep(WRITING_S / 3)

    def _drain(self) -> None:
        self.step("The writers stop, and `bisync wait --drained` says when every write has arrived.")
        for writer in self.writers:
            writer.halt()
            self.findings.writes[writer.site] = writer.writes
            self.result(f"{writer.writes:,} writes at {writer.site} in all.")
        began_s = time.monotonic()
        self._must(wait_drained(self.job, DRAIN_S, self.engine.check), "the sites are not drained")
        self.result(f"Drained after {time.monotonic() - began_s:.1f} s.")

    def _compare(self) -> None:
        self.step("The verdict: the engine is stopped, and the two sites are compared key by key, on their own.")
        self.engine.stop()
        if self.sabotage:
            with self.west.client() as client:
                client.set("sabotage", "written at west while no engine was running")
        found, verdict = self.findings, verify(self.job, rounds=2, pause_s=0.5)
        found.compared, found.differences = verdict.compared, _listed(verdict)
        for writer in self.writers:
            for where, server in (("east", self.east), ("west", self.west)):
                found.wrong_totals += writer.wrong_totals(where, server)
        found.equal = verdict.equal and not found.wrong_totals
        self._tell_verdict(verdict)

    def _tell_verdict(self, verdict: Verdict) -> None:
        found = self.findings
        for d in found.differences[:10]:
            self.result(f"DIFFERENT: {d['key']}: {d['kind']} (east: {d['source']}; west: {d['target']})")
        for text in found.wrong_totals:
            self.result(f"WRONG: {text}")
        if found.equal:
            total = sum(found.writes.values())
            self.result(f"{found.compared:,} keys compared: all equal.")
            self.result(f"Every sum and every length is exact after {total:,} writes: nothing lost, nothing doubled.")
        else:
            self.result(f"The sites are NOT equal: {verdict.different} of {verdict.compared:,} keys differ.")

    # -- within
    def _start_engine(self) -> None:
        self.engines.append(EngineProcess(self.job_file, self.job_file.with_name("engine.log")))

    def _status(self) -> dict[str, Any]:
        return read_status(self.job, int(time.time() * 1000))

    def _seen_within(self, most_s: float, seen: Callable[[], bool]) -> bool:
        deadline_s = time.monotonic() + most_s
        while time.monotonic() < deadline_s:
            self.engine.check()
            if seen():
                return True
            time.sleep(0.02)
        return False

    @staticmethod
    def _must(outcome: Outcome, what: str) -> None:
        if not outcome.reached:
            raise BisyncError(f"{what} after {outcome.waited_s:.0f} s", why="; ".join(outcome.missing))


def demonstrate(step: Tell, result: Tell, *, keep: bool = False, sabotage: bool = False) -> Findings:
    """Run the demonstration in a folder and with servers of its own; `keep` leaves the folder with its logs.

    `sabotage` makes the sites differ at the end, to show that it would be found. Raises BisyncError where a step
    cannot be done, with the reason.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bisync-demo-"))
    try:
        with local_servers(folder, "east", "west") as (east, west):
            return Demo(step, result, east, west, folder / "demo.toml", sabotage).run()
    finally:
        if keep:
            result(f"The job file, its store and all logs are kept in {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _listed(verdict: Verdict) -> list[dict[str, Any]]:
    from bisync.cli.verify import as_document

    differences: list[dict[str, Any]] = as_document(verdict)["differences"]
    return differences
