"""What a large full copy takes of memory: `python -m benchmarks.large_copy`. See docs/benchmarks.md.

Many small keys and one huge one are copied between two servers, with a job's default settings, but that the copy does
not yield. With `--rate` clients write to both sites all the while, each to keys of its own and to some that both write.
At the end both servers must have the same DEBUG DIGEST, without bisync's own keys.
"""

import argparse
import contextlib
import json
import multiprocessing
import pathlib
import random
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from typing import Any

from benchmarks.measure import say
from benchmarks.real_servers import JOB_FILE, NOT_YIELDING, WAIT_S
from bisync.cli.wait import wait_drained, wait_for_state
from bisync.config import load_job
from bisync.core.resp import pack
from bisync.core.states import INITIALIZING, SYNCHRONIZING
from bisync.status import read_status
from bisync.testing.engines import EngineProcess
from bisync.testing.servers import LocalServer, local_servers

OPTIONS = (
    "--enable-debug-command",
    "local",
    "--repl-backlog-size",
    "512mb",
    "--client-output-buffer-limit",
    "replica 0 0 0",
)
ELEMENT_BYTES = 10_000
BURST = 200  # commands that a client sends at once


def parsed(words: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_copy", description=__doc__)
    parser.add_argument("--keys", type=int, default=10_000_000, help="small keys")
    parser.add_argument("--big", type=int, default=1_000_000_000, help="bytes of the huge key, a list")
    parser.add_argument("--rate", type=int, default=0, help="writes a second of the clients at each site")
    parser.add_argument("--topology", choices=("one-way", "bidirectional"), default="bidirectional")
    parser.add_argument("--wait", type=int, default=3_600, help="most seconds")
    return parser.parse_args(words)


def fill(server: LocalServer, keys: int, big: int) -> None:
    """Small keys by the server's own hand, and one huge list."""
    with server.client() as client:
        client.execute_command("DEBUG", "POPULATE", keys, "small", 50)
        draw = random.Random(1)
        for _ in range(0, big, 100 * ELEMENT_BYTES):
            client.rpush("huge", *(draw.randbytes(ELEMENT_BYTES) for _ in range(100)))


def keep_writing(port: int, site: str, rate: int, ended: Event, written: Any) -> None:
    """A client that writes at a rate, until told to end."""
    draw, began_s, done = random.Random(site), time.monotonic(), 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        while not ended.is_set():
            behind = rate * (time.monotonic() - began_s) - done
            if behind < BURST:
                time.sleep((BURST - behind) / rate)
            commands = []
            for _ in range(BURST):
                n = draw.randrange(100_000)
                commands.append(
                    pack(b"SET", f"{site}:{n}", b"%050d" % done) if n % 10 else pack(b"INCR", b"both:%d" % (n // 10))
                )
            connection.sendall(b"".join(commands))
            left = BURST
            while left:
                left -= connection.recv(1 << 16).count(b"\n")
            done += BURST
            written.value = done


@contextlib.contextmanager
def writers(sites: dict[str, LocalServer], rate: int) -> Iterator[dict[str, Any]]:
    """Clients at both sites. By site: how many writes they have made."""
    ended, counts = multiprocessing.Event(), {x: multiprocessing.Value("q", 0) for x in sites}
    processes = [
        multiprocessing.Process(target=keep_writing, args=(server.port, x, rate, ended, counts[x]), daemon=True)
        for x, server in sites.items()
        if rate
    ]
    for process in processes:
        process.start()
    try:
        yield counts
    finally:
        ended.set()
        for process in processes:
            process.join()


def digests(sites: dict[str, LocalServer]) -> list[str]:
    """What each server holds, but for bisync's own keys."""
    found = []
    for server in sites.values():
        with server.client() as client:
            own = [key for key in client.scan_iter("bisync:*", count=100_000)]
            client.delete(*own)
            client.connection_pool.connection_kwargs["socket_timeout"] = None
            found.append(f"{client.execute_command('DEBUG', 'DIGEST').decode()} {client.dbsize()}")
    return found


def main(words: list[str]) -> None:
    """Copy, and print what it took."""
    options = parsed(words)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="bisync-bench-"))
    try:
        with local_servers(folder, "east", "west", options=OPTIONS) as (east, west):
            sites = {"east": east, "west": west}
            say(f"filling {options.keys:,} keys and one of {options.big / 1e6:,.0f} MB")
            fill(east, options.keys, options.big)
            path = folder / "bench.toml"
            path.write_text(JOB_FILE.format(topology=options.topology, east=east.url, west=west.url) + NOT_YIELDING)
            print(json.dumps(run(options, path, sites), indent=2))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run(options: argparse.Namespace, path: pathlib.Path, sites: dict[str, LocalServer]) -> dict[str, Any]:
    """One copy."""
    job = load_job(path)
    written: dict[str, int] = {}
    engine = EngineProcess(path, path.with_suffix(".log"))
    began_s = time.monotonic()
    try:
        outcome = wait_for_state(job, INITIALIZING, options.wait, engine.check)
        assert outcome.reached, outcome.missing
        with writers(sites, options.rate) as counts:
            outcome = wait_for_state(job, SYNCHRONIZING, options.wait, engine.check)
            assert outcome.reached, outcome.missing
            copied_s, peak_copy = time.monotonic() - began_s, engine.peak_bytes
            say(f"copied in {copied_s:.0f} s, peak {peak_copy / 1e6:.0f} MB")
            if options.rate:
                time.sleep(20)  # and some more while following
            written = {x: count.value for x, count in counts.items()}
            wrote_s = time.monotonic() - began_s
        outcome = wait_drained(job, max(options.wait, WAIT_S), engine.check)
        assert outcome.reached, outcome.missing
        drained_s, peak = time.monotonic() - began_s, engine.peak_bytes
        conflicts = read_status(job, int(time.time() * 1000))["conflicts"]
        engine.stop()
    finally:
        say(engine.log_end)
        engine.kill()
    say("comparing")
    found = digests(sites)
    return {
        "keys": options.keys,
        "huge key, bytes": options.big,
        "topology": options.topology,
        "copied, s": round(copied_s, 1),
        "drained, s": round(drained_s, 1),
        "writes/s at each site": {x: round(n / wrote_s) for x, n in written.items()},
        "peak while copying, MB": round(peak_copy / 1e6),
        "peak, MB": round(peak / 1e6),
        "conflicts": conflicts,
        "equal": found[0] == found[1],
        "digests": found,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
