"""What a full copy takes away from the target's clients: `python -m benchmarks.yielding`. See docs/benchmarks.md.

A client of its own process asks the target for small keys, so many times a second, and times each answer. In turns: no
engine runs; an engine copies as fast as it can; an engine copies and yields.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from typing import Any

from benchmarks.detection import machine
from benchmarks.measure import say
from benchmarks.real_servers import JOB_FILE, write
from bisync.core.resp import pack
from bisync.core.tag import Tag, tag_key
from bisync.testing.engines import EngineProcess
from bisync.testing.servers import LocalServer, local_servers

IDLE, FULL, YIELDS = "no copy", "copy_yields = false", "copy_yields = true"
KEYS, CLIENT_DATABASE = 1_000, 1  # of the client's; the job leaves that database alone
WAIT_S = 1_800.0
FAVOUR = 10  # real-time priority of the target and of its client, where the system allows that


def ask(port: int, per_s: int, stop: Event, out: Any) -> None:
    """GET at an even rate, as well as this machine lets it. Sends the round trips in µs when told to stop."""
    trips: list[float] = []
    _favour(0)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(pack(b"SELECT", CLIENT_DATABASE))
        connection.recv(4_096)
        due_s = time.perf_counter()
        while not stop.is_set():
            due_s = max(due_s + 1 / per_s, time.perf_counter() - 0.05)  # what was missed for longer is not made up for
            time.sleep(max(0.0, due_s - time.perf_counter()))
            began_s = time.perf_counter()
            connection.sendall(pack(b"GET", b"client:%d" % (len(trips) % KEYS)))
            connection.recv(4_096)
            trips.append((time.perf_counter() - began_s) * 1e6)
    out.send(trips)


def _favour(pid: int) -> bool:
    """Let a process (0: this one) go before others, as if it had a machine of its own. False: not allowed."""
    try:
        os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(FAVOUR))
    except (AttributeError, OSError):
        return False
    return True


def timed(port: int, per_s: int, work: Callable[[], float]) -> tuple[list[float], float]:
    """The client's round trips in µs while `work` goes on, and how long it took in s, as it says."""
    context = multiprocessing.get_context("spawn")
    stop, (receives, sends) = context.Event(), context.Pipe(duplex=False)
    client = context.Process(target=ask, args=(port, per_s, stop, sends))
    client.start()
    try:
        took_s = work()
        stop.set()
        trips: list[float] = receives.recv()
    finally:
        stop.set()
        client.join()
    return trips, took_s


def copy(source: LocalServer, target: LocalServer, folder: pathlib.Path, yields: bool) -> float:
    """One full copy. How long it took from the first copied key on, in s."""
    job = folder / "bench.toml"
    tables = f"[limits]\ncopy_yields = {str(yields).lower()}\n[full_copy]\ntarget_not_empty = 'overwrite'\n"
    tables += "[objects]\ndatabases = { 0 = 0 }\n"
    job.write_text(JOB_FILE.format(topology="one-way", east=source.url, west=target.url) + tables)
    engine = EngineProcess(job, folder / "engine.log")
    try:
        with target.client() as client:
            deadline_s, began_s = time.monotonic() + WAIT_S, 0.0
            while True:
                engine.check()
                value = client.get(tag_key("bench", "forward"))
                if value and not began_s and Tag.decode(value).applied[0]:
                    began_s = time.perf_counter()
                if value and Tag.decode(value).copied:
                    return time.perf_counter() - began_s
                assert time.monotonic() < deadline_s, engine.log_end
                time.sleep(0.02)
    finally:
        engine.stop()


def turn(sites: tuple[LocalServer, LocalServer], options: argparse.Namespace, root: pathlib.Path) -> dict[str, Any]:
    """Each variant once, with an empty target."""
    source, target = sites
    found = {}
    for n, name in enumerate((IDLE, FULL, YIELDS)):
        with target.client() as client:
            client.flushall()
        with target.client(CLIENT_DATABASE) as client:
            client.mset({f"client:{n}": "x" * 64 for n in range(KEYS)})
        folder = root / str(n)
        folder.mkdir()

        def work(name: str = name, folder: pathlib.Path = folder) -> float:
            if name == IDLE:
                time.sleep(options.idle_s)
                return float(options.idle_s)
            return copy(source, target, folder, name == YIELDS)

        trips, took_s = timed(target.port, options.per_s, work)
        cuts = statistics.quantiles(trips, n=1000, method="inclusive")
        found[name] = {"answers": len(trips), "took_s": round(took_s, 1)}
        found[name].update({f"p{at / 10:g}_us": round(cuts[at - 1]) for at in (500, 900, 990, 999)})
        say(f"  {name}: {found[name]}")
    return found


def main(words: list[str] | None = None) -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.yielding", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output instead of a table")
    parser.add_argument("--keys", type=int, default=400_000, help="to copy")
    parser.add_argument("--bytes", type=int, default=256, help="of each value")
    parser.add_argument("--per-s", type=int, default=1_000, help="questions of the client")
    parser.add_argument("--idle-s", type=float, default=15.0, help="how long to measure without a copy")
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args(words)
    begun, turns = machine(), []
    with (
        tempfile.TemporaryDirectory(prefix="bisync-bench-") as name,
        local_servers(pathlib.Path(name), "east", "west") as sites,
    ):
        with sites[1].client() as client:
            favoured = _favour(client.info("server")["process_id"])
        say(f"the target and its client {'go' if favoured else 'may not go'} before other processes")
        value = random.Random(1).randbytes(options.bytes // 2).hex().encode()
        write(sites[0], ([b"SET", b"key:%d" % n, value] for n in range(options.keys)))
        for n in range(options.repetitions):
            say(f"{n + 1}/{options.repetitions}")
            root = pathlib.Path(name) / f"turn{n}"
            root.mkdir()
            turns.append(turn((sites[0], sites[1]), options, root))
    if options.json:
        print(json.dumps({"machine": [begun, machine()], "turns": turns}, indent=2))
        return
    for variant in (IDLE, FULL, YIELDS):
        middle = {f: statistics.median(t[variant][f] for t in turns) for f in turns[0][variant]}
        ratio = [t[variant]["p99_us"] / t[IDLE]["p99_us"] for t in turns]
        print(f"{variant:22} {middle}  p99 {statistics.median(ratio):.1f} ({min(ratio):.1f}..{max(ratio):.1f}) of none")


if __name__ == "__main__":
    main(sys.argv[1:])
