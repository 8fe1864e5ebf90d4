"""Many random histories of a simulated pair, on every processor: `python -m bisync.testing.histories`.

Prints how many of each kind there were and each seed that ended in anything but what was promised. A seed is repeated
with `bisync.testing.history.broken(seed)`.
"""

import collections
import concurrent.futures
import os
import sys
import time

import attrs
import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bisync.testing.history import broken, course

CHUNK = 100  # histories that a process runs at a time
FAILURES_SHOWN = 50


@attrs.frozen
class Done:
    """What some histories came to."""

    kinds: dict[str, int]  # how many of each kind of writes; "exact" counts those held against the oracle
    failures: list[tuple[int, str]]  # seed, and the first thing that was wrong


def run_chunk(seeds: range) -> Done:
    """Run the histories of these seeds."""
    kinds: collections.Counter[str] = collections.Counter()
    failures = []
    for seed in seeds:
        kind = course(seed)
        kinds.update([kind.writes, *["exact"] * kind.exact, *["crashing"] * (kind.crash > 0)])
        try:
            wrong = broken(seed)
        except Exception as e:
            wrong = [f"{type(e).__name__}: {e}"]
        if wrong:
            failures.append((seed, wrong[0]))
    return Done(dict(kinds), failures)


def run_many(first: int, count: int, processes: int, console: Console) -> Done:
    """Run `count` histories from the seed `first` on, with progress on the console."""
    kinds: collections.Counter[str] = collections.Counter()
    failures: list[tuple[int, str]] = []
    chunks = [range(n, min(n + CHUNK, first + count)) for n in range(first, first + count, CHUNK)]
    columns = (TextColumn("histories"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with concurrent.futures.ProcessPoolExecutor(processes) as pool, Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=count)
        for done, chunk in zip(pool.map(run_chunk, chunks), chunks, strict=True):
            kinds.update(done.kinds)
            failures += done.failures
            progress.advance(task, len(chunk))
    return Done(dict(kinds), failures)


@click.command()
@click.option("--histories", default=10_000, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--first", default=0, show_default=True, type=click.IntRange(0), help="The first seed.")
@click.option("--processes", default=os.cpu_count() or 1, show_default=True, type=click.IntRange(1), help="At a time.")
def main(histories: int, first: int, processes: int) -> None:
    """Run random histories of a simulated pair. Exit 1 if one of them broke a promise."""
    began_s = time.monotonic()
    done = run_many(first, histories, processes, Console(stderr=True))
    took_s = time.monotonic() - began_s
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in sorted(done.kinds.items()))
    click.echo(f"seeds {first} to {first + histories - 1}: {histories:,} histories in {took_s:.0f} s ({kinds})")
    for seed, wrong in done.failures[:FAILURES_SHOWN]:
        click.echo(f"seed {seed}: {wrong[:300]}")
    click.echo(f"{len(done.failures):,} broke a promise")
    sys.exit(1 if done.failures else 0)


if __name__ == "__main__":
    main()
