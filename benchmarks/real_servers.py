"""Real servers: how fast an engine catches up with what clients wrote at both sites while it was away.

Rates are from the moment when the engine has taken the job until all is applied at the other site and seen back, so its
start does not count; the processor time is the engine's from then on.
"""

import contextlib
import functools
import itertools
import os
import pathlib
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator

from benchmarks.core_alone import KINDS, SITES, mixed
from benchmarks.measure import Sample, Variants
from bisync.cli.wait import wait_drained, wait_for_state
from bisync.config import Job, load_job
from bisync.core.resp import pack
from bisync.core.states import SYNCHRONIZING
from bisync.core.tag import Tag, tag_key
from bisync.status import read_status
from bisync.testing.engines import EngineProcess
from bisync.testing.servers import LocalServer, local_servers

WAIT_S = 900.0
LOOK_S = 0.002
BURST = 2_000  # commands sent at once
BACKLOG = ("--repl-backlog-size", "512mb")
JOB_FILE = """\
name     = "bench"
topology = "{topology}"
[sites.east]
url = "{east}"
[sites.west]
url = "{west}"
"""
NOT_YIELDING = "[limits]\ncopy_yields = false\n"
"""For a copy where servers and engine share a machine, so that the copy itself makes the servers answer late."""

TICKS_S = os.sysconf("SC_CLK_TCK")

Writes = dict[str, Iterable[list[bytes]]]
"""By site: what its clients write while no engine runs."""


def write(server: LocalServer, commands: Iterable[list[bytes]]) -> int:
    """Send commands through one connection, many at once. How many."""
    done = 0
    with socket.create_connection(("127.0.0.1", server.port)) as connection, connection.makefile("rb") as replies:
        source = iter(commands)
        while some := list(itertools.islice(source, BURST)):
            connection.sendall(b"".join(pack(*words) for words in some))
            for _ in some:
                line = replies.readline()
                assert line[:1] in b":+", line
            done += len(some)
    return done


def cpu_s(pid: int) -> float:
    """Processor time that a process has used."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_S


def wait_until(condition: Callable[[], object], engine: EngineProcess) -> None:
    """Look often. Raises TimeoutError, and BisyncError where the engine has ended."""
    deadline_s = time.monotonic() + WAIT_S
    while not condition():
        engine.check()
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {WAIT_S:g} s: {engine.log_end}")
        time.sleep(LOOK_S)


def epoch(server: LocalServer) -> int:
    """Of the engine that has the job, as the tag of the forward channel says."""
    with server.client() as client:
        value = client.get(tag_key("bench", "forward"))
    return Tag.decode(value).epoch if value else 0


@contextlib.contextmanager
def job_of(folder: pathlib.Path, topology: str) -> Iterator[tuple[Job, dict[str, LocalServer]]]:
    """Two servers with a job that is synchronising, of which no engine runs just now."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with local_servers(folder, *SITES, options=BACKLOG) as servers:
        sites = dict(zip(SITES, servers, strict=True))
        path = folder / "bench.toml"
        path.write_text(JOB_FILE.format(topology=topology, **{x: s.url for x, s in sites.items()}))
        job = load_job(path)
        engine = EngineProcess(path, folder / "first.log")
        try:
            outcome = wait_for_state(job, SYNCHRONIZING, WAIT_S, engine.check)
            assert outcome.reached, outcome.missing
            engine.stop()
        finally:
            engine.kill()
        yield job, sites


def catch_up(folder: pathlib.Path, topology: str, writes: Writes) -> Sample:
    """Let clients write, then start an engine and wait until the sites are drained."""
    with job_of(folder, topology) as (job, sites):
        commands = sum(write(sites[x], source) for x, source in writes.items())
        before = epoch(sites["west"])
        engine = EngineProcess(job.path, folder / "second.log")
        try:
            wait_until(lambda: epoch(sites["west"]) > before, engine)
            began_s, used_s = time.perf_counter(), cpu_s(engine.process.pid)
            outcome = wait_drained(job, WAIT_S, engine.check)
            assert outcome.reached, outcome.missing
            wall_s, used_s = time.perf_counter() - began_s, cpu_s(engine.process.pid) - used_s
            conflicts = read_status(job, int(time.time() * 1000))["conflicts"]["total"]
            resident = engine.resident_bytes
            engine.stop()
        finally:
            engine.kill()
        assert count_missing(sites, topology) == 0
    return Sample(commands, wall_s, max(used_s, 0.01), {"conflicts": conflicts, "MB": round(resident / 1e6)})


def count_missing(sites: dict[str, LocalServer], topology: str) -> int:
    """Keys that one site has more than the other, but for bisync's own: a coarse look that the work was done."""
    sizes = []
    for server in sites.values():
        with server.client() as client:
            sizes.append(int(client.dbsize()) - sum(1 for _ in client.scan_iter(b"bisync:*", count=10_000)))
    return abs(sizes[0] - sizes[1])


ONE_WAY, ONE_SITE, BOTH = "one-way", "two-way, one site wrote", "two-way, both wrote"
BASES = {ONE_SITE: ONE_WAY, BOTH: ONE_SITE}


def variants(folder: pathlib.Path, commands: int) -> Variants:
    """So many commands at each site, or twice as many at one."""
    return {
        ONE_WAY: lambda: catch_up(folder / "one-way", "one-way", {"east": mixed("east", 2 * commands)}),
        ONE_SITE: lambda: catch_up(folder / "one-site", "bidirectional", {"east": mixed("east", 2 * commands)}),
        BOTH: lambda: catch_up(folder / "both", "bidirectional", {x: mixed(x, commands) for x in SITES}),
    }


def hot_variants(folder: pathlib.Path, writes: int) -> Variants:
    """So many writes at each site to one key; the first kind is for comparison."""

    def once(kind: Callable[[str, int], list[bytes]]) -> Sample:
        return catch_up(folder / "hot", "bidirectional", {x: (kind(x, n) for n in range(writes)) for x in SITES})

    kinds = {name: kind for name, kind in KINDS.items() if name != "all of them, in turn"}
    return {name: functools.partial(once, kind) for name, kind in kinds.items()}


def hot_bases() -> dict[str, str]:
    """All are compared with writes to keys of their own."""
    first, *others = [name for name in KINDS if name != "all of them, in turn"]
    return {name: first for name in others}


def server_version(folder: pathlib.Path) -> str:
    """Of the servers that are used."""
    with local_servers(folder / "version", "one") as (server,), server.client() as client:
        info = client.info("server")
    return f"{'Valkey' if 'valkey_version' in info else 'Redis'} {info.get('valkey_version', info['redis_version'])}"
