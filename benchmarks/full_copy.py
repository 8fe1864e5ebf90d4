"""How fast a full copy is: `python -m benchmarks.full_copy`. See docs/benchmarks.md.

Of each kind of data, in one run and in turns: a native replica (`REPLICAOF`), the target's *ceiling* (the very commands
that bisync sends, made before, in transactions of 500 with one under way), and bisync, one-way and two-way. Rates are
from the first byte asked of the source until everything is at the target; a program's start does not count.
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import pathlib
import random
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.detection import machine
from benchmarks.measure import Sample, say, take_turns
from benchmarks.real_servers import JOB_FILE, NOT_YIELDING, cpu_s, server_version, wait_until, write
from bisync.core.resp import EXEC, MULTI
from bisync.core.rules import Rules
from bisync.core.snapshot import SnapshotKeys
from bisync.core.tag import Tag, tag_key
from bisync.testing.engines import EngineProcess
from bisync.testing.servers import LocalServer, local_servers

BATCH = 500
NATIVE, CEILING, ONE_WAY, TWO_WAY = "native replica", "ceiling", "bisync, one-way", "bisync, two-way"

Commands = Iterator[list[bytes]]


def small_strings(keys: int) -> Commands:
    """64 bytes each."""
    return ([b"SET", b"string:%d" % n, b"%064d" % n] for n in range(keys))


def hashes(keys: int) -> Commands:
    """Of 1 KB: 20 fields of 50 bytes."""
    draw = random.Random(1)
    fields = [[b"field:%d" % n, draw.randbytes(20).hex().encode()] for n in range(20)]
    return ([b"HSET", b"hash:%d" % n, *itertools.chain(*fields)] for n in range(keys))


def lists(keys: int) -> Commands:
    """Of 100 elements of 10 bytes."""
    return ([b"RPUSH", b"list:%d" % n, *(b"%010d" % (n + i) for i in range(100))] for n in range(keys))


DATA: dict[str, Callable[[int], Commands]] = {
    "strings of 64 bytes": small_strings,
    "hashes of 1 KB": hashes,
    "lists of 100 elements": lists,
}


def parsed(words: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_copy", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output instead of a table")
    parser.add_argument("--strings", type=int, default=1_000_000, help="keys")
    parser.add_argument("--hashes", type=int, default=200_000, help="keys")
    parser.add_argument("--lists", type=int, default=200_000, help="keys")
    parser.add_argument("--repetitions", type=int, default=3, help="of each measurement, in turns")
    parser.add_argument("--quick", action="store_true", help="small numbers, once: does it run at all?")
    options = parser.parse_args(words)
    if options.quick:
        vars(options).update({"strings": 5_000, "hashes": 1_000, "lists": 1_000, "repetitions": 1})
    return options


# -- what is measured
def rdb_of(server: LocalServer) -> bytes:
    """The server's snapshot."""
    with server.client() as client:
        client.save()
        folder, name = client.config_get("dir")["dir"], client.config_get("dbfilename")["dbfilename"]
    return (pathlib.Path(folder) / name).read_bytes()


def ready_made(rdb: bytes) -> list[tuple[bytes, int]]:
    """The transactions that put all keys of a snapshot at a target, and how many replies each has."""
    keys = SnapshotKeys(Rules("bench", "east", "west"), None)
    commands = (command for key in keys.feed(rdb, 0) for _, command in key.parts)
    made = []
    while some := list(itertools.islice(commands, BATCH)):
        made.append((b"".join((MULTI, *some, EXEC)), 2 + len(some)))
    return made


def send_all(server: LocalServer, made: list[tuple[bytes, int]]) -> None:
    """One transaction after the other; each is answered before the next."""
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for payload, replies in made:
            connection.sendall(payload)
            lines = 0  # every reply is one line, and EXEC's array has one for itself and one for each
            while lines < 2 * replies - 2:
                data = connection.recv(1 << 20)
                assert data
                lines += data.count(b"\n")


def native(target: LocalServer, source: LocalServer, keys: int) -> Sample:
    """A replica of the source."""
    with target.client() as client:
        began_s = time.perf_counter()
        client.replicaof("127.0.0.1", source.port)
        while client.info("replication")["master_link_status"] != "up":
            time.sleep(0.005)
        wall_s = time.perf_counter() - began_s
        client.replicaof("NO", "ONE")
        assert client.dbsize() >= keys
    return Sample(keys, wall_s, wall_s)


def ceiling(target: LocalServer, made: list[tuple[bytes, int]], keys: int) -> Sample:
    """Ready-made bytes."""
    began_s = time.perf_counter()
    send_all(target, made)
    wall_s = time.perf_counter() - began_s
    with target.client() as client:
        assert client.dbsize() == keys
    return Sample(keys, wall_s, wall_s)


def bisync(target: LocalServer, source: LocalServer, folder: pathlib.Path, topology: str, keys: int) -> Sample:
    """An engine, from its taking the job to the finished copy."""
    job = folder / "bench.toml"
    job.write_text(JOB_FILE.format(topology=topology, east=source.url, west=target.url) + NOT_YIELDING)
    with target.client() as client:

        def tag() -> Tag | None:
            value = client.get(tag_key("bench", "forward"))
            return Tag.decode(value) if value else None

        engine = EngineProcess(job, folder / "engine.log")
        try:
            wait_until(lambda: tag() is not None, engine)
            began_s, used_s = time.perf_counter(), cpu_s(engine.process.pid)
            wait_until(lambda: (found := tag()) is not None and found.copied, engine)
            wall_s, used_s = time.perf_counter() - began_s, cpu_s(engine.process.pid) - used_s
            peak = engine.peak_bytes
            engine.stop()
        finally:
            engine.kill()
        assert client.dbsize() >= keys
    with source.client() as client:
        client.delete(*client.scan_iter("bisync:*", count=100_000))
    return Sample(keys, wall_s, max(used_s, 0.01), {"MB": round(peak / 1e6)})


# -- the run
def measure(name: str, keys: int, folder: pathlib.Path, repetitions: int) -> dict[str, Any]:
    """All variants of one kind of data."""
    say(f"{name}: {keys:,} keys")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with local_servers(folder, "source") as (source,):
        write(source, DATA[name](keys))
        rdb = rdb_of(source)
        made = ready_made(rdb)
        numbers = itertools.count()

        @contextlib.contextmanager
        def fresh() -> Iterator[tuple[LocalServer, pathlib.Path]]:
            place = folder / f"target-{next(numbers)}"
            with local_servers(place, "target") as (target,):
                yield target, place

        def once(how: Callable[[LocalServer, pathlib.Path], Sample]) -> Sample:
            with fresh() as (target, place):
                return how(target, place)

        samples = take_turns(
            {
                NATIVE: functools.partial(once, lambda target, _: native(target, source, keys)),
                CEILING: functools.partial(once, lambda target, _: ceiling(target, made, keys)),
                ONE_WAY: functools.partial(once, lambda t, place: bisync(t, source, place, "one-way", keys)),
                TWO_WAY: functools.partial(once, lambda t, place: bisync(t, source, place, "bidirectional", keys)),
            },
            repetitions,
        )
    return {variant: summary(taken, samples, len(rdb)) for variant, taken in samples.items()}


def summary(taken: list[Sample], samples: dict[str, list[Sample]], size: int) -> dict[str, Any]:
    """Of one variant: rates, and ratios to the others of the same turn. `size`: bytes of the snapshot."""
    rate = statistics.median(s.per_s for s in taken)
    found: dict[str, Any] = {
        "keys": taken[0].commands,
        "keys_per_s": [round(s.per_s) for s in taken],
        "MB_per_s": round(rate * size / taken[0].commands / 1e6, 1),
    }
    for base in (NATIVE, CEILING):
        turns = [a.per_s / b.per_s for a, b in zip(taken, samples[base], strict=True)]
        found[f"of {base}"] = round(statistics.median(turns), 2)
    if "MB" in taken[0].notes:
        found["peak_MB"] = max(s.notes["MB"] for s in taken)
        found["keys_per_cpu_s"] = round(statistics.median(s.per_cpu_s for s in taken))
    return found


def main(words: list[str]) -> None:
    """Measure, and print."""
    options = parsed(words)
    before = os.getloadavg()[0]
    results: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory(prefix="bisync-bench-") as name:
        folder = pathlib.Path(name)
        results["machine"]["server"] = server_version(folder)
        for kind, keys in zip(DATA, (options.strings, options.hashes, options.lists), strict=True):
            results[kind] = measure(kind, keys, folder / "run", options.repetitions)
    results["machine"]["load before and after"] = [round(before, 1), round(os.getloadavg()[0], 1)]
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(", ".join(f"{key}: {value}" for key, value in results.pop("machine").items()))
    for kind, variants in results.items():
        print(f"\n{kind} (MB of the snapshot)")
        for variant, one in variants.items():
            rates = " ".join(f"{rate:,}" for rate in one["keys_per_s"])
            told = [
                f"{one['MB_per_s']:,} MB/s",
                f"{one[f'of {NATIVE}']:.2f} of native",
                f"{one[f'of {CEILING}']:.2f} of ceiling",
            ]
            told += [f"peak {one['peak_MB']} MB"] if "peak_MB" in one else []
            print(f"  {variant:16} {rates} keys/s; {'; '.join(told)}")


if __name__ == "__main__":
    main(sys.argv[1:])
