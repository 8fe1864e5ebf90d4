"""What exact conflict detection costs: `python -m benchmarks.detection`, or `make bench`. See docs/benchmarks.md."""

import argparse
import json
import os
import pathlib
import platform
import sys
import tempfile
from typing import Any

from benchmarks import core_alone, real_servers
from benchmarks.measure import document, say, table, take_turns

QUICK = {"commands": 6_000, "hot": 400, "backlog": 3_000, "hot_backlog": 200, "repetitions": 1}


def parsed(words: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output instead of tables")
    parser.add_argument("--only", choices=("core", "servers"), help="leave out the other half")
    parser.add_argument("--commands", type=int, default=240_000, help="through the core alone, in each variant")
    parser.add_argument("--hot", type=int, default=5_000, help="pending writes of each site on one key, core alone")
    parser.add_argument("--backlog", type=int, default=300_000, help="commands of each site, on real servers")
    parser.add_argument("--hot-backlog", type=int, default=5_000, help="writes of each site to one key, real servers")
    parser.add_argument("--repetitions", type=int, default=5, help="of each measurement, in turns")
    parser.add_argument("--quick", action="store_true", help="small numbers, once: does it run at all?")
    options = parser.parse_args(words)
    if options.quick:
        vars(options).update(QUICK)
    return options


def main(words: list[str]) -> None:
    """Measure, and print."""
    options = parsed(words)
    before = os.getloadavg()[0]
    results: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory(prefix="bisync-bench-") as name:
        folder = pathlib.Path(name)
        if options.only != "servers":
            results |= core(options)
        if options.only != "core":
            results["machine"]["server"] = real_servers.server_version(folder)
            results |= servers(options, folder)
    results["machine"]["load before and after"] = [round(before, 1), round(os.getloadavg()[0], 1)]
    if options.json:
        print(json.dumps(results, indent=2))
        return
    print(", ".join(f"{key}: {value}" for key, value in results.pop("machine").items()))
    for title, found in results.items():
        print(f"\n{table(title, found)}")


def core(options: argparse.Namespace) -> dict[str, Any]:
    """The core alone."""
    say("the core alone")
    steady = take_turns(core_alone.variants(options.commands), options.repetitions)
    hot = take_turns(core_alone.hot_variants(options.hot), options.repetitions)
    return {
        "the core alone": document(steady, core_alone.BASES),
        "the core alone, pending writes on one key": document(hot, core_alone.hot_bases(options.hot)),
    }


def servers(options: argparse.Namespace, folder: pathlib.Path) -> dict[str, Any]:
    """Real servers and an engine."""
    say("real servers")
    backlog = take_turns(real_servers.variants(folder, options.backlog), options.repetitions)
    hot = take_turns(real_servers.hot_variants(folder, options.hot_backlog), options.repetitions)
    return {
        "real servers, catching up": document(backlog, real_servers.BASES),
        "real servers, catching up on one key": document(hot, real_servers.hot_bases()),
    }


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "processors": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
    }


if __name__ == "__main__":
    main(sys.argv[1:])
