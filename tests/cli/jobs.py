"""What the tests of the commands share: job files, hand-made reports, and the program as a process."""

import os
import pathlib
import subprocess
import sys
import time

import attrs

from bisync.config import Job, load_job
from bisync.runtime.store import Store
from bisync.status import ChannelReport, Drained, Report

NOBODY_EAST, NOBODY_WEST = "redis://127.0.0.1:1", "redis://127.0.0.1:2"  # nothing listens there


def now_ms() -> int:
    return int(time.time() * 1000)


def job_file(
    folder: pathlib.Path, east: str = NOBODY_EAST, west: str = NOBODY_WEST, topology: str = "bidirectional"
) -> pathlib.Path:
    """A job file named orders.toml."""
    file = folder / "orders.toml"
    sites = f'[sites.east]\nurl = "{east}"\n[sites.west]\nurl = "{west}"\n'
    file.write_text(f'name = "orders"\ntopology = "{topology}"\n{sites}')
    return file


def report(**changes: object) -> Report:
    """A report of an engine that lives (this very process) and synchronises."""
    forward = ChannelReport("synchronizing", 3, 120, 1500.5, 90_000.0, 7_000, 10, 12, 4_096, 2)
    back = attrs.evolve(forward, lag_ms=None, keys_done=0, keys_total=None, bytes_done=0)
    values: dict[str, object] = {
        **{"state": "synchronizing", "reason": "", "epoch": 3, "pid": os.getpid(), "since_ms": now_ms() - 60_000},
        **{"channels": {"forward": forward, "reverse": back}, "conflicts_total": 5, "conflicts_open": 0},
    }
    return Report(**{**values, **changes})  # type: ignore[arg-type]


def save(file: pathlib.Path, saved: Report) -> Job:
    """What the engine does now and then."""
    job = load_job(file)
    with Store.open(job.store) as store:
        store.save_report(job.name, saved.to_dict(), now_ms())
    return job


def at(**places: tuple[str, int]) -> dict[str, Drained]:
    """For `Report.drained`: site=(replication id, offset)."""
    return {site: Drained(*place) for site, place in places.items()}


def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def bisync(*args: object, **options: object) -> "subprocess.Popen[str]":
    """The program, started with these words, its output in pipes."""
    words = [sys.executable, "-m", "bisync", *map(str, args)]
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, **{**pipes, **options})  # type: ignore[call-overload, no-any-return]
